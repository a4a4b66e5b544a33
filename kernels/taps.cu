// What callers see of a block from the inside, or put there (cf_tap): between launches, when nothing else reads or writes the rows.
#include "numbers.cuh"
#include "prefill_contract.h"

namespace cf::gpu {
namespace {

// Bytes before an element of a row.
__device__ int64_t place_of(const TapParams& p, int row, int column) {
  const int group = row / kGroupRows, in_group = row % kGroupRows, octet = column / 8, in_octet = column % 8;
  switch (p.form) {
    case TapForm::kBlocks: return (block_offset(group, octet, p.columns / 8) + in_octet * kGroupRows + in_group) * 4;
    case TapForm::kPanels: return panel_offset(group, octet, p.groups) + (in_group * 8 + in_octet) * 2;
    default: {
      const int64_t word = row * words_of(p.columns) + column / kTileRows * kWordsPerStrip + column % kTileRows / 3;
      return word * 16 + column % kTileRows % 3 * 4;
    }
  }
}

__global__ void __launch_bounds__(kTapThreads) tap(const __grid_constant__ TapParams p) {
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kTapThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kTapThreads + threadIdx.x; i < static_cast<int64_t>(p.n_rows) * p.columns; i += threads) {
    const int row = p.first_row + static_cast<int>(i / p.columns), column = static_cast<int>(i % p.columns);
    void* const at = static_cast<char*>(p.rows) + place_of(p, row, column);
    if (p.form == TapForm::kActivationWords) {  // what the value rounds to, and the rest
      if (p.writes) {
        store_element(at, p.dtype, 0, p.data[i]);
        store_element(at, p.dtype, 1, p.data[i] - load_element(at, p.dtype, 0));
      } else {
        p.data[i] = load_element(at, p.dtype, 0) + load_element(at, p.dtype, 1);
      }
    } else {
      const cf_dtype dtype = p.form == TapForm::kPanels ? p.dtype : static_cast<cf_dtype>(CF_DTYPE_F32);
      if (p.writes) store_element(at, dtype, 0, p.data[i]);
      else p.data[i] = load_element(at, dtype, 0);
    }
  }
}

}  // namespace

const void* tap_kernel() { return reinterpret_cast<const void*>(tap); }

}  // namespace cf::gpu
