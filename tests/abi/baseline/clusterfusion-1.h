/* clusterfusion.h - the whole public interface of libclusterfusion.
 *
 * The library decodes GPT-NeoX (Pythia) and Llama checkpoints, one stream of tokens at the lowest latency the hardware
 * allows. The CUDA backend fuses whole transformer blocks; the CPU backend runs the same calls anywhere.
 *
 *   cf_context   a device, its memory and its log
 *   +- cf_model      weights, read-only once loaded, shared by any number of sessions
 *      +- cf_kv_pool     pages of keys and values (a session has a private pool unless it is given one)
 *      +- cf_session     one sequence: its position, its pages, its sampler, its stream
 *         +- cf_graph        a captured decode step
 *
 * The shortest program:
 *
 *   cf_context* context; cf_model* model; cf_session* session; cf_result result;
 *   cf_context_create(NULL, &context);
 *   cf_model_load(context, "path/to/checkpoint", NULL, &model);
 *   cf_session_create(model, NULL, &session);
 *   cf_prefill(session, prompt, n_prompt, NULL);
 *   for (;;) {
 *     cf_result_init(&result, sizeof result);
 *     if (cf_session_wait(session, &result) != CF_OK) break;
 *     consume(result.token);
 *     if (cf_decode_step(session, CF_TOKEN_PENDING, NULL) != CF_OK) break;
 *   }
 *
 * Conventions
 *
 * Status     Every call returns a cf_status except the four that only name things (cf_version, cf_version_string,
 *            cf_abi_version, cf_status_name). On anything but CF_OK the handles are unchanged and usable, output
 *            pointers are untouched unless their call says otherwise, and cf_last_error has a sentence that names what
 *            was wrong. Any call may return CF_ERROR_INVALID_ARGUMENT (a NULL or impossible argument),
 *            CF_ERROR_OUT_OF_MEMORY, CF_ERROR_DEVICE_LOST (the context's device failed earlier; destroy the context) and
 *            CF_ERROR_INTERNAL (a defect of the library), and any call on a session CF_ERROR_BUSY (it is in another call);
 *            the comments name the others. The library never prints, aborts, exits or throws.
 * Enqueued   Prefill and decode calls only enqueue: their return value covers what can be known from the arguments.
 * is not     Whether the step itself succeeded is known on the device, and is fetched by cf_session_poll (never blocks)
 * done       or cf_session_wait (blocks). A step that fails (cache full, logits not finite, cancelled) advances nothing,
 *            and every later step of that session does nothing until its status has been fetched. The CPU backend runs
 *            steps inside the call, but reports in the same way.
 * Structs    Option and result structs start with struct_size; initialise them with their *_init(&s, sizeof s), which
 *            sets the defaults. Passing NULL for an options pointer means all defaults. A larger struct from a newer
 *            header is accepted if what this library does not know is zero; otherwise CF_ERROR_INVALID_ARGUMENT.
 * Ownership  Arguments are copied before a call returns unless its comment says otherwise. Handles are reference
 *            counted inside: destroying a parent before its children is safe, its memory goes with the last child. So a
 *            context's callbacks, with what their `user` points to, must stay valid until all that was made from it is destroyed.
 *            Every *_destroy accepts NULL.
 * Threads    Different handles may be used from different threads at once. A context, a loaded model and a pool may be shared
 *            by threads freely. A session must not be in two calls at once, those of its graphs included: the second call
 *            answers CF_ERROR_BUSY. cf_session_tokens and cf_cancellation_request, _requested and _reset may be called from any
 *            thread at any time. Destroying a handle must be the last call on it. After fork() a child may not use handles.
 * Callbacks  Run on the thread that is inside the library call, never after it has returned. They must not call the library,
 *            except the four calls that only name things, cf_cancellation_request and _requested; nor throw or longjmp.
 * Units      Names carry them: _bytes, _tokens, _ms. Shapes are row-major, outermost dimension first; strides count elements.
 * Addresses  "device-accessible" means host memory on the CPU backend and memory of the context's device on CUDA.
 */
#ifndef CLUSTERFUSION_H
#define CLUSTERFUSION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define CF_API __attribute__((visibility("default")))
#else
#define CF_API
#endif

/* ---- Versions ------------------------------------------------------------------------------------------------------- */

#define CF_VERSION_MAJOR 0
#define CF_VERSION_MINOR 1
#define CF_VERSION_PATCH 0
#define CF_ABI_VERSION 1

/* Version of the library that was loaded: major * 1000000 + minor * 1000 + patch. */
CF_API uint32_t cf_version(void);
/* The same as text, "0.1.0"; static storage. */
CF_API const char* cf_version_string(void);
/* CF_ABI_VERSION of the library that was loaded; compare it with the header's before any other call. Within one ABI version
 * functions, constants and fields at the end of structs are added, and nothing else changes. */
CF_API uint32_t cf_abi_version(void);

/* ---- Status and errors ---------------------------------------------------------------------------------------------- */

typedef int32_t cf_status; /* values are never renumbered */
enum {
  CF_OK = 0,
  CF_NOT_READY = 1,               /* not an error: enqueued work has not finished (cf_session_poll) */
  CF_ERROR_INVALID_ARGUMENT = 2,  /* an argument is NULL, out of range or inconsistent */
  CF_ERROR_OUT_OF_MEMORY = 3,     /* host or device memory could not be allocated */
  CF_ERROR_IO = 4,                /* a file could not be opened or read */
  CF_ERROR_INVALID_FILE = 5,      /* a file was read and breaks its format, or lacks something the model needs */
  CF_ERROR_UNSUPPORTED = 6,       /* well-formed, but not built yet, not for this backend, or not this model family */
  CF_ERROR_NO_DEVICE = 7,         /* no such device, or no driver */
  CF_ERROR_DEVICE_LOST = 8,       /* the device failed; every call on this context answers so from now on */
  CF_ERROR_NOT_LOADED = 9,        /* a layer or tensor that the call needs has not been loaded */
  CF_ERROR_CACHE_FULL = 10,       /* the session's capacity or its pool has no room for the step */
  CF_ERROR_NONFINITE_LOGITS = 11, /* the model computed NaN or infinity; no token was sampled */
  CF_ERROR_NO_TOKEN_ALLOWED = 12, /* mask and biases leave no token to sample */
  CF_ERROR_CANCELLED = 13,        /* stopped by a cancellation or a progress callback */
  CF_ERROR_BUFFER_TOO_SMALL = 14, /* a caller's buffer is too small; the needed size was written */
  CF_ERROR_MISMATCH = 15,         /* a saved session or new weights belong to another model */
  CF_ERROR_BUSY = 16,             /* the handle is in use by another call or has unfinished work */
  CF_ERROR_INTERNAL = 17          /* a defect of the library; please report it */
};

