// From a sequence's logits to its next token, by all CTAs together, each with the logits that it computed: the rules of
// cf_sampler_options, as src/sampler.cpp has them. What CTAs tell each other are whole numbers and maxima, so neither their number
// nor their order shows.
//
// top-k and top-p search for the key of the least likely token that may be drawn: six bits a round. In each round every CTA says how much
// its tokens add to each of 64 ranges of keys, and all CTAs add up what all have said. Once few tokens are left all CTAs list them, and each
// finds the rest by itself; only of many that are equal, or nearly so, the search goes to its end.
#pragma once

#include <climits>

#include "decode_job.cuh"

namespace cf::gpu {

// ---- Meetings of the product warps of all CTAs

// Rounds have two sets of words in turn: who says something in round e + 2 has read what is made of all that was said in round e + 1, so all have
// left round e. The last round of a draw comes before the next step's votes.

// Where sums of a round lie: behind what all CTAs say in either set; where listed tokens do: behind the sums.
__device__ inline uint4* sums_of_round(uint32_t epoch) {
  return shared().params.words.rounds + (2 * static_cast<int>(gridDim.x) + 2 * static_cast<int>(epoch & 1)) * kRoundWords;
}
__device__ inline uint4* listed_words() { return sums_of_round(0) + 4 * kRoundWords; }

// What is counted in a round, where a product's sums are otherwise: by each warp, then `totals` of the CTA, then of all.
struct Counted {
  uint32_t of_warps[kProductWarps][3 * kBuckets];
  uint64_t totals[3 * kBuckets];
};
static_assert(sizeof(Counted) <= sizeof(DecodeShared::sums));
__device__ inline Counted& counted() { return *reinterpret_cast<Counted*>(&shared().sums[0][0]); }

// What this CTA says in a round: totals[i] for i < n, each below 2^32; then they are the sums over all CTAs. Each word is added up by
// one CTA, which says the sums: if all read what all say, the words take longer than another way through memory.
__device__ __noinline__ inline void add_totals(int n, uint32_t epoch) {
  uint64_t* const totals = counted().totals;
  const int ctas = static_cast<int>(gridDim.x), thread = static_cast<int>(threadIdx.x), n_words = (n + 2) / 3;
  if (ctas == 1) return;
  uint4* const round = shared().params.words.rounds + (epoch & 1) * ctas * kRoundWords;
  uint4* const sums = sums_of_round(epoch);
  const auto total = [&](int i) { return i < n ? static_cast<uint32_t>(totals[i]) : 0u; };
  if (thread < n_words)
    ptx::store_word(round + blockIdx.x * kRoundWords + thread, total(3 * thread), total(3 * thread + 1), total(3 * thread + 2), epoch);
  products_sync();
  uint64_t(*const parts)[3] = reinterpret_cast<uint64_t(*)[3]>(counted().of_warps);  // of each warp
  static_assert(sizeof(uint64_t) * 3 * kProductWarps <= sizeof(Counted::of_warps));
#pragma unroll 1
  for (int mine = static_cast<int>(blockIdx.x); mine < n_words; mine += ctas) {
    uint64_t sum[3] = {};
#pragma unroll 1
    for (int cta = thread; cta < ctas; cta += kProducts) {
      uint4 found[1];
      read_words<1>(
          round + mine, epoch, [&](int) { return cta * kRoundWords; }, [](int) { return true; }, found);
      sum[0] += found[0].x, sum[1] += found[0].y, sum[2] += found[0].z;
    }
#pragma unroll
    for (int i = 0; i < 3; i++) {
#pragma unroll
      for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], lanes);
      if (thread % kWarpLanes == 0) parts[thread / kWarpLanes][i] = sum[i];
    }
    products_sync();
    if (thread < 2) {  // two words of three halves
      const auto half = [&](int i) {
        uint64_t all = 0;
#pragma unroll
        for (int warp = 0; warp < kProductWarps; warp++) all += parts[warp][i / 2];
        return static_cast<uint32_t>(all >> i % 2 * 32);
      };
      ptx::store_word(sums + 2 * mine + thread, half(3 * thread), half(3 * thread + 1), half(3 * thread + 2), epoch);
    }
    products_sync();
  }
  uint4 sum[1];
  read_words<1>(
      sums, epoch, [&](int) { return thread; }, [&](int) { return thread < 2 * n_words; }, sum);
  products_sync();
  static_assert(2 * kRoundWords <= kProducts);
  if (thread < 2 * n_words) {
    auto* const halves = reinterpret_cast<uint32_t*>(totals) + 3 * thread;  // little endian: as they were taken apart
    const int left = 2 * n - 3 * thread;
    if (left > 0) halves[0] = sum[0].x;
    if (left > 1) halves[1] = sum[0].y;
    if (left > 2) halves[2] = sum[0].z;
  }
  products_sync();
}

