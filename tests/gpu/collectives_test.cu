// kernels/cluster.cuh alone, for clusters of 1, 2, 4, 8 and 16 CTAs: what every CTA gets, bit by bit, beside a loop on the host in order of
// ranks. Roles of 128 and 64 threads among 320 work at the same time, from random data into poisoned memory, also with delays.
//
// collectives_test --time: ns of each collective, beside barriers of clusters and the same exchange through words in global memory, on idle
// memory and on memory that all SMs stream from; and how many CTAs run at once in clusters of each size.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/cluster.cuh"
#include "unity.h"

using namespace cf::gpu;

void setUp() {}
void tearDown() {}

namespace {

constexpr int kThreads = 320;
constexpr int kRoles = 2;
CF_BOTH constexpr int role_begin(int role) { return role == 0 ? 64 : 256; }
CF_BOTH constexpr int role_threads(int role) { return role == 0 ? 128 : 64; }
constexpr uint64_t kPatienceNs = 2'000'000'000;  // of a role for a whole script
constexpr uint32_t kPoison = 0x7fc0dead;
constexpr int kSizes[] = {1, 2, 4, 8, 16};

enum Kind : int {
  kReduceInOne,
  kReduceInTwo,
  kReduce,
  kScatter,
  kMaxInOne,
  kMaxInTwo,
  kMaxScatter,
  kGather,
  kGatherToOne,
  kMerge,
  kMergeShare,
  kInbox,
  kKinds
};
const char* const kNames[kKinds] = {"sum, one trip", "sum, two trips", "sum",           "sum, shares", "max, one trip", "max, two trips",
                                    "max, shares",   "gather",         "gather to one", "merge",       "merge, shares", "inbox"};
CF_BOTH constexpr bool gathers(Kind kind) { return kind == kGather || kind == kGatherToOne || kind == kInbox; }

// A collective of a script. extra: the root of a gathering, or what the numbers of parts follow from.
struct Step {
  Kind kind;
  int n, extra;
  uint32_t seed;
  int out_at;  // words into a role's output
};

CF_BOTH inline uint32_t hash(uint32_t a, uint32_t b = 0, uint32_t c = 0, uint32_t d = 0) {
  uint32_t h = a * 0x9e3779b1u ^ (b + 0x7f4a7c15u) * 0x85ebca6bu ^ (c + 0x165667b1u) * 0xc2b2ae35u ^ (d + 0x27d4eb2fu) * 0x2545f491u;
  h ^= h >> 16, h *= 0x7feb352du, h ^= h >> 15, h *= 0x846ca68bu;
  return h ^ h >> 16;
}
// Of both signs and 64 binades, so that a sum depends on its order; never zero.
CF_BOTH inline uint32_t number_bits(uint32_t h) { return (h & 0x80000000u) | (96 + (h >> 8 & 63)) << 23 | (hash(h) & 0x7fffffu); }
// Segments of 0 to n words.
CF_BOTH inline int segment(int n, int rank) { return n - rank * 5 % (n + 1); }
CF_BOTH inline int parts_of(int extra, int rank) { return (extra + rank) % (extra > 8 ? extra : 3); }
CF_BOTH inline int max_parts(int extra) { return extra > 8 ? extra - 1 : 2; }

// Element i of what a CTA brings into a step.
CF_BOTH inline uint32_t input_bits(const Step& step, int cluster, int rank, int i) {
  const uint32_t h = hash(step.seed, static_cast<uint32_t>(cluster), static_cast<uint32_t>(rank), static_cast<uint32_t>(i));
  if (gathers(step.kind)) return h;
  if (step.kind != kMerge && step.kind != kMergeShare) return number_bits(h);
  const int in_part = i % partial_floats(step.n);  // a maximum is a small whole number, so that its weight is a power of two
  if (in_part > 0) return number_bits(h);
  const uint32_t tens[8] = {0xff800000u, 0x40000000u, 0x40400000u, 0x40800000u, 0xc0000000u, 0x3f800000u, 0x41000000u, 0x41100000u};
  return tens[h % 8];  // -infinity, 2, 3, 4, -2, 1, 8, 9
}
CF_BOTH inline int input_floats(const Step& step) {
  if (step.kind == kMerge || step.kind == kMergeShare) return max_parts(step.extra) * partial_floats(step.n);
  return step.n;
}
CF_BOTH inline int output_floats(const Step& step, int size) {
  if (step.kind == kMerge || step.kind == kMergeShare) return partial_floats(step.n);
  if (!gathers(step.kind)) return step.n;
  int all = 0;
  for (int rank = 0; rank < size; rank++) all += segment(step.n, rank);
  return all;
}
// What an inbox holds: the CTAs' segments in slots of this size.
CF_BOTH constexpr int inbox_slot(int n) { return 4 * cluster_quads(n); }
int buffer_floats(const Step& step, int size) {
  const int share = share_floats(step.n, size);
  switch (step.kind) {
    case kReduce: return receive_floats(all_reduce_slot(step.n, size), size);
    case kReduceInOne:
    case kMaxInOne:
    case kGather:
    case kGatherToOne: return receive_floats(step.n, size);
    case kMerge: return receive_floats(max_parts(step.extra) * partial_floats(step.n), size);
    case kMergeShare: return receive_floats(max_parts(step.extra) * partial_floats(share), size);
    case kInbox: return receive_floats(1, size);
    default: return receive_floats(share, size);
  }
}

// 2^(max - common), exactly, on the host as on the device.
struct PowerWeight {
  CF_BOTH float operator()(float max, float common) const {
    return max == -INFINITY ? 0.0f : 1.0f / static_cast<float>(1 << static_cast<int>(common - max));
  }
};

struct Script {
  const Step* steps;
  int n_steps;
  uint32_t* out;  // [CTA][role][out_words]
  int out_words;
  int buffer_floats, in_floats, out_floats, inbox_floats;  // in shared memory, of a role
  int delays;
  int absent;  // rank that takes no part; -1: none
  uint64_t limit_ns;
  uint32_t* failures;
};

struct Patience {
  uint64_t since, limit_ns;
  __device__ bool operator()() const { return ptx::wall_clock_ns() - since > limit_ns; }
};

extern __shared__ __align__(128) char test_memory[];

__device__ void spin(uint32_t cycles) {
  const long long begin = clock64();
  while (clock64() - begin < cycles) {}
}

// A role's inbox, and how many gatherings it got.
struct Inbox {
  ClusterInbox inbox;
  float* memory;
  uint32_t taken;
};

// All segments to one CTA; then a collective, so that all know that they have been used.
template <class Role>
__device__ bool gather_in_inbox(Role& role, int thread, int threads, int barrier, const Step& step, Inbox& to, float* in, float* out,
                                Patience patience) {
  const int root = step.extra % role.size(), slot = inbox_slot(step.n);
  ptx::sync_threads(barrier, threads);
  for (int q = thread; q < cluster_quads(segment(step.n, role.rank())); q += threads)
    to.inbox.put(to.memory + role.rank() * slot + 4 * q, reinterpret_cast<const float4*>(in)[q], root);
  bool came = true;
  if (role.rank() == root) {
    int bytes = 0;
    for (int from = 0; from < role.size(); from++) bytes += 16 * cluster_quads(segment(step.n, from));
    if (thread == 0) to.inbox.expect(bytes);
    came = to.inbox.wait(to.taken++, patience);
    for (int from = 0, at = 0; came && from < role.size(); at += segment(step.n, from++))
      for (int i = thread; i < segment(step.n, from); i += threads) out[at + i] = to.memory[from * slot + i];
  }
  const auto nothing = [](int) { return 0; };
  return role.gather(in, nothing, out) && came;
}

template <class Role>
__device__ bool run_step(Role& role, const Step& step, float* in, float* out) {
  const auto length_of = [&](int rank) { return segment(step.n, rank); };
  const auto parts = [&](int rank) { return parts_of(step.extra, rank); };
  switch (step.kind) {
    case kReduceInOne: return role.all_reduce_in_one(in, step.n, out, ClusterSum());
    case kReduceInTwo: return role.all_reduce_in_two(in, step.n, out, ClusterSum());
    case kReduce: return role.all_reduce(in, step.n, out, ClusterSum());
    case kScatter: return role.reduce_scatter(in, step.n, out, ClusterSum());
    case kMaxInOne: return role.all_reduce_in_one(in, step.n, out, ClusterMax());
    case kMaxInTwo: return role.all_reduce_in_two(in, step.n, out, ClusterMax());
    case kMaxScatter: return role.reduce_scatter(in, step.n, out, ClusterMax());
    case kGather: return role.gather(reinterpret_cast<uint32_t*>(in), length_of, reinterpret_cast<uint32_t*>(out));
    case kGatherToOne: return role.gather(reinterpret_cast<uint32_t*>(in), length_of, reinterpret_cast<uint32_t*>(out), step.extra % role.size());
    case kMerge: return role.merge(in, parts, step.n, out, PowerWeight());
    default: return role.template merge<true>(in, parts, step.n, out, PowerWeight());
  }
}

template <int kSize>
__global__ void __launch_bounds__(kThreads, 1) run_script(const Script s) {
  auto* const barriers = reinterpret_cast<ClusterBarriers*>(test_memory);
  uint64_t* const inboxes = reinterpret_cast<uint64_t*>(barriers + kRoles);
  for (int r = 0; r < kRoles && threadIdx.x == 0; r++) ClusterInbox{&inboxes[r]}.init();
  cluster_enter(barriers, kRoles, static_cast<int>(threadIdx.x));
  for (int r = 0; r < kRoles; r++) {
    const int thread = static_cast<int>(threadIdx.x) - role_begin(r), threads = role_threads(r);
    if (thread < 0 || thread >= threads) continue;
    float* const receive = reinterpret_cast<float*>(test_memory + 128) + r * (2 * s.buffer_floats + s.in_floats + s.out_floats + s.inbox_floats);
    float *const in = receive + 2 * s.buffer_floats, *const out = in + s.in_floats;
    const Patience patience = {ptx::wall_clock_ns(), s.limit_ns};
    ClusterRole<Patience, kSize> role(thread, threads, 1 + r, &barriers[r], receive, s.buffer_floats, patience);
    Inbox inbox = {{&inboxes[r]}, out + s.out_floats, 0};
    const int rank = role.rank(), cluster = static_cast<int>(blockIdx.x) / role.size();
    if (rank == s.absent) continue;
    for (int i = 0; i < s.n_steps; i++) {
      Step step = s.steps[i];
      step.seed += static_cast<uint32_t>(r);
      if (s.delays) {  // of single warps
        const uint32_t h = hash(step.seed, blockIdx.x, static_cast<uint32_t>(thread / kWarpLanes), 77);
        if (h % 4 == 0) spin((h >> 8) % 4000);
        if (h % 128 == 1) spin(40000);
      }
      const int n_out = output_floats(step, role.size()), n_in = input_floats(step);
      for (int at = thread; at < n_in; at += threads) in[at] = __uint_as_float(input_bits(step, cluster, rank, at));
      for (int at = thread; at < n_out; at += threads) reinterpret_cast<uint32_t*>(out)[at] = kPoison;
      if (step.kind == kInbox ? !gather_in_inbox(role, thread, threads, 1 + r, step, inbox, in, out, patience) : !run_step(role, step, in, out)) {
        if (thread % kWarpLanes == 0) atomicAdd(s.failures, 1u);
        break;
      }
      uint32_t* const to = s.out + (static_cast<int64_t>(blockIdx.x) * kRoles + r) * s.out_words + step.out_at;
      for (int at = thread; at < n_out; at += threads) to[at] = reinterpret_cast<uint32_t*>(out)[at];
    }
  }
  cluster_leave();
}

// ---- The host's side

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

struct Device {
  int limit_bytes = 0, multiprocessors = 0, clusters = 0;
  Device() {
    check(cudaDeviceGetAttribute(&limit_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0), "shared memory");
    check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0), "multiprocessors");
    check(cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, 0), "clusters");
  }
};
const Device& device() {
  static const Device found;
  return found;
}

