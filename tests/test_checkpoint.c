/* Whole directories: which files are read, how shards and index must agree, and that the tensors are what the configuration asks for. */
#define _XOPEN_SOURCE 700

#include "unity.h"

#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "support/checkpoint_writer.h"
#include "support/expect_load.h"

static char* dir;
static struct tiny_model neox, llama;
static struct tensor_list tensors;

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

void setUp(void) {
  dir = make_temp_dir();
  tiny_model_init(&neox, CF_FAMILY_GPT_NEOX);
  tiny_model_init(&llama, CF_FAMILY_LLAMA);
}

void tearDown(void) {
  free_tensors(&tensors);
  remove_tree(dir);
  free(dir);
}

static void start_with(const struct tiny_model* model) { /* a configuration on disk, its tensors to be changed and written */
  write_model_config(dir, model, NULL);
  free_tensors(&tensors);
  tensors = tiny_model_tensors(model);
}

static cf_model_info load_info(const char* from, const char* what) {
  cf_context* context = make_cpu_context(NULL, NULL);
  cf_model* model = NULL;
  cf_model_info info;
  cf_model_info_init(&info, sizeof info);
  const cf_status status = cf_model_load(context, from, NULL, &model);
  if (status == CF_OK) {
    TEST_ASSERT_EQUAL_INT32_MESSAGE(CF_OK, cf_model_query(model, &info), what);
    cf_model_destroy(model);
  }
  cf_context_destroy(context);
  expect_status(CF_OK, NULL, status, what);
  return info;
}

/* ---- Good checkpoints ---- */

static uint64_t count_elements(const struct tiny_model* model) {
  struct tensor_list list = tiny_model_tensors(model);
  uint64_t n = 0;
  for (size_t i = 0; i < list.count; i++) {
    uint64_t elements = 1;
    for (int d = 0; d < list.items[i].rank; d++) elements *= list.items[i].shape[d];
    n += elements;
  }
  free_tensors(&list);
  return n;
}

static void expect_loads(const struct tiny_model* model, const char* what) {
  write_checkpoint(dir, model);
  const cf_model_info info = load_info(dir, what);
  TEST_ASSERT_EQUAL_INT_MESSAGE(model->n_layers, info.n_layers_loaded, what);
  TEST_ASSERT_EQUAL_INT_MESSAGE(1, info.globals_loaded, what);
  TEST_ASSERT_EQUAL_INT_MESSAGE(model->dtype, info.weight_dtype, what);
  if (!model->unused_tensors) TEST_ASSERT_EQUAL_UINT64_MESSAGE(count_elements(model), info.parameters, what);
  remove_tree(dir); /* the next one starts with an empty folder */
  TEST_ASSERT_EQUAL_INT(0, mkdir(dir, 0700));
}

static void test_dtypes(void) {
  for (cf_dtype dtype = CF_DTYPE_F32; dtype <= CF_DTYPE_BF16; dtype++) {
    neox.dtype = llama.dtype = dtype;
    expect_loads(&neox, "gpt_neox");
    expect_loads(&llama, "llama");
  }
}

static void test_gpt_neox_variants(void) {
  struct tiny_model m = neox;
  m.parallel_residual = 0;
  expect_loads(&m, "sequential residual");
  m = neox;
  m.attention_bias = 0;
  expect_loads(&m, "no attention bias");
  m = neox;
  m.tied_embeddings = 1;
  expect_loads(&m, "tied");
  m = neox;
  m.unused_tensors = 1;
  expect_loads(&m, "masks and frequencies");
  m = neox;
  m.hidden_act = "gelu_fast";
  m.rotary_pct = 1;
  expect_loads(&m, "gelu_fast, whole heads rotate");
}

