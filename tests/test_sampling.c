/* The sampler: against the header's own words computed here a second time, against what is to be expected of it, and in
 * sessions. */
#include "unity.h"

#include <float.h>
#include <stdlib.h>

#include "support/session_helpers.h"

enum { VOCAB = 96 };

void setUp(void) {}
void tearDown(void) {}

static cf_sampler_options sampler(float temperature, uint64_t seed) {
  cf_sampler_options options;
  OK(cf_sampler_options_init(&options, sizeof options));
  options.temperature = temperature;
  options.seed = seed;
  return options;
}

static int32_t sample(const cf_sampler_options* options, const float* logits, size_t n, int64_t position) {
  int32_t token = -9;
  OK(cf_sample_logits(options, NULL, logits, n, NULL, 0, position, &token));
  TEST_ASSERT_TRUE(token >= 0 && token < (int32_t)n);
  return token;
}

/* ---- The rule, a second time ---- */

/* Salmon et al., SC 2011, with ten rounds. */
static void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]}, k[2] = {key[0], key[1]};
  for (int round = 0; round < 10; round++) {
    const uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
    const uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a};
    memcpy(c, next, sizeof c);
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
  memcpy(out, c, sizeof c);
}

static double gumbel(uint64_t seed, int64_t position, int32_t token) {
  const uint32_t counter[4] = {(uint32_t)token / 4, (uint32_t)position, (uint32_t)((uint64_t)position >> 32), 0},
                 key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  uint32_t words[4];
  philox4x32(counter, key, words);
  return -log(-log((words[token % 4] + 0.5) * 0x1p-32));
}

struct request {
  cf_sampler_options options;
  float logits[VOCAB];
  uint32_t mask[3];
  int32_t history[16], bias_tokens[8];
  float bias_values[8];
  size_t n_history;
  int64_t position;
};

/* Tokens in order of likelihood, ties to the lowest. */
static const float* order_by;
static int by_likelihood(const void* a, const void* b) {
  const int32_t s = *(const int32_t*)a, t = *(const int32_t*)b;
  if (order_by[s] != order_by[t]) return order_by[s] > order_by[t] ? -1 : 1;
  return s < t ? -1 : 1;
}

static int32_t sample_by_the_header(const struct request* r) {
  const cf_sampler_options* o = &r->options;
  float x[VOCAB];
  int32_t order[VOCAB], n = 0;
  memcpy(x, r->logits, sizeof x);
  for (int32_t t = 0; t < VOCAB; t++) {
    int seen = 0;
    for (size_t i = 0; i < r->n_history; i++) seen |= r->history[i] == t;
    if (seen) x[t] = x[t] > 0 ? x[t] / o->repetition_penalty : x[t] * o->repetition_penalty;
  }
  for (size_t i = 0; i < o->n_logit_biases; i++) x[r->bias_tokens[i]] += r->bias_values[i];
  for (int32_t t = 0; t < VOCAB; t++)
    if (!(r->mask[t / 32] >> t % 32 & 1)) x[t] = -INFINITY;
  for (int32_t t = 0; t < VOCAB; t++) {
    if (x[t] == -INFINITY) continue;
    if (o->temperature > 0) x[t] /= o->temperature;
    order[n++] = t;
  }
  order_by = x;
  qsort(order, (size_t)n, sizeof order[0], by_likelihood);
  if (o->temperature == 0) return order[0];
  if (o->top_k > 0 && o->top_k < n) n = o->top_k; /* no ties in these logits */
  if (o->top_p < 1) {
    double total = 0, mass = 0;
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) total += exp((double)x[order[i]] - x[order[0]]);
    while (kept < n && mass < (double)o->top_p * total) mass += exp((double)x[order[kept++]] - x[order[0]]);
    n = kept;
  }
  int32_t best = -1;
  double best_score = -INFINITY;
  for (int32_t i = 0; i < n; i++) {
    if (o->min_p > 0 && exp((double)x[order[i]] - x[order[0]]) < o->min_p) continue;
    const double score = x[order[i]] + gumbel(o->seed, r->position, order[i]);
    if (score > best_score) best_score = score, best = order[i];
  }
  return best;
}

