// Attention of the rows of a decode step, by the attention warps. Cached positions are cut into parts of part_tokens(). Of those that were
// complete before the launch the CTAs of the owner's cluster take the first ones, as many as are their share of the work, and hand them
// on through distributed shared memory; the others go to whichever CTA's turn it is, and come as words. The positions behind them belong
// to the owner of a row and head, or of a row and key head, who appends what is new and adds all parts up in order. All parts are computed alike, so
// neither where the borders lie nor how many CTAs there are, or in which clusters, shows in the result.
//
// Keys and values of a part are copied into buffers of their own, asked for a part ahead: they do not depend on what the other CTAs do. What
// an earlier step of this launch appended, this CTA wrote; what this step appends goes straight into the buffer.
#pragma once

#include "cluster.cuh"
#include "decode_product.cuh"
#include "numbers.cuh"
#include "ring.cuh"
#include "rope.cuh"
#include "trace.cuh"
#include "words.cuh"

namespace cf::gpu {

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

template <int D>
struct DecodeAttention {
  static constexpr int kHeadWords = D / kTileRows * kWordsPerStrip;
  static constexpr int kVector = D + 4;  // a partial result in scratch memory: maximum, denominator, padding, values
  static constexpr int kPartTokens = part_tokens(D), kPartsAtOnce = parts_at_once(D);
  static constexpr int kWarpTokens = kPartTokens / kAttentionWarps;

  struct Scratch {
    float *q, *values, *local, *parts,
        *angles;  // [group, D]; [2, warps, D]; [group, kMaxLocalParts, kVector]; [kPartsAtOnce, kVector]; [rows, 2, rotary / 2]
    __device__ Scratch() {
      const int group = shared().group;
      q = scratch_memory(), values = q + group * D, local = values + 2 * kAttentionWarps * D, parts = local + group * kMaxLocalParts * kVector;
      angles = parts + kPartsAtOnce * kVector;
    }
  };

  struct Task {
    int row;  // the owner's; the first of the sequence
    int kv_head, part;
    bool owned;
    int head, heads;  // of the group
  };

  static __device__ int position_of(int row) { return shared().params.rows[row].position + shared().step; }
  // Of a token's vector in a row's keys, and in its values: bytes from `k` or `v`.
  static __device__ int64_t offset_of(int row_of_launch, int layer, int kv_head, int token) {
    const DecodeShared& s = shared();
    const DecodeRow& row = s.params.rows[row_of_launch];
    const int number = row.pages.page_of(token), table = s.table_at[row.first];
    const int page = table >= 0 ? s.page_table[table + number] : row.page_table[number];
    const auto units = [](int n, uint32_t stride) { return static_cast<uint64_t>(static_cast<uint32_t>(n)) * stride; };
    const uint64_t vector =
        units(layer, row.layer_stride) + units(kv_head, row.head_stride) + units(token - number * row.pages.tokens, row.token_stride);
    return page * row.page_bytes + static_cast<int64_t>(vector * kKvUnitBytes);
  }

  // The parts that this CTA attends to in a layer of a step, in order, run by run: first those for which others wait. Owners of all rows are
  // numbered; cluster c of n has c, c + n, ..., and its CTAs are these in turn.
  struct Parts {
    int step, layer;
    int far, end_of_far;  // number among all heads' far parts
    int turn, owned;      // of the cluster's CTAs whose near parts come next; number of an owner

