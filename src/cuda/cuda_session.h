// Sessions of the CUDA backend. The device takes steps by itself, in the order of a stream, as long as the caller wants nothing but tokens
// (DecodeSequence in kernels/contract.h is the truth then, and SequenceLog what the host sees of it); prompts, rows and steps with outputs
// go through HostSession, which looks at the logits of each launch.
#pragma once

#include "cuda/decode.h"
#include "cuda/prefill.h"
#include "cuda/taps.h"
#include "host_session.h"

namespace cf {

// Host memory that the device writes to, and that rows' results are copied to.
class PinnedMemory {
 public:
  PinnedMemory(Context& context, int ordinal, int64_t capacity_tokens, int64_t n_logits);
  PinnedMemory(const PinnedMemory&) = delete;
  ~PinnedMemory();
  gpu::SequenceLog* sequence_log() const { return at<gpu::SequenceLog>(0); }
  TokenLog token_log() const { return {&sequence_log()->known, at<int32_t>(tokens_)}; }
  gpu::DecodeState* state_of_rows() const { return at<gpu::DecodeState>(state_); }
  float* logits_of_rows() const { return at<float>(logits_); }  // [n_logits]

 private:
  template <class T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(memory_ + offset);
  }
  const int ordinal_;
  const size_t tokens_, state_, logits_;  // where they begin
  std::byte* memory_ = nullptr;
};

class CudaSession : private PinnedMemory, public HostSession {
 public:
  CudaSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, const CudaDevice& device,
              std::shared_ptr<PrefillMemory> prefill_memory);
  ~CudaSession() override;
  static uint64_t workspace_bytes(const cf_model_config& config, int64_t capacity_tokens, const CudaDevice& device);

 protected:
  void enqueue_prefill(const int32_t* tokens, int64_t n_tokens, const Step& step) override;
  void enqueue_steps(int64_t n_steps, int32_t first_token, const Step& step) override;
  void enqueue_positions(const int32_t* tokens, int64_t n_tokens, const Step& step) override;
  void enqueue_batch(const std::vector<Session*>& sessions, const int32_t* tokens, const Step& step) override;
  bool run_piece(Row* rows, int64_t n_rows, const Step& step) override;
  bool run_prompt(Row* rows, int64_t n_rows, const Step& step) override;
  int64_t prompt_rows() const override { return prefill_->piece_rows(); }
  bool fetch_result(bool wait, cf_result& result, std::string& sentence) override;
  void settle(bool wait) override;
  void check_changeable() override;
  void position_changed() override;
  void pages_shared() override;
  void sampler_changed() override;
  std::unique_ptr<Graph> capture_steps(int64_t n_steps) override;
  uint64_t workspace_bytes() const override { return layout_.end; }
  int32_t cluster_size() const override { return shape_.cluster_size; }
  void* stream() const override { return stream_; }

 private:
  class CapturedSteps;

  void prepare_prefill();
  // What all launches of the session's model and memory have in common.
  gpu::DecodeParams params() const;
  // The sequence's own next steps.
  gpu::DecodeParams sequence_params(int64_t n_steps) const;
  // Enqueues them, in launches; how many will tell of their end. new_call: a stop token of an earlier call does not count.
  uint32_t launch_steps(int64_t n_steps, int32_t first_token, bool new_call, cudaStream_t stream) const;
  // Pages for up to n_steps more; fewer are left where there is no room for all, 0 where the session has failed for want of it.
  int64_t open_steps(int64_t n_steps);
  // A step by way of HostSession, whose outputs may have to go to device memory.
  template <class Run>
  void by_host(const Step& step, int64_t n_rows, Run run);
  void capture_here(int64_t n_steps, int32_t first_token, const Step& step);  // into the caller's capture of the session's stream
  bool own_pages_ahead();                                                     // false: the pool has no room for copies of shared ones
  void enqueue_rows(Row* rows, int64_t n_rows, const Step& step);             // one launch, of rows that may be of several sessions
  void fetch_logits(int64_t first, int64_t n);                                // of rows of a launch, from logits_at(first) on
  void give_logits(const Row& row, int64_t i, const Step& step);              // those of row i of a launch to the caller's device memory
  bool run_rows(Row* rows, int64_t n_rows, const Step& step);                 // run_piece, in this session's memory
  void wait_for_rows();
  void finish_row_of_launch(Row& row, int64_t i, const Step& step);  // once its result, and its logits if it reads_logits, are there
  bool busy();                                                       // work is on its way
  void wait();
  void take_in();  // what enqueued steps have come to
  gpu::DecodeRow row_of(const Row& row) const;
  void upload_pages(cudaStream_t stream);
  void upload(uint64_t offset, const void* data, size_t bytes, cudaStream_t stream);
  float* logits_at(int64_t row) const { return reinterpret_cast<float*>(at(layout_.logits)) + row * model_->config().vocab_size; }
  std::byte* at(uint64_t offset) const { return memory_.as<std::byte>() + offset; }
  void check(cudaError_t error, const char* doing) const;

  const CudaDevice device_;
  DecodeShape shape_;                       // as the constructor leaves it
  const DecodeLayout layout_;               // has room for the launches of any clusters
  std::unique_ptr<const Prefill> prefill_;  // for the weights of the last prompt
  const std::shared_ptr<PrefillMemory> prefill_memory_;
  Buffer memory_;
  std::vector<int32_t> pages_there_;  // on the device
  cudaStream_t stream_ = nullptr;
  bool own_stream_ = false;
  bool ahead_ = false;       // steps were enqueued that were not taken in
  bool driven_ = false;      // the caller has captured steps, and may have replayed them
  int64_t steps_ahead_ = 0;  // at most
  uint32_t launches_ = 0;    // that tell of their end, ever
  int64_t steps_seen_ = 0;   // of SequenceLog::n_steps
};

}  // namespace cf
