// Option and result structs across the ABI: they start with struct_size, older callers have shorter ones, newer callers longer ones.
#pragma once

#include <algorithm>
#include <cstring>

#include "clusterfusion.h"
#include "error.h"

namespace cf {

constexpr uint32_t kMaxStructBytes = 4096;  // no struct of any version comes near; more is a sign of an uninitialised one

template <class T>
T defaults() {
  T value{};
  value.struct_size = sizeof(T);
  return value;
}
template <>
inline cf_context_options defaults() {
  cf_context_options o{};
  o.struct_size = sizeof o, o.log_level = CF_LOG_INFO, o.device_wait_limit_ms = 1000, o.prefill_workspace_bytes = uint64_t{256} << 20;
  return o;
}
template <>
inline cf_model_config defaults() {
  cf_model_config c{};
  c.struct_size = sizeof c, c.bos_token = -1;
  return c;
}
template <>
inline cf_kv_pool_options defaults() {
  cf_kv_pool_options o{};
  o.struct_size = sizeof o, o.page_tokens = 64;
  return o;
}
template <>
inline cf_session_options defaults() {
  cf_session_options o{};
  o.struct_size = sizeof o, o.reserve = 1, o.page_tokens = 64;
  return o;
}
template <>
inline cf_sampler_options defaults() {
  cf_sampler_options o{};
  o.struct_size = sizeof o, o.top_p = 1, o.repetition_penalty = 1;
  return o;
}
template <>
inline cf_step_options defaults() {
  cf_step_options o{};
  o.struct_size = sizeof o, o.sample = 1;
  return o;
}
template <>
inline cf_graph_options defaults() {
  cf_graph_options o{};
  o.struct_size = sizeof o, o.n_steps = 1;
  return o;
}
template <>
inline cf_block_options defaults() {
  cf_block_options o{};
  o.struct_size = sizeof o, o.n_rows = 1, o.activation_dtype = CF_DTYPE_F32, o.kv_dtype = CF_DTYPE_F16;
  return o;
}

inline void check_struct_size(uint32_t size, const char* name) {
  if (size < 2 * sizeof(uint32_t) || size > kMaxStructBytes)
    fail(CF_ERROR_INVALID_ARGUMENT, name, ".struct_size is ", size, "; initialise the struct with its _init function");
}

// The body of every *_init: defaults into as much of the caller's struct as there is, zeroes beyond.
template <class T>
void init_struct(T* out, size_t struct_size, const char* name) {
  if (!out) fail(CF_ERROR_INVALID_ARGUMENT, name, " is NULL");
  if (struct_size < 2 * sizeof(uint32_t) || struct_size > kMaxStructBytes)
    fail(CF_ERROR_INVALID_ARGUMENT, "struct_size ", struct_size, " is not the size of a struct; pass sizeof *", name);
  T value = defaults<T>();
  std::memset(static_cast<void*>(out), 0, struct_size);
  std::memcpy(static_cast<void*>(out), &value, std::min(struct_size, sizeof value));
  out->struct_size = static_cast<uint32_t>(struct_size);
}

// A caller's struct as this library knows it. NULL gives the defaults, a shorter one the defaults for what it lacks.
template <class T>
T take_struct(const T* in, const char* name) {
  T value = defaults<T>();
  if (!in) return value;
  const uint32_t size = in->struct_size;
  check_struct_size(size, name);
  auto bytes = reinterpret_cast<const unsigned char*>(in);
  for (size_t i = sizeof(T); i < size; i++)
    if (bytes[i]) fail(CF_ERROR_INVALID_ARGUMENT, name, " is from a newer header and sets something this library does not know (byte ", i, ")");
  std::memcpy(&value, in, std::min<size_t>(size, sizeof value));
  value.struct_size = sizeof(T);
  if constexpr (requires { value.reserved; })
    if (value.reserved) fail(CF_ERROR_INVALID_ARGUMENT, name, ".reserved is ", value.reserved, ", expected 0");
  return value;
}

// Writes a result into as much of the caller's struct as there is, zeroes beyond.
template <class T>
void give_struct(const T& value, T* out, const char* name) {
  if (!out) fail(CF_ERROR_INVALID_ARGUMENT, name, " is NULL");
  const uint32_t size = out->struct_size;
  check_struct_size(size, name);
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &value, std::min<size_t>(size, sizeof value));
  out->struct_size = size;
}

// Element i of a caller's array of structs, which lie struct_size of the first apart.
template <class T>
T take_element(const T* array, size_t i, const char* name) {
  check_struct_size(array->struct_size, name);
  auto bytes = reinterpret_cast<const unsigned char*>(array) + i * array->struct_size;
  auto element = reinterpret_cast<const T*>(bytes);
  if (element->struct_size != array->struct_size) fail(CF_ERROR_INVALID_ARGUMENT, name, "[", i, "].struct_size differs from that of ", name, "[0]");
  return take_struct(element, name);
}

}  // namespace cf
