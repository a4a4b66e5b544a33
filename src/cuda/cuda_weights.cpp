#include "cuda/cuda_weights.h"

#include <algorithm>

#include "checked.h"
#include "model_config.h"
#include "rope.h"

namespace cf {

namespace {

cf_dtype slot_dtype(Slot slot, cf_dtype matrix_dtype) { return is_matrix(slot) ? matrix_dtype : cf_dtype{CF_DTYPE_F32}; }

uint64_t slot_bytes(const cf_model_config& config, Slot slot) {
  const Shape shape = slot_shape(config, slot);
  if (is_matrix(slot)) return mul(uint64_t(gpu::tiles_of(shape.rows)), uint64_t(gpu::tiles_of(shape.cols)), gpu::kTileBytes);
  return round_up(mul(uint64_t(shape.rows), uint64_t(shape.cols), sizeof(float)), kAlignment);
}

// The norm that a vector belongs to, by its weight's slot; kEnd: none.
Slot norm_of(Slot slot) {
  switch (slot) {
    case Slot::kAttentionNormWeight:
    case Slot::kAttentionNormBias: return Slot::kAttentionNormWeight;
    case Slot::kMlpNormWeight:
    case Slot::kMlpNormBias: return Slot::kMlpNormWeight;
    case Slot::kFinalNormWeight:
    case Slot::kFinalNormBias: return Slot::kFinalNormWeight;
    default: return Slot::kEnd;
  }
}

// Of a slot and, for a norm's weight, of what is kept of the norm besides.
uint64_t kept_bytes(const cf_model_config& config, Slot slot) {
  const uint64_t norm = norm_of(slot) == slot ? round_up(uint64_t(gpu::norm_bytes(config.hidden_size)), kAlignment) : 0;
  return add(slot_bytes(config, slot), norm);
}

uint64_t address_bytes(const cf_model_config& c) { return round_up(mul(uint64_t(c.n_layers) + 3, sizeof(void*)), kAlignment); }
uint64_t frequency_bytes(const cf_model_config& c) { return round_up(uint64_t(c.rotary_dim / 2) * sizeof(float), kAlignment); }

}  // namespace

uint64_t CudaSlots::bytes(const cf_model_config& config, Slot first, Slot last) {
  uint64_t total = 0;
  for (int slot = int(first); slot < int(last); slot++) total = add(total, kept_bytes(config, Slot(slot)));
  return total;
}

CudaSlots::CudaSlots(const LoadPath& path, WeightLoader& loader, const cf_model_config& config, const std::vector<Tensor>& tensors,
                     cf_dtype weight_dtype, Slot first, Slot last) {
  uint64_t total = 0;
  for (int slot = int(first); slot < int(last); slot++) {
    shapes_[slot] = slot_shape(config, Slot(slot));
    offsets_[slot] = total;
    norms_[slot] = add(total, slot_bytes(config, Slot(slot)));
    total = add(total, kept_bytes(config, Slot(slot)));
  }
  buffer_ = Buffer(path.context.device_memory(), total);
  std::vector<WeightMove> moves;
  for (const Tensor& t : tensors) {
    const Placement p = placement(config, t.role);
    const cf_dtype dtype = dtypes_[int(p.slot)] = slot_dtype(p.slot, cuda_kept_dtype(weight_dtype, t.dtype));
    const int64_t tiles = gpu::tiles_of(shapes_[int(p.slot)].cols);
    const Slot norm = norm_of(p.slot);
    for (const RowRun& run : p.runs) {
      moves.push_back({t, run, at(p.slot), is_matrix(p.slot) ? gpu::Placing::kPacked : gpu::Placing::kDense, tiles, dtype});
      if (norm == Slot::kEnd) continue;
      moves.push_back(
          {t, run, buffer_.as<std::byte>() + norms_[int(norm)], norm == p.slot ? gpu::Placing::kNormWeight : gpu::Placing::kNormBias, tiles, dtype});
    }
  }
  check_cuda(&path.context, cudaMemsetAsync(buffer_.data(), 0, total, path.own_stream), "clear weights");  // the padding stays so
  if (loader.move(moves)) fail(CF_ERROR_UNSUPPORTED, "the matrices hold values that F16 cannot; load them as BF16");
}

gpu::Matrix CudaSlots::matrix(Slot slot) const { return {at(slot), int32_t(gpu::tiles_of(shapes_[int(slot)].cols)), dtypes_[int(slot)]}; }

gpu::LayerOffsets CudaSlots::offsets() const {
  const auto offset = [this](Slot slot) { return has(slot) ? uint32_t(offsets_[int(slot)]) : gpu::kNoVector; };
  return {offset(Slot::kQkvWeight),
          offset(Slot::kOWeight),
          offset(Slot::kUpWeight),
          offset(Slot::kDownWeight),
          uint32_t(norms_[int(Slot::kAttentionNormWeight)]),
          uint32_t(norms_[int(Slot::kMlpNormWeight)]),
          offset(Slot::kQkvBias),
          offset(Slot::kOBias),
          offset(Slot::kUpBias),
          offset(Slot::kDownBias)};
}

CudaWeights::CudaWeights(const LoadPath& path, const cf_model_config& config, cf_dtype weight_dtype)
    : path_(path), config_(config), weight_dtype_(weight_dtype), layers_(size_t(config.n_layers)) {
  const std::vector<float> frequencies = rope_frequencies(config);
  const DeviceScope scope(&path_.context, path_.ordinal);
  const auto check = [&](cudaError_t error) { check_cuda(&path_.context, error, "prepare a model"); };
  frequencies_ = Buffer(path_.context.device_memory(), frequency_bytes(config));
  addresses_ = Buffer(path_.context.device_memory(), address_bytes(config));
  check(cudaMemcpyAsync(frequencies_.data(), frequencies.data(), frequencies.size() * sizeof(float), cudaMemcpyHostToDevice, path_.own_stream));
  check(cudaMemsetAsync(addresses_.data(), 0, addresses_.size_bytes(), path_.own_stream));
  check(cudaStreamSynchronize(path_.own_stream));
}

uint64_t CudaWeights::bytes(const cf_model_config& config) {
  const uint64_t layers = mul(uint64_t(config.n_layers), CudaSlots::bytes(config, Slot{0}, Slot::kLayerSlots));
  const uint64_t globals = CudaSlots::bytes(config, Slot::kEmbedding, Slot::kEnd);
  return add(layers, globals, frequency_bytes(config), address_bytes(config));
}

void CudaWeights::log_rounding(const std::vector<Tensor>& tensors) const {
  if (weight_dtype_ != CF_DTYPE_AUTO) return;
  for (const Tensor& t : tensors)
    if (is_matrix(placement(config_, t.role).slot) && t.dtype == CF_DTYPE_F32)
      return path_.context.log().write(CF_LOG_INFO, "'", t.name, "' and other matrices are F32 and are rounded to F16");
}

// Steps that are on their way may still read what is about to be replaced, so everything on the device ends first.
void CudaWeights::publish(int32_t first, std::initializer_list<const void*> addresses) {
  const DeviceScope scope(&path_.context, path_.ordinal);
  const auto check = [&](cudaError_t error) { check_cuda(&path_.context, error, "publish weights"); };
  check(cudaDeviceSynchronize());
  check(
      cudaMemcpyAsync(addresses_.as<void*>() + first, addresses.begin(), addresses.size() * sizeof(void*), cudaMemcpyHostToDevice, path_.own_stream));
  check(cudaStreamSynchronize(path_.own_stream));
}

CudaSlots CudaWeights::load(const std::vector<Tensor>& tensors, Slot first, Slot last) {
  log_rounding(tensors);
  const DeviceScope scope(&path_.context, path_.ordinal);
  if (!loader_) loader_ = std::make_unique<WeightLoader>(path_, config_);
  return CudaSlots(path_, *loader_, config_, tensors, weight_dtype_, first, last);
}

void CudaWeights::load_layer(int32_t layer, const std::vector<Tensor>& tensors) {
  CudaSlots slots = load(tensors, Slot{0}, Slot::kLayerSlots);
  publish(layer, {slots.base()});
  layers_[size_t(layer)] = std::move(slots);
}

void CudaWeights::load_globals(const std::vector<Tensor>& tensors) {
  CudaSlots slots = load(tensors, Slot::kEmbedding, Slot::kEnd);
  const void* const embedding = slots.matrix(Slot::kEmbedding).data;
  publish(config_.n_layers, {embedding, config_.tied_embeddings ? embedding : slots.matrix(Slot::kHead).data, slots.norm(Slot::kFinalNormWeight)});
  globals_ = std::move(slots);
}

uint64_t CudaWeights::allocated_bytes() const {
  uint64_t bytes = frequencies_.size_bytes() + addresses_.size_bytes() + globals_.allocated_bytes();
  for (const CudaSlots& layer : layers_) bytes += layer.allocated_bytes();
  return bytes;
}

namespace {
bool all_of_dtype(const CudaSlots& slots, cf_dtype dtype, std::initializer_list<Slot> matrices) {
  return std::all_of(matrices.begin(), matrices.end(), [&](Slot slot) { return !slots.has(slot) || slots.dtype(slot) == dtype; });
}
}  // namespace

cf_dtype CudaWeights::layer_dtype(int32_t i) const {
  const CudaSlots& layer = layers_[size_t(i)];
  const cf_dtype first = layer.dtype(Slot::kQkvWeight);
  return all_of_dtype(layer, first, {Slot::kOWeight, Slot::kUpWeight, Slot::kDownWeight}) ? first : cf_dtype{CF_DTYPE_AUTO};
}

cf_dtype CudaWeights::uniform_dtype() const {
  const cf_dtype first = layer_dtype(0);
  bool all = all_of_dtype(globals_, first, {Slot::kEmbedding, Slot::kHead});
  for (int32_t i = 1; i < config_.n_layers; i++) all = all && layer_dtype(i) == first;
  return all ? first : cf_dtype{CF_DTYPE_AUTO};
}

gpu::LayerWeights CudaWeights::layer(int32_t i) const {
  const CudaSlots& l = layers_[size_t(i)];
  return {l.matrix(Slot::kQkvWeight),
          l.matrix(Slot::kOWeight),
          l.matrix(Slot::kUpWeight),
          l.matrix(Slot::kDownWeight),
          l.vector(Slot::kAttentionNormWeight),
          l.vector(Slot::kAttentionNormBias),
          l.vector(Slot::kMlpNormWeight),
          l.vector(Slot::kMlpNormBias),
          l.vector(Slot::kQkvBias),
          l.vector(Slot::kOBias),
          l.vector(Slot::kUpBias),
          l.vector(Slot::kDownBias)};
}

}  // namespace cf
