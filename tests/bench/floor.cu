// What a decode step could cost at least: the time to stream a model's weights through shared memory, with and without the meetings that a
// step has. It computes nothing useful. Prints a JSON line per shape: bytes of weights in a step, ms without meetings (the floor), ms with them.
//
//   floor [SHAPE ...]   names of kShapes, or NAME=HIDDEN,INTERMEDIATE,LAYERS,VOCABULARY,KV_HEADS*HEAD_DIM,GATED,PARALLEL
//
// With meetings: after each phase every CTA publishes its share of the residual stream as words that carry their epoch, and reads all of it back;
// meanwhile it streams on, as far as the ring goes, with fewer bytes in flight. There is no attention in it.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels/ptx.cuh"

using namespace cf::gpu;

namespace {

constexpr int kWarps = 8, kReaders = kWarps * 32, kThreads = kReaders + 32;
constexpr int kChunkBytes = 16384, kRing = 12, kWindow = 3, kTrickle = 2;  // chunks in flight while streaming, while meeting
constexpr int kMaxPhases = 256, kSteps = 20, kRuns = 11;

void check(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "floor: failed to %s: %s\n", doing, cudaGetErrorString(error));
  std::exit(1);
}

struct Phase {
  uint32_t first_chunk, n_chunks;  // of the weights
  int32_t turn;                    // CTA that takes the first chunk
  int32_t n_words;                 // that CTAs exchange afterwards
};

struct Params {
  const char* weights;
  const Phase* phases;
  uint4* words;  // two sets
  int32_t n_phases, meets;
  uint32_t epoch;  // of the last words
  uint32_t* sink;
};
constexpr int kWordsOfSet = 8192;

struct Shared {
  uint64_t full[kRing], empty[kRing];
  Phase phases[kMaxPhases];
  float activations[kReaders];
  volatile int32_t meeting;
};

// Calls visit(chunk, number of the chunk) for those of this CTA in a phase; n: how many it has had before.
template <class Visit>
__device__ void each_chunk(const Phase& phase, uint32_t& n, Visit visit) {
  const uint32_t end = phase.first_chunk + phase.n_chunks;
  for (uint32_t chunk = phase.first_chunk + (blockIdx.x + gridDim.x - phase.turn) % gridDim.x; chunk < end; chunk += gridDim.x, n++) visit(chunk, n);
}

[[maybe_unused]] __device__ void stream(const Params& p, Shared& s, char* ring) {
  const uint64_t policy = ptx::evict_first_policy();
  uint32_t n = 0;
  for (int step = 0; step < kSteps; step++)
    for (int i = 0; i < p.n_phases; i++)
      each_chunk(s.phases[i], n, [&](uint32_t chunk, uint32_t number) {
        const uint32_t slot = number % kRing;
        if (number >= kRing)
          while (!ptx::barrier_passed(&s.empty[slot], (number / kRing - 1) & 1)) {}
        for (;;) {
          const uint32_t window = !p.meets ? kRing : s.meeting ? kTrickle : kWindow, back = number - window;
          if (number < window || ptx::barrier_passed(&s.full[back % kRing], back / kRing & 1)) break;
        }
        ptx::barrier_expect(&s.full[slot], kChunkBytes);
        ptx::bulk_copy(ring + slot * kChunkBytes, p.weights + static_cast<int64_t>(chunk) * kChunkBytes, kChunkBytes, &s.full[slot], policy);
      });
}

[[maybe_unused]] __device__ void meet(const Params& p, Shared& s, const Phase& phase, uint32_t epoch, float value) {
  uint4* const words = p.words + (epoch & 1) * kWordsOfSet;
  const int ctas = static_cast<int>(gridDim.x), cta = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  if (thread == 0) s.meeting = 1;
  ptx::sync_threads(1, kReaders);
  const uint32_t bits = __float_as_uint(value);
  for (int i = phase.n_words * cta / ctas + thread; i < phase.n_words * (cta + 1) / ctas; i += kReaders)
    ptx::store_word(words + i, bits, bits, bits, epoch);
  constexpr int kAtOnce = 6;
  for (int i = thread; i < phase.n_words; i += kAtOnce * kReaders) {
    uint4 word[kAtOnce];
    bool late = true;
    while (late) {
      late = false;
#pragma unroll
      for (int j = 0; j < kAtOnce; j++)
        if (i + j * kReaders < phase.n_words) word[j] = ptx::load_word(words + i + j * kReaders);
#pragma unroll
      for (int j = 0; j < kAtOnce; j++)
        if (i + j * kReaders < phase.n_words) late |= word[j].w != epoch;
    }
    s.activations[thread] = __uint_as_float(word[0].x);
  }
  ptx::sync_threads(1, kReaders);
  if (thread == 0) s.meeting = 0;
}

