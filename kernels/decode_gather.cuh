// The gathering warps' work for a product that begins with a norm: the residual stream on its way from words into shared memory.
#pragma once

#include "decode_fetch.cuh"
#include "decode_job.cuh"

namespace cf::gpu {

// How the warps share the rows of a launch: with one row each takes every fourth of its words, with more whole rows in turn. A row of the
// residual stream is summed in shares, whoever takes them, so that it has the same bits in a launch of any size: of each warp with one
// row, and again for what lies behind kGo words of every lane.
__device__ inline int gather_warp() { return (static_cast<int>(threadIdx.x) - kProducts) / kWarpLanes; }
__device__ inline int gather_thread() { return static_cast<int>(threadIdx.x) - kProducts; }

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

// The lane's first word in a share.
__device__ inline LaneWord lane_of_share(int share) {
  return LaneWord(share % kGatherWarps * kLaneWords + share / kGatherWarps * (kGo * kGatherWords));
}

// A share's numbers in the registers of a warp, zeros where there are none.
struct Share {
  float value[kGo][3];

  __device__ __forceinline__ void read(const uint4* words, const LaneWord& lane, uint32_t epoch) {
    const int n_words = hidden_words();
    uint4 word[kGo];
    read_words<kGo>(
        words + lane.word, epoch, [](int j) { return j * kGatherWords; }, [&](int j) { return lane.has(j, n_words); }, word);
#pragma unroll
    for (int j = 0; j < kGo; j++) {
      value[j][0] = word_value(word[j], 0);
      value[j][1] = lane.three ? word_value(word[j], 1) : 0.0f, value[j][2] = lane.three ? word_value(word[j], 2) : 0.0f;
    }
  }

  // Leaves the mean (0 for RMSNorm) and the sum of squares around it: two passes, since E[x^2] - E[x]^2 cancels.
  __device__ __forceinline__ void leave_stats(const LaneWord& lane, int row, int share) const {
    const int n_words = hidden_words();
    float mean = 0, squares = 0, others = 0;
    if (shared().params.norm == CF_NORM_LAYER) {
#pragma unroll
      for (int j = 0; j < kGo; j++) mean += value[j][0] + value[j][1] + value[j][2];
      mean = warp_sum(mean) * shared().inverse_counts[share];
    }
#pragma unroll
    for (int j = 0; j < kGo; j++) {
      const float a = value[j][0] - mean, b = value[j][1] - mean, c = value[j][2] - mean;
      const bool there = lane.has(j, n_words);
      squares += there ? a * a : 0.0f, others += there ? b * b + c * c : 0.0f;
    }
    squares = warp_sum(lane.three ? squares + others : squares);
    if (threadIdx.x % kWarpLanes == 0) shared().stats[row][share] = {mean, squares};
  }

