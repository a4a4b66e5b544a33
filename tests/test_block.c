/* Blocks for engines with their own loop: against sessions, part against whole, layouts of K and V, rows, dtypes, refusals. */
#include "unity.h"

#include <stdlib.h>

#include "support/session_helpers.h"

enum { VOCAB = 96, HIDDEN = 64, INTER = 128, HEADS = 2, DIM = 32, KV = HEADS * DIM, CAPACITY = 40 };

static struct tiny_model tiny;
static struct tensor_list tensors;
static cf_context* context;
static cf_model* model;

static void use_model(cf_family family) {
  cf_model_destroy(model);
  free_tensors(&tensors);
  tiny_model_init(&tiny, family);
  if (family == CF_FAMILY_LLAMA) tiny.n_heads = 4;
  tensors = tiny_model_tensors(&tiny);
  model = make_model_of(context, &tiny, &tensors, NULL);
}

void setUp(void) {
  context = make_cpu_context(NULL, NULL);
  use_model(CF_FAMILY_LLAMA);
}

void tearDown(void) {
  cf_model_destroy(model);
  model = NULL;
  free_tensors(&tensors);
  cf_context_destroy(context);
}

/* One layer's keys and values. 4 * CAPACITY rooms of KV floats each: enough for every layout below. */
enum { ROOM = 4 * CAPACITY * KV };
struct cache {
  float k[ROOM], v[ROOM];
  int64_t token_stride, head_stride, page_stride;
  int32_t page_tokens;
  int32_t page_table[CAPACITY];
};

static struct cache* make_cache(void) {
  struct cache* cache = (struct cache*)calloc(1, sizeof *cache);
  for (size_t i = 0; i < ROOM; i++) cache->k[i] = cache->v[i] = NAN; /* what has not been written must not show */
  cache->token_stride = KV;
  cache->head_stride = DIM;
  return cache;
}

static int64_t place(const struct cache* c, int64_t position, int64_t head) {
  if (!c->page_tokens) return position * c->token_stride + head * c->head_stride;
  return c->page_table[position / c->page_tokens] * c->page_stride + position % c->page_tokens * c->token_stride + head * c->head_stride;
}

/* Everything that a call reads and writes, in F32. */
struct work {
  int32_t position;
  cf_status status;
  float hidden[64 * HIDDEN], output[64 * HIDDEN], attention[64 * HIDDEN], activation[64 * INTER], new_k[64 * KV], new_v[64 * KV];
};

static cf_block_options options_for(struct work* w, struct cache* cache) {
  cf_block_options o;
  OK(cf_block_options_init(&o, sizeof o));
  o.kv_dtype = CF_DTYPE_F32;
  o.hidden = w->hidden;
  o.output = w->output;
  o.attention_output = w->attention;
  o.mlp_activation = w->activation;
  o.new_k = w->new_k;
  o.new_v = w->new_v;
  o.k_cache = cache->k;
  o.v_cache = cache->v;
  o.token_stride = cache->token_stride;
  o.head_stride = cache->head_stride;
  o.page_stride = cache->page_stride;
  o.page_table = cache->page_tokens ? cache->page_table : NULL;
  o.page_tokens = cache->page_tokens;
  o.kv_capacity_tokens = CAPACITY;
  o.position = &w->position;
  o.step_status = &w->status;
  return o;
}

static void fill_hidden(struct work* w, int64_t rows, uint64_t seed) {
  struct random_stream stream = {seed};
  memset(w, 0, sizeof *w);
  for (int64_t i = 0; i < rows * HIDDEN; i++) w->hidden[i] = (float)random_normal(&stream);
}

static struct work one, two; /* zero but for what a test fills in */

static void forward(struct work* w, struct cache* cache, int32_t position, int32_t rows) {
  cf_block_options o = options_for(w, cache);
  o.n_rows = rows;
  w->position = position;
  OK(cf_block_forward(model, 0, &o));
  TEST_ASSERT_EQUAL_INT32(CF_OK, w->status);
}

/* ---- Against sessions ---- */

static const float* data_of(const char* name) { return (const float*)find_tensor(&tensors, name)->data; }