static void test_llama_variants(void) {
  struct tiny_model m = llama;
  m.n_heads = 4;
  m.n_kv_heads = 2;
  expect_loads(&m, "grouped queries, 4 heads of 32 on hidden size 64");
  m.n_kv_heads = 1;
  expect_loads(&m, "one KV head");
  m = llama;
  m.attention_bias = m.mlp_bias = 1;
  expect_loads(&m, "biases");
  m = llama;
  m.tied_embeddings = m.llama3_rope = 1;
  expect_loads(&m, "tied, llama3 rope");
  m = llama;
  m.unused_tensors = 1;
  expect_loads(&m, "frequencies");
}

static void test_head_dims(void) {
  static const int dims[] = {32, 64, 80, 96, 128, 256};
  for (size_t i = 0; i < 6; i++) {
    llama.head_dim = neox.head_dim = dims[i];
    neox.hidden_size = neox.n_heads * dims[i];
    expect_loads(&llama, "llama");
    expect_loads(&neox, "gpt_neox");
  }
}

static void test_head_under_its_newer_name(void) {
  start_with(&neox);
  write_weights(dir, &tensors, 1);
  const uint64_t before = load_info(dir, "embed_out").fingerprint;
  strcpy(find_tensor(&tensors, "embed_out.weight")->name, "lm_head.weight");
  write_weights(dir, &tensors, 1);
  TEST_ASSERT_EQUAL_UINT64(before, load_info(dir, "lm_head").fingerprint);
}

static void test_shards_are_the_same_model(void) {
  write_checkpoint(dir, &llama);
  const cf_model_info single = load_info(dir, "one file");
  remove(path_in(dir, SINGLE));
  llama.n_shards = 3;
  write_checkpoint(dir, &llama);
  const cf_model_info sharded = load_info(dir, "three shards");
  TEST_ASSERT_EQUAL_UINT64(single.fingerprint, sharded.fingerprint);
  TEST_ASSERT_EQUAL_UINT64(single.weights_bytes, sharded.weights_bytes);
  TEST_ASSERT_NOT_EQUAL(0, single.fingerprint);
}

static void test_single_file_wins_over_an_index(void) { /* as in transformers */
  write_checkpoint(dir, &llama);
  const uint64_t single = load_info(dir, "one file").fingerprint;
  write_text(dir, INDEX, "not even JSON");
  TEST_ASSERT_EQUAL_UINT64(single, load_info(dir, "a broken index beside it").fingerprint);
}

