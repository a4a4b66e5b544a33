/* Saved sessions: they go on bit for bit wherever they are restored, and anything that is not whole or not this model's is refused. */
#define _XOPEN_SOURCE 700

#include "unity.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/session_world.h"

enum { PAGE = 16, AT = 45, STEPS = 10 }; /* AT: three pages, the last one not full */

static char* dir;

void setUp(void) {
  dir = make_temp_dir();
  begin_world();
}

void tearDown(void) {
  end_world();
  remove_tree(dir);
  free(dir);
}

/* ---- Saving and restoring ---- */

struct saved {
  unsigned char* bytes;
  size_t size;
};

static struct saved save(cf_session* session) {
  struct saved saved = {NULL, 0};
  OK(cf_session_save(session, NULL, 0, &saved.size));
  saved.bytes = (unsigned char*)malloc(saved.size);
  TEST_ASSERT_NOT_NULL(saved.bytes);
  size_t size = 0;
  OK(cf_session_save(session, saved.bytes, saved.size, &size));
  TEST_ASSERT_EQUAL_size_t(saved.size, size);
  return saved;
}

static cf_session_options restore_options(int64_t capacity) {
  cf_session_options options;
  OK(cf_session_options_init(&options, sizeof options));
  options.capacity_tokens = capacity;
  return options;
}

static cf_session* restore(cf_model* into, const cf_session_options* options, struct saved saved) {
  cf_session* session = NULL;
  OK(cf_session_restore(into, options, saved.bytes, saved.size, &session));
  return session;
}

static void expect_same_saved(struct saved expected, struct saved actual, const char* what) {
  TEST_ASSERT_EQUAL_size_t_MESSAGE(expected.size, actual.size, what);
  TEST_ASSERT_EQUAL_MEMORY_MESSAGE(expected.bytes, actual.bytes, expected.size, what);
}

static uint64_t allocated_bytes(void) {
  cf_context_info info;
  OK(cf_context_info_init(&info, sizeof info));
  OK(cf_context_query(context, &info));
  return info.allocated_bytes;
}

static cf_session* make_prompted(cf_dtype kv_dtype, int32_t page_tokens, size_t n) {
  cf_session* session = make_session_with_kv(kv_dtype, page_tokens);
  OK(cf_prefill(session, prompt, n, NULL));
  wait_ok(session);
  return session;
}

/* Everything that a sampler can be given. */
static void set_every_option(cf_session* session) {
  static const int32_t bias_tokens[3] = {5, 90, 31}, stops[2] = {95, 0};
  static const float biases[3] = {-1.5f, 2, -INFINITY};
  static const uint32_t mask[3] = {0xfffffff6, 0xffffffff, 0x7fffffff}; /* not 0, 3 and 95: never stops */
  cf_sampler_options sampler;
  OK(cf_sampler_options_init(&sampler, sizeof sampler));
  sampler.temperature = 1.3f;
  sampler.top_k = 40;
  sampler.top_p = 0.95f;
  sampler.min_p = 0.001f;
  sampler.repetition_penalty = 1.1f;
  sampler.seed = 0x123456789abcdef0;
  sampler.n_logit_biases = 3, sampler.logit_bias_tokens = bias_tokens, sampler.logit_bias_values = biases;
  sampler.n_stop_tokens = 2, sampler.stop_tokens = stops;
  OK(cf_session_set_sampler(session, &sampler));
  OK(cf_session_set_allowed_tokens(session, mask, 3));
}

/* The next steps of `session`, to compare others with; it is back where it was then. */
static void go_on(cf_session* session, struct rows* rows) {
  const int64_t at = wait_ok(session).position;
  for (size_t i = 0; i < STEPS; i++) decode(session, CF_TOKEN_PENDING, rows, i);
  OK(cf_session_truncate(session, at));
}

static void expect_goes_on(cf_session* restored, const char* what) {
  go_on(restored, &other);
  expect_same_logits(&reference, &other, 0, STEPS, what);
  TEST_ASSERT_EQUAL_INT32_ARRAY_MESSAGE(reference.tokens, other.tokens, STEPS, what);
}

static void expect_same_state(cf_session* expected, cf_session* actual) {
  const struct state e = state_of(expected), a = state_of(actual);
  TEST_ASSERT_EQUAL_INT64(e.result.position, a.result.position);
  TEST_ASSERT_EQUAL_INT32(e.result.token, a.result.token);
  TEST_ASSERT_EQUAL_size_t(e.n_tokens, a.n_tokens);
  TEST_ASSERT_EQUAL_INT32_ARRAY(e.tokens, a.tokens, e.n_tokens);
}

