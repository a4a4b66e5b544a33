/* What holds whatever is done in whatever order: a session is its tokens; a cancelled call leaves one that goes on as if it had
 * not been made; sessions on many threads that share pages are as if each were alone. Meant to be run under ThreadSanitizer as well. */
#define _XOPEN_SOURCE 700

#include "unity.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <time.h>

#include "support/session_world.h"

enum { PAGE = 16, CAPACITY = 128 };

static cf_cancellation* cancellation;

void setUp(void) {
  begin_world();
  OK(cf_cancellation_create(&cancellation));
}

void tearDown(void) {
  cf_cancellation_destroy(cancellation);
  end_world();
}

/* ---- A session is its tokens ---- */

enum { MOST = 100 }; /* tokens of a session here */

struct mirror {
  cf_session* session;
  int32_t tokens[MOST + 1]; /* those cached, then the pending one */
  int64_t position;
  int pending;
};

static void note_step(struct mirror* m) {
  const cf_result result = wait_ok(m->session);
  m->position = result.position;
  m->pending = result.token >= 0;
  if (m->pending) m->tokens[m->position] = result.token;
}

static void expect_mirrored(const struct mirror* m) {
  int32_t tokens[MOST + 1];
  size_t n = 0;
  OK(cf_session_tokens(m->session, 0, tokens, MOST + 1, &n));
  TEST_ASSERT_EQUAL_size_t((size_t)m->position + (size_t)m->pending, n);
  TEST_ASSERT_EQUAL_INT32_ARRAY(m->tokens, tokens, n);
  cf_session* fresh = make_session(model, MOST + 1);
  if (m->position) OK(cf_prefill(fresh, m->tokens, (size_t)m->position, NULL));
  decode(fresh, 1, &reference, 0);
  decode(m->session, 1, &other, 0);
  expect_same_logits(&reference, &other, 0, 1, "a session of these tokens");
  cf_session_destroy(fresh);
  OK(cf_session_truncate(m->session, m->position)); /* whose pending token is now the one just fed */
}

static cf_session* save_and_restore(cf_session* session, const cf_session_options* options) {
  size_t size = 0;
  OK(cf_session_save(session, NULL, 0, &size));
  void* buffer = malloc(size);
  OK(cf_session_save(session, buffer, size, &size));
  cf_session* restored = NULL;
  OK(cf_session_restore(model, options, buffer, size, &restored));
  free(buffer);
  return restored;
}