static void test_random_requests_are_answered_as_the_header_says(void) {
  static struct request r;
  struct random_stream stream = {77};
#define UP_TO(n) (random_bits(&stream) % (n))
  for (int i = 0; i < 3000; i++) {
    int32_t token = -9;
    r.options = sampler(UP_TO(5) ? (float)(0.05 + (double)UP_TO(300) / 100) : 0, random_bits(&stream));
    if (UP_TO(2)) r.options.top_k = (int32_t)UP_TO(VOCAB + 10);
    if (UP_TO(2)) r.options.top_p = (float)(0.01 + (double)UP_TO(98) / 100);
    if (UP_TO(3) == 0) r.options.min_p = (float)UP_TO(100) / 100;
    if (UP_TO(2)) r.options.repetition_penalty = (float)(0.5 + (double)UP_TO(200) / 100);
    for (int t = 0; t < VOCAB; t++) r.logits[t] = (float)(2.5 * random_normal(&stream));
    r.n_history = UP_TO(17);
    for (size_t k = 0; k < r.n_history; k++) r.history[k] = (int32_t)UP_TO(VOCAB);
    r.options.n_logit_biases = UP_TO(9);
    r.options.logit_bias_tokens = r.bias_tokens;
    r.options.logit_bias_values = r.bias_values;
    for (int32_t k = 0; k < 8; k++) {
      r.bias_tokens[k] = k * 12 + (int32_t)UP_TO(12);
      r.bias_values[k] = UP_TO(4) ? (float)(3 * random_normal(&stream)) : -INFINITY;
    }
    for (int k = 0; k < 3; k++) r.mask[k] = (uint32_t)random_bits(&stream) | (uint32_t)random_bits(&stream);
    if (UP_TO(2)) memset(r.mask, 0xff, sizeof r.mask);
    r.position = (int64_t)(random_bits(&stream) >> (1 + UP_TO(60)));
    OK(cf_sample_logits(&r.options, r.mask, r.logits, VOCAB, r.history, r.n_history, r.position, &token));
    TEST_ASSERT_EQUAL_INT32(sample_by_the_header(&r), token);
  }
}

/* ---- Greedy ---- */

static void test_greedy_takes_the_likeliest_and_of_equals_the_lowest(void) {
  const float logits[6] = {1, 5, -3, 5, 4.999f, 5}, flat[3] = {0, 0, 0}, negative[3] = {-3, -1, -2};
  TEST_ASSERT_EQUAL_INT32(1, sample(NULL, logits, 6, 0));
  TEST_ASSERT_EQUAL_INT32(0, sample(NULL, flat, 3, 0));
  TEST_ASSERT_EQUAL_INT32(1, sample(NULL, negative, 3, 0));
  TEST_ASSERT_EQUAL_INT32(0, sample(NULL, logits, 1, 0));
}

/* Vocabularies that no power of two divides, the likeliest token anywhere in them, all logits negative or zeros of both signs. */
static void test_greedy_in_large_vocabularies(void) {
  enum { kMost = 2085 };
  static float logits[kMost];
  static const int32_t places[] = {0, 1, 30, 511, 512, 513, 1023, 1024, 2047, 2048, kMost - 1};
  const cf_sampler_options options = sampler(0, 1);
  for (size_t i = 0; i < sizeof places / sizeof *places; i++)
    for (size_t n = (size_t)places[i] + 1; n <= kMost; n += 517) {
      for (size_t token = 0; token < n; token++) logits[token] = -2e38f + (float)(token % 7) * -1e36f;
      logits[places[i]] = -1e-40f;
      TEST_ASSERT_EQUAL_INT32(places[i], sample(&options, logits, n, 3));
      logits[n - 1] = logits[places[i]];
      TEST_ASSERT_EQUAL_INT32(places[i], sample(&options, logits, n, 3));
      for (size_t token = 0; token < n; token++) logits[token] = token >= (size_t)places[i] ? token % 2 ? 0.0f : -0.0f : -FLT_MIN;
      TEST_ASSERT_EQUAL_INT32(places[i], sample(&options, logits, n, 3));
      logits[places[i]] = n % 2 ? NAN : -INFINITY;
      int32_t token = -9;
      FAILS(CF_ERROR_NONFINITE_LOGITS, "not finite", cf_sample_logits(&options, NULL, logits, n, NULL, 0, 3, &token));
    }
}

static void test_greedy_heeds_neither_seed_nor_cuts(void) {
  float logits[VOCAB];
  struct random_stream stream = {5};
  for (int i = 0; i < VOCAB; i++) logits[i] = (float)random_normal(&stream);
  const int32_t best = sample(NULL, logits, VOCAB, 0);
  for (uint64_t seed = 0; seed < 50; seed++) {
    cf_sampler_options o = sampler(0, seed);
    o.top_k = 5;
    o.top_p = 0.1f;
    o.min_p = 1;
    TEST_ASSERT_EQUAL_INT32(best, sample(&o, logits, VOCAB, (int64_t)seed));
  }
}

/* A temperature that takes every logit beyond the range of float. */
static void test_temperatures_close_to_zero_are_greedy(void) {
  const float positive[4] = {3, 7, 6.9f, 1}, negative[4] = {-9, -2, -2.1f, -8}, zero[4] = {-1, 0, -0.5f, -3};
  const float temperatures[] = {1e-3f, 1e-20f, 1e-37f, 1e-38f, 1e-39f, 1e-45f};
  for (size_t i = 0; i < 6; i++) {
    for (uint64_t seed = 0; seed < 20; seed++) {
      cf_sampler_options o = sampler(temperatures[i], seed);
      if (seed % 2) o.top_p = 0.5f, o.min_p = 0.1f, o.top_k = 3;
      TEST_ASSERT_EQUAL_INT32(1, sample(&o, positive, 4, 1));
      TEST_ASSERT_EQUAL_INT32(1, sample(&o, negative, 4, 1));
      TEST_ASSERT_EQUAL_INT32(1, sample(&o, zero, 4, 1));
    }
  }
}

/* ---- Distribution ---- */

