// A CUDA device behind the backend interface.

#include <map>
#include <mutex>

#include "checked.h"
#include "cuda/block.h"
#include "cuda/cuda_call.h"
#include "cuda/cuda_session.h"
#include "cuda/cuda_weights.h"
#include "error.h"
#include "model.h"
#include "session.h"

namespace cf {

namespace {

// Rows of a tensor on any device, which must be ready, to the host.
void read_device_rows(const Tensor& t, int64_t first, int64_t count, void* dst) {
  if (t.memory == CF_MEMORY_HOST) return read_rows(t, first, count, dst);
  if (count == 0) return;
  const DeviceScope scope(nullptr, device_of_address(nullptr, t.address, text("'", t.name, "'")));
  const uint64_t row_bytes = mul(uint64_t(t.cols), dtype_bytes(t.dtype));
  const void* source = static_cast<const std::byte*>(t.address) + mul(uint64_t(first), t.stride_bytes);
  check_cuda(nullptr,
             cudaMemcpy2DAsync(dst, row_bytes, source, t.stride_bytes, row_bytes, size_t(count), cudaMemcpyDeviceToHost, cudaStreamPerThread),
             "read a tensor");
  check_cuda(nullptr, cudaStreamSynchronize(cudaStreamPerThread), "read a tensor");
}

int32_t find_device(const cf_context_options& o) {
  int count = 0, driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) fail(CF_ERROR_NO_DEVICE, "there is no CUDA driver on this machine");
  check_cuda(nullptr, cudaGetDeviceCount(&count), "find a device");
  const int32_t ordinal = o.n_devices ? o.devices[0] : 0;
  if (ordinal < 0 || ordinal >= count) fail(CF_ERROR_NO_DEVICE, "there is no CUDA device ", ordinal, ", only ", count);
  return ordinal;
}

class CudaBackend : public Backend {
 public:
  CudaBackend(Context& context, const cf_context_options& o)
      : context_(context), ordinal_(find_device(o)), wait_limit_ms_(o.device_wait_limit_ms), prefill_workspace_bytes_(o.prefill_workspace_bytes) {
    cf_device_info info = {};
    cuda_device_query(ordinal_, info);
    if (!info.usable) fail(CF_ERROR_UNSUPPORTED, "CUDA device ", ordinal_, " (", info.name, ") cannot be used: ", info.reason);
    take_limits(o, info);
    int kilohertz = 0, bits = 0;
    check_cuda(&context_, cudaDeviceGetAttribute(&kilohertz, cudaDevAttrMemoryClockRate, ordinal_), "describe a device");
    check_cuda(&context_, cudaDeviceGetAttribute(&bits, cudaDevAttrGlobalMemoryBusWidth, ordinal_), "describe a device");
    bytes_per_second_ = 2e3 * kilohertz * (bits / 8);
    const DeviceScope scope(&context_, ordinal_);
    check_cuda(&context_, cudaStreamCreateWithFlags(&load_stream_, cudaStreamNonBlocking), "create a stream");
    context_.log().write(CF_LOG_INFO, "CUDA backend: device ", ordinal_, ", ", info.name, ", ", info.multiprocessors, " SMs");
  }

  ~CudaBackend() override {
    try {
      const DeviceScope scope(&context_, ordinal_);
      cudaStreamDestroy(load_stream_);
    } catch (const Error&) {  // a lost device has no streams left
    }
  }

  void query(cf_context_info&) const override {}

  void check_model(const cf_model_config& config, cf_dtype weight_dtype) const override {
    if (weight_dtype == CF_DTYPE_F32) fail(CF_ERROR_UNSUPPORTED, "weight_dtype F32 is for the CPU; CUDA keeps matrices as F16 or BF16");
    const DeviceScope scope(&context_, ordinal_);
    const DecodeShape shape(config, device());
    prepare_decode(context_, config, shape, device());
  }

  cf_dtype default_kv_dtype() const override { return CF_DTYPE_F16; }
  bool has_kv_dtype(cf_dtype kv_dtype) const override { return kv_dtype != CF_DTYPE_F32; }

  std::unique_ptr<Weights> create_weights(const cf_model_config& config, cf_dtype weight_dtype) override {
    return std::make_unique<CudaBlocks>(LoadPath{context_, ordinal_, load_stream_}, config, weight_dtype, device());
  }
  uint64_t weights_bytes(const cf_model_config& config, cf_dtype, cf_dtype) const override { return CudaBlocks::bytes(config, device()); }
  cf_dtype kept_dtype(cf_dtype wanted, cf_dtype stored) const override { return cuda_kept_dtype(wanted, stored); }
  void wait_for(void* stream) const override {
    const DeviceScope scope(&context_, ordinal_);
    check_not_capturing(context_, static_cast<cudaStream_t>(stream), "weights cannot be loaded");
    check_cuda(&context_, cudaStreamSynchronize(static_cast<cudaStream_t>(stream)), "wait for the tensors");
  }
  uint64_t load_staging_bytes(const cf_model_config& config) const override { return WeightLoader::staging_bytes(config); }
  uint64_t block_workspace_bytes(const cf_model_config& config, int32_t n_rows, int64_t kv_capacity_tokens) const override {
    return CudaBlocks::workspace_bytes(config, n_rows, kv_capacity_tokens, device());
  }
  uint64_t workspace_bytes(const cf_model_config& config, int64_t capacity_tokens) const override {
    return add(CudaSession::workspace_bytes(config, capacity_tokens, device()), Prefill::workspace_bytes(config, device()));
  }
  RowReader row_reader() const override { return read_device_rows; }

