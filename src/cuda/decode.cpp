#include "cuda/decode.h"

#include <algorithm>
#include <bit>
#include <span>

#include "checked.h"
#include "cuda/trace.h"
#include "error.h"
#include "model_config.h"

namespace cf {

namespace {

// The kernel of a head_dim for up to `rows` rows; NULL: not built.
const void* decode_kernel(int32_t head_dim, int rows) {
  switch (head_dim) {
    case 32: return gpu::decode_kernel_32(rows);
    case 64: return gpu::decode_kernel_64(rows);
    case 80: return gpu::decode_kernel_80(rows);
    case 96: return gpu::decode_kernel_96(rows);
    case 128: return gpu::decode_kernel_128(rows);
    case 256: return gpu::decode_kernel_256(rows);
    default: return nullptr;
  }
}

// In a ring of one chunk nothing comes while it is used, which several rows together do not make up for.
constexpr int kRowsRing = 2;
constexpr int kRowSizes[] = {1, 4, 8};  // that kernels are built for
int row_size(int rows) {
  return *std::find_if(std::begin(kRowSizes), std::end(kRowSizes), [rows](int size) { return size >= rows; });
}

// Units of a job are counted in 16 bits, and 2^16 times what a warp has of the vocabulary in 32 (kernels/decode_sample.cuh).
constexpr int32_t kMaxVocab = 524288;

// CTAs per cluster of a session that asks for no size: 2, 4 and 8 were slower on an H100.
constexpr int32_t kClusterSize = 1;
// Parts of attention that a CTA shall have room for, from its cluster, even if the ring becomes a chunk shorter.
constexpr int32_t kNearParts = 16;

// Shared memory of a launch: whole chunks, activations, attention's scratch, the rest.
struct SharedMemory {
  int32_t ring, activation_bytes, pass_tiles, scratch_bytes, kv_buffers, near_parts = 0;
  uint32_t total;

