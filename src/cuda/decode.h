// Decoding on a CUDA device: what a session keeps there, and the launch of steps (kernels/decode.cuh).
#pragma once

#include "cuda/cuda_weights.h"
#include "kernels/contract.h"

namespace cf {

struct CudaDevice {
  int ordinal, multiprocessors, compute_capability;
  uint64_t shared_memory_bytes;
  uint32_t wait_limit_ms;
};

// The launches of a model on a device.
struct DecodeShape {
  int32_t n_ctas, qkv_ctas, down_slices;
  int32_t max_rows;  // of one launch

  // Throws CF_ERROR_UNSUPPORTED for a model that cannot run there.
  DecodeShape(const cf_model_config& config, const CudaDevice& device);
};

// Where the parts of a session's device memory lie, in bytes.
struct DecodeLayout {
  uint64_t state, page_table, layers, logits, words, end;
  uint64_t hidden, middle, qkv, activation, down, heads, partials, votes;  // words
  int32_t max_parts;

  DecodeLayout(const cf_model_config& config, int64_t capacity_tokens, const DecodeShape& shape);
  gpu::DecodeWords words_in(std::byte* memory) const;
};

// Sets the kernels up for the device; throws if one cannot run there.
void prepare_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, cf_dtype weight_dtype, const CudaDevice& device);
// The fields of params that the model alone decides.
gpu::DecodeParams decode_params(const cf_model_config& config, const CudaWeights& weights, const DecodeShape& shape, const CudaDevice& device);
// Enqueues the steps that `params` describes, whose n_rows are set; fills in what depends on them.
void launch_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, gpu::DecodeParams params, const CudaDevice& device,
                   cudaStream_t stream);

}  // namespace cf
