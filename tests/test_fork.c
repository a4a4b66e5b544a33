/* Forks: bits of a session that never went further, pages shared until one of the two writes, full pools that lose nothing. */
#include "unity.h"

#include "support/session_world.h"

enum { PAGE = 16, STEPS = 8 };

static cf_kv_pool* pool;
static int32_t others[LENGTH]; /* to go on with */

void setUp(void) {
  begin_world();
  fill_tokens(others, LENGTH, VOCAB, 17);
  pool = make_pool(64 * PAGE, PAGE);
}

void tearDown(void) {
  cf_kv_pool_destroy(pool);
  end_world();
}

static cf_session_options fork_options(int64_t capacity, int32_t reserve) {
  cf_session_options options;
  OK(cf_session_options_init(&options, sizeof options));
  options.capacity_tokens = capacity;
  options.reserve = reserve;
  return options;
}

static cf_session* make_fork(cf_session* parent, int64_t position, int64_t capacity, int32_t reserve) {
  const cf_session_options options = fork_options(capacity, reserve);
  cf_session* fork = NULL;
  OK(cf_session_fork(parent, position, &options, &fork));
  return fork;
}

/* A session of the pool with the first n tokens of the prompt. */
static cf_session* make_parent(cf_kv_pool* from, size_t n, int64_t capacity, int32_t reserve) {
  cf_session* session = make_pooled_session(from, capacity, reserve);
  OK(cf_prefill(session, prompt, n, NULL));
  wait_ok(session);
  return session;
}

static cf_kv_pool_info pool_info(const cf_kv_pool* of) {
  cf_kv_pool_info info;
  OK(cf_kv_pool_info_init(&info, sizeof info));
  OK(cf_kv_pool_query(of, &info));
  return info;
}

static void expect_pages(const cf_kv_pool* of, int64_t free, int64_t shared, const char* when) {
  const cf_kv_pool_info info = pool_info(of);
  TEST_ASSERT_EQUAL_INT64_MESSAGE(free, info.n_pages_free, when);
  TEST_ASSERT_EQUAL_INT64_MESSAGE(shared, info.n_pages_shared, when);
}

/* Steps with these tokens give what they give in a session that saw these tokens before and nothing else. */
static void expect_goes_on_like(const int32_t* history, size_t n_history, cf_session* session, const int32_t* tokens, size_t n) {
  cf_session* never = make_session(model, LENGTH + 30);
  if (n_history) OK(cf_prefill(never, history, n_history, NULL));
  for (size_t i = 0; i < n; i++) {
    decode(never, tokens[i], &reference, i);
    decode(session, tokens[i], &other, i);
  }
  expect_same_logits(&reference, &other, 0, n, "going on");
  TEST_ASSERT_EQUAL_INT32_ARRAY(reference.tokens, other.tokens, n);
  cf_session_destroy(never);
}

/* ---- Bits ---- */

static void expect_forks_at_every_position(int32_t parent_reserve, int32_t fork_reserve) {
  static const int64_t positions[] = {0, 1, 15, 16, 17, 40, 63, 64, 65, 69, 70};
  cf_session* parent = make_parent(pool, LENGTH, LENGTH + 20, parent_reserve);
  const struct state before = state_of(parent);
  const int32_t pending = wait_ok(parent).token;
  for (size_t i = 0; i < sizeof positions / sizeof *positions; i++) {
    const int64_t at = positions[i];
    cf_session* fork = make_fork(parent, at, LENGTH + 20, fork_reserve);
    int32_t tokens[LENGTH + 1];
    size_t n = 0;
    const cf_result result = wait_ok(fork);
    TEST_ASSERT_EQUAL_INT64(at, result.position);
    TEST_ASSERT_EQUAL_INT64(0, result.n_steps);
    TEST_ASSERT_EQUAL_INT32(at < LENGTH ? prompt[at] : pending, result.token);
    OK(cf_session_tokens(fork, 0, tokens, LENGTH + 1, &n));
    TEST_ASSERT_EQUAL_size_t((size_t)at + 1, n);
    TEST_ASSERT_EQUAL_INT32_ARRAY(prompt, tokens, (size_t)at);
    expect_goes_on_like(prompt, (size_t)at, fork, others, STEPS);
    OK(cf_session_truncate(fork, at));
    prefill(fork, others, 20, &other, 0);
    cf_session* never = make_session(model, LENGTH + 20);
    if (at) OK(cf_prefill(never, prompt, (size_t)at, NULL));
    prefill(never, others, 20, &reference, 0);
    expect_same_logits(&reference, &other, 0, 20, "prefill");
    cf_session_destroy(never);
    cf_session_destroy(fork);
    const struct state after = state_of(parent);
    TEST_ASSERT_EQUAL_MEMORY(&before, &after, sizeof before);
  }
  expect_goes_on_like(prompt, LENGTH, parent, others, STEPS);
  cf_session_destroy(parent);
  expect_pages(pool, 64, 0, "at the end");
}

