/* two_sessions DIR ANSWERED CANCELLED - two sessions of one model, each decoded on a thread of its own. The first answers its prompt to the
 * end of the line. The second goes on and on, until the main thread, which watches it, cancels it; then it goes back and finishes its line.
 * For models whose tokens are bytes, such as demo_model. Both lines go to standard output; what was cancelled to standard error. */
#define _POSIX_C_SOURCE 200809L
#include <clusterfusion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BYTE_VOCABULARY = 256, LINE_TOKENS = 128, ENDLESS_TOKENS = 1 << 15, WATCHED_TOKENS = 8 };

static void die(const char* what) {
  fprintf(stderr, "two_sessions: %s\nusage: two_sessions DIR ANSWERED CANCELLED\n", what);
  exit(2);
}

/* Every call of the library goes through here, but for those that are meant to be cancelled. Sentences are the calling thread's own. */
static void check(cf_status status) {
  if (status == CF_OK) return;
  char sentence[1025];
  cf_last_error(sentence, sizeof sentence, NULL);
  fprintf(stderr, "two_sessions: %s: %s\n", cf_status_name(status), sentence);
  exit(1);
}

/* What a thread is given and gives back. Only its own thread uses the session, but for cf_session_tokens. */
struct job {
  cf_session* session;
  const char* prompt;
  int64_t n_steps; /* after the prompt */
  cf_cancellation* cancellation;
  cf_status status;
};

static void* run(void* argument) {
  struct job* job = argument;
  const size_t n = strlen(job->prompt);
  int32_t* tokens = calloc(n + 1, sizeof *tokens);
  if (!tokens) die("out of memory");
  for (size_t i = 0; i < n; i++) tokens[i] = (unsigned char)job->prompt[i];
  cf_step_options options;
  check(cf_step_options_init(&options, sizeof options));
  options.cancellation = job->cancellation;
  check(cf_prefill(job->session, tokens, n, NULL));
  check(cf_session_wait(job->session, NULL));
  check(cf_decode_steps(job->session, job->n_steps, &options)); /* only enqueues, or only seems to: the status is fetched */
  job->status = cf_session_wait(job->session, NULL);
  if (job->status != CF_ERROR_CANCELLED) check(job->status);
  free(tokens);
  return NULL;
}

static cf_session* make_session(cf_model* model, const cf_model_config* config, int64_t capacity_tokens, int stops) {
  cf_session* session;
  cf_session_options options;
  check(cf_session_options_init(&options, sizeof options));
  options.capacity_tokens = capacity_tokens;
  check(cf_session_create(model, &options, &session));
  cf_sampler_options sampler;
  check(cf_sampler_options_init(&sampler, sizeof sampler));
  sampler.stop_tokens = config->eos_tokens;
  sampler.n_stop_tokens = stops ? (size_t)config->n_eos_tokens : 0;
  check(cf_session_set_sampler(session, &sampler));
  return session;
}

/* The line that the session holds from its first position on. */
static void print_line(cf_session* session) {
  int32_t tokens[LINE_TOKENS];
  size_t n = 0;
  check(cf_session_tokens(session, 0, tokens, LINE_TOKENS, &n));
  for (size_t i = 0; i < n && tokens[i] != '\n'; i++) putchar(tokens[i]);
  putchar('\n');
}

int main(int argc, char** argv) {
  if (argc != 4) die("expected a checkpoint directory and two prompts");
  const int64_t n_first = (int64_t)strlen(argv[2]), n_second = (int64_t)strlen(argv[3]);
  if (n_first < 1 || n_second < 1 || n_first > LINE_TOKENS / 2 || n_second > LINE_TOKENS / 2) die("a prompt is empty or too long");
  cf_context* context;
  cf_model* model;
  cf_cancellation* cancellation;
  cf_model_config config;
  check(cf_context_create(NULL, &context));
  check(cf_model_load(context, argv[1], NULL, &model));
  check(cf_cancellation_create(&cancellation));
  check(cf_model_config_init(&config, sizeof config));
  check(cf_model_get_config(model, &config));
  if (config.vocab_size != BYTE_VOCABULARY) die("this model's tokens are not bytes");

  struct job first = {make_session(model, &config, LINE_TOKENS, 1), argv[2], LINE_TOKENS - n_first, NULL, CF_OK};
  struct job second = {make_session(model, &config, ENDLESS_TOKENS, 0), argv[3], ENDLESS_TOKENS - n_second, cancellation, CF_OK};
  pthread_t threads[2];
  if (pthread_create(&threads[0], NULL, run, &first) || pthread_create(&threads[1], NULL, run, &second)) die("cannot start a thread");

  /* cf_session_tokens and cf_cancellation_request may be called while other threads are inside a session's calls. */
  const struct timespec pause = {0, 1000000};
  for (size_t n = 0; n < WATCHED_TOKENS; nanosleep(&pause, NULL)) {
    int32_t seen[WATCHED_TOKENS];
    check(cf_session_tokens(second.session, n_second, seen, WATCHED_TOKENS, &n));
  }
  check(cf_cancellation_request(cancellation));
  pthread_join(threads[0], NULL);
  pthread_join(threads[1], NULL);
  if (second.status != CF_ERROR_CANCELLED) die("the second session came to its end before it was cancelled");
  cf_result result;
  check(cf_result_init(&result, sizeof result));
  check(cf_session_wait(second.session, &result)); /* the failed status has been fetched: the session works again */
  fprintf(stderr, "cancelled after %lld tokens\n", (long long)(result.position - n_second));

  /* Back to the watched tokens, and from there to the end of the line, now with the same bits as if nothing had happened. */
  const int64_t back = n_second + WATCHED_TOKENS - 1; /* the last token that was seen may not have been fed yet */
  check(cf_session_truncate(second.session, back));
  check(cf_decode_steps(second.session, LINE_TOKENS - back, NULL));
  check(cf_session_wait(second.session, NULL));
  print_line(first.session);
  print_line(second.session);

  check(cf_session_destroy(first.session));
  check(cf_session_destroy(second.session));
  check(cf_cancellation_destroy(cancellation));
  check(cf_model_destroy(model));
  check(cf_context_destroy(context));
  return 0;
}
