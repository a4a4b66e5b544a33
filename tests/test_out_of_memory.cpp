// Host memory that runs out: the n-th allocation fails, once or with all after it, for every n until all goes well, from creating a context to
// destroying it, in operator new (the library's bookkeeping, and without a callback its weights, pages and work buffers) and in the
// allocator callback. The call that was hit says so and changes nothing, goes well when memory is back, and at the end none is missing.
#include "unity.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "support/expect_load.h"
#include "support/model_maker.h"

static bool armed;                   // inside a library call
static long n_allocated;             // while armed
static long fail_at;                 // 0: never
static bool from_then_on;            // fails after that, too
static std::atomic<long> n_live{0};  // blocks of operator new and of the callback

static bool fails() {
  if (!armed) return false;
  n_allocated++;
  return fail_at && (n_allocated == fail_at || (from_then_on && n_allocated > fail_at));
}
static void* take(size_t size, size_t alignment) {
  if (fails()) return nullptr;
  void* memory = alignment <= alignof(std::max_align_t) ? std::malloc(size ? size : 1)
                                                        : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (memory) n_live++;
  return memory;
}
static void* take_or_throw(size_t size, size_t alignment) {
  void* memory = take(size, alignment);
  if (!memory) throw std::bad_alloc();
  return memory;
}
static void give(void* memory) noexcept {
  if (memory) n_live--;
  std::free(memory);
}

