#include "session.h"

#include <algorithm>

#include "error.h"
#include "handles.h"
#include "structs.h"
#include "tensor.h"

namespace cf {

namespace {

constexpr int64_t kMaxCapacity = INT32_MAX;  // positions and their number fit the int32_t of the device side

std::shared_ptr<KvPool> pool_for(const std::shared_ptr<Model>& model, const cf_session_options& o) {
  if (o.pool) return o.pool->impl;
  return std::make_shared<KvPool>(model->context(), model->config(), o.kv_dtype, o.page_tokens, o.capacity_tokens);
}

}  // namespace

void check_page_options(const Backend& backend, cf_dtype& kv_dtype, int32_t page_tokens) {
  if (kv_dtype == CF_DTYPE_AUTO) kv_dtype = backend.default_kv_dtype();
  if (kv_dtype < CF_DTYPE_F32 || kv_dtype > CF_DTYPE_BF16) fail(CF_ERROR_INVALID_ARGUMENT, "kv_dtype is ", kv_dtype, ", which is none");
  if (!backend.has_kv_dtype(kv_dtype)) fail(CF_ERROR_UNSUPPORTED, "keys and values in ", dtype_name(kv_dtype), " are not supported on this device");
  if (page_tokens < 16 || page_tokens > 256 || (page_tokens & (page_tokens - 1)))
    fail(CF_ERROR_INVALID_ARGUMENT, "page_tokens is ", page_tokens, ", expected 16, 32, 64, 128 or 256");
}

cf_session_options resolve_session_options(const Backend& backend, const cf_model_config& config, const cf_session_options& options,
                                           const KvPool* pool) {
  cf_session_options o = options;
  if (o.launch_mode < CF_LAUNCH_AUTO || o.launch_mode > CF_LAUNCH_PHASE)
    fail(CF_ERROR_INVALID_ARGUMENT, "launch_mode is ", o.launch_mode, ", which is none");
  if (o.reserve != 0 && o.reserve != 1) fail(CF_ERROR_INVALID_ARGUMENT, "reserve is ", o.reserve, ", expected 0 or 1");
  if (o.capacity_tokens == 0) o.capacity_tokens = config.max_position_embeddings;
  if (o.capacity_tokens < 1 || o.capacity_tokens > kMaxCapacity)
    fail(CF_ERROR_INVALID_ARGUMENT, "capacity_tokens is ", o.capacity_tokens, ", expected 1 to ", kMaxCapacity);
  if (o.cluster_size < 0 || o.cluster_size > 16) fail(CF_ERROR_INVALID_ARGUMENT, "cluster_size is ", o.cluster_size, ", expected 0 to 16");
  if (pool) {
    o.kv_dtype = pool->kv_dtype();
    o.page_tokens = pool->page_tokens();
  } else {
    check_page_options(backend, o.kv_dtype, o.page_tokens);
  }
  return o;
}

Session::Session(std::shared_ptr<Model> model, const cf_session_options& o, ForkPoint from)
    : model_(std::move(model)),
      pool_(from.parent ? from.parent->pool_ : pool_for(model_, o)),
      capacity_(o.capacity_tokens),
      reserve_(o.reserve != 0),
      launch_mode_(o.launch_mode) {
  const int64_t pages = pool_->pages_for(capacity_);
  table_.pages.reserve(size_t(pages));
  const bool ready = (!reserve_ || pool_->reserve(table_, pages)) &&
                     (!from.parent || pool_->share(from.parent->table_, pool_->pages_for(from.position), table_)) &&
                     (!reserve_ || pool_->grow(table_, pages));
  if (ready) return;
  pool_->release(table_);  // the destructor does not run
  cf_kv_pool_info info{};
  pool_->query(info);
  if (reserve_)
    fail(CF_ERROR_CACHE_FULL, "the session is to reserve ", pages, " pages for its capacity of ", capacity_, " tokens; the KV pool has ",
         info.n_pages_free, " of ", info.n_pages, " free (reserve 0 takes pages as they are needed)");
  fail(CF_ERROR_CACHE_FULL, "the KV pool cannot keep the first ", pool_->pages_for(from.position), " pages for another session: ", info.n_pages_free,
       " of ", info.n_pages, " are free, and the parent had reserved them (create it with reserve 0)");
}

Session::~Session() { pool_->release(table_); }

Session::InCall::InCall(const Session& session) : session_(session) {
  if (session.in_call_.exchange(true, std::memory_order_acquire)) fail(CF_ERROR_BUSY, "the session is in another call");
}

bool Session::open_pages(int64_t first, int64_t count) {
  const int64_t pages = pool_->pages_for(first + count);
  return pool_->grow(table_, pages) && pool_->make_private(table_, first / pool_->page_tokens(), pages);
}

void Session::note_weights() {
  const uint64_t now = model_->fingerprint();
  if (known_position() == 0) made_with_ = now;
  else if (made_with_ != now) made_with_ = kMixedWeights;
}

void Session::release_pages(int64_t tokens) {
  if (!reserve_) pool_->shrink(table_, pool_->pages_for(tokens));
}

void Session::check_token(int32_t token, const char* what) const {
  if (token < 0 || token >= model_->config().vocab_size)
    fail(CF_ERROR_INVALID_ARGUMENT, what, " ", token, " is outside the vocabulary of ", model_->config().vocab_size);
}

std::vector<cf_tap> Session::take_taps(const cf_step_options& o) const {
  constexpr size_t kMaxTaps = 1 << 16;
  std::vector<cf_tap> taps;
  if (o.n_taps && !o.taps) fail(CF_ERROR_INVALID_ARGUMENT, "taps is NULL but n_taps is ", o.n_taps);
  if (o.n_taps > kMaxTaps) fail(CF_ERROR_INVALID_ARGUMENT, "n_taps is ", o.n_taps, ", expected at most ", kMaxTaps);
  for (size_t i = 0; i < o.n_taps; i++) {
    const cf_tap tap = take_element(o.taps, i, "taps");
    auto check = [&](bool good, const char* field, int32_t value) {
      if (!good) fail(CF_ERROR_INVALID_ARGUMENT, "taps[", i, "].", field, " is ", value, ", which is none");
    };
    check(tap.point >= CF_TAP_BLOCK_INPUT && tap.point <= CF_TAP_MLP_ACTIVATION, "point", tap.point);
    check(tap.action == CF_TAP_READ || tap.action == CF_TAP_WRITE, "action", tap.action);
    check(tap.layer >= 0 && tap.layer < model_->config().n_layers, "layer", tap.layer);
    check(tap.memory == CF_MEMORY_HOST || tap.memory == CF_MEMORY_DEVICE, "memory", tap.memory);
    if (!tap.data) fail(CF_ERROR_INVALID_ARGUMENT, "taps[", i, "].data is NULL");
    taps.push_back(tap);
  }
  return taps;
}

Step Session::take_step(const cf_step_options& o, int64_t n_positions, bool prefill) const {
  Step step{o.sample != 0, o.outputs != nullptr, {}, {}, take_taps(o), {o.progress, o.progress_user, o.cancellation}};
  if (o.sample != 0 && o.sample != 1) fail(CF_ERROR_INVALID_ARGUMENT, "sample is ", o.sample, ", expected 0 or 1");
  if (!o.outputs) return step;
  cf_outputs& out = step.outputs = take_struct(o.outputs, "outputs");
  const int32_t vocab = model_->config().vocab_size;
  if (out.memory != CF_MEMORY_HOST && out.memory != CF_MEMORY_DEVICE)
    fail(CF_ERROR_INVALID_ARGUMENT, "outputs.memory is ", out.memory, ", which is none");
  if (out.rows != CF_ROWS_LAST && out.rows != CF_ROWS_ALL) fail(CF_ERROR_INVALID_ARGUMENT, "outputs.rows is ", out.rows, ", which is none");
  if (out.top_n < 0 || out.top_n > std::min(vocab, 1024))
    fail(CF_ERROR_INVALID_ARGUMENT, "outputs.top_n is ", out.top_n, ", expected 0 to ", std::min(vocab, 1024));
  if (!out.top_n && (out.top_tokens || out.top_logprobs)) fail(CF_ERROR_INVALID_ARGUMENT, "outputs.top_tokens or top_logprobs is set but top_n is 0");
  if (out.top_n && !out.top_tokens && !out.top_logprobs)
    fail(CF_ERROR_INVALID_ARGUMENT, "outputs.top_n is ", out.top_n, " but top_tokens and top_logprobs are NULL");
  if (!out.targets != !out.target_logprobs) fail(CF_ERROR_INVALID_ARGUMENT, "outputs.targets and target_logprobs must be set together");
  if (out.row_tokens && !step.sample) fail(CF_ERROR_INVALID_ARGUMENT, "outputs.row_tokens is set but sample is 0");
  if (!prefill) out.rows = CF_ROWS_ALL;
  if (out.targets) {
    const int64_t rows = out.rows == CF_ROWS_ALL ? n_positions : 1;
    step.targets.assign(out.targets, out.targets + rows);
    for (int32_t target : step.targets)
      if (target != -1) check_token(target, "outputs.targets:");
  }
  return step;
}

void Session::prefill(const int32_t* tokens, size_t n_tokens, const cf_step_options& options) {
  InCall guard(*this);
  if (!tokens) fail(CF_ERROR_INVALID_ARGUMENT, "tokens is NULL");
  if (n_tokens < 1 || n_tokens > size_t(capacity_))
    fail(CF_ERROR_INVALID_ARGUMENT, "n_tokens is ", n_tokens, ", expected 1 to the session's capacity of ", capacity_);
  for (size_t i = 0; i < n_tokens; i++) check_token(tokens[i], "tokens:");
  enqueue_prefill(tokens, int64_t(n_tokens), take_step(options, int64_t(n_tokens), true));
}

void Session::decode_steps(int64_t n_steps, int32_t first_token, const cf_step_options& options) {
  InCall guard(*this);
  if (n_steps < 1) fail(CF_ERROR_INVALID_ARGUMENT, "n_steps is ", n_steps, ", expected at least 1");
  if (first_token != CF_TOKEN_PENDING) check_token(first_token, "token");
  if (n_steps > 1 && !options.sample)
    fail(CF_ERROR_INVALID_ARGUMENT, "sample is 0, but each of ", n_steps, " steps feeds what the one before sampled");
  enqueue_steps(n_steps, first_token, take_step(options, 1, false));
}

void Session::decode_positions(const int32_t* tokens, size_t n_tokens, const cf_step_options& options) {
  InCall guard(*this);
  if (!tokens) fail(CF_ERROR_INVALID_ARGUMENT, "tokens is NULL");
  if (n_tokens < 1 || n_tokens > size_t(kMaxRows)) fail(CF_ERROR_INVALID_ARGUMENT, "n_tokens is ", n_tokens, ", expected 1 to ", kMaxRows);
  for (size_t i = 0; i < n_tokens; i++)
    if (i || tokens[0] != CF_TOKEN_PENDING) check_token(tokens[i], "tokens:");
  enqueue_positions(tokens, int64_t(n_tokens), take_step(options, int64_t(n_tokens), false));
}

void Session::decode_batch(const std::vector<Session*>& sessions, const int32_t* tokens, const cf_step_options& options) {
  std::vector<std::unique_ptr<InCall>> guards;
  for (size_t i = 0; i < sessions.size(); i++) {
    if (sessions[i]->model_ != sessions[0]->model_) fail(CF_ERROR_INVALID_ARGUMENT, "sessions[", i, "] is of another model than sessions[0]");
    for (size_t j = 0; j < i; j++)
      if (sessions[j] == sessions[i]) fail(CF_ERROR_INVALID_ARGUMENT, "sessions[", i, "] is the same session as sessions[", j, "]");
    if (tokens && tokens[i] != CF_TOKEN_PENDING) sessions[i]->check_token(tokens[i], "tokens:");
    guards.push_back(std::make_unique<InCall>(*sessions[i]));
  }
  sessions[0]->enqueue_batch(sessions, tokens, sessions[0]->take_step(options, int64_t(sessions.size()), false));
}

void Session::truncate(int64_t position) {
  InCall guard(*this);
  settle(false);
  const int64_t now = known_position();
  if (position < 0 || position > now) fail(CF_ERROR_INVALID_ARGUMENT, "position is ", position, ", expected 0 to the present ", now);
  check_changeable();
  go_back(position);
}

void Session::set_sampler(const cf_sampler_options* options) {
  InCall guard(*this);
  check_changeable();
  Sampler next(take_struct(options, "options"), model_->config().vocab_size);
  next.copy_allowed(sampler_);
  sampler_ = std::move(next);
  sampler_changed();
}

void Session::set_allowed_tokens(const uint32_t* mask, size_t n_words) {
  InCall guard(*this);
  check_changeable();
  sampler_.set_allowed(mask, n_words, model_->config().vocab_size);
  sampler_changed();
}

bool Session::fetch(bool wait, cf_result& result, std::string& sentence) {
  InCall guard(*this);
  return fetch_result(wait, result, sentence);
}

cf_session_options Session::options_for_fork() const {
  cf_session_options o = defaults<cf_session_options>();
  o.capacity_tokens = capacity_;
  o.reserve = reserve_;
  o.launch_mode = launch_mode_;
  o.cluster_size = cluster_size();
  return o;
}

std::unique_ptr<Session> Session::fork(int64_t position, const cf_session_options& options) {
  InCall guard(*this);
  settle(true);
  if (options.pool && options.pool->impl != pool_) fail(CF_ERROR_INVALID_ARGUMENT, "options.pool is not the parent's");
  Backend& backend = model_->context()->backend();
  const cf_session_options o = resolve_session_options(backend, model_->config(), options, pool_.get());
  const int64_t now = known_position();
  if (position < 0 || position > now) fail(CF_ERROR_INVALID_ARGUMENT, "position is ", position, ", expected 0 to the parent's ", now);
  if (position > o.capacity_tokens) fail(CF_ERROR_INVALID_ARGUMENT, "position is ", position, ", beyond the fork's capacity of ", o.capacity_tokens);
  SessionState state = this->state();
  state.pending = position < state.position || state.pending;
  state.position = position;
  state.tokens.resize(size_t(position) + state.pending);
  std::unique_ptr<Session> fork = backend.create_session(model_, o, {this, position});
  pages_shared();
  fork->sampler_ = sampler_;
  fork->made_with_ = made_with_;
  fork->set_state(state);
  fork->sampler_changed();
  return fork;
}

std::unique_ptr<Graph> Session::capture(const cf_graph_options& options) {
  InCall guard(*this);
  if (options.n_steps < 1 || options.n_steps > kMaxGraphSteps)
    fail(CF_ERROR_INVALID_ARGUMENT, "options.n_steps is ", options.n_steps, ", expected 1 to ", kMaxGraphSteps);
  return capture_steps(options.n_steps);
}

void Session::launch(Graph& graph) {
  InCall guard(*this);
  graph.launch();
}

std::unique_ptr<Graph> Session::capture_steps(int64_t) {
  fail(CF_ERROR_UNSUPPORTED, "cf_graph_capture needs a CUDA device: the CPU backend has no graphs");
}

void Session::save(const std::function<void(const Saved&)>& write) {
  InCall guard(*this);
  settle(true);
  cf_model_info info{};
  model_->query(info);
  if (known_position() > 0 && made_with_ != info.fingerprint)
    fail(CF_ERROR_MISMATCH, "the model's weights have changed since the session's keys and values were made; they cannot be saved as this model's");
  write({state(), info.fingerprint, &sampler_, pool_.get(), &table_, &model_->context()->backend()});
}

void Session::restore(const SessionState& state, const Sampler& sampler,
                      const std::function<void(const KvPool&, const std::vector<int32_t>&)>& read_pages) {
  if (!open_pages(0, state.position))
    fail(CF_ERROR_CACHE_FULL, "the pool has no room for the ", pool_->pages_for(state.position), " pages of the saved session");
  read_pages(*pool_, table_.pages);
  sampler_ = sampler;
  cf_model_info info{};
  model_->query(info);
  made_with_ = info.fingerprint;
  set_state(state);
  sampler_changed();
}

void Session::query(cf_session_info& info) const {
  InCall guard(*this);
  info.launch_mode = launch_mode_;
  info.cluster_size = cluster_size();
  info.page_tokens = pool_->page_tokens();
  info.kv_dtype = pool_->kv_dtype();
  info.position = known_position();
  info.capacity_tokens = capacity_;
  info.n_pages = int64_t(table_.pages.size());
  info.workspace_bytes = workspace_bytes();
  info.stream = stream();
}

}  // namespace cf