static double chi_square(const cf_sampler_options* options, const float* logits, const double* probabilities, size_t n, int draws) {
  int counts[16] = {0};
  double sum = 0;
  for (int64_t position = 0; position < draws; position++) counts[sample(options, logits, n, position)]++;
  for (size_t i = 0; i < n; i++) {
    if (probabilities[i] == 0) TEST_ASSERT_EQUAL_INT(0, counts[i]);
    else sum += (counts[i] - draws * probabilities[i]) * (counts[i] - draws * probabilities[i]) / (draws * probabilities[i]);
  }
  return sum;
}

static void softmax(const float* logits, size_t n, double temperature, double* probabilities) {
  double total = 0;
  for (size_t i = 0; i < n; i++) total += probabilities[i] = exp(logits[i] / temperature);
  for (size_t i = 0; i < n; i++) probabilities[i] /= total;
}

static void test_tokens_come_as_often_as_they_should(void) {
  const float logits[8] = {0, 1, 2, -1, 0.5f, 1.5f, -2, 2};
  const float temperatures[] = {0.5f, 1, 2, 100};
  double probabilities[8];
  for (size_t i = 0; i < 4; i++) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
      const cf_sampler_options o = sampler(temperatures[i], seed);
      softmax(logits, 8, temperatures[i], probabilities);
      TEST_ASSERT_TRUE(chi_square(&o, logits, probabilities, 8, 8000) < 24.3); /* 7 degrees of freedom, p = 0.001 */
    }
  }
}

static void test_neighbouring_seeds_and_positions_are_independent(void) {
  const float flat[4] = {0, 0, 0, 0};
  int pairs[2][16] = {{0}};
  for (int64_t i = 0; i < 4000; i++) {
    const cf_sampler_options a = sampler(1, (uint64_t)i), b = sampler(1, (uint64_t)i + 1);
    pairs[0][sample(&a, flat, 4, 7) * 4 + sample(&b, flat, 4, 7)]++;
    pairs[1][sample(&a, flat, 4, i) * 4 + sample(&a, flat, 4, i + 1)]++;
  }
  for (int k = 0; k < 2; k++) {
    double sum = 0;
    for (int i = 0; i < 16; i++) sum += (pairs[k][i] - 250.0) * (pairs[k][i] - 250.0) / 250.0;
    TEST_ASSERT_TRUE(sum < 37.7); /* 15 degrees of freedom, p = 0.001 */
  }
}

static void test_the_same_seed_and_position_give_the_same_token(void) {
  const float flat[16] = {0};
  int differ[4] = {0};
  for (int64_t position = 0; position < 100; position++) {
    const cf_sampler_options o = sampler(1, 42), low = sampler(1, 43), high = sampler(1, 42 + (UINT64_C(1) << 32));
    const int32_t token = sample(&o, flat, 16, position);
    TEST_ASSERT_EQUAL_INT32(token, sample(&o, flat, 16, position));
    differ[0] += token != sample(&low, flat, 16, position);
    differ[1] += token != sample(&high, flat, 16, position); /* all 64 bits of both count */
    differ[2] += token != sample(&o, flat, 16, position + 1);
    differ[3] += token != sample(&o, flat, 16, position + (INT64_C(1) << 32));
  }
  for (int i = 0; i < 4; i++) TEST_ASSERT_GREATER_THAN(70, differ[i]);
}

/* ---- top-k, top-p, min-p ---- */

/* The tokens that come in 4000 draws. None that is kept is rarer than 1 in 100. */
static uint32_t tokens_that_come(const cf_sampler_options* options, const float* logits, size_t n) {
  uint32_t set = 0;
  for (int64_t position = 0; position < 4000; position++) set |= 1u << sample(options, logits, n, position);
  return set;
}

static const float kTenths[4] = {-0.916290732f, -1.203972804f, -1.609437912f, -2.302585093f}; /* log of 0.4, 0.3, 0.2, 0.1 */

static void test_top_k_keeps_the_k_likeliest(void) {
  cf_sampler_options o = sampler(1, 1);
  const uint32_t expected[] = {0xf, 0x1, 0x3, 0x7, 0xf, 0xf};
  for (int32_t k = 0; k <= 5; k++) {
    o.top_k = k;
    TEST_ASSERT_EQUAL_UINT32(expected[k], tokens_that_come(&o, kTenths, 4));
  }
  o.top_k = INT32_MAX;
  TEST_ASSERT_EQUAL_UINT32(0xf, tokens_that_come(&o, kTenths, 4));
}

static void test_top_p_keeps_the_fewest_that_reach_it(void) {
  const struct {
    float top_p;
    uint32_t kept;
  } cases[] = {{1e-6f, 1}, {0.39f, 1}, {0.41f, 3}, {0.69f, 3}, {0.71f, 7}, {0.89f, 7}, {0.91f, 15}, {0.999f, 15}, {1, 15}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    cf_sampler_options o = sampler(1, 2);
    o.top_p = cases[i].top_p;
    TEST_ASSERT_EQUAL_UINT32(cases[i].kept, tokens_that_come(&o, kTenths, 4));
  }
}

