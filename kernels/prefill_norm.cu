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

// The octets of a row that a thread takes: i kRowThreads further each. The first kHeld stay in registers.
constexpr int kHeld = 6;

// Calls visit(octet, its values) for this thread's octets of its row.
template <class Visit>
__device__ void each_octet(const float* row, int octets, const float (&held)[kHeld][8], Visit visit) {
  const int first = static_cast<int>(threadIdx.x) / kGroupRows;
#pragma unroll
  for (int i = 0; i < kHeld; i++)
    if (first + i * kRowThreads < octets) visit(first + i * kRowThreads, held[i]);
#pragma unroll 1
  for (int octet = first + kHeld * kRowThreads; octet < octets; octet += kRowThreads) {
    float v[8];
#pragma unroll
    for (int e = 0; e < 8; e++) v[e] = row[octet * 64 + e * kGroupRows];
    visit(octet, v);
  }
}

__device__ float sum_of(const float (&v)[8]) { return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])); }

__global__ void __launch_bounds__(kNormThreads) norm(const __grid_constant__ NormParams p) {
  __shared__ float sums[kWarps][kGroupRows];
  const int group = static_cast<int>(blockIdx.x), in_group = static_cast<int>(threadIdx.x) % kGroupRows;
  const int first = static_cast<int>(threadIdx.x) / kGroupRows, octets = p.hidden_size / 8;
  const int row = p.first_row + min(group * kGroupRows + in_group, p.n_rows - 1);  // beyond the last: the last again
  const float* const x = p.hidden + block_offset(row / kGroupRows, 0, octets) + row % kGroupRows;
  const float count = static_cast<float>(p.hidden_size);
  float held[kHeld][8];
#pragma unroll
  for (int i = 0; i < kHeld; i++)
#pragma unroll
    for (int e = 0; e < 8; e++) held[i][e] = first + i * kRowThreads < octets ? x[(first + i * kRowThreads) * 64 + e * kGroupRows] : 0.0f;
  float mean = 0, sum = 0;
  if (p.norm == CF_NORM_LAYER) {
    each_octet(x, octets, held, [&](int, const float(&v)[8]) { sum += sum_of(v); });
    mean = row_sum(sum, sums) / count;
  }
  sum = 0;
  each_octet(x, octets, held, [&](int, const float(&v)[8]) {
    float squares[8];
#pragma unroll
    for (int e = 0; e < 8; e++) squares[e] = (v[e] - mean) * (v[e] - mean);
    sum += sum_of(squares);
  });
  const float scale = 1.0f / sqrtf(row_sum(sum, sums) / count + p.eps);
  for (int output = 0; output < p.n_outputs; output++) {
    const float *const weight = p.weight[output], *const bias = p.bias[output];
    each_octet(x, octets, held, [&](int octet, const float(&v)[8]) {
      float out[8];
#pragma unroll
      for (int e = 0; e < 8; e += 4) {
        const float4 w = load_four(weight, CF_DTYPE_F32, octet * 8 + e, p.hidden_size);
        const float4 b = bias ? load_four(bias, CF_DTYPE_F32, octet * 8 + e, p.hidden_size) : float4{0, 0, 0, 0};
        out[e] = (v[e] - mean) * scale * w.x + b.x, out[e + 1] = (v[e + 1] - mean) * scale * w.y + b.y;
        out[e + 2] = (v[e + 2] - mean) * scale * w.z + b.z, out[e + 3] = (v[e + 3] - mean) * scale * w.w + b.w;
      }
      *reinterpret_cast<uint4*>(p.panels[output] + panel_offset(group, octet, p.groups) + in_group * 16) = pack_eight(p.dtype, out);
    });
  }
}

}  // namespace

const void* prefill_norm_kernel() { return reinterpret_cast<const void*>(norm); }

}  // namespace cf::gpu
