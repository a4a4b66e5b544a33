// CUDA device code as plain C++ on the CPU, for suites that run where there is no GPU: what the language has (threads, warps, barriers, shared
// memory), included ahead of everything else in kernels/ that is compiled so. Threads of a launch are fibers of one host thread. They run until
// they have to wait, in an order that a seed decides, so that a run can be repeated; copies that take time on a GPU take some here. What
// this cannot show: races between plain accesses, the memory's order, and time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace emulator {

struct Index {
  unsigned x, y, z;
};

constexpr int kLanes = 32, kNamedBarriers = 16;

// Threads that wait for one another; those that have ended do not count.
struct Meeting {
  int arrived = 0;
  uint32_t round = 0;
  bool any = false, any_before = false;
};

// What lanes of a warp hand each other. Two sets: nobody is more than one exchange ahead.
struct Warp {
  int live = 0;
  Meeting meeting;
  uint64_t numbers[2][kLanes];
  uint32_t words[2][kLanes][6];
};

struct Cta {
  Index index;
  int live = 0, rank = 0, cluster = 0;  // rank in the cluster; number of the cluster
  char* shared;
  Meeting all, named[kNamedBarriers];
  Warp* warps;
};

struct Fiber {
  void* stack_pointer;
  Cta* cta;
  Warp* warp;
  int lane;
  Index thread;
  const uint32_t* round = nullptr;  // waits until this is another number than
  uint32_t seen = 0;
  int looks = 0;
  bool done = true;
};

// A barrier in shared memory: arrivals expected in each phase, those still to come, bytes still to come, parity of the present phase.
struct Barrier {
  uint16_t expected, pending;
  int32_t bytes : 31;
  uint32_t phase : 1;
  void settle() {
    if (pending == 0 && bytes == 0) pending = expected, phase ^= 1;
  }
};
static_assert(sizeof(Barrier) == 8);

extern Fiber* current;
extern Index grid_size, block_size;

void yield();                                                // lets all others run
void look();                                                 // called wherever a thread may be spinning: yields now and then
void meet(Meeting& meeting, int threads, bool any = false);  // waits for `threads` threads to come
void arrive(Meeting& meeting, int threads);                  // comes, and does not wait
uint64_t now_ns();                                           // of a clock that goes on with every turn of all threads
int cluster_size();
Meeting& cluster_meeting(int& live);
char* shared_of_rank(char* mine, int rank);  // the same place in another CTA of the cluster
void later(void* to, const void* from, uint32_t bytes,
           uint64_t* barrier);  // a copy that takes some time; then completes bytes of a barrier, if there is one

inline char* shared_memory() { return current->cta->shared; }
constexpr int kDynamicBytes = 232448;  // what is not dynamic lies behind
template <class T>
T& static_shared() {
  return *reinterpret_cast<T*>(shared_memory() + kDynamicBytes);
}

// A number that other threads change: who reads it may be waiting for it.
struct Volatile {
  int32_t value;
  operator int32_t() const {
    look();
    return *static_cast<const volatile int32_t*>(&value);
  }
  Volatile& operator=(int32_t v) {
    value = v;
    return *this;
  }
  Volatile& operator++(int) {
    value++;
    return *this;
  }
};

// All lanes of a warp: the set that holds what they brought.
inline int exchange() {
  Warp& warp = *current->warp;
  const int set = warp.meeting.round & 1;
  meet(warp.meeting, warp.live);
  return set;
}
template <class T>
T exchange(T value, int source) {
  static_assert(sizeof(T) <= 8);
  Warp& warp = *current->warp;
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  warp.numbers[warp.meeting.round & 1][current->lane] = bits;
  const int set = exchange();
  __builtin_memcpy(&value, &warp.numbers[set][source], sizeof value);
  return value;
}

}  // namespace emulator

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->cta->index)
#define gridDim (emulator::grid_size)
#define blockDim (emulator::block_size)
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline
#undef __noinline__
#define __noinline__
#undef __grid_constant__
#define __grid_constant__

inline void __syncthreads() { emulator::meet(emulator::current->cta->all, emulator::current->cta->live); }
inline void __syncwarp(unsigned = 0) { emulator::exchange(); }
template <class T>
T __shfl_sync(unsigned, T value, int source, int width = 32) {
  const int lane = emulator::current->lane;
  return emulator::exchange(value, lane / width * width + source % width);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask, int width = 32) {
  const int lane = emulator::current->lane, source = lane ^ mask;
  return emulator::exchange(value, source / width == lane / width ? source : lane);
}
template <class T>
T __shfl_up_sync(unsigned, T value, int delta) {
  const int lane = emulator::current->lane;
  return emulator::exchange(value, lane >= delta ? lane - delta : lane);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int delta) {
  const int lane = emulator::current->lane;
  return emulator::exchange(value, lane + delta < emulator::kLanes ? lane + delta : lane);
}
inline unsigned __ballot_sync(unsigned, bool mine) {
  emulator::Warp& warp = *emulator::current->warp;
  warp.numbers[warp.meeting.round & 1][emulator::current->lane] = mine;
  const int set = emulator::exchange();
  unsigned bits = 0;
  for (int i = 0; i < emulator::kLanes; i++) bits |= unsigned(warp.numbers[set][i] != 0) << i;
  return bits;
}
inline bool __any_sync(unsigned mask, bool mine) { return __ballot_sync(mask, mine) != 0; }
inline bool __all_sync(unsigned mask, bool mine) { return __ballot_sync(mask, !mine) == 0; }
template <class T, class Op>
T emulated_reduce(T value, Op op) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value = op(value, __shfl_xor_sync(~0u, value, lanes));
  return value;
}
template <class T>
T __reduce_add_sync(unsigned, T value) {
  return emulated_reduce(value, [](T a, T b) { return a + b; });
}
template <class T>
T __reduce_max_sync(unsigned, T value) {
  return emulated_reduce(value, [](T a, T b) { return a > b ? a : b; });
}
inline void __threadfence_block() {}
inline void __threadfence() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { emulator::yield(); }
inline long long clock64() { return static_cast<long long>(emulator::now_ns()); }

inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline long long __double_as_longlong(double v) { return std::bit_cast<long long>(v); }
inline double __longlong_as_double(long long v) { return std::bit_cast<double>(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(unsigned(v)) : 32; }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t both = uint64_t(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; i++) result |= unsigned(both >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
  return result;
}
inline float rsqrtf(float v) { return 1.0f / std::sqrt(v); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline void sincospif(float v, float* sine, float* cosine) {
  *sine = static_cast<float>(std::sin(static_cast<double>(v) * 3.141592653589793));
  *cosine = static_cast<float>(std::cos(static_cast<double>(v) * 3.141592653589793));
}
inline float __fdividef(float a, float b) { return a / b; }
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T, class V>
T atomicAdd(T* p, V v) {
  const T before = *p;
  *p = before + static_cast<T>(v);
  return before;
}
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
}
using std::isfinite;
