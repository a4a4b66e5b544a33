#include "cuda/cuda_session.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <thread>
#include <utility>

#include "checked.h"
#include "error.h"

namespace cf {

PinnedMemory::PinnedMemory(Context& context, int ordinal, int64_t capacity_tokens, int64_t n_logits)
    : ordinal_(ordinal),
      tokens_(sizeof(gpu::SequenceLog)),
      state_(round_up(tokens_ + (size_t(capacity_tokens) + 1) * sizeof(int32_t), kAlignment)),
      logits_(round_up(state_ + sizeof(gpu::DecodeState), kAlignment)) {
  const DeviceScope scope(&context, ordinal);
  void* memory = nullptr;
  check_cuda(&context, cudaHostAlloc(&memory, logits_ + size_t(n_logits) * sizeof(float), cudaHostAllocPortable),
             "allocate a session's pinned memory");
  memory_ = static_cast<std::byte*>(memory);
  std::fill_n(memory_, logits_, std::byte{0});
}

PinnedMemory::~PinnedMemory() {
  try {
    const DeviceScope scope(nullptr, ordinal_);  // without it this would end a capture that goes on in this thread
    cudaFreeHost(memory_);
  } catch (const Error&) {  // a lost device has freed everything already
  }
}

namespace {
// Of CudaWeights::uniform_dtype; it may change whenever a layer is loaded again.
void check_one_dtype(cf_dtype uniform) {
  if (uniform == CF_DTYPE_AUTO)
    fail(CF_ERROR_UNSUPPORTED, "some matrices are F16 and some BF16; load the model with one weight_dtype for CUDA sessions");
}
}  // namespace

CudaSession::CudaSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, const CudaDevice& device,
                         std::shared_ptr<PrefillMemory> prefill_memory)
    : PinnedMemory(*model->context(), device.ordinal, options.capacity_tokens,
                   DecodeShape(model->config(), device).max_rows * model->config().vocab_size),
      HostSession(std::move(model), options, from, token_log()),
      device_(device),
      shape_(model_->config(), device),
      layout_(model_->config(), capacity_, shape_),
      prefill_memory_(std::move(prefill_memory)) {
  Context& context = *model_->context();
  const DeviceScope scope(&context, device_.ordinal);
  if (options.stream) check_not_capturing(context, static_cast<cudaStream_t>(options.stream), "options.stream: a session cannot be created");
  prepare_prefill();
  prepare_decode(context, model_->config(), shape_, device_);
  shape_ = in_clusters(context, model_->config(), shape_, options.cluster_size, device_);
  memory_ = Buffer(context.device_memory(), layout_.end);
  if (options.stream) stream_ = static_cast<cudaStream_t>(options.stream);
  else check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream"), own_stream_ = true;
  try {
    check(cudaMemsetAsync(memory_.data(), 0, layout_.end, stream_), "prepare a session");
    position_changed();
    sampler_changed();
    check(cudaStreamSynchronize(stream_), "prepare a session");
  } catch (...) {
    if (own_stream_) cudaStreamDestroy(stream_);
    throw;
  }
}

CudaSession::~CudaSession() {
  try {
    const DeviceScope scope(model_->context().get(), device_.ordinal);
    if (!is_capturing(*model_->context(), stream_)) cudaStreamSynchronize(stream_);  // which would end the caller's capture
    if (own_stream_) cudaStreamDestroy(stream_);
  } catch (const Error&) {  // a lost device has no streams left
  }
}

void CudaSession::prepare_prefill() {
  const cf_dtype dtype = static_cast<const CudaWeights&>(model_->weights()).uniform_dtype();
  check_one_dtype(dtype);
  if (!prefill_ || prefill_->weight_dtype() != dtype)
    prefill_ = std::make_unique<const Prefill>(*model_->context(), model_->config(), dtype, pool_->kv_dtype(), device_);
}

