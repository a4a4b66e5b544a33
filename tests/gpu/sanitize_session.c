/* Sessions of small models of every head_dim, for compute-sanitizer: prompts, steps, rows, batches, forks, saved sessions, in every launch
 * mode and as graphs. Checks statuses and that logits are finite; what they should be is golden_proof.py's business.
 *   sanitize_session [HEAD_DIM...]   all, or those */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clusterfusion.h"
#include "helpers/stop_if.h"
#include "support/model_maker.h"

enum { kPrompt = 21, kCapacity = 96, kVocab = 90, kSessions = 3 };

/* CF_OK, or CF_ERROR_UNSUPPORTED: then it says so, once for each `what`, and is false. */
static int built(cf_status status, const char* what) {
  char text[512] = "";
  if (status == CF_OK) return 1;
  stop_if(status != CF_ERROR_UNSUPPORTED, what);
  cf_last_error(text, sizeof text, NULL);
  printf("skipped: %s: %s\n", what, text);
  return 0;
}

static float logits[kSessions * kPrompt][kVocab];

/* Options of a step that writes logits, which are NaN until then. */
static cf_step_options looked_at(cf_outputs* outputs) {
  cf_step_options options;
  CF(cf_outputs_init(outputs, sizeof *outputs));
  CF(cf_step_options_init(&options, sizeof options));
  memset(logits, 0xff, sizeof logits);
  outputs->rows = CF_ROWS_ALL;
  outputs->logits = logits[0];
  options.outputs = outputs;
  return options;
}

static void finish(cf_session* session, int n_rows) {
  CF(cf_session_wait(session, NULL));
  for (int row = 0; row < n_rows; row++)
    for (int i = 0; i < kVocab; i++) stop_if(!isfinite(logits[row][i]), "a finite logit");
}

static void drive(cf_model* model, cf_session_options* options, const int32_t* prompt) {
  cf_session *sessions[kSessions], *fork, *restored;
  cf_outputs outputs;
  cf_step_options step;
  for (int i = 0; i < kSessions; i++) CF(cf_session_create(model, options, &sessions[i]));
  step = looked_at(&outputs);
  CF(cf_prefill(sessions[0], prompt, kPrompt, &step));
  finish(sessions[0], kPrompt);
  CF(cf_prefill(sessions[1], prompt, 3, NULL));
  CF(cf_prefill(sessions[2], prompt + 2, 17, NULL));
  for (int i = 1; i < kSessions; i++) finish(sessions[i], 0);
  step = looked_at(&outputs);
  CF(cf_decode_step(sessions[0], CF_TOKEN_PENDING, &step));
  finish(sessions[0], 1);
  CF(cf_decode_steps(sessions[0], 3, NULL));
  finish(sessions[0], 0);
  step = looked_at(&outputs);
  CF(cf_decode_positions(sessions[0], prompt, 9, &step)); /* more than a launch takes */
  finish(sessions[0], 9);
  step = looked_at(&outputs);
  CF(cf_decode_batch(sessions, kSessions, NULL, &step));
  for (int i = kSessions - 1; i >= 0; i--) finish(sessions[i], i ? 0 : kSessions);

  cf_session_options forked = *options;
  forked.reserve = 0;
  CF(cf_session_fork(sessions[0], kPrompt, &forked, &fork));
  step = looked_at(&outputs);
  CF(cf_decode_step(fork, 1, &step)); /* copies a page */
  finish(fork, 1);
  CF(cf_session_truncate(fork, 5));
  CF(cf_decode_step(fork, 1, NULL));
  finish(fork, 0);
  size_t bytes = 0;
  CF(cf_session_save(fork, NULL, 0, &bytes));
  void* const saved = malloc(bytes);
  CF(cf_session_save(fork, saved, bytes, &bytes));
  forked.pool = NULL;
  CF(cf_session_restore(model, &forked, saved, bytes, &restored));
  step = looked_at(&outputs);
  CF(cf_decode_step(restored, CF_TOKEN_PENDING, &step));
  finish(restored, 1);
  free(saved);

  cf_sampler_options sampler;
  CF(cf_sampler_options_init(&sampler, sizeof sampler));
  sampler.temperature = 1.0f, sampler.top_k = 20, sampler.top_p = 0.9f, sampler.repetition_penalty = 1.1f;
  CF(cf_session_set_sampler(sessions[1], &sampler));
  CF(cf_decode_steps(sessions[1], 2, NULL));
  finish(sessions[1], 0);

  cf_graph* graph;
  if (built(cf_graph_capture(sessions[2], NULL, &graph), "a graph")) {
    for (int i = 0; i < 2; i++) CF(cf_graph_launch(graph));
    finish(sessions[2], 0);
    CF(cf_graph_destroy(graph));
  }
  CF(cf_session_destroy(fork));
  CF(cf_session_destroy(restored));
  for (int i = 0; i < kSessions; i++) CF(cf_session_destroy(sessions[i]));
}

