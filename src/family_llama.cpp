// Llama: RMSNorm, rotary embeddings, grouped-query attention, SwiGLU, sequential residual.
#include "config_json.h"
#include "family.h"

namespace cf {

namespace {

void read_llama(const ConfigFields& fields, cf_model_config& config) {
  config.norm = CF_NORM_RMS;
  config.norm_eps = fields.positive("rms_norm_eps", 1e-6);
  const std::string activation = fields.string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") fields.unsupported("hidden_act ", quote(activation), " is not supported, only 'silu'");
  config.activation = CF_ACTIVATION_SWIGLU;
  config.attention_bias = fields.flag("attention_bias", false);  // of q, k, v and o alike
  config.mlp_bias = fields.flag("mlp_bias", false);

  config.n_kv_heads = fields.size("num_key_value_heads", config.n_heads);
  if (config.n_heads % config.n_kv_heads)
    fields.invalid("num_key_value_heads (", config.n_kv_heads, ") does not divide num_attention_heads (", config.n_heads, ")");
  config.head_dim = read_head_dim(fields, config);
  read_rope(fields, nullptr, nullptr, 1, config);
  // transformers rotates whole heads whatever the configuration says.
  if (config.rotary_dim != config.head_dim) fields.unsupported("partial_rotary_factor other than 1 is not supported for llama");
}

constexpr TensorName kLayerTensors[] = {
    {CF_ROLE_ATTENTION_NORM_WEIGHT, "input_layernorm.weight"},
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
};
constexpr TensorName kGlobalTensors[] = {
    {CF_ROLE_EMBEDDING, "model.embed_tokens.weight"},
    {CF_ROLE_FINAL_NORM_WEIGHT, "model.norm.weight"},
    {CF_ROLE_HEAD, "lm_head.weight"},
};

}  // namespace

const Family kLlama = {CF_FAMILY_LLAMA, "llama", "LlamaForCausalLM", 1, 2, read_llama, "model.layers.", kLayerTensors, kGlobalTensors};

}  // namespace cf