/* "CF_ERROR_IO" for CF_ERROR_IO, "CF_UNKNOWN_STATUS" for a number that is none; static storage. */
CF_API const char* cf_status_name(cf_status status);

/* Copies the sentence of the calling thread's last call that failed into buffer, cut to capacity_bytes - 1 bytes and a NUL; it is
 * empty before the first one. *length_bytes (may be NULL) receives its uncut length without the NUL, which is at most 1024. buffer may
 * be NULL if capacity_bytes is 0. Stays until the thread's next failing call. Always CF_OK, unless buffer is NULL and capacity_bytes is
 * not 0: CF_ERROR_INVALID_ARGUMENT, which leaves the sentence as it is. */
CF_API cf_status cf_last_error(char* buffer, size_t capacity_bytes, size_t* length_bytes);

/* ---- Devices -------------------------------------------------------------------------------------------------------- */

typedef int32_t cf_device_kind;
enum { CF_DEVICE_CPU = 0, CF_DEVICE_CUDA = 1 };

typedef int32_t cf_cpu_isa; /* instruction set of the CPU backend; results are bitwise repeatable within one of them */
enum {
  CF_CPU_ISA_AUTO = 0,     /* the best that this machine has */
  CF_CPU_ISA_BASELINE = 1, /* what every machine of this architecture has: NEON on Arm, scalar code on x86-64 */
  CF_CPU_ISA_AVX2 = 2,     /* AVX2 with FMA and F16C */
  CF_CPU_ISA_AVX512 = 3    /* AVX-512 F, BW, CD, DQ, VL */
};

typedef struct cf_device_info {
  uint32_t struct_size;
  cf_device_kind kind;
  int32_t ordinal;              /* among the devices of its kind */
  int32_t usable;               /* 1, or 0 with the reason in `reason` */
  int32_t compute_capability;   /* CUDA: major * 10 + minor; CPU: 0 */
  int32_t multiprocessors;      /* CUDA: SMs; CPU: hardware threads this process may use */
  int32_t max_cluster_size;     /* CUDA: CTAs in the largest portable thread-block cluster, 1 without clusters; CPU: 1 */
  cf_cpu_isa cpu_isa;           /* CPU: what CF_CPU_ISA_AUTO chooses; CUDA: 0 */
  uint64_t memory_bytes;        /* total; CPU: physical memory */
  uint64_t shared_memory_bytes; /* CUDA: the most a CTA may use; CPU: 0 */
  char name[128];               /* NUL-terminated */
  char reason[128];             /* NUL-terminated; empty if usable */
} cf_device_info;

CF_API cf_status cf_device_info_init(cf_device_info* info, size_t struct_size);
/* Number of devices of a kind; CPU: 1. Without a driver or a CUDA build: CF_OK and 0. */
CF_API cf_status cf_device_count(cf_device_kind kind, int32_t* count);
/* Describes device `ordinal`. CF_ERROR_NO_DEVICE if there is none. */
CF_API cf_status cf_device_query(cf_device_kind kind, int32_t ordinal, cf_device_info* info);

/* ---- Cancellation and progress -------------------------------------------------------------------------------------- */

/* A flag that one thread raises and long calls of other threads look at. May be shared by any number of calls. */
typedef struct cf_cancellation cf_cancellation;
CF_API cf_status cf_cancellation_create(cf_cancellation** cancellation);
/* Raises the flag: calls that hold it stop at the next layer boundary (CPU), launch boundary or piece of a prompt (CUDA)
 * or layer (loading) with CF_ERROR_CANCELLED, until cf_cancellation_reset. Safe from any thread and from a signal
 * handler; leaves cf_last_error as it is, also where it answers CF_ERROR_INVALID_ARGUMENT to NULL. */
CF_API cf_status cf_cancellation_request(cf_cancellation* cancellation);
/* Lowers the flag. Safe from any thread; a call that runs meanwhile may or may not have seen it raised. */
CF_API cf_status cf_cancellation_reset(cf_cancellation* cancellation);
/* *requested: 1 if the flag is raised, 0 if not. Safe from any thread. */
CF_API cf_status cf_cancellation_requested(const cf_cancellation* cancellation, int32_t* requested);
/* The calls that were given it must have ended, and the status of steps that were must have been fetched. */
CF_API cf_status cf_cancellation_destroy(cf_cancellation* cancellation);

/* Reports that `done` of this call's `total` units (bytes when loading, positions in prefill, steps in cf_decode_steps) are
 * finished, as they are: how often is up to the library. A return value other than 0 cancels the call. */
typedef int32_t (*cf_progress_fn)(void* user, uint64_t done, uint64_t total);

/* ---- Context -------------------------------------------------------------------------------------------------------- */

typedef struct cf_context cf_context;

typedef int32_t cf_log_level;
enum { CF_LOG_NONE = 0, CF_LOG_WARNING = 1, CF_LOG_INFO = 2, CF_LOG_DEBUG = 3 };

/* message is NUL-terminated, one line without a newline, valid during the call only. May be called from several threads
 * at once if the context is used from several. */
typedef void (*cf_log_fn)(void* user, cf_log_level level, const char* message);

/* Memory of weights, KV pages and work buffers; small bookkeeping uses operator new. `kind` and `ordinal` say where.
 * Must return memory aligned to `alignment` (a power of two, at most 4096) or NULL, which becomes
 * CF_ERROR_OUT_OF_MEMORY. May be called from any thread that uses the context. */
typedef void* (*cf_allocate_fn)(void* user, cf_device_kind kind, int32_t ordinal, size_t size_bytes, size_t alignment);
/* Gets each address exactly once, with the values it was allocated with. */
typedef void (*cf_free_fn)(void* user, cf_device_kind kind, int32_t ordinal, void* address, size_t size_bytes, size_t alignment);

typedef struct cf_context_options {
  uint32_t struct_size;
  cf_device_kind device_kind; /* default CF_DEVICE_CPU */
  int32_t n_devices;          /* 0: device 0. More than one is CF_ERROR_UNSUPPORTED for now */
  int32_t cpu_threads;        /* CPU: threads per call, the caller's included, at most 1024; 0: all that the process may use */
  const int32_t* devices;     /* n_devices ordinals, each once; NULL if n_devices is 0 */
  cf_cpu_isa cpu_isa;         /* CPU: forces an instruction set; CF_ERROR_UNSUPPORTED if this machine lacks it */
  cf_log_level log_level;     /* messages above it are dropped; default CF_LOG_INFO */
  cf_log_fn log;              /* NULL: silent */
  void* log_user;
  cf_allocate_fn allocate; /* NULL: the library's own. Both or neither */
  cf_free_fn free;
  void* allocator_user;
  uint32_t device_wait_limit_ms;    /* CUDA: bound of every device-side wait, then CF_ERROR_DEVICE_LOST; at least 1, default 1000 */
  uint32_t reserved;                /* 0 */
  uint64_t prefill_workspace_bytes; /* CUDA: what prompts may take besides weights and sessions, for each model; default 256 MiB. With
                                       less they go through the model in shorter pieces, to the same bits; CF_ERROR_UNSUPPORTED at a
                                       session's creation if even the shortest piece needs more */
  /* CUDA: the launches of a device with fewer SMs, or less shared memory for a CTA, than this one has; the bits are the same. 0: its own */
  int32_t device_multiprocessors;
  uint32_t device_shared_memory_bytes;
} cf_context_options;