  void copy_device(void* dst, const void* src, uint64_t bytes) override { copy(dst, src, bytes, cudaMemcpyDeviceToDevice); }
  void copy_to_host(void* dst, const void* src, uint64_t bytes) override { copy(dst, src, bytes, cudaMemcpyDeviceToHost); }
  void copy_from_host(void* dst, const void* src, uint64_t bytes) override { copy(dst, src, bytes, cudaMemcpyHostToDevice); }

  std::unique_ptr<Session> create_session(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from) override {
    cf_session_options resolved = options;
    if (resolved.launch_mode == CF_LAUNCH_AUTO) resolved.launch_mode = CF_LAUNCH_STEP;
    std::shared_ptr<PrefillMemory> memory = prefill_memory(*model);
    return std::make_unique<CudaSession>(std::move(model), resolved, from, device(), std::move(memory));
  }

  void run_block(const Model& model, BlockPart part, int32_t layer, const cf_block_options& options) override {
    if (part != BlockPart::kMlpDown && !has_kv_dtype(options.kv_dtype))
      fail(CF_ERROR_UNSUPPORTED, "kv_dtype F32 is for the CPU; CUDA has F16 and BF16");
    const DeviceScope scope(&context_, ordinal_);
    static_cast<const CudaBlocks&>(model.weights()).run(part, layer, options);
  }

 private:
  CudaDevice device() const {
    return {ordinal_, multiprocessors_, shared_memory_bytes_, wait_limit_ms_, prefill_workspace_bytes_, bytes_per_second_};
  }

  // That of a model's sessions, for as long as there are any.
  std::shared_ptr<PrefillMemory> prefill_memory(const Model& model) {
    const std::lock_guard lock(prefill_mutex_);
    std::erase_if(prefill_memory_, [](const auto& of_model) { return of_model.second.expired(); });
    std::shared_ptr<PrefillMemory> memory = prefill_memory_[&model].lock();
    if (memory) return memory;
    const DeviceScope scope(&context_, ordinal_);
    memory = std::make_shared<PrefillMemory>();
    memory->workspace = Buffer(context_.device_memory(), Prefill::workspace_bytes(model.config(), device()));
    prefill_memory_[&model] = memory;
    return memory;
  }

  // How large the device is to be: as it is, or as the options say.
  void take_limits(const cf_context_options& o, const cf_device_info& info) {
    const auto limit = [&](const char* option, int64_t asked, int64_t most) {
      if (asked > most) fail(CF_ERROR_UNSUPPORTED, option, " is ", asked, "; CUDA device ", ordinal_, " (", info.name, ") has ", most);
      return asked;
    };
    const int64_t sms = limit("device_multiprocessors", o.device_multiprocessors, int64_t(info.multiprocessors) * gpu::kCtasOfSm);
    const int64_t own = int64_t(info.shared_memory_bytes) / gpu::kCtasOfSm - (gpu::kCtasOfSm - 1) * 1024;  // the system takes 1 KB of each CTA
    const int64_t bytes = limit("device_shared_memory_bytes", o.device_shared_memory_bytes, own);
    multiprocessors_ = sms ? int(sms) : info.multiprocessors;
    shared_memory_bytes_ = uint64_t(bytes ? bytes : own);
  }

  void copy(void* dst, const void* src, uint64_t bytes, cudaMemcpyKind kind) {
    const DeviceScope scope(&context_, ordinal_);
    check_cuda(&context_, cudaMemcpyAsync(dst, src, bytes, kind, load_stream_), "copy pages");
    check_cuda(&context_, cudaStreamSynchronize(load_stream_), "copy pages");
  }

  Context& context_;
  const int32_t ordinal_;
  const uint32_t wait_limit_ms_;
  const uint64_t prefill_workspace_bytes_;
  std::mutex prefill_mutex_;
  std::map<const Model*, std::weak_ptr<PrefillMemory>> prefill_memory_;
  int multiprocessors_ = 0;
  uint64_t shared_memory_bytes_ = 0;
  double bytes_per_second_ = 0;
  cudaStream_t load_stream_ = nullptr;
};

}  // namespace

std::unique_ptr<Backend> create_cuda_backend(Context& context, const cf_context_options& options) {
  return std::make_unique<CudaBackend>(context, options);
}

}  // namespace cf
