/* A tiny Llama of which sessions are made, a prompt, and steps whose logits are compared bit by bit. For suites that include
 * unity.h first and whose setUp and tearDown begin and end the world. */
#ifndef SESSION_WORLD_H
#define SESSION_WORLD_H

#include "support/session_helpers.h"

enum { VOCAB = 96, LENGTH = 70 }; /* LENGTH: more than one piece of prefill, more than one page */

static struct tiny_model tiny;
static cf_context* context;
static cf_model* model;
static int32_t prompt[LENGTH];

static UNITY_UNUSED void begin_world(void) {
  tiny_model_init(&tiny, CF_FAMILY_LLAMA);
  tiny.n_heads = 4; /* grouped: two per K and V head */
  context = make_cpu_context(NULL, NULL);
  model = make_model(context, &tiny);
  fill_tokens(prompt, LENGTH, VOCAB, 3);
}

static UNITY_UNUSED void end_world(void) {
  cf_model_destroy(model);
  cf_context_destroy(context);
}

static UNITY_UNUSED void use_model(cf_family family) {
  cf_model_destroy(model);
  tiny_model_init(&tiny, family);
  model = make_model(context, &tiny);
}

/* ---- Sessions ---- */

static UNITY_UNUSED cf_session* make_session_with_kv(cf_dtype kv_dtype, int32_t page_tokens) {
  cf_session_options options;
  cf_session* session = NULL;
  OK(cf_session_options_init(&options, sizeof options));
  options.capacity_tokens = LENGTH + 10;
  options.kv_dtype = kv_dtype;
  options.page_tokens = page_tokens;
  OK(cf_session_create(model, &options, &session));
  return session;
}

/* ---- Steps with outputs ---- */

/* Logits and sampled tokens of up to LENGTH rows. */
struct rows {
  float logits[LENGTH][VOCAB];
  int32_t tokens[LENGTH];
  cf_status status[LENGTH];
};

static UNITY_UNUSED cf_outputs outputs_into(struct rows* rows, size_t first) {
  cf_outputs outputs;
  OK(cf_outputs_init(&outputs, sizeof outputs));
  outputs.rows = CF_ROWS_ALL;
  outputs.logits = rows->logits[first];
  outputs.row_status = rows->status + first;
  return outputs;
}

static UNITY_UNUSED cf_step_options step_with(cf_outputs* outputs) {
  cf_step_options options;
  OK(cf_step_options_init(&options, sizeof options));
  options.outputs = outputs;
  return options;
}

static UNITY_UNUSED void prefill(cf_session* session, const int32_t* tokens, size_t n, struct rows* rows, size_t first) {
  cf_outputs outputs = outputs_into(rows, first);
  const cf_step_options options = step_with(&outputs);
  OK(cf_prefill(session, tokens, n, &options));
  wait_ok(session);
}

static UNITY_UNUSED int32_t decode(cf_session* session, int32_t token, struct rows* rows, size_t row) {
  cf_outputs outputs = outputs_into(rows, row);
  outputs.row_tokens = rows->tokens + row;
  const cf_step_options options = step_with(&outputs);
  OK(cf_decode_step(session, token, &options));
  const cf_result result = wait_ok(session);
  TEST_ASSERT_EQUAL_INT32(result.token, rows->tokens[row]);
  return result.token;
}

static UNITY_UNUSED void decode_positions(cf_session* session, const int32_t* tokens, size_t n, struct rows* rows, size_t first) {
  cf_outputs outputs = outputs_into(rows, first);
  outputs.row_tokens = rows->tokens + first;
  const cf_step_options options = step_with(&outputs);
  OK(cf_decode_positions(session, tokens, n, &options));
  TEST_ASSERT_EQUAL_INT32(rows->tokens[first + n - 1], wait_ok(session).token);
}

static UNITY_UNUSED void expect_same_logits(const struct rows* expected, const struct rows* actual, size_t first, size_t n, const char* what) {
  for (size_t row = first; row < first + n; row++) {
    char text[128];
    snprintf(text, sizeof text, "%s, row %zu", what, row);
    TEST_ASSERT_EQUAL_MEMORY_MESSAGE(expected->logits[row], actual->logits[row], sizeof expected->logits[row], text);
  }
}

