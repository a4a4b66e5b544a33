// A session: what every backend's sessions share (its checks, its pages, its sampler), over what each does in its own way.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "cancellation.h"
#include "clusterfusion.h"
#include "kv_pool.h"
#include "model.h"
#include "sampler.h"

namespace cf {

constexpr uint64_t kMixedWeights = 0;  // no fingerprint
constexpr int64_t kMaxRows = 64;       // of cf_decode_positions and cf_decode_batch
constexpr int32_t kMaxGraphSteps = 1024;

// What a session is besides its keys and values.
struct SessionState {
  int64_t position;
  bool pending;                 // tokens has one more than position
  std::vector<int32_t> tokens;  // by position
};

// A step's options, checked.
struct Step {
  bool sample;
  bool has_outputs;
  cf_outputs outputs;
  std::vector<int32_t> targets;  // one per output row; empty: none
  std::vector<cf_tap> taps;
  Progress progress;
  float* device_logits = nullptr;  // [rows, V] of outputs in device memory, which the backend copies by itself; outputs.logits is NULL then
};

// A captured step of a session, which outlives it.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch() = 0;  // enqueues a replay on the session's stream
  virtual void query(cf_graph_info& info) const = 0;
};

class Session {
 public:
  virtual ~Session();

  // The calls of clusterfusion.h. Each checks its arguments and enqueues; throws what can be known from the arguments.
  void prefill(const int32_t* tokens, size_t n_tokens, const cf_step_options& options);
  void decode_steps(int64_t n_steps, int32_t first_token, const cf_step_options& options);
  void decode_positions(const int32_t* tokens, size_t n_tokens, const cf_step_options& options);
  static void decode_batch(const std::vector<Session*>& sessions, const int32_t* tokens, const cf_step_options& options);
  void truncate(int64_t position);
  void set_sampler(const cf_sampler_options* options);
  void set_allowed_tokens(const uint32_t* mask, size_t n_words);
  // False (CF_NOT_READY): unfinished, nothing fetched. Otherwise fills result and the failed step's sentence.
  bool fetch(bool wait, cf_result& result, std::string& sentence);
  virtual size_t tokens(int64_t from, int32_t* out, size_t capacity) const = 0;  // any thread
  void query(cf_session_info& info) const;
  cf_session_options options_for_fork() const;  // this session's capacity, reserve, launch mode and clusters
  std::unique_ptr<Session> fork(int64_t position, const cf_session_options& options);
  std::unique_ptr<Graph> capture(const cf_graph_options& options);
  void launch(Graph& graph);
  // What a saved session consists of, handed to session_file.cpp while no other call is inside.
  struct Saved {
    SessionState state;
    uint64_t fingerprint;
    const Sampler* sampler;
    const KvPool* pool;
    const PageTable* table;
    Backend* backend;
  };
  void save(const std::function<void(const Saved&)>& write);
  // Fills a new session of enough capacity; read_pages fills its pages, which it is given in order of position.
  void restore(const SessionState& state, const Sampler& sampler, const std::function<void(const KvPool&, const std::vector<int32_t>&)>& read_pages);

  const std::shared_ptr<Model>& model() const { return model_; }

 protected:
  Session(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from);  // resolved; takes the pages it is to reserve

  virtual void enqueue_prefill(const int32_t* tokens, int64_t n_tokens, const Step& step) = 0;
  virtual void enqueue_steps(int64_t n_steps, int32_t first_token, const Step& step) = 0;
  virtual void enqueue_positions(const int32_t* tokens, int64_t n_tokens, const Step& step) = 0;
  virtual void enqueue_batch(const std::vector<Session*>& sessions, const int32_t* tokens, const Step& step) = 0;
  virtual void go_back(int64_t position) = 0;  // 0 .. the present one; releases pages through release_pages
  virtual bool fetch_result(bool wait, cf_result& result, std::string& sentence) = 0;
  virtual int64_t known_position() const = 0;
  // Takes in what enqueued work has come to; unless `wait`, CF_ERROR_BUSY while it is unfinished.
  virtual void settle(bool /*wait*/) {}
  virtual void check_changeable() {}  // before anything of the session is changed but by steps
  virtual void sampler_changed() {}
  virtual void pages_shared() {}                                  // with a fork that has just been made
  virtual std::unique_ptr<Graph> capture_steps(int64_t n_steps);  // CF_ERROR_UNSUPPORTED, unless the backend has graphs
  virtual SessionState state() const = 0;                         // once settled
  virtual void set_state(const SessionState& state) = 0;
  virtual uint64_t workspace_bytes() const = 0;
  virtual int32_t cluster_size() const { return 1; }
  virtual void* stream() const { return nullptr; }

  // Makes the pages of positions first .. first + count - 1 ready to be written; false if the pool has no room.
  bool open_pages(int64_t first, int64_t count);
  // Before the session's keys and values are added to, with the model locked for a step.
  void note_weights();
  void release_pages(int64_t tokens);  // keeps what `tokens` positions need, unless reserved

  const std::shared_ptr<Model> model_;
  const std::shared_ptr<KvPool> pool_;
  const int64_t capacity_;
  const bool reserve_;
  const cf_launch_mode launch_mode_;
  PageTable table_;
  Sampler sampler_;
  uint64_t made_with_ = 0;  // fingerprint of the weights that the keys and values come from; kMixedWeights: from several

 private:
  // Held by every call but tokens(): a second call on the same session is an error rather than a race.
  class InCall {
   public:
    explicit InCall(const Session& session);
    ~InCall() { session_.in_call_.store(false, std::memory_order_release); }
    InCall(const InCall&) = delete;

   private:
    const Session& session_;
  };
  Step take_step(const cf_step_options& options, int64_t n_positions, bool prefill) const;
  std::vector<cf_tap> take_taps(const cf_step_options& options) const;
  void check_token(int32_t token, const char* what) const;

  mutable std::atomic<bool> in_call_{false};
};

// Fills in the default kv_dtype; throws for what the backend cannot have.
void check_page_options(const Backend& backend, cf_dtype& kv_dtype, int32_t page_tokens);
// Options with every default filled in, checked against the model.
cf_session_options resolve_session_options(const Backend& backend, const cf_model_config& config, const cf_session_options& options,
                                           const KvPool* pool);

}  // namespace cf