    __device__ Parts(int of_step, int of_layer) : step(of_step), layer(of_layer), turn(1) {
      const DecodeShared& s = shared();
      const int size = s.params.cluster_size, cluster = s.turned[layer], rank = static_cast<int>(blockIdx.x) % size, cta = cluster * size + rank;
      const bool first = cta < s.plan.first_ctas;
      const int ctas = first ? s.plan.first_ctas : static_cast<int>(gridDim.x) - s.plan.first_ctas, place = first ? cta : cta - s.plan.first_ctas;
      const int before = first ? 0 : s.plan.far_of_first, all = first ? s.plan.far_of_first : s.plan.far - s.plan.far_of_first;
      far = before, end_of_far = before;
      if (all > 0) {
        far += static_cast<int>(static_cast<int64_t>(all) * place / ctas);
        end_of_far += static_cast<int>(static_cast<int64_t>(all) * (place + 1) / ctas);
      }
      owned = cluster + s.plan.clusters * rank;
    }
    // The next run begins with `item`; parts before `end` are in it. False: there is none.
    __device__ bool next(PartItem& item, int& end) {
      if (far < end_of_far) return next_far(item, end);
      const DecodeShared& s = shared();
      const DecodeParams& p = s.params;
      const int owners = s.plan.owners, all = p.n_rows * owners, size = p.cluster_size;
      // The share in the parts of the cluster's heads, this CTA's own last. A head's owner has a part of its own besides, which counts as one
      // before the first.
      for (; s.plan.far < s.complete && turn <= size; turn++) {
        const int rank = static_cast<int>(blockIdx.x) % size, owner = (rank + turn) % size, from_owner = size - turn;
        const int number = s.turned[layer] + s.plan.clusters * owner;
        if (number >= all) continue;
        const int row = number / owners, kv_head = number - row * owners, parts = s.plan.near[row] + 1;  // in clusters an owner has a group
        const int first = max((parts * from_owner + size - 1) / size - 1, 0);
        end = (parts * (from_owner + 1) + size - 1) / size - 1;
        if (first >= end) continue;
        item = {step, layer, row, kv_head, first, 0, owner, 0, kv_head * s.group};
        turn++;
        return true;
      }
      if (owned >= all) return false;
      const int row = owned / owners, head = (owned - row * owners) * s.plan.owner_heads;
      item = {step, layer, row, head / s.group, s.parts[p.rows[row].first], 1, -1, s.plan.near[row], head};
      end = (p.rows[row].position + step) / kPartTokens + 1;
      owned += static_cast<int>(gridDim.x);
      return true;
    }
    // Sequence by sequence and head by head, so that parts of one query come together.
    __device__ bool next_far(PartItem& item, int& end) {
      const DecodeShared& s = shared();
      const DecodeParams& p = s.params;
      int row = 0, before = 0, parts, of_row;
#pragma unroll 1
      for (;; row++, before += of_row) {
        parts = p.rows[row].first == row ? s.parts[row] - s.plan.near[row] : 0, of_row = parts * p.n_kv_heads;
        if (far < before + of_row) break;
      }
      const int kv_head = (far - before) / parts, part = far - before - kv_head * parts, count = min(parts - part, end_of_far - far);
      item = {step, layer, row, kv_head, s.plan.near[row] + part, 0, -1, 0, kv_head * s.group};
      end = item.part + count;
      far += count;
      return true;
    }
  };

  // Sets s.complete and s.plan, for one thread.
  static __device__ void plan_parts() {
    DecodeShared& s = shared();
    const DecodeParams& p = s.params;
    PartPlan& plan = s.plan;
    const int ctas = static_cast<int>(gridDim.x), size = p.cluster_size, clusters = ctas / size;
    // Heads of a group share their keys and values; but one after the other in a CTA they take long. Where there are CTAs for all, each has an owner,
    // and owners of a group append the same.
    plan.owner_heads = size == 1 && p.n_rows * p.n_heads <= ctas ? 1 : s.group, plan.owners = p.n_heads / plan.owner_heads;
    const int all = p.n_rows * plan.owners, owned = min(all, ctas), of_cluster = (owned + clusters - 1) / clusters, first = owned % clusters;
    s.complete = complete_parts();
    plan.clusters = clusters, plan.first_ctas = first * size;
    // The busiest CTA has at least this many parts, if every head has one behind the complete ones: a cluster has time for so many of its heads'.
    const int busiest = (s.complete + all + ctas - 1) / ctas;
    const int most = min(max(size * busiest - (all + clusters - 1) / clusters, 0) / of_cluster, p.takes & kTakesCombine ? p.near_parts : 0);
    int near = 0, sequences = 0;
#pragma unroll 1
    for (int row = 0; row < p.n_rows; row++) {
      const bool begins = p.rows[row].first == row, alone = begins && (row + 1 == p.n_rows || p.rows[row + 1].first != row);
      // Rows of a sequence have different owners, and a CTA has room for parts of one head.
      plan.near[row] = alone && (row + 1) * p.n_kv_heads <= ctas ? min(s.parts[row], most) : 0;
      near += plan.near[row] * p.n_kv_heads, sequences += begins;
    }
    plan.far = s.complete - near;
    // The first clusters get so many of the far parts that all have about the same work. With several rows of a sequence a complete part is
    // that of all, and what owners have besides is little.
    const int behind = sequences == p.n_rows ? owned : 0, heads_of_first = first * (owned / clusters + 1);
    const float share = static_cast<float>(s.complete + behind) * static_cast<float>(first) / static_cast<float>(clusters);
    const float has = static_cast<float>(near + behind) * static_cast<float>(heads_of_first) / static_cast<float>(owned);
    plan.far_of_first = min(max(static_cast<int>(share - has), 0), plan.far);
  }
  static __device__ int complete_parts() {
    const DecodeShared& s = shared();
    int parts = 0;
#pragma unroll 1
    for (int row = 0; row < s.params.n_rows; row++)
      if (s.params.rows[row].first == row) parts += s.parts[row];
    return parts * s.params.n_kv_heads;
  }

