// Rotary position embedding: dimension i turns with i + rotary_dim / 2, for i in the first half of the leading rotary_dim.
#pragma once

#include "contract.h"

namespace cf::gpu {

// Sine and cosine of an fp32 angle of any size, to about 2e-7. The quotient by pi is reduced in double precision, which keeps
// all digits that an fp32 angle has and, unlike sincosf, needs no table in local memory.
__device__ inline void sine_and_cosine(float angle, float* sine, float* cosine) {
  double half_turns = static_cast<double>(angle) * 0.31830988618379067154;
  half_turns -= 2.0 * rint(0.5 * half_turns);
  sincospif(static_cast<float>(half_turns), sine, cosine);
}

// Element d of a head's vector, turned for `position`. Angle as transformers has it: the fp32 product.
__device__ inline float rotated(const float* head, int d, const BlockShape& shape, int position) {
  if (d >= shape.rotary_dim) return head[d];
  const int half = shape.rotary_dim / 2, pair = d < half ? d : d - half;
  float sine, cosine;
  sine_and_cosine(shape.inv_freq[pair] * static_cast<float>(position), &sine, &cosine);
  return d < half ? head[d] * cosine - head[d + half] * sine : head[d] * cosine + head[d - half] * sine;
}

}  // namespace cf::gpu
