// Prefill from the inside: logits of random models against references in double precision, the same bits however a prompt is cut into calls,
// pieces and tiles. With --time, how long the shapes of real models take.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda/prefill.h"
#include "kernels/numbers.cuh"
#include "model_config.h"
#include "rope.h"

using namespace cf;

namespace {

constexpr cf_dtype kF16 = CF_DTYPE_F16, kBf16 = CF_DTYPE_BF16;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "FAILED: %s (%s)\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <class T>
struct Array {  // on the device; poisoned
  T* data = nullptr;
  size_t count = 0;
  explicit Array(size_t n) : count(n) {
    check(cudaMalloc(&data, n * sizeof(T)), "allocate");
    poison();
  }
  Array(const Array&) = delete;
  ~Array() { cudaFree(data); }
  void poison() { check(cudaMemset(data, 0xff, count * sizeof(T)), "poison"); }  // NaN in every float format
  void put(const T* from) { check(cudaMemcpy(data, from, count * sizeof(T), cudaMemcpyHostToDevice), "copy to the device"); }
  std::vector<T> get() const {
    std::vector<T> v(count);
    check(cudaMemcpy(v.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost), "copy from the device");
    return v;
  }
};

// ---- Weights: every one a function of its place ----

__host__ __device__ uint32_t hash(uint32_t seed, uint32_t a, uint32_t b) {
  uint32_t h = seed * 0x9e3779b9u + a * 0x85ebca6bu + b * 0xc2b2ae35u;
  for (int i = 0; i < 3; i++) h = (h ^ h >> 16) * 0x7feb352du, h = (h ^ h >> 15) * 0x846ca68bu;
  return h ^ h >> 16;
}
__device__ float rounded(float value, cf_dtype dtype) {
  return dtype == CF_DTYPE_F16 ? gpu::F16::widen(gpu::F16::round(value)) : gpu::Bf16::widen(gpu::Bf16::round(value));
}
// A matrix or vector: value = offset + scale * uniform(-1, 1).
struct Random {
  uint32_t seed;
  float offset, scale;
  cf_dtype dtype;  // F32: vectors
  __device__ float at(int64_t row, int64_t col) const {
    const float uniform = static_cast<float>(hash(seed, static_cast<uint32_t>(row), static_cast<uint32_t>(col))) * 4.656612873e-10f - 1.0f;
    const float value = offset + scale * uniform;
    return dtype == CF_DTYPE_F32 ? value : rounded(value, dtype);
  }
};

__global__ void fill_packed(void* to, int64_t rows, int64_t cols, Random random) {
  const int64_t tiles = gpu::tiles_of(cols), all = gpu::tiles_of(rows) * 16 * tiles * 16;
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < all; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i / (tiles * 16), col = i % (tiles * 16);
    gpu::store_element(to, random.dtype, gpu::packed_offset(row, col, tiles), row < rows && col < cols ? random.at(row, col) : 0.0f);
  }
}
__global__ void fill_vector(float* to, int64_t n, Random random) {
  for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) to[i] = random.at(0, i);
}

struct Spec {
  const char* name;
  int heads, kv_heads, head_dim, rotary, hidden, inter, vocab, layers;
  cf_norm norm;
  cf_activation activation;
  bool parallel, biases;
  cf_dtype dtype, kv_dtype;
  int page_shift;
};

cf_model_config config_of(const Spec& s) {
  cf_model_config c = {};
  c.norm = s.norm, c.activation = s.activation, c.parallel_residual = s.parallel, c.attention_bias = c.mlp_bias = s.biases;
  c.n_layers = s.layers, c.hidden_size = s.hidden, c.n_heads = s.heads, c.n_kv_heads = s.kv_heads, c.head_dim = s.head_dim;
  c.rotary_dim = s.rotary, c.intermediate_size = s.inter, c.vocab_size = s.vocab;
  c.max_position_embeddings = 2048;
  c.rope_theta = 10000, c.norm_eps = 1e-5;
  return c;
}

struct LayerRandom {
  Random qkv, o, up, down, norm1, norm1_bias, norm2, norm2_bias, qkv_bias, o_bias, up_bias, down_bias;
};

