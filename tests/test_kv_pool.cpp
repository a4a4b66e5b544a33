// The pool of KV pages against a plain model of it: who holds which page, what is promised, what stands in each page.
#include "unity.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "backend.h"
#include "context.h"
#include "error.h"
#include "kv_pool.h"
#include "structs.h"
#include "support/checkpoint_writer.h"

static std::shared_ptr<cf::Context> context;

void setUp() {
  auto options = cf::defaults<cf_context_options>();
  options.cpu_threads = 1;
  context = std::make_shared<cf::Context>(options);
}
void tearDown() { context.reset(); }

static cf_model_config tiny_config() {
  auto c = cf::defaults<cf_model_config>();
  c.n_layers = 3, c.n_kv_heads = 2, c.head_dim = 32;
  return c;
}

static cf_model_config smallest_config() {
  auto c = cf::defaults<cf_model_config>();
  c.n_layers = c.n_kv_heads = 1, c.head_dim = 32;
  return c;
}

static cf_kv_pool_info query(const cf::KvPool& pool) {
  cf_kv_pool_info info{};
  pool.query(info);
  return info;
}

// Every eighth word of a page, from the first to the last.
static void write_stamp(const cf::KvPool& pool, int32_t page, uint64_t stamp) {
  for (uint64_t at = 0; at < pool.page_bytes(); at += 64) std::memcpy(pool.page_address(page) + at, &stamp, sizeof stamp);
  std::memcpy(pool.page_address(page) + pool.page_bytes() - sizeof stamp, &stamp, sizeof stamp);
}

static bool has_stamp(const cf::KvPool& pool, int32_t page, uint64_t stamp) {
  for (uint64_t at = 0; at < pool.page_bytes(); at += 64)
    if (std::memcmp(pool.page_address(page) + at, &stamp, sizeof stamp)) return false;
  return std::memcmp(pool.page_address(page) + pool.page_bytes() - sizeof stamp, &stamp, sizeof stamp) == 0;
}

/* ---- The model ---- */

constexpr int kTables = 12;
constexpr int64_t kPages = 18;

// Pages have names of their own here, which are never used again: that two tables hold the same one does not depend on which
// page of memory the pool chose for it.
struct ModelTable {
  std::vector<int> pages;
  int64_t reserved = 0;
};

struct PoolModel {
  ModelTable tables[kTables];
  std::map<int, uint64_t> stamps;  // by name, of the pages that are held
  int n_named = 0;

  int new_page(uint64_t stamp) {
    stamps[n_named] = stamp;
    return n_named++;
  }
  int holders(int page, bool only_unreserved = false) const {
    int n = 0;
    for (const ModelTable& t : tables)
      if (!only_unreserved || !t.reserved) n += int(std::count(t.pages.begin(), t.pages.end(), page));
    return n;
  }
  // Pages that nobody may claim: neither reserved nor held by a table without a reservation.
  int64_t uncommitted() const {
    int64_t reserved = 0;
    std::set<int> held;
    for (const ModelTable& t : tables) {
      reserved += t.reserved;
      if (!t.reserved) held.insert(t.pages.begin(), t.pages.end());
    }
    return kPages - reserved - int64_t(held.size());
  }
  int64_t shared() const {
    int64_t n = 0;
    for (const auto& [page, stamp] : stamps) n += holders(page) > 1;
    return n;
  }
  void forget_unheld() {
    std::erase_if(stamps, [this](const auto& entry) { return holders(entry.first) == 0; });
  }

  bool reserve(int t, int64_t count) {
    if (count > uncommitted()) return false;
    tables[t].reserved = count;
    return true;
  }
  bool grow(int t, int64_t count, const std::vector<uint64_t>& new_stamps) {
    const int64_t missing = count - int64_t(tables[t].pages.size());
    if (missing <= 0) return true;
    if (tables[t].reserved ? count > tables[t].reserved : missing > uncommitted()) return false;
    for (int64_t i = 0; i < missing; i++) tables[t].pages.push_back(new_page(new_stamps[size_t(i)]));
    return true;
  }
  bool share(int from, int64_t count, int t) {
    int64_t added = 0;
    for (int64_t i = 0; i < count; i++) added += holders(tables[from].pages[size_t(i)], true) == 0;
    if (tables[t].reserved ? count > tables[t].reserved : added > uncommitted()) return false;
    tables[t].pages.assign(tables[from].pages.begin(), tables[from].pages.begin() + count);
    return true;
  }
  bool make_private(int t, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; i++) {
      const int page = tables[t].pages[size_t(i)];
      if (holders(page) == 1) continue;
      tables[t].pages[size_t(i)] = new_page(stamps[page]);
      if (tables[t].reserved || uncommitted() >= 0) continue;
      tables[t].pages[size_t(i)] = page;  // one more than there is
      forget_unheld();
      return false;
    }
    return true;
  }
  void shrink(int t, int64_t count) {
    if (int64_t(tables[t].pages.size()) > count) tables[t].pages.resize(size_t(count));
    forget_unheld();
  }
};

