/* Models: descriptions, weights by layer and from a directory, what is refused, reloading, progress, estimates, fingerprints. */
#define _XOPEN_SOURCE 700

#include "unity.h"

#include <stdlib.h>

#include "support/session_helpers.h"

enum { VOCAB = 96, HIDDEN = 64, PROMPT = 9 };

static struct tiny_model tiny;
static struct tensor_list tensors;
static cf_context* context;
static char* dir;

void setUp(void) {
  tiny_model_init(&tiny, CF_FAMILY_LLAMA);
  tensors = tiny_model_tensors(&tiny);
  context = make_cpu_context(NULL, NULL);
  dir = make_temp_dir();
}

void tearDown(void) {
  free_tensors(&tensors);
  cf_context_destroy(context);
  remove_tree(dir);
  free(dir);
}

/* The tensors of `tiny` as it is now. */
static void make_tensors(void) {
  free_tensors(&tensors);
  tensors = tiny_model_tensors(&tiny);
}

static void describe(cf_family family, cf_dtype dtype) {
  tiny_model_init(&tiny, family);
  tiny.dtype = dtype;
  make_tensors();
}

struct logits {
  float rows[PROMPT][VOCAB];
};

/* All logits of a short prompt: different weights give different ones. */
static struct logits logits_of(cf_model* model) {
  static struct logits logits;
  int32_t prompt[PROMPT];
  cf_outputs outputs;
  cf_step_options options;
  cf_session* session = make_session(model, PROMPT);
  fill_tokens(prompt, PROMPT, VOCAB, 5);
  OK(cf_outputs_init(&outputs, sizeof outputs));
  OK(cf_step_options_init(&options, sizeof options));
  outputs.rows = CF_ROWS_ALL;
  outputs.logits = &logits.rows[0][0];
  options.outputs = &outputs;
  OK(cf_prefill(session, prompt, PROMPT, &options));
  wait_ok(session);
  cf_session_destroy(session);
  return logits;
}

static void expect_same_results(cf_model* expected, cf_model* actual, const char* what) {
  const struct logits e = logits_of(expected), a = logits_of(actual);
  TEST_ASSERT_EQUAL_MEMORY_MESSAGE(&e, &a, sizeof e, what);
}

static cf_model_info query_model(const cf_model* model) {
  cf_model_info info;
  OK(cf_model_info_init(&info, sizeof info));
  OK(cf_model_query(model, &info));
  return info;
}

static cf_model* make_empty_model(void) {
  const cf_model_config config = describe_model(&tiny);
  cf_model* model = NULL;
  OK(cf_model_create(context, &config, NULL, &model));
  return model;
}

static cf_model* load_directory(const cf_model_options* options) {
  cf_model* model = NULL;
  OK(cf_model_load(context, dir, options, &model));
  return model;
}

static cf_tensor* with_role(cf_tensor* descriptors, size_t n, cf_tensor_role role) {
  for (size_t i = 0; i < n; i++)
    if (descriptors[i].role == role) return &descriptors[i];
  TEST_FAIL_MESSAGE("no tensor of this role");
  return NULL;
}

/* ---- Descriptions ---- */

static void test_config_json_gives_the_description(void) {
  for (int i = 0; i < 3; i++) {
    describe(i == 0 ? CF_FAMILY_GPT_NEOX : CF_FAMILY_LLAMA, CF_DTYPE_F32);
    tiny.llama3_rope = i == 2;
    const cf_model_config expected = describe_model(&tiny);
    cf_model_config read;
    write_model_config(dir, &tiny, NULL);
    OK(cf_model_config_init(&read, sizeof read));
    OK(cf_model_config_read(dir, &read));
    TEST_ASSERT_EQUAL_MEMORY(&expected, &read, sizeof read);
  }
}

static void test_a_model_keeps_its_description(void) {
  const cf_model_config expected = describe_model(&tiny);
  cf_model_config got;
  cf_model* model = make_empty_model();
  OK(cf_model_config_init(&got, sizeof got));
  OK(cf_model_get_config(model, &got));
  TEST_ASSERT_EQUAL_MEMORY(&expected, &got, sizeof got);
  cf_model_destroy(model);
}

static void test_descriptions_that_are_impossible(void) {
  cf_model_config c;
  cf_model* model = NULL;
#define WITH(assignment, status, word) \
  c = describe_model(&tiny);           \
  assignment;                          \
  FAILS(status, word, cf_model_create(context, &c, NULL, &model))
#define INVALID(assignment, word) WITH(assignment, CF_ERROR_INVALID_ARGUMENT, word)
  INVALID(c.family = 0, "family");
  INVALID(c.family = 3, "family");
  INVALID(c.norm = 0, "norm");
  INVALID(c.activation = 4, "activation");
  INVALID(c.parallel_residual = 2, "parallel_residual");
  INVALID(c.attention_bias = -1, "attention_bias");
  INVALID(c.mlp_bias = 2, "mlp_bias");
  INVALID(c.tied_embeddings = 7, "tied_embeddings");
  INVALID(c.n_layers = 0, "n_layers");
  INVALID(c.n_layers = 1025, "n_layers");
  INVALID(c.hidden_size = 0, "hidden_size");
  INVALID(c.hidden_size = (1 << 20) + 1, "hidden_size");
  INVALID(c.n_heads = -1, "n_heads");
  INVALID(c.n_kv_heads = 0, "n_kv_heads");
  INVALID((c.n_heads = 4, c.n_kv_heads = 3), "does not divide");
  INVALID((c.n_heads = 2, c.n_kv_heads = 4), "does not divide");
  INVALID(c.head_dim = 0, "head_dim");
  INVALID(c.rotary_dim = 0, "rotary_dim");
  INVALID(c.rotary_dim = 3, "even");
  INVALID(c.rotary_dim = 34, "rotary_dim");
  INVALID(c.intermediate_size = 0, "intermediate_size");
  INVALID(c.vocab_size = INT32_MAX, "vocab_size");
  INVALID(c.max_position_embeddings = 0, "max_position_embeddings");
  INVALID(c.norm_eps = 0, "norm_eps");
  INVALID(c.norm_eps = NAN, "norm_eps");
  INVALID(c.rope_theta = -1, "rope_theta");
  INVALID(c.rope_theta = INFINITY, "rope_theta");
  INVALID(c.rope_scaling = 2, "rope_scaling");
  INVALID(c.rope_factor = 8, "rope_factor");
  INVALID(c.rope_scaling = CF_ROPE_SCALING_LLAMA3, "rope_factor");
  INVALID(c.bos_token = VOCAB, "bos_token");
  INVALID(c.n_eos_tokens = 9, "n_eos_tokens");
  INVALID(c.eos_tokens[0] = VOCAB, "eos_tokens");
  INVALID(c.reserved = 1, "reserved");
  WITH(c.head_dim = 48, CF_ERROR_UNSUPPORTED, "head_dim");
  TEST_ASSERT_NULL(model);
}

/* ---- Loading ---- */