/* Final norm and head, in double. */
static void head(const float* hidden, double* logits) {
  const int neox = tiny.family == CF_FAMILY_GPT_NEOX;
  const float* weight = data_of(neox ? "gpt_neox.final_layer_norm.weight" : "model.norm.weight");
  const float* matrix = data_of(neox ? "embed_out.weight" : "lm_head.weight");
  double mean = 0, square = 0, normed[HIDDEN];
  for (int i = 0; i < HIDDEN; i++) mean += hidden[i] / (double)HIDDEN;
  if (!neox) mean = 0;
  for (int i = 0; i < HIDDEN; i++) square += (hidden[i] - mean) * (hidden[i] - mean) / HIDDEN;
  for (int i = 0; i < HIDDEN; i++) {
    normed[i] = (hidden[i] - mean) / sqrt(square + 1e-5) * weight[i];
    if (neox) normed[i] += data_of("gpt_neox.final_layer_norm.bias")[i];
  }
  for (int t = 0; t < VOCAB; t++) {
    logits[t] = 0;
    for (int i = 0; i < HIDDEN; i++) logits[t] += normed[i] * matrix[t * HIDDEN + i];
  }
}

static void expect_blocks_make_the_model(cf_family family) {
  enum { LENGTH = 12 };
  static float logits[LENGTH][VOCAB];
  int32_t tokens[LENGTH];
  struct cache* caches[2];
  cf_outputs outputs;
  cf_step_options options;
  use_model(family);
  fill_tokens(tokens, LENGTH, VOCAB, 8);
  cf_session* session = make_session(model, LENGTH);
  OK(cf_outputs_init(&outputs, sizeof outputs));
  OK(cf_step_options_init(&options, sizeof options));
  outputs.rows = CF_ROWS_ALL;
  outputs.logits = &logits[0][0];
  options.outputs = &outputs;
  OK(cf_prefill(session, tokens, LENGTH, &options));
  wait_ok(session);
  cf_session_destroy(session);

  const float* embedding = data_of(family == CF_FAMILY_GPT_NEOX ? "gpt_neox.embed_in.weight" : "model.embed_tokens.weight");
  for (int layer = 0; layer < 2; layer++) caches[layer] = make_cache();
  for (int32_t position = 0; position < LENGTH; position++) {
    double expected[VOCAB];
    memset(&one, 0, sizeof one);
    memcpy(one.output, embedding + tokens[position] * HIDDEN, HIDDEN * sizeof(float));
    for (int layer = 0; layer < 2; layer++) {
      memcpy(one.hidden, one.output, HIDDEN * sizeof(float));
      one.position = position;
      const cf_block_options o = options_for(&one, caches[layer]);
      OK(cf_block_forward(model, layer, &o));
    }
    TEST_ASSERT_EQUAL_INT32(CF_OK, one.status);
    head(one.output, expected);
    for (int t = 0; t < VOCAB; t++) TEST_ASSERT_DOUBLE_WITHIN(1e-5, expected[t], logits[position][t]);
  }
  for (int layer = 0; layer < 2; layer++) free(caches[layer]);
}

static void test_blocks_make_a_llama(void) { expect_blocks_make_the_model(CF_FAMILY_LLAMA); }
static void test_blocks_make_a_gpt_neox(void) { expect_blocks_make_the_model(CF_FAMILY_GPT_NEOX); }

/* ---- Parts ---- */

