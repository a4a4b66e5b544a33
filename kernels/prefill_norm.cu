// LayerNorm or RMSNorm of rows of the residual stream, into panels. A CTA takes a group of 8 rows, kNormThreads / 8 threads each: those of a
// row lie 8 apart, so that the 8x8 matrices of a panel are written as whole lines. Sums run in an order that hidden_size alone decides.
#include "prefill_rows.cuh"

namespace cf::gpu {
namespace {

constexpr int kWarps = kNormThreads / kWarpLanes;
constexpr int kRowThreads = kNormThreads / kGroupRows;

// Over the threads of this thread's row.
__device__ float row_sum(float value, float (&sums)[kWarps][kGroupRows]) {
  const int row = static_cast<int>(threadIdx.x) % kGroupRows, warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  value += __shfl_xor_sync(0xffffffffu, value, 8);
  value += __shfl_xor_sync(0xffffffffu, value, 16);
  __syncthreads();  // the last sums were read
  if (static_cast<int>(threadIdx.x) % kWarpLanes < kGroupRows) sums[warp][row] = value;
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kWarps; i++) sum += sums[i][row];
  return sum;
}

__device__ float sum_of(float4 a, float4 b) { return ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w)); }
__device__ float4 less(float4 a, float mean) { return {a.x - mean, a.y - mean, a.z - mean, a.w - mean}; }
__device__ float4 squares(float4 a) { return {a.x * a.x, a.y * a.y, a.z * a.z, a.w * a.w}; }

__global__ void __launch_bounds__(kNormThreads) norm(const __grid_constant__ NormParams p) {
  __shared__ float sums[kWarps][kGroupRows];
  const int group = static_cast<int>(blockIdx.x), in_group = static_cast<int>(threadIdx.x) % kGroupRows;
  const int first = static_cast<int>(threadIdx.x) / kGroupRows, octets = p.hidden_size / 8;
  const int row = min(group * kGroupRows + in_group, p.n_rows - 1);  // beyond the last: the last again
  const float4* const x = reinterpret_cast<const float4*>(p.hidden + static_cast<int64_t>(row) * p.hidden_size);
  const float count = static_cast<float>(p.hidden_size);
  float mean = 0, sum = 0;
  if (p.norm == CF_NORM_LAYER) {
#pragma unroll 4
    for (int i = first; i < octets; i += kRowThreads) sum += sum_of(x[2 * i], x[2 * i + 1]);
    mean = row_sum(sum, sums) / count;
  }
  sum = 0;
#pragma unroll 4
  for (int i = first; i < octets; i += kRowThreads) sum += sum_of(squares(less(x[2 * i], mean)), squares(less(x[2 * i + 1], mean)));
  const float scale = 1.0f / sqrtf(row_sum(sum, sums) / count + p.eps);
#pragma unroll 2
  for (int i = first; i < octets; i += kRowThreads) {
    const float4 a = less(x[2 * i], mean), b = less(x[2 * i + 1], mean);
    const float v[8] = {a.x * scale, a.y * scale, a.z * scale, a.w * scale, b.x * scale, b.y * scale, b.z * scale, b.w * scale};
#pragma unroll
    for (int output = 0; output < 2; output++) {
      if (output >= p.n_outputs) break;
      float out[8];
#pragma unroll
      for (int e = 0; e < 8; e++) out[e] = v[e] * p.weight[output][8 * i + e] + (p.bias[output] ? p.bias[output][8 * i + e] : 0.0f);
      *reinterpret_cast<uint4*>(p.panels[output] + panel_offset(group, i, p.groups) + in_group * 16) = pack_eight(p.dtype, out);
    }
  }
}

}  // namespace

const void* prefill_norm_kernel() { return reinterpret_cast<const void*>(norm); }

}  // namespace cf::gpu
