#include "memory.h"

#include <sys/mman.h>

#include <new>

#include "error.h"

namespace cf {

namespace {

// Large blocks begin on a huge page and ask for huge pages: weights are read at the speed of memory, not of page walks.
constexpr size_t kHugePage = 2 << 20;

size_t host_alignment(size_t bytes, size_t alignment) { return bytes >= kHugePage ? kHugePage : alignment; }

void* host_allocate(void*, cf_device_kind, int32_t, size_t bytes, size_t alignment) {
  void* address = operator new(bytes, std::align_val_t(host_alignment(bytes, alignment)), std::nothrow);
#ifdef MADV_HUGEPAGE
  if (address && bytes >= kHugePage) madvise(address, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // a wish: it may be refused
#endif
  return address;
}

void host_free(void*, cf_device_kind, int32_t, void* address, size_t bytes, size_t alignment) {
  operator delete(address, std::align_val_t(host_alignment(bytes, alignment)));
}

}  // namespace

Allocator host_allocator() { return {host_allocate, host_free, nullptr}; }

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
