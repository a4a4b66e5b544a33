// What stands between MLP-up and MLP-down.
#pragma once

namespace cf::gpu {

__device__ inline float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f)); }
__device__ inline float gelu_tanh(float x) { return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x))); }
__device__ inline float silu(float x) { return x / (1.0f + expf(-x)); }

}  // namespace cf::gpu
