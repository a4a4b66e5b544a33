// Sessions whose steps run inside the call that enqueues them: what those of the CPU and of CUDA share. A backend's session takes rows
// through the model.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "session.h"

namespace cf {

constexpr int64_t kPieceRows = 64;  // the most rows that go through a block together, but for a prompt's
static_assert(kPieceRows >= kMaxRows);

// A session's tokens by position, and how many of them readers may see. Both are accessed as atomics: by tokens() on any thread, and by
// a device that takes steps by itself.
struct TokenLog {
  int64_t* known;
  int32_t* tokens;  // [capacity + 1]
};

class HostSession : public Session {
 public:
  // log: of a backend whose device writes to it, all 0; without one the session has its own.
  HostSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, TokenLog log = {});
  size_t tokens(int64_t from, int32_t* out, size_t capacity) const override;

 protected:
  void enqueue_prefill(const int32_t* tokens, int64_t n_tokens, const Step& step) override;
  void enqueue_steps(int64_t n_steps, int32_t first_token, const Step& step) override;
  void enqueue_positions(const int32_t* tokens, int64_t n_tokens, const Step& step) override;
  void enqueue_batch(const std::vector<Session*>& sessions, const int32_t* tokens, const Step& step) override;
  void go_back(int64_t position) override;
  bool fetch_result(bool wait, cf_result& result, std::string& sentence) override;
  int64_t known_position() const override { return position_; }
  SessionState state() const override;
  void set_state(const SessionState& state) override;

  // One position of one session on its way through the model.
  struct Row {
    HostSession* session;
    int64_t position;
    int32_t token;
    int64_t index;      // among the step's rows
    int64_t output;     // row of the caller's outputs, -1: none
    bool sample;        // a token after it
    int32_t next = -1;  // that token
    bool failed = false;
  };
  // Rows (at most kPieceRows, those of one session in order of position) through the model, whose weights stay as they are meanwhile; then
  // finish_row for each that needs_logits. A row that fails gives its session its status. False: cancelled, nothing of it counts.
  virtual bool run_piece(Row* rows, int64_t n_rows, const Step& step) = 0;
  // The same for a piece of a prompt: rows of this session, within positions [i R, (i + 1) R) for R = prompt_rows().
  virtual bool run_prompt(Row* rows, int64_t n_rows, const Step& step) { return run_piece(rows, n_rows, step); }
  virtual int64_t prompt_rows() const { return kPieceRows; }
  virtual void position_changed() {}                        // on the host, or what is pending there
  void set_status(cf_status status, std::string sentence);  // keeps the first
  static KvView kv_of(const Row& row, int32_t layer) { return row.session->pool_->view(layer, row.session->table_.pages.data()); }
  static bool needs_logits(const Row& row) { return row.sample || row.output >= 0; }
  // Whether more than the likeliest token is made of a row's logits.
  static bool reads_logits(const Row& row, const Step& step) {
    return (row.output >= 0 && (step.outputs.logits || step.outputs.top_n || !step.targets.empty())) ||
           (row.sample && !row.session->sampler_.takes_likeliest());
  }
  // All that is made of a row's logits [V]; of finite ones whose likeliest token is known, unless it reads_logits.
  void finish_row(Row& row, const float* logits, const Step& step);
  static void finish_row(Row& row, int32_t likeliest, const Step& step);
  cf_status status() const { return status_; }
  // Steps that a device has taken by itself: their tokens are in the log.
  void follow(int64_t position, int64_t n_steps);
  void check_pending(int32_t token) const;  // throws if this token is to be the pending one and there is none
  bool make_room(int64_t n_tokens);         // false: the session has failed
  void cancel();
  int32_t token_at(int64_t position) const { return log_.tokens[position]; }
  bool pending() const { return pending_; }

 private:
  class Undo;
  void write_outputs(const float* logits, const Row& row, const Step& step);
  // every_row: a token is sampled after each position, otherwise after the last one.
  void run_positions(const int32_t* tokens, int64_t n_tokens, bool every_row, const Step& step);

  void advance(int64_t position, int32_t pending);
  void put_token(int64_t position, int32_t token);

  Sampler::Work sampling_;
  int64_t position_ = 0;
  bool pending_ = false;  // the token at position_ is to be fed next
  std::vector<int32_t> own_tokens_;
  int64_t own_known_ = 0;
  const TokenLog log_;
  cf_status status_ = CF_OK;
  std::string sentence_;
  int64_t n_steps_ = 0;
};

}  // namespace cf
