// A ring of chunks in shared memory: ptx::kCopyLanes threads fill it and run ahead of the consumers, as far as the ring goes.
#pragma once

#include "decode_shared.cuh"
#include "ptx.cuh"

namespace cf::gpu {

// The producing threads' end; all of them make the same calls.
struct RingWriter {
  uint64_t policy = ptx::evict_first_policy();
  int slot = 0, lap = 0;
  int in_flight = 0, oldest_slot = 0, oldest_lap = 0;  // chunks from the oldest one on are not known to have come

  // Counts chunks that have come, in order. False: the oldest one has not.
  __device__ bool oldest_came() {
    if (!ptx::all_copy_lanes(ptx::barrier_passed(&shared().full[oldest_slot], oldest_lap & 1))) return false;
    if (++oldest_slot == shared().params.ring) oldest_slot = 0, oldest_lap++;
    in_flight--;
    return true;
  }
  // Claims the next slot for `bytes` bytes; NULL: the launch has failed.
  __device__ char* claim(uint32_t bytes) {
    DecodeShared& s = shared();
    const DecodeParams& p = s.params;
    if (lap > 0)
      while (!ptx::all_copy_lanes(ptx::barrier_passed(&s.empty[slot], (lap & 1) ^ 1)))
        if (ptx::any_copy_lane(s.failed)) return nullptr;
    // What is in flight delays the words that CTAs exchange, so it is bounded, and more tightly while this CTA is in a meeting.
    while (in_flight >= (ptx::any_copy_lane(s.meeting) ? p.trickle : p.window))
      if (!oldest_came() && ptx::any_copy_lane(s.failed)) return nullptr;
    in_flight++;
    s.laps[slot] = lap;
    ptx::begin_copies(&s.full[slot], bytes);
    return chunk_at(slot);
  }
  __device__ void copy(char* to, const char* from, uint32_t bytes) { ptx::copy(to, from, bytes, &shared().full[slot], policy); }
  __device__ void advance() {
    ptx::end_copies(&shared().full[slot]);
    if (++slot == shared().params.ring) slot = 0, lap++;
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
    while (in_flight > 0) oldest_came();
  }
};

constexpr uint32_t kChunkReaders = 2;  // that release a chunk: the warps that have its halves

// A place in the sequence of chunks, as the product warps follow it.
struct RingReader {
  int slot = 0, lap = 0;

  __device__ void skip(int chunks) {
    const int size = shared().params.ring;
    for (slot += chunks; slot >= size; slot -= size) lap++;
  }
  // The chunk, once it is there. In a short ring the slot may be several laps behind, which the barrier's parity does not tell.
  __device__ const char* wait() const {
    const DecodeShared& s = shared();
    if (s.params.ring < kLongRing)
      while (s.laps[slot] < lap && !s.failed) {}
    while (!ptx::barrier_passed(&shared().full[slot], lap & 1))
      if (s.failed) break;
    delay();
    return chunk_at(slot);
  }
  __device__ void release() const { ptx::barrier_arrive(&shared().empty[slot]); }  // one thread of a reader
};

}  // namespace cf::gpu