  // The first parts of each head of a group, from the cluster: [group, near_parts, kVector].
  static __device__ float* near_part(int in_group, int part) {
    const DecodeParams& p = shared().params;
    return reinterpret_cast<float*>(kv_memory() + p.kv_buffers * static_cast<int>(kv_buffer_bytes(D))) + (in_group * p.near_parts + part) * kVector;
  }
  static __device__ ClusterInbox inbox() { return {&shared().near_full}; }

  static __device__ char* buffer(int number) { return kv_memory() + number * static_cast<int>(kv_buffer_bytes(D)); }
  static __device__ char* vector_in(int number, int kv, int token) { return buffer(number) + (kv * kPartTokens + token) * 2 * D; }

  // Until part number `i`, which was asked for, is there. Copies always end, so this does, also when the launch has failed.
  static __device__ void wait_part(int i) {
    const int two = shared().params.kv_buffers - 1;
    while (!ptx::barrier_passed(&shared().kv_full[i & two], i >> two & 1)) {}
  }

  // ---- The threads that load keys and values; ptx::kCopyLanes of them, which do the same

  static __device__ void load_all() {
    DecodeShared& s = shared();
    const DecodeParams& p = s.params;
    const uint64_t policy = ptx::evict_first_policy();
    int asked = 0;
    const auto wait_done = [&](int least) {
      while (!ptx::all_copy_lanes(s.done >= least))
        if (ptx::any_copy_lane(s.failed)) return false;
      __threadfence_block();
      return true;
    };
    const auto announce = [&](const PartItem& item) {
      if (!wait_done(asked - kItems + 1)) return false;
      if (ptx::first_copy_lane()) {
        s.items[asked % kItems] = item;
        __threadfence_block();
        s.announced = asked + 1;
      }
      return true;
    };
    const auto load = [&](const PartItem& item, int first_of_step) {
      // A buffer is free; and what the last step appended is in its pages, which whoever computes its parts sees to.
      if (!announce(item) || !wait_done(max(asked - p.kv_buffers + 1, first_of_step))) return false;
      const DecodeRow& row = p.rows[item.row];
      const int number = asked & (p.kv_buffers - 1), first = item.part * kPartTokens;
      const int cached = item.owned ? p.rows[row.first].position + item.step : first + kPartTokens, count = max(0, min(kPartTokens, cached - first));
      ptx::fence_proxies();
      ptx::begin_copies(&s.kv_full[number], static_cast<uint32_t>(count) * 4 * D);
#pragma unroll 1
      for (int loaded = 0, run; loaded < count; loaded += run) {  // as far as a page goes
        const int token = first + loaded;
        run = min(count - loaded, (row.pages.page_of(token) + 1) * row.pages.tokens - token);
        const int at_once = row.token_stride * kKvUnitBytes == 2 * D ? run : 1;
        const int64_t offset = offset_of(item.row, item.layer, item.kv_head, token);
#pragma unroll 1
        for (int kv = 0; kv < 2; kv++) {
          const char* from = (kv ? row.v : row.k) + offset;
#pragma unroll 1
          for (int i = 0; i < run; i += at_once, from += static_cast<uint64_t>(row.token_stride) * kKvUnitBytes)
            ptx::copy(vector_in(number, kv, loaded + i), from, static_cast<uint32_t>(at_once) * 2 * D, &s.kv_full[number], policy);
        }
      }
      ptx::end_copies(&s.kv_full[number]);
      asked++;
      return true;
    };
    bool going = true;
#pragma unroll 1
    for (int step = 0; step < p.n_steps && going; step++) {
      const int first_of_step = asked;
#pragma unroll 1
      for (int layer = p.first_layer; layer < min(p.end_layer, p.n_layers) && going; layer++) {
        Parts parts(step, layer);
        PartItem item;
        int end;
#pragma unroll 1
        while (going && parts.next(item, end))
#pragma unroll 1
          for (; going && item.part < end; item.part++) going = load(item, first_of_step);
      }
    }
    if (going) announce({-1, 0, 0, 0, 0, 0, -1, 0});
    // Nothing may still be on its way when the CTA ends.
    for (int i = max(0, asked - p.kv_buffers); i < asked; i++) wait_part(i);
  }