__global__ void __launch_bounds__(kThreads, 1) run_steps(const __grid_constant__ Params p) {
#if __CUDA_ARCH__ >= 900  // bulk copies
  extern __shared__ __align__(128) char memory[];
  char* const ring = memory;
  Shared& s = *reinterpret_cast<Shared*>(memory + kRing * kChunkBytes);
  for (int i = threadIdx.x; i < p.n_phases; i += kThreads) s.phases[i] = p.phases[i];
  if (threadIdx.x < kReaders) s.activations[threadIdx.x] = 0;
  if (threadIdx.x == 0) {
    s.meeting = 0;
    for (int i = 0; i < kRing; i++) ptx::barrier_init(&s.full[i], 1), ptx::barrier_init(&s.empty[i], kWarps);
    ptx::fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= kReaders) {
    if (threadIdx.x == kReaders) stream(p, s, ring);
    return;
  }
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  float d[4][4] = {};
  uint32_t n = 0;
  for (int step = 0; step < kSteps; step++)
    for (int i = 0; i < p.n_phases; i++) {
      const Phase phase = s.phases[i];
      each_chunk(phase, n, [&](uint32_t, uint32_t number) {
        const uint32_t slot = number % kRing;
        while (!ptx::barrier_passed(&s.full[slot], number / kRing & 1)) {}
#pragma unroll
        for (int tile = 0; tile < kChunkBytes / 512 / kWarps; tile++) {
          const uint32_t x = __float_as_uint(s.activations[(tile * 32 + lane) % kReaders]);
          ptx::multiply_f16(d[tile % 4], ptx::load_tile(ring + slot * kChunkBytes + (tile * kWarps + warp) * 512 + lane * 16), {x, x});
        }
        __syncwarp();
        if (lane == 0) ptx::barrier_arrive(&s.empty[slot]);
      });
      if (p.meets) meet(p, s, phase, p.epoch + 1 + step * p.n_phases + i, d[0][0] + d[1][1]);
    }
  float sum = 0;
  for (const auto& chain : d)
    for (const float v : chain) sum += v;
  if (sum == 1.2345f) *p.sink = 1;  // never; keeps the products
#endif
}

struct Shape {
  const char* name;
  size_t hidden, intermediate, layers, vocab, kv;
  bool gated, parallel;
};
const Shape kShapes[] = {{"pythia-410m", 1024, 4096, 24, 50304, 1024, false, true},
                         {"pythia-2.8b", 2560, 10240, 32, 50304, 2560, false, true},
                         {"pythia-6.9b", 4096, 16384, 32, 50432, 4096, false, true},
                         {"llama-2-7b", 4096, 11008, 32, 32000, 4096, true, false},
                         {"llama-3.2-1b", 2048, 8192, 16, 128256, 512, true, false}};

std::vector<Phase> phases_of(const Shape& m, int ctas) {
  std::vector<Phase> phases;
  uint32_t at = 0;
  const auto add = [&](size_t weights) {
    const auto chunks = uint32_t(2 * weights / kChunkBytes);
    phases.push_back({at, chunks, int32_t(at % uint32_t(ctas)), std::max(int32_t(m.hidden + 2) / 3, ctas)});
    at += chunks;
  };
  const size_t h = m.hidden, qkv = h * (h + 2 * m.kv), up = (m.gated ? 2 : 1) * h * m.intermediate, down = h * m.intermediate;
  for (size_t layer = 0; layer < m.layers; layer++) {
    if (m.parallel) add(qkv + up), add(down), add(h * h);
    else add(qkv), add(h * h), add(up), add(down);
  }
  add(h * m.vocab);
  return phases;
}