/* Restores in every way that keeps the bits: this context and another, other pages, private and shared pools. */
static void expect_restores_everywhere(cf_session* session, cf_dtype kv_dtype) {
  go_on(session, &reference);
  const struct saved saved = save(session);
  cf_session_options options = restore_options(LENGTH + 10);
  for (int32_t page_tokens = 16; page_tokens <= 256; page_tokens *= 2) {
    for (int32_t reserve = 0; reserve <= 1; reserve++) {
      options.page_tokens = page_tokens;
      options.reserve = reserve;
      cf_session* restored = restore(model, &options, saved);
      expect_same_state(session, restored);
      TEST_ASSERT_EQUAL_INT32(page_tokens, state_of(restored).info.page_tokens);
      TEST_ASSERT_EQUAL_INT32(kv_dtype, state_of(restored).info.kv_dtype);
      expect_goes_on(restored, "restored");
      const struct saved again = save(restored);
      if (page_tokens == PAGE) expect_same_saved(saved, again, "saved again");
      free(again.bytes);
      cf_session_destroy(restored);
    }
  }
  cf_kv_pool_options pool_options;
  cf_kv_pool* pool = NULL;
  OK(cf_kv_pool_options_init(&pool_options, sizeof pool_options));
  pool_options.page_tokens = 32;
  pool_options.kv_dtype = kv_dtype;
  pool_options.capacity_tokens = 8 * 32;
  OK(cf_kv_pool_create(model, &pool_options, &pool));
  options = restore_options(LENGTH);
  options.pool = pool;
  cf_session *one = restore(model, &options, saved), *two = NULL;
  options.reserve = 0;
  two = restore(model, &options, saved);
  TEST_ASSERT_EQUAL_INT64(8 - 3 - 2, free_pages(pool));
  expect_goes_on(one, "in a shared pool, reserved");
  expect_goes_on(two, "in a shared pool");
  cf_session_destroy(one);
  cf_session_destroy(two);
  TEST_ASSERT_EQUAL_INT64(8, free_pages(pool));
  cf_kv_pool_destroy(pool);

  cf_context_options context_options;
  cf_context* elsewhere = NULL;
  OK(cf_context_options_init(&context_options, sizeof context_options));
  context_options.cpu_threads = 2;
  OK(cf_context_create(&context_options, &elsewhere));
  cf_model* same = make_model(elsewhere, &tiny);
  options = restore_options(0);
  one = restore(same, &options, saved);
  cf_model_destroy(same);
  cf_context_destroy(elsewhere);
  expect_goes_on(one, "in another context");
  cf_session_destroy(one);
  free(saved.bytes);
}

static void test_greedy_sessions_go_on(void) {
  for (cf_dtype kv_dtype = CF_DTYPE_F32; kv_dtype <= CF_DTYPE_BF16; kv_dtype++) {
    cf_session* session = make_prompted(kv_dtype, PAGE, AT);
    expect_restores_everywhere(session, kv_dtype);
    cf_session_destroy(session);
  }
}

static void test_sampled_sessions_go_on(void) {
  for (cf_dtype kv_dtype = CF_DTYPE_F32; kv_dtype <= CF_DTYPE_BF16; kv_dtype++) {
    cf_session* session = make_session_with_kv(kv_dtype, PAGE);
    set_every_option(session);
    OK(cf_prefill(session, prompt, 30, NULL));
    OK(cf_decode_steps(session, AT - 30, NULL));
    expect_restores_everywhere(session, kv_dtype);
    cf_session_destroy(session);
  }
}

static void test_sessions_of_gpt_neox_go_on(void) {
  use_model(CF_FAMILY_GPT_NEOX);
  cf_session* session = make_prompted(CF_DTYPE_F32, PAGE, AT);
  expect_restores_everywhere(session, CF_DTYPE_F32);
  cf_session_destroy(session);
}

/* Every length around the edges of a page. */
static void test_every_length(void) {
  for (size_t n = 1; n <= 34; n++) {
    cf_session* session = make_prompted(CF_DTYPE_F32, PAGE, n);
    const struct saved saved = save(session);
    const cf_session_options options = restore_options((int64_t)n + STEPS);
    cf_session* restored = restore(model, &options, saved);
    go_on(session, &reference);
    expect_goes_on(restored, "restored");
    cf_session_destroy(restored);
    cf_session_destroy(session);
    free(saved.bytes);
  }
}

/* Halves become floats and halves again without loss. */
static void test_other_kv_dtypes(void) {
  for (cf_dtype kv_dtype = CF_DTYPE_F16; kv_dtype <= CF_DTYPE_BF16; kv_dtype++) {
    cf_session* session = make_prompted(kv_dtype, PAGE, AT);
    const struct saved saved = save(session);
    cf_session_options options = restore_options(LENGTH);
    options.kv_dtype = CF_DTYPE_F32;
    options.page_tokens = 64;
    cf_session* wide = restore(model, &options, saved);
    TEST_ASSERT_EQUAL_INT32(CF_DTYPE_F32, state_of(wide).info.kv_dtype);
    const struct saved of_wide = save(wide);
    options.kv_dtype = kv_dtype;
    options.page_tokens = PAGE;
    cf_session* narrow = restore(model, &options, of_wide);
    const struct saved again = save(narrow);
    expect_same_saved(saved, again, "there and back");
    decode(wide, 1, &other, 0); /* one step reads nothing but what was restored */
    decode(session, 1, &reference, 0);
    for (int i = 0; i < VOCAB; i++) TEST_ASSERT_FLOAT_WITHIN(0.1f, reference.logits[0][i], other.logits[0][i]);
    cf_session_destroy(session);
    cf_session_destroy(wide);
    cf_session_destroy(narrow);
    free(saved.bytes);
    free(of_wide.bytes);
    free(again.bytes);
  }
}

/* ---- What is saved ---- */