  // ---- The attention warps

  // Sines and cosines of the rows' positions.
  static __device__ void set_angles() {
    const DecodeParams& p = shared().params;
    const Scratch scratch;
    const int half = p.rotary_dim / 2;
#pragma unroll 1
    for (int i = attention_thread(); i < half * p.n_rows; i += kAttentionThreads) {
      const int row = i / half, pair = i - row * half;
      float* const of_row = scratch.angles + row * 2 * half;
      sine_and_cosine(p.inv_freq[pair] * static_cast<float>(position_of(row)), of_row + half + pair, of_row + pair);
    }
  }

  // An element of Q K V on its way to where attention needs it.
  struct Element {
    const uint4 *word, *other;  // other: of the element that it is turned with; NULL: it is not turned
    int d, place, other_place, row, query;
    int token;           // in the part, of a key or value; -1: a query
    int kv;              // 1: a value
    uint16_t* appended;  // its place among the pages; NULL: it is not appended here
  };

  // The queries of a group to scratch.q, if `with_queries`; and the keys and values of the sequence's rows up to `row`, as far as they lie
  // in `part`, to the part's buffer, those of `row` to its pages as well. A barrier stands at the end.
  template <class Kv>
  static __device__ __noinline__ void prepare(int buffer_number, const uint4* qkv, int layer, Task task, int part, bool with_queries,
                                              uint32_t epoch) {
    const DecodeParams& p = shared().params;
    const Scratch scratch;
    const int queries = with_queries ? task.heads * D : 0, half = p.rotary_dim / 2;
    const int first_row = p.rows[task.row].first, all = queries + (task.owned ? task.row + 1 - first_row : 0) * 2 * D;
    const float scale = rsqrtf(static_cast<float>(D));
    const bool of_block = p.block.part != kNoBlock;
    const auto element = [&](int i) {
      Element e = {nullptr, nullptr, 0, 0, 0, task.row, i, -1, 0, nullptr};
      if (i >= all) return e;
      int head = task.head + i / D;
      e.d = i % D;
      if (i >= queries) {
        const int vector = (i - queries) / D;
        e.d = (i - queries) % D, e.kv = vector & 1, e.row = first_row + (vector >> 1);
        e.token = position_of(e.row) - part * kPartTokens;
        head = p.n_heads + (e.kv ? p.n_kv_heads : 0) + task.kv_head;
        if (e.token < 0 || e.token >= kPartTokens) return e;
        if (e.row == task.row) {
          const DecodeRow& row = p.rows[e.row];
          e.appended = reinterpret_cast<uint16_t*>((e.kv ? row.v : row.k) + offset_of(e.row, layer, task.kv_head, position_of(e.row))) + e.d;
        }
      }
      const uint4* const words = qkv + (e.row * (p.n_heads + 2 * p.n_kv_heads) + head) * kHeadWords;
      e.word = words + word_of_row(e.d), e.place = place_in_word(e.d);
      if (e.kv == 1 || e.d >= 2 * half) return e;
      const int other = e.d < half ? e.d + half : e.d - half;
      e.other = words + word_of_row(other), e.other_place = place_in_word(other);
      return e;
    };
    const auto finish = [&](const Element& e, const uint4& word, const uint4& other) {
      if (!e.word) return;
      float value = word_value(word, e.place);
      if (e.other) {
        const float* const angles = scratch.angles + e.row * 2 * half;
        const int pair = e.d < half ? e.d : e.d - half;
        const float partner = word_value(other, e.other_place);
        value = value * angles[pair] + (e.d < half ? -partner : partner) * angles[half + pair];
      }
      if (e.token < 0) {
        scratch.q[e.query] = value * scale;
        return;
      }
      const uint16_t bits = Kv::round(value);
      reinterpret_cast<uint16_t*>(vector_in(buffer_number, e.kv, e.token))[e.d] = bits;
      if (e.appended) *e.appended = bits;
      if (of_block && e.appended)
        if (void* const to = e.kv ? p.block.new_v : p.block.new_k)
          store_element(to, p.block.dtype, (e.row * p.n_kv_heads + task.kv_head) * D + e.d, value);
    };
#pragma unroll 1
    for (int i = attention_thread(); i - attention_thread() < all; i += 2 * kAttentionThreads) {  // two elements at a time, whose words come together
      const Element a = element(i), b = element(i + kAttentionThreads);
      uint4 word[4];
      read_words_at<4>([&](int j) { return j == 0   ? a.word
                                           : j == 1 ? a.other
                                           : j == 2 ? b.word
                                                    : b.other; }, [&](int) { return epoch; },
                       [&](int j) {
                         return (j == 0 ? a.word : j == 1 ? a.other : j == 2 ? b.word : b.other) != nullptr;
                       },
                       word);
      finish(a, word[0], word[1]);
      finish(b, word[2], word[3]);
    }
    if (attention_thread() == 0) trace(kTraceWords, layer, kJobAttention);
    attention_sync();
  }