// Those that are named or described; all of kShapes if there are none.
std::vector<Shape> shapes_of(int argc, char** argv) {
  std::vector<Shape> shapes;
  for (const Shape& shape : kShapes)
    if (argc == 1 || std::any_of(argv + 1, argv + argc, [&](const char* name) { return std::strcmp(name, shape.name) == 0; }))
      shapes.push_back(shape);
  for (int i = 1; i < argc; i++) {
    char* const description = std::strchr(argv[i], '=');
    if (!description) continue;
    Shape shape = {argv[i], 0, 0, 0, 0, 0, false, false};
    int gated, parallel;
    if (std::sscanf(description + 1, "%zu,%zu,%zu,%zu,%zu,%d,%d", &shape.hidden, &shape.intermediate, &shape.layers, &shape.vocab, &shape.kv, &gated,
                    &parallel) != 7 ||
        shape.layers * 4 + 1 > kMaxPhases || shape.hidden > 3 * kWordsOfSet - 2) {
      std::fprintf(stderr, "floor: '%s' is not a shape that this can stream\n", argv[i]);
      std::exit(1);
    }
    *description = 0;
    shape.gated = gated, shape.parallel = parallel;
    shapes.push_back(shape);
  }
  return shapes;
}

}  // namespace

int main(int argc, char** argv) {
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0), "find a device");
  const int ctas = device.multiProcessorCount;
  const size_t shared_bytes = kRing * kChunkBytes + sizeof(Shared);
  check(cudaFuncSetAttribute(run_steps, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes)), "set up the kernel");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "create an event");
  check(cudaEventCreate(&end), "create an event");
  Params p = {};
  uint4* words;
  Phase* phases;
  check(cudaMalloc(&words, 2 * kWordsOfSet * sizeof(uint4)), "allocate");
  check(cudaMemset(words, 0, 2 * kWordsOfSet * sizeof(uint4)), "clear");
  check(cudaMalloc(&phases, kMaxPhases * sizeof(Phase)), "allocate");
  check(cudaMalloc(&p.sink, sizeof(uint32_t)), "allocate");
  p.words = words, p.phases = phases;
  for (const Shape& shape : shapes_of(argc, argv)) {
    const std::vector<Phase> list = phases_of(shape, ctas);
    const size_t bytes = size_t(list.back().first_chunk + list.back().n_chunks) * kChunkBytes;
    char* weights;
    check(cudaMalloc(&weights, bytes), "allocate weights");
    check(cudaMemset(weights, 0x5a, bytes), "fill weights");
    check(cudaMemcpy(phases, list.data(), list.size() * sizeof(Phase), cudaMemcpyHostToDevice), "copy phases");
    p.weights = weights, p.n_phases = int32_t(list.size());
    float ms[2];
    for (p.meets = 0; p.meets < 2; p.meets++) {
      std::vector<float> times;
      for (int run = 0; run < kRuns; run++) {
        void* arguments[] = {&p};
        check(cudaEventRecord(begin), "record");
        check(cudaLaunchCooperativeKernel(reinterpret_cast<void*>(run_steps), dim3(unsigned(ctas)), dim3(kThreads), arguments, shared_bytes, nullptr),
              "launch");  // those that wait for each other have to run together
        check(cudaEventRecord(end), "record");
        check(cudaEventSynchronize(end), "run");
        float elapsed;
        check(cudaEventElapsedTime(&elapsed, begin, end), "read a time");
        times.push_back(elapsed / kSteps);
        p.epoch += uint32_t(kSteps) * uint32_t(list.size());
      }
      std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
      ms[p.meets] = times[kRuns / 2];
    }
    std::printf("{\"shape\": \"%s\", \"weight_bytes\": %zu, \"floor_ms\": %.5f, \"meeting_ms\": %.5f, \"floor_tb_per_s\": %.4f}\n", shape.name, bytes,
                double(ms[0]), double(ms[1]), double(bytes) / double(ms[0]) * 1e-9);
    std::fflush(stdout);
    check(cudaFree(weights), "free");
  }
}
