/* What holds for every call: versions, statuses and sentences, structs of older and newer callers, contexts with their log and
 * allocator, lifetimes of handles, NULL handles. */
#define _XOPEN_SOURCE 700

#include "unity.h"

#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/session_helpers.h"

static struct tiny_model tiny;
static cf_context* context;
static cf_model* model;
static cf_session* session;

void setUp(void) {
  tiny_model_init(&tiny, CF_FAMILY_LLAMA);
  tiny.n_layers = 1;
  context = make_cpu_context(NULL, NULL);
  model = make_model(context, &tiny);
  session = make_session(model, 32);
}

void tearDown(void) {
  cf_session_destroy(session);
  cf_model_destroy(model);
  cf_context_destroy(context);
}

static const char* last_error(void) {
  static char text[2048];
  cf_last_error(text, sizeof text, NULL);
  return text;
}

/* Any failing call: its sentence is "count is NULL". */
static void fail_somehow(void) { TEST_ASSERT_EQUAL_INT32(CF_ERROR_INVALID_ARGUMENT, cf_device_count(CF_DEVICE_CPU, NULL)); }

/* ---- Versions and status names ---- */

static void test_versions_are_the_headers(void) {
  char text[32];
  snprintf(text, sizeof text, "%d.%d.%d", CF_VERSION_MAJOR, CF_VERSION_MINOR, CF_VERSION_PATCH);
  TEST_ASSERT_EQUAL_UINT32(CF_VERSION_MAJOR * 1000000 + CF_VERSION_MINOR * 1000 + CF_VERSION_PATCH, cf_version());
  TEST_ASSERT_EQUAL_STRING(text, cf_version_string());
  TEST_ASSERT_EQUAL_UINT32(CF_ABI_VERSION, cf_abi_version());
}

static void test_every_status_has_its_name(void) {
#define NAMED(value, status)                                    \
  TEST_ASSERT_EQUAL_INT32_MESSAGE(value, status, "renumbered"); \
  TEST_ASSERT_EQUAL_STRING(#status, cf_status_name(status))
  NAMED(0, CF_OK);
  NAMED(1, CF_NOT_READY);
  NAMED(2, CF_ERROR_INVALID_ARGUMENT);
  NAMED(3, CF_ERROR_OUT_OF_MEMORY);
  NAMED(4, CF_ERROR_IO);
  NAMED(5, CF_ERROR_INVALID_FILE);
  NAMED(6, CF_ERROR_UNSUPPORTED);
  NAMED(7, CF_ERROR_NO_DEVICE);
  NAMED(8, CF_ERROR_DEVICE_LOST);
  NAMED(9, CF_ERROR_NOT_LOADED);
  NAMED(10, CF_ERROR_CACHE_FULL);
  NAMED(11, CF_ERROR_NONFINITE_LOGITS);
  NAMED(12, CF_ERROR_NO_TOKEN_ALLOWED);
  NAMED(13, CF_ERROR_CANCELLED);
  NAMED(14, CF_ERROR_BUFFER_TOO_SMALL);
  NAMED(15, CF_ERROR_MISMATCH);
  NAMED(16, CF_ERROR_BUSY);
  NAMED(17, CF_ERROR_INTERNAL);
#undef NAMED
}

static void test_other_numbers_are_no_status(void) {
  const cf_status others[] = {-1, 18, 1000, INT32_MIN, INT32_MAX};
  for (size_t i = 0; i < 5; i++) TEST_ASSERT_EQUAL_STRING("CF_UNKNOWN_STATUS", cf_status_name(others[i]));
}

/* ---- Last error ---- */

static void test_last_error_is_copied_and_cut(void) {
  char buffer[64];
  size_t length = 0;
  fail_somehow();
  memset(buffer, 'x', sizeof buffer);
  OK(cf_last_error(buffer, sizeof buffer, &length));
  TEST_ASSERT_EQUAL_STRING("count is NULL", buffer);
  TEST_ASSERT_EQUAL_size_t(13, length);
  memset(buffer, 'x', sizeof buffer);
  OK(cf_last_error(buffer, 6, &length));
  TEST_ASSERT_EQUAL_STRING("count", buffer);
  TEST_ASSERT_EQUAL_INT('x', buffer[6]);
  TEST_ASSERT_EQUAL_size_t(13, length);
  OK(cf_last_error(buffer, 14, NULL)); /* exactly room for the NUL */
  TEST_ASSERT_EQUAL_STRING("count is NULL", buffer);
  OK(cf_last_error(buffer, 13, NULL));
  TEST_ASSERT_EQUAL_STRING("count is NUL", buffer);
  OK(cf_last_error(buffer, 1, NULL));
  TEST_ASSERT_EQUAL_STRING("", buffer);
}

static void test_last_error_without_a_buffer(void) {
  size_t length = 0;
  fail_somehow();
  OK(cf_last_error(NULL, 0, &length));
  TEST_ASSERT_EQUAL_size_t(13, length);
  OK(cf_last_error(NULL, 0, NULL));
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_INVALID_ARGUMENT, cf_last_error(NULL, 1, &length));
  TEST_ASSERT_EQUAL_STRING("count is NULL", last_error()); /* the one asked for is still there */
}

static void test_success_keeps_the_last_error(void) {
  int32_t count = 0;
  fail_somehow();
  OK(cf_device_count(CF_DEVICE_CPU, &count));
  OK(cf_decode_step(session, 1, NULL));
  OK(cf_session_wait(session, NULL));
  TEST_ASSERT_EQUAL_STRING("count is NULL", last_error());
}

static void* fail_elsewhere(void* seen) {
  cf_last_error((char*)seen, 64, NULL); /* before any failure of this thread */
  cf_device_count(77, (int32_t*)seen);
  return NULL;
}

static void test_last_error_is_the_threads_own(void) {
  char seen[64] = "untouched";
  pthread_t thread;
  fail_somehow();
  TEST_ASSERT_EQUAL_INT(0, pthread_create(&thread, NULL, fail_elsewhere, seen));
  pthread_join(thread, NULL);
  TEST_ASSERT_EQUAL_STRING("", seen);
  TEST_ASSERT_EQUAL_STRING("count is NULL", last_error());
}

static void* fail_on_the_model(void* unused) {
  (void)unused;
  cf_load_layer(model, 99, NULL, 0, NULL);
  return NULL;
}

static void test_context_last_error_is_of_any_thread(void) {
  char text[256];
  size_t length = 99;
  pthread_t thread;
  OK(cf_context_last_error(context, text, sizeof text, &length));
  TEST_ASSERT_EQUAL_STRING("", text);
  TEST_ASSERT_EQUAL_size_t(0, length);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_tokens", cf_prefill(session, &(int32_t){0}, 0, NULL));
  OK(cf_context_last_error(context, text, sizeof text, &length));
  TEST_ASSERT_EQUAL_STRING(last_error(), text);
  TEST_ASSERT_EQUAL_size_t(strlen(text), length);
  TEST_ASSERT_EQUAL_INT(0, pthread_create(&thread, NULL, fail_on_the_model, NULL));
  pthread_join(thread, NULL);
  OK(cf_context_last_error(context, text, sizeof text, NULL));
  TEST_ASSERT_NOT_NULL(strstr(text, "layer is 99"));
}