struct Launch {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute attributes[2] = {};
  Launch(int size, int ctas, int threads, int shared_bytes, cudaStream_t stream = nullptr, bool cooperative = false) {
    config.gridDim = dim3(static_cast<unsigned>(ctas)), config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes), config.stream = stream, config.attrs = attributes;
    if (size > 1) {
      attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
      attributes[config.numAttrs++].val.clusterDim = {static_cast<unsigned>(size), 1, 1};
    }
    if (cooperative) {
      attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
      attributes[config.numAttrs++].val.cooperative = 1;
    }
  }
};

void prepare(const void* kernel) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device().limit_bytes), "shared memory of a kernel");
  if (device().clusters) check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "clusters of any size");
}

// Clusters of a kernel that run at once; 0: the device refuses.
int clusters_at_once(const void* kernel, int size, int threads, int shared_bytes) {
  if (size > 1 && !device().clusters) return 0;
  if (size == 1) {
    int of_sm = 0;
    check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&of_sm, kernel, threads, static_cast<size_t>(shared_bytes)), "occupancy");
    return of_sm * device().multiprocessors;
  }
  const Launch launch(size, size, threads, shared_bytes);
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &launch.config) != cudaSuccess) clusters = 0, cudaGetLastError();
  return clusters;
}

template <class T>
struct Memory {
  T* at = nullptr;
  explicit Memory(size_t n) { check(cudaMalloc(&at, n * sizeof(T)), "allocation"); }
  ~Memory() { cudaFree(at); }
  Memory(const Memory&) = delete;
};