uint64_t CudaSession::workspace_bytes(const cf_model_config& config, int64_t capacity_tokens, const CudaDevice& device) {
  return DecodeLayout(config, capacity_tokens, DecodeShape(config, device)).end;
}

void CudaSession::check(cudaError_t error, const char* doing) const { check_cuda(model_->context().get(), error, doing); }

void CudaSession::upload(uint64_t offset, const void* data, size_t bytes, cudaStream_t stream) {
  check(cudaMemcpyAsync(at(offset), data, bytes, cudaMemcpyHostToDevice, stream), "prepare a step");
}

void CudaSession::upload_pages(cudaStream_t stream) {
  if (pages_there_ == table_.pages) return;
  pages_there_.clear();  // should the copy fail
  upload(layout_.page_table, table_.pages.data(), table_.pages.size() * sizeof(int32_t), stream);
  pages_there_ = table_.pages;
}

// ---- What the device knows of the sequence

void CudaSession::check_changeable() {
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  check_not_capturing(*model_->context(), stream_, "a session cannot be changed");
}

void CudaSession::position_changed() {
  if (!memory_.data()) return;
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  const int64_t position = known_position();
  if (driven_ && !own_pages_ahead())
    set_status(CF_ERROR_CACHE_FULL,
               text("the KV pool has no room for copies of pages that other sessions share, which steps captured by the caller need"));
  const gpu::DecodeSequence s = {int32_t(position), pending() ? token_at(position) : -1, CF_OK, 0, {}};
  upload(layout_.sequence, &s, offsetof(gpu::DecodeSequence, sampler), stream_);
  sequence_log()->status = CF_OK;
  if (sampler_.options().repetition_penalty != 1) sampler_changed();
}

void CudaSession::sampler_changed() {
  if (!memory_.data()) return;
  if (sampler_.options().repetition_penalty != 1) settle(true);  // it asks for all tokens there are
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  const cf_sampler_options o = sampler_.options();
  const size_t vocab = size_t(model_->config().vocab_size), words = size_t(gpu::vocabulary_bits(int64_t(vocab)));
  gpu::DecodeSampler sampler = {
      o.temperature, o.top_p, o.min_p, o.repetition_penalty, o.top_k, o.n_logit_biases > 0, !sampler_.allowed().empty(), o.n_stop_tokens > 0, o.seed};
  std::vector<uint32_t> arrays(vocab + 3 * words);
  for (size_t i = 0; i < o.n_logit_biases; i++) arrays[size_t(o.logit_bias_tokens[i])] = std::bit_cast<uint32_t>(o.logit_bias_values[i]);
  std::copy(sampler_.allowed().begin(), sampler_.allowed().end(), arrays.begin() + int64_t(vocab));
  const auto set = [&](size_t array, int32_t token) { arrays[vocab + array * words + size_t(token) / 32] |= 1u << (token & 31); };
  for (size_t i = 0; i < o.n_stop_tokens; i++) set(1, o.stop_tokens[i]);
  if (o.repetition_penalty != 1)
    for (int64_t i = 0; i < known_position(); i++) set(2, token_at(i));
  upload(layout_.sequence + offsetof(gpu::DecodeSequence, sampler), &sampler, sizeof sampler, stream_);
  upload(layout_.sequence + sizeof(gpu::DecodeSequence), arrays.data(), arrays.size() * sizeof(uint32_t), stream_);
}

bool CudaSession::busy() {
  if (!ahead_ && !driven_) return false;
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  check_not_capturing(*model_->context(), stream_, "a session's work cannot be waited for");
  const cudaError_t error = cudaStreamQuery(stream_);
  if (error == cudaErrorNotReady) return driven_ || std::atomic_ref(sequence_log()->launches).load(std::memory_order_acquire) != launches_;
  check(error, "run steps");
  return false;
}

