// How the inside of the library reports failure: fail() throws Error, api.cpp turns it into a status and a sentence.
#pragma once

#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>

#include "clusterfusion.h"

namespace cf {

struct Error {
  cf_status status;
  std::string message;
};

namespace detail {
inline void append(std::string& out, std::string_view part) { out += part; }
template <class T, std::enable_if_t<std::is_arithmetic_v<T>, int> = 0>
void append(std::string& out, T value) {
  char digits[32];  // enough for any 64-bit integer and for the shortest form of any double
  auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
  out.append(digits, end);
}
}  // namespace detail

// Joins strings and numbers: text("layer ", 3) is "layer 3".
template <class... Parts>
std::string text(const Parts&... parts) {
  std::string out;
  (detail::append(out, parts), ...);
  return out;
}

// "[2, 3]"
template <class Range>
std::string list_text(const Range& values) {
  std::string out = "[";
  for (const auto& value : values) {
    if (out.size() > 1) out += ", ";
    detail::append(out, value);
  }
  return out + "]";
}

template <class... Parts>
[[noreturn]] void fail(cf_status status, const Parts&... parts) {
  throw Error{status, text(parts...)};
}

}  // namespace cf