// A random model on the device, packed for the code under test.
struct TestModel {
  Spec spec;
  cf_model_config config;
  PrefillWeights weights = {};
  std::vector<LayerRandom> random;
  Random embedding, head, final_norm, final_bias;
  std::vector<void*> memory;
  const float* inv_freq;

  explicit TestModel(const Spec& s) : spec(s), config(config_of(s)) {
    uint32_t seed = 1;
    const auto matrix = [&](int64_t rows, int64_t cols, float gain, Random& r) {
      r = {seed++, 0, gain * std::sqrt(3.0f / static_cast<float>(cols)), s.dtype};
      void* const data = allocate(size_t(gpu::tiles_of(rows) * gpu::tiles_of(cols)) * gpu::kTileBytes);
      fill_packed<<<2048, 256>>>(data, rows, cols, r);
      return gpu::Matrix{data, int32_t(gpu::tiles_of(cols)), s.dtype};
    };
    const auto vector = [&](int64_t n, float offset, float scale, Random& r, bool there) -> const float* {
      r = {seed++, offset, scale, CF_DTYPE_F32};
      if (!there) {
        r.offset = r.scale = 0;
        return nullptr;
      }
      auto* const data = static_cast<float*>(allocate(size_t(n) * sizeof(float)));
      fill_vector<<<64, 256>>>(data, n, r);
      return data;
    };
    const int64_t h = s.hidden, q = q_size(config), qkv = qkv_size(config), up = up_size(config);
    const bool layer_norm = s.norm == CF_NORM_LAYER;
    for (int i = 0; i < s.layers; i++) {
      LayerRandom r;
      gpu::LayerWeights w = {};
      w.qkv = matrix(qkv, h, 1, r.qkv), w.o = matrix(h, q, 1, r.o), w.up = matrix(up, h, 1, r.up), w.down = matrix(h, s.inter, 1, r.down);
      w.attention_norm_weight = vector(h, 1.2f, 0.3f, r.norm1, true), w.attention_norm_bias = vector(h, 0, 0.2f, r.norm1_bias, layer_norm);
      w.mlp_norm_weight = vector(h, 0.9f, 0.3f, r.norm2, true), w.mlp_norm_bias = vector(h, 0, 0.2f, r.norm2_bias, layer_norm);
      w.qkv_bias = vector(qkv, 0, 0.2f, r.qkv_bias, s.biases), w.o_bias = vector(h, 0, 0.2f, r.o_bias, s.biases);
      w.up_bias = vector(up, 0, 0.2f, r.up_bias, s.biases), w.down_bias = vector(h, 0, 0.2f, r.down_bias, s.biases);
      weights.layers.push_back(w), random.push_back(r);
    }
    weights.embedding = matrix(s.vocab, h, std::sqrt(static_cast<float>(h)), embedding);
    weights.head = matrix(s.vocab, h, 1, head);
    weights.final_norm_weight = vector(h, 1, 0.3f, final_norm, true);
    weights.final_norm_bias = vector(h, 0, 0.2f, final_bias, layer_norm);
    const std::vector<float> frequencies = rope_frequencies(config);
    auto* const angles = static_cast<float*>(allocate(frequencies.size() * sizeof(float)));
    check(cudaMemcpy(angles, frequencies.data(), frequencies.size() * sizeof(float), cudaMemcpyHostToDevice), "copy frequencies");
    weights.inv_freq = inv_freq = angles;
    check(cudaDeviceSynchronize(), "fill weights");
  }
  TestModel(const TestModel&) = delete;
  ~TestModel() {
    for (void* m : memory) cudaFree(m);
  }
  void* allocate(size_t bytes) {
    void* data;
    check(cudaMalloc(&data, bytes), "allocate weights");
    memory.push_back(data);
    return data;
  }
};

// ---- The reference, from the definitions, in double ----

__device__ int64_t thread() { return blockIdx.x * int64_t(blockDim.x) + threadIdx.x; }

