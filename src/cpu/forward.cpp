#include "cpu/forward.h"

#include <algorithm>
#include <cmath>

#include "checked.h"
#include "model_config.h"

namespace cf {

namespace {
// Calls visit(pointer to the member, floats) for every array of a Workspace, in the order of the struct.
template <class Visit>
void each_array(const cf_model_config& c, bool with_logits, Workspace* w, Visit visit) {
  const auto rows = [](int64_t width) { return mul(uint64_t(kPieceRows), uint64_t(width)); };
  auto member = [w](float* Workspace::*m) { return w ? &(w->*m) : nullptr; };
  visit(member(&Workspace::hidden), rows(c.hidden_size));
  visit(member(&Workspace::normed), rows(c.hidden_size));
  visit(member(&Workspace::qkv), rows(qkv_size(c)));
  visit(member(&Workspace::heads), rows(q_size(c)));
  visit(member(&Workspace::attention), rows(c.hidden_size));
  visit(member(&Workspace::up), rows(up_size(c)));
  visit(member(&Workspace::activation), rows(c.intermediate_size));
  visit(member(&Workspace::cosine), rows(c.rotary_dim / 2));
  visit(member(&Workspace::sine), rows(c.rotary_dim / 2));
  visit(member(&Workspace::logits), with_logits ? mul(uint64_t(kHeadRows), uint64_t(c.vocab_size)) : 0);
}
}  // namespace

uint64_t Workspace::bytes(const cf_model_config& config, bool with_logits) {
  uint64_t total = 0;
  each_array(config, with_logits, nullptr, [&](float**, uint64_t floats) { total = add(total, round_up(mul(floats, sizeof(float)), kAlignment)); });
  return total;
}

Workspace::Workspace(std::shared_ptr<Memory> memory, const cf_model_config& config, bool with_logits)
    : buffer_(std::move(memory), bytes(config, with_logits)) {
  auto next = buffer_.as<std::byte>();
  each_array(config, with_logits, this, [&](float** array, uint64_t floats) {
    *array = reinterpret_cast<float*>(next);
    next += round_up(floats * sizeof(float), kAlignment);
  });
}

void Forward::norm(const float* x, int64_t rows, const float* weight, const float* bias, float* out) const {
  const int64_t h = config_.hidden_size;
  const float eps = static_cast<float>(config_.norm_eps);
  threads_.run(rows, [&](int64_t r) {
    if (config_.norm == CF_NORM_LAYER) kernels_.layer_norm(x + r * h, weight, bias, eps, h, out + r * h);
    else kernels_.rms_norm(x + r * h, weight, eps, h, out + r * h);
  });
}

void Forward::matmul(const float* x, int64_t rows, Matrix m, const float* bias, float* out, bool add) const {
  const MatmulArgs args{x, rows, m, bias, out, add};
  // Several tasks per thread even the load out; whole groups of 8 columns suit the kernels.
  const int64_t width = std::max<int64_t>(8, (m.rows / (threads_.threads() * 8) + 7) / 8 * 8);
  threads_.run((m.rows + width - 1) / width, [&](int64_t task) { kernels_.matmul(args, task * width, std::min(m.rows, (task + 1) * width)); });
}

void Forward::embed(const int32_t* tokens, int64_t rows, Workspace& w) const {
  const Matrix m = weights_.globals().matrix(Slot::kEmbedding);
  for (int64_t r = 0; r < rows; r++)
    to_float(static_cast<const std::byte*>(m.data) + size_t(tokens[r] * m.cols) * dtype_bytes(m.dtype), m.dtype, m.cols, w.hidden + r * m.cols);
}

void Forward::rotate_angles(const int64_t* positions, int64_t rows, Workspace& w) const {
  const int64_t half = config_.rotary_dim / 2;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < half; i++) {
      const float angle = static_cast<float>(positions[r]) * weights_.rope()[size_t(i)];
      w.cosine[r * half + i] = static_cast<float>(std::cos(double{angle}));
      w.sine[r * half + i] = static_cast<float>(std::sin(double{angle}));
    }
}

// Rotates Q and K of every row in place and writes K and V to their places in the cache.
void Forward::append_kv(const RowPlace* rows, int64_t n_rows, Workspace& w) const {
  const int64_t d = config_.head_dim, half = config_.rotary_dim / 2, q_heads = config_.n_heads, kv_heads = config_.n_kv_heads;
  threads_.run(n_rows, [&](int64_t r) {
    float* qkv = w.qkv + r * qkv_size(config_);
    const float *cosine = w.cosine + r * half, *sine = w.sine + r * half;
    for (int64_t head = 0; head < q_heads + kv_heads; head++) {  // K heads lie right behind the Q heads
      float *low = qkv + head * d, *high = low + half;
      for (int64_t i = 0; i < half; i++) {
        const float a = low[i], b = high[i];
        low[i] = a * cosine[i] - b * sine[i];
        high[i] = b * cosine[i] + a * sine[i];
      }
    }
    const KvView& kv = rows[r].kv;
    const int64_t page = rows[r].position / kv.page_tokens, token = rows[r].position % kv.page_tokens;
    const int64_t base = (kv.page_table ? kv.page_table[page] : 0) * kv.page_stride + token * kv.token_stride;
    for (int64_t g = 0; g < kv_heads; g++) {
      const uint64_t offset = uint64_t(base + g * kv.head_stride) * dtype_bytes(kv.dtype);
      from_float(qkv + (q_heads + g) * d, kv.dtype, d, static_cast<std::byte*>(kv.k) + offset);
      from_float(qkv + (q_heads + kv_heads + g) * d, kv.dtype, d, static_cast<std::byte*>(kv.v) + offset);
    }
  });
}