static void test_fork_equals_a_session_that_never_went_further(void) {
  for (int way = 0; way < 4; way++) expect_forks_at_every_position(way & 1, way >> 1);
}

static void test_fork_equals_a_session_that_never_went_further_for_gpt_neox(void) {
  cf_kv_pool_destroy(pool);
  use_model(CF_FAMILY_GPT_NEOX);
  pool = make_pool(64 * PAGE, PAGE);
  expect_forks_at_every_position(0, 0);
}

/* Turn by turn, and both beyond the end of the page that they share. */
static void test_parent_and_fork_leave_each_other_alone(void) {
  for (int way = 0; way < 8; way++) {
    const int fork_first = way >> 2;
    cf_session* parent = make_parent(pool, 37, 64, way & 1);
    cf_session* fork = make_fork(parent, 37, 64, way >> 1 & 1);
    cf_session *parent_alone = make_session(model, 64), *fork_alone = make_session(model, 64);
    OK(cf_prefill(parent_alone, prompt, 37, NULL));
    OK(cf_prefill(fork_alone, prompt, 37, NULL));
    for (size_t i = 0; i < 20; i++) {
      if (fork_first) decode(fork, others[i], &other, 1);
      decode(parent, prompt[37 + i], &other, 0);
      if (!fork_first) decode(fork, others[i], &other, 1);
      decode(parent_alone, prompt[37 + i], &reference, 0);
      decode(fork_alone, others[i], &reference, 1);
      expect_same_logits(&reference, &other, 0, 2, "turn by turn");
    }
    cf_session_destroy(parent);
    cf_session_destroy(fork);
    cf_session_destroy(parent_alone);
    cf_session_destroy(fork_alone);
  }
}

/* Either goes back below the point where they parted and writes there anew. */
static void test_going_back_below_the_fork(void) {
  for (int way = 0; way < 2; way++) {
    cf_session* parent = make_parent(pool, 40, 64, 0);
    cf_session* fork = make_fork(parent, 40, 64, 0);
    cf_session *goes_back = way ? fork : parent, *stays = way ? parent : fork;
    OK(cf_session_truncate(goes_back, 10));
    OK(cf_prefill(goes_back, others, 25, NULL));
    wait_ok(goes_back);
    expect_goes_on_like(prompt, 40, stays, others, STEPS);
    int32_t history[35];
    memcpy(history, prompt, 10 * sizeof *history);
    memcpy(history + 10, others, 25 * sizeof *history);
    expect_goes_on_like(history, 35, goes_back, prompt, STEPS);
    cf_session_destroy(parent);
    cf_session_destroy(fork);
  }
}

static void test_forks_of_forks(void) {
  enum { DEPTH = 6, EACH = 7 };
  cf_session* line[DEPTH] = {make_parent(pool, 20, 128, 0)};
  int32_t tokens[20 + DEPTH * EACH];
  memcpy(tokens, prompt, 20 * sizeof *tokens);
  for (int i = 1; i < DEPTH; i++) {
    line[i] = make_fork(line[i - 1], 20 + (i - 1) * EACH, 128, i & 1);
    for (int k = 0; k < EACH; k++) decode(line[i], tokens[20 + (i - 1) * EACH + k] = others[i * EACH + k], &other, 0);
  }
  cf_session_destroy(line[2]); /* from the middle */
  for (int i = DEPTH - 1; i >= 0; i--)
    if (i != 2) expect_goes_on_like(tokens, (size_t)(20 + i * EACH), line[i], prompt + i, 4);
  cf_session_destroy(line[0]);
  for (int i = 1; i < DEPTH; i++)
    if (i != 2) cf_session_destroy(line[i]);
}

