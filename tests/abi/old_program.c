/* A program of the time when the ABI was frozen: it calls every function of baseline/clusterfusion-1.h, and is kept as it was compiled then
 * (baseline/old_program-1.x86_64, by old_program.sh make). Whatever the header becomes, this program has to go on running.
 *   old_program DEMO_MODEL FOLDER */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clusterfusion-1.h"

static int checks;

static void expect(int holds, int line, const char* what) {
  char sentence[1025] = "";
  checks++;
  if (holds) return;
  cf_last_error(sentence, sizeof sentence, NULL);
  printf("FAIL: line %d: %s; last error: %s\n", line, what, sentence);
  exit(1);
}
#define CHECK(condition) expect(condition, __LINE__, #condition)
#define OK(call) CHECK((call) == CF_OK)
#define INIT(type, value) \
  type value;             \
  OK(type##_init(&value, sizeof value))

/* ---- What callbacks saw ---- */

static int log_lines, progress_calls;
static long live_blocks;

static void on_log(void* user, cf_log_level level, const char* message) {
  if (user == &log_lines && level >= CF_LOG_WARNING && level <= CF_LOG_DEBUG && message[0]) log_lines++;
}
static void* on_allocate(void* user, cf_device_kind kind, int32_t ordinal, size_t size, size_t alignment) {
  if (user != &live_blocks || kind != CF_DEVICE_CPU || ordinal != 0) return NULL;
  live_blocks++;
  return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}
static void on_free(void* user, cf_device_kind kind, int32_t ordinal, void* address, size_t size, size_t alignment) {
  (void)kind, (void)ordinal, (void)size, (void)alignment;
  if (user == &live_blocks) live_blocks--;
  free(address);
}
static int32_t on_progress(void* user, uint64_t done, uint64_t total) {
  if (user == &progress_calls && done <= total) progress_calls++;
  return 0;
}
static int32_t stop_at_once(void* user, uint64_t done, uint64_t total) {
  (void)user, (void)done, (void)total;
  return 1;
}

/* ---- Versions, errors, devices ---- */

static void names_and_devices(void) {
  char sentence[16];
  size_t length = 0;
  int32_t n = -1, requested = -1;
  cf_cancellation* cancellation = NULL;
  CHECK(cf_abi_version() == CF_ABI_VERSION);
  CHECK(cf_version() >= 1000); /* this header's 0.1.0, or a newer one */
  CHECK(strchr(cf_version_string(), '.') != NULL);
  CHECK(strcmp(cf_status_name(CF_OK), "CF_OK") == 0);
  CHECK(strcmp(cf_status_name(CF_ERROR_INTERNAL), "CF_ERROR_INTERNAL") == 0);
  CHECK(cf_device_count(99, &n) == CF_ERROR_INVALID_ARGUMENT);
  OK(cf_last_error(sentence, sizeof sentence, &length));
  CHECK(length >= sizeof sentence && strlen(sentence) == sizeof sentence - 1);
  OK(cf_device_count(CF_DEVICE_CPU, &n));
  CHECK(n == 1);
  INIT(cf_device_info, info);
  OK(cf_device_query(CF_DEVICE_CPU, 0, &info));
  CHECK(info.struct_size == sizeof info && info.kind == CF_DEVICE_CPU && info.usable == 1 && info.memory_bytes > 0 && info.name[0]);
  OK(cf_cancellation_create(&cancellation));
  OK(cf_cancellation_request(cancellation));
  OK(cf_cancellation_requested(cancellation, &requested));
  CHECK(requested == 1);
  OK(cf_cancellation_reset(cancellation));
  OK(cf_cancellation_requested(cancellation, &requested));
  CHECK(requested == 0);
  OK(cf_cancellation_destroy(cancellation));
}

static cf_context* make_context(void) {
  cf_context* context = NULL;
  INIT(cf_context_options, options);
  CHECK(options.struct_size == sizeof options && options.log_level == CF_LOG_INFO && options.device_wait_limit_ms == 1000);
  options.cpu_threads = 2;
  options.log = on_log, options.log_user = &log_lines, options.log_level = CF_LOG_DEBUG;
  options.allocate = on_allocate, options.free = on_free, options.allocator_user = &live_blocks;
  OK(cf_context_create(&options, &context));
  INIT(cf_context_info, info);
  OK(cf_context_query(context, &info));
  CHECK(info.device_kind == CF_DEVICE_CPU && info.cpu_threads == 2 && info.n_devices == 1);
  return context;
}

/* ---- Structs that are shorter or longer than the library's ---- */

static void struct_sizes(cf_context* context, const char* directory) {
  struct {
    cf_model_config config;
    unsigned char tail[24];
  } longer;
  struct {
    cf_session_options options;
    unsigned char tail[16];
  } more;
  cf_model* model = NULL;
  cf_session* session = NULL;
  /* Shorter: only what there is room for is written. */
  memset(&longer, 0xee, sizeof longer);
  OK(cf_model_config_init(&longer.config, offsetof(cf_model_config, hidden_size)));
  OK(cf_model_config_read(directory, &longer.config));
  CHECK(longer.config.struct_size == offsetof(cf_model_config, hidden_size) && longer.config.n_layers == 4);
  unsigned char untouched = 0xee;
  for (size_t i = offsetof(cf_model_config, hidden_size); i < sizeof longer; i++) untouched &= ((unsigned char*)&longer)[i];
  CHECK(untouched == 0xee);
  /* Longer: the unknown tail is zeroed in results, and must be zero in options. */
  memset(&longer, 0xee, sizeof longer);
  OK(cf_model_config_init(&longer.config, sizeof longer));
  OK(cf_model_config_read(directory, &longer.config));
  CHECK(longer.config.struct_size == sizeof longer && longer.config.vocab_size == 256 && longer.tail[0] == 0 && longer.tail[23] == 0);
  OK(cf_model_load(context, directory, NULL, &model));
  OK(cf_session_options_init(&more.options, sizeof more));
  more.options.capacity_tokens = 16;
  OK(cf_session_create(model, &more.options, &session));
  OK(cf_session_destroy(session));
  session = NULL;
  more.tail[15] = 1;
  CHECK(cf_session_create(model, &more.options, &session) == CF_ERROR_INVALID_ARGUMENT && session == NULL);
  more.tail[15] = 0, more.options.struct_size = 3;
  CHECK(cf_session_create(model, &more.options, &session) == CF_ERROR_INVALID_ARGUMENT);
  /* Shorter options: what is not there has its default. */
  more.options.struct_size = offsetof(cf_session_options, reserve);
  more.options.reserve = 77;
  OK(cf_session_create(model, &more.options, &session));
  INIT(cf_session_info, info);
  OK(cf_session_query(session, &info));
  CHECK(info.capacity_tokens == 16 && info.n_pages == 1 && info.page_tokens == 64); /* reserved */
  OK(cf_session_destroy(session));
  OK(cf_model_destroy(model));
}

/* ---- A checkpoint ---- */

static const int32_t kPrompt[] = {'4', '1', '2', '+', '9', '3', '='};
enum { N_PROMPT = 7, VOCAB = 256 };

static cf_model* load(cf_context* context, const char* directory) {
  cf_model* model = NULL;
  cf_cancellation* cancellation = NULL;
  INIT(cf_model_config, config);
  OK(cf_model_config_read(directory, &config));
  CHECK(config.family == CF_FAMILY_GPT_NEOX && config.norm == CF_NORM_LAYER && config.activation == CF_ACTIVATION_GELU && config.n_heads == 4 &&
        config.rotary_dim == 16 && config.norm_eps == 1e-5 && config.rope_theta == 10000 && config.n_eos_tokens == 1 && config.eos_tokens[0] == 10);
  INIT(cf_model_options, options);
  OK(cf_cancellation_create(&cancellation));
  options.progress = on_progress, options.progress_user = &progress_calls, options.cancellation = cancellation;
  OK(cf_cancellation_request(cancellation));
  CHECK(cf_model_load(context, directory, &options, &model) == CF_ERROR_CANCELLED && model == NULL);
  OK(cf_cancellation_reset(cancellation));
  OK(cf_model_load(context, directory, &options, &model));
  OK(cf_model_reload(model, directory, &options));
  CHECK(progress_calls > 0);
  OK(cf_cancellation_destroy(cancellation));
  INIT(cf_session_options, session_options);
  session_options.capacity_tokens = 64;
  INIT(cf_memory_estimate, estimate);
  OK(cf_model_estimate(context, &config, CF_DTYPE_F16, NULL, &session_options, &estimate));
  INIT(cf_model_info, info);
  OK(cf_model_query(model, &info));
  CHECK(info.n_layers_loaded == 4 && info.globals_loaded == 1 && info.weight_dtype == CF_DTYPE_F16 && info.fingerprint != 0);
  CHECK(info.weights_bytes == estimate.weights_bytes && estimate.kv_bytes == 64 * 4 * 2 * 256 * sizeof(float));
  OK(cf_model_get_config(model, &config));
  CHECK(config.n_layers == 4 && config.hidden_size == 256 && config.vocab_size == VOCAB);
  CHECK(cf_model_load(context, "/nowhere", NULL, &model) == CF_ERROR_IO);
  char sentence[256];
  OK(cf_context_last_error(context, sentence, sizeof sentence, NULL));
  CHECK(strstr(sentence, "/nowhere") != NULL);
  return model;
}

/* What follows the prompt up to the end of the line. */
static void expect_answer(cf_session* session, const char* answer) {
  INIT(cf_result, result);
  for (; *answer; answer++) {
    OK(cf_session_wait(session, &result));
    CHECK(result.status == CF_OK && result.token == *answer);
    OK(cf_decode_step(session, CF_TOKEN_PENDING, NULL));
  }
  OK(cf_session_wait(session, &result));
  CHECK(result.token == '\n' && result.stopped == 0); /* no stop token is set */
}

static cf_session* make_session(cf_model* model, cf_kv_pool* pool) {
  cf_session* session = NULL;
  INIT(cf_session_options, options);
  CHECK(options.reserve == 1 && options.page_tokens == 64);
  options.pool = pool, options.capacity_tokens = 48, options.reserve = 0;
  OK(cf_session_create(model, &options, &session));
  return session;
}

static void decode(cf_model* model) {
  static float logits[4][VOCAB], expected[VOCAB], taps[4][256];
  int32_t top[4][2], row_tokens[4], tokens[16];
  float top_logprobs[4][2], target_logprobs[4];
  cf_status row_status[4];
  size_t n = 0;
  cf_kv_pool* pool = NULL;
  INIT(cf_kv_pool_options, pool_options);
  pool_options.capacity_tokens = 256, pool_options.page_tokens = 16;
  OK(cf_kv_pool_create(model, &pool_options, &pool));
  cf_session *session = make_session(model, pool), *other = make_session(model, pool), *fork = NULL;
  INIT(cf_result, result);

  OK(cf_prefill(session, kPrompt, N_PROMPT, NULL));
  OK(cf_session_poll(session, &result));
  CHECK(result.position == N_PROMPT && result.n_steps == N_PROMPT && result.token == '5' && result.stopped == 0);
  expect_answer(session, "505");
  OK(cf_session_tokens(session, N_PROMPT, tokens, 16, &n));
  CHECK(n == 4 && tokens[0] == '5' && tokens[1] == '0' && tokens[3] == '\n');

  /* Outputs and taps of a step, and the same positions as several of one call. */
  OK(cf_session_truncate(session, N_PROMPT));
  INIT(cf_outputs, outputs);
  INIT(cf_tap, tap);
  INIT(cf_step_options, step);
  CHECK(step.sample == 1);
  int32_t target[4] = {'0', '5', '\n', -1};
  outputs.rows = CF_ROWS_ALL, outputs.top_n = 2, outputs.logits = logits[0], outputs.top_tokens = top[0], outputs.top_logprobs = top_logprobs[0];
  outputs.targets = target, outputs.target_logprobs = target_logprobs, outputs.row_tokens = row_tokens, outputs.row_status = row_status;
  tap.point = CF_TAP_BLOCK_OUTPUT, tap.layer = 3, tap.data = taps[0];
  step.outputs = &outputs, step.taps = &tap, step.n_taps = 1;
  step.progress = on_progress, step.progress_user = &progress_calls;
  OK(cf_decode_step(session, CF_TOKEN_PENDING, &step));
  OK(cf_session_wait(session, &result));
  CHECK(row_status[0] == CF_OK && row_tokens[0] == '0' && top[0][0] == '0' && target_logprobs[0] == top_logprobs[0][0] && target_logprobs[0] < 0);
  memcpy(expected, logits[0], sizeof expected);
  OK(cf_session_truncate(session, N_PROMPT));
  OK(cf_decode_positions(session, (int32_t[]){'5', '0', '5', '\n'}, 4, &step));
  OK(cf_session_wait(session, &result));
  CHECK(memcmp(expected, logits[0], sizeof expected) == 0 && row_tokens[1] == '5' && row_tokens[2] == '\n');
  CHECK(isfinite(taps[3][0]) && result.position == N_PROMPT + 4);

  /* A fork, a batch, and steps that end at a stop token or are cancelled. */
  OK(cf_session_truncate(session, N_PROMPT));
  OK(cf_session_fork(session, N_PROMPT, NULL, &fork));
  INIT(cf_kv_pool_info, pool_info);
  OK(cf_kv_pool_query(pool, &pool_info));
  CHECK(pool_info.n_pages == 16 && pool_info.n_pages_shared == 1 && pool_info.page_tokens == 16 && pool_info.kv_dtype == CF_DTYPE_F32);
  OK(cf_prefill(other, kPrompt, N_PROMPT, NULL));
  cf_session* all[3] = {session, fork, other};
  step.taps = NULL, step.n_taps = 0;
  step.progress = NULL;
  OK(cf_decode_batch(all, 3, NULL, &step));
  for (int i = 0; i < 3; i++) {
    OK(cf_session_wait(all[i], &result));
    CHECK(row_tokens[i] == '0' && memcmp(expected, logits[i], sizeof expected) == 0);
  }
  INIT(cf_sampler_options, greedy);
  const int32_t end_of_line = '\n';
  greedy.n_stop_tokens = 1, greedy.stop_tokens = &end_of_line;
  OK(cf_session_set_sampler(fork, &greedy));
  OK(cf_decode_steps(fork, 30, NULL));
  OK(cf_session_wait(fork, &result));
  CHECK(result.stopped == 1 && result.token == '\n' && result.n_steps == 2);
  step.progress = stop_at_once;
  OK(cf_decode_steps(other, 2, &step));
  CHECK(cf_session_wait(other, &result) == CF_ERROR_CANCELLED && result.status == CF_ERROR_CANCELLED);

  /* Sampling. */
  INIT(cf_sampler_options, sampler);
  CHECK(sampler.top_p == 1 && sampler.repetition_penalty == 1);
  const int32_t banned = '0', stops[1] = {'7'};
  const float ban = -INFINITY;
  sampler.temperature = 0.5f, sampler.top_k = 3, sampler.top_p = 0.9f, sampler.seed = 7;
  sampler.n_logit_biases = 1, sampler.logit_bias_tokens = &banned, sampler.logit_bias_values = &ban;
  sampler.n_stop_tokens = 1, sampler.stop_tokens = stops;
  uint32_t mask[VOCAB / 32] = {0};
  mask['0' / 32] |= 1u << '0' % 32, mask['7' / 32] |= 1u << '7' % 32;
  int32_t token = -1;
  OK(cf_sample_logits(&sampler, mask, expected, VOCAB, kPrompt, N_PROMPT, N_PROMPT + 1, &token));
  CHECK(token == '7');
  OK(cf_session_set_sampler(session, &sampler));
  OK(cf_session_set_allowed_tokens(session, mask, VOCAB / 32));
  OK(cf_decode_step(session, CF_TOKEN_PENDING, NULL));
  OK(cf_session_wait(session, &result));
  CHECK(result.token == '7' && result.stopped == 1);

  cf_graph* graph = NULL;
  INIT(cf_graph_options, graph_options);
  INIT(cf_graph_info, graph_info);
  CHECK(graph_options.n_steps == 1);
  CHECK(cf_graph_capture(session, &graph_options, &graph) != CF_OK && graph == NULL); /* CUDA only */
  CHECK(cf_graph_launch(NULL) == CF_ERROR_INVALID_ARGUMENT && cf_graph_query(NULL, &graph_info) == CF_ERROR_INVALID_ARGUMENT);
  OK(cf_graph_destroy(NULL));

  OK(cf_kv_pool_destroy(pool)); /* before its sessions */
  OK(cf_session_destroy(fork));
  OK(cf_session_destroy(session));
  OK(cf_session_destroy(other));
}

static void save_and_restore(cf_model* model, const char* folder) {
  char path[4096];
  size_t size = 0;
  cf_session *session = make_session(model, NULL), *restored = NULL, *from_file = NULL;
  OK(cf_prefill(session, kPrompt, N_PROMPT, NULL));
  CHECK(cf_session_save(session, path, 1, &size) == CF_ERROR_BUFFER_TOO_SMALL && size > 1);
  void* saved = malloc(size);
  CHECK(saved != NULL);
  OK(cf_session_save(session, saved, size, &size));
  snprintf(path, sizeof path, "%s/saved", folder);
  OK(cf_session_save_file(session, path));
  OK(cf_session_destroy(session));
  INIT(cf_session_options, options);
  options.capacity_tokens = 48;
  OK(cf_session_restore(model, &options, saved, size, &restored));
  OK(cf_session_restore_file(model, &options, path, &from_file));
  expect_answer(restored, "505");
  expect_answer(from_file, "505");
  ((unsigned char*)saved)[size / 2] ^= 1;
  CHECK(cf_session_restore(model, &options, saved, size, &session) == CF_ERROR_INVALID_FILE);
  OK(cf_session_destroy(restored));
  OK(cf_session_destroy(from_file));
  free(saved);
}

/* ---- A model from memory, and its block ---- */

enum { H = 32 };

static cf_tensor tensor_of(cf_tensor_role role, int64_t rows, float* data) {
  cf_tensor tensor;
  OK(cf_tensor_init(&tensor, sizeof tensor));
  tensor.role = role, tensor.dtype = CF_DTYPE_F32, tensor.rank = rows ? 2 : 1;
  tensor.shape[0] = rows ? rows : H, tensor.shape[1] = rows ? H : 0;
  tensor.data = data;
  return tensor;
}

static void blocks(cf_context* context) {
  static float matrix[H * H], vector[H], k[2][H], v[2][H], hidden[H], whole[H], halves[H], attention[H], activation[H];
  for (int i = 0; i < H * H; i++) matrix[i] = (float)((i * 37 + 11) % 64 - 32) / 256;
  for (int i = 0; i < H; i++) vector[i] = 1, hidden[i] = (float)(i % 5) - 2;
  INIT(cf_model_config, config);
  CHECK(config.bos_token == -1);
  config.family = CF_FAMILY_LLAMA, config.norm = CF_NORM_RMS, config.activation = CF_ACTIVATION_SWIGLU;
  config.n_layers = config.n_heads = config.n_kv_heads = 1;
  config.hidden_size = config.head_dim = config.rotary_dim = config.intermediate_size = config.vocab_size = H;
  config.max_position_embeddings = 64, config.norm_eps = 1e-5, config.rope_theta = 10000;
  cf_model* model = NULL;
  OK(cf_model_create(context, &config, NULL, &model));
  const cf_tensor globals[] = {tensor_of(CF_ROLE_EMBEDDING, H, matrix), tensor_of(CF_ROLE_FINAL_NORM_WEIGHT, 0, vector),
                               tensor_of(CF_ROLE_HEAD, H, matrix)};
  const cf_tensor layer[] = {tensor_of(CF_ROLE_ATTENTION_NORM_WEIGHT, 0, vector),
                             tensor_of(CF_ROLE_MLP_NORM_WEIGHT, 0, vector),
                             tensor_of(CF_ROLE_Q_WEIGHT, H, matrix),
                             tensor_of(CF_ROLE_K_WEIGHT, H, matrix),
                             tensor_of(CF_ROLE_V_WEIGHT, H, matrix),
                             tensor_of(CF_ROLE_O_WEIGHT, H, matrix),
                             tensor_of(CF_ROLE_GATE_WEIGHT, H, matrix),
                             tensor_of(CF_ROLE_UP_WEIGHT, H, matrix),
                             tensor_of(CF_ROLE_DOWN_WEIGHT, H, matrix)};
  CHECK(cf_load_layer(model, 0, layer, 8, NULL) == CF_ERROR_INVALID_ARGUMENT);
  OK(cf_load_globals(model, globals, 3, NULL));
  OK(cf_load_layer(model, 0, layer, 9, NULL));
  uint64_t workspace = 1;
  OK(cf_block_workspace(model, 1, 2, &workspace));
  CHECK(workspace == 0);
  int32_t position = 0;
  cf_status step_status = CF_OK;
  INIT(cf_block_options, block);
  CHECK(block.n_rows == 1 && block.activation_dtype == CF_DTYPE_F32 && block.kv_dtype == CF_DTYPE_F16);
  block.kv_dtype = CF_DTYPE_F32, block.hidden = hidden, block.output = whole, block.k_cache = k[0], block.v_cache = v[0];
  block.token_stride = H, block.head_stride = H, block.kv_capacity_tokens = 2, block.position = &position, block.step_status = &step_status;
  OK(cf_block_forward(model, 0, &block));
  CHECK(step_status == CF_OK && position == 0 && isfinite(whole[0]) && whole[0] != hidden[0]);
  block.output = halves, block.attention_output = attention, block.mlp_activation = activation;
  OK(cf_block_attention(model, 0, &block));
  block.advance = 1;
  OK(cf_block_mlp_down(model, 0, &block));
  CHECK(position == 1 && memcmp(whole, halves, sizeof whole) == 0);
  OK(cf_model_destroy(model));
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  names_and_devices();
  cf_context* context = make_context();
  struct_sizes(context, argv[1]);
  cf_model* model = load(context, argv[1]);
  decode(model);
  save_and_restore(model, argv[2]);
  blocks(context);
  OK(cf_context_destroy(context)); /* before its model */
  OK(cf_model_destroy(model));
  CHECK(live_blocks == 0 && log_lines > 0);
  printf("%d checks hold\n", checks);
  return 0;
}
