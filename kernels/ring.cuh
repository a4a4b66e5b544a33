// A ring of chunks in shared memory: ptx::kCopyLanes threads fill it and run ahead of the consumers, as far as the ring goes.
#pragma once

#include "decode_shared.cuh"
#include "ptx.cuh"

namespace cf::gpu {

// The producing threads' end; all of them make the same calls. What they need for a chunk is in registers: the memory would wait for a thread that
// looks it up.
struct RingWriter {
  const uint64_t policy = ptx::evict_first_policy();
  const int size = shared().params.ring;
  int slot = 0, lap = 0;
  int in_flight = 0, oldest_slot = 0, oldest_parity = 0;  // chunks from the oldest one on are not known to have come

  // Counts chunks that have come, in order. False: the oldest one has not.
  __device__ bool oldest_came() {
    if (!ptx::all_copy_lanes(ptx::barrier_passed(&shared().full[oldest_slot], oldest_parity))) return false;
    if (++oldest_slot == size) oldest_slot = 0, oldest_parity ^= 1;
    in_flight--;
    return true;
  }
  // `bytes` bytes into the next slot. False: the launch has failed.
  __device__ bool load(const char* from, uint32_t bytes) {
    DecodeShared& s = shared();
    if (lap > 0)
      while (!ptx::all_copy_lanes(ptx::barrier_passed(&s.empty[slot], (lap & 1) ^ 1)))
        if (ptx::any_copy_lane(s.failed)) return false;
    // What is in flight delays the words that CTAs exchange, so it is bounded, and more tightly while this CTA is in a meeting.
    while (ptx::any_copy_lane(in_flight >= s.most_in_flight))
      if (!oldest_came() && ptx::any_copy_lane(s.failed)) return false;
    in_flight++;
    s.laps[slot] = lap;
    ptx::begin_copies(&s.full[slot], bytes);
    ptx::copy(chunk_at(slot), from, bytes, &s.full[slot], policy);
    ptx::end_copies(&s.full[slot]);
    if (++slot == size) slot = 0, lap++;
    return true;
  }
  // Tiles that lie one after the other.
  __device__ __forceinline__ bool load_tiles(const char* from, int tiles) {
#pragma unroll 1
    for (; tiles > 0; tiles -= kChunkTiles, from += kRingChunkBytes)
      if (!load(from, static_cast<uint32_t>(min(kChunkTiles, tiles)) * kTileBytes)) return false;
    return true;
  }
  // Nothing may still be on its way when the CTA ends.
  __device__ void drain() {
#pragma unroll 1
    while (in_flight > 0) oldest_came();
  }
};

// How much is in flight from when the words of a phase are on their way until those for the next have come; by one thread.
__device__ inline void begin_meeting() { shared().most_in_flight = shared().params.trickle; }
__device__ inline void end_meeting() { shared().most_in_flight = shared().params.window; }

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
