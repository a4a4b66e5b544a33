// Matrix times activations in a decode step, on the tensor cores: strips of packed weights from the ring, activations in shared memory.
//
// One 16x8x16 product takes a tile of weights and eight columns of activations. An activation is two 16-bit numbers, what it rounds to
// and what rounding left, in two columns that are added in the end: products are as exact as those of fp32 activations.
#pragma once

#include "numbers.cuh"
#include "ring.cuh"
#include "words.cuh"

namespace cf::gpu {

__device__ inline void consumers_sync() { ptx::sync_threads(1, kConsumers); }  // consumers only

// Activations: 64 bytes to a tile of 16. Bytes 0-31 have the numbers rounded, in the order in which lanes 0-3 read them (columns 0 1 8 9,
// 2 3 10 11, 4 5 12 13, 6 7 14 15); bytes 32-63 the rests, for lanes 4-7.
constexpr int kActivationTileBytes = 64;

// Where column k is, a multiple of 2 for a pair.
__device__ inline char* activation_at(char* x, int k) {
  return x + (k >> 4) * kActivationTileBytes + ((k & 7) >> 1) * 8 + (k >> 3 & 1) * 4 + (k & 1) * 2;
}

// Columns 2 pair and 2 pair + 1.
template <class Weight>
__device__ void store_activations(char* x, int pair, float a, float b) {
  const uint32_t rounded_a = Weight::round(a), rounded_b = Weight::round(b);
  const uint32_t rest_a = Weight::round(a - Weight::widen(static_cast<uint16_t>(rounded_a))),
                 rest_b = Weight::round(b - Weight::widen(static_cast<uint16_t>(rounded_b)));
  char* const at = activation_at(x, 2 * pair);
  *reinterpret_cast<uint32_t*>(at) = rounded_a | rounded_b << 16;
  *reinterpret_cast<uint32_t*>(at + 32) = rest_a | rest_b << 16;
}

// The rows of word `word` of a vector.
template <class Weight>
__device__ void store_word_of(char* x, int word, const uint4& values) {
  const int in_strip = word % kWordsPerStrip, row = word / kWordsPerStrip * kTileRows + in_strip * 3;
#pragma unroll
  for (int i = 0; i < 3; i++) {
    if (in_strip * 3 + i >= kTileRows) break;
    const float value = word_value(values, i);
    const uint16_t rounded = Weight::round(value);
    char* const at = activation_at(x, row + i);
    *reinterpret_cast<uint16_t*>(at) = rounded;
    *reinterpret_cast<uint16_t*>(at + 32) = Weight::round(value - Weight::widen(rounded));
  }
}

// Element `row` of a token's embedding.
template <class Weight>
__device__ float embedding(const DecodeParams& p, int token, int row) {
  return Weight::widen(reinterpret_cast<const uint16_t*>(p.embedding)[packed_offset(token, row, p.hidden_size / kTileRows)]);
}

__device__ inline void multiply_tile(F16, float (&d)[4], uint4 a, uint2 b) { ptx::multiply_f16(d, a, b); }
__device__ inline void multiply_tile(Bf16, float (&d)[4], uint4 a, uint2 b) { ptx::multiply_bf16(d, a, b); }

// sums[warp][row] = this warp's share of the 16 rows of a strip, or of a run of `tiles` of its tiles, times x. Warps take the tiles of
// a chunk in turn; a warp has four chains of sums, so that no product waits for the one before. Takes and gives the place in the
// ring; one copy for all phases, so that what they keep in registers does not meet what this needs.
template <class Weight>
__device__ __noinline__ uint32_t add_strip(DecodeShared& s, const char* chunks, int ring_size, uint32_t place, const char* x, int tiles,
                                           float (*sums)[kTileRows]) {
  RingReader ring(s, chunks, ring_size, place);
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes, lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  constexpr int kChains = kChunkTiles / kConsumerWarps;
  float d[kChains][4] = {};
  const char* b_of_lane = x + (lane >> 2) * 32 + (lane & 3) * 8;  // lanes 0-7
#pragma unroll 1
  for (int first = 0; first < tiles; first += kChunkTiles) {
    const char* const chunk = ring.wait();
#pragma unroll
    for (int i = 0; i < kChains; i++) {
      const int tile = i * kConsumerWarps + warp;
      if (first + tile >= tiles) break;
      const uint4 a = ptx::load_tile(chunk + tile * kTileBytes + lane * 16);
      const uint2 b = lane < 8 ? *reinterpret_cast<const uint2*>(b_of_lane + (first + tile) * kActivationTileBytes) : uint2{0, 0};
      multiply_tile(Weight(), d[i], a, b);
    }
    ring.release();
  }
  float both[4];
#pragma unroll
  for (int i = 0; i < 4; i++) both[i] = (d[0][i] + d[1][i]) + (d[2][i] + d[3][i]);
  if (lane % 4 == 0) {  // has columns 0 and 1
    sums[warp][lane / 4] = both[0] + both[1];
    sums[warp][lane / 4 + 8] = both[2] + both[3];
  }
  return ring.place();
}

__device__ inline float row_sum(const DecodeShared& s, int strip, int row) {
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kConsumerWarps; warp++) sum += s.rows[strip][warp][row];
  return sum;
}

}  // namespace cf::gpu
