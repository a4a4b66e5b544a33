#include "tensor.h"

#include <cstring>

#include "checked.h"
#include "file.h"

namespace cf {

const char* dtype_name(cf_dtype dtype) {
  switch (dtype) {
    case CF_DTYPE_AUTO: return "AUTO";
    case CF_DTYPE_F32: return "F32";
    case CF_DTYPE_F16: return "F16";
    case CF_DTYPE_BF16: return "BF16";
  }
  return "an unknown dtype";
}

const char* role_name(cf_tensor_role role) {
  switch (role) {
#define CF_NAME(name) \
  case name: return #name
    CF_NAME(CF_ROLE_EMBEDDING);
    CF_NAME(CF_ROLE_FINAL_NORM_WEIGHT);
    CF_NAME(CF_ROLE_FINAL_NORM_BIAS);
    CF_NAME(CF_ROLE_HEAD);
    CF_NAME(CF_ROLE_ATTENTION_NORM_WEIGHT);
    CF_NAME(CF_ROLE_ATTENTION_NORM_BIAS);
    CF_NAME(CF_ROLE_MLP_NORM_WEIGHT);
    CF_NAME(CF_ROLE_MLP_NORM_BIAS);
    CF_NAME(CF_ROLE_QKV_WEIGHT);
    CF_NAME(CF_ROLE_QKV_BIAS);
    CF_NAME(CF_ROLE_Q_WEIGHT);
    CF_NAME(CF_ROLE_Q_BIAS);
    CF_NAME(CF_ROLE_K_WEIGHT);
    CF_NAME(CF_ROLE_K_BIAS);
    CF_NAME(CF_ROLE_V_WEIGHT);
    CF_NAME(CF_ROLE_V_BIAS);
    CF_NAME(CF_ROLE_O_WEIGHT);
    CF_NAME(CF_ROLE_O_BIAS);
    CF_NAME(CF_ROLE_GATE_WEIGHT);
    CF_NAME(CF_ROLE_GATE_BIAS);
    CF_NAME(CF_ROLE_UP_WEIGHT);
    CF_NAME(CF_ROLE_UP_BIAS);
    CF_NAME(CF_ROLE_DOWN_WEIGHT);
    CF_NAME(CF_ROLE_DOWN_BIAS);
#undef CF_NAME
  }
  return "an unknown role";
}

void read_rows(const Tensor& tensor, int64_t first, int64_t count, void* dst) {
  if (count == 0) return;
  const uint64_t row_bytes = mul(uint64_t(tensor.cols), dtype_bytes(tensor.dtype));
  const uint64_t begin = mul(uint64_t(first), tensor.stride_bytes);
  if (tensor.file) {  // dense, as every safetensors tensor is
    tensor.file->read(add(tensor.offset_bytes, begin), dst, mul(uint64_t(count), row_bytes));
    return;
  }
  const char* source = static_cast<const char*>(tensor.address) + begin;
  if (tensor.stride_bytes == row_bytes) {
    std::memcpy(dst, source, size_t(mul(uint64_t(count), row_bytes)));
    return;
  }
  for (int64_t row = 0; row < count; row++)
    std::memcpy(static_cast<char*>(dst) + uint64_t(row) * row_bytes, source + uint64_t(row) * tensor.stride_bytes, size_t(row_bytes));
}

}  // namespace cf
