#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "error.h"

namespace cf {

namespace {

constexpr uint64_t kMaxReadBytes = 1 << 30;  // of one pread; Linux itself stops below 2^31

std::string reason(int error) { return std::generic_category().message(error); }

}  // namespace

File::File(std::string path) : path_(std::move(path)) {
  // A path with a NUL in it would open another file than it names.
  if (path_.find('\0') != std::string::npos) fail(CF_ERROR_IO, "cannot open a file whose name holds a NUL character");
  do descriptor_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // NONBLOCK: a FIFO without a writer must not hang us
  while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) fail(CF_ERROR_IO, "cannot open ", path_, ": ", reason(errno));
  struct stat status;
  const int error = fstat(descriptor_, &status) ? errno : 0;
  if (error == 0 && S_ISREG(status.st_mode)) {
    size_ = uint64_t(status.st_size);
    return;
  }
  close(descriptor_);
  if (error) fail(CF_ERROR_IO, "cannot examine ", path_, ": ", reason(error));
  fail(CF_ERROR_IO, path_, " is not a regular file");
}

File::~File() { close(descriptor_); }

void File::read(uint64_t offset, void* dst, uint64_t bytes) const {
  if (offset > size_ || bytes > size_ - offset) fail(CF_ERROR_IO, path_, " has ", size_, " bytes, too few to read ", bytes, " at offset ", offset);
  char* out = static_cast<char*>(dst);
  while (bytes > 0) {
    const ssize_t n = pread(descriptor_, out, size_t(std::min(bytes, kMaxReadBytes)), off_t(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(CF_ERROR_IO, "cannot read ", path_, " at offset ", offset, ": ", reason(errno));
    if (n == 0) fail(CF_ERROR_IO, path_, " became shorter while it was read: it ends before offset ", offset);
    out += n;
    offset += uint64_t(n);
    bytes -= uint64_t(n);
  }
}

void File::check_size() const {
  struct stat status;
  if (fstat(descriptor_, &status)) fail(CF_ERROR_IO, "cannot examine ", path_, ": ", reason(errno));
  if (uint64_t(status.st_size) != size_)
    fail(CF_ERROR_IO, path_, " changed its size from ", size_, " to ", uint64_t(status.st_size), " bytes while it was read");
}

std::string read_text(const std::string& path, uint64_t limit_bytes) {
  File file(path);
  if (file.size_bytes() > limit_bytes) fail(CF_ERROR_INVALID_FILE, path, " has ", file.size_bytes(), " bytes, more than the limit of ", limit_bytes);
  std::string content(size_t(file.size_bytes()), '\0');
  file.read(0, content.data(), content.size());
  file.check_size();
  return content;
}

}  // namespace cf
