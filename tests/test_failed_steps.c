/* Steps that do not fit, are cancelled or find no finite logits: what they report, and that nothing else has changed. */
#include "unity.h"

#include "support/session_world.h"

void setUp(void) { begin_world(); }
void tearDown(void) { end_world(); }

/* ---- Full caches ---- */

static void test_the_capacity_can_be_filled_and_not_exceeded(void) {
  cf_session* session = make_session(model, 10);
  cf_session* longer = make_session(model, 16);
  cf_status row_status = CF_OK;
  cf_outputs outputs;
  OK(cf_prefill(session, prompt, 8, NULL));
  OK(cf_decode_steps(session, 2, NULL));
  cf_result result = wait_ok(session);
  const int32_t pending = result.token;
  TEST_ASSERT_EQUAL_INT64(10, result.position);
  OK(cf_outputs_init(&outputs, sizeof outputs));
  outputs.row_status = &row_status;
  const cf_step_options options = step_with(&outputs);
  OK(cf_decode_step(session, CF_TOKEN_PENDING, &options)); /* enqueued is not done */
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_CACHE_FULL, row_status);
  result = wait_fails(session, CF_ERROR_CACHE_FULL, "10 of 10");
  TEST_ASSERT_EQUAL_INT64(10, result.position);
  TEST_ASSERT_EQUAL_INT64(0, result.n_steps);
  TEST_ASSERT_EQUAL_INT32(pending, result.token);
  OK(cf_prefill(longer, prompt, 8, NULL)); /* the step that did not fit fits after truncation, and gives what it would have */
  OK(cf_decode_steps(longer, 2, NULL));
  OK(cf_session_truncate(session, 9));
  decode(session, CF_TOKEN_PENDING, &reference, 0);
  OK(cf_session_truncate(longer, 9));
  decode(longer, CF_TOKEN_PENDING, &other, 0);
  expect_same_logits(&other, &reference, 0, 1, "after truncation");
  cf_session_destroy(session);
  cf_session_destroy(longer);
}

static void test_a_failed_session_does_nothing_until_its_status_is_fetched(void) {
  cf_session* session = make_session(model, 4);
  cf_status row_status[2] = {CF_OK, CF_OK};
  cf_outputs outputs;
  OK(cf_outputs_init(&outputs, sizeof outputs));
  outputs.row_status = row_status;
  outputs.rows = CF_ROWS_ALL;
  const cf_step_options options = step_with(&outputs);
  OK(cf_prefill(session, prompt, 3, NULL));
  const int32_t pending = wait_ok(session).token;
  OK(cf_prefill(session, prompt, 2, NULL)); /* does not fit */
  OK(cf_decode_step(session, 1, NULL));     /* would fit */
  OK(cf_prefill(session, prompt, 1, NULL));
  OK(cf_decode_positions(session, prompt, 1, NULL));
  OK(cf_decode_steps(session, 1, NULL));
  OK(cf_decode_batch(&session, 1, NULL, NULL));
  OK(cf_prefill(session, prompt, 2, &options));
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_CACHE_FULL, row_status[0]);
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_CACHE_FULL, row_status[1]);
  const cf_result result = wait_fails(session, CF_ERROR_CACHE_FULL, "2 more do not fit"); /* of the oldest that failed */
  TEST_ASSERT_EQUAL_INT64(3, result.position);
  TEST_ASSERT_EQUAL_INT64(0, result.n_steps);
  TEST_ASSERT_EQUAL_INT32(pending, result.token);
  OK(cf_decode_step(session, CF_TOKEN_PENDING, NULL));
  TEST_ASSERT_EQUAL_INT64(4, wait_ok(session).position);
  cf_session_destroy(session);
}

static void test_steps_that_fit_are_kept_when_one_does_not(void) {
  cf_session* session = make_session(model, 6);
  OK(cf_prefill(session, prompt, 4, NULL));
  OK(cf_decode_steps(session, 5, NULL));
  const cf_result result = wait_fails(session, CF_ERROR_CACHE_FULL, "6 of 6");
  TEST_ASSERT_EQUAL_INT64(6, result.position);
  TEST_ASSERT_EQUAL_INT64(6, result.n_steps);
  cf_session_destroy(session);
}

static void test_a_prefill_that_does_not_fit_changes_nothing(void) {
  cf_session *tried = make_growing_session(60, 16), *untried = make_growing_session(60, 16);
  OK(cf_prefill(tried, prompt, 20, NULL));
  OK(cf_prefill(untried, prompt, 20, NULL));
  OK(cf_prefill(tried, prompt, 41, NULL));
  wait_fails(tried, CF_ERROR_CACHE_FULL, "41 more");
  expect_same_sessions(untried, tried);
  cf_session_destroy(tried);
  cf_session_destroy(untried);
}

/* ---- Cancellation and progress ---- */

static struct {
  uint64_t done[32], total;
  int calls, stop_at;     /* at this call, from 1 ... */
  cf_cancellation* raise; /* ... this is raised, or else the answer is 1 */
} progress;

