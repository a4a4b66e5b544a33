// What the product warps do for a product that begins with a norm: the residual stream on its way from words into shared memory, normalised.
#pragma once

#include "decode_fetch.cuh"

namespace cf::gpu {

// A row of the residual stream is summed in shares, whoever takes them, so that it has the same bits in a launch of any size: of each warp with one
// row, and again for what lies behind kGo words of every lane. With several rows each warp has whole ones.
__device__ inline int product_warp() { return static_cast<int>(threadIdx.x) / kWarpLanes; }

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  return value;
}

// The lane's first word in a share.
__device__ inline LaneWord lane_of_share(int share) {
  return LaneWord(share % kProductWarps * kLaneWords + share / kProductWarps * (kGo * kFetchWords));
}

// A share's numbers in the registers of a warp, zeros where there are none.
struct Share {
  float value[kGo][3];

  __device__ __forceinline__ void read(const uint4* words, const LaneWord& lane, uint32_t epoch) {
    const int n_words = hidden_words();
    uint4 word[kGo];
    read_words<kGo>(
        words + lane.word, epoch, [](int j) { return j * kFetchWords; }, [&](int j) { return lane.has(j, n_words); }, word);
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
__device__ inline int norm_shares() { return (hidden_words() + kGo * kFetchWords - 1) / (kGo * kFetchWords) * kProductWarps; }

// Mean and 1 / deviation of a row, from the stats of its shares.
__device__ __forceinline__ float2 scale_of_row(int row) {
  const DecodeShared& s = shared();
  const int shares = norm_shares();
  const auto each_share = [&](auto add) {
#pragma unroll
    for (int share = 0; share < kProductWarps; share++) add(share);
#pragma unroll 1
    for (int share = kProductWarps; share < shares; share++) add(share);
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
  const int warp = product_warp(), n_words = hidden_words();
  const LaneWord lane = lane_of_share(warp);
  NormWord norm[kGo];  // asked for before the words are waited for
#pragma unroll
  for (int j = 0; j < kGo; j++) norm[j].load(vectors, lane.has(j, n_words) ? lane.word + j * kFetchWords : 0);
  Share mine;
  mine.read(words, lane, epoch);
  mine.leave_stats(lane, 0, warp);
  products_sync();
  const float2 scale = scale_of_row(0);
#pragma unroll
  for (int j = 0; j < kGo; j++) {
    if (j % (kGo / 4) == 0 && j * kFetchWords >= n_words) break;
    uint32_t values[3];
#pragma unroll
    for (int e = 0; e < 3; e++) values[e] = split(norm[j].apply(mine.value[j][e], scale, e));
    lane.store<1>(lane.has(j, n_words), 0, j, values);
  }
}

// ... a longer one and several rows go through shared memory.
__device__ __forceinline__ void normalise_long_row(const uint4* words, const float4* vectors, uint32_t epoch) {
#pragma unroll 1
  for (int share = product_warp(); share < norm_shares(); share += kProductWarps) {
    const LaneWord lane = lane_of_share(share);
    Share mine;
    mine.read(words, lane, epoch);
    mine.leave_stats(lane, 0, share);
    mine.leave_values<1>(lane, 0);
  }
  products_sync();
  normalise_left<1>(lane_of_share(product_warp()), 0, vectors, scale_of_row(0), kFetchWords);
}

template <int kRows>
__device__ __forceinline__ void normalise_rows(const uint4* words, const float4* vectors, uint32_t epoch) {
  static_assert(kMaxStepRows <= kProductWarps);
  const int n_words = hidden_words(), row = product_warp();
  if (row >= shared().params.n_rows) return;
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

// The residual stream before a layer, normalised with `vectors`.
template <int kRows>
__device__ __forceinline__ void fetch_normalised(const uint4* stream, const float4* vectors, uint32_t epoch) {
  if (kRows > 1) normalise_rows<kRows>(stream, vectors, epoch);
  else if (norm_shares() == kProductWarps) normalise_short_row(stream, vectors, epoch);
  else normalise_long_row(stream, vectors, epoch);
}

}  // namespace cf::gpu
