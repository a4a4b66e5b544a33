// Activations on their way between CTAs: every word carries the epoch it belongs to, so readers need no barrier; they ask for all
// their words at once, and again until all have arrived. Epochs count layers and never repeat.
//
// Why two sets of words, for even and odd layers, suffice, so that none is overwritten before all have read it. The launch has so few
// CTAs that each has a unit of MLP-down in every layer (decode.cpp), and in program order that unit comes after everything else that the
// CTA reads in the layer, but for queries and partial results, whose readers publish what a head's words need, and for what is read in order to
// publish rows of the residual stream. Who has read all of the stream before
// layer l + 1, or anything that was made of it, therefore knows that all CTAs have read everything of layer l; and everything that is
// written in layer l + 2 is made of that. A step ends with the votes of all CTAs on its token, which each CTA reads (steps that sample
// nothing vote, too), so the same holds across steps, and no CTA is more than one step ahead of another: two sets of votes. The
// partial results of attention are shared by all layers: who writes those of the next layer has read queries made of
// the stream, which follows, over every head, from what their readers published. Where a step is several launches, the end of each is a
// stronger order than all that. So it is for block calls: launches of one layer, in which no word is written twice.
#pragma once

#include "decode_shared.cuh"
#include "ptx.cuh"

namespace cf::gpu {

// The words of a row of the launch in a layer; `words`: of one row.
__device__ inline uint4* words_at(uint4* base, int words, int layer, int row) { return base + ((layer & 1) * shared().params.n_rows + row) * words; }
__device__ inline int hidden_words() { return shared().params.hidden_size / kTileRows * kWordsPerStrip; }
__device__ inline int activation_words() { return shared().params.intermediate_size / kTileRows * kWordsPerStrip; }

// Epochs of a step: its embeddings', those of its layers, the head's, the votes', those of the rounds in which a token is drawn.
__device__ inline uint32_t epoch_of_layer(int layer) { return static_cast<uint32_t>(shared().epoch + 2 + layer); }

// True once the launch has failed, here or elsewhere, or has waited here for longer than it may; then it has failed.
__device__ inline bool gave_up(uint64_t since) {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const uint64_t now = ptx::wall_clock_ns();
  if (!s.failed && (ptx::load_relaxed(&p.state->failed) || now - since > p.wait_limit_ns)) {
    ptx::store_relaxed(&p.state->failed, 1);
    s.failed = 1;
  }
  return s.failed;
}

// The words at(j) for j = 0 .. kCount - 1 where wanted(j), once each carries epoch(j); zeros elsewhere. kPauseNs: between tries, so that who
// waits for long leaves the SM to others.
template <int kCount, int kPauseNs = 0, class At, class Epoch, class Wanted>
__device__ __forceinline__ void read_words_at(At at, Epoch epoch, Wanted wanted, uint4 (&words)[kCount]) {
  delay();
  uint64_t since = 0;
  uint32_t tries = 0;
  for (bool late = true; late;) {
    late = false;
#pragma unroll
    for (int j = 0; j < kCount; j++) words[j] = wanted(j) ? ptx::load_word(at(j)) : uint4{0, 0, 0, epoch(j)};
#pragma unroll
    for (int j = 0; j < kCount; j++) late |= words[j].w != epoch(j);
    if (kPauseNs > 0 && late) __nanosleep(kPauseNs);
    // Seldom: one word that every thread asks for is itself what they would wait for.
    if (late && ++tries % 256 == 0) {
      if (since == 0) since = ptx::wall_clock_ns();
      if (gave_up(since)) return;
    }
  }
}

// Words base[index(j)], all of one epoch.
template <int kCount, int kPauseNs = 0, class Index, class Wanted>
__device__ __forceinline__ void read_words(const uint4* base, uint32_t epoch, Index index, Wanted wanted, uint4 (&words)[kCount]) {
  read_words_at<kCount, kPauseNs>([&](int j) { return base + index(j); }, [&](int) { return epoch; }, wanted, words);
}

__device__ inline uint32_t word_bits(const uint4& word, int i) { return i == 0 ? word.x : i == 1 ? word.y : word.z; }
__device__ inline float word_value(const uint4& word, int i) { return __uint_as_float(word_bits(word, i)); }

// Where row `row` of a vector is: its word, and its place there.
__device__ inline int word_of_row(int row) { return row / kTileRows * kWordsPerStrip + row % kTileRows / 3; }
__device__ inline int place_in_word(int row) { return row % kTileRows % 3; }

// The other way round: the first row of a word, and whether it has two more.
__device__ inline bool has_three(int word) { return word % kWordsPerStrip != kWordsPerStrip - 1; }
__device__ inline int column_of_word(int word) { return word / kWordsPerStrip * kTileRows + word % kWordsPerStrip * 3; }

// The 16 rows of a strip, one in each lane of a half warp, become its words. All lanes of the warp call this.
__device__ inline void publish_strip(uint4* strip, uint32_t value, uint32_t epoch, bool wanted) {
  const int row = static_cast<int>(threadIdx.x) % kTileRows;
  const uint32_t a = __shfl_sync(0xffffffffu, value, min(3 * row, 15), 16), b = __shfl_sync(0xffffffffu, value, min(3 * row + 1, 15), 16),
                 c = __shfl_sync(0xffffffffu, value, min(3 * row + 2, 15), 16);
  if (wanted && row < kWordsPerStrip) ptx::store_word(strip + row, a, b, c, epoch);
}

}  // namespace cf::gpu
