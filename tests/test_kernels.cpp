// The inner loops of the CPU backend, for every instruction set this machine has: against double, and bit by bit against
// themselves where rows, columns and pages are grouped otherwise.
#include "unity.h"

#include <cmath>
#include <vector>

#include "cpu/cpu_weights.h"
#include "cpu/kernels.h"
#include "support/checkpoint_writer.h"

void setUp() {}
void tearDown() {}

template <class Check>
static void on_each_isa(Check check) {
  for (cf_cpu_isa isa = CF_CPU_ISA_BASELINE; isa <= CF_CPU_ISA_AVX512; isa++)
    if (const cf::Kernels* kernels = cf::find_kernels(isa)) {
      TEST_ASSERT_EQUAL_INT32(isa, kernels->isa);
      check(*kernels);
    }
}

static std::vector<float> normal_numbers(size_t n, uint64_t seed, double scale = 1) {
  random_stream stream = {seed};
  std::vector<float> values(n);
  for (float& v : values) v = float(scale * random_normal(&stream));
  return values;
}

// Values rounded to a dtype: their bytes, and what they are in float.
struct Stored {
  std::vector<unsigned char> bytes;
  std::vector<float> values;
};
static Stored stored(const std::vector<float>& values, cf_dtype dtype) {
  Stored s{std::vector<unsigned char>(values.size() * 4), values};
  cf::from_float(values.data(), dtype, int64_t(values.size()), s.bytes.data());
  cf::to_float(s.bytes.data(), dtype, int64_t(values.size()), s.values.data());
  return s;
}

static void test_there_is_always_a_best_one(void) {
  TEST_ASSERT_NOT_NULL(cf::find_kernels(CF_CPU_ISA_AUTO));
  TEST_ASSERT_NOT_NULL(cf::find_kernels(CF_CPU_ISA_BASELINE));
  TEST_ASSERT_NULL(cf::find_kernels(17));
}

static void test_matmul_is_right(void) {
  on_each_isa([](const cf::Kernels& kernels) {
    for (cf_dtype dtype = CF_DTYPE_F32; dtype <= CF_DTYPE_BF16; dtype++)
      for (int64_t k : {1, 3, 16, 17, 64, 100})
        for (int64_t rows : {1, 3, 4, 7})
          for (int64_t columns : {1, 8, 13}) {
            const auto x = normal_numbers(size_t(rows * k), 1), bias = normal_numbers(size_t(columns), 2),
                       before = normal_numbers(size_t(rows * columns), 3);
            const Stored w = stored(normal_numbers(size_t(columns * k), 4), dtype);
            for (int way = 0; way < 4; way++) {
              const bool with_bias = way & 1, add = way & 2;
              auto out = before;
              kernels.matmul({x.data(), rows, {w.bytes.data(), dtype, columns, k}, with_bias ? bias.data() : nullptr, out.data(), add}, 0, columns);
              for (int64_t r = 0; r < rows; r++)
                for (int64_t c = 0; c < columns; c++) {
                  double expected = (with_bias ? bias[size_t(c)] : 0) + (add ? before[size_t(r * columns + c)] : 0), size = 1;
                  for (int64_t i = 0; i < k; i++) {
                    const double term = double(x[size_t(r * k + i)]) * w.values[size_t(c * k + i)];
                    expected += term;
                    size += std::fabs(term);
                  }
                  TEST_ASSERT_DOUBLE_WITHIN(1e-6 * size, expected, out[size_t(r * columns + c)]);
                }
            }
          }
  });
}

