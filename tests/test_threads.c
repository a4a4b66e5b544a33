/* Many threads: sessions side by side, tokens read and work cancelled from elsewhere, handles that are in use. Meant to be run
 * under ThreadSanitizer as well. Worker threads only record what they see; the test's own thread judges. */
#define _XOPEN_SOURCE 700

#include "unity.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "support/session_helpers.h"

enum { VOCAB = 96, PROMPT = 20, STEPS = 12 };

static struct tiny_model tiny;
static cf_context* context;
static cf_model* model;

void setUp(void) {
  cf_context_options options;
  OK(cf_context_options_init(&options, sizeof options));
  options.cpu_threads = 3;
  OK(cf_context_create(&options, &context));
  tiny_model_init(&tiny, CF_FAMILY_LLAMA);
  model = make_model(context, &tiny);
}

void tearDown(void) {
  cf_model_destroy(model);
  cf_context_destroy(context);
}

/* ---- Sessions side by side ---- */

/* A prompt and what follows it. */
struct run {
  cf_session* session;
  cf_model* model;
  uint64_t seed;
  cf_status status; /* the first that was not CF_OK */
  int32_t tokens[PROMPT + STEPS + 1];
  float logits[VOCAB];
};

static void note(struct run* run, cf_status status) {
  if (run->status == CF_OK) run->status = status;
}

static void* run_session(void* argument) {
  struct run* run = (struct run*)argument;
  int32_t prompt[PROMPT];
  size_t n = 0;
  cf_outputs outputs;
  cf_step_options options;
  fill_tokens(prompt, PROMPT, VOCAB, run->seed);
  cf_outputs_init(&outputs, sizeof outputs);
  cf_step_options_init(&options, sizeof options);
  outputs.logits = run->logits;
  options.outputs = &outputs;
  note(run, cf_prefill(run->session, prompt, PROMPT, NULL));
  note(run, cf_decode_steps(run->session, STEPS, &options));
  note(run, cf_session_wait(run->session, NULL));
  note(run, cf_session_tokens(run->session, 0, run->tokens, PROMPT + STEPS + 1, &n));
  return NULL;
}

/* The same by itself. */
static struct run run_alone(uint64_t seed) {
  struct run run = {NULL, model, seed, CF_OK, {0}, {0}};
  run.session = make_session(model, 64);
  run_session(&run);
  cf_session_destroy(run.session);
  TEST_ASSERT_EQUAL_INT32(CF_OK, run.status);
  return run;
}

static void expect_same_run(const struct run* expected, const struct run* actual) {
  TEST_ASSERT_EQUAL_INT32(CF_OK, actual->status);
  TEST_ASSERT_EQUAL_INT32_ARRAY(expected->tokens, actual->tokens, PROMPT + STEPS + 1);
  TEST_ASSERT_EQUAL_MEMORY(expected->logits, actual->logits, sizeof expected->logits);
}

static void test_two_sessions_on_two_threads(void) {
  struct run runs[2], expected[2] = {run_alone(1), run_alone(2)};
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) {
    runs[i] = (struct run){make_session(model, 64), model, (uint64_t)i + 1, CF_OK, {0}, {0}};
    pthread_create(&threads[i], NULL, run_session, &runs[i]);
  }
  for (int i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
    expect_same_run(&expected[i], &runs[i]);
    cf_session_destroy(runs[i].session);
  }
}

enum { N_THREADS = 8, N_SESSIONS = 32 };

/* The sessions of one thread, each with a prompt of its own, which it steps in turn and now and then together. */
struct crowd {
  cf_session* sessions[N_SESSIONS];
  cf_status status;
  int32_t tokens[N_SESSIONS][PROMPT + STEPS + 1];
  float logits[N_SESSIONS][VOCAB];
};

