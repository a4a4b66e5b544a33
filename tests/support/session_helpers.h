/* Sessions and what their calls answer. For suites that include unity.h first. */
#ifndef SESSION_HELPERS_H
#define SESSION_HELPERS_H

#include <stdlib.h>

#include "support/expect_load.h"
#include "support/model_maker.h"

/* What a call is to answer: CF_OK, or this failure with this word in its sentence. */
#define OK(call) expect_status(CF_OK, NULL, call, #call)
#define FAILS(status, word, call) expect_status(status, word, call, #call)

/* `capacity` positions in a private pool. */
static UNITY_UNUSED cf_session* make_session(cf_model* model, int64_t capacity) {
  cf_session_options options;
  cf_session* session = NULL;
  OK(cf_session_options_init(&options, sizeof options));
  options.capacity_tokens = capacity;
  OK(cf_session_create(model, &options, &session));
  return session;
}

/* The session's status, which is to be CF_OK or this failure. */
static UNITY_UNUSED cf_result wait_ok(cf_session* session) {
  cf_result result;
  OK(cf_result_init(&result, sizeof result));
  OK(cf_session_wait(session, &result));
  TEST_ASSERT_EQUAL_INT32(CF_OK, result.status);
  return result;
}

static UNITY_UNUSED cf_result wait_fails(cf_session* session, cf_status status, const char* word) {
  cf_result result;
  OK(cf_result_init(&result, sizeof result));
  expect_status(status, word, cf_session_wait(session, &result), "cf_session_wait");
  TEST_ASSERT_EQUAL_INT32(status, result.status);
  return result;
}

#endif
