// The number formats of weights, keys, values and activations, and how they become fp32 and back (to nearest, ties to even).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "contract.h"

namespace cf::gpu {

struct F16 {
  static __device__ float2 unpack(uint32_t pair) { return __half22float2(*reinterpret_cast<const __half2*>(&pair)); }
  static __device__ float widen(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
  static __device__ uint16_t round(float value) { return __half_as_ushort(__float2half_rn(value)); }
};

struct Bf16 {
  static __device__ float2 unpack(uint32_t pair) { return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)}; }
  static __device__ float widen(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
  static __device__ uint16_t round(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
};

// Element i of an array whose dtype is known at run time only. Plain loads: the array may have been written earlier in the kernel.
__device__ inline float load_element(const void* array, cf_dtype dtype, int64_t i) {
  if (dtype == CF_DTYPE_F32) return static_cast<const float*>(array)[i];
  const uint16_t bits = static_cast<const uint16_t*>(array)[i];
  return dtype == CF_DTYPE_F16 ? F16::widen(bits) : Bf16::widen(bits);
}
// Elements k .. k + 3, 0 from n on. k is a multiple of 4, the array is aligned to 16 bytes.
__device__ inline float4 load_four(const void* array, cf_dtype dtype, int k, int n) {
  if (k + 4 > n) {
    const auto element = [&](int i) { return i < n ? load_element(array, dtype, i) : 0.0f; };
    return {element(k), element(k + 1), element(k + 2), element(k + 3)};
  }
  if (dtype == CF_DTYPE_F32) return static_cast<const float4*>(array)[k / 4];
  const uint2 pairs = static_cast<const uint2*>(array)[k / 4];
  const bool f16 = dtype == CF_DTYPE_F16;
  const float2 low = f16 ? F16::unpack(pairs.x) : Bf16::unpack(pairs.x), high = f16 ? F16::unpack(pairs.y) : Bf16::unpack(pairs.y);
  return {low.x, low.y, high.x, high.y};
}

__device__ inline void store_element(void* array, cf_dtype dtype, int64_t i, float value) {
  if (dtype == CF_DTYPE_F32) static_cast<float*>(array)[i] = value;
  else static_cast<uint16_t*>(array)[i] = dtype == CF_DTYPE_F16 ? F16::round(value) : Bf16::round(value);
}

}  // namespace cf::gpu
