// When what happens in a step, in a build that is to show where its time goes (CF_CUDA_TRACE, tests/bench/trace.py); otherwise nothing.
#pragma once

#include "decode_shared.cuh"

namespace cf::gpu {

// One thread of each role says so; what remains is of the last step.
__device__ __forceinline__ void trace([[maybe_unused]] TraceEvent event, [[maybe_unused]] int layer, [[maybe_unused]] int job) {
#ifdef CF_CUDA_TRACE
  uint64_t* const to = shared().params.trace;
  const int cta = static_cast<int>(blockIdx.x);
  if (to && cta < kTraceCtas && layer < kTraceLayers)
    to[((cta * kTraceLayers + layer) * kJobKinds + job) * kTraceEvents + event] = ptx::wall_clock_ns();
#endif
}

}  // namespace cf::gpu
