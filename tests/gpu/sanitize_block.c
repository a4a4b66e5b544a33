/* Block calls on small models of every shape, for compute-sanitizer: exact allocations, so that an access beyond any of them is one
 * beyond its end. Checks statuses and that results are finite; what they should be is block_proof.py's business. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clusterfusion.h"

enum { kCapacity = 96, kPageTokens = 16, kMaxTensors = 24 };

static void stop_if(int failed, const char* what) {
  char text[512] = "";
  if (!failed) return;
  cf_last_error(text, sizeof text, NULL);
  fprintf(stderr, "%s failed: %s\n", what, text);
  exit(1);
}
#define CF(call) stop_if((call) != CF_OK, #call)
#define CUDA(call) stop_if((call) != cudaSuccess, #call)

static uint32_t random_state = 1;
static float random_value(float scale) { /* uniform in +-scale */
  random_state = random_state * 1664525u + 1013904223u;
  return ((float)(random_state >> 8) / 8388608.0f - 1.0f) * scale;
}

static void* device_bytes(size_t bytes) { /* NaN in every format */
  void* address;
  CUDA(cudaMalloc(&address, bytes));
  CUDA(cudaMemset(address, 0xff, bytes));
  CUDA(cudaDeviceSynchronize()); /* the stream of the calls does not wait for the default stream */
  return address;
}

static cf_model_config make_config(cf_family family, int32_t heads, int32_t kv_heads, int32_t head_dim, int32_t hidden, int32_t intermediate) {
  cf_model_config c;
  CF(cf_model_config_init(&c, sizeof c));
  c.family = family;
  c.norm = family == CF_FAMILY_LLAMA ? CF_NORM_RMS : CF_NORM_LAYER;
  c.activation = family == CF_FAMILY_LLAMA ? CF_ACTIVATION_SWIGLU : CF_ACTIVATION_GELU;
  c.parallel_residual = family == CF_FAMILY_GPT_NEOX;
  c.attention_bias = c.mlp_bias = family == CF_FAMILY_GPT_NEOX;
  c.n_layers = 1;
  c.hidden_size = hidden;
  c.n_heads = heads;
  c.n_kv_heads = kv_heads;
  c.head_dim = head_dim;
  c.rotary_dim = family == CF_FAMILY_LLAMA ? head_dim : head_dim / 2;
  c.intermediate_size = intermediate;
  c.vocab_size = 8;
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

/* Random weights, every second tensor in device memory. */
static void load(cf_model* model, const cf_model_config* c, cudaStream_t stream) {
  cf_tensor tensors[kMaxTensors];
  void* memory[kMaxTensors];
  size_t n = 0;
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
    if (n % 2) {
      memory[n] = device_bytes(count * sizeof *values);
      CUDA(cudaMemcpyAsync(memory[n], values, count * sizeof *values, cudaMemcpyHostToDevice, stream));
      CUDA(cudaStreamSynchronize(stream));
      t->data = memory[n], t->memory = CF_MEMORY_DEVICE;
      free(values);
    }
    n++;
  }
  CF(cf_load_layer(model, 0, tensors, n, stream));
  for (size_t i = 0; i < n; i++) {
    if (memory[i]) CUDA(cudaFree(memory[i]));
    else free((void*)tensors[i].data);
  }
}

