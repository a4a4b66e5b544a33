// RoPE -> KV append -> attention of one query position over the cache and itself. The cached positions of each head are cut into
// kv_splits pieces; a CTA takes one piece of one head at a time and leaves a partial result that phase_o combines.
#pragma once

#include "numbers.cuh"
#include "ptx.cuh"
#include "rope.cuh"
#include "vector.cuh"

namespace cf::gpu {

template <int D>
struct AttentionShared {
  float q[D];        // turned and scaled
  float k[D], v[D];  // of the new position, as the cache holds them
  float max[kBlockWarps], denominator[kBlockWarps];
  float values[kBlockWarps][D];
};

// A softmax over scores seen so far: sums are relative to exp(max).
__device__ inline float weight_of(float max, float common_max) { return max == -INFINITY ? 0.0f : expf(max - common_max); }

// Where lanes stand: kLanes of them share a position, each holding every kLanes-th chunk of the head.
template <int D>
struct LaneTile {
  static constexpr int kLanes = D <= 96 ? 4 : D / 16;     // so many that query and sum stay in registers
  static constexpr int kPositions = kWarpLanes / kLanes;  // of a warp at a time
  static constexpr int kHeadChunks = D / kChunkElements;
  static constexpr int kChunks = (kHeadChunks + kLanes - 1) / kLanes;  // of a lane; the last one may lie beyond the head
};

// The running softmax and weighted sum of values of the positions that one group of kLanes lanes has seen.
template <int D, class Kv>
struct RunningAttention {
  using Tile = LaneTile<D>;
  float q[Tile::kChunks][kChunkElements], values[Tile::kChunks][kChunkElements];
  float max, denominator;
  int part;  // of the head: this lane's first chunk

  static __device__ bool inside(int part, int i) { return Tile::kHeadChunks % Tile::kLanes == 0 || part + i * Tile::kLanes < Tile::kHeadChunks; }

  __device__ explicit RunningAttention(const float* query) : max(-INFINITY), denominator(0), part(static_cast<int>(threadIdx.x) % Tile::kLanes) {
#pragma unroll
    for (int i = 0; i < Tile::kChunks; i++)
#pragma unroll
      for (int e = 0; e < kChunkElements; e++) {
        q[i][e] = inside(part, i) ? query[(part + i * Tile::kLanes) * kChunkElements + e] : 0.0f;
        values[i][e] = 0;
      }
  }