__global__ void embed_plain(const int32_t* tokens, int rows, int h, Random embedding, double* x) {
  for (int64_t i = thread(); i < int64_t(rows) * h; i += int64_t(gridDim.x) * blockDim.x) x[i] = embedding.at(tokens[i / h], i % h);
}
__global__ void norm_plain(const double* x, int h, bool layer, double eps, Random weight, Random bias, double* out) {
  const double* const row = x + int64_t(blockIdx.x) * h;
  double mean = 0, variance = 0;
  for (int i = 0; i < h; i++) mean += row[i] / h;
  if (!layer) mean = 0;
  for (int i = 0; i < h; i++) variance += (row[i] - mean) * (row[i] - mean) / h;
  for (int i = threadIdx.x; i < h; i += blockDim.x)
    out[int64_t(blockIdx.x) * h + i] = (row[i] - mean) / sqrt(variance + eps) * double(weight.at(0, i)) + double(bias.at(0, i));
}
// out[row, i] (+)= x[row] m[i] + bias[i]
__global__ void product_plain(const double* x, int rows, int k, Random m, Random bias, int n, bool add, double* out) {
  for (int64_t i = thread(); i < int64_t(rows) * n; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i / n, feature = i % n;
    double sum = bias.at(0, feature);
    for (int j = 0; j < k; j++) sum += x[row * k + j] * double(m.at(feature, j));
    out[i] = (add ? out[i] : 0.0) + sum;
  }
}
__global__ void turn_plain(double* qkv, int rows, int heads, int kv_heads, int d, int rotary, const float* inv_freq) {
  const int row = blockIdx.x, all = heads + 2 * kv_heads;
  for (int head = threadIdx.x; head < all; head += blockDim.x) {
    double* const v = qkv + (int64_t(row) * all + head) * d;
    if (head < heads + kv_heads)
      for (int i = 0; i < rotary / 2; i++) {
        const double angle = inv_freq[i] * float(row), a = v[i], b = v[i + rotary / 2];
        v[i] = a * cos(angle) - b * sin(angle), v[i + rotary / 2] = b * cos(angle) + a * sin(angle);
      }
  }
}
__global__ void attend_plain(const double* qkv, int rows, int heads, int kv_heads, int d, double* out) {
  const int all = heads + 2 * kv_heads;
  for (int64_t i = thread(); i < int64_t(rows) * heads; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i / heads, head = i % heads, kv_head = head / (heads / kv_heads);
    const double* const q = qkv + (row * all + head) * d;
    double* const to = out + (row * heads + head) * d;
    const auto score = [&](int64_t t) {
      const double* const key = qkv + (t * all + heads + kv_head) * d;
      double sum = 0;
      for (int j = 0; j < d; j++) sum += q[j] * key[j];
      return sum / sqrt(double(d));
    };
    double max = -1e300, denominator = 0;
    for (int64_t t = 0; t <= row; t++) max = fmax(max, score(t));
    for (int j = 0; j < d; j++) to[j] = 0;
    for (int64_t t = 0; t <= row; t++) {
      const double weight = exp(score(t) - max);
      denominator += weight;
      for (int j = 0; j < d; j++) to[j] += weight * qkv[(t * all + heads + kv_heads + kv_head) * d + j];
    }
    for (int j = 0; j < d; j++) to[j] /= denominator;
  }
}
__global__ void activate_plain(const double* up, int rows, int n, cf_activation kind, double* out) {
  for (int64_t i = thread(); i < int64_t(rows) * n; i += int64_t(gridDim.x) * blockDim.x) {
    const int64_t row = i / n, j = i % n;
    double value;
    if (kind == CF_ACTIVATION_SWIGLU) {
      const double gate = up[row * 2 * n + j];
      value = gate / (1 + exp(-gate)) * up[row * 2 * n + n + j];
    } else {
      const double x = up[i];
      value = 0.5 * x * (kind == CF_ACTIVATION_GELU ? 1 + erf(x / sqrt(2.0)) : 1 + tanh(sqrt(2 / 3.14159265358979324) * (x + 0.044715 * x * x * x)));
    }
    out[i] = value;
  }
}

