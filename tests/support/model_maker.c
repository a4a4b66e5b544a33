#include "model_maker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void need(cf_status status, const char* what) {
  char message[1024] = "";
  if (status == CF_OK) return;
  cf_last_error(message, sizeof message, NULL);
  fprintf(stderr, "model_maker: %s: %s: %s\n", what, cf_status_name(status), message);
  exit(2);
}

cf_model_config describe_model(const struct tiny_model* m) {
  const int neox = m->family == CF_FAMILY_GPT_NEOX;
  cf_model_config c;
  need(cf_model_config_init(&c, sizeof c), "cf_model_config_init");
  c.family = m->family;
  c.norm = neox ? CF_NORM_LAYER : CF_NORM_RMS;
  c.activation = !neox ? CF_ACTIVATION_SWIGLU : strcmp(m->hidden_act, "gelu") == 0 ? CF_ACTIVATION_GELU : CF_ACTIVATION_GELU_TANH;
  c.parallel_residual = neox && m->parallel_residual;
  c.attention_bias = m->attention_bias;
  c.mlp_bias = neox || m->mlp_bias;
  c.tied_embeddings = m->tied_embeddings;
  c.n_layers = m->n_layers;
  c.hidden_size = m->hidden_size;
  c.n_heads = m->n_heads;
  c.n_kv_heads = m->n_kv_heads;
  c.head_dim = m->head_dim;
  c.rotary_dim = neox ? (int)(m->rotary_pct * m->head_dim) : m->head_dim;
  c.intermediate_size = m->intermediate_size;
  c.vocab_size = m->vocab_size;
  c.max_position_embeddings = m->max_position_embeddings;
  c.norm_eps = 1e-5;
  c.rope_theta = m->rope_theta;
  if (m->llama3_rope) {
    c.rope_scaling = CF_ROPE_SCALING_LLAMA3;
    c.rope_factor = 8;
    c.rope_low_freq_factor = 1;
    c.rope_high_freq_factor = 4;
    c.rope_original_max_position = 64;
  }
  c.bos_token = m->bos_token;
  c.n_eos_tokens = 1;
  c.eos_tokens[0] = m->eos_token;
  return c;
}

struct role_name {
  cf_tensor_role role;
  const char* name;
};

static const struct role_name kGptNeoxGlobals[] = {{CF_ROLE_EMBEDDING, "gpt_neox.embed_in.weight"},
                                                   {CF_ROLE_FINAL_NORM_WEIGHT, "gpt_neox.final_layer_norm.weight"},
                                                   {CF_ROLE_FINAL_NORM_BIAS, "gpt_neox.final_layer_norm.bias"},
                                                   {CF_ROLE_HEAD, "embed_out.weight"},
                                                   {0, NULL}};
static const struct role_name kGptNeoxLayer[] = {{CF_ROLE_ATTENTION_NORM_WEIGHT, "input_layernorm.weight"},
                                                 {CF_ROLE_ATTENTION_NORM_BIAS, "input_layernorm.bias"},
                                                 {CF_ROLE_MLP_NORM_WEIGHT, "post_attention_layernorm.weight"},
                                                 {CF_ROLE_MLP_NORM_BIAS, "post_attention_layernorm.bias"},
                                                 {CF_ROLE_QKV_WEIGHT, "attention.query_key_value.weight"},
                                                 {CF_ROLE_QKV_BIAS, "attention.query_key_value.bias"},
                                                 {CF_ROLE_O_WEIGHT, "attention.dense.weight"},
                                                 {CF_ROLE_O_BIAS, "attention.dense.bias"},
                                                 {CF_ROLE_UP_WEIGHT, "mlp.dense_h_to_4h.weight"},
                                                 {CF_ROLE_UP_BIAS, "mlp.dense_h_to_4h.bias"},
                                                 {CF_ROLE_DOWN_WEIGHT, "mlp.dense_4h_to_h.weight"},
                                                 {CF_ROLE_DOWN_BIAS, "mlp.dense_4h_to_h.bias"},
                                                 {0, NULL}};
static const struct role_name kLlamaGlobals[] = {
    {CF_ROLE_EMBEDDING, "model.embed_tokens.weight"}, {CF_ROLE_FINAL_NORM_WEIGHT, "model.norm.weight"}, {CF_ROLE_HEAD, "lm_head.weight"}, {0, NULL}};