static void* run_crowd(void* argument) {
  struct crowd* crowd = (struct crowd*)argument;
  int32_t prompt[PROMPT];
  size_t n = 0;
  cf_status status = CF_OK;
  cf_outputs outputs;
  cf_step_options options;
  cf_outputs_init(&outputs, sizeof outputs);
  cf_step_options_init(&options, sizeof options);
  outputs.logits = crowd->logits[0];
  options.outputs = &outputs;
  for (int i = 0; i < N_SESSIONS && status == CF_OK; i++) {
    fill_tokens(prompt, PROMPT, VOCAB, (uint64_t)i + 1);
    status = cf_prefill(crowd->sessions[i], prompt, PROMPT, NULL);
  }
  for (int step = 0; step < STEPS && status == CF_OK; step++) {
    if (step % 4 == 3) { /* the last one, too */
      status = cf_decode_batch(crowd->sessions, N_SESSIONS, NULL, &options);
      continue;
    }
    for (int i = 0; i < N_SESSIONS && status == CF_OK; i++) status = cf_decode_step(crowd->sessions[i], CF_TOKEN_PENDING, NULL);
  }
  for (int i = 0; i < N_SESSIONS && status == CF_OK; i++) {
    status = cf_session_wait(crowd->sessions[i], NULL);
    if (status == CF_OK) status = cf_session_tokens(crowd->sessions[i], 0, crowd->tokens[i], PROMPT + STEPS + 1, &n);
  }
  crowd->status = status;
  return NULL;
}

static cf_session* make_pooled(cf_kv_pool* pool) {
  cf_session_options options;
  cf_session* session = NULL;
  OK(cf_session_options_init(&options, sizeof options));
  options.pool = pool;
  options.reserve = 0;
  options.capacity_tokens = 48;
  OK(cf_session_create(model, &options, &session));
  return session;
}

static cf_kv_pool* make_shared_pool(int64_t n_sessions) {
  cf_kv_pool_options options;
  cf_kv_pool* pool = NULL;
  OK(cf_kv_pool_options_init(&options, sizeof options));
  options.page_tokens = 16;
  options.capacity_tokens = n_sessions * 48;
  OK(cf_kv_pool_create(model, &options, &pool));
  return pool;
}

static void begin_crowd(struct crowd* crowd, cf_kv_pool* pool, pthread_t* thread) {
  for (int i = 0; i < N_SESSIONS; i++) crowd->sessions[i] = make_pooled(pool);
  pthread_create(thread, NULL, run_crowd, crowd);
}

/* expected: of each session by itself. */
static void end_crowd(struct crowd* crowd, pthread_t thread, const struct run* expected) {
  pthread_join(thread, NULL);
  TEST_ASSERT_EQUAL_INT32(CF_OK, crowd->status);
  for (int i = 0; i < N_SESSIONS; i++) {
    TEST_ASSERT_EQUAL_INT32_ARRAY(expected[i].tokens, crowd->tokens[i], PROMPT + STEPS + 1);
    TEST_ASSERT_EQUAL_MEMORY(expected[i].logits, crowd->logits[i], sizeof expected[i].logits);
    cf_session_destroy(crowd->sessions[i]);
  }
}

/* 256 sessions of one pool at once, and none of them notices. */
static void test_eight_threads_with_32_sessions_each(void) {
  static struct crowd crowds[N_THREADS];
  static struct run expected[N_SESSIONS];
  cf_kv_pool* pool = make_shared_pool(N_THREADS * N_SESSIONS);
  pthread_t threads[N_THREADS];
  for (int i = 0; i < N_SESSIONS; i++) expected[i] = run_alone((uint64_t)i + 1);
  for (int t = 0; t < N_THREADS; t++) begin_crowd(&crowds[t], pool, &threads[t]);
  for (int t = 0; t < N_THREADS; t++) end_crowd(&crowds[t], threads[t], expected);
  cf_kv_pool_destroy(pool);
}

static void* run_new_session(void* argument) {
  struct run* run = (struct run*)argument;
  cf_session_options options;
  cf_model_info info;
  cf_context_info context_info;
  cf_session_options_init(&options, sizeof options);
  cf_model_info_init(&info, sizeof info);
  cf_context_info_init(&context_info, sizeof context_info);
  options.capacity_tokens = 64;
  for (int i = 0; i < 3; i++) {
    run->session = NULL;
    note(run, cf_session_create(run->model, &options, &run->session));
    if (run->session) run_session(run);
    note(run, cf_model_query(run->model, &info));
    note(run, cf_context_query(context, &context_info));
    note(run, cf_session_destroy(run->session));
  }
  return NULL;
}

