// The CPU behind the backend interface.

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>

#include "checked.h"
#include "context.h"
#include "cpu/cpu_session.h"
#include "cpu/forward.h"
#include "error.h"
#include "model_config.h"

namespace cf {

namespace {

int32_t usable_threads() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
  return static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
}

const char* isa_name(cf_cpu_isa isa) { return isa == CF_CPU_ISA_AVX512 ? "AVX-512" : isa == CF_CPU_ISA_AVX2 ? "AVX2" : "baseline"; }

// Ours, in float, to the caller's; NULL: not wanted.
void write_activations(const float* src, cf_dtype dtype, int64_t count, void* dst) {
  if (dst) from_float(src, dtype, count, dst);
}

class CpuBackend : public Backend {
 public:
  CpuBackend(Context& context, const cf_context_options& o)
      : context_(context), kernels_(find_kernels(o.cpu_isa)), threads_(o.cpu_threads ? o.cpu_threads : usable_threads()) {
    if (!kernels_) fail(CF_ERROR_UNSUPPORTED, "this machine lacks the instruction set ", isa_name(o.cpu_isa));
    context_.log().write(CF_LOG_INFO, "CPU backend: ", isa_name(kernels_->isa), ", ", threads_.threads(), " threads");
  }

  void query(cf_context_info& info) const override { info.cpu_threads = threads_.threads(), info.cpu_isa = kernels_->isa; }
  void check_model(const cf_model_config&, cf_dtype) const override {}
  cf_dtype default_kv_dtype() const override { return CF_DTYPE_F32; }
  bool has_kv_dtype(cf_dtype) const override { return true; }

  std::unique_ptr<Weights> create_weights(const cf_model_config& config, cf_dtype weight_dtype) override {
    return std::make_unique<CpuWeights>(context_.host_memory(), config, weight_dtype);
  }
  uint64_t weights_bytes(const cf_model_config& config, cf_dtype stored, cf_dtype weight_dtype) const override {
    const cf_dtype kept = cf::kept_dtype(weight_dtype, stored);
    uint64_t bytes = SlotStorage::bytes(config, kept, Slot::kEmbedding, Slot::kEnd);
    for (int32_t layer = 0; layer < config.n_layers; layer++) bytes = add(bytes, SlotStorage::bytes(config, kept, Slot{0}, Slot::kLayerSlots));
    return bytes;
  }
  cf_dtype kept_dtype(cf_dtype wanted, cf_dtype stored) const override { return cf::kept_dtype(wanted, stored); }
  void wait_for(void*) const override {}
  uint64_t load_staging_bytes(const cf_model_config&) const override { return 0; }
  uint64_t block_workspace_bytes(const cf_model_config&, int32_t, int64_t) const override { return 0; }
  uint64_t workspace_bytes(const cf_model_config& config, int64_t) const override { return Workspace::bytes(config, true); }
  RowReader row_reader() const override { return read_rows; }

  void copy_device(void* dst, const void* src, uint64_t bytes) override { std::memcpy(dst, src, bytes); }
  void copy_to_host(void* dst, const void* src, uint64_t bytes) override { std::memcpy(dst, src, bytes); }
  void copy_from_host(void* dst, const void* src, uint64_t bytes) override { std::memcpy(dst, src, bytes); }

  std::unique_ptr<Session> create_session(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from) override {
    if (options.stream) fail(CF_ERROR_INVALID_ARGUMENT, "stream must be NULL on the CPU");
    return std::make_unique<CpuSession>(std::move(model), options, from, *kernels_, threads_);
  }

  void run_block(const Model& model, BlockPart part, int32_t layer, const cf_block_options& options) override;

 private:
  Context& context_;
  const Kernels* kernels_;
  ThreadPool threads_;
};

void CpuBackend::run_block(const Model& model, BlockPart part, int32_t layer, const cf_block_options& o) {
  const cf_model_config& c = model.config();
  const int64_t rows = o.n_rows, hidden = rows * c.hidden_size, activation = rows * c.intermediate_size, kv = kv_size(c);
  if (*o.step_status != CF_OK) return;
  Workspace w(context_.host_memory(), c, false);
  const Forward forward(c, static_cast<const CpuWeights&>(model.weights()), *kernels_, threads_);
  to_float(o.hidden, o.activation_dtype, hidden, w.hidden);
  if (part == BlockPart::kMlpDown) {
    to_float(o.attention_output, o.activation_dtype, hidden, w.attention);
    to_float(o.mlp_activation, o.activation_dtype, activation, w.activation);
  } else {
    const int64_t position = *o.position;
    if (position < 0) return void(*o.step_status = CF_ERROR_INVALID_ARGUMENT);
    if (position + rows > o.kv_capacity_tokens) return void(*o.step_status = CF_ERROR_CACHE_FULL);
    const int64_t page_tokens = o.page_table ? o.page_tokens : o.kv_capacity_tokens;
    RowPlace places[kPieceRows];
    int64_t positions[kPieceRows];
    for (int64_t r = 0; r < rows; r++) {
      positions[r] = position + r;
      places[r] = {position + r, {o.k_cache, o.v_cache, o.kv_dtype, o.token_stride, o.head_stride, o.page_stride, o.page_table, page_tokens}};
    }
    forward.rotate_angles(positions, rows, w);
    forward.attention_part(layer, places, rows, w, {});
    for (int64_t r = 0; r < rows; r++) {
      const float* k = w.qkv + r * qkv_size(c) + q_size(c);
      const auto row = [&](void* base) { return base ? static_cast<std::byte*>(base) + size_t(r * kv) * dtype_bytes(o.activation_dtype) : nullptr; };
      write_activations(k, o.activation_dtype, kv, row(o.new_k));
      write_activations(k + kv, o.activation_dtype, kv, row(o.new_v));
    }
    write_activations(w.attention, o.activation_dtype, hidden, o.attention_output);
    write_activations(w.activation, o.activation_dtype, activation, o.mlp_activation);
  }
  if (part != BlockPart::kAttention) {
    forward.mlp_down_part(layer, rows, w);
    write_activations(w.hidden, o.activation_dtype, hidden, o.output);
  }
  if (o.advance) *o.position += o.n_rows;
}

}  // namespace

void cpu_device_query(cf_device_info& info) {
  info.usable = 1;
  info.multiprocessors = usable_threads();
  info.max_cluster_size = 1;
  info.cpu_isa = find_kernels(CF_CPU_ISA_AUTO)->isa;
  info.memory_bytes = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE));
  const std::string name = text("CPU, ", isa_name(info.cpu_isa));
  std::copy(name.begin(), name.end(), info.name);  // shorter than info.name, which is zeroed
}

std::unique_ptr<Backend> create_cpu_backend(Context& context, const cf_context_options& options) {
  return std::make_unique<CpuBackend>(context, options);
}

}  // namespace cf
