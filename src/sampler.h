// From logits to a token, in the order and with the rule that cf_sampler_options documents.
#pragma once

#include <cstdint>
#include <vector>

#include "clusterfusion.h"

namespace cf {

// The options with their arrays, copied and checked.
class Sampler {
 public:
  Sampler() = default;                                             // greedy
  Sampler(const cf_sampler_options& options, int64_t vocab_size);  // throws CF_ERROR_INVALID_ARGUMENT

  void set_allowed(const uint32_t* mask, size_t n_words, int64_t vocab_size);  // NULL: all
  void copy_allowed(const Sampler& other) { allowed_ = other.allowed_; }
  cf_sampler_options options() const;                                // what it was made with; the arrays are this object's
  const std::vector<uint32_t>& allowed() const { return allowed_; }  // empty: all
  bool is_stop(int32_t token) const;
  bool takes_likeliest() const {
    return temperature_ == 0 && repetition_penalty_ == 1 && bias_tokens_.empty() && allowed_.empty();
  }  // whatever the history

  // One position's logits [V], which passed check_finite, and the tokens before it. `work` is scratch that keeps its
  // capacity between calls. Throws CF_ERROR_NO_TOKEN_ALLOWED.
  struct Work {
    std::vector<float> logits;
    std::vector<int32_t> candidates;
  };
  int32_t sample(const float* logits, int64_t vocab_size, const int32_t* history, int64_t n_history, int64_t position, Work& work) const;

 private:
  void adjust(const int32_t* history, int64_t n_history, std::vector<float>& logits) const;
  void keep_likely(const std::vector<float>& scaled, std::vector<int32_t>& candidates) const;
  int32_t draw(const std::vector<float>& scaled, const std::vector<int32_t>& candidates, int64_t position) const;

  float temperature_ = 0, top_p_ = 1, min_p_ = 0, repetition_penalty_ = 1;
  int32_t top_k_ = 0;
  uint64_t seed_ = 0;
  std::vector<int32_t> bias_tokens_;
  std::vector<float> bias_values_;
  std::vector<int32_t> stops_;
  std::vector<uint32_t> allowed_;  // empty: all
};

// The token of the highest logit, the lowest of equals; of logits that passed check_finite.
int32_t likeliest(const float* logits, int64_t vocab_size);

// Throws CF_ERROR_NONFINITE_LOGITS.
void check_finite(const float* logits, int64_t vocab_size, int64_t position);

// log(sum(exp(logits))), and the n most likely tokens, ties to the lowest.
double log_sum_exp(const float* logits, int64_t vocab_size);
void top_tokens(const float* logits, int64_t vocab_size, int32_t n, int32_t* tokens, std::vector<int32_t>& work);

}  // namespace cf
