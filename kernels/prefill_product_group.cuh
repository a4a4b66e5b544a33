// Products by warpgroups, on sm_90a: one thread has steps copied into a ring, two warpgroups multiply: one the upper halves of a tile's
// strips, one the lower halves. A step is two copies, of the strips and of the rows: the copy engine takes its time for each. A stage's `full`
// completes when the bytes are there; at its `empty` the multiplying warps arrive when they are done with it.
#pragma once

#include "prefill_product.cuh"

namespace cf::gpu {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

struct GroupShared {
  uint64_t full[kMaxGroupStages], empty[kMaxGroupStages];
};
constexpr int kMultiplyingWarps = 8;
constexpr int kTileStride = kTileBytes >> 4, kColumnStride = 2 * kMatrixBytes >> 4;  // of operands, from 16 columns to the next

template <class Weight>
struct GroupProduct {
  const ProductParams& p;
  GroupShared& barriers;
  char* const ring;
  const int stage_bytes = step_bytes(p.tile_rows);
  int stage = 0;
  uint32_t parity = 0;

  __device__ char* weights() const { return ring + stage * stage_bytes; }
  __device__ char* activations() const { return weights() + kStepWeightBytes; }
  __device__ void advance() {
    if (++stage == p.stages) stage = 0, parity ^= 1;
  }
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }

  // ---- The thread that copies

  __device__ void copy_tile(const ProductTile& tile) {
    const uint32_t row_bytes = static_cast<uint32_t>(p.tile_rows * kPanelColumns * 2);
    ProductStep step;
#pragma unroll 1
    for (int left = ProductStep::count(p); left > 0; left--, step.next(p), advance()) {
      while (!ptx::barrier_passed(&barriers.empty[stage], parity ^ 1)) {}
      ptx::barrier_expect(&barriers.full[stage], kStepWeightBytes + row_bytes);  // what lies outside the matrix counts, too
      ptx::tensor_copy(weights(), &p.maps[step.factor], 0, step.panel * kStepTiles, 0, tile.first_strip(p), &barriers.full[stage]);
      ptx::bulk_copy(activations(), step.activations(p, tile.first_row(p)), row_bytes, &barriers.full[stage]);
    }
  }

  // ---- The warpgroups that multiply

  template <int N>
  static __device__ __forceinline__ void multiply(float (&sums)[64], uint64_t a, uint64_t b, int add) {
    if constexpr (std::is_same_v<Weight, F16>) ptx::multiply_group_f16<N>(sums, a, b, add);
    else ptx::multiply_group_bf16<N>(sums, a, b, add);
  }
  __device__ void wait() {
    while (!ptx::barrier_passed(&barriers.full[stage], parity)) {}
  }
  __device__ void release(int done) {
    if (lane() == 0) ptx::barrier_arrive(&barriers.empty[done]);
  }
  __device__ uint64_t weight_operand(int half) const {
    return ptx::operand(weights() + half * kMatrixBytes, kStepTiles * kTileBytes, 2 * kMatrixBytes);
  }
  __device__ uint64_t row_operand() const { return ptx::operand(activations(), kGroupBytes, kMatrixBytes); }

  // The sums of this warpgroup's half of a tile of N rows. A step's products run while the next step is waited for.
  template <int N>
  __device__ __forceinline__ void multiply_tile(float (&sums)[64], int half) {
    int add = 0;
#pragma unroll 1
    for (int factor = 0; factor < p.n_factors; factor++) {
      const int tiles = p.factors[factor].tiles;
      int before = -1;
#pragma unroll 1
      for (int left = tiles / kStepTiles; left > 0; left--) {
        wait();
        const uint64_t a = weight_operand(half), b = row_operand();
        ptx::begin_products();
#pragma unroll
        for (int i = 0; i < kStepTiles; i++) multiply<N>(sums, a + i * kTileStride, b + i * kColumnStride, add), add = 1;
        ptx::commit_products();
        ptx::wait_products<1>();
        if (before >= 0) release(before);
        before = stage;
        advance();
      }
      ptx::wait_products<0>();
      if (before >= 0) release(before);
      if (tiles % kStepTiles == 0) continue;
      wait();
      const uint64_t a = weight_operand(half), b = row_operand();
#pragma unroll 1
      for (int i = 0; i < tiles % kStepTiles; i++) {
        ptx::begin_products();
        multiply<N>(sums, a + i * kTileStride, b + i * kColumnStride, add), add = 1;
        ptx::commit_products();
        ptx::wait_products<0>();
      }
      release(stage);
      advance();
    }
  }

  __device__ __forceinline__ void finish_tile(const float (&sums)[64], const ProductTile& tile, int pair, int half) const {
    constexpr int kGroups = kMaxTileRows / kGroupRows;
    const ProductOutput<Weight> output(p, tile, pair, half);
    const int first = tile.rows * p.tile_rows / kGroupRows, groups = min(p.tile_rows / kGroupRows, (p.n_rows + kGroupRows - 1) / kGroupRows - first);
    with_kind(p, [&]<ProductKind Kind, bool Exact>() {
      output.template finish<Kind, Exact, kGroups>(first, groups, [&](int j, int i) { return float2{sums[4 * j + 2 * i], sums[4 * j + 2 * i + 1]}; });
    });
  }
};

template <class Weight>
__device__ void multiply_all(const ProductParams& p, char* memory) {
  __shared__ GroupShared barriers;
  GroupProduct<Weight> product{p, barriers, memory};
  if (threadIdx.x == 0) {
    for (int i = 0; i < p.stages; i++) {
      ptx::barrier_init(&barriers.full[i], 1);
      ptx::barrier_init(&barriers.empty[i], kMultiplyingWarps);
    }
    ptx::fence_barrier_init();
  }
  __syncthreads();
  const ProductTile tile(p, static_cast<int>(blockIdx.x));
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpLanes, 0);  // the same in all lanes, as the compiler sees, too
  if (warp == kMultiplyingWarps) {
    if (threadIdx.x % kWarpLanes == 0) product.copy_tile(tile);
  } else {
    const int half = warp / 4, pair = warp % 4;
    float sums[kMaxTileRows / 2];
    switch (p.tile_rows) {
      case 64: product.template multiply_tile<64>(sums, half); break;
      case 72: product.template multiply_tile<72>(sums, half); break;
      case 80: product.template multiply_tile<80>(sums, half); break;
      case 88: product.template multiply_tile<88>(sums, half); break;
      case 96: product.template multiply_tile<96>(sums, half); break;
      case 104: product.template multiply_tile<104>(sums, half); break;
      case 112: product.template multiply_tile<112>(sums, half); break;
      case 120: product.template multiply_tile<120>(sums, half); break;
      default: product.template multiply_tile<128>(sums, half); break;
    }
    ptx::settle(sums);
    product.finish_tile(sums, tile, pair, half);
  }
}

#endif

}  // namespace cf::gpu