static void test_matmul_does_not_show_how_it_was_divided(void) {
  on_each_isa([](const cf::Kernels& kernels) {
    constexpr int64_t kRows = 11, kColumns = 29;
    for (cf_dtype dtype = CF_DTYPE_F32; dtype <= CF_DTYPE_BF16; dtype++)
      for (int64_t k : {64, 77}) {
        const auto x = normal_numbers(size_t(kRows * k), 1), bias = normal_numbers(size_t(kColumns), 2);
        const Stored w = stored(normal_numbers(size_t(kColumns * k), 4), dtype);
        const cf::Matrix matrix{w.bytes.data(), dtype, kColumns, k};
        std::vector<float> whole(size_t(kRows * kColumns)), parts(whole.size());
        kernels.matmul({x.data(), kRows, matrix, bias.data(), whole.data(), false}, 0, kColumns);
        for (int64_t width : {1, 2, 5, 8, 12}) {  // columns at a time, one row at a time
          for (int64_t r = 0; r < kRows; r++)
            for (int64_t c = 0; c < kColumns; c += width)
              kernels.matmul({x.data() + r * k, 1, matrix, bias.data(), parts.data() + r * kColumns, false}, c, std::min(kColumns, c + width));
          TEST_ASSERT_EQUAL_MEMORY(whole.data(), parts.data(), whole.size() * sizeof(float));
        }
        for (int64_t rows : {2, 3, 4, 5, 9}) {  // rows at a time
          for (int64_t r = 0; r < kRows; r += rows)
            kernels.matmul({x.data() + r * k, std::min(rows, kRows - r), matrix, bias.data(), parts.data() + r * kColumns, false}, 0, kColumns);
          TEST_ASSERT_EQUAL_MEMORY(whole.data(), parts.data(), whole.size() * sizeof(float));
        }
      }
  });
}

static void expect_attention(const cf::Kernels& kernels, cf_dtype dtype, int64_t dim, int64_t length, double scale_of_q) {
  constexpr int64_t kHeads = 2;
  const auto q = normal_numbers(size_t(dim), 1, scale_of_q);
  const Stored k = stored(normal_numbers(size_t(length * kHeads * dim), 2), dtype),
               v = stored(normal_numbers(size_t(length * kHeads * dim), 3), dtype);
  const float scale = 1 / std::sqrt(float(dim));
  std::vector<float> out(size_t(dim), NAN);
  const cf::KvView view{
      const_cast<unsigned char*>(k.bytes.data()), const_cast<unsigned char*>(v.bytes.data()), dtype, kHeads * dim, dim, 0, nullptr, length};
  for (int64_t head = 0; head < kHeads; head++) {
    kernels.attend({q.data(), view, head, length, dim, scale, out.data()});
    std::vector<double> weights(static_cast<size_t>(length));
    double most = -INFINITY, total = 0;
    for (int64_t p = 0; p < length; p++) {
      double score = 0;
      for (int64_t i = 0; i < dim; i++) score += double(q[size_t(i)]) * k.values[size_t((p * kHeads + head) * dim + i)];
      weights[size_t(p)] = score * scale;
      most = std::max(most, score * scale);
    }
    for (double& w : weights) total += w = std::exp(w - most);
    for (int64_t i = 0; i < dim; i++) {
      double expected = 0;
      for (int64_t p = 0; p < length; p++) expected += weights[size_t(p)] / total * v.values[size_t((p * kHeads + head) * dim + i)];
      TEST_ASSERT_DOUBLE_WITHIN(2e-6 * (1 + scale_of_q), expected, out[size_t(i)]);
    }
  }
}

static void test_attention_is_right(void) {
  on_each_isa([](const cf::Kernels& kernels) {
    for (cf_dtype dtype = CF_DTYPE_F32; dtype <= CF_DTYPE_BF16; dtype++)
      for (int64_t dim : {32, 80, 256})
        for (int64_t length : {1, 5, 63, 64, 65, 200}) expect_attention(kernels, dtype, dim, length, 1);
    expect_attention(kernels, CF_DTYPE_F32, 64, 150, 300);  // scores far beyond what exp takes by itself
  });
}

