#include "cuda/cuda_session.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "error.h"

namespace cf {

CudaSession::CudaSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, const CudaDevice& device)
    : HostSession(std::move(model), options, from),
      device_(device),
      shape_(model_->config(), device),
      layout_(model_->config(), capacity_, shape_),
      logits_(size_t(shape_.max_rows) * size_t(model_->config().vocab_size)) {
  if (options.launch_mode != CF_LAUNCH_STEP)
    fail(CF_ERROR_UNSUPPORTED, "launch_mode ", options.launch_mode, " is not built yet; CUDA sessions launch whole steps");
  if (options.cluster_size > 1) fail(CF_ERROR_UNSUPPORTED, "cluster_size ", options.cluster_size, " is not built yet; CUDA sessions use 1");
  Context& context = *model_->context();
  const cf_dtype weight_dtype = static_cast<const CudaWeights&>(model_->weights()).uniform_dtype();
  if (weight_dtype == CF_DTYPE_AUTO)
    fail(CF_ERROR_UNSUPPORTED, "some matrices are F16 and some BF16; load the model with one weight_dtype for CUDA sessions");
  const DeviceScope scope(&context, device_.ordinal);
  prepare_decode(context, model_->config(), shape_, weight_dtype, device_);
  static_assert(kStepsAhead <= gpu::kStepsOfLaunch);
  memory_ = Buffer(context.device_memory(), layout_.end);
  if (options.stream) stream_ = static_cast<cudaStream_t>(options.stream);
  else check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream"), own_stream_ = true;
  try {
    check(cudaMemsetAsync(memory_.data(), 0, layout_.end, stream_), "prepare a session");
    check(cudaStreamSynchronize(stream_), "prepare a session");
  } catch (...) {
    if (own_stream_) cudaStreamDestroy(stream_);
    throw;
  }
}

CudaSession::~CudaSession() {
  if (!own_stream_) return;
  try {
    const DeviceScope scope(model_->context().get(), device_.ordinal);
    cudaStreamDestroy(stream_);
  } catch (const Error&) {  // a lost device has no streams left
  }
}

uint64_t CudaSession::workspace_bytes(const cf_model_config& config, int64_t capacity_tokens, const CudaDevice& device) {
  return DecodeLayout(config, capacity_tokens, DecodeShape(config, device)).end;
}

void CudaSession::check(cudaError_t error, const char* doing) const { check_cuda(model_->context().get(), error, doing); }

template <class T>
void CudaSession::update(uint64_t offset, std::vector<T>& before, const std::vector<T>& now, cudaStream_t stream) {
  if (before == now) return;
  before.clear();  // should the copy fail
  check(cudaMemcpyAsync(at(offset), now.data(), now.size() * sizeof(T), cudaMemcpyHostToDevice, stream), "prepare a step");
  before = now;
}

gpu::DecodeRow CudaSession::row_of(const Row& row) {
  gpu::DecodeRow r = {};
  r.pages = reinterpret_cast<char*>(pool_->page_address(0));
  r.page_bytes = int64_t(pool_->page_bytes());
  r.page_table = reinterpret_cast<const int32_t*>(at(layout_.page_table));
  r.position = int32_t(row.position), r.token = row.token;
  r.page_shift = std::countr_zero(uint32_t(pool_->page_tokens()));  // a power of two
  r.kv_dtype = pool_->kv_dtype();
  return r;
}

void CudaSession::launch(Row* rows, int64_t n_rows, int64_t n_steps, bool sample) {
  const auto& weights = static_cast<const CudaWeights&>(model_->weights());
  const cf_model_config& config = model_->config();
  std::vector<const char*> layers(size_t(config.n_layers));
  for (int32_t i = 0; i < config.n_layers; i++) layers[size_t(i)] = weights.layer_base(i);
  update(layout_.layers, layers_there_, layers, stream_);
  gpu::DecodeParams p = decode_params(config, weights, shape_, device_);
  p.layers = reinterpret_cast<const char* const*>(at(layout_.layers));
  p.words = layout_.words_in(memory_.as<std::byte>());
  p.max_parts = layout_.max_parts;
  p.state = reinterpret_cast<gpu::DecodeState*>(at(layout_.state));
  p.n_rows = int32_t(n_rows), p.n_steps = int32_t(n_steps);
  for (int64_t i = 0; i < n_rows; i++) {
    auto* const session = static_cast<CudaSession*>(rows[i].session);
    const bool new_sequence = i == 0 || rows[i - 1].session != session;
    if (new_sequence) session->update(session->layout_.page_table, session->pages_there_, session->table_.pages, stream_);
    p.rows[i] = session->row_of(rows[i]);
    p.rows[i].first = new_sequence ? int32_t(i) : p.rows[i - 1].first;
    p.rows[i].sample = sample;
    if (!sample && needs_logits(rows[i])) p.rows[i].logits = logits_at(i);
  }
  launch_decode(*model_->context(), config, shape_, p, device_, stream_);
}

