// What host and device agree on: the arguments of every kernel and the sizes that both compute with. The host fills these
// structs and checks what goes into them, the kernels trust them. All addresses are device memory. Letters for shapes are those of clusterfusion.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "clusterfusion.h"

namespace cf::gpu {

constexpr int kWarpLanes = 32;
constexpr int kBlockThreads = 512;  // of every CTA of the block kernel, one CTA per SM
constexpr int kBlockWarps = kBlockThreads / kWarpLanes;
constexpr int kChunkElements = 8;  // 16-bit weights, keys or values in one 16-byte load
constexpr int kPartialTail = 4;    // keeps partial results of attention aligned to 16 bytes
constexpr int kMaxStages = 5;

#ifdef __CUDACC__
#define CF_BOTH __host__ __device__  // callable from host and device
#else
#define CF_BOTH
#endif

CF_BOTH constexpr int64_t chunks_of(int64_t elements) { return (elements + kChunkElements - 1) / kChunkElements; }

// A matrix of 16-bit weights, row after row; rows are padded with zeros to whole chunks.
struct Matrix {
  const void* data;  // aligned to 16 bytes
  int32_t row_chunks;
  cf_dtype dtype;  // F16 or BF16
};

// NULL: the model has no such vector.
struct LayerWeights {
  Matrix qkv, o, up, down;
  const float *attention_norm_weight, *attention_norm_bias, *mlp_norm_weight, *mlp_norm_bias;  // [H]
  const float *qkv_bias, *o_bias, *up_bias, *down_bias;
};

struct BlockShape {
  int32_t hidden_size, n_heads, n_kv_heads, rotary_dim, intermediate_size;
  cf_norm norm;
  cf_activation activation;
  int32_t parallel_residual;
  int32_t kv_splits;  // pieces that the cached positions of a head are cut into; follows from n_heads alone
  float norm_eps;
  const float* inv_freq;  // [rotary_dim / 2]
};

// The caller's keys and values of one layer; the fields are those of cf_block_options.
struct KvView {
  void *k, *v;
  int64_t token_stride, head_stride, page_stride, capacity_tokens;
  const int32_t* page_table;
  int32_t page_tokens;
  cf_dtype dtype;  // F16 or BF16
};

// The caller's activations; see cf_block_options.
struct BlockIo {
  cf_dtype dtype;
  const void* hidden;
  void *output, *attention_output, *mlp_activation, *new_k, *new_v;
};

// Where CTAs meet. Zero before the first launch; every launch that finishes leaves it ready for the next.
struct GridState {
  uint32_t arrivals;  // bit 31 flips when the last CTA arrives
  uint32_t failed;    // 1: a wait ran out of time; for good, since what the counter means is lost
};

// What the phases of one launch hand each other, in fp32. Launches that share a workspace must not overlap.
struct Workspace {
  GridState* grid;
  float* qkv;         // [(A + 2 G) D] with biases, before RoPE
  float* partials;    // [A, kv_splits, D + kPartialTail] attention of a piece: unnormalised sum, its maximum, its denominator, padding
  float* attention;   // [H] after O and its bias
  float* activation;  // [I] input of MLP-down
};

// Phases of a block; a stage is a set of them that need no meeting between them, run in this order.
enum : uint32_t { kPhaseQkv = 1, kPhaseUp = 2, kPhaseAttention = 4, kPhaseO = 8, kPhaseDown = 16 };

struct BlockParams {
  BlockShape shape;
  LayerWeights weights;
  KvView kv;
  BlockIo io;
  Workspace work;
  const int32_t* position;  // NULL if no stage needs it
  int32_t* advance;         // the same address if this call is to add 1 to it, else NULL
  cf_status* status;
  uint64_t wait_limit_ns;  // of each meeting
  uint32_t stages[kMaxStages];
  int32_t n_stages;
  int32_t down_from_caller;  // 1: MLP-down reads io.attention_output and io.mlp_activation, not the workspace
};

// Dynamic shared memory of the block kernel: its fixed part, then the vector that a phase multiplies by, or attention's part.
constexpr int kPartialSums = 2048;
struct BlockShared {
  float sums[kPartialSums];  // [row, slice] of a matrix-vector product
  float warp_sums[kBlockWarps];
  int32_t position;
  int32_t go;
  int32_t padding[2];
};
static_assert(sizeof(BlockShared) % 16 == 0, "what follows it is read in 16-byte words");
CF_BOTH constexpr size_t vector_shared_bytes(int64_t elements) { return static_cast<size_t>(chunks_of(elements)) * kChunkElements * sizeof(float); }
CF_BOTH constexpr size_t attention_shared_bytes(int64_t head_dim) {
  return static_cast<size_t>(3 * head_dim + kBlockWarps * (head_dim + 2)) * sizeof(float);
}

// Rows on their way into a model: dense rows of `source_dtype` become rows of `dtype`, `destination_stride` elements apart, of
// which those beyond cols become zero.
struct ConvertParams {
  const void* source;
  void* destination;
  int64_t rows, cols, destination_stride;
  cf_dtype source_dtype, dtype;  // F32, F16 or BF16
  uint32_t* overflowed;          // set to 1 if a finite value became infinite; never cleared
};
constexpr int kConvertThreads = 256;

// The kernels, for launching: block.cu (NULL for a head_dim that is not built) and convert.cu.
const void* block_kernel(int32_t head_dim);
const void* convert_kernel();

}  // namespace cf::gpu
