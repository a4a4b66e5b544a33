/* generate DIR - continues a prompt with any checkpoint directory that the library loads, token by token as they are made.
 * Text goes to standard output; progress and timing go to standard error. */
#define _POSIX_C_SOURCE 200809L
#include <clusterfusion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BYTE_VOCABULARY = 256 }; /* a model with this many tokens reads and writes plain bytes */

static const char usage[] =
    "usage: generate DIR (--prompt TEXT | --ids 1,2,3) [--tokens N] [--device cpu|cuda]\n"
    "                [--temperature T] [--seed S] [--threads N]\n";

static void die(const char* what) {
  fprintf(stderr, "generate: %s\n%s", what, usage);
  exit(2);
}

/* Every call of the library goes through here. */
static void check(cf_status status) {
  if (status == CF_OK) return;
  char sentence[1024];
  cf_last_error(sentence, sizeof sentence, NULL);
  fprintf(stderr, "generate: %s: %s\n", cf_status_name(status), sentence);
  exit(1);
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void* allocate(size_t count, size_t size) {
  void* memory = calloc(count ? count : 1, size);
  if (!memory) die("out of memory");
  return memory;
}

/* A line like "loading 42 %", rewritten once per percent, for checkpoints that take a while. */
static int32_t show_progress(void* user, uint64_t done, uint64_t total) {
  int* shown = user;
  int percent = total ? (int)((double)done / (double)total * 100) : 100;
  if (total >= (64u << 20) && percent != *shown) fprintf(stderr, "\rloading %3d %%%s", *shown = percent, done == total ? "\n" : "");
  return 0;
}

static double number(const char* text, double least, double most, const char* name) {
  char* end;
  double value = strtod(text, &end);
  if (end == text || *end || !(value >= least && value <= most)) {
    fprintf(stderr, "generate: %s is '%s', expected a number from %g to %g\n", name, text, least, most);
    exit(2);
  }
  return value;
}

/* Token ids of a comma-separated list, or of the bytes of a text. Returns how many. */
static size_t read_prompt(const char* text, const char* ids, int32_t* tokens) {
  size_t n = 0;
  if (text)
    for (; text[n]; n++) tokens[n] = (unsigned char)text[n];
  for (const char* p = ids; p; n++) {
    char* end;
    long id = strtol(p, &end, 10);
    if (end == p || (*end && *end != ',') || id < 0 || id > INT32_MAX) die("--ids takes token ids with commas between them");
    tokens[n] = (int32_t)id;
    p = *end ? end + 1 : NULL;
  }
  return n;
}

static void show_token(int32_t token, int as_text) {
  if (as_text) putchar(token);
  else printf("%" PRId32 " ", token);
  fflush(stdout);
}

static int ascending(const void* a, const void* b) {
  double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

int main(int argc, char** argv) {
  const char *directory = NULL, *prompt = NULL, *ids = NULL;
  long max_tokens = 128;
  cf_context_options context_options;
  cf_sampler_options sampler;
  check(cf_context_options_init(&context_options, sizeof context_options));
  check(cf_sampler_options_init(&sampler, sizeof sampler));
  for (int i = 1; i < argc; i++) {
    const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strncmp(name, "--", 2) != 0) {
      if (directory) die("more than one directory");
      directory = name;
      continue;
    }
    if (!value) die("the last option has no value");
    i++;
    if (!strcmp(name, "--prompt")) prompt = value;
    else if (!strcmp(name, "--ids")) ids = value;
    else if (!strcmp(name, "--tokens")) max_tokens = (long)number(value, 1, 1e6, name);
    else if (!strcmp(name, "--temperature")) sampler.temperature = (float)number(value, 0, 100, name);
    else if (!strcmp(name, "--seed")) sampler.seed = strtoull(value, NULL, 10);
    else if (!strcmp(name, "--threads")) context_options.cpu_threads = (int32_t)number(value, 1, 4096, name);
    else if (!strcmp(name, "--device") && !strcmp(value, "cpu")) context_options.device_kind = CF_DEVICE_CPU;
    else if (!strcmp(name, "--device") && !strcmp(value, "cuda")) context_options.device_kind = CF_DEVICE_CUDA;
    else die("an option is not one of those below");
  }
  if (!directory) die("which checkpoint directory?");
  if (!prompt == !ids) die("one of --prompt and --ids is needed");

  cf_context* context;
  check(cf_context_create(&context_options, &context));

  int shown = -1;
  cf_model* model;
  cf_model_options model_options;
  check(cf_model_options_init(&model_options, sizeof model_options));
  model_options.progress = show_progress;
  model_options.progress_user = &shown;
  check(cf_model_load(context, directory, &model_options, &model));

  cf_model_config config;
  check(cf_model_config_init(&config, sizeof config));
  check(cf_model_get_config(model, &config));
  const int as_text = config.vocab_size == BYTE_VOCABULARY;
  if (prompt && !as_text) die("this model's tokens are not bytes: pass --ids, made by its tokenizer");
  int32_t* tokens = allocate(strlen(prompt ? prompt : ids) + 1, sizeof *tokens);
  const size_t n_tokens = read_prompt(prompt, ids, tokens);

  /* Room for exactly what is asked for; the last token is shown, not fed. */
  cf_session* session;
  cf_session_options session_options;
  check(cf_session_options_init(&session_options, sizeof session_options));
  session_options.capacity_tokens = (int64_t)n_tokens + max_tokens;
  check(cf_session_create(model, &session_options, &session));
  sampler.stop_tokens = config.eos_tokens;
  sampler.n_stop_tokens = (size_t)config.n_eos_tokens;
  check(cf_session_set_sampler(session, &sampler));

  if (prompt) fputs(prompt, stdout);
  double* step_ms = allocate((size_t)max_tokens, sizeof *step_ms);
  const double start_ms = now_ms();
  double token_ms = start_ms;
  long n_made = 0;
  check(cf_prefill(session, tokens, n_tokens, NULL));
  for (;;) {
    cf_result result;
    check(cf_result_init(&result, sizeof result));
    check(cf_session_wait(session, &result));
    const double ms = now_ms();
    step_ms[n_made++] = ms - token_ms; /* the first one is the TTFT */
    token_ms = ms;
    if (result.stopped) break;
    show_token(result.token, as_text);
    if (n_made == max_tokens) break;
    check(cf_decode_step(session, CF_TOKEN_PENDING, NULL));
  }
  putchar('\n');

  const long n_steps = n_made - 1;
  fprintf(stderr, "TTFT %.2f ms for %zu tokens", step_ms[0], n_tokens);
  if (n_steps > 0) {
    const double mean = (token_ms - start_ms - step_ms[0]) / (double)n_steps;
    qsort(step_ms + 1, (size_t)n_steps, sizeof *step_ms, ascending);
    fprintf(stderr, "; %ld more: median %.3f ms, mean %.3f ms a token, %.1f tokens/s", n_steps, step_ms[1 + n_steps / 2], mean, 1e3 / mean);
  }
  fputc('\n', stderr);

  free(step_ms);
  free(tokens);
  check(cf_session_destroy(session));
  check(cf_model_destroy(model));
  check(cf_context_destroy(context));
  return 0;
}
