#define _XOPEN_SOURCE 700

#include "checkpoint_writer.h"

#include <errno.h>
#include <ftw.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void give_up(const char* what, const char* name) {
  fprintf(stderr, "checkpoint_writer: %s: %s: %s\n", what, name, strerror(errno));
  exit(2);
}

static void* take_memory(size_t bytes) {
  void* memory = calloc(bytes ? bytes : 1, 1);
  if (!memory) give_up("no memory", "");
  return memory;
}

/* Text that grows. */
struct text {
  char* chars;
  size_t length;
};

static void append(struct text* text, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int n = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  text->chars = (char*)realloc(text->chars, text->length + (size_t)n + 1);
  if (!text->chars) give_up("no memory", "");
  va_start(arguments, format);
  vsnprintf(text->chars + text->length, (size_t)n + 1, format, arguments);
  va_end(arguments);
  text->length += (size_t)n;
}

/* ---- Folders and files ---- */

char* make_temp_dir(void) {
  const char* parent = getenv("TMPDIR");
  struct text path = {NULL, 0};
  append(&path, "%s/clusterfusion-test-XXXXXX", parent && *parent ? parent : "/tmp");
  if (!mkdtemp(path.chars)) give_up("cannot make a folder", path.chars);
  return path.chars;
}

static int remove_one(const char* path, const struct stat* status, int type, struct FTW* position) {
  (void)status, (void)type, (void)position;
  return remove(path);
}

void remove_tree(const char* path) {
  if (path && nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) && errno != ENOENT) give_up("cannot remove", path);
}

enum { kBuffers = 8, kBufferBytes = 4096 };

static char* next_buffer(void) {
  static char buffers[kBuffers][kBufferBytes];
  static int next;
  next = (next + 1) % kBuffers;
  return buffers[next];
}

const char* path_in(const char* dir, const char* name) {
  char* path = next_buffer();
  if (snprintf(path, kBufferBytes, "%s/%s", dir, name) >= kBufferBytes) give_up("path too long", name);
  return path;
}

void write_file(const char* dir, const char* name, const void* bytes, size_t n) {
  const char* path = path_in(dir, name);
  FILE* file = fopen(path, "wb");
  if (!file) give_up("cannot create", path);
  if (n && fwrite(bytes, 1, n, file) != n) give_up("cannot write", path);
  if (fclose(file)) give_up("cannot write", path);
}

void write_text(const char* dir, const char* name, const char* text) { write_file(dir, name, text, strlen(text)); }

/* ---- config.json ---- */

static const struct json_member* find_member(const struct json_member* members, const char* key) {
  const struct json_member* found = NULL;
  for (; members && members->key; members++)
    if (strcmp(members->key, key) == 0) found = members;
  return found;
}

static void append_member(struct text* out, const struct json_member* member) {
  if (member->value) append(out, "%s\n  \"%s\": %s", out->length > 1 ? "," : "", member->key, member->value);
}

void write_config(const char* dir, const struct json_member* base, const struct json_member* changes) {
  struct text out = {NULL, 0};
  append(&out, "{");
  for (const struct json_member* m = base; m->key; m++)
    if (find_member(base, m->key) == m && !find_member(changes, m->key)) append_member(&out, m);
  for (const struct json_member* m = changes; m && m->key; m++)
    if (find_member(changes, m->key) == m) append_member(&out, m);
  append(&out, "\n}\n");
  write_text(dir, "config.json", out.chars);
  free(out.chars);
}

static const char* json_number(double value) {
  char* text = next_buffer();
  snprintf(text, kBufferBytes, "%.17g", value);
  return text;
}

static const char* json_bool(int value) { return value ? "true" : "false"; }

static const char* dtype_text(cf_dtype dtype) { return dtype == CF_DTYPE_F16 ? "F16" : dtype == CF_DTYPE_BF16 ? "BF16" : "F32"; }

