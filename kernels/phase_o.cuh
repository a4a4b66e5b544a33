// Combines the pieces of attention -> O and its bias: the attention branch of the block, without the residual.
#pragma once

#include "matvec.cuh"
#include "phase_attention.cuh"

namespace cf::gpu {

// Elements d to d + 3 of a head's attention output, from the partial results of its pieces.
template <int D>
__device__ float4 combined(const float* partials, int splits, int d) {
  constexpr int kStride = D + kPartialTail;
  float max = -INFINITY, denominator = 0;
  float4 sum = {0, 0, 0, 0};
  for (int split = 0; split < splits; split++) max = fmaxf(max, partials[split * kStride + D]);
  for (int split = 0; split < splits; split++) {
    const float* partial = partials + split * kStride;
    const float weight = weight_of(partial[D], max);
    const float4 value = *reinterpret_cast<const float4*>(partial + d);
    sum.x += value.x * weight, sum.y += value.y * weight, sum.z += value.z * weight, sum.w += value.w * weight;
    denominator += partial[D + 1] * weight;
  }
  return {sum.x / denominator, sum.y / denominator, sum.z / denominator, sum.w / denominator};
}

template <int D>
__device__ void phase_o(const BlockParams& p, BlockShared& shared, void* memory) {
  const int n = p.shape.n_heads * D, splits = p.shape.kv_splits;
  const SharedVector x(memory, n);
  fill(x, [&](int k) { return combined<D>(p.work.partials + static_cast<int64_t>(k / D) * splits * (D + kPartialTail), splits, k % D); });
  __syncthreads();
  const float* bias = p.weights.o_bias;
  multiply<1>(p.weights.o, p.shape.hidden_size, x, shared, [&](int row, const float* sums) {
    const float value = sums[0] + (bias ? bias[row] : 0.0f);
    p.work.attention[row] = value;
    if (p.io.attention_output) store_element(p.io.attention_output, p.io.dtype, row, value);
  });
}

}  // namespace cf::gpu
