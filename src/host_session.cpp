#include "host_session.h"

#include <algorithm>
#include <new>
#include <span>
#include <utility>

namespace cf {

HostSession::HostSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, TokenLog log)
    : Session(std::move(model), options, from),
      own_tokens_(log.tokens ? 0 : size_t(capacity_) + 1),
      log_(log.tokens ? log : TokenLog{&own_known_, own_tokens_.data()}) {}

void HostSession::put_token(int64_t position, int32_t token) { std::atomic_ref(log_.tokens[position]).store(token, std::memory_order_relaxed); }

size_t HostSession::tokens(int64_t from, int32_t* out, size_t capacity) const {
  const int64_t known = std::atomic_ref(*log_.known).load(std::memory_order_acquire);
  if (from >= known) return 0;
  const size_t count = std::min(capacity, size_t(known - from));
  for (size_t i = 0; i < count; i++) out[i] = std::atomic_ref(log_.tokens[from + int64_t(i)]).load(std::memory_order_relaxed);
  return count;
}

SessionState HostSession::state() const { return {position_, pending_, {log_.tokens, log_.tokens + position_ + pending_}}; }

void HostSession::set_state(const SessionState& state) {
  for (size_t i = 0; i < state.tokens.size(); i++) put_token(int64_t(i), state.tokens[i]);
  position_ = state.position;
  pending_ = state.pending;
  std::atomic_ref(*log_.known).store(position_ + pending_, std::memory_order_release);
  position_changed();
}

void HostSession::follow(int64_t position, int64_t n_steps) {
  n_steps_ += n_steps;
  position_ = position;
  pending_ = pending_ || n_steps > 0;
}

void HostSession::set_status(cf_status status, std::string sentence) {
  if (status_ != CF_OK) return;
  status_ = status;
  sentence_ = std::move(sentence);
}

void HostSession::advance(int64_t position, int32_t pending) {
  n_steps_ += position - position_;
  position_ = position;
  pending_ = pending >= 0;
  if (pending_) put_token(position, pending);
  std::atomic_ref(*log_.known).store(position + pending_, std::memory_order_release);
  position_changed();
}

void HostSession::check_pending(int32_t token) const {
  if (token == CF_TOKEN_PENDING && !pending_) fail(CF_ERROR_INVALID_ARGUMENT, "no token is pending: nothing has been sampled yet");
}

bool HostSession::make_room(int64_t n_tokens) {
  if (position_ + n_tokens > capacity_) {
    set_status(CF_ERROR_CACHE_FULL, text("the session holds ", position_, " of ", capacity_, " positions; ", n_tokens, " more do not fit"));
    return false;
  }
  if (!open_pages(position_, n_tokens)) {
    cf_kv_pool_info pool{};
    pool_->query(pool);
    set_status(CF_ERROR_CACHE_FULL, text("positions ", position_, " to ", position_ + n_tokens - 1,
                                         " need more pages than the KV pool has left: ", pool.n_pages_free, " of ", pool.n_pages, " are free"));
    return false;
  }
  return true;
}

void HostSession::write_outputs(const float* logits, const Row& row, const Step& step) {
  const cf_outputs& out = step.outputs;
  const int64_t vocab = model_->config().vocab_size, o = row.output;
  if (out.logits) std::copy_n(logits, vocab, out.logits + o * vocab);
  const bool target = !step.targets.empty() && step.targets[size_t(o)] >= 0;
  const double normalizer = target || out.top_logprobs ? log_sum_exp(logits, vocab) : 0;
  if (!step.targets.empty()) out.target_logprobs[o] = target ? float(logits[step.targets[size_t(o)]] - normalizer) : 0.0f;
  if (out.top_n) {
    std::vector<int32_t> top(size_t(out.top_n));
    top_tokens(logits, vocab, out.top_n, top.data(), sampling_.candidates);
    for (int64_t i = 0; i < out.top_n; i++) {
      if (out.top_tokens) out.top_tokens[o * out.top_n + i] = top[size_t(i)];
      if (out.top_logprobs) out.top_logprobs[o * out.top_n + i] = float(logits[top[size_t(i)]] - normalizer);
    }
  }
}