/* The same bytes, however a session came to where it is. */
static void test_bytes_depend_on_nothing_else(void) {
  cf_session *plain = make_prompted(CF_DTYPE_F32, PAGE, AT), *further = make_prompted(CF_DTYPE_F32, PAGE, LENGTH);
  cf_session* growing = make_growing_session(LENGTH, PAGE);
  OK(cf_prefill(growing, prompt, AT, NULL));
  OK(cf_decode_steps(growing, STEPS, NULL));
  OK(cf_session_truncate(growing, AT));
  cf_session_options options = restore_options(LENGTH);
  options.reserve = 0;
  cf_session* fork = NULL;
  OK(cf_session_fork(growing, AT, &options, &fork));
  const struct saved saved = save(plain), again = save(plain), of_growing = save(growing), of_fork = save(fork);
  expect_same_saved(saved, again, "saved twice");
  expect_same_saved(saved, of_growing, "gone back");
  expect_same_saved(saved, of_fork, "a fork");
  OK(cf_session_truncate(further, AT)); /* its pending token is that of the prompt */
  OK(cf_session_truncate(plain, AT - 1));
  OK(cf_session_truncate(further, AT - 1));
  const struct saved shorter = save(plain), shortened = save(further);
  expect_same_saved(shorter, shortened, "both gone back");
  struct saved all[] = {saved, again, of_growing, of_fork, shorter, shortened};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i].bytes);
  cf_session_destroy(plain);
  cf_session_destroy(further);
  cf_session_destroy(growing);
  cf_session_destroy(fork);
}

static void test_a_session_without_positions(void) {
  cf_session* session = make_session_with_kv(CF_DTYPE_BF16, PAGE);
  set_every_option(session);
  const struct saved saved = save(session);
  const cf_session_options options = restore_options(LENGTH + 10);
  cf_session* restored = restore(model, &options, saved);
  TEST_ASSERT_EQUAL_INT64(0, wait_ok(restored).position);
  TEST_ASSERT_EQUAL_INT32(-1, wait_ok(restored).token);
  TEST_ASSERT_EQUAL_INT32(CF_DTYPE_BF16, state_of(restored).info.kv_dtype);
  cf_session* both[2] = {session, restored};
  for (int i = 0; i < 2; i++) prefill(both[i], prompt, 20, i ? &other : &reference, 0);
  expect_same_logits(&reference, &other, 0, 20, "prefill");
  go_on(session, &reference);
  expect_goes_on(restored, "restored");
  /* A pending first token: fed, gone back to 0. */
  OK(cf_session_truncate(session, 0));
  const struct saved of_pending = save(session);
  cf_session* pending = restore(model, &options, of_pending);
  TEST_ASSERT_EQUAL_INT32(prompt[0], wait_ok(pending).token);
  cf_session_destroy(session);
  cf_session_destroy(restored);
  cf_session_destroy(pending);
  free(saved.bytes);
  free(of_pending.bytes);
}

static void test_no_token_pending(void) {
  cf_session* session = make_session(model, LENGTH);
  cf_step_options unsampled;
  OK(cf_step_options_init(&unsampled, sizeof unsampled));
  unsampled.sample = 0;
  OK(cf_prefill(session, prompt, 20, &unsampled));
  const struct saved saved = save(session);
  const cf_session_options options = restore_options(LENGTH);
  cf_session* restored = restore(model, &options, saved);
  TEST_ASSERT_EQUAL_INT32(-1, wait_ok(restored).token);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "pending", cf_decode_step(restored, CF_TOKEN_PENDING, NULL));
  decode(session, 7, &reference, 0);
  decode(restored, 7, &other, 0);
  expect_same_logits(&reference, &other, 0, 1, "a given token");
  cf_session_destroy(session);
  cf_session_destroy(restored);
  free(saved.bytes);
}

static void test_stop_tokens(void) {
  cf_session* session = make_prompted(CF_DTYPE_F32, PAGE, AT);
  go_on(session, &reference);
  cf_sampler_options sampler;
  OK(cf_sampler_options_init(&sampler, sizeof sampler));
  sampler.n_stop_tokens = 1, sampler.stop_tokens = &reference.tokens[4];
  OK(cf_session_set_sampler(session, &sampler));
  const struct saved saved = save(session);
  cf_session* restored = restore(model, NULL, saved);
  OK(cf_decode_steps(restored, STEPS, NULL));
  const cf_result result = wait_ok(restored);
  TEST_ASSERT_EQUAL_INT32(1, result.stopped);
  TEST_ASSERT_EQUAL_INT32(reference.tokens[4], result.token);
  TEST_ASSERT_LESS_OR_EQUAL(5, result.n_steps);
  cf_session_destroy(session);
  cf_session_destroy(restored);
  free(saved.bytes);
}

/* ---- Buffers, capacities, pools ---- */

