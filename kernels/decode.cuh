// Decode steps of a model as one persistent cooperative launch: embedding, all blocks, head, and the most likely token, which is the next
// step's input; for one row, or for several rows, which share every weight that is read.
//
// A CTA is eight warps that multiply, four that gather the activations they need and attend, and one thread that streams: it brings the
// CTA's share of all weights, phase after phase, through a ring in shared memory, and does not wait for activations, so the memory is
// read all the time. Each of the three goes through the same sequence of work by itself and waits only for what it needs, so that all that
// leads up to a wait is done when its end comes. Phases hand activations on as words that carry their epoch (words.cuh). With a parallel residual a layer has three phases: {Q K V, MLP-up}, {attention, MLP-down},
// {O, residuals}; otherwise five: {Q K V}, {attention}, {O, residual}, {MLP-up}, {MLP-down, residual}.
//
// The order of every sum follows from the model's shape: the same bits for any number of CTAs and rows. The code of a layer must stay in the
// instruction cache (128 KB), or every phase waits for memory: hence one function for all products, and loops that are not unrolled.
#pragma once

#include "contract.h"
#include "decode_attention.cuh"
#include "decode_job.cuh"

namespace cf::gpu {

// The layers of a step, and one for the head if it ends with logits.
__device__ inline int layers_of(int step) {
  const DecodeShared& s = shared();
  return s.params.n_layers + (s.samples || (s.logits && step == s.params.n_steps - 1));
}

// The jobs of a layer in the order in which they are streamed and used; attention stands for itself.
constexpr int kLayerItems = 5;
__device__ inline JobKind item(int i) {
  if (shared().params.parallel_residual) return i == 0 ? kJobQkv : i == 1 ? kJobUp : i == 2 ? kJobAttention : i == 3 ? kJobDown : kJobO;
  return i == 0 ? kJobQkv : i == 1 ? kJobAttention : i == 2 ? kJobO : i == 3 ? kJobUp : kJobDown;
}

// ---- The streaming thread

__device__ inline void stream() {
  const DecodeParams& p = shared().params;
  RingWriter ring;
#pragma unroll 1
  for (int step = 0; step < p.n_steps; step++) {
#pragma unroll 1
    for (int layer = 0; layer < layers_of(step); layer++)
#pragma unroll 1
      for (int i = 0; i < (layer < p.n_layers ? kLayerItems : 1); i++) {
        const JobKind kind = layer < p.n_layers ? item(i) : kJobHead;
        if (kind != kJobAttention && !load_job(ring, kind, layer)) return ring.drain();
      }
  }
}

// ---- The gathering warps

// The parts of this CTA in a layer.
template <int D, class Weight>
__device__ __forceinline__ void attend(int layer, uint32_t epoch) {
  using Attention = DecodeAttention<D>;
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const uint4* const qkv = words_at(p.words.qkv, (p.n_heads + 2 * p.n_kv_heads) * Attention::kHeadWords, layer, 0);
#pragma unroll 1
  for (;;) {
    if (gather_thread() == 0) {  // one thread decides for all, also when the launch has failed
      while (s.announced <= s.done && !s.failed) {}
      __threadfence_block();
      const PartItem before = s.last, now = s.items[s.done % kItems];
      s.same_query = p.n_rows == 1 && !before.owned && before.kv_head == now.kv_head && before.layer == now.layer && before.step == now.step;
      s.current = now;
      if (s.failed) s.current.step = -1;
    }
    gathers_sync();
    const PartItem item = s.current;
    if (item.layer != layer || item.step != s.step) break;
    const int number = s.done & (p.kv_buffers - 1);
    Attention::wait_part(s.done);
    const bool f16 = p.rows[item.row].kv_dtype == CF_DTYPE_F16;
    const typename Attention::Task task = {item.row, item.kv_head, item.part, item.owned != 0};
    if (task.owned && f16) Attention::template attend_owned<Weight, F16>(number, qkv, layer, task, epoch);
    else if (task.owned) Attention::template attend_owned<Weight, Bf16>(number, qkv, layer, task, epoch);
    else if (f16) Attention::template attend_complete<F16>(number, qkv, layer, task, epoch, s.same_query);
    else Attention::template attend_complete<Bf16>(number, qkv, layer, task, epoch, s.same_query);
    gathers_sync();  // nobody reads the buffer any more, and what was appended is written
    if (gather_thread() == 0) {
      __threadfence_block();
      s.last = s.current;
      s.done = s.done + 1;
    }
  }
}

template <int D, class Weight, int kRows>
__device__ void gather() {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  uint32_t epoch = static_cast<uint32_t>(s.epoch);
#pragma unroll 1
  for (int step = 0; step < p.n_steps && s.go; step++) {
    publish_embeddings<Weight>(++epoch);
    DecodeAttention<D>::set_angles();
    gathers_sync();
#pragma unroll 1
    for (int layer = 0; layer < layers_of(step); layer++) {
      epoch++;
#pragma unroll 1
      for (int i = 0; i < (layer < p.n_layers ? kLayerItems : 1); i++) {
        JobKind kind = layer < p.n_layers ? item(i) : kJobHead;
        // With a parallel residual MLP-down's activations come at the same time as the queries, and are not to wait for attention.
        if (p.parallel_residual && (kind == kJobAttention || kind == kJobDown)) kind = kind == kJobDown ? kJobAttention : kJobDown;
        if (kind == kJobAttention) attend<D, Weight>(layer, epoch);
        else gather_job<D, Weight, kRows>(kind, layer, epoch);
      }
    }
    epoch++;  // of the vote
    roles_sync();
    roles_sync();  // s.step and s.go are those of the next step
  }
  wait_free();  // the product warps' last arrival
}

// ---- The product warps

// The best candidate of a warp's lanes, in all of them.
__device__ inline Candidate best_of_lanes(Candidate best) {
#pragma unroll 1
  for (int lanes = kWarpLanes / 2; lanes > 0; lanes /= 2)
    best.take(__shfl_xor_sync(0xffffffffu, best.value, lanes), __shfl_xor_sync(0xffffffffu, best.token, lanes),
              __shfl_xor_sync(0xffffffffu, best.finite, lanes));
  return best;
}

// Votes of all CTAs on each row's token: into s.token and s.finite. A warp counts a row's. s.go: whether the launch goes on.
template <int kRows>
__device__ void vote(int flip, uint32_t epoch) {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const int row = static_cast<int>(threadIdx.x) / kWarpLanes, lane = static_cast<int>(threadIdx.x) % kWarpLanes, ctas = static_cast<int>(gridDim.x);
  if (threadIdx.x == 0) s.finite = 1;
  products_sync();
  if (row < p.n_rows) {
    Candidate best = Candidate::none();
#pragma unroll 1
    for (int i = lane; i < kProducts / kRows; i += kWarpLanes) {
      const Candidate of = s.candidates[(i / kTileRows * kRows + row) * kTileRows + i % kTileRows];
      best.take(of.value, of.token, of.finite);
    }
    best = best_of_lanes(best);
    uint4* const votes = p.words.votes + flip * ctas * p.n_rows + row;
    if (lane == 0)
      ptx::store_word(votes + blockIdx.x * p.n_rows, __float_as_uint(best.value), static_cast<uint32_t>(best.token),
                      static_cast<uint32_t>(best.finite), epoch);
    best = Candidate::none();
    constexpr int kAtOnce = 5;
#pragma unroll 1
    for (int cta = lane; cta < ctas; cta += kAtOnce * kWarpLanes) {
      uint4 word[kAtOnce];
      read_words<kAtOnce>(
          votes, epoch, [&](int j) { return (cta + j * kWarpLanes) * p.n_rows; }, [&](int j) { return cta + j * kWarpLanes < ctas; }, word);
#pragma unroll
      for (int j = 0; j < kAtOnce; j++)
        if (cta + j * kWarpLanes < ctas) best.take(__uint_as_float(word[j].x), static_cast<int>(word[j].y), static_cast<int>(word[j].z));
    }
    best = best_of_lanes(best);
    if (lane == 0 && best.token >= 0) s.token[row] = best.token;
    if (lane == 0 && !best.finite) s.finite = 0;
  }
  if (threadIdx.x == 0) s.go = !s.failed, s.meeting = 0;
  products_sync();
}

template <int D, class Weight, int kRows>
__device__ void multiply() {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  uint32_t epoch = static_cast<uint32_t>(s.epoch);
  RingReader ring;
  cf_status status = CF_OK;
  int step = 0;
  activations_free();
#pragma unroll 1
  for (; step < p.n_steps && s.go; step++) {
    s.candidates[threadIdx.x] = Candidate::none();
    epoch++;  // of the embeddings
#pragma unroll 1
    for (int layer = 0; layer < layers_of(step); layer++) {
      epoch++;
#pragma unroll 1
      for (int i = 0; i < (layer < p.n_layers ? kLayerItems : 1); i++) {
        const JobKind kind = layer < p.n_layers ? item(i) : kJobHead;
        if (kind != kJobAttention) ring = run_job<D, Weight, kRows>(ring, kind, layer, epoch);
      }
    }
    vote<kRows>(step & 1, ++epoch);
    roles_sync();
    if (!s.go) status = CF_ERROR_DEVICE_LOST;
    else if (!s.finite && p.n_rows == 1) status = CF_ERROR_NONFINITE_LOGITS;
    if (blockIdx.x == 0 && threadIdx.x < p.n_rows && status == CF_OK)
      p.state->sampled[step * p.n_rows + static_cast<int>(threadIdx.x)] = s.token[threadIdx.x];
    products_sync();
    if (threadIdx.x == 0) s.step = step + 1, s.go = status == CF_OK;
    roles_sync();
    if (status != CF_OK) break;
  }
  if (threadIdx.x == 0 && status != CF_OK) s.failed = 1;  // the streaming thread may be ahead
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    p.state->status = status;
    p.state->epoch = epoch;
    p.state->n_steps = step;
  }
}

