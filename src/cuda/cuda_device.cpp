// The CUDA devices of this machine, and their memory for a context without an allocator callback.

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>

#include "backend.h"
#include "cuda/cuda_call.h"
#include "error.h"
#include "memory.h"

namespace cf {

namespace {

template <size_t N>
void copy_text(char (&to)[N], std::string_view from) {
  const size_t length = std::min(from.size(), N - 1);
  std::memcpy(to, from.data(), length);
  to[length] = 0;
}

}  // namespace

int32_t cuda_device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

void cuda_device_query(int32_t ordinal, cf_device_info& info) {
  cudaDeviceProp properties;
  check_cuda(nullptr, cudaGetDeviceProperties(&properties, ordinal), "describe a device");
  const auto attribute = [&](cudaDeviceAttr name) {
    int value = 0;
    check_cuda(nullptr, cudaDeviceGetAttribute(&value, name, ordinal), "describe a device");
    return value;
  };
  info.compute_capability = properties.major * 10 + properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.max_cluster_size = attribute(cudaDevAttrClusterLaunch) ? 8 : 1;  // what every device with clusters has
  info.memory_bytes = properties.totalGlobalMem;
  info.shared_memory_bytes = properties.sharedMemPerBlockOptin;
  copy_text(info.name, properties.name);
  const int mode = attribute(cudaDevAttrComputeMode);
  if (properties.major < 8)
    copy_text(info.reason, text("compute capability 8.0 or newer is needed, and it has ", properties.major, ".", properties.minor));
  else if (mode == cudaComputeModeProhibited) copy_text(info.reason, "the device is set to prohibit computing");
  else if (!attribute(cudaDevAttrCooperativeLaunch)) copy_text(info.reason, "the device has no cooperative launch");
  info.usable = info.reason[0] == 0;
}

Allocator cuda_allocator() {
  const auto allocate = [](void*, cf_device_kind, int32_t ordinal, size_t bytes, size_t) -> void* {  // cudaMalloc aligns to 256
    void* address = nullptr;
    try {
      const DeviceScope scope(nullptr, ordinal);
      if (cudaMalloc(&address, bytes) == cudaSuccess) return address;
    } catch (const Error&) {}
    cudaGetLastError();
    return nullptr;
  };
  const auto free = [](void*, cf_device_kind, int32_t ordinal, void* address, size_t, size_t) {
    try {
      const DeviceScope scope(nullptr, ordinal);
      if (cudaFree(address) != cudaSuccess) cudaGetLastError();  // a lost device has freed everything already
    } catch (const Error&) {}
  };
  return {allocate, free, nullptr};
}

}  // namespace cf
