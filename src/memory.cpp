#include "memory.h"

#include <new>

#include "error.h"

namespace cf {

Allocator host_allocator() {
  return {
      [](void*, cf_device_kind, int32_t, size_t bytes, size_t alignment) { return operator new(bytes, std::align_val_t(alignment), std::nothrow); },
      [](void*, cf_device_kind, int32_t, void* address, size_t, size_t alignment) { operator delete(address, std::align_val_t(alignment)); },
      nullptr};
}

void* Memory::allocate(size_t bytes) {
  void* address = allocator_.allocate(allocator_.user, kind_, ordinal_, bytes, kAlignment);
  const char* where = kind_ == CF_DEVICE_CPU ? "host memory" : "device memory";
  if (!address) fail(CF_ERROR_OUT_OF_MEMORY, "could not allocate ", bytes, " bytes of ", where);
  if (reinterpret_cast<uintptr_t>(address) % kAlignment) {
    allocator_.free(allocator_.user, kind_, ordinal_, address, bytes, kAlignment);
    fail(CF_ERROR_INVALID_ARGUMENT, "the allocator callback returned memory that is not aligned to ", kAlignment, " bytes");
  }
  uint64_t now = allocated_ += bytes, peak = peak_;
  while (now > peak && !peak_.compare_exchange_weak(peak, now)) {}
  return address;
}

void Memory::free(void* address, size_t bytes) {
  allocator_.free(allocator_.user, kind_, ordinal_, address, bytes, kAlignment);
  allocated_ -= bytes;
}

Buffer::Buffer(std::shared_ptr<Memory> memory, size_t bytes) : memory_(std::move(memory)), bytes_(bytes) {
  if (bytes) data_ = memory_->allocate(bytes);
}

Buffer::~Buffer() {
  if (data_) memory_->free(data_, bytes_);
}

}  // namespace cf
