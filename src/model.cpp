#include "model.h"

#include <algorithm>

#include "cancellation.h"
#include "checkpoint.h"
#include "fingerprint.h"
#include "model_config.h"
#include "weights.h"

namespace cf {

Model::Model(std::shared_ptr<Context> context, const cf_model_config& config, cf_dtype weight_dtype)
    : context_(std::move(context)), config_(config), weight_dtype_(weight_dtype) {
  context_->backend().check_model(config_, weight_dtype_);
  contents_ = nothing_loaded();
}

Model::Contents Model::nothing_loaded() const {
  const size_t layers = static_cast<size_t>(config_.n_layers);
  return {nullptr, std::vector<uint64_t>(layers, 0), std::vector<cf_dtype>(layers, CF_DTYPE_AUTO), 0, CF_DTYPE_AUTO};
}

std::unique_lock<std::shared_mutex> Model::lock_for_loading() {
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock) fail(CF_ERROR_BUSY, "the model is in use by a step or by another loading call");
  loads_++;
  return lock;
}

// Of the matrices as they are kept; AUTO if they differ.
cf_dtype Model::matrix_dtype(const std::vector<Tensor>& tensors) const {
  cf_dtype dtype = CF_DTYPE_AUTO;
  for (const Tensor& t : tensors) {
    if (!is_matrix(placement(config_, t.role).slot)) continue;
    const cf_dtype kept = context_->backend().kept_dtype(weight_dtype_, t.dtype);
    if (dtype != CF_DTYPE_AUTO && kept != dtype) return CF_DTYPE_AUTO;
    dtype = kept;
  }
  return dtype;
}

// Before anything of them is read.
void Model::wait_for(const std::vector<Tensor>& tensors, void* stream) const {
  if (std::any_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.memory == CF_MEMORY_DEVICE; })) context_->backend().wait_for(stream);
}

void Model::take_layer(Contents& contents, int32_t layer, const std::vector<Tensor>& tensors, void* stream) const {
  wait_for(tensors, stream);
  const uint64_t fingerprint = fingerprint_tensors(tensors, context_->backend().row_reader());
  const cf_dtype dtype = matrix_dtype(tensors);
  contents.weights->load_layer(layer, tensors);
  contents.layer_fingerprints[static_cast<size_t>(layer)] = fingerprint | (fingerprint == 0);
  contents.layer_dtypes[static_cast<size_t>(layer)] = dtype;
}

void Model::take_globals(Contents& contents, const std::vector<Tensor>& tensors, void* stream) const {
  wait_for(tensors, stream);
  const uint64_t fingerprint = fingerprint_tensors(tensors, context_->backend().row_reader());
  const cf_dtype dtype = matrix_dtype(tensors);
  contents.weights->load_globals(tensors);
  contents.globals_fingerprint = fingerprint | (fingerprint == 0);
  contents.globals_dtype = dtype;
}

// Contents that are loaded into, however that ends.
class Model::LoadScope {
 public:
  LoadScope(const Model& model, Contents& contents) {
    if (!contents.weights) contents.weights = model.context_->backend().create_weights(model.config_, model.weight_dtype_);
    weights_ = contents.weights.get();
  }
  LoadScope(const LoadScope&) = delete;
  ~LoadScope() { weights_->end_loading(); }

 private:
  Weights* weights_;
};

void Model::load_layer(int32_t layer, const std::vector<Tensor>& tensors, void* stream) {
  check_layer_tensors(config_, tensors, CF_ERROR_INVALID_ARGUMENT);
  auto lock = lock_for_loading();
  const LoadScope scope(*this, contents_);
  take_layer(contents_, layer, tensors, stream);
}

void Model::load_globals(const std::vector<Tensor>& tensors, void* stream) {
  check_global_tensors(config_, tensors, CF_ERROR_INVALID_ARGUMENT);
  auto lock = lock_for_loading();
  const LoadScope scope(*this, contents_);
  take_globals(contents_, tensors, stream);
}

