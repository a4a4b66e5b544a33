/* Sessions: steps in every grouping, tokens fed, outputs, results, truncation, tokens, options. Logits are compared bit by bit: on
 * the CPU every way to a position gives the same ones. */
#include "unity.h"

#include "support/session_world.h"

void setUp(void) { begin_world(); }
void tearDown(void) { end_world(); }

/* ---- Ways to a position ---- */

static void expect_every_way_agrees(cf_dtype kv_dtype) {
  static const size_t cuts[][4] = {{70}, {1, 63, 6}, {64, 6}, {30, 40}, {65, 5}, {20, 20, 20, 10}};
  cf_session* session = make_session_with_kv(kv_dtype, 64);
  decode_prompt(session, &reference);
  cf_session_destroy(session);
  for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
    session = make_session_with_kv(kv_dtype, 64);
    memset(&other, 0, sizeof other);
    for (size_t first = 0, k = 0; first < LENGTH; first += cuts[i][k], k++) prefill(session, prompt + first, cuts[i][k], &other, first);
    expect_same_logits(&reference, &other, 0, LENGTH, "prefill");
    TEST_ASSERT_EQUAL_INT32(reference.tokens[LENGTH - 1], wait_ok(session).token);
    cf_session_destroy(session);
  }
  for (size_t width = 1; width <= 64; width = width * 2 + 1) { /* 1, 3, 7, 15, 31, 63 */
    session = make_session_with_kv(kv_dtype, 64);
    memset(&other, 0, sizeof other);
    for (size_t first = 0; first < LENGTH; first += width)
      decode_positions(session, prompt + first, first + width > LENGTH ? LENGTH - first : width, &other, first);
    expect_same_logits(&reference, &other, 0, LENGTH, "positions");
    TEST_ASSERT_EQUAL_INT32_ARRAY(reference.tokens, other.tokens, LENGTH);
    cf_session_destroy(session);
  }
}

static void test_prefill_steps_and_positions_agree(void) { expect_every_way_agrees(CF_DTYPE_F32); }
static void test_prefill_steps_and_positions_agree_with_f16_kv(void) { expect_every_way_agrees(CF_DTYPE_F16); }
static void test_prefill_steps_and_positions_agree_with_bf16_kv(void) { expect_every_way_agrees(CF_DTYPE_BF16); }
static void test_prefill_steps_and_positions_agree_for_gpt_neox(void) {
  use_model(CF_FAMILY_GPT_NEOX);
  expect_every_way_agrees(CF_DTYPE_F32);
}

static void test_every_instruction_set_and_number_of_threads_agrees_with_itself(void) {
  for (cf_cpu_isa isa = CF_CPU_ISA_BASELINE; isa <= CF_CPU_ISA_AVX512; isa++) {
    for (int32_t threads = 1; threads <= 3; threads++) {
      cf_context_options options;
      cf_context* forced = NULL;
      OK(cf_context_options_init(&options, sizeof options));
      options.cpu_isa = isa;
      options.cpu_threads = threads;
      if (cf_context_create(&options, &forced) != CF_OK) continue;
      cf_model* loaded = make_model(forced, &tiny);
      cf_session *one = make_session(loaded, LENGTH), *many = make_session(loaded, LENGTH);
      memset(&other, 0, sizeof other);
      if (threads == 1) decode_prompt(one, &reference);
      prefill(many, prompt, LENGTH, &other, 0);
      expect_same_logits(&reference, &other, 0, LENGTH, "threads");
      cf_session_destroy(one);
      cf_session_destroy(many);
      cf_model_destroy(loaded);
      cf_context_destroy(forced);
    }
  }
}

