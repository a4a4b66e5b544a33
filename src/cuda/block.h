// Launches kernels/block.cu.
#pragma once

#include "backend.h"
#include "cuda/cuda_weights.h"
#include "kernels/contract.h"

namespace cf {

// Dynamic shared memory that a block of this model needs of each CTA.
uint64_t block_shared_bytes(const cf_model_config& config);

// Before the first launch for a model: finds out whether the kernel can run, and lets it have shared_limit_bytes of shared memory per
// CTA, all that the device has, since the limit belongs to the kernel and other models use it too. Throws CF_ERROR_UNSUPPORTED.
void prepare_block(Context& context, const cf_model_config& config, uint64_t shared_limit_bytes);

// Enqueues one cooperative launch of n_ctas CTAs on options.stream. The device is current.
void launch_block(Context& context, const CudaWeights& weights, const cf_model_config& config, BlockPart part, int32_t layer,
                  const cf_block_options& options, int n_ctas, uint32_t wait_limit_ms);

}  // namespace cf