static void test_min_p_keeps_what_is_likely_enough(void) {
  const struct {
    float min_p;
    uint32_t kept;
  } cases[] = {{0, 15}, {0.24f, 15}, {0.26f, 7}, {0.49f, 7}, {0.51f, 3}, {0.74f, 3}, {0.76f, 1}, {1, 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    cf_sampler_options o = sampler(1, 3);
    o.min_p = cases[i].min_p;
    TEST_ASSERT_EQUAL_UINT32(cases[i].kept, tokens_that_come(&o, kTenths, 4));
  }
}

static void test_cuts_act_after_the_temperature_and_one_after_the_other(void) {
  cf_sampler_options o = sampler(1, 4);
  o.top_k = 2; /* of 0.4 and 0.3, 0.4 alone is 0.57 */
  o.top_p = 0.55f;
  TEST_ASSERT_EQUAL_UINT32(1, tokens_that_come(&o, kTenths, 4));
  o.top_k = 0; /* of all four it is not enough */
  TEST_ASSERT_EQUAL_UINT32(3, tokens_that_come(&o, kTenths, 4));
  o = sampler(0.5f, 4); /* squares: 0.53, 0.30, 0.13, 0.03 */
  o.top_p = 0.5f;
  TEST_ASSERT_EQUAL_UINT32(1, tokens_that_come(&o, kTenths, 4));
  o = sampler(1, 4); /* what remains is drawn in proportion */
  o.top_k = 2;
  const double expected[4] = {4.0 / 7, 3.0 / 7, 0, 0};
  TEST_ASSERT_TRUE(chi_square(&o, kTenths, expected, 4, 4000) < 10.8); /* 1 degree of freedom, p = 0.001 */
}

static void test_cuts_of_a_large_vocabulary(void) {
  enum { MANY = 50000 };
  static float logits[MANY];
  cf_sampler_options o = sampler(1, 6);
  for (int i = 0; i < MANY; i++) logits[i] = -20;
  logits[49999] = 3;
  logits[31] = 2;
  o.top_p = 0.9f;
  for (int64_t position = 0; position < 50; position++) {
    const int32_t token = sample(&o, logits, MANY, position);
    TEST_ASSERT_TRUE(token == 49999 || token == 31);
  }
}

/* ---- Penalty, biases, mask ---- */

static void test_repetition_penalty(void) {
  const float logits[4] = {2, 1.5f, -1, -1.5f}, low[4] = {-2, -3, -9, -9};
  cf_sampler_options o = sampler(0, 0);
  int32_t token;
  o.repetition_penalty = 1.5f;
  OK(cf_sample_logits(&o, NULL, logits, 4, (int32_t[]){0}, 1, 1, &token)); /* 2 / 1.5 < 1.5 */
  TEST_ASSERT_EQUAL_INT32(1, token);
  OK(cf_sample_logits(&o, NULL, logits, 4, (int32_t[]){0, 1}, 2, 2, &token)); /* 1.33, 1 */
  TEST_ASSERT_EQUAL_INT32(0, token);
  OK(cf_sample_logits(&o, NULL, logits, 4, (int32_t[]){3, 2}, 2, 2, &token));
  TEST_ASSERT_EQUAL_INT32(0, token);
  o.repetition_penalty = 1.2f; /* once, however often the token was seen: 2 / 1.2 > 1.5, and three times would not be */
  OK(cf_sample_logits(&o, NULL, logits, 4, (int32_t[]){0, 0, 0}, 3, 3, &token));
  TEST_ASSERT_EQUAL_INT32(0, token);
  o.repetition_penalty = 2; /* negative logits are multiplied: -4 < -3 */
  OK(cf_sample_logits(&o, NULL, low, 4, (int32_t[]){0}, 1, 1, &token));
  TEST_ASSERT_EQUAL_INT32(1, token);
  o.repetition_penalty = 0.5f; /* and may be favoured */
  OK(cf_sample_logits(&o, NULL, logits, 4, (int32_t[]){1}, 1, 1, &token));
  TEST_ASSERT_EQUAL_INT32(1, token);
}

static void test_biases_and_bans(void) {
  const float logits[4] = {0, 1, 2, 3};
  const int32_t tokens[4] = {3, 0, 1, 2};
  const float values[4] = {-INFINITY, 5, -1, 0};
  cf_sampler_options o = sampler(0, 0);
  o.n_logit_biases = 1;
  o.logit_bias_tokens = tokens;
  o.logit_bias_values = values;
  TEST_ASSERT_EQUAL_INT32(2, sample(&o, logits, 4, 0));
  o.n_logit_biases = 2;
  TEST_ASSERT_EQUAL_INT32(0, sample(&o, logits, 4, 0));
  o.temperature = 100;
  o.n_logit_biases = 1;
  TEST_ASSERT_EQUAL_UINT32(7, tokens_that_come(&o, logits, 4));
  const int32_t first = 0; /* a ban is a ban, whatever the penalty makes of the logit */
  const float falling[4] = {3, 2, 1, 0};
  int32_t token = -9;
  o = sampler(0, 0);
  o.repetition_penalty = 1e-45f;
  o.n_logit_biases = 1;
  o.logit_bias_tokens = &first;
  o.logit_bias_values = values;
  OK(cf_sample_logits(&o, NULL, falling, 4, &first, 1, 1, &token));
  TEST_ASSERT_EQUAL_INT32(1, token);
}

static void test_mask(void) {
  float logits[VOCAB];
  uint32_t mask[3] = {0, 1u << 5, 1u << 31};
  int32_t token = -9;
  cf_sampler_options o = sampler(1, 0);
  for (int i = 0; i < VOCAB; i++) logits[i] = (float)(VOCAB - i) / 100;
  OK(cf_sample_logits(NULL, mask, logits, VOCAB, NULL, 0, 0, &token));
  TEST_ASSERT_EQUAL_INT32(37, token);
  mask[1] = 0;
  OK(cf_sample_logits(NULL, mask, logits, VOCAB, NULL, 0, 0, &token));
  TEST_ASSERT_EQUAL_INT32(95, token);
  mask[0] = 0x10001;
  int counts[VOCAB] = {0};
  for (int64_t position = 0; position < 500; position++) {
    OK(cf_sample_logits(&o, mask, logits, VOCAB, NULL, 0, position, &token));
    counts[token]++;
  }
  TEST_ASSERT_EQUAL_INT(500, counts[0] + counts[16] + counts[95]);
  TEST_ASSERT_TRUE(counts[0] > 0 && counts[16] > 0 && counts[95] > 0);
}

static void test_no_token_is_allowed(void) {
  const float logits[3] = {1, 2, 3};
  const uint32_t only_one = 1u << 1;
  const int32_t all[3] = {0, 1, 2};
  const float bans[3] = {-INFINITY, -INFINITY, -INFINITY};
  for (int hot = 0; hot <= 1; hot++) {
    cf_sampler_options o = sampler((float)hot, 0);
    int32_t token = -9;
    o.logit_bias_tokens = all;
    o.logit_bias_values = bans;
    o.n_logit_biases = 3;
    FAILS(CF_ERROR_NO_TOKEN_ALLOWED, "mask and biases", cf_sample_logits(&o, NULL, logits, 3, NULL, 0, 0, &token));
    o.logit_bias_tokens = all + 1;
    o.n_logit_biases = 1;
    FAILS(CF_ERROR_NO_TOKEN_ALLOWED, "mask and biases", cf_sample_logits(&o, &only_one, logits, 3, NULL, 0, 0, &token));
    TEST_ASSERT_EQUAL_INT32(-9, token);
  }
}

static void test_logits_that_are_not_finite(void) {
  const float bad[] = {NAN, INFINITY, -INFINITY};
  int32_t token = -9;
  for (int i = 0; i < 3; i++) {
    const float logits[3] = {1, bad[i], 2};
    FAILS(CF_ERROR_NONFINITE_LOGITS, "token 1", cf_sample_logits(NULL, NULL, logits, 3, NULL, 0, 0, &token));
  }
  TEST_ASSERT_EQUAL_INT32(-9, token);
}

/* ---- Options and arguments ---- */

static void test_options_that_are_wrong(void) {
  const float logits[4] = {1, 2, 3, 4};
  const int32_t twice[] = {2, 1, 2}, above[] = {4}, below[] = {-1};
  const float zeros[3] = {0}, nan_value[] = {NAN}, infinite[] = {INFINITY};
  int32_t token = -9;
  cf_sampler_options o;
#define WITH(assignment, word) \
  o = sampler(0, 0);           \
  assignment;                  \
  FAILS(CF_ERROR_INVALID_ARGUMENT, word, cf_sample_logits(&o, NULL, logits, 4, NULL, 0, 0, &token))
  WITH(o.temperature = -0.1f, "temperature");
  WITH(o.temperature = 100.1f, "temperature");
  WITH(o.temperature = NAN, "temperature");
  WITH(o.temperature = INFINITY, "temperature");
  WITH(o.top_k = -1, "top_k");
  WITH(o.top_p = 0, "top_p");
  WITH(o.top_p = -0.5f, "top_p");
  WITH(o.top_p = 1.01f, "top_p");
  WITH(o.top_p = NAN, "top_p");
  WITH(o.min_p = -0.01f, "min_p");
  WITH(o.min_p = 1.01f, "min_p");
  WITH(o.min_p = NAN, "min_p");
  WITH(o.repetition_penalty = 0, "repetition_penalty");
  WITH(o.repetition_penalty = -1, "repetition_penalty");
  WITH(o.repetition_penalty = NAN, "repetition_penalty");
  WITH(o.repetition_penalty = INFINITY, "repetition_penalty");
  WITH(o.n_logit_biases = 1, "is NULL");
  WITH((o.n_logit_biases = 1, o.logit_bias_tokens = twice), "is NULL");
  WITH((o.n_logit_biases = 1, o.logit_bias_values = zeros), "is NULL");
  WITH((o.n_logit_biases = 3, o.logit_bias_tokens = twice, o.logit_bias_values = zeros), "token 2 twice");
  WITH((o.n_logit_biases = 1, o.logit_bias_tokens = above, o.logit_bias_values = zeros), "4 is outside");
  WITH((o.n_logit_biases = 1, o.logit_bias_tokens = below, o.logit_bias_values = zeros), "-1 is outside");
  WITH((o.n_logit_biases = 1, o.logit_bias_tokens = twice, o.logit_bias_values = nan_value), "NaN");
  WITH((o.n_logit_biases = 1, o.logit_bias_tokens = twice, o.logit_bias_values = infinite), "infinity");
  WITH((o.n_logit_biases = SIZE_MAX, o.logit_bias_tokens = twice, o.logit_bias_values = zeros), "n_logit_biases");
  WITH(o.n_stop_tokens = 1, "stop_tokens is NULL");
  WITH((o.n_stop_tokens = 1, o.stop_tokens = above), "4 is outside");
  WITH((o.n_stop_tokens = 1, o.stop_tokens = below), "-1 is outside");
#undef WITH
  TEST_ASSERT_EQUAL_INT32(-9, token);
}

static void test_options_at_their_limits(void) {
  const float logits[4] = {1, 2, 3, 4};
  cf_sampler_options o = sampler(100, 0);
  o.top_p = 1e-30f;
  o.min_p = 1;
  o.repetition_penalty = 1e-30f;
  TEST_ASSERT_EQUAL_INT32(3, sample(&o, logits, 4, INT64_MAX));
}

static void test_arguments_that_are_wrong(void) {
  const float logits[4] = {1, 2, 3, 4};
  const int32_t above = 4, below = -1;
  int32_t token = -9;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "vocab_size is 0", cf_sample_logits(NULL, NULL, logits, 0, NULL, 0, 0, &token));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "vocab_size", cf_sample_logits(NULL, NULL, logits, SIZE_MAX, NULL, 0, 0, &token));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "history is NULL", cf_sample_logits(NULL, NULL, logits, 4, NULL, 1, 0, &token));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "token 4", cf_sample_logits(NULL, NULL, logits, 4, &above, 1, 0, &token));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "token -1", cf_sample_logits(NULL, NULL, logits, 4, &below, 1, 0, &token));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "position is -1", cf_sample_logits(NULL, NULL, logits, 4, NULL, 0, -1, &token));
  TEST_ASSERT_EQUAL_INT32(-9, token);
}