static void test_steps_in_one_call_equal_single_steps(void) {
  cf_session *one = make_session(model, 64), *many = make_session(model, 64);
  prefill(one, prompt, 5, &reference, 0);
  prefill(many, prompt, 5, &other, 0);
  int32_t tokens[20], seen[26];
  size_t n = 0;
  for (size_t i = 0; i < 20; i++) tokens[i] = decode(one, CF_TOKEN_PENDING, &reference, i);
  cf_outputs outputs = outputs_into(&other, 19);
  const cf_step_options options = step_with(&outputs);
  OK(cf_decode_steps(many, 20, &options));
  const cf_result result = wait_ok(many);
  TEST_ASSERT_EQUAL_INT64(25, result.position);
  TEST_ASSERT_EQUAL_INT64(20, result.n_steps);
  TEST_ASSERT_EQUAL_INT32(tokens[19], result.token);
  expect_same_logits(&reference, &other, 19, 1, "the last step");
  OK(cf_session_tokens(many, 6, seen, 26, &n));
  TEST_ASSERT_EQUAL_size_t(20, n);
  TEST_ASSERT_EQUAL_INT32_ARRAY(tokens, seen, 20);
  cf_session_destroy(one);
  cf_session_destroy(many);
}

static void test_the_same_prompt_twice_gives_the_same_bits(void) {
  cf_session *one = make_session(model, LENGTH), *two = make_session(model, LENGTH);
  prefill(one, prompt, LENGTH, &reference, 0);
  prefill(two, prompt, LENGTH, &other, 0);
  TEST_ASSERT_EQUAL_MEMORY(reference.logits, other.logits, sizeof other.logits);
  cf_session_destroy(one);
  cf_session_destroy(two);
}

/* ---- Tokens fed ---- */

static void test_a_given_token_takes_the_place_of_the_pending_one(void) {
  cf_session* session = make_session(model, LENGTH);
  decode_prompt(session, &reference); /* every step overrides the token sampled before */
  int32_t tokens[LENGTH + 1];
  size_t n = 0;
  OK(cf_session_tokens(session, 0, tokens, LENGTH + 1, &n));
  TEST_ASSERT_EQUAL_size_t(LENGTH + 1, n);
  TEST_ASSERT_EQUAL_INT32_ARRAY(prompt, tokens, LENGTH);
  TEST_ASSERT_EQUAL_INT32(reference.tokens[LENGTH - 1], tokens[LENGTH]);
  cf_session_destroy(session);
}

static void test_pending_first_of_several_positions(void) {
  cf_session *one = make_session(model, 16), *two = make_session(model, 16);
  prefill(one, prompt, 4, &reference, 0);
  prefill(two, prompt, 4, &other, 0);
  const int32_t first = wait_ok(one).token, given[3] = {first, prompt[4], prompt[5]}, pending[3] = {CF_TOKEN_PENDING, prompt[4], prompt[5]};
  decode_positions(one, given, 3, &reference, 4);
  decode_positions(two, pending, 3, &other, 4);
  expect_same_logits(&reference, &other, 4, 3, "pending");
  cf_session_destroy(one);
  cf_session_destroy(two);
}