/* What the Hugging Face cache looks like: snapshots/REVISION/NAME -> ../../blobs/HASH. */
static void test_links_into_blobs(void) {
  const char* const names[] = {"config.json", INDEX, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"};
  const char* const blobs[] = {"b0", "b1", "b2", "b3"};
  TEST_ASSERT_EQUAL_INT(0, mkdir(path_in(dir, "blobs"), 0700));
  TEST_ASSERT_EQUAL_INT(0, mkdir(path_in(dir, "snapshots"), 0700));
  char snapshot[4096], target[64];
  snprintf(snapshot, sizeof snapshot, "%s", path_in(dir, "snapshots/abc"));
  TEST_ASSERT_EQUAL_INT(0, mkdir(snapshot, 0700));
  llama.n_shards = 2;
  write_checkpoint(snapshot, &llama);
  for (size_t i = 0; i < 4; i++) {
    TEST_ASSERT_EQUAL_INT(0, rename(path_in(snapshot, names[i]), path_in(path_in(dir, "blobs"), blobs[i])));
    snprintf(target, sizeof target, "../../blobs/%s", blobs[i]);
    TEST_ASSERT_EQUAL_INT(0, symlink(target, path_in(snapshot, names[i])));
  }
  TEST_ASSERT_EQUAL_INT(2, load_info(snapshot, "links").n_layers_loaded);
  remove(path_in(dir, "blobs/b3"));
  expect_load(snapshot, CF_ERROR_IO, "model-00002-of-00002.safetensors", "a dangling link");
}

/* ---- Which files there are ---- */

static void test_no_weights(void) {
  write_model_config(dir, &llama, NULL);
  expect_load(dir, CF_ERROR_IO, "holds no weights", "config.json only");
}

static void test_only_bin_files(void) {
  write_model_config(dir, &llama, NULL);
  write_text(dir, "pytorch_model.bin", "PK");
  expect_load(dir, CF_ERROR_UNSUPPORTED, "'pytorch_model.bin'", "names the file");
  expect_load(dir, CF_ERROR_UNSUPPORTED, "safe_serialization=True", "says what to do");
  remove(path_in(dir, "pytorch_model.bin"));
  write_text(dir, "pytorch_model-00001-of-00002.bin", "PK");
  write_text(dir, "pytorch_model-00002-of-00002.bin", "PK");
  expect_load(dir, CF_ERROR_UNSUPPORTED, "'pytorch_model-00001-of-00002.bin'", "shards");
}

static void test_no_directory(void) {
  expect_load(path_in(dir, "nowhere"), CF_ERROR_IO, "nowhere/config.json", "no such folder");
  write_text(dir, "file", "");
  expect_load(path_in(dir, "file"), CF_ERROR_IO, "file/config.json", "a file");
}

static void test_weights_are_no_regular_file(void) {
  write_model_config(dir, &llama, NULL);
  TEST_ASSERT_EQUAL_INT(0, mkdir(path_in(dir, SINGLE), 0700));
  expect_load(dir, CF_ERROR_IO, "not a regular file", "a folder");
  remove(path_in(dir, SINGLE));
  TEST_ASSERT_EQUAL_INT(0, mkfifo(path_in(dir, SINGLE), 0600));
  expect_load(dir, CF_ERROR_IO, "not a regular file", "a FIFO");
  remove(path_in(dir, SINGLE));
  TEST_ASSERT_EQUAL_INT(0, symlink("/dev/zero", path_in(dir, SINGLE)));
  expect_load(dir, CF_ERROR_IO, "not a regular file", "a link to a device");
}

static void test_unreadable_file(void) {
  write_checkpoint(dir, &llama);
  TEST_ASSERT_EQUAL_INT(0, chmod(path_in(dir, SINGLE), 0));
  if (access(path_in(dir, SINGLE), R_OK) == 0) TEST_IGNORE_MESSAGE("this user may read everything");
  expect_load(dir, CF_ERROR_IO, SINGLE, "no permission");
}

/* ---- Index and shards ---- */

static void start_sharded(void) {
  llama.n_shards = 2;
  start_with(&llama);
  write_weights(dir, &tensors, 2);
}

static void test_index_is_malformed(void) {
  static const struct {
    const char *text, *word;
  } cases[] = {
      {"", "not valid JSON"},
      {"{\"weight_map\": {},}", "not valid JSON"},
      {"{\"weight_map\": {\"a\": \"f\", \"a\": \"f\"}}", "duplicate key 'a'"},
      {"[]", "weight_map is missing"},
      {"{\"metadata\": {}}", "weight_map is missing"},
      {"{\"weight_map\": []}", "weight_map is an array"},
      {"{\"weight_map\": null}", "weight_map is null"},
      {"{\"weight_map\": {}}", "weight_map is empty"},
      {"{\"weight_map\": {\"a\": 1}}", "gives an unsigned integer for tensor 'a'"},
  };
  start_sharded();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    write_text(dir, INDEX, cases[i].text);
    expect_load(dir, CF_ERROR_INVALID_FILE, cases[i].word, cases[i].text);
    expect_load(dir, CF_ERROR_INVALID_FILE, INDEX, cases[i].text);
  }
}