static void expect_parts_make_the_block(cf_family family) {
  use_model(family);
  struct cache *whole = make_cache(), *parts = make_cache();
  for (int32_t position = 0; position < 12; position += 3) {
    fill_hidden(&one, 3, (uint64_t)position + 1);
    two = one;
    forward(&one, whole, position, 3);
    cf_block_options o = options_for(&two, parts);
    o.n_rows = 3;
    two.position = position;
    o.output = NULL; /* not used */
    OK(cf_block_attention(model, 0, &o));
    TEST_ASSERT_EQUAL_MEMORY(one.attention, two.attention, sizeof one.attention);
    TEST_ASSERT_EQUAL_MEMORY(one.activation, two.activation, sizeof one.activation);
    TEST_ASSERT_EQUAL_MEMORY(one.new_k, two.new_k, sizeof one.new_k);
    TEST_ASSERT_EQUAL_MEMORY(one.new_v, two.new_v, sizeof one.new_v);
    cf_block_options down;
    OK(cf_block_options_init(&down, sizeof down));
    down.n_rows = 3; /* neither K and V nor a position */
    down.hidden = two.hidden;
    down.attention_output = two.attention;
    down.mlp_activation = two.activation;
    down.output = two.output;
    down.step_status = &two.status;
    OK(cf_block_mlp_down(model, 0, &down));
    TEST_ASSERT_EQUAL_INT32(CF_OK, two.status);
    TEST_ASSERT_EQUAL_MEMORY(one.output, two.output, sizeof one.output);
  }
  TEST_ASSERT_EQUAL_MEMORY(whole->k, parts->k, sizeof whole->k);
  TEST_ASSERT_EQUAL_MEMORY(whole->v, parts->v, sizeof whole->v);
  free(whole);
  free(parts);
}

static void test_parts_make_a_sequential_block(void) { expect_parts_make_the_block(CF_FAMILY_LLAMA); }
static void test_parts_make_a_parallel_block(void) { expect_parts_make_the_block(CF_FAMILY_GPT_NEOX); }

static void test_outputs_besides_the_residual_are_optional(void) {
  struct cache *with = make_cache(), *without = make_cache();
  fill_hidden(&one, 4, 1);
  two = one;
  forward(&one, with, 0, 4);
  cf_block_options o = options_for(&two, without);
  o.n_rows = 4;
  o.attention_output = o.mlp_activation = o.new_k = o.new_v = NULL;
  OK(cf_block_forward(model, 0, &o));
  TEST_ASSERT_EQUAL_MEMORY(one.output, two.output, sizeof one.output);
  free(with);
  free(without);
}

/* ---- Keys and values ---- */

static void test_new_keys_and_values_are_what_is_in_the_cache(void) {
  struct cache* cache = make_cache();
  fill_hidden(&one, 5, 2);
  forward(&one, cache, 0, 5);
  for (int64_t row = 0; row < 5; row++)
    for (int64_t g = 0; g < HEADS; g++) {
      TEST_ASSERT_EQUAL_MEMORY(one.new_k + row * KV + g * DIM, cache->k + place(cache, row, g), DIM * sizeof(float));
      TEST_ASSERT_EQUAL_MEMORY(one.new_v + row * KV + g * DIM, cache->v + place(cache, row, g), DIM * sizeof(float));
    }
  for (size_t i = 5 * KV; i < ROOM; i++) TEST_ASSERT_TRUE(isnan(cache->k[i]) && isnan(cache->v[i])); /* and no more */
  free(cache);
}

static void test_a_smaller_cache_holds_rounded_keys_and_values(void) {
  for (cf_dtype dtype = CF_DTYPE_F16; dtype <= CF_DTYPE_BF16; dtype++) {
    struct cache* cache = make_cache();
    fill_hidden(&one, 5, 2);
    cf_block_options o = options_for(&one, cache);
    o.n_rows = 5;
    o.kv_dtype = dtype;
    OK(cf_block_forward(model, 0, &o));
    const uint16_t *k = (const uint16_t*)cache->k, *v = (const uint16_t*)cache->v;
    for (int64_t i = 0; i < 5 * KV; i++) {
      TEST_ASSERT_EQUAL_INT(dtype == CF_DTYPE_F16 ? float_to_f16(one.new_k[i]) : float_to_bf16(one.new_k[i]), k[i]);
      TEST_ASSERT_EQUAL_INT(dtype == CF_DTYPE_F16 ? float_to_f16(one.new_v[i]) : float_to_bf16(one.new_v[i]), v[i]);
    }
    free(cache);
  }
}

