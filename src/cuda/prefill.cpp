#include "cuda/prefill.h"

#include <cuda.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "checked.h"
#include "error.h"
#include "model_config.h"

namespace cf {

namespace {

constexpr int64_t kMaxPieceRows = 2048;  // a multiple of what tiles of any size divide well
constexpr int64_t kPieceUnit = 256;      // pieces are multiples of it where the workspace has room for one
static_assert(kPieceUnit % gpu::kPrefillBlock == 0);

// The largest piece whose workspace fits, and no longer than prompts are.
template <class Bytes>
int64_t piece_rows_within(const cf_model_config& config, uint64_t limit_bytes, Bytes bytes) {
  const int64_t longest = int64_t(round_up(uint64_t(config.max_position_embeddings), uint64_t(kPieceUnit)));
  for (int64_t rows = std::min(kMaxPieceRows, longest); rows > 0; rows -= rows > kPieceUnit ? kPieceUnit : gpu::kPrefillBlock)
    if (bytes(rows) <= limit_bytes) return rows;
  fail(CF_ERROR_UNSUPPORTED, "prefill of this model needs a workspace of ", bytes(gpu::kPrefillBlock), " bytes at least; the limit is ", limit_bytes);
}

// Dynamic shared memory of a product by warpgroups where so many of its CTAs share an SM: what the rings may take.
constexpr int kReservedBytes = 1024 + 256;  // of each CTA: the system's, and barriers
int group_shared_bytes(uint64_t limit_bytes, int ctas) { return int((limit_bytes + 1024) / uint64_t(ctas)) / 128 * 128 - kReservedBytes; }

// A tile takes as long as its rows and so many more would: as measured on an H100.
constexpr int kTileTime = 48;

}  // namespace

PrefillWeights prefill_weights(const cf_model_config& config, const CudaWeights& weights) {
  const CudaSlots& globals = weights.globals();
  PrefillWeights w = {{},
                      globals.matrix(Slot::kEmbedding),
                      globals.matrix(config.tied_embeddings ? Slot::kEmbedding : Slot::kHead),
                      globals.vector(Slot::kFinalNormWeight),
                      globals.vector(Slot::kFinalNormBias),
                      weights.inv_freq()};
  for (int32_t i = 0; i < config.n_layers; i++) w.layers.push_back(weights.layer(i));
  return w;
}

Prefill::Layout::Layout(const cf_model_config& c, int64_t rows) {
  uint64_t at = 0;
  const auto place = [&](uint64_t bytes) {
    const uint64_t offset = at;
    at = add(at, round_up(bytes, kAlignment));
    return offset;
  };
  const auto floats = [&](int64_t columns) { return mul(uint64_t(rows), uint64_t(columns), sizeof(float)); };
  const auto panels = [&](int64_t columns) { return uint64_t(gpu::panel_bytes(columns, rows)); };
  hidden = place(floats(c.hidden_size));
  normed[0] = place(panels(c.hidden_size));
  normed[1] = c.parallel_residual ? place(panels(c.hidden_size)) : normed[0];
  heads = place(panels(q_size(c)));
  queries = place(mul(uint64_t(rows), uint64_t(q_size(c)), 2));
  angles = place(floats(c.rotary_dim));
  qkv = activation = place(std::max(floats(qkv_size(c)), panels(c.intermediate_size)));  // activations come when attention is done
  at = add(at, gpu::kPanelSlackBytes);
  end = at;
}

int64_t Prefill::rows_of_piece(const cf_model_config& config, const CudaDevice& device) {
  return piece_rows_within(config, device.prefill_workspace_bytes, [&](int64_t rows) { return Layout(config, rows).end; });
}

uint64_t Prefill::workspace_bytes(const cf_model_config& config, const CudaDevice& device) {
  return Layout(config, rows_of_piece(config, device)).end;
}

Prefill::Prefill(Context& context, const cf_model_config& config, cf_dtype weight_dtype, cf_dtype kv_dtype, const CudaDevice& device)
    : context_(context),
      config_(config),
      weight_dtype_(weight_dtype),
      kv_dtype_(kv_dtype),
      device_(device),
      rows_(rows_of_piece(config, device)),
      layout_(config, rows_) {
  const auto unsupported = [](const char* field, int64_t value, const char* expected) {
    fail(CF_ERROR_UNSUPPORTED, field, " is ", value, "; prefill on CUDA needs ", expected);
  };
  if (config.hidden_size % gpu::kTileRows) unsupported("hidden_size", config.hidden_size, "a multiple of 16");
  if (config.intermediate_size % gpu::kTileRows) unsupported("intermediate_size", config.intermediate_size, "a multiple of 16");
  const void* const attend = gpu::prefill_attend_kernel(config.head_dim, kv_dtype);
  if (!attend) unsupported("head_dim", config.head_dim, "32, 64, 80, 96, 128 or 256");
  // Which way the product kernel that this device runs multiplies shows in the threads that it was compiled for.
  const void* const product = gpu::prefill_product_kernel(weight_dtype);
  cudaFuncAttributes attributes = {};
  check_cuda(&context, cudaFuncGetAttributes(&attributes, product), "look at a kernel");
  by_groups_ = attributes.maxThreadsPerBlock == gpu::kGroupThreads;
  const auto prepare = [&](const void* kernel, int threads, int shared_bytes, const char* what) {
    prepare_kernel(context, kernel, threads, uint64_t(shared_bytes), uint64_t(shared_bytes), what);
  };
  if (by_groups_) {
    const int shared_bytes = group_shared_bytes(device.shared_memory_bytes, 1);
    if (shared_bytes < gpu::kMinGroupStages * gpu::step_bytes(gpu::kMaxTileRows))
      fail(CF_ERROR_UNSUPPORTED, "prefill needs more shared memory than the ", device.shared_memory_bytes, " bytes of an SM of this device");
    prepare(product, gpu::kGroupThreads, shared_bytes, "a product of prefill");
    cudaDriverEntryPointQueryResult found;
    check_cuda(&context, cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode_tensor_map_, 12000, cudaEnableDefault, &found),
               "find the driver's tensor maps");
    if (found != cudaDriverEntryPointSuccess) fail(CF_ERROR_UNSUPPORTED, "the driver is too old for tensor maps, which prefill needs on this device");
  } else {
    prepare(product, gpu::kWarpThreads, gpu::kWarpStages * gpu::step_bytes(gpu::kWarpTileRows), "a product of prefill");
  }
  prepare(attend, gpu::kAttendThreads, gpu::attend_shared_bytes(config.head_dim), "attention of prefill");
}

