// Activations on their way between CTAs: every word carries the epoch it belongs to, so readers need no barrier; they ask for all
// their words at once, and again until all have arrived.
//
// Why a word is never overwritten before all have read it: each layer has its own words, so a word is written again a whole step
// later, by a CTA that has read every CTA's vote on the step's token; and a CTA votes after it has read all words of the step. (Steps
// that sample nothing vote, too.) No CTA is more than one step ahead of another, so two sets of votes suffice. The partial results of attention are shared by all layers: who
// writes those of the next layer has read hidden words that follow, over every head, from the results of all owners of this layer.
#pragma once

#include "contract.h"
#include "ptx.cuh"

namespace cf::gpu {

// True once the launch has failed, here or elsewhere, or has waited here for longer than it may; then it has failed.
__device__ inline bool gave_up(const DecodeParams& p, DecodeShared& s, uint64_t& since) {
  const uint64_t now = ptx::wall_clock_ns();
  if (since == 0) since = now;
  if (!s.failed && (ptx::load_relaxed(&p.state->failed) || now - since > p.wait_limit_ns)) {
    ptx::store_relaxed(&p.state->failed, 1);
    s.failed = 1;
  }
  return s.failed;
}

// The words at(j) for j = 0 .. kCount - 1 where wanted(j), once each carries epoch(j).
template <int kCount, class At, class Epoch, class Wanted>
__device__ void read_words_at(const DecodeParams& p, DecodeShared& s, At at, Epoch epoch, Wanted wanted, uint4 (&words)[kCount]) {
  uint64_t since = 0;
  uint32_t tries = 0;
  for (bool late = true; late;) {
    late = false;
#pragma unroll
    for (int j = 0; j < kCount; j++) words[j] = wanted(j) ? ptx::load_word(at(j)) : uint4{0, 0, 0, epoch(j)};
#pragma unroll
    for (int j = 0; j < kCount; j++) late |= words[j].w != epoch(j);
    // Seldom: one word that every thread asks for is itself what they would wait for.
    if (late && ++tries % 1024 == 0 && gave_up(p, s, since)) return;
  }
}

// Words base[index(j)], all of one epoch.
template <int kCount, class Index, class Wanted>
__device__ void read_words(const DecodeParams& p, DecodeShared& s, const uint4* base, uint32_t epoch, Index index, Wanted wanted,
                           uint4 (&words)[kCount]) {
  read_words_at<kCount>(
      p, s, [&](int j) { return base + index(j); }, [&](int) { return epoch; }, wanted, words);
}

__device__ inline float word_value(const uint4& word, int i) { return __uint_as_float(i == 0 ? word.x : i == 1 ? word.y : word.z); }

// The 16 rows of a strip, one in each lane of a half warp, become its words. All lanes of the warp call this.
__device__ inline void publish_strip(uint4* strip, float value, uint32_t epoch, bool wanted) {
  const int row = static_cast<int>(threadIdx.x) % kTileRows;
  const float a = __shfl_sync(0xffffffffu, value, min(3 * row, 15), 16), b = __shfl_sync(0xffffffffu, value, min(3 * row + 1, 15), 16),
              c = __shfl_sync(0xffffffffu, value, min(3 * row + 2, 15), 16);
  if (wanted && row < kWordsPerStrip) ptx::store_word(strip + row, a, b, c, epoch);
}

}  // namespace cf::gpu