// ---- Candidates

// This CTA's tokens: those of its strips of the head.
__device__ inline Run run_of_head() { return shared().runs[shared().params.n_layers * kJobKinds + kJobHead]; }
__device__ inline int first_token() { return run_of_head().first * kTileRows; }
__device__ inline int end_token() { return min(run_of_head().end * kTileRows, shared().params.vocab_size); }

// Calls visit(token, scaled logit) for this thread's share of the tokens that are not banned.
template <class Visit>
__device__ __forceinline__ void each_candidate(Visit visit) {
  const DecodeParams& p = shared().params;
  const float temperature = shared().sequence.sampler.temperature;
  const int end = end_token();
#pragma unroll 1
  for (int token = first_token() + static_cast<int>(threadIdx.x); token < end; token += kProducts) {
    const float logit = p.adjusted_logits[token];
    if (logit != -INFINITY) visit(token, logit / temperature);
  }
}

// Whole numbers in the order of the values.
__device__ inline uint32_t key_of(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 and 0 are equal
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ inline float value_of_key(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

// Probability, relative to the likeliest token's, as a multiple of 2^-32.
__device__ inline uint64_t mass_of(float value, float most) {
  return static_cast<uint64_t>(exp(static_cast<double>(value) - static_cast<double>(most)) * 4294967296.0 + 0.5);
}

// ---- Few tokens

// Tokens that every CTA knows, at most one to a product thread, as they came.
struct Listed {
  uint64_t order[kProducts];  // the key, then the complement of the token, so that likelier ones are greater, and of equals lower tokens; 0: none
  uint64_t mass[kProducts];

  // Mass of the tokens before `which`; 0: of all.
  __device__ uint64_t mass_before(uint64_t which, int count) const {
    uint64_t before = 0;
#pragma unroll 4
    for (int i = 0; i < count; i++) before += order[i] > which ? mass[i] : 0;
    return before;
  }
};
static_assert(sizeof(Listed) <= sizeof(DecodeShared::sums) && offsetof(DecodeShared, sums) % alignof(Listed) == 0);
__device__ inline Listed& listed() { return *reinterpret_cast<Listed*>(&shared().sums[0][0]); }
__device__ inline uint32_t key_of_order(uint64_t order) { return static_cast<uint32_t>(order >> 32); }
__device__ inline int token_of_order(uint64_t order) { return static_cast<int>(~static_cast<uint32_t>(order)); }

// All CTAs list the tokens with keys from `from` to `to`, s.left of them. This is no round, for a CTA may have none to list: who has read all
// does not know that the others have left the last round. So the words are others, with that round's epoch, and written once a draw at most: who
// draws again has counted votes that each CTA cast after it had read them.
__device__ __noinline__ inline void list_tokens(uint32_t from, uint32_t to, float most, uint32_t epoch) {
  const DecodeParams& p = shared().params;
  const int thread = static_cast<int>(threadIdx.x), count = shared().left;
  each_candidate([&](int token, float value) {
    const uint32_t key = key_of(value);
    if (key < from || key > to) return;
    const uint32_t place = atomicAdd(&p.state->listed, 1);
    if (place < kProducts) ptx::store_word(listed_words() + place, key, static_cast<uint32_t>(token), 0, epoch);  // more only if a wait has failed
  });
  uint4 word[1];
  read_words<1>(
      listed_words(), epoch, [&](int) { return thread; }, [&](int) { return thread < count; }, word);
  const bool there = thread < count;
  listed().order[thread] = there ? static_cast<uint64_t>(word[0].x) << 32 | ~word[0].y : 0;
  listed().mass[thread] = there ? mass_of(value_of_key(word[0].x), most) : 0;
  products_sync();
  if (blockIdx.x == 0 && thread == 0) p.state->listed = 0;  // all words have come, so nobody adds to it any more
}

// ---- Search

// A search for the largest key at which the tokens from it on, out of those with key `floor` or more, are enough; 0 if all of them
// are not. They count one each, or their mass: then `share` of the whole is enough, else `share` tokens. s.least is the key so far, without
// its last `shift` bits, s.mass what the tokens beyond it add up to, s.enough what is enough, s.left the tokens that make the difference and
// would be listed: with the bits so far, or, if they count one each, all from s.least on. The search ends when these are at most kProducts.
// State is in shared memory between these functions: what they keep in registers the matrix products could not.

// How much this CTA's tokens add to each of 64 ranges of keys: into totals, of a mass the upper and the lower 16 bits apart, so that
// each number stays below 2^32, and how many they are.
template <bool kMass>
__device__ __noinline__ inline void count_buckets(int shift, uint32_t floor, float most) {
  DecodeShared& s = shared();
  constexpr int kNumbers = kMass ? 3 * kBuckets : kBuckets;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarpLanes, bits = shift == 0 ? 2 : 6;
  auto& counts = counted().of_warps;
#pragma unroll
  for (int i = thread % kWarpLanes; i < kNumbers; i += kWarpLanes) counts[warp][i] = 0;
  __syncwarp();
  each_candidate([&](int, float value) {
    const uint32_t key = key_of(value);
    if (key < floor || (shift < 26 && key >> (shift + bits) != s.least >> (shift + bits))) return;
    const int bucket = static_cast<int>(key >> shift) & ((1 << bits) - 1);
    if (kMass) {
      const uint64_t mass = mass_of(value, most);
      atomicAdd(&counts[warp][3 * bucket], static_cast<uint32_t>(mass >> 16));
      atomicAdd(&counts[warp][3 * bucket + 1], static_cast<uint32_t>(mass & 0xffff));
      atomicAdd(&counts[warp][3 * bucket + 2], 1u);
    } else {
      atomicAdd(&counts[warp][bucket], 1u);
    }
  });
  products_sync();
  if (thread < kNumbers) {
    uint64_t sum = 0;
#pragma unroll 1
    for (int i = 0; i < kProductWarps; i++) sum += counts[i][thread];
    counted().totals[thread] = sum;
  }
  products_sync();
}

// From the totals of all CTAs the next bits of the key. False: all tokens are not enough.
template <bool kMass>
__device__ __noinline__ inline bool choose_bucket(int shift, double share) {
  DecodeShared& s = shared();
  const uint64_t* const totals = counted().totals;
  const int lane = static_cast<int>(threadIdx.x);
  if (lane < kWarpLanes) {
    // From the last bucket down: lane i has buckets 63 - 2 i and 62 - 2 i.
    const auto total = [&](int bucket) { return kMass ? (totals[3 * bucket] << 16) + totals[3 * bucket + 1] : totals[bucket]; };
    const int high = kBuckets - 1 - 2 * lane;
    const uint64_t first = total(high), second = total(high - 1), above = shift == 26 ? 0 : s.mass;
    uint64_t until = first + second;  // of this lane's buckets and all beyond
#pragma unroll
    for (int lanes = 1; lanes < kWarpLanes; lanes *= 2) {
      const uint64_t other = __shfl_up_sync(0xffffffffu, until, lanes);
      if (lane >= lanes) until += other;
    }
    const uint64_t all = __shfl_sync(0xffffffffu, until, kWarpLanes - 1);
    const double enough = shift < 26 ? s.enough : kMass ? share * static_cast<double>(all) : share;
    const uint64_t with_second = above + until, with_first = with_second - second;
    const uint32_t found = __ballot_sync(0xffffffffu, static_cast<double>(with_second) >= enough);
    const bool mine = found ? lane == __ffs(static_cast<int>(found)) - 1 : false;
    if (mine) {
      const bool in_first = static_cast<double>(with_first) >= enough;
      s.least = (shift == 26 ? 0 : s.least) | static_cast<uint32_t>(in_first ? high : high - 1) << shift;
      s.mass = in_first ? with_first - first : with_first;
      s.left = static_cast<int>(kMass ? totals[3 * (in_first ? high : high - 1) + 2] : in_first ? with_first : with_second);
    }
    if (lane == 0) s.enough = enough, s.found = found != 0;
    if (lane == 0 && !found) s.least = 0, s.mass = 0;
  }
  products_sync();
  return s.found;
}

// top-p's limit among the listed tokens, which have the bits of s.least so far: the first one with which the mass is enough is the last one in.
__device__ __noinline__ inline void find_limit() {
  DecodeShared& s = shared();
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < s.left) {
    const uint64_t order = listed().order[thread], before = s.mass + listed().mass_before(order, s.left), until = before + listed().mass[thread];
    if (static_cast<double>(before) < s.enough && static_cast<double>(until) >= s.enough)  // of one thread
      s.least = key_of_order(order), s.last_tie = token_of_order(order);
  }
  products_sync();
}

// Returns the epoch of its last round. Without kMass s.left tokens from s.least on may be left to be listed.
template <bool kMass>
__device__ __forceinline__ uint32_t search(uint32_t floor, double share, float most, uint32_t epoch) {
  DecodeShared& s = shared();
#pragma unroll 1
  for (int shift = 26;; shift = shift == 2 ? 0 : shift - 6) {
    count_buckets<kMass>(shift, floor, most);
    add_totals(kMass ? 3 * kBuckets : kBuckets, ++epoch);
    if (!choose_bucket<kMass>(shift, share)) break;
    if (s.left <= kProducts) {
      if (kMass) list_tokens(max(floor, s.least), s.least | ((1u << shift) - 1), most, epoch), find_limit();
      break;
    }
    if (shift == 0) break;
  }
  return epoch;
}

// Of more tokens at the limit of top-p than can be listed only the lowest may be drawn, as many as it takes: s.last_tie of this CTA's. Until
// that is known it counts them.
__device__ __noinline__ inline uint32_t share_ties(float most, uint32_t epoch) {
  DecodeShared& s = shared();
  uint64_t* const totals = counted().totals;
  const uint32_t least = s.least;
  const int ctas = static_cast<int>(gridDim.x), turn = turned_cta(s.params.n_layers, kJobHead);
  int mine = 0;
  each_candidate([&](int, float value) { mine += key_of(value) == least; });
  if (threadIdx.x == 0) s.last_tie = 0, totals[0] = totals[1] = 0;
  products_sync();
  if (mine) atomicAdd(&s.last_tie, mine);
  products_sync();
  // In the place of its turn, so that the order is that of the tokens; three times (see store_word).
  uint4* const round = s.params.words.rounds + (++epoch & 1) * ctas * kRoundWords;
  const auto count = static_cast<uint32_t>(s.last_tie);
  if (threadIdx.x == 0) ptx::store_word(round + turn * kRoundWords, count, count, count, epoch);
#pragma unroll 1
  for (int cta = threadIdx.x; cta < ctas; cta += kProducts) {
    uint4 word[1];
    read_words<1>(
        round, epoch, [&](int) { return cta * kRoundWords; }, [](int) { return true; }, word);
    const auto add = [](uint64_t& sum, uint32_t more) { atomicAdd(reinterpret_cast<unsigned long long*>(&sum), more); };
    const uint32_t its_count = word[0].x & word[0].y & word[0].z;
    add(totals[0], its_count);
    if (cta < turn) add(totals[1], its_count);
  }
  products_sync();
  if (threadIdx.x == 0) {
    const double one = fmax(static_cast<double>(mass_of(value_of_key(least), most)), 1.0);
    const double wanted = ceil((s.enough - static_cast<double>(s.mass)) / one);  // the first one that reaches it counts
    const int64_t all = static_cast<int64_t>(totals[0]), before = static_cast<int64_t>(totals[1]),
                  allowed = static_cast<int64_t>(fmin(fmax(wanted, 1.0), static_cast<double>(all)));
    int left = allowed == all ? 0 : static_cast<int>(max(allowed - before, int64_t{0})), last = allowed == all ? INT_MAX : -1;
#pragma unroll 1
    for (int token = first_token(); token < end_token() && left > 0; token++) {  // seldom
      const float logit = s.params.adjusted_logits[token];
      if (logit != -INFINITY && key_of(logit / s.sequence.sampler.temperature) == least) last = token, left--;
    }
    s.last_tie = last;
  }
  products_sync();
  return epoch;
}

// Philox4x32-10 (Salmon et al., SC 2011), as src/philox.h.
__device__ inline uint32_t philox(uint4 counter, uint2 key, int word) {
#pragma unroll 1
  for (int round = 0; round < 10; round++) {
    const uint32_t a_high = __umulhi(0xD2511F53u, counter.x), a_low = 0xD2511F53u * counter.x, b_high = __umulhi(0xCD9E8D57u, counter.z),
                   b_low = 0xCD9E8D57u * counter.z;
    counter = {b_high ^ counter.y ^ key.x, b_low, a_high ^ counter.w ^ key.y, a_low};
    key.x += 0x9E3779B9u, key.y += 0xBB67AE85u;
  }
  return word == 0 ? counter.x : word == 1 ? counter.y : word == 2 ? counter.z : counter.w;
}

// Standard Gumbel noise for a token at a position.
__device__ inline double gumbel(uint64_t seed, int position, int token) {
  const uint32_t word = philox({static_cast<uint32_t>(token / 4), static_cast<uint32_t>(position), 0, 0},
                               {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}, token % 4);
  return -log(-log((word + 0.5) * 0x1p-32));
}

struct Draw {
  double score;
  int token;  // -1: none
  __device__ void take(double other, int its_token) {
    if (its_token >= 0 && (token < 0 || other > score || (other == score && its_token < token))) score = other, token = its_token;
  }
};
__device__ inline Draw best_draw_of_lanes(Draw best) {
#pragma unroll 1
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2)
    best.take(__shfl_xor_sync(0xffffffffu, best.score, lanes), __shfl_xor_sync(0xffffffffu, best.token, lanes));
  return best;
}

