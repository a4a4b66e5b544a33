#include "cuda/block.h"

#include <algorithm>

#include "checked.h"
#include "error.h"
#include "model_config.h"

namespace cf {

namespace {

constexpr int64_t kOwnCapacity = 4096;  // of the model's own workspace with eight rows in a launch, so 32768 with one

// Where the parts of a workspace lie for launches of so many rows, in bytes. Any two layouts may use one workspace in turn: an epoch is always
// at the same place in 16 bytes, and never comes twice.
struct BlockLayout {
  uint64_t state, hidden, middle, qkv, activation, down, heads, partials, end;
  int32_t max_parts;

  BlockLayout(const cf_model_config& c, const DecodeShape& shape, int32_t rows, int64_t capacity_tokens) {
    uint64_t at = 0;
    const auto place = [&](uint64_t bytes) {
      const uint64_t offset = at;
      at = add(at, round_up(bytes, kAlignment));
      return offset;
    };
    const auto place_words = [&](uint64_t words) { return place(mul(words, uint64_t(rows), sizeof(uint4))); };  // of each row
    const uint64_t hidden_words = uint64_t(gpu::words_of(c.hidden_size));
    max_parts = int32_t(ceil_div(uint64_t(capacity_tokens), uint64_t(gpu::part_tokens(c.head_dim))));
    state = place(sizeof(gpu::DecodeState));
    hidden = place_words(2 * hidden_words);
    middle = place_words(c.parallel_residual ? 0 : hidden_words);
    qkv = place_words(uint64_t(gpu::words_of(qkv_size(c))));
    activation = place_words(uint64_t(gpu::words_of(c.intermediate_size)));
    down = place_words(c.parallel_residual ? mul(uint64_t(shape.down_slices), hidden_words) : 0);
    heads = place_words(uint64_t(gpu::words_of(q_size(c))));
    partials = place_words(mul(uint64_t(c.n_heads), uint64_t(max_parts), uint64_t(gpu::partial_words(c.head_dim))));
    end = at;
  }