/* ---- Random operations ---- */

// The same page in the model is the same page of the pool, different ones are different, and each holds what was written last.
static void expect_same_pages(const cf::KvPool& pool, const PoolModel& model, const cf::PageTable* tables, bool contents) {
  std::map<int, int32_t> place;
  for (int t = 0; t < kTables; t++) {
    TEST_ASSERT_EQUAL_size_t(model.tables[t].pages.size(), tables[t].pages.size());
    TEST_ASSERT_EQUAL_INT64(model.tables[t].reserved, tables[t].reserved);
    for (size_t i = 0; i < tables[t].pages.size(); i++) {
      const int name = model.tables[t].pages[i];
      const int32_t page = tables[t].pages[i];
      TEST_ASSERT_TRUE(page >= 0 && page < kPages);
      TEST_ASSERT_EQUAL_INT32(place.emplace(name, page).first->second, page);
      if (contents) TEST_ASSERT_TRUE_MESSAGE(has_stamp(pool, page, model.stamps.at(name)), "a page has changed");
    }
  }
  std::set<int32_t> pages;
  for (const auto& [name, page] : place) pages.insert(page);
  TEST_ASSERT_EQUAL_size_t_MESSAGE(place.size(), pages.size(), "two tables hold a page that they do not share");
}

static void test_random_operations_against_a_model(void) {
  cf::KvPool pool(context, smallest_config(), CF_DTYPE_F16, 16, kPages * 16);
  PoolModel model;
  cf::PageTable tables[kTables];
  random_stream stream = {11};
  const auto below = [&](int64_t n) { return int64_t(random_bits(&stream) % uint64_t(n)); };
  int64_t refused = 0, copied = 0;
  for (int step = 0; step < 100000; step++) {
    const int t = int(below(kTables));
    ModelTable& mine = model.tables[t];
    const int64_t size = int64_t(mine.pages.size());
    const auto expect = [&](bool expected, bool actual, const char* what) {
      TEST_ASSERT_EQUAL_INT_MESSAGE(expected, actual, what);
      refused += !expected;
    };
    switch (below(16)) {
      case 0:
        if (size || mine.reserved) break;
        if (const int64_t count = 1 + below(8); true) expect(model.reserve(t, count), pool.reserve(tables[t], count), "reserve");
        break;
      case 1:
      case 2:
      case 3: {
        const int64_t count = below(10);
        std::vector<uint64_t> stamps;
        for (int i = 0; i < 10; i++) stamps.push_back(random_bits(&stream));
        expect(model.grow(t, count, stamps), pool.grow(tables[t], count), "grow");
        for (size_t i = size_t(size); i < tables[t].pages.size(); i++) write_stamp(pool, tables[t].pages[i], stamps[i - size_t(size)]);
        break;
      }
      case 4:
      case 5:
      case 6:
      case 7: {
        const int from = int(below(kTables));
        if (from == t || model.tables[from].pages.empty()) break;
        model.shrink(t, 0);  // which keeps a promise
        pool.shrink(tables[t], 0);
        const int64_t count = 1 + below(int64_t(model.tables[from].pages.size()));
        expect(model.share(from, count, t), pool.share(tables[from], count, tables[t]), "share");
        break;
      }
      default: {  // what a step does: some pages are made private, then written
        const int64_t first = below(size + 1), last = first + below(size - first + 1);
        const std::vector<int> before = mine.pages;
        const bool made = model.make_private(t, first, last);
        expect(made, pool.make_private(tables[t], first, last), "make_private");
        for (int64_t i = first; i < last && made; i++) {
          const size_t at = size_t(i);
          copied += before[at] != mine.pages[at];
          TEST_ASSERT_TRUE_MESSAGE(has_stamp(pool, tables[t].pages[at], model.stamps.at(mine.pages[at])), "a copy differs");
          write_stamp(pool, tables[t].pages[at], model.stamps[mine.pages[at]] = random_bits(&stream));
        }
        model.forget_unheld();
        break;
      }
      case 8: {
        const int64_t count = below(size + 2);
        model.shrink(t, count);
        pool.shrink(tables[t], count);
        break;
      }
      case 9:
        model.tables[t] = {};
        model.forget_unheld();
        pool.release(tables[t]);
    }
    const cf_kv_pool_info info = query(pool);
    TEST_ASSERT_EQUAL_INT64(model.uncommitted(), info.n_pages_free);
    TEST_ASSERT_EQUAL_INT64(model.shared(), info.n_pages_shared);
    TEST_ASSERT_GREATER_OR_EQUAL(0, info.n_pages_free);
    expect_same_pages(pool, model, tables, step % 16 == 0);
  }
  TEST_ASSERT_GREATER_THAN(2000, refused);
  TEST_ASSERT_GREATER_THAN(2000, copied);
  for (int t = 0; t < kTables; t++) pool.release(tables[t]);
  TEST_ASSERT_EQUAL_INT64(kPages, query(pool).n_pages_free);
  TEST_ASSERT_EQUAL_INT64(0, query(pool).n_pages_shared);
  cf::PageTable all;
  TEST_ASSERT_TRUE(pool.grow(all, kPages));  // each can be had
  TEST_ASSERT_EQUAL_size_t(size_t(kPages), std::set<int32_t>(all.pages.begin(), all.pages.end()).size());
  pool.release(all);
}