void* operator new(size_t size) { return take_or_throw(size, 1); }
void* operator new[](size_t size) { return take_or_throw(size, 1); }
void* operator new(size_t size, std::align_val_t alignment) { return take_or_throw(size, size_t(alignment)); }
void* operator new(size_t size, const std::nothrow_t&) noexcept { return take(size, 1); }
void* operator new(size_t size, std::align_val_t alignment, const std::nothrow_t&) noexcept { return take(size, size_t(alignment)); }
void operator delete(void* memory) noexcept { give(memory); }
void operator delete[](void* memory) noexcept { give(memory); }
void operator delete(void* memory, size_t) noexcept { give(memory); }
void operator delete[](void* memory, size_t) noexcept { give(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { give(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { give(memory); }

static bool with_callback;
static void* callback_allocate(void*, cf_device_kind, int32_t, size_t size, size_t alignment) { return take(size, alignment); }
static void callback_free(void*, cf_device_kind, int32_t, void* address, size_t, size_t) { give(address); }

static tiny_model tiny;
static char* dir;

void setUp() {
  armed = with_callback = from_then_on = false;
  fail_at = 0;
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

static int n_failed;  // calls of one run, made again

template <class Call>
static cf_status while_armed(Call call) {
  armed = true;
  const cf_status status = call();
  armed = false;
  return status;
}

// A call, made again if it was the one that failed: twice where memory stays out, then with memory. `unchanged` is asked in between.
template <class Call, class Unchanged>
static cf_status with_memory(Call call, Unchanged unchanged) {
  cf_status status = while_armed(call);
  if (status != CF_ERROR_OUT_OF_MEMORY) return status;
  n_failed++;
  unchanged();
  if (from_then_on) {
    const long failed_at = fail_at;
    status = while_armed(call);
    TEST_ASSERT_TRUE(status == CF_ERROR_OUT_OF_MEMORY || status == CF_OK);  // OK: what it needed it has kept from the first time
    fail_at = 0;
    if (status == CF_ERROR_OUT_OF_MEMORY) unchanged(), status = call();
    fail_at = failed_at;
    n_allocated = fail_at, from_then_on = false;  // memory is back for the rest of this run
    return status;
  }
  return call();
}
template <class Call>
static cf_status with_memory(Call call) {
  return with_memory(call, [] {});
}

#define TRY(call) expect_status(CF_OK, nullptr, with_memory([&] { return call; }), #call)
// Destroying needs no memory.
#define DESTROY(call) expect_status(CF_OK, nullptr, without_memory([&] { return call; }), #call)

template <class Call>
static cf_status without_memory(Call call) {
  const long before = fail_at, counted = n_allocated;
  const bool on = from_then_on;
  fail_at = 1, n_allocated = 0, from_then_on = true;
  const cf_status status = while_armed(call);
  fail_at = before, n_allocated = counted, from_then_on = on;
  return status;
}

// Runs body undisturbed, then with the first allocation failing, the second, and so on, until none does: once, then from then on.
template <class Body>
static void fail_each_allocation(Body body) {
  fail_at = 0;
  body();
  for (bool on : {false, true}) {
    for (fail_at = 1;; fail_at++) {
      const long live = n_live;
      n_allocated = n_failed = 0;
      from_then_on = on;
      body();
      char what[80];
      snprintf(what, sizeof what, "allocation %ld fails%s%s", fail_at, on ? ", and all after it" : "", with_callback ? ", with a callback" : "");
      TEST_ASSERT_EQUAL_INT64_MESSAGE(live, n_live, what);  // nothing leaked
      if (n_allocated < fail_at) break;
      TEST_ASSERT_TRUE_MESSAGE(n_failed <= 1, "a call failed without reason");
    }
    TEST_ASSERT_GREATER_THAN(10, fail_at);
  }
}

static void load(cf_context** context, cf_model** model) {
  cf_context_options options;
  cf_context_options_init(&options, sizeof options);
  options.cpu_threads = 2;
  if (with_callback) options.allocate = callback_allocate, options.free = callback_free;
  *context = nullptr;
  *model = nullptr;
  TRY(cf_context_create(&options, context));
  TRY(cf_model_load(*context, dir, nullptr, model));
}

// The context's last error is a block that lives on, unless it was too short for one. After this there always is one.
static void fail_once(cf_model* model) {
  expect_status(CF_ERROR_INVALID_ARGUMENT, "expected 0 to 0", cf_load_layer(model, 99, nullptr, 0, nullptr), "cf_load_layer");
}

static cf_model_info query(cf_model* model) {
  cf_model_info info;
  cf_model_info_init(&info, sizeof info);
  expect_status(CF_OK, nullptr, cf_model_query(model, &info), "cf_model_query");
  return info;
}

static void loading() {
  uint64_t fingerprint = 0;
  fail_each_allocation([&] {
    cf_context* context;
    cf_model* model;
    load(&context, &model);
    const cf_model_info info = query(model);
    if (fail_at == 0) fingerprint = info.fingerprint;
    TEST_ASSERT_EQUAL_UINT64(fingerprint, info.fingerprint);
    DESTROY(cf_model_destroy(model));
    DESTROY(cf_context_destroy(context));
  });
}
static void test_loading(void) { loading(); }
static void test_loading_with_a_callback(void) {
  with_callback = true;
  loading();
}

static void test_loading_again(void) {
  tensor_list tensors = tiny_model_tensors(&tiny);
  cf_tensor descriptors[MAX_DESCRIPTORS];
  const size_t n = describe_tensors(&tiny, &tensors, 0, descriptors);
  cf_context* context;
  cf_model* model;
  load(&context, &model);
  fail_once(model);
  const uint64_t fingerprint = query(model).fingerprint;
  const auto loaded = [&] { TEST_ASSERT_EQUAL_UINT64(fingerprint, query(model).fingerprint); };
  fail_each_allocation([&] {
    expect_status(CF_OK, nullptr, with_memory([&] { return cf_model_reload(model, dir, nullptr); }, loaded), "cf_model_reload");
    expect_status(CF_OK, nullptr, with_memory([&] { return cf_load_layer(model, 0, descriptors, n, nullptr); }, loaded), "cf_load_layer");
    loaded();
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

// A call on a session; one that ran out of memory changes nothing.
template <class Call>
static void step(cf_session* session, Call call) {
  const State before = state_of(session);
  const cf_status status = with_memory(call, [&] {
    const State after = state_of(session);
    TEST_ASSERT_EQUAL_MEMORY(&before, &after, sizeof before);
  });
  expect_status(CF_OK, nullptr, status, "a step");
}

static std::vector<char> file_of(const char* path) {
  std::vector<char> bytes(1 << 16);
  FILE* file = fopen(path, "rb");
  if (!file) return {};
  bytes.resize(fread(bytes.data(), 1, bytes.size(), file));
  fclose(file);
  return bytes;
}

enum { VOCAB = 32 };

// Outputs of three rows, scores among them, and a tap.
struct Outputs {
  float logits[3][VOCAB], top_logprobs[3][4], target_logprobs[3], tapped[3][32];
  int32_t top[3][4], rows[3];
  cf_status status[3];
};

// Samplers, steps of every kind, forks, saved and restored sessions and blocks, on a loaded model.
struct Path {
  cf_context* context;
  cf_model* model;
  State states[3];
  Outputs outputs;
  int32_t token, drawn;
  std::vector<char> saved;
  float block[32];

  void run() {
    cf_kv_pool* pool = nullptr;
    cf_session *session = nullptr, *second = nullptr, *fork = nullptr, *restored = nullptr;
    const int32_t prompt[20] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
    cf_kv_pool_options pool_options;
    cf_session_options options;
    cf_memory_estimate estimate;
    cf_model_config config;
    cf_kv_pool_options_init(&pool_options, sizeof pool_options);
    pool_options.capacity_tokens = 128;
    pool_options.page_tokens = 16;
    cf_session_options_init(&options, sizeof options);
    cf_memory_estimate_init(&estimate, sizeof estimate);
    cf_model_config_init(&config, sizeof config);
    TRY(cf_model_config_read(dir, &config));
    TRY(cf_model_estimate(context, &config, CF_DTYPE_F32, nullptr, &options, &estimate));
    TRY(cf_kv_pool_create(model, &pool_options, &pool));
    options.pool = pool;
    options.capacity_tokens = 40;
    options.reserve = 0;
    TRY(cf_session_create(model, &options, &session));
    TRY(cf_session_create(model, &options, &second));
    sample(session);

    cf_outputs wanted;
    cf_tap tap;
    cf_step_options with_outputs;
    const int32_t targets[3] = {4, -1, 6};
    cf_outputs_init(&wanted, sizeof wanted);
    cf_tap_init(&tap, sizeof tap);
    cf_step_options_init(&with_outputs, sizeof with_outputs);
    memset(&outputs, 0, sizeof outputs);
    wanted.rows = CF_ROWS_ALL, wanted.logits = outputs.logits[0], wanted.top_n = 4, wanted.top_tokens = outputs.top[0];
    wanted.top_logprobs = outputs.top_logprobs[0], wanted.targets = targets, wanted.target_logprobs = outputs.target_logprobs;
    wanted.row_tokens = outputs.rows, wanted.row_status = outputs.status;
    tap.point = CF_TAP_BLOCK_OUTPUT, tap.data = outputs.tapped[0];
    with_outputs.outputs = &wanted, with_outputs.taps = &tap, with_outputs.n_taps = 1;
    step(session, [&] { return cf_prefill(session, prompt, 15, nullptr); });
    step(session, [&] { return cf_prefill(session, prompt, 5, nullptr); });  // over the pending token, and a page more
    step(session, [&] { return cf_decode_step(session, 7, nullptr); });
    three_steps(session);
    step(session, [&] { return cf_decode_positions(session, prompt, 3, &with_outputs); });
    step(second, [&] { return cf_prefill(second, prompt, 3, &with_outputs); });
    step(second, [&] { return cf_prefill(second, prompt, 13, nullptr); });
    cf_session* both[2] = {second, session};
    step(session, [&] { return cf_decode_batch(both, 2, nullptr, nullptr); });
    step(second, [&] { return cf_session_fork(second, 9, nullptr, &fork); });
    step(fork, [&] { return cf_decode_step(fork, CF_TOKEN_PENDING, nullptr); });  // into a page that it has to copy first
    TRY(cf_session_truncate(second, 4));

    size_t size = 0;
    TRY(cf_session_save(session, nullptr, 0, &size));
    saved.assign(size, 0);
    step(session, [&] { return cf_session_save(session, saved.data(), size, &size); });
    options.pool = nullptr;
    step(session, [&] { return cf_session_restore(model, &options, saved.data(), size, &restored); });
    step(restored, [&] { return cf_decode_step(restored, CF_TOKEN_PENDING, nullptr); });
    step(session, [&] { return cf_decode_step(session, CF_TOKEN_PENDING, nullptr); });
    const State going_on = state_of(session);
    TEST_ASSERT_EQUAL_MEMORY(going_on.tokens, state_of(restored).tokens, sizeof going_on.tokens);

    cf_result result;
    cf_result_init(&result, sizeof result);
    TRY(cf_session_wait(session, &result));
    token = result.token;
    TRY(cf_sample_logits(nullptr, nullptr, outputs.logits[0], VOCAB, prompt, 20, 20, &drawn));
    run_block();
    states[0] = going_on, states[1] = state_of(second), states[2] = state_of(fork);
    for (State& state : states) state.info.stream = nullptr;
    for (cf_session* one : {session, second, fork, restored}) DESTROY(cf_session_destroy(one));
    DESTROY(cf_kv_pool_destroy(pool));
  }

  static void sample(cf_session* session) {
    const int32_t banned = 3;
    const float ban = -INFINITY;
    const uint32_t mask = 0xfffffffe;
    cf_sampler_options sampler;
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
  }

  // Finished steps are kept, and the step that found no memory says so.
  static void three_steps(cf_session* session) {
    const int64_t begin = state_of(session).info.position, end = begin + 3;
    cf_result result;
    cf_result_init(&result, sizeof result);
    while (true) {
      const int64_t n_steps = end - state_of(session).info.position;
      step(session, [&] { return cf_decode_steps(session, n_steps, nullptr); });
      const cf_status status = cf_session_wait(session, &result);
      if (status == CF_OK) break;
      n_failed++;
      expect_status(CF_ERROR_OUT_OF_MEMORY, "out of memory", status, "cf_session_wait");
      TEST_ASSERT_TRUE(result.position > begin && result.position < end);
      TEST_ASSERT_EQUAL_INT64(result.position, state_of(session).info.position);
      from_then_on = false;
    }
    TEST_ASSERT_EQUAL_INT64(end, result.position);
  }

  void run_block() {
    float hidden[32], k[32], v[32];
    int32_t position = 0;
    cf_status status = CF_OK;
    cf_block_options options;
    for (int i = 0; i < 32; i++) hidden[i] = float(i);
    cf_block_options_init(&options, sizeof options);
    options.kv_dtype = CF_DTYPE_F32;
    options.hidden = hidden, options.output = block, options.k_cache = k, options.v_cache = v;
    options.token_stride = options.head_stride = 32;
    options.kv_capacity_tokens = 1, options.position = &position, options.step_status = &status;
    TRY(cf_block_forward(model, 0, &options));
  }
};

static void everything_on_a_model() {
  Path path{}, expected;
  load(&path.context, &path.model);
  fail_once(path.model);
  fail_each_allocation([&] {
    path.run();
    if (fail_at == 0) expected = path;
    TEST_ASSERT_EQUAL_MEMORY(expected.states, path.states, sizeof path.states);
    TEST_ASSERT_EQUAL_MEMORY(&expected.outputs, &path.outputs, sizeof path.outputs);
    TEST_ASSERT_EQUAL_MEMORY(expected.block, path.block, sizeof path.block);
    TEST_ASSERT_EQUAL_INT32(expected.token, path.token);
    TEST_ASSERT_EQUAL_INT32(expected.drawn, path.drawn);
    TEST_ASSERT_TRUE(expected.saved == path.saved);
  });
  cf_model_destroy(path.model);
  cf_context_destroy(path.context);
}
static void test_sessions(void) { everything_on_a_model(); }
static void test_sessions_with_a_callback(void) {
  with_callback = true;
  everything_on_a_model();
}

// Where it fails the older file stays, and nothing beside it.
static void test_files(void) {
  cf_context* context;
  cf_model* model;
  cf_session *session = nullptr, *restored = nullptr;
  cf_session_options options;
  load(&context, &model);
  fail_once(model);
  cf_session_options_init(&options, sizeof options);
  options.capacity_tokens = 20;
  TRY(cf_session_create(model, &options, &session));
  const std::string saved = path_in(dir, "saved"), partial = saved + ".partial";
  const char* path = saved.c_str();
  TRY(cf_session_save_file(session, path));
  const std::vector<char> older = file_of(path);
  TRY(cf_decode_step(session, 1, nullptr));
  fail_each_allocation([&] {
    write_file(dir, "saved", older.data(), older.size());
    const auto unchanged = [&] {
      TEST_ASSERT_TRUE(older == file_of(path));
      TEST_ASSERT_TRUE(file_of(partial.c_str()).empty());
    };
    expect_status(CF_OK, nullptr, with_memory([&] { return cf_session_save_file(session, path); }, unchanged), "cf_session_save_file");
    TEST_ASSERT_TRUE(file_of(path).size() > older.size());
    TRY(cf_session_restore_file(model, &options, path, &restored));
    TEST_ASSERT_EQUAL_INT64(1, state_of(restored).info.position);
    DESTROY(cf_session_destroy(restored));
  });
  cf_session_destroy(session);
  cf_model_destroy(model);
  cf_context_destroy(context);
}

static void test_failures_that_cannot_be_told(void) {
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
  RUN_TEST(test_loading_with_a_callback);
  RUN_TEST(test_loading_again);
  RUN_TEST(test_sessions);
  RUN_TEST(test_sessions_with_a_callback);
  RUN_TEST(test_files);
  RUN_TEST(test_failures_that_cannot_be_told);
  return UNITY_END();
}
