// The C ABI: every function of clusterfusion.h. Checks handles, takes structs, calls the inside through guarded().

#include <algorithm>
#include <cstring>

#include "api_guard.h"
#include "block.h"
#include "cancellation.h"
#include "checked.h"
#include "checkpoint.h"
#include "config_json.h"
#include "handles.h"
#include "model_config.h"
#include "session_file.h"
#include "structs.h"

using namespace cf;

#define CF_STRINGIZE_(x) #x
#define CF_STRINGIZE(x) CF_STRINGIZE_(x)

namespace cf {

LastError& last_error() {
  thread_local LastError error{};
  return error;
}

void record_last_error(std::string_view message) {
  LastError& error = last_error();
  error.length = std::min(message.size(), sizeof error.text);
  std::memcpy(error.text, message.data(), error.length);
}

void copy_text(std::string_view message, char* buffer, size_t capacity, size_t* length) {
  if (!buffer && capacity) fail(CF_ERROR_INVALID_ARGUMENT, "buffer is NULL but capacity_bytes is ", capacity);
  if (length) *length = message.size();
  if (!capacity) return;
  const size_t copied = std::min(message.size(), capacity - 1);
  std::memcpy(buffer, message.data(), copied);
  buffer[copied] = 0;
}

namespace {

Context* context_of(const cf_context* handle) { return handle ? handle->impl.get() : nullptr; }
Context* context_of(const cf_model* handle) { return handle ? handle->impl->context().get() : nullptr; }
Context* context_of(const cf_kv_pool* handle) { return handle ? handle->model->context().get() : nullptr; }
Context* context_of(const cf_session* handle) { return handle ? handle->impl->model()->context().get() : nullptr; }
Context* context_of(const cf_graph* handle) { return handle ? handle->session->model()->context().get() : nullptr; }

// guarded() for a call on a handle.
template <class Handle, class Body>
cf_status on(Handle* handle, const char* name, Body body) {
  return guarded(context_of(handle), [&] {
    check_pointer(handle, name);
    body(*handle->impl);
  });
}

// Fills a caller's result struct.
template <class Result, class Fill>
void give(Result* out, const char* name, Fill fill) {
  check_pointer(out, name);
  check_struct_size(out->struct_size, name);
  Result value{};
  fill(value);
  give_struct(value, out, name);
}

template <class Handle>
cf_status destroy(Handle* handle) {
  return guarded(nullptr, [&] { delete handle; });
}

template <class Struct>
cf_status init(Struct* out, size_t struct_size, const char* name) {
  return guarded(nullptr, [&] { init_struct(out, struct_size, name); });
}

void check_directory(const char* directory) {
  check_pointer(directory, "directory");
  if (!*directory) fail(CF_ERROR_INVALID_ARGUMENT, "directory is empty");
}

void check_context_options(const cf_context_options& o) {
  if (o.device_kind != CF_DEVICE_CPU && o.device_kind != CF_DEVICE_CUDA)
    fail(CF_ERROR_INVALID_ARGUMENT, "device_kind is ", o.device_kind, ", which is none");
  if (o.n_devices < 0) fail(CF_ERROR_INVALID_ARGUMENT, "n_devices is ", o.n_devices);
  if (o.n_devices && !o.devices) fail(CF_ERROR_INVALID_ARGUMENT, "devices is NULL but n_devices is ", o.n_devices);
  if (o.n_devices > 1) fail(CF_ERROR_UNSUPPORTED, "a context over ", o.n_devices, " devices is not built yet");
  if (o.cpu_threads < 0 || o.cpu_threads > 1024) fail(CF_ERROR_INVALID_ARGUMENT, "cpu_threads is ", o.cpu_threads, ", expected 0 to 1024");
  if (o.cpu_isa < CF_CPU_ISA_AUTO || o.cpu_isa > CF_CPU_ISA_AVX512) fail(CF_ERROR_INVALID_ARGUMENT, "cpu_isa is ", o.cpu_isa, ", which is none");
  if (o.log_level < CF_LOG_NONE || o.log_level > CF_LOG_DEBUG) fail(CF_ERROR_INVALID_ARGUMENT, "log_level is ", o.log_level, ", which is none");
  if (!o.allocate != !o.free) fail(CF_ERROR_INVALID_ARGUMENT, "allocate and free must be set together");
  if (o.device_wait_limit_ms < 1) fail(CF_ERROR_INVALID_ARGUMENT, "device_wait_limit_ms is 0, expected at least 1");
  if (o.device_multiprocessors < 0) fail(CF_ERROR_INVALID_ARGUMENT, "device_multiprocessors is ", o.device_multiprocessors);
}

cf_model_options take_model_options(const cf_model_options* options) {
  const cf_model_options o = take_struct(options, "options");
  if (o.weight_dtype < CF_DTYPE_AUTO || o.weight_dtype > CF_DTYPE_BF16)
    fail(CF_ERROR_INVALID_ARGUMENT, "weight_dtype is ", o.weight_dtype, ", which is none");
  return o;
}

cf_model_config take_config(const cf_model_config* config) {
  check_pointer(config, "config");
  const cf_model_config c = take_struct(config, "config");
  check_config(c, CF_ERROR_INVALID_ARGUMENT);
  return c;
}

// The caller's descriptors as the inside has them: shapes and addresses checked for themselves, not yet against a model.
std::vector<Tensor> take_tensors(const cf_tensor* array, size_t n, const void* stream, const Context& context) {
  constexpr size_t kMaxTensors = 64;  // no layer has more roles
  if (stream && context.device_kind() == CF_DEVICE_CPU) fail(CF_ERROR_INVALID_ARGUMENT, "stream must be NULL on the CPU");
  if (n && !array) fail(CF_ERROR_INVALID_ARGUMENT, "tensors is NULL but n_tensors is ", n);
  if (n > kMaxTensors) fail(CF_ERROR_INVALID_ARGUMENT, "n_tensors is ", n, ", more than a layer has");
  std::vector<Tensor> tensors;
  for (size_t i = 0; i < n; i++) {
    const cf_tensor t = take_element(array, i, "tensors");
    const std::string name = text("tensors[", i, "]");
    if (t.dtype < CF_DTYPE_F32 || t.dtype > CF_DTYPE_BF16)
      fail(CF_ERROR_INVALID_ARGUMENT, name, ".dtype is ", t.dtype, ", expected F32, F16 or BF16");
    if (t.memory != CF_MEMORY_HOST && t.memory != CF_MEMORY_DEVICE) fail(CF_ERROR_INVALID_ARGUMENT, name, ".memory is ", t.memory, ", which is none");
    if (t.rank != 1 && t.rank != 2) fail(CF_ERROR_INVALID_ARGUMENT, name, ".rank is ", t.rank, ", expected 1 or 2");
    if (t.scales || t.scale_dtype) fail(CF_ERROR_UNSUPPORTED, name, ": quantised weights are not supported yet");
    check_pointer(t.data, (name + ".data").c_str());
    Tensor out{t.role, t.dtype, t.shape[0], t.rank == 2 ? t.shape[1] : 1, name, 0, nullptr, 0, t.data, t.memory};
    if (out.rows < 1 || out.cols < 1) fail(CF_ERROR_INVALID_ARGUMENT, name, ".shape has a dimension below 1");
    if (context.device_kind() == CF_DEVICE_CPU) out.memory = CF_MEMORY_HOST;
    const bool dense = t.strides[0] == 0 && t.strides[1] == 0;
    if (!dense && t.strides[t.rank - 1] != 1)
      fail(CF_ERROR_INVALID_ARGUMENT, name, ".strides: the innermost is ", t.strides[t.rank - 1], ", expected 1");
    const int64_t stride = dense || t.rank == 1 ? out.cols : t.strides[0];
    if (stride < out.cols) fail(CF_ERROR_INVALID_ARGUMENT, name, ".strides: rows of ", out.cols, " elements lie ", stride, " apart");
    const auto stride_bytes = try_mul(uint64_t(stride), dtype_bytes(t.dtype));
    if (!stride_bytes || !try_mul(*stride_bytes, uint64_t(out.rows))) fail(CF_ERROR_INVALID_ARGUMENT, name, ": its size in bytes overflows 64 bits");
    out.stride_bytes = *stride_bytes;
    tensors.push_back(std::move(out));
  }
  return tensors;
}

// A session's options as given, for a model whose weights are all there.
cf_session_options take_session_options(const Model& model, const cf_session_options* options) {
  const cf_session_options o = take_struct(options, "options");
  if (o.pool && o.pool->model.get() != &model) fail(CF_ERROR_INVALID_ARGUMENT, "options.pool belongs to another model");
  auto lock = model.lock_for_step();
  model.check_loaded();
  if (o.capacity_tokens > model.config().max_position_embeddings)
    model.context()->log().write(CF_LOG_WARNING, "a capacity of ", o.capacity_tokens,
                                 " positions exceeds the checkpoint's max_position_embeddings of ", model.config().max_position_embeddings);
  return o;
}

// A session made from a saved one: the checks of cf_session_create, then `restore`.
template <class Restore>
cf_status restored(cf_model* model, const cf_session_options* options, cf_session** session, Restore restore) {
  return on(model, "model", [&](Model& m) {
    check_pointer(session, "session");
    const cf_session_options o = take_session_options(m, options);
    *session = new cf_session{restore(o)};
  });
}

}  // namespace
}  // namespace cf

