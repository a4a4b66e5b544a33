// Matrix times activations in a decode step, on the tensor cores: strips of packed weights from the ring, activations in shared memory.
//
// One 16x8x16 product takes a tile of weights and eight columns of activations. An activation is two 16-bit numbers, what it rounds to
// and what rounding left, in two columns that are added in the end: products are as exact as those of fp32 activations. Four rows
// of a launch fill a product.
#pragma once

#include "numbers.cuh"
#include "ring.cuh"
#include "words.cuh"

namespace cf::gpu {

// Kernels for either dtype of weights are one: all warps go the same way where it matters.
__device__ inline bool f16_weights() { return shared().params.weight_dtype == CF_DTYPE_F16; }

// An activation: what the value rounds to in the low half, the rest in the high half.
template <class Weight>
__device__ inline uint32_t split_as(float value) {
  const uint32_t rounded = Weight::round(value);
  return rounded | static_cast<uint32_t>(Weight::round(value - Weight::widen(static_cast<uint16_t>(rounded)))) << 16;
}
__device__ inline uint32_t split(float value) { return f16_weights() ? split_as<F16>(value) : split_as<Bf16>(value); }

// Activations in shared memory: for each tile of 16 columns 64 bytes of each row of the launch. In those the columns lie as lanes read them:
// 0 1 8 9, 2 3 10 11, 4 5 12 13, 6 7 14 15.
constexpr int kActivationTileBytes = 64;
__device__ inline int place_in_tile(int column) { return ((column & 7) >> 1) * 16 + (column >> 3 & 1) * 8 + (column & 1) * 4; }

// Element `column` of a token's embedding.
__device__ inline float embedding(int token, int column) {
  const DecodeParams& p = shared().params;
  const uint16_t bits = __ldg(reinterpret_cast<const uint16_t*>(shared().embedding) + packed_offset(token, column, p.hidden_size / kTileRows));
  return f16_weights() ? F16::widen(bits) : Bf16::widen(bits);
}

__device__ inline void multiply_tile(F16, float (&d)[4], uint4 a, uint2 b) { ptx::multiply_f16(d, a, b); }
__device__ inline void multiply_tile(Bf16, float (&d)[4], uint4 a, uint2 b) { ptx::multiply_bf16(d, a, b); }

// Half a chunk is a warp's share of work at a time: few tiles, so that a short phase occupies many warps, and so many that waiting for the
// chunk is a small part. Half h of a strip is summed by itself and added to part h % kProductWarps of the strip's sums, in order; the parts
// are added up in order. So a strip may be interrupted after every kProductWarps halves and go on with other activations.
constexpr int kHalfTiles = kChunkTiles / 2;
static_assert(kPassTiles == kProductWarps * kHalfTiles);
__device__ inline int ring_chunks(int tiles) { return (tiles + kChunkTiles - 1) / kChunkTiles; }

// Products of `count` tiles of a strip with their activations; `a` and `x`: what this lane reads of the first. Four chains of sums, so that no
// product waits for the one before.
constexpr int kChains = 4;
template <class Weight, int kRows, int kGroups>
__device__ __forceinline__ void multiply_half(const char* a, const char* x, int count, int lane, float (&d)[kGroups][kChains][4]) {
  constexpr int kTileStride = kRows * kActivationTileBytes, kAtOnce = kRows == 1 ? 8 : 4;
  // Columns of a product: of row j of a group 2 j, rounded, and 2 j + 1, the rest. With one row only the first pair counts.
  const uint32_t order = lane >> 2 & 1 ? 0x7632u : 0x5410u;
  const auto tile_times_x = [&](int chain, uint4 weights, const uint4* b) {
#pragma unroll
    for (int group = 0; group < kGroups; group++)
      multiply_tile(Weight(), d[group][chain], weights, {__byte_perm(b[group].x, b[group].y, order), __byte_perm(b[group].z, b[group].w, order)});
  };
  const bool reads = kRows > 1 || lane < 8;  // with one row: what the other lanes have goes into columns that nobody asks for
  const auto x_at = [&](int tile, int group) {
    uint4 four = {0, 0, 0, 0};
    if (reads) four = *reinterpret_cast<const uint4*>(x + tile * kTileStride + group * 4 * kActivationTileBytes);
    return four;
  };
  if (count == kHalfTiles) {
#pragma unroll 1
    for (int base = 0; base < kHalfTiles; base += kAtOnce) {
      uint4 weights[kAtOnce], b[kAtOnce][kGroups];  // everything is asked for before anything is used
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) weights[i] = ptx::load_tile(a + (base + i) * kTileBytes);
#pragma unroll
      for (int i = 0; i < kAtOnce; i++)
#pragma unroll
        for (int group = 0; group < kGroups; group++) b[i][group] = x_at(base + i, group);
#pragma unroll
      for (int i = 0; i < kAtOnce; i++) tile_times_x(i % kChains, weights[i], b[i]);
    }
  } else {
#pragma unroll 1
    for (int base = 0; base < count; base += kChains)
#pragma unroll
      for (int i = 0; i < kChains; i++) {
        if (base + i >= count) break;
        uint4 b[kGroups];
#pragma unroll
        for (int group = 0; group < kGroups; group++) b[group] = x_at(base + i, group);
        tile_times_x(i, ptx::load_tile(a + (base + i) * kTileBytes), b);
      }
  }
}

