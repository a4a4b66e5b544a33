// Numbers inside: 16-bit formats, checked sizes, the random generator, rotary frequencies.
#include "unity.h"

#include <bit>
#include <cmath>
#include <cstdint>

#include "checked.h"
#include "half.h"
#include "philox.h"
#include "rope.h"
#include "support/checkpoint_writer.h"

void setUp() {}
void tearDown() {}

static float from_bits(uint32_t bits) { return std::bit_cast<float>(bits); }
static uint32_t to_bits(float value) { return std::bit_cast<uint32_t>(value); }

// ---- 16-bit formats: against the plain conversions of checkpoint_writer.c

static void test_every_f16_is_a_float_and_comes_back(void) {
  for (uint32_t h = 0; h < 0x10000; h++) {
    const float value = cf::float_from_f16(uint16_t(h)), plain = f16_to_float(uint16_t(h));
    if ((h & 0x7fff) > 0x7c00) {
      TEST_ASSERT_TRUE(std::isnan(value));
      TEST_ASSERT_TRUE((cf::f16_from_float(value) & 0x7fff) > 0x7c00);
      TEST_ASSERT_EQUAL_UINT32(h & 0x8000, cf::f16_from_float(value) & 0x8000);
      continue;
    }
    TEST_ASSERT_EQUAL_UINT32(to_bits(plain), to_bits(value));
    TEST_ASSERT_EQUAL_UINT32(h, cf::f16_from_float(value));
  }
}

static void test_every_bf16_is_a_float_and_comes_back(void) {
  for (uint32_t h = 0; h < 0x10000; h++) {
    const float value = cf::float_from_bf16(uint16_t(h));
    TEST_ASSERT_EQUAL_UINT32(h << 16, to_bits(value));
    if (std::isnan(value)) TEST_ASSERT_TRUE((cf::bf16_from_float(value) & 0x7fff) > 0x7f80);
    else TEST_ASSERT_EQUAL_UINT32(h, cf::bf16_from_float(value));
  }
}

static void expect_rounded(float value) {
  TEST_ASSERT_EQUAL_UINT32(float_to_f16(value), cf::f16_from_float(value));
  TEST_ASSERT_EQUAL_UINT32(float_to_bf16(value), cf::bf16_from_float(value));
}

// Half way between two neighbours, and the floats around it.
static void expect_rounded_around(float low, float high) {
  const float middle = float((double(low) + double(high)) / 2);
  for (float value : {low, std::nextafter(low, high), std::nextafter(middle, low), middle, std::nextafter(middle, high), std::nextafter(high, low)}) {
    expect_rounded(value);
    expect_rounded(-value);
  }
}

static void test_rounding_goes_to_the_nearest_and_of_two_to_the_even_one(void) {
  for (uint32_t h = 0; h < 0x7bff; h++) expect_rounded_around(cf::float_from_f16(uint16_t(h)), cf::float_from_f16(uint16_t(h + 1)));
  for (uint32_t h = 0; h < 0x7f7f; h++) expect_rounded_around(cf::float_from_bf16(uint16_t(h)), cf::float_from_bf16(uint16_t(h + 1)));
  random_stream stream = {3};
  for (int i = 0; i < 200000; i++) {
    const float value = from_bits(uint32_t(random_bits(&stream)));
    if (!std::isnan(value)) expect_rounded(value);
  }
}

