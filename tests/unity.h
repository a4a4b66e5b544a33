/* The part of Unity's interface that these suites use, in one header of our own: the same macro names, the same failure
 * lines ("file:line:test:FAIL: message") and summary, so that the genuine Unity can replace it by an include path.
 * Include it from one source file of a program; that file defines setUp and tearDown. */
#ifndef UNITY_H
#define UNITY_H

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(__GNUC__)
#define UNITY_UNUSED __attribute__((unused))
#else
#define UNITY_UNUSED
#endif

void setUp(void);
void tearDown(void);

static struct {
  const char* file;
  const char* test;
  int line; /* of RUN_TEST, for a test that passes */
  int tests, failures, ignored;
  int failed, skipped; /* the running test */
  jmp_buf leave;
} unity;

static UNITY_UNUSED void unity_begin(const char* file) {
  memset(&unity, 0, sizeof unity);
  unity.file = file;
  setvbuf(stdout, NULL, _IOLBF, 0);
}

static UNITY_UNUSED int unity_end(void) {
  printf("\n-----------------------\n%d Tests %d Failures %d Ignored \n%s\n", unity.tests, unity.failures, unity.ignored,
         unity.failures ? "FAIL" : "OK");
  return unity.failures;
}

static UNITY_UNUSED void unity_run(void (*test)(void), const char* name, int line) {
  unity.test = name;
  unity.line = line;
  unity.failed = unity.skipped = 0;
  unity.tests++;
  if (setjmp(unity.leave) == 0) {
    setUp();
    test();
  }
  if (setjmp(unity.leave) == 0) tearDown(); /* also after a failure */
  if (unity.failed) unity.failures++;
  else if (unity.skipped) unity.ignored++;
  else printf("%s:%d:%s:PASS\n", unity.file, unity.line, unity.test);
}

static UNITY_UNUSED void unity_leave(int line, const char* verdict, const char* detail, const char* message) {
  printf("%s:%d:%s:%s", unity.file, line, unity.test, verdict);
  if (detail && *detail) printf(": %s", detail);
  if (message) printf("%s %s", detail && *detail ? "." : ":", message);
  printf("\n");
  if (strcmp(verdict, "IGNORE") == 0) unity.skipped = 1;
  else unity.failed = 1;
  longjmp(unity.leave, 1);
}

static UNITY_UNUSED void unity_check(int holds, int line, const char* detail, const char* message) {
  if (!holds) unity_leave(line, "FAIL", detail, message);
}

static UNITY_UNUSED void unity_signed(int64_t expected, int64_t actual, int line, const char* message) {
  char detail[96];
  if (expected == actual) return;
  snprintf(detail, sizeof detail, "Expected %lld Was %lld", (long long)expected, (long long)actual);
  unity_leave(line, "FAIL", detail, message);
}

static UNITY_UNUSED void unity_unsigned(uint64_t expected, uint64_t actual, int line, const char* message) {
  char detail[96];
  if (expected == actual) return;
  snprintf(detail, sizeof detail, "Expected %llu Was %llu", (unsigned long long)expected, (unsigned long long)actual);
  unity_leave(line, "FAIL", detail, message);
}

/* relation: '<', '>' (strict), 'l' (at most), 'g' (at least) */
static UNITY_UNUSED void unity_compare(int64_t threshold, int64_t actual, char relation, int line, const char* message) {
  const int holds = relation == '<'   ? actual < threshold
                    : relation == '>' ? actual > threshold
                    : relation == 'l' ? actual <= threshold
                                      : actual >= threshold;
  const char* words = relation == '<' ? "less than" : relation == '>' ? "greater than" : relation == 'l' ? "less or equal to" : "greater or equal to";
  char detail[128];
  if (holds) return;
  snprintf(detail, sizeof detail, "Expected %lld to be %s %lld", (long long)actual, words, (long long)threshold);
  unity_leave(line, "FAIL", detail, message);
}

static UNITY_UNUSED void unity_within(double delta, double expected, double actual, int line, const char* message) {
  char detail[128];
  if (fabs(expected - actual) <= delta || (isinf(expected) && expected == actual)) return; /* NaN is within nothing */
  snprintf(detail, sizeof detail, "Expected %.17g Was %.17g", expected, actual);
  unity_leave(line, "FAIL", detail, message);
}

static UNITY_UNUSED void unity_string(const char* expected, const char* actual, int line, const char* message) {
  char detail[1024];
  if (expected == actual || (expected && actual && strcmp(expected, actual) == 0)) return;
  snprintf(detail, sizeof detail, "Expected '%s' Was '%s'", expected ? expected : "NULL", actual ? actual : "NULL");
  unity_leave(line, "FAIL", detail, message);
}

