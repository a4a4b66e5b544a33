// The matrix products of a decode step: what each reads, how it is cut over the CTAs, and what the product warps make of its sums.
#pragma once

#include "activation.cuh"
#include "decode_logits.cuh"
#include "decode_norm.cuh"
#include "decode_product.cuh"
#include "trace.cuh"

namespace cf::gpu {

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

__device__ inline bool comes_before_attention(JobKind kind) { return kind == kJobQkv || (kind == kJobUp && shared().params.parallel_residual); }
// Whether a job begins with a norm of the residual stream; otherwise its activations are there as they are.
__device__ inline bool normalises(JobKind kind) { return kind != kJobO && kind != kJobDown; }
// Where there is no room for all activations, the units whose sums are kept together go through them in passes of so many tiles.
__device__ inline int pass_of(JobKind kind, int tiles) { return normalises(kind) ? tiles : min(shared().params.pass_tiles, tiles); }
template <int kRows>
__device__ inline int units_at_once(int strips_of_unit) {
  constexpr int kStrips = kProducts / kTileRows / kRows;
  return strips_of_unit == 2 ? kStrips / 2 : kStrips;
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

// The row of a unit that a product thread finishes, for a row of the launch, among units first .. first + count - 1 of a job.
template <int kRows>
struct Finished {
  const int thread = ptx::thread_index();
  int slot, launch_row, unit, row;
  bool mine;  // false: there is none

  __device__ Finished(int first, int count) {
    const int at = thread / kTileRows;
    slot = at / kRows, launch_row = at % kRows, unit = first + slot, row = unit * kTileRows + thread % kTileRows;
    mine = slot < count && launch_row < shared().params.n_rows;
  }
};

// Words of a row of the launch that a job leaves.
template <int D>
__device__ __forceinline__ uint4* words_left(JobKind kind, int layer, int launch_row) {
  const DecodeParams& p = shared().params;
  const bool parallel = p.parallel_residual;
  if (kind == kJobQkv) return words_at(p.words.qkv, (p.n_heads + 2 * p.n_kv_heads) * D / kTileRows * kWordsPerStrip, layer, launch_row);
  if (kind == kJobUp) return words_at(p.words.activation, activation_words(), layer, launch_row);
  if (kind == kJobDown && parallel) return words_at(p.words.down, p.down_slices * hidden_words(), layer, launch_row);
  if (kind == kJobO && !parallel) return words_at(p.words.middle, hidden_words(), layer, launch_row);
  return words_at(p.words.hidden, hidden_words(), layer + 1, launch_row);
}

// What a product thread needs to finish its row is on its way while the activations are waited for, and stays in shared memory, so that registers
// are free: biases and where its strip's words go ...
template <int D, int kRows>
__device__ __forceinline__ void ask_biases(JobKind kind, int layer, int first, int count) {
  DecodeShared& s = shared();
  const Finished<kRows> f(first, count);
  if (!f.mine || kind == kJobHead) return;
  Finish& finish = s.of_thread[f.thread].finish;
  const JobShape& shape = s.jobs[kind];
  const char* const biases = s.layers[layer] + f.row * sizeof(float);
  const auto ask = [&](float& addend, uint32_t offset) {
    if (offset == kNoVector) addend = 0;
    else ptx::copy_4(&addend, biases + offset);
  };
  ask(finish.addends.x, shape.bias);
  ask(finish.addends.y, shape.other_bias);
  finish.words = words_left<D>(kind, layer, f.launch_row) + f.unit * kWordsPerStrip;
  ptx::commit_copies();
}

// ... and then the residual stream, and for a parallel residual the pieces of MLP-down. A phase that takes these takes the activations of all
// CTAs, too, so the words have come when they are asked for, or do so while others come.
template <int kRows>
__device__ __noinline__ void add_residual(JobKind kind, int layer, int first, int count, uint32_t epoch) {
  const DecodeParams& p = shared().params;
  const Finished<kRows> f(first, count);
  const bool is_o = kind == kJobO, parallel = p.parallel_residual;
  if (!f.mine || (is_o ? parallel && p.block.part == kBlockAttention : parallel)) return ptx::wait_copies<0>();
  const int word = word_of_row(f.row), place = place_in_word(f.row), n_words = hidden_words(), pieces = is_o && parallel ? p.down_slices : 0;
  const uint4* const stream = words_at(is_o ? p.words.hidden : p.words.middle, n_words, layer, f.launch_row) + word;
  const uint4* const down = words_at(p.words.down, p.down_slices * n_words, layer, f.launch_row) + word;
  uint4 found[kMaxDownSlices + 1];  // the last: the stream
  read_words_at<kMaxDownSlices + 1>([&](int j) { return j < kMaxDownSlices ? down + j * n_words : stream; },
                                    [&](int j) { return j == kMaxDownSlices && is_o ? epoch - 1 : epoch; },
                                    [&](int j) { return j == kMaxDownSlices || j < pieces; }, found);
  float sum = word_value(found[kMaxDownSlices], place);
#pragma unroll
  for (int piece = 0; piece < kMaxDownSlices; piece++)
    if (piece < pieces) sum += word_value(found[piece], place);
  ptx::wait_copies<0>();
  shared().of_thread[f.thread].finish.addends.y += sum;
}

// The activations of a job that begins with a norm.
template <int kRows>
__device__ __forceinline__ void fetch_stream(JobKind kind, int layer, uint32_t epoch) {
  const DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const bool middle = kind == kJobUp && !p.parallel_residual;
  const char* const vectors = kind == kJobHead ? s.final_norm : s.layers[layer] + (kind == kJobUp ? p.offsets.mlp_norm : p.offsets.attention_norm);
  fetch_normalised<kRows>(words_at(middle ? p.words.middle : p.words.hidden, hidden_words(), layer, 0), reinterpret_cast<const float4*>(vectors),
                          middle ? epoch : epoch - 1);
}

// Those of `n` tiles of another job, of which `pass` come before in the slice that begins with `unit`.
template <int D, int kRows>
__device__ __forceinline__ void fetch_pass(JobKind kind, int layer, int unit, int pass, int n, uint32_t epoch) {
  const DecodeParams& p = shared().params;
  const Job job(kind, layer);
  const bool is_o = kind == kJobO;
  const int words = is_o ? p.n_heads * D / kTileRows * kWordsPerStrip : activation_words();
  fetch<kRows>(words_at(is_o ? p.words.heads : p.words.activation, words, layer, 0) + (job.slice_begin(job.slice_of(unit)) + pass) * kWordsPerStrip,
               words, n * kWordsPerStrip, epoch);
}

// What comes before the products of a pass, of which `pass` tiles come before, of the units from `first` on: what finishes them, and what is
// multiplied by, into shared memory. All product warps are done with what they did before.
template <int D, int kRows, bool kNorm>
__device__ __noinline__ void bring(JobKind kind, int layer, int first, int pass) {
  const Job job(kind, layer);
  const uint32_t epoch = epoch_of_layer(layer);
  const int end = job.slice_end(first), tiles = job.slice_tiles(first), of_pass = pass_of(kind, tiles);
  const int count = pass == 0 ? min(units_at_once<kRows>(job.shape.strips_of_unit), end - first) : 0;
  ask_biases<D, kRows>(kind, layer, first, count);
  // Activations are there already unless the slice begins, or a pass of several.
  const bool fetches = of_pass < tiles || first == job.run.first || first == job.slice_of(first) * job.shape.strips;
  if (kNorm) {
    if (fetches) fetch_stream<kRows>(kind, layer, epoch);
    ptx::wait_copies<0>();
  } else {
    if (pass == 0) add_residual<kRows>(kind, layer, first, count, epoch);
    if (threadIdx.x == 0) trace(kTraceAsked, layer, kind);
    if (fetches) fetch_pass<D, kRows>(kind, layer, first, pass, min(of_pass, tiles - pass), epoch);
  }
  if (threadIdx.x == 0) trace(kTraceWords, layer, kind);
  products_sync();
  if (threadIdx.x != 0) return;
  end_meeting();
  if (kNorm && comes_before_attention(kind)) shared().passed = static_cast<int32_t>(epoch);
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

// The sums of units first .. first + count - 1, with strips of `tiles` tiles, become what the next phase reads.
template <int D, int kRows>
__device__ __forceinline__ void finish_units(JobKind kind, int layer, int first, int count, int tiles, uint32_t epoch) {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const Finished<kRows> f(first, count);
  const bool of_block = p.block.part != kNoBlock;
  float value = 0;
  if (f.mine) {
    const float2 addends = kind == kJobHead ? float2{0, 0} : s.of_thread[f.thread].finish.addends;
    if (s.jobs[kind].strips_of_unit == 2) {
      const int place = f.slot * 2 * kTileRows * kRows + f.launch_row * kTileRows + f.thread % kTileRows;
      value = silu(parts_sum(place, tiles) + addends.x) * (parts_sum(place + kTileRows * kRows, tiles) + addends.y);
    } else {
      value = parts_sum(f.thread, tiles) + addends.x;
      if (of_block && kind == kJobO) value = attention_part(value, f.launch_row, f.row);
      if (kind == kJobUp) value = p.activation == CF_ACTIVATION_GELU ? gelu(value) : gelu_tanh(value);
      else value += addends.y;
    }
    if (of_block) leave_row(kind, value, f.launch_row, f.row);
  }
  if (kind != kJobHead) {
    publish_strip(s.of_thread[f.thread].finish.words, kind == kJobUp ? split(value) : __float_as_uint(value), epoch, f.mine);
  } else if (f.mine && f.row < p.vocab_size) {
    const bool finite = isfinite(value);
    if (float* const logits = p.rows[f.launch_row].logits) logits[f.row] = value;
    if (s.draws) p.adjusted_logits[f.row] = value = adjusted_logit(value, f.row);
    s.of_thread[f.thread].best.take(value, f.row, finite);
  }
}

// This CTA's units of a job: products, what is added to them, and the words that the next phase reads. Moves `ring` past
// the job's chunks.
template <int D, int kRows>
__device__ __forceinline__ RingReader run_job(RingReader ring, JobKind kind, int layer) {
  if (threadIdx.x == 0) trace(kTraceBegin, layer, kind);
  const Job job(kind, layer);
  int first = job.run.first;
#pragma unroll 1
  while (first < shared().runs[layer * kJobKinds + kind].end) {
    int pass = 0, count, tiles;
    do {
      if (pass > 0) products_sync();  // all are done with the activations of the pass before
      if (normalises(kind)) bring<D, kRows, true>(kind, layer, first, pass);
      else bring<D, kRows, false>(kind, layer, first, pass);
      const Job job(kind, layer);
      tiles = job.slice_tiles(first);
      const int n = min(pass_of(kind, tiles), tiles - pass);
      count = min(units_at_once<kRows>(job.shape.strips_of_unit), job.slice_end(first) - first);
      if (threadIdx.x == 0) trace(kTraceReady, layer, kind);
      const int strips = count * job.shape.strips_of_unit;
      if (n > 0) add_strips<kRows>(ring, strips, n, pass > 0);
      if (threadIdx.x == 0) trace(kTraceMultiplied, layer, kind);
      ring.skip(strips * ring_chunks(n));
      pass += max(n, 1);
    } while (pass < tiles);
    if (threadIdx.x == 0 && first + count == Job(kind, layer).run.end)
      begin_meeting();  // the words of this phase are on their way, those of the next are waited for
    products_sync();
    if (threadIdx.x == 0) trace(kTraceSummed, layer, kind);
    finish_units<D, kRows>(kind, layer, first, count, tiles, epoch_of_layer(layer));
    if (threadIdx.x == 0) trace(kTraceEnd, layer, kind);
    first += count;
  }
  return ring;
}

}  // namespace cf::gpu
