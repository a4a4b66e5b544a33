// Faults that compute-sanitizer must find, and code without one that it may misjudge: what says whether its reports mean anything.
//   planted overrun | uninitialised | race | early_read | divergent    has the fault
//   planted ring | handshake | meeting | flag                          has none, and is built as the decode kernel is
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

#include "kernels/ptx.cuh"

using namespace cf::gpu;

namespace {

constexpr int kThreads = 64, kChunks = 24, kChunkFloats = 256;

__global__ void overrun(float* values, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i <= n) values[i] = 1.0f;  // n belongs to nobody
}

__global__ void uninitialised(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x] + 1.0f; }

__global__ void race(float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = values[(threadIdx.x + 32) % kThreads];  // of another warp, and nothing orders the two
}

__global__ void divergent(float* out) {
  if (threadIdx.x % 2) __syncthreads();  // half of every warp
  out[threadIdx.x] = 1.0f;
}

// A warp that fills a ring by bulk copies and one that adds up what is in it. waits: the reader looks only at chunks that have come.
template <bool waits>
__global__ void ring(const float* in, float* out) {
#if __CUDA_ARCH__ >= 900
  constexpr int kSlots = 4;
  __shared__ alignas(128) float slots[kSlots][kChunkFloats];
  __shared__ uint64_t full[kSlots], empty[kSlots];
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots; i++) ptx::barrier_init(&full[i], 1), ptx::barrier_init(&empty[i], 1);
    ptx::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const uint64_t policy = ptx::evict_first_policy();
#pragma unroll 1
    for (int i = 0; i < kChunks; i++) {
      const int slot = i % kSlots, lap = i / kSlots;
      if (lap)
        while (!ptx::barrier_passed(&empty[slot], static_cast<uint32_t>(lap - 1) & 1)) {}
      ptx::barrier_expect(&full[slot], sizeof slots[slot]);
      ptx::bulk_copy(slots[slot], in + i * kChunkFloats, sizeof slots[slot], &full[slot], policy);
    }
  }
  if (threadIdx.x >= 32) {
    const int lane = static_cast<int>(threadIdx.x) - 32;
    float sum = 0.0f;
#pragma unroll 1
    for (int i = 0; i < kChunks; i++) {
      const int slot = i % kSlots, lap = i / kSlots;
      if (waits)
        while (!ptx::barrier_passed(&full[slot], static_cast<uint32_t>(lap) & 1)) {}
      for (int k = lane; k < kChunkFloats; k += 32) sum += slots[slot][k];
      if (!waits)
        while (!ptx::barrier_passed(&full[slot], static_cast<uint32_t>(lap) & 1)) {}
      __syncwarp();
      if (lane == 0) ptx::barrier_arrive(&empty[slot]);
    }
    out[lane] = sum;
  }
#endif
}

// Roles of warps, as in the decode kernel: kWriters fill what kReaders read. Barriers: filled (3), free (4), both (5).
constexpr int kReaders = 64, kWriters = 64, kRounds = 4;

// One role arrives at a barrier, and the other waits there.
__global__ void handshake(float* out) {
  __shared__ float values[kWriters];
  if (threadIdx.x < kReaders) {
    float sum = 0.0f;
    ptx::arrive_threads(4, kReaders + kWriters);
#pragma unroll 1
    for (int round = 0; round < kRounds; round++) {
      ptx::sync_threads(3, kReaders + kWriters);
      sum += values[(threadIdx.x + 32) % kWriters];
      ptx::arrive_threads(4, kReaders + kWriters);
    }
    out[threadIdx.x] = sum;
  } else {
#pragma unroll 1
    for (int round = 0; round < kRounds; round++) {
      ptx::sync_threads(4, kReaders + kWriters);
      values[threadIdx.x - kReaders] = static_cast<float>(round);
      ptx::arrive_threads(3, kReaders + kWriters);
    }
    ptx::sync_threads(4, kReaders + kWriters);
  }
}

// The roles wait for each other at a barrier that each comes to in code of its own.
__global__ void meeting(float* out) {
  __shared__ float values[kWriters];
  if (threadIdx.x < kReaders) {
    float sum = 0.0f;
#pragma unroll 1
    for (int round = 0; round < kRounds; round++) {
      ptx::sync_threads(5, kReaders + kWriters);
      sum += values[(threadIdx.x + 32) % kWriters];
      ptx::sync_threads(5, kReaders + kWriters);
    }
    out[threadIdx.x] = sum;
  } else {
#pragma unroll 1
    for (int round = 0; round < kRounds; round++) {
      values[threadIdx.x - kReaders] = static_cast<float>(round);
      ptx::sync_threads(5, kReaders + kWriters);
      ptx::sync_threads(5, kReaders + kWriters);
    }
  }
}

// A thread tells another by a volatile number that there is something to read.
__global__ void flag(float* out) {
  __shared__ float values[kRounds];
  __shared__ volatile int announced;
  if (threadIdx.x == 0) announced = 0;
  __syncthreads();
  if (threadIdx.x == 32)
    for (int round = 0; round < kRounds; round++) {
      values[round] = static_cast<float>(round);
      __threadfence_block();
      announced = round + 1;
    }
  if (threadIdx.x == 0)
    for (int round = 0; round < kRounds; round++) {
      while (announced <= round) {}
      __threadfence_block();
      out[round] = values[round];
    }
}

}  // namespace

int main(int argc, char** argv) {
  const char* const name = argc > 1 ? argv[1] : "";
  const auto is = [&](const char* other) { return std::strcmp(name, other) == 0; };
  float *in, *out;
  const size_t in_bytes = static_cast<size_t>(kChunks) * kChunkFloats * sizeof(float), out_floats = 1000;
  if (cudaMalloc(&in, in_bytes) || cudaMalloc(&out, out_floats * sizeof(float))) return std::puts("no device memory"), 2;
  if (!is("uninitialised") && cudaMemset(in, 0, in_bytes)) return 2;
  if (is("overrun")) overrun<<<8, 128>>>(out, static_cast<int>(out_floats));
  else if (is("uninitialised")) uninitialised<<<1, kThreads>>>(in, out);
  else if (is("race")) race<<<1, kThreads>>>(out);
  else if (is("divergent")) divergent<<<1, kThreads>>>(out);
  else if (is("ring")) ring<true><<<1, kThreads>>>(in, out);
  else if (is("early_read")) ring<false><<<1, kThreads>>>(in, out);
  else if (is("handshake")) handshake<<<1, kReaders + kWriters>>>(out);
  else if (is("meeting")) meeting<<<1, kReaders + kWriters>>>(out);
  else if (is("flag")) flag<<<1, kThreads>>>(out);
  else return std::printf("planted: there is no %s\n", name), 2;
  const cudaError_t launched = cudaGetLastError(), done = cudaDeviceSynchronize();
  std::printf("%s: %s, %s\n", name, cudaGetErrorName(launched), cudaGetErrorName(done));
  return 0;
}
