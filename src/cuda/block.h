// Block calls: launches of one layer by the decode kernel (kernels/decode.cuh).
#pragma once

#include "backend.h"
#include "cuda/cuda_weights.h"
#include "cuda/decode.h"
#include "kernels/contract.h"

namespace cf {

// The weights of a model with what its block calls have in common.
class CudaBlocks : public CudaWeights {
 public:
  CudaBlocks(const LoadPath& path, const cf_model_config& config, cf_dtype weight_dtype, const CudaDevice& device);
  uint64_t allocated_bytes() const override;
  static uint64_t bytes(const cf_model_config& config, const CudaDevice& device);  // once everything is loaded
  // What a caller's workspace must have; capacity_tokens 0: for MLP-down alone.
  static uint64_t workspace_bytes(const cf_model_config& config, int32_t n_rows, int64_t capacity_tokens, const CudaDevice& device);

  // Enqueues a call, whose layer is loaded, on options.stream: a launch for as many rows as go together. The device is current.
  void run(BlockPart part, int32_t layer, const cf_block_options& options) const;

 private:
  const CudaDevice device_;
  const DecodeShape shape_;
  Buffer workspace_;  // of calls that bring none
  gpu::DecodeParams params_ = {};
};

}  // namespace cf
