// Attention of one position in a decode step. Cached positions are cut into parts of kPartTokens. Parts that were complete before the
// launch come through the ring, to whichever CTA's turn it is; the positions behind them belong to the owner of the head, who has
// written them itself, so that nothing has to be ordered between CTAs. All parts are computed alike and added up in order, so neither
// where the border lies nor how many CTAs there are shows in the result.
#pragma once

#include "decode_product.cuh"
#include "numbers.cuh"
#include "phase_attention.cuh"
#include "ring.cuh"
#include "rope.cuh"
#include "words.cuh"

namespace cf::gpu {

template <int D>
struct DecodeAttention {
  static constexpr int kChunkTokens = kRingChunkBytes / (2 * D) < 64 ? kRingChunkBytes / (2 * D) : 64;  // of one chunk of the ring
  static constexpr int kPartChunks = 2 * (kPartTokens / kChunkTokens);                                  // K, V, K, V, ...
  static constexpr int kHeadWords = D / kTileRows * kWordsPerStrip;

  // In the memory of the activations, which attention needs before any product does.
  struct Scratch {
    float *raw, *q, *values, *local, *out, *parts;  // [group + 2, D] as published; [group, D] turned and scaled; [warps, D]; [2, D + 2]; [D]; words
    __device__ Scratch(void* memory, int group) {
      raw = static_cast<float*>(memory), q = raw + (group + 2) * D, values = q + group * D, local = values + kConsumerWarps * D,
      out = local + 2 * (D + 2);
      parts = out + D;
    }
  };

  static __device__ char* address(const DecodeParams& p, const DecodeShared& s, int layer, int kv, int kv_head, int token) {
    const int number = token >> p.page_shift, in_page = token & ((1 << p.page_shift) - 1);
    const int page = number < kPageTableShared ? s.page_table[number] : p.page_table[number];
    const int64_t vector = (static_cast<int64_t>((layer * 2 + kv) * p.n_kv_heads + kv_head) << p.page_shift) + in_page;
    return p.pages + page * p.page_bytes + vector * (2 * D);
  }

  // ---- The producing thread: the parts of this CTA, K before V.
  static __device__ bool load_parts(RingWriter& ring, int layer) {
    const DecodeParams& p = ring.p;
    const int tasks = ring.s.parts * p.n_kv_heads;
#pragma unroll 1
    for (int task = first_task(p); task < tasks; task += static_cast<int>(gridDim.x)) {
      const int first = task / p.n_kv_heads * kPartTokens, kv_head = task % p.n_kv_heads;
#pragma unroll 1
      for (int chunk = 0; chunk < kPartChunks; chunk++) {
        const int token = first + chunk / 2 * kChunkTokens;
        char* to = ring.claim(kChunkTokens * 2 * D);
        if (!to) return false;
#pragma unroll 1
        for (int done = 0, run; done < kChunkTokens; done += run) {  // as far as a page goes
          run = min(kChunkTokens - done, (1 << p.page_shift) - ((token + done) & ((1 << p.page_shift) - 1)));
          ptx::bulk_copy(to + done * 2 * D, address(p, ring.s, layer, chunk % 2, kv_head, token + done), static_cast<uint32_t>(run) * 2 * D,
                         ring.barrier());
        }
        ring.advance();
      }
    }
    return true;
  }

  // ---- The consumers.

  // Task part * n_kv_heads + head goes to the CTAs in turn, those that own a head last.
  static __device__ int first_task(const DecodeParams& p) {
    const int n = static_cast<int>(gridDim.x), first = static_cast<int>(blockIdx.x) - p.n_kv_heads % n;
    return first < 0 ? first + n : first;
  }

  // raw = the queries of a group as published, and, with_kv, its key and value.
  static __device__ void read_heads(const DecodeParams& p, DecodeShared& s, const uint4* qkv, int kv_head, int group, bool with_kv, uint32_t epoch,
                                    float* raw) {
    const int q_words = group * kHeadWords, words = with_kv ? q_words + 2 * kHeadWords : q_words;
#pragma unroll 1
    for (int first = threadIdx.x; first < words; first += kConsumers) {
      int at = kv_head * q_words + first;
      if (first >= q_words + kHeadWords) at = (p.n_heads + p.n_kv_heads + kv_head) * kHeadWords + first - q_words - kHeadWords;
      else if (first >= q_words) at = (p.n_heads + kv_head) * kHeadWords + first - q_words;
      uint4 word[1];
      read_words<1>(
          p, s, qkv, epoch, [&](int) { return at; }, [](int) { return true; }, word);
      const int row = first / kWordsPerStrip * kTileRows + first % kWordsPerStrip * 3;
      for (int i = 0; i < 3; i++)
        if (first % kWordsPerStrip * 3 + i < kTileRows) raw[row + i] = word_value(word[0], i);
    }
  }

