// One transformer block, or part of one, as one persistent cooperative launch: stages of phases with a meeting between stages.
#include "contract.h"
#include "grid.cuh"
#include "phase_attention.cuh"
#include "phase_down.cuh"
#include "phase_o.cuh"
#include "phase_qkv.cuh"
#include "phase_up.cuh"

namespace cf::gpu {
namespace {

// Whether this launch has anything to do; the same answer in every CTA, since nothing that decides it changes before the first meeting
// except the status itself, from OK to the error that this launch ends with.
__device__ bool may_run(const BlockParams& p, BlockShared& shared) {
  if (threadIdx.x == 0) {
    uint32_t* const status = reinterpret_cast<uint32_t*>(p.status);
    const uint32_t failed = ptx::load_relaxed(&p.work.grid->failed), before = ptx::load_relaxed(status);
    const int32_t position = p.position ? *p.position : 0;
    cf_status error = CF_OK;
    if (failed) error = CF_ERROR_DEVICE_LOST;
    else if (position < 0) error = CF_ERROR_INVALID_ARGUMENT;
    else if (p.position && position >= p.kv.capacity_tokens) error = CF_ERROR_CACHE_FULL;
    if (before == CF_OK && error != CF_OK && blockIdx.x == 0) ptx::store_relaxed(status, static_cast<uint32_t>(error));
    shared.position = position;
    shared.go = before == CF_OK && error == CF_OK;
  }
  __syncthreads();
  return shared.go;
}

template <int D>
__device__ void run_stage(const BlockParams& p, uint32_t phases, BlockShared& shared, void* memory) {
  if (phases & kPhaseQkv) phase_qkv(p, D, shared, memory);
  if (phases & kPhaseUp) phase_up(p, shared, memory);
  if (phases & kPhaseAttention) {
    if (p.kv.dtype == CF_DTYPE_F16) phase_attention<D, F16>(p, shared.position, memory);
    else phase_attention<D, Bf16>(p, shared.position, memory);
  }
  if (phases & kPhaseO) phase_o<D>(p, shared, memory);
  if (phases & kPhaseDown) phase_down(p, shared, memory);
}

template <int D>
__global__ void __launch_bounds__(kBlockThreads, 1) block(const __grid_constant__ BlockParams p) {
  extern __shared__ float4 dynamic_shared[];
  auto& shared = *reinterpret_cast<BlockShared*>(dynamic_shared);
  void* const memory = &shared + 1;
  if (!may_run(p, shared)) return;
#pragma unroll 1
  for (int stage = 0; stage < p.n_stages; stage++) {
    if (stage > 0 && !grid_barrier(p, shared)) return;
    run_stage<D>(p, p.stages[stage], shared, memory);
  }
  // Nobody reads it any more: the others read it before the first meeting, and a launch of one stage does not read it.
  if (p.advance && blockIdx.x == 0 && threadIdx.x == 0) *p.advance += 1;
}

}  // namespace

const void* block_kernel(int32_t head_dim) {
  switch (head_dim) {
    case 32: return reinterpret_cast<const void*>(block<32>);
    case 64: return reinterpret_cast<const void*>(block<64>);
    case 80: return reinterpret_cast<const void*>(block<80>);
    case 96: return reinterpret_cast<const void*>(block<96>);
    case 128: return reinterpret_cast<const void*>(block<128>);
    case 256: return reinterpret_cast<const void*>(block<256>);
    default: return nullptr;
  }
}

}  // namespace cf::gpu