void HostSession::finish_row(Row& row, const float* logits, const Step& step) {
  const int64_t vocab = model_->config().vocab_size;
  try {
    check_finite(logits, vocab, row.position + 1);
    if (row.output >= 0) write_outputs(logits, row, step);
    if (row.sample) row.next = row.session->sampler_.sample(logits, vocab, row.session->log_.tokens, row.position + 1, row.position + 1, sampling_);
    if (row.output >= 0 && step.outputs.row_tokens) step.outputs.row_tokens[row.output] = row.next;
  } catch (Error& error) {
    row.failed = true;
    row.session->set_status(error.status, std::move(error.message));
  }
}

void HostSession::finish_row(Row& row, int32_t likeliest, const Step& step) {
  if (row.sample) row.next = likeliest;
  if (row.output >= 0 && step.outputs.row_tokens) step.outputs.row_tokens[row.output] = row.next;
}

void HostSession::cancel() {
  std::string sentence;
  try {
    sentence = text("cancelled at position ", position_);
  } catch (const std::bad_alloc&) {
    sentence = "cancelled";  // short enough for a std::string that allocates nothing
  }
  set_status(CF_ERROR_CANCELLED, std::move(sentence));
}

// Puts a session back to where a step found it, unless the step is kept: after a failure and when an exception passes.
class HostSession::Undo {
 public:
  explicit Undo(HostSession& session) : session_(&session), pending_(session.log_.tokens[session.position_]) {}
  Undo(Undo&& other) noexcept : session_(std::exchange(other.session_, nullptr)), pending_(other.pending_) {}
  ~Undo() {
    if (!session_) return;
    session_->put_token(session_->position_, pending_);
    session_->release_pages(session_->position_);
  }
  void keep() { session_ = nullptr; }

 private:
  HostSession* session_;
  int32_t pending_;
};

// Consecutive positions, all or nothing; a prompt's in pieces that end at absolute multiples of prompt_rows().
void HostSession::run_positions(const int32_t* tokens, int64_t n_tokens, bool every_row, const Step& step) {
  const bool all_outputs = step.has_outputs && step.outputs.rows == CF_ROWS_ALL;
  const int64_t n_outputs = all_outputs ? n_tokens : step.has_outputs;
  settle(true);
  const auto fail_outputs = [&](int64_t first) {  // rows that nothing was computed for
    if (step.has_outputs && step.outputs.row_status) std::fill(step.outputs.row_status + first, step.outputs.row_status + n_outputs, status_);
  };
  if (status_ != CF_OK) return fail_outputs(0);
  check_pending(tokens[0]);
  auto lock = model_->lock_for_step();
  note_weights();
  Undo undo(*this);
  if (!make_room(n_tokens)) return fail_outputs(0);
  for (int64_t i = 0; i < n_tokens; i++)
    if (tokens[i] != CF_TOKEN_PENDING) put_token(position_ + i, tokens[i]);

  const int64_t end = position_ + n_tokens, most = every_row ? kPieceRows : prompt_rows();
  std::vector<Row> rows(size_t(std::min(most, n_tokens)));
  for (int64_t position = position_, next; position < end; position = next) {
    next = every_row ? end : std::min(end, (position / most + 1) * most);  // every_row: at most kPieceRows in all
    for (int64_t p = position; p < next; p++) {
      const bool last = p == end - 1;
      const int64_t output = all_outputs ? p - position_ : last && step.has_outputs ? 0 : -1;
      rows[size_t(p - position)] = {this, p, log_.tokens[p], p - position_, output, step.sample && (every_row || last)};
    }
    if (!(every_row ? run_piece(rows.data(), next - position, step) : run_prompt(rows.data(), next - position, step))) {
      cancel();
      return fail_outputs(all_outputs ? position - position_ : 0);
    }
    for (const Row& row : std::span(rows).first(size_t(next - position)))
      if (row.output >= 0 && step.outputs.row_status) step.outputs.row_status[row.output] = row.failed ? status_ : CF_OK;
    if (status_ == CF_OK && !step.progress(uint64_t(next - position_), uint64_t(n_tokens))) cancel();
    if (status_ != CF_OK) return fail_outputs(all_outputs ? next - position_ : next == end);
    if (next == end) {
      undo.keep();
      return advance(end, rows[size_t(next - position - 1)].next);
    }
  }
}

