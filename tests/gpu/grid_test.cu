// kernels/grid.cuh alone: thousands of meetings lose nobody, and one that a CTA misses ends in time with the grid marked as failed.
#include <cstdio>
#include <cstdlib>

#include "kernels/grid.cuh"

using namespace cf::gpu;

namespace {

void check(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "FAILED: %s (%s)\n", what, cudaGetErrorString(cudaGetLastError()));
  std::exit(1);
}

// Every CTA writes its round, meets, reads all others' rounds and meets again. Counts disagreements.
__global__ void rounds(GridState* grid, uint32_t* words, uint32_t* wrong, int n_rounds) {
  __shared__ bool go;
  for (int round = 1; round <= n_rounds; round++) {
    for (int second = 0; second < 2; second++) {
      if (!second && threadIdx.x == 0) words[blockIdx.x] = static_cast<uint32_t>(round);
      if (second)
        for (uint32_t cta = threadIdx.x; cta < gridDim.x; cta += blockDim.x)
          if (words[cta] != static_cast<uint32_t>(round)) atomicAdd(wrong, 1u);
      __syncthreads();
      if (threadIdx.x == 0) go = meet(grid, gridDim.x, 1'000'000'000);
      __syncthreads();
      if (!go) return void(atomicAdd(wrong, 1u));
    }
  }
}

// Meets one CTA more than there are.
__global__ void missed(GridState* grid, uint32_t* passed, uint64_t limit_ns) {
  if (threadIdx.x == 0 && meet(grid, gridDim.x + 1, limit_ns)) atomicAdd(passed, 1u);
}

}  // namespace

int main() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0) == cudaSuccess, "a device");
  const int n_ctas = properties.multiProcessorCount;
  GridState* grid;
  uint32_t* words;  // [n_ctas], then a count
  check(cudaMalloc(&grid, sizeof *grid) == cudaSuccess && cudaMalloc(&words, (n_ctas + 1) * sizeof *words) == cudaSuccess, "allocation");
  check(cudaMemset(grid, 0, sizeof *grid) == cudaSuccess && cudaMemset(words, 0, (n_ctas + 1) * sizeof *words) == cudaSuccess, "clearing");
  uint32_t* count = words + n_ctas;
  int n_rounds = 2000;
  void* round_arguments[] = {&grid, &words, &count, &n_rounds};
  for (int launch = 0; launch < 3; launch++)
    check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(rounds), dim3(n_ctas), dim3(64), round_arguments, 0, nullptr) == cudaSuccess,
          "launch");
  uint32_t result;
  GridState state;
  check(cudaMemcpy(&result, count, sizeof result, cudaMemcpyDeviceToHost) == cudaSuccess && result == 0, "every meeting is complete");
  check(cudaMemcpy(&state, grid, sizeof state, cudaMemcpyDeviceToHost) == cudaSuccess && state.failed == 0, "no meeting failed");

  uint64_t limit_ns = 20'000'000;
  void* missed_arguments[] = {&grid, &count, &limit_ns};
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess && cudaEventRecord(begin) == cudaSuccess, "events");
  check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(missed), dim3(n_ctas), dim3(64), missed_arguments, 0, nullptr) == cudaSuccess,
        "launch");
  check(cudaEventRecord(end) == cudaSuccess && cudaEventSynchronize(end) == cudaSuccess, "a wait that ends");
  float ms;
  check(cudaEventElapsedTime(&ms, begin, end) == cudaSuccess && ms > 15.0f && ms < 200.0f, "a wait that ends in time");
  check(cudaMemcpy(&result, count, sizeof result, cudaMemcpyDeviceToHost) == cudaSuccess && result == 0, "nobody passed");
  check(cudaMemcpy(&state, grid, sizeof state, cudaMemcpyDeviceToHost) == cudaSuccess && state.failed == 1, "the grid is marked as failed");
  std::printf("grid: %d CTAs, %d meetings, a missed one ended after %.1f ms\n", n_ctas, 3 * 2 * n_rounds, static_cast<double>(ms));
  return 0;
}
