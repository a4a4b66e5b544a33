// The decode kernels of head_dim 96.
#include "decode.cuh"

namespace cf::gpu {

const void* decode_kernel_96(cf_dtype weight_dtype, int rows) { return decode_kernel_of<96>(weight_dtype, rows); }

}  // namespace cf::gpu
