// Activations on their way from words into shared memory, as they are: what the product warps do by themselves for a job without a norm,
// while the attention warps attend.
#pragma once

#include "decode_product.cuh"

namespace cf::gpu {

// Where a lane's words go: a warp takes five strips at a time, so that a lane always has the same rows of a strip, and its addresses are
// apart by constants.
struct LaneWord {
  int word, strip;     // the lane's first
  bool active, three;  // false: the last word of a strip has one row
  int at[3];           // of its rows in a tile of activations

  __device__ explicit LaneWord(int first_of_warp) {
    const int lane = static_cast<int>(threadIdx.x) % kWarpLanes, in_strip = lane % kWordsPerStrip;
    word = first_of_warp + lane, strip = word / kWordsPerStrip;
    active = lane < kLaneWords, three = in_strip != kWordsPerStrip - 1;
#pragma unroll
    for (int e = 0; e < 3; e++) at[e] = place_in_tile(min(3 * in_strip + e, kTileRows - 1));
  }
  __device__ bool has(int j, int n_words, int stride = kFetchWords) const { return active && word + j * stride < n_words; }
  // The tile of the word `offset` behind the lane's first, a multiple of whole strips.
  template <int kRows>
  __device__ char* tile(int row, int offset) const {
    return activations() + ((strip + offset / kWordsPerStrip) * kRows + row) * kActivationTileBytes;
  }
  // A word's activations, if it is `wanted`: stores that may not be, no branches, so that words do not wait for one another.
  __device__ __forceinline__ void store_at(char* tile, bool wanted, const uint32_t (&values)[3]) const {
    if (wanted) *reinterpret_cast<uint32_t*>(tile + at[0]) = values[0];
    if (wanted && three) *reinterpret_cast<uint32_t*>(tile + at[1]) = values[1];
    if (wanted && three) *reinterpret_cast<uint32_t*>(tile + at[2]) = values[2];
  }
};

// `n` words, which are activations, of each row (`row_words` apart). With several rows each has kProductWarps / kRows warps.
template <int kRows>
__device__ __forceinline__ void fetch(const uint4* words, int row_words, int n, uint32_t epoch) {
  constexpr int kPauseNs = 50;  // the attention warps of this CTA may be at work
  constexpr int kWarps = kProductWarps / kRows, kStride = kWarps * kLaneWords;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes, row = warp / kWarps;
  const LaneWord lane(warp % kWarps * kLaneWords);
  if (row >= shared().params.n_rows) return;
#pragma unroll 1
  for (int first = 0; first * kStride < n; first += kGo) {
    uint4 word[kGo];
    read_words<kGo, kPauseNs>(
        words + row * row_words + lane.word + first * kStride, epoch, [&](int j) { return j * kStride; },
        [&](int j) { return lane.has(first + j, n, kStride); }, word);
#pragma unroll
    for (int j = 0; j < kGo; j++) {
      if (j % 2 == 0 && (first + j) * kStride >= n) break;
      const uint32_t values[3] = {word[j].x, word[j].y, word[j].z};
      lane.store_at(lane.tile<kRows>(row, (first + j) * kStride), lane.has(first + j, n, kStride), values);
    }
  }
}

}  // namespace cf::gpu
