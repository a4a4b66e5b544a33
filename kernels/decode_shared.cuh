// The shared memory of a decode step, and where the warps of a CTA meet. The memory begins at an address that the compiler knows, so that
// functions reach it without pointers: through a pointer every access would be a generic one, and its address a chain of dependent
// instructions.
#pragma once

#include "contract.h"
#include "ptx.cuh"

namespace cf::gpu {

extern __shared__ __align__(128) char decode_memory[];  // DecodeShared, the ring, activations, attention's scratch, its keys and values, near parts

__device__ __forceinline__ DecodeShared& shared() { return *reinterpret_cast<DecodeShared*>(decode_memory); }
__device__ __forceinline__ char* chunk_at(int slot) { return decode_memory + kDecodeSharedBytes + slot * kRingChunkBytes; }
__device__ __forceinline__ char* activations() { return chunk_at(shared().params.ring); }
__device__ __forceinline__ char* kv_memory() { return activations() + shared().params.activation_bytes + shared().params.scratch_bytes; }
__device__ __forceinline__ float* scratch_memory() { return reinterpret_cast<float*>(activations() + shared().params.activation_bytes); }

// Barriers 1 and 2: among the product warps, among the attention warps. 3: both, at the end of a step.
__device__ inline void products_sync() { ptx::sync_threads(1, kProducts); }
__device__ inline void attention_sync() { ptx::sync_threads(2, kAttentionThreads); }
__device__ inline void roles_sync() { ptx::sync_threads(3, kProducts + kAttentionThreads); }
__device__ inline int attention_warp() { return (static_cast<int>(threadIdx.x) - kProducts) / kWarpLanes; }
__device__ inline int attention_thread() { return static_cast<int>(threadIdx.x) - kProducts; }

}  // namespace cf::gpu
