#include "fingerprint.h"

#include <algorithm>
#include <cstring>

namespace cf {

void Fingerprint::add(const void* data, size_t bytes) {
  auto p = static_cast<const unsigned char*>(data);
  for (; bytes >= 8; p += 8, bytes -= 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    add(word);
  }
  uint64_t tail = bytes;
  for (; bytes; bytes--) tail = tail << 8 | *p++;
  add(tail);
}

void add_config(Fingerprint& f, const cf_model_config& c) {
  for (int64_t v :
       {c.family, c.norm, c.activation, c.parallel_residual, c.attention_bias, c.mlp_bias, c.tied_embeddings, c.n_layers, c.hidden_size, c.n_heads,
        c.n_kv_heads, c.head_dim, c.rotary_dim, c.intermediate_size, c.vocab_size, c.rope_scaling, c.rope_original_max_position})
    f.add(static_cast<uint64_t>(v));
  for (double v : {c.norm_eps, c.rope_theta, c.rope_factor, c.rope_low_freq_factor, c.rope_high_freq_factor}) f.add(&v, sizeof v);
}

bool same_config(const cf_model_config& a, const cf_model_config& b) {
  Fingerprint of_a, of_b;
  add_config(of_a, a);
  add_config(of_b, b);
  return of_a.value() == of_b.value() && a.max_position_embeddings == b.max_position_embeddings && a.bos_token == b.bos_token &&
         a.n_eos_tokens == b.n_eos_tokens && std::equal(a.eos_tokens, a.eos_tokens + a.n_eos_tokens, b.eos_tokens);
}

uint64_t fingerprint_tensors(const std::vector<Tensor>& tensors, RowReader read) {
  constexpr int64_t kSamples = 16;
  uint64_t sum = 0;  // of the tensors' own fingerprints: order does not matter
  std::vector<unsigned char> row;
  for (const Tensor& t : tensors) {
    Fingerprint f;
    f.add(static_cast<uint64_t>(t.role) << 32 | static_cast<uint64_t>(t.dtype));
    const int64_t per_sample = t.cols == 1 ? t.rows : 1;  // a vector is taken whole
    row.resize(static_cast<size_t>(per_sample * t.cols) * dtype_bytes(t.dtype));
    const int64_t samples = t.cols == 1 ? 1 : std::min(kSamples, t.rows);
    for (int64_t i = 0; i < samples; i++) {
      read(t, t.cols == 1 ? 0 : i * (t.rows - 1) / std::max<int64_t>(samples - 1, 1), per_sample, row.data());
      f.add(row.data(), row.size());
    }
    sum += f.value();
  }
  return sum;
}

}  // namespace cf