// A script under way.
struct Run {
  std::vector<Step> steps;
  int size, clusters, out_words;
  Memory<Step> on_device;
  Memory<uint32_t> out, failures;
  Script script = {};
  int shared_bytes;

  static int words_of(std::vector<Step>& steps, int size) {
    int at = 0;
    for (Step& step : steps) step.out_at = at, at += output_floats(step, size);
    return at;
  }
  Run(std::vector<Step> all, int cluster_size, int n_clusters)
      : steps(std::move(all)),
        size(cluster_size),
        clusters(n_clusters),
        out_words(words_of(steps, size)),
        on_device(steps.size()),
        out(static_cast<size_t>(size) * clusters * kRoles * out_words),
        failures(1) {
    script = {on_device.at, static_cast<int>(steps.size()), out.at, out_words, 0, 0, 0, 0, 0, -1, kPatienceNs, failures.at};
    for (const Step& step : steps) {
      script.buffer_floats = std::max(script.buffer_floats, buffer_floats(step, size));
      script.in_floats = std::max(script.in_floats, 4 * cluster_quads(input_floats(step)));
      script.out_floats = std::max(script.out_floats, 4 * cluster_quads(output_floats(step, size)));
      if (step.kind == kInbox) script.inbox_floats = std::max(script.inbox_floats, size * inbox_slot(step.n));
    }
    shared_bytes = 128 + kRoles * 4 * (2 * script.buffer_floats + script.in_floats + script.out_floats + script.inbox_floats);
    check(cudaMemcpy(on_device.at, steps.data(), steps.size() * sizeof(Step), cudaMemcpyHostToDevice), "steps");
  }
  bool fits() const { return shared_bytes <= device().limit_bytes; }
  void launch(cudaStream_t stream = nullptr, bool size_known = false) {
    const void* kernel = reinterpret_cast<const void*>(run_script<0>);
    if (size_known && size == 1) kernel = reinterpret_cast<const void*>(run_script<1>);
    if (size_known && size == 4) kernel = reinterpret_cast<const void*>(run_script<4>);
    prepare(kernel);
    check(cudaMemsetAsync(out.at, 0xa5, static_cast<size_t>(size) * clusters * kRoles * out_words * 4, stream), "poison");
    check(cudaMemsetAsync(failures.at, 0, 4, stream), "failures");
    void* arguments[] = {&script};
    const Launch launch(size, size * clusters, kThreads, shared_bytes, stream);
    check(cudaLaunchKernelExC(&launch.config, kernel, arguments), "launch");
  }
  uint32_t failed() const {
    uint32_t n;
    check(cudaMemcpy(&n, failures.at, sizeof n, cudaMemcpyDeviceToHost), "a kernel that ends");
    return n;
  }

