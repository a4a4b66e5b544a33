#include "config_json.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>

#include "family.h"
#include "file.h"
#include "model_config.h"

namespace cf {

const Json* ConfigFields::find(const char* key) const {
  const Json* value = object_.find(key);
  return value && !value->is_null() ? value : nullptr;
}

bool ConfigFields::is_null(const char* key) const {
  const Json* value = object_.find(key);
  return value && value->is_null();
}

const Json& ConfigFields::required(const char* key) const {
  const Json* value = find(key);
  if (!value) invalid(key, " is missing");
  return *value;
}

int32_t ConfigFields::size(const char* key) const {
  const Json& value = required(key);
  if (!value.integer()) invalid(key, " is ", value.kind(), ", expected an unsigned integer");
  if (*value.integer() == 0 || *value.integer() > uint64_t(kMaxSize)) invalid(key, " is ", *value.integer(), ", expected 1 to ", kMaxSize);
  return int32_t(*value.integer());
}

int32_t ConfigFields::size(const char* key, int32_t fallback) const { return has(key) ? size(key) : fallback; }

double ConfigFields::number(const char* key) const {
  const Json& value = required(key);
  if (!value.number()) invalid(key, " is ", value.kind(), ", expected a number");
  if (!std::isfinite(*value.number())) invalid(key, " is not finite");
  return *value.number();
}

double ConfigFields::positive(const char* key) const {
  const double value = number(key);
  if (!(value > 0)) invalid(key, " is ", value, ", expected a number above 0");
  return value;
}

double ConfigFields::positive(const char* key, double fallback) const { return has(key) ? positive(key) : fallback; }

bool ConfigFields::flag(const char* key, bool fallback) const {
  const Json* value = find(key);
  if (!value) return fallback;
  if (!value->boolean()) invalid(key, " is ", value->kind(), ", expected true or false");
  return *value->boolean();
}

std::string ConfigFields::string(const char* key) const {
  const Json& value = required(key);
  if (!value.string()) invalid(key, " is ", value.kind(), ", expected a string");
  return *value.string();
}

std::string ConfigFields::string(const char* key, const char* fallback) const { return has(key) ? string(key) : fallback; }

ConfigFields ConfigFields::object(const char* key) const {
  const Json& value = required(key);
  if (!value.object()) invalid(key, " is ", value.kind(), ", expected an object");
  return ConfigFields(value, text(where_, key, "."));
}

int32_t read_head_dim(const ConfigFields& fields, const cf_model_config& config) {
  if (fields.has("head_dim")) return fields.size("head_dim");
  if (config.hidden_size % config.n_heads)
    fields.invalid("num_attention_heads (", config.n_heads, ") does not divide hidden_size (", config.hidden_size, ")");
  return config.hidden_size / config.n_heads;
}

namespace {

struct Source {
  const ConfigFields* fields;  // NULL: none
  const char* key;             // NULL: none
};

// The value of whichever sources are there. transformers has changed its mind about which of them wins, so they must agree.
double agreed(const ConfigFields& fields, std::initializer_list<Source> sources, double fallback) {
  std::optional<double> value;
  const char* from = nullptr;
  for (const Source& s : sources) {
    if (!s.fields || !s.key || !s.fields->has(s.key)) continue;
    const double found = s.fields->number(s.key);
    if (value && *value != found) fields.invalid(from, " (", *value, ") and ", s.key, " (", found, ") contradict each other");
    value = found;
    from = s.key;
  }
  return value.value_or(fallback);
}

void read_scaling(const ConfigFields& fields, const ConfigFields& scaling, const std::string& type, cf_model_config& config) {
  if (type == "default") return;
  if (type != "llama3") scaling.unsupported("rope_type ", quote(type), " is not supported, only 'default' and 'llama3'");
  config.rope_scaling = CF_ROPE_SCALING_LLAMA3;
  config.rope_factor = scaling.positive("factor");
  config.rope_low_freq_factor = scaling.positive("low_freq_factor");
  config.rope_high_freq_factor = scaling.positive("high_freq_factor");
  const char* const original = "original_max_position_embeddings";  // transformers reads it at the top, too
  config.rope_original_max_position = scaling.size(original, fields.size(original, config.max_position_embeddings));
  if (fields.has(original) && fields.size(original) != config.rope_original_max_position)
    fields.invalid(original, " (", fields.size(original), ") contradicts the one of the rope scaling (", config.rope_original_max_position, ")");
}

int32_t read_token(const ConfigFields& fields, const char* key, const Json& value, const cf_model_config& config) {
  if (!value.integer()) fields.invalid(key, " holds ", value.kind(), ", expected unsigned integers");
  if (*value.integer() >= uint64_t(config.vocab_size)) fields.invalid(key, " is ", *value.integer(), ", but vocab_size is ", config.vocab_size);
  return int32_t(*value.integer());
}

// null: the model has none; absent: what transformers assumes, where the vocabulary has it.
void read_special_tokens(const ConfigFields& fields, const Family& family, cf_model_config& config) {
  const char* const bos_key = "bos_token_id";
  const char* const eos_key = "eos_token_id";
  if (const Json* bos = fields.find(bos_key)) config.bos_token = read_token(fields, bos_key, *bos, config);
  else config.bos_token = fields.is_null(bos_key) || family.bos_token >= config.vocab_size ? -1 : family.bos_token;

  auto add = [&](int32_t token) {
    if (config.n_eos_tokens == int32_t(std::size(config.eos_tokens)))
      fields.unsupported(eos_key, " lists more than ", std::size(config.eos_tokens), " tokens");
    config.eos_tokens[config.n_eos_tokens++] = token;
  };
  const Json* eos = fields.find(eos_key);
  if (!eos) {
    if (!fields.is_null(eos_key) && family.eos_token < config.vocab_size) add(family.eos_token);
  } else if (eos->array()) {
    for (const Json& token : *eos->array()) add(read_token(fields, eos_key, token, config));
  } else {
    add(read_token(fields, eos_key, *eos, config));
  }
}

void check_architecture(const ConfigFields& fields, const Family& family) {
  const Json* list = fields.find("architectures");
  if (!list) return;
  if (!list->array()) fields.invalid("architectures is ", list->kind(), ", expected an array of strings");
  if (list->array()->empty()) return;
  std::string named;
  for (const Json& name : *list->array()) {
    if (!name.string()) fields.invalid("architectures holds ", name.kind(), ", expected strings");
    if (*name.string() == family.architecture) return;
    named += (named.empty() ? "" : ", ") + quote(*name.string());
  }
  fields.unsupported("architecture ", named, " is not supported, only '", family.architecture, "' for model_type '", family.model_type, "'");
}

const Family& find_family(const ConfigFields& fields) {
  const std::string type = fields.string("model_type");
  std::string known;
  for (const Family* family : kFamilies) {
    if (type == family->model_type) return *family;
    known += text(known.empty() ? "'" : ", '", family->model_type, "'");
  }
  fields.unsupported("model_type ", quote(type), " is not supported, only ", known);
}

}  // namespace

void read_rope(const ConfigFields& fields, const char* theta_alias, const char* partial_alias, double partial_fallback, cf_model_config& config) {
  const bool old_style = fields.has("rope_scaling"), new_style = fields.has("rope_parameters");
  if (old_style && new_style) fields.invalid("rope_scaling and rope_parameters are both given");
  std::optional<ConfigFields> nested;
  if (old_style || new_style) nested.emplace(fields.object(old_style ? "rope_scaling" : "rope_parameters"));
  const ConfigFields* inner = nested ? &*nested : nullptr;

  config.rope_theta = agreed(fields, {{inner, "rope_theta"}, {&fields, "rope_theta"}, {&fields, theta_alias}}, 10000);
  if (!(config.rope_theta > 0))
    fields.invalid(fields.has("rope_theta") || !theta_alias || inner ? "rope_theta" : theta_alias, " is ", config.rope_theta,
                   ", expected a number above 0");
  if (inner) read_scaling(fields, *inner, inner->string("rope_type", inner->string("type", "default").c_str()), config);

  const double partial =
      agreed(fields, {{inner, "partial_rotary_factor"}, {&fields, "partial_rotary_factor"}, {&fields, partial_alias}}, partial_fallback);
  // transformers does not look at it where the family has a name of its own for it.
  const char* const own = "partial_rotary_factor";
  if (partial_alias && fields.has(own) && !fields.has(partial_alias) && !(inner && inner->has(own)) && partial != partial_fallback)
    fields.unsupported(own, " of ", partial, " is not read here by transformers; give ", partial_alias);
  const char* partial_key = partial_alias && fields.has(partial_alias) ? partial_alias : "partial_rotary_factor";
  if (!(partial > 0 && partial <= 1))
    fields.invalid(partial_key, " is ", partial, ", expected a number above 0 and at most 1 (the rotary dimensions of a head)");
  config.rotary_dim = int32_t(config.head_dim * partial);  // rounded down, as transformers does
  if (config.rotary_dim < 2 || config.rotary_dim % 2)
    fields.invalid(partial_key, " of ", partial, " makes ", config.rotary_dim, " rotary dimensions of head_dim ", config.head_dim,
                   ", expected an even number");
}

const Family& family_of(const cf_model_config& config) {
  for (const Family* family : kFamilies)
    if (family->id == config.family) return *family;
  fail(CF_ERROR_INTERNAL, "no family ", config.family);
}

cf_model_config read_config(const std::string& directory) {
  const std::string path = text(directory, "/config.json");
  const Json json = parse_json(read_text(path, kMaxConfigBytes), path);
  if (!json.object()) fail(CF_ERROR_INVALID_FILE, path, ": is ", json.kind(), ", expected an object");
  const ConfigFields fields(json, text(path, ": "));

  const Family& family = find_family(fields);
  check_architecture(fields, family);
  if (fields.has("quantization_config")) fields.unsupported("quantization_config: quantised checkpoints are not supported");

  cf_model_config config{};
  config.struct_size = sizeof config;
  config.family = family.id;
  config.n_layers = fields.size("num_hidden_layers");
  if (config.n_layers > kMaxLayers) fields.invalid("num_hidden_layers is ", config.n_layers, ", expected 1 to ", kMaxLayers);
  config.hidden_size = fields.size("hidden_size");
  config.n_heads = fields.size("num_attention_heads");
  config.intermediate_size = fields.size("intermediate_size");
  config.vocab_size = fields.size("vocab_size");
  config.max_position_embeddings = fields.size("max_position_embeddings", 2048);
  config.tied_embeddings = fields.flag("tie_word_embeddings", false);
  read_special_tokens(fields, family, config);
  family.read_config(fields, config);
  try {
    check_config(config, CF_ERROR_INVALID_FILE);
  } catch (Error& error) {
    fail(error.status, path, ": ", error.message);
  }
  return config;
}

}  // namespace cf
