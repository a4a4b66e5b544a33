// norm -> MLP-up (and gate) -> activation. With a sequential residual it reads what phase_o wrote.
#pragma once

#include "matvec.cuh"

namespace cf::gpu {

__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ inline float gelu_tanh(float x) { return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x))); }
__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

__device__ inline void phase_up(const BlockParams& p, BlockShared& shared, void* memory) {
  const SharedVector x(memory, p.shape.hidden_size);
  fill(x, [&](int k) {
    const float4 hidden = load_four(p.io.hidden, p.io.dtype, k, p.shape.hidden_size);
    if (p.shape.parallel_residual) return hidden;
    const float4 attention = load_four(p.work.attention, CF_DTYPE_F32, k, p.shape.hidden_size);
    return float4{hidden.x + attention.x, hidden.y + attention.y, hidden.z + attention.z, hidden.w + attention.w};
  });
  normalize(x, p.shape, p.weights.mlp_norm_weight, p.weights.mlp_norm_bias, shared);
  __syncthreads();
  const float* bias = p.weights.up_bias;
  const int n = p.shape.intermediate_size;
  auto keep = [&](int i, float value) {
    p.work.activation[i] = value;
    if (p.io.mlp_activation) store_element(p.io.mlp_activation, p.io.dtype, i, value);
  };
  if (p.shape.activation == CF_ACTIVATION_SWIGLU) {
    multiply<2>(p.weights.up, n, x, shared,
                [&](int i, const float* sums) { keep(i, silu(sums[0] + (bias ? bias[i] : 0.0f)) * (sums[1] + (bias ? bias[n + i] : 0.0f))); });
  } else {
    const bool exact = p.shape.activation == CF_ACTIVATION_GELU;
    multiply<1>(p.weights.up, n, x, shared, [&](int i, const float* sums) {
      const float value = sums[0] + (bias ? bias[i] : 0.0f);
      keep(i, exact ? gelu(value) : gelu_tanh(value));
    });
  }
}

}  // namespace cf::gpu