  static float as_float(uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
  }
  static uint32_t as_bits(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, sizeof bits);
    return bits;
  }
  // What every rank gets from a step.
  std::vector<uint32_t> expected(const Step& step, int cluster, int rank) const {
    std::vector<uint32_t> want(static_cast<size_t>(output_floats(step, size)), kPoison);
    const auto input = [&](int of, int i) { return input_bits(step, cluster, of, i); };
    if (gathers(step.kind)) {
      if (step.kind != kGather && rank != step.extra % size) return want;
      size_t at = 0;
      for (int of = 0; of < size; of++)
        for (int i = 0; i < segment(step.n, of); i++) want[at++] = input(of, i);
      return want;
    }
    const bool shares = step.kind == kScatter || step.kind == kMaxScatter || step.kind == kMergeShare;
    const int begin = shares ? share_begin(step.n, size, rank) : 0, end = shares ? share_begin(step.n, size, rank + 1) : step.n;
    if (step.kind == kMerge || step.kind == kMergeShare) {
      const int stride = partial_floats(step.n);
      float common = -INFINITY, denominator = 0;
      std::vector<float> values(static_cast<size_t>(step.n), 0.0f);
      for (int of = 0; of < size; of++)
        for (int part = 0; part < parts_of(step.extra, of); part++) common = std::fmax(common, as_float(input(of, part * stride)));
      for (int of = 0; of < size; of++)
        for (int part = 0; part < parts_of(step.extra, of); part++) {
          const float weight = PowerWeight()(as_float(input(of, part * stride)), common);
          denominator = std::fma(weight, as_float(input(of, part * stride + 1)), denominator);
          for (int d = begin; d < end; d++) values[size_t(d)] = std::fma(weight, as_float(input(of, part * stride + 4 + d)), values[size_t(d)]);
        }
      want[0] = as_bits(common), want[1] = as_bits(denominator);
      for (int d = begin; d < end; d++) want[size_t(4 + d)] = as_bits(values[size_t(d)]);
      return want;
    }
    const bool sums = step.kind == kReduceInOne || step.kind == kReduceInTwo || step.kind == kReduce || step.kind == kScatter;
    for (int i = begin; i < end; i++) {
      float value = as_float(input(0, i));
      for (int of = 1; of < size; of++) value = sums ? value + as_float(input(of, i)) : std::fmax(value, as_float(input(of, i)));
      want[size_t(i)] = as_bits(value);
    }
    return want;
  }
  // Fails with the first word that differs.
  void verify() const {
    TEST_ASSERT_EQUAL_INT_MESSAGE(0, failed(), "a role gave up");
    std::vector<uint32_t> got(static_cast<size_t>(size) * clusters * kRoles * out_words);
    check(cudaMemcpy(got.data(), out.at, got.size() * 4, cudaMemcpyDeviceToHost), "results");
    for (int cta = 0; cta < size * clusters; cta++)
      for (int role = 0; role < kRoles; role++)
        for (Step step : steps) {
          step.seed += static_cast<uint32_t>(role);
          const std::vector<uint32_t> want = expected(step, cta / size, cta % size);
          const uint32_t* const words = got.data() + (static_cast<size_t>(cta) * kRoles + role) * out_words + step.out_at;
          for (size_t i = 0; i < want.size(); i++)
            if (want[i] != words[i]) {
              char message[200];
              std::snprintf(message, sizeof message, "%s of %d, step %d, CTA %d of clusters of %d, role %d, word %zu: 0x%08x, expected 0x%08x",
                            kNames[step.kind], step.n, static_cast<int>(step.seed), cta, size, role, i, words[i], want[i]);
              TEST_FAIL_MESSAGE(message);
            }
        }
  }
};

