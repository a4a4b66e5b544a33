#include "sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "error.h"
#include "philox.h"
#include "structs.h"

namespace cf {

namespace {
constexpr float kBanned = -std::numeric_limits<float>::infinity();
constexpr double kMaxNoise = 22.9;  // -log(-log(1 - 2^-33)) = 22.87

void check_token(int32_t token, int64_t vocab_size, const char* what) {
  if (token < 0 || token >= vocab_size) fail(CF_ERROR_INVALID_ARGUMENT, what, " ", token, " is outside the vocabulary of ", vocab_size);
}

// Only a ban is infinite: what overflows stays the least or the most likely.
float finite(float logit) { return std::clamp(logit, -std::numeric_limits<float>::max(), std::numeric_limits<float>::max()); }

// Standard Gumbel noise for one token at one position.
double gumbel(uint64_t seed, int64_t position, int32_t token) {
  const auto words =
      philox4x32({uint32_t(token / 4), uint32_t(position), uint32_t(uint64_t(position) >> 32), 0}, {uint32_t(seed), uint32_t(seed >> 32)});
  const double uniform = (words[size_t(token % 4)] + 0.5) * 0x1p-32;
  return -std::log(-std::log(uniform));
}
}  // namespace

Sampler::Sampler(const cf_sampler_options& o, int64_t vocab_size) {
  if (!(o.temperature >= 0 && o.temperature <= 100)) fail(CF_ERROR_INVALID_ARGUMENT, "temperature is ", o.temperature, ", expected 0 to 100");
  if (o.top_k < 0) fail(CF_ERROR_INVALID_ARGUMENT, "top_k is ", o.top_k, ", expected 0 (off) or more");
  if (!(o.top_p > 0 && o.top_p <= 1)) fail(CF_ERROR_INVALID_ARGUMENT, "top_p is ", o.top_p, ", expected more than 0, at most 1 (off)");
  if (!(o.min_p >= 0 && o.min_p <= 1)) fail(CF_ERROR_INVALID_ARGUMENT, "min_p is ", o.min_p, ", expected 0 (off) to 1");
  if (!(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty)))
    fail(CF_ERROR_INVALID_ARGUMENT, "repetition_penalty is ", o.repetition_penalty, ", expected a positive number (1: off)");
  if (o.n_logit_biases && (!o.logit_bias_tokens || !o.logit_bias_values))
    fail(CF_ERROR_INVALID_ARGUMENT, "logit_bias_tokens or logit_bias_values is NULL");
  if (o.n_stop_tokens && !o.stop_tokens) fail(CF_ERROR_INVALID_ARGUMENT, "stop_tokens is NULL");
  if (o.n_logit_biases > size_t(vocab_size))
    fail(CF_ERROR_INVALID_ARGUMENT, "n_logit_biases is ", o.n_logit_biases, ", more than the vocabulary has tokens");
  std::vector<bool> biased(size_t(o.n_logit_biases ? vocab_size : 0));
  for (size_t i = 0; i < o.n_logit_biases; i++) {
    const int32_t token = o.logit_bias_tokens[i];
    const float value = o.logit_bias_values[i];
    check_token(token, vocab_size, "logit_bias_tokens:");
    if (std::isnan(value) || value == -kBanned) fail(CF_ERROR_INVALID_ARGUMENT, "the logit bias of token ", token, " is NaN or +infinity");
    if (biased[size_t(token)]) fail(CF_ERROR_INVALID_ARGUMENT, "logit_bias_tokens has token ", token, " twice");
    biased[size_t(token)] = true;
    bias_tokens_.push_back(token);
    bias_values_.push_back(value);
  }
  if (o.n_stop_tokens > size_t(vocab_size))
    fail(CF_ERROR_INVALID_ARGUMENT, "n_stop_tokens is ", o.n_stop_tokens, ", more than the vocabulary has tokens");
  for (size_t i = 0; i < o.n_stop_tokens; i++) {
    check_token(o.stop_tokens[i], vocab_size, "stop_tokens:");
    stops_.push_back(o.stop_tokens[i]);
  }
  temperature_ = o.temperature, top_k_ = o.top_k, top_p_ = o.top_p, min_p_ = o.min_p, repetition_penalty_ = o.repetition_penalty, seed_ = o.seed;
}