static void test_attention_does_not_show_where_pages_lie(void) {
  on_each_isa([](const cf::Kernels& kernels) {
    constexpr int64_t kDim = 64, kLength = 131, kPage = 16, kPages = 9;
    const auto q = normal_numbers(kDim, 1), k = normal_numbers(kLength * kDim, 2), v = normal_numbers(kLength * kDim, 3);
    std::vector<float> paged_k(kPages * kPage * kDim, NAN), paged_v(paged_k), out(kDim), paged_out(kDim);
    int32_t table[kPages];
    for (int32_t page = 0; page < kPages; page++) table[page] = (page * 5 + 2) % kPages;
    for (int64_t p = 0; p < kLength; p++)
      for (int64_t i = 0; i < kDim; i++) {
        const size_t to = size_t((table[p / kPage] * kPage + p % kPage) * kDim + i);
        paged_k[to] = k[size_t(p * kDim + i)];
        paged_v[to] = v[size_t(p * kDim + i)];
      }
    for (int64_t length : {int64_t{1}, int64_t{16}, int64_t{17}, int64_t{64}, int64_t{100}, kLength}) {
      kernels.attend({q.data(),
                      {const_cast<float*>(k.data()), const_cast<float*>(v.data()), CF_DTYPE_F32, kDim, kDim, 0, nullptr, 1 << 30},
                      0,
                      length,
                      kDim,
                      0.125f,
                      out.data()});
      kernels.attend({q.data(),
                      {paged_k.data(), paged_v.data(), CF_DTYPE_F32, kDim, kDim, kPage * kDim, table, kPage},
                      0,
                      length,
                      kDim,
                      0.125f,
                      paged_out.data()});
      TEST_ASSERT_EQUAL_MEMORY(out.data(), paged_out.data(), sizeof(float) * kDim);
    }
  });
}

static void test_norms_are_right(void) {
  on_each_isa([](const cf::Kernels& kernels) {
    for (int64_t n : {1, 15, 16, 64, 100, 1000}) {
      auto x = normal_numbers(size_t(n), 1, 3);
      for (float& value : x) value += 100;  // variance in one pass would lose it
      const auto weight = normal_numbers(size_t(n), 2), bias = normal_numbers(size_t(n), 3);
      std::vector<float> layer(x), rms(static_cast<size_t>(n));
      kernels.layer_norm(layer.data(), weight.data(), bias.data(), 1e-5f, n, layer.data());  // in place
      kernels.rms_norm(x.data(), weight.data(), 1e-5f, n, rms.data());
      double mean = 0, variance = 0, square = 0;
      for (float value : x) mean += value / double(n), square += double(value) * value / double(n);
      for (float value : x) variance += (value - mean) * (value - mean) / double(n);
      for (int64_t i = 0; i < n; i++) {
        const size_t k = size_t(i);
        TEST_ASSERT_DOUBLE_WITHIN(1e-4, (x[k] - mean) / std::sqrt(variance + 1e-5) * weight[k] + bias[k], layer[k]);
        TEST_ASSERT_DOUBLE_WITHIN(3e-6, x[k] / std::sqrt(square + 1e-5) * weight[k], rms[k]);
      }
    }
  });
}

static void test_activations_are_right(void) {
  constexpr int64_t kN = 4003;  // no multiple of any vector's length
  std::vector<float> x(kN), other(kN), out(kN);
  for (int64_t i = 0; i < kN; i++) x[size_t(i)] = float(i - kN / 2) * 0.01f, other[size_t(i)] = 1 + float(i % 7);
  x[0] = -1000, x[1] = 1000, x[2] = -0.0f, x[3] = NAN;
  on_each_isa([&](const cf::Kernels& kernels) {
    for (cf_activation kind : {CF_ACTIVATION_GELU, CF_ACTIVATION_GELU_TANH, CF_ACTIVATION_SWIGLU}) {
      std::fill(out.begin(), out.end(), NAN);
      kernels.activate(kind, x.data(), other.data(), kN, out.data());
      for (size_t i = 0; i < size_t(kN); i++) {
        const double v = double(x[i]);
        const double expected = kind == CF_ACTIVATION_GELU ? 0.5 * v * std::erfc(-v * std::sqrt(0.5))
                                : kind == CF_ACTIVATION_GELU_TANH
                                    ? 0.5 * v * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (v + 0.044715 * v * v * v)))
                                    : v / (1 + std::exp(-v)) * double(other[i]);
        if (i == 3) TEST_ASSERT_TRUE(std::isnan(out[i]));
        else TEST_ASSERT_DOUBLE_WITHIN(1e-6 * std::fabs(expected) + 1e-7, expected, out[i]);
      }
    }
  });
}

int main() {
  UNITY_BEGIN();
  RUN_TEST(test_there_is_always_a_best_one);
  RUN_TEST(test_matmul_is_right);
  RUN_TEST(test_matmul_does_not_show_how_it_was_divided);
  RUN_TEST(test_attention_is_right);
  RUN_TEST(test_attention_does_not_show_where_pages_lie);
  RUN_TEST(test_norms_are_right);
  RUN_TEST(test_activations_are_right);
  return UNITY_END();
}