/* ---- Taking and giving back ---- */

static void test_pages_are_taken_and_given_back(void) {
  cf::KvPool pool(context, tiny_config(), CF_DTYPE_F16, 16, 65);
  cf::PageTable table;
  TEST_ASSERT_EQUAL_INT64(5, query(pool).n_pages);
  TEST_ASSERT_TRUE(pool.grow(table, 0));
  TEST_ASSERT_TRUE(pool.grow(table, 3));
  TEST_ASSERT_EQUAL_INT64(2, query(pool).n_pages_free);
  TEST_ASSERT_FALSE(pool.grow(table, 6));  // takes none
  TEST_ASSERT_EQUAL_size_t(3, table.pages.size());
  TEST_ASSERT_TRUE(pool.grow(table, 2));  // has them
  TEST_ASSERT_EQUAL_INT64(2, query(pool).n_pages_free);
  TEST_ASSERT_TRUE(pool.grow(table, 5));
  TEST_ASSERT_EQUAL_INT64(0, query(pool).n_pages_free);
  const std::vector<int32_t> before = table.pages;
  pool.shrink(table, 7);  // more than there are
  TEST_ASSERT_EQUAL_size_t(5, table.pages.size());
  pool.shrink(table, 2);
  TEST_ASSERT_EQUAL_size_t(2, table.pages.size());
  TEST_ASSERT_TRUE(table.pages[0] == before[0] && table.pages[1] == before[1]);  // the first stay
  TEST_ASSERT_EQUAL_INT64(3, query(pool).n_pages_free);
  pool.release(table);
  TEST_ASSERT_EQUAL_INT64(5, query(pool).n_pages_free);
}

/* ---- Promises ---- */

// A pool of `n` pages and a few tables.
struct World {
  explicit World(int64_t n) : pool(context, smallest_config(), CF_DTYPE_F32, 16, n * 16) {}
  cf::KvPool pool;
  cf::PageTable a, b, c, d;
};

static void test_what_is_promised_is_nobody_elses(void) {
  World w(4);
  TEST_ASSERT_TRUE(w.pool.reserve(w.a, 3));
  TEST_ASSERT_EQUAL_INT64(1, query(w.pool).n_pages_free);  // although none is held
  TEST_ASSERT_FALSE(w.pool.grow(w.b, 2));
  TEST_ASSERT_FALSE(w.pool.reserve(w.b, 2));
  TEST_ASSERT_TRUE(w.pool.grow(w.b, 1));
  TEST_ASSERT_TRUE(w.pool.grow(w.a, 3));
  TEST_ASSERT_FALSE(w.pool.grow(w.a, 4));  // beyond its promise, full or not
  w.pool.shrink(w.b, 0);
  TEST_ASSERT_FALSE(w.pool.grow(w.a, 4));
  w.pool.shrink(w.a, 0);  // gives back pages, not the promise
  TEST_ASSERT_EQUAL_INT64(1, query(w.pool).n_pages_free);
  w.pool.release(w.a);
  TEST_ASSERT_EQUAL_INT64(4, query(w.pool).n_pages_free);
}

