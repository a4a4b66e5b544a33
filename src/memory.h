// Memory of weights, KV pages and work buffers: through the context's allocator, counted, owned by Buffer.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

#include "clusterfusion.h"

namespace cf {

constexpr size_t kAlignment = 128;  // of every Buffer: a cache line pair, a TMA source, any SIMD vector

// Where a Memory takes its bytes from. The callbacks of cf_context_options have this shape already.
struct Allocator {
  cf_allocate_fn allocate;
  cf_free_fn free;
  void* user;
};

Allocator host_allocator();  // aligned operator new

class Memory {
 public:
  Memory(const Allocator& allocator, cf_device_kind kind, int32_t ordinal) : allocator_(allocator), kind_(kind), ordinal_(ordinal) {}
  Memory(const Memory&) = delete;

  void* allocate(size_t bytes);  // throws CF_ERROR_OUT_OF_MEMORY
  void free(void* address, size_t bytes);
  uint64_t allocated_bytes() const { return allocated_; }
  uint64_t peak_bytes() const { return peak_; }

 private:
  Allocator allocator_;
  cf_device_kind kind_;
  int32_t ordinal_;
  std::atomic<uint64_t> allocated_{0}, peak_{0};
};

// Bytes of a Memory, freed on destruction. Contents start undefined.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<Memory> memory, size_t bytes);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer();

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t size_bytes() const { return bytes_; }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  std::shared_ptr<Memory> memory_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace cf
