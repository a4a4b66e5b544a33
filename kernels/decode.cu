// Whole decode steps of a model as one persistent cooperative launch: embedding, all blocks, head, and the most likely token, which is
// the next step's input.
//
// A CTA is eight warps that compute and one thread that streams: it brings the CTA's share of all weights, phase after phase, through a
// ring in shared memory, and does not wait for activations, so the memory is read all the time. Phases hand activations on as words that
// carry their epoch (words.cuh). With a parallel residual a layer has three phases: {Q K V, MLP-up}, {attention, MLP-down},
// {O, residuals}; otherwise five: {Q K V}, {attention}, {O, residual}, {MLP-up}, {MLP-down, residual}.
//
// The order of every sum follows from the model's shape: the same bits for any number of CTAs. The code of a layer must stay in the
// instruction cache (128 KB), or every phase waits for memory: hence one function for all products, and loops that are not unrolled.
#include "contract.h"
#include "decode_attention.cuh"
#include "decode_job.cuh"
#include "decode_norm.cuh"
#include "decode_product.cuh"
#include "ring.cuh"
#include "rope.cuh"
#include "words.cuh"

namespace cf::gpu {
namespace {

[[maybe_unused]] __device__ bool wants_vote(const DecodeParams& p, int position) { return position + 1 >= p.known; }
[[maybe_unused]] __device__ bool wants_logits(const DecodeParams& p, int position) { return p.logits && position >= p.logits_from; }

// What a layer consists of, in the order in which it is streamed and used.
[[maybe_unused]] constexpr int kItems = 5;
[[maybe_unused]] __device__ JobKind item(const DecodeParams& p, int i) {
  if (p.parallel_residual) return i == 0 ? kJobQkv : i == 1 ? kJobUp : i == 2 ? kJobAttention : i == 3 ? kJobDown : kJobO;
  return i == 0 ? kJobQkv : i == 1 ? kJobAttention : i == 2 ? kJobO : i == 3 ? kJobUp : kJobDown;
}

// What is normalised before a job, and how often: with a parallel residual by the MLP's norm at the same time.
[[maybe_unused]] __device__ int norms_before(const DecodeParams& p, JobKind kind) {
  if (kind == kJobQkv) return p.parallel_residual ? 2 : 1;
  return kind == kJobHead || (kind == kJobUp && !p.parallel_residual) ? 1 : 0;
}

// ---- The producing thread

[[maybe_unused]] __device__ bool load_norms(RingWriter& ring, JobKind kind, int layer) {
  const DecodeParams& p = ring.p;
  const int n = norms_before(p, kind);
  if (n == 0) return true;
  if (kind == kJobHead) return load_vector(ring, p.final_norm_weight) && load_vector(ring, p.final_norm_bias);
  const char* const base = ring.s.layers[layer];
  const LayerOffsets& at = p.offsets;
  if (kind == kJobQkv &&
      !(load_vector(ring, vector_at(base, at.attention_norm_weight)) && load_vector(ring, vector_at(base, at.attention_norm_bias))))
    return false;
  if (kind == kJobQkv && n == 1) return true;
  return load_vector(ring, vector_at(base, at.mlp_norm_weight)) && load_vector(ring, vector_at(base, at.mlp_norm_bias));
}

[[maybe_unused]] __device__ bool load_biases(RingWriter& ring, int layer) {
  const int floats = each_bias_run(ring.p, ring.s, layer, [](int, int, const char*, int, int) {});
  if (floats == 0) return true;
  char* const to = ring.claim(static_cast<uint32_t>(floats) * sizeof(float));
  if (!to) return false;
  each_bias_run(ring.p, ring.s, layer, [&](int, int at, const char* from, int n, int) {
    ptx::bulk_copy(to + at * sizeof(float), from, static_cast<uint32_t>(n) * sizeof(float), ring.barrier());
  });
  ring.advance();
  return true;
}

template <int D>
__device__ void produce(const DecodeParams& p, DecodeShared& s, char* memory) {
  RingWriter ring{p, s, memory};
  for (int position = s.position; position < p.end; position++) {
    const int n_layers = wants_vote(p, position) || wants_logits(p, position) ? p.n_layers + 1 : p.n_layers;  // one more: the head
#pragma unroll 1
    for (int layer = 0; layer < n_layers; layer++) {
#pragma unroll 1
      for (int i = 0; i < (layer < p.n_layers ? kItems : 1); i++) {
        const JobKind kind = layer < p.n_layers ? item(p, i) : kJobHead;
        if (kind == kJobAttention) {
          if (!DecodeAttention<D>::load_parts(ring, layer)) return ring.drain();
          continue;
        }
        if (!load_norms(ring, kind, layer)) return ring.drain();
        if (kind == kJobQkv && !load_biases(ring, layer)) return ring.drain();
        const Job job(p, s, kind, layer);
        const Run run = job.run;
#pragma unroll 1
        for (int unit = run.first * job.shape.strips_of_unit; unit < run.end * job.shape.strips_of_unit; unit++) {
          const Piece piece = job.piece(unit / job.shape.strips_of_unit, unit % job.shape.strips_of_unit);
          if (!ring.load_tiles(piece.weights, piece.tiles)) return ring.drain();
        }
      }
    }
  }
}

// ---- The consumers

// Votes of all CTAs on the token after this position: into s.token and s.finite. False: the launch has failed.
[[maybe_unused]] __device__ __noinline__ bool vote(const DecodeParams& p, DecodeShared& s, int flip, uint32_t epoch) {
  Candidate best = s.candidates[threadIdx.x];
  const int n = static_cast<int>(gridDim.x);
  uint4* const votes = p.words.votes + flip * n;
#pragma unroll 1
  for (int round = 0; round < 2; round++) {  // over this CTA, then over all
#pragma unroll 1
    for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2)
      best.take(__shfl_xor_sync(0xffffffffu, best.value, lanes), __shfl_xor_sync(0xffffffffu, best.token, lanes),
                __shfl_xor_sync(0xffffffffu, best.finite, lanes));
    const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
    if (threadIdx.x % kWarpLanes == 0) s.best[warp] = best.value, s.best_token[warp] = best.token, s.best_finite[warp] = best.finite;
    consumers_sync();
#pragma unroll 1
    for (int i = 0; i < kConsumerWarps; i++) best.take(s.best[i], s.best_token[i], s.best_finite[i]);
    consumers_sync();
    if (round == 1) break;
    if (threadIdx.x == 0) ptx::store_word(votes + blockIdx.x, best.value, __int_as_float(best.token), __int_as_float(best.finite), epoch);
    best = Candidate::none();
#pragma unroll 1
    for (int cta = threadIdx.x; cta < n; cta += kConsumers) {
      uint4 word[1];
      read_words<1>(
          p, s, votes, epoch, [&](int) { return cta; }, [](int) { return true; }, word);
      best.take(__uint_as_float(word[0].x), static_cast<int>(word[0].y), static_cast<int>(word[0].z));
    }
  }
  if (threadIdx.x == 0) s.token = best.token, s.finite = best.finite, s.go = !s.failed, s.meeting = 0;
  consumers_sync();
  return s.go;
}

struct Consumer {
  const DecodeParams& p;
  DecodeShared& s;
  const char* ring;
  char* x;
  uint32_t epoch;  // of the layer
  uint32_t place;  // in the ring
  int position;
};

// The layer's biases from the ring to s.biases. A barrier stands at the end.
[[maybe_unused]] __device__ __noinline__ uint32_t take_biases(const DecodeParams& p, DecodeShared& s, const char* ring_memory, uint32_t place,
                                                              int layer) {
  if (threadIdx.x < kBiasRuns) s.bias_at[threadIdx.x] = -1;
  consumers_sync();
  const int floats = each_bias_run(p, s, layer, [&](int i, int at, const char*, int, int row) {
    if (threadIdx.x == 0) s.bias_at[i] = at, s.bias_row[i] = row;
  });
  RingReader ring(s, ring_memory, p.ring, place);
  if (floats) {
    const float* const from = reinterpret_cast<const float*>(ring.wait());
#pragma unroll 1
    for (int i = threadIdx.x; i < floats; i += kConsumers) s.biases[i] = from[i];
    ring.release();
  }
  consumers_sync();
  return ring.place();
}

// What precedes a job: its activations to x. False: the launch has failed.
template <int D, class Weight>
__device__ bool prepare(Consumer& c, JobKind kind, int layer) {
  const DecodeParams& p = c.p;
  const Words words(p, D, layer);
  if (const int norms = norms_before(p, kind)) {
    const uint4* const stream = kind == kJobUp ? words.middle : layer == 0 ? nullptr : words.hidden;
    const bool has_bias = kind == kJobHead ? p.final_norm_bias != nullptr : p.offsets.attention_norm_bias != kNoVector;
    c.place = normalise<Weight>(p, c.s, c.ring, c.place, c.x, stream, kind == kJobUp ? c.epoch : c.epoch - 1, norms, has_bias);
    if (!c.s.go) return false;
    if (kind == kJobQkv) c.place = take_biases(p, c.s, c.ring, c.place, layer);
    return true;
  }
  switch (kind) {
    case kJobUp: return true;
    case kJobO: return fetch<Weight>(p, c.s, c.x, words.heads, 0, p.n_heads * D / kTileRows * kWordsPerStrip, c.epoch);
    default: {  // kJobDown
      const Job job(p, c.s, kind, layer);
      const Run run = job.run;
      const int first = job.first_tile(run), end = run.first < run.end ? job.slice_begin(job.slice_of(run.end - 1) + 1) : first;
      return fetch<Weight>(p, c.s, c.x, words.activation, first * kWordsPerStrip, end * kWordsPerStrip, c.epoch);
    }
  }
}

// One layer, or, for layer n_layers, the head.
template <int D, class Weight>
__device__ bool run_layer(Consumer& c, int layer) {
  const DecodeParams& p = c.p;
  DecodeShared& s = c.s;
  using Attention = DecodeAttention<D>;
#pragma unroll 1
  for (int i = 0; i < (layer < p.n_layers ? kItems : 1); i++) {
    const JobKind kind = layer < p.n_layers ? item(p, i) : kJobHead;
    if (kind == kJobAttention) {
      const Words words(p, D, layer);
      if (p.kv_dtype == CF_DTYPE_F16) {
        c.place = Attention::template attend_parts<F16>(p, s, c.ring, c.place, c.x, words.qkv, c.epoch);
        Attention::template attend_owned<F16>(p, s, c.x, words.qkv, words.heads, layer, c.epoch);
      } else {
        c.place = Attention::template attend_parts<Bf16>(p, s, c.ring, c.place, c.x, words.qkv, c.epoch);
        Attention::template attend_owned<Bf16>(p, s, c.x, words.qkv, words.heads, layer, c.epoch);
      }
      continue;
    }
    if (!prepare<D, Weight>(c, kind, layer)) return false;
    float* const logits =
        kind == kJobHead && wants_logits(p, c.position) ? p.logits + static_cast<int64_t>(c.position - p.logits_from) * p.vocab_size : nullptr;
    c.place = run_job<D, Weight>(p, s, c.ring, c.place, c.x, kind, layer, c.epoch, logits);
  }
  return true;
}

template <int D, class Weight>
__device__ void consume(const DecodeParams& p, DecodeShared& s, const char* ring, char* x) {
  Consumer c{p, s, ring, x, static_cast<uint32_t>(s.epoch), 0, 0};
  cf_status status = CF_OK;
  int flip = 0;
#pragma unroll 1
  for (c.position = s.position; c.position < p.end && status == CF_OK; c.position++, flip ^= 1) {
    if (threadIdx.x == 0 && c.position < p.known) s.token = p.tokens[c.position];
#pragma unroll 1
    for (int i = threadIdx.x; i < p.rotary_dim / 2; i += kConsumers)
      sine_and_cosine(p.inv_freq[i] * static_cast<float>(c.position), &s.sine[i], &s.cosine[i]);
    consumers_sync();
    s.candidates[threadIdx.x] = Candidate::none();
    const bool head = wants_vote(p, c.position) || wants_logits(p, c.position);
    bool going = true;
#pragma unroll 1
    for (int layer = 0; layer <= p.n_layers && going; layer++) {
      c.epoch++;
      if (layer < p.n_layers || head) going = run_layer<D, Weight>(c, layer);
    }
    going = going && vote(p, s, flip, c.epoch);
    if (!going) status = CF_ERROR_DEVICE_LOST;
    else if (!s.finite) status = CF_ERROR_NONFINITE_LOGITS;
    if (threadIdx.x == 0 && status == CF_OK) {
      s.position = c.position + 1;
      if (blockIdx.x == 0) {
        if (wants_vote(p, c.position)) p.tokens[c.position + 1] = s.token;
        p.state->position = c.position + 1;
      }
    }
    consumers_sync();
  }
  if (threadIdx.x == 0 && status != CF_OK) s.failed = 1;  // the producing thread may be ahead
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    p.state->status = status;
    p.state->epoch = c.epoch;
  }
}