static void test_a_session_is_its_tokens(void) {
  enum { N = 6 };
  cf_kv_pool* pool = make_pool(N * 112, PAGE);
  struct mirror all[N];
  struct random_stream stream = {2024};
  cf_session_options options;
  OK(cf_session_options_init(&options, sizeof options));
  options.pool = pool;
  options.capacity_tokens = MOST + 1;
  memset(all, 0, sizeof all);
  for (int i = 0; i < N; i++) all[i].session = make_pooled_session(pool, MOST + 1, i & 1);
  for (int step = 0; step < 600; step++) {
    struct mirror *m = &all[random_bits(&stream) % N], *from = &all[random_bits(&stream) % N];
    int32_t tokens[MOST];
    const size_t n = 1 + (size_t)(random_bits(&stream) % 30);
    fill_tokens(tokens, n, VOCAB, random_bits(&stream));
    options.reserve = (int32_t)(random_bits(&stream) & 1);
    switch (random_bits(&stream) % 8) {
      case 0:
        if (m->position + (int64_t)n > MOST) break;
        OK(cf_prefill(m->session, tokens, n, NULL));
        memcpy(m->tokens + m->position, tokens, n * sizeof *tokens);
        note_step(m);
        break;
      case 1:
        if (m->position + (int64_t)n > MOST) break;
        OK(cf_decode_positions(m->session, tokens, n, NULL));
        memcpy(m->tokens + m->position, tokens, n * sizeof *tokens);
        note_step(m);
        break;
      case 2:
        if (m->position >= MOST || !m->pending) break;
        OK(cf_decode_step(m->session, CF_TOKEN_PENDING, NULL));
        note_step(m);
        break;
      case 3:
        m->position = (int64_t)(random_bits(&stream) % (uint64_t)(m->position + 1));
        OK(cf_session_truncate(m->session, m->position));
        m->pending = wait_ok(m->session).token >= 0;
        break;
      case 4: { /* m becomes a fork of `from`, which may be itself; a reserved one may find no room beside the others */
        const int64_t at = (int64_t)(random_bits(&stream) % (uint64_t)(from->position + 1));
        cf_session* fork = NULL;
        const cf_status status = cf_session_fork(from->session, at, &options, &fork);
        if (status == CF_ERROR_CACHE_FULL) break;
        OK(status);
        struct mirror next = *from;
        next.session = fork;
        next.position = at;
        next.pending = wait_ok(fork).token >= 0;
        cf_session_destroy(m->session);
        *m = next;
        break;
      }
      case 5: { /* m goes to a file, so to say */
        cf_session_options private_pool = options;
        private_pool.pool = NULL;
        private_pool.page_tokens = 16 << random_bits(&stream) % 5;
        cf_session* parked = save_and_restore(m->session, &private_pool);
        cf_session_destroy(m->session);
        options.reserve = 0; /* the room that it had */
        m->session = save_and_restore(parked, &options);
        cf_session_destroy(parked);
        break;
      }
      case 6:
        if (m == from || m->position >= MOST || from->position >= MOST) break;
        m->tokens[m->position] = tokens[0];
        from->tokens[from->position] = tokens[1 % n];
        OK(cf_decode_batch((cf_session*[]){m->session, from->session}, 2, (int32_t[]){tokens[0], tokens[1 % n]}, NULL));
        note_step(m);
        note_step(from);
        break;
      default:
        expect_mirrored(m);
        m->tokens[m->position] = 1;
        m->pending = 1;
    }
  }
  for (int i = 0; i < N; i++) {
    expect_mirrored(&all[i]);
    cf_session_destroy(all[i].session);
  }
  TEST_ASSERT_EQUAL_INT64(N * 112 / PAGE, free_pages(pool));
  cf_kv_pool_destroy(pool);
}

/* ---- Cancelled at any moment ---- */

enum { PROMPT = 20, STEPS = 40 };

static int32_t made[PROMPT + STEPS + 1]; /* by a session that nobody cancels */

static cf_session* make_prompted(void) {
  cf_session* session = make_session(model, CAPACITY);
  OK(cf_prefill(session, prompt, PROMPT, NULL));
  wait_ok(session);
  return session;
}

/* And the logits of its steps in `reference`. */
static void make_expected(void) {
  size_t n = 0;
  cf_session* session = make_session(model, CAPACITY);
  prefill(session, prompt, PROMPT, &other, 0);
  for (size_t i = 0; i < STEPS; i++) decode(session, CF_TOKEN_PENDING, &reference, i);
  OK(cf_session_tokens(session, 0, made, PROMPT + STEPS + 1, &n));
  TEST_ASSERT_EQUAL_size_t(PROMPT + STEPS + 1, n);
  cf_session_destroy(session);
}

/* Positions, tokens and the bits of the next step are what they would be without the calls that were cancelled. */
static void expect_as_expected(cf_session* session, int64_t position) {
  int32_t tokens[PROMPT + STEPS + 1];
  size_t n = 0;
  TEST_ASSERT_EQUAL_INT64(position, wait_ok(session).position);
  OK(cf_session_tokens(session, 0, tokens, PROMPT + STEPS + 1, &n));
  TEST_ASSERT_EQUAL_size_t((size_t)position + 1, n);
  TEST_ASSERT_EQUAL_INT32_ARRAY(made, tokens, n);
  if (position == PROMPT + STEPS) return;
  decode(session, CF_TOKEN_PENDING, &other, 0);
  TEST_ASSERT_EQUAL_MEMORY(reference.logits[position - PROMPT], other.logits[0], sizeof other.logits[0]);
  OK(cf_session_truncate(session, position));
}