static void test_no_token_is_pending(void) {
  cf_session* session = make_session(model, 16);
  cf_step_options options;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "pending", cf_decode_step(session, CF_TOKEN_PENDING, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "pending", cf_decode_steps(session, 3, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "pending", cf_decode_positions(session, (int32_t[]){CF_TOKEN_PENDING, 1}, 2, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "pending", cf_decode_batch(&session, 1, NULL, NULL));
  TEST_ASSERT_EQUAL_INT64(0, wait_ok(session).position);
  OK(cf_step_options_init(&options, sizeof options));
  options.sample = 0;
  OK(cf_prefill(session, prompt, 3, &options));
  cf_result result = wait_ok(session);
  TEST_ASSERT_EQUAL_INT64(3, result.position);
  TEST_ASSERT_EQUAL_INT32(-1, result.token);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "pending", cf_decode_step(session, CF_TOKEN_PENDING, NULL));
  OK(cf_decode_step(session, prompt[3], &options));
  result = wait_ok(session);
  TEST_ASSERT_EQUAL_INT64(4, result.position);
  TEST_ASSERT_EQUAL_INT32(-1, result.token);
  OK(cf_decode_step(session, prompt[4], NULL));
  TEST_ASSERT_GREATER_OR_EQUAL(0, wait_ok(session).token);
  cf_session_destroy(session);
}

static void test_pieces_without_sampling_change_nothing(void) {
  cf_session *whole = make_session(model, LENGTH), *pieces = make_session(model, LENGTH);
  cf_step_options options;
  OK(cf_step_options_init(&options, sizeof options));
  options.sample = 0;
  prefill(whole, prompt, LENGTH, &reference, 0);
  OK(cf_prefill(pieces, prompt, 33, &options));
  OK(cf_prefill(pieces, prompt + 33, 20, &options));
  prefill(pieces, prompt + 53, LENGTH - 53, &other, 53);
  expect_same_logits(&reference, &other, 53, LENGTH - 53, "pieces");
  cf_session_destroy(whole);
  cf_session_destroy(pieces);
}

static void test_arguments_that_are_wrong(void) {
  cf_session* session = make_session(model, 16);
  prefill(session, prompt, 4, &reference, 0);
  const int32_t token = wait_ok(session).token, below[] = {1, -1}, above[] = {1, VOCAB};
  int32_t many[65] = {0};
  cf_step_options options;
  OK(cf_step_options_init(&options, sizeof options));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_tokens is 0", cf_prefill(session, prompt, 0, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_tokens is 17", cf_prefill(session, prompt, 17, NULL)); /* more than the capacity could ever hold */
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_tokens", cf_prefill(session, prompt, SIZE_MAX, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "-1 is outside", cf_prefill(session, below, 2, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "96 is outside", cf_prefill(session, above, 2, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "-2 is outside", cf_decode_step(session, -2, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "96 is outside", cf_decode_step(session, VOCAB, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "outside", cf_decode_step(session, INT32_MAX, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_steps is 0", cf_decode_steps(session, 0, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_steps is -5", cf_decode_steps(session, -5, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_tokens is 0", cf_decode_positions(session, many, 0, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_tokens is 65", cf_decode_positions(session, many, 65, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "-1 is outside", cf_decode_positions(session, below, 2, NULL)); /* pending: the first only */
  FAILS(CF_ERROR_INVALID_ARGUMENT, "96 is outside", cf_decode_positions(session, above, 2, NULL));
  options.sample = 0;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "sample is 0", cf_decode_steps(session, 2, &options));
  options.sample = 2;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "sample is 2", cf_decode_step(session, 1, &options));
  const cf_result result = wait_ok(session);
  TEST_ASSERT_EQUAL_INT64(4, result.position);
  TEST_ASSERT_EQUAL_INT32(token, result.token);
  cf_session_destroy(session);
}

/* ---- Outputs ---- */

static void test_outputs_that_are_wrong(void) {
  cf_session* session = make_session(model, 16);
  cf_outputs o;
  cf_step_options options = step_with(&o);
  float values[VOCAB];
  int32_t numbers[VOCAB] = {0};
  const int32_t above = VOCAB, below = -2;
#define WITH(assignment, word)       \
  OK(cf_outputs_init(&o, sizeof o)); \
  options = step_with(&o);           \
  assignment;                        \
  FAILS(CF_ERROR_INVALID_ARGUMENT, word, cf_decode_step(session, 1, &options))
  WITH(o.memory = 2, "memory is 2");
  WITH(o.memory = -1, "memory is -1");
  WITH(o.rows = 2, "rows is 2");
  WITH((o.top_n = -1, o.top_tokens = numbers), "top_n is -1");
  WITH((o.top_n = VOCAB + 1, o.top_tokens = numbers), "top_n is 97");
  WITH((o.top_n = 1025, o.top_tokens = numbers), "top_n is 1025");
  WITH(o.top_tokens = numbers, "top_n is 0");
  WITH(o.top_logprobs = values, "top_n is 0");
  WITH(o.top_n = 3, "top_tokens and top_logprobs are NULL");
  WITH(o.targets = numbers, "together");
  WITH(o.target_logprobs = values, "together");
  WITH((o.targets = &above, o.target_logprobs = values), "96 is outside");
  WITH((o.targets = &below, o.target_logprobs = values), "-2 is outside");
  WITH((options.sample = 0, o.row_tokens = numbers), "row_tokens");
#undef WITH
  TEST_ASSERT_EQUAL_INT64(0, wait_ok(session).position);
  cf_session_destroy(session);
}

