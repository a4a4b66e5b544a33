// RoPE, and where its results go: queries into matrices for attention, keys and values into their pages, rounded to the cache's dtype.
// A thread takes an octet of a head's vector; those of 8 rows lie side by side, so that queries are written as whole lines.
#include "prefill_rows.cuh"

namespace cf::gpu {
namespace {

// Elements 8 octet ... of a head's vector, turned. head: of the first element, with those of the next columns 8 floats apart.
__device__ void load_turned(const float* head, int octet, const float2* angles, int half, float (&v)[8]) {
#pragma unroll
  for (int e = 0; e < 8; e++) v[e] = head[(octet * 8 + e) * kGroupRows];
  if (octet * 8 >= 2 * half) return;
#pragma unroll
  for (int e = 0; e < 8; e++) {
    const int d = octet * 8 + e;
    if (d >= 2 * half) break;
    const float2 angle = angles[d < half ? d : d - half];
    const float partner = head[(d < half ? d + half : d - half) * kGroupRows];
    v[e] = v[e] * angle.x + (d < half ? -partner : partner) * angle.y;
  }
}

__global__ void __launch_bounds__(kAppendThreads) append(const __grid_constant__ AppendParams p) {
  const int octets = p.head_dim / 8, heads = p.n_heads + 2 * p.n_kv_heads;
  const int group = static_cast<int>(blockIdx.x), in_group = static_cast<int>(threadIdx.x) % kGroupRows, row = group * kGroupRows + in_group;
  const int number = static_cast<int>(blockIdx.y) * (kAppendThreads / kGroupRows) + static_cast<int>(threadIdx.x) / kGroupRows;
  const int head = number / octets, octet = number - head * octets;
  if (head >= heads) return;
  const bool wanted = row >= p.first_row && row < p.n_rows;
  const bool is_query = head < p.n_heads, is_value = head >= p.n_heads + p.n_kv_heads;
  float v[8] = {};
  if (wanted)
    load_turned(p.qkv + block_offset(group, head * octets, heads * octets) + in_group, octet, p.angles + static_cast<int64_t>(row) * p.half,
                is_value ? 0 : p.half, v);
  if (is_query) {
#pragma unroll
    for (int e = 0; e < 8; e++) v[e] *= p.scale;
    char* const to = p.queries + ((static_cast<int64_t>(head) * p.groups + group) * octets + octet) * kMatrixBytes + in_group * 16;
    *reinterpret_cast<uint4*>(to) = pack_eight(p.kv.dtype, v);
  } else if (wanted) {
    const int kv_head = head - p.n_heads - (is_value ? p.n_kv_heads : 0);
    char* const to = vector_address(p.kv, p.layer, is_value, kv_head, p.n_kv_heads, p.head_dim, p.base_position + row);
    reinterpret_cast<uint4*>(to)[octet] = pack_eight(p.kv.dtype, v);
  }
}

}  // namespace

const void* prefill_append_kernel() { return reinterpret_cast<const void*>(append); }

}  // namespace cf::gpu
