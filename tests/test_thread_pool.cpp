// The thread pool: every task once, whatever else goes on.
#include "unity.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "thread_pool.h"

void setUp() {}
void tearDown() {}

using Counts = std::vector<std::atomic<int>>;

static bool each_is(const Counts& counts, int expected) {
  for (const auto& count : counts)
    if (count.load(std::memory_order_relaxed) != expected) return false;
  return true;
}

static void test_every_task_runs_once(void) {
  for (int threads = 1; threads <= 5; threads++) {
    cf::ThreadPool pool(threads);
    TEST_ASSERT_EQUAL_INT(threads, pool.threads());
    for (int64_t n : {0, 1, 2, 3, 4, 5, 7, 64, 1000, 10007}) {
      Counts counts(static_cast<size_t>(n));
      pool.run(n, [&](int64_t task) { counts[static_cast<size_t>(task)].fetch_add(1, std::memory_order_relaxed); });
      TEST_ASSERT_TRUE(each_is(counts, 1));
    }
  }
}

static void test_what_tasks_wrote_is_seen_after_the_loop(void) {
  cf::ThreadPool pool(4);
  std::vector<int64_t> values(5000);  // not atomic
  for (int64_t loop = 1; loop <= 200; loop++) {
    pool.run(5000, [&](int64_t task) { values[static_cast<size_t>(task)] += loop * task; });
    TEST_ASSERT_EQUAL_INT64(loop * (loop + 1) / 2 * 4999, values[4999]);
  }
  for (int64_t task = 0; task < 5000; task++) TEST_ASSERT_EQUAL_INT64(task * 200 * 201 / 2, values[static_cast<size_t>(task)]);
}

// More loops than the 16 bits that tell them apart, of sizes that change.
static void test_many_loops(void) {
  cf::ThreadPool pool(3);
  std::atomic<int64_t> sum{0};
  int64_t expected = 0;
  for (int64_t loop = 0; loop < 70000; loop++) {
    const int64_t n = loop % 5;
    pool.run(n, [&](int64_t task) { sum.fetch_add(task + 1, std::memory_order_relaxed); });
    expected += n * (n + 1) / 2;
  }
  TEST_ASSERT_EQUAL_INT64(expected, sum.load());
}

static void test_loops_of_several_threads_at_once(void) {
  cf::ThreadPool pool(3);
  constexpr int kCallers = 4, kLoops = 300, kTasks = 200;
  std::vector<Counts> counts;
  for (int i = 0; i < kCallers; i++) counts.emplace_back(kTasks);
  std::vector<std::thread> callers;
  for (int i = 0; i < kCallers; i++)
    callers.emplace_back([&, i] {
      for (int loop = 0; loop < kLoops; loop++)
        pool.run(kTasks, [&](int64_t task) { counts[static_cast<size_t>(i)][static_cast<size_t>(task)].fetch_add(1, std::memory_order_relaxed); });
    });
  for (auto& caller : callers) caller.join();
  for (const auto& c : counts) TEST_ASSERT_TRUE(each_is(c, kLoops));
}

static void test_a_loop_inside_of_a_loop_is_run_by_its_caller(void) {
  cf::ThreadPool pool(3);
  Counts counts(20 * 30);
  for (int loop = 0; loop < 50; loop++)
    pool.run(20, [&](int64_t outer) {
      const auto self = std::this_thread::get_id();
      pool.run(30, [&](int64_t inner) {
        if (std::this_thread::get_id() == self) counts[static_cast<size_t>(outer * 30 + inner)].fetch_add(1, std::memory_order_relaxed);
      });
    });
  TEST_ASSERT_TRUE(each_is(counts, 50));
}

static void test_more_tasks_than_a_loop_can_count(void) {
  cf::ThreadPool pool(2);
  int64_t sum = 0;  // not atomic: the caller does them alone
  const int64_t n = (int64_t{1} << 24) + 3;
  pool.run(n, [&](int64_t task) { sum += task & 1; });
  TEST_ASSERT_EQUAL_INT64(n / 2, sum);
}

static void test_pools_come_and_go(void) {
  for (int i = 0; i < 200; i++) {
    cf::ThreadPool pool(1 + i % 4);
    std::atomic<int> count{0};
    if (i % 3) pool.run(i, [&](int64_t) { count++; });
    TEST_ASSERT_EQUAL_INT(i % 3 ? i : 0, count.load());
  }
}

// Tasks that go on only when all of them have begun: each needs a thread of its own.
static void test_workers_that_have_gone_to_sleep_wake_up(void) {
  cf::ThreadPool pool(4);
  for (int i = 0; i < 20; i++) {
    std::atomic<int> begun{0}, alone{0};
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    pool.run(4, [&](int64_t) {
      begun++;
      const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (begun < 4 && std::chrono::steady_clock::now() < limit) std::this_thread::yield();
      alone += begun < 4;
    });
    TEST_ASSERT_EQUAL_INT(0, alone.load());
  }
}

static void test_a_caller_waits_for_slow_workers(void) {
  cf::ThreadPool pool(3);
  const auto caller = std::this_thread::get_id();
  for (int i = 0; i < 10; i++) {
    std::atomic<int> finished{0};
    pool.run(3, [&](int64_t) {
      if (std::this_thread::get_id() != caller) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      else std::this_thread::sleep_for(std::chrono::milliseconds(1));  // leaves the others a task each
      finished++;
    });
    TEST_ASSERT_EQUAL_INT(3, finished.load());
  }
}

int main() {
  UNITY_BEGIN();
  RUN_TEST(test_every_task_runs_once);
  RUN_TEST(test_what_tasks_wrote_is_seen_after_the_loop);
  RUN_TEST(test_many_loops);
  RUN_TEST(test_loops_of_several_threads_at_once);
  RUN_TEST(test_a_loop_inside_of_a_loop_is_run_by_its_caller);
  RUN_TEST(test_more_tasks_than_a_loop_can_count);
  RUN_TEST(test_pools_come_and_go);
  RUN_TEST(test_workers_that_have_gone_to_sleep_wake_up);
  RUN_TEST(test_a_caller_waits_for_slow_workers);
  return UNITY_END();
}
