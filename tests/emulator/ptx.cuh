// In place of kernels/ptx.cuh: what its functions do, by the emulator.
#pragma once

#include "delay.cuh"
#include "emulator.h"

namespace cf::gpu::ptx {

inline uint4 load_streamed(const void* address, bool wanted) { return wanted ? *static_cast<const uint4*>(address) : uint4{0, 0, 0, 0}; }

inline uint32_t add_release(uint32_t* word, uint32_t value) { return atomicAdd(word, value); }
inline uint32_t add_acquire_release(uint32_t* word, uint32_t value) { return atomicAdd(word, value); }
inline uint32_t load_acquire(const uint32_t* word) {
  emulator::look();
  return *word;
}
inline uint32_t load_relaxed(const uint32_t* word) { return load_acquire(word); }
inline void store_relaxed(uint32_t* word, uint32_t value) { *word = value; }
inline void store_word(uint4* word, uint32_t a, uint32_t b, uint32_t c, uint32_t epoch) { *word = {a, b, c, epoch}; }
inline uint4 load_word(const uint4* word) {
  emulator::look();
  return *word;
}

// An address in shared memory: bytes from the start of the CTA's, with that of the CTA in the upper bits once it is another one's.
inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(static_cast<const char*>(p) - emulator::shared_memory()); }
inline char* pointer_of(uint32_t address) {
  char* const mine = emulator::shared_memory() + (address & 0xffffff);
  return address >> 24 ? emulator::shared_of_rank(mine, static_cast<int>(address >> 24) - 1) : mine;
}

inline emulator::Barrier& barrier_at(uint64_t* p) { return *reinterpret_cast<emulator::Barrier*>(p); }
inline void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  barrier_at(barrier) = {static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals), 0, 0};
}
inline bool barrier_passed(uint64_t* barrier, uint32_t parity) {
  if (barrier_at(barrier).phase != parity) return true;
  emulator::yield();
  return false;
}
inline void barrier_arrive(uint64_t* barrier) {
  barrier_at(barrier).pending--;
  barrier_at(barrier).settle();
}
inline void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  barrier_at(barrier).bytes += static_cast<int32_t>(bytes);
  barrier_arrive(barrier);
}

inline int cluster_rank() { return emulator::current->cta->rank; }
inline int cluster_size() { return emulator::cluster_size(); }
inline uint32_t address_in_cta(uint32_t address, int rank) { return (address & 0xffffff) | static_cast<uint32_t>(rank + 1) << 24; }
inline void fence_barrier_init_cluster() {}
inline void cluster_sync() {
  int live;
  emulator::Meeting& meeting = emulator::cluster_meeting(live);
  emulator::meet(meeting, live);
}
inline void store_async(uint32_t to, uint4 value, uint32_t barrier) {
  emulator::later(pointer_of(to), &value, sizeof value, reinterpret_cast<uint64_t*>(pointer_of(barrier)));
}
inline bool barrier_passed_cluster(uint64_t* barrier, uint32_t parity) { return barrier_passed(barrier, parity); }

inline uint64_t evict_first_policy() { return 0; }
inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier, uint64_t) { emulator::later(to, from, bytes, barrier); }

constexpr int kCopyLanes = 1;
inline bool all_copy_lanes(bool mine) { return mine; }
inline bool any_copy_lane(bool mine) { return mine; }
inline void begin_copies(uint64_t* barrier, uint32_t bytes) { barrier_expect(barrier, bytes); }
inline void copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier, uint64_t policy) { bulk_copy(to, from, bytes, barrier, policy); }
inline void end_copies(uint64_t*) {}
inline void fence_barrier_init() {}
inline void fence_proxies() {}
inline bool first_copy_lane() { return true; }

