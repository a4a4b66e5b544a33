/* The rules of one .safetensors file: frame, JSON, tensors. Each case is a file that breaks one of them, seen through cf_model_load. */
#define _XOPEN_SOURCE 700

#include "unity.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/checkpoint_writer.h"
#include "support/expect_load.h"

static char* dir;
static struct tiny_model model;
static struct tensor_list tensors;

void setUp(void) {
  dir = make_temp_dir();
  tiny_model_init(&model, CF_FAMILY_LLAMA);
  write_model_config(dir, &model, NULL);
  tensors = tiny_model_tensors(&model);
}

void tearDown(void) {
  free_tensors(&tensors);
  remove_tree(dir);
  free(dir);
}

#define FILE_NAME "model.safetensors"

/* The header, with its true length, and that many bytes of zeros as data. */
static void expect_header_bytes(const char* header, size_t n, size_t data_bytes, const char* word, const char* what) {
  write_raw_safetensors(dir, FILE_NAME, n, header, n, NULL, data_bytes);
  expect_load(dir, CF_ERROR_INVALID_FILE, word, what);
  expect_load(dir, CF_ERROR_INVALID_FILE, FILE_NAME, what); /* the message names the file */
}

static void expect_header(const char* header, size_t data_bytes, const char* word) {
  expect_header_bytes(header, strlen(header), data_bytes, word, header);
}

/* A string literal that may hold NUL. */
#define EXPECT_BYTES(literal, word) expect_header_bytes(literal, sizeof(literal) - 1, 0, word, #literal)

/* What gets this far is a sound file without the model's tensors. */
#define SOUND "is missing"
#define A(fields) "{\"a\":{" fields "}}"

/* ---- Frame ---- */

static void test_file_shorter_than_its_length_field(void) {
  write_file(dir, FILE_NAME, "1234567", 7);
  expect_load(dir, CF_ERROR_INVALID_FILE, "too short", "7 bytes");
  write_file(dir, FILE_NAME, "", 0);
  expect_load(dir, CF_ERROR_INVALID_FILE, "too short", "0 bytes");
}

static void test_header_length_zero(void) {
  write_raw_safetensors(dir, FILE_NAME, 0, NULL, 0, NULL, 16);
  expect_load(dir, CF_ERROR_INVALID_FILE, "header is empty", "length 0");
}

static void test_header_length_above_the_limit(void) {
  const uint64_t lengths[] = {(16u << 20) + 1, 100000000, UINT64_MAX, (uint64_t)INT64_MAX + 1};
  for (size_t i = 0; i < 4; i++) {
    write_raw_safetensors(dir, FILE_NAME, lengths[i], "{}", 2, NULL, 0);
    if (i == 0) TEST_ASSERT_EQUAL_INT(0, truncate(path_in(dir, FILE_NAME), 32 << 20)); /* the file itself is long enough */
    expect_load(dir, CF_ERROR_INVALID_FILE, "above the limit", "length");
  }
}

static void test_header_of_the_greatest_length(void) {
  const size_t n = 16u << 20;
  char* header = (char*)malloc(n);
  memset(header, ' ', n);
  memcpy(header, "{}", 2);
  write_raw_safetensors(dir, FILE_NAME, n, header, n, NULL, 0);
  free(header);
  expect_load(dir, CF_ERROR_INVALID_FILE, SOUND, "16 MiB of header");
}

static void test_header_length_beyond_the_file(void) {
  write_raw_safetensors(dir, FILE_NAME, 3, "{}", 2, NULL, 0);
  expect_load(dir, CF_ERROR_INVALID_FILE, "beyond the end of the file", "one byte too many");
}

static void test_header_does_not_start_with_a_brace(void) {
  expect_header(" {}", 0, "start with '{'");
  expect_header("[]", 0, "start with '{'");
  EXPECT_BYTES("\0{}", "start with '{'");
}

static void test_header_padding_is_allowed(void) { expect_header("{}      ", 0, SOUND); }