static void test_shard_name_is_no_plain_file_name(void) {
  static const char* const names[] = {
      "../other/model.safetensors", "/etc/passwd", "sub/model.safetensors", "", ".", "..", "./model.safetensors", "a\\\\b", "a\\u0000b", "a/"};
  char text[512];
  start_sharded();
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    snprintf(text, sizeof text, "{\"weight_map\": {\"a\": \"%s\"}}", names[i]);
    write_text(dir, INDEX, text);
    expect_load(dir, CF_ERROR_INVALID_FILE, "not a plain file name", names[i]);
  }
  snprintf(text, sizeof text, "{\"weight_map\": {\"a\": \"%0256d\"}}", 0);
  write_text(dir, INDEX, text);
  expect_load(dir, CF_ERROR_INVALID_FILE, "not a plain file name", "256 characters");
}

static void test_shard_is_missing(void) {
  start_sharded();
  remove(path_in(dir, shard_name(1, 2)));
  expect_load(dir, CF_ERROR_IO, "the shard 'model-00002-of-00002.safetensors' is missing", "second shard");
}

static void test_shard_is_no_regular_file(void) {
  start_sharded();
  remove(path_in(dir, shard_name(1, 2)));
  TEST_ASSERT_EQUAL_INT(0, mkdir(path_in(dir, shard_name(1, 2)), 0700));
  expect_load(dir, CF_ERROR_IO, "not a regular file", "a folder");
  remove(path_in(dir, shard_name(1, 2)));
  TEST_ASSERT_EQUAL_INT(0, mkfifo(path_in(dir, shard_name(1, 2)), 0600));
  expect_load(dir, CF_ERROR_IO, "not a regular file", "a FIFO");
}

static void test_shard_breaks_the_format(void) {
  start_sharded();
  write_text(dir, shard_name(1, 2), "short");
  expect_load(dir, CF_ERROR_INVALID_FILE, "model-00002-of-00002.safetensors: 5 bytes are too short", "second shard");
}

static void test_tensor_in_two_shards(void) {
  start_sharded();
  const struct file_tensor copy = *find_tensor(&tensors, "model.embed_tokens.weight"); /* of the first shard */
  add_tensor(&tensors, copy.name, copy.dtype, copy.rank, copy.shape, copy.bytes, copy.data)->shard = 1;
  write_safetensors(dir, shard_name(1, 2), &tensors, 1);
  expect_load(dir, CF_ERROR_INVALID_FILE, "tensor 'model.embed_tokens.weight' is in two shards", "embedding");
}

static void test_listed_tensor_absent_from_its_shard(void) {
  start_sharded();
  remove_tensor(&tensors, "model.norm.weight");
  write_safetensors(dir, shard_name(1, 2), &tensors, 1);
  expect_load(dir, CF_ERROR_INVALID_FILE, "tensor 'model.norm.weight' is missing, though", "final norm");
  expect_load(dir, CF_ERROR_INVALID_FILE, shard_name(1, 2), "final norm");
}

static void test_tensor_in_another_shard_than_listed(void) {
  start_sharded();
  find_tensor(&tensors, "model.norm.weight")->shard = 0;
  for (int shard = 0; shard < 2; shard++) write_safetensors(dir, shard_name(shard, 2), &tensors, shard);
  expect_load(dir, CF_ERROR_INVALID_FILE, "lists tensor 'model.norm.weight' in 'model-00002-of-00002.safetensors', but it is in", "final norm");
}

static void test_tensor_that_the_index_does_not_list(void) {
  const uint64_t shape = 4;
  start_sharded();
  add_tensor(&tensors, "extra", "U8", 1, &shape, 4, NULL)->shard = 1;
  write_safetensors(dir, shard_name(1, 2), &tensors, 1);
  expect_load(dir, CF_ERROR_INVALID_FILE, "tensor 'extra' is not listed in model.safetensors.index.json", "extra");
  write_weights(dir, &tensors, 2);
  expect_load(dir, CF_OK, NULL, "extra, listed");
}

static void test_two_names_of_one_shard(void) {
  start_sharded();
  remove(path_in(dir, shard_name(1, 2)));
  TEST_ASSERT_EQUAL_INT(0, symlink(shard_name(0, 2), path_in(dir, shard_name(1, 2))));
  expect_load(dir, CF_ERROR_INVALID_FILE, "is in two shards", "a link from the second to the first");
}

