// Matrix times vector, the work of every phase but attention: weights streamed past L1, the vector in shared memory, fp32 sums.
#pragma once

#include "contract.h"
#include "numbers.cuh"
#include "ptx.cuh"
#include "vector.cuh"

namespace cf::gpu {

// A row is cut into slices of at most kSliceSteps steps; a step is one chunk for each lane of a warp. The cuts follow from the
// length of the row alone, and so does the order in which products are added.
constexpr int kSliceSteps = 8;

struct RowCuts {
  int chunks, slices;
  int steps, longer;  // slices have this many steps, the first `longer` of them one more

  __device__ explicit RowCuts(const Matrix& m) : chunks(m.row_chunks) {
    const int all_steps = (chunks + kWarpLanes - 1) / kWarpLanes;
    slices = (all_steps + kSliceSteps - 1) / kSliceSteps, steps = all_steps / slices, longer = all_steps % slices;
  }
  __device__ int first_chunk(int slice) const { return (slice * steps + min(slice, longer)) * kWarpLanes; }
};

// One slice of a row, a warp's share of work: all of its weights are asked for before any is used.
struct Slice {
  uint4 weights[kSliceSteps];
  int first, end;  // chunk of this lane in the first step; end of the slice

  // `wanted` false: there is no such slice. Still everything gets a value: registers that may hold none would be kept for ever.
  __device__ void load(const Matrix& m, const RowCuts& cuts, int64_t row, int slice, bool wanted) {
    first = cuts.first_chunk(slice) + static_cast<int>(threadIdx.x) % kWarpLanes;
    end = wanted ? min(cuts.first_chunk(slice + 1), cuts.chunks) : 0;
    const uint4* chunks = static_cast<const uint4*>(m.data) + row * m.row_chunks;
#pragma unroll
    for (int step = 0; step < kSliceSteps; step++) {
      const int chunk = first + step * kWarpLanes;
      weights[step] = ptx::load_streamed(chunks + chunk, chunk < end);
    }
  }

  // The sum of the slice's products, the same in every lane.
  template <class Weight>
  __device__ float multiply(const SharedVector& x) const {
    float sums[4] = {};  // four chains, so that none waits for another
#pragma unroll
    for (int step = 0; step < kSliceSteps; step++) {
      const int chunk = min(first + step * kWarpLanes, end - 1);  // beyond the end the weights are zeros
      const uint32_t pairs[4] = {weights[step].x, weights[step].y, weights[step].z, weights[step].w};
      const float4 lo = x.lo[chunk], hi = x.hi[chunk];
      const float values[8] = {lo.x, lo.y, lo.z, lo.w, hi.x, hi.y, hi.z, hi.w};
      float& sum = sums[step % 4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 w = Weight::unpack(pairs[i]);
        sum = fmaf(w.x, values[2 * i], sum);
        sum = fmaf(w.y, values[2 * i + 1], sum);
      }
    }
    return warp_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
};

// shared.sums[task] for tasks 0 .. n_tasks: task (j * kParts + part) * slices + slice is a slice of row first_output + j * gridDim.x
// + part * n_outputs. A warp asks for its next slice before it adds up the present one.
template <class Weight, int kParts>
__device__ void multiply_slices(const Matrix m, const RowCuts cuts, const SharedVector x, BlockShared& shared, int first_output, int n_outputs,
                                int n_tasks) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes;
  const int n_ctas = static_cast<int>(gridDim.x), rows_ahead = kBlockWarps / cuts.slices, slices_ahead = kBlockWarps % cuts.slices;
  int row = warp / cuts.slices, slice_of_row = warp % cuts.slices;  // of the task that comes next; row is j * kParts + part
  auto load = [&](Slice& slice, bool wanted) {
    slice.load(m, cuts, static_cast<int64_t>(first_output + row / kParts * n_ctas) + row % kParts * n_outputs, slice_of_row, wanted);
    row += rows_ahead, slice_of_row += slices_ahead;
    if (slice_of_row >= cuts.slices) slice_of_row -= cuts.slices, row++;
  };
  Slice slice;
  load(slice, warp < n_tasks);
#pragma unroll 1
  for (int task = warp; task < n_tasks; task += kBlockWarps) {
    Slice next;
    load(next, task + kBlockWarps < n_tasks);
    const float sum = slice.multiply<Weight>(x);
    if (threadIdx.x % kWarpLanes == 0) shared.sums[task] = sum;
    slice = next;
  }
}

// finish(i, sums) once for each output i of this CTA (blockIdx.x, blockIdx.x + gridDim.x, ...), sums[part] being the product of
// row i + part * n_outputs with x. x must be visible to the whole CTA; on return x and shared.sums may be overwritten.
template <int kParts, class Finish>
__device__ void multiply(const Matrix m, int n_outputs, const SharedVector x, BlockShared& shared, Finish finish) {
  const RowCuts cuts(m);
  const int cta = static_cast<int>(blockIdx.x), n_ctas = static_cast<int>(gridDim.x);
  const int mine = cta < n_outputs ? (n_outputs - cta - 1) / n_ctas + 1 : 0;
  const int at_once = kPartialSums / (kParts * cuts.slices);
  for (int first = 0; first < mine; first += at_once) {
    const int count = min(at_once, mine - first), first_output = cta + first * n_ctas, n_tasks = count * kParts * cuts.slices;
    if (m.dtype == CF_DTYPE_F16) multiply_slices<F16, kParts>(m, cuts, x, shared, first_output, n_outputs, n_tasks);
    else multiply_slices<Bf16, kParts>(m, cuts, x, shared, first_output, n_outputs, n_tasks);
    __syncthreads();
#pragma unroll 1
    for (int j = threadIdx.x; j < count; j += kBlockThreads) {
      float sums[kParts];
#pragma unroll
      for (int part = 0; part < kParts; part++) {
        sums[part] = 0;
        for (int slice = 0; slice < cuts.slices; slice++) sums[part] += shared.sums[(j * kParts + part) * cuts.slices + slice];
      }
      finish(first_output + j * n_ctas, sums);
    }
    __syncthreads();
  }
}

}  // namespace cf::gpu