cf_sampler_options Sampler::options() const {
  cf_sampler_options o = defaults<cf_sampler_options>();
  o.temperature = temperature_, o.top_k = top_k_, o.top_p = top_p_, o.min_p = min_p_, o.repetition_penalty = repetition_penalty_, o.seed = seed_;
  o.n_logit_biases = bias_tokens_.size(), o.logit_bias_tokens = bias_tokens_.data(), o.logit_bias_values = bias_values_.data();
  o.n_stop_tokens = stops_.size(), o.stop_tokens = stops_.data();
  return o;
}

void Sampler::set_allowed(const uint32_t* mask, size_t n_words, int64_t vocab_size) {
  if (!mask) {
    if (n_words) fail(CF_ERROR_INVALID_ARGUMENT, "mask is NULL but n_words is ", n_words);
    allowed_.clear();
    return;
  }
  const size_t expected = size_t(vocab_size + 31) / 32;
  if (n_words != expected) fail(CF_ERROR_INVALID_ARGUMENT, "n_words is ", n_words, ", expected ", expected, " for a vocabulary of ", vocab_size);
  std::vector<uint32_t> words(mask, mask + n_words);
  if (vocab_size % 32) words.back() &= (1u << vocab_size % 32) - 1;
  if (std::all_of(words.begin(), words.end(), [](uint32_t w) { return w == 0; })) fail(CF_ERROR_INVALID_ARGUMENT, "the mask allows no token");
  allowed_ = std::move(words);
}

bool Sampler::is_stop(int32_t token) const { return std::find(stops_.begin(), stops_.end(), token) != stops_.end(); }

// Penalty, biases, mask.
void Sampler::adjust(const int32_t* history, int64_t n_history, std::vector<float>& logits) const {
  if (repetition_penalty_ != 1) {
    std::vector<bool> seen(logits.size());
    for (int64_t i = 0; i < n_history; i++) {
      const size_t token = size_t(history[i]);
      if (seen[token]) continue;
      seen[token] = true;
      logits[token] = finite(logits[token] < 0 ? logits[token] * repetition_penalty_ : logits[token] / repetition_penalty_);
    }
  }
  for (size_t i = 0; i < bias_tokens_.size(); i++) {
    float& logit = logits[size_t(bias_tokens_[i])];
    logit = bias_values_[i] == kBanned ? kBanned : finite(logit + bias_values_[i]);
  }
  if (!allowed_.empty())
    for (size_t token = 0; token < logits.size(); token++)
      if (!(allowed_[token / 32] >> token % 32 & 1)) logits[token] = kBanned;
}

// top-k, top-p, min-p: leaves the candidates that survive.
void Sampler::keep_likely(const std::vector<float>& scaled, std::vector<int32_t>& candidates) const {
  auto value = [&](int32_t token) { return scaled[size_t(token)]; };
  auto keep = [&](auto condition) {
    candidates.erase(std::remove_if(candidates.begin(), candidates.end(), [&](int32_t t) { return !condition(t); }), candidates.end());
  };
  if (top_k_ > 0 && size_t(top_k_) < candidates.size()) {
    std::vector<float> values;
    values.reserve(candidates.size());
    for (int32_t token : candidates) values.push_back(value(token));
    std::nth_element(values.begin(), values.begin() + (top_k_ - 1), values.end(), std::greater<>());
    const float least = values[size_t(top_k_ - 1)];  // ties with the k-th stay, as in transformers
    keep([&](int32_t t) { return value(t) >= least; });
  }
  float most = kBanned;
  for (int32_t token : candidates) most = std::max(most, value(token));
  if (top_p_ < 1) {
    double sum = 0;
    for (int32_t token : candidates) sum += std::exp(double(value(token)) - most);
    // Tokens below (1 - p) / n of the mass cannot matter: all of them together weigh less than what may be left out.
    const double negligible = sum * (1 - double(top_p_)) / double(candidates.size());
    keep([&](int32_t t) { return std::exp(double(value(t)) - most) >= negligible; });
    std::sort(candidates.begin(), candidates.end(), [&](int32_t a, int32_t b) { return value(a) != value(b) ? value(a) > value(b) : a < b; });
    size_t kept = 0;
    for (double mass = 0; kept < candidates.size() && mass < sum * top_p_; kept++) mass += std::exp(double(value(candidates[kept])) - most);
    candidates.resize(kept);
  }
  if (min_p_ > 0) keep([&](int32_t t) { return std::exp(double(value(t)) - most) >= min_p_; });
}