CF_API cf_status cf_context_options_init(cf_context_options* options, size_t struct_size);
/* CF_ERROR_NO_DEVICE: no such device, or no driver (CUDA). CF_ERROR_UNSUPPORTED: built without CUDA; a device older than compute
 * capability 8.0, or with fewer SMs than asked for; an instruction set this machine lacks; several devices. */
CF_API cf_status cf_context_create(const cf_context_options* options, cf_context** context);
CF_API cf_status cf_context_destroy(cf_context* context);

typedef struct cf_context_info {
  uint32_t struct_size;
  cf_device_kind device_kind;
  int32_t n_devices;
  int32_t cpu_threads; /* CPU: as resolved */
  cf_cpu_isa cpu_isa;  /* CPU: as resolved */
  int32_t reserved;
  uint64_t allocated_bytes; /* held now through the allocator, over the host and all devices */
  uint64_t peak_bytes;      /* the most that was ever held of each, added up */
} cf_context_info;

CF_API cf_status cf_context_info_init(cf_context_info* info, size_t struct_size);
CF_API cf_status cf_context_query(const cf_context* context, cf_context_info* info);
/* As cf_last_error, for the last failing call on this context or anything made from it, by any thread: not necessarily the one
 * that the caller has in mind, where several threads use it. What fails in this call itself is cf_last_error's. */
CF_API cf_status cf_context_last_error(const cf_context* context, char* buffer, size_t capacity_bytes, size_t* length_bytes);

/* ---- Model description ---------------------------------------------------------------------------------------------- */

typedef int32_t cf_dtype;
enum {
  CF_DTYPE_AUTO = 0, /* only where an option says so */
  CF_DTYPE_F32 = 1,
  CF_DTYPE_F16 = 2, /* IEEE binary16 */
  CF_DTYPE_BF16 = 3 /* the upper half of an F32 */
};

typedef int32_t cf_family;
enum { CF_FAMILY_GPT_NEOX = 1, CF_FAMILY_LLAMA = 2 };

typedef int32_t cf_norm;
enum { CF_NORM_LAYER = 1, CF_NORM_RMS = 2 }; /* LayerNorm with weight and bias; RMSNorm with weight */

typedef int32_t cf_activation;
enum {
  CF_ACTIVATION_GELU = 1,      /* x/2 (1 + erf(x/sqrt 2)) */
  CF_ACTIVATION_GELU_TANH = 2, /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): gelu_new, gelu_fast, gelu_pytorch_tanh */
  CF_ACTIVATION_SWIGLU = 3     /* silu(gate) * up, silu(x) = x / (1 + exp(-x)) */
};

typedef int32_t cf_rope_scaling;
enum { CF_ROPE_SCALING_NONE = 0, CF_ROPE_SCALING_LLAMA3 = 1 };

/* What a model is. Filled from config.json by cf_model_config_read, or by the caller before cf_model_create; also the one
 * description that the library works with inside. Sizes: at most 2^20 each, n_layers at most 1024. */
typedef struct cf_model_config {
  uint32_t struct_size;
  cf_family family;
  cf_norm norm;
  cf_activation activation;
  int32_t parallel_residual; /* 1: x + attention(norm1(x)) + mlp(norm2(x)); 0: MLP reads norm2(x + attention(norm1(x))) */
  int32_t attention_bias;    /* 1: biases on Q, K, V and O */
  int32_t mlp_bias;          /* 1: biases on gate, up and down */
  int32_t tied_embeddings;   /* 1: the head is the embedding */
  int32_t n_layers;
  int32_t hidden_size;
  int32_t n_heads;
  int32_t n_kv_heads; /* divides n_heads: equal for MHA, fewer for GQA, 1 for MQA */
  int32_t head_dim;   /* 32, 64, 80, 96, 128 or 256 */
  int32_t rotary_dim; /* leading dimensions of each head that rotate; even, 2 .. head_dim */
  int32_t intermediate_size;
  int32_t vocab_size;
  int32_t max_position_embeddings; /* a recommendation: sessions may exceed it, the log says so */
  cf_rope_scaling rope_scaling;
  double norm_eps;
  double rope_theta;
  double rope_factor; /* the four fields of rope_type "llama3" as in transformers; 0 otherwise */
  double rope_low_freq_factor;
  double rope_high_freq_factor;
  int32_t rope_original_max_position;
  int32_t bos_token;    /* -1: none */
  int32_t n_eos_tokens; /* 0 .. 8 */
  int32_t eos_tokens[8];
  int32_t reserved;
} cf_model_config;

/* Zeroes but for bos_token -1: there are no defaults for a model. */
CF_API cf_status cf_model_config_init(cf_model_config* config, size_t struct_size);
/* Reads and checks DIRECTORY/config.json. No weights are touched. CF_ERROR_IO, CF_ERROR_INVALID_FILE, CF_ERROR_UNSUPPORTED. */
CF_API cf_status cf_model_config_read(const char* directory, cf_model_config* config);

/* ---- Models and loading --------------------------------------------------------------------------------------------- */

typedef struct cf_model cf_model;

typedef struct cf_model_options {
  uint32_t struct_size;
  cf_dtype weight_dtype;   /* AUTO: CPU keeps matrices as stored; CUDA keeps F16 and BF16 and rounds F32 to F16, and logs it.
                            F16 or BF16: round to it. F32: CPU only */
  cf_progress_fn progress; /* cf_model_load, cf_model_reload: bytes of weights read; NULL: none */
  void* progress_user;
  cf_cancellation* cancellation; /* cf_model_load, cf_model_reload: held during the call only; NULL: none */
} cf_model_options;

CF_API cf_status cf_model_options_init(cf_model_options* options, size_t struct_size);

/* Loads a Hugging Face checkpoint directory: config.json and model.safetensors, or model.safetensors.index.json with its
 * shards. Everything is checked before any weight is read; F16, BF16 and F32 weights; families gpt_neox and llama. Tensors
 * that the model does not use are held to the rules of the format, skipped and named in the log. CUDA: up to 8 threads read, which end with
 * the call, as in cf_load_layer.
 * CF_ERROR_IO, CF_ERROR_INVALID_FILE (message names file and tensor), CF_ERROR_UNSUPPORTED, CF_ERROR_CANCELLED. */
