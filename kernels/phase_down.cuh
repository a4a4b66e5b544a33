// MLP-down and its bias, and both residuals. Each row is finished by the CTA that finished the same row in phase_o, so the two may
// stand in one stage.
#pragma once

#include "matvec.cuh"

namespace cf::gpu {

__device__ inline void phase_down(const BlockParams& p, BlockShared& shared, void* memory) {
  const int n = p.shape.intermediate_size;
  const bool from_caller = p.down_from_caller;
  const SharedVector x(memory, n);
  fill(x, [&](int k) { return from_caller ? load_four(p.io.mlp_activation, p.io.dtype, k, n) : load_four(p.work.activation, CF_DTYPE_F32, k, n); });
  __syncthreads();
  const float* bias = p.weights.down_bias;
  multiply<1>(p.weights.down, p.shape.hidden_size, x, shared, [&](int row, const float* sums) {
    const float attention = from_caller ? load_element(p.io.attention_output, p.io.dtype, row) : p.work.attention[row];
    const float residual = load_element(p.io.hidden, p.io.dtype, row) + attention;
    store_element(p.io.output, p.io.dtype, row, residual + (sums[0] + (bias ? bias[row] : 0.0f)));
  });
}

}  // namespace cf::gpu