static void test_total_size_is_ignored(void) {
  char* index;
  start_sharded();
  FILE* file = fopen(path_in(dir, INDEX), "rb");
  TEST_ASSERT_NOT_NULL(file);
  index = (char*)calloc(1, 1 << 16);
  const size_t n = fread(index, 1, (1 << 16) - 1, file);
  fclose(file);
  char* digits = strstr(index, "total_size\": ") + strlen("total_size\": ");
  digits[0] = '7';
  write_file(dir, INDEX, index, n);
  free(index);
  expect_load(dir, CF_OK, NULL, "a wrong total_size");
}

/* ---- Tensors against the configuration ---- */

static void test_every_required_tensor(void) {
  const struct tiny_model* const models[] = {&neox, &llama};
  llama.attention_bias = llama.mlp_bias = 1;
  for (size_t m = 0; m < 2; m++) {
    start_with(models[m]);
    const size_t n = tensors.count;
    for (size_t i = 0; i < n; i++) {
      char name[200];
      snprintf(name, sizeof name, "%s", tensors.items[i].name);
      remove_tensor(&tensors, name);
      write_weights(dir, &tensors, 1);
      expect_load(dir, CF_ERROR_INVALID_FILE, name, "removed");
      expect_load(dir, CF_ERROR_INVALID_FILE, "is missing", name);
      expect_load(dir, CF_ERROR_INVALID_FILE, SINGLE, name);
      free_tensors(&tensors);
      tensors = tiny_model_tensors(models[m]);
    }
  }
}

static void test_every_tensors_shape(void) {
  const struct tiny_model* const models[] = {&neox, &llama};
  llama.attention_bias = llama.mlp_bias = 1;
  for (size_t m = 0; m < 2; m++) {
    start_with(models[m]);
    for (size_t i = 0; i < tensors.count; i++) {
      struct file_tensor* t = &tensors.items[i];
      const uint64_t rows = t->shape[0];
      t->shape[0]--;
      t->bytes = t->bytes / rows * (rows - 1);
      write_weights(dir, &tensors, 1);
      expect_load(dir, CF_ERROR_INVALID_FILE, t->name, "a row less");
      expect_load(dir, CF_ERROR_INVALID_FILE, "has shape [", t->name);
      t->bytes = t->bytes / (rows - 1) * rows;
      t->shape[0]++;
    }
  }
}

static void test_shape_with_the_right_number_of_elements(void) {
  start_with(&llama);
  struct file_tensor* up = find_tensor(&tensors, "model.layers.1.mlp.up_proj.weight");
  up->shape[0] = 64;
  up->shape[1] = 128; /* transposed */
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_ERROR_INVALID_FILE, "'model.layers.1.mlp.up_proj.weight' has shape [64, 128], expected [128, 64]", "transposed");
  up->rank = 1;
  up->shape[0] = 64 * 128;
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_ERROR_INVALID_FILE, "has shape [8192], expected [128, 64]", "flat");
  free_tensors(&tensors);
  tensors = tiny_model_tensors(&llama);
  struct file_tensor* norm = find_tensor(&tensors, "model.norm.weight");
  norm->rank = 2;
  norm->shape[1] = 1;
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_ERROR_INVALID_FILE, "has shape [64, 1], expected [64]", "a matrix for a vector");
}

static void test_dtype_of_a_used_tensor(void) {
  static const struct {
    const char* dtype;
    size_t bytes;
  } cases[] = {{"F64", 8}, {"I32", 4}, {"I8", 1}, {"F8_E4M3", 1}, {"BOOL", 1}};
  start_with(&llama);
  struct file_tensor* norm = find_tensor(&tensors, "model.norm.weight");
  void* const original = norm->data;
  norm->data = calloc(64, 8);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    strcpy(norm->dtype, cases[i].dtype);
    norm->bytes = 64 * cases[i].bytes;
    write_weights(dir, &tensors, 1);
    expect_load(dir, CF_ERROR_INVALID_FILE, "expected F16, BF16 or F32", cases[i].dtype);
    expect_load(dir, CF_ERROR_INVALID_FILE, "'model.norm.weight' has dtype", cases[i].dtype);
  }
  free(original);
}