CF_API cf_status cf_model_load(cf_context* context, const char* directory, const cf_model_options* options, cf_model** model);

/* Replaces every weight of a loaded model by those of another directory with the same configuration (for instance another
 * revision), all or nothing: both copies exist during the call. Sessions keep their KV, which belongs to the old weights:
 * truncate them to 0. CF_ERROR_MISMATCH if the configuration differs, or weight_dtype from what the model was made with (AUTO never
 * does); CF_ERROR_BUSY while another call uses this model; else as cf_model_load. */
CF_API cf_status cf_model_reload(cf_model* model, const char* directory, const cf_model_options* options);

/* An empty model, to be filled by cf_load_layer and cf_load_globals. CF_ERROR_UNSUPPORTED for a shape that the
 * backend cannot run. On CUDA, for now: head_dim 32, 64, 80, 96, 128 or 256; hidden_size and intermediate_size multiples of 16; hidden_size
 * at most 16384, intermediate_size and the rows of Q, K and V together at most 1048560, n_layers at most 128, vocab_size at most 524288; and
 * what a step of the model needs has to fit into the device's shared memory. */
CF_API cf_status cf_model_create(cf_context* context, const cf_model_config* config, const cf_model_options* options, cf_model** model);
CF_API cf_status cf_model_destroy(cf_model* model);

typedef int32_t cf_tensor_role; /* shapes: H hidden_size, D head_dim, A n_heads, G n_kv_heads, I intermediate_size, V vocab_size */
enum {
  /* of the model, for cf_load_globals */
  CF_ROLE_EMBEDDING = 1,         /* [V, H] */
  CF_ROLE_FINAL_NORM_WEIGHT = 2, /* [H] */
  CF_ROLE_FINAL_NORM_BIAS = 3,   /* [H], LayerNorm only */
  CF_ROLE_HEAD = 4,              /* [V, H], unless tied_embeddings */
  /* of a layer, for cf_load_layer */
  CF_ROLE_ATTENTION_NORM_WEIGHT = 16, /* [H], before attention */
  CF_ROLE_ATTENTION_NORM_BIAS = 17,   /* [H], LayerNorm only */
  CF_ROLE_MLP_NORM_WEIGHT = 18,       /* [H], before the MLP */
  CF_ROLE_MLP_NORM_BIAS = 19,         /* [H], LayerNorm only */
  CF_ROLE_QKV_WEIGHT = 20,            /* [A * 3 * D, H], for each head its Q, K and V rows, as GPT-NeoX stores them; or Q, K and V: */
  CF_ROLE_QKV_BIAS = 21,              /* [A * 3 * D] */
  CF_ROLE_Q_WEIGHT = 22,              /* [A * D, H] */
  CF_ROLE_Q_BIAS = 23,                /* [A * D] */
  CF_ROLE_K_WEIGHT = 24,              /* [G * D, H] */
  CF_ROLE_K_BIAS = 25,                /* [G * D] */
  CF_ROLE_V_WEIGHT = 26,              /* [G * D, H] */
  CF_ROLE_V_BIAS = 27,                /* [G * D] */
  CF_ROLE_O_WEIGHT = 28,              /* [H, A * D] */
  CF_ROLE_O_BIAS = 29,                /* [H] */
  CF_ROLE_GATE_WEIGHT = 30,           /* [I, H], SwiGLU only */
  CF_ROLE_GATE_BIAS = 31,             /* [I] */
  CF_ROLE_UP_WEIGHT = 32,             /* [I, H] */
  CF_ROLE_UP_BIAS = 33,               /* [I] */
  CF_ROLE_DOWN_WEIGHT = 34,           /* [H, I] */
  CF_ROLE_DOWN_BIAS = 35              /* [H] */
};

typedef int32_t cf_memory;
enum { CF_MEMORY_HOST = 0, CF_MEMORY_DEVICE = 1 }; /* DEVICE: of the context's device; on the CPU backend the same as HOST */

/* One weight tensor in the caller's memory; rows are outputs, as torch.nn.Linear has them. */
typedef struct cf_tensor {
  uint32_t struct_size;
  cf_tensor_role role;
  cf_dtype dtype; /* F32, F16, BF16 */
  cf_memory memory;
  int32_t rank;         /* 1 or 2 */
  cf_dtype scale_dtype; /* AUTO: room for quantised weights, not supported yet */
  int64_t shape[2];
  int64_t strides[2]; /* in elements; both 0: dense row-major. The innermost must be 1 */
  const void* data;   /* any alignment */
  const void* scales; /* NULL: room for quantised weights, not supported yet */
} cf_tensor;

CF_API cf_status cf_tensor_init(cf_tensor* tensor, size_t struct_size);

/* Takes all tensors of one layer, in any order, each role that the configuration asks for exactly once: an array of
 * n_tensors descriptors that lie struct_size of the first apart. Everything is checked before anything is copied; on return the caller's memory is no
 * longer used. `stream` (CUDA): a cudaStream_t in whose order device tensors are ready,
 * NULL being the legacy default stream; the call waits for it, so it must not be being captured. CPU: NULL. CF_ERROR_UNSUPPORTED
 * for a value that the wanted F16 cannot hold.
 * Loading a layer again replaces it, all or nothing. CF_ERROR_BUSY while another call uses this model. */
CF_API cf_status cf_load_layer(cf_model* model, int32_t layer, const cf_tensor* tensors, size_t n_tensors, void* stream);
/* The same for the tensors that belong to no layer: embedding, final norm, head. */
CF_API cf_status cf_load_globals(cf_model* model, const cf_tensor* tensors, size_t n_tensors, void* stream);

typedef struct cf_model_info {
  uint32_t struct_size;
  int32_t n_layers_loaded; /* layers that cf_load_layer or cf_model_load has filled */
  int32_t globals_loaded;  /* 1 or 0 */
  cf_dtype weight_dtype;   /* of the matrices; AUTO if they differ or none is loaded */
  uint64_t weights_bytes;  /* allocated for weights now */
  uint64_t parameters;     /* of the configuration; tied embeddings count once */
  uint64_t fingerprint;    /* of the configuration and a fixed sample of the weights as stored (every vector, 16 rows of every matrix): tells models
                              and revisions apart, not single edited weights. 0 until all are loaded */
} cf_model_info;

CF_API cf_status cf_model_info_init(cf_model_info* info, size_t struct_size);
CF_API cf_status cf_model_query(const cf_model* model, cf_model_info* info);
CF_API cf_status cf_model_get_config(const cf_model* model, cf_model_config* config);

/* ---- KV pools ------------------------------------------------------------------------------------------------------- */

/* Keys and values live in pages of page_tokens positions: all layers' K and V of those positions. */
typedef struct cf_kv_pool cf_kv_pool;