/* ---- Pages ---- */

static void test_pages_are_shared_until_written(void) {
  cf_session* parent = make_parent(pool, 40, 128, 0);
  expect_pages(pool, 61, 0, "before");
  cf_session* fork = make_fork(parent, 40, 128, 0);
  expect_pages(pool, 61, 3, "forked");
  TEST_ASSERT_EQUAL_INT64(3, state_of(fork).info.n_pages);
  decode(fork, 1, &other, 0); /* position 40, in the third page */
  expect_pages(pool, 60, 2, "the fork wrote");
  decode(parent, 2, &other, 0); /* that page is its own again */
  expect_pages(pool, 60, 2, "the parent wrote");
  cf_session* whole = make_fork(parent, 32, 128, 0); /* nothing but whole pages */
  expect_pages(pool, 60, 2, "whole pages");
  TEST_ASSERT_EQUAL_INT64(2, state_of(whole).info.n_pages);
  decode(whole, 3, &other, 0);
  expect_pages(pool, 59, 2, "a page after them");
  cf_session* empty = make_fork(parent, 0, 128, 0);
  expect_pages(pool, 59, 2, "none");
  cf_session_destroy(parent);
  expect_pages(pool, 60, 2, "the parent has gone");
  cf_session_destroy(whole);
  expect_pages(pool, 61, 0, "one is left");
  cf_session_destroy(empty);
  cf_session_destroy(fork);
  expect_pages(pool, 64, 0, "all have gone");
}

static void test_reserved_pages_are_there_for_the_copies(void) {
  cf_kv_pool* eight = make_pool(8 * PAGE, PAGE);
  cf_session* parent = make_parent(eight, 40, 64, 1);
  expect_pages(eight, 4, 0, "before");
  cf_session* fork = make_fork(parent, 40, 64, 1);
  expect_pages(eight, 0, 3, "forked");
  TEST_ASSERT_EQUAL_INT64(4, state_of(fork).info.n_pages);
  OK(cf_session_truncate(fork, 0)); /* keeps what it reserved */
  expect_pages(eight, 0, 3, "the fork went back");
  OK(cf_prefill(fork, others, 64, NULL));
  wait_ok(fork);
  expect_pages(eight, 0, 0, "the fork wrote all");
  expect_goes_on_like(prompt, 40, parent, others, 24);
  expect_pages(eight, 0, 0, "the parent wrote");
  cf_session_destroy(parent);
  expect_pages(eight, 4, 0, "the parent has gone");
  cf_session_destroy(fork);
  expect_pages(eight, 8, 0, "both have gone");
  cf_kv_pool_destroy(eight);
}

static void test_a_full_pool_loses_nothing(void) {
  cf_kv_pool* four = make_pool(4 * PAGE, PAGE);
  cf_session* parent = make_parent(four, 40, 64, 0);
  cf_session* fork = make_fork(parent, 40, 64, 0);
  cf_session* third = make_pooled_session(four, 16, 1); /* the last page */
  expect_pages(four, 0, 3, "full");
  cf_session* both[2] = {parent, fork};
  for (int i = 0; i < 2; i++) { /* either would need a copy */
    const struct state before = state_of(both[i]);
    OK(cf_decode_step(both[i], 5, NULL));
    wait_fails(both[i], CF_ERROR_CACHE_FULL, "pool");
    OK(cf_prefill(both[i], prompt, 20, NULL));
    wait_fails(both[i], CF_ERROR_CACHE_FULL, "pool");
    const struct state after = state_of(both[i]);
    TEST_ASSERT_EQUAL_MEMORY(&before, &after, sizeof before);
    expect_pages(four, 0, 3, "after a step that failed");
  }
  OK(cf_decode_batch(both, 2, (int32_t[]){5, 6}, NULL));
  for (int i = 0; i < 2; i++) wait_fails(both[i], CF_ERROR_CACHE_FULL, "pool");
  expect_pages(four, 0, 3, "after a batch that failed");
  cf_session_destroy(third);
  expect_goes_on_like(prompt, 40, fork, others, STEPS); /* has the last page now */
  expect_pages(four, 0, 2, "after a step");
  expect_goes_on_like(prompt, 40, parent, prompt, STEPS); /* and the parent this one for itself */
  cf_session_destroy(parent);
  cf_session_destroy(fork);
  expect_pages(four, 4, 0, "all have gone");
  cf_kv_pool_destroy(four);
}

