// One weight tensor on its way into a model: what it is, and where its bytes are (a file or the caller's memory).
#pragma once

#include <cstdint>
#include <string>

#include "clusterfusion.h"

namespace cf {

class File;

constexpr size_t dtype_bytes(cf_dtype dtype) { return dtype == CF_DTYPE_F32 ? 4 : 2; }
const char* dtype_name(cf_dtype dtype);      // "F16", as safetensors spells it
const char* role_name(cf_tensor_role role);  // "CF_ROLE_O_WEIGHT"

struct Tensor {
  cf_tensor_role role;
  cf_dtype dtype;         // F32, F16 or BF16
  int64_t rows, cols;     // a vector of n elements is [n, 1]
  std::string name;       // for messages: the checkpoint's name of it, or the role
  uint64_t stride_bytes;  // from row to row
  const File* file;       // NULL: in memory
  uint64_t offset_bytes;  // in the file
  const void* address;    // in memory
  cf_memory memory;
};

// Copies rows [first, first + count) densely to dst (host memory). The tensor's memory must be the host's.
void read_rows(const Tensor& tensor, int64_t first, int64_t count, void* dst);

}  // namespace cf