static void test_data_not_ending_at_the_end_of_the_file(void) {
  expect_header(A("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), 9, "the file holds 9 bytes");
  expect_header(A("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), 7, "beyond the file's 7 bytes");
  expect_header("{}", 1, "the file holds 1 bytes");
}

/* ---- JSON ---- */

static void test_invalid_utf8(void) {
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\xff\"}}", "UTF-8");
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\x80\"}}", "UTF-8");             /* continuation byte alone */
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\xc3\"}}", "UTF-8");             /* cut short */
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\xf4\x90\x80\x80\"}}", "UTF-8"); /* above U+10FFFF */
  EXPECT_BYTES("{\"__metadata__\":\xc3\xa9}", "not valid JSON");            /* outside of a string */
}

static void test_overlong_utf8(void) {
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\xc0\xaf\"}}", "UTF-8");
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\xe0\x80\xaf\"}}", "UTF-8");
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\xf0\x80\x80\xaf\"}}", "UTF-8");
}

static void test_valid_utf8(void) { EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 \\ud83d\\ude00\"}}", SOUND); }

static void test_lone_surrogate(void) {
  expect_header("{\"__metadata__\":{\"k\":\"\\ud800\"}}", 0, "surrogate");
  expect_header("{\"__metadata__\":{\"k\":\"\\udc00\"}}", 0, "surrogate");
  expect_header("{\"__metadata__\":{\"k\":\"\\ud800\\u0041\"}}", 0, "surrogate");
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\xed\xa0\x80\"}}", "UTF-8"); /* one that is encoded as UTF-8 */
}

static void test_byte_order_mark(void) {
  EXPECT_BYTES("\xef\xbb\xbf{}", "start with '{'");
  write_text(dir, "config.json", "\xef\xbb\xbf{}");
  expect_load(dir, CF_ERROR_INVALID_FILE, "byte order mark", "config.json");
}

static void test_raw_control_character(void) {
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\n\"}}", "control character");
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\x1f\"}}", "control character");
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"\x01\"}}", "control character");
  expect_header("{\"__metadata__\":{\"k\":\"\\u0001\"}}", 0, SOUND); /* escaped it is text */
}

static void test_trailing_comma(void) {
  expect_header("{\"__metadata__\":{\"k\":\"v\",}}", 0, "unexpected '}'");
  expect_header(A("\"dtype\":\"F32\",\"shape\":[1,],\"data_offsets\":[0,4]"), 4, "unexpected ']'");
}

static void test_nul_character(void) {
  EXPECT_BYTES("{}\0", "NUL");
  EXPECT_BYTES("{}\0{\"a\":1}", "NUL");
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"a\0b\"}}", "NUL");
}

static void test_second_document(void) {
  expect_header("{}{}", 0, "expected end of input");
  expect_header("{} 1", 0, "expected end of input");
}

static void test_comment(void) {
  expect_header("{/* */}", 0, "not valid JSON");
  expect_header("{}// end", 0, "not valid JSON");
  expect_header("{# \n}", 0, "not valid JSON");
}

static void test_cut_document(void) {
  expect_header("{", 0, "unexpected end of input");
  expect_header("{\"a", 0, "missing closing quote");
}

static void test_words_that_are_no_json(void) {
  expect_header("{\"a\":NaN}", 0, "not valid JSON");
  expect_header("{\"a\":Infinity}", 0, "not valid JSON");
  expect_header("{'a':1}", 0, "not valid JSON");
  expect_header("{\"a\":\"\\x41\"}", 0, "not valid JSON");
}

static void test_nesting_depth(void) {
  char header[256];
  for (int depth = 64; depth <= 65; depth++) { /* the header's own object is the first level */
    strcpy(header, "{\"a\":");
    for (int i = 1; i < depth; i++) strcat(header, "[");
    for (int i = 1; i < depth; i++) strcat(header, "]");
    strcat(header, "}");
    expect_header(header, 0, depth == 64 ? "described by an array" : "nested deeper than 64");
  }
}

static void test_extreme_nesting(void) {
  const size_t n = 1u << 20;
  char* header = (char*)malloc(n);
  memset(header, '[', n);
  memcpy(header, "{\"a\":", 5);
  write_raw_safetensors(dir, FILE_NAME, n, header, n, NULL, 0);
  free(header);
  expect_load(dir, CF_ERROR_INVALID_FILE, "nested deeper", "a million brackets");
}