static void test_forks_that_find_no_room(void) {
  cf_kv_pool* four = make_pool(4 * PAGE, PAGE);
  cf_session* parent = make_parent(four, 40, 48, 1);
  cf_session* const untouched = parent;
  cf_session* fork = untouched;
  const struct state before = state_of(parent);
  cf_session_options options = fork_options(32, 1);
  FAILS(CF_ERROR_CACHE_FULL, "2 pages", cf_session_fork(parent, 20, &options, &fork));
  FAILS(CF_ERROR_CACHE_FULL, "2 pages", cf_session_fork(parent, 0, &options, &fork));
  options.reserve = 0;
  FAILS(CF_ERROR_CACHE_FULL, "2 pages", cf_session_fork(parent, 20, &options, &fork)); /* might have to copy both */
  TEST_ASSERT_TRUE(fork == untouched);
  expect_pages(four, 1, 0, "after forks that failed");
  const struct state after = state_of(parent);
  TEST_ASSERT_EQUAL_MEMORY(&before, &after, sizeof before);
  OK(cf_session_fork(parent, 16, &options, &fork));
  expect_pages(four, 0, 1, "one page");
  expect_goes_on_like(prompt, 40, parent, others, STEPS);
  cf_session_destroy(parent);
  expect_goes_on_like(prompt, 16, fork, others, 16);
  cf_session_destroy(fork);
  expect_pages(four, 4, 0, "all have gone");
  cf_kv_pool_destroy(four);
}

/* A private pool is the fork's, too: whatever its session has not reserved. */
static void test_a_private_pool(void) {
  cf_session *parent = make_growing_session(64, PAGE), *reserved = make_session(model, 64), *fork = NULL;
  cf_session_options options = fork_options(64, 0);
  OK(cf_prefill(parent, prompt, 20, NULL));
  OK(cf_session_fork(parent, 20, &options, &fork));
  expect_goes_on_like(prompt, 20, fork, others, STEPS);
  expect_goes_on_like(prompt, 20, parent, prompt, STEPS);
  cf_session_destroy(fork);
  OK(cf_prefill(reserved, prompt, 20, NULL));
  FAILS(CF_ERROR_CACHE_FULL, "pool", cf_session_fork(reserved, 20, &options, &fork));
  cf_session_destroy(reserved);
  cf_session_destroy(parent);
}

static void test_the_parent_goes_first(void) {
  cf_session* parent = make_parent(pool, 40, 64, 1);
  cf_session* fork = make_fork(parent, 40, 64, 0);
  cf_session_destroy(parent);
  expect_pages(pool, 61, 0, "the parent has gone");
  expect_goes_on_like(prompt, 40, fork, others, STEPS);
  cf_session_destroy(fork);
  parent = make_growing_session(64, PAGE);
  OK(cf_prefill(parent, prompt, 40, NULL));
  fork = make_fork(parent, 30, 64, 0);
  cf_session_destroy(parent);
  expect_goes_on_like(prompt, 30, fork, others, STEPS);
  OK(cf_session_truncate(fork, 30));
  cf_session* alone = make_session(model, 64);
  OK(cf_prefill(alone, prompt, 30, NULL));
  decode(alone, 4, &reference, 0);
  cf_session_destroy(alone);
  cf_kv_pool_destroy(pool); /* and all that it hangs on */
  cf_model_destroy(model);
  cf_context_destroy(context);
  pool = NULL, model = NULL, context = NULL;
  decode(fork, 4, &other, 0);
  expect_same_logits(&reference, &other, 0, 1, "the last handle");
  cf_session_destroy(fork);
}

/* ---- What a fork inherits ---- */

