/* Loads a directory on the CPU and judges status and message. For suites that include unity.h first. */
#ifndef EXPECT_LOAD_H
#define EXPECT_LOAD_H

#include <stdio.h>
#include <string.h>

#include "clusterfusion.h"

static UNITY_UNUSED cf_context* make_cpu_context(cf_log_fn log, void* user) {
  cf_context_options options;
  cf_context* context = NULL;
  cf_context_options_init(&options, sizeof options);
  options.cpu_threads = 1;
  options.log = log;
  options.log_user = user;
  TEST_ASSERT_EQUAL_INT32_MESSAGE(CF_OK, cf_context_create(&options, &context), "cf_context_create");
  return context;
}

/* The failure's status and a word of its sentence; for CF_OK, word is not looked at. `what` names the case. */
static UNITY_UNUSED void expect_status(cf_status expected, const char* word, cf_status status, const char* what) {
  char message[1024] = "", report[1536];
  if (status != CF_OK) cf_last_error(message, sizeof message, NULL);
  snprintf(report, sizeof report, "%s: %s \"%s\", expected %s \"%s\"", what, cf_status_name(status), message, cf_status_name(expected),
           word ? word : "");
  TEST_ASSERT_EQUAL_INT32_MESSAGE(expected, status, report);
  if (expected != CF_OK) TEST_ASSERT_TRUE_MESSAGE(strstr(message, word) != NULL, report);
}

static UNITY_UNUSED void expect_load(const char* dir, cf_status expected, const char* word, const char* what) {
  cf_context* context = make_cpu_context(NULL, NULL);
  cf_model* const untouched = (cf_model*)(void*)&context; /* any address that is no model */
  cf_model* model = untouched;
  const cf_status status = cf_model_load(context, dir, NULL, &model);
  const int touched = model != untouched;
  if (status == CF_OK) cf_model_destroy(model);
  cf_context_destroy(context);
  expect_status(expected, word, status, what);
  TEST_ASSERT_EQUAL_INT_MESSAGE(status == CF_OK, touched, what);
}

#endif