static void test_buffers(void) {
  cf_session* session = make_prompted(CF_DTYPE_F32, PAGE, AT);
  const struct state before = state_of(session);
  size_t size = 0, size_again = 1;
  OK(cf_session_save(session, NULL, 0, &size));
  TEST_ASSERT_EQUAL_size_t(48 + 32 + 3 * 8 + (AT + 1) * 4 + 3 * 2 * 2 * 2 * PAGE * 32 * 4 + 8, size); /* 3 pages, 2 layers, K and V, 2 heads */
  OK(cf_session_save(session, NULL, 5, &size_again));
  TEST_ASSERT_EQUAL_size_t(size, size_again);
  unsigned char *buffer = (unsigned char*)malloc(size + 8), zeros[8] = {0};
  memset(buffer, 0, size + 8);
  size_again = 0;
  FAILS(CF_ERROR_BUFFER_TOO_SMALL, "needs", cf_session_save(session, buffer, size - 1, &size_again));
  TEST_ASSERT_EQUAL_size_t(size, size_again);
  FAILS(CF_ERROR_BUFFER_TOO_SMALL, "needs", cf_session_save(session, buffer, 0, &size_again));
  TEST_ASSERT_EQUAL_MEMORY(zeros, buffer, 8);
  OK(cf_session_save(session, buffer, size, &size_again));
  TEST_ASSERT_EQUAL_MEMORY("CFSESSN\n\x01\0\0\0", buffer, 12);
  TEST_ASSERT_EQUAL_MEMORY(zeros, buffer + size, 8);
  OK(cf_session_save(session, buffer, size + 8, &size_again));
  TEST_ASSERT_EQUAL_size_t(size, size_again);
  TEST_ASSERT_EQUAL_MEMORY(zeros, buffer + size, 8);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "session", cf_session_save(NULL, buffer, size, &size_again));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "size_bytes", cf_session_save(session, buffer, size, NULL));
  const struct state after = state_of(session);
  TEST_ASSERT_EQUAL_MEMORY(&before, &after, sizeof before);
  cf_session_destroy(session);
  free(buffer);
}

static void test_restoring_with_wrong_arguments(void) {
  cf_session *session = make_prompted(CF_DTYPE_F32, PAGE, AT), *restored = session;
  const struct saved saved = save(session);
  cf_session_options options = restore_options(AT - 1);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "45 positions", cf_session_restore(model, &options, saved.bytes, saved.size, &restored));
  options.capacity_tokens = -1;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "capacity_tokens", cf_session_restore(model, &options, saved.bytes, saved.size, &restored));
  options = restore_options(LENGTH), options.page_tokens = 20;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "page_tokens", cf_session_restore(model, &options, saved.bytes, saved.size, &restored));
  options = restore_options(LENGTH), options.kv_dtype = 9;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "kv_dtype", cf_session_restore(model, &options, saved.bytes, saved.size, &restored));
  options = restore_options(LENGTH);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "model", cf_session_restore(NULL, &options, saved.bytes, saved.size, &restored));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "buffer", cf_session_restore(model, &options, NULL, 0, &restored));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "session", cf_session_restore(model, &options, saved.bytes, saved.size, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "path", cf_session_restore_file(model, &options, NULL, &restored));
  TEST_ASSERT_TRUE(restored == session);
  options = restore_options(AT);
  restored = restore(model, &options, saved);
  OK(cf_decode_step(restored, CF_TOKEN_PENDING, NULL)); /* holds no more */
  wait_fails(restored, CF_ERROR_CACHE_FULL, "45");
  expect_same_state(session, restored);
  cf_session_destroy(restored);
  cf_session_destroy(session);
  free(saved.bytes);
}

static void test_pools_without_room(void) {
  cf_session* session = make_prompted(CF_DTYPE_F32, PAGE, AT);
  const struct saved saved = save(session);
  cf_kv_pool* pool = make_pool(4 * PAGE, PAGE);
  cf_session *other_session = make_pooled_session(pool, 2 * PAGE, 1), *restored = session;
  cf_session_options options = restore_options(AT);
  options.pool = pool;
  for (options.reserve = 0; options.reserve <= 1; options.reserve++) {
    FAILS(CF_ERROR_CACHE_FULL, "3 pages", cf_session_restore(model, &options, saved.bytes, saved.size, &restored));
    TEST_ASSERT_EQUAL_INT64(2, free_pages(pool));
  }
  TEST_ASSERT_TRUE(restored == session);
  cf_session_destroy(other_session);
  options.reserve = 0;
  options.capacity_tokens = LENGTH;
  restored = restore(model, &options, saved);
  TEST_ASSERT_EQUAL_INT64(1, free_pages(pool));
  go_on(session, &reference);
  expect_goes_on(restored, "after room was made");
  cf_session_destroy(restored);
  TEST_ASSERT_EQUAL_INT64(4, free_pages(pool));
  cf_kv_pool_destroy(pool);
  cf_session_destroy(session);
  free(saved.bytes);
}

/* ---- Other models ---- */

static void expect_mismatch(cf_model* with, struct saved saved) {
  cf_session* restored = NULL;
  const cf_session_options options = restore_options(LENGTH);
  FAILS(CF_ERROR_MISMATCH, "another model", cf_session_restore(with, &options, saved.bytes, saved.size, &restored));
  TEST_ASSERT_NULL(restored);
}

static void test_other_models_are_refused(void) {
  cf_session* session = make_prompted(CF_DTYPE_F32, PAGE, AT);
  const struct saved saved = save(session);
  struct tiny_model changed = tiny;
  changed.seed++;
  cf_model* with = make_model(context, &changed);
  expect_mismatch(with, saved);
  cf_model_destroy(with);
  changed = tiny;
  changed.rope_theta *= 2; /* the same weights */
  with = make_model(context, &changed);
  expect_mismatch(with, saved);
  cf_model_destroy(with);
  tiny_model_init(&changed, CF_FAMILY_GPT_NEOX);
  with = make_model(context, &changed);
  expect_mismatch(with, saved);
  cf_model_destroy(with);
  cf_session_destroy(session);
  spoil_globals(7, -1, 0.25f); /* one weight of this very model, which the fingerprint samples */
  spoil_globals(0, -1, 0.25f);
  cf_session* restored = NULL;
  FAILS(CF_ERROR_MISMATCH, "other weights", cf_session_restore(model, NULL, saved.bytes, saved.size, &restored));
  free(saved.bytes);
}

