// The decode kernels of head_dim 128.
#include "decode.cuh"

namespace cf::gpu {

const void* decode_kernel_128(int rows) { return decode_kernel_of<128>(rows); }

}  // namespace cf::gpu
