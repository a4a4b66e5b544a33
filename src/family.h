// A model family: how its config.json describes it and what its tensors are called. One file each, family_*.cpp.
#pragma once

#include <span>

#include "clusterfusion.h"

namespace cf {

class ConfigFields;

struct TensorName {
  cf_tensor_role role;
  const char* name;  // of a layer's tensor: what follows "PREFIX<layer>."
};

struct Family {
  cf_family id;
  const char* model_type;        // in config.json
  const char* architecture;      // the one of its classes that this library runs
  int32_t bos_token, eos_token;  // what transformers assumes when config.json does not say
  // Fills norm, activation, biases, heads, rope and eps; the rest is already there.
  void (*read_config)(const ConfigFields& fields, cf_model_config& config);
  const char* layer_prefix;
  // Roles that the configuration leaves out (a bias, a tied head) are not looked for. A role listed twice may have either name.
  std::span<const TensorName> layer_tensors, global_tensors;
};

extern const Family kGptNeox, kLlama;
inline constexpr const Family* kFamilies[] = {&kGptNeox, &kLlama};

const Family& family_of(const cf_model_config& config);

}  // namespace cf