static void test_loading_by_layers_equals_loading_the_directory(void) {
  for (int family = CF_FAMILY_GPT_NEOX; family <= CF_FAMILY_LLAMA; family++) {
    for (cf_dtype dtype = CF_DTYPE_F32; dtype <= CF_DTYPE_BF16; dtype++) {
      describe(family, dtype);
      write_checkpoint(dir, &tiny);
      cf_model *read = load_directory(NULL), *taken = make_model_of(context, &tiny, &tensors, NULL);
      const cf_model_info a = query_model(read), b = query_model(taken);
      TEST_ASSERT_EQUAL_MEMORY(&a, &b, sizeof a);
      TEST_ASSERT_EQUAL_INT32(dtype, a.weight_dtype);
      expect_same_results(read, taken, "read and taken");
      cf_model_destroy(read);
      cf_model_destroy(taken);
    }
  }
}

static void test_grouped_heads_biases_and_tied_embeddings_by_layers(void) {
  tiny.n_heads = 4;
  tiny.attention_bias = tiny.mlp_bias = tiny.tied_embeddings = tiny.llama3_rope = 1;
  make_tensors();
  write_checkpoint(dir, &tiny);
  cf_model *read = load_directory(NULL), *taken = make_model_of(context, &tiny, &tensors, NULL);
  TEST_ASSERT_EQUAL_UINT64(query_model(read).fingerprint, query_model(taken).fingerprint);
  expect_same_results(read, taken, "read and taken");
  cf_model_destroy(read);
  cf_model_destroy(taken);
}

static void test_layers_and_tensors_in_any_order(void) {
  cf_model *usual = make_model_of(context, &tiny, &tensors, NULL), *backwards = make_empty_model();
  for (int layer = tiny.n_layers - 1; layer >= GLOBALS; layer--) {
    cf_tensor d[MAX_DESCRIPTORS], reversed[MAX_DESCRIPTORS];
    const size_t n = describe_tensors(&tiny, &tensors, layer, d);
    for (size_t i = 0; i < n; i++) reversed[i] = d[n - 1 - i];
    OK(layer == GLOBALS ? cf_load_globals(backwards, reversed, n, NULL) : cf_load_layer(backwards, layer, reversed, n, NULL));
  }
  TEST_ASSERT_EQUAL_UINT64(query_model(usual).fingerprint, query_model(backwards).fingerprint);
  expect_same_results(usual, backwards, "any order");
  cf_model_destroy(usual);
  cf_model_destroy(backwards);
}

/* A copy of the tensor's rows that lie `stride` elements apart, `shift` bytes off an aligned address. */
static void* lay_out(cf_tensor* t, int64_t stride, size_t shift) {
  const size_t size = t->dtype == CF_DTYPE_F32 ? 4 : 2;
  const int64_t rows = t->shape[0], cols = t->rank == 2 ? t->shape[1] : 1;
  char* memory = (char*)malloc(shift + (size_t)(rows * stride) * size);
  memset(memory, 0xff, shift + (size_t)(rows * stride) * size); /* NaN in between */
  for (int64_t row = 0; row < rows; row++)
    memcpy(memory + shift + (size_t)(row * stride) * size, (const char*)t->data + (size_t)(row * cols) * size, (size_t)cols * size);
  t->data = memory + shift;
  return memory;
}

static void load_laid_out(cf_model* model, int64_t extra, size_t shift) {
  for (int layer = GLOBALS; layer < tiny.n_layers; layer++) {
    cf_tensor d[MAX_DESCRIPTORS];
    void* memory[MAX_DESCRIPTORS];
    const size_t n = describe_tensors(&tiny, &tensors, layer, d);
    for (size_t i = 0; i < n; i++) {
      const int64_t stride = d[i].rank == 2 ? d[i].shape[1] + extra : 1;
      memory[i] = lay_out(&d[i], stride, shift);
      d[i].strides[0] = stride;
      if (d[i].rank == 2) d[i].strides[1] = 1;
    }
    OK(layer == GLOBALS ? cf_load_globals(model, d, n, NULL) : cf_load_layer(model, layer, d, n, NULL));
    for (size_t i = 0; i < n; i++) free(memory[i]); /* no longer used on return */
  }
}

static void test_strided_and_misaligned_tensors(void) {
  const struct {
    int64_t extra;
    size_t shift;
  } ways[] = {{5, 0}, {0, 1}, {3, 7}};
  for (int family = CF_FAMILY_GPT_NEOX; family <= CF_FAMILY_LLAMA; family++) {
    for (cf_dtype dtype = CF_DTYPE_F32; dtype <= CF_DTYPE_F16; dtype++) {
      describe(family, dtype);
      cf_model* dense = make_model_of(context, &tiny, &tensors, NULL);
      for (size_t i = 0; i < 3; i++) {
        cf_model* other = make_empty_model();
        load_laid_out(other, ways[i].extra, ways[i].shift);
        TEST_ASSERT_EQUAL_UINT64(query_model(dense).fingerprint, query_model(other).fingerprint);
        expect_same_results(dense, other, "laid out otherwise");
        cf_model_destroy(other);
      }
      cf_model_destroy(dense);
    }
  }
}

static void test_fused_and_separate_qkv(void) {
  describe(CF_FAMILY_GPT_NEOX, CF_DTYPE_F32);
  cf_model *fused = make_model_of(context, &tiny, &tensors, NULL), *separate = make_model_of(context, &tiny, &tensors, NULL);
  const int64_t d = tiny.head_dim, size = tiny.n_heads * d;
  for (int layer = 0; layer < tiny.n_layers; layer++) {
    cf_tensor descriptors[MAX_DESCRIPTORS], out[MAX_DESCRIPTORS];
    float *weights[3], *biases[3];
    size_t n = describe_tensors(&tiny, &tensors, layer, descriptors), kept = 0;
    const float* weight = (const float*)with_role(descriptors, n, CF_ROLE_QKV_WEIGHT)->data;
    const float* bias = (const float*)with_role(descriptors, n, CF_ROLE_QKV_BIAS)->data;
    for (size_t i = 0; i < n; i++)
      if (descriptors[i].role != CF_ROLE_QKV_WEIGHT && descriptors[i].role != CF_ROLE_QKV_BIAS) out[kept++] = descriptors[i];
    for (int j = 0; j < 3; j++) { /* Q, K, V: rows [head][j][d] of the fused matrix */
      weights[j] = (float*)malloc((size_t)(size * HIDDEN) * sizeof(float));
      biases[j] = (float*)malloc((size_t)size * sizeof(float));
      for (int64_t head = 0; head < tiny.n_heads; head++) {
        memcpy(weights[j] + head * d * HIDDEN, weight + (head * 3 + j) * d * HIDDEN, (size_t)(d * HIDDEN) * sizeof(float));
        memcpy(biases[j] + head * d, bias + (head * 3 + j) * d, (size_t)d * sizeof(float));
      }
      const cf_tensor_role roles[3] = {CF_ROLE_Q_WEIGHT, CF_ROLE_K_WEIGHT, CF_ROLE_V_WEIGHT};
      cf_tensor* w = &out[kept++];
      *w = *with_role(descriptors, n, CF_ROLE_QKV_WEIGHT);
      w->role = roles[j], w->shape[0] = size, w->data = weights[j];
      cf_tensor* b = &out[kept++];
      *b = *with_role(descriptors, n, CF_ROLE_QKV_BIAS);
      b->role = roles[j] + 1, b->shape[0] = size, b->data = biases[j];
    }
    OK(cf_load_layer(separate, layer, out, kept, NULL));
    for (int j = 0; j < 3; j++) free(weights[j]), free(biases[j]);
  }
  expect_same_results(fused, separate, "fused and separate");
  cf_model_destroy(fused);
  cf_model_destroy(separate);
}

