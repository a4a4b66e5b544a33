// What host and device agree on for prefill: many positions of one sequence at once, operation by operation. As in contract.h the host
// fills these structs and checks what goes into them, the kernels trust them.
//
// Rows of a piece are numbered from an absolute position that is a multiple of kPrefillBlock, so that attention's blocks are the same
// however a prompt was cut; those before the first wanted one begin as zeros and stay out of the cache. What a row becomes never depends on other rows of its piece, on
// how many there are, or on how they are cut into tiles: each element of a product is a chain of additions along the columns, in order.
#pragma once

#include "contract.h"

namespace cf::gpu {

constexpr int kPrefillBlock = 64;  // positions: rows of a tile of attention, and keys that it takes at a time

// Activations on their way into a product, in the dtype of the weights: panels of 64 columns, a panel in groups of 8 rows, a group in eight
// 8x8 matrices of 128 contiguous bytes. A tile's share of a panel is one linear copy, and an operand of wgmma and of ldmatrix.
constexpr int kPanelColumns = 64;
constexpr int kGroupRows = 8;
constexpr int kGroupBytes = kGroupRows * kPanelColumns * 2;
constexpr int kMatrixBytes = 128;
CF_BOTH constexpr int64_t panels_of(int64_t columns) { return (columns + kPanelColumns - 1) / kPanelColumns; }
CF_BOTH constexpr int64_t panel_bytes(int64_t columns, int64_t rows) { return panels_of(columns) * rows * kPanelColumns * 2; }
// Bytes before the 8x8 matrix of a group of rows and an octet of columns; groups: of all rows.
CF_BOTH constexpr int64_t panel_offset(int64_t group, int64_t octet, int64_t groups) {
  return ((octet / 8 * groups + group) * 8 + octet % 8) * kMatrixBytes;
}

// What rows in fp32 look like between kernels, so that those that multiply write whole lines: 8 rows by 8 columns are 256 contiguous bytes,
// columns first. A row has a multiple of 8 columns, rows come in eights.
CF_BOTH constexpr int64_t block_offset(int64_t group, int64_t octet, int64_t octets) { return (group * octets + octet) * 64; }  // in floats

// ---- Products: rows times a packed matrix ----

constexpr int kTileStrips = 8;  // of a tile of a product: 128 rows of the matrix
constexpr int kStepTiles = kPanelColumns / kTileRows;
constexpr int kStepWeightBytes = kTileStrips * kStepTiles * kTileBytes;           // of a step: a panel's columns
constexpr int kMinTileRows = 64, kMaxTileRows = 128, kTileRowsUnit = kGroupRows;  // rows of activations in a tile

// Bytes of activations that a copy of a tile may read beyond the last: they are not used, but have to be memory.
constexpr int kPanelSlackBytes = kMaxTileRows * kPanelColumns * 2;

// The two ways to multiply: by warpgroups (wgmma, sm_90a), or by warps (mma.sync). Which one a device's code has can be told from the
// threads that it was compiled for.
constexpr int kGroupThreads = 288;  // two warpgroups that multiply, a warp that copies
constexpr int kGroupCtas = 2;       // of an SM: one multiplies while the other finishes or begins
constexpr int kMaxGroupStages = 8;
constexpr int kMinGroupStages = 2;  // since a stage is released when the next one is multiplied
constexpr int kWarpThreads = 256;
constexpr int kWarpStages = 3;
constexpr int kWarpTileRows = 128;
CF_BOTH constexpr int step_bytes(int tile_rows) { return kStepWeightBytes + tile_rows * kPanelColumns * 2; }

static_assert(kWarpStages * step_bytes(kWarpTileRows) <= kLeastSharedBytes);

enum class ProductKind : int32_t {
  kRows,      // output = sum + bias, row by row
  kBlocks,    // output = sum + bias, in blocks
  kAdd,       // output += sum + biases, in blocks
  kActivate,  // activations = activation(sum + bias), in panels
};

// By warpgroups: a packed matrix as the copy engine reads it, in boxes of 256 numbers (a tile) by kStepTiles tiles by 1 or, with SwiGLU, 2
// (strips of gate and of up) by 8 or 4 strips. What the driver's cuTensorMapEncodeTiled makes of it.
struct alignas(64) TensorMap {
  uint64_t words[16];
};

struct ProductFactor {
  const char* weights;  // packed
  const char* panels;
  int32_t tiles;      // of a strip: columns / 16
  const float* bias;  // or NULL
};

struct ProductParams {
  TensorMap maps[2];         // of the factors, by warpgroups
  ProductFactor factors[2];  // the sum goes over the columns of the first, then of the second
  int32_t n_factors;
  ProductKind kind;
  cf_activation activation;
  int32_t features;   // of the output; with SwiGLU the matrix has twice as many rows
  int32_t n_rows;     // of activations
  int32_t groups;     // of 8 rows in all panels
  int32_t tile_rows;  // a multiple of kTileRowsUnit
  int32_t stages;     // by warpgroups: of the ring
  float* output;      // [n_rows, features]
  char* activations;  // panels
};
CF_BOTH constexpr int tile_features(ProductKind kind, cf_activation activation) {
  return kTileStrips * kTileRows / (kind == ProductKind::kActivate && activation == CF_ACTIVATION_SWIGLU ? 2 : 1);
}

// ---- The rest ----

constexpr int kEmbedThreads = 256, kNormThreads = 512, kAppendThreads = 256, kAttendThreads = 128;

struct EmbedParams {
  const char* embedding;  // packed [V, H]
  cf_dtype dtype;
  const int32_t* tokens;  // of the rows from first_row on
  float* hidden;          // [rows, H] in blocks
  const float* inv_freq;  // [half]
  float2* angles;         // [rows, half] cosines and sines
  int32_t hidden_size, vocab_size, half, base_position, first_row, n_rows;
};

// Panels of norm(hidden), twice with different weights where a parallel residual needs it. A CTA takes a group of rows.
struct NormParams {
  const float* hidden;  // [rows, H] in blocks
  const float *weight[2], *bias[2];
  char* panels[2];
  int32_t n_outputs;
  int32_t hidden_size, groups;
  int32_t first_row, n_rows;  // of hidden; they become rows 0 ... of the panels
  cf_norm norm;
  cf_dtype dtype;
  float eps;
};

// Where the keys and values of a sequence are; the fields are those of DecodeRow.
struct PagedKv {
  char* pages;
  int64_t page_bytes;
  const int32_t* page_table;
  int32_t page_shift;
  cf_dtype dtype;
};

// Queries: [head][group][octet of head_dim] 8x8 matrices, in the dtype of the cache, scaled so that exp2 of a product is a weight.
struct AppendParams {
  const float* qkv;  // [rows, (A + 2 G) D] in blocks
  const float2* angles;
  char* queries;
  PagedKv kv;
  int32_t layer, n_heads, n_kv_heads, head_dim, half;
  int32_t base_position, first_row, n_rows, groups;
  float scale;
};

struct AttendParams {
  const char* queries;
  PagedKv kv;
  char* panels;  // [rows, A D]
  int32_t layer, n_heads, n_kv_heads;
  int32_t base_position, first_row, n_rows, groups;
  cf_dtype dtype;  // of the panels
};
// Keys and values of a block in shared memory: rows padded so that ldmatrix meets no bank twice.
CF_BOTH constexpr int attend_row_bytes(int head_dim) { return 2 * head_dim + 16; }
CF_BOTH constexpr int attend_stages(int head_dim) { return head_dim > 128 ? 1 : 2; }
CF_BOTH constexpr int attend_shared_bytes(int head_dim) { return attend_stages(head_dim) * 2 * kPrefillBlock * attend_row_bytes(head_dim); }

const void* prefill_product_kernel(cf_dtype weight_dtype);
const void* prefill_embed_kernel();
const void* prefill_norm_kernel();
const void* prefill_append_kernel();
const void* prefill_attend_kernel(int32_t head_dim, cf_dtype kv_dtype);  // NULL: not built

}  // namespace cf::gpu