static void replace_by_bf16(const char* name) {
  struct file_tensor* t = find_tensor(&tensors, name);
  strcpy(t->dtype, "BF16"); /* the numbers do not matter here */
  t->bytes /= 2;
}

static void test_mixed_dtypes(void) {
  start_with(&llama);
  replace_by_bf16("model.layers.0.self_attn.k_proj.weight");
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_ERROR_UNSUPPORTED, "k_proj", "Q in F32, K in BF16: one matrix inside");
  free_tensors(&tensors);
  tensors = tiny_model_tensors(&llama);
  replace_by_bf16("model.layers.0.self_attn.o_proj.weight");
  replace_by_bf16("model.norm.weight");
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_OK, NULL, "other matrices and vectors may differ");
}

static void test_head_twice(void) {
  start_with(&neox);
  const struct file_tensor head = *find_tensor(&tensors, "embed_out.weight");
  add_tensor(&tensors, "lm_head.weight", head.dtype, head.rank, head.shape, head.bytes, head.data);
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_ERROR_INVALID_FILE, "'embed_out.weight' and 'lm_head.weight'", "both names");
}

static void test_tied_model_ignores_a_head(void) {
  neox.tied_embeddings = 1;
  start_with(&neox);
  write_weights(dir, &tensors, 1);
  const uint64_t without = load_info(dir, "no head").fingerprint;
  const struct file_tensor embedding = *find_tensor(&tensors, "gpt_neox.embed_in.weight");
  add_tensor(&tensors, "embed_out.weight", embedding.dtype, embedding.rank, embedding.shape, embedding.bytes, embedding.data);
  write_weights(dir, &tensors, 1);
  TEST_ASSERT_EQUAL_UINT64(without, load_info(dir, "a copy as head").fingerprint);
}

/* Old versions of transformers tie all the same, new ones do not. */
static void test_tied_model_with_another_head(void) {
  const uint64_t wrong_shape[2] = {95, 64};
  neox.tied_embeddings = 1;
  start_with(&neox);
  const struct file_tensor embedding = *find_tensor(&tensors, "gpt_neox.embed_in.weight");
  struct file_tensor* head =
      add_tensor(&tensors, "lm_head.weight", embedding.dtype, embedding.rank, embedding.shape, embedding.bytes, embedding.data);
  ((unsigned char*)head->data)[embedding.bytes - 1] ^= 1;
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_ERROR_UNSUPPORTED, "'lm_head.weight' differs from the embedding", "one bit");
  remove_tensor(&tensors, "lm_head.weight");
  add_tensor(&tensors, "embed_out.weight", embedding.dtype, 2, wrong_shape, 95 * 64 * 4, NULL);
  write_weights(dir, &tensors, 1);
  expect_load(dir, CF_ERROR_UNSUPPORTED, "'embed_out.weight' differs from the embedding", "shape");
}

static void test_layers_beyond_the_configuration_are_unused(void) {
  llama.n_layers = 3;
  start_with(&llama);
  write_weights(dir, &tensors, 1);
  llama.n_layers = 2;
  write_model_config(dir, &llama, NULL);
  TEST_ASSERT_EQUAL_INT(2, load_info(dir, "three layers in the file").n_layers_loaded);
  llama.n_layers = 4;
  write_model_config(dir, &llama, NULL);
  expect_load(dir, CF_ERROR_INVALID_FILE, "'model.layers.3.input_layernorm.weight' is missing", "four wanted");
}

/* ---- The writer itself: what the other suites build on ---- */

