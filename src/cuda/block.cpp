#include "cuda/block.h"

#include <algorithm>
#include <initializer_list>

#include "error.h"
#include "model_config.h"

namespace cf {

namespace {

// The stages of each part of a block. With a sequential residual MLP-up has to wait for O.
void set_stages(gpu::BlockParams& params, BlockPart part) {
  const auto set = [&](std::initializer_list<uint32_t> stages) {
    std::copy(stages.begin(), stages.end(), params.stages);
    params.n_stages = int32_t(stages.size());
  };
  using namespace gpu;
  const bool parallel = params.shape.parallel_residual, whole = part == BlockPart::kWhole;
  if (part == BlockPart::kMlpDown) return set({kPhaseDown});
  if (parallel) return set({kPhaseQkv | kPhaseUp, kPhaseAttention, whole ? kPhaseO | kPhaseDown : kPhaseO});
  if (whole) return set({kPhaseQkv, kPhaseAttention, kPhaseO, kPhaseUp, kPhaseDown});
  set({kPhaseQkv, kPhaseAttention, kPhaseO, kPhaseUp});
}

}  // namespace

uint64_t block_shared_bytes(const cf_model_config& c) {
  const int64_t longest = std::max({int64_t(c.hidden_size), q_size(c), int64_t(c.intermediate_size)});
  return sizeof(gpu::BlockShared) + std::max(gpu::vector_shared_bytes(longest), gpu::attention_shared_bytes(c.head_dim));
}

void prepare_block(Context& context, const cf_model_config& config, uint64_t shared_limit_bytes) {
  const void* kernel = gpu::block_kernel(config.head_dim);
  if (!kernel) fail(CF_ERROR_UNSUPPORTED, "head_dim ", config.head_dim, " is not built for CUDA");
  if (config.hidden_size % gpu::kTileRows || config.intermediate_size % gpu::kTileRows)
    fail(CF_ERROR_UNSUPPORTED, "hidden_size ", config.hidden_size, " or intermediate_size ", config.intermediate_size,
         " is not a multiple of 16, as CUDA needs");
  const uint64_t needed = block_shared_bytes(config);
  if (needed > shared_limit_bytes)
    fail(CF_ERROR_UNSUPPORTED, "hidden_size, n_heads * head_dim or intermediate_size is too large: ", needed,
         " bytes of shared memory are needed, this device has ", shared_limit_bytes);
  prepare_kernel(context, kernel, gpu::kBlockThreads, needed, shared_limit_bytes, "a block of this model");
}

void launch_block(Context& context, const CudaWeights& weights, const cf_model_config& config, BlockPart part, int32_t layer,
                  const cf_block_options& o, int n_ctas, uint32_t wait_limit_ms) {
  const bool down_only = part == BlockPart::kMlpDown;
  gpu::BlockParams params = {};
  params.shape = weights.shape();
  params.weights = weights.layer(layer);
  params.work = weights.workspace(o.workspace);
  params.io = {o.activation_dtype, o.hidden, o.output, o.attention_output, o.mlp_activation, o.new_k, o.new_v};
  if (!down_only) {
    params.kv = {o.k_cache, o.v_cache, o.token_stride, o.head_stride, o.page_stride, o.kv_capacity_tokens, o.page_table, o.page_tokens, o.kv_dtype};
    params.position = o.position;
  }
  params.advance = o.advance ? o.position : nullptr;
  params.status = o.step_status;
  params.wait_limit_ns = uint64_t(wait_limit_ms) * 1'000'000;
  params.down_from_caller = down_only;
  set_stages(params, part);

  launch_kernel(context, gpu::block_kernel(config.head_dim), n_ctas, gpu::kBlockThreads, block_shared_bytes(config), true,
                static_cast<cudaStream_t>(o.stream), &params, "launch a block");
}

}  // namespace cf