typedef struct cf_kv_pool_options {
  uint32_t struct_size;
  cf_dtype kv_dtype;   /* AUTO: F32 on the CPU, F16 on CUDA. Or F32 (CPU only), F16, BF16 */
  int32_t page_tokens; /* positions per page: 16, 32, 64, 128 or 256; default 64 */
  int32_t reserved;
  int64_t capacity_tokens; /* 1 .. 2^40, rounded up to whole pages; required */
} cf_kv_pool_options;

CF_API cf_status cf_kv_pool_options_init(cf_kv_pool_options* options, size_t struct_size);
/* Allocates all pages. Sessions of this model may share it, and step on different threads. CF_ERROR_UNSUPPORTED for a kv_dtype that the
 * backend lacks. */
CF_API cf_status cf_kv_pool_create(cf_model* model, const cf_kv_pool_options* options, cf_kv_pool** pool);
CF_API cf_status cf_kv_pool_destroy(cf_kv_pool* pool);

typedef struct cf_kv_pool_info {
  uint32_t struct_size;
  cf_dtype kv_dtype;
  int32_t page_tokens;
  int32_t reserved;
  int64_t n_pages;
  int64_t n_pages_free;   /* neither held nor reserved; a page that is shared with a session that reserved it counts as both */
  int64_t n_pages_shared; /* held by more than one session */
  uint64_t page_bytes;
  uint64_t allocated_bytes;
} cf_kv_pool_info;

CF_API cf_status cf_kv_pool_info_init(cf_kv_pool_info* info, size_t struct_size);
CF_API cf_status cf_kv_pool_query(const cf_kv_pool* pool, cf_kv_pool_info* info);

/* ---- Sessions ------------------------------------------------------------------------------------------------------- */

typedef struct cf_session cf_session;

typedef int32_t cf_launch_mode; /* CUDA; all give the same bits */
enum {
  CF_LAUNCH_AUTO = 0,
  CF_LAUNCH_STEP = 1,  /* a whole step in one persistent launch */
  CF_LAUNCH_BLOCK = 2, /* one launch per transformer block */
  CF_LAUNCH_PHASE = 3  /* one launch per phase; no grid-wide waiting */
};

typedef struct cf_session_options {
  uint32_t struct_size;
  cf_launch_mode launch_mode;
  cf_kv_pool* pool;        /* NULL: a private pool of capacity_tokens */
  int64_t capacity_tokens; /* the most positions this session may hold, at most 2^31 - 1; 0: max_position_embeddings */
  int32_t reserve;         /* 1 (default): take the whole capacity from the pool now, so that no step allocates or finds it full */
  int32_t page_tokens;     /* private pool: as in cf_kv_pool_options; not used with `pool` */
  cf_dtype kv_dtype;       /* private pool: as in cf_kv_pool_options; not used with `pool` */
  int32_t cluster_size;    /* CUDA: CTAs per cluster, which hand each other parts of attention: 1, 2, 4, 8 or 16; the same bits with
                              each; 0: chosen by the library. CF_ERROR_UNSUPPORTED if the device cannot place such clusters of the
                              kernel, or a step of the model has work for fewer CTAs */
  void* stream;            /* CUDA: a cudaStream_t that outlives the session and that all its work is enqueued on;
                              NULL: the session makes one. NULL on the CPU */
} cf_session_options;

CF_API cf_status cf_session_options_init(cf_session_options* options, size_t struct_size);
/* All memory that the session needs is allocated here (pages as `reserve` says). CF_ERROR_NOT_LOADED until every layer and
 * the globals are loaded; CF_ERROR_CACHE_FULL if the pool cannot give what is to be reserved.
 *
 * On CUDA cf_decode_step and cf_decode_steps without outputs and taps only enqueue, with any
 * sampler, unless they were given a progress function or a cancellation; other calls return when their work is done. Prompts have kernels of
 * their own: what they leave in the cache and their logits are those of steps within the error of 16-bit activations, and the same bits however
 * a prompt is cut. Rows of cf_decode_positions and cf_decode_batch go through the model up to eight at a time.
 *
 * While the caller captures a session's stream (options.stream), cf_decode_step and cf_decode_steps add their launches to the capture instead,
 * with reserve 1, and without outputs, taps, progress and cancellation. A replay goes on from wherever the session is then, and
 * cf_session_wait tells what replays have come to. It must be ordered, by the stream or by the caller, with all other work of the session; the
 * session, and weights as they were at the capture, must outlive it. */
CF_API cf_status cf_session_create(cf_model* model, const cf_session_options* options, cf_session** session);
/* Waits for the session's enqueued work (at most device_wait_limit_ms on a device that no longer answers). */
CF_API cf_status cf_session_destroy(cf_session* session);

typedef struct cf_session_info {
  uint32_t struct_size;
  cf_launch_mode launch_mode; /* CUDA: as resolved; CPU: CF_LAUNCH_AUTO */
  int32_t cluster_size;       /* CUDA: CTAs per cluster in use; CPU: 1 */
  int32_t page_tokens;
  cf_dtype kv_dtype;
  int32_t reserved;
  int64_t position; /* positions cached, as far as the host knows: after cf_session_wait exact */
  int64_t capacity_tokens;
  int64_t n_pages;          /* held in the pool, shared ones included */
  uint64_t workspace_bytes; /* allocated for this session besides its pages */
  void* stream;             /* CUDA: the cudaStream_t that its work is enqueued on: the caller's, or its own, which ends with it; CPU: NULL */
} cf_session_info;

CF_API cf_status cf_session_info_init(cf_session_info* info, size_t struct_size);
CF_API cf_status cf_session_query(const cf_session* session, cf_session_info* info);

typedef struct cf_memory_estimate {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t weights_bytes;      /* what a model of this configuration allocates once loaded */
  uint64_t load_staging_bytes; /* more, while loading */
  uint64_t page_bytes;         /* one KV page */
  uint64_t kv_bytes;           /* a private pool for capacity_tokens; 0 if session_options names a pool */
  uint64_t workspace_bytes;    /* a session's other memory; on CUDA with what all sessions of a model share for prompts, which the first one
                                  allocates and the last one frees */
} cf_memory_estimate;

CF_API cf_status cf_memory_estimate_init(cf_memory_estimate* estimate, size_t struct_size);
/* Exact byte counts before anything is allocated: what cf_model_load or a full set of cf_load_layer calls, and one
 * cf_session_create with these options will take through the allocator. stored_dtype: of the checkpoint's matrices. */
CF_API cf_status cf_model_estimate(const cf_context* context, const cf_model_config* config, cf_dtype stored_dtype,
                                   const cf_model_options* model_options, const cf_session_options* session_options, cf_memory_estimate* estimate);

/* ---- Sampling ------------------------------------------------------------------------------------------------------- */

