// Activation taps on the CPU: what a step copies out of, or overwrites in, the residual stream and the inside of a block.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "clusterfusion.h"

namespace cf {

// A step's taps, and for each row at hand its place among the step's rows.
struct Taps {
  const std::vector<cf_tap>* list = nullptr;  // NULL: none
  const int64_t* rows = nullptr;

  // values: [n_rows, width]
  void apply(cf_tap_point point, int32_t layer, float* values, int64_t width, int64_t n_rows) const {
    if (!list) return;
    for (const cf_tap& tap : *list) {
      if (tap.point != point || tap.layer != layer) continue;
      for (int64_t r = 0; r < n_rows; r++) {
        float *mine = values + r * width, *callers = tap.data + rows[r] * width;
        if (tap.action == CF_TAP_READ) std::copy_n(mine, width, callers);
        else std::copy_n(callers, width, mine);
      }
    }
  }
};

}  // namespace cf