static void test_too_many_values(void) {
  const size_t n = 4u << 20;
  char* header = (char*)malloc(n);
  memcpy(header, "{\"a\":[0", 7);
  for (size_t i = 7; i + 1 < n; i += 2) memcpy(header + i, ",0", 2);
  memcpy(header + n - 3, "0]}", 3);
  write_raw_safetensors(dir, FILE_NAME, n, header, n, NULL, 0);
  free(header);
  expect_load(dir, CF_ERROR_INVALID_FILE, "JSON values", "two million zeros");
}

static void test_duplicate_keys(void) {
#define EMPTY "{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}"
  expect_header("{\"a\":" EMPTY ",\"a\":" EMPTY "}", 0, "duplicate key 'a'");
  expect_header("{\"a\":" EMPTY ",\"b\":" EMPTY ",\"\\u0061\":" EMPTY "}", 0, "duplicate key 'a'");
  expect_header("{\"\\ud83d\\ude00\":" EMPTY ",\"\xf0\x9f\x98\x80\":" EMPTY "}", 0, "duplicate key");
  expect_header(A("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"dtype\":\"U8\""), 0, "duplicate key 'dtype'");
  expect_header(A("\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0],\"sh\\u0061pe\":[1]"), 0, "duplicate key 'shape'");
  expect_header("{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}", 0, "duplicate key 'k'");
  expect_header("{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate key '__metadata__'");
}

static void test_numbers_that_are_no_unsigned_integers(void) {
  static const struct {
    const char *number, *word;
  } cases[] = {
      {"-1", "a number with a sign"},
      {"-0", "a number with a sign"},
      {"-9223372036854775809", "a number with a sign"},
      {"1.0", "a fraction or exponent"},
      {"1e0", "a fraction or exponent"},
      {"1E3", "a fraction or exponent"},
      {"0.0", "a fraction or exponent"},
      {"18446744073709551616", "above 2^64 - 1"},
      {"99999999999999999999999999", "above 2^64 - 1"},
      {"\"1\"", "a string"},
      {"true", "a boolean"},
      {"null", "null in its"},
      {"[1]", "an array"},
      {"{}", "an object"},
      {"01", "not valid JSON"},
      {"+1", "not valid JSON"},
      {"0x1", "not valid JSON"},
      {"1.", "not valid JSON"},
      {".5", "not valid JSON"},
      {"1e999", "not valid JSON"},
  };
  char header[256];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    snprintf(header, sizeof header, A("\"dtype\":\"U8\",\"shape\":[%s],\"data_offsets\":[0,1]"), cases[i].number);
    expect_header(header, 1, cases[i].word);
    snprintf(header, sizeof header, A("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%s,1]"), cases[i].number);
    expect_header(header, 1, cases[i].word);
    snprintf(header, sizeof header, A("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,%s]"), cases[i].number);
    expect_header(header, 1, cases[i].word);
  }
}

/* ---- Tensors ---- */

static void test_metadata(void) {
  expect_header("{\"__metadata__\":{}}", 0, SOUND);
  expect_header("{\"__metadata__\":null}", 0, "__metadata__ is null");
  expect_header("{\"__metadata__\":[\"a\"]}", 0, "__metadata__ is an array");
  expect_header("{\"__metadata__\":{\"k\":1}}", 0, "__metadata__ holds an unsigned integer under 'k'");
  expect_header("{\"__metadata__\":{\"k\":{}}}", 0, "__metadata__ holds an object");
}

static void test_tensor_is_no_object(void) {
  expect_header("{\"a\":1}", 0, "tensor 'a' is described by an unsigned integer");
  expect_header("{\"a\":null}", 0, "tensor 'a' is described by null");
}

