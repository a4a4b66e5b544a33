// operator new that fails: once at the n-th call, for every n until all goes well, from loading to destroying. The library's
// bookkeeping uses it; weights, pages and work buffers go the same way without an allocator callback (test_api.c has those).
#include "unity.h"

#include <cstddef>
#include <cstdlib>
#include <new>

#include "support/expect_load.h"
#include "support/model_maker.h"

static bool armed;        // inside a library call
static long n_allocated;  // while armed
static long fail_at;      // 0: never

static void* take(size_t size, size_t alignment) {
  if (armed && ++n_allocated == fail_at) return nullptr;
  if (alignment <= alignof(std::max_align_t)) return std::malloc(size ? size : 1);
  return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}
static void* take_or_throw(size_t size, size_t alignment) {
  void* memory = take(size, alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}

void* operator new(size_t size) { return take_or_throw(size, 1); }
void* operator new[](size_t size) { return take_or_throw(size, 1); }
void* operator new(size_t size, std::align_val_t alignment) { return take_or_throw(size, size_t(alignment)); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return take(size, 1); }
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept { return take(size, size_t(alignment)); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

static tiny_model tiny;
static char* dir;

void setUp() {
  armed = false;
  tiny_model_init(&tiny, CF_FAMILY_LLAMA);
  tiny.n_layers = 1;
  tiny.hidden_size = tiny.head_dim = tiny.intermediate_size = tiny.vocab_size = 32;
  tiny.n_heads = tiny.n_kv_heads = 1;
  dir = make_temp_dir();
  write_checkpoint(dir, &tiny);
}

void tearDown() {
  armed = false;
  remove_tree(dir);
  free(dir);
}

static int n_failed;  // calls of one run

// A call, made again if it was the one that failed: it must have left everything as it was.
template <class Call>
static cf_status with_memory(Call call) {
  armed = true;
  cf_status status = call();
  armed = false;
  if (status != CF_ERROR_OUT_OF_MEMORY) return status;
  n_failed++;
  return call();
}

#define TRY(call) expect_status(CF_OK, nullptr, with_memory([&] { return call; }), #call)

// Runs body with fail_at 0, then with the first allocation failing, the second, and so on, until none does.
template <class Body>
static void fail_each_allocation(Body body) {
  fail_at = 0;
  body();
  for (fail_at = 1;; fail_at++) {
    n_allocated = n_failed = 0;
    body();
    if (n_allocated < fail_at) break;
    TEST_ASSERT_TRUE_MESSAGE(n_failed <= 1, "a call failed without reason");
  }
  TEST_ASSERT_GREATER_THAN(10, fail_at);
}

static void load(cf_context** context, cf_model** model) {
  cf_context_options options;
  cf_context_options_init(&options, sizeof options);
  options.cpu_threads = 2;
  *context = nullptr;
  *model = nullptr;
  TRY(cf_context_create(&options, context));
  TRY(cf_model_load(*context, dir, nullptr, model));
}

static cf_model_info query(cf_model* model) {
  cf_model_info info;
  cf_model_info_init(&info, sizeof info);
  TRY(cf_model_query(model, &info));
  return info;
}

static void test_loading(void) {
  uint64_t fingerprint = 0;
  fail_each_allocation([&] {
    cf_context* context;
    cf_model* model;
    load(&context, &model);
    const cf_model_info info = query(model);
    if (fail_at == 0) fingerprint = info.fingerprint;
    TEST_ASSERT_EQUAL_UINT64(fingerprint, info.fingerprint);
    cf_model_destroy(model);
    cf_context_destroy(context);
  });
}

static void test_loading_again(void) {
  tensor_list tensors = tiny_model_tensors(&tiny);
  cf_tensor descriptors[MAX_DESCRIPTORS];
  const size_t n = describe_tensors(&tiny, &tensors, 0, descriptors);
  fail_at = 0;
  cf_context* context;
  cf_model* model;
  load(&context, &model);
  const uint64_t fingerprint = query(model).fingerprint;
  fail_each_allocation([&] {
    TRY(cf_model_reload(model, dir, nullptr));
    TRY(cf_load_layer(model, 0, descriptors, n, nullptr));
    TEST_ASSERT_EQUAL_UINT64(fingerprint, query(model).fingerprint);
  });
  cf_model_destroy(model);
  cf_context_destroy(context);
  free_tensors(&tensors);
}

// What a session shows of itself.
struct State {
  int32_t tokens[64];
  size_t n;
  cf_session_info info;
};
static State state_of(cf_session* session) {
  State state{};
  cf_session_tokens(session, 0, state.tokens, 64, &state.n);
  cf_session_info_init(&state.info, sizeof state.info);
  cf_session_query(session, &state.info);
  return state;
}

// A step; one that ran out of memory changes nothing.
template <class Call>
static void step(cf_session* session, Call call) {
  const State before = state_of(session);
  armed = true;
  cf_status status = call();
  armed = false;
  if (status == CF_ERROR_OUT_OF_MEMORY) {
    n_failed++;
    const State after = state_of(session);
    TEST_ASSERT_EQUAL_MEMORY(&before, &after, sizeof before);
    status = call();
  }
  expect_status(CF_OK, nullptr, status, "a step");
}

static void test_sessions(void) {
  State expected{};
  static float logits[3][32], expected_logits[3][32];
  fail_at = 0;
  cf_context* context;
  cf_model* model;
  load(&context, &model);
  fail_each_allocation([&] {
    cf_kv_pool_options pool_options;
    cf_session_options options;
    cf_sampler_options sampler;
    cf_step_options with_outputs;
    cf_outputs outputs;
    cf_kv_pool* pool = nullptr;
    cf_session *session = nullptr, *second = nullptr;
    const int32_t banned = 3, prompt[20] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
    const float ban = -INFINITY;
    const uint32_t mask = 0xfffffffe;
    int32_t top[3][4], rows[3];
    cf_kv_pool_options_init(&pool_options, sizeof pool_options);
    pool_options.capacity_tokens = 128;
    pool_options.page_tokens = 16;
    TRY(cf_kv_pool_create(model, &pool_options, &pool));
    cf_session_options_init(&options, sizeof options);
    options.pool = pool;
    options.capacity_tokens = 40;
    options.reserve = 0;
    TRY(cf_session_create(model, &options, &session));
    TRY(cf_session_create(model, &options, &second));
    cf_sampler_options_init(&sampler, sizeof sampler);
    sampler.temperature = 1;
    sampler.top_k = 20;
    sampler.top_p = 0.9f;
    sampler.repetition_penalty = 1.1f;
    sampler.n_logit_biases = 1;
    sampler.logit_bias_tokens = &banned;
    sampler.logit_bias_values = &ban;
    TRY(cf_session_set_sampler(session, &sampler));
    TRY(cf_session_set_allowed_tokens(session, &mask, 1));
    cf_outputs_init(&outputs, sizeof outputs);
    cf_step_options_init(&with_outputs, sizeof with_outputs);
    outputs.rows = CF_ROWS_ALL;
    outputs.logits = logits[0];
    outputs.top_n = 4;
    outputs.top_tokens = top[0];
    outputs.row_tokens = rows;
    with_outputs.outputs = &outputs;
    step(session, [&] { return cf_prefill(session, prompt, 15, nullptr); });
    step(session, [&] { return cf_prefill(session, prompt, 5, nullptr); });  // over the pending token, and a page more
    step(session, [&] { return cf_decode_step(session, 7, nullptr); });
    step(session, [&] { return cf_decode_positions(session, prompt, 3, &with_outputs); });
    step(second, [&] { return cf_prefill(second, prompt, 16, nullptr); });
    cf_session* both[2] = {second, session};
    step(session, [&] { return cf_decode_batch(both, 2, nullptr, nullptr); });
    TRY(cf_session_truncate(second, 4));
    cf_result result;
    cf_result_init(&result, sizeof result);
    TRY(cf_session_wait(session, &result));
    const State state = state_of(session);
    if (fail_at == 0) expected = state, memcpy(expected_logits, logits, sizeof logits);
    TEST_ASSERT_EQUAL_MEMORY(&expected, &state, sizeof state);
    TEST_ASSERT_EQUAL_MEMORY(expected_logits, logits, sizeof logits);
    TEST_ASSERT_EQUAL_INT32(state.tokens[state.n - 1], result.token);
    cf_session_destroy(session);
    cf_session_destroy(second);
    cf_kv_pool_destroy(pool);
  });
  cf_model_destroy(model);
  cf_context_destroy(context);
}

static void test_failures_that_cannot_be_told(void) {
  fail_at = 0;
  cf_context* context;
  cf_model* model;
  load(&context, &model);
  for (fail_at = 1; fail_at < 20; fail_at++) {  // no memory for the sentence: still a status, and no other harm
    cf_tensor tensor;
    n_allocated = 0;
    cf_tensor_init(&tensor, sizeof tensor);
    armed = true;
    const cf_status layer = cf_load_layer(model, 99, nullptr, 0, nullptr), fields = cf_load_layer(model, 0, &tensor, 1, nullptr);
    const cf_status missing = cf_model_reload(model, "/nowhere/at/all/with/a/long/name", nullptr);
    armed = false;
    TEST_ASSERT_TRUE(layer == CF_ERROR_INVALID_ARGUMENT || layer == CF_ERROR_OUT_OF_MEMORY);
    TEST_ASSERT_TRUE(fields == CF_ERROR_INVALID_ARGUMENT || fields == CF_ERROR_OUT_OF_MEMORY);
    TEST_ASSERT_TRUE(missing == CF_ERROR_IO || missing == CF_ERROR_OUT_OF_MEMORY);
  }
  cf_model_destroy(model);
  cf_context_destroy(context);
}

int main() {
  UNITY_BEGIN();
  RUN_TEST(test_loading);
  RUN_TEST(test_loading_again);
  RUN_TEST(test_sessions);
  RUN_TEST(test_failures_that_cannot_be_told);
  return UNITY_END();
}