/* log-probability of a token, in double. */
static double log_probability(const float* logits, int32_t token) {
  double most = logits[0], sum = 0;
  for (size_t i = 1; i < VOCAB; i++) most = fmax(most, logits[i]);
  for (size_t i = 0; i < VOCAB; i++) sum += exp(logits[i] - most);
  return logits[token] - most - log(sum);
}

static void test_top_tokens_and_log_probabilities(void) {
  enum { N = 9, TOP = VOCAB };
  static int32_t top_tokens[N][TOP];
  static float top_logprobs[N][TOP];
  int32_t targets[N];
  float target_logprobs[N];
  cf_session* session = make_session(model, 16);
  cf_outputs outputs = outputs_into(&reference, 0);
  outputs.top_n = TOP;
  outputs.top_tokens = &top_tokens[0][0];
  outputs.top_logprobs = &top_logprobs[0][0];
  outputs.targets = targets;
  outputs.target_logprobs = target_logprobs;
  for (int i = 0; i < N; i++) targets[i] = i == 4 ? -1 : (i * 31) % VOCAB;
  const cf_step_options options = step_with(&outputs);
  OK(cf_prefill(session, prompt, N, &options));
  TEST_ASSERT_EQUAL_INT32(top_tokens[N - 1][0], wait_ok(session).token);
  for (int row = 0; row < N; row++) {
    const float* logits = reference.logits[row];
    TEST_ASSERT_EQUAL_INT32(CF_OK, reference.status[row]);
    if (row == 4) TEST_ASSERT_TRUE(target_logprobs[row] == 0);
    else TEST_ASSERT_DOUBLE_WITHIN(1e-6 * (1 + fabs(target_logprobs[row])), log_probability(logits, targets[row]), target_logprobs[row]);
    for (int i = 0; i < TOP; i++) {
      const int32_t token = top_tokens[row][i];
      TEST_ASSERT_TRUE(token >= 0 && token < VOCAB);
      TEST_ASSERT_DOUBLE_WITHIN(1e-6 * (1 + fabs(top_logprobs[row][i])), log_probability(logits, token), top_logprobs[row][i]);
      if (i == 0) continue;
      const int32_t before = top_tokens[row][i - 1];
      TEST_ASSERT_TRUE(logits[before] > logits[token] || (logits[before] == logits[token] && before < token));
    }
  }
  cf_session_destroy(session);
}

static void test_equal_logits_are_ordered_by_token(void) {
  struct tensor_list tensors = tiny_model_tensors(&tiny);
  cf_tensor descriptors[MAX_DESCRIPTORS];
  float* head = (float*)find_tensor(&tensors, "lm_head.weight")->data;
  int32_t top[VOCAB];
  cf_outputs outputs;
  for (int t = 1; t < VOCAB; t++) memcpy(head + t * tiny.hidden_size, head, (size_t)tiny.hidden_size * sizeof(float));
  OK(cf_load_globals(model, descriptors, describe_tensors(&tiny, &tensors, GLOBALS, descriptors), NULL));
  cf_session* session = make_session(model, 16);
  OK(cf_outputs_init(&outputs, sizeof outputs));
  outputs.top_n = VOCAB;
  outputs.top_tokens = top;
  const cf_step_options options = step_with(&outputs);
  OK(cf_prefill(session, prompt, 3, &options));
  TEST_ASSERT_EQUAL_INT32(0, wait_ok(session).token);
  for (int32_t i = 0; i < VOCAB; i++) TEST_ASSERT_EQUAL_INT32(i, top[i]);
  cf_session_destroy(session);
  free_tensors(&tensors);
}

