// The matrix products of a decode step: what each reads, how it is cut over the CTAs, and what is made of its sums.
#pragma once

#include "decode_product.cuh"
#include "phase_up.cuh"

namespace cf::gpu {

enum JobKind : int { kJobQkv, kJobUp, kJobAttention, kJobDown, kJobO, kJobHead };

__device__ inline const float* vector_at(const char* layer, uint32_t offset) {
  return offset == kNoVector ? nullptr : reinterpret_cast<const float*>(layer + offset);
}

// The words of a layer.
struct Words {
  uint4 *hidden, *next, *middle, *qkv, *activation, *down, *heads;

  __device__ Words(const DecodeParams& p, int head_dim, int layer) {
    const int64_t hidden_words = p.hidden_size / kTileRows * kWordsPerStrip;
    const auto of = [layer](uint4* base, int64_t words) { return base + layer * words; };
    hidden = of(p.words.hidden, hidden_words), next = hidden + hidden_words, middle = of(p.words.middle, hidden_words);
    qkv = of(p.words.qkv, (p.n_heads + 2 * p.n_kv_heads) * head_dim / kTileRows * kWordsPerStrip);
    activation = of(p.words.activation, p.intermediate_size / kTileRows * kWordsPerStrip);
    down = of(p.words.down, p.down_slices * hidden_words);
    heads = of(p.words.heads, p.n_heads * head_dim / kTileRows * kWordsPerStrip);
  }
};

struct Piece {
  const char* weights;
  int tiles, first_tile;  // of the row
};

// A matrix in a phase. A unit is a strip of it, or one of `slices` pieces of a strip, or, for gate and up, two strips; units are counted
// slice by slice. `before`: units of the same phase that come first; `together`: all units of the phase.
__device__ inline JobShape shape_of(const DecodeParams& p, int head_dim, JobKind kind) {
  const int hidden = p.hidden_size / kTileRows, qkv = (p.n_heads + 2 * p.n_kv_heads) * head_dim / kTileRows, up = p.intermediate_size / kTileRows;
  const bool parallel = p.parallel_residual;
  switch (kind) {
    case kJobQkv: return {p.offsets.qkv, hidden, qkv, 1, 1, 0, parallel ? qkv + up : qkv};
    case kJobUp: return {p.offsets.up, hidden, up, 1, p.activation == CF_ACTIVATION_SWIGLU ? 2 : 1, parallel ? qkv : 0, parallel ? qkv + up : up};
    case kJobDown: return {p.offsets.down, up, hidden, p.down_slices, 1, 0, hidden * p.down_slices};
    case kJobO: return {p.offsets.o, p.n_heads * head_dim / kTileRows, hidden, 1, 1, 0, hidden};
    default: return {0, hidden, static_cast<int>(tiles_of(p.vocab_size)), 1, 1, 0, static_cast<int>(tiles_of(p.vocab_size))};
  }
}

// CTAs are dealt the units of a phase in runs of equal length. Which CTA takes the first run changes from phase to phase, so that none
// has always the longer ones. Computed once a launch: divisions take longer than a product of a small matrix.
__device__ inline Run run_of(const DecodeShared& s, JobKind kind, int layer) {
  const JobShape& shape = s.jobs[kind];
  const int n = static_cast<int>(gridDim.x), phase = shape.before ? kJobQkv : kind;
  const int cta = (static_cast<int>(blockIdx.x) + layer * 41 + phase * 17) % n;  // primes: the longer runs come round all CTAs
  const int first = shape.together * cta / n - shape.before, end = shape.together * (cta + 1) / n - shape.before;
  return {static_cast<uint16_t>(max(first, 0)), static_cast<uint16_t>(max(min(end, shape.strips * shape.slices), 0))};
}

struct Job {
  const JobShape& shape;
  const char* weights;
  Run run;

