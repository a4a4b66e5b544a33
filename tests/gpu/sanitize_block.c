/* Block calls on small models of every shape, for compute-sanitizer: exact allocations, so that an access beyond any of them is one
 * beyond its end. Checks statuses and that results are finite; what they should be is block_proof.py's business. */
#include "helpers/block_models.h"

enum { kPageTokens = 16 };

static void run(cf_context* context, cf_model_config c, cf_dtype kv_dtype, int paged, int32_t rows, cudaStream_t stream) {
  cf_model* model;
  CF(cf_model_create(context, &c, NULL, &model));
  load(model, &c, 0, 1, stream);
  const size_t t = (size_t)rows, h = t * (size_t)c.hidden_size, kv = (size_t)(c.n_kv_heads * c.head_dim), kv_bytes = kCapacity * kv * 2;
  const int32_t positions[] = {0, 1, 60, kCapacity - rows};
  int32_t* state = device_bytes((2 + kCapacity / kPageTokens) * sizeof *state); /* position, status, page table */
  int32_t table[kCapacity / kPageTokens];
  for (int i = 0; i < kCapacity / kPageTokens; i++) table[i] = kCapacity / kPageTokens - 1 - i;
  CUDA(cudaMemcpy(state + 2, table, sizeof table, cudaMemcpyHostToDevice));
  cf_block_options o;
  CF(cf_block_options_init(&o, sizeof o));
  float* hidden = malloc(h * sizeof *hidden);
  for (size_t i = 0; i < h; i++) hidden[i] = random_value(2.0f);
  o.n_rows = rows;
  o.kv_dtype = kv_dtype;
  o.hidden = device_bytes(h * sizeof(float));
  CUDA(cudaMemcpy((void*)o.hidden, hidden, h * sizeof(float), cudaMemcpyHostToDevice));
  o.output = device_bytes(h * sizeof(float));
  o.attention_output = device_bytes(h * sizeof(float));
  o.mlp_activation = device_bytes(t * (size_t)c.intermediate_size * sizeof(float));
  o.new_k = device_bytes(t * kv * sizeof(float));
  o.new_v = device_bytes(t * kv * sizeof(float));
  o.k_cache = device_bytes(kv_bytes);
  o.v_cache = device_bytes(kv_bytes);
  CUDA(cudaMemset(o.k_cache, 0x2e, kv_bytes)); /* small numbers in both formats */
  CUDA(cudaMemset(o.v_cache, 0x2f, kv_bytes));
  CUDA(cudaDeviceSynchronize());
  o.token_stride = (int64_t)kv, o.head_stride = c.head_dim;
  o.kv_capacity_tokens = kCapacity;
  if (paged) o.page_table = state + 2, o.page_tokens = kPageTokens, o.page_stride = (int64_t)kv * kPageTokens;
  o.position = state, o.step_status = state + 1;
  CF(cf_block_workspace(model, rows, kCapacity, &o.workspace_bytes));
  o.workspace = device_bytes(o.workspace_bytes);
  CUDA(cudaMemset(o.workspace, 0, o.workspace_bytes));
  CUDA(cudaDeviceSynchronize());
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
    stop_if(end[0] != positions[i] + rows || end[1] != CF_OK, "position or status");
    for (size_t k = 0; k < h; k++) stop_if(!isfinite(hidden[k]), "a finite output");
  }
  free(hidden);
  void* const all[] = {state, (void*)o.hidden, o.output, o.attention_output, o.mlp_activation, o.new_k, o.new_v, o.k_cache, o.v_cache, o.workspace};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) CUDA(cudaFree(all[i]));
  CF(cf_model_destroy(model));
  printf("head_dim %d, hidden_size %d, %d:%d heads, %s, %d rows: ok\n", c.head_dim, c.hidden_size, c.n_heads, c.n_kv_heads,
         paged ? "paged" : "contiguous", rows);
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
  cf_model_config sequential = make_config(CF_FAMILY_GPT_NEOX, 4, 4, 64, 256, 528, 1);
  sequential.parallel_residual = 0, sequential.activation = CF_ACTIVATION_GELU_TANH;
  run(context, make_config(CF_FAMILY_GPT_NEOX, 3, 3, 32, 96, 208, 1), CF_DTYPE_F16, 0, 1, stream);
  run(context, sequential, CF_DTYPE_BF16, 1, 3, stream);
  run(context, make_config(CF_FAMILY_GPT_NEOX, 3, 3, 80, 240, 976, 1), CF_DTYPE_F16, 1, 9, stream);
  run(context, make_config(CF_FAMILY_LLAMA, 4, 2, 96, 112, 304, 1), CF_DTYPE_F16, 0, 8, stream);
  run(context, make_config(CF_FAMILY_LLAMA, 6, 2, 128, 384, 1104, 1), CF_DTYPE_BF16, 1, 4, stream);
  run(context, make_config(CF_FAMILY_LLAMA, 2, 1, 256, 512, 272, 1), CF_DTYPE_F16, 0, 1, stream);
  CUDA(cudaStreamDestroy(stream));
  CF(cf_context_destroy(context));
  return 0;
}
