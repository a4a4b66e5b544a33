// Products of prefill, by warpgroups where the hardware has them.
#include "prefill_product_group.cuh"
#include "prefill_product_warp.cuh"

namespace cf::gpu {
namespace {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr int kThreads = kGroupThreads, kCtas = kGroupCtas;
#else
constexpr int kThreads = kWarpThreads, kCtas = 1;
#endif

template <class Weight>
__global__ void __launch_bounds__(kThreads, kCtas) product(const __grid_constant__ ProductParams p) {
  extern __shared__ __align__(128) char memory[];
  multiply_all<Weight>(p, memory);
}

}  // namespace

const void* prefill_product_kernel(cf_dtype weight_dtype) {
  return weight_dtype == CF_DTYPE_F16 ? reinterpret_cast<const void*>(product<F16>) : reinterpret_cast<const void*>(product<Bf16>);
}

}  // namespace cf::gpu