/* Applied to the logits in this order, with the meaning transformers gives them: repetition penalty over all tokens of the
 * session, logit biases, allowed-token mask, temperature, top-k, top-p, min-p. A token is then drawn by the Gumbel-max rule
 * (argmax of logit / temperature, in float, + Gumbel noise, in double) with noise from Philox4x32-10 (Salmon et al., SC 2011) keyed by seed and
 * counted by position and token: the same logits and seed give the same token on any backend and in any grouping of steps.
 * Ties go to the lowest token. */
typedef struct cf_sampler_options {
  uint32_t struct_size;
  float temperature;        /* 0 (default): greedy, top-k, top-p and min-p have no effect; else up to 100 */
  int32_t top_k;            /* 0 (default): off; else keep the k most likely */
  float top_p;              /* 1 (default): off; else in (0, 1): keep the fewest tokens whose probability reaches it */
  float min_p;              /* 0 (default): off; else in (0, 1]: keep tokens at least this fraction of the likeliest */
  float repetition_penalty; /* 1 (default): off; else > 0: divides positive and multiplies negative logits of tokens seen */
  uint64_t seed;
  size_t n_logit_biases;
  const int32_t* logit_bias_tokens; /* each at most once */
  const float* logit_bias_values;   /* added to the logits; -infinity bans a token, NaN and +infinity are errors */
  size_t n_stop_tokens;
  const int32_t* stop_tokens; /* sampling one of them ends cf_decode_steps */
} cf_sampler_options;

CF_API cf_status cf_sampler_options_init(cf_sampler_options* options, size_t struct_size);
/* NULL: greedy. Takes effect with the next step. */
CF_API cf_status cf_session_set_sampler(cf_session* session, const cf_sampler_options* options);
/* Constrained decoding: bit t % 32 of word t / 32 allows token t. n_words is ceil(vocab_size / 32); at least one token
 * must be allowed. mask NULL with n_words 0 allows all again. Takes effect with the next step. */
CF_API cf_status cf_session_set_allowed_tokens(cf_session* session, const uint32_t* mask, size_t n_words);
/* The same sampler on the caller's own logits, in host memory: the token for `position` after `history` (n_history tokens).
 * mask may be NULL; one that allows nothing is invalid. CF_ERROR_NONFINITE_LOGITS; CF_ERROR_NO_TOKEN_ALLOWED if biases ban all that it allows. */
CF_API cf_status cf_sample_logits(const cf_sampler_options* options, const uint32_t* mask, const float* logits, size_t vocab_size,
                                  const int32_t* history, size_t n_history, int64_t position, int32_t* token);

/* ---- Steps ---------------------------------------------------------------------------------------------------------- */

typedef int32_t cf_output_rows;
enum { CF_ROWS_LAST = 0, CF_ROWS_ALL = 1 };

/* What a step writes for the caller besides the sampled token. Row r belongs to the r-th position of a prefill (or the last
 * one, with CF_ROWS_LAST), the r-th position of cf_decode_positions, the r-th session of cf_decode_batch; cf_decode_step
 * and cf_decode_steps have one row (the last step's). V is vocab_size. NULL: not wanted. All arrays lie in `memory`, must stay
 * valid and hold undefined values until the step's status has been fetched; log-probabilities are natural, of the raw logits.
 * CF_ERROR_NONFINITE_LOGITS is found where logits are computed, which is for rows that are sampled after or written here: keys and
 * values that a write to a tap or a damaged weight made infinite may show only then. Truncating to before them mends the session. */
typedef struct cf_outputs {
  uint32_t struct_size;
  cf_memory memory;
  cf_output_rows rows;    /* prefill only; the other calls always write all */
  int32_t top_n;          /* 0 .. 1024 and at most V */
  float* logits;          /* [rows, V] */
  int32_t* top_tokens;    /* [rows, top_n], most likely first */
  float* top_logprobs;    /* [rows, top_n] */
  const int32_t* targets; /* [rows], token to score at each row, -1: none. Host memory, read before the call returns */
  float* target_logprobs; /* [rows] log-probability of the target, 0 where it is -1 */
  int32_t* row_tokens;    /* [rows] token sampled after each row; in a prefill only after the last, -1 elsewhere. Needs `sample` */
  cf_status* row_status;  /* [rows] CF_OK, or why the row failed. Where a step is all or nothing, a row that was computed before another
                             one failed has CF_OK, and rows that were not computed have the step's status. Only row_status is defined for
                             a row that failed */
} cf_outputs;

CF_API cf_status cf_outputs_init(cf_outputs* outputs, size_t struct_size);

/* A look into a block, or a hand in it. T is all rows of the step: of a prefill all its positions, whatever cf_outputs.rows says;
 * of cf_decode_batch one per session, in which a session that failed before the step has nothing read or written; of several
 * steps in a call one, which holds the values of the last (a write acts on each of them). Taps act as the step comes by their
 * place, those at one place in the order given. Keys and values are made of what was written. What a failed or cancelled step has
 * read is undefined. In a prompt CUDA keeps ATTENTION_HEADS and MLP_ACTIVATION in the weights' dtype, which rounds what is written there; in
 * other steps with taps it launches phase by phase. */
typedef int32_t cf_tap_point;
enum {
  CF_TAP_BLOCK_INPUT = 1,     /* [T, H] residual stream before the block */
  CF_TAP_BLOCK_OUTPUT = 2,    /* [T, H] residual stream after the block */
  CF_TAP_ATTENTION_HEADS = 3, /* [T, A, D] attention output of each head, before O */
  CF_TAP_MLP_ACTIVATION = 4   /* [T, I] input of MLP-down */
};
typedef int32_t cf_tap_action;
enum { CF_TAP_READ = 0, CF_TAP_WRITE = 1 }; /* copy out; overwrite with the caller's values before going on */

typedef struct cf_tap {
  uint32_t struct_size;
  cf_tap_point point;
  cf_tap_action action;
  int32_t layer;
  cf_memory memory;
  int32_t reserved;
  float* data; /* stays valid until the step's status has been fetched */
} cf_tap;

CF_API cf_status cf_tap_init(cf_tap* tap, size_t struct_size);

typedef struct cf_step_options {
  uint32_t struct_size;
  int32_t sample;            /* 1 (default): sample a token after the last position; 0: leave none pending (for the first
                                calls of a prompt given in pieces) */
  const cf_outputs* outputs; /* NULL: none. The arrays that it names are written, not the struct */
  const cf_tap* taps;        /* n_taps descriptors (at most 65536) that lie struct_size of the first apart; may be NULL if n_taps is 0 */
  size_t n_taps;
  cf_progress_fn progress; /* cf_prefill, cf_decode_steps; may be NULL */
  void* progress_user;
  cf_cancellation* cancellation; /* must stay valid until the status has been fetched; may be NULL */
} cf_step_options;

CF_API cf_status cf_step_options_init(cf_step_options* options, size_t struct_size);

