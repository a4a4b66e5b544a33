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

// The packed layout of every matrix of 16-bit weights. Rows in strips of 16, a strip in tiles of 16 columns, a tile in four 8x8
// matrices of 128 contiguous bytes: (rows 0-7, columns 0-7), (rows 8-15, columns 0-7), (rows 0-7, columns 8-15), (rows 8-15, columns
// 8-15). Rows and columns are padded with zeros to whole tiles. A strip, or a run of its tiles, is one linear bulk copy; a tile is
// one ldmatrix.x4 of 512 contiguous bytes, without bank conflicts; and 8 strips in shared memory at any one distance are two wgmma
// operands of 64 rows (the upper and the lower halves of the strips) in the layout without swizzle, so prefill reads the same copy.
constexpr int kTileRows = 16;
constexpr int kTileElements = 256;
constexpr int kTileBytes = 512;
CF_BOTH constexpr int64_t tiles_of(int64_t elements) { return (elements + kTileRows - 1) / kTileRows; }
CF_BOTH constexpr int64_t packed_offset(int64_t row, int64_t col, int64_t tiles) {  // in elements
  return (row / 16 * tiles + col / 16) * kTileElements + (col >> 3 & 1) * 128 + (row & 15) * 8 + (col & 7);
}
struct Matrix {
  const void* data;  // aligned to 128 bytes
  int32_t tiles;     // of a strip
  cf_dtype dtype;    // F16 or BF16
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
constexpr int kPartialSums = 4096;
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

// Rows on their way into a model: dense rows of `source_dtype` become rows first_row ... of `destination` in `dtype`: a packed
// matrix whose padding was cleared, or dense rows for tiles = 0.
struct ConvertParams {
  const void* source;
  void* destination;
  int64_t rows, cols, first_row, tiles;
  cf_dtype source_dtype, dtype;  // F32, F16 or BF16
  uint32_t* overflowed;          // set to 1 if a finite value became infinite; never cleared
};
constexpr int kConvertThreads = 256;

// ---- Decoding: whole steps of a model in one persistent launch (decode.cu) ----

constexpr int kConsumerWarps = 8;  // of each CTA; one more produces
constexpr int kConsumers = kConsumerWarps * kWarpLanes;
constexpr int kDecodeThreads = kConsumers + kWarpLanes;
constexpr int kRingChunkBytes = 16384;  // of a bulk copy at most: smaller ones keep the producing thread from keeping up
constexpr int kChunkTiles = kRingChunkBytes / kTileBytes;
constexpr int kMaxRing = 14;
constexpr int kUnitsAtOnce = 16;   // strips whose rows are added up together: one thread a row
constexpr int kWordsPerStrip = 6;  // three rows to a word, the last word of a strip has one
constexpr int kPartTokens = 128;   // cached positions that a partial result of attention covers
constexpr int kMaxHidden = 5120;   // hidden_size: the residual stream in shared memory, in fp32
constexpr int kMaxBiases = 1024;   // rows that a CTA has in all matrices of a layer
constexpr int kRunTokens = 16;     // positions that surely lie one after the other: the smallest page
constexpr int kMaxDownSlices = 4;
constexpr int kMaxDecodeLayers = 128;
constexpr int kPartsAtOnce = 16;       // partial results of attention added up together
constexpr int kPageTableShared = 512;  // page numbers kept in shared memory

// Bytes from the start of a layer's weights; kNoVector: the model has none.
constexpr uint32_t kNoVector = 0xffffffffu;
struct LayerOffsets {
  uint32_t qkv, o, up, down, attention_norm_weight, attention_norm_bias, mlp_norm_weight, mlp_norm_bias, qkv_bias, o_bias, up_bias, down_bias;
};

// Words that CTAs exchange. Every word carries the epoch it belongs to (see decode.cu); zero before the first launch.
struct DecodeWords {
  uint4* hidden;      // [n_layers + 1] of [H]: the residual stream before each layer and after the last; that before layer 0 is not used
  uint4* middle;      // [n_layers] of [H]: after attention, for a sequential residual
  uint4* qkv;         // [n_layers] of [(A + 2 G) D] with biases, before RoPE
  uint4* activation;  // [n_layers] of [I]
  uint4* down;        // [n_layers] of [down_slices, H], for a parallel residual
  uint4* heads;       // [n_layers] of [A D] attention output
  uint4* partials;    // [A, max_parts, partial_words]
  uint4* votes;       // [2, CTAs] best logit, its token, whether all were finite
};

// What a session keeps on the device between launches.
struct DecodeState {
  int32_t position;  // tokens processed; tokens[position] comes next, if known
  cf_status status;
  uint32_t epoch;   // of the last step
  uint32_t failed;  // 1: a wait ran out of time; for good
};

struct DecodeParams {
  int32_t hidden_size, n_heads, n_kv_heads, rotary_dim, intermediate_size, vocab_size, n_layers;
  cf_norm norm;
  cf_activation activation;
  int32_t parallel_residual;
  int32_t down_slices;  // parts of intermediate_size, each summed by itself; follows from the shape alone; 1 for a sequential residual
  float norm_eps;
  const float* inv_freq;      // [rotary_dim / 2]
  cf_dtype weight_dtype;      // of all matrices
  const char* const* layers;  // [n_layers]
  LayerOffsets offsets;
  const char *embedding, *head;  // packed [V, H]
  const float *final_norm_weight, *final_norm_bias;
  char* pages;  // of the pool: [page][layer][K, V][G, page_tokens, D]
  int64_t page_bytes;
  const int32_t* page_table;
  int32_t page_shift;  // a page has 2^page_shift tokens
  cf_dtype kv_dtype;
  DecodeWords words;
  DecodeState* state;
  int32_t* tokens;                // by position; [known ..] are written by the launch
  int32_t known;                  // tokens at the start
  int32_t end;                    // the launch goes on until position is this
  int32_t logits_from;            // first position whose logits are wanted besides those a token is sampled from
  float* logits;                  // [end - logits_from, V], or NULL
  int32_t max_parts;              // that `words.partials` has room for
  int32_t ring, window, trickle;  // chunks: in the ring, in flight while streaming, in flight while meeting
  int32_t activation_bytes;       // a multiple of 128
  uint64_t wait_limit_ns;
};

CF_BOTH constexpr int64_t words_of(int64_t rows) { return tiles_of(rows) * kWordsPerStrip; }
CF_BOTH constexpr int partial_words(int head_dim) { return 1 + (head_dim + 2) / 3; }  // {maximum, denominator, -}, then values

// The best token so far; finite: whether all logits were.
struct Candidate {
  float value;
  int32_t token;  // -1: none
  int32_t finite;