static void test_sessions_come_and_go_on_every_thread(void) {
  struct run runs[4];
  const struct run expected = run_alone(1);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) {
    runs[i] = (struct run){NULL, model, 1, CF_OK, {0}, {0}};
    pthread_create(&threads[i], NULL, run_new_session, &runs[i]);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    expect_same_run(&expected, &runs[i]);
  }
}

static void* run_in_a_context_of_its_own(void* argument) {
  struct run* run = (struct run*)argument;
  cf_context* own = NULL;
  cf_context_options options;
  cf_context_options_init(&options, sizeof options);
  options.cpu_threads = 2;
  note(run, cf_context_create(&options, &own));
  run->model = make_model(own, &tiny);
  cf_context_destroy(own); /* the last child of it, on this thread, ends it */
  cf_session_options session_options;
  cf_session_options_init(&session_options, sizeof session_options);
  session_options.capacity_tokens = 64;
  note(run, cf_session_create(run->model, &session_options, &run->session));
  cf_model_destroy(run->model);
  run_session(run);
  cf_session_destroy(run->session);
  return NULL;
}

static void test_a_context_per_thread(void) {
  struct run runs[4];
  const struct run expected = run_alone(1);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) {
    runs[i] = (struct run){NULL, NULL, 1, CF_OK, {0}, {0}};
    pthread_create(&threads[i], NULL, run_in_a_context_of_its_own, &runs[i]);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    expect_same_run(&expected, &runs[i]);
  }
}

/* Grows and shrinks again and again. */
static void* churn(void* argument) {
  struct run* run = (struct run*)argument;
  for (int i = 0; i < 6; i++) {
    run_session(run);
    note(run, cf_session_truncate(run->session, i == 5 ? PROMPT : 0));
  }
  return NULL;
}

static void test_a_pool_shared_by_threads(void) {
  struct run runs[4];
  const struct run expected = run_alone(1);
  pthread_t threads[4];
  cf_kv_pool_info info;
  cf_kv_pool* pool = make_shared_pool(4);
  for (int i = 0; i < 4; i++) runs[i] = (struct run){make_pooled(pool), model, 1, CF_OK, {0}, {0}};
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, churn, &runs[i]);
  OK(cf_kv_pool_info_init(&info, sizeof info));
  for (int i = 0; i < 1000; i++) {
    OK(cf_kv_pool_query(pool, &info));
    TEST_ASSERT_TRUE(info.n_pages_free >= 0 && info.n_pages_free <= 12);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    expect_same_run(&expected, &runs[i]);
  }
  OK(cf_kv_pool_query(pool, &info));
  TEST_ASSERT_EQUAL_INT64(12 - 4 * 2, info.n_pages_free); /* PROMPT positions need two pages each */
  for (int i = 0; i < 4; i++) cf_session_destroy(runs[i].session);
  OK(cf_kv_pool_query(pool, &info));
  TEST_ASSERT_EQUAL_INT64(12, info.n_pages_free);
  cf_kv_pool_destroy(pool);
}

/* ---- Tokens ---- */

/* Holds a call inside its progress callback. */
struct gate {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int entered, open;
};

static int32_t wait_at_gate(void* user, uint64_t done, uint64_t total) {
  struct gate* gate = (struct gate*)user;
  (void)done, (void)total;
  pthread_mutex_lock(&gate->mutex);
  gate->entered = 1;
  pthread_cond_broadcast(&gate->changed);
  while (!gate->open) pthread_cond_wait(&gate->changed, &gate->mutex);
  pthread_mutex_unlock(&gate->mutex);
  return 0;
}

static void make_gate(struct gate* gate) {
  pthread_mutex_init(&gate->mutex, NULL);
  pthread_cond_init(&gate->changed, NULL);
  gate->entered = gate->open = 0;
}

static void wait_until_entered(struct gate* gate) {
  pthread_mutex_lock(&gate->mutex);
  while (!gate->entered) pthread_cond_wait(&gate->changed, &gate->mutex);
  pthread_mutex_unlock(&gate->mutex);
}