void write_model_config(const char* dir, const struct tiny_model* m, const struct json_member* changes) {
  struct text all = {NULL, 0}; /* strings of the members, one after the other, each with its NUL */
  struct json_member members[40];
  size_t offsets[40], n = 0;
  const int neox = m->family == CF_FAMILY_GPT_NEOX;
#define MEMBER(name, ...) (offsets[n] = all.length, members[n++].key = name, append(&all, __VA_ARGS__), append(&all, "%c", 0))
  MEMBER("model_type", "\"%s\"", neox ? "gpt_neox" : "llama");
  MEMBER("architectures", "[\"%s\"]", neox ? "GPTNeoXForCausalLM" : "LlamaForCausalLM");
  MEMBER("num_hidden_layers", "%d", m->n_layers);
  MEMBER("hidden_size", "%d", m->hidden_size);
  MEMBER("num_attention_heads", "%d", m->n_heads);
  MEMBER("intermediate_size", "%d", m->intermediate_size);
  MEMBER("vocab_size", "%d", m->vocab_size);
  MEMBER("max_position_embeddings", "%d", m->max_position_embeddings);
  MEMBER("hidden_act", "\"%s\"", m->hidden_act);
  MEMBER("attention_bias", "%s", json_bool(m->attention_bias));
  MEMBER("tie_word_embeddings", "%s", json_bool(m->tied_embeddings));
  MEMBER("bos_token_id", "%d", m->bos_token);
  MEMBER("eos_token_id", "%d", m->eos_token);
  if (neox) {
    MEMBER("layer_norm_eps", "1e-05");
    MEMBER("use_parallel_residual", "%s", json_bool(m->parallel_residual));
    MEMBER("rotary_pct", "%s", json_number(m->rotary_pct));
    MEMBER("rotary_emb_base", "%s", json_number(m->rope_theta));
  } else {
    MEMBER("rms_norm_eps", "1e-05");
    MEMBER("num_key_value_heads", "%d", m->n_kv_heads);
    MEMBER("head_dim", "%d", m->head_dim);
    MEMBER("mlp_bias", "%s", json_bool(m->mlp_bias));
    MEMBER("rope_theta", "%s", json_number(m->rope_theta));
    MEMBER("rope_scaling", "%s",
           m->llama3_rope ? "{\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                            "\"original_max_position_embeddings\": 64}"
                          : "null");
  }
  MEMBER("torch_dtype", "\"%s\"", m->dtype == CF_DTYPE_F16 ? "float16" : m->dtype == CF_DTYPE_BF16 ? "bfloat16" : "float32");
#undef MEMBER
  for (size_t i = 0; i < n; i++) members[i].value = all.chars + offsets[i];
  members[n].key = NULL;
  write_config(dir, members, changes);
  free(all.chars);
}

/* ---- Numbers ---- */

