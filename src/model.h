// A model: its description, its weights on the device, and which of them are there.
#pragma once

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <vector>

#include "backend.h"
#include "clusterfusion.h"
#include "context.h"

namespace cf {

struct Checkpoint;

class Model {
 public:
  Model(std::shared_ptr<Context> context, const cf_model_config& config, cf_dtype weight_dtype);

  void load_layer(int32_t layer, const std::vector<Tensor>& tensors, void* stream);
  void load_globals(const std::vector<Tensor>& tensors, void* stream);
  void load(const Checkpoint& checkpoint, const cf_model_options& options);  // everything, all or nothing; also over what was there

  const std::shared_ptr<Context>& context() const { return context_; }
  const cf_model_config& config() const { return config_; }
  Weights& weights() const { return *contents_.weights; }  // of a model of which something is loaded
  cf_dtype weight_dtype() const { return weight_dtype_; }  // as asked for; AUTO: as stored
  void check_loaded() const;                               // throws CF_ERROR_NOT_LOADED unless everything is there
  void check_layer_loaded(int32_t layer) const;
  void query(cf_model_info& info) const;
  uint64_t loads() const { return loads_; }  // begun ever, of a layer, the globals or everything, with lock_for_step held
  uint64_t fingerprint() const;              // of configuration and weights, with lock_for_step held

  // Held by every step of the model; loading needs it to be free.
  std::shared_lock<std::shared_mutex> lock_for_step() const { return std::shared_lock(mutex_); }

 private:
  // Weights on the device, and what is known of them.
  struct Contents {
    std::unique_ptr<Weights> weights;          // NULL: nothing was ever loaded
    std::vector<uint64_t> layer_fingerprints;  // 0: not loaded
    std::vector<cf_dtype> layer_dtypes;        // matrix_dtype
    uint64_t globals_fingerprint = 0;
    cf_dtype globals_dtype = CF_DTYPE_AUTO;
  };
  class LoadScope;
  Contents nothing_loaded() const;
  cf_dtype matrix_dtype(const std::vector<Tensor>& tensors) const;
  void wait_for(const std::vector<Tensor>& tensors, void* stream) const;
  void take_layer(Contents& contents, int32_t layer, const std::vector<Tensor>& tensors, void* stream) const;
  void take_globals(Contents& contents, const std::vector<Tensor>& tensors, void* stream) const;
  void read_contents(Contents& contents, const Checkpoint& checkpoint, const cf_model_options& options) const;
  std::unique_lock<std::shared_mutex> lock_for_loading();  // throws CF_ERROR_BUSY

  const std::shared_ptr<Context> context_;
  const cf_model_config config_;
  const cf_dtype weight_dtype_;
  mutable std::shared_mutex mutex_;  // of contents_: shared by steps, exclusive for loading
  Contents contents_;
  uint64_t loads_ = 0;
};

}  // namespace cf