static void open_gate(struct gate* gate) {
  pthread_mutex_lock(&gate->mutex);
  gate->open = 1;
  pthread_cond_broadcast(&gate->changed);
  pthread_mutex_unlock(&gate->mutex);
}

struct long_run {
  cf_session* session;
  cf_cancellation* cancellation;
  struct gate* gate; /* held after its first steps; NULL: not at all */
  int64_t steps;
  cf_status enqueued, status;
  cf_result result;
};

enum { HELD_AFTER = 50 };

static int32_t hold_after_some_steps(void* gate, uint64_t done, uint64_t total) { return done == HELD_AFTER ? wait_at_gate(gate, done, total) : 0; }

static void* run_long(void* argument) {
  struct long_run* run = (struct long_run*)argument;
  cf_step_options options;
  cf_step_options_init(&options, sizeof options);
  options.cancellation = run->cancellation;
  options.progress = run->gate ? hold_after_some_steps : NULL;
  options.progress_user = run->gate;
  run->enqueued = cf_decode_steps(run->session, run->steps, &options);
  cf_result_init(&run->result, sizeof run->result);
  run->status = cf_session_wait(run->session, &run->result);
  return NULL;
}

static void test_tokens_are_read_while_they_are_made(void) {
  enum { MANY = 300 };
  static int32_t seen[MANY + 2], final[MANY + 2];
  struct gate gate;
  struct long_run run = {make_session(model, MANY + 2), NULL, &gate, MANY, CF_OK, CF_OK, {0}};
  pthread_t thread;
  size_t n_seen = 0;
  make_gate(&gate);
  OK(cf_decode_step(run.session, 1, NULL)); /* position 1, one token pending */
  pthread_create(&thread, NULL, run_long, &run);
  while (n_seen < MANY + 2) { /* in order, each once, as an interface would show them */
    size_t n = 0;
    OK(cf_session_tokens(run.session, (int64_t)n_seen, seen + n_seen, MANY + 2 - n_seen, &n));
    n_seen += n;
    if (n_seen == HELD_AFTER + 2) open_gate(&gate); /* all that there are until then */
  }
  pthread_join(thread, NULL);
  TEST_ASSERT_EQUAL_INT32(CF_OK, run.status);
  TEST_ASSERT_EQUAL_INT64(MANY + 1, run.result.position);
  OK(cf_session_tokens(run.session, 0, final, MANY + 2, &n_seen));
  TEST_ASSERT_EQUAL_size_t(MANY + 2, n_seen);
  TEST_ASSERT_EQUAL_INT32_ARRAY(final, seen, MANY + 2);
  cf_session_destroy(run.session);
}

/* ---- Cancellation ---- */

static void test_steps_are_cancelled_from_another_thread(void) {
  enum { FAR_TOO_MANY = 20000 };
  struct long_run run = {make_session(model, FAR_TOO_MANY), NULL, NULL, FAR_TOO_MANY - 1, CF_OK, CF_OK, {0}};
  pthread_t thread;
  int32_t token;
  size_t n = 0;
  OK(cf_cancellation_create(&run.cancellation));
  OK(cf_decode_step(run.session, 1, NULL));
  wait_ok(run.session);
  pthread_create(&thread, NULL, run_long, &run);
  while (n == 0) OK(cf_session_tokens(run.session, 5, &token, 1, &n));
  OK(cf_cancellation_request(run.cancellation));
  pthread_join(thread, NULL);
  TEST_ASSERT_EQUAL_INT32(CF_OK, run.enqueued);
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_CANCELLED, run.status);
  TEST_ASSERT_TRUE(run.result.n_steps >= 4 && run.result.n_steps < FAR_TOO_MANY - 1);
  TEST_ASSERT_EQUAL_INT64(run.result.n_steps + 1, run.result.position);
  OK(cf_decode_step(run.session, CF_TOKEN_PENDING, NULL)); /* works on */
  wait_ok(run.session);
  cf_session_destroy(run.session);
  cf_cancellation_destroy(run.cancellation);
}

