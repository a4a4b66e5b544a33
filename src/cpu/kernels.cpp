// Compiled once per instruction set by Highway's foreach_target; the namespaces in between are HWY_NAMESPACE. We choose
// among the tables ourselves instead of through libhwy, so that a context can force one and the library needs only headers.
#define HWY_IS_DEBUG_BUILD 0  // its assertions would pull in abort
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/kernels.cpp"
#include <hwy/foreach_target.h>
// after foreach_target.h
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

// exp(x), NaN for NaN, at most exp(88): beyond that, and for NaN, what Highway's does is undefined.
HWY_INLINE Vec exp_of(Vec x) {
  const auto number = hn::Eq(x, x);
  const Vec bounded = hn::Min(hn::Max(hn::IfThenElseZero(number, x), hn::Set(d, -110.0f)), hn::Set(d, 88.0f));
  return hn::IfThenElse(number, hn::Exp(d, bounded), x);
}

// sums[n * M + m] = w row n times x row m. Each sum has its own vector accumulator, so N and M do not show in its bits.
template <int N, int M, class T>
HWY_INLINE void dot_tile(const T* const* w, const float* x, int64_t k, float* sums) {
  constexpr int64_t lanes = hn::MaxLanes(Floats());
  Vec acc[N][M];
  for (int n = 0; n < N; n++)
    for (int m = 0; m < M; m++) acc[n][m] = hn::Zero(d);
  int64_t i = 0;
  for (; i + lanes <= k; i += lanes) {
    Vec xv[M];
    for (int m = 0; m < M; m++) xv[m] = load(x + m * k + i);
    for (int n = 0; n < N; n++) {
      const Vec wv = load(w[n] + i);
      for (int m = 0; m < M; m++) acc[n][m] = hn::MulAdd(wv, xv[m], acc[n][m]);
    }
  }
  if (i < k) {
    for (int n = 0; n < N; n++) {
      const Vec wv = load_part(w[n] + i, k - i);
      for (int m = 0; m < M; m++) acc[n][m] = hn::MulAdd(wv, load_part(x + m * k + i, k - i), acc[n][m]);
    }
  }
  for (int n = 0; n < N; n++)
    for (int m = 0; m < M; m++) sums[n * M + m] = sum(acc[n][m]);
}

// Columns column, column + stride, ... of M rows of the output.
template <int N, int M, class T>
HWY_INLINE void matmul_tile(const MatmulArgs& a, const T* w, int64_t column, int64_t stride, int64_t row) {
  const int64_t k = a.w.cols;
  const T* columns[N];
  for (int n = 0; n < N; n++) columns[n] = w + (column + n * stride) * k;
  float sums[N * M];
  dot_tile<N, M>(columns, a.x + row * k, k, sums);
  for (int m = 0; m < M; m++) {
    float* out = a.out + (row + m) * a.w.rows + column;
    for (int n = 0; n < N; n++, out += stride) {
      const float value = a.bias ? sums[n * M + m] + a.bias[column + n * stride] : sums[n * M + m];
      *out = a.add ? *out + value : value;
    }
  }
}

// Columns [first, last) as N streams, each through its own contiguous part of w: the hardware's prefetchers follow a
// stream that goes on, and lose one that jumps N rows ahead at every row's end. Returns the first column left over.
template <int N, class T>
HWY_INLINE int64_t matmul_streams(const MatmulArgs& a, const T* w, int64_t first, int64_t last) {
  const int64_t stride = (last - first) / N;
  for (int64_t column = first; column < first + stride; column++) {
    int64_t row = 0;
    for (; row + 4 <= a.n_rows; row += 4) matmul_tile<N, 4>(a, w, column, stride, row);
    for (; row < a.n_rows; row++) matmul_tile<N, 1>(a, w, column, stride, row);
  }
  return first + N * stride;
}