  // Sums over the lanes of a group.
  static __device__ float group_sum(float value) {
#pragma unroll
    for (int lanes = Tile::kLanes / 2; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
  }

  template <class Value>
  __device__ void take(float score, Value value) {
    const float new_max = fmaxf(max, score), keep = weight_of(max, new_max), weight = expf(score - new_max);
    denominator = denominator * keep + weight;
#pragma unroll
    for (int i = 0; i < Tile::kChunks; i++)
#pragma unroll
      for (int e = 0; e < kChunkElements; e++) values[i][e] = values[i][e] * keep + weight * value(i, e);
    max = new_max;
  }

  // A cached position, or none (valid false): k and v point at its head. All lanes of the warp call this. load(address, wanted) gives
  // 16 bytes, or zeros.
  template <class Load>
  __device__ void take_cached(const uint16_t* k, const uint16_t* v, bool valid, Load load) {
    uint4 k_chunks[Tile::kChunks], v_chunks[Tile::kChunks];
#pragma unroll
    for (int i = 0; i < Tile::kChunks; i++) k_chunks[i] = load(k + (part + i * Tile::kLanes) * kChunkElements, valid && inside(part, i));
#pragma unroll
    for (int i = 0; i < Tile::kChunks; i++) v_chunks[i] = load(v + (part + i * Tile::kLanes) * kChunkElements, valid && inside(part, i));
    float product = 0;
#pragma unroll
    for (int i = 0; i < Tile::kChunks; i++)
#pragma unroll
      for (int e = 0; e < kChunkElements; e++) product = fmaf(q[i][e], element(k_chunks[i], e), product);
    const float score = group_sum(product);
    if (valid) take(score, [&](int i, int e) { return element(v_chunks[i], e); });
  }

  // The new position, from shared memory; only the first group of the warp takes it.
  __device__ void take_new(const float* k, const float* v) {
    float product = 0;
#pragma unroll
    for (int i = 0; i < Tile::kChunks; i++)
#pragma unroll
      for (int e = 0; e < kChunkElements; e++)
        if (inside(part, i)) product = fmaf(q[i][e], k[(part + i * Tile::kLanes) * kChunkElements + e], product);
    const float score = group_sum(product);
    if (threadIdx.x % kWarpLanes < Tile::kLanes)
      take(score, [&](int i, int e) { return inside(part, i) ? v[(part + i * Tile::kLanes) * kChunkElements + e] : 0.0f; });
  }

  // Adds the groups of the warp up; the result is right in the first group.
  __device__ void merge_groups() {
#pragma unroll 1
    for (int lanes = Tile::kLanes; lanes < kWarpLanes; lanes *= 2) {
      const float other_max = __shfl_xor_sync(0xffffffffu, max, lanes), common = fmaxf(max, other_max);
      const float mine = weight_of(max, common), others = weight_of(other_max, common);
      denominator = denominator * mine + __shfl_xor_sync(0xffffffffu, denominator, lanes) * others;
#pragma unroll
      for (int i = 0; i < Tile::kChunks; i++)
#pragma unroll
        for (int e = 0; e < kChunkElements; e++) values[i][e] = values[i][e] * mine + __shfl_xor_sync(0xffffffffu, values[i][e], lanes) * others;
      max = common;
    }
  }

  // values: [warps][D]
  __device__ void store(float* shared_values, float* shared_max, float* shared_denominator) const {
    const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
    if (threadIdx.x % kWarpLanes >= Tile::kLanes) return;
#pragma unroll
    for (int i = 0; i < Tile::kChunks; i++)
#pragma unroll
      for (int e = 0; e < kChunkElements; e++)
        if (inside(part, i)) shared_values[warp * D + (part + i * Tile::kLanes) * kChunkElements + e] = values[i][e];
    if (part == 0) shared_max[warp] = max, shared_denominator[warp] = denominator;
  }

 private:
  static __device__ float element(const uint4& chunk, int e) {
    const uint32_t pairs[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
    const float2 pair = Kv::unpack(pairs[e / 2]);
    return e % 2 ? pair.y : pair.x;
  }
};

// Offset of a position's vectors of one head, in elements.
__device__ inline int64_t kv_offset(const KvView& kv, int position, int kv_head) {
  int64_t offset = kv_head * kv.head_stride;
  if (!kv.page_table) return offset + position * kv.token_stride;
  return offset + kv.page_table[position / kv.page_tokens] * kv.page_stride + position % kv.page_tokens * kv.token_stride;
}

// Turns the query and the new key, rounds the new key and value as the cache holds them, and appends them if this CTA is the one
// to do so (one per key head).
template <int D, class Kv>
__device__ void prepare_head(const BlockParams& p, int head, bool appends, int position, AttentionShared<D>& shared) {
  const int kv_head = head / (p.shape.n_heads / p.shape.n_kv_heads);
  const float* q = p.work.qkv + head * D;
  const float* k = p.work.qkv + (p.shape.n_heads + kv_head) * D;
  const float* v = k + p.shape.n_kv_heads * D;
  const float scale = 1.0f / sqrtf(static_cast<float>(D));
  for (int d = threadIdx.x; d < D; d += kBlockThreads) {
    shared.q[d] = rotated(q, d, p.shape, position) * scale;
    const float new_k = rotated(k, d, p.shape, position), new_v = v[d];
    const uint16_t k_bits = Kv::round(new_k), v_bits = Kv::round(new_v);
    shared.k[d] = Kv::widen(k_bits), shared.v[d] = Kv::widen(v_bits);
    if (!appends) continue;
    const int64_t at = kv_offset(p.kv, position, kv_head) + d;
    static_cast<uint16_t*>(p.kv.k)[at] = k_bits, static_cast<uint16_t*>(p.kv.v)[at] = v_bits;
    if (p.io.new_k) store_element(p.io.new_k, p.io.dtype, kv_head * D + d, new_k);
    if (p.io.new_v) store_element(p.io.new_v, p.io.dtype, kv_head * D + d, new_v);
  }
}

// Adds the warps up in order and leaves the piece's partial result in the workspace.
template <int D>
__device__ void store_partial(const AttentionShared<D>& shared, float* partial) {
  float max = -INFINITY;
#pragma unroll
  for (int warp = 0; warp < kBlockWarps; warp++) max = fmaxf(max, shared.max[warp]);
  for (int d = threadIdx.x; d < D; d += kBlockThreads) {
    float value = 0;
    for (int warp = 0; warp < kBlockWarps; warp++) value += shared.values[warp][d] * weight_of(shared.max[warp], max);
    partial[d] = value;
  }
  if (threadIdx.x == 0) {
    float denominator = 0;
    for (int warp = 0; warp < kBlockWarps; warp++) denominator += shared.denominator[warp] * weight_of(shared.max[warp], max);
    partial[D] = max, partial[D + 1] = denominator;
  }
}

template <int D, class Kv>
__device__ void phase_attention(const BlockParams& p, int position, void* memory) {
  static_assert(sizeof(AttentionShared<D>) == attention_shared_bytes(D));
  using Tile = LaneTile<D>;
  auto& shared = *static_cast<AttentionShared<D>*>(memory);
  const int splits = p.shape.kv_splits, group = p.shape.n_heads / p.shape.n_kv_heads;
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes, lane = static_cast<int>(threadIdx.x) % kWarpLanes;
#pragma unroll 1
  for (int item = blockIdx.x; item < p.shape.n_heads * splits; item += gridDim.x) {
    const int head = item / splits, split = item % splits, kv_head = head / group;
    prepare_head<D, Kv>(p, head, split == 0 && head % group == 0, position, shared);
    __syncthreads();
    RunningAttention<D, Kv> running(shared.q);
    const int begin = static_cast<int>(static_cast<int64_t>(position) * split / splits),
              end = static_cast<int>(static_cast<int64_t>(position) * (split + 1) / splits);
#pragma unroll 1
    for (int first = begin + warp * Tile::kPositions; first < end; first += kBlockWarps * Tile::kPositions) {
      const int at = first + lane / Tile::kLanes;
      const bool valid = at < end;
      const int64_t offset = kv_offset(p.kv, valid ? at : first, kv_head);
      running.take_cached(static_cast<const uint16_t*>(p.kv.k) + offset, static_cast<const uint16_t*>(p.kv.v) + offset, valid, ptx::load_streamed);
    }
    if (split == 0 && warp == 0) running.take_new(shared.k, shared.v);
    running.merge_groups();
    running.store(shared.values[0], shared.max, shared.denominator);
    __syncthreads();
    store_partial<D>(shared, p.work.partials + static_cast<int64_t>(item) * (D + kPartialTail));
    __syncthreads();  // before the next item's prepare_head overwrites shared
  }
}

}  // namespace cf::gpu
