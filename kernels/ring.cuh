// A ring of chunks in shared memory: one thread fills it by bulk copies and runs ahead of the consumers, as far as the ring goes.
#pragma once

#include "contract.h"
#include "ptx.cuh"
#include "words.cuh"

namespace cf::gpu {

// The producing thread's end.
struct RingWriter {
  const DecodeParams& p;
  DecodeShared& s;
  char* ring;
  int slot = 0;
  uint32_t parity = 0;  // of the lap
  bool first_lap = true;

  // Claims the next slot for `bytes` bytes; NULL: the launch has failed.
  __device__ char* claim(uint32_t bytes) {
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
    return ring + slot * kRingChunkBytes;
  }
  __device__ uint64_t* barrier() { return &s.full[slot]; }
  __device__ void advance() {
    if (++slot == p.ring) slot = 0, parity ^= 1, first_lap = false;
  }
  __device__ bool load(const char* from, uint32_t bytes) {
    char* const to = claim(bytes);
    if (!to) return false;
    ptx::bulk_copy(to, from, bytes, barrier());
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
    for (int i = 0; i < p.ring; i++) {
      const bool this_lap = i < slot;
      if (!this_lap && first_lap) break;
      while (!ptx::barrier_passed(&s.full[i], this_lap ? parity : parity ^ 1)) {}
    }
  }
};

// A consumer warp's end. Every warp passes every chunk.
struct RingReader {
  DecodeShared& s;
  const char* ring;
  int size, slot;
  uint32_t parity;

  __device__ RingReader(DecodeShared& shared, const char* chunks, int ring_size, uint32_t place)
      : s(shared), ring(chunks), size(ring_size), slot(static_cast<int>(place >> 1)), parity(place & 1) {}
  __device__ uint32_t place() const { return static_cast<uint32_t>(slot) << 1 | parity; }  // 0 at the start

  __device__ const char* wait() { return wait_for(slot, parity); }
  // The chunk `ahead` places on, without waiting.
  __device__ const char* chunk(int ahead) const {
    const int at = slot + ahead;
    return ring + (at < size ? at : at - size) * kRingChunkBytes;
  }
  __device__ const char* wait_ahead(int ahead) {
    const int at = slot + ahead;
    return at < size ? wait_for(at, parity) : wait_for(at - size, parity ^ 1);
  }
  __device__ void release() {
    __syncwarp();
    if (threadIdx.x % kWarpLanes == 0) ptx::barrier_arrive(&s.empty[slot]);
    if (++slot == size) slot = 0, parity ^= 1;
  }

 private:
  __device__ const char* wait_for(int at, uint32_t lap) {
    while (!ptx::barrier_passed(&s.full[at], lap))
      if (s.failed) break;
    return ring + at * kRingChunkBytes;
  }
};

}  // namespace cf::gpu