void Forward::attend(const RowPlace* rows, int64_t n_rows, Workspace& w) const {
  const int64_t d = config_.head_dim, heads = config_.n_heads, group = heads / config_.n_kv_heads;
  const float scale = static_cast<float>(1.0 / std::sqrt(double(d)));
  threads_.run(n_rows * heads, [&](int64_t task) {
    const int64_t r = task / heads, head = task % heads;
    kernels_.attend({w.qkv + r * qkv_size(config_) + head * d, rows[r].kv, head / group, rows[r].position + 1, d, scale, w.heads + task * d});
  });
}

// MLP-up with its activation: x [rows, H] -> w.activation.
void Forward::mlp_up(const SlotStorage& layer, const float* x, int64_t rows, Workspace& w) const {
  const int64_t inter = config_.intermediate_size, width = up_size(config_);
  matmul(x, rows, layer.matrix(Slot::kUpWeight), layer.vector(Slot::kUpBias), w.up, false);
  constexpr int64_t kPiece = 1024;  // values per task
  const int64_t pieces = (inter + kPiece - 1) / kPiece;
  threads_.run(rows * pieces, [&](int64_t task) {
    const int64_t r = task / pieces, first = task % pieces * kPiece, last = std::min(inter, first + kPiece);
    const float* in = w.up + r * width;
    kernels_.activate(config_.activation, in + first, in + inter + first, last - first, w.activation + r * inter + first);
  });
}

void Forward::attention_part(int32_t index, const RowPlace* rows, int64_t n_rows, Workspace& w, const Taps& taps) const {
  const SlotStorage& layer = weights_.layer(index);
  const int64_t h = config_.hidden_size;
  norm(w.hidden, n_rows, layer.vector(Slot::kAttentionNormWeight), layer.vector(Slot::kAttentionNormBias), w.normed);
  matmul(w.normed, n_rows, layer.matrix(Slot::kQkvWeight), layer.vector(Slot::kQkvBias), w.qkv, false);
  append_kv(rows, n_rows, w);
  attend(rows, n_rows, w);
  taps.apply(CF_TAP_ATTENTION_HEADS, index, w.heads, q_size(config_), n_rows);
  matmul(w.heads, n_rows, layer.matrix(Slot::kOWeight), layer.vector(Slot::kOBias), w.attention, false);
  const float* mlp_input = w.hidden;
  if (!config_.parallel_residual) {  // the MLP reads hidden + attention
    for (int64_t i = 0; i < n_rows * h; i++) w.normed[i] = w.hidden[i] + w.attention[i];
    mlp_input = w.normed;
  }
  norm(mlp_input, n_rows, layer.vector(Slot::kMlpNormWeight), layer.vector(Slot::kMlpNormBias), w.normed);
  mlp_up(layer, w.normed, n_rows, w);
  taps.apply(CF_TAP_MLP_ACTIVATION, index, w.activation, config_.intermediate_size, n_rows);
}

void Forward::mlp_down_part(int32_t index, int64_t n_rows, Workspace& w) const {
  const SlotStorage& layer = weights_.layer(index);
  for (int64_t i = 0; i < n_rows * config_.hidden_size; i++) w.hidden[i] += w.attention[i];
  matmul(w.activation, n_rows, layer.matrix(Slot::kDownWeight), layer.vector(Slot::kDownBias), w.hidden, true);
}

void Forward::block(int32_t layer, const RowPlace* rows, int64_t n_rows, Workspace& w, const Taps& taps) const {
  taps.apply(CF_TAP_BLOCK_INPUT, layer, w.hidden, config_.hidden_size, n_rows);
  attention_part(layer, rows, n_rows, w, taps);
  mlp_down_part(layer, n_rows, w);
  taps.apply(CF_TAP_BLOCK_OUTPUT, layer, w.hidden, config_.hidden_size, n_rows);
}

void Forward::head(int64_t first, int64_t n, Workspace& w) const {
  const SlotStorage& globals = weights_.globals();
  norm(w.hidden + first * config_.hidden_size, n, globals.vector(Slot::kFinalNormWeight), globals.vector(Slot::kFinalNormBias), w.normed);
  matmul(w.normed, n, weights_.head(), nullptr, w.logits, false);
}

}  // namespace cf
