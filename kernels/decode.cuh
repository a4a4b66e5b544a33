// Decode steps of a model as one persistent cooperative launch: embedding, all blocks, head, and the most likely token, which is the next
// step's input; for one row, or for several rows, which share every weight that is read.
//
// A CTA is eight warps that multiply, and bring what they multiply by, four that attend, and two threads (before compute capability 9.0
// warps) that load: one brings the CTA's share of all weights, phase after phase, through a ring in shared memory, and does not wait for
// activations, so the memory is read all the time; the other brings keys and values. Each of the four goes through the same sequence of work by
// itself and waits only for what it needs, so that all that leads up to a wait is done when its end comes. Phases hand activations on as words that carry their epoch (words.cuh). With a parallel residual a layer
// has three phases: {Q K V, MLP-up}, {attention, MLP-down}, {O, residuals}; otherwise five: {Q K V}, {attention}, {O, residual}, {MLP-up},
// {MLP-down, residual}. A block call is a launch of one layer that begins and ends with the caller's activations (decode_block.cuh).
//
// The order of every sum follows from the model's shape: the same bits for any number of CTAs and rows. The code of a layer must stay in the
// instruction cache (128 KB), or every phase waits for memory: hence one function for all products, and loops that are not unrolled.
#pragma once

#include "contract.h"
#include "decode_attention.cuh"
#include "decode_block.cuh"
#include "decode_job.cuh"
#include "decode_sample.cuh"

