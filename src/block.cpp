#include "block.h"

#include <algorithm>

#include "error.h"
#include "model.h"

namespace cf {

namespace {

void check_address(const void* address, size_t alignment, const char* name) {
  if (!address) fail(CF_ERROR_INVALID_ARGUMENT, "options.", name, " is NULL");
  if (reinterpret_cast<uintptr_t>(address) % alignment) fail(CF_ERROR_INVALID_ARGUMENT, "options.", name, " is not aligned to ", alignment, " bytes");
}

void check_optional(const void* address, size_t alignment, const char* name) {
  if (address) check_address(address, alignment, name);
}

void check_dtype(cf_dtype dtype, const char* name) {
  if (dtype < CF_DTYPE_F32 || dtype > CF_DTYPE_BF16) fail(CF_ERROR_INVALID_ARGUMENT, "options.", name, " is ", dtype, ", which is none");
}

constexpr int64_t kMaxCapacity = int64_t{1} << 30, kMaxStride = int64_t{1} << 32;  // so that no product of theirs overflows

// Strides in elements: whole vectors on CUDA, and no two heads, positions or pages on top of each other.
void check_kv(const cf_model_config& c, const cf_block_options& o, size_t alignment) {
  check_dtype(o.kv_dtype, "kv_dtype");
  check_address(o.k_cache, alignment, "k_cache");
  check_address(o.v_cache, alignment, "v_cache");
  const int64_t unit = int64_t(alignment / dtype_bytes(o.kv_dtype));
  auto check_stride = [&](int64_t stride, int64_t least, int64_t most, const char* name) {
    if (stride < least || stride > most || stride % unit)
      fail(CF_ERROR_INVALID_ARGUMENT, "options.", name, " is ", stride, ", expected ", least, " to ", most, " and a multiple of ", unit);
  };
  check_block_capacity(o.kv_capacity_tokens, "options.kv_capacity_tokens");
  if (o.page_table && o.page_tokens < 1)
    fail(CF_ERROR_INVALID_ARGUMENT, "options.page_tokens is ", o.page_tokens, " with a page table, expected at least 1");
  if (!o.page_table && (o.page_tokens || o.page_stride))
    fail(CF_ERROR_INVALID_ARGUMENT, "options.page_tokens or page_stride is set without a page_table");
  check_stride(o.token_stride, c.head_dim, kMaxStride, "token_stride");
  check_stride(o.head_stride, c.n_kv_heads > 1 ? c.head_dim : 0, kMaxStride, "head_stride");
  const int64_t tokens = o.page_table ? std::min<int64_t>(o.page_tokens, o.kv_capacity_tokens) : o.kv_capacity_tokens;
  const int64_t heads_extent = (c.n_kv_heads - 1) * o.head_stride + c.head_dim, tokens_extent = (tokens - 1) * o.token_stride + c.head_dim;
  if (tokens > 1 && c.n_kv_heads > 1 && o.token_stride < heads_extent && o.head_stride < tokens_extent)
    fail(CF_ERROR_INVALID_ARGUMENT, "options.token_stride ", o.token_stride, " and head_stride ", o.head_stride,
         " lay heads and positions over each other");
  if (!o.page_table) return;
  check_address(o.page_table, alignof(int32_t), "page_table");
  check_stride(o.page_stride, heads_extent + tokens_extent - c.head_dim, kMaxStride << 10, "page_stride");
}

// capacity: of the cache, 0 for a call without.
void check_workspace(const cf_model_config& c, const Context& context, const cf_block_options& o, int64_t capacity) {
  if (!o.workspace) {
    if (o.workspace_bytes) fail(CF_ERROR_INVALID_ARGUMENT, "options.workspace is NULL but workspace_bytes is ", o.workspace_bytes);
    return;
  }
  if (context.device_kind() == CF_DEVICE_CPU) fail(CF_ERROR_INVALID_ARGUMENT, "options.workspace must be NULL on the CPU");
  check_address(o.workspace, kAlignment, "workspace");
  const uint64_t needed = context.backend().block_workspace_bytes(c, o.n_rows, capacity);
  if (o.workspace_bytes < needed) fail(CF_ERROR_INVALID_ARGUMENT, "options.workspace_bytes is ", o.workspace_bytes, ", ", needed, " are needed");
}

}  // namespace

void check_block_capacity(int64_t kv_capacity_tokens, const char* name) {
  if (kv_capacity_tokens < 1 || kv_capacity_tokens > kMaxCapacity)
    fail(CF_ERROR_INVALID_ARGUMENT, name, " is ", kv_capacity_tokens, ", expected 1 to ", kMaxCapacity);
}

void run_block(const Model& model, BlockPart part, int32_t layer, const cf_block_options& o) {
  const cf_model_config& c = model.config();
  const bool cuda = model.context()->device_kind() == CF_DEVICE_CUDA;
  if (layer < 0 || layer >= c.n_layers) fail(CF_ERROR_INVALID_ARGUMENT, "layer is ", layer, ", expected 0 to ", c.n_layers - 1);
  if (o.n_rows < 1 || o.n_rows > kMaxBlockRows) fail(CF_ERROR_INVALID_ARGUMENT, "options.n_rows is ", o.n_rows, ", expected 1 to ", kMaxBlockRows);
  if (o.stream && !cuda) fail(CF_ERROR_INVALID_ARGUMENT, "options.stream must be NULL on the CPU");
  check_dtype(o.activation_dtype, "activation_dtype");
  const size_t alignment = cuda ? 16 : dtype_bytes(o.activation_dtype);
  check_address(o.hidden, alignment, "hidden");
  check_address(o.step_status, alignof(cf_status), "step_status");
  if (part != BlockPart::kAttention) check_address(o.output, alignment, "output");
  if (part == BlockPart::kWhole) {
    check_optional(o.attention_output, alignment, "attention_output");
    check_optional(o.mlp_activation, alignment, "mlp_activation");
  } else {
    check_address(o.attention_output, alignment, "attention_output");
    check_address(o.mlp_activation, alignment, "mlp_activation");
  }
  if (o.advance != 0 && o.advance != 1) fail(CF_ERROR_INVALID_ARGUMENT, "options.advance is ", o.advance, ", expected 0 or 1");
  if (part != BlockPart::kMlpDown || o.advance) check_address(o.position, alignof(int32_t), "position");
  if (part != BlockPart::kMlpDown) {
    check_optional(o.new_k, alignment, "new_k");
    check_optional(o.new_v, alignment, "new_v");
    check_kv(c, o, cuda ? 16 : dtype_bytes(o.kv_dtype));
  }
  check_workspace(c, *model.context(), o, part == BlockPart::kMlpDown ? 0 : o.kv_capacity_tokens);
  auto lock = model.lock_for_step();
  model.check_layer_loaded(layer);
  model.context()->backend().run_block(model, part, layer, o);
}

}  // namespace cf
