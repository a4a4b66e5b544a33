// The decode kernels of head_dim 32.
#include "decode.cuh"

namespace cf::gpu {

const void* decode_kernel_32(int rows) { return decode_kernel_of<32>(rows); }

}  // namespace cf::gpu
