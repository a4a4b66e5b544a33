// A build without CUDA: no devices, and a clear answer to who asks for one.

#include "backend.h"
#include "error.h"
#include "memory.h"

namespace cf {

namespace {
[[noreturn]] void fail_without_cuda() { fail(CF_ERROR_UNSUPPORTED, "this library was built without CUDA (CF_CUDA=ON builds it in)"); }
}  // namespace

std::unique_ptr<Backend> create_cuda_backend(Context&, const cf_context_options&) { fail_without_cuda(); }
int32_t cuda_device_count() { return 0; }
void cuda_device_query(int32_t, cf_device_info&) { fail_without_cuda(); }
Allocator cuda_allocator() { fail_without_cuda(); }

}  // namespace cf
