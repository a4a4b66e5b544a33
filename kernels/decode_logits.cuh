// What a sequence's sampler makes of a logit before a token is chosen, as src/sampler.cpp has it.
#pragma once

#include "decode_shared.cuh"

namespace cf::gpu {

// ---- The sampler's arrays, behind the sequence

__device__ inline const float* logit_biases() { return reinterpret_cast<const float*>(shared().params.sequence + 1); }
__device__ inline uint32_t* token_bits(int array) {
  const DecodeParams& p = shared().params;
  return reinterpret_cast<uint32_t*>(p.sequence + 1) + p.vocab_size + array * vocabulary_bits(p.vocab_size);
}
__device__ inline uint32_t* allowed_tokens() { return token_bits(0); }
__device__ inline uint32_t* stop_tokens() { return token_bits(1); }
__device__ inline uint32_t* seen_tokens() { return token_bits(2); }
__device__ inline bool has_bit(const uint32_t* bits, int token) { return bits[token / 32] >> (token & 31) & 1; }

constexpr float kMostFinite = 3.40282347e38f;
__device__ inline float finite_logit(float logit) { return fminf(fmaxf(logit, -kMostFinite), kMostFinite); }

// Penalty, bias, mask: -infinity for a token that is banned.
__device__ __noinline__ inline float adjusted_logit(float logit, int token) {
  const DecodeShared& s = shared();
  const DecodeSampler& sampler = s.sequence.sampler;
  if (sampler.repetition_penalty != 1.0f) {
    bool seen = has_bit(seen_tokens(), token);
    for (int i = 0; i <= s.step; i++) seen |= s.recent[i] == token;
    if (seen) logit = finite_logit(logit < 0 ? logit * sampler.repetition_penalty : logit / sampler.repetition_penalty);
  }
  if (sampler.biased) {
    const float bias = logit_biases()[token];
    if (bias == -INFINITY) return bias;
    if (bias != 0) logit = finite_logit(logit + bias);
  }
  return sampler.masked && !has_bit(allowed_tokens(), token) ? -INFINITY : logit;
}

}  // namespace cf::gpu
