// Weights on the CPU: matrices as stored (or rounded to the dtype asked for), vectors in float. One allocation per layer.
#pragma once

#include <memory>
#include <vector>

#include "backend.h"
#include "cpu/kernels.h"
#include "half.h"
#include "memory.h"
#include "weights.h"

namespace cf {

// The slots of a layer, or of the globals, in one buffer.
class SlotStorage {
 public:
  SlotStorage() = default;
  // Reads the tensors, which were checked, into slots first .. last - 1.
  SlotStorage(std::shared_ptr<Memory> memory, const cf_model_config& config, const std::vector<Tensor>& tensors, cf_dtype weight_dtype, Slot first,
              Slot last);
  static uint64_t bytes(const cf_model_config& config, cf_dtype matrix_dtype, Slot first, Slot last);

  Matrix matrix(Slot slot) const { return {at(slot), dtypes_[int(slot)], shapes_[int(slot)].rows, shapes_[int(slot)].cols}; }
  const float* vector(Slot slot) const { return static_cast<const float*>(at(slot)); }  // NULL: the model has none
  uint64_t allocated_bytes() const { return buffer_.size_bytes(); }

 private:
  void* at(Slot slot) const { return shapes_[int(slot)].rows ? buffer_.as<std::byte>() + offsets_[int(slot)] : nullptr; }

  Buffer buffer_;
  uint64_t offsets_[int(Slot::kEnd)] = {};
  Shape shapes_[int(Slot::kEnd)] = {};
  cf_dtype dtypes_[int(Slot::kEnd)] = {};
};

class CpuWeights : public Weights {
 public:
  CpuWeights(std::shared_ptr<Memory> memory, const cf_model_config& config, cf_dtype weight_dtype);
  void load_layer(int32_t layer, const std::vector<Tensor>& tensors) override;
  void load_globals(const std::vector<Tensor>& tensors) override;
  void end_loading() override {}
  uint64_t allocated_bytes() const override;

  const SlotStorage& layer(int32_t i) const { return layers_[size_t(i)]; }
  const SlotStorage& globals() const { return globals_; }
  Matrix head() const { return globals_.matrix(config_.tied_embeddings ? Slot::kEmbedding : Slot::kHead); }
  const std::vector<float>& rope() const { return rope_; }  // rope_frequencies

 private:
  const std::shared_ptr<Memory> memory_;
  const cf_model_config config_;
  const cf_dtype weight_dtype_;
  const std::vector<float> rope_;
  std::vector<SlotStorage> layers_;
  SlotStorage globals_;
};

}  // namespace cf