/* Whatever a sentence names, such as a path, 1025 bytes hold it and its NUL. */
static void test_sentences_are_at_most_1024_bytes(void) {
  char path[3000], text[1025], of_context[1025];
  size_t length = 0, context_length = 0;
  cf_model* none = NULL;
  memset(path, 'x', sizeof path);
  path[sizeof path - 1] = 0;
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_IO, cf_model_load(context, path, NULL, &none));
  OK(cf_last_error(text, sizeof text, &length));
  OK(cf_context_last_error(context, of_context, sizeof of_context, &context_length));
  TEST_ASSERT_EQUAL_size_t(1024, length);
  TEST_ASSERT_EQUAL_size_t(1024, context_length);
  TEST_ASSERT_EQUAL_size_t(1024, strlen(text));
  TEST_ASSERT_EQUAL_STRING(text, of_context);
}

static void test_contexts_have_their_own_last_errors(void) {
  cf_context* other = make_cpu_context(NULL, NULL);
  char text[64] = "x";
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_tokens", cf_prefill(session, &(int32_t){0}, 0, NULL));
  OK(cf_context_last_error(other, text, sizeof text, NULL));
  TEST_ASSERT_EQUAL_STRING("", text);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "buffer is NULL", cf_context_last_error(other, NULL, 1, NULL));
  OK(cf_context_last_error(other, NULL, 0, NULL));
  cf_context_destroy(other);
}

/* ---- Structs ---- */

/* Every struct of the interface, through code that does not know which one it is. */
typedef cf_status (*init_fn)(void* value, size_t struct_size);
/* clang-format off */
#define EACH_STRUCT(X)                                                            \
  X(cf_device_info) X(cf_context_options) X(cf_context_info) X(cf_model_config)   \
  X(cf_model_options) X(cf_tensor) X(cf_model_info) X(cf_kv_pool_options)         \
  X(cf_kv_pool_info) X(cf_session_options) X(cf_session_info)                     \
  X(cf_memory_estimate) X(cf_sampler_options) X(cf_outputs) X(cf_tap)             \
  X(cf_step_options) X(cf_result) X(cf_graph_options) X(cf_graph_info)            \
  X(cf_block_options)
/* clang-format on */
#define WRAP(type) \
  static cf_status init_##type(void* value, size_t struct_size) { return type##_init((type*)value, struct_size); }
EACH_STRUCT(WRAP)
#define ROW(type) {#type, init_##type, sizeof(type)},
static const struct {
  const char* name;
  init_fn init;
  size_t size;
} kStructs[] = {EACH_STRUCT(ROW)};
enum { N_STRUCTS = sizeof kStructs / sizeof kStructs[0] };

static uint32_t struct_size_of(const void* value) {
  uint32_t size;
  memcpy(&size, value, sizeof size);
  return size;
}