// Looks at the log, which says so sooner than the stream does; now and then at the stream, which knows of faults.
void CudaSession::wait() {
  if (driven_) {
    const DeviceScope scope(model_->context().get(), device_.ordinal);
    check_not_capturing(*model_->context(), stream_, "a session's work cannot be waited for");
    return check(cudaStreamSynchronize(stream_), "run steps");
  }
  for (uint32_t tries = 1; std::atomic_ref(sequence_log()->launches).load(std::memory_order_acquire) != launches_; tries++)
    if (tries % 256 == 0) {
      if (!busy()) return;
      std::this_thread::yield();
    }
}

void CudaSession::settle(bool wait_for_it) {
  if (!ahead_ && !driven_) return;
  if (!wait_for_it && busy()) fail(CF_ERROR_BUSY, "the session has unfinished work");
  wait();
  if (!ahead_ && sequence_log()->launches == launches_) return;
  launches_ = sequence_log()->launches;  // more than the session's own where the caller has replayed steps
  take_in();
}

void CudaSession::take_in() {
  ahead_ = false;
  steps_ahead_ = 0;
  const gpu::SequenceLog& log = *sequence_log();
  if (log.status == CF_ERROR_DEVICE_LOST) {
    model_->context()->lose_device("a CTA waited longer than device_wait_limit_ms for the others");
    fail(CF_ERROR_DEVICE_LOST, "a CTA waited longer than ", device_.wait_limit_ms, " ms (device_wait_limit_ms) for the others");
  }
  const int64_t steps = log.n_steps - steps_seen_, position = log.position;
  steps_seen_ = log.n_steps;
  follow(position, steps);
  if (log.status == CF_ERROR_CACHE_FULL)
    set_status(CF_ERROR_CACHE_FULL, text("the session holds ", position, " of ", capacity_, " positions; 1 more do not fit"));
  else if (log.status == CF_ERROR_NO_TOKEN_ALLOWED) set_status(log.status, text("mask and biases leave no token at position ", position + 1));
  else if (log.status != CF_OK) set_status(log.status, text("the logits after position ", position, " are not finite"));
  release_pages(position);
}

bool CudaSession::fetch_result(bool wait_for_it, cf_result& result, std::string& sentence) {
  if (!wait_for_it && busy()) return false;
  settle(true);
  const bool failed_there = sequence_log()->status != CF_OK;
  HostSession::fetch_result(wait_for_it, result, sentence);
  if (failed_there) position_changed();
  return true;
}

// ---- Launches

gpu::DecodeParams CudaSession::params() const {
  gpu::DecodeParams p = decode_params(model_->config(), static_cast<const CudaWeights&>(model_->weights()), shape_, device_);
  check_one_dtype(p.weight_dtype);
  p.words = layout_.words_in(memory_.as<std::byte>());
  p.max_parts = layout_.max_parts;
  p.state = reinterpret_cast<gpu::DecodeState*>(at(layout_.state));
  return p;
}

gpu::DecodeRow CudaSession::row_of(const Row& row) const {
  gpu::DecodeRow r = {};
  const uint32_t head_bytes = uint32_t(pool_->page_tokens() * model_->config().head_dim * 2);
  const uint32_t kind_bytes = uint32_t(model_->config().n_kv_heads) * head_bytes;  // a page: [layer][K, V][G, page_tokens, D]
  r.k = reinterpret_cast<char*>(pool_->page_address(0)), r.v = r.k + kind_bytes;
  r.page_bytes = int64_t(pool_->page_bytes());
  r.layer_stride = 2 * kind_bytes / gpu::kKvUnitBytes, r.head_stride = head_bytes / gpu::kKvUnitBytes;
  r.token_stride = uint32_t(model_->config().head_dim) * 2 / gpu::kKvUnitBytes;
  r.page_table = reinterpret_cast<const int32_t*>(at(layout_.page_table));
  r.position = int32_t(row.position), r.token = row.token;
  r.pages = gpu::PageCut::of(int32_t(pool_->page_tokens()));
  r.kv_dtype = pool_->kv_dtype();
  return r;
}

