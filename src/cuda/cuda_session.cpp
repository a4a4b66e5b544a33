#include "cuda/cuda_session.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "error.h"

namespace cf {

CudaSession::CudaSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, const CudaDevice& device)
    : HostSession(std::move(model), options, from),
      device_(device),
      shape_(model_->config(), capacity_, device),
      layout_(model_->config(), capacity_, device.multiprocessors),
      logits_(size_t(model_->config().vocab_size)) {
  if (options.launch_mode != CF_LAUNCH_STEP)
    fail(CF_ERROR_UNSUPPORTED, "launch_mode ", options.launch_mode, " is not built yet; CUDA sessions launch whole steps");
  if (options.cluster_size > 1) fail(CF_ERROR_UNSUPPORTED, "cluster_size ", options.cluster_size, " is not built yet; CUDA sessions use 1");
  Context& context = *model_->context();
  const cf_dtype weight_dtype = static_cast<const CudaWeights&>(model_->weights()).uniform_dtype();
  if (weight_dtype == CF_DTYPE_AUTO)
    fail(CF_ERROR_UNSUPPORTED, "some matrices are F16 and some BF16; load the model with one weight_dtype for CUDA sessions");
  const DeviceScope scope(&context, device_.ordinal);
  prepare_decode(context, model_->config(), shape_, weight_dtype, device_);
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

uint64_t CudaSession::workspace_bytes(const cf_model_config& config, int64_t capacity_tokens, int n_ctas) {
  return DecodeLayout(config, capacity_tokens, n_ctas).end;
}

void CudaSession::check(cudaError_t error, const char* doing) const { check_cuda(model_->context().get(), error, doing); }

gpu::DecodeState CudaSession::run(int64_t position, const int32_t* known, int64_t n_known, int64_t end, Wanted wanted) {
  const bool logits = wanted == Wanted::kLogits;
  Context& context = *model_->context();
  const auto& weights = static_cast<const CudaWeights&>(model_->weights());
  const cf_model_config& config = model_->config();
  const DeviceScope scope(&context, device_.ordinal);
  auto at = [this](uint64_t offset) { return memory_.as<std::byte>() + offset; };
  const auto upload = [&](uint64_t offset, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(at(offset), from, bytes, cudaMemcpyHostToDevice, stream_), "prepare a step");
  };
  gpu::DecodeState state = {int32_t(position), CF_OK, epoch_, 0};
  std::vector<const char*> layers(size_t(config.n_layers));
  for (int32_t i = 0; i < config.n_layers; i++) layers[size_t(i)] = weights.layer_base(i);
  upload(layout_.state, &state, sizeof state);
  upload(layout_.tokens + uint64_t(position) * sizeof(int32_t), known, size_t(n_known) * sizeof(int32_t));
  upload(layout_.page_table, table_.pages.data(), table_.pages.size() * sizeof(int32_t));
  upload(layout_.layers, layers.data(), layers.size() * sizeof(char*));

  gpu::DecodeParams p = decode_params(config, weights, shape_);
  p.layers = reinterpret_cast<const char* const*>(at(layout_.layers));
  p.pages = reinterpret_cast<char*>(pool_->page_address(0));
  p.page_bytes = int64_t(pool_->page_bytes());
  p.page_table = reinterpret_cast<const int32_t*>(at(layout_.page_table));
  p.page_shift = std::countr_zero(uint32_t(pool_->page_tokens()));  // a power of two
  p.kv_dtype = pool_->kv_dtype();
  p.words = layout_.words_in(memory_.as<std::byte>());
  p.state = reinterpret_cast<gpu::DecodeState*>(at(layout_.state));
  p.tokens = reinterpret_cast<int32_t*>(at(layout_.tokens));
  // A token is sampled after every position from the last known one on; one more counts as known if nothing is wanted.
  p.known = int32_t(position + n_known) + (wanted == Wanted::kNothing);
  p.end = int32_t(end);
  p.logits_from = int32_t(end - 1);
  p.logits = logits ? reinterpret_cast<float*>(at(layout_.logits)) : nullptr;
  p.wait_limit_ns = uint64_t(device_.wait_limit_ms) * 1'000'000;
  launch_decode(context, config, shape_, p, device_.multiprocessors, stream_);

  check(cudaMemcpyAsync(&state, at(layout_.state), sizeof state, cudaMemcpyDeviceToHost, stream_), "fetch a step's result");
  if (logits) check(cudaMemcpyAsync(logits_.data(), p.logits, logits_.size() * sizeof(float), cudaMemcpyDeviceToHost, stream_), "fetch logits");
  check(cudaStreamSynchronize(stream_), "run steps");
  epoch_ = state.epoch;
  if (state.failed) {
    context.lose_device("a CTA waited longer than device_wait_limit_ms for the others");
    fail(CF_ERROR_DEVICE_LOST, "a CTA waited longer than ", device_.wait_limit_ms, " ms (device_wait_limit_ms) for the others");
  }
  return state;
}

bool CudaSession::run_piece(Row* rows, int64_t n_rows, const Step& step) {
  if (!step.taps.empty()) fail(CF_ERROR_UNSUPPORTED, "taps are not built yet on CUDA");
  if (step.has_outputs && step.outputs.memory != CF_MEMORY_HOST) fail(CF_ERROR_UNSUPPORTED, "outputs in device memory are not built yet on CUDA");
  int32_t tokens[kPieceRows];
  for (int64_t first = 0, last; first < n_rows; first = last + 1) {  // rows of one session up to one that needs logits
    if (is_cancelled(step.progress.cancellation)) return false;
    last = first;
    while (!needs_logits(rows[last]) && last + 1 < n_rows && rows[last + 1].session == rows[first].session) last++;
    const int64_t n = last - first + 1;
    for (int64_t i = 0; i < n; i++) tokens[i] = rows[first + i].token;
    auto* const session = static_cast<CudaSession*>(rows[first].session);
    session->run(rows[first].position, tokens, n, rows[first].position + n, needs_logits(rows[last]) ? Wanted::kLogits : Wanted::kNothing);
    if (needs_logits(rows[last])) finish_row(rows[last], session->logits_.data(), step);
  }
  return !is_cancelled(step.progress.cancellation);
}

int64_t CudaSession::run_ahead(int64_t position, int32_t token, int64_t n, int32_t* sampled) {
  const gpu::DecodeState state = run(position, &token, 1, position + n, Wanted::kToken);
  const int64_t taken = state.position - position;
  if (state.status != CF_OK) set_status(state.status, text("the logits after position ", state.position, " are not finite"));
  if (taken > 0) {
    const DeviceScope scope(model_->context().get(), device_.ordinal);
    const auto* from = memory_.as<std::byte>() + layout_.tokens + uint64_t(position + 1) * sizeof(int32_t);
    check(cudaMemcpyAsync(sampled, from, size_t(taken) * sizeof(int32_t), cudaMemcpyDeviceToHost, stream_), "fetch tokens");
    check(cudaStreamSynchronize(stream_), "fetch tokens");
  }
  return taken;
}

}  // namespace cf
