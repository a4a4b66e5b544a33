// Matrix times vector, the work of every phase but attention: weights streamed past L1, the vector in shared memory, fp32 sums.
#pragma once

#include "contract.h"
#include "numbers.cuh"
#include "ptx.cuh"
#include "vector.cuh"

namespace cf::gpu {

// A strip is cut into slices of at most kSliceSteps tiles. The cuts follow from the length of the row alone, and so does the order
// in which products are added.
constexpr int kSliceSteps = 8;

struct StripCuts {
  int tiles, slices;

  __device__ explicit StripCuts(const Matrix& m) : tiles(m.tiles) { slices = (tiles + kSliceSteps - 1) / kSliceSteps; }
};

// One slice of a strip, a warp's share of work: all of its weights are asked for before any is used. A lane has one row's eight
// columns of each tile: row lane % 16, columns 8 (lane / 16) and on.
struct Slice {
  uint4 weights[kSliceSteps];
  int first, end;  // tiles

  // `wanted` false: there is no such slice. Still everything gets a value: registers that may hold none would be kept for ever.
  __device__ void load(const Matrix& m, int64_t strip, int slice, bool wanted) {
    first = slice * kSliceSteps;
    end = wanted ? min(first + kSliceSteps, m.tiles) : 0;
    const uint4* lanes = static_cast<const uint4*>(m.data) + strip * m.tiles * kWarpLanes + static_cast<int>(threadIdx.x) % kWarpLanes;
#pragma unroll
    for (int step = 0; step < kSliceSteps; step++) weights[step] = ptx::load_streamed(lanes + (first + step) * kWarpLanes, first + step < end);
  }

  // The sum of the slice's products for row lane % 16.
  template <class Weight>
  __device__ float multiply(const SharedVector& x) const {
    float sums[4] = {};  // four chains, so that none waits for another
    const int half = static_cast<int>(threadIdx.x) % kWarpLanes / 16;
#pragma unroll
    for (int step = 0; step < kSliceSteps; step++) {
      const int chunk = 2 * min(first + step, end - 1) + half;  // beyond the end the weights are zeros
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
    const float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    return sum + __shfl_xor_sync(0xffffffffu, sum, 16);
  }
};

// shared.sums[16 task + row] for tasks 0 .. n_tasks: task (j * kParts + part) * slices + slice is a slice of strip first_strip +
// j * gridDim.x + part * n_strips. A warp asks for its next slice before it adds up the present one.
template <class Weight, int kParts>
__device__ void multiply_slices(const Matrix m, const StripCuts cuts, const SharedVector x, BlockShared& shared, int first_strip, int n_strips,
                                int n_tasks) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpLanes, lane = static_cast<int>(threadIdx.x) % kWarpLanes;
  const int n_ctas = static_cast<int>(gridDim.x), strips_ahead = kBlockWarps / cuts.slices, slices_ahead = kBlockWarps % cuts.slices;
  int strip = warp / cuts.slices, slice_of_strip = warp % cuts.slices;  // of the task that comes next; strip is j * kParts + part
  auto load = [&](Slice& slice, bool wanted) {
    slice.load(m, static_cast<int64_t>(first_strip + strip / kParts * n_ctas) + strip % kParts * n_strips, slice_of_strip, wanted);
    strip += strips_ahead, slice_of_strip += slices_ahead;
    if (slice_of_strip >= cuts.slices) slice_of_strip -= cuts.slices, strip++;
  };
  Slice slice;
  load(slice, warp < n_tasks);
#pragma unroll 1
  for (int task = warp; task < n_tasks; task += kBlockWarps) {
    Slice next;
    load(next, task + kBlockWarps < n_tasks);
    const float sum = slice.multiply<Weight>(x);
    if (lane < kTileRows) shared.sums[task * kTileRows + lane] = sum;
    slice = next;
  }
}

// finish(i, sums) once for each output i of this CTA (its strips: blockIdx.x, blockIdx.x + gridDim.x, ...), sums[part] being the
// product of row i + part * n_outputs with x. x must be visible to the whole CTA; on return x and shared.sums may be overwritten.
template <int kParts, class Finish>
__device__ void multiply(const Matrix m, int n_outputs, const SharedVector x, BlockShared& shared, Finish finish) {
  const StripCuts cuts(m);
  const int cta = static_cast<int>(blockIdx.x), n_ctas = static_cast<int>(gridDim.x), n_strips = n_outputs / kTileRows;
  const int mine = cta < n_strips ? (n_strips - cta - 1) / n_ctas + 1 : 0;
  const int at_once = kPartialSums / (kTileRows * kParts * cuts.slices);
  for (int first = 0; first < mine; first += at_once) {
    const int count = min(at_once, mine - first), first_strip = cta + first * n_ctas, n_tasks = count * kParts * cuts.slices;
    if (m.dtype == CF_DTYPE_F16) multiply_slices<F16, kParts>(m, cuts, x, shared, first_strip, n_strips, n_tasks);
    else multiply_slices<Bf16, kParts>(m, cuts, x, shared, first_strip, n_strips, n_tasks);
    __syncthreads();
#pragma unroll 1
    for (int j = threadIdx.x; j < count * kTileRows; j += kBlockThreads) {
      float sums[kParts];
#pragma unroll
      for (int part = 0; part < kParts; part++) {
        sums[part] = 0;
        for (int slice = 0; slice < cuts.slices; slice++)
          sums[part] += shared.sums[((j / kTileRows * kParts + part) * cuts.slices + slice) * kTileRows + j % kTileRows];
      }
      finish((first_strip + j / kTileRows * n_ctas) * kTileRows + j % kTileRows, sums);
    }
    __syncthreads();
  }
}

}  // namespace cf::gpu