static void test_only_what_is_asked_for_is_written(void) {
  float logits[2][VOCAB], logprobs[4];
  int32_t tokens[4];
  cf_session* session = make_session(model, 16);
  cf_outputs outputs;
  OK(cf_outputs_init(&outputs, sizeof outputs));
  outputs.memory = CF_MEMORY_DEVICE; /* on the CPU the same as HOST */
  outputs.logits = logits[0];
  const cf_step_options options = step_with(&outputs);
  memset(logits, 0xff, sizeof logits);
  OK(cf_prefill(session, prompt, 5, &options)); /* CF_ROWS_LAST: one row */
  wait_ok(session);
  for (size_t i = 0; i < VOCAB; i++) TEST_ASSERT_TRUE(isfinite(logits[0][i]) && isnan(logits[1][i]));
  outputs.logits = NULL;
  outputs.top_n = 3;
  outputs.top_tokens = tokens;
  tokens[3] = -7;
  OK(cf_decode_step(session, CF_TOKEN_PENDING, &options));
  TEST_ASSERT_EQUAL_INT32(wait_ok(session).token, tokens[0]);
  TEST_ASSERT_EQUAL_INT32(-7, tokens[3]);
  outputs.top_tokens = NULL;
  outputs.top_logprobs = logprobs;
  logprobs[3] = 5;
  OK(cf_decode_step(session, CF_TOKEN_PENDING, &options));
  wait_ok(session);
  TEST_ASSERT_TRUE(logprobs[0] >= logprobs[1] && logprobs[1] >= logprobs[2] && logprobs[0] < 0 && logprobs[3] == 5);
  cf_session_destroy(session);
}

static void test_last_row_of_a_prefill_equals_all_rows(void) {
  cf_session *all = make_session(model, LENGTH), *last = make_session(model, LENGTH);
  float logits[VOCAB];
  cf_outputs outputs;
  prefill(all, prompt, LENGTH, &reference, 0);
  OK(cf_outputs_init(&outputs, sizeof outputs));
  outputs.logits = logits;
  const cf_step_options options = step_with(&outputs);
  OK(cf_prefill(last, prompt, LENGTH, &options));
  wait_ok(last);
  TEST_ASSERT_EQUAL_MEMORY(reference.logits[LENGTH - 1], logits, sizeof logits);
  cf_session_destroy(all);
  cf_session_destroy(last);
}

static void test_outputs_without_sampling(void) {
  cf_session *sampled = make_session(model, 16), *scored = make_session(model, 16);
  prefill(sampled, prompt, 6, &reference, 0);
  cf_outputs outputs = outputs_into(&other, 0);
  cf_step_options options = step_with(&outputs);
  options.sample = 0;
  OK(cf_prefill(scored, prompt, 6, &options));
  TEST_ASSERT_EQUAL_INT32(-1, wait_ok(scored).token);
  expect_same_logits(&reference, &other, 0, 6, "scored");
  cf_session_destroy(sampled);
  cf_session_destroy(scored);
}

/* ---- Results ---- */

static void test_steps_are_counted_until_they_are_fetched(void) {
  cf_session* session = make_session(model, 32);
  cf_result result;
  OK(cf_prefill(session, prompt, 5, NULL));
  OK(cf_decode_step(session, CF_TOKEN_PENDING, NULL));
  OK(cf_decode_steps(session, 3, NULL));
  result = wait_ok(session);
  TEST_ASSERT_EQUAL_INT64(9, result.position);
  TEST_ASSERT_EQUAL_INT64(9, result.n_steps);
  result = wait_ok(session);
  TEST_ASSERT_EQUAL_INT64(9, result.position);
  TEST_ASSERT_EQUAL_INT64(0, result.n_steps);
  OK(cf_decode_steps(session, 2, NULL));
  OK(cf_result_init(&result, sizeof result));
  OK(cf_session_poll(session, &result)); /* on the CPU nothing is ever unfinished */
  TEST_ASSERT_EQUAL_INT64(2, result.n_steps);
  OK(cf_session_poll(session, NULL));
  cf_session_destroy(session);
}