/* Fills `cache` row by row and compares every output with the contiguous layout's. */
static void expect_layout_changes_no_bit(struct cache* cache, const char* what) {
  struct cache* contiguous = make_cache();
  for (int32_t position = 0; position < CAPACITY; position++) {
    fill_hidden(&one, 1, (uint64_t)position + 1);
    two = one;
    forward(&one, contiguous, position, 1);
    forward(&two, cache, position, 1);
    TEST_ASSERT_EQUAL_MEMORY_MESSAGE(one.output, two.output, sizeof one.output, what);
  }
  for (int64_t position = 0; position < CAPACITY; position++)
    for (int64_t g = 0; g < HEADS; g++) {
      TEST_ASSERT_EQUAL_MEMORY_MESSAGE(contiguous->k + place(contiguous, position, g), cache->k + place(cache, position, g), DIM * sizeof(float),
                                       what);
      TEST_ASSERT_EQUAL_MEMORY_MESSAGE(contiguous->v + place(contiguous, position, g), cache->v + place(cache, position, g), DIM * sizeof(float),
                                       what);
    }
  free(contiguous);
  free(cache);
}

static void test_heads_outermost(void) {
  struct cache* cache = make_cache();
  cache->token_stride = DIM;
  cache->head_stride = CAPACITY * DIM;
  expect_layout_changes_no_bit(cache, "[head][token]");
}

static void test_gaps_between_heads_and_tokens(void) {
  struct cache* cache = make_cache();
  cache->head_stride = DIM + 7;
  cache->token_stride = 2 * (DIM + 7) + 5;
  expect_layout_changes_no_bit(cache, "gaps");
}

static void test_shuffled_pages(void) {
  static const int32_t sizes[] = {1, 3, 8, 16, 64};
  for (size_t i = 0; i < 5; i++) {
    struct cache* cache = make_cache();
    const int32_t pages = (CAPACITY + sizes[i] - 1) / sizes[i];
    cache->page_tokens = sizes[i];
    cache->token_stride = i % 2 ? DIM : KV;
    cache->head_stride = i % 2 ? sizes[i] * DIM : DIM;
    cache->page_stride = sizes[i] * KV;
    for (int32_t page = 0; page < pages; page++) cache->page_table[page] = (page * 7 + 3) % pages;
    if (pages % 7 == 0)
      for (int32_t page = 0; page < pages; page++) cache->page_table[page] = pages - 1 - page;
    expect_layout_changes_no_bit(cache, "pages");
  }
}

/* ---- Rows ---- */

static void test_rows_together_equal_rows_one_at_a_time(void) {
  for (int f = CF_FAMILY_GPT_NEOX; f <= CF_FAMILY_LLAMA; f++) {
    use_model(f);
    for (int32_t rows = 2; rows <= CAPACITY - 3; rows = rows * 2 + 1) {
      struct cache *together = make_cache(), *apart = make_cache();
      static struct work all;
      fill_hidden(&one, 3, 9); /* three positions are there before */
      two = one;
      forward(&one, together, 0, 3);
      forward(&two, apart, 0, 3);
      fill_hidden(&all, rows, 10);
      forward(&all, together, 3, rows);
      for (int32_t row = 0; row < rows; row++) {
        memset(&one, 0, sizeof one);
        memcpy(one.hidden, all.hidden + row * HIDDEN, HIDDEN * sizeof(float));
        forward(&one, apart, 3 + row, 1);
        TEST_ASSERT_EQUAL_MEMORY(one.output, all.output + row * HIDDEN, HIDDEN * sizeof(float));
        TEST_ASSERT_EQUAL_MEMORY(one.attention, all.attention + row * HIDDEN, HIDDEN * sizeof(float));
        TEST_ASSERT_EQUAL_MEMORY(one.activation, all.activation + row * INTER, INTER * sizeof(float));
        TEST_ASSERT_EQUAL_MEMORY(one.new_k, all.new_k + row * KV, KV * sizeof(float));
        TEST_ASSERT_EQUAL_MEMORY(one.new_v, all.new_v + row * KV, KV * sizeof(float));
      }
      TEST_ASSERT_EQUAL_MEMORY(together->k, apart->k, sizeof apart->k);
      free(together);
      free(apart);
    }
  }
}

/* ---- Activation dtypes ---- */

static uint16_t narrow(cf_dtype dtype, float value) { return dtype == CF_DTYPE_F16 ? float_to_f16(value) : float_to_bf16(value); }
static float widen(cf_dtype dtype, uint16_t value) { return dtype == CF_DTYPE_F16 ? f16_to_float(value) : bf16_to_float(value); }

