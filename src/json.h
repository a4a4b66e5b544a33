// Strict JSON: RFC 8259 less everything that two readers could understand differently.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace cf {

constexpr int kMaxJsonDepth = 64;            // objects and arrays inside each other
constexpr size_t kMaxJsonValues = 1u << 20;  // bounds the memory a document can cost; 65536 tensors of rank 8 need 917506

class Json {
 public:
  using Array = std::vector<Json>;
  using Object = std::vector<std::pair<std::string, Json>>;  // sorted by key, each once
  // A number that is not a plain unsigned integer of at most 2^64 - 1: it has a sign, a fraction or an exponent, or is larger.
  struct Number {
    enum Form { kSigned, kTooLarge, kReal } form;
    double value;
  };
  using Value = std::variant<std::nullptr_t, bool, uint64_t, Number, std::string, Array, Object>;

  Json() = default;
  explicit Json(Value value) : value_(std::move(value)) {}

  // The value if it is of that kind, else NULL.
  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value_); }
  const bool* boolean() const { return std::get_if<bool>(&value_); }
  const uint64_t* integer() const { return std::get_if<uint64_t>(&value_); }
  const std::string* string() const { return std::get_if<std::string>(&value_); }
  const Array* array() const { return std::get_if<Array>(&value_); }
  const Object* object() const { return std::get_if<Object>(&value_); }
  std::optional<double> number() const;  // of any form

  const Json* find(std::string_view key) const;  // NULL if this is no object or has no such key
  const char* kind() const;                      // "a string", for messages

 private:
  friend class JsonBuilder;
  Value value_ = nullptr;
};

// The only document in `text`, or CF_ERROR_INVALID_FILE with a message that starts with `where` and gives the byte.
Json parse_json(std::string_view text, const std::string& where);

// Text from a file made fit for a message or the log: control characters, quotes, backslashes and bytes beyond ASCII
// escaped, cut when it is long.
std::string printable(std::string_view text);
std::string quote(std::string_view text);  // the same between single quotes

}  // namespace cf