static void test_init_sets_the_size_and_zeroes_the_rest_of_a_larger_struct(void) {
  for (size_t i = 0; i < N_STRUCTS; i++) {
    unsigned char exact[1024], larger[1024 + 16];
    const size_t n = kStructs[i].size;
    TEST_ASSERT_TRUE_MESSAGE(n <= sizeof exact, kStructs[i].name);
    memset(exact, 0xaa, sizeof exact);
    memset(larger, 0xaa, sizeof larger);
    expect_status(CF_OK, NULL, kStructs[i].init(exact, n), kStructs[i].name);
    TEST_ASSERT_EQUAL_UINT32_MESSAGE(n, struct_size_of(exact), kStructs[i].name);
    expect_status(CF_OK, NULL, kStructs[i].init(larger, n + 8), kStructs[i].name);
    TEST_ASSERT_EQUAL_UINT32_MESSAGE(n + 8, struct_size_of(larger), kStructs[i].name);
    TEST_ASSERT_EQUAL_MEMORY_MESSAGE(exact + 4, larger + 4, n - 4, kStructs[i].name);
    for (size_t k = 0; k < 8; k++) TEST_ASSERT_EQUAL_INT_MESSAGE(0, larger[n + k], kStructs[i].name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(0xaa, larger[n + 8], kStructs[i].name);
  }
}

static void test_init_stays_within_a_smaller_struct(void) {
  for (size_t i = 0; i < N_STRUCTS; i++) {
    unsigned char small[1024];
    for (size_t size = 8; size < kStructs[i].size; size += 4) {
      memset(small, 0xaa, sizeof small);
      expect_status(CF_OK, NULL, kStructs[i].init(small, size), kStructs[i].name);
      TEST_ASSERT_EQUAL_UINT32_MESSAGE(size, struct_size_of(small), kStructs[i].name);
      TEST_ASSERT_EQUAL_INT_MESSAGE(0xaa, small[size], kStructs[i].name);
    }
  }
}

static void test_init_refuses_what_cannot_be_a_struct(void) {
  const size_t sizes[] = {0, 1, 4, 7, 4097, SIZE_MAX, (size_t)UINT32_MAX + 1 + 64};
  for (size_t i = 0; i < N_STRUCTS; i++) {
    unsigned char untouched[16];
    memset(untouched, 0xaa, sizeof untouched);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
      expect_status(CF_ERROR_INVALID_ARGUMENT, "struct_size", kStructs[i].init(untouched, sizes[k]), kStructs[i].name);
    for (size_t k = 0; k < sizeof untouched; k++) TEST_ASSERT_EQUAL_INT(0xaa, untouched[k]);
    expect_status(CF_ERROR_INVALID_ARGUMENT, "NULL", kStructs[i].init(NULL, kStructs[i].size), kStructs[i].name);
  }
}

/* Every byte that is not a default named by the header is zero. */
#define EXPECT_DEFAULTS(type, ...)                                              \
  do {                                                                          \
    type expected, actual;                                                      \
    memset(&expected, 0, sizeof expected);                                      \
    memset(&actual, 0xaa, sizeof actual);                                       \
    expected.struct_size = sizeof expected;                                     \
    type* e = &expected;                                                        \
    (void)e;                                                                    \
    __VA_ARGS__;                                                                \
    OK(type##_init(&actual, sizeof actual));                                    \
    TEST_ASSERT_EQUAL_MEMORY_MESSAGE(&expected, &actual, sizeof actual, #type); \
  } while (0)

static void test_defaults_are_as_the_header_says(void) {
  EXPECT_DEFAULTS(cf_device_info, );
  EXPECT_DEFAULTS(cf_context_options, e->device_kind = CF_DEVICE_CPU, e->log_level = CF_LOG_INFO, e->device_wait_limit_ms = 1000,
                  e->prefill_workspace_bytes = 256 << 20);
  EXPECT_DEFAULTS(cf_context_info, );
  EXPECT_DEFAULTS(cf_model_config, e->bos_token = -1);
  EXPECT_DEFAULTS(cf_model_options, e->weight_dtype = CF_DTYPE_AUTO);
  EXPECT_DEFAULTS(cf_tensor, );
  EXPECT_DEFAULTS(cf_model_info, );
  EXPECT_DEFAULTS(cf_kv_pool_options, e->kv_dtype = CF_DTYPE_AUTO, e->page_tokens = 64);
  EXPECT_DEFAULTS(cf_kv_pool_info, );
  EXPECT_DEFAULTS(cf_session_options, e->launch_mode = CF_LAUNCH_AUTO, e->reserve = 1, e->page_tokens = 64);
  EXPECT_DEFAULTS(cf_session_info, );
  EXPECT_DEFAULTS(cf_memory_estimate, );
  EXPECT_DEFAULTS(cf_sampler_options, e->top_p = 1, e->repetition_penalty = 1);
  EXPECT_DEFAULTS(cf_outputs, );
  EXPECT_DEFAULTS(cf_tap, );
  EXPECT_DEFAULTS(cf_step_options, e->sample = 1);
  EXPECT_DEFAULTS(cf_result, );
  EXPECT_DEFAULTS(cf_graph_options, e->n_steps = 1);
  EXPECT_DEFAULTS(cf_graph_info, );
  EXPECT_DEFAULTS(cf_block_options, e->n_rows = 1, e->activation_dtype = CF_DTYPE_F32, e->kv_dtype = CF_DTYPE_F16);
}

static cf_status create_context(const cf_context_options* options) {
  cf_context* made = NULL;
  const cf_status status = cf_context_create(options, &made);
  cf_context_destroy(made);
  return status;
}
static cf_status create_model(const cf_model_config* config, const cf_model_options* options) {
  cf_model* made = NULL;
  const cf_status status = cf_model_create(context, config, options, &made);
  cf_model_destroy(made);
  return status;
}
static cf_status create_session(const cf_session_options* options) {
  cf_session* made = NULL;
  const cf_status status = cf_session_create(model, options, &made);
  cf_session_destroy(made);
  return status;
}
static cf_status create_pool(const cf_kv_pool_options* options) {
  cf_kv_pool* made = NULL;
  const cf_status status = cf_kv_pool_create(model, options, &made);
  cf_kv_pool_destroy(made);
  return status;
}
static cf_status step_into(cf_outputs* outputs) {
  cf_step_options options;
  OK(cf_step_options_init(&options, sizeof options));
  options.outputs = outputs;
  return cf_decode_step(session, 1, &options);
}

/* A struct from a newer header: what this library does not know must be zero. */
#define EXPECT_TAIL_RULE(type, value, call)                 \
  do {                                                      \
    struct {                                                \
      type known;                                           \
      unsigned char unknown[16];                            \
    } newer;                                                \
    memset(&newer, 0, sizeof newer);                        \
    OK(type##_init(&newer.known, sizeof newer));            \
    const uint32_t size = newer.known.struct_size;          \
    value;                                                  \
    newer.known.struct_size = size;                         \
    OK(call);                                               \
    newer.unknown[0] = 1;                                   \
    FAILS(CF_ERROR_INVALID_ARGUMENT, "newer header", call); \
    newer.unknown[0] = 0;                                   \
    newer.unknown[15] = 0x80;                               \
    FAILS(CF_ERROR_INVALID_ARGUMENT, "newer header", call); \
    newer.known.struct_size = 0;                            \
    FAILS(CF_ERROR_INVALID_ARGUMENT, "_init", call);        \
    newer.known.struct_size = 0xaaaaaaaa;                   \
    FAILS(CF_ERROR_INVALID_ARGUMENT, "_init", call);        \
  } while (0)

static void test_options_of_a_newer_caller(void) {
  const cf_model_config config = describe_model(&tiny);
  EXPECT_TAIL_RULE(cf_context_options, , create_context(&newer.known));
  EXPECT_TAIL_RULE(cf_model_config, newer.known = config, create_model(&newer.known, NULL));
  EXPECT_TAIL_RULE(cf_model_options, , create_model(&config, &newer.known));
  EXPECT_TAIL_RULE(cf_kv_pool_options, newer.known.capacity_tokens = 1, create_pool(&newer.known));
  EXPECT_TAIL_RULE(cf_session_options, , create_session(&newer.known));
  EXPECT_TAIL_RULE(cf_sampler_options, , cf_session_set_sampler(session, &newer.known));
  EXPECT_TAIL_RULE(cf_step_options, , cf_decode_step(session, 1, &newer.known));
  EXPECT_TAIL_RULE(cf_outputs, , step_into(&newer.known));
}

static void test_options_of_an_older_caller_have_defaults_for_what_they_lack(void) {
  cf_session_options options;
  cf_session_info info;
  cf_session* made = NULL;
  const size_t old_size = offsetof(cf_session_options, reserve);
  memset(&options, 0xaa, sizeof options); /* what lies behind is the caller's */
  OK(cf_session_options_init(&options, old_size));
  options.capacity_tokens = 16;
  OK(cf_session_create(model, &options, &made));
  OK(cf_session_info_init(&info, sizeof info));
  OK(cf_session_query(made, &info));
  TEST_ASSERT_EQUAL_INT32(64, info.page_tokens);
  TEST_ASSERT_EQUAL_INT64(1, info.n_pages); /* reserved */
  cf_session_destroy(made);
}

/* Results: as much as the caller has room for, zero in what this library does not know. */
static void test_results_for_older_and_newer_callers(void) {
  struct {
    cf_context_info known;
    unsigned char unknown[16];
  } newer;
  cf_context_info full, older;
  const size_t old_size = offsetof(cf_context_info, allocated_bytes);
  OK(cf_context_info_init(&full, sizeof full));
  OK(cf_context_query(context, &full));
  memset(&older, 0xaa, sizeof older);
  OK(cf_context_info_init(&older, old_size));
  OK(cf_context_query(context, &older));
  TEST_ASSERT_EQUAL_UINT32(old_size, older.struct_size);
  TEST_ASSERT_EQUAL_MEMORY(&full.device_kind, &older.device_kind, old_size - 4);
  for (size_t i = old_size; i < sizeof older; i++) TEST_ASSERT_EQUAL_INT(0xaa, ((unsigned char*)&older)[i]);
  memset(&newer, 0xaa, sizeof newer);
  newer.known.struct_size = sizeof newer;
  OK(cf_context_query(context, &newer.known));
  TEST_ASSERT_EQUAL_UINT32(sizeof newer, newer.known.struct_size);
  TEST_ASSERT_EQUAL_MEMORY(&full.device_kind, &newer.known.device_kind, sizeof full - 4);
  for (size_t i = 0; i < sizeof newer.unknown; i++) TEST_ASSERT_EQUAL_INT(0, newer.unknown[i]);
}

static void test_results_that_were_not_initialised(void) {
  cf_context_info context_info = {0};
  cf_model_info model_info = {0};
  cf_session_info session_info = {0};
  cf_device_info device_info = {0};
  cf_result result = {0};
  FAILS(CF_ERROR_INVALID_ARGUMENT, "_init", cf_context_query(context, &context_info));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "_init", cf_model_query(model, &model_info));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "_init", cf_session_query(session, &session_info));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "_init", cf_device_query(CF_DEVICE_CPU, 0, &device_info));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "_init", cf_session_wait(session, &result));
}

/* ---- Devices ---- */

static void test_the_cpu_is_one_device(void) {
  cf_device_info info;
  int32_t count = -1;
  OK(cf_device_count(CF_DEVICE_CPU, &count));
  TEST_ASSERT_EQUAL_INT32(1, count);
  OK(cf_device_info_init(&info, sizeof info));
  OK(cf_device_query(CF_DEVICE_CPU, 0, &info));
  TEST_ASSERT_EQUAL_INT32(CF_DEVICE_CPU, info.kind);
  TEST_ASSERT_EQUAL_INT32(0, info.ordinal);
  TEST_ASSERT_EQUAL_INT32(1, info.usable);
  TEST_ASSERT_EQUAL_INT32(0, info.compute_capability);
  TEST_ASSERT_EQUAL_INT32(1, info.max_cluster_size);
  TEST_ASSERT_GREATER_OR_EQUAL(1, info.multiprocessors);
  TEST_ASSERT_GREATER_OR_EQUAL(1 << 20, info.memory_bytes);
  TEST_ASSERT_EQUAL_UINT64(0, info.shared_memory_bytes);
  TEST_ASSERT_GREATER_THAN(0, strlen(info.name));
  TEST_ASSERT_EQUAL_STRING("", info.reason);
  TEST_ASSERT_TRUE(info.cpu_isa >= CF_CPU_ISA_BASELINE && info.cpu_isa <= CF_CPU_ISA_AVX512);
}

