// A library for fault_proof.py: the neighbour on the GPU that knows nothing of ClusterFusion. Functions return a cudaError_t.
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/ptx.cuh"

#define FOREIGN extern "C" __attribute__((visibility("default")))

namespace {

// Keeps its SM's shared memory for some time.
__global__ void hold(uint64_t ns) {
  const uint64_t start = cf::gpu::ptx::wall_clock_ns();
  while (cf::gpu::ptx::wall_clock_ns() - start < ns) __nanosleep(1000);
}

__global__ void trap() { asm volatile("trap;"); }

}  // namespace

FOREIGN int foreign_multiprocessors(int* count) { return cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, 0); }

FOREIGN int foreign_memory(size_t* free_bytes) {
  size_t total;
  return cudaMemGetInfo(free_bytes, &total);
}
FOREIGN int foreign_allocate(void** address, size_t bytes) {
  const cudaError_t error = cudaMalloc(address, bytes);
  if (error) cudaGetLastError();
  return error;
}
FOREIGN int foreign_free(void* address) { return cudaFree(address); }

FOREIGN int foreign_stream(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking); }
FOREIGN int foreign_wait(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
FOREIGN int foreign_done(cudaStream_t stream) { return cudaStreamQuery(stream); }
FOREIGN int foreign_drop_stream(cudaStream_t stream) { return cudaStreamDestroy(stream); }

// n_ctas CTAs that hold shared_bytes each for ms.
FOREIGN int foreign_hold(cudaStream_t stream, int n_ctas, int shared_bytes, int ms) {
  if (const cudaError_t error = cudaFuncSetAttribute(hold, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes)) return error;
  hold<<<static_cast<unsigned>(n_ctas), 32, static_cast<size_t>(shared_bytes), stream>>>(static_cast<uint64_t>(ms) * 1'000'000);
  return cudaGetLastError();
}
// Zeroes over memory that is another's, by the copy engine, so beside kernels that have all SMs.
FOREIGN int foreign_overwrite(cudaStream_t stream, void* address, size_t bytes) {
  static void* zeroes = nullptr;
  static size_t size = 0;
  if (size < bytes) {
    if (const cudaError_t error = cudaMallocHost(&zeroes, bytes)) return error;
    __builtin_memset(zeroes, 0, size = bytes);
  }
  return cudaMemcpyAsync(address, zeroes, bytes, cudaMemcpyHostToDevice, stream);
}
// Loses the device for every user of it in this process.
FOREIGN int foreign_trap(cudaStream_t stream) {
  trap<<<1, 32, 0, stream>>>();
  return cudaGetLastError();
}