static void test_unknown_dtype(void) {
  static const char* const dtypes[] = {"F17", "f32", "", "F32 ", "FLOAT", "I4", "C128"};
  char header[256];
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
    snprintf(header, sizeof header, A("\"dtype\":\"%s\",\"shape\":[1],\"data_offsets\":[0,4]"), dtypes[i]);
    expect_header(header, 4, "unknown dtype");
  }
  expect_header(A("\"dtype\":32,\"shape\":[1],\"data_offsets\":[0,4]"), 4, "as its dtype");
}

static void test_missing_field(void) {
  expect_header(A("\"shape\":[1],\"data_offsets\":[0,4]"), 4, "lacks the field 'dtype'");
  expect_header(A("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, "lacks the field 'shape'");
  expect_header(A("\"dtype\":\"F32\",\"shape\":[1]"), 4, "lacks the field 'data_offsets'");
}

static void test_extra_field(void) {
  expect_header(A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"strides\":[1]"), 4, "unknown field 'strides'");
}

static void test_shape_is_no_array(void) {
  expect_header(A("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]"), 4, "as its shape");
  expect_header(A("\"dtype\":\"F32\",\"shape\":{\"0\":1},\"data_offsets\":[0,4]"), 4, "as its shape");
  expect_header(A("\"dtype\":\"F32\",\"shape\":null,\"data_offsets\":[0,4]"), 4, "as its shape");
}

static void test_rank(void) {
  expect_header(A("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"), 1, SOUND);
  expect_header(A("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]"), 1, "rank 9");
  expect_header(A("\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]"), 1, SOUND); /* a scalar */
}

static void test_product_overflows(void) {
  static const char* const shapes[] = {
      "4294967296,4294967296",   /* 2^64 */
      "4294967296,4294967296,0", /* and an empty tensor hides nothing ... */
      "0,4294967296,4294967296", /* ... in whatever order */
      "4294967296,0,4294967296",
      "2305843009213693952", /* 2^61 elements of 32 bits */
      "18446744073709551615,18446744073709551615",
      "2,3,18446744073709551615,5",
  };
  char header[256];
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    snprintf(header, sizeof header, A("\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[0,0]"), shapes[i]);
    expect_header(header, 0, "overflows");
  }
}

static void test_sum_overflows(void) {
  expect_header(A("\"dtype\":\"U8\",\"shape\":[18446744073709551615],\"data_offsets\":[0,18446744073709551615]"), 0, "beyond the file's 0 bytes");
  expect_header(A("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[18446744073709551614,18446744073709551615]"), 0, "beyond the file's 0 bytes");
}

static void test_offsets_are_not_two(void) {
  expect_header(A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]"), 4, "1 data_offsets, expected two");
  expect_header(A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]"), 4, "3 data_offsets, expected two");
  expect_header(A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[]"), 4, "0 data_offsets, expected two");
  expect_header(A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":4"), 4, "as its data_offsets");
}

static void test_end_before_begin(void) { expect_header(A("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]"), 4, "before it begins"); }

static void test_byte_count_differs_from_shape_and_dtype(void) {
  expect_header(A("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]"), 4, "needs 8");
  expect_header(A("\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]"), 8, "needs 4");
  expect_header(A("\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]"), 4, "needs 0");
  expect_header(A("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,8]"), 8, "needs 4");
}

static void test_parts_of_bytes(void) {
  expect_header(A("\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]"), 2, "whole number of bytes");
  expect_header(A("\"dtype\":\"F6_E2M3\",\"shape\":[2],\"data_offsets\":[0,2]"), 2, "whole number of bytes");
  expect_header(A("\"dtype\":\"F6_E3M2\",\"shape\":[4],\"data_offsets\":[0,3]"), 3, SOUND);
  expect_header(A("\"dtype\":\"F4\",\"shape\":[2,2],\"data_offsets\":[0,2]"), 2, SOUND);
}

#define U8_TENSOR(name, size, begin, end) "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #size "],\"data_offsets\":[" #begin "," #end "]}"

static void test_hole(void) { expect_header("{" U8_TENSOR("a", 4, 0, 4) "," U8_TENSOR("b", 3, 5, 8) "}", 8, "a hole of 1 bytes before tensor 'b'"); }