static void test_a_fetch_that_is_refused_fetches_nothing(void) {
  cf_session* session = make_session(model, 2);
  cf_result wrong;
  memset(&wrong, 0, sizeof wrong);
  OK(cf_prefill(session, prompt, 2, NULL));
  OK(cf_decode_step(session, CF_TOKEN_PENDING, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "_init", cf_session_wait(session, &wrong));
  wait_fails(session, CF_ERROR_CACHE_FULL, "2 of 2");
  cf_session_destroy(session);
}

static void test_stop_tokens_end_the_steps(void) {
  cf_session *plain = make_session(model, 40), *stopping = make_session(model, 40);
  int32_t tokens[21];
  size_t n = 0, stop_at = 1;
  OK(cf_prefill(plain, prompt, 6, NULL));
  OK(cf_decode_steps(plain, 20, NULL));
  OK(cf_session_tokens(plain, 6, tokens, 21, &n));
  TEST_ASSERT_EQUAL_size_t(21, n);
  for (size_t i = 1; i < 21; i++) { /* a token that is new when it comes */
    size_t k = 0;
    while (tokens[k] != tokens[i]) k++;
    if (k == i && i >= 2) {
      stop_at = i;
      break;
    }
  }
  TEST_ASSERT_GREATER_OR_EQUAL(2, stop_at);
  cf_sampler_options sampler;
  OK(cf_sampler_options_init(&sampler, sizeof sampler));
  sampler.n_stop_tokens = 1;
  sampler.stop_tokens = &tokens[stop_at];
  OK(cf_session_set_sampler(stopping, &sampler));
  OK(cf_prefill(stopping, prompt, 6, NULL));
  TEST_ASSERT_EQUAL_INT32(0, wait_ok(stopping).stopped);
  OK(cf_decode_steps(stopping, 20, NULL));
  cf_result result = wait_ok(stopping);
  TEST_ASSERT_EQUAL_INT64((int64_t)stop_at, result.n_steps);
  TEST_ASSERT_EQUAL_INT32(1, result.stopped);
  TEST_ASSERT_EQUAL_INT32(tokens[stop_at], result.token);
  OK(cf_session_set_sampler(stopping, NULL)); /* goes on when it is told to */
  OK(cf_decode_steps(stopping, 20 - (int64_t)stop_at, NULL));
  result = wait_ok(stopping);
  TEST_ASSERT_EQUAL_INT32(0, result.stopped);
  TEST_ASSERT_EQUAL_INT32(tokens[20], result.token);
  cf_session_destroy(plain);
  cf_session_destroy(stopping);
}

/* ---- Truncation ---- */

static void test_truncating_equals_never_having_gone_further(void) {
  enum { PREFIX = 40 };
  cf_session* session = make_growing_session(LENGTH + 1, 16);
  int32_t tokens[LENGTH + 1], now[LENGTH + 1];
  size_t n = 0;
  prefill(session, prompt, PREFIX, &reference, 0);
  for (size_t i = PREFIX; i < LENGTH; i++) decode(session, CF_TOKEN_PENDING, &reference, i);
  OK(cf_session_tokens(session, 0, tokens, LENGTH + 1, &n));
  TEST_ASSERT_EQUAL_size_t(LENGTH + 1, n);
  for (int64_t position = LENGTH; position >= 0; position--) {
    OK(cf_session_truncate(session, position));
    const cf_result result = wait_ok(session);
    TEST_ASSERT_EQUAL_INT64(position, result.position);
    TEST_ASSERT_EQUAL_INT32(tokens[position], result.token); /* the token that stood there */
    OK(cf_session_tokens(session, 0, now, LENGTH + 1, &n));
    TEST_ASSERT_EQUAL_size_t(position + 1, n);
    TEST_ASSERT_EQUAL_INT32_ARRAY(tokens, now, n);
    if (position == LENGTH) continue;
    decode(session, CF_TOKEN_PENDING, &other, (size_t)position);
    expect_same_logits(&reference, &other, (size_t)position, 1, "again");
    cf_session_info info;
    OK(cf_session_info_init(&info, sizeof info));
    OK(cf_session_query(session, &info));
    TEST_ASSERT_EQUAL_INT64((position + 1 + 15) / 16, info.n_pages);
  }
  cf_session_destroy(session);
}

static void test_another_way_after_truncation(void) {
  cf_session *back = make_session(model, LENGTH), *straight = make_session(model, LENGTH);
  prefill(back, prompt, 50, &other, 0);
  OK(cf_session_truncate(back, 17));
  prefill(back, prompt + 30, 40, &other, 17);
  prefill(straight, prompt, 17, &reference, 0);
  prefill(straight, prompt + 30, 40, &reference, 17);
  expect_same_logits(&reference, &other, 17, 40, "another way");
  cf_session_destroy(back);
  cf_session_destroy(straight);
}

static void test_truncation_that_is_wrong_and_truncation_to_where_it_is(void) {
  cf_session* session = make_session(model, 16);
  cf_step_options options;
  OK(cf_session_truncate(session, 0));
  TEST_ASSERT_EQUAL_INT32(-1, wait_ok(session).token);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "position is 1", cf_session_truncate(session, 1));
  OK(cf_step_options_init(&options, sizeof options));
  options.sample = 0;
  OK(cf_prefill(session, prompt, 5, &options));
  OK(cf_session_truncate(session, 5)); /* makes no token pending */
  TEST_ASSERT_EQUAL_INT32(-1, wait_ok(session).token);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "position is -1", cf_session_truncate(session, -1));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "position is 6", cf_session_truncate(session, 6));
  OK(cf_session_truncate(session, 4));
  TEST_ASSERT_EQUAL_INT32(prompt[4], wait_ok(session).token);
  cf_session_destroy(session);
}

