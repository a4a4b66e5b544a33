// How the CUDA backend calls the runtime: every result is checked, on the context's device, with the caller's state restored.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "context.h"

namespace cf {

// Throws unless `error` is success; `doing` completes "CUDA failed to ...". An error after which the device answers nothing any more
// loses `context`'s device; context may be NULL while there is none.
void check_cuda(Context* context, cudaError_t error, const char* doing);

// Sets a kernel up for launches with `shared_bytes` of dynamic shared memory, out of the device's `shared_limit_bytes`; `what` completes
// "... does not fit an SM of this device". The limit belongs to the kernel, which models of several sizes share, so it is the device's.
void prepare_kernel(Context& context, const void* kernel, int threads, uint64_t shared_bytes, uint64_t shared_limit_bytes, const char* what);
// How many clusters of a prepared kernel run at once; 0: the device has no clusters of that size.
int clusters_at_once(Context& context, const void* kernel, int cluster_size, int threads, uint64_t shared_bytes);
// Enqueues a launch; together: of CTAs that all run at once, since they wait for each other. `params` is the kernel's only argument.
void launch_kernel(Context& context, const void* kernel, int n_ctas, int threads, uint64_t shared_bytes, bool together, cudaStream_t stream,
                   void* params, const char* doing, int cluster_size = 1);

// The device whose memory an address is in; throws CF_ERROR_INVALID_ARGUMENT, with `what` for its name, if it is none's.
int device_of_address(Context* context, const void* address, const std::string& what);

bool is_capturing(Context& context, cudaStream_t stream);
// Throws CF_ERROR_INVALID_ARGUMENT on a stream that is being captured; `what` completes "... on a stream that is being captured".
void check_not_capturing(Context& context, cudaStream_t stream, const char* what);

// Makes a device current for the calling thread and puts back what was. Meanwhile calls that would disturb another thread's stream
// capture (an allocation, say) do not.
class DeviceScope {
 public:
  DeviceScope(Context* context, int ordinal);
  DeviceScope(const DeviceScope&) = delete;
  ~DeviceScope();

 private:
  int previous_ = 0;
  cudaStreamCaptureMode capture_mode_ = cudaStreamCaptureModeRelaxed;
};

}  // namespace cf
