// Compiled once per instruction set by Highway's foreach_target; the namespaces in between are HWY_NAMESPACE. We choose
// among the tables ourselves instead of through libhwy, so that a context can force one and the library needs only headers.
#define HWY_IS_DEBUG_BUILD 0  // its assertions would pull in abort
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/kernels.cpp"
#include <hwy/foreach_target.h>
// after foreach_target.h
#include <hwy/cache_control.h>
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "cpu/kernels.h"

HWY_BEFORE_NAMESPACE();
namespace cf {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using Floats = HWY_FULL(float);
using Vec = hn::Vec<Floats>;
using Bf16 = uint16_t;  // upper half of a float
using F16 = hwy::float16_t;
constexpr Floats d;

HWY_INLINE Vec load(const float* p) { return hn::LoadU(d, p); }
HWY_INLINE Vec load(const F16* p) { return hn::PromoteTo(d, hn::LoadU(hn::Rebind<F16, Floats>(), p)); }
HWY_INLINE Vec load(const Bf16* p) {
  const hn::Rebind<uint32_t, Floats> du;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(hn::Rebind<Bf16, Floats>(), p))));
}

// The first n values, n < Lanes(d), zeroes behind them.
template <class T>
HWY_INLINE Vec load_part(const T* p, int64_t n) {
  T padded[hn::MaxLanes(Floats())] = {};
  for (int64_t i = 0; i < n; i++) padded[i] = p[i];
  return load(padded);
}

HWY_INLINE float sum(Vec v) { return hn::GetLane(hn::SumOfLanes(d, v)); }

// sums[n * M + m] = w row n times x row m. Each sum has its own vector accumulator, so N and M do not show in its bits.
template <int N, int M, class T>
HWY_INLINE void dot_tile(const T* w, const float* x, int64_t k, float* sums) {
  constexpr int64_t lanes = hn::MaxLanes(Floats());
  Vec acc[N][M];
  for (int n = 0; n < N; n++)
    for (int m = 0; m < M; m++) acc[n][m] = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= k; i += lanes) {
    Vec xv[M];
    for (int m = 0; m < M; m++) xv[m] = load(x + m * k + i);
    for (int n = 0; n < N; n++) {
      const Vec wv = load(w + n * k + i);
      hwy::Prefetch(w + (N + n) * k + i);  // the next tile's rows; past the last one a prefetch does nothing
      for (int m = 0; m < M; m++) acc[n][m] = hn::MulAdd(wv, xv[m], acc[n][m]);
    }
  }
  if (i < k) {
    for (int n = 0; n < N; n++) {
      const Vec wv = load_part(w + n * k + i, k - i);
      for (int m = 0; m < M; m++) acc[n][m] = hn::MulAdd(wv, load_part(x + m * k + i, k - i), acc[n][m]);
    }
  }
  for (int n = 0; n < N; n++)
    for (int m = 0; m < M; m++) sums[n * M + m] = sum(acc[n][m]);
}

template <int N, int M, class T>
HWY_INLINE void matmul_tile(const MatmulArgs& a, const T* w, int64_t column, int64_t row) {
  float sums[N * M];
  const int64_t k = a.w.cols;
  dot_tile<N, M>(w + column * k, a.x + row * k, k, sums);
  for (int m = 0; m < M; m++) {
    float* out = a.out + (row + m) * a.w.rows + column;
    for (int n = 0; n < N; n++) {
      const float value = a.bias ? sums[n * M + m] + a.bias[column + n] : sums[n * M + m];
      out[n] = a.add ? out[n] + value : value;
    }
  }
}

template <int N, class T>
HWY_INLINE void matmul_columns(const MatmulArgs& a, const T* w, int64_t column) {
  int64_t row = 0;
  for (; row + 4 <= a.n_rows; row += 4) matmul_tile<N, 4>(a, w, column, row);
  for (; row < a.n_rows; row++) matmul_tile<N, 1>(a, w, column, row);
}

template <class T>
void matmul_of(const MatmulArgs& a, const T* w, int64_t first, int64_t last) {
  int64_t column = first;
  if (a.n_rows < 4)  // one stream per row of w: eight of them keep the memory and both multiply-add units busy
    for (; column + 8 <= last; column += 8) matmul_columns<8>(a, w, column);
  for (; column + 4 <= last; column += 4) matmul_columns<4>(a, w, column);
  for (; column < last; column++) matmul_columns<1>(a, w, column);
}

void matmul(const MatmulArgs& a, int64_t first, int64_t last) {
  switch (a.w.dtype) {
    case CF_DTYPE_F16: return matmul_of(a, static_cast<const F16*>(a.w.data), first, last);
    case CF_DTYPE_BF16: return matmul_of(a, static_cast<const Bf16*>(a.w.data), first, last);
    default: return matmul_of(a, static_cast<const float*>(a.w.data), first, last);
  }
}

constexpr int64_t kBlock = 64;  // positions per step of the online softmax, at absolute multiples

// Addresses of positions first .. first + n - 1 of one head.
template <class T>
void token_addresses(const T* base, const KvView& kv, int64_t head, int64_t first, int64_t n, const T** addresses) {
  int64_t page = first / kv.page_tokens, token = first % kv.page_tokens;
  for (int64_t i = 0; i < n; i++, token++) {
    if (token == kv.page_tokens) page++, token = 0;
    const int64_t where = kv.page_table ? kv.page_table[page] : 0;
    addresses[i] = base + where * kv.page_stride + token * kv.token_stride + head * kv.head_stride;
  }
}