Prefill::Rows Prefill::rows_of(int64_t first_position, int64_t n_rows) {
  const int64_t base = first_position / gpu::kPrefillBlock * gpu::kPrefillBlock;
  return {int32_t(base), int32_t(first_position - base), int32_t(first_position - base + n_rows)};
}

template <class Params>
void Prefill::launch(const void* kernel, dim3 ctas, int threads, int shared_bytes, Params& params, const char* doing, cudaStream_t stream) const {
  void* arguments[] = {&params};
  check_cuda(&context_, cudaLaunchKernel(kernel, ctas, dim3(unsigned(threads)), arguments, size_t(shared_bytes), stream), doing);
  if (observer_) observer_(doing);
}

// Rows of activations in a tile: with what all are done first. Tiles come in waves of as many as run at once; where each SM has one, that one
// has all of its memory, but in a last wave of few it waits for its copies as long as two would.
int Prefill::tile_rows_of(uint64_t feature_tiles, int64_t n_rows) const {
  if (!by_groups_) return gpu::kWarpTileRows;
  if (forced_tile_rows_) return forced_tile_rows_;
  const auto time = [&](int rows) {
    const uint64_t tiles = feature_tiles * ceil_div(uint64_t(n_rows), uint64_t(rows)), sms = uint64_t(device_.multiprocessors);
    return int64_t(tiles <= sms ? 1 : gpu::kGroupCtas * ceil_div(tiles, gpu::kGroupCtas * sms)) * (kTileTime + rows);
  };
  int best = gpu::kMaxTileRows;
  for (int rows = best; rows >= gpu::kMinTileRows; rows -= gpu::kTileRowsUnit)
    if (time(rows) < time(best)) best = rows;
  return best;
}

