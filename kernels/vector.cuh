// A vector of activations in shared memory, its reductions over the CTA, and its normalisation.
#pragma once

#include "contract.h"
#include "numbers.cuh"

namespace cf::gpu {

// Chunk c, elements 8 c to 8 c + 7, is lo[c] and hi[c]: lanes that read neighbouring chunks meet no bank twice.
struct SharedVector {
  float4 *lo, *hi;
  int fours;  // of elements, up to the end of the last chunk

  __device__ SharedVector(void* memory, int elements) {
    const int chunks = static_cast<int>(chunks_of(elements));
    lo = static_cast<float4*>(memory), hi = lo + chunks, fours = 2 * chunks;
  }
  __device__ float4& four(int i) const { return (i & 1 ? hi : lo)[i >> 1]; }  // elements 4 i to 4 i + 3
};

// Elements k to k + 3 = value(k), for k = 0, 4, ... up to the end of the last chunk. Each thread writes the elements that it also
// writes in normalize.
template <class Value>
__device__ void fill(const SharedVector& x, Value value) {
#pragma unroll 4
  for (int i = threadIdx.x; i < x.fours; i += kBlockThreads) x.four(i) = value(4 * i);
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

// The sum over all threads of the CTA, in an order that never changes; the same bits in every thread.
__device__ inline float cta_sum(float value, BlockShared& shared) {
  value = warp_sum(value);
  if (threadIdx.x % kWarpLanes == 0) shared.warp_sums[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kBlockWarps; warp++) sum += shared.warp_sums[warp];
  __syncthreads();  // before the next call overwrites warp_sums
  return sum;
}

// LayerNorm or RMSNorm of x, in place. x was filled by fill(), with zeros beyond hidden_size, and so it stays; the caller synchronises
// before others read it.
__device__ inline void normalize(const SharedVector& x, const BlockShape& shape, const float* weight, const float* bias, BlockShared& shared) {
  const int n = shape.hidden_size;
  const float count = static_cast<float>(n);
  float mean = 0;
  if (shape.norm == CF_NORM_LAYER) {
    float sum = 0;
    for (int i = threadIdx.x; i < x.fours; i += kBlockThreads) {
      const float4 v = x.four(i);
      sum += (v.x + v.y) + (v.z + v.w);
    }
    mean = cta_sum(sum, shared) / count;
  }
  float squares = 0;  // around the mean: two passes, since E[x^2] - E[x]^2 cancels
  for (int i = threadIdx.x; i < x.fours; i += kBlockThreads) {
    const float4 v = x.four(i);
    const auto square = [&](float value, int k) { return k < n ? (value - mean) * (value - mean) : 0.0f; };
    squares += (square(v.x, 4 * i) + square(v.y, 4 * i + 1)) + (square(v.z, 4 * i + 2) + square(v.w, 4 * i + 3));
  }
  const float scale = 1.0f / sqrtf(cta_sum(squares, shared) / count + shape.norm_eps);
  for (int i = threadIdx.x; i < x.fours; i += kBlockThreads) {
    const float4 v = x.four(i), w = load_four(weight, CF_DTYPE_F32, 4 * i, n);
    const float4 b = bias ? load_four(bias, CF_DTYPE_F32, 4 * i, n) : float4{0, 0, 0, 0};
    x.four(i) = {(v.x - mean) * scale * w.x + b.x, (v.y - mean) * scale * w.y + b.y, (v.z - mean) * scale * w.z + b.z,
                 (v.w - mean) * scale * w.w + b.w};
  }
}

}  // namespace cf::gpu