  SharedMemory(const cf_model_config& c, const DecodeShape& shape, int rows, uint64_t limit) : SharedMemory(c, shape.down_slices, rows, limit) {
    if (shape.cluster_size == 1) return;
    const int64_t part = gpu::near_part_bytes(c.n_heads / c.n_kv_heads, c.head_dim);
    if (int64_t(limit) - total < kNearParts * part && ring > gpu::kLongRing) ring--, total -= gpu::kRingChunkBytes;
    near_parts = int32_t((int64_t(limit) - total) / part);
    total += uint32_t(near_parts * part);
  }
  SharedMemory(const cf_model_config& c, int32_t down_slices, int rows, uint64_t limit) {
    const int64_t down = (gpu::tiles_of(c.intermediate_size) + down_slices - 1) / down_slices,
                  without_norm = std::max(down, gpu::tiles_of(q_size(c)));
    const int64_t normed = gpu::tiles_of(c.hidden_size), pass = std::max(normed / gpu::kPassTiles, int64_t{1}) * gpu::kPassTiles;
    scratch_bytes =
        int32_t(round_up(uint64_t(gpu::scratch_floats(c.n_heads / c.n_kv_heads, c.head_dim, c.rotary_dim, rows)) * sizeof(float), kAlignment));
    const auto lay_out = [&](int64_t tiles_of_pass, int32_t buffers) {
      pass_tiles = int32_t(tiles_of_pass), kv_buffers = buffers;
      const int64_t tiles = std::max(normed, std::min(tiles_of_pass, without_norm));
      activation_bytes = int32_t(round_up(uint64_t(gpu::activation_bytes(tiles * gpu::kTileRows, rows)), kAlignment));
      const int64_t fixed = activation_bytes + scratch_bytes + kv_buffers * gpu::kv_buffer_bytes(c.head_dim) + gpu::kDecodeSharedBytes;
      ring = int32_t(std::clamp<int64_t>((int64_t(limit) - fixed) / gpu::kRingChunkBytes, 0, gpu::kMaxRing));
      total = uint32_t(ring * gpu::kRingChunkBytes + fixed);
    };
    lay_out(without_norm, gpu::kKvBuffers);
    if (ring < gpu::kLongRing) lay_out(without_norm, 1);
    if (ring < gpu::kLongRing) lay_out(pass, 1);
  }
};

// Parts of intermediate_size that MLP-down sums by themselves. With a parallel residual different CTAs take them, which then need few
// activations each, and all have work where there are few strips.
int32_t down_slices_of(const cf_model_config& c) {
  return c.parallel_residual ? int32_t(std::clamp<int64_t>(gpu::tiles_of(c.intermediate_size) / 4, 1, gpu::kMaxDownSlices)) : 1;
}

// Strips that the busiest of `ctas` CTAs has.
int64_t longest_run(int64_t strips, int64_t ctas) { return (strips + ctas - 1) / ctas; }

// How many of the CTAs take Q K V while the others take MLP-up.
int32_t qkv_ctas_of(const cf_model_config& c, int32_t n_ctas) {
  const int64_t qkv = gpu::tiles_of(qkv_size(c)), up = gpu::tiles_of(up_size(c));
  const auto longest = [&](int64_t ctas) { return std::max(longest_run(qkv, ctas), longest_run(up, n_ctas - ctas)); };
  int64_t best = 1;
  for (int64_t ctas = 1; ctas < n_ctas; ctas++)
    if (longest(ctas) < longest(best)) best = ctas;
  return int32_t(best);
}

}  // namespace

DecodeShape::DecodeShape(const cf_model_config& c, const CudaDevice& device) {
  const auto unsupported = [](const char* field, int64_t value, const char* expected) {
    fail(CF_ERROR_UNSUPPORTED, field, " is ", value, "; CUDA needs ", expected);
  };
  if (!decode_kernel(c.head_dim, 1)) unsupported("head_dim", c.head_dim, "32, 64, 80, 96, 128 or 256");
  if (c.hidden_size % gpu::kTileRows) unsupported("hidden_size", c.hidden_size, "a multiple of 16");
  if (c.intermediate_size % gpu::kTileRows) unsupported("intermediate_size", c.intermediate_size, "a multiple of 16");
  if (c.hidden_size > gpu::kMaxHidden) unsupported("hidden_size", c.hidden_size, "at most 16384");
  static_assert(gpu::kMaxHidden == 16384);
  if (c.n_layers > gpu::kMaxDecodeLayers) unsupported("n_layers", c.n_layers, "at most 128");
  if (c.vocab_size > kMaxVocab) unsupported("vocab_size", c.vocab_size, "at most 524288");
  down_slices = down_slices_of(c);
  if (gpu::tiles_of(qkv_size(c)) > UINT16_MAX) unsupported("n_heads * head_dim", q_size(c), "at most 1048560 rows of Q, K and V together");
  if (gpu::tiles_of(c.intermediate_size) > UINT16_MAX) unsupported("intermediate_size", c.intermediate_size, "at most 1048560");
  static_assert(UINT16_MAX * gpu::kTileRows == 1048560 && gpu::kMaxHidden / gpu::kTileRows * gpu::kMaxDownSlices <= UINT16_MAX);
  // Every CTA needs a unit of MLP-down (kernels/words.cuh).
  n_ctas = int32_t(std::min<int64_t>(device.multiprocessors, gpu::tiles_of(c.hidden_size) * down_slices));
  qkv_ctas = qkv_ctas_of(c, n_ctas);
  cluster_size = 1;
  max_rows = 0;
  for (int rows : kRowSizes)
    if (SharedMemory(c, down_slices, rows, device.shared_memory_bytes).ring >= (rows == 1 ? 1 : kRowsRing)) max_rows = rows;
  if (max_rows == 0)
    fail(CF_ERROR_UNSUPPORTED, "a step of hidden_size ", c.hidden_size, ", head_dim ", c.head_dim, " and ", c.n_heads / c.n_kv_heads,
         " heads for each of n_kv_heads needs ", SharedMemory(c, down_slices, 1, device.shared_memory_bytes).total + gpu::kRingChunkBytes,
         " bytes of shared memory; an SM of this device has ", device.shared_memory_bytes);
}

DecodeLayout::DecodeLayout(const cf_model_config& c, int64_t capacity_tokens, const DecodeShape& shape) {
  uint64_t at = 0;
  const auto place = [&](uint64_t bytes) {
    const uint64_t offset = at;
    at = add(at, round_up(bytes, kAlignment));
    return offset;
  };
  const uint64_t rows = uint64_t(shape.max_rows);
  const auto place_words = [&](uint64_t words) { return place(mul(words, rows, sizeof(uint4))); };  // of each row
  const uint64_t hidden_words = uint64_t(gpu::words_of(c.hidden_size));
  max_parts = int32_t(ceil_div(uint64_t(capacity_tokens), uint64_t(gpu::part_tokens(c.head_dim))));
  state = place(sizeof(gpu::DecodeState));
  page_table = place(mul(ceil_div(uint64_t(capacity_tokens), gpu::kRunTokens), sizeof(int32_t)));
  sequence = place(sizeof(gpu::DecodeSequence) + mul(uint64_t(c.vocab_size), sizeof(float)) +
                   3 * uint64_t(gpu::vocabulary_bits(c.vocab_size)) * sizeof(uint32_t));
  logits_floats = std::max({int64_t(rows) * c.vocab_size, int64_t(c.hidden_size), q_size(c), int64_t(c.intermediate_size)});
  logits = place(mul(uint64_t(logits_floats), sizeof(float)));
  words = at;
  hidden = place_words(2 * hidden_words);
  middle = place_words(c.parallel_residual ? 0 : 2 * hidden_words);
  qkv = place_words(2 * uint64_t(gpu::words_of(qkv_size(c))));
  activation = place_words(2 * uint64_t(gpu::words_of(c.intermediate_size)));
  down = place_words(c.parallel_residual ? mul(2 * uint64_t(shape.down_slices), hidden_words) : 0);
  heads = place_words(2 * uint64_t(gpu::words_of(q_size(c))));
  partials = place_words(mul(uint64_t(c.n_heads), uint64_t(max_parts), uint64_t(gpu::partial_words(c.head_dim))));
  votes = place_words(2 * uint64_t(shape.n_ctas));
  rounds = place(uint64_t(gpu::words_of_rounds(shape.n_ctas)) * sizeof(uint4));
  end = at;
}

gpu::DecodeWords DecodeLayout::words_in(std::byte* memory) const {
  const auto at = [memory](uint64_t offset) { return reinterpret_cast<uint4*>(memory + offset); };
  return {at(hidden), at(middle), at(qkv), at(activation), at(down), at(heads), at(partials), at(votes), at(rounds)};
}

namespace {
// Of the code that this device runs: 80 is compute capability 8.0.
int capability_of_code(Context& context, const cf_model_config& config) {
  cudaFuncAttributes attributes;
  check_cuda(&context, cudaFuncGetAttributes(&attributes, decode_kernel(config.head_dim, 1)), "look at a kernel");
  return attributes.ptxVersion;
}
}  // namespace

DecodeShape in_clusters(Context& context, const cf_model_config& config, const DecodeShape& shape, int32_t cluster_size, const CudaDevice& device) {
  if (cluster_size == 0) cluster_size = kClusterSize;
  if (cluster_size == 1) return shape;
  if (!std::has_single_bit(uint32_t(cluster_size)))
    fail(CF_ERROR_UNSUPPORTED, "cluster_size is ", cluster_size, "; sessions on CUDA need 1, 2, 4, 8 or 16, or 0");
  if (const int code = capability_of_code(context, config); code < 90)
    fail(CF_ERROR_UNSUPPORTED, "cluster_size is ", cluster_size, "; this device runs code for compute capability ", code / 10, ".", code % 10,
         ", which has no clusters");
  DecodeShape clustered = shape;
  clustered.cluster_size = cluster_size;
  int32_t clusters = shape.n_ctas / cluster_size;
  if (clusters == 0) fail(CF_ERROR_UNSUPPORTED, "cluster_size is ", cluster_size, "; a step of this model has work for ", shape.n_ctas, " CTAs");
  for (int rows : kRowSizes)
    if (rows <= shape.max_rows)
      clusters = std::min(clusters, clusters_at_once(context, decode_kernel(config.head_dim, rows), cluster_size, gpu::kDecodeThreads,
                                                     SharedMemory(config, clustered, rows, device.shared_memory_bytes).total));
  if (clusters == 0) fail(CF_ERROR_UNSUPPORTED, "cluster_size is ", cluster_size, "; this device cannot place so many CTAs of a step together");
  clustered.n_ctas = clusters * cluster_size;
  clustered.qkv_ctas = qkv_ctas_of(config, clustered.n_ctas);
  return clustered;
}

void prepare_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, const CudaDevice& device) {
  uint32_t most = 0;
  for (int rows : kRowSizes)
    if (rows <= shape.max_rows) {
      const uint32_t total = SharedMemory(config, shape.down_slices, rows, device.shared_memory_bytes).total;
      prepare_kernel(context, decode_kernel(config.head_dim, rows), gpu::kDecodeThreads, total, device.shared_memory_bytes, "a step of this model");
      most = std::max(most, total);
    }
  const int code = capability_of_code(context, config);
  context.log().write(CF_LOG_DEBUG, "steps run in ", shape.n_ctas, " CTAs of at most ", most,
                      " bytes of shared memory, by code for compute capability ", code / 10, ".", code % 10, gpu::kDelays ? ", with delays" : "");
}

