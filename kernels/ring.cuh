// A ring of chunks in shared memory: one thread fills it by bulk copies and runs ahead of the consumers, as far as the ring goes.
#pragma once

#include "decode_shared.cuh"
#include "ptx.cuh"

namespace cf::gpu {

// The producing thread's end.
struct RingWriter {
  uint64_t policy = ptx::evict_first_policy();
  int slot = 0;
  uint32_t parity = 0;  // of the lap
  bool first_lap = true;

  // Claims the next slot for `bytes` bytes; NULL: the launch has failed.
  __device__ char* claim(uint32_t bytes) {
    DecodeShared& s = shared();
    const DecodeParams& p = s.params;
    if (!first_lap)
      while (!ptx::barrier_passed(&s.empty[slot], parity ^ 1))
        if (s.failed) return nullptr;
    // What is in flight delays the words that CTAs exchange, so it is bounded, and more tightly while this CTA is in a meeting.
    for (;;) {
      const int back = slot - (s.meeting ? p.trickle : p.window);
      if (back < 0 && first_lap) break;
      if (ptx::barrier_passed(&s.full[back < 0 ? back + p.ring : back], back < 0 ? parity ^ 1 : parity)) break;
      if (s.failed) return nullptr;
    }
    ptx::barrier_expect(&s.full[slot], bytes);
    return chunk_at(slot);
  }
  __device__ void copy(char* to, const char* from, uint32_t bytes) { ptx::bulk_copy(to, from, bytes, &shared().full[slot], policy); }
  __device__ void advance() {
    if (++slot == shared().params.ring) slot = 0, parity ^= 1, first_lap = false;
  }
  __device__ bool load(const char* from, uint32_t bytes) {
    char* const to = claim(bytes);
    if (!to) return false;
    copy(to, from, bytes);
    advance();
    return true;
  }
  // Tiles that lie one after the other.
  __device__ bool load_tiles(const char* from, int tiles) {
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile += kChunkTiles)
      if (!load(from + static_cast<int64_t>(tile) * kTileBytes, static_cast<uint32_t>(min(kChunkTiles, tiles - tile)) * kTileBytes)) return false;
    return true;
  }
  // Nothing may still be on its way when the CTA ends.
  __device__ void drain() {
#pragma unroll 1
    for (int i = 0; i < shared().params.ring; i++) {
      const bool this_lap = i < slot;
      if (!this_lap && first_lap) break;
      while (!ptx::barrier_passed(&shared().full[i], this_lap ? parity : parity ^ 1)) {}
    }
  }
};

constexpr uint32_t kChunkReaders = 2;  // that release a chunk: the warps that have its halves

// A place in the sequence of chunks, as the product warps follow it.
struct RingReader {
  int slot = 0;
  uint32_t parity = 0;

  __device__ void skip(int chunks) {
    const int size = shared().params.ring;
    for (slot += chunks; slot >= size; slot -= size) parity ^= 1;
  }
  // The chunk, once it is there.
  __device__ const char* wait() const {
    while (!ptx::barrier_passed(&shared().full[slot], parity))
      if (shared().failed) break;
    return chunk_at(slot);
  }
  __device__ void release() const { ptx::barrier_arrive(&shared().empty[slot]); }  // one thread of a reader
};

}  // namespace cf::gpu