gpu::TensorMap Prefill::tensor_map(const gpu::ProductFactor& factor, const gpu::ProductParams& p) const {
  const uint64_t parts = uint64_t(gpu::kTileStrips * gpu::kTileRows / gpu::tile_features(p.kind, p.activation));  // gate and up, or one
  const uint64_t strips = uint64_t(gpu::tiles_of(p.features)), strip_bytes = uint64_t(factor.tiles) * gpu::kTileBytes;
  const cuuint64_t sizes[] = {gpu::kTileElements, uint64_t(factor.tiles), parts, strips},
                   strides[] = {gpu::kTileBytes, strips * strip_bytes, strip_bytes};
  const cuuint32_t box[] = {gpu::kTileElements, gpu::kStepTiles, cuuint32_t(parts), cuuint32_t(gpu::kTileStrips / parts)}, steps[] = {1, 1, 1, 1};
  CUtensorMap map;
  static_assert(sizeof map == sizeof(gpu::TensorMap));
  const auto encode = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(encode_tensor_map_);
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_UINT16, 4, const_cast<char*>(factor.weights), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) fail(CF_ERROR_INTERNAL, "the driver refused the tensor map of a matrix: ", int(result));
  gpu::TensorMap out;
  std::memcpy(&out, &map, sizeof out);
  return out;
}

void Prefill::product(const gpu::ProductParams& of_caller, const char* doing, cudaStream_t stream) const {
  gpu::ProductParams p = of_caller;
  p.activation = config_.activation;
  const uint64_t feature_tiles = ceil_div(uint64_t(p.features), uint64_t(gpu::tile_features(p.kind, p.activation)));
  p.groups = groups();
  p.tile_rows = tile_rows_of(feature_tiles, p.n_rows);
  const uint64_t tiles = mul(feature_tiles, ceil_div(uint64_t(p.n_rows), uint64_t(p.tile_rows)));
  const int step = gpu::step_bytes(p.tile_rows);
  int threads = gpu::kWarpThreads, shared_bytes = gpu::kWarpStages * step;
  if (by_groups_) {  // a long ring where a CTA has an SM to itself
    const auto stages = [&](int ctas) { return std::min(gpu::kMaxGroupStages, group_shared_bytes(device_.shared_memory_bytes, ctas) / step); };
    p.stages = stages(tiles <= uint64_t(device_.multiprocessors) || stages(gpu::kGroupCtas) < gpu::kMinGroupStages ? 1 : gpu::kGroupCtas);
    threads = gpu::kGroupThreads, shared_bytes = p.stages * step;
    for (int i = 0; i < p.n_factors; i++) p.maps[i] = tensor_map(p.factors[i], p);
  }
  launch(gpu::prefill_product_kernel(weight_dtype_), dim3(unsigned(tiles)), threads, shared_bytes, p, doing, stream);
}

gpu::ProductFactor Prefill::factor(const gpu::Matrix& matrix, const float* bias, void* workspace, uint64_t panels) const {
  return {static_cast<const char*>(matrix.data), at<char>(workspace, panels), matrix.tiles, bias};
}

void Prefill::norm(int32_t first_row, int32_t n_rows, const float* const (&weight)[2], const float* const (&bias)[2], int n_outputs, void* workspace,
                   cudaStream_t stream) const {
  gpu::NormParams p = {};
  p.hidden = at<float>(workspace, layout_.hidden);
  for (int i = 0; i < n_outputs; i++) p.weight[i] = weight[i], p.bias[i] = bias[i], p.panels[i] = at<char>(workspace, layout_.normed[i]);
  p.n_outputs = n_outputs, p.hidden_size = config_.hidden_size, p.groups = groups(), p.first_row = first_row, p.n_rows = n_rows;
  p.norm = config_.norm, p.dtype = weight_dtype_, p.eps = float(config_.norm_eps);
  launch(gpu::prefill_norm_kernel(), dim3(unsigned(ceil_div(uint64_t(n_rows), gpu::kGroupRows))), gpu::kNormThreads, 0, p, "normalise rows", stream);
}

