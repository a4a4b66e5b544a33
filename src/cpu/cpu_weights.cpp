#include "cpu/cpu_weights.h"

#include <cmath>

#include "checked.h"
#include "half.h"
#include "rope.h"

namespace cf {

namespace {

cf_dtype slot_dtype(Slot slot, cf_dtype matrix_dtype) { return is_matrix(slot) ? matrix_dtype : CF_DTYPE_F32; }

uint64_t slot_bytes(const cf_model_config& config, Slot slot, cf_dtype dtype) {
  const Shape shape = slot_shape(config, slot);
  return round_up(mul(uint64_t(shape.rows), uint64_t(shape.cols), dtype_bytes(dtype)), kAlignment);
}

// Rows of a tensor to dst in another dtype, a piece at a time.
void read_converted(const Tensor& t, RowRun run, cf_dtype dtype, std::byte* dst) {
  constexpr int64_t kPieceValues = 1 << 16;
  const int64_t piece = std::max<int64_t>(1, kPieceValues / t.cols);
  std::vector<std::byte> stored(size_t(piece * t.cols) * dtype_bytes(t.dtype));
  std::vector<float> values(size_t(piece * t.cols));
  for (int64_t row = 0; row < run.count; row += piece) {
    const int64_t rows = std::min(piece, run.count - row), count = rows * t.cols;
    read_rows(t, run.source + row, rows, stored.data());
    to_float(stored.data(), t.dtype, count, values.data());
    if (dtype == CF_DTYPE_F16 && t.dtype != CF_DTYPE_F16)
      for (int64_t i = 0; i < count; i++)
        if (std::isfinite(values[size_t(i)]) && std::fabs(values[size_t(i)]) >= 65520.0f)
          fail(CF_ERROR_UNSUPPORTED, "'", t.name, "' holds ", values[size_t(i)], ", which F16 cannot; load it as stored or as BF16");
    from_float(values.data(), dtype, count, dst + size_t(row * t.cols) * dtype_bytes(dtype));
  }
}

}  // namespace

uint64_t SlotStorage::bytes(const cf_model_config& config, cf_dtype matrix_dtype, Slot first, Slot last) {
  uint64_t total = 0;
  for (int slot = int(first); slot < int(last); slot++) total = add(total, slot_bytes(config, Slot(slot), slot_dtype(Slot(slot), matrix_dtype)));
  return total;
}

SlotStorage::SlotStorage(std::shared_ptr<Memory> memory, const cf_model_config& config, const std::vector<Tensor>& tensors, cf_dtype weight_dtype,
                         Slot first, Slot last) {
  std::vector<Placement> placements;
  for (const Tensor& t : tensors) {
    placements.push_back(placement(config, t.role));
    const Slot slot = placements.back().slot;
    dtypes_[int(slot)] = slot_dtype(slot, kept_dtype(weight_dtype, t.dtype));
  }
  uint64_t total = 0;
  for (int slot = int(first); slot < int(last); slot++) {
    shapes_[slot] = slot_shape(config, Slot(slot));
    offsets_[slot] = total;
    total = add(total, slot_bytes(config, Slot(slot), dtypes_[slot]));
  }
  buffer_ = Buffer(std::move(memory), total);
  for (size_t i = 0; i < tensors.size(); i++) {
    const Tensor& t = tensors[i];
    const Slot slot = placements[i].slot;
    const cf_dtype dtype = dtypes_[int(slot)];
    for (RowRun run : placements[i].runs) {
      auto dst = static_cast<std::byte*>(at(slot)) + uint64_t(run.destination * t.cols) * dtype_bytes(dtype);
      if (dtype == t.dtype) read_rows(t, run.source, run.count, dst);
      else read_converted(t, run, dtype, dst);
    }
  }
}

CpuWeights::CpuWeights(std::shared_ptr<Memory> memory, const cf_model_config& config, cf_dtype weight_dtype)
    : memory_(std::move(memory)), config_(config), weight_dtype_(weight_dtype), rope_(rope_frequencies(config)), layers_(size_t(config.n_layers)) {}

void CpuWeights::load_layer(int32_t layer, const std::vector<Tensor>& tensors) {
  layers_[size_t(layer)] = SlotStorage(memory_, config_, tensors, weight_dtype_, Slot{0}, Slot::kLayerSlots);
}

void CpuWeights::load_globals(const std::vector<Tensor>& tensors) {
  globals_ = SlotStorage(memory_, config_, tensors, weight_dtype_, Slot::kEmbedding, Slot::kEnd);
}

uint64_t CpuWeights::allocated_bytes() const {
  uint64_t bytes = globals_.allocated_bytes();
  for (const SlotStorage& layer : layers_) bytes += layer.allocated_bytes();
  return bytes;
}

}  // namespace cf
