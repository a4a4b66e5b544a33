// Overflow-checked arithmetic on sizes. Every product or sum that becomes a size, an offset or an allocation goes through here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "error.h"

namespace cf {

inline std::optional<uint64_t> try_mul(uint64_t a, uint64_t b) {
  uint64_t product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

inline std::optional<uint64_t> try_add(uint64_t a, uint64_t b) {
  uint64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

// The product or sum of two or more sizes, or CF_ERROR_OUT_OF_MEMORY: what overflows 64 bits fits no memory.
template <class... More>
uint64_t mul(uint64_t a, uint64_t b, More... more) {
  auto product = try_mul(a, b);
  if (!product) fail(CF_ERROR_OUT_OF_MEMORY, "a size of ", a, " times ", b, " bytes or elements overflows 64 bits");
  if constexpr (sizeof...(more) > 0) return mul(*product, more...);
  else return *product;
}

template <class... More>
uint64_t add(uint64_t a, uint64_t b, More... more) {
  auto sum = try_add(a, b);
  if (!sum) fail(CF_ERROR_OUT_OF_MEMORY, "a size of ", a, " plus ", b, " bytes overflows 64 bits");
  if constexpr (sizeof...(more) > 0) return add(*sum, more...);
  else return *sum;
}

constexpr uint64_t ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
inline uint64_t round_up(uint64_t a, uint64_t multiple) { return mul(ceil_div(a, multiple), multiple); }

}  // namespace cf