std::vector<double> reference(const TestModel& m, const Array<int32_t>& tokens) {
  const Spec& s = m.spec;
  const int rows = int(tokens.count), h = s.hidden, q = int(q_size(m.config)), qkv_width = int(qkv_size(m.config)), up_width = int(up_size(m.config));
  const auto doubles = [&](int width) { return Array<double>(size_t(rows) * size_t(width)); };
  Array<double> x = doubles(h), normed = doubles(h), qkv = doubles(qkv_width), heads = doubles(q), up = doubles(up_width), act = doubles(s.inter),
                logits = doubles(s.vocab);
  const auto norm = [&](const Random& weight, const Random& bias) {
    norm_plain<<<rows, 256>>>(x.data, h, s.norm == CF_NORM_LAYER, m.config.norm_eps, weight, bias, normed.data);
  };
  const auto product = [&](const double* in, int k, const Random& matrix, const Random& bias, int n, bool add, double* out) {
    product_plain<<<2048, 128>>>(in, rows, k, matrix, bias, n, add, out);
  };
  const auto mlp_up = [&](const LayerRandom& r) {
    norm(r.norm2, r.norm2_bias);
    product(normed.data, h, r.up, r.up_bias, up_width, false, up.data);
    activate_plain<<<1024, 128>>>(up.data, rows, s.inter, s.activation, act.data);
  };
  embed_plain<<<256, 256>>>(tokens.data, rows, h, m.embedding, x.data);
  for (const LayerRandom& r : m.random) {
    norm(r.norm1, r.norm1_bias);
    product(normed.data, h, r.qkv, r.qkv_bias, qkv_width, false, qkv.data);
    turn_plain<<<rows, 64>>>(qkv.data, rows, s.heads, s.kv_heads, s.head_dim, s.rotary, m.inv_freq);
    attend_plain<<<256, 32>>>(qkv.data, rows, s.heads, s.kv_heads, s.head_dim, heads.data);
    if (s.parallel) mlp_up(r);
    product(heads.data, q, r.o, r.o_bias, h, true, x.data);
    if (!s.parallel) mlp_up(r);
    product(act.data, s.inter, r.down, r.down_bias, h, true, x.data);
  }
  norm(m.final_norm, m.final_bias);
  product(normed.data, h, m.head, Random{0, 0, 0, CF_DTYPE_F32}, s.vocab, false, logits.data);
  check(cudaDeviceSynchronize(), "reference");
  return logits.get();
}

// ---- The code under test ----

CudaDevice device_under_test(uint64_t prefill_workspace_bytes = 256 << 20) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "a device");
  return {0, properties.multiProcessorCount, properties.sharedMemPerBlockOptin, 1000, prefill_workspace_bytes, 0};
}

Context& context() {
  static Context* const only = [] {
    cf_context_options options;
    cf_context_options_init(&options, sizeof options);
    options.device_kind = CF_DEVICE_CPU;  // of which only the error handling is used
    return new Context(options);
  }();
  return *only;
}

struct Cache {
  Array<char> pages;
  Array<int32_t> table;
  int64_t page_bytes;

  static int64_t bytes_of(const Spec& s) { return int64_t(s.layers) * 2 * s.kv_heads * s.head_dim * 2 << s.page_shift; }
  Cache(const Spec& s, int64_t tokens, uint32_t seed)
      : pages(size_t(bytes_of(s) * count(s, tokens))), table(size_t(count(s, tokens))), page_bytes(bytes_of(s)) {
    std::vector<int32_t> order(table.count);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    table.put(order.data());
  }
  static int64_t count(const Spec& s, int64_t tokens) { return ((tokens - 1) >> s.page_shift) + 2; }
  gpu::PagedKv view(const Spec& s) const { return {pages.data, page_bytes, table.data, s.page_shift, s.kv_dtype}; }
  // Page by page as the sequence has them, so that caches whose pages lie differently can be compared.
  std::vector<char> contents() const {
    const std::vector<char> all = pages.get();
    const std::vector<int32_t> order = table.get();
    std::vector<char> result;
    for (int32_t page : order) result.insert(result.end(), all.begin() + page * page_bytes, all.begin() + (page + 1) * page_bytes);
    return result;
  }
};

