/* logit_lens DIR PROMPT OTHER_PROMPT - looks into a model while it reads the last token of a prompt, a layer at a time:
 *   lens   what it would say if it ended after this layer: the residual stream there goes straight to the final norm and head
 *   patch  what it says if the residual stream after this layer is that of the other prompt's last token (activation patching)
 * For models whose tokens are bytes, such as demo_model. */
#include <clusterfusion.h>
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTE_VOCABULARY = 256 };

static void die(const char* what) {
  fprintf(stderr, "logit_lens: %s\nusage: logit_lens DIR PROMPT OTHER_PROMPT\n", what);
  exit(2);
}

/* Every call of the library goes through here. */
static void check(cf_status status) {
  if (status == CF_OK) return;
  char sentence[1024];
  cf_last_error(sentence, sizeof sentence, NULL);
  fprintf(stderr, "logit_lens: %s: %s\n", cf_status_name(status), sentence);
  exit(1);
}

static void* allocate(size_t count, size_t size) {
  void* memory = calloc(count, size);
  if (!memory) die("out of memory");
  return memory;
}

/* A session that has read all of a prompt but its last token. */
static cf_session* begin(cf_model* model, const char* prompt) {
  const size_t n = strlen(prompt);
  if (n < 2) die("a prompt needs at least two tokens");
  int32_t* tokens = allocate(n, sizeof *tokens);
  for (size_t i = 0; i < n; i++) tokens[i] = (unsigned char)prompt[i];
  cf_session* session;
  cf_session_options options;
  check(cf_session_options_init(&options, sizeof options));
  options.capacity_tokens = (int64_t)n;
  check(cf_session_create(model, &options, &session));
  check(cf_prefill(session, tokens, n - 1, NULL));
  check(cf_session_wait(session, NULL));
  free(tokens);
  return session;
}

/* The residual stream of one row after a layer. */
static cf_tap tap(cf_tap_action action, int32_t layer, float* data) {
  cf_tap tap;
  check(cf_tap_init(&tap, sizeof tap));
  tap.point = CF_TAP_BLOCK_OUTPUT;
  tap.action = action;
  tap.layer = layer;
  tap.data = data;
  return tap;
}

struct guess {
  int32_t token; /* the likeliest */
  float logprob;
  float target_logprob;
};

/* Reads the prompt's last token with these taps, and goes back to before it. */
static struct guess read_last(cf_session* session, const char* prompt, const cf_tap* taps, size_t n_taps, int32_t target) {
  struct guess guess;
  cf_outputs outputs;
  cf_step_options options;
  check(cf_outputs_init(&outputs, sizeof outputs));
  outputs.top_n = 1;
  outputs.top_tokens = &guess.token;
  outputs.top_logprobs = &guess.logprob;
  outputs.targets = &target;
  outputs.target_logprobs = &guess.target_logprob;
  check(cf_step_options_init(&options, sizeof options));
  options.outputs = &outputs;
  options.taps = taps;
  options.n_taps = n_taps;
  const size_t last = strlen(prompt) - 1;
  check(cf_decode_step(session, (unsigned char)prompt[last], &options));
  check(cf_session_wait(session, NULL));
  check(cf_session_truncate(session, (int64_t)last));
  return guess;
}

static const char* name(int32_t token) {
  static char text[2][8];
  static int which;
  char* to = text[which ^= 1];
  snprintf(to, sizeof text[0], isprint(token) ? "'%c'" : "%d", (int)token);
  return to;
}

int main(int argc, char** argv) {
  if (argc != 4) die("expected a checkpoint directory and two prompts");
  const char *prompt = argv[2], *other_prompt = argv[3];
  cf_context* context;
  cf_model* model;
  cf_model_config config;
  check(cf_context_create(NULL, &context));
  check(cf_model_load(context, argv[1], NULL, &model));
  check(cf_model_config_init(&config, sizeof config));
  check(cf_model_get_config(model, &config));
  if (config.vocab_size != BYTE_VOCABULARY) die("this model's tokens are not bytes");
  const size_t layers = (size_t)config.n_layers, hidden = (size_t)config.hidden_size;
  float *stream = allocate(hidden, sizeof *stream), *others = allocate(layers * hidden, sizeof *others);
  cf_tap* taps = allocate(layers, sizeof *taps);

  cf_session *session = begin(model, prompt), *other = begin(model, other_prompt);
  for (size_t layer = 0; layer < layers; layer++) taps[layer] = tap(CF_TAP_READ, (int32_t)layer, others + layer * hidden);
  const struct guess answer = read_last(session, prompt, NULL, 0, -1), other_answer = read_last(other, other_prompt, taps, layers, -1);
  printf("next token: %s (%.3f); of the other prompt: %s (%.3f)\n", name(answer.token), exp(answer.logprob), name(other_answer.token),
         exp(other_answer.logprob));

  printf("layer  lens           patch          P(%s) after the patch\n", name(other_answer.token));
  for (size_t layer = 0; layer < layers; layer++) {
    /* Taps act in the order in which a step comes by: read after this layer, written after the last one. */
    const cf_tap lens[2] = {tap(CF_TAP_READ, (int32_t)layer, stream), tap(CF_TAP_WRITE, (int32_t)layers - 1, stream)};
    const struct guess early = read_last(session, prompt, lens, 2, -1);
    const cf_tap patch = tap(CF_TAP_WRITE, (int32_t)layer, others + layer * hidden);
    const struct guess patched = read_last(session, prompt, &patch, 1, other_answer.token);
    printf("%5zu  %4s (%.3f)   %4s (%.3f)   %.3f%s\n", layer, name(early.token), exp(early.logprob), name(patched.token), exp(patched.logprob),
           exp(patched.target_logprob), patched.token != answer.token ? "  changed" : "");
  }

  free(stream);
  free(others);
  free(taps);
  check(cf_session_destroy(session));
  check(cf_session_destroy(other));
  check(cf_model_destroy(model));
  check(cf_context_destroy(context));
  return 0;
}