template <class T>
void matmul_of(const MatmulArgs& a, const T* w, int64_t first, int64_t last) {
  if (a.n_rows < 4) first = matmul_streams<8>(a, w, first, last);  // with four rows or more, 16 sums fill the registers
  first = matmul_streams<4>(a, w, first, last);
  matmul_streams<1>(a, w, first, last);
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

// out = out * shrink + sum over j of weights[j] values[j], for N vectors from element i on: N independent chains.
template <int N, class T>
HWY_INLINE void add_values(const float* weights, const T* const* values, int64_t n, int64_t i, Vec shrink, float* out) {
  constexpr int64_t lanes = hn::MaxLanes(Floats());
  Vec acc[N];
  for (int c = 0; c < N; c++) acc[c] = hn::Mul(hn::LoadU(d, out + i + c * lanes), shrink);
  for (int64_t j = 0; j < n; j++)
    for (int c = 0; c < N; c++) acc[c] = hn::MulAdd(hn::Set(d, weights[j]), load(values[j] + i + c * lanes), acc[c]);
  for (int c = 0; c < N; c++) hn::StoreU(acc[c], d, out + i + c * lanes);
}

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
    int64_t key = 0;
    for (; key + 4 <= n; key += 4) dot_tile<4, 1>(keys + key, a.q, dim, weights + key);
    for (; key < n; key++) dot_tile<1, 1>(keys + key, a.q, dim, weights + key);
    for (int64_t i = 0; i < n; i++) {
      weights[i] *= a.scale;
      block_most = max_or_nan(block_most, weights[i]);
    }
    std::fill(weights + n, weights + kBlock, -INFINITY);
    const float now = max_or_nan(most, block_most);
    const Vec shrink = exp_of(hn::Set(d, most - now));  // exp(-inf) = 0 before the first block
    total = hn::Mul(total, shrink);
    for (int64_t i = 0; i < kBlock; i += lanes) {
      const Vec w = exp_of(hn::Sub(hn::LoadU(d, weights + i), hn::Set(d, now)));
      hn::StoreU(w, d, weights + i);
      total = hn::Add(total, w);
    }
    int64_t i = 0;  // head_dim is a multiple of 16, the most lanes there are
    for (; i + 4 * lanes <= dim; i += 4 * lanes) add_values<4>(weights, values, n, i, shrink, a.out);
    for (; i < dim; i += lanes) add_values<1>(weights, values, n, i, shrink, a.out);
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

template <size_t N>
HWY_INLINE Vec polynomial(Vec x, const float (&c)[N]) {
  Vec value = hn::Set(d, c[N - 1]);
  for (size_t i = N - 1; i-- > 0;) value = hn::MulAdd(value, x, hn::Set(d, c[i]));
  return value;
}

// 1 + erf(x), relative error below 4e-7 down to x = -4.2 and absolute below 3e-9 beyond. Minimax fits of our own:
// erf(x) = x P(x^2) below 1, erfc(x) = exp(x Q(x)) from there on.
HWY_INLINE Vec one_plus_erf(Vec x) {
  constexpr float kP[] = {1.1283791065216064f,   -0.3761262595653534f,    0.11283600330352783f,  -0.026854444295167923f,
                          0.005189535673707724f, -0.0008020842215046287f, 7.889122935011983e-05f};
  constexpr float kQ[] = {-1.128613829612732f,     -0.6354115009307861f,     -0.10550578683614731f,   0.0226955134421587f,
                          -0.0027342145331203938f, -0.00014811469009146094f, 0.00013715725799556822f, -2.7235981178819202e-05f,
                          2.6359205094195204e-06f, -1.0599531208299595e-07f};
  const Vec one = hn::Set(d, 1.0f), a = hn::Abs(x);
  const Vec near = hn::MulAdd(x, polynomial(hn::Mul(x, x), kP), one);
  const Vec tail = exp_of(hn::Mul(a, polynomial(hn::Min(a, hn::Set(d, 4.2f)), kQ)));  // erfc(|x|)
  const Vec far = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, 2.0f), tail));
  return hn::IfThenElse(hn::Lt(a, one), near, far);
}

HWY_INLINE Vec gelu(Vec x) { return hn::Mul(hn::Mul(hn::Set(d, 0.5f), x), one_plus_erf(hn::Mul(x, hn::Set(d, 0.70710678118654752f)))); }

// x / (1 + exp(-y))
HWY_INLINE Vec times_sigmoid(Vec x, Vec y) { return hn::Div(x, hn::Add(hn::Set(d, 1.0f), exp_of(hn::Neg(y)))); }

HWY_INLINE Vec silu(Vec x) { return times_sigmoid(x, x); }

// 0.5 (1 + tanh y) is the sigmoid of 2 y: no difference that cancels for negative y.
HWY_INLINE Vec gelu_tanh(Vec x) {
  const Vec cubic = hn::MulAdd(hn::Mul(hn::Set(d, 0.044715f), hn::Mul(x, x)), x, x);
  return times_sigmoid(x, hn::Mul(cubic, hn::Set(d, 2 * 0.79788456080286536f)));
}

// out[i] = f(x[i]) (* other[i] if that is not NULL)
template <class F>
HWY_INLINE void activate_with(const float* x, const float* other, int64_t n, float* out, F f) {
  constexpr int64_t lanes = hn::MaxLanes(Floats());
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Vec value = f(load(x + i));
    hn::StoreU(other ? hn::Mul(value, load(other + i)) : value, d, out + i);
  }
  if (i < n) {
    HWY_ALIGN float rest[lanes];
    const Vec value = f(load_part(x + i, n - i));
    hn::StoreU(other ? hn::Mul(value, load_part(other + i, n - i)) : value, d, rest);
    std::copy_n(rest, n - i, out + i);
  }
}

void activate(cf_activation kind, const float* x, const float* other, int64_t n, float* out) {
  switch (kind) {
    case CF_ACTIVATION_SWIGLU: return activate_with(x, other, n, out, [](Vec v) { return silu(v); });
    case CF_ACTIVATION_GELU: return activate_with(x, nullptr, n, out, [](Vec v) { return gelu(v); });
    default: return activate_with(x, nullptr, n, out, [](Vec v) { return gelu_tanh(v); });
  }
}

constexpr cf_cpu_isa kIsa = HWY_TARGET == HWY_AVX3 ? CF_CPU_ISA_AVX512 : HWY_TARGET == HWY_AVX2 ? CF_CPU_ISA_AVX2 : CF_CPU_ISA_BASELINE;
extern const Kernels kKernels;
const Kernels kKernels = {kIsa, matmul, attend, layer_norm, rms_norm, activate};

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
