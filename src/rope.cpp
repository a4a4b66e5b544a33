#include "rope.h"

#include <cmath>
#include <numbers>

namespace cf {

std::vector<float> rope_frequencies(const cf_model_config& c) {
  std::vector<float> frequencies(static_cast<size_t>(c.rotary_dim / 2));
  for (size_t i = 0; i < frequencies.size(); i++) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(c.rotary_dim);
    frequencies[i] = 1.0f / std::pow(static_cast<float>(c.rope_theta), exponent);
  }
  if (c.rope_scaling != CF_ROPE_SCALING_LLAMA3) return frequencies;
  const double original = c.rope_original_max_position;
  const double low_wavelength = original / c.rope_low_freq_factor, high_wavelength = original / c.rope_high_freq_factor;
  for (float& f : frequencies) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < high_wavelength) continue;  // turns often: unchanged
    const double slow = f / c.rope_factor;
    if (wavelength > low_wavelength) {
      f = static_cast<float>(slow);
    } else {
      const double smooth = (original / wavelength - c.rope_low_freq_factor) / (c.rope_high_freq_factor - c.rope_low_freq_factor);
      f = static_cast<float>((1 - smooth) * slow + smooth * f);
    }
  }
  return frequencies;
}

}  // namespace cf