// The larger of two, or NaN once either is: a score that is not a number must show in the result.
HWY_INLINE float max_or_nan(float a, float b) { return b > a || b != b ? b : a; }

// Softmax(q K) V with a running maximum (Milakov and Gimelshein, 2018), block by block.
template <class T>
void attend_of(const AttendArgs& a) {
  constexpr int64_t lanes = hn::MaxLanes(Floats());
  const int64_t dim = a.head_dim;
  float most = -INFINITY;
  Vec total = hn::Zero(d);  // lane j: sum of the weights at positions j, j + lanes, ... of every block
  std::fill_n(a.out, dim, 0.0f);
  for (int64_t first = 0; first < a.length; first += kBlock) {
    const int64_t n = std::min(kBlock, a.length - first);
    const T *keys[kBlock], *values[kBlock];
    token_addresses(static_cast<const T*>(a.kv.k), a.kv, a.kv_head, first, n, keys);
    token_addresses(static_cast<const T*>(a.kv.v), a.kv, a.kv_head, first, n, values);
    HWY_ALIGN float weights[kBlock];
    float block_most = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
      dot_tile<1, 1>(keys[i], a.q, dim, &weights[i]);
      weights[i] *= a.scale;
      block_most = max_or_nan(block_most, weights[i]);
    }
    std::fill(weights + n, weights + kBlock, -INFINITY);
    const float now = max_or_nan(most, block_most);
    const Vec shrink = hn::Exp(d, hn::Set(d, most - now));  // exp(-inf) = 0 before the first block
    total = hn::Mul(total, shrink);
    for (int64_t i = 0; i < kBlock; i += lanes) {
      const Vec w = hn::Exp(d, hn::Sub(hn::LoadU(d, weights + i), hn::Set(d, now)));
      hn::StoreU(w, d, weights + i);
      total = hn::Add(total, w);
    }
    for (int64_t i = 0; i < dim; i += lanes) {  // head_dim is a multiple of 16, the most lanes there are
      Vec acc = hn::Mul(hn::LoadU(d, a.out + i), shrink);
      for (int64_t j = 0; j < n; j++) acc = hn::MulAdd(hn::Set(d, weights[j]), load(values[j] + i), acc);
      hn::StoreU(acc, d, a.out + i);
    }
    most = now;
  }
  const float scale = 1.0f / sum(total);
  for (int64_t i = 0; i < dim; i++) a.out[i] *= scale;
}

void attend(const AttendArgs& a) {
  switch (a.kv.dtype) {
    case CF_DTYPE_F16: return attend_of<F16>(a);
    case CF_DTYPE_BF16: return attend_of<Bf16>(a);
    default: return attend_of<float>(a);
  }
}

// Sum over i of f(x[i]), in as many lanes as there are.
template <class F>
HWY_INLINE float sum_over(const float* x, int64_t n, F f) {
  const int64_t lanes = hn::MaxLanes(Floats());
  Vec acc = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) acc = hn::Add(acc, f(load(x + i)));
  float rest = 0;
  for (; i < n; i++) rest += hn::GetLane(f(hn::Set(d, x[i])));
  return sum(acc) + rest;
}

void layer_norm(const float* x, const float* weight, const float* bias, float eps, int64_t n, float* out) {
  const float mean = sum_over(x, n, [](Vec v) { return v; }) / static_cast<float>(n);
  const float variance = sum_over(x, n,
                                  [mean](Vec v) {
                                    const Vec off = hn::Sub(v, hn::Set(d, mean));
                                    return hn::Mul(off, off);
                                  }) /
                         static_cast<float>(n);
  const float scale = 1.0f / std::sqrt(variance + eps);
  for (int64_t i = 0; i < n; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const float mean_square = sum_over(x, n, [](Vec v) { return hn::Mul(v, v); }) / static_cast<float>(n);
  const float scale = 1.0f / std::sqrt(mean_square + eps);
  for (int64_t i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

constexpr cf_cpu_isa kIsa = HWY_TARGET == HWY_AVX3 ? CF_CPU_ISA_AVX512 : HWY_TARGET == HWY_AVX2 ? CF_CPU_ISA_AVX2 : CF_CPU_ISA_BASELINE;
extern const Kernels kKernels;
const Kernels kKernels = {kIsa, matmul, attend, layer_norm, rms_norm};

}  // namespace HWY_NAMESPACE
}  // namespace cf
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace cf {

const Kernels* find_kernels(cf_cpu_isa isa) {
#if HWY_ARCH_X86
  // F16C is older than any of these, and has no name in clang 14.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#if HWY_TARGETS & HWY_AVX3
  if (avx512 && (isa == CF_CPU_ISA_AUTO || isa == CF_CPU_ISA_AVX512)) return &N_AVX3::kKernels;
#endif
#if HWY_TARGETS & HWY_AVX2
  if (avx2 && (isa == CF_CPU_ISA_AUTO || isa == CF_CPU_ISA_AVX2)) return &N_AVX2::kKernels;
#endif
  (void)avx2, (void)avx512;
#endif
  if (isa == CF_CPU_ISA_AUTO || isa == CF_CPU_ISA_BASELINE) return &HWY_STATIC_DISPATCH(kKernels);
  return nullptr;
}

}  // namespace cf
#endif