/* The token a step is to feed: this one, or the one that the last step sampled. */
enum { CF_TOKEN_PENDING = -1 };

/* Appends n_tokens (at least 1) of a prompt at the session's position and samples the token that follows. Works in pieces with fixed
 * absolute boundaries: K and V do not depend on how a prompt was cut into calls. CF_ERROR_INVALID_ARGUMENT: a token outside the
 * vocabulary, or more than the capacity could ever hold. What does not fit behind the present position fails when it runs, with
 * CF_ERROR_CACHE_FULL. All or nothing. */
CF_API cf_status cf_prefill(cf_session* session, const int32_t* tokens, size_t n_tokens, const cf_step_options* options);
/* Feeds one token (or CF_TOKEN_PENDING) and samples the next. CF_ERROR_INVALID_ARGUMENT, here and below: a token outside the vocabulary, or
 * CF_TOKEN_PENDING where none is pending. */
CF_API cf_status cf_decode_step(cf_session* session, int32_t token, const cf_step_options* options);
/* n_steps (at least 1) steps, the first of which feeds the pending token and each other one what the one before sampled; several need
 * `sample`. Ends early at a stop token. Finished steps are kept when one fails or the call is cancelled; cf_result says how many. Once
 * all steps are finished a cancellation comes too late, and only the last progress call can still cancel. */
CF_API cf_status cf_decode_steps(cf_session* session, int64_t n_steps, const cf_step_options* options);
/* One step over n_tokens (1 .. 64) consecutive positions, with the weights read once and the bits that single steps
 * would give: verification of drafted tokens. tokens[0] may be CF_TOKEN_PENDING. The token sampled after each is in
 * outputs.row_tokens, the one after the last is pending; truncate to what was right. All or nothing. */
CF_API cf_status cf_decode_positions(cf_session* session, const int32_t* tokens, size_t n_tokens, const cf_step_options* options);
/* One step of each of n_sessions (1 .. 64) different sessions of one model, with the weights read once and the bits that each would give
 * alone. tokens: one per session, or NULL for CF_TOKEN_PENDING throughout. The sessions fail or advance each by itself, and each has a
 * status to be fetched; a cancellation stops all. */
CF_API cf_status cf_decode_batch(cf_session* const* sessions, size_t n_sessions, const int32_t* tokens, const cf_step_options* options);

typedef struct cf_result {
  uint32_t struct_size;
  cf_status status; /* of the oldest step that failed, or CF_OK */
  int64_t position; /* positions cached now */
  int64_t n_steps;  /* steps (or prefilled positions) finished since the status was last fetched */
  int32_t token;    /* the pending token: the last one sampled, -1: none */
  int32_t stopped;  /* 1: it is a stop token */
} cf_result;

CF_API cf_status cf_result_init(cf_result* result, size_t struct_size);
/* Fetches the session's status and returns it, its sentence to be had from cf_last_error; a failed session works again afterwards.
 * result (may be NULL) is written whatever the status, unless the call itself is refused. cf_session_poll answers CF_NOT_READY, and
 * fetches nothing, while work is unfinished. */
CF_API cf_status cf_session_poll(cf_session* session, cf_result* result);
CF_API cf_status cf_session_wait(cf_session* session, cf_result* result);

/* Copies the tokens at positions from, from + 1, ... : those cached, then the pending one. At most capacity_tokens; *n_tokens
 * receives how many were copied (0 if there are none yet). May be called from any thread while steps run, to show tokens as
 * they are made. CF_ERROR_INVALID_ARGUMENT if from is negative. */
CF_API cf_status cf_session_tokens(const cf_session* session, int64_t from, int32_t* tokens, size_t capacity_tokens, size_t* n_tokens);

/* Goes back to `position` cached positions (0 .. the present one), as if nothing after it had happened: the token that stood
 * there becomes the pending one. Pages no longer needed return to the pool, unless reserved. CF_ERROR_BUSY while work is
 * unfinished. */
CF_API cf_status cf_session_truncate(cf_session* session, int64_t position);
/* Waits for the session's enqueued work, and makes a new session with the first `position` positions of this one (0 .. the present one),
 * as if it had never gone further: the token that stood there, or this session's pending one, is its pending token; sampler and mask are
 * this one's, a failed status is not. The two share pages until one of them writes to a page that both hold, and takes a copy. options:
 * as for cf_session_create; the fork always lives in this session's pool, so pool must be NULL or that one, and page_tokens and kv_dtype
 * are not used; NULL: this session's capacity, reserve, launch mode and cluster size. With `reserve` the copies are provided for;
 * without it a step that needs one may find the pool full. CF_ERROR_CACHE_FULL if the pool cannot give what is to be reserved, or keep
 * what is to be shared: a private pool has only room for a fork if its session was created with reserve 0. */
CF_API cf_status cf_session_fork(cf_session* session, int64_t position, const cf_session_options* options, cf_session** fork);

/* Waits for the session's enqueued work, and writes tokens, KV, sampler, mask and position, with a format version, a checksum and the
 * model's fingerprint, into buffer. *size_bytes receives what is needed, also with CF_ERROR_BUFFER_TOO_SMALL; buffer NULL only asks. A
 * saved session moves between CPU and CUDA. The same state in pages of the same size gives the same bytes, however the session came to
 * it. */
CF_API cf_status cf_session_save(cf_session* session, void* buffer, size_t capacity_bytes, size_t* size_bytes);
/* The same bytes into a file: all of them, or an older file stays. They are written to PATH.partial first, which must not exist. A file
 * that is replaced keeps its mode, a new one is for its owner alone; a symbolic link stays one. CF_ERROR_IO, also if PATH is there and
 * is not a regular file. CF_ERROR_MISMATCH (of cf_session_save too): the weights were changed after the session began. */
CF_API cf_status cf_session_save_file(cf_session* session, const char* path);
/* A session that goes on where the saved one was. options: as for cf_session_create, except that kv_dtype AUTO is the saved one in a
 * private pool. With the same kv_dtype it gives the same bits, with any page_tokens; keys and values of another dtype are converted.
 * CF_ERROR_INVALID_FILE: not a saved session, of another version, or damaged. CF_ERROR_MISMATCH: of another model, other weights or
 * another weight_dtype (one damaged bit of the fingerprint looks the same). CF_ERROR_INVALID_ARGUMENT: more positions than the capacity.
 * CF_ERROR_CACHE_FULL, CF_ERROR_NOT_LOADED, CF_ERROR_IO. */
CF_API cf_status cf_session_restore(cf_model* model, const cf_session_options* options, const void* buffer, size_t size_bytes, cf_session** session);
CF_API cf_status cf_session_restore_file(cf_model* model, const cf_session_options* options, const char* path, cf_session** session);

/* ---- Graphs --------------------------------------------------------------------------------------------------------- */