gpu::DecodeParams CudaSession::sequence_params(int64_t n_steps) const {
  gpu::DecodeParams p = params();
  p.n_rows = 1, p.n_steps = int32_t(n_steps);
  p.rows[0] = row_of({});
  p.sequence = reinterpret_cast<gpu::DecodeSequence*>(at(layout_.sequence));
  p.log = sequence_log(), p.log_tokens = token_log().tokens;
  p.adjusted_logits = logits_at(0);
  p.end_position = int32_t(capacity_);
  return p;
}

uint32_t CudaSession::launch_steps(int64_t n_steps, int32_t first_token, bool new_call, cudaStream_t stream) const {
  uint32_t launches = 0;
  for (int64_t done = 0, n; done < n_steps; done += n) {
    n = std::min(n_steps - done, steps_of_launch(model_->config(), device_));
    gpu::DecodeParams p = sequence_params(n);
    p.token = done == 0 ? first_token : CF_TOKEN_PENDING, p.new_call = new_call && done == 0;
    launches += launch_decode(*model_->context(), model_->config(), shape_, p, true, launch_mode_, device_, stream);
  }
  return launches;
}

int64_t CudaSession::open_steps(int64_t n_steps) {
  for (;;) {
    const int64_t first = known_position(), end = std::min(first + steps_ahead_ + n_steps, capacity_);
    if (end > first && open_pages(first, end - first)) {
      upload_pages(stream_);
      return n_steps;
    }
    if (ahead_) {  // where they have come to is not known
      settle(true);
      if (status() != CF_OK) return 0;
    } else if (n_steps > 1 && end > first) {
      n_steps = 1;
    } else {
      make_room(1);
      return 0;
    }
  }
}

template <class Run>
void CudaSession::by_host(const Step& step, int64_t n_rows, Run run) {
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  check_not_capturing(*model_->context(), stream_, "only steps without outputs can be enqueued");
  for (const cf_tap& tap : step.taps)
    if (tap.memory == CF_MEMORY_DEVICE) device_of_address(model_->context().get(), tap.data, "a tap's data");
  if (!step.has_outputs || step.outputs.memory == CF_MEMORY_HOST) return run(step);
  const DeviceOutputs outputs(*model_->context(), step, n_rows);
  run(outputs.step());
  outputs.copy(stream_);
}

void CudaSession::enqueue_prefill(const int32_t* tokens, int64_t n_tokens, const Step& step) {
  by_host(step, step.outputs.rows == CF_ROWS_ALL ? n_tokens : 1, [&](const Step& s) { HostSession::enqueue_prefill(tokens, n_tokens, s); });
}

void CudaSession::enqueue_positions(const int32_t* tokens, int64_t n_tokens, const Step& step) {
  by_host(step, n_tokens, [&](const Step& s) { HostSession::enqueue_positions(tokens, n_tokens, s); });
}

void CudaSession::enqueue_batch(const std::vector<Session*>& sessions, const int32_t* tokens, const Step& step) {
  by_host(step, int64_t(sessions.size()), [&](const Step& s) { HostSession::enqueue_batch(sessions, tokens, s); });
}

// Steps that the caller replays do not ask the host where they may write.
bool CudaSession::own_pages_ahead() {
  const int64_t position = known_position();
  if (position < capacity_ && !open_pages(position, capacity_ - position)) return false;
  upload_pages(cudaStreamPerThread);  // the session's stream may be in capture
  check(cudaStreamSynchronize(cudaStreamPerThread), "prepare a step");
  return true;
}

void CudaSession::pages_shared() {
  if (driven_ && !own_pages_ahead())
    fail(CF_ERROR_CACHE_FULL, "the KV pool has no room for copies of the pages to be shared, which steps captured by the caller need");
}