  // One query over the first `count` positions of the part in a buffer: values of this warp's positions, and their maximum and denominator.
  template <class Kv>
  static __device__ __noinline__ void attend_part(int buffer_number, int in_group, int count, int flip) {
    using Tile = LaneTile<D>;
    DecodeShared& s = shared();
    const Scratch scratch;
    const float* const q = scratch.q + in_group * D;
    float* const values = scratch.values + flip * kAttentionWarps * D;
    constexpr int kRounds = kWarpTokens / Tile::kPositions, kPairs = (D / 2 + kWarpLanes - 1) / kWarpLanes;
    const int warp = attention_warp(), lane = static_cast<int>(threadIdx.x) % kWarpLanes;
    const int first = warp * kWarpTokens, n = min(kWarpTokens, count - first), lane_part = lane % Tile::kLanes;
    float max = -INFINITY, denominator = 0;
    float2 sums[kPairs] = {};
    if (n > 0) {
      const char* const keys = vector_in(buffer_number, 0, first);
      float score[kRounds];
      float query[Tile::kChunks][kChunkElements];
#pragma unroll
      for (int i = 0; i < Tile::kChunks; i++) {
        const int chunk = lane_part + i * Tile::kLanes;
#pragma unroll
        for (int e = 0; e < kChunkElements; e += 4) {
          const float4 four = Tile::kHeadChunks % Tile::kLanes == 0 || chunk < Tile::kHeadChunks
                                  ? *reinterpret_cast<const float4*>(q + chunk * kChunkElements + e)
                                  : float4{0, 0, 0, 0};
          query[i][e] = four.x, query[i][e + 1] = four.y, query[i][e + 2] = four.z, query[i][e + 3] = four.w;
        }
      }
#pragma unroll
      for (int round = 0; round < kRounds; round++) {
        const int token = round * Tile::kPositions + lane / Tile::kLanes;
        float product = 0;
#pragma unroll
        for (int i = 0; i < Tile::kChunks; i++) {
          const int chunk = lane_part + i * Tile::kLanes;
          const bool wanted = Tile::kHeadChunks % Tile::kLanes == 0 || chunk < Tile::kHeadChunks;
          const uint4 eight = wanted ? *reinterpret_cast<const uint4*>(keys + token * 2 * D + chunk * 16) : uint4{0, 0, 0, 0};
          const uint32_t pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const float2 pair = Kv::unpack(pairs[e]);
            product = fmaf(query[i][2 * e], pair.x, fmaf(query[i][2 * e + 1], pair.y, product));
          }
        }
#pragma unroll
        for (int lanes = Tile::kLanes / 2; lanes > 0; lanes /= 2) product += __shfl_xor_sync(0xffffffffu, product, lanes);
        score[round] = token < n ? product : -INFINITY;  // what lies behind was never written
        max = fmaxf(max, score[round]);
      }
#pragma unroll
      for (int lanes = Tile::kLanes; lanes < kWarpLanes; lanes *= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, lanes));
#pragma unroll
      for (int round = 0; round < kRounds; round++) score[round] = weight_of(score[round], max), denominator += score[round];
#pragma unroll
      for (int lanes = Tile::kLanes; lanes < kWarpLanes; lanes *= 2) denominator += __shfl_xor_sync(0xffffffffu, denominator, lanes);
      const char* const of_lane = vector_in(buffer_number, 1, first) + lane * 4;
#pragma unroll
      for (int round = 0; round < kRounds; round++)
#pragma unroll
        for (int t = 0; t < Tile::kPositions; t++) {
          const int token = round * Tile::kPositions + t;
          const float weight = __shfl_sync(0xffffffffu, score[round], t * Tile::kLanes);
#pragma unroll
          for (int i = 0; i < kPairs; i++) {  // zeros where nothing was ever written
            const bool wanted = token < n && (D / 2 % kWarpLanes == 0 || lane + i * kWarpLanes < D / 2);
            const uint32_t bits = wanted ? *reinterpret_cast<const uint32_t*>(of_lane + token * 2 * D + i * kWarpLanes * 4) : 0;
            const float2 pair = Kv::unpack(bits);
            sums[i].x = fmaf(weight, pair.x, sums[i].x), sums[i].y = fmaf(weight, pair.y, sums[i].y);
          }
        }
    }
#pragma unroll
    for (int i = 0; i < kPairs; i++)
      if (lane + i * kWarpLanes < D / 2) reinterpret_cast<float2*>(values + warp * D)[lane + i * kWarpLanes] = sums[i];
    if (lane == 0) s.max[flip][warp] = max, s.denominator[flip][warp] = denominator;
  }

  // What the warps left, added up: the maximum, the denominator, and this thread's values: d = thread + 128 i.
  static constexpr int kValues = (D + kAttentionThreads - 1) / kAttentionThreads;
  struct Partial {
    float max, denominator, value[kValues];
  };
  static __device__ bool has_value(int i) { return attention_warp() * kWarpLanes + i * kAttentionThreads < D; }  // whole warps
  static __device__ int value_at(int i) { return attention_thread() + i * kAttentionThreads; }
  static __device__ Partial add_warps(int flip) {
    const DecodeShared& s = shared();
    const float* const values = Scratch().values + flip * kAttentionWarps * D;
    const int warp = static_cast<int>(threadIdx.x) % kAttentionWarps;
    const float of_warp = s.max[flip][warp];
    float max = of_warp;
#pragma unroll
    for (int lanes = kAttentionWarps / 2; lanes > 0; lanes /= 2) max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, lanes));
    const float weight = weight_of(of_warp, max);
    Partial partial = {max, weight * s.denominator[flip][warp], {}};