/* A captured decode step (CUDA only). Its replay needs no host arguments: position, token and sampler are on the device.
 * Valid for any position up to the session's reserved capacity, across truncation, until the session is destroyed. */
typedef struct cf_graph cf_graph;

typedef struct cf_graph_options {
  uint32_t struct_size;
  int32_t n_steps; /* steps per replay; default 1 */
} cf_graph_options;

CF_API cf_status cf_graph_options_init(cf_graph_options* options, size_t struct_size);
/* CF_ERROR_UNSUPPORTED on the CPU backend; CF_ERROR_INVALID_ARGUMENT if the session has not reserved its capacity. n_steps: 1 .. 1024. The
 * graph keeps its session alive. */
CF_API cf_status cf_graph_capture(cf_session* session, const cf_graph_options* options, cf_graph** graph);
/* Enqueues one replay on the session's stream; its status is fetched like any step's. After cf_model_reload the step is captured anew here. */
CF_API cf_status cf_graph_launch(cf_graph* graph);

typedef struct cf_graph_info {
  uint32_t struct_size;
  int32_t n_nodes; /* kernel nodes */
  int32_t n_steps;
  cf_launch_mode launch_mode;
} cf_graph_info;

CF_API cf_status cf_graph_info_init(cf_graph_info* info, size_t struct_size);
CF_API cf_status cf_graph_query(const cf_graph* graph, cf_graph_info* info);
CF_API cf_status cf_graph_destroy(cf_graph* graph);

/* ---- Blocks, for engines with their own loop ------------------------------------------------------------------------- */

/* One transformer block, or part of one, on a loaded layer with the caller's activations and KV. T rows are T consecutive
 * positions of one sequence (1 .. 64). All addresses are device-accessible and must stay valid until the stream has passed
 * the call; on CUDA the call only enqueues kernels, one for up to eight rows (fewer where shared memory or workspace is
 * short), so it can be captured into a graph by the caller, and *position is read when they run, so a replay can go on at the
 * next position. The bits of T rows are those of T calls of one, and with F32 activations those of a session's steps (not of its
 * prompts) on the same keys and values. Only the layer itself has to be loaded. Before a layer is loaded again, or the model
 * reloaded or destroyed, enqueued block calls must have finished, and graphs that hold them must not be replayed any more.
 * On CUDA activations and caches are aligned to 16 bytes, strides are multiples of 16 bytes, and a token_stride of head_dim is
 * the fastest; a layer with matrices of both F16 and BF16 is CF_ERROR_UNSUPPORTED. Keys and values are attended to as the cache
 * holds them, the rows' own included; new_k and new_v are not rounded to kv_dtype. */
typedef struct cf_block_options {
  uint32_t struct_size;
  int32_t n_rows;            /* T */
  cf_dtype activation_dtype; /* of every activation below: F32 (default), F16 or BF16 */
  cf_dtype kv_dtype;         /* F32, F16 or BF16; F32 on the CPU only (CF_ERROR_UNSUPPORTED on CUDA) */
  const void* hidden;        /* [T, H] input: the residual stream */
  void* output;              /* [T, H] residual stream after the block (cf_block_forward, cf_block_mlp_down); may be `hidden` */
  void* attention_output;    /* [T, H] after O and its bias, without the residual: written by cf_block_attention, read
                                by cf_block_mlp_down; may be NULL in cf_block_forward */
  void* mlp_activation;      /* [T, I] input of MLP-down: likewise */
  void* new_k;               /* [T, G, D] keys of these rows, after RoPE; may be NULL */
  void* new_v;               /* [T, G, D]; may be NULL */
  void* k_cache;             /* this layer's keys: element (position p, head g, d) is at
                                page(p) * page_stride + (p % page_tokens) * token_stride + g * head_stride + d */
  void* v_cache;             /* this layer's values, laid out alike; both are appended to at *position */
  int64_t token_stride;
  int64_t head_stride;
  int64_t page_stride;        /* 0 without a page table */
  const int32_t* page_table;  /* [ceil(kv_capacity_tokens / page_tokens)] page(p) = page_table[p / page_tokens]; its entries are
                                 trusted; NULL: contiguous */
  int32_t page_tokens;        /* 0 without a page table */
  int32_t advance;            /* 1: adds T to *position after success, when nothing reads it any more: for the last call of a step.
                                 0 (default): only reads it */
  int64_t kv_capacity_tokens; /* positions that the cache has room for */
  int32_t* position;          /* position of row 0: cached positions before it are attended to */
  cf_status* step_status;     /* if not CF_OK on entry the call does nothing; receives CF_ERROR_CACHE_FULL or
                                 CF_ERROR_INVALID_ARGUMENT (negative position), and then nothing else is written; or
                                 CF_ERROR_DEVICE_LOST (CUDA: a wait took longer than device_wait_limit_ms), and then the outputs and
                                 the rows' places in the cache are undefined */
  void* workspace;            /* CUDA: cf_block_workspace bytes of device memory, aligned to 128, zeroed before its first use. Calls that
                                 share one must not overlap on the device: one per stream or captured graph is enough. Each call
                                 leaves it ready for the next, except after CF_ERROR_DEVICE_LOST: zero it again. NULL: the model's
                                 own, and then no two block calls of this model may overlap, and kv_capacity_tokens is at most 32768
                                 (above 4096 with fewer rows in a launch). CPU: NULL */
  uint64_t workspace_bytes;   /* 0 with NULL */
  void* stream;               /* CUDA: cudaStream_t, NULL is the legacy default stream; CPU: NULL */
} cf_block_options;

CF_API cf_status cf_block_options_init(cf_block_options* options, size_t struct_size);
/* Bytes of workspace that block calls of n_rows rows on a cache of kv_capacity_tokens need; 0 on the CPU. */
CF_API cf_status cf_block_workspace(const cf_model* model, int32_t n_rows, int64_t kv_capacity_tokens, uint64_t* size_bytes);
/* norm -> QKV -> RoPE -> KV append -> attention -> O -> norm -> MLP -> residuals. CF_ERROR_NOT_LOADED. */
CF_API cf_status cf_block_forward(cf_model* model, int32_t layer, const cf_block_options* options);
/* norm -> QKV -> RoPE -> KV append -> attention -> O, and norm -> MLP-up -> activation: all of the block but MLP-down and
 * the residuals. `output` is not used. */
CF_API cf_status cf_block_attention(cf_model* model, int32_t layer, const cf_block_options* options);
/* output = hidden + attention_output + MLP-down(mlp_activation): completes what cf_block_attention began, with F32 activations
 * to the bits of cf_block_forward. KV, new_k and new_v are not used; position is used only to advance it. */
CF_API cf_status cf_block_mlp_down(cf_model* model, int32_t layer, const cf_block_options* options);

#ifdef __cplusplus
}
#endif

#endif
