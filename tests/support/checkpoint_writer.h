/* Writes tiny random checkpoints of either family, and broken ones, into folders of the test's own.
 * What goes wrong here (a full disk, a typing error) ends the test program with a message: the tests are about the library. */
#ifndef CHECKPOINT_WRITER_H
#define CHECKPOINT_WRITER_H

#include <stddef.h>
#include <stdint.h>

#include "clusterfusion.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Folders and files ---------------------------------------------------------------------------------------------- */

/* A new empty folder under $TMPDIR (or /tmp). The caller frees the path, after remove_tree. */
char* make_temp_dir(void);
void remove_tree(const char* path); /* with everything in it; links are removed, not followed; NULL is accepted */
/* "DIR/NAME" in one of a few static buffers: good until the eighth call from then. */
const char* path_in(const char* dir, const char* name);
void write_file(const char* dir, const char* name, const void* bytes, size_t n);
void write_text(const char* dir, const char* name, const char* text);

/* ---- config.json ---------------------------------------------------------------------------------------------------- */

/* A member of config.json: its value as JSON text; NULL removes the key. */
struct json_member {
  const char* key;
  const char* value;
};
/* Writes DIR/config.json with the members of `base` as `changes` alter them; the later of two members with one key wins.
 * Both arrays end with a NULL key; `changes` may be NULL. */
void write_config(const char* dir, const struct json_member* base, const struct json_member* changes);

/* ---- Models --------------------------------------------------------------------------------------------------------- */

struct tiny_model {
  cf_family family;
  cf_dtype dtype; /* of every tensor */
  int n_layers, hidden_size, n_heads, n_kv_heads, head_dim, intermediate_size, vocab_size, max_position_embeddings;
  const char* hidden_act;
  int parallel_residual; /* GPT-NeoX */
  double rotary_pct;     /* GPT-NeoX */
  double rope_theta;
  int llama3_rope; /* Llama: 1: rope_scaling llama3 with factor 8, 1, 4, original 64 */
  int attention_bias, mlp_bias, tied_embeddings;
  int n_shards;       /* 1: model.safetensors; more: that many shards and an index */
  int unused_tensors; /* 1: adds what published files hold besides: attention masks and inverse frequencies */
  int bos_token, eos_token;
  uint64_t seed; /* the same seed and shape give the same bytes */
};

/* Hidden size 64, 2 heads of 32, 2 layers, vocabulary 96, context 128, F32; the family's usual options. */
void tiny_model_init(struct tiny_model* model, cf_family family);

struct file_tensor {
  char name[160];
  char dtype[16];
  int rank;
  uint64_t shape[8];
  void* data; /* owned */
  size_t bytes;
  int shard; /* from 0 */
};
struct tensor_list {
  struct file_tensor* items;
  size_t count;
};
/* The model's tensors with random weights: what write_checkpoint would write. */
struct tensor_list tiny_model_tensors(const struct tiny_model* model);
struct file_tensor* find_tensor(struct tensor_list* list, const char* name); /* must be there */
/* Appends a tensor; data NULL: zeros. Returns it. */
struct file_tensor* add_tensor(struct tensor_list* list, const char* name, const char* dtype, int rank, const uint64_t* shape, size_t bytes,
                               const void* data);
void remove_tensor(struct tensor_list* list, const char* name);
void free_tensors(struct tensor_list* list);

void write_model_config(const char* dir, const struct tiny_model* model, const struct json_member* changes);
/* The tensors of one shard as a safetensors file. */
void write_safetensors(const char* dir, const char* name, const struct tensor_list* list, int shard);
/* model.safetensors, or for n_shards > 1 "model-00001-of-0000N.safetensors" ... and the index. */
void write_weights(const char* dir, const struct tensor_list* list, int n_shards);
const char* shard_name(int shard, int n_shards); /* static buffers, as path_in */
/* A whole directory: config.json and weights. */
void write_checkpoint(const char* dir, const struct tiny_model* model);

/* A file of exactly these parts: the length, as given, then header, then data (NULL: zeros). */
void write_raw_safetensors(const char* dir, const char* name, uint64_t header_length, const char* header, size_t header_bytes, const void* data,
                           size_t data_bytes);

/* ---- Numbers -------------------------------------------------------------------------------------------------------- */

uint16_t float_to_f16(float value);  /* nearest, ties to even */
uint16_t float_to_bf16(float value); /* nearest, ties to even */
float f16_to_float(uint16_t value);
float bf16_to_float(uint16_t value);

/* Standard normal numbers that depend on the seed only. */
struct random_stream {
  uint64_t state;
};
uint64_t random_bits(struct random_stream* stream);
double random_normal(struct random_stream* stream);

#ifdef __cplusplus
}
#endif

#endif