/* The prompt one token after another. */
static UNITY_UNUSED void decode_prompt(cf_session* session, struct rows* rows) {
  for (size_t i = 0; i < LENGTH; i++) decode(session, prompt[i], rows, i);
}

static struct rows reference, other; /* 27 kB each */

/* ---- Pools ---- */

static UNITY_UNUSED cf_kv_pool* make_pool(int64_t capacity, int32_t page_tokens) {
  cf_kv_pool_options options;
  cf_kv_pool* pool = NULL;
  OK(cf_kv_pool_options_init(&options, sizeof options));
  options.capacity_tokens = capacity;
  options.page_tokens = page_tokens;
  OK(cf_kv_pool_create(model, &options, &pool));
  return pool;
}

static UNITY_UNUSED cf_session* make_pooled_session(cf_kv_pool* pool, int64_t capacity, int32_t reserve) {
  cf_session_options options;
  cf_session* session = NULL;
  OK(cf_session_options_init(&options, sizeof options));
  options.pool = pool;
  options.capacity_tokens = capacity;
  options.reserve = reserve;
  OK(cf_session_create(model, &options, &session));
  return session;
}

static UNITY_UNUSED int64_t free_pages(const cf_kv_pool* pool) {
  cf_kv_pool_info info;
  OK(cf_kv_pool_info_init(&info, sizeof info));
  OK(cf_kv_pool_query(pool, &info));
  return info.n_pages_free;
}

/* ---- States ---- */

/* What can be seen of a session. */
struct state {
  cf_result result;
  int32_t tokens[LENGTH];
  size_t n_tokens;
  cf_session_info info;
};

static UNITY_UNUSED struct state state_of(cf_session* session) {
  struct state state;
  memset(&state, 0, sizeof state);
  OK(cf_result_init(&state.result, sizeof state.result));
  cf_session_wait(session, &state.result);
  state.result.status = CF_OK;
  state.result.n_steps = 0;
  OK(cf_session_tokens(session, 0, state.tokens, LENGTH, &state.n_tokens));
  OK(cf_session_info_init(&state.info, sizeof state.info));
  OK(cf_session_query(session, &state.info));
  return state;
}

/* A session that something failed on, and one that nothing was tried on, look the same and go on alike. */
static UNITY_UNUSED void expect_same_sessions(cf_session* expected, cf_session* actual) {
  const struct state e = state_of(expected), a = state_of(actual);
  TEST_ASSERT_EQUAL_MEMORY(&e, &a, sizeof e);
  decode(expected, CF_TOKEN_PENDING, &reference, 0);
  decode(actual, CF_TOKEN_PENDING, &other, 0);
  expect_same_logits(&reference, &other, 0, 1, "going on");
}

static UNITY_UNUSED cf_session* make_growing_session(int64_t capacity, int32_t page_tokens) {
  cf_session_options options;
  cf_session* session = NULL;
  OK(cf_session_options_init(&options, sizeof options));
  options.capacity_tokens = capacity;
  options.page_tokens = page_tokens;
  options.reserve = 0;
  OK(cf_session_create(model, &options, &session));
  return session;
}

/* Loads the globals again with this value in the embedding of this token, or as an element of the head. */
static UNITY_UNUSED void spoil_globals(int32_t embedding_of, int32_t head_of, float value) {
  struct tensor_list tensors = tiny_model_tensors(&tiny);
  cf_tensor descriptors[MAX_DESCRIPTORS];
  float* embedding = (float*)find_tensor(&tensors, "model.embed_tokens.weight")->data;
  float* head = (float*)find_tensor(&tensors, "lm_head.weight")->data;
  if (embedding_of >= 0) embedding[embedding_of * tiny.hidden_size + 5] = value;
  if (head_of >= 0) head[head_of * tiny.hidden_size + 5] = value;
  OK(cf_load_globals(model, descriptors, describe_tensors(&tiny, &tensors, GLOBALS, descriptors), NULL));
  free_tensors(&tensors);
}

#endif
