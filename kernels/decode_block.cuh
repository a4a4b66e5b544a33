// What block calls (cf_block_forward and its parts) have of their own: a launch of one layer, or some of its parts, that begins with the
// caller's activations and leaves the caller's (decode_job.cuh, decode_attention.cuh).
#pragma once

#include "decode_job.cuh"

namespace cf::gpu {

// What decides whether a launch has anything to do, and where.
struct BlockEntry {
  uint32_t status;
  int32_t position;
};
__device__ inline BlockEntry block_entry() {
  const BlockIo& io = shared().params.block;
  return {ptx::load_relaxed(reinterpret_cast<const uint32_t*>(io.status)), io.position ? *io.position : 0};
}

// Whether it has, with s.status OK unless the launch has failed already; one thread. The same answer in every CTA: nothing of the entry changes
// until all CTAs have ended, but for the status, which becomes the error that this launch ends with.
__device__ inline bool take_block(BlockEntry entry) {
  DecodeShared& s = shared();
  DecodeParams& p = s.params;
  const BlockIo& io = p.block;
  const int32_t position = entry.position;
  if (s.status == CF_OK && position < 0) s.status = CF_ERROR_INVALID_ARGUMENT;
  if (s.status == CF_OK && io.position && position > io.capacity - io.rows) s.status = CF_ERROR_CACHE_FULL;
  if (entry.status == CF_OK && s.status != CF_OK && blockIdx.x == 0)
    ptx::store_relaxed(reinterpret_cast<uint32_t*>(io.status), static_cast<uint32_t>(s.status));
  for (int row = 0; row < p.n_rows; row++) p.rows[row].position = position + io.rows_before + row;
  return entry.status == CF_OK && s.status == CF_OK;
}

// The words that the layer begins with: each CTA publishes some. They are the residual stream; for MLP-down alone also its input, and with a
// sequential residual the stream after attention.
__device__ __noinline__ inline void publish_block(uint32_t stream_epoch, uint32_t epoch) {
  const DecodeParams& p = shared().params;
  const BlockIo& io = p.block;
  const auto publish = [&](uint4* words, int n_words, int columns, uint32_t its_epoch, auto bits) {
#pragma unroll 1
    for (int i = static_cast<int>(blockIdx.x) + attention_thread() * static_cast<int>(gridDim.x); i < p.n_rows * n_words;
         i += kAttentionThreads * static_cast<int>(gridDim.x)) {
      const int row = i / n_words, word = i - row * n_words, more = has_three(word) ? 1 : 0;
      const int64_t at = static_cast<int64_t>(row) * columns + column_of_word(word);
      ptx::store_word(words + i, bits(at), bits(at + more), bits(at + 2 * more), its_epoch);  // as words_at says of layer 0
    }
  };
  const auto hidden = [&](int64_t at) { return load_element(io.hidden, io.dtype, at); };
  if (io.part == kBlockDown)
    publish(p.words.activation, activation_words(), p.intermediate_size, epoch,
            [&](int64_t at) { return split(load_element(io.mlp_activation, io.dtype, at)); });
  if (io.part == kBlockDown && !p.parallel_residual)
    publish(p.words.middle, hidden_words(), p.hidden_size, epoch,
            [&](int64_t at) { return __float_as_uint(load_element(io.attention_output, io.dtype, at) + hidden(at)); });
  else publish(p.words.hidden, hidden_words(), p.hidden_size, stream_epoch, [&](int64_t at) { return __float_as_uint(hidden(at)); });
}

// The end of a CTA, whose roles have met; one thread. The last CTA leaves what the next launch goes on from: nobody reads it any more.
__device__ inline void leave_block(uint32_t epoch) {
  const DecodeParams& p = shared().params;
  if (ptx::add_acquire_release(&p.state->finished, 1) + 1 < gridDim.x) return;
  p.state->finished = 0;
  if (ptx::load_relaxed(&p.state->failed)) {
    ptx::store_relaxed(reinterpret_cast<uint32_t*>(p.block.status), CF_ERROR_DEVICE_LOST);
    return;
  }
  p.state->epoch = epoch;
  if (p.block.advance) *p.block.advance += p.block.rows;
}

}  // namespace cf::gpu