enum { LONG_PROMPT = 100, LONG = 300 };

/* A prompt and LONG steps, gone on with until nobody has cancelled them, and all that again until it is stopped. */
struct harried {
  cf_session* session;
  cf_cancellation* cancellation;
  const int32_t* expected; /* NULL: the first run, which makes them */
  uint64_t seed;
  int cancelled, rounds, wrong;
  atomic_int stop;
  int32_t tokens[LONG_PROMPT + LONG + 1];
};

static void* run_harried(void* argument) {
  struct harried* run = (struct harried*)argument;
  int32_t prompt[LONG_PROMPT];
  size_t n = 0;
  int64_t position = 0;
  cf_result result;
  cf_step_options options;
  cf_step_options_init(&options, sizeof options);
  options.cancellation = run->cancellation;
  fill_tokens(prompt, LONG_PROMPT, VOCAB, run->seed);
  while (!run->wrong) {
    const int64_t before = position, steps = before == 0 ? LONG_PROMPT : LONG_PROMPT + LONG - before;
    cf_status status = before == 0 ? cf_prefill(run->session, prompt, LONG_PROMPT, &options) : cf_decode_steps(run->session, steps, &options);
    if (status != CF_OK) run->wrong = __LINE__;
    cf_result_init(&result, sizeof result);
    status = cf_session_wait(run->session, &result);
    position = result.position;
    if (status == CF_OK ? position != before + steps : status != CF_ERROR_CANCELLED) run->wrong = __LINE__;
    if (result.n_steps != position - before || (before == 0 && status != CF_OK && position != 0)) run->wrong = __LINE__;
    if (status == CF_ERROR_CANCELLED) {
      run->cancelled++;
      cf_cancellation_reset(run->cancellation);
    }
    if (position < LONG_PROMPT + LONG) continue;
    run->rounds++;
    cf_session_tokens(run->session, 0, run->tokens, LONG_PROMPT + LONG + 1, &n);
    if (run->expected && memcmp(run->expected, run->tokens, sizeof run->tokens) != 0) run->wrong = __LINE__;
    if (atomic_load(&run->stop)) break;
    if (cf_session_truncate(run->session, position = 0) != CF_OK) run->wrong = __LINE__;
  }
  return NULL;
}

static void begin_harried(struct harried* run, const int32_t* expected, uint64_t seed) {
  memset(run, 0, sizeof *run);
  run->session = make_session(model, LONG_PROMPT + LONG + 1);
  run->expected = expected;
  run->seed = seed;
  atomic_init(&run->stop, !expected);
  OK(cf_cancellation_create(&run->cancellation));
}

static void end_harried(struct harried* run) {
  TEST_ASSERT_EQUAL_INT(0, run->wrong); /* a line */
  TEST_ASSERT_GREATER_THAN(0, run->rounds);
  cf_session_destroy(run->session);
  cf_cancellation_destroy(run->cancellation);
}

static int64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void test_work_is_cancelled_at_random_moments(void) {
  static struct harried first[4], runs[4];
  struct random_stream random = {11};
  pthread_t threads[4];
  int cancelled = 0;
  const int64_t begin = nanoseconds();
  for (int i = 0; i < 4; i++) {
    begin_harried(&first[i], NULL, (uint64_t)i + 1);
    run_harried(&first[i]);
    end_harried(&first[i]);
    begin_harried(&runs[i], first[i].tokens, (uint64_t)i + 1);
  }
  const int64_t alone = (nanoseconds() - begin) / 4;
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, run_harried, &runs[i]);
  for (int requests = 0; requests < 100; requests++) {
    const int64_t ns = (int64_t)(random_bits(&random) % (uint64_t)(alone / 4 + 1)); /* seldom enough for prompts to come through */
    const struct timespec pause = {ns / 1000000000, ns % 1000000000};
    nanosleep(&pause, NULL);
    cf_cancellation_request(runs[random_bits(&random) % 4].cancellation);
  }
  for (int i = 0; i < 4; i++) atomic_store(&runs[i].stop, 1);
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    cancelled += runs[i].cancelled;
    end_harried(&runs[i]);
  }
  TEST_ASSERT_GREATER_THAN(20, cancelled);
}