static void expect_narrowed(cf_dtype dtype, const float* expected, const uint16_t* actual, size_t n, const char* what) {
  for (size_t i = 0; i < n; i++) TEST_ASSERT_EQUAL_INT_MESSAGE(narrow(dtype, expected[i]), actual[i], what);
}

/* The block computes in F32: with the same input, every output is the F32 one rounded once. */
static void test_activations_of_16_bits(void) {
  enum { ROWS = 3 };
  for (cf_dtype dtype = CF_DTYPE_F16; dtype <= CF_DTYPE_BF16; dtype++) {
    static uint16_t hidden[ROWS * HIDDEN], output[ROWS * HIDDEN], attention[ROWS * HIDDEN], activation[ROWS * INTER], new_k[ROWS * KV],
        new_v[ROWS * KV];
    struct cache *wide = make_cache(), *small = make_cache();
    fill_hidden(&one, ROWS, 4);
    for (size_t i = 0; i < ROWS * HIDDEN; i++) {
      hidden[i] = narrow(dtype, one.hidden[i]);
      one.hidden[i] = widen(dtype, hidden[i]);
    }
    forward(&one, wide, 0, ROWS);
    cf_block_options o = options_for(&two, small);
    memset(&two, 0, sizeof two);
    o.n_rows = ROWS;
    o.activation_dtype = dtype;
    o.hidden = hidden, o.output = output, o.attention_output = attention, o.mlp_activation = activation, o.new_k = new_k, o.new_v = new_v;
    OK(cf_block_forward(model, 0, &o));
    expect_narrowed(dtype, one.output, output, ROWS * HIDDEN, "output");
    expect_narrowed(dtype, one.attention, attention, ROWS * HIDDEN, "attention_output");
    expect_narrowed(dtype, one.activation, activation, ROWS * INTER, "mlp_activation");
    expect_narrowed(dtype, one.new_k, new_k, ROWS * KV, "new_k");
    expect_narrowed(dtype, one.new_v, new_v, ROWS * KV, "new_v");
    TEST_ASSERT_EQUAL_MEMORY(wide->k, small->k, sizeof wide->k);
    /* the second part reads what was rounded */
    for (size_t i = 0; i < ROWS * HIDDEN; i++) one.attention[i] = widen(dtype, attention[i]);
    for (size_t i = 0; i < ROWS * INTER; i++) one.activation[i] = widen(dtype, activation[i]);
    cf_block_options in_wide = options_for(&one, wide);
    in_wide.n_rows = ROWS;
    OK(cf_block_mlp_down(model, 0, &in_wide));
    OK(cf_block_mlp_down(model, 0, &o));
    expect_narrowed(dtype, one.output, output, ROWS * HIDDEN, "output of the second part");
    free(wide);
    free(small);
  }
}

/* ---- What the device finds ---- */

static int is_poisoned(const void* memory, size_t n) {
  const unsigned char* bytes = (const unsigned char*)memory;
  for (size_t i = 0; i < n; i++)
    if (bytes[i] != 0xab) return 0;
  return 1;
}

/* The call is accepted, but writes nothing except this status. */
static void expect_nothing_done(int32_t position, int32_t rows, cf_status before, cf_status after) {
  struct cache* cache = make_cache();
  static struct cache untouched;
  cf_status (*const calls[])(cf_model*, int32_t, const cf_block_options*) = {cf_block_forward, cf_block_attention};
  for (int i = 0; i < 2; i++) {
    memset(&one, 0xab, sizeof one);
    for (size_t k = 0; k < sizeof one.hidden / 4; k++) one.hidden[k] = 1;
    one.position = position;
    one.status = before;
    untouched = *cache;
    cf_block_options o = options_for(&one, cache);
    o.n_rows = rows;
    o.advance = 1;
    OK(calls[i](model, 0, &o));
    TEST_ASSERT_EQUAL_INT32(after, one.status);
    TEST_ASSERT_EQUAL_INT32(position, one.position);
    TEST_ASSERT_TRUE(is_poisoned(one.output, sizeof one.output) && is_poisoned(one.attention, sizeof one.attention));
    TEST_ASSERT_TRUE(is_poisoned(one.activation, sizeof one.activation));
    TEST_ASSERT_TRUE(is_poisoned(one.new_k, sizeof one.new_k) && is_poisoned(one.new_v, sizeof one.new_v));
    TEST_ASSERT_EQUAL_MEMORY(untouched.k, cache->k, sizeof cache->k);
    TEST_ASSERT_EQUAL_MEMORY(untouched.v, cache->v, sizeof cache->v);
  }
  free(cache);
}