  // As they are, where activations will be.
  template <int kRows>
  __device__ __forceinline__ void leave_values(const LaneWord& lane, int row) const {
    const int n_words = hidden_words();
#pragma unroll
    for (int j = 0; j < kGo; j++) {
      const uint32_t values[3] = {__float_as_uint(value[j][0]), __float_as_uint(value[j][1]), __float_as_uint(value[j][2])};
      lane.store<kRows>(lane.has(j, n_words), row, j, values);
    }
  }
};
// Shares of a row of this model.
__device__ inline int norm_shares() { return (hidden_words() + kGo * kGatherWords - 1) / (kGo * kGatherWords) * kGatherWarps; }

__device__ inline bool has_three(int word) { return word % kWordsPerStrip != kWordsPerStrip - 1; }
__device__ inline int column_of_word(int word) { return word / kWordsPerStrip * kTileRows + word % kWordsPerStrip * 3; }

// Mean and 1 / deviation of a row, from the stats of its shares.
__device__ __forceinline__ float2 scale_of_row(int row) {
  const DecodeShared& s = shared();
  const int shares = norm_shares();
  const auto each_share = [&](auto add) {
#pragma unroll
    for (int share = 0; share < kGatherWarps; share++) add(share);
#pragma unroll 1
    for (int share = kGatherWarps; share < shares; share++) add(share);
  };
  float mean = 0, squares = 0;
  each_share([&](int share) { mean += s.stats[row][share].x * s.counts[share]; });
  mean *= s.inverse_hidden;
  each_share([&](int share) {
    const float2 of = s.stats[row][share];
    squares += of.y + (of.x - mean) * (of.x - mean) * s.counts[share];
  });
  return {mean, rsqrtf(squares * s.inverse_hidden + s.params.norm_eps)};
}

// What norm_offset says of a word.
struct NormWord {
  float4 a;
  float2 b;
  __device__ void load(const float4* vectors, int word) {
    a = __ldg(vectors + 2 * word), b = __ldg(reinterpret_cast<const float2*>(vectors + 2 * word + 1));
  }
  __device__ float apply(float value, float2 scale, int e) const {
    const float weight = e == 0 ? a.x : e == 1 ? a.y : a.z, bias = e == 0 ? a.w : e == 1 ? b.x : b.y;
    return (value - scale.x) * scale.y * weight + bias;
  }
};

// Values that leave_values() left become normalised activations: the lane's words, `stride` apart.
template <int kRows>
__device__ __forceinline__ void normalise_left(const LaneWord& lane, int row, const float4* vectors, float2 scale, int stride) {
  const int n_words = hidden_words();
#pragma unroll 2
  for (int j = 0; j * stride < n_words; j++) {
    if (!lane.has(j, n_words, stride)) continue;
    NormWord norm;
    norm.load(vectors, lane.word + j * stride);
    const char* const tile = activations() + ((lane.strip + j * (stride / kWordsPerStrip)) * kRows + row) * kActivationTileBytes;
    uint32_t values[3];
#pragma unroll
    for (int e = 0; e < 3; e++) values[e] = split(norm.apply(*reinterpret_cast<const float*>(tile + lane.at[e]), scale, e));
    lane.store<kRows>(true, row, j, values, stride);
  }
}

// The residual stream's words to shared memory, normalised with `vectors`, as activations. One row of few words stays in registers ...
__device__ __forceinline__ void normalise_short_row(const uint4* words, const float4* vectors, uint32_t epoch) {
  const int warp = gather_warp(), n_words = hidden_words();
  const LaneWord lane = lane_of_share(warp);
  NormWord norm[kGo];  // asked for before the words are waited for
#pragma unroll
  for (int j = 0; j < kGo; j++) norm[j].load(vectors, lane.has(j, n_words) ? lane.word + j * kGatherWords : 0);
  Share mine;
  mine.read(words, lane, epoch);
  mine.leave_stats(lane, 0, warp);
  gathers_sync();
  const float2 scale = scale_of_row(0);
  wait_free();
#pragma unroll
  for (int j = 0; j < kGo; j++) {
    if (j % (kGo / 4) == 0 && j * kGatherWords >= n_words) break;
    uint32_t values[3];
#pragma unroll
    for (int e = 0; e < 3; e++) values[e] = split(norm[j].apply(mine.value[j][e], scale, e));
    lane.store<1>(lane.has(j, n_words), 0, j, values);
  }
}

// ... a longer one and several rows go through shared memory.
__device__ __forceinline__ void normalise_long_row(const uint4* words, const float4* vectors, uint32_t epoch) {
  wait_free();
#pragma unroll 1
  for (int share = gather_warp(); share < norm_shares(); share += kGatherWarps) {
    const LaneWord lane = lane_of_share(share);
    Share mine;
    mine.read(words, lane, epoch);
    mine.leave_stats(lane, 0, share);
    mine.leave_values<1>(lane, 0);
  }
  gathers_sync();
  normalise_left<1>(lane_of_share(gather_warp()), 0, vectors, scale_of_row(0), kGatherWords);
}

template <int kRows>
__device__ __forceinline__ void normalise_rows(const uint4* words, const float4* vectors, uint32_t epoch) {
  const DecodeShared& s = shared();
  const int n_words = hidden_words();
  wait_free();
#pragma unroll 1
  for (int row = gather_warp(); row < s.params.n_rows; row += kGatherWarps) {
#pragma unroll 1
    for (int share = 0; share < norm_shares(); share++) {
      const LaneWord lane = lane_of_share(share);
      Share mine;
      mine.read(words + row * n_words, lane, epoch);
      mine.leave_stats(lane, row, share);
      mine.leave_values<kRows>(lane, row);
    }
    __syncwarp();
    normalise_left<kRows>(LaneWord(0), row, vectors, scale_of_row(row), kLaneWords);
  }
}

// The activations of a job that begins with a norm.
template <int D, int kRows>
__device__ __noinline__ void gather_normalised(JobKind kind, int layer, uint32_t epoch) {
  const DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const bool middle = kind == kJobUp && !p.parallel_residual;
  const uint4* const stream = words_at(middle ? p.words.middle : p.words.hidden, hidden_words(), layer, 0);
  const char* const vectors = kind == kJobHead ? s.final_norm : s.layers[layer] + (kind == kJobUp ? p.offsets.mlp_norm : p.offsets.attention_norm);
  const uint32_t stream_epoch = middle ? epoch : epoch - 1;
  constexpr bool kRegisters = kRows == 1 && D > 32 && D < 256;  // elsewhere too few are left
  if (kRegisters && norm_shares() == kGatherWarps) normalise_short_row(stream, reinterpret_cast<const float4*>(vectors), stream_epoch);
  else if (kRows == 1) normalise_long_row(stream, reinterpret_cast<const float4*>(vectors), stream_epoch);
  else normalise_rows<kRows>(stream, reinterpret_cast<const float4*>(vectors), stream_epoch);
  if (gather_thread() == 0) shared().meeting = 0;
  activations_ready();
}

// The embeddings of the rows' tokens as words of the residual stream before layer 0: each CTA publishes some.
__device__ inline void publish_embeddings(uint32_t epoch) {
  const DecodeShared& s = shared();
  const int n_words = hidden_words();
#pragma unroll 1
  for (int row = 0; row < s.params.n_rows; row++)
#pragma unroll 1
    for (int word = static_cast<int>(blockIdx.x) + gather_thread() * static_cast<int>(gridDim.x); word < n_words;
         word += kGathers * static_cast<int>(gridDim.x)) {
      const int column = column_of_word(word), more = has_three(word) ? 1 : 0;
      const auto bits = [&](int at) { return __float_as_uint(embedding(s.token[row], at)); };
      ptx::store_word(words_at(s.params.words.hidden, n_words, 0, row) + word, bits(column), bits(column + more), bits(column + 2 * more), epoch);
    }
}

// What the product warps need for a job that begins with a norm; run_job is the other end.
template <int D, int kRows>
__device__ __forceinline__ void gather_job(JobKind kind, int layer, uint32_t epoch) {
  const Job job(kind, layer);
  if (job.run.first < job.run.end) gather_normalised<D, kRows>(kind, layer, epoch);
}

}  // namespace cf::gpu