static int32_t report(void* user, uint64_t done, uint64_t total) {
  if (user != &progress || progress.calls == 32) return 1;
  progress.total = total;
  progress.done[progress.calls++] = done;
  if (progress.calls != progress.stop_at) return 0;
  if (!progress.raise) return 1;
  cf_cancellation_request(progress.raise);
  return 0;
}

static cf_step_options step_with_progress(int stop_at, cf_cancellation* raise) {
  cf_step_options options;
  memset(&progress, 0, sizeof progress);
  progress.stop_at = stop_at;
  progress.raise = raise;
  OK(cf_step_options_init(&options, sizeof options));
  options.progress = report;
  options.progress_user = &progress;
  options.cancellation = raise;
  return options;
}

static void test_progress_counts_positions_and_steps(void) {
  cf_session* session = make_session(model, LENGTH + 10);
  cf_step_options options = step_with_progress(0, NULL);
  OK(cf_prefill(session, prompt, LENGTH, &options));
  TEST_ASSERT_EQUAL_UINT64(LENGTH, progress.total);
  TEST_ASSERT_GREATER_OR_EQUAL(2, progress.calls);
  for (int i = 1; i < progress.calls; i++) TEST_ASSERT_GREATER_THAN(progress.done[i - 1], progress.done[i]);
  TEST_ASSERT_EQUAL_UINT64(LENGTH, progress.done[progress.calls - 1]);
  options = step_with_progress(0, NULL);
  OK(cf_decode_steps(session, 7, &options));
  TEST_ASSERT_EQUAL_INT(7, progress.calls);
  for (int i = 0; i < 7; i++) TEST_ASSERT_EQUAL_UINT64(i + 1, progress.done[i]);
  TEST_ASSERT_EQUAL_UINT64(7, progress.total);
  options = step_with_progress(0, NULL);
  OK(cf_session_truncate(session, 1));
  OK(cf_decode_positions(session, prompt, 5, &options));
  OK(cf_decode_batch(&session, 1, NULL, &options));
  OK(cf_decode_step(session, CF_TOKEN_PENDING, &options));
  TEST_ASSERT_EQUAL_INT_MESSAGE(0, progress.calls, "short calls do not report");
  wait_ok(session);
  cf_session_destroy(session);
}

static void test_a_call_is_cancelled_before_it_begins(void) {
  cf_cancellation* cancellation = NULL;
  cf_session *tried = make_growing_session(64, 16), *untried = make_growing_session(64, 16);
  cf_step_options options;
  OK(cf_cancellation_create(&cancellation));
  OK(cf_cancellation_request(cancellation));
  OK(cf_step_options_init(&options, sizeof options));
  options.cancellation = cancellation;
  OK(cf_prefill(tried, prompt, 15, NULL));
  OK(cf_prefill(untried, prompt, 15, NULL));
  wait_ok(tried);
  OK(cf_prefill(tried, prompt, 20, &options));
  wait_fails(tried, CF_ERROR_CANCELLED, "cancelled");
  OK(cf_decode_step(tried, 3, &options));
  wait_fails(tried, CF_ERROR_CANCELLED, "cancelled");
  OK(cf_decode_steps(tried, 9, &options));
  TEST_ASSERT_EQUAL_INT64(0, wait_fails(tried, CF_ERROR_CANCELLED, "cancelled").n_steps);
  OK(cf_decode_positions(tried, prompt, 9, &options));
  wait_fails(tried, CF_ERROR_CANCELLED, "cancelled");
  OK(cf_decode_batch(&tried, 1, &prompt[1], &options));
  wait_fails(tried, CF_ERROR_CANCELLED, "cancelled");
  expect_same_sessions(untried, tried);
  OK(cf_cancellation_reset(cancellation));
  OK(cf_decode_step(tried, 3, &options));
  wait_ok(tried);
  cf_session_destroy(tried);
  cf_session_destroy(untried);
  cf_cancellation_destroy(cancellation);
}

static void expect_cancelled_prefill(cf_cancellation* raise) {
  cf_session *tried = make_growing_session(96, 16), *untried = make_growing_session(96, 16);
  cf_step_options options = step_with_progress(1, raise); /* after the first of two pieces */
  cf_outputs outputs = outputs_into(&other, 0);
  outputs.logits = NULL;
  options.outputs = &outputs;
  OK(cf_prefill(tried, prompt, 7, NULL));
  OK(cf_prefill(untried, prompt, 7, NULL));
  wait_ok(tried);
  OK(cf_prefill(tried, prompt, LENGTH, &options));
  TEST_ASSERT_EQUAL_INT(1, progress.calls);
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_CANCELLED, other.status[LENGTH - 1]);
  wait_fails(tried, CF_ERROR_CANCELLED, "cancelled");
  expect_same_sessions(untried, tried);
  cf_session_destroy(tried);
  cf_session_destroy(untried);
}

static void test_a_prefill_cancelled_half_way_changes_nothing(void) {
  cf_cancellation* cancellation = NULL;
  OK(cf_cancellation_create(&cancellation));
  expect_cancelled_prefill(NULL);
  expect_cancelled_prefill(cancellation);
  cf_cancellation_destroy(cancellation);
}

