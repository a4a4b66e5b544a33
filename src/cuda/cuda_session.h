// Sessions of the CUDA backend. The device takes steps by itself while the likeliest token is wanted and nothing else; otherwise the
// host looks at the logits after each.
#pragma once

#include "cuda/decode.h"
#include "host_session.h"

namespace cf {

class CudaSession : public HostSession {
 public:
  CudaSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, const CudaDevice& device);
  ~CudaSession() override;
  static uint64_t workspace_bytes(const cf_model_config& config, int64_t capacity_tokens, const CudaDevice& device);

 protected:
  bool run_piece(Row* rows, int64_t n_rows, const Step& step) override;
  int64_t run_ahead(int64_t position, int32_t token, int64_t n, int32_t* sampled) override;
  bool can_run_ahead() const override { return true; }
  uint64_t workspace_bytes() const override { return layout_.end; }

 private:
  // Enqueues one launch on stream_: n_steps steps of n_rows rows, which may be of several sessions. sample: the likeliest token is fed to
  // the next step. Rows that need logits leave them at logits_at(place among `rows`).
  void launch(Row* rows, int64_t n_rows, int64_t n_steps, bool sample);
  bool run_rows(Row* rows, int64_t n_rows, const Step& step);  // run_piece, in this session's memory
  gpu::DecodeState wait();                                     // for all launches; what the last one left
  gpu::DecodeRow row_of(const Row& row);
  float* logits_at(int64_t row) const { return reinterpret_cast<float*>(at(layout_.logits)) + row * model_->config().vocab_size; }
  std::byte* at(uint64_t offset) const { return memory_.as<std::byte>() + offset; }
  // Makes device memory at `offset` the same as `now`, of which `before` is there.
  template <class T>
  void update(uint64_t offset, std::vector<T>& before, const std::vector<T>& now, cudaStream_t stream);
  void check(cudaError_t error, const char* doing) const;

  const CudaDevice device_;
  const DecodeShape shape_;
  const DecodeLayout layout_;
  Buffer memory_;
  std::vector<float> logits_;              // [max_rows, V]
  std::vector<const char*> layers_there_;  // on the device
  std::vector<int32_t> pages_there_;
  cudaStream_t stream_ = nullptr;
  bool own_stream_ = false;
};

}  // namespace cf