// shared().sums[part][strip * 16 kRows + row of the launch * 16 + row] = parts of the sums of `strips` strips, whose chunks begin at
// `ring`, each with `tiles` tiles, times the activations; if `goes_on`, added to what is there.
template <int kRows>
__device__ __forceinline__ void add_strips(RingReader ring, int strips, int tiles, bool goes_on) {
  const int thread = ptx::thread_index(), warp = thread / kWarpLanes, lane = thread % kWarpLanes;
  constexpr int kGroups = (kRows + 3) / 4;
  const int of_row = kRows == 1 ? 0 : lane >> 3;
  const char* const x_of_lane = activations() + of_row * kActivationTileBytes + (lane & 3) * 16;
  const int halves = 2 * ring_chunks(tiles);  // of a strip; of the last one or two may be empty
  int strip = 0, half = warp;
  while (half >= halves) half -= halves, strip++;
  ring.skip(warp / 2);
#pragma unroll 1
  while (strip < strips) {
    float d[kGroups][kChains][4] = {};
    const char* const a = ring.wait() + (half & 1) * (kHalfTiles * kTileBytes) + lane * 16;
    const int first = half * kHalfTiles, count = min(kHalfTiles, tiles - first);
    const char* const x = x_of_lane + first * (kRows * kActivationTileBytes);
    if (f16_weights()) multiply_half<F16, kRows>(a, x, count, lane, d);
    else multiply_half<Bf16, kRows>(a, x, count, lane, d);
    __syncwarp();
    if (lane == 0) ring.release();
    ring.skip(kProductWarps / 2);
    // This lane has columns 2 j and 2 j + 1 for j = lane % 4, of rows lane / 4 and lane / 4 + 8.
    const bool adds = goes_on || half >= kProductWarps;
#pragma unroll
    for (int group = 0; group < kGroups; group++) {
      float both[4];
#pragma unroll
      for (int i = 0; i < 4; i++) both[i] = (d[group][0][i] + d[group][1][i]) + (d[group][2][i] + d[group][3][i]);
      if (kRows > 1 || lane % 4 == 0) {
        float* const to =
            shared().sums[half % kProductWarps] + strip * kTileRows * kRows + (group * 4 + (kRows == 1 ? 0 : lane % 4)) * kTileRows + lane / 4;
        to[0] = (adds ? to[0] : 0.0f) + (both[0] + both[1]);
        to[8] = (adds ? to[8] : 0.0f) + (both[2] + both[3]);
      }
    }
    half += kProductWarps;
    while (half >= halves) half -= halves, strip++;
  }
}

// The sum of the parts of a strip of `tiles` tiles for what a thread at `place` is to finish.
__device__ inline float parts_sum(int place, int tiles) {
  const int parts = min(kProductWarps, 2 * ring_chunks(tiles));
  float sum = 0;
#pragma unroll
  for (int part = 0; part < kProductWarps; part++)
    if (part < parts) sum += shared().sums[part][place];
  return sum;
}

}  // namespace cf::gpu
