// The decode kernels of head_dim 64.
#include "decode.cuh"

namespace cf::gpu {

const void* decode_kernel_64(int rows) { return decode_kernel_of<64>(rows); }

}  // namespace cf::gpu
