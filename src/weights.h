// What a backend keeps of a model: one matrix or vector per slot, each gathered from one or more tensors (roles).
#pragma once

#include <memory>
#include <vector>

#include "clusterfusion.h"
#include "tensor.h"

namespace cf {

// Shapes as in clusterfusion.h: H hidden_size, D head_dim, A n_heads, G n_kv_heads, I intermediate_size, V vocab_size.
enum class Slot {
  kAttentionNormWeight,  // [H]
  kAttentionNormBias,    // [H]
  kQkvWeight,            // [(A + 2 G) D, H]: rows of all Q heads, all K heads, all V heads
  kQkvBias,              // [(A + 2 G) D]
  kOWeight,              // [H, A D]
  kOBias,                // [H]
  kMlpNormWeight,        // [H]
  kMlpNormBias,          // [H]
  kUpWeight,             // [I, H]; gated: [2 I, H], gate rows, then up rows
  kUpBias,               // [I] or [2 I]
  kDownWeight,           // [H, I]
  kDownBias,             // [H]
  kLayerSlots,
  kEmbedding = kLayerSlots,  // [V, H]
  kFinalNormWeight,          // [H]
  kFinalNormBias,            // [H]
  kHead,                     // [V, H]; absent if tied
  kEnd
};

struct Shape {
  int64_t rows, cols;  // a vector of n elements is [n, 1]; [0, 0]: the model has no such slot
};
Shape slot_shape(const cf_model_config& config, Slot slot);
constexpr bool is_matrix(Slot slot) {
  return slot == Slot::kQkvWeight || slot == Slot::kOWeight || slot == Slot::kUpWeight || slot == Slot::kDownWeight || slot == Slot::kEmbedding ||
         slot == Slot::kHead;
}

// `count` rows of a tensor, from row `source`, that become rows `destination` ... of its slot.
struct RowRun {
  int64_t source, destination, count;
};

// Where a role goes and what shape it must have. rows 0: the model has no such role.
struct Placement {
  Slot slot;
  Shape shape;
  std::vector<RowRun> runs;
};
Placement placement(const cf_model_config& config, cf_tensor_role role);

// That the tensors are exactly what a layer (or the globals) of this model consists of: every role once, shapes right,
// matrices that share a slot of one dtype. Throws `status` naming the tensor.
void check_layer_tensors(const cf_model_config& config, const std::vector<Tensor>& tensors, cf_status status);
void check_global_tensors(const cf_model_config& config, const std::vector<Tensor>& tensors, cf_status status);

// The dtype in which a matrix stored as `stored` is kept under option `wanted` (AUTO: as stored).
constexpr cf_dtype kept_dtype(cf_dtype wanted, cf_dtype stored) { return wanted == CF_DTYPE_AUTO ? stored : wanted; }

}  // namespace cf
