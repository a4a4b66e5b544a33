// Products by warpgroups, on sm_90a: one warp copies steps into a ring, two warpgroups multiply: one the upper halves of a tile's strips,
// one the lower halves. A stage's `full` completes when its bytes are there; each multiplying warp arrives at its `empty` when it is done.
#pragma once

#include "prefill_product.cuh"

namespace cf::gpu {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

struct GroupShared {
  uint64_t full[kGroupStages], empty[kGroupStages];
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
    if (++stage == kGroupStages) stage = 0, parity ^= 1;
  }
  static __device__ void wait(uint64_t& barrier, uint32_t parity) {
    while (!ptx::barrier_passed(&barrier, parity)) {}
  }

  // ---- The warp that copies

  __device__ void copy_tile(const ProductTile& tile) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpLanes, strip = tile.strip(p, min(lane, kTileStrips - 1));
    ProductStep step;
#pragma unroll 1
    for (int left = ProductStep::count(p); left > 0; left--, step.next(p), advance()) {
      const uint32_t weight_bytes = static_cast<uint32_t>(step.tiles(p) * kTileBytes),
                     row_bytes = static_cast<uint32_t>(p.tile_rows * kPanelColumns * 2);
      wait(barriers.empty[stage], parity ^ 1);
      if (lane == 0) ptx::barrier_expect(&barriers.full[stage], kTileStrips * weight_bytes + row_bytes);
      __syncwarp();
      if (lane < kTileStrips) ptx::bulk_copy(weights() + lane * kStepTiles * kTileBytes, step.weights(p, strip), weight_bytes, &barriers.full[stage]);
      if (lane == kTileStrips) ptx::bulk_copy(activations(), step.activations(p, tile.rows * p.tile_rows), row_bytes, &barriers.full[stage]);
    }
  }

  // ---- The warpgroups that multiply

  template <int N>
  static __device__ __forceinline__ void multiply(float (&sums)[128], uint64_t a, uint64_t b, int add) {
    if constexpr (std::is_same_v<Weight, F16>) ptx::multiply_group_f16<N>(sums, a, b, add);
    else ptx::multiply_group_bf16<N>(sums, a, b, add);
  }
  __device__ void release(int done) {
    if (threadIdx.x % kWarpLanes == 0) ptx::barrier_arrive(&barriers.empty[done]);
  }

  __device__ uint64_t weight_operand(int half) const {
    return ptx::operand(weights() + half * kMatrixBytes, kStepTiles * kTileBytes, 2 * kMatrixBytes);
  }
  __device__ uint64_t row_operand() const { return ptx::operand(activations(), kGroupBytes, kMatrixBytes); }

  // The sums of this warpgroup's half of a tile of N rows. A step's products run while the next step is waited for.
  template <int N>
  __device__ __forceinline__ void multiply_tile(float (&sums)[128], int half) {
    int add = 0;
#pragma unroll 1
    for (int factor = 0; factor < p.n_factors; factor++) {
      const int tiles = p.factors[factor].tiles;
      int before = -1;
#pragma unroll 1
      for (int left = tiles / kStepTiles; left > 0; left--) {
        wait(barriers.full[stage], parity);
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
      wait(barriers.full[stage], parity);
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

  __device__ __forceinline__ void finish_tile(const float (&sums)[128], const ProductTile& tile, int pair, int half) const {
    const ProductOutput<Weight> output(p, tile, pair, half);
    const int first = tile.rows * p.tile_rows / kGroupRows, groups = min(p.tile_rows / kGroupRows, (p.n_rows + kGroupRows - 1) / kGroupRows - first);
    with_kind(p, [&]<ProductKind Kind, bool Exact>() {
#pragma unroll
      for (int j = 0; j < kMaxTileRows / kGroupRows; j++) {
        if (j >= groups) break;
        const float of_group[2][2] = {{sums[4 * j], sums[4 * j + 1]}, {sums[4 * j + 2], sums[4 * j + 3]}};
        output.template finish<Kind, Exact>(first + j, of_group);
      }
    });
  }
};

template <class Weight>
__device__ void multiply_all(const ProductParams& p, char* memory) {
  __shared__ GroupShared barriers;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kGroupStages; i++) ptx::barrier_init(&barriers.full[i], 1), ptx::barrier_init(&barriers.empty[i], kMultiplyingWarps);
    ptx::fence_barrier_init();
  }
  __syncthreads();
  GroupProduct<Weight> product{p, barriers, memory};
  const int tiles = ProductTile::count(p), ctas = static_cast<int>(gridDim.x),
            warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / kWarpLanes, 0);  // the same in all lanes, as the compiler sees, too
  if (warp < 4) {
    ptx::fewer_registers<40>();
    if (warp == 0)
      for (int number = static_cast<int>(blockIdx.x); number < tiles; number += ctas) product.copy_tile(ProductTile(p, number));
  } else {
    ptx::more_registers<232>();
    const int half = warp / 4 - 1, pair = warp % 4;
#pragma unroll 1
    for (int number = static_cast<int>(blockIdx.x); number < tiles; number += ctas) {
      const ProductTile tile(p, number);
      float sums[128];
      switch (p.tile_rows) {
        case 64: product.template multiply_tile<64>(sums, half); break;
        case 96: product.template multiply_tile<96>(sums, half); break;
        case 128: product.template multiply_tile<128>(sums, half); break;
        case 160: product.template multiply_tile<160>(sums, half); break;
        case 192: product.template multiply_tile<192>(sums, half); break;
        case 224: product.template multiply_tile<224>(sums, half); break;
        default: product.template multiply_tile<256>(sums, half); break;
      }
      product.finish_tile(sums, tile, pair, half);
    }
  }
}

#endif

}  // namespace cf::gpu