static void test_devices_that_are_not_there(void) {
  cf_device_info info;
  int32_t count = -1;
  OK(cf_device_info_init(&info, sizeof info));
  FAILS(CF_ERROR_NO_DEVICE, "device 1", cf_device_query(CF_DEVICE_CPU, 1, &info));
  FAILS(CF_ERROR_NO_DEVICE, "device -1", cf_device_query(CF_DEVICE_CPU, -1, &info));
  TEST_ASSERT_EQUAL_INT32(0, info.usable);
  OK(cf_device_count(CF_DEVICE_CUDA, &count));
  TEST_ASSERT_GREATER_OR_EQUAL(0, count);
  FAILS(CF_ERROR_NO_DEVICE, "no device", cf_device_query(CF_DEVICE_CUDA, count, &info));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "kind is 2", cf_device_count(2, &count));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "kind is -1", cf_device_query(-1, 0, &info));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "info is NULL", cf_device_query(CF_DEVICE_CPU, 0, NULL));
}

static void test_cuda_context_without_a_device(void) {
  cf_context_options options;
  cf_context* made = (cf_context*)(void*)&options; /* stays */
  int32_t count = 0;
  OK(cf_device_count(CF_DEVICE_CUDA, &count));
  if (count > 0) TEST_IGNORE_MESSAGE("this machine has a CUDA device");
  OK(cf_context_options_init(&options, sizeof options));
  options.device_kind = CF_DEVICE_CUDA;
  const cf_status status = cf_context_create(&options, &made);
  TEST_ASSERT_TRUE(status == CF_ERROR_NO_DEVICE || status == CF_ERROR_UNSUPPORTED);
  TEST_ASSERT_EQUAL_PTR(&options, made);
  TEST_ASSERT_GREATER_THAN(0, strlen(last_error()));
}

/* ---- Context options ---- */

static void* some_allocate(void* user, cf_device_kind kind, int32_t ordinal, size_t size, size_t alignment) {
  (void)user, (void)kind, (void)ordinal, (void)size, (void)alignment;
  return NULL;
}
static void some_free(void* user, cf_device_kind kind, int32_t ordinal, void* address, size_t size, size_t alignment) {
  (void)user, (void)kind, (void)ordinal, (void)address, (void)size, (void)alignment;
}

static void test_context_options_that_are_wrong(void) {
  const int32_t devices[2] = {0, 1}, far_device = 3, negative_device = -1;
  cf_context_options o;
#define WITH(assignment, status, word)       \
  OK(cf_context_options_init(&o, sizeof o)); \
  assignment;                                \
  FAILS(status, word, create_context(&o))
  WITH(o.device_kind = 2, CF_ERROR_INVALID_ARGUMENT, "device_kind is 2");
  WITH(o.device_kind = -1, CF_ERROR_INVALID_ARGUMENT, "device_kind is -1");
  WITH(o.n_devices = -1, CF_ERROR_INVALID_ARGUMENT, "n_devices");
  WITH(o.n_devices = 1, CF_ERROR_INVALID_ARGUMENT, "devices is NULL");
  WITH((o.n_devices = 2, o.devices = devices), CF_ERROR_UNSUPPORTED, "2 devices");
  WITH((o.n_devices = 1, o.devices = &far_device), CF_ERROR_NO_DEVICE, "device 3");
  WITH((o.n_devices = 1, o.devices = &negative_device), CF_ERROR_NO_DEVICE, "device -1");
  WITH(o.cpu_threads = -1, CF_ERROR_INVALID_ARGUMENT, "cpu_threads");
  WITH(o.cpu_threads = INT32_MAX, CF_ERROR_INVALID_ARGUMENT, "cpu_threads");
  WITH(o.cpu_isa = -1, CF_ERROR_INVALID_ARGUMENT, "cpu_isa");
  WITH(o.cpu_isa = 4, CF_ERROR_INVALID_ARGUMENT, "cpu_isa");
  WITH(o.log_level = -1, CF_ERROR_INVALID_ARGUMENT, "log_level");
  WITH(o.log_level = 4, CF_ERROR_INVALID_ARGUMENT, "log_level");
  WITH(o.device_wait_limit_ms = 0, CF_ERROR_INVALID_ARGUMENT, "device_wait_limit_ms");
  WITH(o.device_multiprocessors = -1, CF_ERROR_INVALID_ARGUMENT, "device_multiprocessors");
  WITH(o.allocate = some_allocate, CF_ERROR_INVALID_ARGUMENT, "together");
  WITH(o.free = some_free, CF_ERROR_INVALID_ARGUMENT, "together");
  WITH(o.reserved = 1, CF_ERROR_INVALID_ARGUMENT, "reserved");
#undef WITH
  FAILS(CF_ERROR_INVALID_ARGUMENT, "context is NULL", cf_context_create(NULL, NULL));
}

static void test_a_failing_create_leaves_the_output_pointer(void) {
  cf_context* const marked = (cf_context*)(void*)&tiny;
  cf_context* made = marked;
  cf_context_options o;
  OK(cf_context_options_init(&o, sizeof o));
  o.reserved = 7;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "reserved", cf_context_create(&o, &made));
  TEST_ASSERT_EQUAL_PTR(marked, made);
}

static cf_context_info query_context(const cf_context* handle) {
  cf_context_info info;
  OK(cf_context_info_init(&info, sizeof info));
  OK(cf_context_query(handle, &info));
  return info;
}

static void test_context_of_default_options(void) {
  cf_context* made = NULL;
  cf_device_info device;
  OK(cf_device_info_init(&device, sizeof device));
  OK(cf_device_query(CF_DEVICE_CPU, 0, &device));
  OK(cf_context_create(NULL, &made));
  const cf_context_info info = query_context(made);
  TEST_ASSERT_EQUAL_INT32(CF_DEVICE_CPU, info.device_kind);
  TEST_ASSERT_EQUAL_INT32(1, info.n_devices);
  TEST_ASSERT_EQUAL_INT32(device.multiprocessors, info.cpu_threads);
  TEST_ASSERT_EQUAL_INT32(device.cpu_isa, info.cpu_isa);
  TEST_ASSERT_EQUAL_UINT64(0, info.allocated_bytes);
  cf_context_destroy(made);
}

static void test_context_on_the_named_device_with_that_many_threads(void) {
  const int32_t device = 0;
  cf_context_options o;
  cf_context* made = NULL;
  OK(cf_context_options_init(&o, sizeof o));
  o.n_devices = 1;
  o.devices = &device;
  o.cpu_threads = 3;
  OK(cf_context_create(&o, &made));
  TEST_ASSERT_EQUAL_INT32(3, query_context(made).cpu_threads);
  cf_context_destroy(made);
}

static void test_forced_instruction_sets(void) {
  for (cf_cpu_isa isa = CF_CPU_ISA_BASELINE; isa <= CF_CPU_ISA_AVX512; isa++) {
    cf_context_options o;
    cf_context* made = NULL;
    OK(cf_context_options_init(&o, sizeof o));
    o.cpu_isa = isa;
    o.cpu_threads = 1;
    const cf_status status = cf_context_create(&o, &made);
    if (status == CF_OK) TEST_ASSERT_EQUAL_INT32(isa, query_context(made).cpu_isa);
    else expect_status(CF_ERROR_UNSUPPORTED, "instruction set", status, "a machine without it");
    TEST_ASSERT_TRUE(status == CF_OK || isa != CF_CPU_ISA_BASELINE);
    cf_context_destroy(made);
  }
}

