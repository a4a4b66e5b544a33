// Sessions of the CPU backend: steps run inside the call that enqueues them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cpu/forward.h"
#include "session.h"

namespace cf {

class CpuSession : public Session {
 public:
  CpuSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, const Kernels& kernels, ThreadPool& threads);
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
  uint64_t workspace_bytes() const override;

 private:
  // One position of one session on its way through the model.
  struct Row {
    CpuSession* session;
    int64_t position;
    int32_t token;
    int64_t index;      // among the step's rows
    int64_t output;     // row of the caller's outputs, -1: none
    bool sample;        // a token after it
    int32_t next = -1;  // that token
    bool failed = false;
  };
  class Undo;
  // Rows (those of one session in order of position) through the model. A row that fails gives its session its status.
  // False: cancelled, nothing of it counts.
  bool run_piece(Row* rows, int64_t n_rows, const Step& step);
  void finish_rows(const Forward& forward, Row* rows, int64_t first, int64_t n_rows, const Step& step);
  void write_outputs(const float* logits, const Row& row, const Step& step);
  // every_row: a token is sampled after each position, otherwise after the last one.
  void run_positions(const int32_t* tokens, int64_t n_tokens, bool every_row, const Step& step);

  void check_pending(int32_t token) const;  // throws if this token is to be the pending one and there is none
  bool make_room(int64_t n_tokens);         // false: the session has failed
  void cancel();
  void advance(int64_t position, int32_t pending);
  void set_status(cf_status status, std::string sentence);  // keeps the first
  void put_token(int64_t position, int32_t token);

  const Kernels& kernels_;
  ThreadPool& threads_;
  Workspace workspace_;
  Sampler::Work sampling_;
  int64_t position_ = 0;
  bool pending_ = false;           // tokens_[position_] is to be fed next
  std::vector<int32_t> tokens_;    // [capacity + 1] by position; elements are accessed as atomics: tokens() runs on any thread
  std::atomic<int64_t> known_{0};  // tokens that readers may see
  cf_status status_ = CF_OK;
  std::string sentence_;
  int64_t n_steps_ = 0;
};

}  // namespace cf
