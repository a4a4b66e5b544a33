// GPT-NeoX: LayerNorm, rotary embeddings on the first part of each head, Q, K and V interleaved per head, a two-matrix MLP,
// parallel or sequential residual. Pythia is of this family.
#include "config_json.h"
#include "family.h"

namespace cf {

namespace {

void read_gpt_neox(const ConfigFields& fields, cf_model_config& config) {
  config.norm = CF_NORM_LAYER;
  config.norm_eps = fields.positive("layer_norm_eps", 1e-5);
  const std::string activation = fields.string("hidden_act", "gelu");
  if (activation == "gelu") config.activation = CF_ACTIVATION_GELU;
  else if (activation == "gelu_new" || activation == "gelu_fast" || activation == "gelu_pytorch_tanh") config.activation = CF_ACTIVATION_GELU_TANH;
  else fields.unsupported("hidden_act ", quote(activation), " is not supported, only 'gelu', 'gelu_new', 'gelu_fast' and 'gelu_pytorch_tanh'");
  config.parallel_residual = fields.flag("use_parallel_residual", true);
  config.attention_bias = fields.flag("attention_bias", true);
  config.mlp_bias = 1;

  config.n_kv_heads = config.n_heads;
  config.head_dim = read_head_dim(fields, config);
  if (int64_t(config.head_dim) * config.n_heads != config.hidden_size)
    fields.invalid("num_attention_heads (", config.n_heads, ") heads of head_dim ", config.head_dim, " do not make hidden_size (", config.hidden_size,
                   ")");
  read_rope(fields, "rotary_emb_base", "rotary_pct", 0.25, config);
  if (config.rope_scaling != CF_ROPE_SCALING_NONE) fields.unsupported("rope_type 'llama3' is not supported for gpt_neox");
}

constexpr TensorName kLayerTensors[] = {
    {CF_ROLE_ATTENTION_NORM_WEIGHT, "input_layernorm.weight"},
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
};
constexpr TensorName kGlobalTensors[] = {
    {CF_ROLE_EMBEDDING, "gpt_neox.embed_in.weight"},
    {CF_ROLE_FINAL_NORM_WEIGHT, "gpt_neox.final_layer_norm.weight"},
    {CF_ROLE_FINAL_NORM_BIAS, "gpt_neox.final_layer_norm.bias"},
    {CF_ROLE_HEAD, "embed_out.weight"},
    {CF_ROLE_HEAD, "lm_head.weight"},  // as newer transformers names it
};

}  // namespace

const Family kGptNeox = {CF_FAMILY_GPT_NEOX, "gpt_neox",    "GPTNeoXForCausalLM", 0, 2, read_gpt_neox,
                         "gpt_neox.layers.", kLayerTensors, kGlobalTensors};

}  // namespace cf
