/* Pools of pages that sessions share: who holds how many, what does not fit, and that where keys and values lie shows in no bit. */
#include "unity.h"

#include "support/session_world.h"

void setUp(void) { begin_world(); }
void tearDown(void) { end_world(); }

/* ---- Pools and pages ---- */

static void test_pool_options_that_are_wrong(void) {
  cf_kv_pool_options o;
  cf_kv_pool* pool = NULL;
#define WITH(assignment, word)               \
  OK(cf_kv_pool_options_init(&o, sizeof o)); \
  o.capacity_tokens = 64;                    \
  assignment;                                \
  FAILS(CF_ERROR_INVALID_ARGUMENT, word, cf_kv_pool_create(model, &o, &pool))
  WITH(o.capacity_tokens = 0, "capacity_tokens");
  WITH(o.capacity_tokens = -1, "capacity_tokens");
  WITH(o.capacity_tokens = INT64_MAX, "capacity_tokens");
  WITH(o.reserved = 1, "reserved is 1");
  WITH(o.page_tokens = 0, "page_tokens");
  WITH(o.page_tokens = 100, "page_tokens");
  WITH(o.kv_dtype = 9, "kv_dtype");
#undef WITH
  FAILS(CF_ERROR_INVALID_ARGUMENT, "capacity_tokens", cf_kv_pool_create(model, NULL, &pool)); /* required */
  TEST_ASSERT_NULL(pool);
}

static void test_a_pool_has_whole_pages(void) {
  cf_kv_pool_info info;
  cf_kv_pool* pool = make_pool(65, 32);
  OK(cf_kv_pool_info_init(&info, sizeof info));
  OK(cf_kv_pool_query(pool, &info));
  TEST_ASSERT_EQUAL_INT32(CF_DTYPE_F32, info.kv_dtype);
  TEST_ASSERT_EQUAL_INT32(32, info.page_tokens);
  TEST_ASSERT_EQUAL_INT64(3, info.n_pages);
  TEST_ASSERT_EQUAL_INT64(3, info.n_pages_free);
  TEST_ASSERT_EQUAL_INT64(0, info.n_pages_shared);
  TEST_ASSERT_EQUAL_UINT64((uint64_t)(2 * tiny.n_layers * tiny.n_kv_heads * tiny.head_dim * 32) * sizeof(float), info.page_bytes);
  TEST_ASSERT_EQUAL_UINT64(3 * info.page_bytes, info.allocated_bytes);
  cf_kv_pool_destroy(pool);
}

static void test_a_pool_of_another_model_is_refused(void) {
  cf_model* twin = make_model(context, &tiny);
  cf_kv_pool* pool = make_pool(64, 16);
  cf_session_options options;
  cf_session* session = NULL;
  OK(cf_session_options_init(&options, sizeof options));
  options.pool = pool;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "another model", cf_session_create(twin, &options, &session));
  TEST_ASSERT_NULL(session);
  cf_kv_pool_destroy(pool);
  cf_model_destroy(twin);
}

static void test_reserved_pages_are_taken_at_once_and_kept(void) {
  cf_kv_pool* pool = make_pool(64, 16);
  cf_session* session = make_pooled_session(pool, 33, 1);
  cf_session_options options;
  cf_session* too_many = NULL;
  TEST_ASSERT_EQUAL_INT64(1, free_pages(pool));
  OK(cf_session_options_init(&options, sizeof options));
  options.pool = pool;
  options.capacity_tokens = 17;
  FAILS(CF_ERROR_CACHE_FULL, "2 pages", cf_session_create(model, &options, &too_many));
  TEST_ASSERT_NULL(too_many);
  TEST_ASSERT_EQUAL_INT64(1, free_pages(pool));
  options.reserve = 0; /* may ask for more than there is */
  OK(cf_session_create(model, &options, &too_many));
  OK(cf_prefill(session, prompt, 33, NULL));
  OK(cf_session_truncate(session, 0));
  TEST_ASSERT_EQUAL_INT64(1, free_pages(pool));
  cf_session_destroy(session);
  TEST_ASSERT_EQUAL_INT64(4, free_pages(pool));
  cf_session_destroy(too_many);
  cf_kv_pool_destroy(pool);
}

static void test_pages_come_one_by_one_and_go_back(void) {
  cf_kv_pool* pool = make_pool(64, 16);
  cf_session* session = make_pooled_session(pool, 64, 0);
  TEST_ASSERT_EQUAL_INT64(4, free_pages(pool));
  OK(cf_prefill(session, prompt, 16, NULL));
  TEST_ASSERT_EQUAL_INT64(3, free_pages(pool));
  OK(cf_decode_step(session, CF_TOKEN_PENDING, NULL));
  TEST_ASSERT_EQUAL_INT64(2, free_pages(pool));
  OK(cf_prefill(session, prompt, 40, NULL));
  TEST_ASSERT_EQUAL_INT64(0, free_pages(pool));
  OK(cf_session_truncate(session, 33));
  TEST_ASSERT_EQUAL_INT64(1, free_pages(pool));
  OK(cf_session_truncate(session, 32));
  TEST_ASSERT_EQUAL_INT64(2, free_pages(pool));
  OK(cf_session_truncate(session, 0));
  TEST_ASSERT_EQUAL_INT64(4, free_pages(pool));
  wait_ok(session);
  OK(cf_prefill(session, prompt, 17, NULL));
  cf_session_destroy(session);
  TEST_ASSERT_EQUAL_INT64(4, free_pages(pool));
  cf_kv_pool_destroy(pool);
}