// Gumbel-max: argmax of scaled logit plus noise. Candidates that no noise could lift to the best are not given any.
int32_t Sampler::draw(const std::vector<float>& scaled, const std::vector<int32_t>& candidates, int64_t position) const {
  double best_score = -std::numeric_limits<double>::infinity();
  int32_t best = -1;
  for (int32_t token : candidates) {
    const double logit = scaled[size_t(token)];
    if (logit + kMaxNoise < best_score) continue;
    const double score = logit + gumbel(seed_, position, token);
    if (score > best_score || (score == best_score && token < best)) best_score = score, best = token;
  }
  return best;
}

int32_t Sampler::sample(const float* logits, int64_t vocab_size, const int32_t* history, int64_t n_history, int64_t position, Work& work) const {
  if (takes_likeliest()) return likeliest(logits, vocab_size);
  work.logits.assign(logits, logits + vocab_size);
  adjust(history, n_history, work.logits);
  const auto most = std::max_element(work.logits.begin(), work.logits.end());  // the first of equals
  if (*most == kBanned) fail(CF_ERROR_NO_TOKEN_ALLOWED, "mask and biases leave no token at position ", position);
  // Divided by a temperature so low that the likeliest overflows, logits differ by more than any noise.
  if (temperature_ == 0 || !std::isfinite(*most / temperature_)) return int32_t(most - work.logits.begin());
  work.candidates.clear();
  for (int64_t token = 0; token < vocab_size; token++) {
    float& logit = work.logits[size_t(token)];
    if (logit == kBanned) continue;
    logit /= temperature_;
    work.candidates.push_back(int32_t(token));
  }
  keep_likely(work.logits, work.candidates);
  return draw(work.logits, work.candidates, position);
}

int32_t likeliest(const float* logits, int64_t vocab_size) {
  constexpr int64_t kLanes = 16, kBlock = 32 * kLanes;  // lanes that do not wait for one another
  float most = -std::numeric_limits<float>::infinity();
  int64_t found = 0;
  for (int64_t first = 0; first < vocab_size; first += kBlock) {
    const int64_t end = std::min(first + kBlock, vocab_size), whole = first + (end - first) / kLanes * kLanes;
    float of_lane[kLanes];
    std::fill_n(of_lane, kLanes, most);
    for (int64_t token = first; token < whole; token += kLanes)
      for (int64_t lane = 0; lane < kLanes; lane++) of_lane[lane] = logits[token + lane] > of_lane[lane] ? logits[token + lane] : of_lane[lane];
    float of_block = *std::max_element(of_lane, of_lane + kLanes);
    for (int64_t token = whole; token < end; token++) of_block = std::max(of_block, logits[token]);
    if (of_block > most) most = of_block, found = first;
  }
  while (logits[found] != most) found++;
  return int32_t(found);
}

void check_finite(const float* logits, int64_t vocab_size, int64_t position) {
  int32_t any = 0;  // of whole numbers, so that the loop is vectorised
  for (int64_t token = 0; token < vocab_size; token++) any |= (std::bit_cast<int32_t>(logits[token]) & 0x7fffffff) > 0x7f7fffff;
  if (!any) return;
  const int64_t token = std::find_if(logits, logits + vocab_size, [](float logit) { return !std::isfinite(logit); }) - logits;
  fail(CF_ERROR_NONFINITE_LOGITS, "the logit of token ", token, " for position ", position, " is not finite");
}

double log_sum_exp(const float* logits, int64_t vocab_size) {
  const double most = *std::max_element(logits, logits + vocab_size);
  double sum = 0;
  for (int64_t token = 0; token < vocab_size; token++) sum += std::exp(logits[token] - most);
  return most + std::log(sum);
}

void top_tokens(const float* logits, int64_t vocab_size, int32_t n, int32_t* tokens, std::vector<int32_t>& work) {
  work.resize(size_t(vocab_size));
  std::iota(work.begin(), work.end(), 0);
  std::partial_sort(work.begin(), work.begin() + n, work.end(),
                    [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  std::copy_n(work.begin(), n, tokens);
}

}  // namespace cf