/* ---- Log ---- */

struct log_line {
  cf_log_level level;
  char text[256];
};
static struct {
  struct log_line lines[32];
  size_t count;
  pthread_t thread;
  int elsewhere;
} logged;

static void log_message(void* user, cf_log_level level, const char* message) {
  if (user != &logged || !pthread_equal(logged.thread, pthread_self())) logged.elsewhere = 1;
  if (logged.count == 32) return;
  logged.lines[logged.count].level = level;
  snprintf(logged.lines[logged.count].text, sizeof logged.lines[0].text, "%s", message);
  logged.count++;
}

static int was_logged(cf_log_level level, const char* word) {
  for (size_t i = 0; i < logged.count; i++)
    if (logged.lines[i].level == level && strstr(logged.lines[i].text, word)) return 1;
  return 0;
}

/* Something to say at INFO (the backend; skipped tensors) and at WARNING (a capacity beyond the model's). */
static void do_things_worth_a_message(cf_log_level level) {
  cf_context_options o;
  cf_context* made = NULL;
  cf_model* loaded = NULL;
  struct tiny_model with_more = tiny;
  char* dir = make_temp_dir();
  memset(&logged, 0, sizeof logged);
  logged.thread = pthread_self();
  with_more.unused_tensors = 1;
  write_checkpoint(dir, &with_more);
  OK(cf_context_options_init(&o, sizeof o));
  o.log = log_message;
  o.log_user = &logged;
  o.log_level = level;
  o.cpu_threads = 2;
  OK(cf_context_create(&o, &made));
  OK(cf_model_load(made, dir, NULL, &loaded));
  cf_session* beyond = make_session(loaded, tiny.max_position_embeddings + 1);
  OK(cf_prefill(beyond, &(int32_t){1}, 1, NULL));
  wait_ok(beyond);
  cf_session_destroy(beyond);
  cf_model_destroy(loaded);
  cf_context_destroy(made);
  remove_tree(dir);
  free(dir);
}

static void test_log_is_filtered_by_level(void) {
  do_things_worth_a_message(CF_LOG_INFO);
  TEST_ASSERT_TRUE(was_logged(CF_LOG_INFO, "rotary_emb.inv_freq"));
  TEST_ASSERT_TRUE(was_logged(CF_LOG_WARNING, "max_position_embeddings"));
  TEST_ASSERT_FALSE(logged.elsewhere);
  for (size_t i = 0; i < logged.count; i++) {
    TEST_ASSERT_NULL_MESSAGE(strchr(logged.lines[i].text, '\n'), logged.lines[i].text);
    TEST_ASSERT_TRUE(logged.lines[i].level == CF_LOG_INFO || logged.lines[i].level == CF_LOG_WARNING);
  }
  do_things_worth_a_message(CF_LOG_WARNING);
  TEST_ASSERT_TRUE(was_logged(CF_LOG_WARNING, "max_position_embeddings"));
  TEST_ASSERT_EQUAL_size_t(1, logged.count);
  do_things_worth_a_message(CF_LOG_NONE);
  TEST_ASSERT_EQUAL_size_t(0, logged.count);
}

/* Standard output and error into a file while the library works and fails. */
static void test_silent_without_a_log(void) {
  char* dir = make_temp_dir();
  fflush(stdout);
  fflush(stderr);
  const int to = open(path_in(dir, "printed"), O_CREAT | O_RDWR, 0600), out = dup(1), err = dup(2);
  cf_model* loaded = NULL;
  struct stat status;
  dup2(to, 1);
  dup2(to, 2);
  const cf_status missing = cf_model_load(context, dir, NULL, &loaded);
  write_checkpoint(dir, &tiny);
  const cf_status there = cf_model_load(context, dir, NULL, &loaded);
  const cf_status wrong = cf_decode_step(session, 1000000, NULL), right = cf_decode_step(session, 1, NULL);
  cf_model_destroy(loaded);
  fflush(stdout);
  fflush(stderr);
  fstat(to, &status);
  dup2(out, 1);
  dup2(err, 2);
  close(to), close(out), close(err);
  remove_tree(dir);
  free(dir);
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_IO, missing);
  TEST_ASSERT_EQUAL_INT32(CF_OK, there);
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_INVALID_ARGUMENT, wrong);
  TEST_ASSERT_EQUAL_INT32(CF_OK, right);
  TEST_ASSERT_EQUAL_INT64(0, status.st_size);
}

/* ---- Allocator ---- */

/* Memory that is counted, that fails at the n-th call, and that checks what comes back. */
static struct {
  struct {
    void* address;
    size_t size, alignment;
  } blocks[256];
  int calls, live, wrong; /* wrong: a free that fits no block */
  uint64_t bytes;
  int fail_at, fail_from_then_on; /* 0: never */
  int misalign;
} memory;

static void* counting_allocate(void* user, cf_device_kind kind, int32_t ordinal, size_t size, size_t alignment) {
  const int call = ++memory.calls;
  if (user != &memory || kind != CF_DEVICE_CPU || ordinal != 0 || size == 0 || alignment == 0 || alignment > 4096 || (alignment & (alignment - 1)))
    memory.wrong++;
  if (memory.fail_at && (call == memory.fail_at || (memory.fail_from_then_on && call > memory.fail_at))) return NULL;
  char* address = (char*)aligned_alloc(alignment, (size + 2 * alignment - 1) / alignment * alignment);
  memset(address, 0xaa, size); /* never zero by chance */
  if (memory.misalign) address += 4;
  for (size_t i = 0; i < 256; i++) {
    if (memory.blocks[i].address) continue;
    memory.blocks[i].address = address;
    memory.blocks[i].size = size;
    memory.blocks[i].alignment = alignment;
    memory.live++;
    memory.bytes += size;
    return address;
  }
  memory.wrong++;
  return NULL;
}

static void counting_free(void* user, cf_device_kind kind, int32_t ordinal, void* address, size_t size, size_t alignment) {
  for (size_t i = 0; i < 256; i++) {
    if (memory.blocks[i].address != address || !address) continue;
    if (user != &memory || kind != CF_DEVICE_CPU || ordinal != 0 || memory.blocks[i].size != size || memory.blocks[i].alignment != alignment)
      memory.wrong++;
    memory.blocks[i].address = NULL;
    memory.live--;
    memory.bytes -= size;
    free((char*)address - (memory.misalign ? 4 : 0));
    return;
  }
  memory.wrong++;
}

static cf_context* make_counting_context(void) {
  cf_context_options o;
  cf_context* made = NULL;
  memset(&memory, 0, sizeof memory);
  OK(cf_context_options_init(&o, sizeof o));
  o.cpu_threads = 1;
  o.allocate = counting_allocate;
  o.free = counting_free;
  o.allocator_user = &memory;
  OK(cf_context_create(&o, &made));
  return made;
}

