#include "thread_pool.h"

#include <csignal>
#include <exception>
#include <string>

#include "error.h"

namespace cf {

namespace {

constexpr int kSpins = 4000;  // about 20 us, longer than the gap between two loops of a step
constexpr int kTaskBits = 24;
constexpr uint64_t kTaskMask = (uint64_t{1} << kTaskBits) - 1;

constexpr uint64_t loop_word(uint64_t loop, uint64_t n_tasks) { return loop << 2 * kTaskBits | n_tasks << kTaskBits; }
constexpr uint64_t loop_of(uint64_t word) { return word >> 2 * kTaskBits; }
constexpr uint64_t tasks_of(uint64_t word) { return word >> kTaskBits & kTaskMask; }
constexpr uint64_t next_of(uint64_t word) { return word & kTaskMask; }

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns once value is no longer `old`.
template <class T>
void wait_for_change(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; i++) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int32_t threads) {
  sigset_t all, before;  // workers inherit a full mask: the host program's signals are for its own threads
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, &before);
  std::string error;
  try {
    for (int32_t i = 1; i < threads; i++) workers_.emplace_back([this] { work(); });
  } catch (const std::exception& e) {
    error = e.what();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error.empty()) return;
  join();
  fail(CF_ERROR_OUT_OF_MEMORY, "could not start ", threads, " threads (cpu_threads): ", error);
}

ThreadPool::~ThreadPool() { join(); }

void ThreadPool::join() {
  stop_ = true;
  loop_.store(loop_word(loop_of(loop_) + 1, 0), std::memory_order_release);
  loop_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::do_task() {
  uint64_t word = loop_.load(std::memory_order_acquire);
  do {
    if (next_of(word) >= tasks_of(word)) return false;
  } while (!loop_.compare_exchange_weak(word, word + 1, std::memory_order_acquire));
  call_(body_, static_cast<int64_t>(next_of(word)));
  const int64_t tasks = static_cast<int64_t>(tasks_of(word));
  if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == tasks) done_.notify_one();
  return true;
}

void ThreadPool::work() {
  while (!stop_) {
    const uint64_t word = loop_.load(std::memory_order_acquire);  // before do_task: a change in between ends the wait at once
    if (!do_task() && !stop_) wait_for_change(loop_, word);
  }
}

void ThreadPool::run_tasks(int64_t n_tasks, Call call, const void* body) {
  const bool alone = n_tasks <= 1 || n_tasks > int64_t(kTaskMask) || workers_.empty() || in_use_.test_and_set(std::memory_order_acquire);
  if (alone) {
    for (int64_t task = 0; task < n_tasks; task++) call(body, task);
    return;
  }
  call_ = call, body_ = body;
  done_.store(0, std::memory_order_relaxed);
  loop_.store(loop_word(loop_of(loop_.load(std::memory_order_relaxed)) + 1, static_cast<uint64_t>(n_tasks)), std::memory_order_release);
  loop_.notify_all();
  while (do_task()) {}
  for (int64_t done; (done = done_.load(std::memory_order_acquire)) < n_tasks;) wait_for_change(done_, done);
  in_use_.clear(std::memory_order_release);
}

}  // namespace cf