// Ignores the test, and so does not pass it, where the device has no such clusters.
void need(int size) {
  const void* const kernel = reinterpret_cast<const void*>(run_script<0>);
  prepare(kernel);
  if (clusters_at_once(kernel, size, kThreads, device().limit_bytes) < 1) TEST_IGNORE_MESSAGE("the device refuses clusters of this size");
}

constexpr int kLengths[] = {1, 2, 3, 4, 5, 17, 31, 63, 127, 128, 129, 255, 1000, 1024, 1025, 4096, 4097};

// Every collective alone, of every length that fits.
template <int kSize>
void every_length() {
  need(kSize);
  int ran = 0, first_left_out = 0;
  for (int kind = 0; kind < kKinds; kind++)
    for (int n : kLengths) {
      if ((kind == kMerge || kind == kMergeShare) && n > 256) continue;  // values of a head
      if (kind == kInbox && kSize == 1) continue;                        // there is none without clusters
      std::vector<Step> steps;
      for (int extra : {0, 1, 2, kSize - 1}) steps.push_back({static_cast<Kind>(kind), n, extra, static_cast<uint32_t>(1000 * steps.size() + 1), 0});
      Run run(steps, kSize, 3);
      if (!run.fits()) {
        if (!first_left_out) first_left_out = n;
        continue;
      }
      run.launch();
      run.verify();
      ran++;
    }
  std::printf("size %2d: %d scripts of one collective and length; the shortest that does not fit twice: %d\n", kSize, ran, first_left_out);
  TEST_ASSERT_GREATER_THAN(100, ran);
}

// Long merges: more parts than a warp has lanes.
template <int kSize>
void many_parts() {
  need(kSize);
  for (int n : {32, 80, 128, 77}) {
    for (Kind kind : {kMerge, kMergeShare}) {
      const int parts = kind == kMerge && kSize > 4 ? 9 : 41 / (kSize > 8 ? 4 : 1);
      Run run({{kind, n, parts, 5, 0}, {kind, n, parts, 6, 0}, {kind, n, parts, 7, 0}}, kSize, 2);
      if (!run.fits()) continue;
      run.launch();
      run.verify();
    }
  }
}

std::vector<Step> random_steps(int n, int size, uint32_t seed) {
  std::vector<Step> steps;
  for (uint32_t i = 0; i < static_cast<uint32_t>(n); i++) {
    const uint32_t h = hash(seed, i);
    const Kind kind = static_cast<Kind>(h % (size > 1 ? kKinds : kInbox));
    const bool merges = kind == kMerge || kind == kMergeShare;
    const int longest = merges ? 80 : h >> 20 & 1 ? 40 : 300;
    steps.push_back({kind, 1 + static_cast<int>((h >> 8) % static_cast<uint32_t>(longest)),
                     static_cast<int>(hash(h) % static_cast<uint32_t>(size + 1)) % 8, seed * 100000 + 3 * i, 0});
  }
  return steps;
}

// All kinds one after the other, with and without delays, and with the size known to the compiler.
template <int kSize>
void back_to_back() {
  need(kSize);
  for (int turn = 0; turn < 3; turn++) {
    Run run(random_steps(1000, kSize, static_cast<uint32_t>(7 + turn)), kSize, kSize > 8 ? 2 : 3);
    TEST_ASSERT_EQUAL_INT(1, run.fits());
    run.script.delays = turn > 0;
    run.launch(nullptr, turn == 2);
    run.verify();
  }
}