/* ---- Tokens ---- */

static void test_tokens_are_the_cached_ones_and_the_pending_one(void) {
  cf_session* session = make_session(model, 16);
  int32_t tokens[16];
  size_t n = 99;
  cf_step_options options;
  OK(cf_session_tokens(session, 0, tokens, 16, &n));
  TEST_ASSERT_EQUAL_size_t(0, n);
  OK(cf_step_options_init(&options, sizeof options));
  options.sample = 0;
  OK(cf_prefill(session, prompt, 4, &options));
  OK(cf_session_tokens(session, 0, tokens, 16, &n));
  TEST_ASSERT_EQUAL_size_t(4, n);
  OK(cf_prefill(session, prompt + 4, 2, NULL));
  const int32_t pending = wait_ok(session).token;
  OK(cf_session_tokens(session, 0, tokens, 16, &n));
  TEST_ASSERT_EQUAL_size_t(7, n);
  TEST_ASSERT_EQUAL_INT32_ARRAY(prompt, tokens, 6);
  TEST_ASSERT_EQUAL_INT32(pending, tokens[6]);
  tokens[2] = -5;
  OK(cf_session_tokens(session, 3, tokens, 2, &n)); /* at most two */
  TEST_ASSERT_EQUAL_size_t(2, n);
  TEST_ASSERT_EQUAL_INT32_ARRAY(prompt + 3, tokens, 2);
  TEST_ASSERT_EQUAL_INT32(-5, tokens[2]);
  OK(cf_session_tokens(session, 6, tokens, 16, &n));
  TEST_ASSERT_EQUAL_size_t(1, n);
  OK(cf_session_tokens(session, 7, tokens, 16, &n)); /* none yet */
  TEST_ASSERT_EQUAL_size_t(0, n);
  OK(cf_session_tokens(session, INT64_MAX, tokens, 16, &n));
  TEST_ASSERT_EQUAL_size_t(0, n);
  OK(cf_session_tokens(session, 0, NULL, 0, &n));
  TEST_ASSERT_EQUAL_size_t(0, n);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "from is -1", cf_session_tokens(session, -1, tokens, 16, &n));
  cf_session_destroy(session);
}

/* ---- Session options ---- */

static void test_session_options_that_are_wrong(void) {
  cf_session_options o;
  cf_session* session = NULL;
#define WITH(assignment, word)               \
  OK(cf_session_options_init(&o, sizeof o)); \
  assignment;                                \
  FAILS(CF_ERROR_INVALID_ARGUMENT, word, cf_session_create(model, &o, &session))
  WITH(o.launch_mode = 4, "launch_mode");
  WITH(o.launch_mode = -1, "launch_mode");
  WITH(o.capacity_tokens = -1, "capacity_tokens");
  WITH(o.capacity_tokens = INT64_MAX, "capacity_tokens");
  WITH(o.reserve = 2, "reserve");
  WITH(o.reserve = -1, "reserve");
  WITH(o.page_tokens = 0, "page_tokens");
  WITH(o.page_tokens = 8, "page_tokens");
  WITH(o.page_tokens = 48, "page_tokens");
  WITH(o.page_tokens = 512, "page_tokens");
  WITH(o.kv_dtype = 4, "kv_dtype");
  WITH(o.kv_dtype = -1, "kv_dtype");
  WITH(o.cluster_size = -1, "cluster_size");
  WITH(o.stream = &o, "stream");
#undef WITH
  TEST_ASSERT_NULL(session);
}

