// The PTX instructions that CUDA C++ has no plain name for. Nothing else in this folder contains assembly.
#pragma once

#include <cstdint>

#include "delay.cuh"

namespace cf::gpu::ptx {

// Adds to a word through which CTAs meet: everything this thread did or saw happens before, everything after it sees what others did before theirs.
__device__ inline uint32_t add_acquire_release(uint32_t* word, uint32_t value) {
  uint32_t before;
  asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(before) : "l"(word), "r"(value) : "memory");
  return before;
}
__device__ inline uint32_t load_relaxed(const uint32_t* word) {
  uint32_t v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(word));
  return v;
}
__device__ inline void store_relaxed(uint32_t* word, uint32_t value) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(value)); }

// A word of an exchange between CTAs: three numbers and the epoch they belong to, one access of 128 bits that never tears: PTX has scalars
// of 128 bits from compute capability 7.0 on, for which it allows loads and stores that are strong at a scope, as for those of 64. But ptxas 13.0
// makes a load of each part of a word whose numbers are not all used, and then x may be of the word before: who reads a word uses all of it
// (tests/gpu/whole_words.py).
__device__ inline void store_word(uint4* word, uint32_t a, uint32_t b, uint32_t c, uint32_t epoch) {
  delay();
  const uint64_t low = static_cast<uint64_t>(b) << 32 | a, high = static_cast<uint64_t>(epoch) << 32 | c;
  asm volatile("{.reg .b128 t; mov.b128 t, {%0, %1}; st.relaxed.gpu.global.b128 [%2], t;}" ::"l"(low), "l"(high), "l"(word) : "memory");
}
__device__ inline uint4 load_word(const uint4* word) {
  uint64_t low, high;
  asm volatile("{.reg .b128 t; ld.relaxed.gpu.global.b128 t, [%2]; mov.b128 {%0, %1}, t;}" : "=l"(low), "=l"(high) : "l"(word) : "memory");
  return {static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32), static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32)};
}

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Barriers in shared memory on which copies complete.
__device__ inline void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// Whether the phase of this parity is over; from compute capability 9.0 on this may take a while to say no, and leaves the others time.
__device__ inline bool barrier_passed(uint64_t* barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{\n"
      "  .reg .pred passed;\n"
#if __CUDA_ARCH__ >= 900
      "  mbarrier.try_wait.parity.shared::cta.b64 passed, [%1], %2;\n"
#else
      "  mbarrier.test_wait.parity.shared::cta.b64 passed, [%1], %2;\n"
#endif
      "  selp.u32 %0, 1, 0, passed;\n"
      "}"
      : "=r"(passed)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return passed;
}
__device__ inline void barrier_arrive(uint64_t* barrier) {
  delay();
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
__device__ inline void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
// ---- Between the CTAs of a cluster. An address in shared memory becomes that of the same place in another CTA; only what says so takes such.

__device__ inline int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ inline int cluster_size() {
  int size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}
__device__ inline uint32_t address_in_cta(uint32_t address, int rank) {
  uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
// Makes barriers just initialised known to the cluster, once its CTAs have met.
__device__ inline void fence_barrier_init_cluster() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// All threads of all CTAs meet; those that have ended do not count.
__device__ inline void cluster_sync() { asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory"); }
// A store that takes effect some time later and then completes 16 bytes of a barrier; both addresses are in the same CTA.
__device__ inline void store_async(uint32_t to, uint4 value, uint32_t barrier) {
  delay();
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to), "r"(value.x),
               "r"(value.y), "r"(value.z), "r"(value.w), "r"(barrier)
               : "memory");
}
// As barrier_passed, for a barrier of this CTA on which other CTAs' stores complete.
__device__ inline bool barrier_passed_cluster(uint64_t* barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{\n"
      "  .reg .pred passed;\n"
      "  mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 passed, [%1], %2;\n"
      "  selp.u32 %0, 1, 0, passed;\n"
      "}"
      : "=r"(passed)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return passed;
}

// For what is read once: the first to leave L2, so that what CTAs exchange stays there.
__device__ inline uint64_t evict_first_policy() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
// By the copy engine. Addresses and size are multiples of 16 bytes.
__device__ inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier, uint64_t policy) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
               : "memory");
}