  static __device__ float turned(const DecodeParams& p, const DecodeShared& s, const float* head, int d) {
    if (d >= p.rotary_dim) return head[d];
    const int half = p.rotary_dim / 2, pair = d < half ? d : d - half;
    return d < half ? head[d] * s.cosine[pair] - head[d + half] * s.sine[pair] : head[d] * s.cosine[pair] + head[d - half] * s.sine[pair];
  }

  // The queries of a group: words -> scratch.q. A barrier stands at the end.
  static __device__ __noinline__ void prepare_queries(const DecodeParams& p, DecodeShared& s, const Scratch& scratch, const uint4* qkv, int kv_head,
                                                      int group, bool with_kv, uint32_t epoch) {
    read_heads(p, s, qkv, kv_head, group, with_kv, epoch, scratch.raw);
    consumers_sync();
    const float scale = 1.0f / sqrtf(static_cast<float>(D));
#pragma unroll 1
    for (int i = threadIdx.x; i < group * D; i += kConsumers) scratch.q[i] = turned(p, s, scratch.raw + i / D * D, i % D) * scale;
    consumers_sync();
  }

  // Positions 0 .. count - 1 of a part, in runs where s.keys and s.values say: scratch.values, s.max and s.denominator of each warp.
  template <class Kv>
  static __device__ __noinline__ void run_part(DecodeShared& s, float* values, const float* q, int count) {
    using Tile = LaneTile<D>;
    const int warp = static_cast<int>(threadIdx.x) / kWarpLanes, lane = static_cast<int>(threadIdx.x) % kWarpLanes;
    RunningAttention<D, Kv> running(q);
    const auto load = [](const uint16_t* from, bool wanted) { return wanted ? *reinterpret_cast<const uint4*>(from) : uint4{0, 0, 0, 0}; };
#pragma unroll 1
    for (int first = warp * Tile::kPositions; first < count; first += kConsumerWarps * Tile::kPositions) {
      const int position = first + lane / Tile::kLanes;
      const bool valid = position < count;
      const int at = valid ? position : first, run = at / kRunTokens, offset = at % kRunTokens * D;
      running.take_cached(reinterpret_cast<const uint16_t*>(s.keys[run]) + offset, reinterpret_cast<const uint16_t*>(s.values[run]) + offset, valid,
                          load);
    }
    running.merge_groups();
    running.store(values, s.max, s.denominator);
  }

  // Value i of a part's result: maximum, denominator, then D values; from what run_part left.
  static __device__ __noinline__ float part_value(const DecodeShared& s, const Scratch& scratch, int i) {
    float max = -INFINITY;
#pragma unroll
    for (int warp = 0; warp < kConsumerWarps; warp++) max = fmaxf(max, s.max[warp]);
    if (i == 0) return max;
    float sum = 0;
#pragma unroll 2
    for (int warp = 0; warp < kConsumerWarps; warp++)
      sum += (i == 1 ? s.denominator[warp] : scratch.values[warp * D + i - 2]) * weight_of(s.max[warp], max);
    return sum;
  }

  template <class Kv>
  static __device__ __noinline__ uint32_t attend_parts(const DecodeParams& p, DecodeShared& s, const char* ring_memory, uint32_t place, void* memory,
                                                       const uint4* qkv, uint32_t epoch) {
    RingReader ring(s, ring_memory, p.ring, place);
    const int group = p.n_heads / p.n_kv_heads, tasks = s.parts * p.n_kv_heads;
    const Scratch scratch(memory, group);
#pragma unroll 1
    for (int task = first_task(p); task < tasks; task += static_cast<int>(gridDim.x)) {
      const int part = task / p.n_kv_heads, kv_head = task % p.n_kv_heads;
      prepare_queries(p, s, scratch, qkv, kv_head, group, false, epoch);
#pragma unroll 1
      for (int i = 0; i < kPartChunks; i++) {
        const char* const chunk = ring.wait_ahead(i);
        constexpr int kRuns = kChunkTokens / kRunTokens;
        if (threadIdx.x < kRuns) (i % 2 ? s.values : s.keys)[i / 2 * kRuns + threadIdx.x] = chunk + threadIdx.x * (kRunTokens * 2 * D);
      }
      consumers_sync();
#pragma unroll 1
      for (int h = 0; h < group; h++) {
        run_part<Kv>(s, scratch.values, scratch.q + h * D, kPartTokens);
        consumers_sync();
        if (threadIdx.x < partial_words(D)) {
          const int i = static_cast<int>(threadIdx.x);
          float v[3];
#pragma unroll
          for (int e = 0; e < 3; e++) {
            const int at = i == 0 ? e : 3 * i - 1 + e;  // word 0: maximum, denominator
            v[e] = (i == 0 ? e < 2 : at < D + 2) ? part_value(s, scratch, at) : 0.0f;
          }
          ptx::store_word(p.words.partials + (static_cast<int64_t>((kv_head * group + h) * p.max_parts) + part) * partial_words(D) + i, v[0], v[1],
                          v[2], epoch);
        }
        consumers_sync();
      }
#pragma unroll 1
      for (int i = 0; i < kPartChunks; i++) ring.release();
    }
    return ring.place();
  }

