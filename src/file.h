// A regular file opened for reading with pread: what shrinks or vanishes under us becomes an error, never a signal.
#pragma once

#include <cstdint>
#include <string>

namespace cf {

class File {
 public:
  explicit File(std::string path);  // throws CF_ERROR_IO: cannot be opened, or is not a regular file (links are followed)
  File(const File&) = delete;
  ~File();

  const std::string& path() const { return path_; }
  uint64_t size_bytes() const { return size_; }                 // when it was opened
  void read(uint64_t offset, void* dst, uint64_t bytes) const;  // exactly, or throws CF_ERROR_IO
  void check_size() const;                                      // throws CF_ERROR_IO if it is no longer size_bytes() long

 private:
  std::string path_;
  int descriptor_;
  uint64_t size_;
};

// The whole file as text, if it is at most limit_bytes long; otherwise CF_ERROR_INVALID_FILE.
std::string read_text(const std::string& path, uint64_t limit_bytes);

}  // namespace cf