// Only gatherings to one, which tell the senders nothing of the root but by empty messages, and one slow CTA.
template <int kSize>
void one_sided() {
  need(kSize);
  std::vector<Step> steps;
  for (uint32_t i = 0; i < 500; i++) steps.push_back({kGatherToOne, 200, static_cast<int>(i / 100), 50 + 3 * i, 0});
  Run run(steps, kSize, 2);
  run.script.delays = 1;
  run.launch();
  run.verify();
}

template <int kSize>
void two_at_once() {
  need(kSize);
  cudaStream_t streams[2];
  for (cudaStream_t& stream : streams) check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  Run one(random_steps(600, kSize, 21), kSize, 2), other(random_steps(600, kSize, 22), kSize, 2);
  one.script.delays = other.script.delays = 1;
  check(cudaDeviceSynchronize(), "before both");
  one.launch(streams[0]);
  other.launch(streams[1]);
  check(cudaDeviceSynchronize(), "both");
  one.verify();
  other.verify();
  for (cudaStream_t stream : streams) cudaStreamDestroy(stream);
}

// A CTA that does not come: the others give up in time, nothing faults, and the next launch works.
template <int kSize>
void lost_peer() {
  need(kSize);
  Run run(random_steps(50, kSize, 33), kSize, 2);
  run.script.absent = kSize - 1;
  run.script.limit_ns = 20'000'000;
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event"), check(cudaEventCreate(&end), "event");
  check(cudaEventRecord(begin), "event");
  run.launch();
  check(cudaEventRecord(end), "event");
  check(cudaEventSynchronize(end), "a wait that ends");
  float ms;
  check(cudaEventElapsedTime(&ms, begin, end), "time");
  TEST_ASSERT_EQUAL_INT_MESSAGE(2 * (kSize - 1) * 6, run.failed(), "every warp of every role of the others says so");
  TEST_ASSERT_LESS_THAN_MESSAGE(200, static_cast<int>(ms), "in time");
  TEST_ASSERT_GREATER_THAN_MESSAGE(15, static_cast<int>(ms), "not before");
  run.script.absent = -1;
  run.script.limit_ns = kPatienceNs;
  run.launch();
  run.verify();
}

template <int kSize>
void all_tests() {
  std::printf("clusters of %d\n", kSize);
  RUN_TEST(every_length<kSize>);
  RUN_TEST(many_parts<kSize>);
  RUN_TEST(back_to_back<kSize>);
  RUN_TEST(one_sided<kSize>);
  RUN_TEST(two_at_once<kSize>);
  if constexpr (kSize > 1) RUN_TEST(lost_peer<kSize>);
}

// ---- Times

enum Timed : int {
  kTimeInOne,
  kTimeInTwo,
  kTimeScatter,
  kTimeGather,
  kTimeMerge,
  kTimeMergeShare,
  kTimeWords,
  kTimeLocal,
  kTimeBarrier,
  kTimeBarrierRelaxed,
  kTimedKinds
};
const char* const kTimedNames[kTimedKinds] = {"sum 1 trip",   "sum 2 trips", "sum shares",     "gather",          "merge",
                                              "merge shares", "words",       "local barriers", "barrier.cluster", "same, relaxed"};

struct Timing {
  Timed kind;
  int n, rounds;
  int buffer_floats;
  int window;  // chunks that each SM streams in flight; 0: idle memory
  const char* stream;
  int stream_chunks;
  uint4* words;  // [cluster][2][rank][n / 3]
  float* sink;
};

constexpr int kTimingThreads = 448, kTimingRole = 128, kTimingChunk = 16384;
struct TimingShared {
  ClusterBarriers barriers;
  uint64_t full[8];
  volatile int stop;
};
constexpr int kTimingShared = 128;
static_assert(sizeof(TimingShared) <= kTimingShared);

// The sum of all CTAs' vectors by way of global memory.
[[maybe_unused]] __device__ void sum_by_words(const Timing& t, int rank, int size, int cluster, int thread, uint32_t epoch, const float* in,
                                              float* out) {
  const int words = (t.n + 2) / 3;
  uint4* const base = t.words + (static_cast<int64_t>(cluster) * 2 + (epoch & 1)) * size * words;
  for (int w = thread; w < words; w += kTimingRole)
    ptx::store_word(base + rank * words + w, __float_as_uint(in[3 * w]), __float_as_uint(in[3 * w + 1]), __float_as_uint(in[3 * w + 2]), epoch);
  constexpr int kAtOnce = 8;
  for (int w = thread; w < words; w += kTimingRole) {
    float a = 0, b = 0, c = 0;
    for (int first = 0; first < size; first += kAtOnce) {
      uint4 word[kAtOnce];
      for (bool late = true; late;) {
        late = false;
#pragma unroll
        for (int j = 0; j < kAtOnce; j++) word[j] = first + j < size ? ptx::load_word(base + (first + j) * words + w) : uint4{0, 0, 0, epoch};
#pragma unroll
        for (int j = 0; j < kAtOnce; j++) late |= word[j].w != epoch;
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; j++) a += __uint_as_float(word[j].x), b += __uint_as_float(word[j].y), c += __uint_as_float(word[j].z);
    }
    out[3 * w] = a, out[3 * w + 1] = b, out[3 * w + 2] = c;
  }
  ptx::sync_threads(1, kTimingRole);
}