static void test_a_session_of_default_options(void) {
  cf_session* session = NULL;
  cf_session_info info;
  OK(cf_session_create(model, NULL, &session));
  OK(cf_session_info_init(&info, sizeof info));
  OK(cf_session_query(session, &info));
  TEST_ASSERT_EQUAL_INT32(CF_LAUNCH_AUTO, info.launch_mode);
  TEST_ASSERT_EQUAL_INT32(1, info.cluster_size);
  TEST_ASSERT_EQUAL_INT32(64, info.page_tokens);
  TEST_ASSERT_EQUAL_INT32(CF_DTYPE_F32, info.kv_dtype);
  TEST_ASSERT_EQUAL_INT64(0, info.position);
  TEST_ASSERT_EQUAL_INT64(tiny.max_position_embeddings, info.capacity_tokens);
  TEST_ASSERT_EQUAL_INT64(2, info.n_pages);
  TEST_ASSERT_GREATER_THAN(0, info.workspace_bytes);
  TEST_ASSERT_NULL(info.stream);
  OK(cf_prefill(session, prompt, 3, NULL));
  OK(cf_session_query(session, &info));
  TEST_ASSERT_EQUAL_INT64(3, info.position);
  cf_session_destroy(session);
}

static void test_capacity_beyond_the_models(void) {
  cf_session* session = make_session(model, tiny.max_position_embeddings + 20); /* the log says so: test_api.c */
  OK(cf_prefill(session, prompt, LENGTH, NULL));
  OK(cf_decode_steps(session, tiny.max_position_embeddings + 20 - LENGTH, NULL));
  TEST_ASSERT_EQUAL_INT64(tiny.max_position_embeddings + 20, wait_ok(session).position);
  cf_session_destroy(session);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_prefill_steps_and_positions_agree);
  RUN_TEST(test_prefill_steps_and_positions_agree_with_f16_kv);
  RUN_TEST(test_prefill_steps_and_positions_agree_with_bf16_kv);
  RUN_TEST(test_prefill_steps_and_positions_agree_for_gpt_neox);
  RUN_TEST(test_every_instruction_set_and_number_of_threads_agrees_with_itself);
  RUN_TEST(test_steps_in_one_call_equal_single_steps);
  RUN_TEST(test_the_same_prompt_twice_gives_the_same_bits);
  RUN_TEST(test_a_given_token_takes_the_place_of_the_pending_one);
  RUN_TEST(test_pending_first_of_several_positions);
  RUN_TEST(test_no_token_is_pending);
  RUN_TEST(test_pieces_without_sampling_change_nothing);
  RUN_TEST(test_arguments_that_are_wrong);
  RUN_TEST(test_outputs_that_are_wrong);
  RUN_TEST(test_top_tokens_and_log_probabilities);
  RUN_TEST(test_equal_logits_are_ordered_by_token);
  RUN_TEST(test_only_what_is_asked_for_is_written);
  RUN_TEST(test_last_row_of_a_prefill_equals_all_rows);
  RUN_TEST(test_outputs_without_sampling);
  RUN_TEST(test_steps_are_counted_until_they_are_fetched);
  RUN_TEST(test_a_fetch_that_is_refused_fetches_nothing);
  RUN_TEST(test_stop_tokens_end_the_steps);
  RUN_TEST(test_truncating_equals_never_having_gone_further);
  RUN_TEST(test_another_way_after_truncation);
  RUN_TEST(test_truncation_that_is_wrong_and_truncation_to_where_it_is);
  RUN_TEST(test_tokens_are_the_cached_ones_and_the_pending_one);
  RUN_TEST(test_session_options_that_are_wrong);
  RUN_TEST(test_a_session_of_default_options);
  RUN_TEST(test_capacity_beyond_the_models);
  return UNITY_END();
}
