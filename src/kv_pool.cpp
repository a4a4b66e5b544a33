#include "kv_pool.h"

#include "backend.h"
#include "checked.h"
#include "model_config.h"
#include "tensor.h"

namespace cf {

uint64_t KvPool::page_bytes(const cf_model_config& config, cf_dtype kv_dtype, int32_t page_tokens) {
  return mul(uint64_t(config.n_layers) * 2, uint64_t(kv_size(config)), uint64_t(page_tokens), dtype_bytes(kv_dtype));
}

KvPool::KvPool(std::shared_ptr<Context> context, const cf_model_config& config, cf_dtype kv_dtype, int32_t page_tokens, int64_t capacity_tokens)
    : context_(std::move(context)),
      config_(config),
      kv_dtype_(kv_dtype),
      page_tokens_(page_tokens),
      n_pages_(pages_for(capacity_tokens)),
      storage_(context_->device_memory(), mul(uint64_t(n_pages_), page_bytes())),
      holders_(size_t(n_pages_)) {
  free_.reserve(size_t(n_pages_));
  for (int64_t page = n_pages_ - 1; page >= 0; page--) free_.push_back(int32_t(page));
}

void KvPool::hold(int32_t page, bool promised) {
  Holders& h = holders_[size_t(page)];
  if (promised) h.promised++;
  else if (h.other++ == 0) held_by_others_++;
}

void KvPool::drop(int32_t page, bool promised) {
  Holders& h = holders_[size_t(page)];
  if (promised) h.promised--;
  else if (--h.other == 0) held_by_others_--;
  if (h.promised == 0 && h.other == 0) free_.push_back(page);  // within the capacity that the constructor reserved
}

// A free page; the caller has made sure that there is one.
int32_t KvPool::take(bool promised) {
  const int32_t page = free_.back();
  free_.pop_back();
  hold(page, promised);
  return page;
}

bool KvPool::reserve(PageTable& table, int64_t count) {
  std::lock_guard lock(mutex_);
  if (count > uncommitted()) return false;
  table.pages.reserve(size_t(count));
  table.reserved = count;
  reserved_ += count;
  return true;
}

bool KvPool::grow(PageTable& table, int64_t count) {
  std::lock_guard lock(mutex_);
  const int64_t missing = count - int64_t(table.pages.size());
  if (missing <= 0) return true;
  if (table.reserved ? count > table.reserved : missing > uncommitted()) return false;
  table.pages.reserve(size_t(count));
  for (int64_t i = 0; i < missing; i++) table.pages.push_back(take(table.reserved != 0));
  return true;
}

bool KvPool::share(const PageTable& from, int64_t count, PageTable& table) {
  std::lock_guard lock(mutex_);
  if (table.reserved) {
    if (count > table.reserved) return false;
  } else {
    int64_t added = 0;  // to N
    for (int64_t i = 0; i < count; i++) added += holders_[size_t(from.pages[size_t(i)])].other == 0;
    if (added > uncommitted()) return false;
  }
  table.pages.assign(from.pages.begin(), from.pages.begin() + count);
  for (int32_t page : table.pages) hold(page, table.reserved != 0);
  return true;
}

bool KvPool::make_private(PageTable& table, int64_t first, int64_t last) {
  std::lock_guard lock(mutex_);
  const bool promised = table.reserved != 0;
  for (int64_t i = first; i < last; i++) {
    int32_t& page = table.pages[size_t(i)];
    const Holders& h = holders_[size_t(page)];
    if (h.promised + h.other == 1) continue;
    if (!promised && h.other > 1 && uncommitted() == 0) return false;  // with h.other == 1 the old page leaves N
    // What is private already stays so: a page copied in vain is none lost. The old page is given up first: it has other holders,
    // and if it leaves N it makes room for the one that enters. The books are right also if the copy throws.
    const int32_t old = page;
    drop(old, promised);
    page = take(promised);
    context_->backend().copy_device(page_address(page), page_address(old), page_bytes());
  }
  return true;
}

void KvPool::shrink(PageTable& table, int64_t count) {
  std::lock_guard lock(mutex_);
  while (int64_t(table.pages.size()) > count) {
    drop(table.pages.back(), table.reserved != 0);
    table.pages.pop_back();
  }
}

void KvPool::release(PageTable& table) {
  shrink(table, 0);
  std::lock_guard lock(mutex_);
  reserved_ -= table.reserved;
  table.reserved = 0;
}

KvView KvPool::view(int32_t layer, const int32_t* page_table) const {
  const int64_t head = int64_t(page_tokens_) * config_.head_dim, one = head * config_.n_kv_heads;  // elements of one head, of one layer's K
  auto base = storage_.as<std::byte>();
  return {base + uint64_t(layer * 2 * one) * dtype_bytes(kv_dtype_),
          base + uint64_t((layer * 2 + 1) * one) * dtype_bytes(kv_dtype_),
          kv_dtype_,
          config_.head_dim,
          head,
          config_.n_layers * 2 * one,
          page_table,
          page_tokens_};
}

void KvPool::query(cf_kv_pool_info& info) const {
  std::lock_guard lock(mutex_);
  info.kv_dtype = kv_dtype_;
  info.page_tokens = page_tokens_;
  info.n_pages = n_pages_;
  info.n_pages_free = uncommitted();
  for (const Holders& h : holders_) info.n_pages_shared += h.promised + h.other > 1;
  info.page_bytes = page_bytes();
  info.allocated_bytes = storage_.size_bytes();
}

}  // namespace cf