void Prefill::layer(const PrefillWeights& weights, int32_t index, const gpu::PagedKv& kv, const Rows& rows, void* workspace, cudaStream_t stream,
                    const VisitPlace& visit) const {
  const gpu::LayerWeights& w = weights.layers[size_t(index)];
  const cf_model_config& c = config_;
  float* const hidden = at<float>(workspace, layout_.hidden);
  const bool parallel = c.parallel_residual;
  const auto visit_if = [&](cf_tap_point point) {
    if (visit) visit(index, point);
  };
  const auto to_hidden = [&](std::initializer_list<gpu::ProductFactor> factors, const char* doing) {
    gpu::ProductParams p = {};
    for (const gpu::ProductFactor& f : factors) p.factors[p.n_factors++] = f;
    p.kind = gpu::ProductKind::kAdd, p.features = c.hidden_size, p.n_rows = rows.n, p.output = hidden;
    product(p, doing, stream);
  };

  visit_if(CF_TAP_BLOCK_INPUT);
  norm(0, rows.n, {w.attention_norm_weight, w.mlp_norm_weight}, {w.attention_norm_bias, w.mlp_norm_bias}, parallel ? 2 : 1, workspace, stream);
  gpu::ProductParams qkv = {};
  qkv.factors[0] = factor(w.qkv, w.qkv_bias, workspace, layout_.normed[0]), qkv.n_factors = 1;
  qkv.kind = gpu::ProductKind::kBlocks, qkv.features = int32_t(qkv_size(c)), qkv.n_rows = rows.n;
  qkv.output = at<float>(workspace, layout_.qkv);
  product(qkv, "multiply by Q, K and V", stream);

  const uint64_t blocks = ceil_div(uint64_t(rows.n), gpu::kPrefillBlock);  // their queries are all written, so that attention reads no junk
  const float scale = float(std::numbers::log2e / std::sqrt(double(c.head_dim)));
  gpu::AppendParams append = {at<float>(workspace, layout_.qkv),
                              at<float2>(workspace, layout_.angles),
                              at<char>(workspace, layout_.queries),
                              kv,
                              index,
                              c.n_heads,
                              c.n_kv_heads,
                              c.head_dim,
                              c.rotary_dim / 2,
                              rows.base,
                              rows.first,
                              rows.n,
                              groups(),
                              scale};
  const uint64_t octets = uint64_t(qkv_size(c)) / 8;
  launch(gpu::prefill_append_kernel(),
         dim3(unsigned(blocks * (gpu::kPrefillBlock / gpu::kGroupRows)), unsigned(ceil_div(octets, gpu::kAppendThreads / gpu::kGroupRows))),
         gpu::kAppendThreads, 0, append, "append keys and values", stream);

  gpu::AttendParams attend = {at<char>(workspace, layout_.queries),
                              kv,
                              at<char>(workspace, layout_.heads),
                              index,
                              c.n_heads,
                              c.n_kv_heads,
                              rows.base,
                              rows.first,
                              rows.n,
                              groups(),
                              weight_dtype_};
  launch(gpu::prefill_attend_kernel(c.head_dim, kv.dtype), dim3(unsigned(c.n_heads), unsigned(blocks)), gpu::kAttendThreads,
         gpu::attend_shared_bytes(c.head_dim), attend, "attend", stream);
  visit_if(CF_TAP_ATTENTION_HEADS);

  const gpu::ProductFactor o = factor(w.o, w.o_bias, workspace, layout_.heads), down = factor(w.down, w.down_bias, workspace, layout_.activation);
  if (!parallel) {
    to_hidden({o}, "multiply by O");
    norm(0, rows.n, {w.mlp_norm_weight, nullptr}, {w.mlp_norm_bias, nullptr}, 1, workspace, stream);
  }
  gpu::ProductParams up = {};
  up.factors[0] = factor(w.up, w.up_bias, workspace, layout_.normed[1]), up.n_factors = 1;
  up.kind = gpu::ProductKind::kActivate, up.features = c.intermediate_size, up.n_rows = rows.n;
  up.activations = at<char>(workspace, layout_.activation);
  product(up, "multiply by MLP-up", stream);
  visit_if(CF_TAP_MLP_ACTIVATION);
  if (parallel) to_hidden({o, down}, "multiply by O and MLP-down");
  else to_hidden({down}, "multiply by MLP-down");
  visit_if(CF_TAP_BLOCK_OUTPUT);
}