#pragma unroll
    for (int lanes = kAttentionWarps / 2; lanes > 0; lanes /= 2) partial.denominator += __shfl_xor_sync(0xffffffffu, partial.denominator, lanes);
#pragma unroll
    for (int i = 0; i < kAttentionWarps; i++) {
      const float of_i = __shfl_sync(0xffffffffu, weight, i);
#pragma unroll
      for (int v = 0; v < kValues; v++) partial.value[v] += of_i * values[i * D + min(value_at(v), D - 1)];
    }
    return partial;
  }
  // A head's result as activations.
  static __device__ void publish_head(int layer, int row, int head, const Partial& sum, uint32_t epoch) {
    const DecodeParams& p = shared().params;
    uint4* const words = words_at(p.words.heads, p.n_heads * kHeadWords, layer, row) + head * kHeadWords;
    const float inverse = 1.0f / sum.denominator;
#pragma unroll
    for (int i = 0; i < kValues; i++) publish_values(words, i, split(sum.value[i] * inverse), epoch);
  }
  // A head's values, one of each thread, become words.
  static __device__ void publish_values(uint4* head, int i, uint32_t value, uint32_t epoch) {
    if (has_value(i)) publish_strip(head + value_at(i) / kTileRows * kWordsPerStrip, value, epoch, value_at(i) < D);
  }

  static __device__ void publish_partial(int row, int head, int part, const Partial& partial, uint32_t epoch) {
    uint4* const to = partial_at(row, head, part);
    if (attention_thread() == 0) ptx::store_word(to, __float_as_uint(partial.max), __float_as_uint(partial.denominator), 0, epoch);
#pragma unroll
    for (int i = 0; i < kValues; i++) publish_values(to + 1, i, __float_as_uint(partial.value[i]), epoch);
  }

  // To the CTA of the cluster that owns the head.
  static __device__ void put_partial(int in_group, int part, const Partial& partial) {
    const int to = shared().current.to;
    float* const place = near_part(in_group, part);
    if (attention_thread() == 0) inbox().put(place, {partial.max, partial.denominator, 0, 0}, to);
#pragma unroll
    for (int i = 0; i < kValues; i++) {
      if (!has_value(i)) break;
      float4 quad = {partial.value[i]};
      quad.y = __shfl_down_sync(0xffffffffu, quad.x, 1), quad.z = __shfl_down_sync(0xffffffffu, quad.x, 2),
      quad.w = __shfl_down_sync(0xffffffffu, quad.x, 3);
      if (value_at(i) % 4 == 0 && value_at(i) < D) inbox().put(place + 4 + value_at(i), quad, to);
    }
  }
  // Until the first `parts` parts of all heads of the group are there. They stay until this CTA has published the sums: who puts in those of the next
  // layer has read queries made of the stream, which follows, over every head, from such sums.
  static __device__ void wait_near(int parts) {
    const DecodeShared& s = shared();
    if (attention_thread() == 0) inbox().expect(parts * static_cast<int>(near_part_bytes(s.group, D)));
    uint64_t since = 0;
    inbox().wait(s.near_taken, [&] {
      if (since == 0) since = ptx::wall_clock_ns();
      return gave_up(since);
    });
  }

  static __device__ uint4* partial_at(int row, int head, int part) {
    const DecodeParams& p = shared().params;
    return p.words.partials + (static_cast<int64_t>(row * p.n_heads + head) * p.max_parts + part) * partial_words(D);
  }

  // A complete part, for every row of its sequence. `prepared`: the queries of its only row are there.
  template <class Kv>
  static __device__ __noinline__ void attend_complete(int buffer_number, const uint4* qkv, int layer, Task task, uint32_t epoch, bool prepared) {
    const DecodeParams& p = shared().params;
    int flip = 0;
#pragma unroll 1
    for (int row = task.row; row < p.n_rows && p.rows[row].first == task.row; row++) {
      if (!prepared || row > task.row) prepare<Kv>(buffer_number, qkv, layer, {row, task.kv_head, 0, false, task.head, task.heads}, 0, true, epoch);
#pragma unroll 1
      for (int h = 0; h < task.heads; h++, flip ^= 1) {
        attend_part<Kv>(buffer_number, h, kPartTokens, flip);
        attention_sync();
        const Partial partial = add_warps(flip);
        if (shared().current.to >= 0) put_partial(h, task.part, partial);
        else publish_partial(row, task.head + h, task.part, partial, epoch);
      }
    }
  }

  // A part behind the complete ones for a row and the heads of a group, and, after the last one, the sum of all; or, where that is
  // another launch's, the part as words.
  template <class Kv>
  static __device__ __noinline__ void attend_owned(int buffer_number, const uint4* qkv, int layer, Task task, uint32_t epoch) {
    const DecodeParams& p = shared().params;
    const Scratch scratch;
    const int position = position_of(task.row), complete = shared().parts[p.rows[task.row].first];
    const int part = task.part, last_part = position / kPartTokens;
    int flip = 0;
    prepare<Kv>(buffer_number, qkv, layer, task, part, part == complete, epoch);
#pragma unroll 1
    for (int h = 0; h < task.heads; h++, flip ^= 1) {
      if (attention_thread() == 0) trace(kTraceReady, layer, kJobAttention);
      attend_part<Kv>(buffer_number, h, min(position + 1 - part * kPartTokens, kPartTokens), flip);
      attention_sync();
      const Partial partial = add_warps(flip);
      if (!(p.takes & kTakesCombine)) {
        publish_partial(task.row, task.head + h, part, partial, epoch);
        continue;
      }
      if (last_part == 0) {  // the only one: what add_parts would say
        publish_head(layer, task.row, task.head + h, partial, epoch);
        continue;
      }
      float* const to = scratch.local + (h * kMaxLocalParts + part - complete) * kVector;
      if (attention_thread() == 0) to[0] = partial.max, to[1] = partial.denominator;
#pragma unroll
      for (int i = 0; i < kValues; i++)
        if (value_at(i) < D) to[4 + value_at(i)] = partial.value[i];
    }
    if (part < last_part || last_part == 0 || !(p.takes & kTakesCombine)) return;
    if (attention_thread() == 0) trace(kTraceMultiplied, layer, kJobAttention);
    const int near = shared().current.near;
    if (near > 0) wait_near(near);
#pragma unroll 1
    for (int h = 0; h < task.heads; h++) {
      const int head = task.head + h;
      publish_head(layer, task.row, head, add_parts(h, task.row, head, near, complete, last_part, epoch), epoch);
    }
    if (near > 0 && attention_thread() == 0) shared().near_taken++;  // all have waited: they have met since
  }

  // The sums of the heads that this CTA owns, from words that an earlier launch left.
  static __device__ __noinline__ void combine(int layer, uint32_t epoch) {
    const DecodeShared& s = shared();
    const DecodeParams& p = s.params;
    const int heads = s.plan.owner_heads, owners = s.plan.owners;
#pragma unroll 1
    for (int number = static_cast<int>(blockIdx.x); number < p.n_rows * owners; number += static_cast<int>(gridDim.x)) {
      const int row = number / owners, first_head = (number - row * owners) * heads, last_part = position_of(row) / kPartTokens;
#pragma unroll 1
      for (int head = first_head; head < first_head + heads; head++)
        publish_head(layer, row, head, add_parts(0, row, head, 0, last_part + 1, last_part, epoch), epoch);
    }
  }

 private:
  // All parts of a head, added up in order, kPartsAtOnce at a time: those before `near` have come from the cluster, those before `complete`
  // come as words, the others are in `local`.
  static __device__ Partial add_parts(int in_group, int row, int head, int near, int complete, int last_part, uint32_t epoch) {
    const Scratch scratch;
    const float* const local = scratch.local + in_group * kMaxLocalParts * kVector;
    Partial sum = {-INFINITY, 0, {}};
    const uint4* const base = partial_at(row, head, 0);
#pragma unroll 1
    for (int first = 0; first <= last_part; first += kPartsAtOnce) {
      const int count = min(kPartsAtOnce, last_part + 1 - first), words = min(count, complete - first) * partial_words(D);
      const int first_word = max(near - first, 0) * partial_words(D);
      attention_sync();  // local results are there; those of the last round were read
#pragma unroll 1
      for (int at = first_word + attention_thread(); at < words; at += 4 * kAttentionThreads) {
        uint4 word[4];
        read_words<4>(
            base + first * partial_words(D), epoch, [&](int j) { return at + j * kAttentionThreads; },
            [&](int j) { return at + j * kAttentionThreads < words; }, word);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int index = at + j * kAttentionThreads;
          if (index >= words) break;
          const int part = index / partial_words(D), in_part = index - part * partial_words(D) - 1;
          float* const to = scratch.parts + part * kVector;
          if (in_part < 0) {
            to[0] = word_value(word[j], 0), to[1] = word_value(word[j], 1);
          } else {
            const int d = 4 + in_part / kWordsPerStrip * kTileRows + in_part % kWordsPerStrip * 3;
            to[d] = word_value(word[j], 0);
            if (has_three(in_part)) to[d + 1] = word_value(word[j], 1), to[d + 2] = word_value(word[j], 2);
          }
        }
      }
      if (words > first_word) attention_sync();
      const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
      const float *const of_cluster = near_part(in_group, first), *const of_words = scratch.parts,
                         *const of_cta = local + (first - complete) * kVector;
      const auto part_at = [&](int i) { return (first + i < near ? of_cluster : first + i < complete ? of_words : of_cta) + i * kVector; };
      const float* const mine = part_at(min(lane, count - 1));
      float both = lane < count ? mine[0] : -INFINITY;
      const float of_part = both;
#pragma unroll
      for (int lanes = kPartsAtOnce / 2; lanes > 0; lanes /= 2) both = fmaxf(both, __shfl_xor_sync(0xffffffffu, both, lanes, kPartsAtOnce));
      both = fmaxf(__shfl_sync(0xffffffffu, both, 0), sum.max);
      const float weight = lane < count ? weight_of(of_part, both) : 0.0f, keep = weight_of(sum.max, both);
      float new_denominator = lane < count ? weight * mine[1] : 0.0f;
#pragma unroll
      for (int lanes = kPartsAtOnce / 2; lanes > 0; lanes /= 2) new_denominator += __shfl_xor_sync(0xffffffffu, new_denominator, lanes, kPartsAtOnce);
      sum.denominator = sum.denominator * keep + __shfl_sync(0xffffffffu, new_denominator, 0);
#pragma unroll
      for (int v = 0; v < kValues; v++) sum.value[v] *= keep;
#pragma unroll 4
      for (int i = 0; i < count; i++) {
        const float of_i = __shfl_sync(0xffffffffu, weight, i);
#pragma unroll
        for (int v = 0; v < kValues; v++) sum.value[v] += of_i * part_at(i)[4 + min(value_at(v), D - 1)];
      }
      sum.max = both;
    }
    return sum;
  }
};

}  // namespace cf::gpu