gpu::DecodeParams decode_params(const cf_model_config& c, const CudaWeights& weights, const DecodeShape& shape, const CudaDevice& device) {
  gpu::DecodeParams p = {};
  p.hidden_size = c.hidden_size, p.n_heads = c.n_heads, p.n_kv_heads = c.n_kv_heads, p.rotary_dim = c.rotary_dim;
  p.intermediate_size = c.intermediate_size, p.vocab_size = c.vocab_size, p.n_layers = c.n_layers;
  p.norm = c.norm, p.activation = c.activation, p.parallel_residual = c.parallel_residual;
  p.down_slices = shape.down_slices, p.qkv_ctas = shape.qkv_ctas;
  p.norm_eps = float(c.norm_eps);
  p.inv_freq = weights.inv_freq();
  p.weight_dtype = weights.uniform_dtype();
  p.offsets = weights.layer_offsets();
  p.addresses = weights.addresses();
  for (int64_t word = 0; word < gpu::words_of(c.hidden_size); word++)
    p.share_counts[gpu::share_of_word(word)] += word % gpu::kWordsPerStrip == gpu::kWordsPerStrip - 1 ? 1 : 3;
  p.token = -1, p.cluster_size = 1;
  p.wait_limit_ns = uint64_t(device.wait_limit_ms) * 1'000'000;
  return p;
}

