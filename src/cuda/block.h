// Launches kernels/block.cu.
#pragma once

#include "backend.h"
#include "cuda/cuda_weights.h"
#include "kernels/contract.h"

namespace cf {

// Dynamic shared memory that a block of this model needs of each CTA.
uint64_t block_shared_bytes(const cf_model_config& config);

// Once per device and model, before the first launch: lets the kernel have the shared memory, and finds out whether it can run at
// all. Throws CF_ERROR_UNSUPPORTED.
void prepare_block(Context& context, const cf_model_config& config);

// Enqueues one cooperative launch of n_ctas CTAs on options.stream. The device is current.
void launch_block(Context& context, const CudaWeights& weights, const cf_model_config& config, BlockPart part, int32_t layer, const cf_block_options& options,
                  int n_ctas, uint32_t wait_limit_ms);

}  // namespace cf
