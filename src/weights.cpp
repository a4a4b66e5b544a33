#include "weights.h"

#include "error.h"
#include "model_config.h"

namespace cf {

Shape slot_shape(const cf_model_config& c, Slot slot) {
  const int64_t h = c.hidden_size, layer_norm = c.norm == CF_NORM_LAYER;
  auto vector = [](int64_t n, bool present = true) { return present ? Shape{n, 1} : Shape{0, 0}; };
  switch (slot) {
    case Slot::kAttentionNormWeight:
    case Slot::kMlpNormWeight:
    case Slot::kFinalNormWeight: return vector(h);
    case Slot::kAttentionNormBias:
    case Slot::kMlpNormBias:
    case Slot::kFinalNormBias: return vector(h, layer_norm);
    case Slot::kQkvWeight: return {qkv_size(c), h};
    case Slot::kQkvBias: return vector(qkv_size(c), c.attention_bias);
    case Slot::kOWeight: return {h, q_size(c)};
    case Slot::kOBias: return vector(h, c.attention_bias);
    case Slot::kUpWeight: return {up_size(c), h};
    case Slot::kUpBias: return vector(up_size(c), c.mlp_bias);
    case Slot::kDownWeight: return {h, c.intermediate_size};
    case Slot::kDownBias: return vector(h, c.mlp_bias);
    case Slot::kEmbedding: return {c.vocab_size, h};
    case Slot::kHead: return c.tied_embeddings ? Shape{0, 0} : Shape{c.vocab_size, h};
    case Slot::kEnd: break;
  }
  return {0, 0};
}

Placement placement(const cf_model_config& c, cf_tensor_role role) {
  const int64_t q = q_size(c), kv = kv_size(c), d = c.head_dim, inter = c.intermediate_size;
  // The whole slot from one tensor; or rows `first` ... of it, `count` of them.
  auto whole = [&](Slot slot) {
    Shape s = slot_shape(c, slot);
    return Placement{slot, s, {{0, 0, s.rows}}};
  };
  auto part = [&](Slot slot, int64_t first, int64_t count) {
    Shape s = slot_shape(c, slot);
    if (s.rows == 0) return Placement{slot, s, {}};
    return Placement{slot, {count, s.cols}, {{0, first, count}}};
  };
  auto fused_qkv = [&](Slot slot) {  // per head: D rows of Q, of K, of V
    Shape s = slot_shape(c, slot);
    if (s.rows == 0 || c.n_heads != c.n_kv_heads) return Placement{slot, {0, 0}, {}};
    Placement p{slot, s, {}};
    for (int64_t head = 0; head < c.n_heads; head++)
      for (int64_t j = 0; j < 3; j++) p.runs.push_back({(head * 3 + j) * d, j * q + head * d, d});
    return p;
  };
  switch (role) {
    case CF_ROLE_EMBEDDING: return whole(Slot::kEmbedding);
    case CF_ROLE_FINAL_NORM_WEIGHT: return whole(Slot::kFinalNormWeight);
    case CF_ROLE_FINAL_NORM_BIAS: return whole(Slot::kFinalNormBias);
    case CF_ROLE_HEAD: return whole(Slot::kHead);
    case CF_ROLE_ATTENTION_NORM_WEIGHT: return whole(Slot::kAttentionNormWeight);
    case CF_ROLE_ATTENTION_NORM_BIAS: return whole(Slot::kAttentionNormBias);
    case CF_ROLE_MLP_NORM_WEIGHT: return whole(Slot::kMlpNormWeight);
    case CF_ROLE_MLP_NORM_BIAS: return whole(Slot::kMlpNormBias);
    case CF_ROLE_QKV_WEIGHT: return fused_qkv(Slot::kQkvWeight);
    case CF_ROLE_QKV_BIAS: return fused_qkv(Slot::kQkvBias);
    case CF_ROLE_Q_WEIGHT: return part(Slot::kQkvWeight, 0, q);
    case CF_ROLE_Q_BIAS: return part(Slot::kQkvBias, 0, q);
    case CF_ROLE_K_WEIGHT: return part(Slot::kQkvWeight, q, kv);
    case CF_ROLE_K_BIAS: return part(Slot::kQkvBias, q, kv);
    case CF_ROLE_V_WEIGHT: return part(Slot::kQkvWeight, q + kv, kv);
    case CF_ROLE_V_BIAS: return part(Slot::kQkvBias, q + kv, kv);
    case CF_ROLE_O_WEIGHT: return whole(Slot::kOWeight);
    case CF_ROLE_O_BIAS: return whole(Slot::kOBias);
    case CF_ROLE_GATE_WEIGHT: return gated(c) ? part(Slot::kUpWeight, 0, inter) : Placement{Slot::kUpWeight, {0, 0}, {}};
    case CF_ROLE_GATE_BIAS: return gated(c) ? part(Slot::kUpBias, 0, inter) : Placement{Slot::kUpBias, {0, 0}, {}};
    case CF_ROLE_UP_WEIGHT: return part(Slot::kUpWeight, gated(c) ? inter : 0, inter);
    case CF_ROLE_UP_BIAS: return part(Slot::kUpBias, gated(c) ? inter : 0, inter);
    case CF_ROLE_DOWN_WEIGHT: return whole(Slot::kDownWeight);
    case CF_ROLE_DOWN_BIAS: return whole(Slot::kDownBias);
    default: return {Slot::kEnd, {0, 0}, {}};
  }
}

namespace {

// Every slot from `first` to `last` has all its rows, each once; every tensor fits its role.
void check_tensors(const cf_model_config& config, const std::vector<Tensor>& tensors, Slot first, Slot last, cf_status status) {
  int64_t rows_found[int(Slot::kEnd)] = {};
  const Tensor* holder[int(Slot::kEnd)] = {};
  for (size_t i = 0; i < tensors.size(); i++) {
    const Tensor& t = tensors[i];
    Placement p = placement(config, t.role);
    if (p.slot < first || p.slot >= last) fail(status, "'", t.name, "' (", role_name(t.role), ") does not belong here");
    if (p.shape.rows == 0) fail(status, "'", t.name, "' (", role_name(t.role), ") is not part of a model with this configuration");
    if (t.rows != p.shape.rows || t.cols != p.shape.cols)
      fail(status, "'", t.name, "' has shape [", t.rows, ", ", t.cols, "], expected [", p.shape.rows, ", ", p.shape.cols,
           "] (a vector counts as one column)");
    for (size_t j = 0; j < i; j++)
      if (tensors[j].role == t.role) fail(status, "'", t.name, "' gives ", role_name(t.role), " a second time");
    const Tensor*& other = holder[int(p.slot)];
    if (is_matrix(p.slot) && other && other->dtype != t.dtype)
      fail(CF_ERROR_UNSUPPORTED, "'", t.name, "' is ", dtype_name(t.dtype), " but '", other->name, "' is ", dtype_name(other->dtype),
           "; they must have the same dtype");
    other = &t;
    rows_found[int(p.slot)] += t.rows;
  }
  static constexpr const char* kSlotNames[] = {"attention norm weight",
                                               "attention norm bias",
                                               "Q, K and V weights",
                                               "Q, K and V biases",
                                               "O weight",
                                               "O bias",
                                               "MLP norm weight",
                                               "MLP norm bias",
                                               "MLP gate and up weights",
                                               "MLP gate and up biases",
                                               "MLP down weight",
                                               "MLP down bias",
                                               "embedding",
                                               "final norm weight",
                                               "final norm bias",
                                               "LM head"};
  for (int slot = int(first); slot < int(last); slot++) {
    int64_t rows = slot_shape(config, Slot(slot)).rows;
    if (rows_found[slot] != rows)
      fail(status, "incomplete: ", kSlotNames[slot], " has ", rows_found[slot], " of ", rows,
           rows_found[slot] > rows ? " rows: fused and separate tensors were both given" : " rows");
  }
}

}  // namespace

void check_layer_tensors(const cf_model_config& config, const std::vector<Tensor>& tensors, cf_status status) {
  check_tensors(config, tensors, Slot{0}, Slot::kLayerSlots, status);
}

void check_global_tensors(const cf_model_config& config, const std::vector<Tensor>& tensors, cf_status status) {
  check_tensors(config, tensors, Slot::kEmbedding, Slot::kEnd, status);
}

}  // namespace cf