static void test_a_position_beyond_the_cache(void) {
  expect_nothing_done(CAPACITY, 1, CF_OK, CF_ERROR_CACHE_FULL);
  expect_nothing_done(CAPACITY - 2, 3, CF_OK, CF_ERROR_CACHE_FULL);
  expect_nothing_done(INT32_MAX, 64, CF_OK, CF_ERROR_CACHE_FULL);
}

static void test_a_negative_position(void) {
  expect_nothing_done(-1, 1, CF_OK, CF_ERROR_INVALID_ARGUMENT);
  expect_nothing_done(INT32_MIN, 1, CF_OK, CF_ERROR_INVALID_ARGUMENT);
}

static void test_the_status_is_sticky(void) {
  expect_nothing_done(0, 1, CF_ERROR_CACHE_FULL, CF_ERROR_CACHE_FULL);
  expect_nothing_done(-1, 1, CF_ERROR_CANCELLED, CF_ERROR_CANCELLED); /* keeps the first */
  memset(&one, 0xab, sizeof one);
  one.status = CF_ERROR_NONFINITE_LOGITS;
  struct cache* cache = make_cache();
  const cf_block_options o = options_for(&one, cache);
  OK(cf_block_mlp_down(model, 0, &o));
  TEST_ASSERT_EQUAL_INT32(CF_ERROR_NONFINITE_LOGITS, one.status);
  TEST_ASSERT_TRUE(is_poisoned(one.output, sizeof one.output));
  free(cache);
}

static void test_a_cached_key_that_is_not_a_number(void) {
  struct cache* cache = make_cache();
  fill_hidden(&one, 4, 5);
  forward(&one, cache, 0, 3);
  cache->k[0] = NAN;
  fill_hidden(&one, 1, 6);
  forward(&one, cache, 3, 1);
  for (int i = 0; i < HIDDEN; i++) TEST_ASSERT_TRUE(isnan(one.output[i]));
  free(cache);
}

static void test_a_position_that_advances(void) {
  struct cache* cache = make_cache();
  fill_hidden(&one, 3, 5);
  cf_block_options o = options_for(&one, cache);
  o.advance = 1;
  OK(cf_block_forward(model, 0, &o));
  TEST_ASSERT_EQUAL_INT32(1, one.position);
  o.n_rows = 3;
  OK(cf_block_attention(model, 0, &o));
  TEST_ASSERT_EQUAL_INT32(4, one.position);
  OK(cf_block_mlp_down(model, 0, &o));
  TEST_ASSERT_EQUAL_INT32(7, one.position);
  o.advance = 0;
  OK(cf_block_forward(model, 0, &o));
  TEST_ASSERT_EQUAL_INT32(7, one.position);
  TEST_ASSERT_EQUAL_INT32(CF_OK, one.status);
  free(cache);
}

static void test_workspace_on_the_cpu(void) {
  uint64_t bytes = 1;
  OK(cf_block_workspace(model, 64, CAPACITY, &bytes));
  TEST_ASSERT_EQUAL_UINT64(0, bytes);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_rows", cf_block_workspace(model, 0, CAPACITY, &bytes));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_rows", cf_block_workspace(model, 65, CAPACITY, &bytes));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "kv_capacity_tokens", cf_block_workspace(model, 1, 0, &bytes));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "size_bytes is NULL", cf_block_workspace(model, 1, CAPACITY, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "model is NULL", cf_block_workspace(NULL, 1, CAPACITY, &bytes));
}

static void test_the_cache_can_be_filled(void) {
  struct cache* cache = make_cache();
  fill_hidden(&one, CAPACITY, 1);
  forward(&one, cache, 0, CAPACITY);
  fill_hidden(&one, 1, 1);
  forward(&one, cache, CAPACITY - 1, 1); /* again */
  free(cache);
}

/* ---- Arguments ---- */