gpu::DecodeState CudaSession::wait() {
  gpu::DecodeState state;
  check(cudaMemcpyAsync(&state, at(layout_.state), sizeof state, cudaMemcpyDeviceToHost, stream_), "fetch a step's result");
  check(cudaStreamSynchronize(stream_), "run steps");
  if (state.failed) {
    model_->context()->lose_device("a CTA waited longer than device_wait_limit_ms for the others");
    fail(CF_ERROR_DEVICE_LOST, "a CTA waited longer than ", device_.wait_limit_ms, " ms (device_wait_limit_ms) for the others");
  }
  if (state.status != CF_OK)  // the session goes on once its status was fetched
    check(cudaMemsetAsync(at(layout_.state) + offsetof(gpu::DecodeState, status), 0, sizeof state.status, stream_), "reset a status");
  return state;
}

bool CudaSession::run_piece(Row* rows, int64_t n_rows, const Step& step) {
  // Attention's partial results have to fit: the session of the largest capacity lends its memory.
  CudaSession* widest = this;
  for (int64_t i = 0; i < n_rows; i++) {
    auto* const session = static_cast<CudaSession*>(rows[i].session);
    if (session->capacity_ > widest->capacity_) widest = session;
  }
  return widest->run_rows(rows, n_rows, step);
}

bool CudaSession::run_rows(Row* rows, int64_t n_rows, const Step& step) {
  if (!step.taps.empty()) fail(CF_ERROR_UNSUPPORTED, "taps are not built yet on CUDA");
  if (step.has_outputs && step.outputs.memory != CF_MEMORY_HOST) fail(CF_ERROR_UNSUPPORTED, "outputs in device memory are not built yet on CUDA");
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  const int64_t vocab = model_->config().vocab_size;
  bool waited = true, cancelled = false;
  for (int64_t first = 0, n; first < n_rows; first += n) {
    if ((cancelled = is_cancelled(step.progress.cancellation))) break;
    n = std::min<int64_t>(shape_.max_rows, n_rows - first);
    launch(rows + first, n, 1, false);
    waited = false;
    int64_t begin = 0, end = n;
    while (begin < n && !needs_logits(rows[first + begin])) begin++;
    while (end > begin && !needs_logits(rows[first + end - 1])) end--;
    if (begin == end) continue;
    const size_t bytes = size_t(end - begin) * size_t(vocab) * sizeof(float);
    check(cudaMemcpyAsync(logits_.data() + begin * vocab, logits_at(begin), bytes, cudaMemcpyDeviceToHost, stream_), "fetch logits");
    wait();
    waited = true;
    for (int64_t i = begin; i < end; i++)
      if (needs_logits(rows[first + i])) finish_row(rows[first + i], logits_.data() + i * vocab, step);
  }
  if (!waited) wait();  // when cancelled, too: what was launched still writes to pages that the caller is about to give back
  return !cancelled && !is_cancelled(step.progress.cancellation);
}

int64_t CudaSession::run_ahead(int64_t position, int32_t token, int64_t n, int32_t* sampled) {
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  Row row = {this, position, token, 0, -1, true};
  launch(&row, 1, n, true);
  const gpu::DecodeState state = wait();
  if (state.status != CF_OK) set_status(state.status, text("the logits after position ", position + state.n_steps, " are not finite"));
  std::copy_n(state.sampled, state.n_steps, sampled);
  return state.n_steps;
}

}  // namespace cf
