/* config.json: what of it becomes the model description, every spelling that transformers has used, and every refusal. */
#define _XOPEN_SOURCE 700

#include "unity.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "support/checkpoint_writer.h"
#include "support/expect_load.h"

static char* dir;

void setUp(void) { dir = make_temp_dir(); }

void tearDown(void) {
  remove_tree(dir);
  free(dir);
}

#define MEMBERS(...) ((const struct json_member[]){__VA_ARGS__, {NULL, NULL}})

/* The least that each family needs. */
static const struct json_member neox_base[] = {{"model_type", "\"gpt_neox\""},
                                               {"hidden_size", "256"},
                                               {"num_hidden_layers", "3"},
                                               {"num_attention_heads", "4"},
                                               {"intermediate_size", "1024"},
                                               {"vocab_size", "1000"},
                                               {NULL, NULL}};
static const struct json_member llama_base[] = {{"model_type", "\"llama\""},
                                                {"hidden_size", "256"},
                                                {"num_hidden_layers", "3"},
                                                {"num_attention_heads", "4"},
                                                {"intermediate_size", "688"},
                                                {"vocab_size", "1000"},
                                                {NULL, NULL}};

static cf_status read_status(const struct json_member* base, const struct json_member* changes, cf_model_config* config) {
  write_config(dir, base, changes);
  cf_model_config_init(config, sizeof *config);
  return cf_model_config_read(dir, config);
}

static cf_model_config read_ok(const struct json_member* base, const struct json_member* changes) {
  cf_model_config config;
  expect_status(CF_OK, NULL, read_status(base, changes, &config), changes ? changes->key : "base");
  return config;
}

/* Refused with this status and word; the message names the file, and the caller's struct is untouched. */
static void expect_refusal(const struct json_member* base, const struct json_member* changes, cf_status status, const char* word) {
  cf_model_config config, untouched;
  char what[512];
  snprintf(what, sizeof what, "%s: %s", changes->key, changes->value ? changes->value : "(removed)");
  cf_model_config_init(&untouched, sizeof untouched);
  const cf_status actual = read_status(base, changes, &config);
  expect_status(status, word, actual, what);
  expect_status(status, "config.json", actual, what);
  TEST_ASSERT_EQUAL_MEMORY_MESSAGE(&untouched, &config, sizeof config, what);
}

struct refusal {
  const char *key, *value; /* NULL: removed */
  cf_status status;
  const char* word;
};

static void expect_refusals(const struct json_member* base, const struct refusal* cases, size_t n) {
  for (size_t i = 0; i < n; i++) expect_refusal(base, MEMBERS({cases[i].key, cases[i].value}), cases[i].status, cases[i].word);
}
#define REFUSALS(base, cases) expect_refusals(base, cases, sizeof(cases) / sizeof *(cases))

/* ---- Published models ---- */

