// The decode kernels of head_dim 96.
#include "decode.cuh"

namespace cf::gpu {

const void* decode_kernel_96(int rows) { return decode_kernel_of<96>(rows); }

}  // namespace cf::gpu