static void test_a_full_pool_loses_nothing(void) {
  cf_kv_pool* pool = make_pool(64, 16);
  cf_session *greedy = make_pooled_session(pool, 64, 0), *tried = make_pooled_session(pool, 64, 0), *untried = make_growing_session(64, 16);
  OK(cf_prefill(greedy, prompt, 33, NULL)); /* 3 of 4 pages */
  OK(cf_prefill(tried, prompt, 16, NULL));
  OK(cf_prefill(untried, prompt, 16, NULL));
  wait_ok(tried);
  OK(cf_decode_step(tried, CF_TOKEN_PENDING, NULL));
  wait_fails(tried, CF_ERROR_CACHE_FULL, "0 of 4 are free");
  OK(cf_prefill(tried, prompt, 30, NULL)); /* would need two */
  wait_fails(tried, CF_ERROR_CACHE_FULL, "0 of 4 are free");
  OK(cf_decode_batch(&tried, 1, NULL, NULL));
  wait_fails(tried, CF_ERROR_CACHE_FULL, "0 of 4 are free");
  TEST_ASSERT_EQUAL_INT64(0, free_pages(pool));
  cf_session_destroy(greedy);
  TEST_ASSERT_EQUAL_INT64(3, free_pages(pool));
  expect_same_sessions(untried, tried);
  cf_session_destroy(tried);
  cf_session_destroy(untried);
  cf_kv_pool_destroy(pool);
}

static void test_page_size_changes_no_bit(void) {
  for (cf_dtype kv_dtype = CF_DTYPE_F32; kv_dtype <= CF_DTYPE_BF16; kv_dtype++) {
    for (int32_t page_tokens = 16; page_tokens <= 256; page_tokens *= 2) {
      cf_session* session = make_session_with_kv(kv_dtype, page_tokens);
      struct rows* rows = page_tokens == 16 ? &reference : &other;
      prefill(session, prompt, LENGTH, rows, 0);
      expect_same_logits(&reference, rows, 0, LENGTH, "pages");
      cf_session_destroy(session);
    }
  }
}

static void test_smaller_kv_rounds_and_no_more(void) {
  cf_session* exact = make_session_with_kv(CF_DTYPE_F32, 64);
  prefill(exact, prompt, LENGTH, &reference, 0);
  cf_session_destroy(exact);
  for (cf_dtype kv_dtype = CF_DTYPE_F16; kv_dtype <= CF_DTYPE_BF16; kv_dtype++) {
    cf_session* rounded = make_session_with_kv(kv_dtype, 64);
    double most = 0;
    prefill(rounded, prompt, LENGTH, &other, 0);
    for (size_t row = 0; row < LENGTH; row++)
      for (size_t i = 0; i < VOCAB; i++) most = fmax(most, fabs((double)reference.logits[row][i] - other.logits[row][i]));
    TEST_ASSERT_TRUE(most > 0);
    TEST_ASSERT_TRUE(most < (kv_dtype == CF_DTYPE_F16 ? 0.02 : 0.16));
    cf_session_destroy(rounded);
  }
}

static void test_the_order_of_pages_changes_no_bit(void) {
  cf_kv_pool* pool = make_pool(10 * 16, 16);
  cf_session *one = make_pooled_session(pool, LENGTH, 0), *two = make_pooled_session(pool, LENGTH, 0), *private = make_session(model, LENGTH);
  prefill(private, prompt, LENGTH, &reference, 0);
  OK(cf_prefill(two, prompt, 40, NULL)); /* pages 0, 1, 2; then back out of order and taken again between each other's */
  OK(cf_prefill(one, prompt, 20, NULL));
  OK(cf_session_truncate(two, 5));
  OK(cf_prefill(two, prompt, 20, NULL));
  OK(cf_session_truncate(one, 0));
  OK(cf_session_truncate(two, 0));
  wait_ok(one);
  wait_ok(two);
  for (size_t i = 0; i < LENGTH; i++) {
    decode(one, prompt[i], &other, i);
    OK(cf_decode_step(two, prompt[LENGTH - 1 - i], NULL));
  }
  expect_same_logits(&reference, &other, 0, LENGTH, "page order");
  cf_session_destroy(one);
  cf_session_destroy(two);
  cf_session_destroy(private);
  cf_kv_pool_destroy(pool);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_pool_options_that_are_wrong);
  RUN_TEST(test_a_pool_has_whole_pages);
  RUN_TEST(test_a_pool_of_another_model_is_refused);
  RUN_TEST(test_reserved_pages_are_taken_at_once_and_kept);
  RUN_TEST(test_pages_come_one_by_one_and_go_back);
  RUN_TEST(test_a_full_pool_loses_nothing);
  RUN_TEST(test_page_size_changes_no_bit);
  RUN_TEST(test_smaller_kv_rounds_and_no_more);
  RUN_TEST(test_the_order_of_pages_changes_no_bit);
  return UNITY_END();
}