inline void sync_threads(int id, int threads) {
  __syncwarp();
  emulator::meet(emulator::current->cta->named[id], threads);
}
inline void arrive_threads(int id, int threads) {
  __syncwarp();
  emulator::arrive(emulator::current->cta->named[id], threads);
}
inline bool sync_any(int id, int threads, bool value) {
  __syncwarp();
  emulator::Meeting& meeting = emulator::current->cta->named[id];
  emulator::meet(meeting, threads, value);
  return meeting.any_before;
}

inline uint4 load_matrices(const void* row, bool transposed) {
  emulator::Warp& warp = *emulator::current->warp;
  const int lane = emulator::current->lane;
  warp.numbers[warp.meeting.round & 1][lane] = reinterpret_cast<uint64_t>(row);
  const int set = emulator::exchange();
  uint32_t result[4];
  for (int matrix = 0; matrix < 4; matrix++) {
    const auto element = [&](int r, int c) { return static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(warp.numbers[set][matrix * 8 + r])[c]); };
    const int r = lane / 4, c = lane % 4 * 2;
    result[matrix] = transposed ? element(c, r) | element(c + 1, r) << 16 : element(r, c) | element(r, c + 1) << 16;
  }
  return {result[0], result[1], result[2], result[3]};
}
inline uint4 load_tile(const void* row) { return load_matrices(row, false); }
inline uint4 load_tile_transposed(const void* row) { return load_matrices(row, true); }
inline uint32_t transpose(uint32_t pair) {
  emulator::Warp& warp = *emulator::current->warp;
  const int lane = emulator::current->lane;
  warp.numbers[warp.meeting.round & 1][lane] = pair;
  const int set = emulator::exchange();
  const auto element = [&](int r, int c) { return static_cast<uint32_t>(warp.numbers[set][r * 4 + c / 2] >> c % 2 * 16 & 0xffff); };
  const int r = lane / 4, c = lane % 4 * 2;
  return element(c, r) | element(c + 1, r) << 16;
}

template <class Widen>
void multiply_tile(float (&d)[4], uint4 a, uint2 b, Widen widen) {
  emulator::Warp& warp = *emulator::current->warp;
  const int lane = emulator::current->lane;
  uint32_t* const mine = warp.words[warp.meeting.round & 1][lane];
  mine[0] = a.x, mine[1] = a.y, mine[2] = a.z, mine[3] = a.w, mine[4] = b.x, mine[5] = b.y;
  const int set = emulator::exchange();
  const auto number = [&](int of_lane, int word, int half) { return widen(static_cast<uint16_t>(warp.words[set][of_lane][word] >> half * 16)); };
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    double sum = 0;
    for (int k = 0; k < 16; k++) {
      const float x = number(row % 8 * 4 + k % 8 / 2, k / 8 * 2 + row / 8, k % 2), y = number(column * 4 + k % 8 / 2, 4 + k / 8, k % 2);
      sum += static_cast<double>(x) * static_cast<double>(y);
    }
    d[i] = static_cast<float>(d[i] + sum);
  }
}
inline void multiply_f16(float (&d)[4], uint4 a, uint2 b) {
  multiply_tile(d, a, b, [](uint16_t bits) { return __half2float(__ushort_as_half(bits)); });
}
inline void multiply_bf16(float (&d)[4], uint4 a, uint2 b) {
  multiply_tile(d, a, b, [](uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); });
}

inline int thread_index() { return static_cast<int>(threadIdx.x); }
inline uint64_t wall_clock_ns() { return emulator::now_ns(); }

inline void copy_16(void* to, const void* from, bool wanted) {
  if (wanted) __builtin_memcpy(to, from, 16);
  else __builtin_memset(to, 0, 16);
}
inline void copy_4(void* to, const void* from) { __builtin_memcpy(to, from, 4); }
inline void prefetch(const void*) {}
inline void commit_copies() {}
template <int Pending>
inline void wait_copies() {}
inline float exp2_fast(float x) { return std::exp2(x); }

}  // namespace cf::gpu::ptx