template <int D, class Weight>
__global__ void __launch_bounds__(kDecodeThreads, 1) decode(const __grid_constant__ DecodeParams params) {
#if __CUDA_ARCH__ >= 900  // bulk copies; the host does not launch it on older devices
  extern __shared__ __align__(128) char memory[];
  char* const x = memory + params.ring * kRingChunkBytes;
  auto& s = *reinterpret_cast<DecodeShared*>(x + params.activation_bytes);
  static_assert(sizeof(DecodeParams) % sizeof(uint32_t) == 0);
  for (int i = threadIdx.x; i < static_cast<int>(sizeof(DecodeParams) / sizeof(uint32_t)); i += kDecodeThreads)
    reinterpret_cast<uint32_t*>(&s.params)[i] = reinterpret_cast<const uint32_t*>(&params)[i];
  __syncthreads();
  const DecodeParams& p = s.params;
  if (threadIdx.x == 0) {
    for (int i = 0; i < p.ring; i++) ptx::barrier_init(&s.full[i], 1), ptx::barrier_init(&s.empty[i], kConsumerWarps);
    ptx::fence_barrier_init();
    s.position = p.state->position;
    s.epoch = static_cast<int32_t>(p.state->epoch);
    s.parts = s.position / kPartTokens;
    s.meeting = 0;
    s.failed = 0;
    for (int kind = 0; kind < kJobKinds; kind++) s.jobs[kind] = shape_of(p, D, static_cast<JobKind>(kind));
    s.go = p.state->status == CF_OK && !p.state->failed;
  }
  for (int i = threadIdx.x; i < p.n_layers; i += kDecodeThreads) s.layers[i] = p.layers[i];
  const int pages = min(kPageTableShared, (p.end - 1 >> p.page_shift) + 1);
  for (int i = threadIdx.x; i < pages; i += kDecodeThreads) s.page_table[i] = p.page_table[i];
  __syncthreads();
  if (!s.go) return;
  for (int i = threadIdx.x; i < (p.n_layers + 1) * kJobKinds; i += kDecodeThreads)
    s.runs[i] = run_of(s, static_cast<JobKind>(i % kJobKinds), i / kJobKinds);
  __syncthreads();
  if (threadIdx.x < kConsumers) consume<D, Weight>(p, s, memory, x);
  else if (threadIdx.x == kConsumers) produce<D>(p, s, memory);
#endif
}

template <int D>
const void* decode_kernel_of(cf_dtype weight_dtype) {
  return weight_dtype == CF_DTYPE_F16 ? reinterpret_cast<const void*>(decode<D, F16>) : reinterpret_cast<const void*>(decode<D, Bf16>);
}

}  // namespace

const void* decode_kernel(int32_t head_dim, cf_dtype weight_dtype) {
  switch (head_dim) {
    case 32: return decode_kernel_of<32>(weight_dtype);
    case 64: return decode_kernel_of<64>(weight_dtype);
    case 80: return decode_kernel_of<80>(weight_dtype);
    case 96: return decode_kernel_of<96>(weight_dtype);
    case 128: return decode_kernel_of<128>(weight_dtype);
    case 256: return decode_kernel_of<256>(weight_dtype);
    default: return nullptr;
  }
}

}  // namespace cf::gpu