template <int D, class Weight, int kRows>
__global__ void __launch_bounds__(kDecodeThreads, 1) decode(const __grid_constant__ DecodeParams params) {
#if __CUDA_ARCH__ >= 900  // bulk copies; the host does not launch it on older devices
  DecodeShared& s = shared();
  static_assert(sizeof(DecodeParams) % sizeof(uint32_t) == 0);
  for (int i = threadIdx.x; i < static_cast<int>(sizeof(DecodeParams) / sizeof(uint32_t)); i += kDecodeThreads)
    reinterpret_cast<uint32_t*>(&s.params)[i] = reinterpret_cast<const uint32_t*>(&params)[i];
  __syncthreads();
  const DecodeParams& p = s.params;
  if (threadIdx.x == 0) {
    for (int i = 0; i < p.ring; i++) ptx::barrier_init(&s.full[i], 1), ptx::barrier_init(&s.empty[i], kChunkReaders);
    ptx::fence_barrier_init();
    s.epoch = static_cast<int32_t>(p.state->epoch);
    s.step = 0;
    s.meeting = 0;
    s.failed = 0;
    for (int i = 0; i < kKvBuffers; i++) ptx::barrier_init(&s.kv_full[i], 1);
    s.announced = 0;
    s.last = {-1, 0, 0, 0, 0, 1};
    s.done = 0;
    ptx::fence_barrier_init();
    s.go = p.state->status == CF_OK && !p.state->failed;
    int table = 0;
    for (int row = 0; row < p.n_rows; row++) {
      if (p.rows[row].first != row) continue;
      int last = row;
      while (last + 1 < p.n_rows && p.rows[last + 1].first == row) last++;
      const int pages = ((p.rows[last].position + p.n_steps - 1) >> p.rows[row].page_shift) + 1;
      s.parts[row] = p.rows[row].position / kPartTokens;
      s.table_at[row] = table + pages <= kPageTableShared ? table : -1;
      if (table + pages <= kPageTableShared) table += pages;
    }
    for (int share = 0; share < kNormShares; share++) {
      int numbers = 0;
      for (int word = 0; word < hidden_words(); word++)
        if (word / kLaneWords % kGatherWarps + word / (kGo * kGatherWords) * kGatherWarps == share) numbers += has_three(word) ? 3 : 1;
      s.counts[share] = static_cast<float>(numbers), s.inverse_counts[share] = 1.0f / static_cast<float>(max(numbers, 1));
    }
    s.inverse_hidden = 1.0f / static_cast<float>(p.hidden_size);
    for (int i = 0; i < p.n_rows; i++) s.token[i] = p.rows[i].token;
#pragma unroll 1
    for (int kind = 0; kind < kJobKinds; kind++) s.jobs[kind] = shape_of(D, static_cast<JobKind>(kind));
    for (int slice = 0; slice <= p.down_slices; slice++) s.down_begin[slice] = slice * s.jobs[kJobDown].tiles / p.down_slices;
    s.samples = s.logits = 0;
    for (int i = 0; i < p.n_rows; i++) s.samples |= p.rows[i].sample, s.logits |= p.rows[i].logits != nullptr;
    s.group = p.n_heads / p.n_kv_heads;
    s.complete = DecodeAttention<D>::complete_parts();
  }
  for (int i = threadIdx.x; i < p.n_layers; i += kDecodeThreads) {
    s.layers[i] = p.layers[i];
    s.turned[i] = static_cast<uint16_t>(turned_cta(i, kJobAttention));
  }
  __syncthreads();
  if (!s.go) return;
  for (int row = 0; row < p.n_rows; row++) {
    if (p.rows[row].first != row || s.table_at[row] < 0) continue;
    int last = row;
    while (last + 1 < p.n_rows && p.rows[last + 1].first == row) last++;
    const int pages = ((p.rows[last].position + p.n_steps - 1) >> p.rows[row].page_shift) + 1;
    for (int i = threadIdx.x; i < pages; i += kDecodeThreads) s.page_table[s.table_at[row] + i] = p.rows[row].page_table[i];
  }
  for (int i = threadIdx.x; i < (p.n_layers + 1) * kJobKinds; i += kDecodeThreads)
    s.runs[i] = run_of(static_cast<JobKind>(i % kJobKinds), i / kJobKinds);
  __syncthreads();
  if (threadIdx.x < kProducts) multiply<D, Weight, kRows>();
  else if (threadIdx.x < kProducts + kGathers) gather<D, Weight, kRows>();
  else if (threadIdx.x == kProducts + kGathers) stream();
  else if (threadIdx.x == kProducts + kGathers + kWarpLanes) DecodeAttention<D>::load_all();
#endif
}

template <int D>
const void* decode_kernel_of(cf_dtype weight_dtype, int rows) {
  const bool f16 = weight_dtype == CF_DTYPE_F16;
  if (rows <= 1) return f16 ? reinterpret_cast<const void*>(decode<D, F16, 1>) : reinterpret_cast<const void*>(decode<D, Bf16, 1>);
  if (rows <= 4) return f16 ? reinterpret_cast<const void*>(decode<D, F16, 4>) : reinterpret_cast<const void*>(decode<D, Bf16, 4>);
  return f16 ? reinterpret_cast<const void*>(decode<D, F16, 8>) : reinterpret_cast<const void*>(decode<D, Bf16, 8>);
}

}  // namespace cf::gpu
