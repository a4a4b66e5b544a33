// Threads that share the tasks of one parallel loop after another, a few microseconds apart.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace cf {

class ThreadPool {
 public:
  explicit ThreadPool(int32_t threads);  // the caller's thread counts as one
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  // Runs body(task) for task = 0 .. n_tasks - 1 and returns when all are done. body must not throw. The caller does all its
  // tasks alone if another thread is inside run already (sessions on several threads each keep a core), or if they are 2^24 or more.
  template <class Body>
  void run(int64_t n_tasks, const Body& body) {
    run_tasks(
        n_tasks, [](const void* b, int64_t task) { (*static_cast<const Body*>(b))(task); }, &body);
  }
  int32_t threads() const { return static_cast<int32_t>(workers_.size()) + 1; }

 private:
  using Call = void (*)(const void* body, int64_t task);
  void run_tasks(int64_t n_tasks, Call call, const void* body);
  void work();
  bool do_task();  // false: none is left
  void join();

  std::vector<std::thread> workers_;
  std::atomic_flag in_use_;  // not a mutex: a nested loop looks at it from the thread that holds it
  // The loop at hand. call_ and body_ are written before loop_ is, and stay until done_ has counted all its tasks: who has
  // taken a task from loop_ may read them. A worker that wakes late finds no task and holds nobody up.
  Call call_ = nullptr;
  const void* body_ = nullptr;
  alignas(64) std::atomic<uint64_t> loop_{0};  // 16 bits: which loop; 24 bits: its tasks; 24 bits: the next to be taken
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace cf
