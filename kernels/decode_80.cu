// The decode kernels of head_dim 80.
#include "decode.cuh"

namespace cf::gpu {

const void* decode_kernel_80(int rows) { return decode_kernel_of<80>(rows); }

}  // namespace cf::gpu
