// The CPU backend's inner loops, one table of functions per instruction set.
//
// Every result is computed by one thread in an order that depends on the instruction set and on the sizes alone: not on how
// many rows are worked on together, how work is split over threads, or where pages lie.
#pragma once

#include <cstdint>

#include "clusterfusion.h"
#include "kv_pool.h"

namespace cf {

struct Matrix {
  const void* data;  // [rows, cols], dense
  cf_dtype dtype;    // F32, F16, BF16
  int64_t rows, cols;
};

// out[r, n] (+)= sum over k of x[r, k] * w[n, k], + bias[n]
struct MatmulArgs {
  const float* x;  // [n_rows, w.cols]
  int64_t n_rows;
  Matrix w;
  const float* bias;  // [w.rows] or NULL
  float* out;         // [n_rows, w.rows]
  bool add;           // to what out holds
};

struct AttendArgs {
  const float* q;  // [D], after RoPE
  KvView kv;
  int64_t kv_head;
  int64_t length;  // positions to attend to: 0 .. length - 1
  int64_t head_dim;
  float scale;
  float* out;  // [D]
};

struct Kernels {
  cf_cpu_isa isa;
  void (*matmul)(const MatmulArgs& args, int64_t first, int64_t last);  // columns first .. last - 1 of out
  void (*attend)(const AttendArgs& args);
  // LayerNorm (bias not NULL) or RMSNorm of one row of n values. Variance in two passes.
  // out may be x.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t n, float* out);
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  // n values of the MLP's activation function; SwiGLU: silu(x) * other.
  void (*activate)(cf_activation kind, const float* x, const float* other, int64_t n, float* out);
};

// The table for `isa` (AUTO: the best this machine has), or NULL if the machine lacks it.
const Kernels* find_kernels(cf_cpu_isa isa);

}  // namespace cf