static void test_descriptors_of_a_newer_caller(void) {
  struct {
    cf_tensor known;
    unsigned char unknown[24];
  } newer[MAX_DESCRIPTORS];
  cf_tensor d[MAX_DESCRIPTORS];
  cf_model* model = make_model_of(context, &tiny, &tensors, NULL);
  const size_t n = describe_tensors(&tiny, &tensors, 0, d);
  memset(newer, 0, sizeof newer);
  for (size_t i = 0; i < n; i++) {
    newer[i].known = d[i];
    newer[i].known.struct_size = sizeof newer[0];
  }
  OK(cf_load_layer(model, 0, &newer[0].known, n, NULL));
  newer[n - 1].unknown[23] = 1;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "newer header", cf_load_layer(model, 0, &newer[0].known, n, NULL));
  newer[n - 1].unknown[23] = 0;
  newer[n - 1].known.struct_size -= 8;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "struct_size", cf_load_layer(model, 0, &newer[0].known, n, NULL));
  d[0].struct_size = 0;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "_init", cf_load_layer(model, 0, d, n, NULL));
  cf_model_destroy(model);
}

/* ---- What loading refuses ---- */

/* A complete model, one change to the descriptors of layer 0 or the globals, and the same results afterwards. */
static struct {
  cf_model* model;
  struct logits logits;
  cf_model_info info;
  cf_tensor d[MAX_DESCRIPTORS];
  size_t n;
} refusal;

static void begin_refusals(void) {
  refusal.model = make_model_of(context, &tiny, &tensors, NULL);
  refusal.logits = logits_of(refusal.model);
  refusal.info = query_model(refusal.model);
}

static void expect_unchanged(const char* what) {
  const cf_model_info info = query_model(refusal.model);
  const struct logits logits = logits_of(refusal.model);
  TEST_ASSERT_EQUAL_MEMORY_MESSAGE(&refusal.info, &info, sizeof info, what);
  TEST_ASSERT_EQUAL_MEMORY_MESSAGE(&refusal.logits, &logits, sizeof logits, what);
}

static void end_refusals(void) { cf_model_destroy(refusal.model); }

static cf_tensor* the(cf_tensor_role role) { return with_role(refusal.d, refusal.n, role); }
static void without(cf_tensor_role role) {
  *the(role) = refusal.d[refusal.n - 1];
  refusal.n--;
}
static cf_tensor* one_more(cf_tensor_role role) {
  refusal.d[refusal.n] = refusal.d[0];
  refusal.d[refusal.n].role = role;
  return &refusal.d[refusal.n++];
}

#define REFUSED(layer, change, status, word)                                                          \
  do {                                                                                                \
    refusal.n = describe_tensors(&tiny, &tensors, layer, refusal.d);                                  \
    change;                                                                                           \
    expect_status(status, word,                                                                       \
                  layer == GLOBALS ? cf_load_globals(refusal.model, refusal.d, refusal.n, NULL)       \
                                   : cf_load_layer(refusal.model, layer, refusal.d, refusal.n, NULL), \
                  #change);                                                                           \
    expect_unchanged(#change);                                                                        \
  } while (0)
#define INVALID_LAYER(change, word) REFUSED(0, change, CF_ERROR_INVALID_ARGUMENT, word)
#define INVALID_GLOBALS(change, word) REFUSED(GLOBALS, change, CF_ERROR_INVALID_ARGUMENT, word)

static void test_roles_that_are_missing(void) {
  begin_refusals();
  INVALID_LAYER(without(CF_ROLE_ATTENTION_NORM_WEIGHT), "attention norm weight");
  INVALID_LAYER(without(CF_ROLE_MLP_NORM_WEIGHT), "MLP norm weight");
  INVALID_LAYER(without(CF_ROLE_Q_WEIGHT), "Q, K and V");
  INVALID_LAYER(without(CF_ROLE_V_WEIGHT), "Q, K and V");
  INVALID_LAYER(without(CF_ROLE_O_WEIGHT), "O weight");
  INVALID_LAYER(without(CF_ROLE_GATE_WEIGHT), "gate and up");
  INVALID_LAYER(without(CF_ROLE_UP_WEIGHT), "gate and up");
  INVALID_LAYER(without(CF_ROLE_DOWN_WEIGHT), "MLP down");
  INVALID_LAYER(refusal.n = 0, "incomplete");
  INVALID_GLOBALS(without(CF_ROLE_EMBEDDING), "embedding");
  INVALID_GLOBALS(without(CF_ROLE_FINAL_NORM_WEIGHT), "final norm weight");
  INVALID_GLOBALS(without(CF_ROLE_HEAD), "LM head");
  end_refusals();
}

static void test_biases_that_are_missing(void) {
  describe(CF_FAMILY_GPT_NEOX, CF_DTYPE_F32);
  begin_refusals();
  INVALID_LAYER(without(CF_ROLE_ATTENTION_NORM_BIAS), "attention norm bias");
  INVALID_LAYER(without(CF_ROLE_MLP_NORM_BIAS), "MLP norm bias");
  INVALID_LAYER(without(CF_ROLE_QKV_BIAS), "Q, K and V biases");
  INVALID_LAYER(without(CF_ROLE_O_BIAS), "O bias");
  INVALID_LAYER(without(CF_ROLE_UP_BIAS), "biases");
  INVALID_LAYER(without(CF_ROLE_DOWN_BIAS), "down bias");
  INVALID_GLOBALS(without(CF_ROLE_FINAL_NORM_BIAS), "final norm bias");
  end_refusals();
}

static void test_roles_given_twice(void) {
  begin_refusals();
  INVALID_LAYER(*one_more(0) = *the(CF_ROLE_O_WEIGHT), "CF_ROLE_O_WEIGHT a second time");
  INVALID_GLOBALS(*one_more(0) = *the(CF_ROLE_HEAD), "CF_ROLE_HEAD a second time");
  end_refusals();
  describe(CF_FAMILY_GPT_NEOX, CF_DTYPE_F32);
  begin_refusals(); /* Q rows in the fused tensor and by themselves */
  INVALID_LAYER(
      (*one_more(0) = *the(CF_ROLE_QKV_WEIGHT), refusal.d[refusal.n - 1].role = CF_ROLE_Q_WEIGHT, refusal.d[refusal.n - 1].shape[0] = HIDDEN),
      "both given");
  end_refusals();
}

static void test_roles_that_do_not_belong_there(void) {
  begin_refusals();
  INVALID_LAYER(one_more(CF_ROLE_EMBEDDING), "CF_ROLE_EMBEDDING) does not belong here");
  INVALID_GLOBALS(one_more(CF_ROLE_O_WEIGHT), "CF_ROLE_O_WEIGHT) does not belong here");
  INVALID_LAYER(one_more(0), "unknown role");
  INVALID_LAYER(one_more(1000), "unknown role");
  INVALID_LAYER(one_more(-1), "unknown role");
  /* what a Llama without biases does not have */
  INVALID_LAYER(one_more(CF_ROLE_Q_BIAS), "not part of a model");
  INVALID_LAYER(one_more(CF_ROLE_O_BIAS), "not part of a model");
  INVALID_LAYER(one_more(CF_ROLE_UP_BIAS), "not part of a model");
  INVALID_LAYER(one_more(CF_ROLE_ATTENTION_NORM_BIAS), "not part of a model");
  INVALID_GLOBALS(one_more(CF_ROLE_FINAL_NORM_BIAS), "not part of a model");
  end_refusals();
  describe(CF_FAMILY_GPT_NEOX, CF_DTYPE_F32);
  begin_refusals();
  INVALID_LAYER(one_more(CF_ROLE_GATE_WEIGHT), "not part of a model");
  end_refusals();
}

static void test_head_of_a_tied_model(void) {
  tiny.tied_embeddings = 1;
  make_tensors();
  begin_refusals();
  INVALID_GLOBALS((*one_more(0) = *the(CF_ROLE_EMBEDDING), refusal.d[refusal.n - 1].role = CF_ROLE_HEAD), "not part of a model");
  end_refusals();
}

static void test_fused_qkv_of_grouped_heads(void) {
  tiny.n_heads = 4;
  make_tensors();
  begin_refusals();
  INVALID_LAYER(one_more(CF_ROLE_QKV_WEIGHT), "not part of a model");
  end_refusals();
}

static void test_shapes_that_are_wrong(void) {
  begin_refusals();
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->shape[0] = 63, "shape [63, 64], expected [64, 64]");
  INVALID_LAYER(the(CF_ROLE_DOWN_WEIGHT)->shape[1] = 127, "expected [64, 128]");
  INVALID_LAYER((the(CF_ROLE_UP_WEIGHT)->shape[0] = 64, the(CF_ROLE_UP_WEIGHT)->shape[1] = 128), "expected [128, 64]");
  INVALID_LAYER(the(CF_ROLE_ATTENTION_NORM_WEIGHT)->shape[0] = 65, "expected [64, 1]");
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->shape[0] = 0, "dimension below 1");
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->shape[1] = -64, "dimension below 1");
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->shape[0] = INT64_MAX, "");
  INVALID_GLOBALS(the(CF_ROLE_EMBEDDING)->shape[0] = VOCAB + 1, "expected [96, 64]");
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->rank = 0, "rank is 0");
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->rank = 3, "rank is 3");
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->rank = 1, "expected [64, 64]");
  end_refusals();
}

