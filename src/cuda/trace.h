// Where kernels of a build with CF_CUDA_TRACE write what they trace (kernels/trace.cuh).
#pragma once

#ifdef CF_CUDA_TRACE
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

#include "cuda/cuda_call.h"
#include "error.h"
#include "kernels/contract.h"

namespace cf {

// The file that CF_TRACE names, in memory that the device writes; NULL: it names none. It belongs to the process.
inline uint64_t* trace_memory(Context& context) {
  static uint64_t* const memory = [&]() -> uint64_t* {
    const char* const path = std::getenv("CF_TRACE");
    if (!path) return nullptr;
    const int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || ftruncate(file, gpu::kTraceBytes) != 0) fail(CF_ERROR_IO, "CF_TRACE: cannot write '", path, "'");
    void* const mapped = mmap(nullptr, gpu::kTraceBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED) fail(CF_ERROR_IO, "CF_TRACE: cannot map '", path, "'");
    check_cuda(&context, cudaHostRegister(mapped, gpu::kTraceBytes, cudaHostRegisterMapped), "share the trace's file; it needs a file in memory");
    return static_cast<uint64_t*>(mapped);
  }();
  return memory;
}

}  // namespace cf
#endif