/* ---- Sessions ---- */

static struct tiny_model tiny;
static cf_context* context;
static cf_model* model;
static const int32_t kPrompt[6] = {4, 8, 15, 16, 23, 42};

static void make_world(void) {
  tiny_model_init(&tiny, CF_FAMILY_LLAMA);
  context = make_cpu_context(NULL, NULL);
  model = make_model(context, &tiny);
}

static void end_world(void) {
  cf_model_destroy(model);
  cf_context_destroy(context);
}

static cf_sampler_options lively_sampler(void) {
  static const int32_t tokens[2] = {3, 5};
  static const float values[2] = {-INFINITY, 2};
  cf_sampler_options o = sampler(0.9f, 12345);
  o.top_k = 40;
  o.top_p = 0.95f;
  o.min_p = 0.01f;
  o.repetition_penalty = 1.3f;
  o.n_logit_biases = 2;
  o.logit_bias_tokens = tokens;
  o.logit_bias_values = values;
  return o;
}

/* Every token of a session is what cf_sample_logits makes of its logits, its history and its position. */
static void test_sessions_sample_by_the_same_rule(void) {
  make_world();
  const cf_sampler_options o = lively_sampler();
  const uint32_t mask[3] = {0xfffffff0, 0xffff7fff, 0x7fffffff};
  cf_session* session = make_session(model, 64);
  float logits[VOCAB];
  int32_t tokens[64], expected;
  size_t n = 0;
  cf_outputs outputs;
  cf_step_options options;
  OK(cf_outputs_init(&outputs, sizeof outputs));
  OK(cf_step_options_init(&options, sizeof options));
  outputs.logits = logits;
  options.outputs = &outputs;
  OK(cf_session_set_sampler(session, &o));
  OK(cf_session_set_allowed_tokens(session, mask, 3));
  for (int i = 0; i < 40; i++) {
    if (i == 0) OK(cf_prefill(session, kPrompt, 6, &options));
    else if (i % 3 == 0) OK(cf_decode_batch(&session, 1, NULL, &options));
    else if (i % 3 == 1) OK(cf_decode_steps(session, 1, &options));
    else OK(cf_decode_positions(session, (int32_t[]){CF_TOKEN_PENDING}, 1, &options));
    const cf_result result = wait_ok(session);
    OK(cf_session_tokens(session, 0, tokens, 64, &n));
    TEST_ASSERT_EQUAL_size_t(result.position + 1, n);
    OK(cf_sample_logits(&o, mask, logits, VOCAB, tokens, n - 1, result.position, &expected));
    TEST_ASSERT_EQUAL_INT32(expected, result.token);
  }
  cf_session_destroy(session);
  end_world();
}

