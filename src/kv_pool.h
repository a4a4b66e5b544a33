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

// The pages that one session holds, in order of position. Made and changed by KvPool.
struct PageTable {
  std::vector<int32_t> pages;  // its memory does not move: room for the session's capacity is reserved
  int64_t reserved = 0;        // pages that the pool has promised this session; 0: takes them as it goes
};

// A page holds, for each layer, K then V, each [n_kv_heads, page_tokens, head_dim]. It may be held by several tables; who
// writes to it makes it private first (copy on write).
//
// Promises: let C be the sum of what tables have reserved and N the number of pages that tables without a reservation hold.
// C + N never exceeds the number of pages. A table with a reservation holds at most what it reserved, so the distinct pages
// in use are at most C + N, and fewer whenever a page is shared: a table with a reservation always finds the page it needs,
// also to copy a shared one.
class KvPool {
 public:
  KvPool(std::shared_ptr<Context> context, const cf_model_config& config, cf_dtype kv_dtype, int32_t page_tokens, int64_t capacity_tokens);

  static uint64_t page_bytes(const cf_model_config& config, cf_dtype kv_dtype, int32_t page_tokens);
  uint64_t page_bytes() const { return page_bytes(config_, kv_dtype_, page_tokens_); }
  int64_t pages_for(int64_t tokens) const { return (tokens + page_tokens_ - 1) / page_tokens_; }

  // Each answers false, and changes nothing, if the pool has no room for it.
  bool reserve(PageTable& table, int64_t count);                       // once, of an empty table: promises pages; takes none
  bool grow(PageTable& table, int64_t count);                          // until it holds at least `count` pages
  bool share(const PageTable& from, int64_t count, PageTable& table);  // the first `count` pages, to an empty table
  bool make_private(PageTable& table, int64_t first, int64_t last);    // pages first .. last - 1 of the table, for writing
  void shrink(PageTable& table, int64_t count);                        // gives back all but the first `count` pages
  void release(PageTable& table);                                      // and what it had reserved

  KvView view(int32_t layer, const int32_t* page_table) const;
  std::byte* page_address(int32_t page) const { return storage_.as<std::byte>() + uint64_t(page) * page_bytes(); }
  cf_dtype kv_dtype() const { return kv_dtype_; }
  int32_t page_tokens() const { return page_tokens_; }
  const cf_model_config& config() const { return config_; }
  void query(cf_kv_pool_info& info) const;

 private:
  struct Holders {
    int32_t promised = 0, other = 0;  // tables with and without a reservation
  };
  int64_t uncommitted() const { return n_pages_ - reserved_ - held_by_others_; }
  int32_t take(bool promised);
  void hold(int32_t page, bool promised);
  void drop(int32_t page, bool promised);

  const std::shared_ptr<Context> context_;
  const cf_model_config config_;
  const cf_dtype kv_dtype_;
  const int32_t page_tokens_;
  const int64_t n_pages_;
  Buffer storage_;
  mutable std::mutex mutex_;      // of what follows
  std::vector<int32_t> free_;     // taken from the back
  std::vector<Holders> holders_;  // of each page
  int64_t reserved_ = 0;          // C
  int64_t held_by_others_ = 0;    // N
};

}  // namespace cf