static void test_strides_that_are_wrong(void) {
  begin_refusals();
#define STRIDES(role, s0, s1) (the(role)->strides[0] = s0, the(role)->strides[1] = s1)
  INVALID_LAYER(STRIDES(CF_ROLE_O_WEIGHT, 64, 2), "innermost is 2");
  INVALID_LAYER(STRIDES(CF_ROLE_O_WEIGHT, 64, 0), "innermost is 0");
  INVALID_LAYER(STRIDES(CF_ROLE_O_WEIGHT, 1, 64), "innermost is 64");
  INVALID_LAYER(STRIDES(CF_ROLE_O_WEIGHT, 63, 1), "63 apart");
  INVALID_LAYER(STRIDES(CF_ROLE_O_WEIGHT, -64, 1), "-64 apart");
  INVALID_LAYER(STRIDES(CF_ROLE_O_WEIGHT, 0, 1), "0 apart");
  INVALID_LAYER(STRIDES(CF_ROLE_ATTENTION_NORM_WEIGHT, 2, 0), "innermost is 2");
#undef STRIDES
  end_refusals();
}

static void test_fields_that_are_wrong(void) {
  begin_refusals();
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->data = NULL, "data is NULL");
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->dtype = CF_DTYPE_AUTO, "dtype is 0");
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->dtype = 4, "dtype is 4");
  INVALID_LAYER(the(CF_ROLE_O_WEIGHT)->memory = 2, "memory is 2");
  REFUSED(0, the(CF_ROLE_O_WEIGHT)->scales = &tiny, CF_ERROR_UNSUPPORTED, "quantised");
  REFUSED(0, the(CF_ROLE_O_WEIGHT)->scale_dtype = CF_DTYPE_F16, CF_ERROR_UNSUPPORTED, "quantised");
  end_refusals();
}

static void test_dtypes_that_differ_within_a_matrix(void) {
  begin_refusals();
  REFUSED(0, the(CF_ROLE_Q_WEIGHT)->dtype = CF_DTYPE_F16, CF_ERROR_UNSUPPORTED, "same dtype");
  REFUSED(0, the(CF_ROLE_UP_WEIGHT)->dtype = CF_DTYPE_BF16, CF_ERROR_UNSUPPORTED, "same dtype");
  end_refusals();
}