int64_t steps_of_launch(const cf_model_config& c, const CudaDevice& device) {
  constexpr double kBytesPerSecond = 1.5e12, kLaunchSeconds = 50e-3;  // faster memory is not counted on
  const double seconds = 2.0 * double(parameter_count(c)) / std::min(device.bytes_per_second, kBytesPerSecond);
  return std::clamp<int64_t>(int64_t(kLaunchSeconds / seconds), 1, gpu::kStepsOfLaunch);
}

namespace {
// The kernel for a launch of params.n_rows rows, and its memory, of which params are told.
struct LaunchKernel {
  const void* kernel;
  SharedMemory memory;

  LaunchKernel(const cf_model_config& config, const DecodeShape& shape, gpu::DecodeParams& params, const CudaDevice& device)
      : kernel(decode_kernel(config.head_dim, row_size(params.n_rows))), memory(config, shape, row_size(params.n_rows), device.shared_memory_bytes) {
    params.ring = memory.ring, params.window = std::min(gpu::kWindow, memory.ring), params.trickle = std::min(gpu::kTrickle, memory.ring);
    params.activation_bytes = memory.activation_bytes, params.pass_tiles = memory.pass_tiles, params.scratch_bytes = memory.scratch_bytes,
    params.kv_buffers = memory.kv_buffers;
    params.near_parts = memory.near_parts;
  }
};
}  // namespace