extern "C" {

// ---- Versions, status

uint32_t cf_version(void) { return CF_VERSION_MAJOR * 1000000 + CF_VERSION_MINOR * 1000 + CF_VERSION_PATCH; }

const char* cf_version_string(void) { return CF_STRINGIZE(CF_VERSION_MAJOR) "." CF_STRINGIZE(CF_VERSION_MINOR) "." CF_STRINGIZE(CF_VERSION_PATCH); }

uint32_t cf_abi_version(void) { return CF_ABI_VERSION; }

const char* cf_status_name(cf_status status) {
  switch (status) {
    case CF_OK: return "CF_OK";
    case CF_NOT_READY: return "CF_NOT_READY";
    case CF_ERROR_INVALID_ARGUMENT: return "CF_ERROR_INVALID_ARGUMENT";
    case CF_ERROR_OUT_OF_MEMORY: return "CF_ERROR_OUT_OF_MEMORY";
    case CF_ERROR_IO: return "CF_ERROR_IO";
    case CF_ERROR_INVALID_FILE: return "CF_ERROR_INVALID_FILE";
    case CF_ERROR_UNSUPPORTED: return "CF_ERROR_UNSUPPORTED";
    case CF_ERROR_NO_DEVICE: return "CF_ERROR_NO_DEVICE";
    case CF_ERROR_DEVICE_LOST: return "CF_ERROR_DEVICE_LOST";
    case CF_ERROR_NOT_LOADED: return "CF_ERROR_NOT_LOADED";
    case CF_ERROR_CACHE_FULL: return "CF_ERROR_CACHE_FULL";
    case CF_ERROR_NONFINITE_LOGITS: return "CF_ERROR_NONFINITE_LOGITS";
    case CF_ERROR_NO_TOKEN_ALLOWED: return "CF_ERROR_NO_TOKEN_ALLOWED";
    case CF_ERROR_CANCELLED: return "CF_ERROR_CANCELLED";
    case CF_ERROR_BUFFER_TOO_SMALL: return "CF_ERROR_BUFFER_TOO_SMALL";
    case CF_ERROR_MISMATCH: return "CF_ERROR_MISMATCH";
    case CF_ERROR_BUSY: return "CF_ERROR_BUSY";
    case CF_ERROR_INTERNAL: return "CF_ERROR_INTERNAL";
    default: return "CF_UNKNOWN_STATUS";
  }
}

cf_status cf_last_error(char* buffer, size_t capacity_bytes, size_t* length_bytes) {
  const LastError& error = last_error();
  if (!buffer && capacity_bytes) return CF_ERROR_INVALID_ARGUMENT;  // without a sentence: it would replace the one asked for
  copy_text({error.text, error.length}, buffer, capacity_bytes, length_bytes);
  return CF_OK;
}

// ---- Structs

cf_status cf_device_info_init(cf_device_info* info, size_t size) { return init(info, size, "info"); }
cf_status cf_context_options_init(cf_context_options* options, size_t size) { return init(options, size, "options"); }
cf_status cf_context_info_init(cf_context_info* info, size_t size) { return init(info, size, "info"); }
cf_status cf_model_config_init(cf_model_config* config, size_t size) { return init(config, size, "config"); }
cf_status cf_model_options_init(cf_model_options* options, size_t size) { return init(options, size, "options"); }
cf_status cf_tensor_init(cf_tensor* tensor, size_t size) { return init(tensor, size, "tensor"); }
cf_status cf_model_info_init(cf_model_info* info, size_t size) { return init(info, size, "info"); }
cf_status cf_kv_pool_options_init(cf_kv_pool_options* options, size_t size) { return init(options, size, "options"); }
cf_status cf_kv_pool_info_init(cf_kv_pool_info* info, size_t size) { return init(info, size, "info"); }
cf_status cf_session_options_init(cf_session_options* options, size_t size) { return init(options, size, "options"); }
cf_status cf_session_info_init(cf_session_info* info, size_t size) { return init(info, size, "info"); }
cf_status cf_memory_estimate_init(cf_memory_estimate* estimate, size_t size) { return init(estimate, size, "estimate"); }
cf_status cf_sampler_options_init(cf_sampler_options* options, size_t size) { return init(options, size, "options"); }
cf_status cf_outputs_init(cf_outputs* outputs, size_t size) { return init(outputs, size, "outputs"); }
cf_status cf_tap_init(cf_tap* tap, size_t size) { return init(tap, size, "tap"); }
cf_status cf_step_options_init(cf_step_options* options, size_t size) { return init(options, size, "options"); }
cf_status cf_result_init(cf_result* result, size_t size) { return init(result, size, "result"); }
cf_status cf_graph_options_init(cf_graph_options* options, size_t size) { return init(options, size, "options"); }
cf_status cf_graph_info_init(cf_graph_info* info, size_t size) { return init(info, size, "info"); }
cf_status cf_block_options_init(cf_block_options* options, size_t size) { return init(options, size, "options"); }

// ---- Devices

cf_status cf_device_count(cf_device_kind kind, int32_t* count) {
  return guarded(nullptr, [&] {
    check_pointer(count, "count");
    if (kind != CF_DEVICE_CPU && kind != CF_DEVICE_CUDA) fail(CF_ERROR_INVALID_ARGUMENT, "kind is ", kind, ", which is none");
    *count = kind == CF_DEVICE_CPU ? 1 : cuda_device_count();
  });
}

cf_status cf_device_query(cf_device_kind kind, int32_t ordinal, cf_device_info* info) {
  return guarded(nullptr, [&] {
    give(info, "info", [&](cf_device_info& value) {
      int32_t count = 0;
      if (cf_device_count(kind, &count) != CF_OK) fail(CF_ERROR_INVALID_ARGUMENT, "kind is ", kind, ", which is none");
      if (ordinal < 0 || ordinal >= count) fail(CF_ERROR_NO_DEVICE, "there is no device ", ordinal, " of this kind, only ", count);
      value.kind = kind;
      value.ordinal = ordinal;
      if (kind == CF_DEVICE_CUDA) return cuda_device_query(ordinal, value);
      cpu_device_query(value);
    });
  });
}

// ---- Cancellation

cf_status cf_cancellation_create(cf_cancellation** cancellation) {
  return guarded(nullptr, [&] {
    check_pointer(cancellation, "cancellation");
    *cancellation = new cf_cancellation;
  });
}

cf_status cf_cancellation_request(cf_cancellation* cancellation) {
  if (!cancellation) return CF_ERROR_INVALID_ARGUMENT;  // without a sentence: this must be safe in a signal handler
  cancellation->requested.store(true, std::memory_order_relaxed);
  return CF_OK;
}

cf_status cf_cancellation_reset(cf_cancellation* cancellation) {
  return guarded(nullptr, [&] {
    check_pointer(cancellation, "cancellation");
    cancellation->requested.store(false, std::memory_order_relaxed);
  });
}

cf_status cf_cancellation_requested(const cf_cancellation* cancellation, int32_t* requested) {
  return guarded(nullptr, [&] {
    check_pointer(cancellation, "cancellation");
    check_pointer(requested, "requested");
    *requested = is_cancelled(cancellation);
  });
}

cf_status cf_cancellation_destroy(cf_cancellation* cancellation) { return destroy(cancellation); }

// ---- Contexts

cf_status cf_context_create(const cf_context_options* options, cf_context** context) {
  return guarded(nullptr, [&] {
    check_pointer(context, "context");
    const cf_context_options o = take_struct(options, "options");
    check_context_options(o);
    *context = new cf_context{std::make_shared<Context>(o)};
  });
}

cf_status cf_context_destroy(cf_context* context) { return destroy(context); }

cf_status cf_context_query(const cf_context* context, cf_context_info* info) {
  return on(context, "context", [&](const Context& c) { give(info, "info", [&](cf_context_info& value) { c.query(value); }); });
}

cf_status cf_context_last_error(const cf_context* context, char* buffer, size_t capacity_bytes, size_t* length_bytes) {
  return guarded(nullptr, [&] {  // not recorded on the context, and to be had from a lost one
    check_pointer(context, "context");
    copy_text(context->impl->last_error(), buffer, capacity_bytes, length_bytes);
  });
}

// ---- Models

cf_status cf_model_config_read(const char* directory, cf_model_config* config) {
  return guarded(nullptr, [&] {
    check_directory(directory);
    check_pointer(config, "config");
    give_struct(read_config(directory), config, "config");
  });
}

cf_status cf_model_load(cf_context* context, const char* directory, const cf_model_options* options, cf_model** model) {
  return guarded(context_of(context), [&] {
    check_pointer(context, "context");
    check_directory(directory);
    check_pointer(model, "model");
    const cf_model_options o = take_model_options(options);
    const Checkpoint checkpoint = open_checkpoint(directory);
    auto loaded = std::make_shared<Model>(context->impl, checkpoint.config, o.weight_dtype);
    loaded->load(checkpoint, o);
    *model = new cf_model{std::move(loaded)};
  });
}

cf_status cf_model_reload(cf_model* model, const char* directory, const cf_model_options* options) {
  return on(model, "model", [&](Model& m) {
    check_directory(directory);
    const cf_model_options o = take_model_options(options);
    if (o.weight_dtype != CF_DTYPE_AUTO && o.weight_dtype != m.weight_dtype())
      fail(CF_ERROR_MISMATCH, "options.weight_dtype differs from what the model was made with");
    m.load(open_checkpoint(directory), o);
  });
}

cf_status cf_model_create(cf_context* context, const cf_model_config* config, const cf_model_options* options, cf_model** model) {
  return guarded(context_of(context), [&] {
    check_pointer(context, "context");
    check_pointer(model, "model");
    *model = new cf_model{std::make_shared<Model>(context->impl, take_config(config), take_model_options(options).weight_dtype)};
  });
}

cf_status cf_model_destroy(cf_model* model) { return destroy(model); }

cf_status cf_load_layer(cf_model* model, int32_t layer, const cf_tensor* tensors, size_t n_tensors, void* stream) {
  return on(model, "model", [&](Model& m) {
    if (layer < 0 || layer >= m.config().n_layers) fail(CF_ERROR_INVALID_ARGUMENT, "layer is ", layer, ", expected 0 to ", m.config().n_layers - 1);
    m.load_layer(layer, take_tensors(tensors, n_tensors, stream, *m.context()), stream);
  });
}

cf_status cf_load_globals(cf_model* model, const cf_tensor* tensors, size_t n_tensors, void* stream) {
  return on(model, "model", [&](Model& m) { m.load_globals(take_tensors(tensors, n_tensors, stream, *m.context()), stream); });
}

cf_status cf_model_query(const cf_model* model, cf_model_info* info) {
  return on(model, "model", [&](const Model& m) { give(info, "info", [&](cf_model_info& value) { m.query(value); }); });
}

cf_status cf_model_get_config(const cf_model* model, cf_model_config* config) {
  return on(model, "model", [&](const Model& m) { give_struct(m.config(), config, "config"); });
}

cf_status cf_model_estimate(const cf_context* context, const cf_model_config* config, cf_dtype stored_dtype, const cf_model_options* model_options,
                            const cf_session_options* session_options, cf_memory_estimate* estimate) {
  return on(context, "context", [&](const Context& c) {
    const cf_model_config model = take_config(config);
    const cf_dtype wanted = take_model_options(model_options).weight_dtype;
    if (stored_dtype < CF_DTYPE_F32 || stored_dtype > CF_DTYPE_BF16)
      fail(CF_ERROR_INVALID_ARGUMENT, "stored_dtype is ", stored_dtype, ", expected F32, F16 or BF16");
    Backend& backend = c.backend();
    backend.check_model(model, wanted);
    const cf_session_options session = take_struct(session_options, "session_options");
    const cf_session_options o = resolve_session_options(backend, model, session, session.pool ? session.pool->impl.get() : nullptr);
    give(estimate, "estimate", [&](cf_memory_estimate& value) {
      value.weights_bytes = backend.weights_bytes(model, stored_dtype, wanted);
      value.load_staging_bytes = backend.load_staging_bytes(model);
      value.page_bytes = KvPool::page_bytes(model, o.kv_dtype, o.page_tokens);
      if (!o.pool) value.kv_bytes = mul(value.page_bytes, ceil_div(uint64_t(o.capacity_tokens), uint64_t(o.page_tokens)));
      value.workspace_bytes = backend.workspace_bytes(model, o.capacity_tokens);
    });
  });
}

// ---- KV pools

cf_status cf_kv_pool_create(cf_model* model, const cf_kv_pool_options* options, cf_kv_pool** pool) {
  return on(model, "model", [&](Model& m) {
    check_pointer(pool, "pool");
    cf_kv_pool_options o = take_struct(options, "options");
    check_page_options(m.context()->backend(), o.kv_dtype, o.page_tokens);
    if (o.capacity_tokens < 1 || o.capacity_tokens > kMaxPoolTokens)
      fail(CF_ERROR_INVALID_ARGUMENT, "capacity_tokens is ", o.capacity_tokens, ", expected 1 to ", kMaxPoolTokens);
    *pool = new cf_kv_pool{std::make_shared<KvPool>(m.context(), m.config(), o.kv_dtype, o.page_tokens, o.capacity_tokens), model->impl};
  });
}

cf_status cf_kv_pool_destroy(cf_kv_pool* pool) { return destroy(pool); }

cf_status cf_kv_pool_query(const cf_kv_pool* pool, cf_kv_pool_info* info) {
  return on(pool, "pool", [&](const KvPool& p) { give(info, "info", [&](cf_kv_pool_info& value) { p.query(value); }); });
}

// ---- Sessions

cf_status cf_session_create(cf_model* model, const cf_session_options* options, cf_session** session) {
  return on(model, "model", [&](Model& m) {
    check_pointer(session, "session");
    const cf_session_options o = take_session_options(m, options);
    Backend& backend = m.context()->backend();
    *session = new cf_session{
        backend.create_session(model->impl, resolve_session_options(backend, m.config(), o, o.pool ? o.pool->impl.get() : nullptr), {})};
  });
}

cf_status cf_session_destroy(cf_session* session) { return destroy(session); }

cf_status cf_session_query(const cf_session* session, cf_session_info* info) {
  return on(session, "session", [&](const Session& s) { give(info, "info", [&](cf_session_info& value) { s.query(value); }); });
}

cf_status cf_session_set_sampler(cf_session* session, const cf_sampler_options* options) {
  return on(session, "session", [&](Session& s) { s.set_sampler(options); });
}

cf_status cf_session_set_allowed_tokens(cf_session* session, const uint32_t* mask, size_t n_words) {
  return on(session, "session", [&](Session& s) { s.set_allowed_tokens(mask, n_words); });
}

cf_status cf_sample_logits(const cf_sampler_options* options, const uint32_t* mask, const float* logits, size_t vocab_size, const int32_t* history,
                           size_t n_history, int64_t position, int32_t* token) {
  return guarded(nullptr, [&] {
    check_pointer(logits, "logits");
    check_pointer(token, "token");
    if (vocab_size < 1 || vocab_size > size_t(kMaxSize)) fail(CF_ERROR_INVALID_ARGUMENT, "vocab_size is ", vocab_size, ", expected 1 to ", kMaxSize);
    if (n_history) check_pointer(history, "history");
    if (position < 0) fail(CF_ERROR_INVALID_ARGUMENT, "position is ", position);
    for (size_t i = 0; i < n_history; i++)
      if (history[i] < 0 || size_t(history[i]) >= vocab_size)
        fail(CF_ERROR_INVALID_ARGUMENT, "history: token ", history[i], " is outside the vocabulary of ", vocab_size);
    Sampler sampler(take_struct(options, "options"), int64_t(vocab_size));
    if (mask) sampler.set_allowed(mask, (vocab_size + 31) / 32, int64_t(vocab_size));
    check_finite(logits, int64_t(vocab_size), position);
    Sampler::Work work;
    *token = sampler.sample(logits, int64_t(vocab_size), history, int64_t(n_history), position, work);
  });
}

// ---- Steps

cf_status cf_prefill(cf_session* session, const int32_t* tokens, size_t n_tokens, const cf_step_options* options) {
  return on(session, "session", [&](Session& s) { s.prefill(tokens, n_tokens, take_struct(options, "options")); });
}

cf_status cf_decode_step(cf_session* session, int32_t token, const cf_step_options* options) {
  return on(session, "session", [&](Session& s) {
    cf_step_options o = take_struct(options, "options");
    o.progress = nullptr;  // for calls of many steps
    s.decode_steps(1, token, o);
  });
}

cf_status cf_decode_steps(cf_session* session, int64_t n_steps, const cf_step_options* options) {
  return on(session, "session", [&](Session& s) { s.decode_steps(n_steps, CF_TOKEN_PENDING, take_struct(options, "options")); });
}

cf_status cf_decode_positions(cf_session* session, const int32_t* tokens, size_t n_tokens, const cf_step_options* options) {
  return on(session, "session", [&](Session& s) { s.decode_positions(tokens, n_tokens, take_struct(options, "options")); });
}

cf_status cf_decode_batch(cf_session* const* sessions, size_t n_sessions, const int32_t* tokens, const cf_step_options* options) {
  return guarded(sessions && n_sessions ? context_of(sessions[0]) : nullptr, [&] {
    check_pointer(sessions, "sessions");
    if (n_sessions < 1 || n_sessions > size_t(kMaxRows)) fail(CF_ERROR_INVALID_ARGUMENT, "n_sessions is ", n_sessions, ", expected 1 to ", kMaxRows);
    std::vector<Session*> list;
    for (size_t i = 0; i < n_sessions; i++) {
      check_pointer(sessions[i], "one of sessions");
      list.push_back(sessions[i]->impl.get());
    }
    Session::decode_batch(list, tokens, take_struct(options, "options"));
  });
}

static cf_status fetch(cf_session* session, bool wait, cf_result* result) {
  bool ready = true;
  const cf_status status = on(session, "session", [&](Session& s) {
    if (result) check_struct_size(result->struct_size, "result");
    cf_result value{};
    std::string sentence;
    ready = s.fetch(wait, value, sentence);
    if (!ready) return;
    if (result) give_struct(value, result, "result");
    if (value.status != CF_OK) throw Error{value.status, std::move(sentence)};
  });
  return status == CF_OK && !ready ? cf_status{CF_NOT_READY} : status;
}

cf_status cf_session_poll(cf_session* session, cf_result* result) { return fetch(session, false, result); }

cf_status cf_session_wait(cf_session* session, cf_result* result) { return fetch(session, true, result); }

cf_status cf_session_tokens(const cf_session* session, int64_t from, int32_t* tokens, size_t capacity_tokens, size_t* n_tokens) {
  return on(session, "session", [&](const Session& s) {
    check_pointer(n_tokens, "n_tokens");
    if (capacity_tokens) check_pointer(tokens, "tokens");
    if (from < 0) fail(CF_ERROR_INVALID_ARGUMENT, "from is ", from);
    *n_tokens = s.tokens(from, tokens, capacity_tokens);
  });
}

cf_status cf_session_truncate(cf_session* session, int64_t position) {
  return on(session, "session", [&](Session& s) { s.truncate(position); });
}

cf_status cf_session_fork(cf_session* session, int64_t position, const cf_session_options* options, cf_session** fork) {
  return on(session, "session", [&](Session& s) {
    check_pointer(fork, "fork");
    *fork = new cf_session{s.fork(position, options ? take_struct(options, "options") : s.options_for_fork())};
  });
}

cf_status cf_session_save(cf_session* session, void* buffer, size_t capacity_bytes, size_t* size_bytes) {
  return on(session, "session", [&](Session& s) {
    check_pointer(size_bytes, "size_bytes");
    save_session(s, buffer, capacity_bytes, size_bytes);
  });
}

cf_status cf_session_save_file(cf_session* session, const char* path) {
  return on(session, "session", [&](Session& s) {
    check_pointer(path, "path");
    save_session_file(s, path);
  });
}

cf_status cf_session_restore(cf_model* model, const cf_session_options* options, const void* buffer, size_t size_bytes, cf_session** session) {
  return restored(model, options, session, [&](const cf_session_options& o) {
    check_pointer(buffer, "buffer");
    return restore_session(model->impl, o, buffer, size_bytes);
  });
}

cf_status cf_session_restore_file(cf_model* model, const cf_session_options* options, const char* path, cf_session** session) {
  return restored(model, options, session, [&](const cf_session_options& o) {
    check_pointer(path, "path");
    return restore_session_file(model->impl, o, path);
  });
}

// ---- Graphs

cf_status cf_graph_capture(cf_session* session, const cf_graph_options* options, cf_graph** graph) {
  return guarded(context_of(session), [&] {
    check_pointer(session, "session");
    check_pointer(graph, "graph");
    auto made = std::make_unique<cf_graph>();
    made->session = session->impl;
    made->impl = session->impl->capture(take_struct(options, "options"));
    *graph = made.release();
  });
}
cf_status cf_graph_launch(cf_graph* graph) {
  return on(graph, "graph", [&](Graph& g) { graph->session->launch(g); });
}
cf_status cf_graph_query(const cf_graph* graph, cf_graph_info* info) {
  return on(graph, "graph", [&](const Graph& g) {
    check_pointer(info, "info");
    cf_graph_info value{};
    g.query(value);
    give_struct(value, info, "info");
  });
}
cf_status cf_graph_destroy(cf_graph* graph) {
  delete graph;
  return CF_OK;
}

// ---- Blocks

static cf_status block(cf_model* model, BlockPart part, int32_t layer, const cf_block_options* options) {
  return on(model, "model", [&](Model& m) {
    check_pointer(options, "options");
    run_block(m, part, layer, take_struct(options, "options"));
  });
}

cf_status cf_block_workspace(const cf_model* model, int32_t n_rows, int64_t kv_capacity_tokens, uint64_t* size_bytes) {
  return on(model, "model", [&](const Model& m) {
    check_pointer(size_bytes, "size_bytes");
    if (n_rows < 1 || n_rows > kMaxBlockRows) fail(CF_ERROR_INVALID_ARGUMENT, "n_rows is ", n_rows, ", expected 1 to ", kMaxBlockRows);
    check_block_capacity(kv_capacity_tokens, "kv_capacity_tokens");
    *size_bytes = m.context()->backend().block_workspace_bytes(m.config(), n_rows, kv_capacity_tokens);
  });
}

cf_status cf_block_forward(cf_model* model, int32_t layer, const cf_block_options* options) {
  return block(model, BlockPart::kWhole, layer, options);
}
cf_status cf_block_attention(cf_model* model, int32_t layer, const cf_block_options* options) {
  return block(model, BlockPart::kAttention, layer, options);
}
cf_status cf_block_mlp_down(cf_model* model, int32_t layer, const cf_block_options* options) {
  return block(model, BlockPart::kMlpDown, layer, options);
}

}  // extern "C"