static void test_overlap(void) {
  expect_header("{" U8_TENSOR("a", 4, 0, 4) "," U8_TENSOR("b", 5, 3, 8) "}", 8, "tensor 'b' overlaps 'a'");
  expect_header("{" U8_TENSOR("a", 8, 0, 8) "," U8_TENSOR("b", 8, 0, 8) "}", 8, "overlaps");
  expect_header("{" U8_TENSOR("a", 8, 0, 8) "," U8_TENSOR("b", 0, 4, 4) "}", 8, "tensor 'b' overlaps 'a'"); /* an empty one inside another */
}

static void test_first_offset_is_not_zero(void) { expect_header("{" U8_TENSOR("a", 4, 4, 8) "}", 8, "starts at offset 4, expected 0"); }

static void test_order_in_the_header_does_not_matter(void) {
  expect_header("{" U8_TENSOR("b", 4, 4, 8) "," U8_TENSOR("c", 0, 4, 4) "," U8_TENSOR("a", 4, 0, 4) "}", 8, SOUND);
}

static void test_empty_name(void) { expect_header("{" U8_TENSOR("", 1, 0, 1) "}", 1, "empty name"); }

static void test_nul_in_a_name(void) {
  expect_header("{" U8_TENSOR("a\\u0000b", 1, 0, 1) "}", 1, "NUL character in its name");
  expect_header("{" U8_TENSOR("\\u0000", 1, 0, 1) "}", 1, "NUL character in its name");
}

static void test_over_long_name(void) {
  char header[1024];
  for (int n = 512; n <= 513; n++) {
    snprintf(header, sizeof header, "{\"%0*d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", n, 0);
    expect_header(header, 1, n == 512 ? SOUND : "a name of 513 bytes");
  }
}

static void test_odd_names_do_not_break_messages(void) {
  expect_header("{\"a\\n\\u001b[31m'\xc3\xa9\":1}", 0, "'a\\x0a\\x1b[31m\\x27\\xc3\\xa9'"); /* one line of plain ASCII */
  char message[1024];
  EXPECT_BYTES("{\"__metadata__\":{\"k\":\"secret\xff\"}}", "UTF-8"); /* nor does text that is no UTF-8 get into them */
  TEST_ASSERT_EQUAL_INT32(CF_OK, cf_last_error(message, sizeof message, NULL));
  TEST_ASSERT_NULL(strstr(message, "last read"));
}

static void test_too_many_tensors(void) {
  for (size_t count = 65536; count <= 65537; count++) {
    char* header = (char*)malloc(count * 64 + 16);
    size_t n = 0;
    for (size_t i = 0; i < count; i++) n += (size_t)sprintf(header + n, "%c\"%zu\":" EMPTY, i ? ',' : '{', i);
    n += (size_t)sprintf(header + n, "}");
    write_raw_safetensors(dir, FILE_NAME, n, header, n, NULL, 0);
    free(header);
    expect_load(dir, CF_ERROR_INVALID_FILE, count == 65536 ? SOUND : "more than 65536 tensors", "many empty tensors");
  }
}

/* ---- Tensors that the model does not use ---- */

struct seen {
  char messages[16384];
  int newlines;
};

static void collect(void* user, cf_log_level level, const char* message) {
  struct seen* seen = (struct seen*)user;
  (void)level;
  if (strchr(message, '\n')) seen->newlines++;
  strncat(seen->messages, message, sizeof seen->messages - strlen(seen->messages) - 2);
  strcat(seen->messages, "\n");
}

