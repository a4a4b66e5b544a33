#include "json.h"

#include <algorithm>

#include "error.h"

#define JSON_ASSERT(condition) static_cast<void>(0)  // the library never aborts
#include <nlohmann/json.hpp>

using JsonInput = decltype(nlohmann::detail::input_adapter(std::declval<const char*>(), std::declval<const char*>()));

// What the lexer had read when it met an error. The original formats control characters with snprintf; our messages
// give the byte offset instead.
template <>
std::string nlohmann::detail::lexer<nlohmann::json, JsonInput>::get_token_string() const {
  return {};
}

namespace cf {

// Receives the parser's events (nlohmann's SAX interface) and builds the document.
class JsonBuilder {
 public:
  explicit JsonBuilder(const std::string& where) : where_(where) {}

  Json take() { return std::move(root_); }

  bool null() { return add(Json()); }
  bool boolean(bool value) { return add(Json(value)); }
  bool number_unsigned(uint64_t value) { return add(Json(value)); }
  bool number_integer(int64_t value) { return add(Json(Json::Number{Json::Number::kSigned, double(value)})); }
  bool number_float(double value, const std::string& digits) {
    const bool integer = digits.find_first_not_of("-0123456789") == std::string::npos;
    const auto form = !integer ? Json::Number::kReal : digits[0] == '-' ? Json::Number::kSigned : Json::Number::kTooLarge;
    return add(Json(Json::Number{form, value}));
  }
  bool string(std::string& value) { return add(Json(std::move(value))); }
  bool binary(nlohmann::json::binary_t&) { return false; }  // not in JSON text

  bool key(std::string& value) {
    keys_.push_back(std::move(value));
    return true;
  }
  bool start_object(size_t) { return open(Json(Json::Object())); }
  bool start_array(size_t) { return open(Json(Json::Array())); }
  bool end_array() { return close(); }
  bool end_object() {
    auto& members = std::get<Json::Object>(open_.back().value_);
    auto by_key = [](const auto& a, const auto& b) { return a.first < b.first; };
    std::sort(members.begin(), members.end(), by_key);
    auto twice = std::adjacent_find(members.begin(), members.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
    if (twice != members.end()) fail(CF_ERROR_INVALID_FILE, where_, ": duplicate key ", quote(twice->first));
    return close();
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error while ...; last read: ''"
    std::string_view reason = error.what();
    if (size_t at = reason.find("syntax error"); at != std::string_view::npos) reason.remove_prefix(at);
    else if (size_t end = reason.find("] "); end != std::string_view::npos) reason.remove_prefix(end + 2);
    if (size_t at = reason.find("; last read"); at != std::string_view::npos) reason = reason.substr(0, at);
    fail(CF_ERROR_INVALID_FILE, where_, ": not valid JSON at byte ", position, ": ", reason);
  }

 private:
  void count() {
    if (++n_values_ > kMaxJsonValues) fail(CF_ERROR_INVALID_FILE, where_, ": holds more than ", kMaxJsonValues, " JSON values");
  }
  void place(Json value) {  // into the innermost open array or object
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (auto* array = std::get_if<Json::Array>(&open_.back().value_)) {
      array->push_back(std::move(value));
    } else {
      std::get<Json::Object>(open_.back().value_).emplace_back(std::move(keys_.back()), std::move(value));
      keys_.pop_back();
    }
  }
  bool add(Json value) {
    count();
    place(std::move(value));
    return true;
  }
  bool open(Json container) {
    count();
    if (open_.size() == kMaxJsonDepth) fail(CF_ERROR_INVALID_FILE, where_, ": JSON nested deeper than ", kMaxJsonDepth, " levels");
    open_.push_back(std::move(container));
    return true;
  }
  bool close() {
    Json done = std::move(open_.back());
    open_.pop_back();
    place(std::move(done));
    return true;
  }

  const std::string& where_;
  Json root_;
  std::vector<Json> open_;         // from the outermost to the innermost
  std::vector<std::string> keys_;  // of members whose values are still open
  size_t n_values_ = 0;
};

std::optional<double> Json::number() const {
  if (auto* i = integer()) return double(*i);
  if (auto* n = std::get_if<Number>(&value_)) return n->value;
  return std::nullopt;
}

const Json* Json::find(std::string_view key) const {
  auto* members = object();
  if (!members) return nullptr;
  auto at = std::lower_bound(members->begin(), members->end(), key, [](const auto& member, std::string_view k) { return member.first < k; });
  return at != members->end() && at->first == key ? &at->second : nullptr;
}

const char* Json::kind() const {
  switch (value_.index()) {
    case 0: return "null";
    case 1: return "a boolean";
    case 2: return "an unsigned integer";
    case 3:
      switch (std::get<Number>(value_).form) {
        case Number::kSigned: return "a number with a sign";
        case Number::kTooLarge: return "an integer above 2^64 - 1";
        case Number::kReal: return "a number with a fraction or exponent";
      }
      return "a number";
    case 4: return "a string";
    case 5: return "an array";
    default: return "an object";
  }
}

Json parse_json(std::string_view text, const std::string& where) {
  // Two things that the parser lets pass: it takes NUL for the end, and skips a byte order mark.
  if (size_t at = text.find('\0'); at != std::string_view::npos) fail(CF_ERROR_INVALID_FILE, where, ": NUL character at byte ", at);
  if (text.substr(0, 3) == "\xef\xbb\xbf") fail(CF_ERROR_INVALID_FILE, where, ": starts with a byte order mark");
  // detail::parser rather than json::sax_parse, which brings in the readers of binary formats and their snprintf.
  JsonBuilder builder(where);
  nlohmann::detail::parser<nlohmann::json, JsonInput> parser(nlohmann::detail::input_adapter(text.data(), text.data() + text.size()), nullptr, false,
                                                             false);
  if (!parser.sax_parse(&builder, true)) fail(CF_ERROR_INVALID_FILE, where, ": not valid JSON");
  return builder.take();
}

std::string printable(std::string_view text) {
  constexpr size_t kLongest = 200;
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  for (unsigned char c : text.substr(0, kLongest)) {
    if (c >= 0x20 && c < 0x7f && c != '\'' && c != '\\') {
      out += char(c);
    } else {
      out += "\\x";
      out += kHex[c >> 4];
      out += kHex[c & 15];
    }
  }
  if (text.size() > kLongest) out += "...";
  return out;
}

std::string quote(std::string_view text) { return "'" + printable(text) + "'"; }

}  // namespace cf
