// What the kernels of prefill share: pairs of 16-bit numbers and their products, places of keys and values.
#pragma once

#include <type_traits>

#include "numbers.cuh"
#include "prefill_contract.h"
#include "ptx.cuh"

namespace cf::gpu {

template <class Number>
__device__ uint32_t pack(float low, float high) {
  return static_cast<uint32_t>(Number::round(high)) << 16 | Number::round(low);
}
__device__ inline uint32_t pack(cf_dtype dtype, float low, float high) {
  return dtype == CF_DTYPE_F16 ? pack<F16>(low, high) : pack<Bf16>(low, high);
}
__device__ inline uint4 pack_eight(cf_dtype dtype, const float (&v)[8]) {
  return {pack(dtype, v[0], v[1]), pack(dtype, v[2], v[3]), pack(dtype, v[4], v[5]), pack(dtype, v[6], v[7])};
}

// d += a b on 16-bit numbers, as ptx.cuh says.
template <class Number>
__device__ void multiply(float (&d)[4], uint4 a, uint2 b) {
  if constexpr (std::is_same_v<Number, F16>) ptx::multiply_f16(d, a, b);
  else ptx::multiply_bf16(d, a, b);
}

// The vector of a position: kv 0 is its key, 1 its value.
__device__ inline char* vector_address(const PagedKv& kv, int layer, int kind, int kv_head, int n_kv_heads, int head_dim, int position) {
  const int number = position >> kv.page_shift, in_page = position & ((1 << kv.page_shift) - 1);
  const int64_t vector = (static_cast<int64_t>((layer * 2 + kind) * n_kv_heads + kv_head) << kv.page_shift) + in_page;
  return kv.pages + kv.page_table[number] * kv.page_bytes + vector * (2 * head_dim);
}

}  // namespace cf::gpu