static void test_unused_tensors_of_every_dtype_are_skipped_and_logged(void) {
  static const struct {
    const char* dtype;
    int bits;
  } dtypes[] = {{"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
                {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},
                {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},    {"I64", 64}, {"U64", 64}};
  const size_t n_dtypes = sizeof dtypes / sizeof *dtypes;
  char name[64];
  for (size_t i = 0; i < n_dtypes; i++) {
    const uint64_t shape[2] = {1, 4};
    snprintf(name, sizeof name, "unused.of_%s", dtypes[i].dtype);
    add_tensor(&tensors, name, dtypes[i].dtype, 2, shape, (size_t)dtypes[i].bits * 4 / 8, NULL);
  }
  const uint64_t none[2] = {0, 3};
  add_tensor(&tensors, "unused.of_no_size", "I64", 2, none, 0, NULL);
  add_tensor(&tensors, "unused.scalar", "F64", 0, NULL, 8, NULL);
  write_weights(dir, &tensors, 1);

  static struct seen seen;
  memset(&seen, 0, sizeof seen);
  cf_context* context = make_cpu_context(collect, &seen);
  cf_model* loaded = NULL;
  const cf_status status = cf_model_load(context, dir, NULL, &loaded);
  if (status == CF_OK) cf_model_destroy(loaded);
  cf_context_destroy(context);
  expect_status(CF_OK, NULL, status, "tensors of every dtype");
  TEST_ASSERT_EQUAL_INT(0, seen.newlines);
  for (size_t i = 0; i < n_dtypes; i++) {
    snprintf(name, sizeof name, "unused.of_%s", dtypes[i].dtype);
    TEST_ASSERT_TRUE_MESSAGE(strstr(seen.messages, name) != NULL, name);
  }
  TEST_ASSERT_NOT_NULL(strstr(seen.messages, "unused.of_no_size"));
  TEST_ASSERT_NOT_NULL(strstr(seen.messages, "unused.scalar"));
  TEST_ASSERT_NULL(strstr(seen.messages, "q_proj")); /* used ones are not named */
}

static void test_unused_tensors_are_held_to_the_rules(void) {
  const uint64_t shape = 4;
  add_tensor(&tensors, "unused", "U8", 1, &shape, 5, NULL);
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_ERROR_INVALID_FILE, "tensor 'unused' has 5 bytes", "one byte too many");
  find_tensor(&tensors, "unused")->bytes = 4;
  strcpy(find_tensor(&tensors, "unused")->dtype, "I3");
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_ERROR_INVALID_FILE, "unknown dtype", "I3");
  strcpy(find_tensor(&tensors, "unused")->dtype, "I8");
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_OK, NULL, "I8");
}

/* ---- The file itself ---- */

static void test_misaligned_tensors(void) {
  const uint64_t shape = 1;
  struct tensor_list shifted = {NULL, 0}; /* a byte before everything else */
  add_tensor(&shifted, "unused", "U8", 1, &shape, 1, NULL);
  for (size_t i = 0; i < tensors.count; i++) {
    const struct file_tensor* t = &tensors.items[i];
    add_tensor(&shifted, t->name, t->dtype, t->rank, t->shape, t->bytes, t->data);
  }
  cf_context* context = make_cpu_context(NULL, NULL);
  cf_model* models[2] = {NULL, NULL};
  cf_model_info info[2];
  for (int i = 0; i < 2; i++) {
    write_weights(dir, i ? &shifted : &tensors, 1);
    cf_model_info_init(&info[i], sizeof info[i]);
    expect_status(CF_OK, NULL, cf_model_load(context, dir, NULL, &models[i]), i ? "misaligned" : "aligned");
    expect_status(CF_OK, NULL, cf_model_query(models[i], &info[i]), "cf_model_query");
    cf_model_destroy(models[i]);
  }
  cf_context_destroy(context);
  free_tensors(&shifted);
  TEST_ASSERT_EQUAL_UINT64(info[0].fingerprint, info[1].fingerprint); /* the same weights were read */
}

static int32_t shrink_file(void* user, uint64_t done, uint64_t total) {
  (void)done, (void)total;
  if (truncate((const char*)user, 100)) return 1;
  return 0;
}

static void test_file_that_shrinks_while_it_is_read(void) {
  char path[4096];
  write_weights(dir, &tensors, 1);
  snprintf(path, sizeof path, "%s", path_in(dir, FILE_NAME));
  cf_model_options options;
  cf_model_options_init(&options, sizeof options);
  options.progress = shrink_file; /* called after the first tensors */
  options.progress_user = path;
  cf_context* context = make_cpu_context(NULL, NULL);
  cf_model* loaded = NULL;
  const cf_status status = cf_model_load(context, dir, &options, &loaded);
  if (status == CF_OK) cf_model_destroy(loaded);
  expect_status(CF_ERROR_IO, FILE_NAME, status, "truncated during the load");
  write_weights(dir, &tensors, 1); /* and the context goes on */
  expect_status(CF_OK, NULL, cf_model_load(context, dir, NULL, &loaded), "whole again");
  cf_model_destroy(loaded);
  cf_context_destroy(context);
}