void CudaSession::capture_here(int64_t n_steps, int32_t first_token, const Step& step) {
  if (!step.sample || step.has_outputs || !step.taps.empty() || step.progress.report || step.progress.cancellation)
    fail(CF_ERROR_UNSUPPORTED, "the session's stream is being captured: steps there sample, and have no outputs, taps, progress or cancellation");
  if (!reserve_) fail(CF_ERROR_INVALID_ARGUMENT, "capturing steps needs a session that has reserved its capacity (reserve 1)");
  if (!driven_) {
    if (ahead_ || status() != CF_OK) fail(CF_ERROR_BUSY, "the session's status has to be fetched before its stream is captured");
    check_pending(first_token);
    if (!own_pages_ahead()) fail(CF_ERROR_CACHE_FULL, "the KV pool has no room for copies of the pages that other sessions share");
  }
  driven_ = true;
  auto lock = model_->lock_for_step();
  note_weights();
  launch_steps(n_steps, first_token, true, stream_);
}

void CudaSession::enqueue_steps(int64_t n_steps, int32_t first_token, const Step& step) {
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  if (is_capturing(*model_->context(), stream_)) return capture_here(n_steps, first_token, step);
  if (!step.sample || step.has_outputs || !step.taps.empty())
    return by_host(step, 1, [&](const Step& s) { HostSession::enqueue_steps(n_steps, first_token, s); });
  const bool followed = step.progress.report || step.progress.cancellation;
  if (followed || driven_) settle(true);
  if (status() != CF_OK) return;
  if (!ahead_) check_pending(first_token);
  auto lock = model_->lock_for_step();
  note_weights();
  int64_t done = 0;
  for (int64_t n; done < n_steps; done += n) {
    if (followed && is_cancelled(step.progress.cancellation)) return cancel();
    n = open_steps(std::min(n_steps - done, steps_of_launch(model_->config(), device_)));
    if (n == 0) return;
    launches_ += launch_steps(n, done == 0 ? first_token : CF_TOKEN_PENDING, done == 0, stream_);
    ahead_ = true;
    steps_ahead_ += n;
    if (!followed) continue;
    settle(true);
    if (status() != CF_OK) return;
    const bool stopped = sequence_log()->stopped;
    if (!step.progress(uint64_t(done + n), uint64_t(n_steps))) return cancel();
    if (stopped) return;
  }
}

void CudaSession::enqueue_rows(Row* rows, int64_t n_rows, const Step& step) {
  gpu::DecodeParams p = params();
  p.n_rows = int32_t(n_rows), p.n_steps = 1;
  bool has_head = false;
  for (int64_t i = 0; i < n_rows; i++) {
    auto* const session = static_cast<CudaSession*>(rows[i].session);
    const bool new_sequence = i == 0 || rows[i - 1].session != session;
    if (new_sequence && session->pages_there_ != session->table_.pages) {
      session->upload_pages(session->stream_);
      if (session->stream_ != stream_) session->check(cudaStreamSynchronize(session->stream_), "prepare a step");
    }
    p.rows[i] = session->row_of(rows[i]);
    p.rows[i].first = new_sequence ? int32_t(i) : p.rows[i - 1].first;
    if (needs_logits(rows[i])) p.rows[i].logits = logits_at(i), has_head = true;
  }
  if (step.taps.empty()) {
    launch_decode(*model_->context(), model_->config(), shape_, p, has_head, launch_mode_, device_, stream_);
    return;
  }
  const CudaTaps taps(*model_->context(), step.taps, logits_at(0), layout_.logits_floats, stream_);
  std::vector<int64_t> index(size_t(n_rows), 0);
  for (int64_t i = 0; i < n_rows; i++) index[size_t(i)] = rows[i].index;
  launch_decode(*model_->context(), model_->config(), shape_, p, has_head, CF_LAUNCH_PHASE, device_, stream_,
                [&](int32_t layer, cf_tap_point point) { taps.act(layer, point, decode_tap(p, model_->config().head_dim, layer, point), index); });
}

