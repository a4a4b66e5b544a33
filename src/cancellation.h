// The flag behind cf_cancellation, and the check that long calls make.
#pragma once

#include <atomic>

#include "clusterfusion.h"
#include "error.h"

struct cf_cancellation {
  std::atomic<bool> requested{false};
};

namespace cf {

inline bool is_cancelled(const cf_cancellation* cancellation) { return cancellation && cancellation->requested.load(std::memory_order_relaxed); }

// What a long call reports to and is stopped by.
struct Progress {
  cf_progress_fn report;
  void* user;
  const cf_cancellation* cancellation;

  // False: stop. Once all is done only the callback can still say so: a flag that was raised too late changes nothing.
  bool operator()(uint64_t done, uint64_t total) const {
    if (report && report(user, done, total) != 0) return false;
    return done == total || !is_cancelled(cancellation);
  }
};

}  // namespace cf