static void test_sampling_does_not_depend_on_the_grouping_of_steps(void) {
  make_world();
  const cf_sampler_options o = lively_sampler();
  cf_session *one = make_session(model, 64), *many = make_session(model, 64), *drafted = make_session(model, 64);
  int32_t a[41], b[41], sampled[20];
  size_t n = 0;
  OK(cf_session_set_sampler(one, &o));
  OK(cf_session_set_sampler(many, &o));
  OK(cf_session_set_sampler(drafted, &o));
  OK(cf_prefill(one, kPrompt, 6, NULL));
  for (int i = 0; i < 35; i++) OK(cf_decode_step(one, CF_TOKEN_PENDING, NULL));
  for (int i = 0; i < 6; i++) OK(cf_decode_step(many, kPrompt[i], NULL));
  OK(cf_decode_steps(many, 35, NULL));
  OK(cf_session_tokens(one, 0, a, 41, &n));
  TEST_ASSERT_EQUAL_size_t(41, n);
  OK(cf_session_tokens(many, 0, b, 41, &n));
  TEST_ASSERT_EQUAL_INT32_ARRAY(a, b, 41);
  cf_outputs outputs; /* what verification of a draft would see */
  cf_step_options options;
  OK(cf_outputs_init(&outputs, sizeof outputs));
  OK(cf_step_options_init(&options, sizeof options));
  outputs.row_tokens = sampled;
  options.outputs = &outputs;
  OK(cf_prefill(drafted, kPrompt, 6, NULL));
  OK(cf_decode_positions(drafted, a + 6, 20, &options));
  TEST_ASSERT_EQUAL_INT32_ARRAY(a + 7, sampled, 20);
  cf_session_destroy(one);
  cf_session_destroy(many);
  cf_session_destroy(drafted);
  end_world();
}