static void test_arguments_that_are_wrong(void) {
  static const cf_tensor many[65];
  cf_tensor d[MAX_DESCRIPTORS];
  const size_t n = describe_tensors(&tiny, &tensors, 0, d);
  begin_refusals();
  FAILS(CF_ERROR_INVALID_ARGUMENT, "layer is -1", cf_load_layer(refusal.model, -1, d, n, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "layer is 2", cf_load_layer(refusal.model, tiny.n_layers, d, n, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "tensors is NULL", cf_load_layer(refusal.model, 0, NULL, n, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_tensors", cf_load_layer(refusal.model, 0, many, 65, NULL));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "stream", cf_load_layer(refusal.model, 0, d, n, &tiny));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "stream", cf_load_globals(refusal.model, d, n, &tiny));
  expect_unchanged("wrong arguments");
  end_refusals();
}

/* ---- Not loaded, loaded, loaded again ---- */

static void test_sessions_need_every_layer_and_the_globals(void) {
  cf_model* model = make_empty_model();
  cf_session* session = NULL;
  cf_tensor d[MAX_DESCRIPTORS];
  FAILS(CF_ERROR_NOT_LOADED, "cf_load_globals", cf_session_create(model, NULL, &session));
  OK(cf_load_globals(model, d, describe_tensors(&tiny, &tensors, GLOBALS, d), NULL));
  FAILS(CF_ERROR_NOT_LOADED, "layer 0", cf_session_create(model, NULL, &session));
  OK(cf_load_layer(model, 0, d, describe_tensors(&tiny, &tensors, 0, d), NULL));
  FAILS(CF_ERROR_NOT_LOADED, "layer 1", cf_session_create(model, NULL, &session));
  TEST_ASSERT_NULL(session);
  OK(cf_load_layer(model, 1, d, describe_tensors(&tiny, &tensors, 1, d), NULL));
  OK(cf_session_create(model, NULL, &session));
  cf_session_destroy(session);
  cf_model_destroy(model);
}

static void test_query_counts_what_is_there(void) {
  cf_model* model = make_empty_model();
  cf_tensor d[MAX_DESCRIPTORS];
  cf_model_info info = query_model(model);
  TEST_ASSERT_EQUAL_INT32(0, info.n_layers_loaded);
  TEST_ASSERT_EQUAL_INT32(0, info.globals_loaded);
  TEST_ASSERT_EQUAL_INT32(CF_DTYPE_AUTO, info.weight_dtype);
  TEST_ASSERT_EQUAL_UINT64(0, info.weights_bytes);
  TEST_ASSERT_EQUAL_UINT64(0, info.fingerprint);
  OK(cf_load_layer(model, 1, d, describe_tensors(&tiny, &tensors, 1, d), NULL));
  info = query_model(model);
  const uint64_t layer_bytes = info.weights_bytes;
  TEST_ASSERT_EQUAL_INT32(1, info.n_layers_loaded);
  TEST_ASSERT_EQUAL_INT32(CF_DTYPE_F32, info.weight_dtype);
  TEST_ASSERT_GREATER_THAN(0, layer_bytes);
  OK(cf_load_layer(model, 1, d, describe_tensors(&tiny, &tensors, 1, d), NULL)); /* again */
  info = query_model(model);
  TEST_ASSERT_EQUAL_INT32(1, info.n_layers_loaded);
  TEST_ASSERT_EQUAL_UINT64(layer_bytes, info.weights_bytes);
  OK(cf_load_layer(model, 0, d, describe_tensors(&tiny, &tensors, 0, d), NULL));
  info = query_model(model);
  TEST_ASSERT_EQUAL_INT32(2, info.n_layers_loaded);
  TEST_ASSERT_EQUAL_UINT64(2 * layer_bytes, info.weights_bytes);
  TEST_ASSERT_EQUAL_UINT64(0, info.fingerprint);
  OK(cf_load_globals(model, d, describe_tensors(&tiny, &tensors, GLOBALS, d), NULL));
  info = query_model(model);
  TEST_ASSERT_EQUAL_INT32(1, info.globals_loaded);
  TEST_ASSERT_NOT_EQUAL(0, info.fingerprint);
  cf_model_destroy(model);
}

static void test_parameters_are_the_elements_of_the_tensors(void) {
  for (int i = 0; i < 4; i++) {
    uint64_t elements = 0;
    tiny_model_init(&tiny, i < 2 ? CF_FAMILY_GPT_NEOX : CF_FAMILY_LLAMA);
    tiny.tied_embeddings = i % 2;
    if (i == 3) tiny.n_heads = 4, tiny.attention_bias = tiny.mlp_bias = 1;
    make_tensors();
    for (size_t k = 0; k < tensors.count; k++) elements += tensors.items[k].bytes / 4;
    cf_model* model = make_empty_model();
    TEST_ASSERT_EQUAL_UINT64(elements, query_model(model).parameters);
    cf_model_destroy(model);
  }
}

static void test_weight_dtype_of_matrices_that_differ(void) {
  struct tiny_model half = tiny;
  half.dtype = CF_DTYPE_F16;
  struct tensor_list halves = tiny_model_tensors(&half);
  cf_tensor d[MAX_DESCRIPTORS];
  cf_model* model = make_model_of(context, &tiny, &tensors, NULL);
  OK(cf_load_layer(model, 1, d, describe_tensors(&half, &halves, 1, d), NULL));
  TEST_ASSERT_EQUAL_INT32(CF_DTYPE_AUTO, query_model(model).weight_dtype);
  OK(cf_load_layer(model, 0, d, describe_tensors(&half, &halves, 0, d), NULL)); /* embedding and head are still F32 */
  TEST_ASSERT_EQUAL_INT32(CF_DTYPE_AUTO, query_model(model).weight_dtype);
  OK(cf_load_globals(model, d, describe_tensors(&half, &halves, GLOBALS, d), NULL));
  TEST_ASSERT_EQUAL_INT32(CF_DTYPE_F16, query_model(model).weight_dtype);
  cf_model_destroy(model);
  free_tensors(&halves);
}

static void test_a_layer_loaded_again_is_replaced(void) {
  struct tiny_model second = tiny;
  second.seed = 2;
  struct tensor_list others = tiny_model_tensors(&second);
  cf_tensor d[MAX_DESCRIPTORS];
  cf_model *model = make_model_of(context, &tiny, &tensors, NULL), *expected = make_empty_model();
  const struct logits before = logits_of(model);
  const uint64_t fingerprint = query_model(model).fingerprint;
  OK(cf_load_globals(expected, d, describe_tensors(&tiny, &tensors, GLOBALS, d), NULL));
  OK(cf_load_layer(expected, 0, d, describe_tensors(&tiny, &tensors, 0, d), NULL));
  OK(cf_load_layer(expected, 1, d, describe_tensors(&second, &others, 1, d), NULL));
  OK(cf_load_layer(model, 1, d, describe_tensors(&second, &others, 1, d), NULL));
  const struct logits after = logits_of(model);
  TEST_ASSERT_TRUE(memcmp(&before, &after, sizeof after) != 0);
  expect_same_results(expected, model, "one layer of the other revision");
  OK(cf_load_layer(model, 1, d, describe_tensors(&tiny, &tensors, 1, d), NULL));
  const struct logits again = logits_of(model);
  TEST_ASSERT_EQUAL_MEMORY(&before, &again, sizeof again);
  TEST_ASSERT_EQUAL_UINT64(fingerprint, query_model(model).fingerprint);
  cf_model_destroy(model);
  cf_model_destroy(expected);
  free_tensors(&others);
}

/* ---- weight_dtype ---- */

static float round_to(cf_dtype dtype, float value) {
  return dtype == CF_DTYPE_F16 ? f16_to_float(float_to_f16(value)) : dtype == CF_DTYPE_BF16 ? bf16_to_float(float_to_bf16(value)) : value;
}

static cf_model_options options_for(cf_dtype weight_dtype) {
  cf_model_options options;
  OK(cf_model_options_init(&options, sizeof options));
  options.weight_dtype = weight_dtype;
  return options;
}

static void test_matrices_are_rounded_to_the_dtype_asked_for(void) {
  for (cf_dtype dtype = CF_DTYPE_F16; dtype <= CF_DTYPE_BF16; dtype++) {
    const cf_model_options options = options_for(dtype);
    cf_model* rounded = make_model_of(context, &tiny, &tensors, &options);
    TEST_ASSERT_EQUAL_INT32(dtype, query_model(rounded).weight_dtype);
    struct tensor_list by_hand = tiny_model_tensors(&tiny); /* in F32, but of values that the dtype has; vectors stay as they are */
    for (size_t i = 0; i < by_hand.count; i++) {
      float* values = (float*)by_hand.items[i].data;
      if (by_hand.items[i].rank == 2)
        for (size_t k = 0; k < by_hand.items[i].bytes / 4; k++) values[k] = round_to(dtype, values[k]);
    }
    cf_model* expected = make_model_of(context, &tiny, &by_hand, NULL);
    expect_same_results(expected, rounded, "rounded");
    TEST_ASSERT_LESS_THAN(query_model(expected).weights_bytes * 6 / 10, query_model(rounded).weights_bytes);
    cf_model_destroy(expected);
    cf_model_destroy(rounded);
    free_tensors(&by_hand);
  }
}

static void test_widening_changes_no_result(void) {
  const cf_model_options options = options_for(CF_DTYPE_F32);
  for (cf_dtype dtype = CF_DTYPE_F16; dtype <= CF_DTYPE_BF16; dtype++) {
    describe(CF_FAMILY_GPT_NEOX, dtype);
    cf_model *stored = make_model_of(context, &tiny, &tensors, NULL), *wide = make_model_of(context, &tiny, &tensors, &options);
    TEST_ASSERT_EQUAL_INT32(CF_DTYPE_F32, query_model(wide).weight_dtype);
    expect_same_results(stored, wide, "widened");
    cf_model_destroy(stored);
    cf_model_destroy(wide);
  }
}

static void test_values_that_f16_cannot_hold(void) {
  const cf_model_options f16 = options_for(CF_DTYPE_F16), bf16 = options_for(CF_DTYPE_BF16);
  cf_model* model = make_model_of(context, &tiny, &tensors, &f16);
  cf_model* wide = make_model_of(context, &tiny, &tensors, &bf16);
  cf_tensor d[MAX_DESCRIPTORS];
  const struct logits before = logits_of(model);
  float* value = (float*)find_tensor(&tensors, "model.layers.1.self_attn.o_proj.weight")->data + 17;
  const size_t n = describe_tensors(&tiny, &tensors, 1, d);
  const float kept = *value, too_much[] = {65520.0f, -65520.0f, 1e30f}, enough[] = {65519.0f, -65504.0f, 1e-30f};
  for (size_t i = 0; i < 3; i++) {
    *value = too_much[i];
    FAILS(CF_ERROR_UNSUPPORTED, "F16", cf_load_layer(model, 1, d, n, NULL));
    const struct logits after = logits_of(model);
    TEST_ASSERT_EQUAL_MEMORY(&before, &after, sizeof after);
    OK(cf_load_layer(wide, 1, d, n, NULL));
  }
  for (size_t i = 0; i < 3; i++) {
    *value = enough[i];
    OK(cf_load_layer(model, 1, d, n, NULL));
  }
  *value = kept;
  cf_model_destroy(model);
  cf_model_destroy(wide);
}

static void test_a_directory_that_f16_cannot_hold(void) {
  const cf_model_options f16 = options_for(CF_DTYPE_F16);
  cf_model* model = NULL;
  ((float*)find_tensor(&tensors, "model.layers.1.mlp.down_proj.weight")->data)[0] = 1e6f;
  write_model_config(dir, &tiny, NULL);
  write_weights(dir, &tensors, 1);
  FAILS(CF_ERROR_UNSUPPORTED, "model.layers.1.mlp.down_proj.weight", cf_model_load(context, dir, &f16, &model));
  TEST_ASSERT_NULL(model);
}

static void test_weight_dtypes_that_are_none(void) {
  const cf_model_config config = describe_model(&tiny);
  const cf_model_options above = options_for(4), below = options_for(-1);
  cf_model* model = NULL;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "weight_dtype", cf_model_create(context, &config, &above, &model));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "weight_dtype", cf_model_load(context, dir, &below, &model));
}

/* ---- Reloading ---- */

static void write_revision(uint64_t seed) {
  struct tiny_model revision = tiny;
  revision.seed = seed;
  write_checkpoint(dir, &revision);
}

static void test_reload_takes_another_revision(void) {
  write_revision(1);
  cf_model* model = load_directory(NULL);
  cf_session* session = make_session(model, 16);
  write_revision(2);
  cf_model* fresh = load_directory(NULL);
  OK(cf_model_reload(model, dir, NULL));
  TEST_ASSERT_EQUAL_UINT64(query_model(fresh).fingerprint, query_model(model).fingerprint);
  TEST_ASSERT_EQUAL_UINT64(query_model(fresh).weights_bytes, query_model(model).weights_bytes);
  expect_same_results(fresh, model, "reloaded");
  cf_session* expected = make_session(fresh, 16); /* a session from before the reload has the new weights, too */
  OK(cf_prefill(session, (int32_t[]){1, 2, 3}, 3, NULL));
  OK(cf_prefill(expected, (int32_t[]){1, 2, 3}, 3, NULL));
  OK(cf_decode_steps(session, 5, NULL));
  OK(cf_decode_steps(expected, 5, NULL));
  TEST_ASSERT_EQUAL_INT32(wait_ok(expected).token, wait_ok(session).token);
  cf_session_destroy(expected);
  cf_session_destroy(session);
  cf_model_destroy(model);
  cf_model_destroy(fresh);
}

static void test_reload_refuses_another_configuration(void) {
  write_revision(1);
  refusal.model = load_directory(NULL);
  refusal.logits = logits_of(refusal.model);
  refusal.info = query_model(refusal.model);
  struct tiny_model other = tiny;
  other.vocab_size++;
  write_checkpoint(dir, &other);
  FAILS(CF_ERROR_MISMATCH, "configuration", cf_model_reload(refusal.model, dir, NULL));
  other = tiny;
  other.rope_theta *= 2;
  write_checkpoint(dir, &other);
  FAILS(CF_ERROR_MISMATCH, "configuration", cf_model_reload(refusal.model, dir, NULL));
  other = tiny;
  other.max_position_embeddings *= 2;
  write_checkpoint(dir, &other);
  FAILS(CF_ERROR_MISMATCH, "configuration", cf_model_reload(refusal.model, dir, NULL));
  write_revision(2);
  const cf_model_options f16 = options_for(CF_DTYPE_F16);
  FAILS(CF_ERROR_MISMATCH, "weight_dtype", cf_model_reload(refusal.model, dir, &f16));
  expect_unchanged("another configuration");
  end_refusals();
}

static void test_reload_of_what_cannot_be_read(void) {
  write_revision(1);
  refusal.model = load_directory(NULL);
  refusal.logits = logits_of(refusal.model);
  refusal.info = query_model(refusal.model);
  write_text(dir, "model.safetensors", "no such thing");
  FAILS(CF_ERROR_INVALID_FILE, "model.safetensors", cf_model_reload(refusal.model, dir, NULL));
  FAILS(CF_ERROR_IO, "nowhere", cf_model_reload(refusal.model, path_in(dir, "nowhere"), NULL));
  expect_unchanged("unreadable");
  end_refusals();
}

/* ---- Progress and cancellation ---- */

static struct {
  uint64_t done[64], total;
  int calls, stop_at, totals_differ; /* stop_at: the call, from 1, that answers with `answer` */
  int32_t answer;
  cf_cancellation* raise; /* or raises this */
} progress;

static int32_t report(void* user, uint64_t done, uint64_t total) {
  if (user != &progress || progress.calls == 64) return 1;
  if (progress.calls && total != progress.total) progress.totals_differ = 1;
  progress.total = total;
  progress.done[progress.calls++] = done;
  if (progress.calls != progress.stop_at) return 0;
  if (progress.raise) cf_cancellation_request(progress.raise);
  return progress.answer;
}

static cf_model_options options_with_progress(int stop_at, int32_t answer, cf_cancellation* raise) {
  cf_model_options options;
  memset(&progress, 0, sizeof progress);
  progress.stop_at = stop_at;
  progress.answer = answer;
  progress.raise = raise;
  OK(cf_model_options_init(&options, sizeof options));
  options.progress = report;
  options.progress_user = &progress;
  options.cancellation = raise;
  return options;
}

static void test_progress_counts_the_bytes_of_the_weights(void) {
  uint64_t bytes = 0;
  write_revision(1);
  for (size_t i = 0; i < tensors.count; i++) bytes += tensors.items[i].bytes;
  const cf_model_options options = options_with_progress(0, 0, NULL);
  cf_model* model = load_directory(&options);
  TEST_ASSERT_EQUAL_UINT64(bytes, progress.total);
  TEST_ASSERT_FALSE(progress.totals_differ);
  TEST_ASSERT_GREATER_OR_EQUAL(2, progress.calls);
  for (int i = 1; i < progress.calls; i++) TEST_ASSERT_GREATER_THAN(progress.done[i - 1], progress.done[i]);
  TEST_ASSERT_EQUAL_UINT64(bytes, progress.done[progress.calls - 1]);
  cf_model_destroy(model);
}

static uint64_t allocated_bytes(void) {
  cf_context_info info;
  OK(cf_context_info_init(&info, sizeof info));
  OK(cf_context_query(context, &info));
  return info.allocated_bytes;
}

static void test_loading_is_cancelled_by_its_callback(void) {
  write_revision(1);
  cf_model_options options = options_with_progress(0, 0, NULL);
  cf_model* model = load_directory(&options);
  cf_model_destroy(model);
  const int calls = progress.calls;
  for (int stop_at = 1; stop_at <= calls; stop_at++) {
    options = options_with_progress(stop_at, stop_at % 2 ? 1 : -7, NULL);
    model = NULL;
    FAILS(CF_ERROR_CANCELLED, "cancelled", cf_model_load(context, dir, &options, &model));
    TEST_ASSERT_EQUAL_INT(stop_at, progress.calls);
    TEST_ASSERT_NULL(model);
    TEST_ASSERT_EQUAL_UINT64(0, allocated_bytes());
  }
}

static void test_loading_is_cancelled_by_its_flag(void) {
  cf_cancellation* cancellation = NULL;
  cf_model* model = NULL;
  write_revision(1);
  OK(cf_cancellation_create(&cancellation));
  cf_model_options options = options_with_progress(2, 0, cancellation);
  FAILS(CF_ERROR_CANCELLED, "cancelled", cf_model_load(context, dir, &options, &model)); /* raised while it ran */
  TEST_ASSERT_EQUAL_INT(2, progress.calls);
  FAILS(CF_ERROR_CANCELLED, "cancelled", cf_model_load(context, dir, &options, &model)); /* raised before */
  TEST_ASSERT_NULL(model);
  TEST_ASSERT_EQUAL_UINT64(0, allocated_bytes());
  OK(cf_cancellation_reset(cancellation));
  options = options_with_progress(0, 0, cancellation);
  OK(cf_model_load(context, dir, &options, &model));
  cf_model_destroy(model);
  cf_cancellation_destroy(cancellation);
}

static void test_a_cancelled_reload_keeps_the_old_weights(void) {
  write_revision(1);
  cf_model_options options = options_with_progress(0, 0, NULL);
  refusal.model = load_directory(&options);
  const int calls = progress.calls;
  refusal.logits = logits_of(refusal.model);
  refusal.info = query_model(refusal.model);
  write_revision(2);
  for (int stop_at = 1; stop_at <= calls; stop_at++) {
    options = options_with_progress(stop_at, 1, NULL);
    FAILS(CF_ERROR_CANCELLED, "cancelled", cf_model_reload(refusal.model, dir, &options));
    expect_unchanged("cancelled");
  }
  end_refusals();
}

/* ---- Estimates ---- */

static cf_memory_estimate estimate_for(const cf_model_options* model_options, const cf_session_options* session_options) {
  const cf_model_config config = describe_model(&tiny);
  cf_memory_estimate estimate;
  OK(cf_memory_estimate_init(&estimate, sizeof estimate));
  OK(cf_model_estimate(context, &config, tiny.dtype, model_options, session_options, &estimate));
  return estimate;
}

/* Everything that is then allocated is what was estimated. */
static void expect_exact_estimate(cf_dtype weight_dtype, int64_t capacity, int32_t page_tokens, cf_dtype kv_dtype) {
  const cf_model_options options = options_for(weight_dtype);
  cf_session_options session_options;
  cf_context* const shared = context;
  cf_context_info info;
  cf_session_info session_info;
  cf_session* session = NULL;
  OK(cf_session_options_init(&session_options, sizeof session_options));
  session_options.capacity_tokens = capacity;
  session_options.page_tokens = page_tokens;
  session_options.kv_dtype = kv_dtype;
  context = make_cpu_context(NULL, NULL); /* with a peak of its own */
  const cf_memory_estimate estimate = estimate_for(&options, &session_options);
  TEST_ASSERT_EQUAL_UINT64(0, allocated_bytes());
  write_checkpoint(dir, &tiny);
  cf_model* model = load_directory(&options);
  TEST_ASSERT_EQUAL_UINT64(estimate.weights_bytes, query_model(model).weights_bytes);
  TEST_ASSERT_EQUAL_UINT64(estimate.weights_bytes, allocated_bytes());
  OK(cf_context_info_init(&info, sizeof info));
  OK(cf_context_query(context, &info));
  TEST_ASSERT_EQUAL_UINT64(estimate.weights_bytes + estimate.load_staging_bytes, info.peak_bytes);
  OK(cf_session_create(model, &session_options, &session));
  TEST_ASSERT_EQUAL_UINT64(estimate.weights_bytes + estimate.kv_bytes + estimate.workspace_bytes, allocated_bytes());
  OK(cf_session_info_init(&session_info, sizeof session_info));
  OK(cf_session_query(session, &session_info));
  TEST_ASSERT_EQUAL_UINT64(estimate.workspace_bytes, session_info.workspace_bytes);
  TEST_ASSERT_EQUAL_UINT64(estimate.kv_bytes, estimate.page_bytes * (uint64_t)session_info.n_pages);
  const uint64_t kv_size = kv_dtype == CF_DTYPE_F16 || kv_dtype == CF_DTYPE_BF16 ? 2 : 4;
  TEST_ASSERT_EQUAL_UINT64((uint64_t)(tiny.n_layers * 2 * tiny.n_kv_heads * tiny.head_dim * page_tokens) * kv_size, estimate.page_bytes);
  cf_session_destroy(session);
  cf_model_destroy(model);
  cf_context_destroy(context);
  context = shared;
}

static void test_estimates_are_exact(void) {
  for (cf_dtype dtype = CF_DTYPE_F32; dtype <= CF_DTYPE_BF16; dtype++) {
    tiny.dtype = dtype;
    expect_exact_estimate(CF_DTYPE_AUTO, 64, 64, CF_DTYPE_AUTO);
    expect_exact_estimate(CF_DTYPE_BF16, 65, 16, CF_DTYPE_F16);
    expect_exact_estimate(CF_DTYPE_F32, 1, 256, CF_DTYPE_BF16);
  }
  tiny_model_init(&tiny, CF_FAMILY_GPT_NEOX);
  tiny.n_layers = 3;
  expect_exact_estimate(CF_DTYPE_F16, 100, 32, CF_DTYPE_F32);
  tiny_model_init(&tiny, CF_FAMILY_LLAMA); /* odd sizes, grouped heads, biases, no head */
  tiny.hidden_size = 72;
  tiny.n_heads = 6;
  tiny.n_kv_heads = 2;
  tiny.intermediate_size = 100;
  tiny.vocab_size = 101;
  tiny.tied_embeddings = tiny.attention_bias = tiny.mlp_bias = 1;
  expect_exact_estimate(CF_DTYPE_AUTO, 33, 16, CF_DTYPE_AUTO);
}

static void test_estimates_that_cannot_be_made(void) {
  cf_model_config config = describe_model(&tiny);
  cf_memory_estimate estimate;
  cf_session_options session;
  OK(cf_memory_estimate_init(&estimate, sizeof estimate));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "stored_dtype", cf_model_estimate(context, &config, CF_DTYPE_AUTO, NULL, NULL, &estimate));
  FAILS(CF_ERROR_INVALID_ARGUMENT, "config is NULL", cf_model_estimate(context, NULL, CF_DTYPE_F32, NULL, NULL, &estimate));
  OK(cf_session_options_init(&session, sizeof session));
  session.page_tokens = 24;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "page_tokens", cf_model_estimate(context, &config, CF_DTYPE_F32, NULL, &session, &estimate));
  config.n_layers = 0;
  FAILS(CF_ERROR_INVALID_ARGUMENT, "n_layers", cf_model_estimate(context, &config, CF_DTYPE_F32, NULL, NULL, &estimate));
  TEST_ASSERT_EQUAL_UINT64(0, estimate.weights_bytes);
}

