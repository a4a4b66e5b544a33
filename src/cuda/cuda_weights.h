// Weights on a CUDA device: matrices in F16 or BF16, packed as kernels/contract.h says, vectors in float. One allocation per layer, one
// for the globals, two small ones for what launches need besides.
#pragma once

#include <memory>
#include <vector>

#include "backend.h"
#include "context.h"
#include "cuda/cuda_call.h"
#include "cuda/weight_loader.h"
#include "kernels/contract.h"
#include "memory.h"
#include "weights.h"

namespace cf {

// The dtype in which a matrix stored as `stored` is kept: F32 only becomes F16.
constexpr cf_dtype cuda_kept_dtype(cf_dtype wanted, cf_dtype stored) {
  const cf_dtype kept = kept_dtype(wanted, stored);
  return kept == CF_DTYPE_F32 ? cf_dtype{CF_DTYPE_F16} : kept;
}

// The slots of a layer, or of the globals, in one buffer on the device.
class CudaSlots {
 public:
  CudaSlots() = default;
  // Copies the tensors, which were checked, into slots first .. last - 1. They are no longer read on return.
  CudaSlots(const LoadPath& path, WeightLoader& loader, const cf_model_config& config, const std::vector<Tensor>& tensors, cf_dtype weight_dtype,
            Slot first, Slot last);
  static uint64_t bytes(const cf_model_config& config, Slot first, Slot last);

  gpu::Matrix matrix(Slot slot) const;
  const float* vector(Slot slot) const { return reinterpret_cast<const float*>(at(slot)); }  // NULL: the model has none
  uint64_t allocated_bytes() const { return buffer_.size_bytes(); }
  const float* norm(Slot weight) const {
    return reinterpret_cast<const float*>(buffer_.as<const std::byte>() + norms_[int(weight)]);
  }  // as norm_offset says
  const char* base() const { return buffer_.as<const char>(); }
  gpu::LayerOffsets offsets() const;  // of the slots of a layer
  cf_dtype dtype(Slot slot) const { return dtypes_[int(slot)]; }
  bool has(Slot slot) const { return shapes_[int(slot)].rows != 0; }

 private:
  std::byte* at(Slot slot) const { return shapes_[int(slot)].rows ? buffer_.as<std::byte>() + offsets_[int(slot)] : nullptr; }

  Buffer buffer_;
  uint64_t offsets_[int(Slot::kEnd)] = {}, norms_[int(Slot::kEnd)] = {};
  Shape shapes_[int(Slot::kEnd)] = {};
  cf_dtype dtypes_[int(Slot::kEnd)] = {};
};

class CudaWeights : public Weights {
 public:
  CudaWeights(const LoadPath& path, const cf_model_config& config, cf_dtype weight_dtype);
  void load_layer(int32_t layer, const std::vector<Tensor>& tensors) override;
  void load_globals(const std::vector<Tensor>& tensors) override;
  void end_loading() override { loader_.reset(); }
  uint64_t allocated_bytes() const override;
  static uint64_t bytes(const cf_model_config& config);  // once everything is loaded

  gpu::LayerWeights layer(int32_t i) const;
  // For decoding: where weights are (DecodeParams::addresses), always of those loaded last, and what lies where in a layer.
  const char* const* addresses() const { return addresses_.as<const char*>(); }
  gpu::LayerOffsets layer_offsets(int32_t i = 0) const { return layers_[size_t(i)].offsets(); }
  const CudaSlots& globals() const { return globals_; }
  cf_dtype uniform_dtype() const;                                     // of all matrices; AUTO: they differ
  cf_dtype layer_dtype(int32_t i) const;                              // of those of a layer that is loaded
  const float* inv_freq() const { return frequencies_.as<float>(); }  // [rotary_dim / 2]

 protected:
  const cf_model_config& config() const { return config_; }
  Context& context() const { return path_.context; }

 private:
  void log_rounding(const std::vector<Tensor>& tensors) const;
  CudaSlots load(const std::vector<Tensor>& tensors, Slot first, Slot last);
  void publish(int32_t first, std::initializer_list<const void*> addresses);

  const LoadPath path_;
  const cf_model_config config_;
  const cf_dtype weight_dtype_;
  Buffer frequencies_;
  Buffer addresses_;
  std::unique_ptr<WeightLoader> loader_;  // while loading
  std::vector<CudaSlots> layers_;
  CudaSlots globals_;
};

}  // namespace cf