  CF_BOTH static constexpr Candidate none() { return {0.0f, -1, 1}; }
  // The higher logit, the lower token among equals.
  CF_BOTH constexpr void take(float v, int32_t t, int32_t f) {
    if (t >= 0 && (token < 0 || v > value || (v == value && t < token))) value = v, token = t;
    finite &= f;
  }
};

// A matrix of a layer, or the head: how it is cut into units of work (decode_job.cuh).
struct JobShape {
  uint32_t offset;
  int32_t tiles, strips, slices, strips_of_unit, before, together;
};
constexpr int kJobKinds = 6;

// Units first .. end - 1 of a job are this CTA's.
struct Run {
  uint16_t first, end;
};

// Dynamic shared memory of decode.cu: `ring` chunks, the activations, this.
struct DecodeShared {
  DecodeParams params;  // a copy: functions that are not inlined would read the kernel's own through memory
  uint64_t full[kMaxRing], empty[kMaxRing];
  const char* layers[kMaxDecodeLayers];
  JobShape jobs[kJobKinds];
  Run runs[(kMaxDecodeLayers + 1) * kJobKinds];  // of each job of each layer, and of the head
  float sums[2][kConsumerWarps];
  float rows[kUnitsAtOnce][kConsumerWarps][kTileRows];  // sums of each warp
  float cosine[128], sine[128];
  int32_t page_table[kPageTableShared];
  float max[kConsumerWarps], denominator[kConsumerWarps];
  Candidate candidates[kConsumers];
  float best[kConsumerWarps];
  int32_t best_token[kConsumerWarps], best_finite[kConsumerWarps];
  float biases[kMaxBiases];         // of this layer; see decode_job.cuh
  int32_t bias_at[5], bias_row[5];  // of each run: its first place, -1 if there is none, and its first row
  float stream[kMaxHidden];         // the residual stream on its way through a norm
  const char *keys[kPartTokens / kRunTokens], *values[kPartTokens / kRunTokens];  // of the runs of a part of attention
  int32_t position, epoch, token, finite, go, parts;
  volatile int32_t meeting, failed;
};
// Activations as the tensor cores take them: 4 bytes each, in two halves. Also the scratch memory of attention.
CF_BOTH constexpr int64_t decode_activation_bytes(int64_t hidden, int64_t q_size, int64_t slice, int parallel, int64_t group_size, int64_t head_dim) {
  int64_t most = parallel ? 2 * hidden : hidden;
  if (q_size > most) most = q_size;
  if (slice > most) most = slice;
  const int64_t attention =
      (2 * group_size + kConsumerWarps + 5) * head_dim + 4 + kPartsAtOnce * 3 * partial_words(static_cast<int>(head_dim));  // Scratch
  return 4 * (most > attention ? most : attention);
}

// The kernels, for launching: block.cu (NULL for a head_dim that is not built) and convert.cu.
const void* block_kernel(int32_t head_dim);
const void* convert_kernel();
const void* decode_kernel(int32_t head_dim, cf_dtype weight_dtype);

}  // namespace cf::gpu
