// The matrix products of a decode step: what each reads, how it is cut over the CTAs, and what the product warps make of its sums.
#pragma once

#include "activation.cuh"
#include "decode_fetch.cuh"
#include "decode_logits.cuh"
#include "decode_product.cuh"

namespace cf::gpu {

enum JobKind : int { kJobQkv, kJobUp, kJobAttention, kJobDown, kJobO, kJobHead };

// A matrix in a phase. A unit is a strip of it, or one of `slices` pieces of a strip, or, for gate and up, two strips; units are counted
// slice by slice. CTAs first_cta .. first_cta + ctas - 1 share them. With a parallel residual O adds MLP-down's bias, too. In a block call that
// completes another one O has no tiles: what its product would be is there.
__device__ inline JobShape shape_of(int head_dim, JobKind kind) {
  const DecodeParams& p = shared().params;
  const int hidden = p.hidden_size / kTileRows, qkv = (p.n_heads + 2 * p.n_kv_heads) * head_dim / kTileRows, up = p.intermediate_size / kTileRows;
  const int all = static_cast<int>(gridDim.x), first_up = p.parallel_residual && all > 1 ? p.qkv_ctas : 0;
  const LayerOffsets& at = p.offsets;
  const bool gated = p.activation == CF_ACTIVATION_SWIGLU;
  const int o_tiles = p.block.part == kBlockDown ? 0 : p.n_heads * head_dim / kTileRows;
  const uint32_t gate_bias = at.up_bias, half_bias = gate_bias == kNoVector || !gated ? kNoVector : gate_bias + p.intermediate_size * sizeof(float);
  switch (kind) {
    case kJobQkv: return {at.qkv, at.qkv_bias, kNoVector, hidden, qkv, 1, 1, 0, first_up ? first_up : all};
    case kJobUp: return {at.up, gate_bias, half_bias, hidden, up, 1, gated ? 2 : 1, first_up, all - first_up};
    case kJobDown: return {at.down, p.parallel_residual ? kNoVector : at.down_bias, kNoVector, up, hidden, p.down_slices, 1, 0, all};
    case kJobO: return {at.o, at.o_bias, p.parallel_residual ? at.down_bias : kNoVector, o_tiles, hidden, 1, 1, 0, all};
    default: return {0, kNoVector, kNoVector, hidden, static_cast<int>(tiles_of(p.vocab_size)), 1, 1, 0, all};
  }
}

// This CTA, or cluster, among all, in a layer: which one takes what changes from layer to layer, so that none has always the longer runs.
__device__ inline int turned(int number, int of, int layer, int phase) {  // primes: the longer runs come round all
  return (number + layer * 41 + phase * 17) % of;
}
__device__ inline int turned_cta(int layer, int phase) { return turned(static_cast<int>(blockIdx.x), static_cast<int>(gridDim.x), layer, phase); }
__device__ inline int turned_cluster(int layer, int phase) {
  const int size = shared().params.cluster_size;
  return turned(static_cast<int>(blockIdx.x) / size, static_cast<int>(gridDim.x) / size, layer, phase);
}

// CTAs are dealt the units of a job in runs of equal length, within one slice where there are enough CTAs, so that a CTA needs few
// activations. Computed once a launch: divisions take longer than a product of a small matrix.
__device__ inline Run run_of(JobKind kind, int layer) {
  const JobShape& shape = shared().jobs[kind];
  const int cta = turned_cta(layer, kind == kJobUp ? kJobQkv : kind) - shape.first_cta, n = shape.ctas, slices = shape.slices, strips = shape.strips;
  if (cta < 0 || cta >= n) return {0, 0};
  if (n < slices) return {static_cast<uint16_t>(strips * slices * cta / n), static_cast<uint16_t>(strips * slices * (cta + 1) / n)};
  const int slice = cta * slices / n, begin = (slice * n + slices - 1) / slices, end = ((slice + 1) * n + slices - 1) / slices;
  const int place = cta - begin, of = end - begin;
  return {static_cast<uint16_t>(slice * strips + strips * place / of), static_cast<uint16_t>(slice * strips + strips * (place + 1) / of)};
}

struct Job {
  const JobShape& shape;
  const char* const weights;
  const Run run;

