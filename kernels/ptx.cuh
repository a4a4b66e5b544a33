// The PTX instructions that CUDA C++ has no plain name for. Nothing else in this folder contains assembly.
#pragma once

#include <cstdint>

namespace cf::gpu::ptx {

// 16 bytes that are read once and that nobody writes while the kernel runs: past L1, through the read-only path. Zeros, and no
// access, unless `wanted`; without a branch, so that many of these can be on their way at once.
__device__ inline uint4 load_streamed(const void* address, bool wanted) {
  uint4 v;
  asm("{\n"
      "  .reg .pred wanted;\n"
      "  setp.ne.s32 wanted, %5, 0;\n"
      "  mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;\n"
      "  @wanted ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
      "}"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(address), "r"(static_cast<int>(wanted)));
  return v;
}

// Words through which CTAs meet. Release: everything this thread did or saw happens before; acquire: everything after it sees that.
__device__ inline uint32_t add_release(uint32_t* word, uint32_t value) {
  uint32_t before;
  asm volatile("atom.add.release.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(word), "r"(value) : "memory");
  return before;
}
__device__ inline uint32_t load_acquire(const uint32_t* word) {
  uint32_t v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(word) : "memory");
  return v;
}
__device__ inline uint32_t load_relaxed(const uint32_t* word) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(word));
  return v;
}
__device__ inline void store_relaxed(uint32_t* word, uint32_t value) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(value)); }

// Wall-clock time since some moment, in ns; the same clock on all SMs.
__device__ inline uint64_t wall_clock_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

}  // namespace cf::gpu::ptx
