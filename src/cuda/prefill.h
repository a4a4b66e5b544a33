// Prefill on a CUDA device: the sizes of its pieces and workspace, and the launches of its kernels (kernels/prefill_contract.h).
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include "cuda/cuda_weights.h"
#include "cuda/decode.h"
#include "kernels/prefill_contract.h"
#include "memory.h"

namespace cf {

// What prefill reads of a model, on the device; matrices in one dtype.
struct PrefillWeights {
  std::vector<gpu::LayerWeights> layers;
  gpu::Matrix embedding, head;
  const float *final_norm_weight, *final_norm_bias;  // [H]; bias NULL: none
  const float* inv_freq;                             // [rotary_dim / 2]
};
PrefillWeights prefill_weights(const cf_model_config& config, const CudaWeights& weights);

// Memory for the prompts of one model's sessions, of which one goes through a piece at a time.
struct PrefillMemory {
  std::mutex mutex;
  Buffer workspace;
};

// How a model's prompts are taken through it on a device: in pieces of positions [i R, (i + 1) R) with R = piece_rows(), each one call of
// enqueue(). A call may begin and end anywhere within a piece: the bits are the same. Every enqueue only enqueues, on a stream of the
// device, which the caller has made current; calls that share a workspace follow one another on one stream.
class Prefill {
 public:
  // Throws CF_ERROR_UNSUPPORTED for a model that cannot run there, or whose smallest piece needs more than the limit. Sets the kernels up.
  Prefill(Context& context, const cf_model_config& config, cf_dtype weight_dtype, cf_dtype kv_dtype, const CudaDevice& device);
  static uint64_t workspace_bytes(const cf_model_config& config, const CudaDevice& device);

  cf_dtype weight_dtype() const { return weight_dtype_; }
  int64_t piece_rows() const { return rows_; }  // a multiple of kPrefillBlock
  uint64_t workspace_bytes() const { return layout_.end; }

  // Embedding and all layers of the positions first_position .. + n_rows - 1, which lie in one piece; appends their keys and values. What
  // lies before is in the cache. tokens [n_rows], on the device: an impossible one counts as zeros. workspace: workspace_bytes(), aligned to 128.
  void enqueue(const PrefillWeights& weights, const gpu::PagedKv& kv, const int32_t* tokens, int64_t first_position, int64_t n_rows, void* workspace,
               cudaStream_t stream, const VisitPlace& visit = {}) const;
  // For a visitor: what lies at that place, of the rows of the call.
  gpu::TapParams tap(cf_tap_point point, int64_t first_position, int64_t n_rows, void* workspace) const;
  // Logits [n_rows, V], on the device, of the rows from `row` on of the last enqueue() into this workspace, which began at first_position.
  void enqueue_logits(const PrefillWeights& weights, int64_t first_position, int64_t row, int64_t n_rows, float* logits, void* workspace,
                      cudaStream_t stream) const;

  // Products whose tiles have so many rows, instead of as many as seem best; 0: as seems best. For measurements: the bits are the same.
  void set_tile_rows(int tile_rows) { forced_tile_rows_ = tile_rows; }
  // Called after every launch with what it does.
  void set_observer(std::function<void(const char* doing)> observer) { observer_ = std::move(observer); }

 private:
  // Where the parts of the workspace lie, in bytes, for pieces of so many rows.
  struct Layout {
    uint64_t hidden, normed[2], qkv, activation, queries, heads, angles, end;
    Layout(const cf_model_config& config, int64_t rows);
  };
  struct Rows {  // of a piece: `first` to n - 1, counted from position `base`
    int32_t base, first, n;
  };
  static Rows rows_of(int64_t first_position, int64_t n_rows);
  static int64_t rows_of_piece(const cf_model_config& config, const CudaDevice& device);

  template <class T>
  T* at(void* workspace, uint64_t offset) const {
    return reinterpret_cast<T*>(static_cast<char*>(workspace) + offset);
  }
  int32_t groups() const { return int32_t(rows_ / gpu::kGroupRows); }
  int tile_rows_of(uint64_t feature_tiles, int64_t n_rows) const;
  gpu::TensorMap tensor_map(const gpu::ProductFactor& factor, const gpu::ProductParams& params) const;
  template <class Params>
  void launch(const void* kernel, dim3 ctas, int threads, int shared_bytes, Params& params, const char* doing, cudaStream_t stream) const;
  void norm(int32_t first_row, int32_t n_rows, const float* const (&weight)[2], const float* const (&bias)[2], int n_outputs, void* workspace,
            cudaStream_t stream) const;
  void product(const gpu::ProductParams& params, const char* doing, cudaStream_t stream) const;
  void layer(const PrefillWeights& weights, int32_t index, const gpu::PagedKv& kv, const Rows& rows, void* workspace, cudaStream_t stream,
             const VisitPlace& visit) const;
  gpu::ProductFactor factor(const gpu::Matrix& matrix, const float* bias, void* workspace, uint64_t panels) const;

  Context& context_;
  const cf_model_config config_;
  const cf_dtype weight_dtype_, kv_dtype_;
  const CudaDevice device_;
  const int64_t rows_;
  const Layout layout_;
  bool by_groups_ = false;             // products by warpgroups
  void* encode_tensor_map_ = nullptr;  // the driver's
  int forced_tile_rows_ = 0;
  std::function<void(const char*)> observer_;
};

}  // namespace cf