static void expect_cancelled_steps(cf_cancellation* raise) {
  cf_session *tried = make_session(model, 32), *untried = make_session(model, 32);
  const cf_step_options options = step_with_progress(3, raise);
  OK(cf_prefill(tried, prompt, 4, NULL));
  OK(cf_prefill(untried, prompt, 4, NULL));
  wait_ok(tried);
  OK(cf_decode_steps(tried, 10, &options));
  const cf_result result = wait_fails(tried, CF_ERROR_CANCELLED, "cancelled");
  TEST_ASSERT_EQUAL_INT64(3, result.n_steps);
  TEST_ASSERT_EQUAL_INT64(7, result.position);
  OK(cf_decode_steps(untried, 3, NULL));
  expect_same_sessions(untried, tried);
  cf_session_destroy(tried);
  cf_session_destroy(untried);
}

static void test_cancelled_steps_keep_those_that_were_finished(void) {
  cf_cancellation* cancellation = NULL;
  OK(cf_cancellation_create(&cancellation));
  expect_cancelled_steps(NULL);
  expect_cancelled_steps(cancellation);
  cf_cancellation_destroy(cancellation);
}

/* ---- Logits that are not finite ---- */

static void test_logits_that_are_not_finite_advance_nothing(void) {
  const float values[] = {NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 3; i++) {
    cf_session *tried = make_growing_session(64, 16), *untried = make_growing_session(64, 16);
    OK(cf_prefill(tried, prompt, 15, NULL));
    OK(cf_prefill(untried, prompt, 15, NULL));
    wait_ok(tried);
    spoil_globals(-1, 50, values[i]);
    OK(cf_decode_step(tried, CF_TOKEN_PENDING, NULL));
    wait_fails(tried, CF_ERROR_NONFINITE_LOGITS, "token 50");
    OK(cf_decode_steps(tried, 4, NULL));
    TEST_ASSERT_EQUAL_INT64(0, wait_fails(tried, CF_ERROR_NONFINITE_LOGITS, "token 50").n_steps);
    OK(cf_prefill(tried, prompt, 30, NULL));
    wait_fails(tried, CF_ERROR_NONFINITE_LOGITS, "token 50");
    OK(cf_decode_positions(tried, prompt, 5, NULL));
    wait_fails(tried, CF_ERROR_NONFINITE_LOGITS, "token 50");
    spoil_globals(-1, -1, 0);
    expect_same_sessions(untried, tried);
    cf_session_destroy(tried);
    cf_session_destroy(untried);
  }
}

static void test_what_a_failed_row_left_in_the_cache_does_not_show(void) {
  cf_session *tried = make_session(model, 32), *untried = make_session(model, 32);
  OK(cf_prefill(tried, prompt, 6, NULL));
  OK(cf_prefill(untried, prompt, 6, NULL));
  wait_ok(tried);
  spoil_globals(95, -1, NAN);
  OK(cf_prefill(tried, (int32_t[]){3, 95, 4, 5}, 4, NULL)); /* K and V of 95 are NaN */
  wait_fails(tried, CF_ERROR_NONFINITE_LOGITS, "not finite");
  expect_same_sessions(untried, tried);
  cf_session_destroy(tried);
  cf_session_destroy(untried);
}

static void test_row_status_tells_which_rows_are_not_finite(void) {
  cf_session* session = make_session(model, 32);
  cf_status status[5];
  cf_outputs outputs;
  OK(cf_outputs_init(&outputs, sizeof outputs));
  outputs.row_status = status;
  const cf_step_options options = step_with(&outputs);
  spoil_globals(95, -1, NAN);
  OK(cf_decode_positions(session, (int32_t[]){1, 2, 3, 95, 4}, 5, &options));
  for (int i = 0; i < 5; i++) TEST_ASSERT_EQUAL_INT32(i < 3 ? CF_OK : CF_ERROR_NONFINITE_LOGITS, status[i]);
  TEST_ASSERT_EQUAL_INT64(0, wait_fails(session, CF_ERROR_NONFINITE_LOGITS, "for position 4").position); /* the first that failed */
  cf_session_destroy(session);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_the_capacity_can_be_filled_and_not_exceeded);
  RUN_TEST(test_a_failed_session_does_nothing_until_its_status_is_fetched);
  RUN_TEST(test_steps_that_fit_are_kept_when_one_does_not);
  RUN_TEST(test_a_prefill_that_does_not_fit_changes_nothing);
  RUN_TEST(test_progress_counts_positions_and_steps);
  RUN_TEST(test_a_call_is_cancelled_before_it_begins);
  RUN_TEST(test_a_prefill_cancelled_half_way_changes_nothing);
  RUN_TEST(test_cancelled_steps_keep_those_that_were_finished);
  RUN_TEST(test_logits_that_are_not_finite_advance_nothing);
  RUN_TEST(test_what_a_failed_row_left_in_the_cache_does_not_show);
  RUN_TEST(test_row_status_tells_which_rows_are_not_finite);
  return UNITY_END();
}