/* ---- Contexts that come and go ---- */

/* Contexts with models and sessions of their own; every other load is cancelled where it has come to. */
struct visitor {
  const char* dir;
  uint64_t seed;
  int cancelled, wrong;
  struct run run;
};

static int32_t cancel_at_random(void* user, uint64_t done, uint64_t total) {
  (void)done, (void)total;
  return random_bits((struct random_stream*)user) % 8 == 0;
}

static void* come_and_go(void* argument) {
  struct visitor* visitor = (struct visitor*)argument;
  struct random_stream random = {visitor->seed};
  for (int i = 0; i < 8 && !visitor->wrong; i++) {
    cf_context* own = NULL;
    cf_model* loaded = NULL;
    cf_context_options options;
    cf_context_info info;
    cf_model_options model_options;
    cf_session_options session_options;
    cf_context_options_init(&options, sizeof options);
    cf_context_info_init(&info, sizeof info);
    cf_model_options_init(&model_options, sizeof model_options);
    cf_session_options_init(&session_options, sizeof session_options);
    options.cpu_threads = 1 + (int32_t)(random_bits(&random) % 3);
    session_options.capacity_tokens = 64;
    if (i % 2) model_options.progress = cancel_at_random, model_options.progress_user = &random;
    if (cf_context_create(&options, &own) != CF_OK) visitor->wrong = __LINE__;
    cf_status status = cf_model_load(own, visitor->dir, &model_options, &loaded);
    if (status == CF_ERROR_CANCELLED) {
      visitor->cancelled++;
      cf_context_query(own, &info);
      if (info.allocated_bytes != 0 || loaded) visitor->wrong = __LINE__;
      status = cf_model_load(own, visitor->dir, NULL, &loaded);
    }
    if (status != CF_OK) visitor->wrong = __LINE__;
    visitor->run = (struct run){NULL, loaded, 1, CF_OK, {0}, {0}};
    if (cf_session_create(loaded, &session_options, &visitor->run.session) != CF_OK) visitor->wrong = __LINE__;
    cf_context_destroy(own);
    cf_model_destroy(loaded);
    run_session(&visitor->run);
    cf_session_destroy(visitor->run.session);
  }
  return NULL;
}

static void test_contexts_come_and_go_under_load(void) {
  static struct crowd crowds[2];
  static struct run expected[N_SESSIONS];
  struct visitor visitors[3];
  cf_kv_pool* pool = make_shared_pool(2 * N_SESSIONS);
  pthread_t busy[2], threads[3];
  int cancelled = 0;
  char* dir = make_temp_dir();
  write_checkpoint(dir, &tiny);
  for (int i = 0; i < N_SESSIONS; i++) expected[i] = run_alone((uint64_t)i + 1);
  for (int t = 0; t < 2; t++) begin_crowd(&crowds[t], pool, &busy[t]);
  for (int t = 0; t < 3; t++) {
    visitors[t] = (struct visitor){dir, (uint64_t)t + 1, 0, 0, {NULL, NULL, 1, CF_OK, {0}, {0}}};
    pthread_create(&threads[t], NULL, come_and_go, &visitors[t]);
  }
  for (int t = 0; t < 3; t++) {
    pthread_join(threads[t], NULL);
    cancelled += visitors[t].cancelled;
    TEST_ASSERT_EQUAL_INT(0, visitors[t].wrong); /* a line */
    expect_same_run(&expected[0], &visitors[t].run);
  }
  for (int t = 0; t < 2; t++) end_crowd(&crowds[t], busy[t], expected);
  TEST_ASSERT_GREATER_THAN(0, cancelled);
  cf_kv_pool_destroy(pool);
  remove_tree(dir);
  free(dir);
}

/* ---- Handles that are in use ---- */

struct held_prefill {
  struct gate gate;
  cf_session* session;
  cf_status status;
};

