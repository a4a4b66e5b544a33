/* overhead DIR N_STEPS REPEATS - nanoseconds of a token in the plainest loop in C, one for each repeat. See overhead.py. */
#define _POSIX_C_SOURCE 200809L
#include <clusterfusion.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void check(cf_status status) {
  if (status == CF_OK) return;
  char sentence[1024];
  cf_last_error(sentence, sizeof sentence, NULL);
  fprintf(stderr, "overhead: %s: %s\n", cf_status_name(status), sentence);
  exit(1);
}

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const long n_steps = atol(argv[2]), repeats = atol(argv[3]);
  const int32_t prompt[] = {1, 2, 3};
  cf_context* context;
  cf_model* model;
  cf_session* session;
  cf_context_options options;
  cf_result result;
  check(cf_context_options_init(&options, sizeof options));
  options.cpu_threads = 1;
  check(cf_context_create(&options, &context));
  check(cf_model_load(context, argv[1], NULL, &model));
  check(cf_session_create(model, NULL, &session));
  check(cf_prefill(session, prompt, 3, NULL));
  check(cf_result_init(&result, sizeof result));
  check(cf_session_wait(session, &result));
  for (long repeat = 0; repeat < repeats; repeat++) {
    check(cf_session_truncate(session, 3));
    const double start = now_ns();
    for (long i = 0; i < n_steps; i++) {
      check(cf_decode_step(session, CF_TOKEN_PENDING, NULL));
      check(cf_session_wait(session, &result));
    }
    printf("%.1f\n", (now_ns() - start) / (double)n_steps);
  }
  check(cf_session_destroy(session));
  check(cf_model_destroy(model));
  check(cf_context_destroy(context));
  return 0;
}
