#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "launch.h"

namespace emulator {

Fiber* current = nullptr;
Index grid_size, block_size;

namespace {

constexpr size_t kStackBytes = 256 << 10, kSharedBytes = 256 << 10;
constexpr int kLooks = 64;  // of a thread that may be spinning, until others have their turn

struct Copy {
  void* to;
  std::vector<char> bytes;  // what was there when it was asked for; from global memory it is read when it is done
  const void* from;
  uint32_t n;
  uint64_t* barrier;
};

// What a launch runs in, kept from launch to launch.
struct World {
  std::vector<Fiber> fibers;
  std::vector<char*> stacks;
  std::vector<Cta> ctas;
  std::vector<Warp> warps;
  std::vector<Meeting> clusters;
  std::vector<int> live_of_cluster;
  std::vector<Copy> copies;
  char* shared = nullptr;
  size_t shared_ctas = 0;
  void* scheduler = nullptr;
  int cluster_size = 1, live = 0;
  uint64_t turns = 0;
  std::mt19937 random{[] {
    const char* const seed = std::getenv("EMULATOR_SEED");
    return seed ? unsigned(std::atoi(seed)) : 1u;
  }()};
  const LaunchOf* launch = nullptr;
} world;

// Saves what a call has to keep, and goes on on another stack.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
.section .note.GNU-stack,"",@progbits
.text
)");

void to_scheduler() { emulator_switch(&current->stack_pointer, world.scheduler); }

void finish(Meeting& meeting) {
  meeting.arrived = 0, meeting.round++;
  meeting.any_before = meeting.any, meeting.any = false;
}

// An argument as large as any: the callee takes what is its own from the start.
struct Argument {
  char bytes[4096];
};

void run_thread() {
  for (;;) {
    Argument argument;
    std::memcpy(&argument, world.launch->argument.data(), world.launch->argument.size());
    reinterpret_cast<void (*)(Argument)>(reinterpret_cast<uintptr_t>(world.launch->kernel))(argument);
    Fiber& self = *current;
    self.done = true;
    world.live--;
    Cta& cta = *self.cta;
    if (--self.warp->live > 0 && self.warp->meeting.arrived == self.warp->live) finish(self.warp->meeting);
    if (--cta.live > 0 && cta.all.arrived == cta.live) finish(cta.all);
    int& live = world.live_of_cluster[size_t(cta.cluster)];
    Meeting& meeting = world.clusters[size_t(cta.cluster)];
    if (--live > 0 && meeting.arrived == live) finish(meeting);
    to_scheduler();
  }
}

void do_copies() {
  std::vector<Copy> rest;
  for (Copy& copy : world.copies) {
    if (world.random() % 4 == 0) {
      rest.push_back(std::move(copy));
      continue;
    }
    std::memcpy(copy.to, copy.bytes.empty() ? copy.from : copy.bytes.data(), copy.n);
    if (!copy.barrier) continue;
    Barrier& barrier = *reinterpret_cast<Barrier*>(copy.barrier);
    barrier.bytes -= int32_t(copy.n);
    barrier.settle();
  }
  world.copies = std::move(rest);
}

bool waits(const Fiber& fiber) { return fiber.round && *fiber.round == fiber.seen; }

// A turn of a warp: its lanes, until each has to wait for somebody outside it. A lane that may be spinning runs once.
bool run_warp(Fiber* lanes, int n) {
  bool ran = false;
  for (bool first = true;; first = false) {
    bool again = false;
    for (int i = 0; i < n; i++) {
      Fiber& fiber = lanes[i];
      if (fiber.done || waits(fiber) || (!fiber.round && !first)) continue;
      fiber.round = nullptr;
      current = &fiber;
      emulator_switch(&world.scheduler, fiber.stack_pointer);
      again = ran = true;
    }
    if (!again) return ran;
  }
}

void prepare(int n_ctas, int threads) {
  const size_t fibers = size_t(n_ctas) * size_t(threads), warps_of_cta = size_t(threads + kLanes - 1) / kLanes;
  while (world.stacks.size() < fibers) {
    void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) std::perror("emulator"), std::abort();
    world.stacks.push_back(static_cast<char*>(stack));
  }
  if (world.shared_ctas < size_t(n_ctas)) {
    world.shared_ctas = size_t(n_ctas);
    world.shared = static_cast<char*>(std::aligned_alloc(4096, world.shared_ctas * kSharedBytes));
  }
  world.fibers.assign(fibers, {});
  world.ctas.assign(size_t(n_ctas), {});
  world.warps.assign(size_t(n_ctas) * warps_of_cta, {});
}