// Copies from global to shared memory that complete on a barrier, while the threads that asked for them go on. kCopyLanes threads of a warp
// ask for each together, its first lanes, which therefore have to go the same way; the barrier counts kCopyLanes arrivals. From compute
// capability 9.0 on one thread has the copy engine do it. Before, each lane of a warp copies 16 bytes at a time, and arrives when its
// own copies are done; these are plain accesses, so what orders those orders them.
#if __CUDA_ARCH__ >= 900
constexpr int kCopyLanes = 1;
__device__ inline bool all_copy_lanes(bool mine) { return mine; }
__device__ inline bool any_copy_lane(bool mine) { return mine; }
__device__ inline void begin_copies(uint64_t* barrier, uint32_t bytes) {  // of all up to end_copies
  delay();
  barrier_expect(barrier, bytes);
}
__device__ inline void copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier, uint64_t policy) {
  bulk_copy(to, from, bytes, barrier, policy);
}
__device__ inline void end_copies(uint64_t*) {}
// Makes barriers just initialised known to the copy engine.
__device__ inline void fence_barrier_init() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Orders this thread's plain accesses before copies that come after them.
__device__ inline void fence_proxies() { asm volatile("fence.proxy.async;" ::: "memory"); }
#else
constexpr int kCopyLanes = 32;
__device__ inline bool all_copy_lanes(bool mine) { return __all_sync(0xffffffffu, mine); }
__device__ inline bool any_copy_lane(bool mine) { return __any_sync(0xffffffffu, mine); }
__device__ inline void begin_copies(uint64_t*, uint32_t) { delay(); }
__device__ inline void copy(void* to, const void* from, uint32_t bytes, uint64_t*, uint64_t policy) {
#pragma unroll 4
  for (uint32_t at = threadIdx.x % 32 * 16; at < bytes; at += 32 * 16)
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared_address(to) + at),
                 "l"(static_cast<const char*>(from) + at), "l"(policy)
                 : "memory");
}
__device__ inline void end_copies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier)) : "memory");
}
__device__ inline void fence_barrier_init() {}
__device__ inline void fence_proxies() {}
#endif
__device__ inline bool first_copy_lane() { return kCopyLanes == 1 || threadIdx.x % 32 == 0; }

// Barrier `id` for the first `threads` threads that come to it, and the same without waiting. Whole warps: their lanes meet first, since
// lanes that waited for different words may not have met again.
__device__ inline void sync_threads(int id, int threads) {
  delay();
  __syncwarp();
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
  delay();
}
__device__ inline void arrive_threads(int id, int threads) {
  delay();
  __syncwarp();
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// sync_threads that also tells whether `value` is true in any of the threads.
__device__ inline bool sync_any(int id, int threads, bool value) {
  delay();
  __syncwarp();
  uint32_t any;
  asm volatile(
      "{\n"
      "  .reg .pred mine, any;\n"
      "  setp.ne.u32 mine, %3, 0;\n"
      "  barrier.cta.red.or.pred any, %1, %2, mine;\n"
      "  selp.u32 %0, 1, 0, any;\n"
      "}"
      : "=r"(any)
      : "r"(id), "r"(threads), "r"(static_cast<uint32_t>(value))
      : "memory");
  return any;
}

// A 16x16 tile of 16-bit weights: lane i gives the address of row i % 8 of the 8x8 matrix i / 8.
__device__ inline uint4 load_tile(const void* row) {
  uint4 a;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a.x), "=r"(a.y), "=r"(a.z), "=r"(a.w)
               : "r"(shared_address(row))
               : "memory");
  return a;
}
// d += a b, a 16x16 row-major, b 16x8 column-major.
__device__ inline void multiply_f16(float (&d)[4], uint4 a, uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}
__device__ inline void multiply_bf16(float (&d)[4], uint4 a, uint2 b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}

// threadIdx.x, read anew: what follows from it is not kept in registers from before.
__device__ inline int thread_index() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

// Wall-clock time since some moment, in ns; the same clock on all SMs.
__device__ inline uint64_t wall_clock_ns() {
  uint64_t ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

// ---- Asynchronous copies of a thread; for prefill transposition, products of a warpgroup ----

// 16 bytes from global to shared memory, or zeros unless `wanted`; done when wait_copies says so.
__device__ inline void copy_16(void* to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(wanted ? 16 : 0) : "memory");
}
// 4 bytes, likewise.
__device__ inline void copy_4(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
// Asks for what is there, so that reading it takes less time.
__device__ inline void prefetch(const void* from) { asm volatile("prefetch.global.L1 [%0];" ::"l"(from)); }
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but this thread's last `Pending` groups of copies are done.
template <int Pending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// As load_tile, each 8x8 matrix transposed.
__device__ inline uint4 load_tile_transposed(const void* row) {
  uint4 a;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a.x), "=r"(a.y), "=r"(a.z), "=r"(a.w)
               : "r"(shared_address(row))
               : "memory");
  return a;
}
// The 8x8 matrix of 16-bit numbers of which lane i holds row i / 4, columns 2 (i % 4) and one more, transposed.
__device__ inline uint32_t transpose(uint32_t pair) {
  uint32_t result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}