// The whole pool is promised to two tables that share what the first wrote: the second finds room for every copy.
static void test_a_promise_covers_the_copy_of_a_shared_page(void) {
  World w(6);
  TEST_ASSERT_TRUE(w.pool.reserve(w.a, 3) && w.pool.grow(w.a, 3));
  for (int i = 0; i < 3; i++) write_stamp(w.pool, w.a.pages[size_t(i)], uint64_t(i) + 100);
  TEST_ASSERT_TRUE(w.pool.reserve(w.b, 3) && w.pool.share(w.a, 3, w.b));
  TEST_ASSERT_EQUAL_INT64(0, query(w.pool).n_pages_free);
  TEST_ASSERT_EQUAL_INT64(3, query(w.pool).n_pages_shared);
  TEST_ASSERT_FALSE(w.pool.grow(w.c, 1));  // three pages are held by nobody, but they are promised
  TEST_ASSERT_TRUE(w.pool.make_private(w.b, 0, 3));
  TEST_ASSERT_EQUAL_INT64(0, query(w.pool).n_pages_shared);
  for (int i = 0; i < 3; i++) {
    TEST_ASSERT_TRUE(w.a.pages[size_t(i)] != w.b.pages[size_t(i)]);
    TEST_ASSERT_TRUE(has_stamp(w.pool, w.b.pages[size_t(i)], uint64_t(i) + 100));
  }
}

// A page held by tables with and without a promise: when the first goes, the page stays, and it is counted once throughout.
static void test_a_page_outlives_the_promise_it_was_taken_under(void) {
  World w(3);
  TEST_ASSERT_TRUE(w.pool.reserve(w.a, 2) && w.pool.grow(w.a, 2));
  write_stamp(w.pool, w.a.pages[0], 7);
  TEST_ASSERT_TRUE(w.pool.share(w.a, 1, w.b));
  TEST_ASSERT_EQUAL_INT64(0, query(w.pool).n_pages_free);  // for either of them might come to need a page of its own
  TEST_ASSERT_FALSE(w.pool.grow(w.c, 1));
  TEST_ASSERT_TRUE(w.pool.share(w.b, 1, w.d));  // counts already
  w.pool.release(w.d);
  TEST_ASSERT_TRUE(w.pool.make_private(w.a, 0, 1));  // the promise holds
  TEST_ASSERT_TRUE(w.a.pages[0] != w.b.pages[0]);
  w.pool.release(w.a);
  TEST_ASSERT_EQUAL_INT64(2, query(w.pool).n_pages_free);
  TEST_ASSERT_TRUE(w.pool.grow(w.c, 2));
  TEST_ASSERT_FALSE(w.pool.grow(w.c, 3));
  TEST_ASSERT_TRUE(has_stamp(w.pool, w.b.pages[0], 7));
}

// In a full pool a table without a promise can still copy what only tables with one share with it: its own count of the old
// page makes room for that of the new one.
static void test_a_copy_that_needs_no_further_room(void) {
  World w(3);
  TEST_ASSERT_TRUE(w.pool.reserve(w.a, 2) && w.pool.grow(w.a, 2));
  write_stamp(w.pool, w.a.pages[0], 9);
  TEST_ASSERT_TRUE(w.pool.share(w.a, 1, w.b));
  TEST_ASSERT_EQUAL_INT64(0, query(w.pool).n_pages_free);
  TEST_ASSERT_TRUE(w.pool.make_private(w.b, 0, 1));
  TEST_ASSERT_EQUAL_INT64(0, query(w.pool).n_pages_free);
  TEST_ASSERT_TRUE(has_stamp(w.pool, w.b.pages[0], 9));
  TEST_ASSERT_TRUE(w.a.pages[0] != w.b.pages[0]);
}

// Two without a promise in a full pool: no copy, and nothing has changed.
static void test_a_copy_that_finds_no_room(void) {
  World w(2);
  TEST_ASSERT_TRUE(w.pool.grow(w.a, 1) && w.pool.share(w.a, 1, w.b) && w.pool.grow(w.c, 1));
  write_stamp(w.pool, w.a.pages[0], 5);
  TEST_ASSERT_FALSE(w.pool.make_private(w.b, 0, 1));
  TEST_ASSERT_EQUAL_INT32(w.a.pages[0], w.b.pages[0]);
  TEST_ASSERT_EQUAL_INT64(1, query(w.pool).n_pages_shared);
  TEST_ASSERT_TRUE(has_stamp(w.pool, w.b.pages[0], 5));
  w.pool.release(w.c);
  TEST_ASSERT_TRUE(w.pool.make_private(w.b, 0, 1));
  TEST_ASSERT_TRUE(w.a.pages[0] != w.b.pages[0] && has_stamp(w.pool, w.b.pages[0], 5) && has_stamp(w.pool, w.a.pages[0], 5));
}