static void test_a_model_without_weights(void) {
  cf_session* session = make_prompted(CF_DTYPE_F32, PAGE, AT);
  const struct saved saved = save(session);
  const cf_model_config config = describe_model(&tiny);
  cf_model* empty = NULL;
  cf_session* restored = NULL;
  OK(cf_model_create(context, &config, NULL, &empty));
  FAILS(CF_ERROR_NOT_LOADED, "", cf_session_restore(empty, NULL, saved.bytes, saved.size, &restored));
  TEST_ASSERT_NULL(restored);
  cf_model_destroy(empty);
  cf_session_destroy(session);
  free(saved.bytes);
}

/* ---- Damage ---- */

/* The smallest session that has everything: a page, tokens, biases, stop tokens, a mask. */
static struct saved make_small(void) {
  cf_model_destroy(model);
  tiny.n_layers = 1;
  tiny.hidden_size = tiny.head_dim = tiny.intermediate_size = 32;
  tiny.n_heads = tiny.n_kv_heads = 1;
  tiny.n_layers = 1;
  model = make_model(context, &tiny);
  cf_session* session = make_session_with_kv(CF_DTYPE_F16, PAGE);
  set_every_option(session);
  OK(cf_prefill(session, prompt, 3, NULL));
  wait_ok(session);
  const struct saved saved = save(session);
  TEST_ASSERT_EQUAL_size_t(48 + 32 + (8 + 3 * 8) + (8 + 2 * 4) + (8 + 3 * 4) + 4 * 4 + 2 * PAGE * 32 * 2 + 8, saved.size);
  cf_session_destroy(session);
  return saved;
}

static void expect_refused(const unsigned char* bytes, size_t size, const cf_session_options* options, const char* what) {
  cf_session* restored = NULL;
  const uint64_t before = allocated_bytes();
  expect_status(CF_ERROR_INVALID_FILE, "the saved session", cf_session_restore(model, options, bytes, size, &restored), what);
  TEST_ASSERT_NULL_MESSAGE(restored, what);
  TEST_ASSERT_EQUAL_UINT64_MESSAGE(before, allocated_bytes(), what);
}

static void test_every_truncation_is_refused(void) {
  const struct saved saved = make_small();
  const cf_session_options options = restore_options(16);
  for (size_t size = 0; size < saved.size; size++) {
    char what[40];
    unsigned char* exact = (unsigned char*)malloc(size + !size); /* for the sanitizer to see reads beyond */
    memcpy(exact, saved.bytes, size);
    snprintf(what, sizeof what, "%zu of %zu bytes", size, saved.size);
    expect_refused(exact, size, &options, what);
    free(exact);
  }
  unsigned char* longer = (unsigned char*)calloc(saved.size + 9, 1);
  memcpy(longer, saved.bytes, saved.size);
  for (size_t more = 1; more <= 9; more++) expect_refused(longer, saved.size + more, &options, "more bytes");
  free(longer);
  cf_session_destroy(restore(model, &options, saved));
  free(saved.bytes);
}

static void test_every_flipped_bit_is_refused(void) {
  const struct saved saved = make_small();
  const cf_session_options options = restore_options(16);
  cf_session* restored = NULL;
  const uint64_t before = allocated_bytes();
  for (size_t bit = 0; bit < saved.size * 8; bit++) {
    char what[40];
    snprintf(what, sizeof what, "bit %zu of byte %zu", bit % 8, bit / 8);
    saved.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    const int fingerprint = bit / 8 >= 16 && bit / 8 < 24;
    if (fingerprint) expect_status(CF_ERROR_MISMATCH, "another model", cf_session_restore(model, &options, saved.bytes, saved.size, &restored), what);
    else expect_refused(saved.bytes, saved.size, &options, what);
    TEST_ASSERT_NULL_MESSAGE(restored, what);
    saved.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
  }
  TEST_ASSERT_EQUAL_UINT64(before, allocated_bytes());
  cf_session_destroy(restore(model, &options, saved));
  free(saved.bytes);
}

/* Bytes that are no session at all. */
static void test_noise_is_refused(void) {
  const struct saved saved = make_small();
  const cf_session_options options = restore_options(16);
  struct random_stream stream = {5};
  unsigned char* noise = (unsigned char*)malloc(saved.size);
  for (int i = 0; i < 2000; i++) {
    const size_t size = (size_t)(random_bits(&stream) % (saved.size + 1));
    const size_t kept = i % 4 == 0 ? 0 : i % 4 == 1 ? 12 : i % 4 == 2 ? 48 : 112; /* the beginning is sound */
    for (size_t k = 0; k < saved.size; k++) noise[k] = k < kept ? saved.bytes[k] : (unsigned char)random_bits(&stream);
    if (i % 4 && size >= 32) memcpy(noise + 16, saved.bytes + 16, 8), memcpy(noise + 24, &(uint64_t){size}, 8);
    expect_refused(noise, size, &options, "noise");
  }
  free(noise);
  free(saved.bytes);
}

/* The checksum as session_file.cpp describes it: FNV-1a over 64-bit words, over each piece of the format by itself. */
static void add_word(uint64_t* state, uint64_t word) {
  *state = (*state ^ word) * 0x100000001b3u;
  *state ^= *state >> 29;
}