static void test_estimate_of_a_session_in_a_pool(void) {
  cf_model* model = make_model(context, &tiny);
  cf_model_config config = describe_model(&tiny);
  cf_memory_estimate estimate;
  cf_session_options session;
  cf_kv_pool_options options;
  cf_kv_pool* pool = NULL;
  OK(cf_kv_pool_options_init(&options, sizeof options));
  options.capacity_tokens = 256;
  OK(cf_kv_pool_create(model, &options, &pool));
  OK(cf_session_options_init(&session, sizeof session));
  session.pool = pool;
  OK(cf_memory_estimate_init(&estimate, sizeof estimate));
  OK(cf_model_estimate(context, &config, tiny.dtype, NULL, &session, &estimate));
  TEST_ASSERT_EQUAL_UINT64_MESSAGE(0, estimate.kv_bytes, "the pool has them already");
  TEST_ASSERT_GREATER_THAN(0, estimate.page_bytes);
  cf_kv_pool_destroy(pool);
  cf_model_destroy(model);
}

/* ---- Fingerprints ---- */

static uint64_t fingerprint_of(const struct tiny_model* description, const struct tensor_list* list) {
  cf_model* model = make_model_of(context, description, list, NULL);
  const uint64_t fingerprint = query_model(model).fingerprint;
  cf_model_destroy(model);
  return fingerprint;
}

