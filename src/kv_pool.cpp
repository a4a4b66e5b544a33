#include "kv_pool.h"

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
      storage_(context_->device_memory(), mul(uint64_t(n_pages_), page_bytes(config, kv_dtype, page_tokens))) {
  free_.reserve(size_t(n_pages_));
  for (int64_t page = n_pages_ - 1; page >= 0; page--) free_.push_back(int32_t(page));
}

bool KvPool::acquire(int64_t count, std::vector<int32_t>& pages) {
  std::lock_guard lock(mutex_);
  if (count > int64_t(free_.size())) return false;
  pages.insert(pages.end(), free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - size_t(count));
  return true;
}

void KvPool::release(std::vector<int32_t>& pages, int64_t keep) {
  std::lock_guard lock(mutex_);
  while (int64_t(pages.size()) > keep) {
    free_.push_back(pages.back());  // within the capacity reserved in the constructor
    pages.pop_back();
  }
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
  info.n_pages_free = int64_t(free_.size());
  info.page_bytes = page_bytes(config_, kv_dtype_, page_tokens_);
  info.allocated_bytes = storage_.size_bytes();
}

}  // namespace cf
