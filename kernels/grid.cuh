// Where the CTAs of a launch meet between stages. The launch must be cooperative: all of them run at once.
#pragma once

#include "contract.h"
#include "ptx.cuh"

namespace cf::gpu {

// One thread per CTA. CTA 0 adds what is missing to 2^31 once the n_ctas - 1 others have each added 1, so that bit 31 flips
// exactly when the last one arrives and the other bits are 0 again. False: time ran out here or elsewhere.
__device__ inline bool meet(GridState* grid, uint32_t n_ctas, uint64_t limit_ns) {
  constexpr uint32_t kFlip = 0x80000000u;
  const uint32_t before = ptx::add_release(&grid->arrivals, blockIdx.x == 0 ? kFlip - (n_ctas - 1) : 1u);
  const uint64_t start = ptx::wall_clock_ns();
  for (;;) {
    const uint32_t failed = ptx::load_relaxed(&grid->failed);  // asked for together with the counter: costs no second trip
    const uint32_t now = ptx::load_acquire(&grid->arrivals);
    if (failed) return false;
    if ((now ^ before) & kFlip) return true;
    if (ptx::wall_clock_ns() - start > limit_ns) {
      ptx::store_relaxed(&grid->failed, 1);
      return false;
    }
  }
}

// What any thread of any CTA wrote before is visible to all threads after. False: the launch has failed, leave.
__device__ inline bool grid_barrier(const BlockParams& p, BlockShared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.go = meet(p.work.grid, gridDim.x, p.wait_limit_ns);
    if (!shared.go) ptx::store_relaxed(reinterpret_cast<uint32_t*>(p.status), CF_ERROR_DEVICE_LOST);
  }
  __syncthreads();
  return shared.go;
}

}  // namespace cf::gpu
