// norm -> Q, K and V of this position, with biases, before RoPE.
#pragma once

#include "matvec.cuh"

namespace cf::gpu {

__device__ inline void phase_qkv(const BlockParams& p, int head_dim, BlockShared& shared, void* memory) {
  const SharedVector x(memory, p.shape.hidden_size);
  fill(x, [&](int k) { return load_four(p.io.hidden, p.io.dtype, k, p.shape.hidden_size); });
  normalize(x, p.shape, p.weights.attention_norm_weight, p.weights.attention_norm_bias, shared);
  __syncthreads();
  const float* bias = p.weights.qkv_bias;
  multiply<1>(p.weights.qkv, (p.shape.n_heads + 2 * p.shape.n_kv_heads) * head_dim, x, shared,
              [&](int row, const float* sums) { p.work.qkv[row] = sums[0] + (bias ? bias[row] : 0.0f); });
}

}  // namespace cf::gpu