__global__ void __launch_bounds__(kTimingThreads, 1) time_collective(const Timing t) {
#if __CUDA_ARCH__ >= 900
  auto& shared = *reinterpret_cast<TimingShared*>(test_memory);
  float* const receive = reinterpret_cast<float*>(test_memory + kTimingShared);
  float *const in = receive + 2 * t.buffer_floats, *const out = in + 4096 + 16;
  char* const ring = reinterpret_cast<char*>(out + 4096 + 16);
  if (threadIdx.x == 0) {
    for (uint64_t& full : shared.full) ptx::barrier_init(&full, 1);
    ptx::fence_barrier_init();
    shared.stop = 0;
  }
  cluster_enter(&shared.barriers, 1, static_cast<int>(threadIdx.x));
  const int thread = static_cast<int>(threadIdx.x);
  if (t.kind == kTimeBarrierRelaxed) {
    for (int round = 0; round < t.rounds; round++) __cluster_barrier_arrive_relaxed(), __cluster_barrier_wait();
  } else if (t.kind == kTimeBarrier) {
    for (int round = 0; round < t.rounds; round++) ptx::cluster_sync();
  } else if (thread < kTimingRole) {
    ClusterRole role(thread, kTimingRole, 1, &shared.barriers, receive, t.buffer_floats, [] { return false; });
    for (int i = thread; i < 4096 + 16; i += kTimingRole) in[i] = static_cast<float>(i % 37), out[i] = 0;
    const auto weight = [](float max, float common) { return max == -INFINITY ? 0.0f : expf(max - common); };
    const int size = role.size(), part = t.n / size, parts = t.n / partial_floats(128) / size;
    ptx::sync_threads(1, kTimingRole);
    for (int round = 0; round < t.rounds; round++) {
      if (t.kind == kTimeInOne) role.all_reduce_in_one(in, t.n, out, ClusterSum());
      if (t.kind == kTimeInTwo) role.all_reduce_in_two(in, t.n, out, ClusterSum());
      if (t.kind == kTimeScatter) role.reduce_scatter(in, t.n, out, ClusterSum());
      if (t.kind == kTimeGather)
        role.gather(
            in, [part](int) { return part; }, out);
      if (t.kind == kTimeMerge)
        role.merge(
            in, [parts](int) { return parts; }, 128, out, weight);
      if (t.kind == kTimeMergeShare)
        role.merge<true>(
            in, [parts](int) { return parts; }, 128, out, weight);
      if (t.kind == kTimeLocal) ptx::sync_threads(1, kTimingRole), ptx::sync_any(1, kTimingRole, thread > kTimingRole);
      if (t.kind == kTimeWords)
        sum_by_words(t, role.rank(), size, static_cast<int>(blockIdx.x) / size, thread, static_cast<uint32_t>(round + 1), in, out);
    }
    if (thread == 0) shared.stop = 1, t.sink[blockIdx.x] = out[0];
  } else if (thread == kTimingRole && t.window > 0) {
    const uint64_t policy = ptx::evict_first_policy();
    int asked = 0, came = 0;
    const auto wait = [&] {
      while (!ptx::barrier_passed(&shared.full[came % t.window], static_cast<uint32_t>(came / t.window & 1))) {}
      came++;
    };
    while (!shared.stop) {
      if (asked - came == t.window) wait();
      uint64_t* const full = &shared.full[asked % t.window];
      ptx::barrier_expect(full, kTimingChunk);
      const int64_t chunk = (static_cast<int64_t>(asked) * gridDim.x + blockIdx.x) % t.stream_chunks;
      ptx::bulk_copy(ring + asked % t.window * kTimingChunk, t.stream + chunk * kTimingChunk, kTimingChunk, full, policy);
      asked++;
    }
    while (came < asked) wait();
  }
  cluster_leave();
#endif
}

float ns_of(Timing t, int size, int clusters, int shared_bytes) {
  const auto ms_of = [&](int rounds) {
    t.rounds = rounds;
    if (t.words) check(cudaMemset(t.words, 0, size_t{16} << 20), "words");
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "event"), check(cudaEventCreate(&end), "event");
    void* arguments[] = {&t};
    const Launch launch(size, size * clusters, kTimingThreads, shared_bytes);
    check(cudaEventRecord(begin), "event");
    check(cudaLaunchKernelExC(&launch.config, reinterpret_cast<const void*>(time_collective), arguments), "launch");
    check(cudaEventRecord(end), "event");
    check(cudaEventSynchronize(end), "timing");
    float ms;
    check(cudaEventElapsedTime(&ms, begin, end), "time");
    cudaEventDestroy(begin), cudaEventDestroy(end);
    return ms;
  };
  constexpr int kRounds = 1500;
  ms_of(100);
  std::vector<float> ns;
  for (int i = 0; i < 3; i++) {
    const float few = ms_of(200);
    ns.push_back((ms_of(200 + kRounds) - few) * 1e6f / kRounds);
  }
  std::sort(ns.begin(), ns.end());
  return ns[1];
}