  __device__ Job(const DecodeParams& p, const DecodeShared& s, JobKind kind, int layer)
      : shape(s.jobs[kind]), weights(kind == kJobHead ? p.head : s.layers[layer] + shape.offset), run(s.runs[layer * kJobKinds + kind]) {}
  __device__ int slice_begin(int slice) const { return shape.slices == 1 ? slice * shape.tiles : slice * shape.tiles / shape.slices; }
  __device__ int slice_of(int unit) const { return shape.slices == 1 ? 0 : unit / shape.strips; }
  __device__ int first_tile(Run run) const { return slice_begin(slice_of(run.first)); }
  __device__ Piece piece(int unit, int part) const {
    const int slice = slice_of(unit), strip = unit - slice * shape.strips + part * shape.strips, begin = slice_begin(slice);
    return {weights + (static_cast<int64_t>(strip) * shape.tiles + begin) * kTileBytes, slice_begin(slice + 1) - begin, begin};
  }
};

// The biases of this CTA's rows of a layer, run after run: Q K V, MLP-up (gate, up), O, and, of the same rows as O or as its own run,
// MLP-down. They come through the ring with the layer's first norm (a load by themselves would cost a trip to memory that nothing hides)
// and stay in s.biases. visit(first place in s.biases, address, floats) for each run; returns how many floats there are.
constexpr int kBiasRuns = 5;
template <class Visit>
__device__ int each_bias_run(const DecodeParams& p, const DecodeShared& s, int layer, Visit visit) {
  int at = 0;
#pragma unroll 1
  for (int i = 0; i < kBiasRuns; i++) {
    const JobKind kind = i == 0 ? kJobQkv : i <= 2 ? kJobUp : i == 3 ? kJobO : kJobDown;
    const uint32_t offset = i == 0 ? p.offsets.qkv_bias : i <= 2 ? p.offsets.up_bias : i == 3 ? p.offsets.o_bias : p.offsets.down_bias;
    if (offset == kNoVector || (i == 2 && p.activation != CF_ACTIVATION_SWIGLU)) continue;
    // With a parallel residual the bias of MLP-down is added where O is.
    const Run run = Job(p, s, kind == kJobDown && p.parallel_residual ? kJobO : kind, layer).run;
    const int floats = (run.end - run.first) * kTileRows;
    if (floats <= 0) continue;
    visit(i, at, s.layers[layer] + offset + (i == 2 ? p.intermediate_size : 0) * sizeof(float) + run.first * kTileRows * sizeof(float), floats,
          run.first * kTileRows);
    at += floats;
  }
  return at;
}

// Bias of `row`, which is one of this CTA's; part 1: of the second half of gate and up.
__device__ inline float bias_of(const DecodeShared& s, JobKind kind, int part, int row) {
  const int i = kind == kJobQkv ? 0 : kind == kJobUp ? 1 + part : kind == kJobO ? 3 : 4;
  return s.bias_at[i] < 0 ? 0.0f : s.biases[s.bias_at[i] + row - s.bias_row[i]];
}

// What a row's thread has ready when its sum is: asked for before the products, so that nothing waits for it.
struct Ready {
  float bias, other_bias, residual;
};

template <int D, class Weight>
__device__ Ready make_ready(const DecodeParams& p, DecodeShared& s, JobKind kind, int layer, const Words& words, int row, uint32_t epoch,
                            bool wanted) {
  const bool parallel = p.parallel_residual;
  Ready ready = {0, 0, 0};
  if (kind == kJobHead || (kind == kJobDown && parallel) || !wanted) return ready;
  ready.bias = bias_of(s, kind, 0, row);
  if (kind == kJobUp && p.activation == CF_ACTIVATION_SWIGLU) ready.other_bias = bias_of(s, kind, 1, row);
  if (kind != kJobO && kind != kJobDown) return ready;
  // The residual stream, and for a parallel residual the pieces of MLP-down.
  const int in_strip = row % kTileRows, word = row / kTileRows * kWordsPerStrip + in_strip / 3, at = in_strip % 3;
  const bool embedded = kind == kJobO && layer == 0;
  const int pieces = kind == kJobO && parallel ? p.down_slices : 0, piece_words = p.hidden_size / kTileRows * kWordsPerStrip;
  uint4 found[kMaxDownSlices + 1];  // the last: the stream
  const uint4* const stream = kind == kJobDown ? words.middle : words.hidden;
  read_words_at<kMaxDownSlices + 1>(
      p, s, [&](int j) { return j < kMaxDownSlices ? words.down + j * piece_words + word : stream + word; },
      [&](int j) { return j == kMaxDownSlices && kind == kJobO ? epoch - 1 : epoch; },
      [&](int j) { return j < kMaxDownSlices ? j < pieces : !embedded; }, found);
  float value = embedded ? embedding<Weight>(p, s.token, row) : word_value(found[kMaxDownSlices], at);
  if (pieces) {
    value += bias_of(s, kJobDown, 0, row);
#pragma unroll
    for (int slice = 0; slice < kMaxDownSlices; slice++)
      if (slice < pieces) value += word_value(found[slice], at);
  }
  ready.residual = value;
  return ready;
}

// All units of a job that are this CTA's: products, what is added to them, and the words that the next phase reads. Takes and gives
// the place in the ring. A barrier stands at the end.
template <int D, class Weight>
__device__ __noinline__ uint32_t run_job(const DecodeParams& p, DecodeShared& s, const char* ring, uint32_t place, const char* x, JobKind kind,
                                         int layer, uint32_t epoch, float* logits) {
  const Job job(p, s, kind, layer);
  const Run run = job.run;
  const Words words(p, D, layer);
  const bool parallel = p.parallel_residual, gated = job.shape.strips_of_unit == 2;
  uint4* const out = kind == kJobQkv    ? words.qkv
                     : kind == kJobUp   ? words.activation
                     : kind == kJobDown ? (parallel ? words.down : words.next)
                                        : (parallel ? words.next : words.middle);  // kJobO
  if (kind == kJobUp && parallel) x += p.hidden_size / kTileRows * kActivationTileBytes;
  const int x_tile = job.first_tile(run);
  const int at_once = kUnitsAtOnce / job.shape.strips_of_unit, slot = static_cast<int>(threadIdx.x) / kTileRows,
            row = static_cast<int>(threadIdx.x) % kTileRows;
#pragma unroll 1
  for (int first = run.first; first < run.end; first += at_once) {
    const int count = min(at_once, run.end - first), unit = first + slot;
    const bool mine = slot < count;
    const Ready ready = make_ready<D, Weight>(p, s, kind, layer, words, unit * kTileRows + row, epoch, mine);
#pragma unroll 1
    for (int i = 0; i < count * job.shape.strips_of_unit; i++) {
      const Piece piece = job.piece(first + i / job.shape.strips_of_unit, i % job.shape.strips_of_unit);
      place = add_strip<Weight>(s, ring, p.ring, place, x + (piece.first_tile - x_tile) * kActivationTileBytes, piece.tiles, s.rows[i]);
    }
    if (threadIdx.x == 0) s.meeting = kind != kJobQkv || !parallel;  // the words of this phase are on their way, those of the next are waited for
    consumers_sync();
    float value = 0;
    if (mine) {
      if (gated) {
        value = silu(row_sum(s, 2 * slot, row) + ready.bias) * (row_sum(s, 2 * slot + 1, row) + ready.other_bias);
      } else {
        value = row_sum(s, slot, row) + ready.bias;
        if (kind == kJobUp) value = p.activation == CF_ACTIVATION_GELU ? gelu(value) : gelu_tanh(value);
        value += ready.residual;
      }
    }
    if (kind != kJobHead) {
      publish_strip(out + static_cast<int64_t>(unit) * kWordsPerStrip, value, epoch, mine);
    } else if (mine && unit * kTileRows + row < p.vocab_size) {
      s.candidates[threadIdx.x].take(value, unit * kTileRows + row, isfinite(value));
      if (logits) logits[unit * kTileRows + row] = value;
    }
    consumers_sync();
  }
  return place;
}

}  // namespace cf::gpu
