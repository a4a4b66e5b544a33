// Rotary position embedding: the angles. Su et al., RoFormer (2021); "llama3" scaling as in transformers' modeling_rope_utils.
#pragma once

#include <vector>

#include "clusterfusion.h"

namespace cf {

// rotary_dim / 2 angles per position, in float as transformers has them: the angle at position p is the float product
// p * frequency, so errors at far positions agree with the reference's.
std::vector<float> rope_frequencies(const cf_model_config& config);

}  // namespace cf
