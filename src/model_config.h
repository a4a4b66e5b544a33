// Facts that follow from a model description, and the check that one is possible.
#pragma once

#include <string>

#include "clusterfusion.h"

namespace cf {

constexpr int64_t kMaxPoolTokens = int64_t{1} << 40;  // sizes in bytes are checked besides

constexpr int32_t kMaxSize = 1 << 20;  // of every dimension of a model
constexpr int32_t kMaxLayers = 1024;

// Throws `status` with a sentence that names the field at fault. Every size in it fits 32 bits afterwards.
void check_config(const cf_model_config& config, cf_status status);

inline int64_t q_size(const cf_model_config& c) { return int64_t(c.n_heads) * c.head_dim; }
inline int64_t kv_size(const cf_model_config& c) { return int64_t(c.n_kv_heads) * c.head_dim; }
inline int64_t qkv_size(const cf_model_config& c) { return q_size(c) + 2 * kv_size(c); }
inline bool gated(const cf_model_config& c) { return c.activation == CF_ACTIVATION_SWIGLU; }
inline int64_t up_size(const cf_model_config& c) { return int64_t(c.intermediate_size) * (gated(c) ? 2 : 1); }  // gate rows, then up rows
uint64_t parameter_count(const cf_model_config& config);

}  // namespace cf