static void test_allocator_sees_all_memory_and_gets_it_back(void) {
  cf_context* counted = make_counting_context();
  cf_model* loaded = make_model(counted, &tiny);
  cf_kv_pool_options pool_options;
  cf_kv_pool* pool = NULL;
  cf_kv_pool_info pool_info;
  cf_model_info model_info;
  cf_session_info session_info;
  cf_session_options options;
  cf_session* shared = NULL;
  OK(cf_model_info_init(&model_info, sizeof model_info));
  OK(cf_model_query(loaded, &model_info));
  TEST_ASSERT_GREATER_THAN(0, model_info.weights_bytes);
  TEST_ASSERT_EQUAL_UINT64(memory.bytes, model_info.weights_bytes);
  OK(cf_kv_pool_options_init(&pool_options, sizeof pool_options));
  pool_options.capacity_tokens = 100;
  OK(cf_kv_pool_create(loaded, &pool_options, &pool));
  OK(cf_kv_pool_info_init(&pool_info, sizeof pool_info));
  OK(cf_kv_pool_query(pool, &pool_info));
  TEST_ASSERT_EQUAL_UINT64(memory.bytes, model_info.weights_bytes + pool_info.allocated_bytes);
  OK(cf_session_options_init(&options, sizeof options));
  options.pool = pool;
  options.capacity_tokens = 64;
  OK(cf_session_create(loaded, &options, &shared));
  OK(cf_session_info_init(&session_info, sizeof session_info));
  OK(cf_session_query(shared, &session_info));
  TEST_ASSERT_EQUAL_UINT64(memory.bytes, model_info.weights_bytes + pool_info.allocated_bytes + session_info.workspace_bytes);
  TEST_ASSERT_EQUAL_UINT64(memory.bytes, query_context(counted).allocated_bytes);
  const int calls = memory.calls;
  OK(cf_prefill(shared, (int32_t[]){1, 2, 3}, 3, NULL));
  OK(cf_decode_steps(shared, 4, NULL));
  wait_ok(shared);
  TEST_ASSERT_EQUAL_INT_MESSAGE(calls, memory.calls, "a step allocated");
  const uint64_t most = memory.bytes;
  cf_session_destroy(shared);
  cf_kv_pool_destroy(pool);
  cf_model_destroy(loaded);
  TEST_ASSERT_EQUAL_INT(0, memory.live);
  TEST_ASSERT_EQUAL_UINT64(0, query_context(counted).allocated_bytes);
  TEST_ASSERT_EQUAL_UINT64(most, query_context(counted).peak_bytes);
  cf_context_destroy(counted);
  TEST_ASSERT_EQUAL_INT(0, memory.wrong);
}

/* Everything that allocates, in turn. A call that fails is made again; returns how many failed, or -1 at a wrong status. */
static int32_t decoded_token;
#define TRY(call)                                              \
  do {                                                         \
    cf_status status = call;                                   \
    if (status == CF_ERROR_OUT_OF_MEMORY) {                    \
      failures++;                                              \
      if (!strstr(last_error(), "allocate")) failures += 1000; \
      if (memory.fail_from_then_on) goto leave;                \
      status = call;                                           \
    }                                                          \
    if (status != CF_OK) {                                     \
      failures = -1;                                           \
      goto leave;                                              \
    }                                                          \
  } while (0)

static int run_all(const char* dir) {
  cf_context* counted = NULL;
  cf_model* loaded = NULL;
  cf_kv_pool* pool = NULL;
  cf_session *shared = NULL, *private = NULL;
  cf_context_options o;
  cf_kv_pool_options pool_options;
  cf_session_options options;
  cf_block_options block;
  cf_result result;
  cf_tensor tensors[MAX_DESCRIPTORS];
  struct tensor_list list = tiny_model_tensors(&tiny);
  const size_t n_tensors = describe_tensors(&tiny, &list, 0, tensors);
  float hidden[64] = {1}, out[64], kv[2][64];
  int32_t position = 0;
  cf_status block_status = CF_OK;
  int failures = 0;
  cf_context_options_init(&o, sizeof o);
  o.cpu_threads = 1;
  o.allocate = counting_allocate;
  o.free = counting_free;
  o.allocator_user = &memory;
  TRY(cf_context_create(&o, &counted));
  TRY(cf_model_load(counted, dir, NULL, &loaded));
  TRY(cf_load_layer(loaded, 0, tensors, n_tensors, NULL)); /* again: the same weights */
  TRY(cf_model_reload(loaded, dir, NULL));
  cf_kv_pool_options_init(&pool_options, sizeof pool_options);
  pool_options.capacity_tokens = 64;
  TRY(cf_kv_pool_create(loaded, &pool_options, &pool));
  cf_session_options_init(&options, sizeof options);
  options.capacity_tokens = 32;
  options.reserve = 0;
  TRY(cf_session_create(loaded, &options, &private));
  options.pool = pool;
  options.reserve = 1;
  TRY(cf_session_create(loaded, &options, &shared));
  cf_block_options_init(&block, sizeof block);
  block.kv_dtype = CF_DTYPE_F32;
  block.hidden = hidden;
  block.output = out;
  block.k_cache = kv[0];
  block.v_cache = kv[1];
  block.token_stride = 64;
  block.head_stride = 32;
  block.kv_capacity_tokens = 1;
  block.position = &position;
  block.step_status = &block_status;
  TRY(cf_block_forward(loaded, 0, &block));
  TRY(cf_prefill(shared, (int32_t[]){1, 2, 3}, 3, NULL));
  TRY(cf_prefill(private, (int32_t[]){1, 2, 3}, 3, NULL));
  TRY(cf_decode_steps(private, 5, NULL));
  cf_result_init(&result, sizeof result);
  TRY(cf_session_wait(private, &result));
  decoded_token = result.token;
leave:
  cf_session_destroy(private);
  cf_session_destroy(shared);
  cf_kv_pool_destroy(pool);
  cf_model_destroy(loaded);
  cf_context_destroy(counted);
  free_tensors(&list);
  return failures;
}

static void test_each_allocation_that_fails_is_out_of_memory_and_loses_nothing(void) {
  char* dir = make_temp_dir();
  write_checkpoint(dir, &tiny);
  memset(&memory, 0, sizeof memory);
  TEST_ASSERT_EQUAL_INT(0, run_all(dir));
  const int calls = memory.calls;
  const int32_t token = decoded_token;
  TEST_ASSERT_GREATER_OR_EQUAL(8, calls);
  for (int from_then_on = 0; from_then_on <= 1; from_then_on++) {
    for (int n = 1; n <= calls; n++) {
      char what[64];
      snprintf(what, sizeof what, "allocation %d%s", n, from_then_on ? " and all after it" : "");
      memset(&memory, 0, sizeof memory);
      memory.fail_at = n;
      memory.fail_from_then_on = from_then_on;
      decoded_token = -2;
      TEST_ASSERT_EQUAL_INT_MESSAGE(1, run_all(dir), what);
      TEST_ASSERT_EQUAL_INT_MESSAGE(0, memory.live, what);
      TEST_ASSERT_EQUAL_INT_MESSAGE(0, memory.wrong, what);
      if (!from_then_on) TEST_ASSERT_EQUAL_INT32_MESSAGE(token, decoded_token, what);
    }
  }
  remove_tree(dir);
  free(dir);
}