static void test_fingerprints_of_equal_models_are_equal(void) {
  struct tensor_list again = tiny_model_tensors(&tiny);
  TEST_ASSERT_EQUAL_UINT64(fingerprint_of(&tiny, &tensors), fingerprint_of(&tiny, &again));
  free_tensors(&again);
}

static void test_fingerprints_tell_weights_apart(void) {
  const uint64_t fingerprint = fingerprint_of(&tiny, &tensors);
  for (size_t i = 0; i < tensors.count; i++) { /* the first value of any tensor */
    float* value = (float*)tensors.items[i].data;
    *value += 1;
    TEST_ASSERT_TRUE_MESSAGE(fingerprint_of(&tiny, &tensors) != fingerprint, tensors.items[i].name);
    *value -= 1;
  }
  for (int k = 0; k < HIDDEN * HIDDEN; k++) { /* two layers that change places */
    float* a = (float*)find_tensor(&tensors, "model.layers.0.self_attn.o_proj.weight")->data + k;
    float* b = (float*)find_tensor(&tensors, "model.layers.1.self_attn.o_proj.weight")->data + k;
    const float kept = *a;
    *a = *b;
    *b = kept;
  }
  TEST_ASSERT_TRUE(fingerprint_of(&tiny, &tensors) != fingerprint);
}