static const unsigned char* add_piece(uint64_t* state, const unsigned char* piece, size_t bytes) {
  const unsigned char* p = piece;
  for (; bytes >= 8; p += 8, bytes -= 8) {
    uint64_t word;
    memcpy(&word, p, 8);
    add_word(state, word);
  }
  uint64_t tail = bytes;
  for (; bytes; bytes--) tail = tail << 8 | *p++;
  add_word(state, tail);
  return p;
}

/* Gives make_small's bytes the checksum that they should have. */
static void sign(struct saved saved) {
  static const size_t pieces[] = {48, 32, 8, 3 * 4, 3 * 4, 8, 2 * 4, 8, 3 * 4, 4 * 4, 2 * PAGE * 32 * 2};
  uint64_t state = 0xcbf29ce484222325u;
  const unsigned char* p = saved.bytes;
  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) p = add_piece(&state, p, pieces[i]);
  TEST_ASSERT_EQUAL_size_t(saved.size - 8, (size_t)(p - saved.bytes));
  memcpy(saved.bytes + saved.size - 8, &state, 8);
}

struct forgery {
  size_t at, bytes;
  uint64_t value;
  const char* word; /* of the sentence */
};

/* A sound checksum over impossible contents. */
static void test_forgeries_are_refused(void) {
  enum { HEADER = 8, SAMPLER = 48, BIASES = 80, STOPS = 112, MASK = 128, TOKENS = 148 };
  static const struct forgery forgeries[] = {
      {0, 8, 0x0a4e53534553464d, "not a saved session"},
      {HEADER, 4, 0, "version 0"},
      {HEADER, 4, 2, "version 2, this library reads 1"},
      {HEADER + 4, 4, 0, "KV dtype 0"},
      {HEADER + 4, 4, 4, "KV dtype 4"},
      {HEADER + 4, 4, CF_DTYPE_F32, "bytes"},
      {HEADER + 16, 8, 5, "saved with 5"},
      {HEADER + 24, 8, (uint64_t)-1, "positions"},
      {HEADER + 24, 8, 2, "bytes"},
      {HEADER + 24, 8, 17, "bytes"},
      {HEADER + 24, 8, (uint64_t)1 << 62, "positions"},
      {HEADER + 24, 8, (uint64_t)1 << 31, "positions"},
      {HEADER + 32, 4, 2, "2 pending"},
      {HEADER + 32, 4, 0, "bytes"},
      {HEADER + 36, 4, 0, "pages of 0"},
      {HEADER + 36, 4, 8, "pages of 8"},
      {HEADER + 36, 4, 24, "pages of 24"},
      {HEADER + 36, 4, 512, "pages of 512"},
      {HEADER + 36, 4, 32, "bytes"},
      {SAMPLER, 4, 0x7fc00000, "temperature"},
      {SAMPLER, 4, 0xbf800000, "temperature"},
      {SAMPLER + 4, 4, 0x40000000, "top_p"},
      {SAMPLER + 8, 4, 0x40000000, "min_p"},
      {SAMPLER + 12, 4, 0, "repetition_penalty"},
      {SAMPLER + 16, 4, 0xffffffff, "top_k"},
      {SAMPLER + 20, 4, 1, "expected 0"},
      {BIASES, 8, 97, "97 logit biases"},
      {BIASES, 8, (uint64_t)-1, "logit biases"},
      {BIASES + 8, 4, VOCAB, "96"},
      {BIASES + 8, 4, 90, "twice"},
      {BIASES + 20, 4, 0x7f800000, "infinity"},
      {STOPS, 8, (uint64_t)1 << 61, "stop tokens"},
      {STOPS + 8, 4, 0xffffffff, "stop_tokens"},
      {MASK, 8, 4, "words of the token mask"},
      {MASK, 8, 2, "n_words"},
      {TOKENS, 4, VOCAB, "token 96"},
      {TOKENS + 12, 4, 0xffffffff, "token -1"},
  };
  const struct saved saved = make_small();
  const cf_session_options options = restore_options(16);
  unsigned char* original = (unsigned char*)malloc(saved.size);
  memcpy(original, saved.bytes, saved.size);
  sign(saved);
  TEST_ASSERT_EQUAL_MEMORY(original, saved.bytes, saved.size);
  for (size_t i = 0; i < sizeof forgeries / sizeof *forgeries; i++) {
    const struct forgery* f = &forgeries[i];
    char what[64], sentence[1024];
    snprintf(what, sizeof what, "byte %zu becomes 0x%llx", f->at, (unsigned long long)f->value);
    memcpy(saved.bytes, original, saved.size);
    memcpy(saved.bytes + f->at, &f->value, f->bytes);
    sign(saved);
    expect_refused(saved.bytes, saved.size, &options, what);
    OK(cf_last_error(sentence, sizeof sentence, NULL));
    if (!strstr(sentence, f->word)) TEST_FAIL_MESSAGE(sentence);
  }
  for (int token = 1; token < 3; token++) { /* a mask that allows nothing; one more harmless change goes through */
    memcpy(saved.bytes, original, saved.size);
    memset(saved.bytes + MASK + 8, 0, 12);
    if (token == 2) saved.bytes[MASK + 8] = 2;
    sign(saved);
    if (token == 1) expect_refused(saved.bytes, saved.size, &options, "a mask that allows nothing");
    else cf_session_destroy(restore(model, &options, saved));
  }
  free(original);
  free(saved.bytes);
}

/* ---- Files ---- */

