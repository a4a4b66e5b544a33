// Taps (cf_tap) and outputs (cf_outputs) of CUDA sessions: what a step copies between its rows on the device and the caller's arrays.
#pragma once

#include <functional>
#include <vector>

#include "cuda/cuda_call.h"
#include "kernels/contract.h"
#include "session.h"

namespace cf {

// The taps of a step.
class CudaTaps {
 public:
  // staging: device memory for `staging_floats` floats, at least a row's.
  CudaTaps(Context& context, const std::vector<cf_tap>& taps, float* staging, int64_t staging_floats, cudaStream_t stream)
      : context_(context), taps_(taps), staging_(staging), staging_floats_(staging_floats), stream_(stream) {}
  bool empty() const { return taps_.empty(); }
  // Enqueues those of a place. rows: of the launches just enqueued, with the places of consecutive ones among the step's in `index`.
  void act(int32_t layer, cf_tap_point point, const gpu::TapParams& rows, const std::vector<int64_t>& index) const;

 private:
  Context& context_;
  const std::vector<cf_tap>& taps_;
  float* const staging_;
  const int64_t staging_floats_;
  const cudaStream_t stream_;
};

// The arrays in device memory that a step writes for the caller: logits go there on the device, the rest by way of the host.
class DeviceOutputs {
 public:
  DeviceOutputs(Context& context, const Step& step, int64_t n_rows);
  const Step& step() const { return step_; }  // with arrays on the host instead, but for device_logits
  void copy(cudaStream_t stream) const;       // once the step has ended; returns when done

 private:
  Context& context_;
  const cf_outputs to_;
  std::vector<int32_t> top_tokens_, row_tokens_;
  std::vector<cf_status> row_status_;
  std::vector<float> top_logprobs_, target_logprobs_;
  Step step_;
};

}  // namespace cf
