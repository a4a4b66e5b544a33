// config.json of a Hugging Face directory, read into a cf_model_config.
#pragma once

#include <cstdint>
#include <string>

#include "clusterfusion.h"
#include "error.h"
#include "json.h"
#include "model_config.h"

namespace cf {

constexpr int64_t kMaxConfigBytes = 1 << 20;

// Throws CF_ERROR_IO, CF_ERROR_INVALID_FILE or CF_ERROR_UNSUPPORTED; what it returns has passed check_config.
cf_model_config read_config(const std::string& directory);

// The members of one object of config.json. A member that is null counts as absent, as transformers saves unset options.
// Every message names the file and the member.
class ConfigFields {
 public:
  ConfigFields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  bool has(const char* key) const { return find(key) != nullptr; }
  bool is_null(const char* key) const;  // present, and null
  int32_t size(const char* key) const;  // 1 to 2^20; required
  int32_t size(const char* key, int32_t fallback) const;
  double positive(const char* key) const;  // finite and above 0; required
  double positive(const char* key, double fallback) const;
  double number(const char* key) const;  // finite; required
  bool flag(const char* key, bool fallback) const;
  std::string string(const char* key) const;  // required
  std::string string(const char* key, const char* fallback) const;
  ConfigFields object(const char* key) const;
  const Json* find(const char* key) const;  // NULL if absent or null
  const Json& required(const char* key) const;

  template <class... Parts>
  [[noreturn]] void invalid(const Parts&... parts) const {
    fail(CF_ERROR_INVALID_FILE, where_, parts...);
  }
  template <class... Parts>
  [[noreturn]] void unsupported(const Parts&... parts) const {
    fail(CF_ERROR_UNSUPPORTED, where_, parts...);
  }

 private:
  const Json& object_;
  std::string where_;  // "DIRECTORY/config.json: rope_scaling."
};

// head_dim, present or hidden_size / num_attention_heads.
int32_t read_head_dim(const ConfigFields& fields, const cf_model_config& config);

// Rotary embeddings, in any of the spellings that transformers has used: members of config.json itself (with the family's
// old names theta_alias and partial_alias, NULL if it has none), rope_scaling, or rope_parameters. Fills rope_* and rotary_dim.
void read_rope(const ConfigFields& fields, const char* theta_alias, const char* partial_alias, double partial_fallback, cf_model_config& config);

}  // namespace cf