static struct saved read_whole(const char* path) {
  struct saved file = {NULL, 0};
  FILE* stream = fopen(path, "rb");
  TEST_ASSERT_NOT_NULL_MESSAGE(stream, path);
  fseek(stream, 0, SEEK_END);
  file.size = (size_t)ftell(stream);
  rewind(stream);
  file.bytes = (unsigned char*)malloc(file.size + 1);
  TEST_ASSERT_EQUAL_size_t(file.size, fread(file.bytes, 1, file.size, stream));
  fclose(stream);
  return file;
}

static int exists(const char* path) {
  struct stat status;
  return lstat(path, &status) == 0;
}

static void test_files_hold_what_buffers_hold(void) {
  cf_session* session = make_session_with_kv(CF_DTYPE_F16, PAGE);
  set_every_option(session);
  OK(cf_prefill(session, prompt, AT, NULL));
  const char* path = path_in(dir, "session");
  for (int i = 0; i < 2; i++) { /* anew, and over the first */
    const struct saved saved = save(session);
    OK(cf_session_save_file(session, path));
    const struct saved file = read_whole(path);
    expect_same_saved(saved, file, "file");
    TEST_ASSERT_FALSE(exists(path_in(dir, "session.partial")));
    cf_session* restored = NULL;
    const cf_session_options options = restore_options(LENGTH + 10);
    OK(cf_session_restore_file(model, &options, path, &restored));
    go_on(session, &reference);
    expect_goes_on(restored, "from a file");
    cf_session_destroy(restored);
    free(saved.bytes);
    free(file.bytes);
    OK(cf_decode_steps(session, 5, NULL));
    wait_ok(session);
  }
  cf_session_destroy(session);
}

static void test_files_that_cannot_be_written(void) {
  cf_session* session = make_prompted(CF_DTYPE_F32, PAGE, AT);
  const struct state before = state_of(session);
  FAILS(CF_ERROR_IO, "nowhere", cf_session_save_file(session, path_in(dir, "nowhere/session")));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "path", cf_session_save_file(session, NULL));
  /* The target is a folder: found out at the very end. */
  TEST_ASSERT_EQUAL_INT(0, mkdir(path_in(dir, "folder"), 0777));
  FAILS(CF_ERROR_IO, "folder", cf_session_save_file(session, path_in(dir, "folder")));
  TEST_ASSERT_FALSE(exists(path_in(dir, "folder.partial")));
  /* No room: as on a full disk, an older file stays. */
  const char* path = path_in(dir, "session");
  write_text(dir, "session", "older");
  struct rlimit limit, small;
  TEST_ASSERT_EQUAL_INT(0, getrlimit(RLIMIT_FSIZE, &limit));
  small = limit;
  small.rlim_cur = 20000;
  signal(SIGXFSZ, SIG_IGN);
  TEST_ASSERT_EQUAL_INT(0, setrlimit(RLIMIT_FSIZE, &small));
  const cf_status status = cf_session_save_file(session, path);
  TEST_ASSERT_EQUAL_INT(0, setrlimit(RLIMIT_FSIZE, &limit));
  signal(SIGXFSZ, SIG_DFL);
  expect_status(CF_ERROR_IO, "cannot write", status, "beyond the limit");
  TEST_ASSERT_FALSE(exists(path_in(dir, "session.partial")));
  struct saved file = read_whole(path);
  expect_same_saved((struct saved){(unsigned char*)"older", 5}, file, "the older file");
  free(file.bytes);
  /* Another save of this path is under way, or was interrupted: it is not ours to overwrite. */
  write_text(dir, "session.partial", "another's");
  FAILS(CF_ERROR_IO, "session.partial", cf_session_save_file(session, path));
  file = read_whole(path_in(dir, "session.partial"));
  expect_same_saved((struct saved){(unsigned char*)"another's", 9}, file, "another's file");
  free(file.bytes);
  if (geteuid() != 0) { /* root may write anywhere */
    TEST_ASSERT_EQUAL_INT(0, unlink(path_in(dir, "session.partial")));
    TEST_ASSERT_EQUAL_INT(0, chmod(dir, 0555));
    FAILS(CF_ERROR_IO, "session.partial", cf_session_save_file(session, path));
    TEST_ASSERT_EQUAL_INT(0, chmod(dir, 0755));
  }
  const struct state after = state_of(session);
  TEST_ASSERT_EQUAL_MEMORY(&before, &after, sizeof before);
  cf_session_destroy(session);
}

static unsigned mode_of(const char* path) {
  struct stat status;
  TEST_ASSERT_EQUAL_INT(0, stat(path, &status));
  return status.st_mode & 07777;
}