struct Outcome {
  std::vector<float> logits;
  std::vector<char> cache;
  bool operator==(const Outcome& o) const {
    return logits.size() == o.logits.size() && !std::memcmp(logits.data(), o.logits.data(), logits.size() * sizeof(float)) && cache == o.cache;
  }
};

// The whole prompt in calls that end where `cuts` says, and at pieces' ends.
Outcome run(const TestModel& m, const Prefill& prefill, const Array<int32_t>& tokens, std::vector<int64_t> cuts, uint32_t seed) {
  const int64_t n = int64_t(tokens.count), vocab = m.spec.vocab;
  const Cache cache(m.spec, n, seed);
  const Array<char> workspace(prefill.workspace_bytes());
  const Array<float> logits(size_t(n * vocab));
  cuts.push_back(n);
  for (int64_t end = prefill.piece_rows(); end < n; end += prefill.piece_rows()) cuts.push_back(end);
  std::sort(cuts.begin(), cuts.end());
  int64_t first = 0;
  for (int64_t end : cuts) {
    if (end <= first || end > n) continue;
    prefill.enqueue(m.weights, cache.view(m.spec), tokens.data + first, first, end - first, workspace.data, nullptr);
    prefill.enqueue_logits(m.weights, first, 0, end - first, logits.data + first * vocab, workspace.data, nullptr);
    first = end;
  }
  check(cudaDeviceSynchronize(), "prefill");
  return {logits.get(), cache.contents()};
}

double relative_error(const std::vector<float>& logits, const std::vector<double>& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < logits.size(); i++) {
    const double difference = double(logits[i]) - expected[i];
    error += difference * difference, norm += expected[i] * expected[i];
  }
  return std::sqrt(error / norm);
}

int failures = 0;
void expect(bool ok, const Spec& s, const std::string& what) {
  if (ok) return;
  std::printf("FAILED: %s: %s\n", s.name, what.c_str());
  failures++;
}

void test_model(const Spec& s) {
  const TestModel m(s);
  constexpr int kRows = 333;
  std::vector<int32_t> host_tokens(kRows);
  for (int i = 0; i < kRows; i++) host_tokens[size_t(i)] = int32_t(hash(7, uint32_t(i), 0) % uint32_t(s.vocab));
  Array<int32_t> tokens(kRows);
  tokens.put(host_tokens.data());
  Prefill prefill(context(), m.config, s.dtype, s.kv_dtype, device_under_test());
  const Outcome whole = run(m, prefill, tokens, {}, 1);
  // Inputs of products, keys, values and attention's weights are rounded to 11 or 8 bits; the bounds are twice what an H100 gave.
  const double error = relative_error(whole.logits, reference(m, tokens)), bound = s.dtype == kBf16 ? 8e-3 : s.kv_dtype == kBf16 ? 2.5e-3 : 9e-4;
  std::printf("%-30s error %.2e\n", s.name, error);
  expect(error < bound, s, "error");  // not (>=): NaN fails

  const std::vector<std::vector<int64_t>> cuts = {{1}, {17, 63}, {64, 128}, {65, 100}, {1, 2, 3, 63, 64, 65, 127, 129, 200, 256, 257, 332}, {320}};
  for (size_t i = 0; i < cuts.size(); i++) expect(run(m, prefill, tokens, cuts[i], uint32_t(i + 2)) == whole, s, "cut " + std::to_string(i));
  for (int rows = gpu::kMinTileRows; rows <= gpu::kMaxTileRows; rows += gpu::kTileRowsUnit) {
    prefill.set_tile_rows(rows);
    expect(run(m, prefill, tokens, {100}, 20) == whole, s, "tiles of " + std::to_string(rows) + " rows");
  }
  for (int64_t piece : {64, 128, 256}) {
    uint64_t limit = prefill.workspace_bytes();  // the largest that gives such pieces
    while (Prefill(context(), m.config, s.dtype, s.kv_dtype, device_under_test(limit)).piece_rows() > piece) limit -= limit / 32;
    const Prefill small(context(), m.config, s.dtype, s.kv_dtype, device_under_test(limit));
    expect(small.workspace_bytes() <= limit, s, "the workspace's limit");
    expect(run(m, small, tokens, {}, 30) == whole, s, "pieces of " + std::to_string(small.piece_rows()) + " rows");
  }
}