static int32_t grow_file(void* user, uint64_t done, uint64_t total) {
  FILE* file = done <= total ? fopen((const char*)user, "ab") : NULL;
  if (!file) return 1;
  fputc(0, file);
  fclose(file);
  return 0;
}

static void test_file_that_grows_while_it_is_read(void) {
  char path[4096];
  write_weights(dir, &tensors, 1);
  snprintf(path, sizeof path, "%s", path_in(dir, FILE_NAME));
  cf_model_options options;
  cf_model_options_init(&options, sizeof options);
  options.progress = grow_file;
  options.progress_user = path;
  cf_context* context = make_cpu_context(NULL, NULL);
  cf_model* loaded = NULL;
  const cf_status status = cf_model_load(context, dir, &options, &loaded);
  if (status == CF_OK) cf_model_destroy(loaded);
  cf_context_destroy(context);
  expect_status(CF_ERROR_IO, "changed its size", status, "grown during the load");
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_file_shorter_than_its_length_field);
  RUN_TEST(test_header_length_zero);
  RUN_TEST(test_header_length_above_the_limit);
  RUN_TEST(test_header_of_the_greatest_length);
  RUN_TEST(test_header_length_beyond_the_file);
  RUN_TEST(test_header_does_not_start_with_a_brace);
  RUN_TEST(test_header_padding_is_allowed);
  RUN_TEST(test_data_not_ending_at_the_end_of_the_file);
  RUN_TEST(test_invalid_utf8);
  RUN_TEST(test_overlong_utf8);
  RUN_TEST(test_valid_utf8);
  RUN_TEST(test_lone_surrogate);
  RUN_TEST(test_byte_order_mark);
  RUN_TEST(test_raw_control_character);
  RUN_TEST(test_trailing_comma);
  RUN_TEST(test_nul_character);
  RUN_TEST(test_second_document);
  RUN_TEST(test_comment);
  RUN_TEST(test_cut_document);
  RUN_TEST(test_words_that_are_no_json);
  RUN_TEST(test_nesting_depth);
  RUN_TEST(test_extreme_nesting);
  RUN_TEST(test_too_many_values);
  RUN_TEST(test_duplicate_keys);
  RUN_TEST(test_numbers_that_are_no_unsigned_integers);
  RUN_TEST(test_metadata);
  RUN_TEST(test_tensor_is_no_object);
  RUN_TEST(test_unknown_dtype);
  RUN_TEST(test_missing_field);
  RUN_TEST(test_extra_field);
  RUN_TEST(test_shape_is_no_array);
  RUN_TEST(test_rank);
  RUN_TEST(test_product_overflows);
  RUN_TEST(test_sum_overflows);
  RUN_TEST(test_offsets_are_not_two);
  RUN_TEST(test_end_before_begin);
  RUN_TEST(test_byte_count_differs_from_shape_and_dtype);
  RUN_TEST(test_parts_of_bytes);
  RUN_TEST(test_hole);
  RUN_TEST(test_overlap);
  RUN_TEST(test_first_offset_is_not_zero);
  RUN_TEST(test_order_in_the_header_does_not_matter);
  RUN_TEST(test_empty_name);
  RUN_TEST(test_nul_in_a_name);
  RUN_TEST(test_over_long_name);
  RUN_TEST(test_odd_names_do_not_break_messages);
  RUN_TEST(test_too_many_tensors);
  RUN_TEST(test_unused_tensors_of_every_dtype_are_skipped_and_logged);
  RUN_TEST(test_unused_tensors_are_held_to_the_rules);
  RUN_TEST(test_misaligned_tensors);
  RUN_TEST(test_file_that_shrinks_while_it_is_read);
  RUN_TEST(test_file_that_grows_while_it_is_read);
  return UNITY_END();
}
