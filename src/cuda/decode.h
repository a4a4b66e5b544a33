// Decoding on a CUDA device: what a session keeps there, and the launch of steps (kernels/decode.cuh).
#pragma once

#include <functional>

#include "cuda/cuda_weights.h"
#include "kernels/contract.h"

namespace cf {

struct CudaDevice {
  int ordinal, multiprocessors;
  uint64_t shared_memory_bytes;
  uint32_t wait_limit_ms;
  uint64_t prefill_workspace_bytes;  // at most
  double bytes_per_second;           // of its memory
};

// The launches of a model on a device; at first without clusters.
struct DecodeShape {
  int32_t n_ctas, qkv_ctas, down_slices;
  int32_t cluster_size;  // n_ctas is a multiple
  int32_t max_rows;      // of one launch

  // Throws CF_ERROR_UNSUPPORTED for a model that cannot run there.
  DecodeShape(const cf_model_config& config, const CudaDevice& device);
};

// Where the parts of a session's device memory lie, in bytes.
struct DecodeLayout {
  uint64_t state, sequence, page_table, logits, words, end;
  int64_t logits_floats;                                                           // for a row of any kind, too
  uint64_t hidden, middle, qkv, activation, down, heads, partials, votes, rounds;  // words
  int32_t max_parts;

  DecodeLayout(const cf_model_config& config, int64_t capacity_tokens, const DecodeShape& shape);
  gpu::DecodeWords words_in(std::byte* memory) const;
};

// The same shape in clusters of `cluster_size` CTAs, 0: as the library chooses, once the kernels are set up; throws if that cannot be.
DecodeShape in_clusters(Context& context, const cf_model_config& config, const DecodeShape& shape, int32_t cluster_size, const CudaDevice& device);
// Sets the kernels up for the device; throws if one cannot run there.
void prepare_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, const CudaDevice& device);
// The fields of params that the model alone decides.
gpu::DecodeParams decode_params(const cf_model_config& config, const CudaWeights& weights, const DecodeShape& shape, const CudaDevice& device);
// Enqueues the steps that `params` describes, whose rows and n_steps are set, in the launches of a mode (not AUTO); fills in what depends on
// these. has_head: logits are wanted. Returns how many launches will tell params.log of their end. visit, with CF_LAUNCH_PHASE: called with
// every layer and each place that cf_tap names, once what belongs there has been enqueued.
using VisitPlace = std::function<void(int32_t layer, cf_tap_point point)>;
uint32_t launch_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, gpu::DecodeParams params, bool has_head,
                       cf_launch_mode mode, const CudaDevice& device, cudaStream_t stream, const VisitPlace& visit = {});
// For a visitor: what lies at that place, of all rows of the launch.
gpu::TapParams decode_tap(const gpu::DecodeParams& params, int32_t head_dim, int32_t layer, cf_tap_point point);
// Enqueues the launch that `params` describes but for what depends on the kernel: rows of a block call.
void launch_layer(Context& context, const cf_model_config& config, const DecodeShape& shape, gpu::DecodeParams params, const CudaDevice& device,
                  cudaStream_t stream);
// Steps of a launch at most: so many that it ends within about 50 ms, and other work on the device gets its turn.
int64_t steps_of_launch(const cf_model_config& config, const CudaDevice& device);

}  // namespace cf