// ---- Times ----

struct Timed {
  std::string model;
  int rows;
  double ms, product_ms, product_flops, ideal_flops;
};

std::vector<Timed> time_model(const Spec& s, int repeats, const std::vector<int>& forced) {
  std::vector<Timed> results;
  const TestModel m(s);
  Prefill prefill(context(), m.config, s.dtype, s.kv_dtype, device_under_test());
  const Array<char> workspace(prefill.workspace_bytes());
  const Array<float> logits(size_t(s.vocab));
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "a stream");
  for (int rows : {512, 1900}) {
    std::vector<int32_t> host_tokens(static_cast<size_t>(rows));
    for (int i = 0; i < rows; i++) host_tokens[size_t(i)] = int32_t(hash(7, uint32_t(i), 0) % uint32_t(s.vocab));
    Array<int32_t> tokens(host_tokens.size());
    tokens.put(host_tokens.data());
    const Cache cache(s, rows, 1);
    const auto prompt = [&] {
      for (int64_t first = 0, n; first < rows; first += n) {
        n = std::min<int64_t>(prefill.piece_rows(), rows - first);
        prefill.enqueue(m.weights, cache.view(s), tokens.data + first, first, n, workspace.data, stream);
        if (first + n == rows) prefill.enqueue_logits(m.weights, first, n - 1, 1, logits.data, workspace.data, stream);
      }
    };
    const auto event = [] {
      cudaEvent_t e;
      check(cudaEventCreate(&e), "an event");
      return e;
    };
    const cudaEvent_t begin = event(), end = event();
    const auto median_ms = [&] {
      std::vector<float> times;
      for (int i = 0; i < repeats; i++) {
        check(cudaEventRecord(begin, stream), "an event");
        prompt();
        check(cudaEventRecord(end, stream), "an event");
        check(cudaEventSynchronize(end), "prefill");
        float ms;
        check(cudaEventElapsedTime(&ms, begin, end), "a time");
        if (i) times.push_back(ms);
      }
      std::sort(times.begin(), times.end());
      return times[times.size() / 2];
    };
    Timed result = {s.name, rows, double(median_ms()), 0, 0, 0};
    // By kernel, with an event after every launch.
    std::vector<std::pair<const char*, cudaEvent_t>> marks;
    std::map<std::string, std::pair<double, int>> of_kernel;
    const auto breakdown = [&] {
      of_kernel.clear(), marks.clear();
      prefill.set_observer([&](const char* doing) {
        marks.emplace_back(doing, event());
        check(cudaEventRecord(marks.back().second, stream), "an event");
      });
      check(cudaEventRecord(begin, stream), "an event");
      prompt();
      check(cudaStreamSynchronize(stream), "prefill");
      cudaEvent_t before = begin;
      for (const auto& [doing, at] : marks) {
        float ms;
        check(cudaEventElapsedTime(&ms, before, at), "a time");
        of_kernel[doing].first += double(ms), of_kernel[doing].second++;
        before = at;
      }
      for (const auto& mark : marks) cudaEventDestroy(mark.second);
      prefill.set_observer(nullptr);
    };
    const double h = s.hidden, layers = s.layers, n = rows;
    const std::map<std::string, double> flops = {
        {"multiply by Q, K and V", 2 * n * h * double(qkv_size(m.config)) * layers},
        {"multiply by MLP-up", 2 * n * h * double(up_size(m.config)) * layers},
        {"multiply by MLP-down", 2 * n * h * s.inter * layers},
        {"multiply by O", 2 * n * h * double(q_size(m.config)) * layers},
        {"multiply by O and MLP-down", 2 * n * h * (s.inter + double(q_size(m.config))) * layers},
        {"attend", 2 * n * n * double(q_size(m.config)) * layers},
    };
    const auto report = [&](const char* title) {
      std::printf("%s, %d rows%s\n", s.name, rows, title);
      for (const auto& [doing, time] : of_kernel) {
        const auto known = flops.find(doing);
        std::printf("  %-28s %4d launches %8.3f ms", doing.c_str(), time.second, time.first);
        if (known != flops.end()) std::printf("  %6.1f TFLOP/s", known->second / time.first * 1e-9);
        std::printf("\n");
      }
    };
    breakdown();
    report("");
    for (const auto& [doing, time] : of_kernel)
      if (flops.count(doing) && doing != "attend") result.product_ms += time.first, result.product_flops += flops.at(doing);
    results.push_back(result);
    for (int tile : forced) {
      prefill.set_tile_rows(tile);
      breakdown();
      std::printf("  tiles of %3d rows:", tile);
      for (const auto& [doing, time] : of_kernel)
        if (flops.count(doing) && doing != "attend") std::printf("  %s %.1f us", doing.c_str() + 12, time.first / time.second * 1000);
      std::printf("\n");
    }
    prefill.set_tile_rows(0);
  }
  return results;
}