typedef cf_status (*block_call)(cf_model* model, int32_t layer, const cf_block_options* options);

static void test_arguments_that_are_wrong(void) {
  const block_call forward_call = cf_block_forward, attention_call = cf_block_attention, down_call = cf_block_mlp_down;
  struct cache* cache = make_cache();
  char* const odd = (char*)one.hidden + 1;
  int32_t table[CAPACITY] = {0};
  memset(&one, 0, sizeof one);
  cf_block_options o = options_for(&one, cache);
  FAILS(CF_ERROR_INVALID_ARGUMENT, "layer is 2", cf_block_forward(model, 2, &o));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "layer is -1", cf_block_attention(model, -1, &o));
#define WITH(call, assignment, word) \
  o = options_for(&one, cache);      \
  assignment;                        \
  FAILS(CF_ERROR_INVALID_ARGUMENT, word, call(model, 0, &o))
#define ALL(assignment, word)             \
  WITH(forward_call, assignment, word);   \
  WITH(attention_call, assignment, word); \
  WITH(down_call, assignment, word)
#define WITH_KV(assignment, word)       \
  WITH(forward_call, assignment, word); \
  WITH(attention_call, assignment, word)
  ALL(o.n_rows = 0, "n_rows is 0");
  ALL(o.n_rows = 65, "n_rows is 65");
  ALL(o.activation_dtype = CF_DTYPE_AUTO, "activation_dtype");
  ALL(o.activation_dtype = 4, "activation_dtype");
  ALL(o.hidden = NULL, "hidden is NULL");
  ALL(o.hidden = odd, "hidden is not aligned");
  ALL(o.step_status = NULL, "step_status is NULL");
  ALL(o.stream = &one, "stream");
  WITH(forward_call, o.output = NULL, "output is NULL");
  WITH(down_call, o.output = NULL, "output is NULL");
  WITH(down_call, o.output = odd, "output is not aligned");
  WITH(attention_call, o.attention_output = NULL, "attention_output is NULL");
  WITH(attention_call, o.mlp_activation = NULL, "mlp_activation is NULL");
  WITH(down_call, o.attention_output = NULL, "attention_output is NULL");
  WITH(down_call, o.mlp_activation = NULL, "mlp_activation is NULL");
  WITH(forward_call, o.attention_output = odd, "attention_output is not aligned");
  WITH(forward_call, o.mlp_activation = odd, "mlp_activation is not aligned");
  WITH_KV(o.new_k = odd, "new_k is not aligned");
  WITH_KV(o.new_v = odd, "new_v is not aligned");
  WITH_KV(o.kv_dtype = CF_DTYPE_AUTO, "kv_dtype");
  WITH_KV(o.kv_dtype = -1, "kv_dtype");
  WITH_KV(o.k_cache = NULL, "k_cache is NULL");
  WITH_KV(o.v_cache = NULL, "v_cache is NULL");
  WITH_KV(o.k_cache = odd, "k_cache is not aligned");
  WITH_KV(o.position = NULL, "position is NULL");
  WITH_KV(o.kv_capacity_tokens = 0, "kv_capacity_tokens");
  WITH_KV(o.kv_capacity_tokens = -1, "kv_capacity_tokens");
  WITH_KV(o.token_stride = DIM - 1, "token_stride");
  WITH_KV(o.token_stride = -KV, "token_stride");
  WITH_KV(o.head_stride = DIM - 1, "head_stride");
  WITH_KV(o.head_stride = -DIM, "head_stride");
  ALL(o.advance = 2, "advance");
  ALL(o.workspace = odd, "workspace must be NULL");
  ALL(o.workspace_bytes = 64, "workspace is NULL");
  WITH(down_call, (o.advance = 1, o.position = NULL), "position is NULL");
  WITH_KV((o.token_stride = KV, o.head_stride = KV), "over each other");
  WITH_KV((o.token_stride = DIM, o.head_stride = DIM), "over each other");
  WITH_KV((o.token_stride = DIM, o.head_stride = (CAPACITY - 1) * DIM), "over each other");
  WITH_KV(o.token_stride = INT64_MAX / 2, "token_stride");
  WITH_KV(o.kv_capacity_tokens = INT64_MAX, "kv_capacity_tokens");
  WITH_KV((o.page_table = table, o.page_tokens = 16, o.page_stride = 16 * KV - 1), "page_stride");
  WITH_KV((o.page_table = table, o.page_stride = 16 * KV), "page_tokens");
  WITH_KV((o.page_table = table, o.page_stride = 0, o.page_tokens = 16), "page_stride");
  WITH_KV(o.page_tokens = 16, "without a page_table");
  WITH_KV(o.page_stride = 16 * KV, "without a page_table");