static void run(cf_context* context, cf_family family, cf_dtype dtype, int head_dim, int heads, int kv_heads, int hidden, int intermediate,
                int parallel) {
  struct tiny_model tiny;
  int32_t prompt[kPrompt];
  tiny_model_init(&tiny, family);
  tiny.dtype = dtype;
  tiny.head_dim = head_dim, tiny.n_heads = heads, tiny.n_kv_heads = kv_heads;
  tiny.hidden_size = hidden, tiny.intermediate_size = intermediate;
  tiny.vocab_size = kVocab, tiny.max_position_embeddings = kCapacity;
  if (family == CF_FAMILY_GPT_NEOX) tiny.parallel_residual = parallel;
  cf_model* const model = make_model(context, &tiny);
  fill_tokens(prompt, kPrompt, kVocab, 3);
  for (cf_launch_mode mode = CF_LAUNCH_STEP; mode <= CF_LAUNCH_PHASE; mode++) {
    cf_session_options options;
    cf_kv_pool_options pool_options;
    cf_session* tried;
    CF(cf_session_options_init(&options, sizeof options));
    options.capacity_tokens = kCapacity;
    options.launch_mode = mode;
    options.page_tokens = 16;
    char what[64];
    snprintf(what, sizeof what, "launch mode %d", mode);
    if (!built(cf_session_create(model, &options, &tried), what)) continue;
    CF(cf_session_destroy(tried));
    CF(cf_kv_pool_options_init(&pool_options, sizeof pool_options));
    pool_options.capacity_tokens = 5 * kCapacity;
    pool_options.page_tokens = 16;
    pool_options.kv_dtype = dtype;
    CF(cf_kv_pool_create(model, &pool_options, &options.pool));
    drive(model, &options, prompt);
    CF(cf_kv_pool_destroy(options.pool));
    printf("head_dim %d, hidden_size %d, %d:%d heads, launch mode %d: ok\n", head_dim, hidden, heads, kv_heads, mode);
    fflush(stdout);
  }
  CF(cf_model_destroy(model));
}

int main(int argc, char** argv) {
  static const struct {
    int head_dim;
    cf_family family;
    cf_dtype dtype;
    int heads, kv_heads, hidden, intermediate, parallel;
  } models[] = {
      {32, CF_FAMILY_GPT_NEOX, CF_DTYPE_F16, 3, 3, 96, 208, 1},  {64, CF_FAMILY_GPT_NEOX, CF_DTYPE_BF16, 4, 4, 256, 528, 0},
      {80, CF_FAMILY_GPT_NEOX, CF_DTYPE_F16, 3, 3, 240, 976, 1}, {96, CF_FAMILY_LLAMA, CF_DTYPE_F16, 4, 2, 112, 304, 0},
      {128, CF_FAMILY_LLAMA, CF_DTYPE_BF16, 6, 2, 384, 1104, 0}, {256, CF_FAMILY_LLAMA, CF_DTYPE_F16, 2, 1, 512, 272, 0},
  };
  cf_context_options options;
  cf_context* context;
  CF(cf_context_options_init(&options, sizeof options));
  options.device_kind = CF_DEVICE_CUDA;
  if (argc > 1 && strcmp(argv[1], "cpu") == 0) options.device_kind = CF_DEVICE_CPU, argc--, argv++; /* to try the program */
  options.device_wait_limit_ms = 60000;                                                             /* sanitizers are slow */
  CF(cf_context_create(&options, &context));
  for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
    int wanted = argc == 1;
    for (int k = 1; k < argc; k++) wanted |= atoi(argv[k]) == models[i].head_dim;
    if (wanted)
      run(context, models[i].family, models[i].dtype, models[i].head_dim, models[i].heads, models[i].kv_heads, models[i].hidden,
          models[i].intermediate, models[i].parallel);
  }
  CF(cf_context_destroy(context));
  return 0;
}