static void test_sampler_and_pending_token(void) {
  cf_session* parent = make_parent(pool, 30, 128, 0);
  int32_t tokens[3][40], stops[96], bias_token = 11;
  const uint32_t mask[3] = {0xffffff0f, 0x7fffffff, 0xfffffffe};
  const float bias = 3;
  cf_sampler_options sampler;
  cf_step_options unsampled;
  size_t n = 0, n_stops = 0;
  OK(cf_sampler_options_init(&sampler, sizeof sampler));
  sampler.temperature = 1.5f;
  sampler.repetition_penalty = 1.2f;
  sampler.seed = 77;
  sampler.n_logit_biases = 1, sampler.logit_bias_tokens = &bias_token, sampler.logit_bias_values = &bias;
  OK(cf_session_set_sampler(parent, &sampler));
  OK(cf_session_set_allowed_tokens(parent, mask, 3));
  OK(cf_decode_step(parent, 3, NULL));
  const int32_t pending = wait_ok(parent).token;
  cf_session *fork = make_fork(parent, 31, 128, 0), *greedy = make_fork(parent, 31, 128, 0);
  TEST_ASSERT_EQUAL_INT32(pending, wait_ok(fork).token);
  OK(cf_session_set_sampler(greedy, NULL)); /* its own affair */
  cf_session* all[3] = {fork, greedy, parent};
  for (int i = 0; i < 3; i++) {
    OK(cf_decode_steps(all[i], 30, NULL));
    OK(cf_session_tokens(all[i], 31, tokens[i], 40, &n));
    TEST_ASSERT_EQUAL_size_t(31, n);
  }
  TEST_ASSERT_EQUAL_INT32_ARRAY(tokens[2], tokens[0], 31);
  TEST_ASSERT_TRUE(memcmp(tokens[2], tokens[1], sizeof *tokens) != 0);
  for (int i = 0; i < 31; i++) TEST_ASSERT_TRUE(mask[tokens[0][i] / 32] >> tokens[0][i] % 32 & 1);
  /* Stop tokens: all that the parent's next steps would not be. */
  for (int32_t token = 0; token < VOCAB; token++)
    if (token != tokens[0][1]) stops[n_stops++] = token;
  sampler.n_stop_tokens = n_stops, sampler.stop_tokens = stops;
  OK(cf_session_truncate(parent, 31));
  OK(cf_session_set_sampler(parent, &sampler));
  cf_session* stopping = make_fork(parent, 31, 128, 0);
  OK(cf_decode_steps(stopping, 30, NULL));
  const cf_result result = wait_ok(stopping);
  TEST_ASSERT_EQUAL_INT32(1, result.stopped);
  TEST_ASSERT_LESS_THAN(30, result.n_steps);
  for (int i = 0; i < 3; i++) cf_session_destroy(all[i]);
  cf_session_destroy(stopping);
  /* No token is pending after a piece without sampling; before its end there is one. */
  cf_session* pieces = make_pooled_session(pool, 128, 0);
  OK(cf_step_options_init(&unsampled, sizeof unsampled));
  unsampled.sample = 0;
  OK(cf_prefill(pieces, prompt, 30, &unsampled));
  cf_session *end = make_fork(pieces, 30, 128, 0), *before = make_fork(pieces, 29, 128, 0);
  TEST_ASSERT_EQUAL_INT32(-1, wait_ok(end).token);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "pending", cf_decode_step(end, CF_TOKEN_PENDING, NULL));
  TEST_ASSERT_EQUAL_INT32(prompt[29], wait_ok(before).token);
  OK(cf_decode_step(before, CF_TOKEN_PENDING, NULL));
  expect_goes_on_like(prompt, 30, before, others, 2);
  cf_session_destroy(pieces);
  cf_session_destroy(end);
  cf_session_destroy(before);
}

/* A step that failed is the parent's affair: the fork begins without it. */
static void test_a_failed_parent(void) {
  cf_session* parent = make_parent(pool, 30, 32, 0);
  OK(cf_decode_positions(parent, others, 5, NULL)); /* beyond its capacity */
  cf_session* fork = make_fork(parent, 30, 64, 0);
  expect_goes_on_like(prompt, 30, fork, others, STEPS);
  wait_fails(parent, CF_ERROR_CACHE_FULL, "32 positions");
  expect_goes_on_like(prompt, 30, parent, others, 2);
  cf_session_destroy(fork);
  cf_session_destroy(parent);
}