  gpu::DecodeWords words_in(std::byte* memory) const {
    const auto at = [memory](uint64_t offset) { return reinterpret_cast<uint4*>(memory + offset); };
    return {at(hidden), at(middle), at(qkv), at(activation), at(down), at(heads), at(partials), nullptr, nullptr};
  }
};

uint64_t own_workspace_bytes(const cf_model_config& c, const DecodeShape& shape) {
  return BlockLayout(c, shape, gpu::kMaxStepRows, kOwnCapacity).end;
}

uint32_t parts_taken(const cf_model_config& c, BlockPart part) {
  using namespace gpu;
  if (part == BlockPart::kWhole) return kTakesAll;
  if (part == BlockPart::kAttention) return kTakesQkv | kTakesUp | kTakesAttention | kTakesCombine | kTakesO;
  return c.parallel_residual ? kTakesDown | kTakesO : kTakesDown;  // O adds everything up
}

// Keys and values of a row; of MLP-down none.
gpu::DecodeRow kv_of(BlockPart part, const cf_block_options& o) {
  const auto units = [&](int64_t elements) { return uint32_t(elements * int64_t(dtype_bytes(o.kv_dtype)) / gpu::kKvUnitBytes); };
  gpu::DecodeRow row = {};
  row.pages = gpu::PageCut::of(1);
  if (part == BlockPart::kMlpDown) return row;
  row.k = static_cast<char*>(o.k_cache), row.v = static_cast<char*>(o.v_cache);
  row.page_bytes = o.page_stride * int64_t(dtype_bytes(o.kv_dtype));
  row.page_table = o.page_table;
  row.head_stride = units(o.head_stride), row.token_stride = units(o.token_stride);
  row.pages = gpu::PageCut::of(o.page_table ? int32_t(std::min<int64_t>(o.page_tokens, o.kv_capacity_tokens)) : int32_t(o.kv_capacity_tokens));
  row.kv_dtype = o.kv_dtype;
  return row;
}

}  // namespace

CudaBlocks::CudaBlocks(const LoadPath& path, const cf_model_config& config, cf_dtype weight_dtype, const CudaDevice& device)
    : CudaWeights(path, config, weight_dtype), device_(device), shape_(config, device) {
  const DeviceScope scope(&path.context, path.ordinal);
  const auto check = [&](cudaError_t error) { check_cuda(&path.context, error, "prepare a model"); };
  workspace_ = Buffer(path.context.device_memory(), own_workspace_bytes(config, shape_));
  check(cudaMemsetAsync(workspace_.data(), 0, workspace_.size_bytes(), path.own_stream));
  check(cudaStreamSynchronize(path.own_stream));
  params_ = decode_params(config, *this, shape_, device);
  params_.n_layers = params_.end_layer = params_.n_steps = 1;
}

uint64_t CudaBlocks::allocated_bytes() const { return CudaWeights::allocated_bytes() + workspace_.size_bytes(); }

uint64_t CudaBlocks::bytes(const cf_model_config& config, const CudaDevice& device) {
  return add(CudaWeights::bytes(config), own_workspace_bytes(config, DecodeShape(config, device)));
}

uint64_t CudaBlocks::workspace_bytes(const cf_model_config& config, int32_t n_rows, int64_t capacity_tokens, const CudaDevice& device) {
  const DecodeShape shape(config, device);
  return BlockLayout(config, shape, std::min(n_rows, shape.max_rows), capacity_tokens).end;
}

void CudaBlocks::run(BlockPart part, int32_t layer, const cf_block_options& o) const {
  const cf_model_config& c = config();
  const bool down = part == BlockPart::kMlpDown;
  const int64_t capacity = down ? 0 : o.kv_capacity_tokens;
  std::byte* const memory = o.workspace ? static_cast<std::byte*>(o.workspace) : workspace_.as<std::byte>();
  const uint64_t memory_bytes = o.workspace ? o.workspace_bytes : workspace_.size_bytes();
  int32_t most = std::min(o.n_rows, shape_.max_rows);
  while (most > 0 && BlockLayout(c, shape_, most, capacity).end > memory_bytes) most--;
  if (most == 0)
    fail(CF_ERROR_INVALID_ARGUMENT, "options.workspace is NULL; the model's own has no room for a kv_capacity_tokens of ", o.kv_capacity_tokens);

  gpu::DecodeParams p = params_;
  p.weight_dtype = layer_dtype(layer);
  if (p.weight_dtype == CF_DTYPE_AUTO)
    fail(CF_ERROR_UNSUPPORTED, "some matrices of layer ", layer, " are F16 and some BF16; load it with one weight_dtype for block calls on CUDA");
  p.offsets = layer_offsets(layer);
  p.addresses = addresses() + layer;
  p.takes = parts_taken(c, part);
  p.state = reinterpret_cast<gpu::DecodeState*>(memory);
  const gpu::DecodeRow kv = kv_of(part, o);
  for (int32_t first = 0; first < o.n_rows; first += most) {
    p.n_rows = std::min(most, o.n_rows - first);
    const BlockLayout layout(c, shape_, p.n_rows, capacity);
    p.words = layout.words_in(memory), p.max_parts = layout.max_parts;
    std::fill_n(p.rows, p.n_rows, kv);
    // An array of the caller's from this launch's first row on.
    const auto from_first = [&](const void* array, int64_t row_elements) -> void* {
      return array ? const_cast<char*>(static_cast<const char*>(array)) + first * row_elements * int64_t(dtype_bytes(o.activation_dtype)) : nullptr;
    };
    gpu::BlockIo& io = p.block;
    io.part = down ? gpu::kBlockDown : part == BlockPart::kAttention ? gpu::kBlockAttention : gpu::kWholeBlock;
    io.dtype = o.activation_dtype, io.rows = o.n_rows, io.rows_before = first, io.capacity = int32_t(capacity);
    io.position = down ? nullptr : o.position;
    io.advance = o.advance && first + most >= o.n_rows ? o.position : nullptr;
    io.status = o.step_status;
    io.hidden = from_first(o.hidden, c.hidden_size);
    io.output = part == BlockPart::kAttention ? nullptr : from_first(o.output, c.hidden_size);
    io.attention_output = from_first(o.attention_output, c.hidden_size);
    io.mlp_activation = from_first(o.mlp_activation, c.intermediate_size);
    io.new_k = down ? nullptr : from_first(o.new_k, kv_size(c)), io.new_v = down ? nullptr : from_first(o.new_v, kv_size(c));
    launch_layer(context(), c, shape_, p, device_, static_cast<cudaStream_t>(o.stream));
  }
}

}  // namespace cf