gpu::TapParams Prefill::tap(cf_tap_point point, int64_t first_position, int64_t n_rows, void* workspace) const {
  gpu::TapParams p = {};
  p.n_rows = int32_t(n_rows), p.first_row = rows_of(first_position, n_rows).first, p.groups = groups();
  p.form = gpu::TapForm::kPanels, p.dtype = weight_dtype_;
  switch (point) {
    case CF_TAP_ATTENTION_HEADS: p.columns = int32_t(q_size(config_)), p.rows = at<char>(workspace, layout_.heads); break;
    case CF_TAP_MLP_ACTIVATION: p.columns = config_.intermediate_size, p.rows = at<char>(workspace, layout_.activation); break;
    default: p.columns = config_.hidden_size, p.rows = at<char>(workspace, layout_.hidden), p.form = gpu::TapForm::kBlocks;
  }
  return p;
}

void Prefill::enqueue(const PrefillWeights& weights, const gpu::PagedKv& kv, const int32_t* tokens, int64_t first_position, int64_t n_rows,
                      void* workspace, cudaStream_t stream, const VisitPlace& visit) const {
  if (n_rows < 1 || first_position < 0 || first_position / rows_ != (first_position + n_rows - 1) / rows_ || kv.dtype != kv_dtype_ ||
      weights.embedding.dtype != weight_dtype_)
    fail(CF_ERROR_INTERNAL, n_rows, " rows from position ", first_position, " on are no piece of prefill");
  const Rows rows = rows_of(first_position, n_rows);
  gpu::EmbedParams embed = {static_cast<const char*>(weights.embedding.data),
                            weights.embedding.dtype,
                            tokens,
                            at<float>(workspace, layout_.hidden),
                            weights.inv_freq,
                            at<float2>(workspace, layout_.angles),
                            config_.hidden_size,
                            config_.vocab_size,
                            config_.rotary_dim / 2,
                            rows.base,
                            rows.first,
                            rows.n};
  launch(gpu::prefill_embed_kernel(), dim3(unsigned(round_up(uint64_t(rows.n), gpu::kGroupRows))), gpu::kEmbedThreads, 0, embed, "embed tokens",
         stream);
  for (int32_t i = 0; i < config_.n_layers; i++) layer(weights, i, kv, rows, workspace, stream, visit);
}

void Prefill::enqueue_logits(const PrefillWeights& weights, int64_t first_position, int64_t row, int64_t n_rows, float* logits, void* workspace,
                             cudaStream_t stream) const {
  const Rows rows = rows_of(first_position, row + n_rows);
  if (row < 0 || n_rows < 1 || rows.n > rows_) fail(CF_ERROR_INTERNAL, n_rows, " rows from ", row, " on are not in a piece of prefill");
  norm(int32_t(rows.first + row), int32_t(n_rows), {weights.final_norm_weight, nullptr}, {weights.final_norm_bias, nullptr}, 1, workspace, stream);
  gpu::ProductParams p = {};
  p.factors[0] = factor(weights.head, nullptr, workspace, layout_.normed[0]), p.n_factors = 1;
  p.kind = gpu::ProductKind::kRows, p.features = config_.vocab_size, p.n_rows = int32_t(n_rows), p.output = logits;
  product(p, "multiply by the head", stream);
}

}  // namespace cf
