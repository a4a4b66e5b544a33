// What the product warps do for a product that begins with a norm: the residual stream on its way from words into shared memory, normalised.
#pragma once

#include "decode_fetch.cuh"

namespace cf::gpu {

// A row of the residual stream is summed in shares, whoever takes them, so that it has the same bits in a launch of any size: of each warp with one
// row, and again for what lies behind kGo words of every lane.
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

// The sum of squares of a share's words around its mean, in a lane. Sums of products are spelled out here and below: one row and several take
// different ways to the same bits, and the compiler might fuse them differently.
struct Squares {
  float first = 0, others = 0;  // of the first number of each word; of the other two
  __device__ void add(bool there, float a, float b, float c) { first += there ? __fmul_rn(a, a) : 0.0f, others += there ? fmaf(c, c, b * b) : 0.0f; }
  __device__ float sum(bool three) const { return three ? first + others : first; }
};

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
    float mean = 0;
    Squares squares;
    if (shared().params.norm == CF_NORM_LAYER) {
#pragma unroll
      for (int j = 0; j < kGo; j++) mean += value[j][0] + value[j][1] + value[j][2];
      mean = warp_sum(mean) * shared().inverse_counts[share];
    }
#pragma unroll
    for (int j = 0; j < kGo; j++) squares.add(lane.has(j, n_words), value[j][0] - mean, value[j][1] - mean, value[j][2] - mean);
    const float sum = warp_sum(squares.sum(lane.three));
    if (threadIdx.x % kWarpLanes == 0) shared().stats[row][share] = {mean, sum};
  }

  // As they are, where activations will be.
  __device__ __forceinline__ void leave_values(const LaneWord& lane) const {
    const int n_words = hidden_words();
#pragma unroll
    for (int j = 0; j < kGo; j++) {
      const uint32_t values[3] = {__float_as_uint(value[j][0]), __float_as_uint(value[j][1]), __float_as_uint(value[j][2])};
      lane.store_at(lane.tile<1>(0, j * kFetchWords), lane.has(j, n_words), values);
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
  each_share([&](int share) { mean = fmaf(s.stats[row][share].x, s.counts[share], mean); });
  mean *= s.inverse_hidden;
  each_share([&](int share) {
    const float2 of = s.stats[row][share];
    squares += fmaf((of.x - mean) * (of.x - mean), s.counts[share], of.y);
  });
  return {mean, rsqrtf(fmaf(squares, s.inverse_hidden, s.params.norm_eps))};
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
    return fmaf((value - scale.x) * scale.y, weight, bias);
  }
};

// Values that leave_values() left become normalised activations: the lane's words.
__device__ __forceinline__ void normalise_left(const LaneWord& lane, const float4* vectors, float2 scale) {
  const int n_words = hidden_words();
#pragma unroll 2
  for (int j = 0; j * kFetchWords < n_words; j++) {
    if (!lane.has(j, n_words)) continue;
    NormWord norm;
    norm.load(vectors, lane.word + j * kFetchWords);
    char* const tile = lane.tile<1>(0, j * kFetchWords);
    uint32_t values[3];
#pragma unroll
    for (int e = 0; e < 3; e++) values[e] = split(norm.apply(*reinterpret_cast<const float*>(tile + lane.at[e]), scale, e));
    lane.store_at(tile, true, values);
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
    lane.store_at(lane.tile<1>(0, j * kFetchWords), lane.has(j, n_words), values);
  }
}

// ... a longer one goes through shared memory.
__device__ __forceinline__ void normalise_long_row(const uint4* words, const float4* vectors, uint32_t epoch) {
#pragma unroll 1
  for (int share = product_warp(); share < norm_shares(); share += kProductWarps) {
    const LaneWord lane = lane_of_share(share);
    Share mine;
    mine.read(words, lane, epoch);
    mine.leave_stats(lane, 0, share);
    mine.leave_values(lane);
  }
  products_sync();
  normalise_left(lane_of_share(product_warp()), vectors, scale_of_row(0));
}

