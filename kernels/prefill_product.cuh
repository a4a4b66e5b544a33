// Products of prefill: which part of the output a tile is, where its rows of the matrix come from, and what becomes of its sums. How the sums
// are made is said in prefill_product_group.cuh (by warpgroups) and prefill_product_warp.cuh (by warps).
//
// A tile is 128 rows of the matrix, eight strips in `slots` 0 to 7, times some rows of activations. With SwiGLU even slots hold strips of
// gate and odd ones the strips of up that belong to them, so that one thread has both.
#pragma once

#include "activation.cuh"
#include "prefill_rows.cuh"

namespace cf::gpu {

// GELU with erf to 1.5e-7 (Abramowitz and Stegun 7.1.26), which is far less than what rounding to 16 bits adds, in half the instructions of
// erff: what a tile does after its sums is not hidden where each SM has one. For x < 0 nothing cancels.
__device__ inline float gelu_fast(float x) {
  const float z = fabsf(x) * 0.70710678118654752f, t = __fdividef(1.0f, fmaf(0.3275911f, z, 1.0f));
  float poly = fmaf(1.061405429f, t, -1.453152027f);
  poly = fmaf(poly, t, 1.421413741f), poly = fmaf(poly, t, -0.284496736f), poly = fmaf(poly, t, 0.254829592f);
  return fmaxf(x, 0.0f) - 0.5f * fabsf(x) * (poly * t * ptx::exp2_fast(-1.4426950408889634f * z * z));
}
__device__ inline float silu_fast(float x) { return __fdividef(x, 1.0f + ptx::exp2_fast(-1.4426950408889634f * x)); }

struct ProductTile {
  int features, rows;  // tiles before it, along the features of the output and along the rows

  static __device__ bool gated(const ProductParams& p) { return p.kind == ProductKind::kActivate && p.activation == CF_ACTIVATION_SWIGLU; }
  static __device__ int strips(const ProductParams& p) { return (p.features + kTileRows - 1) / kTileRows; }
  static __device__ int row_tiles(const ProductParams& p) { return (p.n_rows + p.tile_rows - 1) / p.tile_rows; }
  // Neighbours have the same rows of the matrix, which are so read from memory once.
  __device__ ProductTile(const ProductParams& p, int cta) : features(cta / row_tiles(p)), rows(cta - features * row_tiles(p)) {}
  __device__ int first_row(const ProductParams& p) const { return rows * p.tile_rows; }
  // Of its strips, or of its pairs of strips.
  __device__ int first_strip(const ProductParams& p) const { return features * (gated(p) ? kTileStrips / 2 : kTileStrips); }

  // The strip of the matrix in a slot; beyond the last: the last again.
  __device__ int strip(const ProductParams& p, int slot) const {
    const int last = strips(p) - 1;
    if (!gated(p)) return min(features * kTileStrips + slot, last);
    return min(features * (kTileStrips / 2) + slot / 2, last) + (slot % 2 ? last + 1 : 0);
  }
  // The octet of features that half a slot becomes; with SwiGLU half a pair of slots.
  __device__ int octet(const ProductParams& p, int slot, int half) const {
    return gated(p) ? (features * (kTileStrips / 2) + slot / 2) * 2 + half : (features * kTileStrips + slot) * 2 + half;
  }
};

// Steps of a tile: panels of the first factor, then of the second.
struct ProductStep {
  int factor = 0, panel = 0;

  static __device__ int count(const ProductParams& p) {
    int steps = 0;
    for (int i = 0; i < p.n_factors; i++) steps += (p.factors[i].tiles + kStepTiles - 1) / kStepTiles;
    return steps;
  }
  __device__ int tiles(const ProductParams& p) const { return min(kStepTiles, p.factors[factor].tiles - panel * kStepTiles); }
  __device__ void next(const ProductParams& p) {
    if (++panel * kStepTiles >= p.factors[factor].tiles && factor + 1 < p.n_factors) factor++, panel = 0;
  }
  __device__ const char* weights(const ProductParams& p, int strip) const {
    const ProductFactor& f = p.factors[factor];
    return f.weights + (static_cast<int64_t>(strip) * f.tiles + panel * kStepTiles) * kTileBytes;
  }
  __device__ const char* activations(const ProductParams& p, int first_row) const {
    return p.factors[factor].panels + (static_cast<int64_t>(panel) * p.groups + first_row / kGroupRows) * kGroupBytes;
  }
};

// What becomes of the sums of half a pair of slots: two octets of features, of which each lane has one feature each, lane / 4, and two rows of
// every group of 8, 2 (lane % 4) and one more.
template <class Weight>
struct ProductOutput {
  const ProductParams& p;
  int octet[2];
  float bias[2];