namespace {
// For calls whose progress does not count positions.
Step without_report(const Step& step) {
  Step quiet = step;
  quiet.progress.report = nullptr;
  return quiet;
}
}  // namespace

void HostSession::enqueue_prefill(const int32_t* tokens, int64_t n_tokens, const Step& step) { run_positions(tokens, n_tokens, false, step); }

void HostSession::enqueue_positions(const int32_t* tokens, int64_t n_tokens, const Step& step) {
  run_positions(tokens, n_tokens, true, without_report(step));
}

void HostSession::enqueue_steps(int64_t n_steps, int32_t first_token, const Step& step) {
  const Step one = without_report(step);
  int32_t token = first_token;
  for (int64_t i = 0; i < n_steps; i++, token = CF_TOKEN_PENDING) {
    // Once there are finished steps, which are kept, the call itself can no longer be refused: it is this step that fails.
    try {
      run_positions(&token, 1, true, one);
    } catch (const std::bad_alloc&) {
      if (i == 0) throw;
      set_status(CF_ERROR_OUT_OF_MEMORY, "out of memory");  // short enough for a std::string that allocates nothing
    } catch (Error& error) {
      if (i == 0 || error.status != CF_ERROR_OUT_OF_MEMORY) throw;
      set_status(error.status, std::move(error.message));
    }
    if (status_ != CF_OK) return;
    if (!step.progress(uint64_t(i + 1), uint64_t(n_steps))) return cancel();
    if (pending_ && sampler_.is_stop(log_.tokens[position_])) return;
  }
}

void HostSession::enqueue_batch(const std::vector<Session*>& sessions, const int32_t* tokens, const Step& step) {
  std::vector<Row> rows;
  auto at = [&](size_t i) { return static_cast<HostSession*>(sessions[i]); };
  auto token_of = [&](size_t i) { return tokens ? tokens[i] : int32_t{CF_TOKEN_PENDING}; };
  for (size_t i = 0; i < sessions.size(); i++) {
    at(i)->settle(true);
    if (at(i)->status_ == CF_OK) at(i)->check_pending(token_of(i));
  }
  auto lock = model_->lock_for_step();
  rows.reserve(sessions.size());
  std::vector<Undo> undo;  // one per row
  undo.reserve(sessions.size());
  for (size_t i = 0; i < sessions.size(); i++) {
    HostSession* s = at(i);
    if (s->status_ != CF_OK || !s->make_room(1)) continue;
    s->note_weights();
    undo.emplace_back(*s);
    if (token_of(i) != CF_TOKEN_PENDING) s->put_token(s->position_, token_of(i));
    rows.push_back({s, s->position_, s->log_.tokens[s->position_], int64_t(i), step.has_outputs ? int64_t(i) : -1, step.sample});
  }
  const bool finished = rows.empty() || run_piece(rows.data(), int64_t(rows.size()), step);
  for (size_t r = 0; r < rows.size(); r++) {
    HostSession* s = rows[r].session;
    if (!finished) s->cancel();
    if (s->status_ != CF_OK) continue;
    undo[r].keep();
    s->advance(rows[r].position + 1, rows[r].next);
  }
  for (size_t i = 0; i < sessions.size(); i++)
    if (step.has_outputs && step.outputs.row_status) step.outputs.row_status[i] = at(i)->status_;
}

void HostSession::go_back(int64_t position) {
  if (position < position_) {
    position_ = position;
    pending_ = true;
    std::atomic_ref(*log_.known).store(position + 1, std::memory_order_release);
    position_changed();
  }
  release_pages(position_);
}

bool HostSession::fetch_result(bool, cf_result& result, std::string& sentence) {
  result.status = status_;
  result.position = position_;
  result.n_steps = n_steps_;
  result.token = pending_ ? log_.tokens[position_] : -1;
  result.stopped = pending_ && sampler_.is_stop(result.token);
  sentence = std::move(sentence_);
  status_ = CF_OK;
  sentence_.clear();
  n_steps_ = 0;
  return true;
}

}  // namespace cf