// 2^x, to 2 ulp; 0 for -infinity.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// An operand in shared memory without swizzle: 8x8 matrices of 128 contiguous bytes, `row_stride` bytes from one to that of the next
// 8 rows, `k_stride` to that of the next 8 columns.
__device__ inline uint64_t operand(const void* first, uint32_t row_stride, uint32_t k_stride) {
  return static_cast<uint64_t>((shared_address(first) & 0x3ffff) >> 4) | static_cast<uint64_t>(k_stride >> 4) << 16 |
         static_cast<uint64_t>(row_stride >> 4) << 32;
}
// Before the first product after registers were touched; the products asked for since form a group; until all but the last `Pending` are done.
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Keeps what uses the sums of products behind the wait for them, which names no registers.
__device__ inline void settle(float (&d)[64]) {
#pragma unroll
  for (int i = 0; i < 64; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// d (+)= a b for a warpgroup: a 64x16 row-major, b 16xN column-major. d[4 j ...] of lane i in warp w: rows 16 w + i / 4, columns 8 j + 2 (i % 4)
// and one more, then the same 8 rows below. One instruction for each N, whose operands have to be spelt out.
#define CF_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CF_NAMES64                                                                                                                               \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, " \
  "%30, %31"
#define CF_SUMS64 CF_D4(0), CF_D4(4), CF_D4(8), CF_D4(12), CF_D4(16), CF_D4(20), CF_D4(24), CF_D4(28)
#define CF_NAMES72 CF_NAMES64 ", %32, %33, %34, %35"
#define CF_SUMS72 CF_SUMS64, CF_D4(32)
#define CF_NAMES80 CF_NAMES72 ", %36, %37, %38, %39"
#define CF_SUMS80 CF_SUMS72, CF_D4(36)
#define CF_NAMES88 CF_NAMES80 ", %40, %41, %42, %43"
#define CF_SUMS88 CF_SUMS80, CF_D4(40)
#define CF_NAMES96 CF_NAMES88 ", %44, %45, %46, %47"
#define CF_SUMS96 CF_SUMS88, CF_D4(44)
#define CF_NAMES104 CF_NAMES96 ", %48, %49, %50, %51"
#define CF_SUMS104 CF_SUMS96, CF_D4(48)
#define CF_NAMES112 CF_NAMES104 ", %52, %53, %54, %55"
#define CF_SUMS112 CF_SUMS104, CF_D4(52)
#define CF_NAMES120 CF_NAMES112 ", %56, %57, %58, %59"
#define CF_SUMS120 CF_SUMS112, CF_D4(56)
#define CF_NAMES128 CF_NAMES120 ", %60, %61, %62, %63"
#define CF_SUMS128 CF_SUMS120, CF_D4(60)
#define CF_PRODUCT(type, n, a_name, b_name, more_name, ...)                                                                          \
  asm volatile("{.reg .pred more; setp.ne.b32 more, " more_name ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type \
               " {" CF_NAMES##n "}, " a_name ", " b_name ", more, 1, 1, 0, 0;}"                                                      \
               : __VA_ARGS__                                                                                                         \
               : "l"(a), "l"(b), "r"(more))
#define CF_PRODUCTS(name, type)                                                     \
  template <int N>                                                                  \
  __device__ inline void name(float(&d)[64], uint64_t a, uint64_t b, int more) {    \
    if constexpr (N == 64) CF_PRODUCT(type, 64, "%32", "%33", "%34", CF_SUMS64);    \
    if constexpr (N == 72) CF_PRODUCT(type, 72, "%36", "%37", "%38", CF_SUMS72);    \
    if constexpr (N == 80) CF_PRODUCT(type, 80, "%40", "%41", "%42", CF_SUMS80);    \
    if constexpr (N == 88) CF_PRODUCT(type, 88, "%44", "%45", "%46", CF_SUMS88);    \
    if constexpr (N == 96) CF_PRODUCT(type, 96, "%48", "%49", "%50", CF_SUMS96);    \
    if constexpr (N == 104) CF_PRODUCT(type, 104, "%52", "%53", "%54", CF_SUMS104); \
    if constexpr (N == 112) CF_PRODUCT(type, 112, "%56", "%57", "%58", CF_SUMS112); \
    if constexpr (N == 120) CF_PRODUCT(type, 120, "%60", "%61", "%62", CF_SUMS120); \
    if constexpr (N == 128) CF_PRODUCT(type, 128, "%64", "%65", "%66", CF_SUMS128); \
  }
CF_PRODUCTS(multiply_group_f16, "f16")
CF_PRODUCTS(multiply_group_bf16, "bf16")
#undef CF_PRODUCTS
#undef CF_PRODUCT
#undef CF_D4
#undef CF_NAMES64
#undef CF_SUMS64
#undef CF_NAMES72
#undef CF_SUMS72
#undef CF_NAMES80
#undef CF_SUMS80
#undef CF_NAMES88
#undef CF_SUMS88
#undef CF_NAMES96
#undef CF_SUMS96
#undef CF_NAMES104
#undef CF_SUMS104
#undef CF_NAMES112
#undef CF_SUMS112
#undef CF_NAMES120
#undef CF_SUMS120
#undef CF_NAMES128
#undef CF_SUMS128

// From global to shared memory: rows of any number that lie side by side, and a box of a tensor that the host described, at four coordinates;
// zeros where the box is outside. One such copy costs the engine some 50 cycles besides its bytes.
__device__ inline void bulk_copy(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
__device__ inline void tensor_copy(void* to, const void* map, int a, int b, int c, int d, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared_address(to)),
      "l"(map), "r"(a), "r"(b), "r"(c), "r"(d), "r"(shared_address(barrier))
      : "memory");
}
#endif

}  // namespace cf::gpu::ptx