static void test_fingerprints_tell_configurations_apart(void) {
  const uint64_t fingerprint = fingerprint_of(&tiny, &tensors);
  struct tiny_model other = tiny;
  other.rope_theta = 20000;
  TEST_ASSERT_TRUE(fingerprint_of(&other, &tensors) != fingerprint);
  other = tiny;
  other.llama3_rope = 1;
  TEST_ASSERT_TRUE(fingerprint_of(&other, &tensors) != fingerprint);
  other = tiny;
  other.max_position_embeddings *= 2; /* a recommendation: results do not depend on it */
  TEST_ASSERT_EQUAL_UINT64(fingerprint, fingerprint_of(&other, &tensors));
  const cf_model_options rounded = options_for(CF_DTYPE_BF16);
  cf_model* model = make_model_of(context, &tiny, &tensors, &rounded);
  TEST_ASSERT_TRUE(query_model(model).fingerprint != fingerprint);
  cf_model_destroy(model);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_config_json_gives_the_description);
  RUN_TEST(test_a_model_keeps_its_description);
  RUN_TEST(test_descriptions_that_are_impossible);
  RUN_TEST(test_loading_by_layers_equals_loading_the_directory);
  RUN_TEST(test_grouped_heads_biases_and_tied_embeddings_by_layers);
  RUN_TEST(test_layers_and_tensors_in_any_order);
  RUN_TEST(test_strided_and_misaligned_tensors);
  RUN_TEST(test_fused_and_separate_qkv);
  RUN_TEST(test_descriptors_of_a_newer_caller);
  RUN_TEST(test_roles_that_are_missing);
  RUN_TEST(test_biases_that_are_missing);
  RUN_TEST(test_roles_given_twice);
  RUN_TEST(test_roles_that_do_not_belong_there);
  RUN_TEST(test_head_of_a_tied_model);
  RUN_TEST(test_fused_qkv_of_grouped_heads);
  RUN_TEST(test_shapes_that_are_wrong);
  RUN_TEST(test_strides_that_are_wrong);
  RUN_TEST(test_fields_that_are_wrong);
  RUN_TEST(test_dtypes_that_differ_within_a_matrix);
  RUN_TEST(test_arguments_that_are_wrong);
  RUN_TEST(test_sessions_need_every_layer_and_the_globals);
  RUN_TEST(test_query_counts_what_is_there);
  RUN_TEST(test_parameters_are_the_elements_of_the_tensors);
  RUN_TEST(test_weight_dtype_of_matrices_that_differ);
  RUN_TEST(test_a_layer_loaded_again_is_replaced);
  RUN_TEST(test_matrices_are_rounded_to_the_dtype_asked_for);
  RUN_TEST(test_widening_changes_no_result);
  RUN_TEST(test_values_that_f16_cannot_hold);
  RUN_TEST(test_a_directory_that_f16_cannot_hold);
  RUN_TEST(test_weight_dtypes_that_are_none);
  RUN_TEST(test_reload_takes_another_revision);
  RUN_TEST(test_reload_refuses_another_configuration);
  RUN_TEST(test_reload_of_what_cannot_be_read);
  RUN_TEST(test_progress_counts_the_bytes_of_the_weights);
  RUN_TEST(test_loading_is_cancelled_by_its_callback);
  RUN_TEST(test_loading_is_cancelled_by_its_flag);
  RUN_TEST(test_a_cancelled_reload_keeps_the_old_weights);
  RUN_TEST(test_estimates_are_exact);
  RUN_TEST(test_estimates_that_cannot_be_made);
  RUN_TEST(test_estimate_of_a_session_in_a_pool);
  RUN_TEST(test_fingerprints_of_equal_models_are_equal);
  RUN_TEST(test_fingerprints_tell_weights_apart);
  RUN_TEST(test_fingerprints_tell_configurations_apart);
  return UNITY_END();
}
