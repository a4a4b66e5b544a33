// Weights on their way into a model: dtype conversion and padding of rows.
#include "numbers.cuh"

namespace cf::gpu {
namespace {

__global__ void __launch_bounds__(kConvertThreads) convert(const __grid_constant__ ConvertParams p) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kConvertThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kConvertThreads + threadIdx.x; i < p.rows * p.destination_stride; i += threads) {
    const int64_t row = i / p.destination_stride, col = i % p.destination_stride;
    const float value = col < p.cols ? load_element(p.source, p.source_dtype, row * p.cols + col) : 0.0f;
    store_element(p.destination, p.dtype, i, value);
    if (p.dtype == CF_DTYPE_F16 && isfinite(value) && fabsf(value) >= 65520.0f) *p.overflowed = 1;  // 65504 is F16's largest
  }
}

}  // namespace

const void* convert_kernel() { return reinterpret_cast<const void*>(convert); }

}  // namespace cf::gpu