constexpr cf_norm kLayerNorm = CF_NORM_LAYER, kRms = CF_NORM_RMS;
constexpr cf_activation kGelu = CF_ACTIVATION_GELU, kTanh = CF_ACTIVATION_GELU_TANH, kSwiglu = CF_ACTIVATION_SWIGLU;

const Spec kSmall[] = {
    {"head_dim 64, like Pythia", 4, 4, 64, 16, 256, 1024, 997, 3, kLayerNorm, kGelu, true, true, kF16, kF16, 4},
    {"head_dim 80, bf16 cache", 3, 3, 80, 20, 240, 960, 1003, 2, kLayerNorm, kGelu, true, true, kF16, kBf16, 6},
    {"head_dim 128, like Llama", 4, 2, 128, 128, 512, 1376, 640, 3, kRms, kSwiglu, false, false, kBf16, kBf16, 5},
    {"head_dim 32, one key head", 8, 1, 32, 32, 208, 336, 517, 2, kRms, kSwiglu, false, false, kF16, kF16, 8},
    {"head_dim 96, biases, f16 cache", 2, 2, 96, 48, 192, 784, 300, 2, kLayerNorm, kTanh, false, true, kBf16, kF16, 4},
    {"head_dim 256, gated, biases", 2, 1, 256, 64, 304, 592, 411, 2, kLayerNorm, kSwiglu, true, true, kF16, kF16, 7},
};
const Spec kLarge[] = {
    {"Pythia-2.8B", 32, 32, 80, 20, 2560, 10240, 50304, 32, kLayerNorm, kGelu, true, true, kF16, kF16, 6},
    {"Pythia-6.9B", 32, 32, 128, 32, 4096, 16384, 50432, 32, kLayerNorm, kGelu, true, true, kF16, kF16, 6},
    {"Llama-2-7B", 32, 32, 128, 128, 4096, 11008, 32000, 32, kRms, kSwiglu, false, false, kF16, kF16, 6},
};

}  // namespace

int main(int argc, char** argv) try {
  bool time = false, sweep = false, all = true;
  for (int i = 1; i < argc; i++) {
    if (!std::strcmp(argv[i], "--time")) time = true;
    if (!std::strcmp(argv[i], "--sweep")) time = sweep = true;
    if (!std::strcmp(argv[i], "--only-time")) time = true, all = false;
  }
  if (all)
    for (const Spec& s : kSmall) test_model(s);
  if (time) {
    std::vector<int> forced;
    if (sweep) forced = {128, 120, 112, 104, 96, 88, 80, 64};
    std::vector<Timed> results;
    for (const Spec& s : kLarge)
      for (const Timed& t : time_model(s, 8, forced)) results.push_back(t);
    std::printf("%-14s %6s %10s %12s %10s\n", "model", "rows", "prompt ms", "products ms", "TFLOP/s");
    for (const Timed& t : results)
      std::printf("%-14s %6d %10.3f %12.3f %10.1f\n", t.model.c_str(), t.rows, t.ms, t.product_ms, t.product_flops / t.product_ms * 1e-9);
  }
  std::printf(failures ? "%d FAILURES\n" : "prefill: OK\n", failures);
  return failures != 0;
} catch (const Error& error) {
  std::fprintf(stderr, "FAILED: %s\n", error.message.c_str());
  return 1;
}