static void* hold_prefill(void* argument) {
  struct held_prefill* held = (struct held_prefill*)argument;
  int32_t prompt[PROMPT];
  cf_step_options options;
  fill_tokens(prompt, PROMPT, VOCAB, 1);
  cf_step_options_init(&options, sizeof options);
  options.progress = wait_at_gate;
  options.progress_user = &held->gate;
  held->status = cf_prefill(held->session, prompt, PROMPT, &options);
  return NULL;
}

static void test_a_session_in_a_call_is_busy(void) {
  struct held_prefill held;
  cf_session *idle = make_session(model, 64), *both[2];
  cf_session_info info;
  pthread_t thread;
  int32_t token = 1;
  size_t n = 99;
  OK(cf_session_info_init(&info, sizeof info));
  make_gate(&held.gate);
  held.session = make_session(model, 64);
  pthread_create(&thread, NULL, hold_prefill, &held);
  wait_until_entered(&held.gate);
#define BUSY(call) FAILS(CF_ERROR_BUSY, "another call", call)
  BUSY(cf_prefill(held.session, &token, 1, NULL));
  BUSY(cf_decode_step(held.session, 1, NULL));
  BUSY(cf_decode_steps(held.session, 1, NULL));
  BUSY(cf_decode_positions(held.session, &token, 1, NULL));
  BUSY(cf_session_truncate(held.session, 0));
  BUSY(cf_session_set_sampler(held.session, NULL));
  BUSY(cf_session_set_allowed_tokens(held.session, NULL, 0));
  BUSY(cf_session_wait(held.session, NULL));
  BUSY(cf_session_poll(held.session, NULL));
  BUSY(cf_session_query(held.session, &info));
  both[0] = idle;
  both[1] = held.session;
  BUSY(cf_decode_batch(both, 2, (int32_t[]){1, 1}, NULL));
#undef BUSY
  OK(cf_session_tokens(held.session, 0, &token, 1, &n)); /* from any thread at any time */
  TEST_ASSERT_EQUAL_size_t(0, n);
  OK(cf_decode_step(idle, 1, NULL)); /* the batch has not kept hold of it, nor advanced it */
  TEST_ASSERT_EQUAL_INT64(1, wait_ok(idle).position);
  open_gate(&held.gate);
  pthread_join(thread, NULL);
  TEST_ASSERT_EQUAL_INT32(CF_OK, held.status);
  TEST_ASSERT_EQUAL_INT64(PROMPT, wait_ok(held.session).position);
  cf_session_destroy(held.session);
  cf_session_destroy(idle);
}

static void test_a_model_in_a_step_is_not_loaded(void) {
  struct held_prefill held;
  struct tiny_model second = tiny;
  pthread_t thread;
  cf_tensor descriptors[MAX_DESCRIPTORS];
  cf_model_info before, after;
  second.seed = 2;
  struct tensor_list tensors = tiny_model_tensors(&second);
  char* dir = make_temp_dir();
  write_checkpoint(dir, &second);
  const struct run expected = run_alone(3);
  OK(cf_model_info_init(&before, sizeof before));
  OK(cf_model_info_init(&after, sizeof after));
  OK(cf_model_query(model, &before));
  make_gate(&held.gate);
  held.session = make_session(model, 64);
  pthread_create(&thread, NULL, hold_prefill, &held);
  wait_until_entered(&held.gate);
  FAILS(CF_ERROR_BUSY, "in use", cf_load_layer(model, 0, descriptors, describe_tensors(&second, &tensors, 0, descriptors), NULL));
  FAILS(CF_ERROR_BUSY, "in use", cf_load_globals(model, descriptors, describe_tensors(&second, &tensors, GLOBALS, descriptors), NULL));
  FAILS(CF_ERROR_BUSY, "in use", cf_model_reload(model, dir, NULL));
  OK(cf_model_query(model, &after)); /* looking is allowed */
  TEST_ASSERT_EQUAL_UINT64(before.fingerprint, after.fingerprint);
  const struct run meanwhile = run_alone(3); /* as are steps of other sessions */
  expect_same_run(&expected, &meanwhile);
  open_gate(&held.gate);
  pthread_join(thread, NULL);
  TEST_ASSERT_EQUAL_INT32(CF_OK, held.status);
  OK(cf_model_reload(model, dir, NULL));
  OK(cf_model_query(model, &after));
  TEST_ASSERT_TRUE(before.fingerprint != after.fingerprint);
  cf_session_destroy(held.session);
  free_tensors(&tensors);
  remove_tree(dir);
  free(dir);
}

