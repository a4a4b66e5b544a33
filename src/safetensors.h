// The header of a .safetensors file: 8 bytes of length, that much JSON, then the tensors' bytes without gaps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "file.h"

namespace cf {

// Ours, below those of the format, above those of any published checkpoint. The format allows a header of 100,000,000 bytes.
constexpr uint64_t kMaxHeaderBytes = 16u << 20;
constexpr size_t kMaxTensorRank = 8;
constexpr size_t kMaxTensorNameBytes = 512;
constexpr size_t kMaxTensorsPerFile = 65536;

struct SafetensorsEntry {
  std::string name;
  const char* dtype;            // as the format spells it, any that it knows
  std::vector<uint64_t> shape;  // outermost first; empty for a scalar
  uint64_t begin, end;          // bytes of the file
};

// The tensors in the order of their bytes, every rule of the format checked. CF_ERROR_IO, CF_ERROR_INVALID_FILE.
std::vector<SafetensorsEntry> read_safetensors(const File& file);

}  // namespace cf