static const struct role_name kLlamaLayer[] = {{CF_ROLE_ATTENTION_NORM_WEIGHT, "input_layernorm.weight"},
                                               {CF_ROLE_MLP_NORM_WEIGHT, "post_attention_layernorm.weight"},
                                               {CF_ROLE_Q_WEIGHT, "self_attn.q_proj.weight"},
                                               {CF_ROLE_Q_BIAS, "self_attn.q_proj.bias"},
                                               {CF_ROLE_K_WEIGHT, "self_attn.k_proj.weight"},
                                               {CF_ROLE_K_BIAS, "self_attn.k_proj.bias"},
                                               {CF_ROLE_V_WEIGHT, "self_attn.v_proj.weight"},
                                               {CF_ROLE_V_BIAS, "self_attn.v_proj.bias"},
                                               {CF_ROLE_O_WEIGHT, "self_attn.o_proj.weight"},
                                               {CF_ROLE_O_BIAS, "self_attn.o_proj.bias"},
                                               {CF_ROLE_GATE_WEIGHT, "mlp.gate_proj.weight"},
                                               {CF_ROLE_GATE_BIAS, "mlp.gate_proj.bias"},
                                               {CF_ROLE_UP_WEIGHT, "mlp.up_proj.weight"},
                                               {CF_ROLE_UP_BIAS, "mlp.up_proj.bias"},
                                               {CF_ROLE_DOWN_WEIGHT, "mlp.down_proj.weight"},
                                               {CF_ROLE_DOWN_BIAS, "mlp.down_proj.bias"},
                                               {0, NULL}};

size_t describe_tensors(const struct tiny_model* model, const struct tensor_list* list, int layer, cf_tensor* descriptors) {
  const int neox = model->family == CF_FAMILY_GPT_NEOX;
  const struct role_name* names = layer == GLOBALS ? (neox ? kGptNeoxGlobals : kLlamaGlobals) : (neox ? kGptNeoxLayer : kLlamaLayer);
  char prefix[80] = "";
  size_t n = 0;
  if (layer != GLOBALS) snprintf(prefix, sizeof prefix, neox ? "gpt_neox.layers.%d." : "model.layers.%d.", layer);
  for (; names->name; names++) {
    for (size_t i = 0; i < list->count; i++) { /* a bias that the model does not have is not found */
      const struct file_tensor* t = &list->items[i];
      if (strncmp(t->name, prefix, strlen(prefix)) != 0 || strcmp(t->name + strlen(prefix), names->name) != 0) continue;
      cf_tensor* d = &descriptors[n++];
      need(cf_tensor_init(d, sizeof *d), "cf_tensor_init");
      d->role = names->role;
      d->dtype = strcmp(t->dtype, "F16") == 0 ? CF_DTYPE_F16 : strcmp(t->dtype, "BF16") == 0 ? CF_DTYPE_BF16 : CF_DTYPE_F32;
      d->rank = t->rank;
      for (int k = 0; k < t->rank; k++) d->shape[k] = (int64_t)t->shape[k];
      d->data = t->data;
    }
  }
  return n;
}

cf_model* make_model_of(cf_context* context, const struct tiny_model* description, const struct tensor_list* list, const cf_model_options* options) {
  const cf_model_config config = describe_model(description);
  cf_tensor descriptors[MAX_DESCRIPTORS];
  cf_model* model = NULL;
  need(cf_model_create(context, &config, options, &model), "cf_model_create");
  for (int layer = GLOBALS; layer < description->n_layers; layer++) {
    const size_t n = describe_tensors(description, list, layer, descriptors);
    if (layer == GLOBALS) need(cf_load_globals(model, descriptors, n, NULL), "cf_load_globals");
    else need(cf_load_layer(model, layer, descriptors, n, NULL), "cf_load_layer");
  }
  return model;
}

cf_model* make_model(cf_context* context, const struct tiny_model* description) {
  struct tensor_list list = tiny_model_tensors(description);
  cf_model* model = make_model_of(context, description, &list, NULL);
  free_tensors(&list);
  return model;
}

void fill_tokens(int32_t* tokens, size_t n, int vocab_size, uint64_t seed) {
  struct random_stream stream = {seed};
  for (size_t i = 0; i < n; i++) tokens[i] = (int32_t)(random_bits(&stream) % (uint64_t)vocab_size);
}
