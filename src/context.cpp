#include "context.h"

#include "backend.h"

namespace cf {

namespace {
// The caller's, or else what is usual for the device.
Allocator allocator_of(const cf_context_options& o, const Allocator& usual) {
  return o.allocate ? Allocator{o.allocate, o.free, o.allocator_user} : usual;
}
}  // namespace

Context::Context(const cf_context_options& o)
    : kind_(o.device_kind),
      log_{o.log, o.log_user, o.log_level},
      host_(std::make_shared<Memory>(allocator_of(o, host_allocator()), CF_DEVICE_CPU, 0)) {
  const int32_t ordinal = o.n_devices ? o.devices[0] : 0;
  if (kind_ == CF_DEVICE_CPU) {
    if (ordinal != 0) fail(CF_ERROR_NO_DEVICE, "there is no CPU device ", ordinal, ", only 0");
    device_ = host_;
    backend_ = create_cpu_backend(*this, o);
  } else {
    device_ = std::make_shared<Memory>(allocator_of(o, cuda_allocator()), CF_DEVICE_CUDA, ordinal);
    backend_ = create_cuda_backend(*this, o);
  }
}

Context::~Context() = default;

void Context::query(cf_context_info& info) const {
  info.device_kind = kind_;
  info.n_devices = 1;
  backend_->query(info);
  info.allocated_bytes = host_->allocated_bytes();
  info.peak_bytes = host_->peak_bytes();
  if (device_ != host_) {
    info.allocated_bytes += device_->allocated_bytes();
    info.peak_bytes += device_->peak_bytes();
  }
}

void Context::lose_device(std::string reason) {
  std::lock_guard lock(mutex_);
  if (!lost_) lost_reason_ = std::move(reason);
  lost_ = true;
}

void Context::check_device() const {
  if (!lost_) return;
  std::lock_guard lock(mutex_);
  fail(CF_ERROR_DEVICE_LOST, "the device failed earlier: ", lost_reason_);
}

void Context::record_error(const std::string& message) {
  std::lock_guard lock(mutex_);
  last_error_ = message;
}

std::string Context::last_error() const {
  std::lock_guard lock(mutex_);
  return last_error_;
}

}  // namespace cf
