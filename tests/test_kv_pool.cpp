// The pool of KV pages against a plain model of it.
#include "unity.h"

#include <memory>
#include <set>
#include <vector>

#include "backend.h"
#include "context.h"
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

static cf_kv_pool_info query(const cf::KvPool& pool) {
  cf_kv_pool_info info{};
  pool.query(info);
  return info;
}

static void test_pages_are_taken_and_given_back(void) {
  cf::KvPool pool(context, tiny_config(), CF_DTYPE_F16, 16, 65);
  std::vector<int32_t> pages;
  TEST_ASSERT_EQUAL_INT64(5, query(pool).n_pages);
  TEST_ASSERT_TRUE(pool.acquire(0, pages));
  TEST_ASSERT_TRUE(pages.empty());
  TEST_ASSERT_TRUE(pool.acquire(3, pages));
  TEST_ASSERT_EQUAL_INT64(2, query(pool).n_pages_free);
  TEST_ASSERT_FALSE(pool.acquire(3, pages));  // takes none
  TEST_ASSERT_EQUAL_size_t(3, pages.size());
  TEST_ASSERT_EQUAL_INT64(2, query(pool).n_pages_free);
  TEST_ASSERT_TRUE(pool.acquire(2, pages));
  TEST_ASSERT_EQUAL_INT64(0, query(pool).n_pages_free);
  TEST_ASSERT_EQUAL_size_t(5, std::set<int32_t>(pages.begin(), pages.end()).size());
  const std::vector<int32_t> before = pages;
  pool.release(pages, 7);  // more than there are
  TEST_ASSERT_EQUAL_size_t(5, pages.size());
  pool.release(pages, 2);
  TEST_ASSERT_EQUAL_size_t(2, pages.size());
  TEST_ASSERT_TRUE(pages[0] == before[0] && pages[1] == before[1]);  // the first stay
  TEST_ASSERT_EQUAL_INT64(3, query(pool).n_pages_free);
  pool.release(pages, 0);
  TEST_ASSERT_EQUAL_INT64(5, query(pool).n_pages_free);
}

static void test_random_takes_and_returns(void) {
  constexpr int kHolders = 7, kPages = 40;
  cf::KvPool pool(context, tiny_config(), CF_DTYPE_F32, 16, kPages * 16);
  std::vector<int32_t> held[kHolders];
  int64_t free = kPages;
  random_stream stream = {11};
  for (int i = 0; i < 20000; i++) {
    auto& pages = held[random_bits(&stream) % kHolders];
    const std::vector<int32_t> before = pages;
    if (random_bits(&stream) % 2) {
      const int64_t count = int64_t(random_bits(&stream) % 12);
      const bool fits = count <= free;
      TEST_ASSERT_EQUAL_INT(fits, pool.acquire(count, pages));
      if (fits) free -= count;
      TEST_ASSERT_EQUAL_size_t(before.size() + size_t(fits ? count : 0), pages.size());
      TEST_ASSERT_TRUE(std::equal(before.begin(), before.end(), pages.begin()));
    } else {
      const size_t keep = random_bits(&stream) % (pages.size() + 2);
      pool.release(pages, int64_t(keep));
      const size_t kept = std::min(keep, before.size());
      free += int64_t(before.size() - kept);
      TEST_ASSERT_EQUAL_size_t(kept, pages.size());
      TEST_ASSERT_TRUE(std::equal(pages.begin(), pages.end(), before.begin()));
    }
    TEST_ASSERT_EQUAL_INT64(free, query(pool).n_pages_free);
    std::set<int32_t> all;  // no page has two holders
    size_t total = 0;
    for (const auto& h : held) {
      total += h.size();
      all.insert(h.begin(), h.end());
    }
    TEST_ASSERT_EQUAL_size_t(total, all.size());
    TEST_ASSERT_EQUAL_INT64(kPages - free, int64_t(total));
    if (!all.empty()) TEST_ASSERT_TRUE(*all.begin() >= 0 && *all.rbegin() < kPages);
  }
}

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
            addresses.insert(reinterpret_cast<uintptr_t>(view.k) + offset);
            addresses.insert(reinterpret_cast<uintptr_t>(view.v) + offset);
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
  RUN_TEST(test_pages_are_taken_and_given_back);
  RUN_TEST(test_random_takes_and_returns);
  RUN_TEST(test_views_fill_the_pool_without_overlap);
  RUN_TEST(test_pools_that_no_memory_could_hold);
  return UNITY_END();
}
