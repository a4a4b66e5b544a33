// The decode kernels of head_dim 256.
#include "decode.cuh"

namespace cf::gpu {

const void* decode_kernel_256(int rows) { return decode_kernel_of<256>(rows); }

}  // namespace cf::gpu