// Of several rows each has kProductWarps / kRows warps, which take kRows shares at a time: first their words become values and stats. The same sums
// in the same order as a Share's, but with words of all these shares on their way together.
template <int kRows>
__device__ __forceinline__ void leave_shares(const uint4* words, int row, int first_share, uint32_t epoch) {
  constexpr int kTogether = kGo / kRows;  // words of a lane in a share
  static_assert(kGo % kTogether == 0);
  DecodeShared& s = shared();
  const int n_words = hidden_words();
  const bool centred = s.params.norm == CF_NORM_LAYER;
#pragma unroll 1
  for (int go = 0; go * kGo * kFetchWords < n_words; go++) {
    const LaneWord lane = lane_of_share(go * kProductWarps + first_share);
    const auto offset = [](int share, int j) { return share * kLaneWords + j * kFetchWords; };  // from the lane's first word
    const auto has = [&](int share, int j) { return lane.active && lane.word + offset(share, j) < n_words; };
    float sums[kRows] = {};
    Squares squares[kRows];
#pragma unroll 1
    for (int j = 0; j < kGo && (go * kGo + j) * kFetchWords < n_words; j += kTogether) {
      uint4 word[kGo];
      read_words<kGo>(
          words + lane.word, epoch, [&](int i) { return offset(i % kRows, j + i / kRows); }, [&](int i) { return has(i % kRows, j + i / kRows); },
          word);
#pragma unroll
      for (int i = 0; i < kGo; i++) {
        const int share = i % kRows;
        const bool there = has(share, j + i / kRows);
        const float a = word_value(word[i], 0), b = lane.three ? word_value(word[i], 1) : 0.0f, c = lane.three ? word_value(word[i], 2) : 0.0f;
        if (centred) sums[share] += a + b + c;
        else squares[share].add(there, a, b, c);
        const uint32_t values[3] = {word[i].x, word[i].y, word[i].z};
        lane.store_at(lane.tile<kRows>(row, offset(share, j + i / kRows)), there, values);
      }
    }
#pragma unroll
    for (int share = 0; share < kRows; share++) {
      const int number = go * kProductWarps + first_share + share;
      float mean = 0;
      if (centred) {
        mean = warp_sum(sums[share]) * s.inverse_counts[number];
#pragma unroll 1
        for (int j = 0; j < kGo && has(share, j); j++) {
          const char* const tile = lane.tile<kRows>(row, offset(share, j));
          const auto value = [&](int e) { return *reinterpret_cast<const float*>(tile + lane.at[e]) - mean; };
          squares[share].add(true, value(0), value(1), value(2));
        }
      }
      const float sum = warp_sum(squares[share].sum(lane.three));
      if (threadIdx.x % kWarpLanes == 0) s.stats[row][number] = {mean, sum};
    }
  }
}

// ... and then each warp normalises its shares' columns of all rows.
template <int kRows>
__device__ __forceinline__ void normalise_rows(const uint4* words, const float4* vectors, uint32_t epoch) {
  constexpr int kWarps = kProductWarps / kRows;  // of a row
  static_assert(kMaxStepRows <= kProductWarps && kWarps * kRows == kProductWarps);
  const int n_words = hidden_words(), n_rows = shared().params.n_rows, warp = product_warp();
#pragma unroll
  for (int j = 0; j < kGo; j++)
    if (lane_of_share(warp).has(j, n_words)) ptx::prefetch(vectors + 2 * (lane_of_share(warp).word + j * kFetchWords));
  if (warp / kWarps < n_rows) leave_shares<kRows>(words + warp / kWarps * n_words, warp / kWarps, warp % kWarps * kRows, epoch);
  products_sync();
  const float2 scale_of_lane = scale_of_row(min(static_cast<int>(threadIdx.x) % kWarpLanes, n_rows - 1));
#pragma unroll 1
  for (int share = warp; share < norm_shares(); share += kProductWarps) {
    const LaneWord lane = lane_of_share(share);
    NormWord norm[kGo];
#pragma unroll
    for (int j = 0; j < kGo; j++) norm[j].load(vectors, lane.has(j, n_words) ? lane.word + j * kFetchWords : 0);
#pragma unroll 1
    for (int row = 0; row < n_rows; row++) {
      const float2 scale = {__shfl_sync(0xffffffffu, scale_of_lane.x, row), __shfl_sync(0xffffffffu, scale_of_lane.y, row)};
#pragma unroll
      for (int j = 0; j < kGo; j++) {
        if (!lane.has(j, n_words)) break;
        char* const tile = lane.tile<kRows>(row, j * kFetchWords);
        uint32_t values[3];
#pragma unroll
        for (int e = 0; e < 3; e++) values[e] = split(norm[j].apply(*reinterpret_cast<const float*>(tile + lane.at[e]), scale, e));
        lane.store_at(tile, true, values);
      }
    }
  }
}

// The residual stream before a layer, normalised with `vectors`.
template <int kRows>
__device__ __forceinline__ void fetch_normalised(const uint4* stream, const float4* vectors, uint32_t epoch) {
  if constexpr (kRows > 1) normalise_rows<kRows>(stream, vectors, epoch);
  else if (norm_shares() == kProductWarps) normalise_short_row(stream, vectors, epoch);
  else normalise_long_row(stream, vectors, epoch);
}

}  // namespace cf::gpu