static UNITY_UNUSED void unity_memory(const void* expected, const void* actual, size_t size, int line, const char* message) {
  const unsigned char* e = (const unsigned char*)expected;
  const unsigned char* a = (const unsigned char*)actual;
  char detail[96];
  size_t i;
  if (size == 0) return;
  if (!e || !a) unity_leave(line, "FAIL", "Memory Mismatch. NULL", message);
  for (i = 0; i < size && e[i] == a[i]; i++) {}
  if (i == size) return;
  snprintf(detail, sizeof detail, "Memory Mismatch. Byte %zu Expected 0x%02X Was 0x%02X", i, (unsigned)e[i], (unsigned)a[i]);
  unity_leave(line, "FAIL", detail, message);
}

/* size: bytes of an element, 4 or 8 */
static UNITY_UNUSED void unity_array(const void* expected, const void* actual, size_t count, size_t size, int line, const char* message) {
  char detail[128];
  size_t i;
  for (i = 0; i < count; i++) {
    int64_t e = 0, a = 0;
    if (size == 4) {
      e = ((const int32_t*)expected)[i];
      a = ((const int32_t*)actual)[i];
    } else {
      e = ((const int64_t*)expected)[i];
      a = ((const int64_t*)actual)[i];
    }
    if (e == a) continue;
    snprintf(detail, sizeof detail, "Element %zu Expected %lld Was %lld", i, (long long)e, (long long)a);
    unity_leave(line, "FAIL", detail, message);
  }
}

#define UNITY_BEGIN() unity_begin(__FILE__)
#define UNITY_END() unity_end()
#define RUN_TEST(test) unity_run(test, #test, __LINE__)

#define TEST_FAIL_MESSAGE(message) unity_leave(__LINE__, "FAIL", NULL, message)
#define TEST_FAIL() unity_leave(__LINE__, "FAIL", NULL, NULL)
#define TEST_IGNORE_MESSAGE(message) unity_leave(__LINE__, "IGNORE", NULL, message)
#define TEST_IGNORE() unity_leave(__LINE__, "IGNORE", NULL, NULL)

#define TEST_ASSERT_MESSAGE(condition, message) unity_check(!!(condition), __LINE__, NULL, message)
#define TEST_ASSERT(condition) unity_check(!!(condition), __LINE__, "Expression Evaluated To FALSE", NULL)
#define TEST_ASSERT_TRUE_MESSAGE(condition, message) unity_check(!!(condition), __LINE__, "Expected TRUE Was FALSE", message)
#define TEST_ASSERT_TRUE(condition) TEST_ASSERT_TRUE_MESSAGE(condition, NULL)
#define TEST_ASSERT_FALSE_MESSAGE(condition, message) unity_check(!(condition), __LINE__, "Expected FALSE Was TRUE", message)
#define TEST_ASSERT_FALSE(condition) TEST_ASSERT_FALSE_MESSAGE(condition, NULL)
#define TEST_ASSERT_NULL_MESSAGE(pointer, message) unity_check((pointer) == NULL, __LINE__, "Expected NULL", message)
#define TEST_ASSERT_NULL(pointer) TEST_ASSERT_NULL_MESSAGE(pointer, NULL)
#define TEST_ASSERT_NOT_NULL_MESSAGE(pointer, message) unity_check((pointer) != NULL, __LINE__, "Expected Non-NULL", message)
#define TEST_ASSERT_NOT_NULL(pointer) TEST_ASSERT_NOT_NULL_MESSAGE(pointer, NULL)

#define TEST_ASSERT_EQUAL_INT64_MESSAGE(expected, actual, message) unity_signed((int64_t)(expected), (int64_t)(actual), __LINE__, message)
#define TEST_ASSERT_EQUAL_INT64(expected, actual) TEST_ASSERT_EQUAL_INT64_MESSAGE(expected, actual, NULL)
#define TEST_ASSERT_EQUAL_INT32_MESSAGE(expected, actual, message) unity_signed((int32_t)(expected), (int32_t)(actual), __LINE__, message)
#define TEST_ASSERT_EQUAL_INT32(expected, actual) TEST_ASSERT_EQUAL_INT32_MESSAGE(expected, actual, NULL)
#define TEST_ASSERT_EQUAL_INT_MESSAGE(expected, actual, message) unity_signed((int)(expected), (int)(actual), __LINE__, message)
#define TEST_ASSERT_EQUAL_INT(expected, actual) TEST_ASSERT_EQUAL_INT_MESSAGE(expected, actual, NULL)
#define TEST_ASSERT_EQUAL_MESSAGE(expected, actual, message) TEST_ASSERT_EQUAL_INT_MESSAGE(expected, actual, message)
#define TEST_ASSERT_EQUAL(expected, actual) TEST_ASSERT_EQUAL_INT(expected, actual)
#define TEST_ASSERT_NOT_EQUAL_MESSAGE(expected, actual, message) \
  unity_check((int64_t)(expected) != (int64_t)(actual), __LINE__, "Expected Not-Equal", message)
