// Products by warps, wherever there is no wgmma: a warp multiplies two slots of a tile by half of its 128 rows. Steps are copied into a ring
// of kWarpStages, two steps ahead.
#pragma once

#include "prefill_product.cuh"

namespace cf::gpu {

#ifndef __CUDA_ARCH_FEAT_SM90_ALL

template <class Weight>
struct WarpProduct {
  static constexpr int kGroups = kWarpTileRows / kGroupRows / 2;  // of a warp
  static constexpr int kStageBytes = step_bytes(kWarpTileRows);
  const ProductParams& p;
  char* const ring;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes, lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int pair = warp % 4, side = warp / 4;
  float sums[2][kGroups][4] = {};  // of each slot: upper half, lower half

  // Asks for a step; nothing if there is none, but a group of copies in any case.
  __device__ void copy_step(const ProductTile& tile, const ProductStep& step, bool wanted, int stage) {
    char* const to = ring + stage * kStageBytes;
    const int tiles = wanted ? step.tiles(p) : 0;
    if (wanted) {
      for (int i = threadIdx.x; i < kTileStrips * tiles * (kTileBytes / 16); i += kWarpThreads) {
        const int slot = i / (tiles * (kTileBytes / 16)), word = i - slot * tiles * (kTileBytes / 16);
        ptx::copy_16(to + slot * kStepTiles * kTileBytes + word * 16, step.weights(p, tile.strip(p, slot)) + word * 16, true);
      }
      const char* const rows = step.activations(p, tile.first_row(p));
      for (int i = threadIdx.x; i < kWarpTileRows * kPanelColumns / 8; i += kWarpThreads)
        ptx::copy_16(to + kStepWeightBytes + i * 16, rows + i * 16, true);
    }
    ptx::commit_copies();
  }

  __device__ void multiply_step(int stage, int tiles) {
    const char* const weights = ring + stage * kStageBytes + 2 * pair * kStepTiles * kTileBytes + lane * 16;
    const char* const rows =
        ring + stage * kStageBytes + kStepWeightBytes + side * kGroups * kGroupBytes + lane / 16 * kGroupBytes + lane % 16 * 8 * 2;
#pragma unroll 1
    for (int i = 0; i < tiles; i++) {
      const uint4 a[2] = {ptx::load_tile(weights + i * kTileBytes), ptx::load_tile(weights + (kStepTiles + i) * kTileBytes)};
#pragma unroll
      for (int group = 0; group < kGroups; group += 2) {
        const uint4 b = ptx::load_tile(rows + group * kGroupBytes + i * 2 * kMatrixBytes);
#pragma unroll
        for (int slot = 0; slot < 2; slot++) {
          multiply<Weight>(sums[slot][group], a[slot], {b.x, b.y});
          multiply<Weight>(sums[slot][group + 1], a[slot], {b.z, b.w});
        }
      }
    }
  }

  __device__ void multiply_tile(const ProductTile& tile) {
    const int steps = ProductStep::count(p);
    ProductStep ahead, step;
#pragma unroll 1
    for (int i = 0; i < kWarpStages - 1; i++, ahead.next(p)) copy_step(tile, ahead, i < steps, i);
#pragma unroll 1
    for (int i = 0; i < steps; i++, step.next(p), ahead.next(p)) {
      ptx::wait_copies<kWarpStages - 2>();
      __syncthreads();  // everybody's copies of this step are there, and everybody is done with the step before
      copy_step(tile, ahead, i + kWarpStages - 1 < steps, (i + kWarpStages - 1) % kWarpStages);
      multiply_step(i % kWarpStages, step.tiles(p));
    }
  }

  __device__ void finish_tile(const ProductTile& tile) const {
    const int first = tile.rows * (kWarpTileRows / kGroupRows) + side * kGroups;
    const int groups = min(kGroups, (p.n_rows + kGroupRows - 1) / kGroupRows - first);
    with_kind(p, [&]<ProductKind Kind, bool Exact>() {
#pragma unroll
      for (int half = 0; half < 2; half++)
        ProductOutput<Weight>(p, tile, pair, half).template finish<Kind, Exact, kGroups>(first, groups, [&](int j, int i) {
          return float2{sums[i][j][2 * half], sums[i][j][2 * half + 1]};
        });
    });
  }
};

template <class Weight>
__device__ void multiply_all(const ProductParams& p, char* memory) {
  const ProductTile tile(p, static_cast<int>(blockIdx.x));
  WarpProduct<Weight> product{p, memory};
  product.multiply_tile(tile);
  product.finish_tile(tile);
}

#endif

}  // namespace cf::gpu