// The best draw of all threads, in every lane of warp 0.
__device__ __forceinline__ Draw best_draw_of_threads(Draw best) {
  Draw* const of_warps = reinterpret_cast<Draw*>(&shared().sums[0][0]);
  const int lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  best = best_draw_of_lanes(best);
  products_sync();  // what was listed there has been read
  if (lane == 0) of_warps[threadIdx.x / kWarpLanes] = best;
  products_sync();
  return best_draw_of_lanes(lane < kProductWarps ? of_warps[lane] : Draw{0, -1});
}

// The best draw among this CTA's tokens, in every lane of warp 0.
__device__ __noinline__ inline Draw best_of_cta(float most, int position) {
  DecodeShared& s = shared();
  const DecodeSampler& sampler = s.sequence.sampler;
  Draw best = {0, -1};
  each_candidate([&](int token, float value) {
    const uint32_t key = key_of(value);
    if (key < s.least || (key == s.least && token > s.last_tie)) return;
    if (sampler.min_p > 0 && !(exp(static_cast<double>(value) - static_cast<double>(most)) >= static_cast<double>(sampler.min_p))) return;
    best.take(static_cast<double>(value) + gumbel(sampler.seed, position, token), token);
  });
  return best_draw_of_threads(best);
}

// The best draw of all CTAs into s.token[0].
__device__ __noinline__ inline void take_best_draw(Draw best, uint32_t epoch) {
  DecodeShared& s = shared();
  const int lane = static_cast<int>(threadIdx.x), ctas = static_cast<int>(gridDim.x);
  if (lane < kWarpLanes) {
    uint4* const round = s.params.words.rounds + (epoch & 1) * ctas * kRoundWords;
    const uint64_t bits = static_cast<uint64_t>(__double_as_longlong(best.score));
    if (lane == 0)
      ptx::store_word(round + blockIdx.x * kRoundWords, static_cast<uint32_t>(bits), static_cast<uint32_t>(bits >> 32),
                      static_cast<uint32_t>(best.token), epoch);
    best = {0, -1};
    constexpr int kAtOnce = 5;
#pragma unroll 1
    for (int cta = lane; cta < ctas; cta += kAtOnce * kWarpLanes) {
      uint4 word[kAtOnce];
      read_words<kAtOnce>(
          round, epoch, [&](int j) { return (cta + j * kWarpLanes) * kRoundWords; }, [&](int j) { return cta + j * kWarpLanes < ctas; }, word);
#pragma unroll
      for (int j = 0; j < kAtOnce; j++)
        if (cta + j * kWarpLanes < ctas)
          best.take(__longlong_as_double(static_cast<int64_t>(static_cast<uint64_t>(word[j].y) << 32 | word[j].x)), static_cast<int>(word[j].z));
    }
    best = best_draw_of_lanes(best);
    if (lane == 0 && best.token >= 0) s.token[0] = best.token;
  }
  products_sync();
}