static void test_a_failed_session_leaves_the_pool_as_it_was(void) {
  cf_context* counted = make_counting_context();
  cf_model* loaded = make_model(counted, &tiny);
  cf_kv_pool_options pool_options;
  cf_kv_pool_info before, after;
  cf_session_options options;
  cf_kv_pool* pool = NULL;
  cf_session* shared = NULL;
  OK(cf_kv_pool_options_init(&pool_options, sizeof pool_options));
  pool_options.capacity_tokens = 128;
  OK(cf_kv_pool_create(loaded, &pool_options, &pool));
  OK(cf_kv_pool_info_init(&before, sizeof before));
  OK(cf_kv_pool_info_init(&after, sizeof after));
  OK(cf_kv_pool_query(pool, &before));
  OK(cf_session_options_init(&options, sizeof options));
  options.pool = pool;
  memory.fail_at = memory.calls + 1; /* the workspace, when the pages are taken already */
  FAILS(CF_ERROR_OUT_OF_MEMORY, "allocate", cf_session_create(loaded, &options, &shared));
  TEST_ASSERT_NULL(shared);
  OK(cf_kv_pool_query(pool, &after));
  TEST_ASSERT_EQUAL_INT64(before.n_pages_free, after.n_pages_free);
  cf_kv_pool_destroy(pool);
  cf_model_destroy(loaded);
  cf_context_destroy(counted);
  TEST_ASSERT_EQUAL_INT(0, memory.live);
}

static void test_misaligned_memory_is_refused_and_given_back(void) {
  cf_context* counted = make_counting_context();
  const cf_model_config config = describe_model(&tiny);
  struct tensor_list list = tiny_model_tensors(&tiny);
  cf_tensor tensors[MAX_DESCRIPTORS];
  const size_t n = describe_tensors(&tiny, &list, 0, tensors);
  cf_model* empty = NULL;
  OK(cf_model_create(counted, &config, NULL, &empty));
  memory.misalign = 1;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "not aligned", cf_load_layer(empty, 0, tensors, n, NULL));
  TEST_ASSERT_EQUAL_INT(0, memory.live);
  TEST_ASSERT_EQUAL_INT(0, memory.wrong);
  memory.misalign = 0;
  TEST_ASSERT_EQUAL_UINT64(0, query_context(counted).allocated_bytes);
  OK(cf_load_layer(empty, 0, tensors, n, NULL));
  cf_model_destroy(empty);
  cf_context_destroy(counted);
  free_tensors(&list);
  TEST_ASSERT_EQUAL_INT(0, memory.live);
}

/* ---- Lifetimes ---- */

static void test_parents_may_go_before_their_children(void) {
  cf_context* counted = make_counting_context();
  cf_model* loaded = make_model(counted, &tiny);
  cf_kv_pool_options pool_options;
  cf_session_options options;
  cf_kv_pool* pool = NULL;
  cf_session *shared = NULL, *private = make_session(loaded, 16);
  OK(cf_kv_pool_options_init(&pool_options, sizeof pool_options));
  pool_options.capacity_tokens = 64;
  OK(cf_kv_pool_create(loaded, &pool_options, &pool));
  OK(cf_session_options_init(&options, sizeof options));
  options.pool = pool;
  options.capacity_tokens = 16;
  OK(cf_session_create(loaded, &options, &shared));
  OK(cf_context_destroy(counted));
  OK(cf_model_destroy(loaded));
  OK(cf_kv_pool_destroy(pool));
  OK(cf_prefill(shared, (int32_t[]){1, 2, 3}, 3, NULL));
  OK(cf_prefill(private, (int32_t[]){1, 2, 3}, 3, NULL));
  OK(cf_decode_steps(shared, 3, NULL));
  OK(cf_decode_steps(private, 3, NULL));
  TEST_ASSERT_EQUAL_INT32(wait_ok(shared).token, wait_ok(private).token);
  OK(cf_session_destroy(shared));
  TEST_ASSERT_GREATER_THAN(0, memory.live);
  OK(cf_session_destroy(private));
  TEST_ASSERT_EQUAL_INT(0, memory.live);
  TEST_ASSERT_EQUAL_INT(0, memory.wrong);
}

static void test_destroying_null_is_allowed(void) {
  OK(cf_context_destroy(NULL));
  OK(cf_model_destroy(NULL));
  OK(cf_kv_pool_destroy(NULL));
  OK(cf_session_destroy(NULL));
  OK(cf_graph_destroy(NULL));
  OK(cf_cancellation_destroy(NULL));
}

static void test_cancellation_handles(void) {
  cf_cancellation* cancellation = NULL;
  OK(cf_cancellation_create(&cancellation));
  int32_t requested = -1;
  OK(cf_cancellation_requested(cancellation, &requested));
  TEST_ASSERT_EQUAL_INT32(0, requested);
  OK(cf_cancellation_request(cancellation));
  OK(cf_cancellation_request(cancellation));
  OK(cf_cancellation_requested(cancellation, &requested));
  TEST_ASSERT_EQUAL_INT32(1, requested);
  OK(cf_cancellation_reset(cancellation));
  OK(cf_cancellation_requested(cancellation, &requested));
  TEST_ASSERT_EQUAL_INT32(0, requested);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "cancellation is NULL", cf_cancellation_requested(NULL, &requested));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "requested is NULL", cf_cancellation_requested(cancellation, NULL));
  OK(cf_cancellation_destroy(cancellation));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "cancellation is NULL", cf_cancellation_create(NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "cancellation is NULL", cf_cancellation_reset(NULL));
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_INVALID_ARGUMENT, cf_cancellation_request(NULL));
}

/* ---- NULL ---- */

#define REFUSES(word, call) FAILS(CF_ERROR_INVALID_ARGUMENT, word, call)