#undef WITH_KV
#undef ALL
#undef WITH
  TEST_ASSERT_EQUAL_INT32(CF_OK, one.status);
  for (size_t i = 0; i < sizeof one.output / sizeof one.output[0]; i++) TEST_ASSERT_TRUE(one.output[i] == 0);
  free(cache);
}

static void test_options_of_a_newer_caller(void) {
  struct {
    cf_block_options known;
    unsigned char unknown[16];
  } newer;
  struct cache* cache = make_cache();
  fill_hidden(&one, 1, 1);
  memset(&newer, 0, sizeof newer);
  newer.known = options_for(&one, cache);
  newer.known.struct_size = sizeof newer;
  OK(cf_block_forward(model, 0, &newer.known));
  newer.unknown[3] = 1;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "newer header", cf_block_forward(model, 0, &newer.known));
  free(cache);
}

static void test_only_the_layer_itself_has_to_be_loaded(void) {
  const cf_model_config config = describe_model(&tiny);
  cf_tensor descriptors[MAX_DESCRIPTORS];
  cf_model* part = NULL;
  struct cache *whole_cache = make_cache(), *part_cache = make_cache();
  OK(cf_model_create(context, &config, NULL, &part));
  fill_hidden(&one, 1, 1);
  two = one;
  const cf_block_options whole = options_for(&one, whole_cache), o = options_for(&two, part_cache);
  FAILS(CF_ERROR_NOT_LOADED, "layer 1", cf_block_forward(part, 1, &o));
  OK(cf_load_layer(part, 1, descriptors, describe_tensors(&tiny, &tensors, 1, descriptors), NULL));
  OK(cf_block_forward(part, 1, &o));
  OK(cf_block_forward(model, 1, &whole));
  TEST_ASSERT_EQUAL_MEMORY(one.output, two.output, sizeof one.output);
  FAILS(CF_ERROR_NOT_LOADED, "layer 0", cf_block_forward(part, 0, &o));
  FAILS(CF_ERROR_NOT_LOADED, "layer 0", cf_block_attention(part, 0, &o));
  FAILS(CF_ERROR_NOT_LOADED, "layer 0", cf_block_mlp_down(part, 0, &o));
  cf_model_destroy(part);
  free(whole_cache);
  free(part_cache);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_blocks_make_a_llama);
  RUN_TEST(test_blocks_make_a_gpt_neox);
  RUN_TEST(test_parts_make_a_sequential_block);
  RUN_TEST(test_parts_make_a_parallel_block);
  RUN_TEST(test_outputs_besides_the_residual_are_optional);
  RUN_TEST(test_new_keys_and_values_are_what_is_in_the_cache);
  RUN_TEST(test_a_smaller_cache_holds_rounded_keys_and_values);
  RUN_TEST(test_heads_outermost);
  RUN_TEST(test_gaps_between_heads_and_tokens);
  RUN_TEST(test_shuffled_pages);
  RUN_TEST(test_rows_together_equal_rows_one_at_a_time);
  RUN_TEST(test_activations_of_16_bits);
  RUN_TEST(test_a_position_beyond_the_cache);
  RUN_TEST(test_a_negative_position);
  RUN_TEST(test_the_status_is_sticky);
  RUN_TEST(test_a_cached_key_that_is_not_a_number);
  RUN_TEST(test_a_position_that_advances);
  RUN_TEST(test_workspace_on_the_cpu);
  RUN_TEST(test_the_cache_can_be_filled);
  RUN_TEST(test_arguments_that_are_wrong);
  RUN_TEST(test_options_of_a_newer_caller);
  RUN_TEST(test_only_the_layer_itself_has_to_be_loaded);
  return UNITY_END();
}
