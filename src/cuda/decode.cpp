#include "cuda/decode.h"

#include <algorithm>

#include "checked.h"
#include "error.h"
#include "model_config.h"

namespace cf {

namespace {

constexpr int64_t kUsualCtas = 132;  // what the pieces of MLP-down are chosen for; results do not depend on how many there are

// The fewest pieces of each strip of MLP-down that keep nine tenths of the usual number of CTAs busy.
int32_t down_slices_of(const cf_model_config& c) {
  if (!c.parallel_residual) return 1;
  for (int64_t slices = 1; slices < gpu::kMaxDownSlices; slices++) {
    const int64_t units = gpu::tiles_of(c.hidden_size) * slices, rounds = (units + kUsualCtas - 1) / kUsualCtas;
    if (10 * units >= 9 * rounds * kUsualCtas) return int32_t(slices);
  }
  return gpu::kMaxDownSlices;
}

}  // namespace

DecodeShape::DecodeShape(const cf_model_config& c, int64_t capacity_tokens, const CudaDevice& device) {
  const auto unsupported = [](const char* field, int64_t value, const char* expected) {
    fail(CF_ERROR_UNSUPPORTED, field, " is ", value, "; sessions on CUDA need ", expected);
  };
  if (!gpu::decode_kernel(c.head_dim, CF_DTYPE_F16)) unsupported("head_dim", c.head_dim, "32, 64, 80, 96, 128 or 256");
  if (c.hidden_size % gpu::kTileRows) unsupported("hidden_size", c.hidden_size, "a multiple of 16");
  if (c.intermediate_size % gpu::kTileRows) unsupported("intermediate_size", c.intermediate_size, "a multiple of 16");
  if (c.hidden_size > gpu::kMaxHidden) unsupported("hidden_size", c.hidden_size, "at most 5120");
  static_assert(gpu::kMaxHidden == 5120);
  if (c.n_layers > gpu::kMaxDecodeLayers) unsupported("n_layers", c.n_layers, "at most 128");
  if (c.vocab_size > gpu::kTileRows * 65535) unsupported("vocab_size", c.vocab_size, "at most 1048560");  // units of a job are counted in 16 bits
  if (c.rotary_dim > 256) unsupported("rotary_dim", c.rotary_dim, "at most 256");
  if (device.compute_capability < 90)
    fail(CF_ERROR_UNSUPPORTED, "sessions on CUDA need compute capability 9.0 or newer (bulk copies); this device has ",
         device.compute_capability / 10, ".", device.compute_capability % 10);
  // The biases of one CTA's rows; a run may be one strip longer than the average.
  const int64_t bias_rows = (qkv_size(c) + up_size(c) + 2 * int64_t(c.hidden_size)) / device.multiprocessors + 2 * 5 * gpu::kTileRows;
  if (bias_rows > gpu::kMaxBiases) fail(CF_ERROR_UNSUPPORTED, "this model is too wide for sessions on a device of ", device.multiprocessors, " SMs");
  down_slices = down_slices_of(c);
  max_parts = int32_t((capacity_tokens + gpu::kPartTokens - 1) / gpu::kPartTokens);
  const int64_t tiles = gpu::tiles_of(c.intermediate_size), slice_tiles = (tiles + down_slices - 1) / down_slices;
  const int64_t slice = (down_slices == 1 ? tiles : 2 * slice_tiles) * gpu::kTileRows;
  const int64_t group = c.n_heads / c.n_kv_heads;
  activation_bytes =
      int32_t(round_up(uint64_t(gpu::decode_activation_bytes(c.hidden_size, q_size(c), slice, c.parallel_residual, group, c.head_dim)), kAlignment));
  const int64_t left = int64_t(device.shared_memory_bytes) - activation_bytes - int64_t(sizeof(gpu::DecodeShared));
  ring = int32_t(std::min<int64_t>(gpu::kMaxRing, left / gpu::kRingChunkBytes));
  const int64_t chunk_tokens = std::min<int64_t>(64, gpu::kRingChunkBytes / (2 * c.head_dim));
  if (ring < std::max<int64_t>(4, 2 * gpu::kPartTokens / chunk_tokens))
    fail(CF_ERROR_UNSUPPORTED, "this model needs more shared memory for a step than the ", device.shared_memory_bytes,
         " bytes of an SM of this device");
  shared_bytes = uint32_t(ring * gpu::kRingChunkBytes + activation_bytes + int64_t(sizeof(gpu::DecodeShared)));
}

DecodeLayout::DecodeLayout(const cf_model_config& c, int64_t capacity_tokens, int n_ctas) {
  uint64_t at = 0;
  const auto place = [&](uint64_t bytes) {
    const uint64_t offset = at;
    at = add(at, round_up(bytes, kAlignment));
    return offset;
  };
  const auto place_words = [&](uint64_t words) { return place(mul(words, sizeof(uint4))); };
  const uint64_t layers_n = uint64_t(c.n_layers), hidden_words = uint64_t(gpu::words_of(c.hidden_size));
  const uint64_t parts = ceil_div(uint64_t(capacity_tokens), gpu::kPartTokens);
  state = place(sizeof(gpu::DecodeState));
  tokens = place(mul(uint64_t(capacity_tokens) + 1, sizeof(int32_t)));
  page_table = place(mul(uint64_t(capacity_tokens), sizeof(int32_t)));  // a page has one token at least
  layers = place(mul(layers_n, sizeof(void*)));
  logits = place(mul(uint64_t(c.vocab_size), sizeof(float)));
  words = at;
  hidden = place_words(mul(layers_n + 1, hidden_words));
  middle = place_words(c.parallel_residual ? 0 : mul(layers_n, hidden_words));
  qkv = place_words(mul(layers_n, uint64_t(gpu::words_of(qkv_size(c)))));
  activation = place_words(mul(layers_n, uint64_t(gpu::words_of(c.intermediate_size))));
  down = place_words(c.parallel_residual ? mul(layers_n, uint64_t(down_slices_of(c)), hidden_words) : 0);
  heads = place_words(mul(layers_n, uint64_t(gpu::words_of(q_size(c)))));
  partials = place_words(mul(uint64_t(c.n_heads), parts, uint64_t(gpu::partial_words(c.head_dim))));
  votes = place_words(2 * uint64_t(n_ctas));
  end = at;
}

gpu::DecodeWords DecodeLayout::words_in(std::byte* memory) const {
  const auto at = [memory](uint64_t offset) { return reinterpret_cast<uint4*>(memory + offset); };
  return {at(hidden), at(middle), at(qkv), at(activation), at(down), at(heads), at(partials), at(votes)};
}

gpu::DecodeParams decode_params(const cf_model_config& c, const CudaWeights& weights, const DecodeShape& shape) {
  gpu::DecodeParams p = {};
  p.hidden_size = c.hidden_size, p.n_heads = c.n_heads, p.n_kv_heads = c.n_kv_heads, p.rotary_dim = c.rotary_dim;
  p.intermediate_size = c.intermediate_size, p.vocab_size = c.vocab_size, p.n_layers = c.n_layers;
  p.norm = c.norm, p.activation = c.activation, p.parallel_residual = c.parallel_residual;
  p.down_slices = shape.down_slices;
  p.norm_eps = float(c.norm_eps);
  p.inv_freq = weights.shape().inv_freq;
  p.weight_dtype = weights.uniform_dtype();
  p.offsets = weights.layer_offsets();
  const CudaSlots& globals = weights.globals();
  p.embedding = static_cast<const char*>(globals.matrix(Slot::kEmbedding).data);
  p.head = c.tied_embeddings ? p.embedding : static_cast<const char*>(globals.matrix(Slot::kHead).data);
  p.final_norm_weight = globals.vector(Slot::kFinalNormWeight);
  p.final_norm_bias = globals.vector(Slot::kFinalNormBias);
  p.ring = shape.ring;
  p.activation_bytes = shape.activation_bytes;
  p.max_parts = shape.max_parts;
  p.window = 3, p.trickle = 2;  // 16 KB chunks: fewer leave the memory idle, more delay the words that CTAs exchange
  return p;
}

void prepare_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, cf_dtype weight_dtype, const CudaDevice& device) {
  prepare_kernel(context, gpu::decode_kernel(config.head_dim, weight_dtype), gpu::kDecodeThreads, shape.shared_bytes, device.shared_memory_bytes,
                 "a step of this model");
}

void launch_decode(Context& context, const cf_model_config& config, const DecodeShape& shape, gpu::DecodeParams params, int n_ctas,
                   cudaStream_t stream) {
  launch_cooperative(context, gpu::decode_kernel(config.head_dim, params.weight_dtype), n_ctas, gpu::kDecodeThreads, shape.shared_bytes, stream,
                     &params, "launch steps");
}

}  // namespace cf
