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

}  // namespace cf::gpu
