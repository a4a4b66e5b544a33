// The forward pass on the CPU: one transformer block over some rows, and the head.
#pragma once

#include <cstdint>

#include "cpu/cpu_weights.h"
#include "cpu/kernels.h"
#include "cpu/taps.h"
#include "host_session.h"
#include "thread_pool.h"

namespace cf {

constexpr int64_t kHeadRows = 8;  // the most rows that go through the LM head together

// Where a row stands and where its layer's K and V are.
struct RowPlace {
  int64_t position;
  KvView kv;
};

// Activations of up to kPieceRows rows, row-major in float.
struct Workspace {
  Workspace(std::shared_ptr<Memory> memory, const cf_model_config& config, bool with_logits);
  static uint64_t bytes(const cf_model_config& config, bool with_logits);

  float* hidden;      // [rows, H] residual stream
  float* normed;      // [rows, H]
  float* qkv;         // [rows, (A + 2 G) D]
  float* heads;       // [rows, A D] attention output of each head
  float* attention;   // [rows, H] after O
  float* up;          // [rows, I or 2 I]
  float* activation;  // [rows, I] input of MLP-down
  float* cosine;      // [rows, rotary_dim / 2]
  float* sine;        // [rows, rotary_dim / 2]
  float* logits;      // [kHeadRows, V]

 private:
  Buffer buffer_;
};

class Forward {
 public:
  Forward(const cf_model_config& config, const CpuWeights& weights, const Kernels& kernels, ThreadPool& threads)
      : config_(config), weights_(weights), kernels_(kernels), threads_(threads) {}

  void embed(const int32_t* tokens, int64_t rows, Workspace& w) const;             // tokens -> hidden
  void rotate_angles(const int64_t* positions, int64_t rows, Workspace& w) const;  // -> cosine, sine; once per piece
  // hidden -> hidden, appending K and V of each row at its place. Rows of one sequence lie in order of position.
  void block(int32_t layer, const RowPlace* rows, int64_t n_rows, Workspace& w, const Taps& taps) const;
  // Its parts, for the block-level calls: hidden -> attention, activation; hidden, attention, activation -> hidden.
  void attention_part(int32_t layer, const RowPlace* rows, int64_t n_rows, Workspace& w, const Taps& taps) const;
  void mlp_down_part(int32_t layer, int64_t n_rows, Workspace& w) const;
  // Logits of rows first .. first + n - 1 (n <= kHeadRows) of hidden, which keeps its values.
  void head(int64_t first, int64_t n, Workspace& w) const;

 private:
  void norm(const float* x, int64_t rows, const float* weight, const float* bias, float* out) const;
  void matmul(const float* x, int64_t rows, Matrix m, const float* bias, float* out, bool add) const;
  void mlp_up(const SlotStorage& layer, const float* x, int64_t rows, Workspace& w) const;
  void append_kv(const RowPlace* rows, int64_t n_rows, Workspace& w) const;
  void attend(const RowPlace* rows, int64_t n_rows, Workspace& w) const;

  const cf_model_config& config_;
  const CpuWeights& weights_;
  const Kernels& kernels_;
  ThreadPool& threads_;
};

}  // namespace cf