static void test_values_written_out(void) {
  const struct {
    float value;
    uint32_t f16, bf16;
  } cases[] = {{1.0f, 0x3c00, 0x3f80},           {-2.0f, 0xc000, 0xc000},
               {65504.0f, 0x7bff, 0x4780},       {65519.996f, 0x7bff, 0x4780},
               {65520.0f, 0x7c00, 0x4780},       {0x1p-24f, 0x0001, 0x3380},
               {0x1p-25f, 0x0000, 0x3300},       {0x1.000002p-25f, 0x0001, 0x3300},
               {0x1p-14f, 0x0400, 0x3880},       {0.0f, 0, 0},
               {-0.0f, 0x8000, 0x8000},          {INFINITY, 0x7c00, 0x7f80},
               {-INFINITY, 0xfc00, 0xff80},      {1e-40f, 0, 0x0001},
               {3.4028235e38f, 0x7c00, 0x7f80},  {1.0009765625f, 0x3c01, 0x3f80},
               {1.00048828125f, 0x3c00, 0x3f80}, {1.00146484375f, 0x3c02, 0x3f80}};
  for (const auto& c : cases) {
    TEST_ASSERT_EQUAL_UINT32(c.f16, cf::f16_from_float(c.value));
    TEST_ASSERT_EQUAL_UINT32(c.bf16, cf::bf16_from_float(c.value));
  }
}

// ---- Checked sizes

template <class Compute>
static bool overflows(Compute compute) {
  try {
    compute();
    return false;
  } catch (const cf::Error& error) {
    TEST_ASSERT_EQUAL_INT32(CF_ERROR_OUT_OF_MEMORY, error.status);
    return true;
  }
}

static void test_products_and_sums(void) {
  const uint64_t most = UINT64_MAX, root = uint64_t{1} << 32;
  TEST_ASSERT_EQUAL_UINT64(24, cf::mul(2, 3, 4));
  TEST_ASSERT_EQUAL_UINT64(10, cf::add(1, 2, 3, 4));
  TEST_ASSERT_EQUAL_UINT64(0, cf::mul(most, 0));
  TEST_ASSERT_EQUAL_UINT64(most, cf::mul(most, 1));
  TEST_ASSERT_EQUAL_UINT64(most, cf::mul(root - 1, root + 1));
  TEST_ASSERT_EQUAL_UINT64(most, cf::add(most - 1, 1));
  TEST_ASSERT_TRUE(overflows([&] { cf::mul(root, root); }));
  TEST_ASSERT_TRUE(overflows([&] { cf::mul(most, 2); }));
  TEST_ASSERT_TRUE(overflows([&] { cf::add(most, 1); }));
  TEST_ASSERT_TRUE(overflows([&] { cf::add(most, most); }));
  TEST_ASSERT_FALSE(cf::try_mul(root, root).has_value());
  TEST_ASSERT_FALSE(cf::try_add(most, 1).has_value());
}

static void test_overflow_in_any_place(void) {
  const uint64_t most = UINT64_MAX, third = uint64_t{1} << 22;
  TEST_ASSERT_TRUE(overflows([&] { cf::mul(third, third, third); }));
  TEST_ASSERT_TRUE(overflows([&] { cf::mul(2, 2, most); }));
  TEST_ASSERT_TRUE(overflows([&] { cf::mul(most, 2, 0); }));  // also where a later factor would hide it
  TEST_ASSERT_TRUE(overflows([&] { cf::add(1, 1, most); }));
  TEST_ASSERT_TRUE(overflows([&] { cf::add(most, 1, 1); }));
}

static void test_rounding_up(void) {
  TEST_ASSERT_EQUAL_UINT64(0, cf::round_up(0, 128));
  TEST_ASSERT_EQUAL_UINT64(128, cf::round_up(1, 128));
  TEST_ASSERT_EQUAL_UINT64(128, cf::round_up(128, 128));
  TEST_ASSERT_EQUAL_UINT64(256, cf::round_up(129, 128));
  TEST_ASSERT_EQUAL_UINT64(UINT64_MAX - 127, cf::round_up(UINT64_MAX - 127, 128));
  TEST_ASSERT_TRUE(overflows([] { cf::round_up(UINT64_MAX - 126, 128); }));
  TEST_ASSERT_EQUAL_UINT64(UINT64_MAX, cf::ceil_div(UINT64_MAX, 1));
  TEST_ASSERT_EQUAL_UINT64(3, cf::ceil_div(17, 8));
}