static void test_pythia_shapes(void) {
  static const struct {
    const char* name;
    int hidden, layers, heads, head_dim, vocab;
  } shapes[] = {
      {"14m", 128, 6, 4, 32, 50304},      {"31m", 256, 6, 8, 32, 50304},     {"70m", 512, 6, 8, 64, 50304},      {"160m", 768, 12, 12, 64, 50304},
      {"410m", 1024, 24, 16, 64, 50304},  {"1b", 2048, 16, 8, 256, 50304},   {"1.4b", 2048, 24, 16, 128, 50304}, {"2.8b", 2560, 32, 32, 80, 50304},
      {"6.9b", 4096, 32, 32, 128, 50432}, {"12b", 5120, 36, 40, 128, 50688},
  };
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    char hidden[16], layers[16], heads[16], inter[16], vocab[16];
    snprintf(hidden, sizeof hidden, "%d", shapes[i].hidden);
    snprintf(layers, sizeof layers, "%d", shapes[i].layers);
    snprintf(heads, sizeof heads, "%d", shapes[i].heads);
    snprintf(inter, sizeof inter, "%d", 4 * shapes[i].hidden);
    snprintf(vocab, sizeof vocab, "%d", shapes[i].vocab);
    const cf_model_config c = read_ok(
        MEMBERS({"architectures", "[\"GPTNeoXForCausalLM\"]"}, {"bos_token_id", "0"}, {"eos_token_id", "0"}, {"hidden_act", "\"gelu\""},
                {"hidden_size", hidden}, {"initializer_range", "0.02"}, {"intermediate_size", inter}, {"layer_norm_eps", "1e-05"},
                {"max_position_embeddings", "2048"}, {"model_type", "\"gpt_neox\""}, {"num_attention_heads", heads}, {"num_hidden_layers", layers},
                {"rotary_emb_base", "10000"}, {"rotary_pct", "0.25"}, {"tie_word_embeddings", "false"}, {"torch_dtype", "\"float16\""},
                {"transformers_version", "\"4.24.0\""}, {"use_cache", "true"}, {"use_parallel_residual", "true"}, {"vocab_size", vocab}),
        NULL);
    const char* name = shapes[i].name;
    TEST_ASSERT_EQUAL_INT_MESSAGE(CF_FAMILY_GPT_NEOX, c.family, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(CF_NORM_LAYER, c.norm, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(CF_ACTIVATION_GELU, c.activation, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(1, c.parallel_residual, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(1, c.attention_bias, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(1, c.mlp_bias, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(0, c.tied_embeddings, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(shapes[i].layers, c.n_layers, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(shapes[i].hidden, c.hidden_size, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(shapes[i].heads, c.n_heads, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(shapes[i].heads, c.n_kv_heads, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(shapes[i].head_dim, c.head_dim, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(shapes[i].head_dim / 4, c.rotary_dim, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(4 * shapes[i].hidden, c.intermediate_size, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(shapes[i].vocab, c.vocab_size, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(2048, c.max_position_embeddings, name);
    TEST_ASSERT_EQUAL_INT_MESSAGE(CF_ROPE_SCALING_NONE, c.rope_scaling, name);
    TEST_ASSERT_TRUE_MESSAGE(c.norm_eps == 1e-5 && c.rope_theta == 10000, name);
    TEST_ASSERT_TRUE_MESSAGE(c.bos_token == 0 && c.n_eos_tokens == 1 && c.eos_tokens[0] == 0, name);
  }
}

static void check_llama(const cf_model_config* c, int hidden, int layers, int heads, int kv_heads, int head_dim, int inter, int vocab, int context) {
  TEST_ASSERT_EQUAL_INT(CF_FAMILY_LLAMA, c->family);
  TEST_ASSERT_EQUAL_INT(CF_NORM_RMS, c->norm);
  TEST_ASSERT_EQUAL_INT(CF_ACTIVATION_SWIGLU, c->activation);
  TEST_ASSERT_EQUAL_INT(0, c->parallel_residual);
  TEST_ASSERT_EQUAL_INT(0, c->attention_bias);
  TEST_ASSERT_EQUAL_INT(0, c->mlp_bias);
  TEST_ASSERT_EQUAL_INT(hidden, c->hidden_size);
  TEST_ASSERT_EQUAL_INT(layers, c->n_layers);
  TEST_ASSERT_EQUAL_INT(heads, c->n_heads);
  TEST_ASSERT_EQUAL_INT(kv_heads, c->n_kv_heads);
  TEST_ASSERT_EQUAL_INT(head_dim, c->head_dim);
  TEST_ASSERT_EQUAL_INT(head_dim, c->rotary_dim);
  TEST_ASSERT_EQUAL_INT(inter, c->intermediate_size);
  TEST_ASSERT_EQUAL_INT(vocab, c->vocab_size);
  TEST_ASSERT_EQUAL_INT(context, c->max_position_embeddings);
  TEST_ASSERT_TRUE(c->norm_eps == 1e-5);
}

static void test_llama_2_7b(void) {
  const cf_model_config c =
      read_ok(MEMBERS({"architectures", "[\"LlamaForCausalLM\"]"}, {"bos_token_id", "1"}, {"eos_token_id", "2"}, {"hidden_act", "\"silu\""},
                      {"hidden_size", "4096"}, {"initializer_range", "0.02"}, {"intermediate_size", "11008"}, {"max_position_embeddings", "4096"},
                      {"model_type", "\"llama\""}, {"num_attention_heads", "32"}, {"num_hidden_layers", "32"}, {"num_key_value_heads", "32"},
                      {"pretraining_tp", "1"}, {"rms_norm_eps", "1e-05"}, {"rope_scaling", "null"}, {"tie_word_embeddings", "false"},
                      {"torch_dtype", "\"float16\""}, {"use_cache", "true"}, {"vocab_size", "32000"}),
              NULL);
  check_llama(&c, 4096, 32, 32, 32, 128, 11008, 32000, 4096);
  TEST_ASSERT_TRUE(c.rope_theta == 10000 && c.rope_scaling == CF_ROPE_SCALING_NONE && !c.tied_embeddings);
  TEST_ASSERT_TRUE(c.bos_token == 1 && c.n_eos_tokens == 1 && c.eos_tokens[0] == 2);
}

static void test_llama_3_2_1b(void) {
  const cf_model_config c = read_ok(
      MEMBERS({"architectures", "[\"LlamaForCausalLM\"]"}, {"attention_bias", "false"}, {"attention_dropout", "0.0"}, {"bos_token_id", "128000"},
              {"eos_token_id", "[128001, 128008, 128009]"}, {"head_dim", "64"}, {"hidden_act", "\"silu\""}, {"hidden_size", "2048"},
              {"intermediate_size", "8192"}, {"max_position_embeddings", "131072"}, {"mlp_bias", "false"}, {"model_type", "\"llama\""},
              {"num_attention_heads", "32"}, {"num_hidden_layers", "16"}, {"num_key_value_heads", "8"}, {"rms_norm_eps", "1e-05"},
              {"rope_scaling",
               "{\"factor\": 32.0, \"high_freq_factor\": 4.0, \"low_freq_factor\": 1.0, \"original_max_position_embeddings\": 8192, \"rope_type\": "
               "\"llama3\"}"},
              {"rope_theta", "500000.0"}, {"tie_word_embeddings", "true"}, {"vocab_size", "128256"}),
      NULL);
  check_llama(&c, 2048, 16, 32, 8, 64, 8192, 128256, 131072);
  TEST_ASSERT_TRUE(c.rope_theta == 500000 && c.rope_scaling == CF_ROPE_SCALING_LLAMA3 && c.tied_embeddings);
  TEST_ASSERT_TRUE(c.rope_factor == 32 && c.rope_low_freq_factor == 1 && c.rope_high_freq_factor == 4 && c.rope_original_max_position == 8192);
  const int32_t eos[3] = {128001, 128008, 128009};
  TEST_ASSERT_EQUAL_INT(128000, c.bos_token);
  TEST_ASSERT_EQUAL_INT(3, c.n_eos_tokens);
  TEST_ASSERT_EQUAL_INT32_ARRAY(eos, c.eos_tokens, 3);
}

static void test_tinyllama(void) {
  const cf_model_config c =
      read_ok(MEMBERS({"architectures", "[\"LlamaForCausalLM\"]"}, {"bos_token_id", "1"}, {"eos_token_id", "2"}, {"hidden_act", "\"silu\""},
                      {"hidden_size", "2048"}, {"intermediate_size", "5632"}, {"max_position_embeddings", "2048"}, {"model_type", "\"llama\""},
                      {"num_attention_heads", "32"}, {"num_hidden_layers", "22"}, {"num_key_value_heads", "4"}, {"rms_norm_eps", "1e-05"},
                      {"rope_scaling", "null"}, {"rope_theta", "10000.0"}, {"tie_word_embeddings", "false"}, {"vocab_size", "32000"}),
              NULL);
  check_llama(&c, 2048, 22, 32, 4, 64, 5632, 32000, 2048);
}

/* ---- Defaults, as transformers has them ---- */

static void test_gpt_neox_defaults(void) {
  const cf_model_config c = read_ok(neox_base, NULL);
  TEST_ASSERT_EQUAL_UINT32(sizeof c, c.struct_size);
  TEST_ASSERT_EQUAL_INT(CF_ACTIVATION_GELU, c.activation);
  TEST_ASSERT_EQUAL_INT(1, c.parallel_residual);
  TEST_ASSERT_EQUAL_INT(1, c.attention_bias);
  TEST_ASSERT_EQUAL_INT(1, c.mlp_bias);
  TEST_ASSERT_EQUAL_INT(0, c.tied_embeddings);
  TEST_ASSERT_EQUAL_INT(4, c.n_kv_heads);
  TEST_ASSERT_EQUAL_INT(64, c.head_dim);
  TEST_ASSERT_EQUAL_INT(16, c.rotary_dim);
  TEST_ASSERT_EQUAL_INT(2048, c.max_position_embeddings);
  TEST_ASSERT_TRUE(c.norm_eps == 1e-5 && c.rope_theta == 10000);
  TEST_ASSERT_TRUE(c.bos_token == 0 && c.n_eos_tokens == 1 && c.eos_tokens[0] == 2);
}

static void test_llama_defaults(void) {
  const cf_model_config c = read_ok(llama_base, NULL);
  TEST_ASSERT_EQUAL_INT(CF_ACTIVATION_SWIGLU, c.activation);
  TEST_ASSERT_EQUAL_INT(0, c.parallel_residual);
  TEST_ASSERT_EQUAL_INT(0, c.attention_bias);
  TEST_ASSERT_EQUAL_INT(0, c.mlp_bias);
  TEST_ASSERT_EQUAL_INT(0, c.tied_embeddings);
  TEST_ASSERT_EQUAL_INT(4, c.n_kv_heads);
  TEST_ASSERT_EQUAL_INT(64, c.head_dim);
  TEST_ASSERT_EQUAL_INT(64, c.rotary_dim);
  TEST_ASSERT_EQUAL_INT(2048, c.max_position_embeddings);
  TEST_ASSERT_TRUE(c.norm_eps == 1e-6 && c.rope_theta == 10000);
  TEST_ASSERT_TRUE(c.bos_token == 1 && c.n_eos_tokens == 1 && c.eos_tokens[0] == 2);
}

static void test_null_counts_as_absent(void) {
  const cf_model_config a = read_ok(llama_base, NULL);
  const cf_model_config b =
      read_ok(llama_base, MEMBERS({"architectures", "[]"}, {"head_dim", "null"}, {"num_key_value_heads", "null"}, {"rope_scaling", "null"},
                                  {"rope_parameters", "null"}, {"rope_theta", "null"}, {"attention_bias", "null"}, {"mlp_bias", "null"},
                                  {"tie_word_embeddings", "null"}, {"max_position_embeddings", "null"}, {"hidden_act", "null"},
                                  {"rms_norm_eps", "null"}, {"quantization_config", "null"}));
  TEST_ASSERT_EQUAL_MEMORY(&a, &b, sizeof a);
}

static void test_unknown_members_are_ignored(void) {
  const cf_model_config a = read_ok(neox_base, NULL);
  const cf_model_config b = read_ok(
      neox_base, MEMBERS({"attention_dropout", "0.1"}, {"transformers_version", "\"5.0.0\""}, {"something_new", "{\"deep\": [1, -2.5, null]}"}));
  TEST_ASSERT_EQUAL_MEMORY(&a, &b, sizeof a);
}

/* ---- What each family reads ---- */

static void test_gpt_neox_activations(void) {
  static const struct {
    const char* name;
    cf_activation activation;
  } cases[] = {{"\"gelu\"", CF_ACTIVATION_GELU},
               {"\"gelu_new\"", CF_ACTIVATION_GELU_TANH},
               {"\"gelu_fast\"", CF_ACTIVATION_GELU_TANH},
               {"\"gelu_pytorch_tanh\"", CF_ACTIVATION_GELU_TANH}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    TEST_ASSERT_EQUAL_INT_MESSAGE(cases[i].activation, read_ok(neox_base, MEMBERS({"hidden_act", cases[i].name})).activation, cases[i].name);
}

static void test_gpt_neox_switches(void) {
  const cf_model_config c =
      read_ok(neox_base, MEMBERS({"use_parallel_residual", "false"}, {"attention_bias", "false"}, {"tie_word_embeddings", "true"}));
  TEST_ASSERT_EQUAL_INT(0, c.parallel_residual);
  TEST_ASSERT_EQUAL_INT(0, c.attention_bias);
  TEST_ASSERT_EQUAL_INT(1, c.mlp_bias); /* always there in this family */
  TEST_ASSERT_EQUAL_INT(1, c.tied_embeddings);
}

static void test_gpt_neox_rotary_spellings(void) {
  cf_model_config c = read_ok(neox_base, MEMBERS({"rotary_pct", "0.5"}, {"rotary_emb_base", "20000"}));
  TEST_ASSERT_TRUE(c.rotary_dim == 32 && c.rope_theta == 20000);
  c = read_ok(neox_base, MEMBERS({"rotary_pct", "1.0"}, {"rope_theta", "30000.5"}));
  TEST_ASSERT_TRUE(c.rotary_dim == 64 && c.rope_theta == 30000.5);
  c = read_ok(neox_base, MEMBERS({"rotary_pct", "1"}, {"rotary_emb_base", "1e4"}, {"rope_theta", "10000"}));
  TEST_ASSERT_TRUE(c.rotary_dim == 64 && c.rope_theta == 10000);
  c = read_ok(neox_base, MEMBERS({"rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 5000, \"partial_rotary_factor\": 0.75}"}));
  TEST_ASSERT_TRUE(c.rotary_dim == 48 && c.rope_theta == 5000);
  c = read_ok(neox_base, MEMBERS({"rope_parameters", "{\"rope_type\": \"default\"}"}, {"rotary_emb_base", "700"}));
  TEST_ASSERT_TRUE(c.rotary_dim == 16 && c.rope_theta == 700);
  c = read_ok(neox_base, MEMBERS({"rotary_pct", "0.26"})); /* 16.64 is cut, as int() does it */
  TEST_ASSERT_EQUAL_INT(16, c.rotary_dim);
}

static void test_llama_switches(void) {
  const cf_model_config c =
      read_ok(llama_base, MEMBERS({"attention_bias", "true"}, {"mlp_bias", "true"}, {"tie_word_embeddings", "true"}, {"rms_norm_eps", "0.001"}));
  TEST_ASSERT_TRUE(c.attention_bias == 1 && c.mlp_bias == 1 && c.tied_embeddings == 1 && c.norm_eps == 0.001);
}

static void test_llama_heads(void) {
  TEST_ASSERT_EQUAL_INT(2, read_ok(llama_base, MEMBERS({"num_key_value_heads", "2"})).n_kv_heads);
  TEST_ASSERT_EQUAL_INT(1, read_ok(llama_base, MEMBERS({"num_key_value_heads", "1"})).n_kv_heads);
  TEST_ASSERT_EQUAL_INT(128, read_ok(llama_base, MEMBERS({"head_dim", "128"})).head_dim);
  const cf_model_config c = read_ok(llama_base, MEMBERS({"num_attention_heads", "3"}, {"head_dim", "96"})); /* need not divide hidden_size then */
  TEST_ASSERT_TRUE(c.n_heads == 3 && c.n_kv_heads == 3 && c.head_dim == 96 && c.rotary_dim == 96);
}

static void test_head_dims(void) {
  static const char* const dims[] = {"32", "64", "80", "96", "128", "256"};
  for (size_t i = 0; i < 6; i++) {
    TEST_ASSERT_EQUAL_INT(atoi(dims[i]), read_ok(llama_base, MEMBERS({"head_dim", dims[i]})).head_dim);
    TEST_ASSERT_EQUAL_INT(atoi(dims[i]), read_ok(neox_base, MEMBERS({"num_attention_heads", "1"}, {"hidden_size", dims[i]})).head_dim);
  }
  static const struct refusal cases[] = {
      {"head_dim", "16", CF_ERROR_UNSUPPORTED, "head_dim is 16"},
      {"head_dim", "48", CF_ERROR_UNSUPPORTED, "head_dim is 48"},
      {"head_dim", "512", CF_ERROR_UNSUPPORTED, "head_dim is 512"},
      {"num_attention_heads", "64", CF_ERROR_UNSUPPORTED, "head_dim is 4"},
  };
  REFUSALS(llama_base, cases);
}

static void test_llama3_rope_spellings(void) {
#define FREQUENCIES "\"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4.0"
  static const struct json_member spellings[][3] = {
      {{"rope_scaling", "{\"rope_type\": \"llama3\", " FREQUENCIES ", \"original_max_position_embeddings\": 512}"},
       {"rope_theta", "500000.0"},
       {NULL, NULL}},
      {{"rope_scaling", "{\"type\": \"llama3\", " FREQUENCIES ", \"original_max_position_embeddings\": 512}"}, {"rope_theta", "5e5"}, {NULL, NULL}},
      {{"rope_parameters", "{\"rope_type\": \"llama3\", \"rope_theta\": 500000, " FREQUENCIES ", \"original_max_position_embeddings\": 512}"},
       {NULL, NULL},
       {NULL, NULL}},
  };
  for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
    const cf_model_config c = read_ok(llama_base, spellings[i]);
    TEST_ASSERT_EQUAL_INT(CF_ROPE_SCALING_LLAMA3, c.rope_scaling);
    TEST_ASSERT_TRUE(c.rope_theta == 500000 && c.rope_factor == 8 && c.rope_low_freq_factor == 1 && c.rope_high_freq_factor == 4 &&
                     c.rope_original_max_position == 512);
  }
  /* left out, the original context is the context, as in transformers 5 */
  TEST_ASSERT_EQUAL_INT(2048,
                        read_ok(llama_base, MEMBERS({"rope_scaling", "{\"rope_type\": \"llama3\", " FREQUENCIES "}"})).rope_original_max_position);
}

static void test_default_rope_types(void) {
  TEST_ASSERT_EQUAL_INT(CF_ROPE_SCALING_NONE, read_ok(llama_base, MEMBERS({"rope_scaling", "{\"rope_type\": \"default\"}"})).rope_scaling);
  TEST_ASSERT_EQUAL_INT(CF_ROPE_SCALING_NONE, read_ok(llama_base, MEMBERS({"rope_scaling", "{}"})).rope_scaling);
  const cf_model_config c = read_ok(llama_base, MEMBERS({"rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 250000.0}"}));
  TEST_ASSERT_TRUE(c.rope_scaling == CF_ROPE_SCALING_NONE && c.rope_theta == 250000);
  TEST_ASSERT_EQUAL_INT(64, read_ok(llama_base, MEMBERS({"partial_rotary_factor", "1.0"})).rotary_dim);
}

static void test_special_tokens(void) {
  cf_model_config c = read_ok(llama_base, MEMBERS({"bos_token_id", "null"}, {"eos_token_id", "null"}));
  TEST_ASSERT_TRUE(c.bos_token == -1 && c.n_eos_tokens == 0);
  c = read_ok(llama_base, MEMBERS({"bos_token_id", "999"}, {"eos_token_id", "[]"}));
  TEST_ASSERT_TRUE(c.bos_token == 999 && c.n_eos_tokens == 0);
  c = read_ok(llama_base, MEMBERS({"eos_token_id", "[1,2,3,4,5,6,7,8]"}));
  TEST_ASSERT_TRUE(c.n_eos_tokens == 8 && c.eos_tokens[7] == 8);
  c = read_ok(llama_base, MEMBERS({"vocab_size", "2"})); /* a default that the vocabulary lacks is none */
  TEST_ASSERT_TRUE(c.bos_token == 1 && c.n_eos_tokens == 0);
  static const struct refusal cases[] = {
      {"bos_token_id", "1000", CF_ERROR_INVALID_FILE, "bos_token_id is 1000"},
      {"bos_token_id", "-1", CF_ERROR_INVALID_FILE, "bos_token_id"},
      {"bos_token_id", "\"<s>\"", CF_ERROR_INVALID_FILE, "bos_token_id"},
      {"eos_token_id", "1000", CF_ERROR_INVALID_FILE, "eos_token_id is 1000"},
      {"eos_token_id", "[1,-2]", CF_ERROR_INVALID_FILE, "eos_token_id"},
      {"eos_token_id", "[1,null]", CF_ERROR_INVALID_FILE, "eos_token_id"},
      {"eos_token_id", "2.0", CF_ERROR_INVALID_FILE, "eos_token_id"},
      {"eos_token_id", "[1,2,3,4,5,6,7,8,9]", CF_ERROR_UNSUPPORTED, "eos_token_id lists more than 8"},
  };
  REFUSALS(llama_base, cases);
}

/* ---- Refused because it is not built ---- */

static void test_unsupported_model_type(void) {
  static const struct refusal cases[] = {
      {"model_type", "\"gpt2\"", CF_ERROR_UNSUPPORTED, "'gpt2'"},
      {"model_type", "\"mistral\"", CF_ERROR_UNSUPPORTED, "'mistral'"},
      {"model_type", "\"Llama\"", CF_ERROR_UNSUPPORTED, "'Llama'"},
      {"model_type", NULL, CF_ERROR_INVALID_FILE, "model_type is missing"},
      {"model_type", "1", CF_ERROR_INVALID_FILE, "model_type is an unsigned integer"},
  };
  REFUSALS(llama_base, cases);
}

static void test_unsupported_architecture(void) {
  static const struct refusal cases[] = {
      {"architectures", "[\"LlamaForSequenceClassification\"]", CF_ERROR_UNSUPPORTED, "'LlamaForSequenceClassification'"},
      {"architectures", "[\"LlamaModel\"]", CF_ERROR_UNSUPPORTED, "'LlamaModel'"},
      {"architectures", "[\"GPTNeoXForCausalLM\"]", CF_ERROR_UNSUPPORTED, "'GPTNeoXForCausalLM'"},
      {"architectures", "\"LlamaForCausalLM\"", CF_ERROR_INVALID_FILE, "architectures is a string"},
      {"architectures", "[1]", CF_ERROR_INVALID_FILE, "architectures holds"},
  };
  REFUSALS(llama_base, cases);
  read_ok(llama_base, MEMBERS({"architectures", "[\"Other\", \"LlamaForCausalLM\"]"}));
}

static void test_unsupported_activation(void) {
  static const struct refusal neox[] = {
      {"hidden_act", "\"relu\"", CF_ERROR_UNSUPPORTED, "'relu'"},
      {"hidden_act", "\"silu\"", CF_ERROR_UNSUPPORTED, "'silu'"},
      {"hidden_act", "\"quick_gelu\"", CF_ERROR_UNSUPPORTED, "'quick_gelu'"},
      {"hidden_act", "1", CF_ERROR_INVALID_FILE, "hidden_act"},
  };
  static const struct refusal llama[] = {
      {"hidden_act", "\"gelu\"", CF_ERROR_UNSUPPORTED, "'gelu'"},
      {"hidden_act", "\"relu\"", CF_ERROR_UNSUPPORTED, "'relu'"},
  };
  REFUSALS(neox_base, neox);
  REFUSALS(llama_base, llama);
}

static void test_unsupported_rope(void) {
  static const struct refusal llama[] = {
      {"rope_scaling", "{\"rope_type\": \"linear\", \"factor\": 2.0}", CF_ERROR_UNSUPPORTED, "'linear'"},
      {"rope_scaling", "{\"type\": \"dynamic\", \"factor\": 2.0}", CF_ERROR_UNSUPPORTED, "'dynamic'"},
      {"rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 2.0}", CF_ERROR_UNSUPPORTED, "'yarn'"},
      {"rope_parameters", "{\"rope_type\": \"longrope\", \"rope_theta\": 10000}", CF_ERROR_UNSUPPORTED, "'longrope'"},
      {"partial_rotary_factor", "0.5", CF_ERROR_UNSUPPORTED, "partial_rotary_factor"},
      {"rope_parameters", "{\"partial_rotary_factor\": 0.5}", CF_ERROR_UNSUPPORTED, "partial_rotary_factor"},
  };
  static const struct refusal neox[] = {
      {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2.0}", CF_ERROR_UNSUPPORTED, "'linear'"},
      {"rope_scaling", "{\"rope_type\": \"llama3\", " FREQUENCIES "}", CF_ERROR_UNSUPPORTED, "'llama3'"},
  };
  REFUSALS(llama_base, llama);
  REFUSALS(neox_base, neox);
}

static void test_unsupported_quantisation(void) {
  static const struct refusal cases[] = {
      {"quantization_config", "{\"quant_method\": \"gptq\", \"bits\": 4}", CF_ERROR_UNSUPPORTED, "quantization_config"}};
  REFUSALS(llama_base, cases);
  REFUSALS(neox_base, cases);
}

/* ---- Refused because it cannot be ---- */

static void test_sizes(void) {
  static const char* const keys[] = {"hidden_size", "num_hidden_layers",       "num_attention_heads", "intermediate_size",
                                     "vocab_size",  "max_position_embeddings", "num_key_value_heads", "head_dim"};
  static const char* const values[] = {
      "0",      "1048577", "2147483648", "4294967297", "18446744073709551615", "18446744073709551616", "-1", "-0", "1.0", "1e3",
      "\"64\"", "true",    "[64]",       "{}"};
  for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
    for (size_t v = 0; v < sizeof values / sizeof *values; v++)
      expect_refusal(llama_base, MEMBERS({keys[k], values[v]}), CF_ERROR_INVALID_FILE, keys[k]);
  for (size_t k = 0; k < 5; k++) {
    expect_refusal(llama_base, MEMBERS({keys[k], NULL}), CF_ERROR_INVALID_FILE, keys[k]);
    expect_refusal(neox_base, MEMBERS({keys[k], NULL}), CF_ERROR_INVALID_FILE, "is missing");
    expect_refusal(neox_base, MEMBERS({keys[k], "null"}), CF_ERROR_INVALID_FILE, "is missing");
  }
}

/* The caps are what keeps layers * context * KV, and every other product, from overflowing. */
static void test_caps(void) {
  const cf_model_config c =
      read_ok(llama_base, MEMBERS({"num_hidden_layers", "1024"}, {"hidden_size", "1048576"}, {"num_attention_heads", "1048576"}, {"head_dim", "256"},
                                  {"intermediate_size", "1048576"}, {"vocab_size", "1048576"}, {"max_position_embeddings", "1048576"}));
  TEST_ASSERT_TRUE(c.n_layers == 1024 && c.n_kv_heads == 1 << 20 && c.max_position_embeddings == 1 << 20);
  expect_refusal(llama_base, MEMBERS({"num_hidden_layers", "1025"}), CF_ERROR_INVALID_FILE, "num_hidden_layers is 1025");
  expect_refusal(llama_base, MEMBERS({"max_position_embeddings", "1048577"}, {"num_hidden_layers", "1024"}), CF_ERROR_INVALID_FILE,
                 "max_position_embeddings");
}

static void test_heads_do_not_divide_hidden_size(void) {
  static const struct refusal cases[] = {
      {"num_attention_heads", "3", CF_ERROR_INVALID_FILE, "num_attention_heads (3) does not divide hidden_size (256)"}};
  REFUSALS(llama_base, cases);
  REFUSALS(neox_base, cases);
  expect_refusal(neox_base, MEMBERS({"head_dim", "128"}), CF_ERROR_INVALID_FILE, "hidden_size");
}

static void test_kv_heads_do_not_divide_heads(void) {
  static const struct refusal cases[] = {
      {"num_key_value_heads", "3", CF_ERROR_INVALID_FILE, "num_key_value_heads (3) does not divide num_attention_heads (4)"},
      {"num_key_value_heads", "8", CF_ERROR_INVALID_FILE, "num_key_value_heads"},
  };
  REFUSALS(llama_base, cases);
}

static void test_rotary_dimensions(void) {
  static const struct refusal cases[] = {
      {"rotary_pct", "1.5", CF_ERROR_INVALID_FILE, "rotary_pct"}, /* more than head_dim */
      {"rotary_pct", "0", CF_ERROR_INVALID_FILE, "rotary_pct"},   /* none */
      {"rotary_pct", "-0.25", CF_ERROR_INVALID_FILE, "rotary_pct"},
      {"rotary_pct", "0.05", CF_ERROR_INVALID_FILE, "expected an even"}, /* 3 of 64 */
      {"rotary_pct", "0.02", CF_ERROR_INVALID_FILE, "expected an even"}, /* 1 of 64 */
      {"rotary_pct", "0.01", CF_ERROR_INVALID_FILE, "expected an even"}, /* 0 of 64 */
      {"rotary_pct", "\"0.25\"", CF_ERROR_INVALID_FILE, "rotary_pct"},
      {"rotary_pct", "NaN", CF_ERROR_INVALID_FILE, "not valid JSON"},
      {"rope_parameters", "{\"partial_rotary_factor\": 2}", CF_ERROR_INVALID_FILE, "partial_rotary_factor"},
  };
  REFUSALS(neox_base, cases);
}

static void test_eps(void) {
  static const char* const values[] = {"0", "0.0", "-1e-5", "NaN", "Infinity", "-Infinity", "1e999", "\"1e-5\"", "false", "[]"};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    const int is_json = strchr(values[i], 'N') == NULL && strchr(values[i], 'I') == NULL && strcmp(values[i], "1e999") != 0;
    expect_refusal(neox_base, MEMBERS({"layer_norm_eps", values[i]}), CF_ERROR_INVALID_FILE, is_json ? "layer_norm_eps" : "not valid JSON");
    expect_refusal(llama_base, MEMBERS({"rms_norm_eps", values[i]}), CF_ERROR_INVALID_FILE, is_json ? "rms_norm_eps" : "not valid JSON");
  }
}

static void test_theta(void) {
  static const char* const values[] = {"0", "0.0", "-10000", "NaN", "Infinity", "1e999", "\"10000\"", "true"};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    const int is_json = strchr(values[i], 'N') == NULL && strchr(values[i], 'I') == NULL && strcmp(values[i], "1e999") != 0;
    char nested[64];
    snprintf(nested, sizeof nested, "{\"rope_theta\": %s}", values[i]);
    expect_refusal(neox_base, MEMBERS({"rotary_emb_base", values[i]}), CF_ERROR_INVALID_FILE, is_json ? "rotary_emb_base" : "not valid JSON");
    expect_refusal(llama_base, MEMBERS({"rope_theta", values[i]}), CF_ERROR_INVALID_FILE, is_json ? "rope_theta" : "not valid JSON");
    expect_refusal(llama_base, MEMBERS({"rope_parameters", nested}), CF_ERROR_INVALID_FILE, is_json ? "rope_theta" : "not valid JSON");
  }
}

/* What transformers reads from another place than it is written in. */
static void test_keys_in_another_place(void) {
  expect_refusal(neox_base, MEMBERS({"partial_rotary_factor", "1.0"}), CF_ERROR_UNSUPPORTED, "rotary_pct");
  TEST_ASSERT_EQUAL_INT(2048 / 4, read_ok(llama_base, MEMBERS({"original_max_position_embeddings", "512"},
                                                              {"rope_scaling", "{\"rope_type\": \"llama3\", " FREQUENCIES "}"}))
                                      .rope_original_max_position);
  expect_refusal(llama_base,
                 MEMBERS({"original_max_position_embeddings", "256"},
                         {"rope_scaling", "{\"rope_type\": \"llama3\", " FREQUENCIES ", \"original_max_position_embeddings\": 512}"}),
                 CF_ERROR_INVALID_FILE, "contradict");
}

static void test_contradictions(void) {
  expect_refusal(neox_base, MEMBERS({"rotary_emb_base", "10000"}, {"rope_theta", "20000"}), CF_ERROR_INVALID_FILE, "contradict");
  expect_refusal(neox_base, MEMBERS({"rotary_pct", "0.25"}, {"rope_parameters", "{\"partial_rotary_factor\": 0.5}"}), CF_ERROR_INVALID_FILE,
                 "contradict");
  expect_refusal(llama_base, MEMBERS({"rope_theta", "10000"}, {"rope_parameters", "{\"rope_theta\": 500000}"}), CF_ERROR_INVALID_FILE, "contradict");
  expect_refusal(llama_base, MEMBERS({"rope_scaling", "{\"rope_type\": \"default\"}"}, {"rope_parameters", "{\"rope_theta\": 500000}"}),
                 CF_ERROR_INVALID_FILE, "both given");
}

static void test_llama3_rope_is_broken(void) {
#define LLAMA3(rest) "{\"rope_type\": \"llama3\", \"original_max_position_embeddings\": 512, " rest "}"
  static const struct refusal cases[] = {
      {"rope_scaling", LLAMA3("\"low_freq_factor\": 1, \"high_freq_factor\": 4"), CF_ERROR_INVALID_FILE, "rope_scaling.factor is missing"},
      {"rope_scaling", LLAMA3("\"factor\": 8, \"high_freq_factor\": 4"), CF_ERROR_INVALID_FILE, "low_freq_factor is missing"},
      {"rope_scaling", LLAMA3("\"factor\": 8, \"low_freq_factor\": 1"), CF_ERROR_INVALID_FILE, "high_freq_factor is missing"},
      {"rope_scaling", LLAMA3("\"factor\": 0, \"low_freq_factor\": 1, \"high_freq_factor\": 4"), CF_ERROR_INVALID_FILE, "factor is 0"},
      {"rope_scaling", LLAMA3("\"factor\": 8, \"low_freq_factor\": -1, \"high_freq_factor\": 4"), CF_ERROR_INVALID_FILE, "low_freq_factor is -1"},
      {"rope_scaling", LLAMA3("\"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4"), CF_ERROR_INVALID_FILE, "must be above"},
      {"rope_scaling", "{\"rope_type\": \"llama3\", " FREQUENCIES ", \"original_max_position_embeddings\": 0}", CF_ERROR_INVALID_FILE,
       "original_max_position_embeddings is 0"},
      {"rope_scaling", "{\"rope_type\": 3}", CF_ERROR_INVALID_FILE, "rope_type"},
      {"rope_scaling", "\"llama3\"", CF_ERROR_INVALID_FILE, "rope_scaling is a string"},
  };
  REFUSALS(llama_base, cases);
}

static void test_flags(void) {
  static const struct refusal neox[] = {
      {"use_parallel_residual", "1", CF_ERROR_INVALID_FILE, "use_parallel_residual"},
      {"attention_bias", "\"true\"", CF_ERROR_INVALID_FILE, "attention_bias"},
      {"tie_word_embeddings", "0", CF_ERROR_INVALID_FILE, "tie_word_embeddings"},
  };
  static const struct refusal llama[] = {{"mlp_bias", "1.0", CF_ERROR_INVALID_FILE, "mlp_bias"}};
  REFUSALS(neox_base, neox);
  REFUSALS(llama_base, llama);
}

/* ---- A description that does not come from a file: cf_model_create ---- */

static void expect_create(cf_model_config config, cf_status status, const char* word, const char* what) {
  cf_context* context = make_cpu_context(NULL, NULL);
  cf_model* model = NULL;
  const cf_status actual = cf_model_create(context, &config, NULL, &model);
  if (actual == CF_OK) cf_model_destroy(model);
  cf_context_destroy(context);
  expect_status(status, word, actual, what);
}

static void test_integers_of_a_callers_description(void) {
#define FIELD(name, value) \
  { #name, offsetof(cf_model_config, name), value }
  static const struct {
    const char* name;
    size_t offset;
    int32_t value;
  } cases[] = {
      FIELD(family, 0),
      FIELD(family, 3),
      FIELD(norm, 0),
      FIELD(norm, 3),
      FIELD(activation, 0),
      FIELD(activation, 4),
      FIELD(parallel_residual, 2),
      FIELD(attention_bias, -1),
      FIELD(mlp_bias, 2),
      FIELD(tied_embeddings, 2),
      FIELD(n_layers, 0),
      FIELD(n_layers, 1025),
      FIELD(hidden_size, 0),
      FIELD(hidden_size, (1 << 20) + 1),
      FIELD(n_heads, -1),
      FIELD(n_kv_heads, 0),
      FIELD(n_kv_heads, 3),
      FIELD(n_kv_heads, 8),
      FIELD(head_dim, 0),
      FIELD(rotary_dim, 0),
      FIELD(rotary_dim, 31),
      FIELD(rotary_dim, 66),
      FIELD(intermediate_size, INT32_MIN),
      FIELD(vocab_size, INT32_MAX),
      FIELD(max_position_embeddings, 0),
      FIELD(rope_scaling, -1),
      FIELD(rope_scaling, 2),
      FIELD(rope_original_max_position, 1),
      FIELD(bos_token, -2),
      FIELD(bos_token, 1000),
      FIELD(n_eos_tokens, -1),
      FIELD(n_eos_tokens, 9),
      FIELD(eos_tokens, -1),
      FIELD(eos_tokens, 1000),
      FIELD(reserved, 1),
  };
  const cf_model_config good = read_ok(llama_base, NULL);
  expect_create(good, CF_OK, NULL, "as read");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    cf_model_config bad = good;
    char what[96];
    memcpy((char*)&bad + cases[i].offset, &cases[i].value, sizeof cases[i].value);
    snprintf(what, sizeof what, "%s = %d", cases[i].name, (int)cases[i].value);
    expect_create(bad, CF_ERROR_INVALID_ARGUMENT, cases[i].name, what);
  }
  cf_model_config odd = good;
  odd.head_dim = 48;
  odd.rotary_dim = 48;
  expect_create(odd, CF_ERROR_UNSUPPORTED, "head_dim is 48", "a head_dim without kernels");
}

static void test_reals_of_a_callers_description(void) {
  static const struct {
    const char* name;
    size_t offset;
    double value;
  } cases[] = {
      FIELD(norm_eps, 0),
      FIELD(norm_eps, -1e-5),
      FIELD(norm_eps, NAN),
      FIELD(norm_eps, INFINITY),
      FIELD(rope_theta, 0),
      FIELD(rope_theta, -1),
      FIELD(rope_theta, NAN),
      FIELD(rope_theta, INFINITY),
      FIELD(rope_factor, 0),
      FIELD(rope_factor, NAN),
      FIELD(rope_low_freq_factor, 0),
      FIELD(rope_low_freq_factor, 4), /* not below high_freq_factor */
      FIELD(rope_high_freq_factor, -4),
      FIELD(rope_high_freq_factor, INFINITY),
  };
#undef FIELD
  const cf_model_config good = read_ok(llama_base, MEMBERS({"rope_scaling", "{\"rope_type\": \"llama3\", " FREQUENCIES "}"}));
  expect_create(good, CF_OK, NULL, "as read");
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    cf_model_config bad = good;
    memcpy((char*)&bad + cases[i].offset, &cases[i].value, sizeof cases[i].value);
    expect_create(bad, CF_ERROR_INVALID_ARGUMENT, cases[i].name, cases[i].name);
  }
  cf_model_config unscaled = good; /* llama3's fields without llama3 */
  unscaled.rope_scaling = CF_ROPE_SCALING_NONE;
  expect_create(unscaled, CF_ERROR_INVALID_ARGUMENT, "rope_factor is 8, expected 0", "fields of another scaling");
}

/* ---- The file ---- */

static void expect_config_text(const char* text, size_t n, const char* word) {
  cf_model_config config;
  write_file(dir, "config.json", text, n);
  cf_model_config_init(&config, sizeof config);
  expect_status(CF_ERROR_INVALID_FILE, word, cf_model_config_read(dir, &config), word);
}
#define EXPECT_TEXT(literal, word) expect_config_text(literal, sizeof(literal) - 1, word)

static void test_config_is_not_strict_json(void) {
  EXPECT_TEXT("", "unexpected end of input");
  EXPECT_TEXT("[]", "is an array, expected an object");
  EXPECT_TEXT("null", "is null, expected an object");
  EXPECT_TEXT("{\"model_type\": \"llama\",}", "not valid JSON");
  EXPECT_TEXT("{\"model_type\": \"llama\"} x", "not valid JSON");
  EXPECT_TEXT("{\"model_type\": \"llama\"}\0", "NUL");
  EXPECT_TEXT("\xef\xbb\xbf{\"model_type\": \"llama\"}", "byte order mark");
  EXPECT_TEXT("{\"model_type\": \"llama\", \"model_type\": \"llama\"}", "duplicate key 'model_type'");
  EXPECT_TEXT("{\"other\": [{\"a\": 1, \"a\": 1}]}", "duplicate key 'a'");
  EXPECT_TEXT("{\"model_type\": \"\xff\"}", "UTF-8");
  EXPECT_TEXT("// llama\n{}", "not valid JSON");
}

static void test_config_is_too_long(void) {
  const size_t n = (1u << 20) + 1;
  char* text = (char*)malloc(n);
  memset(text, ' ', n);
  expect_config_text(text, n, "more than the limit");
  free(text);
}

static void test_config_is_missing(void) {
  cf_model_config config;
  cf_model_config_init(&config, sizeof config);
  expect_status(CF_ERROR_IO, "config.json", cf_model_config_read(dir, &config), "empty folder");
  expect_status(CF_ERROR_IO, "config.json", cf_model_config_read(path_in(dir, "nowhere"), &config), "no folder");
  expect_status(CF_ERROR_INVALID_ARGUMENT, "directory is empty", cf_model_config_read("", &config), "empty path");
}

static void test_config_is_no_regular_file(void) {
  cf_model_config config;
  cf_model_config_init(&config, sizeof config);
  TEST_ASSERT_EQUAL_INT(0, mkdir(path_in(dir, "config.json"), 0700));
  expect_status(CF_ERROR_IO, "not a regular file", cf_model_config_read(dir, &config), "a folder");
  TEST_ASSERT_EQUAL_INT(0, remove(path_in(dir, "config.json")));
  TEST_ASSERT_EQUAL_INT(0, mkfifo(path_in(dir, "config.json"), 0600));
  expect_status(CF_ERROR_IO, "not a regular file", cf_model_config_read(dir, &config), "a FIFO"); /* and does not wait for a writer */
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_pythia_shapes);
  RUN_TEST(test_llama_2_7b);
  RUN_TEST(test_llama_3_2_1b);
  RUN_TEST(test_tinyllama);
  RUN_TEST(test_gpt_neox_defaults);
  RUN_TEST(test_llama_defaults);
  RUN_TEST(test_null_counts_as_absent);
  RUN_TEST(test_unknown_members_are_ignored);
  RUN_TEST(test_gpt_neox_activations);
  RUN_TEST(test_gpt_neox_switches);
  RUN_TEST(test_gpt_neox_rotary_spellings);
  RUN_TEST(test_llama_switches);
  RUN_TEST(test_llama_heads);
  RUN_TEST(test_head_dims);
  RUN_TEST(test_llama3_rope_spellings);
  RUN_TEST(test_default_rope_types);
  RUN_TEST(test_special_tokens);
  RUN_TEST(test_unsupported_model_type);
  RUN_TEST(test_unsupported_architecture);
  RUN_TEST(test_unsupported_activation);
  RUN_TEST(test_unsupported_rope);
  RUN_TEST(test_unsupported_quantisation);
  RUN_TEST(test_sizes);
  RUN_TEST(test_caps);
  RUN_TEST(test_heads_do_not_divide_hidden_size);
  RUN_TEST(test_kv_heads_do_not_divide_heads);
  RUN_TEST(test_rotary_dimensions);
  RUN_TEST(test_eps);
  RUN_TEST(test_theta);
  RUN_TEST(test_keys_in_another_place);
  RUN_TEST(test_contradictions);
  RUN_TEST(test_llama3_rope_is_broken);
  RUN_TEST(test_flags);
  RUN_TEST(test_integers_of_a_callers_description);
  RUN_TEST(test_reals_of_a_callers_description);
  RUN_TEST(test_config_is_not_strict_json);
  RUN_TEST(test_config_is_too_long);
  RUN_TEST(test_config_is_missing);
  RUN_TEST(test_config_is_no_regular_file);
  return UNITY_END();
}