// Nobody will ever go on: says where the warps stand.
void stop_if_all_wait() {
  if (!std::all_of(world.fibers.begin(), world.fibers.end(), [](const Fiber& fiber) { return fiber.done || waits(fiber); })) return;
  std::fprintf(stderr, "emulator: all %d threads wait for one another\n", world.live);
  for (const Fiber& fiber : world.fibers) {
    if (fiber.done || fiber.lane != 0) continue;
    const Meeting* const named = fiber.cta->named;
    const Meeting* const its = std::find_if(named, named + kNamedBarriers, [&](const Meeting& meeting) { return fiber.round == &meeting.round; });
    const char* const others = fiber.round == &fiber.warp->meeting.round ? "lanes" : "others";
    std::fprintf(stderr, "  CTA %u warp %u: %s %d\n", fiber.cta->index.x, fiber.thread.x / kLanes, its < named + kNamedBarriers ? "barrier" : others,
                 int(its - named));
  }
  std::abort();
}

// CTAs first .. first + n - 1 of the launch, at once.
void run_ctas(const LaunchOf& launch, int first, int n) {
  const int threads = launch.threads, warps_of_cta = (threads + kLanes - 1) / kLanes, size = launch.cluster_size;
  prepare(n, threads);
  std::memset(world.shared, 0xff, size_t(n) * kSharedBytes);  // NaN in every float format
  world.cluster_size = size;
  world.clusters.assign(size_t((n + size - 1) / size), {});
  world.live_of_cluster.assign(world.clusters.size(), size * threads);
  world.live = n * threads;
  world.launch = &launch;
  block_size = {unsigned(threads), 1, 1};
  grid_size = {launch.grid_x, launch.grid_y, 1};
  for (int c = 0; c < n; c++) {
    Cta& cta = world.ctas[size_t(c)];
    const unsigned number = unsigned(first + c);
    cta.index = {number % launch.grid_x, number / launch.grid_x, 0};
    cta.live = threads, cta.rank = c % size, cta.cluster = c / size;
    cta.shared = world.shared + size_t(c) * kSharedBytes;
    cta.warps = &world.warps[size_t(c * warps_of_cta)];
    for (int t = 0; t < threads; t++) {
      Fiber& fiber = world.fibers[size_t(c * threads + t)];
      fiber.cta = &cta, fiber.warp = &cta.warps[t / kLanes], fiber.lane = t % kLanes, fiber.thread = {unsigned(t), 0, 0}, fiber.done = false;
      fiber.warp->live++;
      // As if it had called emulator_switch just before run_thread begins, whose frame is aligned as after a call.
      void** top = reinterpret_cast<void**>(world.stacks[size_t(c * threads + t)] + kStackBytes) - 3;
      *--top = reinterpret_cast<void*>(&run_thread);
      for (int i = 0; i < 6; i++) *--top = nullptr;
      fiber.stack_pointer = top;
    }
  }
  std::vector<int> order(size_t(n * warps_of_cta));
  for (size_t i = 0; i < order.size(); i++) order[i] = int(i);
  while (world.live > 0) {
    std::shuffle(order.begin(), order.end(), world.random);
    bool ran = false;
    for (const int warp : order) {
      if (world.random() % 8 == 0) continue;  // some are slow
      const int cta = warp / warps_of_cta, begin = warp % warps_of_cta * kLanes;
      ran |= run_warp(&world.fibers[size_t(cta * threads + begin)], std::min(kLanes, threads - begin));
    }
    world.turns++;
    const bool copies = !world.copies.empty();
    do_copies();
    if (!ran && !copies && world.turns % 64 == 0) stop_if_all_wait();
  }
  while (!world.copies.empty()) do_copies();
}

}  // namespace

void yield() { to_scheduler(); }
void look() {
  if (++current->looks % kLooks == 0) to_scheduler();
}

void arrive(Meeting& meeting, int threads) {
  if (++meeting.arrived == threads) finish(meeting);
}
void meet(Meeting& meeting, int threads, bool any) {
  meeting.any |= any;
  const uint32_t round = meeting.round;
  arrive(meeting, threads);
  if (meeting.round != round) return;
  current->round = &meeting.round, current->seen = round;
  to_scheduler();
}

uint64_t now_ns() { return world.turns * 100; }
int cluster_size() { return world.cluster_size; }
Meeting& cluster_meeting(int& live) {
  live = world.live_of_cluster[size_t(current->cta->cluster)];
  return world.clusters[size_t(current->cta->cluster)];
}
char* shared_of_rank(char* mine, int rank) { return mine + (rank - current->cta->rank) * static_cast<ptrdiff_t>(kSharedBytes); }

void later(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  Copy copy = {to, {}, from, bytes, barrier};
  if (bytes == 16) copy.bytes.assign(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);  // from registers
  world.copies.push_back(std::move(copy));
}

void run(const LaunchOf& launch) {
  const int n = int(launch.grid_x * launch.grid_y),
            at_once = launch.together ? n : std::max(launch.cluster_size, 4 / launch.cluster_size * launch.cluster_size);
  for (int first = 0; first < n; first += at_once) run_ctas(launch, first, std::min(at_once, n - first));
}

}  // namespace emulator