// ---- Random numbers: the known answers that the authors of the generator publish with it (Random123, kat_vectors)

static void test_known_answers_of_philox4x32_10(void) {
  const struct {
    std::array<uint32_t, 4> counter;
    std::array<uint32_t, 2> key;
    std::array<uint32_t, 4> expected;
  } vectors[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const auto& v : vectors) {
    const auto words = cf::philox4x32(v.counter, v.key);
    for (size_t i = 0; i < 4; i++) TEST_ASSERT_EQUAL_UINT32(v.expected[i], words[i]);
  }
}

// ---- Rotary embedding

static cf_model_config rope_config(int32_t rotary_dim, double theta) {
  cf_model_config c{};
  c.head_dim = 128;
  c.rotary_dim = rotary_dim;
  c.rope_theta = theta;
  return c;
}

static void test_frequencies_are_powers_of_theta(void) {
  for (int32_t rotary_dim : {2, 16, 32, 128}) {
    for (double theta : {10000.0, 500000.0, 10.0}) {
      const auto f = cf::rope_frequencies(rope_config(rotary_dim, theta));
      TEST_ASSERT_EQUAL_size_t(size_t(rotary_dim) / 2, f.size());
      for (size_t i = 0; i < f.size(); i++) {
        const double expected = std::pow(theta, -2.0 * double(i) / rotary_dim);
        TEST_ASSERT_DOUBLE_WITHIN(1e-6 * expected, expected, f[i]);
      }
    }
  }
}

// Llama 3.1: theta 500000, factor 8, bands 1 and 4, original context 8192. Short waves stay, long ones are stretched eight
// times, and those between 8192 / 4 and 8192 / 1 positions are blended.
static void test_llama3_stretches_long_waves(void) {
  cf_model_config c = rope_config(128, 500000);
  const auto plain = cf::rope_frequencies(c);
  c.rope_scaling = CF_ROPE_SCALING_LLAMA3;
  c.rope_factor = 8, c.rope_low_freq_factor = 1, c.rope_high_freq_factor = 4, c.rope_original_max_position = 8192;
  const auto scaled = cf::rope_frequencies(c);
  int kept = 0, stretched = 0, blended = 0;
  for (size_t i = 0; i < plain.size(); i++) {
    const double wavelength = 2 * M_PI / plain[i];
    if (wavelength < 2048) {
      TEST_ASSERT_EQUAL_UINT32(to_bits(plain[i]), to_bits(scaled[i]));
      kept++;
    } else if (wavelength > 8192) {
      TEST_ASSERT_EQUAL_UINT32(to_bits(plain[i] / 8), to_bits(scaled[i]));
      stretched++;
    } else {
      const double share = (8192 / wavelength - 1) / 3;  // 1 at the short end
      const double expected = plain[i] * (share + (1 - share) / 8);
      TEST_ASSERT_DOUBLE_WITHIN(1e-6 * expected, expected, scaled[i]);
      blended++;
    }
    if (i) TEST_ASSERT_TRUE(scaled[i] < scaled[i - 1]);
  }
  TEST_ASSERT_EQUAL_INT(29, kept);
  TEST_ASSERT_EQUAL_INT(6, blended);
  TEST_ASSERT_EQUAL_INT(29, stretched);
}

int main() {
  UNITY_BEGIN();
  RUN_TEST(test_every_f16_is_a_float_and_comes_back);
  RUN_TEST(test_every_bf16_is_a_float_and_comes_back);
  RUN_TEST(test_rounding_goes_to_the_nearest_and_of_two_to_the_even_one);
  RUN_TEST(test_values_written_out);
  RUN_TEST(test_products_and_sums);
  RUN_TEST(test_overflow_in_any_place);
  RUN_TEST(test_rounding_up);
  RUN_TEST(test_known_answers_of_philox4x32_10);
  RUN_TEST(test_frequencies_are_powers_of_theta);
  RUN_TEST(test_llama3_stretches_long_waves);
  return UNITY_END();
}