static void test_a_new_sampler_takes_effect_with_the_next_step(void) {
  make_world();
  const cf_sampler_options hot = sampler(5, 1);
  cf_session *greedy = make_session(model, 64), *changed = make_session(model, 64);
  OK(cf_prefill(greedy, kPrompt, 6, NULL));
  OK(cf_prefill(changed, kPrompt, 6, NULL));
  OK(cf_session_set_sampler(changed, &hot));
  TEST_ASSERT_EQUAL_INT32(wait_ok(greedy).token, wait_ok(changed).token); /* the pending one stays */
  int differ = 0;
  for (int i = 0; i < 20; i++) {
    OK(cf_decode_step(greedy, CF_TOKEN_PENDING, NULL));
    const int32_t token = wait_ok(greedy).token;
    OK(cf_session_truncate(changed, 6 + i));
    OK(cf_decode_step(changed, i == 0 ? CF_TOKEN_PENDING : kPrompt[0], NULL));
    differ += wait_ok(changed).token != token;
  }
  TEST_ASSERT_GREATER_THAN(5, differ);
  OK(cf_session_set_sampler(changed, NULL)); /* greedy again */
  OK(cf_session_truncate(changed, 0));
  OK(cf_session_truncate(greedy, 0));
  OK(cf_prefill(changed, kPrompt, 6, NULL));
  OK(cf_prefill(greedy, kPrompt, 6, NULL));
  TEST_ASSERT_EQUAL_INT32(wait_ok(greedy).token, wait_ok(changed).token);
  cf_session_destroy(greedy);
  cf_session_destroy(changed);
  end_world();
}

static void test_a_session_that_may_say_one_thing_only(void) {
  make_world();
  cf_session* session = make_session(model, 64);
  cf_sampler_options o = sampler(1, 9);
  uint32_t mask[3] = {0, 0, 1u << 7}; /* 71 */
  int32_t tokens[16];
  size_t n = 0;
  OK(cf_session_set_allowed_tokens(session, mask, 3));
  mask[2] = 0;                             /* copied */
  OK(cf_session_set_sampler(session, &o)); /* keeps the mask */
  OK(cf_prefill(session, kPrompt, 6, NULL));
  OK(cf_decode_steps(session, 5, NULL));
  OK(cf_session_tokens(session, 6, tokens, 16, &n));
  TEST_ASSERT_EQUAL_size_t(6, n);
  for (size_t i = 0; i < n; i++) TEST_ASSERT_EQUAL_INT32(71, tokens[i]);
  OK(cf_session_set_allowed_tokens(session, NULL, 0)); /* all again */
  OK(cf_decode_steps(session, 20, NULL));
  int others = 0;
  OK(cf_session_tokens(session, 12, tokens, 16, &n));
  for (size_t i = 0; i < n; i++) others += tokens[i] != 71;
  TEST_ASSERT_GREATER_THAN(0, others);
  cf_session_destroy(session);
  end_world();
}

static void test_masks_that_are_refused_leave_the_old_one(void) {
  make_world();
  tiny.vocab_size = 90; /* the last word has bits that are no token */
  cf_model* odd = make_model(context, &tiny);
  cf_session* session = make_session(odd, 64);
  const uint32_t only_one[3] = {1u << 1, 0, 0}, none[3] = {0, 0, 0}, beyond[3] = {0, 0, 0xfc000000};
  OK(cf_session_set_allowed_tokens(session, only_one, 3));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_words is 2", cf_session_set_allowed_tokens(session, only_one, 2));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_words is 4", cf_session_set_allowed_tokens(session, only_one, 4));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "mask is NULL", cf_session_set_allowed_tokens(session, NULL, 3));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "no token", cf_session_set_allowed_tokens(session, none, 3));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "no token", cf_session_set_allowed_tokens(session, beyond, 3));
  OK(cf_prefill(session, kPrompt, 6, NULL));
  TEST_ASSERT_EQUAL_INT32(1, wait_ok(session).token);
  cf_session_destroy(session);
  cf_model_destroy(odd);
  end_world();
}

