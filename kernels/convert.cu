// Weights on their way into a model: dtype conversion and packing.
#include "numbers.cuh"

namespace cf::gpu {
namespace {

__global__ void __launch_bounds__(kConvertThreads) convert(const __grid_constant__ ConvertParams p) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kConvertThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kConvertThreads + threadIdx.x; i < p.rows * p.cols; i += threads) {
    const int64_t row = p.first_row + i / p.cols, col = i % p.cols;
    const float value = load_element(p.source, p.source_dtype, i);
    const int64_t place = p.placing == Placing::kDense    ? row * p.cols + col
                          : p.placing == Placing::kPacked ? packed_offset(row, col, p.tiles)
                                                          : norm_offset(row, p.placing == Placing::kNormBias);
    store_element(p.destination, p.dtype, place, value);
    if (p.dtype == CF_DTYPE_F16 && isfinite(value) && fabsf(value) >= 65520.0f) *p.overflowed = 1;  // 65504 is F16's largest
  }
}

}  // namespace

const void* convert_kernel() { return reinterpret_cast<const void*>(convert); }

}  // namespace cf::gpu