static void run(cf_context* context, cf_model_config c, cf_dtype kv_dtype, int paged, cudaStream_t stream) {
  cf_model* model;
  CF(cf_model_create(context, &c, NULL, &model));
  load(model, &c, stream);
  const size_t h = (size_t)c.hidden_size, kv = (size_t)(c.n_kv_heads * c.head_dim), kv_bytes = kCapacity * kv * 2;
  const int32_t positions[] = {0, 1, 41, kCapacity - 1};
  int32_t* state = device_bytes((2 + kCapacity / kPageTokens) * sizeof *state); /* position, status, page table */
  int32_t table[kCapacity / kPageTokens];
  for (int i = 0; i < kCapacity / kPageTokens; i++) table[i] = kCapacity / kPageTokens - 1 - i;
  CUDA(cudaMemcpy(state + 2, table, sizeof table, cudaMemcpyHostToDevice));
  cf_block_options o;
  CF(cf_block_options_init(&o, sizeof o));
  float* hidden = malloc(h * sizeof *hidden);
  for (size_t i = 0; i < h; i++) hidden[i] = random_value(2.0f);
  o.kv_dtype = kv_dtype;
  o.hidden = device_bytes(h * sizeof(float));
  CUDA(cudaMemcpy((void*)o.hidden, hidden, h * sizeof(float), cudaMemcpyHostToDevice));
  o.output = device_bytes(h * sizeof(float));
  o.attention_output = device_bytes(h * sizeof(float));
  o.mlp_activation = device_bytes((size_t)c.intermediate_size * sizeof(float));
  o.new_k = device_bytes(kv * sizeof(float));
  o.new_v = device_bytes(kv * sizeof(float));
  o.k_cache = device_bytes(kv_bytes);
  o.v_cache = device_bytes(kv_bytes);
  CUDA(cudaMemset(o.k_cache, 0x2e, kv_bytes)); /* small numbers in both formats */
  CUDA(cudaMemset(o.v_cache, 0x2f, kv_bytes));
  CUDA(cudaDeviceSynchronize());
  o.token_stride = (int64_t)kv, o.head_stride = c.head_dim;
  o.kv_capacity_tokens = kCapacity;
  if (paged) o.page_table = state + 2, o.page_tokens = kPageTokens, o.page_stride = (int64_t)kv * kPageTokens;
  o.position = state, o.step_status = state + 1;
  o.stream = stream;
  for (size_t i = 0; i < sizeof positions / sizeof *positions; i++) {
    const int32_t start[2] = {positions[i], CF_OK};
    int32_t end[2];
    CUDA(cudaMemcpyAsync(state, start, sizeof start, cudaMemcpyHostToDevice, stream));
    CF(cf_block_forward(model, 0, &o));
    CF(cf_block_attention(model, 0, &o));
    o.advance = 1;
    CF(cf_block_mlp_down(model, 0, &o));
    o.advance = 0;
    CUDA(cudaMemcpyAsync(end, state, sizeof end, cudaMemcpyDeviceToHost, stream));
    CUDA(cudaMemcpyAsync(hidden, o.output, h * sizeof *hidden, cudaMemcpyDeviceToHost, stream));
    CUDA(cudaStreamSynchronize(stream));
    stop_if(end[0] != positions[i] + 1 || end[1] != CF_OK, "position or status");
    for (size_t k = 0; k < h; k++) stop_if(!isfinite(hidden[k]), "a finite output");
  }
  free(hidden);
  void* const all[] = {state, (void*)o.hidden, o.output, o.attention_output, o.mlp_activation, o.new_k, o.new_v, o.k_cache, o.v_cache};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) CUDA(cudaFree(all[i]));
  CF(cf_model_destroy(model));
  printf("head_dim %d, hidden_size %d, %d:%d heads, %s: ok\n", c.head_dim, c.hidden_size, c.n_heads, c.n_kv_heads, paged ? "paged" : "contiguous");
}

int main(void) {
  cf_context_options options;
  cf_context* context;
  cudaStream_t stream;
  CF(cf_context_options_init(&options, sizeof options));
  options.device_kind = CF_DEVICE_CUDA;
  options.device_wait_limit_ms = 60000; /* sanitizers are slow */
  CF(cf_context_create(&options, &context));
  CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cf_model_config sequential = make_config(CF_FAMILY_GPT_NEOX, 4, 4, 64, 256, 528);
  sequential.parallel_residual = 0, sequential.activation = CF_ACTIVATION_GELU_TANH;
  run(context, make_config(CF_FAMILY_GPT_NEOX, 3, 3, 32, 96, 208), CF_DTYPE_F16, 0, stream);
  run(context, sequential, CF_DTYPE_BF16, 1, stream);
  run(context, make_config(CF_FAMILY_GPT_NEOX, 3, 3, 80, 240, 976), CF_DTYPE_F16, 1, stream);
  run(context, make_config(CF_FAMILY_LLAMA, 4, 2, 96, 112, 304), CF_DTYPE_F16, 0, stream);
  run(context, make_config(CF_FAMILY_LLAMA, 6, 2, 128, 384, 1104), CF_DTYPE_BF16, 1, stream);
  run(context, make_config(CF_FAMILY_LLAMA, 2, 1, 256, 512, 272), CF_DTYPE_F16, 0, stream);
  CUDA(cudaStreamDestroy(stream));
  CF(cf_context_destroy(context));
  return 0;
}