void CudaSession::wait_for_rows() {
  check(cudaMemcpyAsync(state_of_rows(), at(layout_.state), sizeof(gpu::DecodeState), cudaMemcpyDeviceToHost, stream_), "fetch a step's result");
  check(cudaStreamSynchronize(stream_), "run steps");
  if (!state_of_rows()->failed) return;
  sequence_log()->status = CF_ERROR_DEVICE_LOST;
  take_in();
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

void CudaSession::fetch_logits(int64_t first, int64_t n) {
  const int64_t vocab = model_->config().vocab_size;
  check(cudaMemcpyAsync(logits_of_rows() + first * vocab, logits_at(first), size_t(n * vocab) * sizeof(float), cudaMemcpyDeviceToHost, stream_),
        "fetch logits");
}

void CudaSession::give_logits(const Row& row, int64_t i, const Step& step) {
  if (!step.device_logits || row.output < 0) return;
  const int64_t vocab = model_->config().vocab_size;
  check(cudaMemcpyAsync(step.device_logits + row.output * vocab, logits_at(i), size_t(vocab) * sizeof(float), cudaMemcpyDeviceToDevice, stream_),
        "copy logits");
}

bool CudaSession::run_prompt(Row* rows, int64_t n_rows, const Step& step) {
  if (is_cancelled(step.progress.cancellation)) return false;
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  prepare_prefill();
  const PrefillWeights weights = prefill_weights(model_->config(), static_cast<const CudaWeights&>(model_->weights()));
  const gpu::DecodeRow row = row_of(rows[0]);
  const gpu::PagedKv kv = {row.k, row.page_bytes, row.page_table, std::countr_zero(uint32_t(row.pages.tokens)), row.kv_dtype};
  const int64_t position = rows[0].position;
  const CudaTaps taps(*model_->context(), step.taps, logits_at(0), layout_.logits_floats, stream_);
  std::vector<int64_t> index;
  VisitPlace visit;
  if (!taps.empty()) {
    for (int64_t i = 0; i < n_rows; i++) index.push_back(rows[i].index);
    visit = [&](int32_t layer, cf_tap_point point) {
      taps.act(layer, point, prefill_->tap(point, position, n_rows, prefill_memory_->workspace.data()), index);
    };
  }
  const std::lock_guard lock(prefill_memory_->mutex);
  void* const workspace = prefill_memory_->workspace.data();
  upload_pages(stream_);
  prefill_->enqueue(weights, kv, token_log().tokens + position, position, n_rows, workspace, stream_, visit);
  int64_t first = 0;
  while (first < n_rows && !needs_logits(rows[first])) first++;  // from there on all do
  for (int64_t n; first < n_rows; first += n) {
    n = std::min<int64_t>(shape_.max_rows, n_rows - first);
    prefill_->enqueue_logits(weights, position, first, n, logits_at(0), workspace, stream_);
    fetch_logits(0, n);
    for (int64_t i = 0; i < n; i++) give_logits(rows[first + i], i, step);
    check(cudaStreamSynchronize(stream_), "run a prompt");
    for (int64_t i = 0; i < n; i++) finish_row(rows[first + i], logits_of_rows() + i * model_->config().vocab_size, step);
    if (is_cancelled(step.progress.cancellation)) break;
  }
  check(cudaStreamSynchronize(stream_), "run a prompt");  // before another prompt has the workspace
  return !is_cancelled(step.progress.cancellation);
}

void CudaSession::finish_row_of_launch(Row& row, int64_t i, const Step& step) {
  const auto& result = state_of_rows()->rows[i];
  if (result.finite && !reads_logits(row, step)) return finish_row(row, result.token, step);
  if (!reads_logits(row, step)) {  // they tell which of them is not finite
    fetch_logits(i, 1);
    check(cudaStreamSynchronize(stream_), "fetch logits");
  }
  finish_row(row, logits_of_rows() + i * model_->config().vocab_size, step);
}

bool CudaSession::run_rows(Row* rows, int64_t n_rows, const Step& step) {
  const DeviceScope scope(model_->context().get(), device_.ordinal);
  bool waited = true, cancelled = false;
  for (int64_t first = 0, n; first < n_rows; first += n) {
    if ((cancelled = is_cancelled(step.progress.cancellation))) break;
    n = std::min<int64_t>(shape_.max_rows, n_rows - first);
    enqueue_rows(rows + first, n, step);
    waited = false;
    Row* const of_launch = rows + first;
    if (std::none_of(of_launch, of_launch + n, needs_logits)) continue;
    for (int64_t i = 0; i < n; i++) give_logits(of_launch[i], i, step);
    for (int64_t i = 0, end; i < n; i = end + 1) {  // rows that lie together in one copy
      for (end = i; end < n && reads_logits(of_launch[end], step);) end++;
      if (end > i) fetch_logits(i, end - i);
    }
    wait_for_rows();
    waited = true;
    for (int64_t i = 0; i < n; i++)
      if (needs_logits(of_launch[i])) finish_row_of_launch(of_launch[i], i, step);
  }
  if (!waited) wait_for_rows();  // when cancelled, too: what was launched still writes to pages that the caller is about to give back
  return !cancelled && !is_cancelled(step.progress.cancellation);
}

// ---- Graphs

class CudaSession::CapturedSteps : public Graph {
 public:
  CapturedSteps(CudaSession& session, int64_t n_steps) : session_(session), n_steps_(n_steps) { capture(); }
  ~CapturedSteps() override { release(); }

  void launch() override {
    CudaSession& s = session_;
    const DeviceScope scope(s.model_->context().get(), s.device_.ordinal);
    if (s.driven_) s.settle(true);
    if (s.status() != CF_OK) return;
    if (!s.ahead_) s.check_pending(CF_TOKEN_PENDING);
    auto lock = s.model_->lock_for_step();
    s.note_weights();
    if (loads_ != s.model_->loads()) {  // there are other weights, which may lie where others were
      release();
      capture();
    }
    if (s.open_steps(n_steps_) == 0) return;
    s.check(cudaGraphLaunch(executable_, s.stream_), "launch a graph");
    s.launches_ += launches_;
    s.ahead_ = true;
    s.steps_ahead_ += n_steps_;
  }

  void query(cf_graph_info& info) const override {
    info.n_nodes = int32_t(n_nodes_), info.n_steps = int32_t(n_steps_), info.launch_mode = session_.launch_mode_;
  }

 private:
  void capture() {
    CudaSession& s = session_;
    const DeviceScope scope(s.model_->context().get(), s.device_.ordinal);
    loads_ = s.model_->loads();
    cudaStream_t stream;
    s.check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream");
    try {
      s.check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "capture a step");
      launches_ = s.launch_steps(n_steps_, CF_TOKEN_PENDING, true, stream);
      s.check(cudaStreamEndCapture(stream, &graph_), "capture a step");
      s.check(cudaGraphGetNodes(graph_, nullptr, &n_nodes_), "capture a step");
      s.check(cudaGraphInstantiate(&executable_, graph_, 0), "make a graph");
    } catch (...) {
      cudaStreamDestroy(stream);
      release();
      throw;
    }
    cudaStreamDestroy(stream);
  }
  void release() {
    if (executable_) cudaGraphExecDestroy(executable_);
    if (graph_) cudaGraphDestroy(graph_);
    executable_ = nullptr, graph_ = nullptr;
  }

  CudaSession& session_;
  const int64_t n_steps_;
  uint64_t loads_ = 0;  // of the model when the steps were captured
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  size_t n_nodes_ = 0;
  uint32_t launches_ = 0;
};

std::unique_ptr<Graph> CudaSession::capture_steps(int64_t n_steps) {
  if (!reserve_) fail(CF_ERROR_INVALID_ARGUMENT, "a graph needs a session that has reserved its capacity (reserve 1)");
  auto lock = model_->lock_for_step();
  return std::make_unique<CapturedSteps>(*this, n_steps);
}

}  // namespace cf