static void test_null_handles(void) {
  const cf_model_config config = describe_model(&tiny);
  cf_context_info context_info;
  cf_model_info model_info;
  cf_model_config got;
  cf_kv_pool_info pool_info;
  cf_session_info session_info;
  cf_memory_estimate estimate;
  cf_block_options block;
  cf_kv_pool_options pool_options;
  cf_model* made_model = NULL;
  cf_kv_pool* made_pool = NULL;
  cf_session* made = NULL;
  cf_graph* graph = NULL;
  int32_t token = 1;
  size_t n = 0;
  OK(cf_context_info_init(&context_info, sizeof context_info));
  OK(cf_model_info_init(&model_info, sizeof model_info));
  OK(cf_model_config_init(&got, sizeof got));
  OK(cf_kv_pool_info_init(&pool_info, sizeof pool_info));
  OK(cf_session_info_init(&session_info, sizeof session_info));
  OK(cf_memory_estimate_init(&estimate, sizeof estimate));
  OK(cf_block_options_init(&block, sizeof block));
  OK(cf_kv_pool_options_init(&pool_options, sizeof pool_options));
  pool_options.capacity_tokens = 1;
  REFUSES("context is NULL", cf_context_query(NULL, &context_info));
  REFUSES("context is NULL", cf_context_last_error(NULL, NULL, 0, NULL));
  REFUSES("context is NULL", cf_model_load(NULL, "somewhere", NULL, &made_model));
  REFUSES("context is NULL", cf_model_create(NULL, &config, NULL, &made_model));
  REFUSES("context is NULL", cf_model_estimate(NULL, &config, CF_DTYPE_F32, NULL, NULL, &estimate));
  REFUSES("model is NULL", cf_model_reload(NULL, "somewhere", NULL));
  REFUSES("model is NULL", cf_load_layer(NULL, 0, NULL, 0, NULL));
  REFUSES("model is NULL", cf_load_globals(NULL, NULL, 0, NULL));
  REFUSES("model is NULL", cf_model_query(NULL, &model_info));
  REFUSES("model is NULL", cf_model_get_config(NULL, &got));
  REFUSES("model is NULL", cf_kv_pool_create(NULL, &pool_options, &made_pool));
  REFUSES("pool is NULL", cf_kv_pool_query(NULL, &pool_info));
  REFUSES("model is NULL", cf_session_create(NULL, NULL, &made));
  REFUSES("session is NULL", cf_session_query(NULL, &session_info));
  REFUSES("session is NULL", cf_session_set_sampler(NULL, NULL));
  REFUSES("session is NULL", cf_session_set_allowed_tokens(NULL, NULL, 0));
  REFUSES("session is NULL", cf_prefill(NULL, &token, 1, NULL));
  REFUSES("session is NULL", cf_decode_step(NULL, 1, NULL));
  REFUSES("session is NULL", cf_decode_steps(NULL, 1, NULL));
  REFUSES("session is NULL", cf_decode_positions(NULL, &token, 1, NULL));
  REFUSES("sessions", cf_decode_batch(NULL, 1, NULL, NULL));
  REFUSES("sessions", cf_decode_batch(&made, 1, NULL, NULL)); /* made is NULL */
  REFUSES("session is NULL", cf_session_poll(NULL, NULL));
  REFUSES("session is NULL", cf_session_wait(NULL, NULL));
  REFUSES("session is NULL", cf_session_tokens(NULL, 0, &token, 1, &n));
  REFUSES("session is NULL", cf_session_truncate(NULL, 0));
  REFUSES("session is NULL", cf_session_fork(NULL, 0, NULL, &made));
  REFUSES("session is NULL", cf_session_save(NULL, NULL, 0, &n));
  REFUSES("session is NULL", cf_session_save_file(NULL, "somewhere"));
  REFUSES("model is NULL", cf_session_restore(NULL, NULL, &token, 4, &made));
  REFUSES("model is NULL", cf_session_restore_file(NULL, NULL, "somewhere", &made));
  REFUSES("session is NULL", cf_graph_capture(NULL, NULL, &graph));
  REFUSES("graph is NULL", cf_graph_launch(NULL));
  REFUSES("graph is NULL", cf_graph_query(NULL, NULL));
  REFUSES("model is NULL", cf_block_forward(NULL, 0, &block));
  REFUSES("model is NULL", cf_block_attention(NULL, 0, &block));
  REFUSES("model is NULL", cf_block_mlp_down(NULL, 0, &block));
  TEST_ASSERT_NULL(made_model);
  TEST_ASSERT_NULL(made_pool);
  TEST_ASSERT_NULL(made);
  TEST_ASSERT_NULL(graph);
}

static void test_null_results_and_arguments(void) {
  const cf_model_config config = describe_model(&tiny);
  cf_model_config got;
  cf_model* made_model = NULL;
  const float logits[2] = {0, 1};
  int32_t token = 1;
  OK(cf_model_config_init(&got, sizeof got));
  REFUSES("info is NULL", cf_context_query(context, NULL));
  REFUSES("directory is NULL", cf_model_config_read(NULL, &got));
  REFUSES("config is NULL", cf_model_config_read("somewhere", NULL));
  REFUSES("directory is NULL", cf_model_load(context, NULL, NULL, &made_model));
  REFUSES("model is NULL", cf_model_load(context, "somewhere", NULL, NULL));
  REFUSES("directory is NULL", cf_model_reload(model, NULL, NULL));
  REFUSES("config is NULL", cf_model_create(context, NULL, NULL, &made_model));
  REFUSES("model is NULL", cf_model_create(context, &config, NULL, NULL));
  REFUSES("info is NULL", cf_model_query(model, NULL));
  REFUSES("config is NULL", cf_model_get_config(model, NULL));
  REFUSES("estimate is NULL", cf_model_estimate(context, &config, CF_DTYPE_F32, NULL, NULL, NULL));
  REFUSES("pool is NULL", cf_kv_pool_create(model, NULL, NULL));
  REFUSES("session is NULL", cf_session_create(model, NULL, NULL));
  REFUSES("info is NULL", cf_session_query(session, NULL));
  REFUSES("tokens is NULL", cf_prefill(session, NULL, 1, NULL));
  REFUSES("tokens is NULL", cf_decode_positions(session, NULL, 1, NULL));
  REFUSES("n_tokens is NULL", cf_session_tokens(session, 0, &token, 1, NULL));
  REFUSES("tokens is NULL", cf_session_tokens(session, 0, NULL, 1, &(size_t){0}));
  REFUSES("logits is NULL", cf_sample_logits(NULL, NULL, NULL, 2, NULL, 0, 0, &token));
  REFUSES("token is NULL", cf_sample_logits(NULL, NULL, logits, 2, NULL, 0, 0, NULL));
  REFUSES("options is NULL", cf_block_forward(model, 0, NULL));
  TEST_ASSERT_NULL(made_model);
}

/* ---- Graphs ---- */

static void test_graphs_need_a_gpu(void) {
  cf_graph* graph = NULL;
  FAILS(CF_ERROR_UNSUPPORTED, "cf_graph_capture needs a CUDA device", cf_graph_capture(session, NULL, &graph));
  TEST_ASSERT_NULL(graph);
  TEST_ASSERT_EQUAL_INT64(0, wait_ok(session).position);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_versions_are_the_headers);
  RUN_TEST(test_every_status_has_its_name);
  RUN_TEST(test_other_numbers_are_no_status);
  RUN_TEST(test_last_error_is_copied_and_cut);
  RUN_TEST(test_last_error_without_a_buffer);
  RUN_TEST(test_success_keeps_the_last_error);
  RUN_TEST(test_last_error_is_the_threads_own);
  RUN_TEST(test_context_last_error_is_of_any_thread);
  RUN_TEST(test_sentences_are_at_most_1024_bytes);
  RUN_TEST(test_contexts_have_their_own_last_errors);
  RUN_TEST(test_init_sets_the_size_and_zeroes_the_rest_of_a_larger_struct);
  RUN_TEST(test_init_stays_within_a_smaller_struct);
  RUN_TEST(test_init_refuses_what_cannot_be_a_struct);
  RUN_TEST(test_defaults_are_as_the_header_says);
  RUN_TEST(test_options_of_a_newer_caller);
  RUN_TEST(test_options_of_an_older_caller_have_defaults_for_what_they_lack);
  RUN_TEST(test_results_for_older_and_newer_callers);
  RUN_TEST(test_results_that_were_not_initialised);
  RUN_TEST(test_the_cpu_is_one_device);
  RUN_TEST(test_devices_that_are_not_there);
  RUN_TEST(test_cuda_context_without_a_device);
  RUN_TEST(test_context_options_that_are_wrong);
  RUN_TEST(test_a_failing_create_leaves_the_output_pointer);
  RUN_TEST(test_context_of_default_options);
  RUN_TEST(test_context_on_the_named_device_with_that_many_threads);
  RUN_TEST(test_forced_instruction_sets);
  RUN_TEST(test_log_is_filtered_by_level);
  RUN_TEST(test_silent_without_a_log);
  RUN_TEST(test_allocator_sees_all_memory_and_gets_it_back);
  RUN_TEST(test_each_allocation_that_fails_is_out_of_memory_and_loses_nothing);
  RUN_TEST(test_a_failed_session_leaves_the_pool_as_it_was);
  RUN_TEST(test_misaligned_memory_is_refused_and_given_back);
  RUN_TEST(test_parents_may_go_before_their_children);
  RUN_TEST(test_destroying_null_is_allowed);
  RUN_TEST(test_cancellation_handles);
  RUN_TEST(test_null_handles);
  RUN_TEST(test_null_results_and_arguments);
  RUN_TEST(test_graphs_need_a_gpu);
  return UNITY_END();
}
