#include "half.h"

#include <cstring>

namespace cf {

void to_float(const void* src, cf_dtype dtype, int64_t count, float* dst) {
  if (dtype == CF_DTYPE_F32) {
    std::memcpy(dst, src, size_t(count) * sizeof *dst);
    return;
  }
  auto halves = static_cast<const uint16_t*>(src);
  for (int64_t i = 0; i < count; i++) dst[i] = dtype == CF_DTYPE_F16 ? float_from_f16(halves[i]) : float_from_bf16(halves[i]);
}

void from_float(const float* src, cf_dtype dtype, int64_t count, void* dst) {
  if (dtype == CF_DTYPE_F32) {
    std::memcpy(dst, src, size_t(count) * sizeof *src);
    return;
  }
  auto halves = static_cast<uint16_t*>(dst);
  for (int64_t i = 0; i < count; i++) halves[i] = dtype == CF_DTYPE_F16 ? f16_from_float(src[i]) : bf16_from_float(src[i]);
}

}  // namespace cf