struct held_reload {
  struct gate gate;
  const char* dir;
  cf_status status;
};

static void* hold_reload(void* argument) {
  struct held_reload* held = (struct held_reload*)argument;
  cf_model_options options;
  cf_model_options_init(&options, sizeof options);
  options.progress = wait_at_gate;
  options.progress_user = &held->gate;
  held->status = cf_model_reload(model, held->dir, &options);
  return NULL;
}

/* A step that comes while weights are replaced sees the old ones or the new ones, never both. */
static void test_steps_and_a_reload_at_once(void) {
  struct held_reload held;
  struct tiny_model second = tiny;
  pthread_t reloading, stepping;
  cf_tensor descriptors[MAX_DESCRIPTORS];
  second.seed = 2;
  struct tensor_list tensors = tiny_model_tensors(&second);
  char* dir = make_temp_dir();
  write_checkpoint(dir, &second);
  struct run step = {make_session(model, 64), model, 1, CF_OK, {0}, {0}};
  make_gate(&held.gate);
  held.dir = dir;
  pthread_create(&reloading, NULL, hold_reload, &held);
  wait_until_entered(&held.gate);
  FAILS(CF_ERROR_BUSY, "in use", cf_load_layer(model, 0, descriptors, describe_tensors(&second, &tensors, 0, descriptors), NULL));
  pthread_create(&stepping, NULL, run_session, &step);
  open_gate(&held.gate);
  pthread_join(reloading, NULL);
  pthread_join(stepping, NULL);
  TEST_ASSERT_EQUAL_INT32(CF_OK, held.status);
  const struct run expected = run_alone(1); /* with the new weights */
  expect_same_run(&expected, &step);
  cf_session_destroy(step.session);
  free_tensors(&tensors);
  remove_tree(dir);
  free(dir);
}

/* ---- Errors ---- */

static void* fail_often(void* argument) {
  struct run* run = (struct run*)argument;
  char expected[64], text[256];
  for (int i = 0; i < 200; i++) {
    snprintf(expected, sizeof expected, "layer is %d,", 1000 + (int)run->seed * 1000 + i);
    cf_load_layer(model, 1000 + (int)run->seed * 1000 + i, NULL, 0, NULL);
    cf_last_error(text, sizeof text, NULL);
    if (!strstr(text, expected)) note(run, CF_ERROR_INTERNAL); /* somebody else's */
    cf_context_last_error(context, text, sizeof text, NULL);
    if (!strstr(text, "layer is ") || !strstr(text, "expected 0 to 1")) note(run, CF_ERROR_INTERNAL); /* anybody's, but a whole one */
  }
  return NULL;
}

static void test_errors_of_many_threads(void) {
  struct run runs[4];
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) {
    runs[i] = (struct run){NULL, NULL, (uint64_t)i, CF_OK, {0}, {0}};
    pthread_create(&threads[i], NULL, fail_often, &runs[i]);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
    TEST_ASSERT_EQUAL_INT32(CF_OK, runs[i].status);
  }
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_two_sessions_on_two_threads);
  RUN_TEST(test_eight_threads_with_32_sessions_each);
  RUN_TEST(test_sessions_come_and_go_on_every_thread);
  RUN_TEST(test_a_context_per_thread);
  RUN_TEST(test_a_pool_shared_by_threads);
  RUN_TEST(test_tokens_are_read_while_they_are_made);
  RUN_TEST(test_steps_are_cancelled_from_another_thread);
  RUN_TEST(test_work_is_cancelled_at_random_moments);
  RUN_TEST(test_contexts_come_and_go_under_load);
  RUN_TEST(test_a_session_in_a_call_is_busy);
  RUN_TEST(test_a_model_in_a_step_is_not_loaded);
  RUN_TEST(test_steps_and_a_reload_at_once);
  RUN_TEST(test_errors_of_many_threads);
  return UNITY_END();
}