static void test_capacity_is_the_forks_own(void) {
  cf_session* parent = make_parent(pool, 32, 32, 0);
  cf_session *wider = make_fork(parent, 32, 40, 0), *narrower = make_fork(parent, 10, 12, 1);
  expect_goes_on_like(prompt, 32, wider, others, STEPS);
  OK(cf_decode_step(wider, 1, NULL));
  wait_fails(wider, CF_ERROR_CACHE_FULL, "40");
  expect_goes_on_like(prompt, 10, narrower, others, 2);
  OK(cf_decode_step(narrower, 1, NULL));
  wait_fails(narrower, CF_ERROR_CACHE_FULL, "12");
  OK(cf_decode_step(parent, 1, NULL));
  wait_fails(parent, CF_ERROR_CACHE_FULL, "32");
  cf_session *whole = NULL, *same_pool = NULL;
  OK(cf_session_fork(parent, 32, NULL, &whole)); /* the parent's capacity, and like it nothing reserved */
  TEST_ASSERT_EQUAL_INT64(32, state_of(whole).info.capacity_tokens);
  cf_session_destroy(whole);
  const cf_session_options defaults = fork_options(0, 1);
  OK(cf_session_fork(parent, 32, &defaults, &whole)); /* those of cf_session_create: max_position_embeddings, reserved */
  TEST_ASSERT_EQUAL_INT64(128, state_of(whole).info.capacity_tokens);
  TEST_ASSERT_EQUAL_INT64(8, state_of(whole).info.n_pages);
  cf_session_options options = fork_options(40, 0);
  options.pool = pool;
  options.page_tokens = 64; /* the pool's are what counts */
  options.kv_dtype = CF_DTYPE_F16;
  OK(cf_session_fork(parent, 32, &options, &same_pool));
  TEST_ASSERT_EQUAL_INT32(PAGE, state_of(same_pool).info.page_tokens);
  TEST_ASSERT_EQUAL_INT32(CF_DTYPE_F32, state_of(same_pool).info.kv_dtype);
  cf_session_destroy(parent);
  cf_session_destroy(wider);
  cf_session_destroy(narrower);
  cf_session_destroy(whole);
  cf_session_destroy(same_pool);
}

static void test_arguments_that_are_wrong(void) {
  cf_session* parent = make_parent(pool, 20, 64, 0);
  cf_session* const untouched = parent;
  cf_session* fork = untouched;
  cf_kv_pool* another = make_pool(64, PAGE);
  const cf_session_options good = fork_options(64, 0);
  cf_session_options options;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "session", cf_session_fork(NULL, 0, &good, &fork));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "fork", cf_session_fork(parent, 0, &good, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "position is -1", cf_session_fork(parent, -1, &good, &fork));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "position is 21", cf_session_fork(parent, 21, &good, &fork));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "position", cf_session_fork(parent, INT64_MAX, &good, &fork));
  options = good, options.capacity_tokens = 19;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "capacity of 19", cf_session_fork(parent, 20, &options, &fork));
  options = good, options.capacity_tokens = -1;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "capacity_tokens is -1", cf_session_fork(parent, 20, &options, &fork));
  options = good, options.reserve = 2;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "reserve is 2", cf_session_fork(parent, 20, &options, &fork));
  options = good, options.pool = another;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "pool", cf_session_fork(parent, 20, &options, &fork));
  options = good, options.launch_mode = 9;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "launch_mode is 9", cf_session_fork(parent, 20, &options, &fork));
  options = good, options.stream = &options;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "stream", cf_session_fork(parent, 20, &options, &fork));
  options = good, options.struct_size = 3;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "struct_size", cf_session_fork(parent, 20, &options, &fork));
  TEST_ASSERT_TRUE(fork == untouched);
  expect_pages(pool, 62, 0, "after forks that were refused");
  expect_goes_on_like(prompt, 20, parent, others, STEPS);
  cf_kv_pool_destroy(another);
  cf_session_destroy(parent);
}

/* ---- Batches ---- */

