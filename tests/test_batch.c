/* One step of several sessions: each as if it were alone, also when another fails. */
#include "unity.h"

#include "support/session_world.h"

void setUp(void) { begin_world(); }
void tearDown(void) { end_world(); }

/* ---- Batches ---- */

static void test_a_batch_equals_each_session_alone(void) {
  enum { N = 64 };
  static float batch_logits[N][VOCAB];
  cf_session *alone[N], *together[N];
  int32_t tokens[N];
  cf_status status[N];
  int32_t sampled[N];
  cf_outputs outputs;
  OK(cf_outputs_init(&outputs, sizeof outputs));
  outputs.logits = &batch_logits[0][0];
  outputs.row_status = status;
  outputs.row_tokens = sampled;
  const cf_step_options options = step_with(&outputs);
  for (size_t i = 0; i < N; i++) {
    alone[i] = make_session(model, LENGTH);
    together[i] = make_session(model, LENGTH);
    const size_t length = 1 + i * 7 % 60; /* each at another position */
    OK(cf_prefill(alone[i], prompt + i % 8, length, NULL));
    OK(cf_prefill(together[i], prompt + i % 8, length, NULL));
    tokens[i] = i % 3 ? CF_TOKEN_PENDING : (int32_t)i;
  }
  for (int round = 0; round < 3; round++) {
    OK(cf_decode_batch(together, N, round == 2 ? NULL : tokens, &options));
    for (size_t i = 0; i < N; i++) {
      const int32_t token = decode(alone[i], round == 2 ? CF_TOKEN_PENDING : tokens[i], &reference, 0);
      const cf_result result = wait_ok(together[i]);
      TEST_ASSERT_EQUAL_INT32(CF_OK, status[i]);
      TEST_ASSERT_EQUAL_INT32(token, result.token);
      TEST_ASSERT_EQUAL_INT32(token, sampled[i]);
      TEST_ASSERT_EQUAL_MEMORY(reference.logits[0], batch_logits[i], sizeof batch_logits[i]);
    }
  }
  for (size_t i = 0; i < N; i++) cf_session_destroy(alone[i]), cf_session_destroy(together[i]);
}

static void test_a_failing_row_of_a_batch_disturbs_no_other(void) {
  enum { N = 6 };
  cf_kv_pool* pool = make_pool(12 * 16, 16);
  cf_session *alone[N], *together[N];
  int32_t tokens[N] = {1, 95, 2, 3, CF_TOKEN_PENDING, 4};
  cf_status status[N];
  const cf_status expected[N] = {CF_OK, CF_ERROR_NONFINITE_LOGITS, CF_ERROR_CACHE_FULL, CF_ERROR_NO_TOKEN_ALLOWED, CF_ERROR_CACHE_FULL, CF_OK};
  static float logits[N][VOCAB];
  const uint32_t only_seven[3] = {1u << 7, 0, 0};
  const int32_t seven = 7;
  const float ban = -INFINITY;
  cf_sampler_options sampler;
  cf_outputs outputs;
  OK(cf_outputs_init(&outputs, sizeof outputs));
  outputs.logits = &logits[0][0];
  outputs.row_status = status;
  const cf_step_options options = step_with(&outputs);
  for (int i = 0; i < N; i++) {
    alone[i] = make_session(model, LENGTH);
    together[i] = i == 2 ? make_session(model, 16) : make_pooled_session(pool, 32, 0);
    OK(cf_prefill(alone[i], prompt + i, 16, NULL));
    OK(cf_prefill(together[i], prompt + i, 16, NULL)); /* the next position needs another page */
  }
  OK(cf_sampler_options_init(&sampler, sizeof sampler)); /* row 3: the one token that is allowed is banned */
  sampler.n_logit_biases = 1;
  sampler.logit_bias_tokens = &seven;
  sampler.logit_bias_values = &ban;
  OK(cf_session_set_allowed_tokens(together[3], only_seven, 3));
  OK(cf_session_set_sampler(together[3], &sampler));
  OK(cf_prefill(together[4], prompt, 17, NULL)); /* row 4 has failed already, and its status has not been fetched */
  spoil_globals(95, -1, NAN);
  const int64_t free_before = free_pages(pool);
  OK(cf_decode_batch(together, N, tokens, &options));
  TEST_ASSERT_EQUAL_INT32_ARRAY(expected, status, N);
  TEST_ASSERT_EQUAL_INT64(free_before - 2, free_pages(pool)); /* rows 0 and 5 have a page more */
  for (int i = 0; i < N; i++) {
    if (expected[i] != CF_OK) {
      const cf_result result = wait_fails(together[i], expected[i], "");
      TEST_ASSERT_EQUAL_INT64(16, result.position);
      TEST_ASSERT_EQUAL_INT32(wait_ok(alone[i]).token, result.token); /* still pending */
      continue;
    }
    TEST_ASSERT_EQUAL_INT32(decode(alone[i], tokens[i], &reference, 0), wait_ok(together[i]).token);
    TEST_ASSERT_EQUAL_MEMORY(reference.logits[0], logits[i], sizeof logits[i]);
  }
  for (int i = 0; i < N; i++) cf_session_destroy(alone[i]), cf_session_destroy(together[i]);
  cf_kv_pool_destroy(pool);
}

