#include "safetensors.h"

#include <algorithm>

#include "checked.h"
#include "error.h"
#include "json.h"

namespace cf {

namespace {

struct FileDtype {
  const char* name;
  uint32_t bits;
};
constexpr FileDtype kFileDtypes[] = {{"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
                                     {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
                                     {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
                                     {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};

// One tensor's part of the header, checked by itself. Offsets are relative to the data, as the header has them.
class EntryReader {
 public:
  EntryReader(const std::string& path, const std::string& name, const Json& json) : path_(path), name_(name), json_(json) {}

  SafetensorsEntry read(uint64_t data_bytes) const {
    if (name_.empty()) fail(CF_ERROR_INVALID_FILE, path_, ": a tensor has an empty name");
    if (name_.find('\0') != std::string::npos) invalid("has a NUL character in its name");
    if (name_.size() > kMaxTensorNameBytes) invalid("has a name of ", name_.size(), " bytes, more than ", kMaxTensorNameBytes);
    if (!json_.object()) invalid("is described by ", json_.kind(), ", not by an object");
    for (const auto& [key, value] : *json_.object())
      if (key != "dtype" && key != "shape" && key != "data_offsets") invalid("has the unknown field ", quote(key));
    const FileDtype& dtype = read_dtype();
    SafetensorsEntry entry{name_, dtype.name, read_shape(), 0, 0};
    read_offsets(entry, data_bytes);
    check_bytes(entry, dtype);
    return entry;
  }

 private:
  template <class... Parts>
  [[noreturn]] void invalid(const Parts&... parts) const {
    fail(CF_ERROR_INVALID_FILE, path_, ": tensor ", quote(name_), " ", parts...);
  }

  const Json& field(const char* key) const {
    const Json* value = json_.find(key);
    if (!value) invalid("lacks the field '", key, "'");
    return *value;
  }

  const FileDtype& read_dtype() const {
    const Json& value = field("dtype");
    if (!value.string()) invalid("has ", value.kind(), " as its dtype");
    for (const FileDtype& dtype : kFileDtypes)
      if (*value.string() == dtype.name) return dtype;
    invalid("has the unknown dtype ", quote(*value.string()));
  }

  uint64_t unsigned_integer(const Json& value, const char* what) const {
    if (!value.integer()) invalid("has ", value.kind(), " in its ", what, ", expected unsigned integers");
    return *value.integer();
  }

  std::vector<uint64_t> read_shape() const {
    const Json& value = field("shape");
    if (!value.array()) invalid("has ", value.kind(), " as its shape, expected an array");
    if (value.array()->size() > kMaxTensorRank) invalid("has rank ", value.array()->size(), ", more than ", kMaxTensorRank);
    std::vector<uint64_t> shape;
    for (const Json& dimension : *value.array()) shape.push_back(unsigned_integer(dimension, "shape"));
    return shape;
  }

  void read_offsets(SafetensorsEntry& entry, uint64_t data_bytes) const {
    const Json& value = field("data_offsets");
    if (!value.array()) invalid("has ", value.kind(), " as its data_offsets, expected an array");
    if (value.array()->size() != 2) invalid("has ", value.array()->size(), " data_offsets, expected two");
    entry.begin = unsigned_integer((*value.array())[0], "data_offsets");
    entry.end = unsigned_integer((*value.array())[1], "data_offsets");
    if (entry.end < entry.begin) invalid("ends at offset ", entry.end, ", before it begins at ", entry.begin);
    if (entry.end > data_bytes) invalid("ends at offset ", entry.end, ", beyond the file's ", data_bytes, " bytes of data");
  }

  // A dimension of 0 makes a tensor empty but hides no overflow of the others, whatever the order they are multiplied in.
  void check_bytes(const SafetensorsEntry& entry, const FileDtype& dtype) const {
    std::optional<uint64_t> bits = dtype.bits;
    bool empty = false;
    for (uint64_t dimension : entry.shape) {
      if (dimension == 0) empty = true;
      else if (bits) bits = try_mul(*bits, dimension);
    }
    if (!bits) invalid("has shape ", list_text(entry.shape), ", whose size overflows 64 bits");
    if (empty) bits = 0;
    if (*bits % 8) invalid("has shape ", list_text(entry.shape), " of ", dtype.name, ", which is not a whole number of bytes");
    if (*bits / 8 != entry.end - entry.begin)
      invalid("has ", entry.end - entry.begin, " bytes of data, but shape ", list_text(entry.shape), " of ", dtype.name, " needs ", *bits / 8);
  }

  const std::string& path_;
  const std::string& name_;
  const Json& json_;
};

void check_metadata(const std::string& path, const Json& metadata) {
  if (!metadata.object()) fail(CF_ERROR_INVALID_FILE, path, ": __metadata__ is ", metadata.kind(), ", expected an object of strings");
  for (const auto& [key, value] : *metadata.object())
    if (!value.string()) fail(CF_ERROR_INVALID_FILE, path, ": __metadata__ holds ", value.kind(), " under ", quote(key), ", expected strings");
}

// Tensors sorted by offset must follow each other from 0 to the end.
void check_coverage(const std::string& path, const std::vector<SafetensorsEntry>& entries, uint64_t data_bytes) {
  uint64_t end = 0;
  for (size_t i = 0; i < entries.size(); i++) {
    const SafetensorsEntry& e = entries[i];
    if (i == 0 && e.begin != 0)
      fail(CF_ERROR_INVALID_FILE, path, ": the first tensor, ", quote(e.name), ", starts at offset ", e.begin, ", expected 0");
    if (e.begin > end) fail(CF_ERROR_INVALID_FILE, path, ": a hole of ", e.begin - end, " bytes before tensor ", quote(e.name));
    if (e.begin < end) fail(CF_ERROR_INVALID_FILE, path, ": tensor ", quote(e.name), " overlaps ", quote(entries[i - 1].name));
    end = e.end;
  }
  if (end != data_bytes) fail(CF_ERROR_INVALID_FILE, path, ": the tensors end at offset ", end, " but the file holds ", data_bytes, " bytes of data");
}

Json read_header(const File& file, uint64_t& data_begin) {
  const std::string& path = file.path();
  if (file.size_bytes() < 8) fail(CF_ERROR_INVALID_FILE, path, ": ", file.size_bytes(), " bytes are too short for a safetensors file");
  unsigned char length[8];  // little-endian
  file.read(0, length, sizeof length);
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; i--) header_bytes = header_bytes << 8 | length[i];
  if (header_bytes == 0) fail(CF_ERROR_INVALID_FILE, path, ": the header is empty");
  if (header_bytes > kMaxHeaderBytes)
    fail(CF_ERROR_INVALID_FILE, path, ": the header's length of ", header_bytes, " bytes is above the limit of ", kMaxHeaderBytes);
  if (header_bytes > file.size_bytes() - 8)
    fail(CF_ERROR_INVALID_FILE, path, ": the header's length of ", header_bytes, " bytes goes beyond the end of the file");
  std::string header(size_t(header_bytes), '\0');
  file.read(8, header.data(), header_bytes);
  if (header[0] != '{') fail(CF_ERROR_INVALID_FILE, path, ": the header does not start with '{'");
  data_begin = 8 + header_bytes;
  return parse_json(header, text(path, ": header"));
}

}  // namespace

std::vector<SafetensorsEntry> read_safetensors(const File& file) {
  uint64_t data_begin;
  const Json header = read_header(file, data_begin);
  const uint64_t data_bytes = file.size_bytes() - data_begin;
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, json] : *header.object()) {
    if (name == "__metadata__") {
      check_metadata(file.path(), json);
      continue;
    }
    if (entries.size() == kMaxTensorsPerFile) fail(CF_ERROR_INVALID_FILE, file.path(), ": holds more than ", kMaxTensorsPerFile, " tensors");
    entries.push_back(EntryReader(file.path(), name, json).read(data_bytes));
  }
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  check_coverage(file.path(), entries, data_bytes);
  for (SafetensorsEntry& entry : entries) {
    entry.begin = add(entry.begin, data_begin);
    entry.end = add(entry.end, data_begin);
  }
  file.check_size();
  return entries;
}

}  // namespace cf
