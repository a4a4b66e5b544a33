// What a device does for the host code that all backends share. src/cpu and src/cuda implement it.
#pragma once

#include <memory>
#include <vector>

#include "clusterfusion.h"
#include "fingerprint.h"
#include "tensor.h"

namespace cf {

class Context;
class Model;
class Session;

// The weights of one model on the device.
class Weights {
 public:
  virtual ~Weights() = default;
  // `tensors` passed check_layer_tensors and are ready (Backend::wait_for). On return they are no longer needed. All or nothing.
  virtual void load_layer(int32_t layer, const std::vector<Tensor>& tensors) = 0;
  virtual void load_globals(const std::vector<Tensor>& tensors) = 0;
  virtual void end_loading() = 0;  // for now: frees what only loading needs
  virtual uint64_t allocated_bytes() const = 0;
};

enum class BlockPart { kWhole, kAttention, kMlpDown };

// Where a new session begins: empty, or as a fork of another with its first `position` positions.
struct ForkPoint {
  const Session* parent;  // NULL: empty
  int64_t position;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual void query(cf_context_info& info) const = 0;  // cpu_threads, cpu_isa
  // Throws CF_ERROR_UNSUPPORTED for a model or weight dtype that this backend cannot run.
  virtual void check_model(const cf_model_config& config, cf_dtype weight_dtype) const = 0;
  virtual cf_dtype default_kv_dtype() const = 0;
  virtual bool has_kv_dtype(cf_dtype kv_dtype) const = 0;  // F32, F16 or BF16
  virtual std::unique_ptr<Weights> create_weights(const cf_model_config& config, cf_dtype weight_dtype) = 0;
  // The dtype in which a matrix stored as `stored` is kept under option `wanted`.
  virtual cf_dtype kept_dtype(cf_dtype wanted, cf_dtype stored) const = 0;
  // Waits until device tensors that are ready in the order of this stream can be read.
  virtual void wait_for(void* stream) const = 0;
  // Exact bytes that weights of this configuration will allocate, and for the time of loading besides.
  virtual uint64_t weights_bytes(const cf_model_config& config, cf_dtype stored, cf_dtype weight_dtype) const = 0;
  virtual uint64_t load_staging_bytes(const cf_model_config& config) const = 0;
  virtual uint64_t workspace_bytes(const cf_model_config& config, int64_t capacity_tokens) const = 0;
  // Copies rows of a tensor in this device's memory, or the host's, to the host.
  virtual RowReader row_reader() const = 0;
  // `options` are resolved: no AUTO, no 0 left where it means a default. May throw CF_ERROR_UNSUPPORTED.
  virtual std::unique_ptr<Session> create_session(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from) = 0;
  // Between addresses of this device's memory, and from and to the host; done on return.
  virtual void copy_device(void* dst, const void* src, uint64_t bytes) = 0;
  virtual void copy_to_host(void* dst, const void* src, uint64_t bytes) = 0;
  virtual void copy_from_host(void* dst, const void* src, uint64_t bytes) = 0;
  virtual uint64_t block_workspace_bytes(const cf_model_config& config, int32_t n_rows, int64_t kv_capacity_tokens) const = 0;
  // `options` passed the checks of block.cpp. CUDA: only enqueues.
  virtual void run_block(const Model& model, BlockPart part, int32_t layer, const cf_block_options& options) = 0;
};

std::unique_ptr<Backend> create_cpu_backend(Context& context, const cf_context_options& options);
// Throws CF_ERROR_UNSUPPORTED in a build without CUDA, CF_ERROR_NO_DEVICE without driver or device.
std::unique_ptr<Backend> create_cuda_backend(Context& context, const cf_context_options& options);
void cpu_device_query(cf_device_info& info);
// Number of CUDA devices (0 without driver or CUDA build), and the description of one.
int32_t cuda_device_count();
void cuda_device_query(int32_t ordinal, cf_device_info& info);
// Device memory of `ordinal`, for a context without an allocator callback.
struct Allocator cuda_allocator();

}  // namespace cf
