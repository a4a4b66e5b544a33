// Pages of keys and values that the sessions of a model share, and how one layer's K and V are found in them.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "clusterfusion.h"
#include "context.h"
#include "memory.h"

namespace cf {

// One layer's K and V of one sequence: element (position p, head g, dimension d) of either is at
// page(p) * page_stride + (p % page_tokens) * token_stride + g * head_stride + d, page(p) = page_table[p / page_tokens].
struct KvView {
  void *k, *v;
  cf_dtype dtype;
  int64_t token_stride, head_stride, page_stride;  // in elements
  const int32_t* page_table;                       // NULL: contiguous
  int64_t page_tokens;                             // without a page table: more than any position
};

// A page holds, for each layer, K then V, each [n_kv_heads, page_tokens, head_dim].
class KvPool {
 public:
  KvPool(std::shared_ptr<Context> context, const cf_model_config& config, cf_dtype kv_dtype, int32_t page_tokens, int64_t capacity_tokens);

  static uint64_t page_bytes(const cf_model_config& config, cf_dtype kv_dtype, int32_t page_tokens);
  int64_t pages_for(int64_t tokens) const { return (tokens + page_tokens_ - 1) / page_tokens_; }

  // Appends `count` pages to `pages`, or returns false and takes none.
  bool acquire(int64_t count, std::vector<int32_t>& pages);
  // Gives back all but the first `keep` pages.
  void release(std::vector<int32_t>& pages, int64_t keep);

  KvView view(int32_t layer, const int32_t* page_table) const;
  cf_dtype kv_dtype() const { return kv_dtype_; }
  int32_t page_tokens() const { return page_tokens_; }
  const cf_model_config& config() const { return config_; }
  void query(cf_kv_pool_info& info) const;

 private:
  const std::shared_ptr<Context> context_;
  const cf_model_config config_;
  const cf_dtype kv_dtype_;
  const int32_t page_tokens_;
  const int64_t n_pages_;
  Buffer storage_;
  mutable std::mutex mutex_;   // of what follows
  std::vector<int32_t> free_;  // taken from the back
};

}  // namespace cf
