#include "model_config.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "checked.h"

namespace cf {

namespace {

constexpr int32_t kHeadDims[] = {32, 64, 80, 96, 128, 256};

class Checker {
 public:
  explicit Checker(cf_status status) : status_(status) {}

  void range(const char* name, int64_t value, int64_t least, int64_t most) const {
    if (value < least || value > most) fail(status_, name, " is ", value, ", expected ", least, " to ", most);
  }
  void flag(const char* name, int32_t value) const { range(name, value, 0, 1); }
  void positive(const char* name, double value) const {
    if (!std::isfinite(value) || !(value > 0)) fail(status_, name, " is ", value, ", expected a finite number above 0");
  }
  void zero(const char* name, double value, const char* when) const {
    if (value != 0) fail(status_, name, " is ", value, ", expected 0 ", when);
  }
  void divides(const char* part_name, int32_t part, const char* whole_name, int32_t whole) const {
    if (whole % part) fail(status_, part_name, " (", part, ") does not divide ", whole_name, " (", whole, ")");
  }

 private:
  cf_status status_;
};

void check_rope(const cf_model_config& c, const Checker& check, cf_status status) {
  check.range("rotary_dim", c.rotary_dim, 2, c.head_dim);
  if (c.rotary_dim % 2) fail(status, "rotary_dim is ", c.rotary_dim, ", expected an even number");
  check.positive("rope_theta", c.rope_theta);
  check.range("rope_scaling", c.rope_scaling, CF_ROPE_SCALING_NONE, CF_ROPE_SCALING_LLAMA3);
  if (c.rope_scaling == CF_ROPE_SCALING_NONE) {
    const char* when = "without rope_scaling";
    check.zero("rope_factor", c.rope_factor, when);
    check.zero("rope_low_freq_factor", c.rope_low_freq_factor, when);
    check.zero("rope_high_freq_factor", c.rope_high_freq_factor, when);
    check.zero("rope_original_max_position", c.rope_original_max_position, when);
    return;
  }
  check.positive("rope_factor", c.rope_factor);
  check.positive("rope_low_freq_factor", c.rope_low_freq_factor);
  check.positive("rope_high_freq_factor", c.rope_high_freq_factor);
  if (c.rope_high_freq_factor <= c.rope_low_freq_factor)
    fail(status, "rope_high_freq_factor (", c.rope_high_freq_factor, ") must be above rope_low_freq_factor (", c.rope_low_freq_factor, ")");
  check.range("rope_original_max_position", c.rope_original_max_position, 1, kMaxSize);
}

}  // namespace

void check_config(const cf_model_config& c, cf_status status) {
  const Checker check(status);
  check.range("family", c.family, CF_FAMILY_GPT_NEOX, CF_FAMILY_LLAMA);
  check.range("norm", c.norm, CF_NORM_LAYER, CF_NORM_RMS);
  check.range("activation", c.activation, CF_ACTIVATION_GELU, CF_ACTIVATION_SWIGLU);
  check.flag("parallel_residual", c.parallel_residual);
  check.flag("attention_bias", c.attention_bias);
  check.flag("mlp_bias", c.mlp_bias);
  check.flag("tied_embeddings", c.tied_embeddings);
  check.range("n_layers", c.n_layers, 1, kMaxLayers);
  check.range("hidden_size", c.hidden_size, 1, kMaxSize);
  check.range("n_heads", c.n_heads, 1, kMaxSize);
  check.range("n_kv_heads", c.n_kv_heads, 1, kMaxSize);
  check.range("head_dim", c.head_dim, 1, kMaxSize);
  check.range("intermediate_size", c.intermediate_size, 1, kMaxSize);
  check.range("vocab_size", c.vocab_size, 1, kMaxSize);
  check.range("max_position_embeddings", c.max_position_embeddings, 1, kMaxSize);
  check.divides("n_kv_heads", c.n_kv_heads, "n_heads", c.n_heads);
  check_rope(c, check, status);
  check.positive("norm_eps", c.norm_eps);
  check.range("bos_token", c.bos_token, -1, c.vocab_size - 1);
  check.range("n_eos_tokens", c.n_eos_tokens, 0, int64_t(std::size(c.eos_tokens)));
  for (int32_t i = 0; i < c.n_eos_tokens; i++) check.range("eos_tokens", c.eos_tokens[i], 0, c.vocab_size - 1);
  check.range("reserved", c.reserved, 0, 0);
  if (std::find(std::begin(kHeadDims), std::end(kHeadDims), c.head_dim) == std::end(kHeadDims))
    fail(CF_ERROR_UNSUPPORTED, "head_dim is ", c.head_dim, ", supported are ", list_text(kHeadDims));

  // The caps above keep this within 64 bits; it is checked all the same, should they ever be raised.
  std::optional<uint64_t> kv_bytes = 2 * sizeof(float);
  for (int64_t factor : {int64_t(c.n_layers), int64_t(c.max_position_embeddings), kv_size(c)})
    kv_bytes = kv_bytes ? try_mul(*kv_bytes, uint64_t(factor)) : kv_bytes;
  if (!kv_bytes) fail(status, "n_layers * max_position_embeddings * n_kv_heads * head_dim overflows 64 bits");
}

uint64_t parameter_count(const cf_model_config& c) {
  const uint64_t h = uint64_t(c.hidden_size), inter = uint64_t(c.intermediate_size);
  const uint64_t q = uint64_t(q_size(c)), qkv = uint64_t(qkv_size(c)), up = uint64_t(up_size(c));
  const uint64_t norm = c.norm == CF_NORM_LAYER ? 2 * h : h;  // weight and bias, or weight
  uint64_t layer = add(mul(qkv, h), mul(h, q), mul(up, h), mul(h, inter), 2 * norm);
  if (c.attention_bias) layer = add(layer, qkv, h);
  if (c.mlp_bias) layer = add(layer, up, h);
  const uint64_t embeddings = mul(uint64_t(c.vocab_size), h, c.tied_embeddings ? 1 : 2);
  return add(mul(uint64_t(c.n_layers), layer), norm, embeddings);
}

}  // namespace cf
