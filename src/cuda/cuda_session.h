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
  static uint64_t workspace_bytes(const cf_model_config& config, int64_t capacity_tokens, int n_ctas);

 protected:
  bool run_piece(Row* rows, int64_t n_rows, const Step& step) override;
  int64_t run_ahead(int64_t position, int32_t token, int64_t n, int32_t* sampled) override;
  bool can_run_ahead() const override { return true; }
  uint64_t workspace_bytes() const override { return workspace_bytes(model_->config(), capacity_, device_.multiprocessors); }

 private:
  // What the host wants of the last position of a launch.
  enum class Wanted { kNothing, kToken, kLogits };
  // n_known tokens from `position` on go through the model, then those that it samples, until `end`. kToken: the one after the last is
  // sampled, too; kLogits: the last position's logits come to logits_. What the device's state says then.
  gpu::DecodeState run(int64_t position, const int32_t* known, int64_t n_known, int64_t end, Wanted wanted);
  void check(cudaError_t error, const char* doing) const;

  const CudaDevice device_;
  const DecodeShape shape_;
  const DecodeLayout layout_;
  Buffer memory_;
  std::vector<float> logits_;
  cudaStream_t stream_ = nullptr;
  bool own_stream_ = false;
  uint32_t epoch_ = 0;
};

}  // namespace cf
