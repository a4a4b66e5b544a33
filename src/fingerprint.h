// A 64-bit fingerprint of a model: its configuration and a fixed sample of every tensor, as stored in the checkpoint.
#pragma once

#include <cstdint>
#include <vector>

#include "clusterfusion.h"
#include "tensor.h"

namespace cf {

// FNV-1a over 64-bit words with a final mix: quick, the same everywhere, not meant against an adversary.
class Fingerprint {
 public:
  void add(uint64_t word) { state_ = (state_ ^ word) * 0x100000001b3u, state_ ^= state_ >> 29; }
  void add(const void* data, size_t bytes);
  uint64_t value() const { return state_ | (state_ == 0); }  // never 0

 private:
  uint64_t state_ = 0xcbf29ce484222325u;
};

// `read` copies rows of a tensor to host memory (Tensor may live on a device).
using RowReader = void (*)(const Tensor& tensor, int64_t first, int64_t count, void* dst);

void add_config(Fingerprint& fingerprint, const cf_model_config& config);  // what decides results: not the context or special tokens
bool same_config(const cf_model_config& a, const cf_model_config& b);      // in every field
// Independent of the order of the tensors. Samples at most 16 rows of each.
uint64_t fingerprint_tensors(const std::vector<Tensor>& tensors, RowReader read);

}  // namespace cf