static void test_sharing_that_finds_no_room(void) {
  World w(3);
  TEST_ASSERT_TRUE(w.pool.reserve(w.a, 3) && w.pool.grow(w.a, 3));
  TEST_ASSERT_FALSE(w.pool.share(w.a, 1, w.b));  // would have to keep a page that is promised
  TEST_ASSERT_TRUE(w.b.pages.empty());
  TEST_ASSERT_TRUE(w.pool.share(w.a, 0, w.b));
  w.pool.release(w.a);
  TEST_ASSERT_TRUE(w.pool.reserve(w.a, 1) && w.pool.grow(w.c, 2));
  TEST_ASSERT_FALSE(w.pool.share(w.c, 2, w.a));  // more than was promised
  TEST_ASSERT_TRUE(w.a.pages.empty());
  TEST_ASSERT_TRUE(w.pool.share(w.c, 1, w.a));
  TEST_ASSERT_TRUE(w.pool.make_private(w.a, 0, 1));
}

/* ---- Addresses ---- */

// Every element of every layer, head, position and of K and V has an address of its own within the pool.
static void test_views_fill_the_pool_without_overlap(void) {
  const cf_model_config c = tiny_config();
  for (cf_dtype dtype : {CF_DTYPE_F32, CF_DTYPE_BF16}) {
    const size_t size = dtype == CF_DTYPE_F32 ? 4 : 2;
    cf::KvPool pool(context, c, dtype, 16, 48);
    const int32_t table[3] = {2, 0, 1};
    std::set<uintptr_t> addresses;
    for (int32_t layer = 0; layer < c.n_layers; layer++) {
      const cf::KvView view = pool.view(layer, table);
      TEST_ASSERT_EQUAL_INT64(16, view.page_tokens);
      for (int64_t p = 0; p < 48; p++)
        for (int64_t g = 0; g < c.n_kv_heads; g++)
          for (int64_t d = 0; d < c.head_dim; d++) {
            const uint64_t offset =
                uint64_t(view.page_table[p / 16] * view.page_stride + p % 16 * view.token_stride + g * view.head_stride + d) * size;
            const auto k = reinterpret_cast<std::byte*>(view.k) + offset, v = reinterpret_cast<std::byte*>(view.v) + offset;
            const auto page = pool.page_address(table[p / 16]);
            TEST_ASSERT_TRUE(k >= page && k < page + pool.page_bytes() && v >= page && v < page + pool.page_bytes());
            addresses.insert(reinterpret_cast<uintptr_t>(k));
            addresses.insert(reinterpret_cast<uintptr_t>(v));
          }
    }
    const size_t elements = size_t(3 * 2 * 48 * 2 * 32);
    TEST_ASSERT_EQUAL_size_t(elements, addresses.size());
    TEST_ASSERT_EQUAL_UINT64(elements * size, query(pool).allocated_bytes);
    TEST_ASSERT_EQUAL_UINT64(elements * size - size, *addresses.rbegin() - *addresses.begin());
    TEST_ASSERT_EQUAL_UINT64(query(pool).allocated_bytes, 3 * query(pool).page_bytes);
  }
}

static void test_pools_that_no_memory_could_hold(void) {
  cf_model_config c = tiny_config();
  c.n_layers = 1024, c.n_kv_heads = 1 << 20, c.head_dim = 256;
  const uint64_t before = context->host_memory()->allocated_bytes();
  try {
    cf::KvPool pool(context, c, CF_DTYPE_F32, 256, int64_t{1} << 40);
    TEST_FAIL_MESSAGE("expected an error");
  } catch (const cf::Error& error) {
    TEST_ASSERT_EQUAL_INT32(CF_ERROR_OUT_OF_MEMORY, error.status);
  }
  TEST_ASSERT_EQUAL_UINT64(before, context->host_memory()->allocated_bytes());
}

int main() {
  UNITY_BEGIN();
  RUN_TEST(test_random_operations_against_a_model);
  RUN_TEST(test_pages_are_taken_and_given_back);
  RUN_TEST(test_what_is_promised_is_nobody_elses);
  RUN_TEST(test_a_promise_covers_the_copy_of_a_shared_page);
  RUN_TEST(test_a_page_outlives_the_promise_it_was_taken_under);
  RUN_TEST(test_a_copy_that_needs_no_further_room);
  RUN_TEST(test_a_copy_that_finds_no_room);
  RUN_TEST(test_sharing_that_finds_no_room);
  RUN_TEST(test_views_fill_the_pool_without_overlap);
  RUN_TEST(test_pools_that_no_memory_could_hold);
  return UNITY_END();
}
