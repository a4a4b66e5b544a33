// In the place of everything else in this folder when the library is built without CUDA.

#include "backend.h"
#include "error.h"
#include "memory.h"

namespace cf {

std::unique_ptr<Backend> create_cuda_backend(Context&, const cf_context_options&) {
  fail(CF_ERROR_UNSUPPORTED, "this library was built without CUDA");
}

int32_t cuda_device_count() { return 0; }

void cuda_device_query(int32_t, cf_device_info&) { fail(CF_ERROR_NO_DEVICE, "this library was built without CUDA"); }

// Of a context that cannot come to be: create_cuda_backend throws before anything is allocated.
Allocator cuda_allocator() {
  return {[](void*, cf_device_kind, int32_t, size_t, size_t) -> void* { return nullptr; },
          [](void*, cf_device_kind, int32_t, void*, size_t, size_t) {}, nullptr};
}

}  // namespace cf