static void test_samplers_that_are_refused_leave_the_old_one(void) {
  make_world();
  cf_session* session = make_session(model, 64);
  const int32_t one = 1, above = VOCAB;
  const float much = 1e6f;
  cf_sampler_options o = sampler(0, 0);
  o.n_logit_biases = 1;
  o.logit_bias_tokens = &one;
  o.logit_bias_values = &much;
  OK(cf_session_set_sampler(session, &o));
  cf_sampler_options wrong = sampler(-1, 0);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "temperature", cf_session_set_sampler(session, &wrong));
  wrong = sampler(0, 0);
  wrong.n_stop_tokens = 1;
  wrong.stop_tokens = &above;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "96 is outside", cf_session_set_sampler(session, &wrong));
  OK(cf_prefill(session, kPrompt, 6, NULL));
  TEST_ASSERT_EQUAL_INT32(1, wait_ok(session).token);
  cf_session_destroy(session);
  end_world();
}

static void test_a_session_with_nothing_left_to_sample(void) {
  make_world();
  cf_session *tried = make_session(model, 64), *untried = make_session(model, 64);
  const uint32_t only_one[3] = {1u << 1, 0, 0};
  const int32_t one = 1;
  const float ban = -INFINITY;
  cf_sampler_options o = sampler(0, 0);
  o.n_logit_biases = 1;
  o.logit_bias_tokens = &one;
  o.logit_bias_values = &ban;
  OK(cf_prefill(tried, kPrompt, 6, NULL));
  OK(cf_prefill(untried, kPrompt, 6, NULL));
  wait_ok(tried);
  OK(cf_session_set_sampler(tried, &o));
  OK(cf_session_set_allowed_tokens(tried, only_one, 3));
  OK(cf_decode_step(tried, CF_TOKEN_PENDING, NULL));
  const cf_result result = wait_fails(tried, CF_ERROR_NO_TOKEN_ALLOWED, "mask and biases");
  TEST_ASSERT_EQUAL_INT64(6, result.position);
  TEST_ASSERT_EQUAL_INT32(wait_ok(untried).token, result.token);
  cf_step_options options;
  OK(cf_step_options_init(&options, sizeof options));
  options.sample = 0; /* nothing to sample, nothing to fail */
  OK(cf_decode_step(tried, 7, &options));
  OK(cf_decode_step(untried, 7, &options));
  wait_ok(tried);
  OK(cf_session_set_sampler(tried, NULL));
  OK(cf_session_set_allowed_tokens(tried, NULL, 0));
  OK(cf_decode_step(tried, 8, NULL));
  OK(cf_decode_step(untried, 8, NULL));
  TEST_ASSERT_EQUAL_INT32(wait_ok(untried).token, wait_ok(tried).token);
  cf_session_destroy(tried);
  cf_session_destroy(untried);
  end_world();
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_random_requests_are_answered_as_the_header_says);
  RUN_TEST(test_greedy_takes_the_likeliest_and_of_equals_the_lowest);
  RUN_TEST(test_greedy_in_large_vocabularies);
  RUN_TEST(test_greedy_heeds_neither_seed_nor_cuts);
  RUN_TEST(test_temperatures_close_to_zero_are_greedy);
  RUN_TEST(test_tokens_come_as_often_as_they_should);
  RUN_TEST(test_neighbouring_seeds_and_positions_are_independent);
  RUN_TEST(test_the_same_seed_and_position_give_the_same_token);
  RUN_TEST(test_top_k_keeps_the_k_likeliest);
  RUN_TEST(test_top_p_keeps_the_fewest_that_reach_it);
  RUN_TEST(test_min_p_keeps_what_is_likely_enough);
  RUN_TEST(test_cuts_act_after_the_temperature_and_one_after_the_other);
  RUN_TEST(test_cuts_of_a_large_vocabulary);
  RUN_TEST(test_repetition_penalty);
  RUN_TEST(test_biases_and_bans);
  RUN_TEST(test_mask);
  RUN_TEST(test_no_token_is_allowed);
  RUN_TEST(test_logits_that_are_not_finite);
  RUN_TEST(test_options_that_are_wrong);
  RUN_TEST(test_options_at_their_limits);
  RUN_TEST(test_arguments_that_are_wrong);
  RUN_TEST(test_sessions_sample_by_the_same_rule);
  RUN_TEST(test_sampling_does_not_depend_on_the_grouping_of_steps);
  RUN_TEST(test_a_new_sampler_takes_effect_with_the_next_step);
  RUN_TEST(test_a_session_that_may_say_one_thing_only);
  RUN_TEST(test_masks_that_are_refused_leave_the_old_one);
  RUN_TEST(test_samplers_that_are_refused_leave_the_old_one);
  RUN_TEST(test_a_session_with_nothing_left_to_sample);
  return UNITY_END();
}
