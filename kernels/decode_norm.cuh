// Activations of a decode step on their way from words into shared memory: as they are, or normalised.
#pragma once

#include "decode_product.cuh"
#include "vector.cuh"

namespace cf::gpu {

__device__ inline float sum_of_consumers(DecodeShared& s, int which, float value) {
  value = warp_sum(value);
  if (threadIdx.x % kWarpLanes == 0) s.sums[which][threadIdx.x / kWarpLanes] = value;
  consumers_sync();
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < kConsumerWarps; warp++) sum += s.sums[which][warp];
  return sum;
}

// Words `first` .. `end` - 1 of a vector to x, as activations; nothing is changed. False: the launch has failed.
template <class Weight>
__device__ __noinline__ bool fetch(const DecodeParams& p, DecodeShared& s, char* x, const uint4* words, int first, int end, uint32_t epoch) {
  constexpr int kAtOnce = 4;  // words asked for together
#pragma unroll 1
  for (int base = first + static_cast<int>(threadIdx.x); base < end; base += kAtOnce * kConsumers) {
    uint4 word[kAtOnce];
    read_words<kAtOnce>(
        p, s, words, epoch, [&](int j) { return base + j * kConsumers; }, [&](int j) { return base + j * kConsumers < end; }, word);
#pragma unroll
    for (int j = 0; j < kAtOnce; j++)
      if (base + j * kConsumers < end) store_word_of<Weight>(x, base + j * kConsumers - first, word[j]);
  }
  consumers_sync();
  if (threadIdx.x == 0) s.go = !s.failed, s.meeting = 0;
  consumers_sync();
  return s.go;
}

// How many chunks of the ring a vector of the residual stream's length takes.
__device__ inline int vector_chunks(const DecodeParams& p) {
  return (p.hidden_size * static_cast<int>(sizeof(float)) + kRingChunkBytes - 1) / kRingChunkBytes;
}

// The producing thread's side of normalise(): weight, then bias if there is one.
__device__ inline bool load_vector(RingWriter& ring, const void* vector) {
  if (!vector) return true;
  const char* from = static_cast<const char*>(vector);
#pragma unroll 1
  for (int left = ring.p.hidden_size * static_cast<int>(sizeof(float)); left > 0; left -= kRingChunkBytes, from += kRingChunkBytes)
    if (!ring.load(from, static_cast<uint32_t>(min(left, kRingChunkBytes)))) return false;
  return true;
}

// The residual stream in `words` (NULL: the embedding of s.token), normalised `n_norms` times with the vectors that come next in the ring
// (for each a weight and, has_bias, a bias), to x and what lies behind, as activations. Takes and gives the place in the ring. On return
// all is visible to the consumers; s.go: whether the launch goes on.
//
// Through s.stream in fp32: so a thread writes pairs of neighbours.
template <class Weight>
__device__ __noinline__ uint32_t normalise(const DecodeParams& p, DecodeShared& s, const char* ring_memory, uint32_t place, char* x,
                                           const uint4* words, uint32_t epoch, int n_norms, bool has_bias) {
  const int n_pairs = p.hidden_size / 2, n_words = p.hidden_size / kTileRows * kWordsPerStrip;
  const float count = static_cast<float>(p.hidden_size);
  if (words) {
    constexpr int kAtOnce = 4;
#pragma unroll 1
    for (int base = threadIdx.x; base < n_words; base += kAtOnce * kConsumers) {
      uint4 word[kAtOnce];
      read_words<kAtOnce>(
          p, s, words, epoch, [&](int j) { return base + j * kConsumers; }, [&](int j) { return base + j * kConsumers < n_words; }, word);
#pragma unroll
      for (int j = 0; j < kAtOnce; j++) {
        const int at = base + j * kConsumers, row = at / kWordsPerStrip * kTileRows + at % kWordsPerStrip * 3;
        if (at >= n_words) break;
        s.stream[row] = word_value(word[j], 0);
        if (at % kWordsPerStrip != kWordsPerStrip - 1) s.stream[row + 1] = word_value(word[j], 1), s.stream[row + 2] = word_value(word[j], 2);
      }
    }
  } else {
#pragma unroll 1
    for (int row = threadIdx.x; row < p.hidden_size; row += kConsumers) s.stream[row] = embedding<Weight>(p, s.token, row);
  }
  consumers_sync();
  float2* const stream = reinterpret_cast<float2*>(s.stream);
  float sum = 0;
#pragma unroll 2
  for (int pair = threadIdx.x; pair < n_pairs; pair += kConsumers) sum += stream[pair].x + stream[pair].y;
  const float mean = p.norm == CF_NORM_LAYER ? sum_of_consumers(s, 0, sum) / count : 0.0f;
  float squares = 0;  // around the mean: two passes, since E[x^2] - E[x]^2 cancels
#pragma unroll 2
  for (int pair = threadIdx.x; pair < n_pairs; pair += kConsumers) {
    const float2 v = {stream[pair].x - mean, stream[pair].y - mean};
    squares += v.x * v.x + v.y * v.y;
  }
  const float variance = sum_of_consumers(s, 1, squares) / count;
  if (threadIdx.x == 0) s.go = !s.failed;
  const float scale = 1.0f / sqrtf(variance + p.norm_eps);
  RingReader ring(s, ring_memory, p.ring, place);
  const int chunks = vector_chunks(p), held = has_bias ? 2 * chunks : chunks;
#pragma unroll 1
  for (int which = 0; which < n_norms; which++) {
    char* const to = x + which * (p.hidden_size / kTileRows * kActivationTileBytes);
#pragma unroll 1
    for (int i = 0; i < held; i++) ring.wait_ahead(i);
#pragma unroll 2
    for (int pair = threadIdx.x; pair < n_pairs; pair += kConsumers) {
      const int chunk = pair * 8 / kRingChunkBytes, offset = pair * 8 % kRingChunkBytes;
      const float2 v = stream[pair], w = *reinterpret_cast<const float2*>(ring.chunk(chunk) + offset);
      const float2 b = has_bias ? *reinterpret_cast<const float2*>(ring.chunk(chunks + chunk) + offset) : float2{0, 0};
      store_activations<Weight>(to, pair, (v.x - mean) * scale * w.x + b.x, (v.y - mean) * scale * w.y + b.y);
    }
#pragma unroll 1
    for (int i = 0; i < held; i++) ring.release();
  }
  consumers_sync();
  if (threadIdx.x == 0) s.meeting = 0;
  return ring.place();
}

}  // namespace cf::gpu