static void test_batches_that_are_refused_change_no_session(void) {
  cf_model* twin = make_model(context, &tiny);
  cf_session *sessions[65], *one = make_session(model, 16), *two = make_session(model, 16), *foreign = make_session(twin, 16);
  for (int i = 0; i < 65; i++) sessions[i] = one;
  OK(cf_prefill(one, prompt, 3, NULL));
  wait_ok(one);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_sessions is 0", cf_decode_batch(sessions, 0, NULL, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_sessions is 65", cf_decode_batch(sessions, 65, NULL, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "same session", cf_decode_batch(sessions, 2, NULL, NULL));
  sessions[1] = foreign;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "another model", cf_decode_batch(sessions, 2, (int32_t[]){1, 1}, NULL));
  sessions[1] = NULL;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "NULL", cf_decode_batch(sessions, 2, NULL, NULL));
  sessions[1] = two;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "pending", cf_decode_batch(sessions, 2, NULL, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "96 is outside", cf_decode_batch(sessions, 2, (int32_t[]){1, VOCAB}, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "-2 is outside", cf_decode_batch(sessions, 2, (int32_t[]){-2, 1}, NULL));
  TEST_ASSERT_EQUAL_INT64(3, wait_ok(one).position);
  TEST_ASSERT_EQUAL_INT64(0, wait_ok(two).position);
  OK(cf_decode_batch(sessions, 2, (int32_t[]){CF_TOKEN_PENDING, 1}, NULL)); /* nobody is left busy */
  TEST_ASSERT_EQUAL_INT64(4, wait_ok(one).position);
  TEST_ASSERT_EQUAL_INT64(1, wait_ok(two).position);
  cf_session_destroy(one);
  cf_session_destroy(two);
  cf_session_destroy(foreign);
  cf_model_destroy(twin);
}

static void test_a_batch_without_sampling(void) {
  cf_session* sessions[2] = {make_session(model, 16), make_session(model, 16)};
  cf_step_options options;
  OK(cf_step_options_init(&options, sizeof options));
  options.sample = 0;
  OK(cf_decode_batch(sessions, 2, (int32_t[]){1, 2}, &options));
  for (int i = 0; i < 2; i++) {
    const cf_result result = wait_ok(sessions[i]);
    TEST_ASSERT_EQUAL_INT64(1, result.position);
    TEST_ASSERT_EQUAL_INT32(-1, result.token);
    cf_session_destroy(sessions[i]);
  }
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_a_batch_equals_each_session_alone);
  RUN_TEST(test_a_failing_row_of_a_batch_disturbs_no_other);
  RUN_TEST(test_batches_that_are_refused_change_no_session);
  RUN_TEST(test_a_batch_without_sampling);
  return UNITY_END();
}