// top-k, top-p, min-p and the draw among the listed tokens, into s.token[0]: the others are none of the top_k likeliest.
__device__ __noinline__ inline void draw_listed(float most, int position) {
  DecodeShared& s = shared();
  const DecodeSampler& sampler = s.sequence.sampler;
  const int thread = static_cast<int>(threadIdx.x), count = s.left;
  const uint64_t order = listed().order[thread];
  const uint32_t key = key_of_order(order);
  bool in = thread < count;
  if (in) {
    int likelier = 0;
#pragma unroll 4
    for (int i = 0; i < count; i++) likelier += key_of_order(listed().order[i]) > key;
    in = likelier < sampler.top_k;
    if (!in) listed().mass[thread] = 0;
  }
  products_sync();
  if (in && sampler.top_p < 1) {
    const double enough = static_cast<double>(sampler.top_p) * static_cast<double>(listed().mass_before(0, count));
    in = static_cast<double>(listed().mass_before(order, count)) < enough;
  }
  const float value = value_of_key(key);
  if (in && sampler.min_p > 0) in = exp(static_cast<double>(value) - static_cast<double>(most)) >= static_cast<double>(sampler.min_p);
  const int token = token_of_order(order);
  const Draw best = best_draw_of_threads(in ? Draw{static_cast<double>(value) + gumbel(sampler.seed, position, token), token} : Draw{0, -1});
  if (thread == 0 && best.token >= 0) s.token[0] = best.token;
  products_sync();
}

// Draws the token for `position` into s.token[0], which is the likeliest one before. Each of these functions begins after `epoch` and
// returns that of its last round.
__device__ __forceinline__ uint32_t draw_token(int position, uint32_t epoch) {
  DecodeShared& s = shared();
  const DecodeSampler& sampler = s.sequence.sampler;
  const float most = s.most[0] / sampler.temperature;
  if (sampler.temperature == 0 || !isfinite(most)) return epoch;  // by so low a temperature logits differ by more than any noise
  if (threadIdx.x == 0) s.least = 0, s.last_tie = INT_MAX;
  products_sync();
  if (sampler.top_k > 0) {
    epoch = search<false>(0, static_cast<double>(sampler.top_k), most, epoch);
    if (s.found && s.left <= kProducts) {
      list_tokens(s.least, UINT_MAX, most, epoch);
      draw_listed(most, position);
      return epoch;
    }
  }
  if (sampler.top_p < 1) {
    epoch = search<true>(s.least, static_cast<double>(sampler.top_p), most, epoch);
    if (s.found && s.left > kProducts) epoch = share_ties(most, epoch);
  }
  take_best_draw(best_of_cta(most, position), ++epoch);
  return epoch;
}

}  // namespace cf::gpu