struct countdown {
  uint64_t calls_left, seen;
};

static int32_t stop_after(void* user, uint64_t done, uint64_t total) {
  struct countdown* c = (struct countdown*)user;
  c->seen = done;
  return done > total || c->calls_left-- == 0;
}

static void test_every_progress_call_may_cancel(void) {
  make_expected();
  cf_step_options options;
  OK(cf_step_options_init(&options, sizeof options));
  options.progress = stop_after;
  for (uint64_t k = 0; k <= STEPS; k++) {
    struct countdown countdown = {k, 0};
    cf_session* session = make_prompted();
    options.progress_user = &countdown;
    OK(cf_decode_steps(session, STEPS, &options));
    cf_result result = k == STEPS ? wait_ok(session) : wait_fails(session, CF_ERROR_CANCELLED, "cancelled");
    const int64_t kept = k == STEPS ? STEPS : (int64_t)k + 1; /* the step that was reported counts */
    TEST_ASSERT_EQUAL_INT64(kept, result.n_steps);
    TEST_ASSERT_EQUAL_UINT64(kept, countdown.seen);
    expect_as_expected(session, PROMPT + kept);
    cf_session_destroy(session);
  }
  enum { PIECES = 2 }; /* of a prompt of LENGTH: all or nothing */
  for (uint64_t k = 0; k < PIECES; k++) {
    struct countdown countdown = {k, 0};
    cf_session* session = make_prompted();
    options.progress_user = &countdown;
    OK(cf_prefill(session, prompt, LENGTH, &options));
    const cf_result result = wait_fails(session, CF_ERROR_CANCELLED, "cancelled");
    TEST_ASSERT_EQUAL_INT64(0, result.n_steps);
    expect_as_expected(session, PROMPT);
    cf_session_destroy(session);
  }
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* A second thread that raises the flag some time after it has been told to. It sleeps until then, so that it gets its turn also
 * where the two have but one processor. */
static struct {
  sem_t told, done;
  int64_t longest_wait_ns; /* 0: end */
} canceller;

static void* cancel_now_and_then(void* unused) {
  struct random_stream stream = {99};
  for (;;) {
    while (sem_wait(&canceller.told) != 0) {}
    if (!canceller.longest_wait_ns) return unused;
    const int64_t wait_ns = (int64_t)(random_bits(&stream) % (uint64_t)canceller.longest_wait_ns);
    nanosleep(&(struct timespec){wait_ns / 1000000000, (long)(wait_ns % 1000000000)}, NULL);
    cf_cancellation_request(cancellation);
    sem_post(&canceller.done);
  }
}

/* What is cancelled, on a session of the prompt. Prefill and positions feed tokens that the session would not have made. */
typedef cf_status (*run_fn)(cf_session* session, const cf_step_options* options, cf_result* result);

static cf_status run_steps(cf_session* session, const cf_step_options* options, cf_result* result) {
  OK(cf_decode_steps(session, STEPS, options));
  return cf_session_wait(session, result);
}

static cf_status run_prefill(cf_session* session, const cf_step_options* options, cf_result* result) {
  OK(cf_prefill(session, prompt + PROMPT, STEPS, options));
  return cf_session_wait(session, result);
}

static cf_status run_positions(cf_session* session, const cf_step_options* options, cf_result* result) {
  OK(cf_decode_positions(session, prompt + PROMPT, STEPS, options));
  return cf_session_wait(session, result);
}

/* Many calls, one after another until one is cancelled. */
static cf_status run_batches(cf_session* session, const cf_step_options* options, cf_result* result) {
  int64_t n_steps = 0;
  cf_status status = CF_OK;
  while (status == CF_OK && n_steps < STEPS) {
    OK(cf_decode_batch((cf_session* const[]){session}, 1, NULL, options));
    status = cf_session_wait(session, result);
    n_steps += result->n_steps;
  }
  result->n_steps = n_steps;
  return status;
}

static void expect_cancelled_at_any_moment(run_fn run, int all_or_nothing) {
  enum { WANTED = 40, MOST_ROUNDS = 1000 }; /* calls that were stopped on their way */
  make_expected();
  cf_step_options options;
  cf_result result;
  pthread_t thread;
  int n_cancelled = 0;
  OK(cf_step_options_init(&options, sizeof options));
  OK(cf_result_init(&result, sizeof result));
  cf_session* session = make_prompted();
  const int64_t start = now_ns();
  OK(run(session, &options, &result)); /* to see how long it takes */
  canceller.longest_wait_ns = now_ns() - start + 1;
  cf_session_destroy(session);
  session = make_prompted();
  options.cancellation = cancellation;
  sem_init(&canceller.told, 0, 0);
  sem_init(&canceller.done, 0, 0);
  pthread_create(&thread, NULL, cancel_now_and_then, NULL);
  for (int round = 0; round < MOST_ROUNDS && n_cancelled < WANTED; round++) {
    sem_post(&canceller.told);
    const cf_status status = run(session, &options, &result);
    while (sem_wait(&canceller.done) != 0) {}
    OK(cf_cancellation_reset(cancellation));
    TEST_ASSERT_TRUE(status == CF_OK || status == CF_ERROR_CANCELLED);
    TEST_ASSERT_EQUAL_INT64(PROMPT + result.n_steps, result.position);
    n_cancelled += status == CF_ERROR_CANCELLED;
    if (status == CF_ERROR_CANCELLED || !all_or_nothing) {
      if (all_or_nothing) TEST_ASSERT_EQUAL_INT64(0, result.n_steps);
      expect_as_expected(session, result.position);
      OK(cf_session_truncate(session, PROMPT));
    } else { /* it went through, with other tokens */
      cf_session_destroy(session);
      session = make_prompted();
    }
  }
  canceller.longest_wait_ns = 0;
  sem_post(&canceller.told);
  pthread_join(thread, NULL);
  cf_session_destroy(session);
  TEST_ASSERT_GREATER_THAN(0, n_cancelled);
}

static void test_steps_cancelled_at_any_moment(void) { expect_cancelled_at_any_moment(run_steps, 0); }
static void test_prefill_cancelled_at_any_moment(void) { expect_cancelled_at_any_moment(run_prefill, 1); }
static void test_positions_cancelled_at_any_moment(void) { expect_cancelled_at_any_moment(run_positions, 1); }
static void test_batches_cancelled_at_any_moment(void) { expect_cancelled_at_any_moment(run_batches, 0); }

/* ---- Many threads, shared pages ---- */

enum { N_THREADS = 8, N_SESSIONS = 32, FORK_STEPS = 4, SHARED = 40 };

struct outcome {
  int32_t tokens[FORK_STEPS];
  float logits[VOCAB]; /* of the last step */
};

static int64_t fork_position(int i) { return SHARED - i; }
static int32_t fork_token(int i) { return (i * 37 + 5) % VOCAB; }

/* A given token, then what follows from it. */
static cf_status go_on(cf_session* session, int i, struct outcome* outcome) {
  cf_outputs outputs;
  cf_step_options options;
  cf_status status = CF_OK;
  size_t n = 0;
  cf_outputs_init(&outputs, sizeof outputs);
  cf_step_options_init(&options, sizeof options);
  outputs.logits = outcome->logits;
  options.outputs = &outputs;
  if (status == CF_OK) status = cf_decode_step(session, fork_token(i), NULL);
  if (status == CF_OK) status = cf_decode_steps(session, FORK_STEPS - 1, &options);
  if (status == CF_OK) status = cf_session_wait(session, NULL);
  if (status == CF_OK) status = cf_session_tokens(session, fork_position(i) + 1, outcome->tokens, FORK_STEPS, &n);
  return status;
}

struct worker {
  cf_session* root; /* a fork of the one that all share */
  const cf_session_options* options;
  cf_status status; /* the first that was not CF_OK */
  struct outcome outcomes[N_SESSIONS];
};

static void note(struct worker* w, cf_status status) {
  if (w->status == CF_OK) w->status = status;
}

static void* fork_and_go_on(void* argument) {
  struct worker* w = (struct worker*)argument;
  cf_session* sessions[N_SESSIONS] = {NULL};
  for (int i = 0; i < N_SESSIONS && w->status == CF_OK; i++) {
    /* From the root, or from one that forked further on. */
    note(w, cf_session_fork(i % 3 ? sessions[i - 1] : w->root, fork_position(i), w->options, &sessions[i]));
    if (w->status == CF_OK && i % 2 == 0) note(w, go_on(sessions[i], i, &w->outcomes[i]));
  }
  note(w, cf_session_destroy(w->root));
  for (int i = 1; i < N_SESSIONS && w->status == CF_OK; i += 2) note(w, go_on(sessions[i], i, &w->outcomes[i]));
  for (int i = 0; i < N_SESSIONS; i++) note(w, cf_session_destroy(sessions[i]));
  return NULL;
}

static void test_eight_threads_with_thirty_two_forks_each(void) {
  static struct worker workers[N_THREADS];
  static struct outcome expected[N_SESSIONS];
  pthread_t threads[N_THREADS];
  cf_kv_pool* pool = make_pool((int64_t)(N_THREADS * N_SESSIONS + 1) * 4 * PAGE, PAGE);
  cf_session_options options;
  OK(cf_session_options_init(&options, sizeof options));
  options.capacity_tokens = 64;
  options.reserve = 0;
  for (int i = 0; i < N_SESSIONS; i++) {
    cf_session* alone = make_session(model, 64);
    OK(cf_prefill(alone, prompt, (size_t)fork_position(i), NULL));
    OK(go_on(alone, i, &expected[i]));
    cf_session_destroy(alone);
  }
  cf_session* parent = make_pooled_session(pool, 64, 0);
  OK(cf_prefill(parent, prompt, SHARED, NULL));
  for (int t = 0; t < N_THREADS; t++) {
    memset(&workers[t], 0, sizeof workers[t]);
    workers[t].options = &options;
    OK(cf_session_fork(parent, SHARED, &options, &workers[t].root));
  }
  for (int t = 0; t < N_THREADS; t++) pthread_create(&threads[t], NULL, fork_and_go_on, &workers[t]);
  for (int i = 0; i < 20; i++) { /* the parent goes on meanwhile, and back */
    decode(parent, prompt[i], &other, 0);
    OK(cf_session_truncate(parent, SHARED - i));
    TEST_ASSERT_GREATER_OR_EQUAL(0, free_pages(pool));
  }
  for (int t = 0; t < N_THREADS; t++) pthread_join(threads[t], NULL);
  for (int t = 0; t < N_THREADS; t++) {
    TEST_ASSERT_EQUAL_INT32(CF_OK, workers[t].status);
    for (int i = 0; i < N_SESSIONS; i++) {
      TEST_ASSERT_EQUAL_INT32_ARRAY(expected[i].tokens, workers[t].outcomes[i].tokens, FORK_STEPS);
      TEST_ASSERT_EQUAL_MEMORY(expected[i].logits, workers[t].outcomes[i].logits, sizeof expected[i].logits);
    }
  }
  cf_session_destroy(parent);
  TEST_ASSERT_EQUAL_INT64((N_THREADS * N_SESSIONS + 1) * 4, free_pages(pool));
  cf_kv_pool_destroy(pool);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_a_session_is_its_tokens);
  RUN_TEST(test_every_progress_call_may_cancel);
  RUN_TEST(test_steps_cancelled_at_any_moment);
  RUN_TEST(test_prefill_cancelled_at_any_moment);
  RUN_TEST(test_positions_cancelled_at_any_moment);
  RUN_TEST(test_batches_cancelled_at_any_moment);
  RUN_TEST(test_eight_threads_with_thirty_two_forks_each);
  return UNITY_END();
}
