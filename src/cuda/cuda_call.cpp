#include "cuda/cuda_call.h"

#include "error.h"

namespace cf {

namespace {

// After these every later call on the device fails as well.
bool is_sticky(cudaError_t error) {
  switch (error) {
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContained:
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorContextIsDestroyed:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorTensorMemoryLeak:
    case cudaErrorExternalDevice:
    case cudaErrorUnknown: return true;
    default: return false;
  }
}

cf_status status_of(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation: return CF_ERROR_OUT_OF_MEMORY;
    case cudaErrorInvalidDevice:
    case cudaErrorNoDevice:
    case cudaErrorStubLibrary:
    case cudaErrorInsufficientDriver:
    case cudaErrorInitializationError:
    case cudaErrorDevicesUnavailable:
    case cudaErrorDeviceAlreadyInUse:
    case cudaErrorSystemNotReady:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice: return CF_ERROR_NO_DEVICE;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion: return CF_ERROR_UNSUPPORTED;
    case cudaErrorInvalidResourceHandle:  // a stream that is none, or of another device
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureInvalidated:
    case cudaErrorStreamCaptureIsolation:
    case cudaErrorStreamCaptureImplicit:
    case cudaErrorStreamCaptureWrongThread: return CF_ERROR_INVALID_ARGUMENT;
    default: return is_sticky(error) ? CF_ERROR_DEVICE_LOST : CF_ERROR_INTERNAL;
  }
}

}  // namespace

void check_cuda(Context* context, cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the caller's next check does not find it
  const std::string message = text("CUDA failed to ", doing, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
  if (is_sticky(error) && context) context->lose_device(message);
  throw Error{status_of(error), message};
}

void prepare_kernel(Context& context, const void* kernel, int threads, uint64_t shared_bytes, uint64_t shared_limit_bytes, const char* what) {
  const auto check = [&](cudaError_t error) { check_cuda(&context, error, "prepare a kernel"); };
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_limit_bytes)));
  int ctas_per_sm = 0;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&ctas_per_sm, kernel, threads, size_t(shared_bytes)));
  if (ctas_per_sm < 1) fail(CF_ERROR_UNSUPPORTED, what, " does not fit an SM of this device");
}

int clusters_at_once(Context& context, const void* kernel, int cluster_size, int threads, uint64_t shared_bytes) {
  const auto check = [&](cudaError_t error) { check_cuda(&context, error, "prepare a kernel"); };
  int ordinal = 0, has_clusters = 0, clusters = 0;
  check(cudaGetDevice(&ordinal));
  check(cudaDeviceGetAttribute(&has_clusters, cudaDevAttrClusterLaunch, ordinal));
  if (!has_clusters) return 0;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {unsigned(cluster_size), 1, 1};
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(unsigned(cluster_size));
  launch.blockDim = dim3(unsigned(threads));
  launch.dynamicSmemBytes = size_t(shared_bytes);
  launch.attrs = &cluster;
  launch.numAttrs = 1;
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch);
  if (error == cudaErrorInvalidClusterSize) {
    cudaGetLastError();
    return 0;
  }
  check(error);
  return clusters;
}

void launch_kernel(Context& context, const void* kernel, int n_ctas, int threads, uint64_t shared_bytes, bool together, cudaStream_t stream,
                   void* params, const char* doing, int cluster_size) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeCooperative;
  attributes[0].val.cooperative = together;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {unsigned(cluster_size), 1, 1};
  cudaLaunchConfig_t launch = {};
  launch.gridDim = dim3(unsigned(n_ctas));
  launch.blockDim = dim3(unsigned(threads));
  launch.dynamicSmemBytes = size_t(shared_bytes);
  launch.stream = stream;
  launch.attrs = attributes;
  launch.numAttrs = cluster_size > 1 ? 2 : 1;  // devices before 9.0 know nothing of clusters
  void* arguments[] = {params};
  check_cuda(&context, cudaLaunchKernelExC(&launch, kernel, arguments), doing);
}

int device_of_address(Context* context, const void* address, const std::string& what) {
  cudaPointerAttributes attributes;
  check_cuda(context, cudaPointerGetAttributes(&attributes, address), "find out where an array is");
  if (attributes.type != cudaMemoryTypeDevice && attributes.type != cudaMemoryTypeManaged)
    fail(CF_ERROR_INVALID_ARGUMENT, what, " is not in device memory");
  return attributes.device;
}

bool is_capturing(Context& context, cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check_cuda(&context, cudaStreamIsCapturing(stream, &status), "look at a stream");
  return status != cudaStreamCaptureStatusNone;
}

void check_not_capturing(Context& context, cudaStream_t stream, const char* what) {
  if (is_capturing(context, stream)) fail(CF_ERROR_INVALID_ARGUMENT, what, " on a stream that is being captured");
}

DeviceScope::DeviceScope(Context* context, int ordinal) {
  check_cuda(context, cudaGetDevice(&previous_), "find the current device");
  check_cuda(context, cudaSetDevice(ordinal), "make a device current");
  if (const cudaError_t error = cudaThreadExchangeStreamCaptureMode(&capture_mode_)) {
    cudaSetDevice(previous_);
    check_cuda(context, error, "set the thread's capture mode");
  }
}

DeviceScope::~DeviceScope() {
  cudaThreadExchangeStreamCaptureMode(&capture_mode_);
  cudaSetDevice(previous_);
}

}  // namespace cf