void times() {
  const void* const kernel = reinterpret_cast<const void*>(time_collective);
  prepare(kernel);
  std::printf("\nCTAs of %d threads at once on %d SMs, by KB of shared memory of each:\nsize ", kTimingThreads, device().multiprocessors);
  const int kilobytes[] = {96, 160, 192, 208, 216, 224, 227};
  for (int kb : kilobytes) std::printf("%6d", kb);
  std::printf("  cooperative with 227 KB\n");
  for (int size : kSizes) {
    std::printf("%4d ", size);
    for (int kb : kilobytes) std::printf("%6d", size * clusters_at_once(kernel, size, kTimingThreads, kb * 1024));
    // Accepted and run: a barrier of the clusters in a cooperative launch.
    Memory<float> sink(1024);
    Timing t = {kTimeBarrier, 0, 10, 0, 0, nullptr, 0, nullptr, sink.at};
    void* arguments[] = {&t};
    for (int ctas : {size * clusters_at_once(kernel, size, kTimingThreads, 227 * 1024), device().multiprocessors / size * size}) {
      if (ctas == 0) continue;
      const Launch launch(size, ctas, kTimingThreads, 227 * 1024, nullptr, true);
      cudaError_t error = cudaLaunchKernelExC(&launch.config, kernel, arguments);
      if (error == cudaSuccess) error = cudaDeviceSynchronize();
      cudaGetLastError();
      std::printf("  %d CTAs: %s", ctas, cudaGetErrorName(error));
    }
    std::printf("\n");
  }
  constexpr int64_t kStreamBytes = int64_t{1} << 30;
  Memory<char> stream(kStreamBytes);
  check(cudaMemset(stream.at, 1, kStreamBytes), "a stream");
  Memory<uint4> words(1 << 20);
  Memory<float> sink(1024);
  for (int window : {0, 3}) {
    std::printf("\nns of a collective by 128 threads of %s\n%-16s%5s", window ? "CTAs that stream, 48 KB in flight on each SM" : "CTAs, memory idle",
                "", "size");
    constexpr int kFloats[] = {4, 32, 128, 256, 512, 1024, 2048, 4096};
    for (int n : kFloats) std::printf("%8d", n);
    std::printf("\n");
    for (int size : kSizes)
      for (int kind = 0; kind < kTimedKinds; kind++) {
        if (kind >= kTimeBarrier && window) continue;
        std::printf("%-16s%5d", kTimedNames[kind], size);
        for (int n : kFloats) {
          int slot = n;
          if (kind == kTimeInTwo || kind == kTimeScatter) slot = share_floats(n, size);
          if (kind == kTimeGather) slot = n / size;
          const int parts = n / partial_floats(128) / size;
          if (kind == kTimeMerge) slot = parts * partial_floats(128);
          if (kind == kTimeMergeShare) slot = parts * partial_floats(share_floats(128, size));
          const bool memory_only = kind >= kTimeWords;
          const int buffer = memory_only ? 0 : receive_floats(slot, size);
          const int bytes = std::max(120 * 1024, kTimingShared + 4 * (2 * buffer + 2 * (4096 + 16)) + window * kTimingChunk);
          const bool merges = kind == kTimeMerge || kind == kTimeMergeShare;
          const int clusters = clusters_at_once(kernel, size, kTimingThreads, bytes);
          if (bytes > device().limit_bytes || clusters < 1 || (merges && parts < 1) || (kind > kTimeWords && n != kFloats[0])) {
            std::printf("       -");
            continue;
          }
          const Timing t = {static_cast<Timed>(kind),
                            n,
                            0,
                            buffer,
                            window,
                            stream.at,
                            static_cast<int>(kStreamBytes / kTimingChunk),
                            kind == kTimeWords ? words.at : nullptr,
                            sink.at};
          std::printf("%8.0f", static_cast<double>(ns_of(t, size, clusters, bytes)));
        }
        std::printf("\n");
      }
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1 && std::strcmp(arguments[1], "--time") == 0) return times(), 0;
  UNITY_BEGIN();
  all_tests<1>();
  all_tests<2>();
  all_tests<4>();
  all_tests<8>();
  all_tests<16>();
  return UNITY_END();
}