namespace {
uint64_t stored_bytes(const std::vector<Tensor>& tensors) {
  uint64_t bytes = 0;
  for (const Tensor& t : tensors) bytes += static_cast<uint64_t>(t.rows * t.cols) * dtype_bytes(t.dtype);
  return bytes;
}
}  // namespace

void Model::read_contents(Contents& contents, const Checkpoint& checkpoint, const cf_model_options& options) const {
  const Progress progress{options.progress, options.progress_user, options.cancellation};
  uint64_t done = 0, total = stored_bytes(checkpoint.globals);
  for (const auto& layer : checkpoint.layers) total += stored_bytes(layer);
  auto step = [&](uint64_t bytes) {
    done += bytes;
    if (!progress(done, total)) fail(CF_ERROR_CANCELLED, "loading was cancelled after ", done, " of ", total, " bytes");
  };
  const LoadScope scope(*this, contents);
  step(0);
  take_globals(contents, checkpoint.globals, nullptr);
  step(stored_bytes(checkpoint.globals));
  for (size_t layer = 0; layer < checkpoint.layers.size(); layer++) {
    take_layer(contents, static_cast<int32_t>(layer), checkpoint.layers[layer], nullptr);
    step(stored_bytes(checkpoint.layers[layer]));
  }
  for (const auto& file : checkpoint.files) file->check_size();
}

void Model::load(const Checkpoint& checkpoint, const cf_model_options& options) {
  for (const std::string& name : checkpoint.unused) context_->log().write(CF_LOG_INFO, "skipped tensor '", name, "', which the model does not use");
  if (!same_config(config_, checkpoint.config)) fail(CF_ERROR_MISMATCH, "the directory's configuration differs from the model's");
  auto lock = lock_for_loading();
  Contents contents = nothing_loaded();
  read_contents(contents, checkpoint, options);
  contents_ = std::move(contents);
}

void Model::check_layer_loaded(int32_t layer) const {
  if (!contents_.layer_fingerprints[static_cast<size_t>(layer)]) fail(CF_ERROR_NOT_LOADED, "layer ", layer, " has not been loaded");
}

void Model::check_loaded() const {
  if (!contents_.globals_fingerprint) fail(CF_ERROR_NOT_LOADED, "the embedding, final norm and head have not been loaded (cf_load_globals)");
  for (int32_t layer = 0; layer < config_.n_layers; layer++) check_layer_loaded(layer);
}

uint64_t Model::fingerprint() const {
  Fingerprint f;
  add_config(f, config_);
  f.add(static_cast<uint64_t>(weight_dtype_));
  f.add(contents_.globals_fingerprint);
  for (const uint64_t layer : contents_.layer_fingerprints) f.add(layer);
  return f.value();
}

void Model::query(cf_model_info& info) const {
  auto lock = lock_for_step();
  info.globals_loaded = contents_.globals_fingerprint != 0;
  std::vector<cf_dtype> dtypes;  // of what is loaded
  if (info.globals_loaded) dtypes.push_back(contents_.globals_dtype);
  for (size_t layer = 0; layer < contents_.layer_fingerprints.size(); layer++) {
    if (!contents_.layer_fingerprints[layer]) continue;
    info.n_layers_loaded++;
    dtypes.push_back(contents_.layer_dtypes[layer]);
  }
  const bool same = !dtypes.empty() && std::all_of(dtypes.begin(), dtypes.end(), [&](cf_dtype dtype) { return dtype == dtypes[0]; });
  info.weight_dtype = same ? dtypes[0] : cf_dtype{CF_DTYPE_AUTO};
  info.weights_bytes = contents_.weights ? contents_.weights->allocated_bytes() : 0;
  info.parameters = parameter_count(config_);
  info.fingerprint = info.globals_loaded && info.n_layers_loaded == config_.n_layers ? fingerprint() : 0;
}

}  // namespace cf