namespace cf::gpu {

// The jobs of a layer in the order in which they are streamed and used; attention stands for itself. Layer n_layers is the head.
__device__ inline int items_of(int layer) { return layer < shared().params.n_layers ? 5 : 1; }
__device__ inline JobKind item(int layer, int i) {
  const DecodeParams& p = shared().params;
  if (layer == p.n_layers) return kJobHead;
  if (p.parallel_residual) return i == 0 ? kJobQkv : i == 1 ? kJobUp : i == 2 ? kJobAttention : i == 3 ? kJobDown : kJobO;
  return i == 0 ? kJobQkv : i == 1 ? kJobAttention : i == 2 ? kJobO : i == 3 ? kJobUp : kJobDown;
}
static_assert(kTakesQkv == 1 << kJobQkv && kTakesAttention == 1 << kJobAttention && kTakesHead == 1 << kJobHead);
__device__ inline bool takes(JobKind kind) { return shared().params.takes >> kind & 1; }  // this launch

// ---- The streaming threads

template <int kRows>
__device__ inline void stream() {
  const DecodeParams& p = shared().params;
  RingWriter ring;
#pragma unroll 1
  for (int step = 0; step < p.n_steps; step++)
#pragma unroll 1
    for (int layer = p.first_layer; layer < p.end_layer; layer++)
#pragma unroll 1
      for (int i = 0; i < items_of(layer); i++) {
        const JobKind kind = item(layer, i);
        trace(kTraceStream, layer, kind);
        if (kind != kJobAttention && takes(kind) && !load_job<kRows>(ring, kind, layer)) return ring.drain();
        trace(kTraceStreamed, layer, kind);
      }
}

// ---- The attention warps

// The embeddings of the rows' tokens as words of the residual stream before layer 0: each CTA publishes some.
__device__ inline void publish_embeddings(uint32_t epoch) {
  const DecodeShared& s = shared();
  const int n_words = hidden_words();
#pragma unroll 1
  for (int row = 0; row < s.params.n_rows; row++)
#pragma unroll 1
    for (int word = static_cast<int>(blockIdx.x) + attention_thread() * static_cast<int>(gridDim.x); word < n_words;
         word += kAttentionThreads * static_cast<int>(gridDim.x)) {
      const int column = column_of_word(word), more = has_three(word) ? 1 : 0;
      const auto bits = [&](int at) { return __float_as_uint(embedding(s.token[row], at)); };
      ptx::store_word(words_at(s.params.words.hidden, n_words, 0, row) + word, bits(column), bits(column + more), bits(column + 2 * more), epoch);
    }
}

// The parts of this CTA in a layer.
template <int D>
__device__ __forceinline__ void attend(int layer, uint32_t epoch) {
  using Attention = DecodeAttention<D>;
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const uint4* const qkv = words_at(p.words.qkv, (p.n_heads + 2 * p.n_kv_heads) * Attention::kHeadWords, layer, 0);
#pragma unroll 1
  for (;;) {
    if (attention_thread() == 0) {  // one thread decides for all, also when the launch has failed
      while (s.announced <= s.done && !s.failed) {}
      while (static_cast<int32_t>(s.passed - epoch) < 0 && !s.failed) {}  // the words come later, and asking for them is work for the memory
      __threadfence_block();
      const PartItem before = s.last, now = s.items[s.done % kItems];
      s.same_query = p.n_rows == 1 && !before.owned && before.kv_head == now.kv_head && before.layer == now.layer && before.step == now.step;
      s.current = now;
      if (s.failed) s.current.step = -1;
    }
    attention_sync();
    const PartItem item = s.current;
    if (item.layer != layer || item.step != s.step) break;
    if (attention_thread() == 0) trace(kTraceBegin, layer, kJobAttention);
    const int number = s.done & (p.kv_buffers - 1);
    Attention::wait_part(s.done);
    const bool f16 = p.rows[item.row].kv_dtype == CF_DTYPE_F16;
    const typename Attention::Task task = {item.row, item.kv_head, item.part, item.owned != 0, item.head, item.owned ? s.plan.owner_heads : s.group};
    if (task.owned && f16) Attention::template attend_owned<F16>(number, qkv, layer, task, epoch);
    else if (task.owned) Attention::template attend_owned<Bf16>(number, qkv, layer, task, epoch);
    else if (f16) Attention::template attend_complete<F16>(number, qkv, layer, task, epoch, s.same_query);
    else Attention::template attend_complete<Bf16>(number, qkv, layer, task, epoch, s.same_query);
    if (task.owned) ptx::fence_proxies();  // before the next copies to the buffer, and, in the next step, from the pages: both were written
    if (attention_thread() == 0) trace(kTraceEnd, layer, kJobAttention);
    attention_sync();  // nobody reads the buffer any more, and what was appended is written
    if (attention_thread() == 0) {
      __threadfence_block();
      s.last = s.current;
      s.done = s.done + 1;
    }
  }
}

__device__ inline uint32_t epoch_of_votes() { return epoch_of_layer(shared().params.n_layers + 1); }

// The thread that tells the host; nobody waits for it.
__device__ inline bool tells() { return shared().params.sequence && blockIdx.x == 0 && attention_thread() == kAttentionThreads - kWarpLanes; }

// The fed and the sampled token of a step that has succeeded.
__device__ inline void tell_tokens(int fed) {
  const DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const int position = s.sequence.position;  // after the step
  volatile int32_t* const tokens = p.log_tokens;
  tokens[position - 1] = fed;
  tokens[position] = s.recent[s.step];
  __threadfence_system();
  *reinterpret_cast<volatile int64_t*>(&p.log->known) = position + 1;
}

// After the last step of a launch.
__device__ inline void tell_end(int n_steps, cf_status status) {
  const DecodeShared& s = shared();
  volatile SequenceLog* const to = s.params.log;
  to->n_steps = to->n_steps + n_steps;
  to->position = s.sequence.position;
  to->status = status;
  to->stopped = s.sequence.stopped;
  __threadfence_system();
  to->launches = to->launches + 1;
}

template <int D>
__device__ __noinline__ inline void attend_or_combine(int layer) {
  const uint32_t takes = shared().params.takes;
  if (takes & kTakesAttention) attend<D>(layer, epoch_of_layer(layer));
  else if (takes & kTakesCombine) DecodeAttention<D>::combine(layer, epoch_of_layer(layer));
}

template <int D>
__device__ void attend_all() {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
#pragma unroll 1
  while (s.go) {
    if (p.block.part != kNoBlock) publish_block(epoch_of_layer(-1), epoch_of_layer(0));
    else if (p.begins) publish_embeddings(epoch_of_layer(-1));
    DecodeAttention<D>::set_angles();
    attention_sync();
#pragma unroll 1
    for (int layer = p.first_layer; layer < min(p.end_layer, p.n_layers); layer++) attend_or_combine<D>(layer);
    if (!p.ends) break;
    roles_sync();
    roles_sync();  // what end_step left is that of the next step
    if (tells() && s.progressed) tell_tokens(s.recent[s.step - 1]);
  }
  if (p.block.part != kNoBlock) roles_sync();
  if (p.ends && tells()) tell_end(s.step, s.status);
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

// This CTA's votes on each row's token. A warp has a row.
template <int kRows>
__device__ void cast_votes() {
  const DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const uint32_t epoch = epoch_of_votes();
  const int row = static_cast<int>(threadIdx.x) / kWarpLanes, lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  products_sync();
  if (row >= p.n_rows || s.failed) return;  // who has given up publishes what it has, but no step ends well without its vote
  Candidate best = Candidate::none();
#pragma unroll 1
  for (int i = lane; i < kProducts / kRows; i += kWarpLanes) {
    const Candidate of = s.of_thread[(i / kTileRows * kRows + row) * kTileRows + i % kTileRows].best;
    best.take(of.value, of.token, of.finite);
  }
  best = best_of_lanes(best);
  if (lane == 0)
    ptx::store_word(p.words.votes + ((s.step & 1) * p.voters + static_cast<int>(blockIdx.x)) * p.n_rows + row, __float_as_uint(best.value),
                    static_cast<uint32_t>(best.token), static_cast<uint32_t>(best.finite), epoch);
}

// The votes of all CTAs: into s.token, s.most and s.finite.
__device__ inline void count_votes(uint32_t epoch) {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  const int row = static_cast<int>(threadIdx.x) / kWarpLanes, lane = static_cast<int>(threadIdx.x) % kWarpLanes, ctas = p.voters;
  if (row < p.n_rows) {
    const uint4* const votes = p.words.votes + (s.step & 1) * ctas * p.n_rows + row;
    Candidate best = Candidate::none();
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
    if (lane == 0 && best.token >= 0) s.token[row] = best.token, s.most[row] = best.value;
    if (lane == 0) s.finite[row] = best.finite;
  }
  products_sync();
}

// The end of a step: its token, and whether the launch goes on.
__device__ __noinline__ inline void end_step() {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  uint32_t epoch = epoch_of_votes();
  count_votes(epoch);
  cf_status status = s.failed ? CF_ERROR_DEVICE_LOST : CF_OK;
  if (p.sequence && status == CF_OK) {
    if (!s.finite[0]) status = CF_ERROR_NONFINITE_LOGITS;
    else if (s.most[0] == -INFINITY) status = CF_ERROR_NO_TOKEN_ALLOWED;
    else if (s.draws) epoch = draw_token(p.rows[0].position + s.step + 1, epoch);
  }
  if (s.failed) status = CF_ERROR_DEVICE_LOST;  // in the rounds
  roles_sync();
  if (threadIdx.x == 0) {
    s.progressed = status == CF_OK;
    s.step += s.progressed;
    if (p.sequence && s.progressed) {
      s.sequence.stopped = s.sequence.sampler.stops && has_bit(stop_tokens(), s.token[0]);
      s.sequence.position++, s.sequence.token = s.recent[s.step] = s.token[0];
      if (!s.sequence.stopped && s.step == p.n_steps && p.n_steps < s.steps_asked) status = CF_ERROR_CACHE_FULL;
    }
    s.epoch = static_cast<int32_t>(epoch);
    end_meeting();
    s.status = status;
    s.go = status == CF_OK && !s.sequence.stopped && s.step < p.n_steps;
  }
  roles_sync();
}

// After the last step of a launch: what the next ones go on from. One thread of the grid.
__device__ inline void leave_state() {
  const DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  p.state->epoch = static_cast<uint32_t>(s.epoch);
  if (!p.sequence) {
    for (int row = 0; row < p.n_rows; row++) p.state->rows[row] = {s.token[row], s.finite[row]};
    return;
  }
  p.sequence->position = s.sequence.position, p.sequence->token = s.sequence.token;
  p.sequence->status = s.status, p.sequence->stopped = s.sequence.stopped;
  if (s.sequence.sampler.repetition_penalty != 1.0f)
    for (int i = 0; i < s.step; i++) seen_tokens()[s.recent[i] / 32] |= 1u << (s.recent[i] & 31);
}

template <int D, int kRows>
__device__ void multiply() {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  RingReader ring;
#pragma unroll 1
  while (s.go) {
#pragma unroll 1
    for (int at = 8 * p.first_layer; at < 8 * p.end_layer; at++) {  // layer and item in one register: there is none to spare
      const int layer = at / 8;
      if (at % 8 >= items_of(layer)) continue;
      const JobKind kind = item(layer, at % 8);
      if (kind == kJobHead) s.of_thread[threadIdx.x].best = Candidate::none();
      if (kind != kJobAttention && takes(kind)) ring = run_job<D, kRows>(ring, kind, layer);
      if (kind == kJobAttention && threadIdx.x == 0) s.passed = static_cast<int32_t>(epoch_of_layer(layer));
    }
    if (p.casts) cast_votes<kRows>();
    if (p.block.part != kNoBlock) {
      roles_sync();
      if (threadIdx.x == 0) leave_block(epoch_of_layer(0));
    }
    if (!p.ends) return;
    end_step();
  }
  if (threadIdx.x != 0) return;
  if (s.step < p.n_steps) s.failed = 1;  // the threads that load are ahead
  if (blockIdx.x == 0) leave_state();
}

// ---- The launch

// The row of a launch that goes on from what the device knows of the sequence. False: there is nothing to do, for the reason in s.status.
__device__ inline bool take_sequence() {
  DecodeShared& s = shared();
  DecodeParams& p = s.params;
  s.sequence = *p.sequence;
  const DecodeSampler& sampler = s.sequence.sampler;
  s.draws = sampler.temperature != 0 || sampler.repetition_penalty != 1.0f || sampler.biased || sampler.masked;
  if (s.status == CF_OK) s.status = s.sequence.status;
  if (s.status != CF_OK || (s.sequence.stopped && !p.new_call)) return false;
  s.sequence.stopped = 0;
  p.rows[0].position = s.sequence.position;
  p.rows[0].token = s.recent[0] = p.token >= 0 ? p.token : s.sequence.token;
  p.n_steps = min(p.n_steps, p.end_position - s.sequence.position);
  if (p.n_steps > 0) return true;
  s.status = CF_ERROR_CACHE_FULL;
  if (p.ends && blockIdx.x == 0) p.sequence->status = s.status;
  return false;
}

// Pages of the sequence that begins with `row`, whose number `last` receives.
__device__ inline int pages_of(int row, int& last) {
  const DecodeParams& p = shared().params;
  for (last = row; last + 1 < p.n_rows && p.rows[last + 1].first == row;) last++;
  return p.rows[row].pages.page_of(p.rows[last].position + p.n_steps - 1) + 1;
}

// What one thread sets up. False: there is nothing to do.
template <int D>
__device__ bool set_up() {
  DecodeShared& s = shared();
  const DecodeParams& p = s.params;
  for (int i = 0; i < p.ring; i++) {
    ptx::barrier_init(&s.full[i], ptx::kCopyLanes), ptx::barrier_init(&s.empty[i], kChunkReaders);
    s.laps[i] = -1;
  }
  for (int i = 0; i < kKvBuffers; i++) ptx::barrier_init(&s.kv_full[i], ptx::kCopyLanes);
  ptx::fence_barrier_init();
  DecodeAttention<D>::inbox().init();
  const uint32_t epoch = p.state->epoch, failed = p.state->failed;
  const BlockEntry entry = p.block.part != kNoBlock ? block_entry() : BlockEntry{};  // on its way together with these
  s.epoch = static_cast<int32_t>(epoch);
  s.step = s.draws = 0;
  s.passed = static_cast<int32_t>(epoch);
  s.failed = 0;
  s.announced = 0;
  s.done = 0;
  s.near_taken = 0;
  end_meeting();
  s.last = {-1, 0, 0, 0, 0, 1, -1, 0};
  s.steps_asked = p.n_steps;
  s.status = failed ? CF_ERROR_DEVICE_LOST : CF_OK;
  if (p.block.part != kNoBlock) {
    if (!take_block(entry)) return false;
  } else if (!p.sequence) {
    s.sequence.stopped = 0;
    if (s.status != CF_OK) return false;
  } else if (!take_sequence()) {
    if (p.ends && blockIdx.x == 0) tell_end(0, s.status);
    return false;
  }
  int table = 0;
  for (int row = 0, last; row < p.n_rows; row = last + 1) {
    const int pages = pages_of(row, last);
    s.parts[row] = p.rows[row].position / part_tokens(D);
    s.table_at[row] = table + pages <= kPageTableShared ? table : -1;
    if (table + pages <= kPageTableShared) table += pages;
  }
#pragma unroll 1
  for (int share = 0; share < norm_shares(); share++) {
    s.counts[share] = static_cast<float>(p.share_counts[share]);
    s.inverse_counts[share] = 1.0f / static_cast<float>(max(p.share_counts[share], 1));
  }
  s.inverse_hidden = 1.0f / static_cast<float>(p.hidden_size);
  for (int i = 0; i < p.n_rows; i++) s.token[i] = p.rows[i].token;
#pragma unroll 1
  for (int kind = 0; kind < kJobKinds; kind++) s.jobs[kind] = shape_of(D, static_cast<JobKind>(kind));
  for (int slice = 0; slice <= p.down_slices; slice++) s.down_begin[slice] = slice * s.jobs[kJobDown].tiles / p.down_slices;
  s.group = p.n_heads / p.n_kv_heads;
  DecodeAttention<D>::plan_parts();
  return true;
}

// All threads of the CTA, and of its cluster, meet: after this others may put something in. No CTA ends before all have left.
__device__ inline void meet_cluster() {
  if (shared().params.cluster_size > 1) cluster_meet();
  else __syncthreads();
}
__device__ inline void leave_cluster() {
  __syncwarp();
  if (shared().params.cluster_size > 1) cluster_leave();
}

template <int D, int kRows>
__global__ void __launch_bounds__(kDecodeThreads, kCtasOfSm) decode(const __grid_constant__ DecodeParams params) {
  DecodeShared& s = shared();
  static_assert(sizeof(DecodeParams) % sizeof(uint32_t) == 0 && sizeof(DecodeParams) <= 4096);
  static_assert(kDecodeSharedBytes + kRingChunkBytes + kv_buffer_bytes(D) + scratch_floats(1, D, D, 1) * 4 + near_part_bytes(1, D) <=
                kLeastSharedBytes);
  for (int i = threadIdx.x; i < static_cast<int>(sizeof(DecodeParams) / sizeof(uint32_t)); i += kDecodeThreads)
    reinterpret_cast<uint32_t*>(&s.params)[i] = reinterpret_cast<const uint32_t*>(&params)[i];
  __syncthreads();
  const DecodeParams& p = s.params;
  if (threadIdx.x == 0) s.go = set_up<D>();
  for (int i = kDecodeThreads - 1 - threadIdx.x; i < p.n_layers + 3; i += kDecodeThreads) {  // while thread 0 sets up
    const char* const address = p.addresses[i];
    if (i < p.n_layers) s.layers[i] = address, s.turned[i] = static_cast<uint16_t>(turned_cluster(i, kJobAttention));
    else (i == p.n_layers ? s.embedding : i == p.n_layers + 1 ? s.head : s.final_norm) = address;
  }
  __syncthreads();
  if (!s.go) return meet_cluster(), leave_cluster();
  for (int row = 0, last; row < p.n_rows; row = last + 1) {
    const int pages = pages_of(row, last);
    if (s.table_at[row] < 0) continue;
    for (int i = threadIdx.x; i < pages; i += kDecodeThreads)
      s.page_table[s.table_at[row] + i] = p.rows[row].page_table ? p.rows[row].page_table[i] : 0;
  }
  for (int i = threadIdx.x; i < (p.n_layers + 1) * kJobKinds; i += kDecodeThreads)
    s.runs[i] = run_of(static_cast<JobKind>(i % kJobKinds), i / kJobKinds);
  meet_cluster();
  const int copies = static_cast<int>(threadIdx.x) - kProducts - kAttentionThreads;  // this thread of those that copy
  if (threadIdx.x < kProducts) multiply<D, kRows>();
  else if (copies < 0) attend_all<D>();
  else if (copies < ptx::kCopyLanes) stream<kRows>();
  else if (copies >= kWarpLanes && copies < kWarpLanes + ptx::kCopyLanes && p.takes & kTakesAttention) DecodeAttention<D>::load_all();
  leave_cluster();
}

template <int D>
const void* decode_kernel_of(int rows) {
  if (rows <= 1) return reinterpret_cast<const void*>(decode<D, 1>);
  return rows <= 4 ? reinterpret_cast<const void*>(decode<D, 4>) : reinterpret_cast<const void*>(decode<D, 8>);
}

}  // namespace cf::gpu
