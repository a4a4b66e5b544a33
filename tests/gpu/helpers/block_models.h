/* Small models with random weights for the suites of block calls. */
#ifndef BLOCK_MODELS_H
#define BLOCK_MODELS_H

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clusterfusion.h"
#include "stop_if.h"

enum { kCapacity = 96, kVocab = 96, kMaxTensors = 24 };

#define CUDA(call) stop_if((call) != cudaSuccess, #call)

static uint32_t random_state = 1;
static float random_value(float scale) { /* uniform in +-scale */
  random_state = random_state * 1664525u + 1013904223u;
  return ((float)(random_state >> 8) / 8388608.0f - 1.0f) * scale;
}

static int mixed_dtypes; /* 1: O is BF16 in load() */
static int on_cpu;       /* 1: the CPU backend, whose device memory is the host's */

static void* device_bytes(size_t bytes) { /* NaN in every format */
  void* address = on_cpu ? malloc(bytes) : NULL;
  if (on_cpu) return memset(address, 0xff, bytes);
  CUDA(cudaMalloc(&address, bytes));
  CUDA(cudaMemset(address, 0xff, bytes));
  CUDA(cudaDeviceSynchronize()); /* the stream of the calls does not wait for the default stream */
  return address;
}
static void free_bytes(void* address) {
  if (on_cpu) free(address);
  else CUDA(cudaFree(address));
}

static cf_model_config make_config(cf_family family, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t hidden, int32_t intermediate,
                                   int32_t n_layers) {
  cf_model_config c;
  CF(cf_model_config_init(&c, sizeof c));
  c.family = family;
  c.norm = family == CF_FAMILY_LLAMA ? CF_NORM_RMS : CF_NORM_LAYER;
  c.activation = family == CF_FAMILY_LLAMA ? CF_ACTIVATION_SWIGLU : CF_ACTIVATION_GELU;
  c.parallel_residual = family == CF_FAMILY_GPT_NEOX;
  c.attention_bias = c.mlp_bias = family == CF_FAMILY_GPT_NEOX;
  c.n_layers = n_layers;
  c.hidden_size = hidden;
  c.n_heads = heads;
  c.n_kv_heads = kv_heads;
  c.head_dim = head_dim;
  c.rotary_dim = family == CF_FAMILY_LLAMA ? head_dim : head_dim / 2;
  c.intermediate_size = intermediate;
  c.vocab_size = kVocab;
  c.max_position_embeddings = kCapacity;
  c.norm_eps = 1e-5;
  c.rope_theta = 10000;
  return c;
}

/* Rows and columns of a role; rows 0: the model has none. */
static void role_shape(const cf_model_config* c, cf_tensor_role role, int64_t* rows, int64_t* cols) {
  const int64_t h = c->hidden_size, q = (int64_t)c->n_heads * c->head_dim, kv = (int64_t)c->n_kv_heads * c->head_dim, i = c->intermediate_size;
  const int layer_norm = c->norm == CF_NORM_LAYER, gated = c->activation == CF_ACTIVATION_SWIGLU;
  *cols = 1;
  switch (role) {
    case CF_ROLE_ATTENTION_NORM_WEIGHT:
    case CF_ROLE_MLP_NORM_WEIGHT: *rows = h; return;
    case CF_ROLE_ATTENTION_NORM_BIAS:
    case CF_ROLE_MLP_NORM_BIAS: *rows = layer_norm ? h : 0; return;
    case CF_ROLE_Q_WEIGHT: *rows = q, *cols = h; return;
    case CF_ROLE_K_WEIGHT:
    case CF_ROLE_V_WEIGHT: *rows = kv, *cols = h; return;
    case CF_ROLE_Q_BIAS: *rows = c->attention_bias ? q : 0; return;
    case CF_ROLE_K_BIAS:
    case CF_ROLE_V_BIAS: *rows = c->attention_bias ? kv : 0; return;
    case CF_ROLE_O_WEIGHT: *rows = h, *cols = q; return;
    case CF_ROLE_O_BIAS: *rows = c->attention_bias ? h : 0; return;
    case CF_ROLE_GATE_WEIGHT: *rows = gated ? i : 0, *cols = h; return;
    case CF_ROLE_GATE_BIAS: *rows = gated && c->mlp_bias ? i : 0; return;
    case CF_ROLE_UP_WEIGHT: *rows = i, *cols = h; return;
    case CF_ROLE_UP_BIAS: *rows = c->mlp_bias ? i : 0; return;
    case CF_ROLE_DOWN_WEIGHT: *rows = h, *cols = i; return;
    case CF_ROLE_DOWN_BIAS: *rows = c->mlp_bias ? h : 0; return;
    default: *rows = 0; return;
  }
}

/* Random weights, every second tensor in device memory; layers of equal seeds are equal. */
static void load(cf_model* model, const cf_model_config* c, int32_t layer, uint32_t seed, cudaStream_t stream) {
  cf_tensor tensors[kMaxTensors];
  void* memory[kMaxTensors];
  size_t n = 0;
  random_state = seed;
  for (cf_tensor_role role = CF_ROLE_ATTENTION_NORM_WEIGHT; role <= CF_ROLE_DOWN_BIAS; role++) {
    int64_t rows, cols;
    role_shape(c, role, &rows, &cols);
    if (rows == 0) continue;
    const size_t count = (size_t)(rows * cols);
    float* values = malloc(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = cols == 1 ? 1.0f + random_value(0.5f) : random_value(1.0f / sqrtf((float)cols));
    cf_tensor* t = &tensors[n];
    CF(cf_tensor_init(t, sizeof *t));
    t->role = role, t->dtype = CF_DTYPE_F32, t->rank = cols == 1 ? 1 : 2, t->shape[0] = rows, t->shape[1] = cols, t->data = values;
    memory[n] = NULL;
    if (mixed_dtypes && role == CF_ROLE_O_WEIGHT) { /* what stands in the upper halves */
      uint16_t* const halves = (uint16_t*)values;
      for (size_t i = 0; i < count; i++) halves[i] = halves[2 * i + 1];
      t->dtype = CF_DTYPE_BF16;
    } else if (n % 2) {
      memory[n] = device_bytes(count * sizeof *values);
      if (on_cpu) memcpy(memory[n], values, count * sizeof *values);
      else CUDA(cudaMemcpyAsync(memory[n], values, count * sizeof *values, cudaMemcpyHostToDevice, stream));
      if (!on_cpu) CUDA(cudaStreamSynchronize(stream));
      t->data = memory[n], t->memory = CF_MEMORY_DEVICE;
      free(values);
    }
    n++;
  }
  CF(cf_load_layer(model, layer, tensors, n, stream));
  for (size_t i = 0; i < n; i++) {
    if (memory[i]) free_bytes(memory[i]);
    else free((void*)tensors[i].data);
  }
}

#endif
