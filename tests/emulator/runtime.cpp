// The part of the CUDA runtime that the library calls, for one emulated device: memory is the host's, and what is enqueued runs at once.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "launch.h"

namespace {

int number_of(const char* variable, int otherwise) {
  const char* const text = std::getenv(variable);
  return text ? std::atoi(text) : otherwise;
}
int multiprocessors() { return number_of("EMULATOR_SMS", 3); }

struct Memory {
  size_t bytes;
  cudaMemoryType type;
};
std::mutex mutex;  // of all that follows, and of launches
std::map<char*, Memory> memories;

struct Stream {
  std::vector<emulator::LaunchOf>* capture = nullptr;
};
Stream default_stream;
Stream& stream_of(cudaStream_t stream) {
  return stream == nullptr || stream == cudaStreamPerThread || stream == cudaStreamLegacy ? default_stream : *reinterpret_cast<Stream*>(stream);
}

cudaError_t allocate(void** address, size_t bytes, cudaMemoryType type) {
  *address = std::aligned_alloc(512, (bytes + 511) / 512 * 512);
  std::memset(*address, 0xff, (bytes + 511) / 512 * 512);
  const std::lock_guard lock(mutex);
  memories[static_cast<char*>(*address)] = {bytes, type};
  return cudaSuccess;
}
cudaError_t release(void* address) {
  if (!address) return cudaSuccess;
  const std::lock_guard lock(mutex);
  if (!memories.erase(static_cast<char*>(address))) return cudaErrorInvalidValue;
  std::free(address);
  return cudaSuccess;
}

cudaError_t launch(const void* kernel, dim3 grid, dim3 block, void** arguments, cudaStream_t on, bool together, int cluster_size) {
  emulator::LaunchOf it = {kernel, grid.x, grid.y, int(block.x), cluster_size, together, {}};
  if (together && int(grid.x) > multiprocessors()) return cudaErrorCooperativeLaunchTooLarge;
  it.argument.assign(static_cast<char*>(arguments[0]), static_cast<char*>(arguments[0]) + 4096);
  Stream& stream = stream_of(on);
  const std::lock_guard lock(mutex);
  if (stream.capture) stream.capture->push_back(it);
  else emulator::run(it);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* n) { return *n = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = multiprocessors(); break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 232448; break;
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrClusterLaunch:
    case cudaDevAttrUnifiedAddressing: *value = 1; break;
    default: *value = 1 << 20;
  }
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::memset(p, 0, sizeof *p);
  std::strcpy(p->name, "emulated");
  p->totalGlobalMem = size_t(4) << 30, p->major = 9, p->multiProcessorCount = multiprocessors(), p->sharedMemPerBlockOptin = 232448;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = *total = size_t(4) << 30, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the emulated runtime"; }
const char* cudaGetErrorName(cudaError_t error) {
  static thread_local char name[32];
  std::snprintf(name, sizeof name, "%d", int(error));
  return name;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaMalloc(void** address, size_t bytes) { return allocate(address, bytes, cudaMemoryTypeDevice); }
cudaError_t cudaFree(void* address) { return release(address); }
cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) { return allocate(address, bytes, cudaMemoryTypeHost); }
cudaError_t cudaMallocHost(void** address, size_t bytes) { return allocate(address, bytes, cudaMemoryTypeHost); }
cudaError_t cudaFreeHost(void* address) { return release(address); }
cudaError_t cudaHostRegister(void*, size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  std::memset(attributes, 0, sizeof *attributes);
  const std::lock_guard lock(mutex);
  auto found = memories.upper_bound(static_cast<char*>(const_cast<void*>(address)));
  if (found == memories.begin()) return cudaSuccess;
  --found;
  if (static_cast<const char*>(address) < found->first + found->second.bytes) attributes->type = found->second.type;
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) { return std::memmove(to, from, bytes), cudaSuccess; }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return stream_of(stream).capture ? cudaErrorStreamCaptureUnsupported : (std::memmove(to, from, bytes), cudaSuccess);
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_stride, const void* from, size_t from_stride, size_t width, size_t height, cudaMemcpyKind,
                              cudaStream_t) {
  for (size_t row = 0; row < height; row++)
    std::memmove(static_cast<char*>(to) + row * to_stride, static_cast<const char*>(from) + row * from_stride, width);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) { return std::memset(to, value, bytes), cudaSuccess; }
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) { return std::memset(to, value, bytes), cudaSuccess; }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(new Stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete reinterpret_cast<Stream*>(stream), cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return stream_of(stream).capture ? cudaErrorStreamCaptureUnsupported : cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream_of(stream).capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream_of(stream).capture = new std::vector<emulator::LaunchOf>;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = reinterpret_cast<cudaGraph_t>(stream_of(stream).capture);
  stream_of(stream).capture = nullptr;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* n) {
  *n = reinterpret_cast<std::vector<emulator::LaunchOf>*>(graph)->size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = reinterpret_cast<cudaGraphExec_t>(new std::vector<emulator::LaunchOf>(*reinterpret_cast<std::vector<emulator::LaunchOf>*>(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  const std::lock_guard lock(mutex);
  for (const emulator::LaunchOf& launch : *reinterpret_cast<std::vector<emulator::LaunchOf>*>(executable)) emulator::run(launch);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return delete reinterpret_cast<std::vector<emulator::LaunchOf>*>(executable), cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete reinterpret_cast<std::vector<emulator::LaunchOf>*>(graph), cudaSuccess; }

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  std::memset(attributes, 0, sizeof *attributes);
  attributes->maxThreadsPerBlock = 1024, attributes->ptxVersion = attributes->binaryVersion = 90;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) { return *n = 1, cudaSuccess; }
cudaError_t cudaOccupancyMaxActiveClusters(int* n, const void*, const cudaLaunchConfig_t* config) {
  *n = multiprocessors() / int(config->gridDim.x);
  return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  bool together = false;
  int cluster_size = 1;
  for (unsigned i = 0; i < config->numAttrs; i++) {
    if (config->attrs[i].id == cudaLaunchAttributeCooperative) together = config->attrs[i].val.cooperative != 0;
    if (config->attrs[i].id == cudaLaunchAttributeClusterDimension) cluster_size = int(config->attrs[i].val.clusterDim.x);
  }
  return launch(kernel, config->gridDim, config->blockDim, arguments, config->stream, together, cluster_size);
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t, cudaStream_t stream) {
  return launch(kernel, grid, block, arguments, stream, false, 1);
}
cudaError_t cudaGetDriverEntryPointByVersion(const char*, void**, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* found) {
  return *found = cudaDriverEntryPointSymbolNotFound, cudaSuccess;
}

}  // extern "C"
