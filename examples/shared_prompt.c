/* shared_prompt DIR --prompt TEXT QUESTION... - one prompt, read once, and a session forked from it for every question. The forks share
 * the prompt's pages of keys and values, and are decoded together, so that each step reads the weights once for all of them.
 * For models whose tokens are bytes, such as demo_model. Answers go to standard output, one a line; what was shared to standard error. */
#include <clusterfusion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTE_VOCABULARY = 256, MAX_QUESTIONS = 64, PAGE_TOKENS = 16 };

static void die(const char* what) {
  fprintf(stderr, "shared_prompt: %s\nusage: shared_prompt DIR --prompt TEXT QUESTION... (at most %d)\n", what, MAX_QUESTIONS);
  exit(2);
}

/* Every call of the library goes through here. */
static void check(cf_status status) {
  if (status == CF_OK) return;
  char sentence[1024];
  cf_last_error(sentence, sizeof sentence, NULL);
  fprintf(stderr, "shared_prompt: %s: %s\n", cf_status_name(status), sentence);
  exit(1);
}

/* Appends a text to the session; its last token is not sampled from unless asked for. */
static void feed(cf_session* session, const char* text, int32_t sample) {
  const size_t n = strlen(text);
  int32_t* tokens = calloc(n + 1, sizeof *tokens);
  if (!tokens) die("out of memory");
  for (size_t i = 0; i < n; i++) tokens[i] = (unsigned char)text[i];
  cf_step_options options;
  check(cf_step_options_init(&options, sizeof options));
  options.sample = sample;
  check(cf_prefill(session, tokens, n, &options));
  check(cf_session_wait(session, NULL));
  free(tokens);
}

int main(int argc, char** argv) {
  if (argc < 5 || strcmp(argv[2], "--prompt") != 0) die("expected a checkpoint directory, --prompt, a text, and questions");
  const char *directory = argv[1], *prompt = argv[3];
  char** questions = argv + 4;
  const int n = argc - 4;
  if (n > MAX_QUESTIONS) die("too many questions for one step");
  if (!*prompt) die("the prompt is empty");
  size_t longest = 0;
  for (int i = 0; i < n; i++) {
    if (!*questions[i]) die("a question is empty");
    longest = strlen(questions[i]) > longest ? strlen(questions[i]) : longest;
  }

  cf_context* context;
  cf_model* model;
  cf_model_config config;
  check(cf_context_create(NULL, &context));
  check(cf_model_load(context, directory, NULL, &model));
  check(cf_model_config_init(&config, sizeof config));
  check(cf_model_get_config(model, &config));
  if (config.vocab_size != BYTE_VOCABULARY) die("this model's tokens are not bytes");

  /* A pool with room for the prompt once, and for each fork's own part: the page that it copies, its question, 64 tokens. */
  const int64_t shared = (int64_t)strlen(prompt), own = (int64_t)longest + 64;
  cf_kv_pool* pool;
  cf_kv_pool_options pool_options;
  check(cf_kv_pool_options_init(&pool_options, sizeof pool_options));
  pool_options.page_tokens = PAGE_TOKENS;
  pool_options.capacity_tokens = shared + PAGE_TOKENS + n * (own + 2 * PAGE_TOKENS);
  check(cf_kv_pool_create(model, &pool_options, &pool));

  cf_session *parent, *forks[MAX_QUESTIONS];
  cf_session_options options;
  check(cf_session_options_init(&options, sizeof options));
  options.pool = pool;
  options.reserve = 0; /* takes pages as it needs them; reserving would set aside the whole capacity for each */
  options.capacity_tokens = shared + own;
  check(cf_session_create(model, &options, &parent));
  feed(parent, prompt, 0);
  cf_sampler_options sampler;
  check(cf_sampler_options_init(&sampler, sizeof sampler));
  sampler.stop_tokens = config.eos_tokens; /* greedy, to the end of the line; forks inherit this */
  sampler.n_stop_tokens = (size_t)config.n_eos_tokens;
  check(cf_session_set_sampler(parent, &sampler));
  for (int i = 0; i < n; i++) check(cf_session_fork(parent, shared, &options, &forks[i]));

  cf_kv_pool_info info;
  check(cf_kv_pool_info_init(&info, sizeof info));
  check(cf_kv_pool_query(pool, &info));
  fprintf(stderr, "%d forks share %lld pages; %lld of %lld are free\n", n, (long long)info.n_pages_shared, (long long)info.n_pages_free,
          (long long)info.n_pages);

  for (int i = 0; i < n; i++) feed(forks[i], questions[i], 1);
  cf_session* running[MAX_QUESTIONS];
  for (;;) { /* one step of every fork that has not come to its end */
    size_t n_running = 0;
    for (int i = 0; i < n; i++) {
      cf_result result;
      check(cf_result_init(&result, sizeof result));
      check(cf_session_wait(forks[i], &result));
      if (!result.stopped && result.position < options.capacity_tokens) running[n_running++] = forks[i];
    }
    if (!n_running) break;
    check(cf_decode_batch(running, n_running, NULL, NULL));
  }

  for (int i = 0; i < n; i++) {
    int32_t tokens[64];
    size_t count = 0;
    check(cf_session_tokens(forks[i], shared + (int64_t)strlen(questions[i]), tokens, 64, &count));
    fputs(questions[i], stdout);
    for (size_t k = 0; k < count && tokens[k] != '\n'; k++) putchar(tokens[k]);
    putchar('\n');
    check(cf_session_destroy(forks[i]));
  }
  check(cf_session_destroy(parent));
  check(cf_kv_pool_destroy(pool));
  check(cf_model_destroy(model));
  check(cf_context_destroy(context));
  return 0;
}