  __device__ ProductOutput(const ProductParams& params, const ProductTile& tile, int pair, int half) : p(params) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      octet[i] = tile.octet(p, 2 * pair + i, half);
      bias[i] = 0;
      const int row = ProductTile::gated(p) ? feature(i) + i * p.features : feature(i);  // of the matrix
#pragma unroll
      for (int factor = 0; factor < 2; factor++)
        if (factor < p.n_factors && p.factors[factor].bias && feature(i) < p.features) bias[i] += p.factors[factor].bias[row];
    }
  }
  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }
  __device__ int feature(int i) const { return octet[i] * 8 + lane() / 4; }

  // The sums of groups of rows first ... of at most Groups, of which n are wanted: sum(j, i) is that of octet i.
  template <ProductKind Kind, bool Exact, int Groups, class Sum>
  __device__ void finish(int first, int n, Sum sum) const {
    constexpr int kAtOnce = 4;  // loads on their way together
#pragma unroll
    for (int from = 0; from < Groups; from += kAtOnce) {
      if (from >= n) break;
      float2 before[kAtOnce][2] = {};
      if constexpr (Kind == ProductKind::kAdd) {
#pragma unroll
        for (int j = 0; j < kAtOnce; j++)
#pragma unroll
          for (int i = 0; i < 2; i++)
            if (from + j < n && there(i)) before[j][i] = *block(first + from + j, i);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; j++) {
        if (from + j >= n) break;
        const float2 sums[2] = {sum(from + j, 0), sum(from + j, 1)};
        if constexpr (Kind == ProductKind::kActivate) activate<Exact>(first + from + j, sums);
        else if constexpr (Kind == ProductKind::kRows) store_rows(first + from + j, sums);
        else {
#pragma unroll
          for (int i = 0; i < 2; i++)
            if (there(i)) *block(first + from + j, i) = {before[j][i].x + (sums[i].x + bias[i]), before[j][i].y + (sums[i].y + bias[i])};
        }
      }
    }
  }

 private:
  __device__ bool there(int i) const { return octet[i] * 8 < p.features; }
  __device__ float2* block(int group, int i) const {
    return reinterpret_cast<float2*>(p.output + block_offset(group, octet[i], p.features / 8)) + lane();
  }
  __device__ void store_rows(int group, const float2 (&sums)[2]) const {
    const int row = group * kGroupRows + lane() % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      if (feature(i) >= p.features) continue;
      float* const to = p.output + static_cast<int64_t>(row) * p.features + feature(i);
      if (row < p.n_rows) to[0] = sums[i].x + bias[i];
      if (row + 1 < p.n_rows) to[p.features] = sums[i].y + bias[i];
    }
  }
  // Whole warps: features of activations come in sixteens.
  template <bool Exact>
  __device__ void activate(int group, const float2 (&sums)[2]) const {
    if (ProductTile::gated(p)) {
      store(0, group, silu_fast(sums[0].x + bias[0]) * (sums[1].x + bias[1]), silu_fast(sums[0].y + bias[0]) * (sums[1].y + bias[1]));
    } else {
      const auto value = [](float x) { return Exact ? gelu_fast(x) : gelu_tanh(x); };
#pragma unroll
      for (int i = 0; i < 2; i++) store(i, group, value(sums[i].x + bias[i]), value(sums[i].y + bias[i]));
    }
  }
  __device__ void store(int i, int group, float low, float high) const {
    if (!there(i)) return;
    const uint32_t word = ptx::transpose(pack<Weight>(low, high));
    reinterpret_cast<uint32_t*>(p.activations + panel_offset(group, octet[i], p.groups))[lane()] = word;
  }
};

// Calls visit<kind, whether GELU is exact>.
template <class Visit>
__device__ void with_kind(const ProductParams& p, Visit visit) {
  if (p.kind == ProductKind::kRows) visit.template operator()<ProductKind::kRows, true>();
  else if (p.kind == ProductKind::kBlocks) visit.template operator()<ProductKind::kBlocks, true>();
  else if (p.kind == ProductKind::kAdd) visit.template operator()<ProductKind::kAdd, true>();
  else if (p.activation == CF_ACTIVATION_GELU_TANH) visit.template operator()<ProductKind::kActivate, false>();
  else visit.template operator()<ProductKind::kActivate, true>();
}

}  // namespace cf::gpu