static void test_eight_forks_in_one_batch(void) {
  enum { N = 8 };
  cf_session *parent = make_parent(pool, 41, 128, 0), *forks[N], *alone[N];
  for (int i = 0; i < N; i++) {
    forks[i] = make_fork(parent, 41, 128, i & 1);
    alone[i] = make_session(model, 128);
    OK(cf_prefill(alone[i], prompt, 41, NULL));
  }
  for (int round = 0; round < 12; round++) {
    cf_outputs outputs = outputs_into(&other, 0);
    outputs.row_tokens = other.tokens;
    const cf_step_options options = step_with(&outputs);
    OK(cf_decode_batch(forks, N, round == 0 ? others : NULL, &options));
    for (int i = 0; i < N; i++) {
      decode(alone[i], round == 0 ? others[i] : CF_TOKEN_PENDING, &reference, (size_t)i);
      TEST_ASSERT_EQUAL_INT32(reference.tokens[i], wait_ok(forks[i]).token);
    }
    expect_same_logits(&reference, &other, 0, N, "batch");
  }
  expect_goes_on_like(prompt, 41, parent, others, STEPS);
  for (int i = 0; i < N; i++) {
    cf_session_destroy(forks[i]);
    cf_session_destroy(alone[i]);
  }
  cf_session_destroy(parent);
}

static void test_sixty_four_sessions_that_share_a_prefix(void) {
  enum { N = 64 };
  cf_kv_pool* big = make_pool(320 * PAGE, PAGE);
  cf_session *parent = make_parent(big, N, N + 8, 0), *forks[N];
  for (int i = 0; i < N; i++) forks[i] = make_fork(parent, i + 1, N + 8, 0);
  expect_pages(big, 316, 4, "forked");
  for (size_t round = 0; round < 2; round++) {
    cf_outputs outputs = outputs_into(&other, 0);
    outputs.row_tokens = other.tokens;
    const cf_step_options options = step_with(&outputs);
    OK(cf_decode_batch(forks, N, round == 0 ? others : NULL, &options));
    for (int i = 0; i < N; i++) {
      cf_session* never = make_session(model, N + 8);
      OK(cf_prefill(never, prompt, (size_t)i + 1, NULL));
      decode(never, others[i], &reference, (size_t)i);
      if (round) decode(never, CF_TOKEN_PENDING, &reference, (size_t)i);
      TEST_ASSERT_EQUAL_INT32(reference.tokens[i], wait_ok(forks[i]).token);
      TEST_ASSERT_EQUAL_INT64(i + 2 + (int64_t)round, state_of(forks[i]).info.position);
      cf_session_destroy(never);
    }
    expect_same_logits(&reference, &other, 0, N, "batch");
  }
  /* The pages below the one that each writes to are still the parent's. */
  TEST_ASSERT_EQUAL_INT64(4, pool_info(big).n_pages_shared);
  TEST_ASSERT_EQUAL_INT64(316 - N - 4, pool_info(big).n_pages_free); /* one each, and a second where the first round filled a page */
  cf_session_destroy(parent);
  for (int i = 0; i < N; i++) cf_session_destroy(forks[i]);
  expect_pages(big, 320, 0, "all have gone");
  cf_kv_pool_destroy(big);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_fork_equals_a_session_that_never_went_further);
  RUN_TEST(test_fork_equals_a_session_that_never_went_further_for_gpt_neox);
  RUN_TEST(test_parent_and_fork_leave_each_other_alone);
  RUN_TEST(test_going_back_below_the_fork);
  RUN_TEST(test_forks_of_forks);
  RUN_TEST(test_pages_are_shared_until_written);
  RUN_TEST(test_reserved_pages_are_there_for_the_copies);
  RUN_TEST(test_a_full_pool_loses_nothing);
  RUN_TEST(test_forks_that_find_no_room);
  RUN_TEST(test_a_private_pool);
  RUN_TEST(test_the_parent_goes_first);
  RUN_TEST(test_sampler_and_pending_token);
  RUN_TEST(test_a_failed_parent);
  RUN_TEST(test_capacity_is_the_forks_own);
  RUN_TEST(test_arguments_that_are_wrong);
  RUN_TEST(test_eight_forks_in_one_batch);
  RUN_TEST(test_sixty_four_sessions_that_share_a_prefix);
  return UNITY_END();
}
