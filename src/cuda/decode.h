// Decoding on a CUDA device: what a session keeps there, and the launch of steps (kernels/decode.cu).
#pragma once

#include "cuda/cuda_weights.h"
#include "kernels/contract.h"

namespace cf {

struct CudaDevice {
  int ordinal, multiprocessors, compute_capability;
  uint64_t shared_memory_bytes;
  uint32_t wait_limit_ms;
};

// What the decode kernel needs for a model on a device.
struct DecodeShape {
  int32_t down_slices, ring, activation_bytes, max_parts;
  uint32_t shared_bytes;

  // Throws CF_ERROR_UNSUPPORTED for a model that it cannot run.
  DecodeShape(const cf_model_config& config, int64_t capacity_tokens, const CudaDevice& device);
};

// Where the parts of a session's device memory lie, in bytes.
struct DecodeLayout {
  uint64_t state, tokens, page_table, layers, logits, words, end;
  uint64_t hidden, middle, qkv, activation, down, heads, partials, votes;  // words

  DecodeLayout(const cf_model_config& config, int64_t capacity_tokens, int n_ctas);
  gpu::DecodeWords words_in(std::byte* memory) const;
};

// Sets the kernel up for the device; throws if it cannot run there.
void prepare_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, cf_dtype weight_dtype, const CudaDevice& device);
// Enqueues the steps that `params` describes.
void launch_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, gpu::DecodeParams params, int n_ctas,
                   cudaStream_t stream);
// The fields of params that the model alone decides.
gpu::DecodeParams decode_params(const cf_model_config& config, const CudaWeights& weights, const DecodeShape& shape);

}  // namespace cf