  // For the heads that this CTA owns: appends K and V of the new position, attends to what lies behind the complete parts, adds all parts
  // up and publishes the result.
  template <class Kv>
  static __device__ __noinline__ void attend_owned(const DecodeParams& p, DecodeShared& s, void* memory, const uint4* qkv, uint4* heads, int layer,
                                                   uint32_t epoch) {
    const int group = p.n_heads / p.n_kv_heads, position = s.position;
    const Scratch scratch(memory, group);
    for (int kv_head = static_cast<int>(blockIdx.x); kv_head < p.n_kv_heads; kv_head += static_cast<int>(gridDim.x)) {
      float *const raw_k = scratch.raw + group * D, *const raw_v = raw_k + D;
      prepare_queries(p, s, scratch, qkv, kv_head, group, true, epoch);
#pragma unroll 1
      for (int d = threadIdx.x; d < D; d += kConsumers) {
        reinterpret_cast<uint16_t*>(address(p, s, layer, 0, kv_head, position))[d] = Kv::round(turned(p, s, raw_k, d));
        reinterpret_cast<uint16_t*>(address(p, s, layer, 1, kv_head, position))[d] = Kv::round(raw_v[d]);
      }
      consumers_sync();
      const int last_part = position / kPartTokens;
#pragma unroll 1
      for (int h = 0; h < group; h++) {
        const int head = kv_head * group + h;
#pragma unroll 1
        for (int part = s.parts; part <= last_part; part++) {
          const int first = part * kPartTokens, run = static_cast<int>(threadIdx.x) % (kPartTokens / kRunTokens);
          if (threadIdx.x < 2 * (kPartTokens / kRunTokens) && first + run * kRunTokens <= position) {
            const int kv = static_cast<int>(threadIdx.x) / (kPartTokens / kRunTokens);
            (kv ? s.values : s.keys)[run] = address(p, s, layer, kv, kv_head, first + run * kRunTokens);
          }
          consumers_sync();
          run_part<Kv>(s, scratch.values, scratch.q + h * D, min(kPartTokens, position + 1 - first));
          consumers_sync();
#pragma unroll 1
          for (int i = threadIdx.x; i < D + 2; i += kConsumers) scratch.local[(part - s.parts) * (D + 2) + i] = part_value(s, scratch, i);
          consumers_sync();
        }
        combine(p, s, scratch.parts, scratch.local, scratch.out, head, last_part, epoch);
        consumers_sync();
#pragma unroll 1
        for (int word = threadIdx.x; word < kHeadWords; word += kConsumers) {
          const int row = word / kWordsPerStrip * kTileRows + word % kWordsPerStrip * 3;
          ptx::store_word(heads + head * kHeadWords + word, scratch.out[row], scratch.out[min(row + 1, D - 1)], scratch.out[min(row + 2, D - 1)],
                          epoch);
        }
        consumers_sync();
      }
    }
  }

 private:
  // out = all parts of a head, added up in order. Those that other CTAs computed come as words, kAtOnce parts at a time, to scratch.parts.
  static __device__ __noinline__ void combine(const DecodeParams& p, DecodeShared& s, float* parts, const float* local, float* out, int head,
                                              int last_part, uint32_t epoch) {
    float max = -INFINITY, denominator = 0, sum = 0;
    const int d = static_cast<int>(threadIdx.x);  // D <= kConsumers
    const uint4* const base = p.words.partials + static_cast<int64_t>(head) * p.max_parts * partial_words(D);
#pragma unroll 1
    for (int first = 0; first <= last_part; first += kPartsAtOnce) {
      const int count = min(kPartsAtOnce, s.parts - first), words = count * partial_words(D);
#pragma unroll 1
      for (int at = threadIdx.x; at < words; at += 4 * kConsumers) {
        uint4 word[4];
        read_words<4>(
            p, s, base + first * partial_words(D), epoch, [&](int j) { return at + j * kConsumers; },
            [&](int j) { return at + j * kConsumers < words; }, word);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int index = at + j * kConsumers;
          if (index >= words) break;
          float* const to = parts + index * 3;
          to[0] = word_value(word[j], 0), to[1] = word_value(word[j], 1), to[2] = word_value(word[j], 2);
        }
      }
      consumers_sync();
      if (d < D) {
#pragma unroll 1
        for (int part = first; part <= min(last_part, first + kPartsAtOnce - 1); part++) {
          const bool remote = part < s.parts;
          const float* const values = remote ? parts + (part - first) * partial_words(D) * 3 : local + (part - s.parts) * (D + 2);
          const float part_max = values[0], value = values[(remote ? 3 : 2) + d];
          const float both = fmaxf(max, part_max), mine = weight_of(max, both), theirs = weight_of(part_max, both);
          denominator = denominator * mine + values[1] * theirs;
          sum = sum * mine + value * theirs;
          max = both;
        }
      }
      consumers_sync();
    }
    if (d < D) out[d] = sum / denominator;
  }
};

}  // namespace cf::gpu
