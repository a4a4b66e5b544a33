// Delays before and after meetings, in a build that is to show that none is needed (CF_CUDA_DELAYS); otherwise nothing.
#pragma once

#include "contract.h"

namespace cf::gpu {

// A call in 8 sleeps for up to 4 us, about as long as a phase takes; one in 2^15 for up to 130 us, longer than a layer. So in most meetings some
// warp is late, now and then by so much that others could be a layer ahead. Lanes that call together sleep together, and without a
// branch: what follows may be an instruction of the whole warp.
__device__ __noinline__ inline void sleep_at_random() {
  uint32_t x = static_cast<uint32_t>(clock64()) ^ (blockIdx.x * 32 + threadIdx.x / kWarpLanes) * 0x9E3779B9u;
  x = (x ^ x >> 16) * 0x7FEB352Du, x = (x ^ x >> 15) * 0x846CA68Bu, x ^= x >> 16;  // lowbias32 (Wellons)
  const uint32_t briefly = x % 8 == 0 ? x >> 8 & 2047 : 0;
  __nanosleep(x % (1u << 15) == 0 ? x >> 16 : briefly);
}
__device__ __forceinline__ void delay() {
  if (kDelays) sleep_at_random();
}

}  // namespace cf::gpu