static void test_half_conversions_of_the_writer(void) {
  for (uint32_t bits = 0; bits < 65536; bits++) {
    const float half = f16_to_float((uint16_t)bits), brain = bf16_to_float((uint16_t)bits);
    if (!isnan(half)) TEST_ASSERT_EQUAL_INT(bits, float_to_f16(half));
    if (!isnan(brain)) TEST_ASSERT_EQUAL_INT(bits, float_to_bf16(brain));
  }
  TEST_ASSERT_EQUAL_INT(0x3c00, float_to_f16(1.00048828125f)); /* halfway between two: to the even one */
  TEST_ASSERT_EQUAL_INT(0x3c02, float_to_f16(1.00146484375f));
  TEST_ASSERT_EQUAL_INT(0x4000, float_to_f16(1.9999f));
  TEST_ASSERT_EQUAL_INT(0x7c00, float_to_f16(65520.0f));
  TEST_ASSERT_EQUAL_INT(0x7bff, float_to_f16(65519.9f));
  TEST_ASSERT_EQUAL_INT(0x3f80, float_to_bf16(1.00390625f));
  TEST_ASSERT_EQUAL_INT(0x3f82, float_to_bf16(1.01171875f));
}

static void test_writer_is_deterministic(void) {
  struct tensor_list again = tiny_model_tensors(&neox);
  start_with(&neox);
  TEST_ASSERT_EQUAL_size_t(tensors.count, again.count);
  for (size_t i = 0; i < again.count; i++) TEST_ASSERT_EQUAL_MEMORY(tensors.items[i].data, again.items[i].data, again.items[i].bytes);
  neox.seed = 2;
  free_tensors(&again);
  again = tiny_model_tensors(&neox);
  TEST_ASSERT_TRUE(memcmp(tensors.items[0].data, again.items[0].data, again.items[0].bytes) != 0);
  free_tensors(&again);
}

int main(void) {
  UNITY_BEGIN();
  RUN_TEST(test_dtypes);
  RUN_TEST(test_gpt_neox_variants);
  RUN_TEST(test_llama_variants);
  RUN_TEST(test_head_dims);
  RUN_TEST(test_head_under_its_newer_name);
  RUN_TEST(test_shards_are_the_same_model);
  RUN_TEST(test_single_file_wins_over_an_index);
  RUN_TEST(test_links_into_blobs);
  RUN_TEST(test_no_weights);
  RUN_TEST(test_only_bin_files);
  RUN_TEST(test_no_directory);
  RUN_TEST(test_weights_are_no_regular_file);
  RUN_TEST(test_unreadable_file);
  RUN_TEST(test_index_is_malformed);
  RUN_TEST(test_shard_name_is_no_plain_file_name);
  RUN_TEST(test_shard_is_missing);
  RUN_TEST(test_shard_is_no_regular_file);
  RUN_TEST(test_shard_breaks_the_format);
  RUN_TEST(test_tensor_in_two_shards);
  RUN_TEST(test_listed_tensor_absent_from_its_shard);
  RUN_TEST(test_tensor_in_another_shard_than_listed);
  RUN_TEST(test_tensor_that_the_index_does_not_list);
  RUN_TEST(test_two_names_of_one_shard);
  RUN_TEST(test_total_size_is_ignored);
  RUN_TEST(test_every_required_tensor);
  RUN_TEST(test_every_tensors_shape);
  RUN_TEST(test_shape_with_the_right_number_of_elements);
  RUN_TEST(test_dtype_of_a_used_tensor);
  RUN_TEST(test_mixed_dtypes);
  RUN_TEST(test_head_twice);
  RUN_TEST(test_tied_model_ignores_a_head);
  RUN_TEST(test_tied_model_with_another_head);
  RUN_TEST(test_layers_beyond_the_configuration_are_unused);
  RUN_TEST(test_half_conversions_of_the_writer);
  RUN_TEST(test_writer_is_deterministic);
  return UNITY_END();
}