  __device__ Job(JobKind kind, int layer)
      : shape(shared().jobs[kind]),
        weights(kind == kJobHead ? shared().head : shared().layers[layer] + shape.offset),
        run(shared().runs[layer * kJobKinds + kind]) {}
  __device__ int slice_begin(int slice) const { return shape.slices == 1 ? slice * shape.tiles : shared().down_begin[slice]; }
  __device__ int slice_of(int unit) const {  // without a division
    int slice = 0;
#pragma unroll
    for (int i = 1; i < kMaxDownSlices; i++) slice += i < shape.slices && unit >= i * shape.strips;
    return slice;
  }
  __device__ int slice_tiles(int unit) const { return slice_begin(slice_of(unit) + 1) - slice_begin(slice_of(unit)); }
  // End of the units from `unit` on that lie in its slice.
  __device__ int slice_end(int unit) const { return min(static_cast<int>(run.end), (slice_of(unit) + 1) * shape.strips); }
};

// Whether the product warps bring a job's activations by themselves; otherwise the gathering warps do, who normalise them.
__device__ inline bool fetches(JobKind kind) { return kind == kJobO || kind == kJobDown; }
// Where there is no room for all activations, the units whose sums are kept together go through them in passes of so many tiles.
__device__ inline int pass_of(JobKind kind, int tiles) { return fetches(kind) ? min(shared().params.pass_tiles, tiles) : tiles; }
template <int kRows>
__device__ inline int units_at_once(int strips_of_unit) {
  return kProducts / kTileRows / kRows / strips_of_unit;
}

// The streaming thread's part.
template <int kRows>
__device__ inline bool load_job(RingWriter& ring, JobKind kind, int layer) {
  const Job job(kind, layer);
  const int strips_of_unit = job.shape.strips_of_unit;
#pragma unroll 1
  for (int unit = job.run.first, end; unit < job.run.end; unit = end) {
    end = job.slice_end(unit);
    const int slice = job.slice_of(unit), tiles = job.slice_tiles(unit);
    const int64_t row_bytes = static_cast<int64_t>(job.shape.tiles) * kTileBytes;
    const char* strip = job.weights + (unit - slice * job.shape.strips) * row_bytes + static_cast<int64_t>(job.slice_begin(slice)) * kTileBytes;
    const int of_pass = pass_of(kind, tiles), at_once = of_pass < tiles ? units_at_once<kRows>(strips_of_unit) : end - unit;
#pragma unroll 1
    for (int first = unit; first < end; first += at_once, strip += at_once * row_bytes)
#pragma unroll 1
      for (int pass = 0; pass < tiles; pass += of_pass) {
        const char* from = strip + static_cast<int64_t>(pass) * kTileBytes;
        const int n = min(of_pass, tiles - pass);
#pragma unroll 1
        for (int i = first; i < min(end, first + at_once); i++, from += row_bytes) {
          if (!ring.load_tiles(from, n)) return false;
          if (strips_of_unit == 2 && !ring.load_tiles(from + job.shape.strips * row_bytes, n)) return false;
        }
      }
  }
  return true;
}

// The activations of `n` tiles, of which `pass` come before in the slice that begins with `unit`.
template <int D, int kRows>
__device__ __forceinline__ void fetch_pass(const Job& job, JobKind kind, int layer, int unit, int pass, int n, uint32_t epoch) {
  const DecodeParams& p = shared().params;
  const bool is_o = kind == kJobO;
  const int words = is_o ? p.n_heads * D / kTileRows * kWordsPerStrip : activation_words();
  fetch<kRows>(words_at(is_o ? p.words.heads : p.words.activation, words, layer, 0) + (job.slice_begin(job.slice_of(unit)) + pass) * kWordsPerStrip,
               words, n * kWordsPerStrip, epoch);
}

// What a product thread adds to its row's sum: the residual stream, and for a parallel residual the pieces of MLP-down. A phase that
// takes these takes the activations of all CTAs, too, so the words have come when they are asked for, or do so while others come.
__device__ __forceinline__ float residual_of(JobKind kind, int layer, int launch_row, int row, uint32_t epoch) {
  const DecodeParams& p = shared().params;
  const bool is_o = kind == kJobO;
  const int word = word_of_row(row), place = place_in_word(row), n_words = hidden_words(), pieces = is_o && p.parallel_residual ? p.down_slices : 0;
  const uint4* const stream = words_at(is_o ? p.words.hidden : p.words.middle, n_words, layer, launch_row) + word;
  const uint4* const down = words_at(p.words.down, p.down_slices * n_words, layer, launch_row) + word;
  uint4 found[kMaxDownSlices + 1];  // the last: the stream
  read_words_at<kMaxDownSlices + 1>([&](int j) { return j < kMaxDownSlices ? down + j * n_words : stream; },
                                    [&](int j) { return j == kMaxDownSlices && is_o ? epoch - 1 : epoch; },
                                    [&](int j) { return j == kMaxDownSlices || j < pieces; }, found);
  float sum = word_value(found[kMaxDownSlices], place);
#pragma unroll
  for (int piece = 0; piece < kMaxDownSlices; piece++)
    if (piece < pieces) sum += word_value(found[piece], place);
  return sum;
}

// ---- What a block call does with a finished row

// O's part of the residual stream: for the caller, or what the caller has of it already.
__device__ __forceinline__ float attention_part(float value, int launch_row, int row) {
  const BlockIo& io = shared().params.block;
  const int64_t at = static_cast<int64_t>(launch_row) * shared().params.hidden_size + row;
  if (io.part == kBlockDown) return load_element(io.attention_output, io.dtype, at);
  if (io.attention_output) store_element(io.attention_output, io.dtype, at, value);
  return value;
}

__device__ __forceinline__ void leave_row(JobKind kind, float value, int launch_row, int row) {
  const DecodeParams& p = shared().params;
  const bool up = kind == kJobUp;
  void* const to = up ? p.block.mlp_activation : kind == (p.parallel_residual ? kJobO : kJobDown) ? p.block.output : nullptr;
  if (to) store_element(to, p.block.dtype, static_cast<int64_t>(launch_row) * (up ? p.intermediate_size : p.hidden_size) + row, value);
}

// This CTA's units of a job: products, what is added to them, and the words that the next phase reads. gather_job is the other end. Moves
// `ring` past the job's chunks.
template <int D, int kRows>
__device__ __forceinline__ RingReader run_job(RingReader ring, JobKind kind, int layer, uint32_t epoch) {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const Job job(kind, layer);
  const bool parallel = p.parallel_residual, gated = job.shape.strips_of_unit == 2, of_block = p.block.part != kNoBlock,
             adds = kind == kJobO ? !parallel || p.block.part != kBlockAttention : kind == kJobDown && !parallel;
  // This thread finishes row `row_of_strip` of strip `slot` of those added up together, for row `launch_row` of the launch.
  const int at = static_cast<int>(threadIdx.x) / kTileRows, slot = at / kRows, launch_row = at % kRows,
            row_of_strip = static_cast<int>(threadIdx.x) % kTileRows;
  const int at_once = units_at_once<kRows>(job.shape.strips_of_unit);
  uint4* out;  // of this thread's row of the launch
  if (kind == kJobQkv) out = words_at(p.words.qkv, (p.n_heads + 2 * p.n_kv_heads) * D / kTileRows * kWordsPerStrip, layer, launch_row);
  else if (kind == kJobUp) out = words_at(p.words.activation, activation_words(), layer, launch_row);
  else if (kind == kJobDown && parallel) out = words_at(p.words.down, p.down_slices * hidden_words(), layer, launch_row);
  else if (kind == kJobO && !parallel) out = words_at(p.words.middle, hidden_words(), layer, launch_row);
  else out = words_at(p.words.hidden, hidden_words(), layer + 1, launch_row);
#pragma unroll 1
  for (int slice_first = job.run.first, slice_end; slice_first < job.run.end; slice_first = slice_end) {
    slice_end = job.slice_end(slice_first);
    const int tiles = job.slice_tiles(slice_first), of_pass = pass_of(kind, tiles);
    bool waits = true;
    if (!fetches(kind)) activations_free();
#pragma unroll 1
    for (int first = slice_first, count; first < slice_end; first += count) {
      count = min(at_once, slice_end - first);
      const int unit = first + slot, row = unit * kTileRows + row_of_strip, strips = count * job.shape.strips_of_unit;
      const bool mine = slot < count && launch_row < p.n_rows;
      float bias = 0, other_bias = 0, residual = 0;
      if (mine) {
        const char* const biases = kind == kJobHead ? nullptr : s.layers[layer] + row * sizeof(float);
        if (job.shape.bias != kNoVector) bias = __ldg(reinterpret_cast<const float*>(biases + job.shape.bias));
        if (job.shape.other_bias != kNoVector) other_bias = __ldg(reinterpret_cast<const float*>(biases + job.shape.other_bias));
        if (adds) residual = residual_of(kind, layer, launch_row, row, epoch);
      }
      int pass = 0;
      do {
        const int n = min(of_pass, tiles - pass);
        if (pass > 0) products_sync();  // all are done with the activations of the pass before
        if (waits && fetches(kind)) fetch_pass<D, kRows>(job, kind, layer, slice_first, pass, n, epoch);
        else if (waits) wait_activations();
        waits = of_pass < tiles;
        if (n > 0) add_strips<kRows>(ring, strips, n, pass > 0);
        ring.skip(strips * ring_chunks(n));
        pass += of_pass;
      } while (pass < tiles);
      if (threadIdx.x == 0 && first + count == job.run.end)
        s.meeting = 1;  // the words of this phase are on their way, those of the next are waited for
      products_sync();
      float value = 0;
      if (mine) {
        if (gated) {
          const int place = slot * 2 * kTileRows * kRows + launch_row * kTileRows + row_of_strip;
          value = silu(parts_sum(place, tiles) + bias) * (parts_sum(place + kTileRows * kRows, tiles) + other_bias);
        } else {
          value = parts_sum(static_cast<int>(threadIdx.x), tiles) + bias;
          if (of_block && kind == kJobO) value = attention_part(value, launch_row, row);
          if (kind == kJobUp) value = p.activation == CF_ACTIVATION_GELU ? gelu(value) : gelu_tanh(value);
          else value += residual + other_bias;
        }
        if (of_block) leave_row(kind, value, launch_row, row);
      }
      if (kind != kJobHead) {
        publish_strip(out + unit * kWordsPerStrip, kind == kJobUp ? split(value) : __float_as_uint(value), epoch, mine);
      } else if (mine && row < p.vocab_size) {
        const bool finite = isfinite(value);
        if (float* const logits = p.rows[launch_row].logits) logits[row] = value;
        if (s.draws) p.adjusted_logits[row] = value = adjusted_logit(value, row);
        s.candidates[threadIdx.x].take(value, row, finite);
      }
      products_sync();  // before the sums are overwritten
    }
  }
  return ring;
}

}  // namespace cf::gpu