uint64_t random_bits(struct random_stream* stream) { /* SplitMix64 */
  uint64_t z = stream->state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double random_normal(struct random_stream* stream) { /* Box-Muller, half of it */
  const double unit = 1.0 / 9007199254740992.0;      /* 2^-53 */
  double u = ((double)(random_bits(stream) >> 11) + 1) * unit, v = (double)(random_bits(stream) >> 11) * unit;
  return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static uint32_t float_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static float bits_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t float_to_bf16(float value) {
  uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
  return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float bf16_to_float(uint16_t value) { return bits_float((uint32_t)value << 16); }

uint16_t float_to_f16(float value) {
  const uint16_t sign = (uint16_t)(float_bits(value) >> 16 & 0x8000u);
  const double magnitude = fabs((double)value);
  if (value != value) return sign | 0x7e00u;
  if (magnitude >= 65520.0) return sign | 0x7c00u;                                                        /* rounds to infinity */
  if (magnitude < 6.103515625e-05) return (uint16_t)(sign | (uint16_t)nearbyint(magnitude * 16777216.0)); /* subnormal: units of 2^-24 */
  int exponent;
  const double fraction = frexp(magnitude, &exponent);                                /* in [0.5, 1) */
  const uint32_t mantissa = (uint32_t)nearbyint(fraction * 2048.0);                   /* 1024 to 2048 */
  return (uint16_t)(sign | (((uint32_t)(exponent + 14) << 10) + (mantissa - 1024u))); /* 2048 carries into the exponent */
}

float f16_to_float(uint16_t value) {
  const int exponent = value >> 10 & 31, mantissa = value & 1023;
  const double magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY) : exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
  return (float)(value & 0x8000 ? -magnitude : magnitude);
}

/* ---- Models ---- */

void tiny_model_init(struct tiny_model* m, cf_family family) {
  memset(m, 0, sizeof *m);
  const int neox = family == CF_FAMILY_GPT_NEOX;
  m->family = family;
  m->dtype = CF_DTYPE_F32;
  m->n_layers = 2;
  m->hidden_size = 64;
  m->n_heads = m->n_kv_heads = 2;
  m->head_dim = 32;
  m->intermediate_size = 128;
  m->vocab_size = 96;
  m->max_position_embeddings = 128;
  m->hidden_act = neox ? "gelu" : "silu";
  m->parallel_residual = neox;
  m->rotary_pct = neox ? 0.25 : 1;
  m->rope_theta = 10000;
  m->attention_bias = m->mlp_bias = neox;
  m->n_shards = 1;
  m->bos_token = 0;
  m->eos_token = neox ? 0 : 2;
  m->seed = 1;
}

struct file_tensor* find_tensor(struct tensor_list* list, const char* name) {
  for (size_t i = 0; i < list->count; i++)
    if (strcmp(list->items[i].name, name) == 0) return &list->items[i];
  errno = ENOENT;
  give_up("no such tensor", name);
  return NULL;
}

struct file_tensor* add_tensor(struct tensor_list* list, const char* name, const char* dtype, int rank, const uint64_t* shape, size_t bytes,
                               const void* data) {
  list->items = (struct file_tensor*)realloc(list->items, (list->count + 1) * sizeof *list->items);
  if (!list->items) give_up("no memory", name);
  struct file_tensor* t = &list->items[list->count++];
  memset(t, 0, sizeof *t);
  snprintf(t->name, sizeof t->name, "%s", name);
  snprintf(t->dtype, sizeof t->dtype, "%s", dtype);
  t->rank = rank;
  for (int i = 0; i < rank; i++) t->shape[i] = shape[i];
  t->bytes = bytes;
  t->data = take_memory(bytes);
  if (data) memcpy(t->data, data, bytes);
  return t;
}

void remove_tensor(struct tensor_list* list, const char* name) {
  struct file_tensor* t = find_tensor(list, name);
  free(t->data);
  memmove(t, t + 1, (size_t)(list->items + list->count - (t + 1)) * sizeof *t);
  list->count--;
}

void free_tensors(struct tensor_list* list) {
  for (size_t i = 0; i < list->count; i++) free(list->items[i].data);
  free(list->items);
  list->items = NULL;
  list->count = 0;
}

/* What the tensors of a model are made with. */
struct maker {
  const struct tiny_model* model;
  struct tensor_list list;
  char prefix[80];
};

static uint64_t hash_name(const char* name) { /* FNV-1a: a tensor's numbers do not depend on what else the model has */
  uint64_t hash = 0xcbf29ce484222325u;
  for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
  return hash;
}

/* Normal numbers around `mean` as the tensor [rows, cols], or [rows] if cols is 0. */
static void make(struct maker* maker, const char* suffix, int rows, int cols, double mean, double deviation) {
  const cf_dtype dtype = maker->model->dtype;
  const size_t n = (size_t)rows * (size_t)(cols ? cols : 1), size = dtype == CF_DTYPE_F32 ? 4 : 2;
  const uint64_t shape[2] = {(uint64_t)rows, (uint64_t)cols};
  char name[160];
  snprintf(name, sizeof name, "%s%s", maker->prefix, suffix);
  struct file_tensor* t = add_tensor(&maker->list, name, dtype_text(dtype), cols ? 2 : 1, shape, n * size, NULL);
  struct random_stream stream = {maker->model->seed ^ hash_name(name)};
  for (size_t i = 0; i < n; i++) {
    const float value = (float)(mean + deviation * random_normal(&stream));
    const uint16_t half = dtype == CF_DTYPE_F16 ? float_to_f16(value) : float_to_bf16(value);
    memcpy((char*)t->data + i * size, dtype == CF_DTYPE_F32 ? (const void*)&value : (const void*)&half, size);
  }
}

static void make_matrix(struct maker* maker, const char* module, int rows, int cols, int bias) {
  char name[80];
  snprintf(name, sizeof name, "%s.weight", module);
  make(maker, name, rows, cols, 0, 1.2 / sqrt(cols));
  snprintf(name, sizeof name, "%s.bias", module);
  if (bias) make(maker, name, rows, 0, 0, 0.1);
}

static void make_norm(struct maker* maker, const char* module, int bias) {
  char name[80];
  snprintf(name, sizeof name, "%s.weight", module);
  make(maker, name, maker->model->hidden_size, 0, 1, 0.1);
  snprintf(name, sizeof name, "%s.bias", module);
  if (bias) make(maker, name, maker->model->hidden_size, 0, 0, 0.1);
}

static void make_unused(struct maker* maker, const char* mask, const char* masked, const char* frequencies) {
  const uint64_t square[4] = {1, 1, 16, 16}, half = (uint64_t)maker->model->head_dim / 2;
  char name[160];
  if (mask) {
    snprintf(name, sizeof name, "%s%s", maker->prefix, mask);
    add_tensor(&maker->list, name, "BOOL", 4, square, 256, NULL);
    snprintf(name, sizeof name, "%s%s", maker->prefix, masked);
    add_tensor(&maker->list, name, "F32", 0, NULL, 4, NULL);
  }
  snprintf(name, sizeof name, "%s%s", maker->prefix, frequencies);
  add_tensor(&maker->list, name, "F32", 1, &half, 4 * half, NULL);
}

static void make_gpt_neox(struct maker* maker) {
  const struct tiny_model* m = maker->model;
  const int h = m->hidden_size;
  snprintf(maker->prefix, sizeof maker->prefix, "gpt_neox.");
  make(maker, "embed_in.weight", m->vocab_size, h, 0, 0.5);
  for (int layer = 0; layer < m->n_layers; layer++) {
    snprintf(maker->prefix, sizeof maker->prefix, "gpt_neox.layers.%d.", layer);
    make_norm(maker, "input_layernorm", 1);
    make_norm(maker, "post_attention_layernorm", 1);
    make_matrix(maker, "attention.query_key_value", 3 * m->n_heads * m->head_dim, h, m->attention_bias);
    make_matrix(maker, "attention.dense", h, m->n_heads * m->head_dim, m->attention_bias);
    make_matrix(maker, "mlp.dense_h_to_4h", m->intermediate_size, h, 1);
    make_matrix(maker, "mlp.dense_4h_to_h", h, m->intermediate_size, 1);
    if (m->unused_tensors) make_unused(maker, "attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq");
  }
  snprintf(maker->prefix, sizeof maker->prefix, "gpt_neox.");
  make_norm(maker, "final_layer_norm", 1);
  maker->prefix[0] = 0;
  if (!m->tied_embeddings) make(maker, "embed_out.weight", m->vocab_size, h, 0, 0.25);
}

static void make_llama(struct maker* maker) {
  const struct tiny_model* m = maker->model;
  const int h = m->hidden_size, q = m->n_heads * m->head_dim, kv = m->n_kv_heads * m->head_dim;
  snprintf(maker->prefix, sizeof maker->prefix, "model.");
  make(maker, "embed_tokens.weight", m->vocab_size, h, 0, 0.5);
  for (int layer = 0; layer < m->n_layers; layer++) {
    snprintf(maker->prefix, sizeof maker->prefix, "model.layers.%d.", layer);
    make_norm(maker, "input_layernorm", 0);
    make_norm(maker, "post_attention_layernorm", 0);
    make_matrix(maker, "self_attn.q_proj", q, h, m->attention_bias);
    make_matrix(maker, "self_attn.k_proj", kv, h, m->attention_bias);
    make_matrix(maker, "self_attn.v_proj", kv, h, m->attention_bias);
    make_matrix(maker, "self_attn.o_proj", h, q, m->attention_bias);
    make_matrix(maker, "mlp.gate_proj", m->intermediate_size, h, m->mlp_bias);
    make_matrix(maker, "mlp.up_proj", m->intermediate_size, h, m->mlp_bias);
    make_matrix(maker, "mlp.down_proj", h, m->intermediate_size, m->mlp_bias);
    if (m->unused_tensors) make_unused(maker, NULL, NULL, "self_attn.rotary_emb.inv_freq");
  }
  snprintf(maker->prefix, sizeof maker->prefix, "model.");
  make_norm(maker, "norm", 0);
  maker->prefix[0] = 0;
  if (!m->tied_embeddings) make(maker, "lm_head.weight", m->vocab_size, h, 0, 0.25);
}

struct tensor_list tiny_model_tensors(const struct tiny_model* model) {
  struct maker maker = {model, {NULL, 0}, ""};
  if (model->family == CF_FAMILY_GPT_NEOX) make_gpt_neox(&maker);
  else make_llama(&maker);
  const size_t n_shards = model->n_shards > 1 ? (size_t)model->n_shards : 1;
  for (size_t i = 0; i < maker.list.count; i++) maker.list.items[i].shard = (int)(i * n_shards / maker.list.count);
  return maker.list;
}

/* ---- Files of tensors ---- */

void write_raw_safetensors(const char* dir, const char* name, uint64_t header_length, const char* header, size_t header_bytes, const void* data,
                           size_t data_bytes) {
  unsigned char* bytes = (unsigned char*)take_memory(8 + header_bytes + data_bytes);
  for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)(header_length >> (8 * i));
  if (header_bytes) memcpy(bytes + 8, header, header_bytes);
  if (data && data_bytes) memcpy(bytes + 8 + header_bytes, data, data_bytes);
  write_file(dir, name, bytes, 8 + header_bytes + data_bytes);
  free(bytes);
}

void write_safetensors(const char* dir, const char* name, const struct tensor_list* list, int shard) {
  struct text header = {NULL, 0};
  size_t offset = 0;
  append(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
  for (size_t i = 0; i < list->count; i++) {
    const struct file_tensor* t = &list->items[i];
    if (t->shard != shard) continue;
    append(&header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, t->dtype);
    for (int d = 0; d < t->rank; d++) append(&header, "%s%llu", d ? "," : "", (unsigned long long)t->shape[d]);
    append(&header, "],\"data_offsets\":[%zu,%zu]}", offset, offset + t->bytes);
    offset += t->bytes;
  }
  append(&header, "}");
  while (header.length % 8) append(&header, " "); /* as the reference writer pads it */

  unsigned char* data = (unsigned char*)take_memory(offset);
  size_t at = 0;
  for (size_t i = 0; i < list->count; i++) {
    const struct file_tensor* t = &list->items[i];
    if (t->shard != shard || t->bytes == 0) continue;
    memcpy(data + at, t->data, t->bytes);
    at += t->bytes;
  }
  write_raw_safetensors(dir, name, header.length, header.chars, header.length, data, offset);
  free(data);
  free(header.chars);
}

const char* shard_name(int shard, int n_shards) {
  char* name = next_buffer();
  snprintf(name, kBufferBytes, "model-%05d-of-%05d.safetensors", shard + 1, n_shards);
  return name;
}

void write_weights(const char* dir, const struct tensor_list* list, int n_shards) {
  if (n_shards <= 1) {
    write_safetensors(dir, "model.safetensors", list, 0);
    return;
  }
  struct text index = {NULL, 0};
  size_t total = 0;
  for (size_t i = 0; i < list->count; i++) total += list->items[i].bytes;
  append(&index, "{\n  \"metadata\": {\"total_size\": %zu},\n  \"weight_map\": {", total);
  for (size_t i = 0; i < list->count; i++)
    append(&index, "%s\n    \"%s\": \"%s\"", i ? "," : "", list->items[i].name, shard_name(list->items[i].shard, n_shards));
  append(&index, "\n  }\n}\n");
  write_text(dir, "model.safetensors.index.json", index.chars);
  free(index.chars);
  for (int shard = 0; shard < n_shards; shard++) write_safetensors(dir, shard_name(shard, n_shards), list, shard);
}

void write_checkpoint(const char* dir, const struct tiny_model* model) {
  struct tensor_list list = tiny_model_tensors(model);
  write_model_config(dir, model, NULL);
  write_weights(dir, &list, model->n_shards);
  free_tensors(&list);
}