uint32_t launch_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, gpu::DecodeParams params, bool has_head,
                       cf_launch_mode mode, const CudaDevice& device, cudaStream_t stream, const VisitPlace& visit) {
  const LaunchKernel it(config, shape, params, device);
#ifdef CF_CUDA_TRACE
  params.trace = trace_memory(context);
#endif
  const int32_t head = params.n_layers, end = head + has_head;
  // Part of a step: layers first .. last - 1, and of those what `takes` says.
  const auto launch = [&](int32_t first, int32_t last, uint32_t takes, bool begins, bool casts, bool ends, int32_t n_ctas, bool together) {
    gpu::DecodeParams p = params;
    p.first_layer = first, p.end_layer = last, p.takes = takes, p.begins = begins, p.casts = casts, p.ends = ends;
    p.cluster_size = n_ctas == 1 ? 1 : shape.cluster_size;
    launch_kernel(context, it.kernel, n_ctas, gpu::kDecodeThreads, it.memory.total, together, stream, &p, "launch steps", p.cluster_size);
  };
  params.voters = shape.n_ctas;
  if (mode == CF_LAUNCH_STEP) {
    launch(0, end, gpu::kTakesAll, true, true, true, shape.n_ctas, true);
    return 1;
  }
  const int32_t n_steps = params.n_steps;
  params.n_steps = 1;
  for (int32_t step = 0; step < n_steps; step++, params.token = -1, params.new_call = 0) {
    if (mode == CF_LAUNCH_BLOCK) {
      for (int32_t layer = 0; layer < head; layer++) launch(layer, layer + 1, gpu::kTakesAll, layer == 0, false, false, shape.n_ctas, true);
      launch(head, end, gpu::kTakesAll, false, true, true, shape.n_ctas, true);
      continue;
    }
    using namespace gpu;
    static constexpr uint32_t kParallel[] = {kTakesQkv | kTakesUp, kTakesAttention | kTakesDown, kTakesCombine, kTakesO};
    static constexpr uint32_t kSequential[] = {kTakesQkv, kTakesAttention, kTakesCombine, kTakesO, kTakesUp, kTakesDown};
    const auto phase = [&](int32_t first, int32_t last, uint32_t takes, bool begins) {
      launch(first, last, takes, begins, takes == kTakesHead, false, shape.n_ctas, false);
    };
    phase(0, 0, 0, true);
    for (int32_t layer = 0; layer < head; layer++) {
      if (visit) visit(layer, CF_TAP_BLOCK_INPUT);
      for (const uint32_t takes : config.parallel_residual ? std::span<const uint32_t>(kParallel) : std::span<const uint32_t>(kSequential)) {
        phase(layer, layer + 1, takes, false);
        if (visit && takes & kTakesUp) visit(layer, CF_TAP_MLP_ACTIVATION);
        if (visit && takes & kTakesCombine) visit(layer, CF_TAP_ATTENTION_HEADS);
      }
      if (visit) visit(layer, CF_TAP_BLOCK_OUTPUT);
    }
    if (has_head) phase(head, end, kTakesHead, false);
    params.voters = has_head ? shape.n_ctas : 0;
    launch(head, head, 0, false, false, true, 1, false);
    params.voters = shape.n_ctas;
  }
  return uint32_t(n_steps);
}

void launch_layer(Context& context, const cf_model_config& config, const DecodeShape& shape, gpu::DecodeParams params, const CudaDevice& device,
                  cudaStream_t stream) {
  const LaunchKernel it(config, shape, params, device);
  launch_kernel(context, it.kernel, shape.n_ctas, gpu::kDecodeThreads, it.memory.total, true, stream, &params, "launch a block");
}

gpu::TapParams decode_tap(const gpu::DecodeParams& params, int32_t head_dim, int32_t layer, cf_tap_point point) {
  gpu::TapParams p = {};
  p.form = gpu::TapForm::kActivationWords, p.dtype = params.weight_dtype, p.n_rows = params.n_rows;
  uint4* words;
  switch (point) {
    case CF_TAP_ATTENTION_HEADS: p.columns = params.n_heads * head_dim, words = params.words.heads; break;
    case CF_TAP_MLP_ACTIVATION: p.columns = params.intermediate_size, words = params.words.activation; break;
    default: p.form = gpu::TapForm::kWords, p.columns = params.hidden_size, words = params.words.hidden;
  }
  const int32_t set = point == CF_TAP_BLOCK_OUTPUT ? layer + 1 : layer;  // of two, for even and odd layers
  p.rows = words + (set & 1) * params.n_rows * gpu::words_of(p.columns);
  return p;
}

}  // namespace cf