#define TEST_ASSERT_NOT_EQUAL(expected, actual) TEST_ASSERT_NOT_EQUAL_MESSAGE(expected, actual, NULL)
#define TEST_ASSERT_EQUAL_UINT32_MESSAGE(expected, actual, message) unity_unsigned((uint32_t)(expected), (uint32_t)(actual), __LINE__, message)
#define TEST_ASSERT_EQUAL_UINT32(expected, actual) TEST_ASSERT_EQUAL_UINT32_MESSAGE(expected, actual, NULL)
#define TEST_ASSERT_EQUAL_UINT64_MESSAGE(expected, actual, message) unity_unsigned((uint64_t)(expected), (uint64_t)(actual), __LINE__, message)
#define TEST_ASSERT_EQUAL_UINT64(expected, actual) TEST_ASSERT_EQUAL_UINT64_MESSAGE(expected, actual, NULL)
#define TEST_ASSERT_EQUAL_size_t_MESSAGE(expected, actual, message) unity_unsigned((size_t)(expected), (size_t)(actual), __LINE__, message)
#define TEST_ASSERT_EQUAL_size_t(expected, actual) TEST_ASSERT_EQUAL_size_t_MESSAGE(expected, actual, NULL)

#define TEST_ASSERT_LESS_THAN_MESSAGE(threshold, actual, message) unity_compare((int64_t)(threshold), (int64_t)(actual), '<', __LINE__, message)
#define TEST_ASSERT_LESS_THAN(threshold, actual) TEST_ASSERT_LESS_THAN_MESSAGE(threshold, actual, NULL)
#define TEST_ASSERT_GREATER_THAN_MESSAGE(threshold, actual, message) unity_compare((int64_t)(threshold), (int64_t)(actual), '>', __LINE__, message)
#define TEST_ASSERT_GREATER_THAN(threshold, actual) TEST_ASSERT_GREATER_THAN_MESSAGE(threshold, actual, NULL)
#define TEST_ASSERT_LESS_OR_EQUAL_MESSAGE(threshold, actual, message) unity_compare((int64_t)(threshold), (int64_t)(actual), 'l', __LINE__, message)
#define TEST_ASSERT_LESS_OR_EQUAL(threshold, actual) TEST_ASSERT_LESS_OR_EQUAL_MESSAGE(threshold, actual, NULL)
#define TEST_ASSERT_GREATER_OR_EQUAL_MESSAGE(threshold, actual, message) \
  unity_compare((int64_t)(threshold), (int64_t)(actual), 'g', __LINE__, message)
#define TEST_ASSERT_GREATER_OR_EQUAL(threshold, actual) TEST_ASSERT_GREATER_OR_EQUAL_MESSAGE(threshold, actual, NULL)

#define TEST_ASSERT_FLOAT_WITHIN_MESSAGE(delta, expected, actual, message) \
  unity_within((float)(delta), (float)(expected), (float)(actual), __LINE__, message)
#define TEST_ASSERT_FLOAT_WITHIN(delta, expected, actual) TEST_ASSERT_FLOAT_WITHIN_MESSAGE(delta, expected, actual, NULL)
#define TEST_ASSERT_DOUBLE_WITHIN_MESSAGE(delta, expected, actual, message) unity_within(delta, expected, actual, __LINE__, message)
#define TEST_ASSERT_DOUBLE_WITHIN(delta, expected, actual) TEST_ASSERT_DOUBLE_WITHIN_MESSAGE(delta, expected, actual, NULL)

#define TEST_ASSERT_EQUAL_STRING_MESSAGE(expected, actual, message) unity_string(expected, actual, __LINE__, message)
#define TEST_ASSERT_EQUAL_STRING(expected, actual) TEST_ASSERT_EQUAL_STRING_MESSAGE(expected, actual, NULL)
#define TEST_ASSERT_EQUAL_PTR_MESSAGE(expected, actual, message) \
  unity_check((const void*)(expected) == (const void*)(actual), __LINE__, "Pointers Differ", message)
#define TEST_ASSERT_EQUAL_PTR(expected, actual) TEST_ASSERT_EQUAL_PTR_MESSAGE(expected, actual, NULL)
#define TEST_ASSERT_EQUAL_MEMORY_MESSAGE(expected, actual, size, message) unity_memory(expected, actual, size, __LINE__, message)
#define TEST_ASSERT_EQUAL_MEMORY(expected, actual, size) TEST_ASSERT_EQUAL_MEMORY_MESSAGE(expected, actual, size, NULL)
#define TEST_ASSERT_EQUAL_INT32_ARRAY_MESSAGE(expected, actual, count, message) unity_array(expected, actual, count, 4, __LINE__, message)
#define TEST_ASSERT_EQUAL_INT32_ARRAY(expected, actual, count) TEST_ASSERT_EQUAL_INT32_ARRAY_MESSAGE(expected, actual, count, NULL)
#define TEST_ASSERT_EQUAL_INT64_ARRAY_MESSAGE(expected, actual, count, message) unity_array(expected, actual, count, 8, __LINE__, message)
#define TEST_ASSERT_EQUAL_INT64_ARRAY(expected, actual, count) TEST_ASSERT_EQUAL_INT64_ARRAY_MESSAGE(expected, actual, count, NULL)

#endif
