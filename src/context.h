// A context: the device's memory, the log, the last error, and the backend that runs models.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "clusterfusion.h"
#include "error.h"
#include "memory.h"

namespace cf {

class Backend;

struct Log {
  cf_log_fn function = nullptr;
  void* user = nullptr;
  cf_log_level level = CF_LOG_NONE;

  template <class... Parts>
  void write(cf_log_level at, const Parts&... parts) const {
    if (function && at <= level) function(user, at, text(parts...).c_str());
  }
};

class Context {
 public:
  explicit Context(const cf_context_options& options);  // checked by the caller but for the device; throws
  ~Context();

  const std::shared_ptr<Memory>& host_memory() const { return host_; }
  const std::shared_ptr<Memory>& device_memory() const { return device_; }  // the CPU backend's device is the host
  Backend& backend() const { return *backend_; }
  const Log& log() const { return log_; }
  cf_device_kind device_kind() const { return kind_; }
  void query(cf_context_info& info) const;

  // A device that failed fails everything from then on.
  void lose_device(std::string reason);
  void check_device() const;  // throws CF_ERROR_DEVICE_LOST

  void record_error(const std::string& message);
  std::string last_error() const;

 private:
  cf_device_kind kind_;
  Log log_;
  std::shared_ptr<Memory> host_, device_;
  std::unique_ptr<Backend> backend_;
  mutable std::mutex mutex_;  // of the strings below
  std::string last_error_, lost_reason_;
  std::atomic<bool> lost_{false};
};

}  // namespace cf