static void test_what_is_at_the_path_already(void) {
  cf_session* session = make_prompted(CF_DTYPE_F32, PAGE, AT);
  const struct saved saved = save(session);
  TEST_ASSERT_EQUAL_INT(0, mkfifo(path_in(dir, "pipe"), 0600));
  FAILS(CF_ERROR_IO, "not a regular file", cf_session_save_file(session, path_in(dir, "pipe")));
  TEST_ASSERT_FALSE(exists(path_in(dir, "pipe.partial")));
  struct stat status;
  TEST_ASSERT_EQUAL_INT(0, stat(path_in(dir, "pipe"), &status));
  TEST_ASSERT_TRUE(S_ISFIFO(status.st_mode));
  /* A new file is its owner's alone; one that is replaced keeps its mode, also at the end of a link, which stays. */
  OK(cf_session_save_file(session, path_in(dir, "new")));
  TEST_ASSERT_EQUAL_UINT32(0600, mode_of(path_in(dir, "new")));
  write_text(dir, "old", "older");
  TEST_ASSERT_EQUAL_INT(0, chmod(path_in(dir, "old"), 0640));
  char* link = strdup(path_in(dir, "link"));
  TEST_ASSERT_EQUAL_INT(0, symlink("old", link));
  OK(cf_session_save_file(session, link));
  TEST_ASSERT_EQUAL_INT(0, lstat(link, &status));
  TEST_ASSERT_TRUE(S_ISLNK(status.st_mode));
  TEST_ASSERT_EQUAL_UINT32(0640, mode_of(path_in(dir, "old")));
  struct saved file = read_whole(path_in(dir, "old"));
  expect_same_saved(saved, file, "through a link");
  free(file.bytes);
  free(link);
  free(saved.bytes);
  cf_session_destroy(session);
}

/* Keys and values are those of the weights they were made with. */
static void test_weights_that_changed_meanwhile(void) {
  cf_session* session = make_growing_session(LENGTH, PAGE);
  OK(cf_prefill(session, prompt, AT, NULL));
  wait_ok(session);
  const struct saved before = save(session);
  cf_session *fork = NULL, *restored = NULL;
  const cf_session_options options = restore_options(LENGTH);
  OK(cf_session_restore(model, &options, before.bytes, before.size, &restored));
  OK(cf_session_fork(session, AT, NULL, &fork));
  spoil_globals(7, -1, 0.25f); /* one weight, which the fingerprint samples */
  spoil_globals(0, -1, 0.25f);
  cf_session* const stale[] = {session, restored, fork};
  for (int i = 0; i < 3; i++) {
    size_t size = 0;
    FAILS(CF_ERROR_MISMATCH, "weights have changed", cf_session_save(stale[i], NULL, 0, &size));
    FAILS(CF_ERROR_MISMATCH, "weights have changed", cf_session_save_file(stale[i], path_in(dir, "stale")));
    OK(cf_decode_step(stale[i], 1, NULL)); /* now of both */
    wait_ok(stale[i]);
    FAILS(CF_ERROR_MISMATCH, "weights have changed", cf_session_save(stale[i], NULL, 0, &size));
  }
  TEST_ASSERT_FALSE(exists(path_in(dir, "stale")));
  OK(cf_session_truncate(session, 0));
  OK(cf_prefill(session, prompt, 3, NULL));
  wait_ok(session);
  OK(cf_session_save_file(session, path_in(dir, "fresh")));
  free(before.bytes);
  cf_session_destroy(session);
  cf_session_destroy(restored);
  cf_session_destroy(fork);
}

static void test_files_that_cannot_be_read(void) {
  cf_session* restored = NULL;
  FAILS(CF_ERROR_IO, "nothing", cf_session_restore_file(model, NULL, path_in(dir, "nothing"), &restored));
  FAILS(CF_ERROR_IO, "regular", cf_session_restore_file(model, NULL, dir, &restored));
  write_text(dir, "empty", "");
  FAILS(CF_ERROR_INVALID_FILE, "empty", cf_session_restore_file(model, NULL, path_in(dir, "empty"), &restored));
  const struct saved saved = make_small();
  const uint64_t before = allocated_bytes();
  for (size_t size = 0; size < saved.size; size += 61) {
    write_file(dir, "cut", saved.bytes, size);
    FAILS(CF_ERROR_INVALID_FILE, "cut", cf_session_restore_file(model, NULL, path_in(dir, "cut"), &restored));
  }
  for (size_t bit = 0; bit < saved.size * 8; bit += 251) {
    if (bit / 64 == 2) continue; /* the fingerprint */
    saved.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    write_file(dir, "flipped", saved.bytes, saved.size);
    FAILS(CF_ERROR_INVALID_FILE, "flipped", cf_session_restore_file(model, NULL, path_in(dir, "flipped"), &restored));
    saved.bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
  }
  TEST_ASSERT_NULL(restored);
  TEST_ASSERT_EQUAL_UINT64(before, allocated_bytes());
  free(saved.bytes);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_greedy_sessions_go_on);
  RUN_TEST(test_sampled_sessions_go_on);
  RUN_TEST(test_sessions_of_gpt_neox_go_on);
  RUN_TEST(test_every_length);
  RUN_TEST(test_other_kv_dtypes);
  RUN_TEST(test_bytes_depend_on_nothing_else);
  RUN_TEST(test_a_session_without_positions);
  RUN_TEST(test_no_token_pending);
  RUN_TEST(test_stop_tokens);
  RUN_TEST(test_buffers);
  RUN_TEST(test_restoring_with_wrong_arguments);
  RUN_TEST(test_pools_without_room);
  RUN_TEST(test_other_models_are_refused);
  RUN_TEST(test_a_model_without_weights);
  RUN_TEST(test_every_truncation_is_refused);
  RUN_TEST(test_every_flipped_bit_is_refused);
  RUN_TEST(test_noise_is_refused);
  RUN_TEST(test_forgeries_are_refused);
  RUN_TEST(test_files_hold_what_buffers_hold);
  RUN_TEST(test_files_that_cannot_be_written);
  RUN_TEST(test_what_is_at_the_path_already);
  RUN_TEST(test_weights_that_changed_meanwhile);
  RUN_TEST(test_files_that_cannot_be_read);
  return UNITY_END();
}
