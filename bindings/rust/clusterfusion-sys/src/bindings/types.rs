// Made from clusterfusion.h by build/bindings.rs; tests/bindings.rs compares, and writes it anew with UPDATE_BINDINGS=1.

pub const CF_VERSION_MAJOR: u32 = 0;
pub const CF_VERSION_MINOR: u32 = 1;
pub const CF_VERSION_PATCH: u32 = 0;
pub const CF_ABI_VERSION: u32 = 1;
pub type cf_status = i32;
pub const CF_OK: cf_status = 0;
#[doc = " not an error: enqueued work has not finished (cf_session_poll)"]
pub const CF_NOT_READY: cf_status = 1;
#[doc = " an argument is NULL, out of range or inconsistent"]
pub const CF_ERROR_INVALID_ARGUMENT: cf_status = 2;
#[doc = " host or device memory could not be allocated"]
pub const CF_ERROR_OUT_OF_MEMORY: cf_status = 3;
#[doc = " a file could not be opened or read"]
pub const CF_ERROR_IO: cf_status = 4;
#[doc = " a file was read and breaks its format, or lacks something the model needs"]
pub const CF_ERROR_INVALID_FILE: cf_status = 5;
#[doc = " well-formed, but not built yet, not for this backend, or not this model family"]
pub const CF_ERROR_UNSUPPORTED: cf_status = 6;
#[doc = " no such device, or no driver"]
pub const CF_ERROR_NO_DEVICE: cf_status = 7;
#[doc = " the device failed; every call on this context answers so from now on"]
pub const CF_ERROR_DEVICE_LOST: cf_status = 8;
#[doc = " a layer or tensor that the call needs has not been loaded"]
pub const CF_ERROR_NOT_LOADED: cf_status = 9;
#[doc = " the session's capacity or its pool has no room for the step"]
pub const CF_ERROR_CACHE_FULL: cf_status = 10;
#[doc = " the model computed NaN or infinity; no token was sampled"]
pub const CF_ERROR_NONFINITE_LOGITS: cf_status = 11;
#[doc = " mask and biases leave no token to sample"]
pub const CF_ERROR_NO_TOKEN_ALLOWED: cf_status = 12;
#[doc = " stopped by a cancellation or a progress callback"]
pub const CF_ERROR_CANCELLED: cf_status = 13;
#[doc = " a caller's buffer is too small; the needed size was written"]
pub const CF_ERROR_BUFFER_TOO_SMALL: cf_status = 14;
#[doc = " a saved session or new weights belong to another model"]
pub const CF_ERROR_MISMATCH: cf_status = 15;
#[doc = " the handle is in use by another call or has unfinished work"]
pub const CF_ERROR_BUSY: cf_status = 16;
#[doc = " a defect of the library; please report it"]
pub const CF_ERROR_INTERNAL: cf_status = 17;
pub type cf_device_kind = i32;
pub const CF_DEVICE_CPU: cf_device_kind = 0;
pub const CF_DEVICE_CUDA: cf_device_kind = 1;
pub type cf_cpu_isa = i32;
#[doc = " the best that this machine has"]
pub const CF_CPU_ISA_AUTO: cf_cpu_isa = 0;
#[doc = " what every machine of this architecture has: NEON on Arm, scalar code on x86-64"]
pub const CF_CPU_ISA_BASELINE: cf_cpu_isa = 1;
#[doc = " AVX2 with FMA and F16C"]
pub const CF_CPU_ISA_AVX2: cf_cpu_isa = 2;
#[doc = " AVX-512 F, BW, CD, DQ, VL"]
pub const CF_CPU_ISA_AVX512: cf_cpu_isa = 3;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_device_info {
    pub struct_size: u32,
    pub kind: cf_device_kind,
    #[doc = " among the devices of its kind"]
    pub ordinal: i32,
    #[doc = " 1, or 0 with the reason in `reason`"]
    pub usable: i32,
    #[doc = " CUDA: major \\* 10 + minor; CPU: 0"]
    pub compute_capability: i32,
    #[doc = " CUDA: SMs; CPU: hardware threads this process may use"]
    pub multiprocessors: i32,
    #[doc = " CUDA: CTAs in the largest portable thread-block cluster, 1 without clusters; CPU: 1"]
    pub max_cluster_size: i32,
    #[doc = " CPU: what CF_CPU_ISA_AUTO chooses; CUDA: 0"]
    pub cpu_isa: cf_cpu_isa,
    #[doc = " total; CPU: physical memory"]
    pub memory_bytes: u64,
    #[doc = " CUDA: the most a CTA may use; CPU: 0"]
    pub shared_memory_bytes: u64,
    #[doc = " NUL-terminated"]
    pub name: [::std::os::raw::c_char; 128usize],
    #[doc = " NUL-terminated; empty if usable"]
    pub reason: [::std::os::raw::c_char; 128usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_device_info"][::std::mem::size_of::<cf_device_info>() - 304usize];
    ["Alignment of cf_device_info"][::std::mem::align_of::<cf_device_info>() - 8usize];
    ["Offset of field: cf_device_info::struct_size"][::std::mem::offset_of!(cf_device_info, struct_size) - 0usize];
    ["Offset of field: cf_device_info::kind"][::std::mem::offset_of!(cf_device_info, kind) - 4usize];
    ["Offset of field: cf_device_info::ordinal"][::std::mem::offset_of!(cf_device_info, ordinal) - 8usize];
    ["Offset of field: cf_device_info::usable"][::std::mem::offset_of!(cf_device_info, usable) - 12usize];
    ["Offset of field: cf_device_info::compute_capability"][::std::mem::offset_of!(cf_device_info, compute_capability) - 16usize];
    ["Offset of field: cf_device_info::multiprocessors"][::std::mem::offset_of!(cf_device_info, multiprocessors) - 20usize];
    ["Offset of field: cf_device_info::max_cluster_size"][::std::mem::offset_of!(cf_device_info, max_cluster_size) - 24usize];
    ["Offset of field: cf_device_info::cpu_isa"][::std::mem::offset_of!(cf_device_info, cpu_isa) - 28usize];
    ["Offset of field: cf_device_info::memory_bytes"][::std::mem::offset_of!(cf_device_info, memory_bytes) - 32usize];
    ["Offset of field: cf_device_info::shared_memory_bytes"][::std::mem::offset_of!(cf_device_info, shared_memory_bytes) - 40usize];
    ["Offset of field: cf_device_info::name"][::std::mem::offset_of!(cf_device_info, name) - 48usize];
    ["Offset of field: cf_device_info::reason"][::std::mem::offset_of!(cf_device_info, reason) - 176usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_cancellation {
    _unused: [u8; 0],
}
#[doc = " Reports that `done` of this call's `total` units (bytes when loading, positions in prefill, steps in cf_decode_steps) are\n finished, as they are: how often is up to the library. A return value other than 0 cancels the call."]
pub type cf_progress_fn = ::std::option::Option<unsafe extern "C" fn(user: *mut ::std::os::raw::c_void, done: u64, total: u64) -> i32>;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_context {
    _unused: [u8; 0],
}
pub type cf_log_level = i32;
pub const CF_LOG_NONE: cf_log_level = 0;
pub const CF_LOG_WARNING: cf_log_level = 1;
pub const CF_LOG_INFO: cf_log_level = 2;
pub const CF_LOG_DEBUG: cf_log_level = 3;
#[doc = " message is NUL-terminated, one line without a newline, valid during the call only. May be called from several threads\n at once if the context is used from several."]
pub type cf_log_fn =
    ::std::option::Option<unsafe extern "C" fn(user: *mut ::std::os::raw::c_void, level: cf_log_level, message: *const ::std::os::raw::c_char)>;
#[doc = " Memory of weights, KV pages and work buffers; small bookkeeping uses operator new. `kind` and `ordinal` say where.\n Must return memory aligned to `alignment` (a power of two, at most 4096) or NULL, which becomes\n CF_ERROR_OUT_OF_MEMORY. May be called from any thread that uses the context."]
pub type cf_allocate_fn = ::std::option::Option<
    unsafe extern "C" fn(
        user: *mut ::std::os::raw::c_void,
        kind: cf_device_kind,
        ordinal: i32,
        size_bytes: usize,
        alignment: usize,
    ) -> *mut ::std::os::raw::c_void,
>;
#[doc = " Gets each address exactly once, with the values it was allocated with."]
pub type cf_free_fn = ::std::option::Option<
    unsafe extern "C" fn(
        user: *mut ::std::os::raw::c_void,
        kind: cf_device_kind,
        ordinal: i32,
        address: *mut ::std::os::raw::c_void,
        size_bytes: usize,
        alignment: usize,
    ),
>;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_context_options {
    pub struct_size: u32,
    #[doc = " default CF_DEVICE_CPU"]
    pub device_kind: cf_device_kind,
    #[doc = " 0: device 0. More than one is CF_ERROR_UNSUPPORTED for now"]
    pub n_devices: i32,
    #[doc = " CPU: threads per call, the caller's included, at most 1024; 0: all that the process may use"]
    pub cpu_threads: i32,
    #[doc = " n_devices ordinals, each once; NULL if n_devices is 0"]
    pub devices: *const i32,
    #[doc = " CPU: forces an instruction set; CF_ERROR_UNSUPPORTED if this machine lacks it"]
    pub cpu_isa: cf_cpu_isa,
    #[doc = " messages above it are dropped; default CF_LOG_INFO"]
    pub log_level: cf_log_level,
    #[doc = " NULL: silent"]
    pub log: cf_log_fn,
    pub log_user: *mut ::std::os::raw::c_void,
    #[doc = " NULL: the library's own. Both or neither"]
    pub allocate: cf_allocate_fn,
    pub free: cf_free_fn,
    pub allocator_user: *mut ::std::os::raw::c_void,
    #[doc = " CUDA: bound of every device-side wait, then CF_ERROR_DEVICE_LOST; at least 1, default 1000"]
    pub device_wait_limit_ms: u32,
    #[doc = " 0"]
    pub reserved: u32,
    #[doc = " CUDA: what prompts may take besides weights and sessions, for each model; default 256 MiB. With\nless they go through the model in shorter pieces, to the same bits; CF_ERROR_UNSUPPORTED at a\nsession's creation if even the shortest piece needs more"]
    pub prefill_workspace_bytes: u64,
    #[doc = " CUDA: the launches of a device with fewer SMs, or less shared memory for a CTA, than this one has; the bits are the same. 0: its own"]
    pub device_multiprocessors: i32,
    pub device_shared_memory_bytes: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_context_options"][::std::mem::size_of::<cf_context_options>() - 96usize];
    ["Alignment of cf_context_options"][::std::mem::align_of::<cf_context_options>() - 8usize];
    ["Offset of field: cf_context_options::struct_size"][::std::mem::offset_of!(cf_context_options, struct_size) - 0usize];
    ["Offset of field: cf_context_options::device_kind"][::std::mem::offset_of!(cf_context_options, device_kind) - 4usize];
    ["Offset of field: cf_context_options::n_devices"][::std::mem::offset_of!(cf_context_options, n_devices) - 8usize];
    ["Offset of field: cf_context_options::cpu_threads"][::std::mem::offset_of!(cf_context_options, cpu_threads) - 12usize];
    ["Offset of field: cf_context_options::devices"][::std::mem::offset_of!(cf_context_options, devices) - 16usize];
    ["Offset of field: cf_context_options::cpu_isa"][::std::mem::offset_of!(cf_context_options, cpu_isa) - 24usize];
    ["Offset of field: cf_context_options::log_level"][::std::mem::offset_of!(cf_context_options, log_level) - 28usize];
    ["Offset of field: cf_context_options::log"][::std::mem::offset_of!(cf_context_options, log) - 32usize];
    ["Offset of field: cf_context_options::log_user"][::std::mem::offset_of!(cf_context_options, log_user) - 40usize];
    ["Offset of field: cf_context_options::allocate"][::std::mem::offset_of!(cf_context_options, allocate) - 48usize];
    ["Offset of field: cf_context_options::free"][::std::mem::offset_of!(cf_context_options, free) - 56usize];
    ["Offset of field: cf_context_options::allocator_user"][::std::mem::offset_of!(cf_context_options, allocator_user) - 64usize];
    ["Offset of field: cf_context_options::device_wait_limit_ms"][::std::mem::offset_of!(cf_context_options, device_wait_limit_ms) - 72usize];
    ["Offset of field: cf_context_options::reserved"][::std::mem::offset_of!(cf_context_options, reserved) - 76usize];
    ["Offset of field: cf_context_options::prefill_workspace_bytes"][::std::mem::offset_of!(cf_context_options, prefill_workspace_bytes) - 80usize];
    ["Offset of field: cf_context_options::device_multiprocessors"][::std::mem::offset_of!(cf_context_options, device_multiprocessors) - 88usize];
    ["Offset of field: cf_context_options::device_shared_memory_bytes"]
        [::std::mem::offset_of!(cf_context_options, device_shared_memory_bytes) - 92usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_context_info {
    pub struct_size: u32,
    pub device_kind: cf_device_kind,
    pub n_devices: i32,
    #[doc = " CPU: as resolved"]
    pub cpu_threads: i32,
    #[doc = " CPU: as resolved"]
    pub cpu_isa: cf_cpu_isa,
    pub reserved: i32,
    #[doc = " held now through the allocator, over the host and all devices"]
    pub allocated_bytes: u64,
    #[doc = " the most that was ever held of each, added up"]
    pub peak_bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_context_info"][::std::mem::size_of::<cf_context_info>() - 40usize];
    ["Alignment of cf_context_info"][::std::mem::align_of::<cf_context_info>() - 8usize];
    ["Offset of field: cf_context_info::struct_size"][::std::mem::offset_of!(cf_context_info, struct_size) - 0usize];
    ["Offset of field: cf_context_info::device_kind"][::std::mem::offset_of!(cf_context_info, device_kind) - 4usize];
    ["Offset of field: cf_context_info::n_devices"][::std::mem::offset_of!(cf_context_info, n_devices) - 8usize];
    ["Offset of field: cf_context_info::cpu_threads"][::std::mem::offset_of!(cf_context_info, cpu_threads) - 12usize];
    ["Offset of field: cf_context_info::cpu_isa"][::std::mem::offset_of!(cf_context_info, cpu_isa) - 16usize];
    ["Offset of field: cf_context_info::reserved"][::std::mem::offset_of!(cf_context_info, reserved) - 20usize];
    ["Offset of field: cf_context_info::allocated_bytes"][::std::mem::offset_of!(cf_context_info, allocated_bytes) - 24usize];
    ["Offset of field: cf_context_info::peak_bytes"][::std::mem::offset_of!(cf_context_info, peak_bytes) - 32usize];
};
pub type cf_dtype = i32;
#[doc = " only where an option says so"]
pub const CF_DTYPE_AUTO: cf_dtype = 0;
pub const CF_DTYPE_F32: cf_dtype = 1;
#[doc = " IEEE binary16"]
pub const CF_DTYPE_F16: cf_dtype = 2;
#[doc = " the upper half of an F32"]
pub const CF_DTYPE_BF16: cf_dtype = 3;
pub type cf_family = i32;
pub const CF_FAMILY_GPT_NEOX: cf_family = 1;
pub const CF_FAMILY_LLAMA: cf_family = 2;
pub type cf_norm = i32;
#[doc = " LayerNorm with weight and bias; RMSNorm with weight"]
pub const CF_NORM_LAYER: cf_norm = 1;
#[doc = " LayerNorm with weight and bias; RMSNorm with weight"]
pub const CF_NORM_RMS: cf_norm = 2;
pub type cf_activation = i32;
#[doc = " x/2 (1 + erf(x/sqrt 2))"]
pub const CF_ACTIVATION_GELU: cf_activation = 1;
#[doc = " x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): gelu_new, gelu_fast, gelu_pytorch_tanh"]
pub const CF_ACTIVATION_GELU_TANH: cf_activation = 2;
#[doc = " silu(gate) \\* up, silu(x) = x / (1 + exp(-x))"]
pub const CF_ACTIVATION_SWIGLU: cf_activation = 3;
pub type cf_rope_scaling = i32;
pub const CF_ROPE_SCALING_NONE: cf_rope_scaling = 0;
pub const CF_ROPE_SCALING_LLAMA3: cf_rope_scaling = 1;
#[doc = " What a model is. Filled from config.json by cf_model_config_read, or by the caller before cf_model_create; also the one\n description that the library works with inside. Sizes: at most 2^20 each, n_layers at most 1024."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_model_config {
    pub struct_size: u32,
    pub family: cf_family,
    pub norm: cf_norm,
    pub activation: cf_activation,
    #[doc = " 1: x + attention(norm1(x)) + mlp(norm2(x)); 0: MLP reads norm2(x + attention(norm1(x)))"]
    pub parallel_residual: i32,
    #[doc = " 1: biases on Q, K, V and O"]
    pub attention_bias: i32,
    #[doc = " 1: biases on gate, up and down"]
    pub mlp_bias: i32,
    #[doc = " 1: the head is the embedding"]
    pub tied_embeddings: i32,
    pub n_layers: i32,
    pub hidden_size: i32,
    pub n_heads: i32,
    #[doc = " divides n_heads: equal for MHA, fewer for GQA, 1 for MQA"]
    pub n_kv_heads: i32,
    #[doc = " 32, 64, 80, 96, 128 or 256"]
    pub head_dim: i32,
    #[doc = " leading dimensions of each head that rotate; even, 2 .. head_dim"]
    pub rotary_dim: i32,
    pub intermediate_size: i32,
    pub vocab_size: i32,
    #[doc = " a recommendation: sessions may exceed it, the log says so"]
    pub max_position_embeddings: i32,
    pub rope_scaling: cf_rope_scaling,
    pub norm_eps: f64,
    pub rope_theta: f64,
    #[doc = " the four fields of rope_type \"llama3\" as in transformers; 0 otherwise"]
    pub rope_factor: f64,
    pub rope_low_freq_factor: f64,
    pub rope_high_freq_factor: f64,
    pub rope_original_max_position: i32,
    #[doc = " -1: none"]
    pub bos_token: i32,
    #[doc = " 0 .. 8"]
    pub n_eos_tokens: i32,
    pub eos_tokens: [i32; 8usize],
    pub reserved: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_model_config"][::std::mem::size_of::<cf_model_config>() - 160usize];
    ["Alignment of cf_model_config"][::std::mem::align_of::<cf_model_config>() - 8usize];
    ["Offset of field: cf_model_config::struct_size"][::std::mem::offset_of!(cf_model_config, struct_size) - 0usize];
    ["Offset of field: cf_model_config::family"][::std::mem::offset_of!(cf_model_config, family) - 4usize];
    ["Offset of field: cf_model_config::norm"][::std::mem::offset_of!(cf_model_config, norm) - 8usize];
    ["Offset of field: cf_model_config::activation"][::std::mem::offset_of!(cf_model_config, activation) - 12usize];
    ["Offset of field: cf_model_config::parallel_residual"][::std::mem::offset_of!(cf_model_config, parallel_residual) - 16usize];
    ["Offset of field: cf_model_config::attention_bias"][::std::mem::offset_of!(cf_model_config, attention_bias) - 20usize];
    ["Offset of field: cf_model_config::mlp_bias"][::std::mem::offset_of!(cf_model_config, mlp_bias) - 24usize];
    ["Offset of field: cf_model_config::tied_embeddings"][::std::mem::offset_of!(cf_model_config, tied_embeddings) - 28usize];
    ["Offset of field: cf_model_config::n_layers"][::std::mem::offset_of!(cf_model_config, n_layers) - 32usize];
    ["Offset of field: cf_model_config::hidden_size"][::std::mem::offset_of!(cf_model_config, hidden_size) - 36usize];
    ["Offset of field: cf_model_config::n_heads"][::std::mem::offset_of!(cf_model_config, n_heads) - 40usize];
    ["Offset of field: cf_model_config::n_kv_heads"][::std::mem::offset_of!(cf_model_config, n_kv_heads) - 44usize];
    ["Offset of field: cf_model_config::head_dim"][::std::mem::offset_of!(cf_model_config, head_dim) - 48usize];
    ["Offset of field: cf_model_config::rotary_dim"][::std::mem::offset_of!(cf_model_config, rotary_dim) - 52usize];
    ["Offset of field: cf_model_config::intermediate_size"][::std::mem::offset_of!(cf_model_config, intermediate_size) - 56usize];
    ["Offset of field: cf_model_config::vocab_size"][::std::mem::offset_of!(cf_model_config, vocab_size) - 60usize];
    ["Offset of field: cf_model_config::max_position_embeddings"][::std::mem::offset_of!(cf_model_config, max_position_embeddings) - 64usize];
    ["Offset of field: cf_model_config::rope_scaling"][::std::mem::offset_of!(cf_model_config, rope_scaling) - 68usize];
    ["Offset of field: cf_model_config::norm_eps"][::std::mem::offset_of!(cf_model_config, norm_eps) - 72usize];
    ["Offset of field: cf_model_config::rope_theta"][::std::mem::offset_of!(cf_model_config, rope_theta) - 80usize];
    ["Offset of field: cf_model_config::rope_factor"][::std::mem::offset_of!(cf_model_config, rope_factor) - 88usize];
    ["Offset of field: cf_model_config::rope_low_freq_factor"][::std::mem::offset_of!(cf_model_config, rope_low_freq_factor) - 96usize];
    ["Offset of field: cf_model_config::rope_high_freq_factor"][::std::mem::offset_of!(cf_model_config, rope_high_freq_factor) - 104usize];
    ["Offset of field: cf_model_config::rope_original_max_position"][::std::mem::offset_of!(cf_model_config, rope_original_max_position) - 112usize];
    ["Offset of field: cf_model_config::bos_token"][::std::mem::offset_of!(cf_model_config, bos_token) - 116usize];
    ["Offset of field: cf_model_config::n_eos_tokens"][::std::mem::offset_of!(cf_model_config, n_eos_tokens) - 120usize];
    ["Offset of field: cf_model_config::eos_tokens"][::std::mem::offset_of!(cf_model_config, eos_tokens) - 124usize];
    ["Offset of field: cf_model_config::reserved"][::std::mem::offset_of!(cf_model_config, reserved) - 156usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_model {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_model_options {
    pub struct_size: u32,
    #[doc = " AUTO: CPU keeps matrices as stored; CUDA keeps F16 and BF16 and rounds F32 to F16, and logs it.\nF16 or BF16: round to it. F32: CPU only"]
    pub weight_dtype: cf_dtype,
    #[doc = " cf_model_load, cf_model_reload: bytes of weights read; NULL: none"]
    pub progress: cf_progress_fn,
    pub progress_user: *mut ::std::os::raw::c_void,
    #[doc = " cf_model_load, cf_model_reload: held during the call only; NULL: none"]
    pub cancellation: *mut cf_cancellation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_model_options"][::std::mem::size_of::<cf_model_options>() - 32usize];
    ["Alignment of cf_model_options"][::std::mem::align_of::<cf_model_options>() - 8usize];
    ["Offset of field: cf_model_options::struct_size"][::std::mem::offset_of!(cf_model_options, struct_size) - 0usize];
    ["Offset of field: cf_model_options::weight_dtype"][::std::mem::offset_of!(cf_model_options, weight_dtype) - 4usize];
    ["Offset of field: cf_model_options::progress"][::std::mem::offset_of!(cf_model_options, progress) - 8usize];
    ["Offset of field: cf_model_options::progress_user"][::std::mem::offset_of!(cf_model_options, progress_user) - 16usize];
    ["Offset of field: cf_model_options::cancellation"][::std::mem::offset_of!(cf_model_options, cancellation) - 24usize];
};
pub type cf_tensor_role = i32;
#[doc = " \\[V, H\\]"]
pub const CF_ROLE_EMBEDDING: cf_tensor_role = 1;
#[doc = " \\[H\\]"]
pub const CF_ROLE_FINAL_NORM_WEIGHT: cf_tensor_role = 2;
#[doc = " \\[H\\], LayerNorm only"]
pub const CF_ROLE_FINAL_NORM_BIAS: cf_tensor_role = 3;
#[doc = " \\[V, H\\], unless tied_embeddings"]
pub const CF_ROLE_HEAD: cf_tensor_role = 4;
#[doc = " \\[H\\], before attention"]
pub const CF_ROLE_ATTENTION_NORM_WEIGHT: cf_tensor_role = 16;
#[doc = " \\[H\\], LayerNorm only"]
pub const CF_ROLE_ATTENTION_NORM_BIAS: cf_tensor_role = 17;
#[doc = " \\[H\\], before the MLP"]
pub const CF_ROLE_MLP_NORM_WEIGHT: cf_tensor_role = 18;
#[doc = " \\[H\\], LayerNorm only"]
pub const CF_ROLE_MLP_NORM_BIAS: cf_tensor_role = 19;
#[doc = " \\[A \\* 3 \\* D, H\\], for each head its Q, K and V rows, as GPT-NeoX stores them; or Q, K and V:"]
pub const CF_ROLE_QKV_WEIGHT: cf_tensor_role = 20;
#[doc = " \\[A \\* 3 \\* D\\]"]
pub const CF_ROLE_QKV_BIAS: cf_tensor_role = 21;
#[doc = " \\[A \\* D, H\\]"]
pub const CF_ROLE_Q_WEIGHT: cf_tensor_role = 22;
#[doc = " \\[A \\* D\\]"]
pub const CF_ROLE_Q_BIAS: cf_tensor_role = 23;
#[doc = " \\[G \\* D, H\\]"]
pub const CF_ROLE_K_WEIGHT: cf_tensor_role = 24;
#[doc = " \\[G \\* D\\]"]
pub const CF_ROLE_K_BIAS: cf_tensor_role = 25;
#[doc = " \\[G \\* D, H\\]"]
pub const CF_ROLE_V_WEIGHT: cf_tensor_role = 26;
#[doc = " \\[G \\* D\\]"]
pub const CF_ROLE_V_BIAS: cf_tensor_role = 27;
#[doc = " \\[H, A \\* D\\]"]
pub const CF_ROLE_O_WEIGHT: cf_tensor_role = 28;
#[doc = " \\[H\\]"]
pub const CF_ROLE_O_BIAS: cf_tensor_role = 29;
#[doc = " \\[I, H\\], SwiGLU only"]
pub const CF_ROLE_GATE_WEIGHT: cf_tensor_role = 30;
#[doc = " \\[I\\]"]
pub const CF_ROLE_GATE_BIAS: cf_tensor_role = 31;
#[doc = " \\[I, H\\]"]
pub const CF_ROLE_UP_WEIGHT: cf_tensor_role = 32;
#[doc = " \\[I\\]"]
pub const CF_ROLE_UP_BIAS: cf_tensor_role = 33;
#[doc = " \\[H, I\\]"]
pub const CF_ROLE_DOWN_WEIGHT: cf_tensor_role = 34;
#[doc = " \\[H\\]"]
pub const CF_ROLE_DOWN_BIAS: cf_tensor_role = 35;
pub type cf_memory = i32;
#[doc = " DEVICE: of the context's device; on the CPU backend the same as HOST"]
pub const CF_MEMORY_HOST: cf_memory = 0;
#[doc = " DEVICE: of the context's device; on the CPU backend the same as HOST"]
pub const CF_MEMORY_DEVICE: cf_memory = 1;
#[doc = " One weight tensor in the caller's memory; rows are outputs, as torch.nn.Linear has them."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_tensor {
    pub struct_size: u32,
    pub role: cf_tensor_role,
    #[doc = " F32, F16, BF16"]
    pub dtype: cf_dtype,
    pub memory: cf_memory,
    #[doc = " 1 or 2"]
    pub rank: i32,
    #[doc = " AUTO: room for quantised weights, not supported yet"]
    pub scale_dtype: cf_dtype,
    pub shape: [i64; 2usize],
    #[doc = " in elements; both 0: dense row-major. The innermost must be 1"]
    pub strides: [i64; 2usize],
    #[doc = " any alignment"]
    pub data: *const ::std::os::raw::c_void,
    #[doc = " NULL: room for quantised weights, not supported yet"]
    pub scales: *const ::std::os::raw::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_tensor"][::std::mem::size_of::<cf_tensor>() - 72usize];
    ["Alignment of cf_tensor"][::std::mem::align_of::<cf_tensor>() - 8usize];
    ["Offset of field: cf_tensor::struct_size"][::std::mem::offset_of!(cf_tensor, struct_size) - 0usize];
    ["Offset of field: cf_tensor::role"][::std::mem::offset_of!(cf_tensor, role) - 4usize];
    ["Offset of field: cf_tensor::dtype"][::std::mem::offset_of!(cf_tensor, dtype) - 8usize];
    ["Offset of field: cf_tensor::memory"][::std::mem::offset_of!(cf_tensor, memory) - 12usize];
    ["Offset of field: cf_tensor::rank"][::std::mem::offset_of!(cf_tensor, rank) - 16usize];
    ["Offset of field: cf_tensor::scale_dtype"][::std::mem::offset_of!(cf_tensor, scale_dtype) - 20usize];
    ["Offset of field: cf_tensor::shape"][::std::mem::offset_of!(cf_tensor, shape) - 24usize];
    ["Offset of field: cf_tensor::strides"][::std::mem::offset_of!(cf_tensor, strides) - 40usize];
    ["Offset of field: cf_tensor::data"][::std::mem::offset_of!(cf_tensor, data) - 56usize];
    ["Offset of field: cf_tensor::scales"][::std::mem::offset_of!(cf_tensor, scales) - 64usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_model_info {
    pub struct_size: u32,
    #[doc = " layers that cf_load_layer or cf_model_load has filled"]
    pub n_layers_loaded: i32,
    #[doc = " 1 or 0"]
    pub globals_loaded: i32,
    #[doc = " of the matrices; AUTO if they differ or none is loaded"]
    pub weight_dtype: cf_dtype,
    #[doc = " allocated for weights now"]
    pub weights_bytes: u64,
    #[doc = " of the configuration; tied embeddings count once"]
    pub parameters: u64,
    #[doc = " of the configuration and a fixed sample of the weights as stored (every vector, 16 rows of every matrix): tells models\nand revisions apart, not single edited weights. 0 until all are loaded"]
    pub fingerprint: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_model_info"][::std::mem::size_of::<cf_model_info>() - 40usize];
    ["Alignment of cf_model_info"][::std::mem::align_of::<cf_model_info>() - 8usize];
    ["Offset of field: cf_model_info::struct_size"][::std::mem::offset_of!(cf_model_info, struct_size) - 0usize];
    ["Offset of field: cf_model_info::n_layers_loaded"][::std::mem::offset_of!(cf_model_info, n_layers_loaded) - 4usize];
    ["Offset of field: cf_model_info::globals_loaded"][::std::mem::offset_of!(cf_model_info, globals_loaded) - 8usize];
    ["Offset of field: cf_model_info::weight_dtype"][::std::mem::offset_of!(cf_model_info, weight_dtype) - 12usize];
    ["Offset of field: cf_model_info::weights_bytes"][::std::mem::offset_of!(cf_model_info, weights_bytes) - 16usize];
    ["Offset of field: cf_model_info::parameters"][::std::mem::offset_of!(cf_model_info, parameters) - 24usize];
    ["Offset of field: cf_model_info::fingerprint"][::std::mem::offset_of!(cf_model_info, fingerprint) - 32usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_kv_pool {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_kv_pool_options {
    pub struct_size: u32,
    #[doc = " AUTO: F32 on the CPU, F16 on CUDA. Or F32 (CPU only), F16, BF16"]
    pub kv_dtype: cf_dtype,
    #[doc = " positions per page: 16, 32, 64, 128 or 256; default 64"]
    pub page_tokens: i32,
    pub reserved: i32,
    #[doc = " 1 .. 2^40, rounded up to whole pages; required"]
    pub capacity_tokens: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_kv_pool_options"][::std::mem::size_of::<cf_kv_pool_options>() - 24usize];
    ["Alignment of cf_kv_pool_options"][::std::mem::align_of::<cf_kv_pool_options>() - 8usize];
    ["Offset of field: cf_kv_pool_options::struct_size"][::std::mem::offset_of!(cf_kv_pool_options, struct_size) - 0usize];
    ["Offset of field: cf_kv_pool_options::kv_dtype"][::std::mem::offset_of!(cf_kv_pool_options, kv_dtype) - 4usize];
    ["Offset of field: cf_kv_pool_options::page_tokens"][::std::mem::offset_of!(cf_kv_pool_options, page_tokens) - 8usize];
    ["Offset of field: cf_kv_pool_options::reserved"][::std::mem::offset_of!(cf_kv_pool_options, reserved) - 12usize];
    ["Offset of field: cf_kv_pool_options::capacity_tokens"][::std::mem::offset_of!(cf_kv_pool_options, capacity_tokens) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_kv_pool_info {
    pub struct_size: u32,
    pub kv_dtype: cf_dtype,
    pub page_tokens: i32,
    pub reserved: i32,
    pub n_pages: i64,
    #[doc = " neither held nor reserved; a page that is shared with a session that reserved it counts as both"]
    pub n_pages_free: i64,
    #[doc = " held by more than one session"]
    pub n_pages_shared: i64,
    pub page_bytes: u64,
    pub allocated_bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_kv_pool_info"][::std::mem::size_of::<cf_kv_pool_info>() - 56usize];
    ["Alignment of cf_kv_pool_info"][::std::mem::align_of::<cf_kv_pool_info>() - 8usize];
    ["Offset of field: cf_kv_pool_info::struct_size"][::std::mem::offset_of!(cf_kv_pool_info, struct_size) - 0usize];
    ["Offset of field: cf_kv_pool_info::kv_dtype"][::std::mem::offset_of!(cf_kv_pool_info, kv_dtype) - 4usize];
    ["Offset of field: cf_kv_pool_info::page_tokens"][::std::mem::offset_of!(cf_kv_pool_info, page_tokens) - 8usize];
    ["Offset of field: cf_kv_pool_info::reserved"][::std::mem::offset_of!(cf_kv_pool_info, reserved) - 12usize];
    ["Offset of field: cf_kv_pool_info::n_pages"][::std::mem::offset_of!(cf_kv_pool_info, n_pages) - 16usize];
    ["Offset of field: cf_kv_pool_info::n_pages_free"][::std::mem::offset_of!(cf_kv_pool_info, n_pages_free) - 24usize];
    ["Offset of field: cf_kv_pool_info::n_pages_shared"][::std::mem::offset_of!(cf_kv_pool_info, n_pages_shared) - 32usize];
    ["Offset of field: cf_kv_pool_info::page_bytes"][::std::mem::offset_of!(cf_kv_pool_info, page_bytes) - 40usize];
    ["Offset of field: cf_kv_pool_info::allocated_bytes"][::std::mem::offset_of!(cf_kv_pool_info, allocated_bytes) - 48usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_session {
    _unused: [u8; 0],
}
pub type cf_launch_mode = i32;
pub const CF_LAUNCH_AUTO: cf_launch_mode = 0;
#[doc = " a whole step in one persistent launch"]
pub const CF_LAUNCH_STEP: cf_launch_mode = 1;
#[doc = " one launch per transformer block"]
pub const CF_LAUNCH_BLOCK: cf_launch_mode = 2;
#[doc = " one launch per phase; no grid-wide waiting"]
pub const CF_LAUNCH_PHASE: cf_launch_mode = 3;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_session_options {
    pub struct_size: u32,
    pub launch_mode: cf_launch_mode,
    #[doc = " NULL: a private pool of capacity_tokens"]
    pub pool: *mut cf_kv_pool,
    #[doc = " the most positions this session may hold, at most 2^31 - 1; 0: max_position_embeddings"]
    pub capacity_tokens: i64,
    #[doc = " 1 (default): take the whole capacity from the pool now, so that no step allocates or finds it full"]
    pub reserve: i32,
    #[doc = " private pool: as in cf_kv_pool_options; not used with `pool`"]
    pub page_tokens: i32,
    #[doc = " private pool: as in cf_kv_pool_options; not used with `pool`"]
    pub kv_dtype: cf_dtype,
    #[doc = " CUDA: CTAs per cluster, which hand each other parts of attention: 1, 2, 4, 8 or 16; the same bits with\neach; 0: chosen by the library. CF_ERROR_UNSUPPORTED if the device cannot place such clusters of the\nkernel, or a step of the model has work for fewer CTAs"]
    pub cluster_size: i32,
    #[doc = " CUDA: a cudaStream_t that outlives the session and that all its work is enqueued on;\nNULL: the session makes one. NULL on the CPU"]
    pub stream: *mut ::std::os::raw::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_session_options"][::std::mem::size_of::<cf_session_options>() - 48usize];
    ["Alignment of cf_session_options"][::std::mem::align_of::<cf_session_options>() - 8usize];
    ["Offset of field: cf_session_options::struct_size"][::std::mem::offset_of!(cf_session_options, struct_size) - 0usize];
    ["Offset of field: cf_session_options::launch_mode"][::std::mem::offset_of!(cf_session_options, launch_mode) - 4usize];
    ["Offset of field: cf_session_options::pool"][::std::mem::offset_of!(cf_session_options, pool) - 8usize];
    ["Offset of field: cf_session_options::capacity_tokens"][::std::mem::offset_of!(cf_session_options, capacity_tokens) - 16usize];
    ["Offset of field: cf_session_options::reserve"][::std::mem::offset_of!(cf_session_options, reserve) - 24usize];
    ["Offset of field: cf_session_options::page_tokens"][::std::mem::offset_of!(cf_session_options, page_tokens) - 28usize];
    ["Offset of field: cf_session_options::kv_dtype"][::std::mem::offset_of!(cf_session_options, kv_dtype) - 32usize];
    ["Offset of field: cf_session_options::cluster_size"][::std::mem::offset_of!(cf_session_options, cluster_size) - 36usize];
    ["Offset of field: cf_session_options::stream"][::std::mem::offset_of!(cf_session_options, stream) - 40usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_session_info {
    pub struct_size: u32,
    #[doc = " CUDA: as resolved; CPU: CF_LAUNCH_AUTO"]
    pub launch_mode: cf_launch_mode,
    #[doc = " CUDA: CTAs per cluster in use; CPU: 1"]
    pub cluster_size: i32,
    pub page_tokens: i32,
    pub kv_dtype: cf_dtype,
    pub reserved: i32,
    #[doc = " positions cached, as far as the host knows: after cf_session_wait exact"]
    pub position: i64,
    pub capacity_tokens: i64,
    #[doc = " held in the pool, shared ones included"]
    pub n_pages: i64,
    #[doc = " allocated for this session besides its pages"]
    pub workspace_bytes: u64,
    #[doc = " CUDA: the cudaStream_t that its work is enqueued on: the caller's, or its own, which ends with it; CPU: NULL"]
    pub stream: *mut ::std::os::raw::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_session_info"][::std::mem::size_of::<cf_session_info>() - 64usize];
    ["Alignment of cf_session_info"][::std::mem::align_of::<cf_session_info>() - 8usize];
    ["Offset of field: cf_session_info::struct_size"][::std::mem::offset_of!(cf_session_info, struct_size) - 0usize];
    ["Offset of field: cf_session_info::launch_mode"][::std::mem::offset_of!(cf_session_info, launch_mode) - 4usize];
    ["Offset of field: cf_session_info::cluster_size"][::std::mem::offset_of!(cf_session_info, cluster_size) - 8usize];
    ["Offset of field: cf_session_info::page_tokens"][::std::mem::offset_of!(cf_session_info, page_tokens) - 12usize];
    ["Offset of field: cf_session_info::kv_dtype"][::std::mem::offset_of!(cf_session_info, kv_dtype) - 16usize];
    ["Offset of field: cf_session_info::reserved"][::std::mem::offset_of!(cf_session_info, reserved) - 20usize];
    ["Offset of field: cf_session_info::position"][::std::mem::offset_of!(cf_session_info, position) - 24usize];
    ["Offset of field: cf_session_info::capacity_tokens"][::std::mem::offset_of!(cf_session_info, capacity_tokens) - 32usize];
    ["Offset of field: cf_session_info::n_pages"][::std::mem::offset_of!(cf_session_info, n_pages) - 40usize];
    ["Offset of field: cf_session_info::workspace_bytes"][::std::mem::offset_of!(cf_session_info, workspace_bytes) - 48usize];
    ["Offset of field: cf_session_info::stream"][::std::mem::offset_of!(cf_session_info, stream) - 56usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_memory_estimate {
    pub struct_size: u32,
    pub reserved: u32,
    #[doc = " what a model of this configuration allocates once loaded"]
    pub weights_bytes: u64,
    #[doc = " more, while loading"]
    pub load_staging_bytes: u64,
    #[doc = " one KV page"]
    pub page_bytes: u64,
    #[doc = " a private pool for capacity_tokens; 0 if session_options names a pool"]
    pub kv_bytes: u64,
    #[doc = " a session's other memory; on CUDA with what all sessions of a model share for prompts, which the first one\nallocates and the last one frees"]
    pub workspace_bytes: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_memory_estimate"][::std::mem::size_of::<cf_memory_estimate>() - 48usize];
    ["Alignment of cf_memory_estimate"][::std::mem::align_of::<cf_memory_estimate>() - 8usize];
    ["Offset of field: cf_memory_estimate::struct_size"][::std::mem::offset_of!(cf_memory_estimate, struct_size) - 0usize];
    ["Offset of field: cf_memory_estimate::reserved"][::std::mem::offset_of!(cf_memory_estimate, reserved) - 4usize];
    ["Offset of field: cf_memory_estimate::weights_bytes"][::std::mem::offset_of!(cf_memory_estimate, weights_bytes) - 8usize];
    ["Offset of field: cf_memory_estimate::load_staging_bytes"][::std::mem::offset_of!(cf_memory_estimate, load_staging_bytes) - 16usize];
    ["Offset of field: cf_memory_estimate::page_bytes"][::std::mem::offset_of!(cf_memory_estimate, page_bytes) - 24usize];
    ["Offset of field: cf_memory_estimate::kv_bytes"][::std::mem::offset_of!(cf_memory_estimate, kv_bytes) - 32usize];
    ["Offset of field: cf_memory_estimate::workspace_bytes"][::std::mem::offset_of!(cf_memory_estimate, workspace_bytes) - 40usize];
};
#[doc = " Applied to the logits in this order, with the meaning transformers gives them: repetition penalty over all tokens of the\n session, logit biases, allowed-token mask, temperature, top-k, top-p, min-p. A token is then drawn by the Gumbel-max rule\n (argmax of logit / temperature, in float, + Gumbel noise, in double) with noise from Philox4x32-10 (Salmon et al., SC 2011) keyed by seed and\n counted by position and token: the same logits and seed give the same token on any backend and in any grouping of steps.\n Ties go to the lowest token."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_sampler_options {
    pub struct_size: u32,
    #[doc = " 0 (default): greedy, top-k, top-p and min-p have no effect; else up to 100"]
    pub temperature: f32,
    #[doc = " 0 (default): off; else keep the k most likely"]
    pub top_k: i32,
    #[doc = " 1 (default): off; else in (0, 1): keep the fewest tokens whose probability reaches it"]
    pub top_p: f32,
    #[doc = " 0 (default): off; else in (0, 1\\]: keep tokens at least this fraction of the likeliest"]
    pub min_p: f32,
    #[doc = " 1 (default): off; else \\> 0: divides positive and multiplies negative logits of tokens seen"]
    pub repetition_penalty: f32,
    pub seed: u64,
    pub n_logit_biases: usize,
    #[doc = " each at most once"]
    pub logit_bias_tokens: *const i32,
    #[doc = " added to the logits; -infinity bans a token, NaN and +infinity are errors"]
    pub logit_bias_values: *const f32,
    pub n_stop_tokens: usize,
    #[doc = " sampling one of them ends cf_decode_steps"]
    pub stop_tokens: *const i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_sampler_options"][::std::mem::size_of::<cf_sampler_options>() - 72usize];
    ["Alignment of cf_sampler_options"][::std::mem::align_of::<cf_sampler_options>() - 8usize];
    ["Offset of field: cf_sampler_options::struct_size"][::std::mem::offset_of!(cf_sampler_options, struct_size) - 0usize];
    ["Offset of field: cf_sampler_options::temperature"][::std::mem::offset_of!(cf_sampler_options, temperature) - 4usize];
    ["Offset of field: cf_sampler_options::top_k"][::std::mem::offset_of!(cf_sampler_options, top_k) - 8usize];
    ["Offset of field: cf_sampler_options::top_p"][::std::mem::offset_of!(cf_sampler_options, top_p) - 12usize];
    ["Offset of field: cf_sampler_options::min_p"][::std::mem::offset_of!(cf_sampler_options, min_p) - 16usize];
    ["Offset of field: cf_sampler_options::repetition_penalty"][::std::mem::offset_of!(cf_sampler_options, repetition_penalty) - 20usize];
    ["Offset of field: cf_sampler_options::seed"][::std::mem::offset_of!(cf_sampler_options, seed) - 24usize];
    ["Offset of field: cf_sampler_options::n_logit_biases"][::std::mem::offset_of!(cf_sampler_options, n_logit_biases) - 32usize];
    ["Offset of field: cf_sampler_options::logit_bias_tokens"][::std::mem::offset_of!(cf_sampler_options, logit_bias_tokens) - 40usize];
    ["Offset of field: cf_sampler_options::logit_bias_values"][::std::mem::offset_of!(cf_sampler_options, logit_bias_values) - 48usize];
    ["Offset of field: cf_sampler_options::n_stop_tokens"][::std::mem::offset_of!(cf_sampler_options, n_stop_tokens) - 56usize];
    ["Offset of field: cf_sampler_options::stop_tokens"][::std::mem::offset_of!(cf_sampler_options, stop_tokens) - 64usize];
};
pub type cf_output_rows = i32;
pub const CF_ROWS_LAST: cf_output_rows = 0;
pub const CF_ROWS_ALL: cf_output_rows = 1;
#[doc = " What a step writes for the caller besides the sampled token. Row r belongs to the r-th position of a prefill (or the last\n one, with CF_ROWS_LAST), the r-th position of cf_decode_positions, the r-th session of cf_decode_batch; cf_decode_step\n and cf_decode_steps have one row (the last step's). V is vocab_size. NULL: not wanted. All arrays lie in `memory`, must stay\n valid and hold undefined values until the step's status has been fetched; log-probabilities are natural, of the raw logits.\n CF_ERROR_NONFINITE_LOGITS is found where logits are computed, which is for rows that are sampled after or written here: keys and\n values that a write to a tap or a damaged weight made infinite may show only then. Truncating to before them mends the session."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_outputs {
    pub struct_size: u32,
    pub memory: cf_memory,
    #[doc = " prefill only; the other calls always write all"]
    pub rows: cf_output_rows,
    #[doc = " 0 .. 1024 and at most V"]
    pub top_n: i32,
    #[doc = " \\[rows, V\\]"]
    pub logits: *mut f32,
    #[doc = " \\[rows, top_n\\], most likely first"]
    pub top_tokens: *mut i32,
    #[doc = " \\[rows, top_n\\]"]
    pub top_logprobs: *mut f32,
    #[doc = " \\[rows\\], token to score at each row, -1: none. Host memory, read before the call returns"]
    pub targets: *const i32,
    #[doc = " \\[rows\\] log-probability of the target, 0 where it is -1"]
    pub target_logprobs: *mut f32,
    #[doc = " \\[rows\\] token sampled after each row; in a prefill only after the last, -1 elsewhere. Needs `sample`"]
    pub row_tokens: *mut i32,
    #[doc = " \\[rows\\] CF_OK, or why the row failed. Where a step is all or nothing, a row that was computed before another\none failed has CF_OK, and rows that were not computed have the step's status. Only row_status is defined for\na row that failed"]
    pub row_status: *mut cf_status,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_outputs"][::std::mem::size_of::<cf_outputs>() - 72usize];
    ["Alignment of cf_outputs"][::std::mem::align_of::<cf_outputs>() - 8usize];
    ["Offset of field: cf_outputs::struct_size"][::std::mem::offset_of!(cf_outputs, struct_size) - 0usize];
    ["Offset of field: cf_outputs::memory"][::std::mem::offset_of!(cf_outputs, memory) - 4usize];
    ["Offset of field: cf_outputs::rows"][::std::mem::offset_of!(cf_outputs, rows) - 8usize];
    ["Offset of field: cf_outputs::top_n"][::std::mem::offset_of!(cf_outputs, top_n) - 12usize];
    ["Offset of field: cf_outputs::logits"][::std::mem::offset_of!(cf_outputs, logits) - 16usize];
    ["Offset of field: cf_outputs::top_tokens"][::std::mem::offset_of!(cf_outputs, top_tokens) - 24usize];
    ["Offset of field: cf_outputs::top_logprobs"][::std::mem::offset_of!(cf_outputs, top_logprobs) - 32usize];
    ["Offset of field: cf_outputs::targets"][::std::mem::offset_of!(cf_outputs, targets) - 40usize];
    ["Offset of field: cf_outputs::target_logprobs"][::std::mem::offset_of!(cf_outputs, target_logprobs) - 48usize];
    ["Offset of field: cf_outputs::row_tokens"][::std::mem::offset_of!(cf_outputs, row_tokens) - 56usize];
    ["Offset of field: cf_outputs::row_status"][::std::mem::offset_of!(cf_outputs, row_status) - 64usize];
};
#[doc = " A look into a block, or a hand in it. T is all rows of the step: of a prefill all its positions, whatever cf_outputs.rows says;\n of cf_decode_batch one per session, in which a session that failed before the step has nothing read or written; of several\n steps in a call one, which holds the values of the last (a write acts on each of them). Taps act as the step comes by their\n place, those at one place in the order given. Keys and values are made of what was written. What a failed or cancelled step has\n read is undefined. In a prompt CUDA keeps ATTENTION_HEADS and MLP_ACTIVATION in the weights' dtype, which rounds what is written there; in\n other steps with taps it launches phase by phase."]
pub type cf_tap_point = i32;
#[doc = " \\[T, H\\] residual stream before the block"]
pub const CF_TAP_BLOCK_INPUT: cf_tap_point = 1;
#[doc = " \\[T, H\\] residual stream after the block"]
pub const CF_TAP_BLOCK_OUTPUT: cf_tap_point = 2;
#[doc = " \\[T, A, D\\] attention output of each head, before O"]
pub const CF_TAP_ATTENTION_HEADS: cf_tap_point = 3;
#[doc = " \\[T, I\\] input of MLP-down"]
pub const CF_TAP_MLP_ACTIVATION: cf_tap_point = 4;
pub type cf_tap_action = i32;
#[doc = " copy out; overwrite with the caller's values before going on"]
pub const CF_TAP_READ: cf_tap_action = 0;
#[doc = " copy out; overwrite with the caller's values before going on"]
pub const CF_TAP_WRITE: cf_tap_action = 1;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_tap {
    pub struct_size: u32,
    pub point: cf_tap_point,
    pub action: cf_tap_action,
    pub layer: i32,
    pub memory: cf_memory,
    pub reserved: i32,
    #[doc = " stays valid until the step's status has been fetched"]
    pub data: *mut f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_tap"][::std::mem::size_of::<cf_tap>() - 32usize];
    ["Alignment of cf_tap"][::std::mem::align_of::<cf_tap>() - 8usize];
    ["Offset of field: cf_tap::struct_size"][::std::mem::offset_of!(cf_tap, struct_size) - 0usize];
    ["Offset of field: cf_tap::point"][::std::mem::offset_of!(cf_tap, point) - 4usize];
    ["Offset of field: cf_tap::action"][::std::mem::offset_of!(cf_tap, action) - 8usize];
    ["Offset of field: cf_tap::layer"][::std::mem::offset_of!(cf_tap, layer) - 12usize];
    ["Offset of field: cf_tap::memory"][::std::mem::offset_of!(cf_tap, memory) - 16usize];
    ["Offset of field: cf_tap::reserved"][::std::mem::offset_of!(cf_tap, reserved) - 20usize];
    ["Offset of field: cf_tap::data"][::std::mem::offset_of!(cf_tap, data) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_step_options {
    pub struct_size: u32,
    #[doc = " 1 (default): sample a token after the last position; 0: leave none pending (for the first\ncalls of a prompt given in pieces)"]
    pub sample: i32,
    #[doc = " NULL: none. The arrays that it names are written, not the struct"]
    pub outputs: *const cf_outputs,
    #[doc = " n_taps descriptors (at most 65536) that lie struct_size of the first apart; may be NULL if n_taps is 0"]
    pub taps: *const cf_tap,
    pub n_taps: usize,
    #[doc = " cf_prefill, cf_decode_steps; may be NULL"]
    pub progress: cf_progress_fn,
    pub progress_user: *mut ::std::os::raw::c_void,
    #[doc = " must stay valid until the status has been fetched; may be NULL"]
    pub cancellation: *mut cf_cancellation,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_step_options"][::std::mem::size_of::<cf_step_options>() - 56usize];
    ["Alignment of cf_step_options"][::std::mem::align_of::<cf_step_options>() - 8usize];
    ["Offset of field: cf_step_options::struct_size"][::std::mem::offset_of!(cf_step_options, struct_size) - 0usize];
    ["Offset of field: cf_step_options::sample"][::std::mem::offset_of!(cf_step_options, sample) - 4usize];
    ["Offset of field: cf_step_options::outputs"][::std::mem::offset_of!(cf_step_options, outputs) - 8usize];
    ["Offset of field: cf_step_options::taps"][::std::mem::offset_of!(cf_step_options, taps) - 16usize];
    ["Offset of field: cf_step_options::n_taps"][::std::mem::offset_of!(cf_step_options, n_taps) - 24usize];
    ["Offset of field: cf_step_options::progress"][::std::mem::offset_of!(cf_step_options, progress) - 32usize];
    ["Offset of field: cf_step_options::progress_user"][::std::mem::offset_of!(cf_step_options, progress_user) - 40usize];
    ["Offset of field: cf_step_options::cancellation"][::std::mem::offset_of!(cf_step_options, cancellation) - 48usize];
};
pub const CF_TOKEN_PENDING: i32 = -1;
#[doc = " The token a step is to feed: this one, or the one that the last step sampled."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_result {
    pub struct_size: u32,
    #[doc = " of the oldest step that failed, or CF_OK"]
    pub status: cf_status,
    #[doc = " positions cached now"]
    pub position: i64,
    #[doc = " steps (or prefilled positions) finished since the status was last fetched"]
    pub n_steps: i64,
    #[doc = " the pending token: the last one sampled, -1: none"]
    pub token: i32,
    #[doc = " 1: it is a stop token"]
    pub stopped: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_result"][::std::mem::size_of::<cf_result>() - 32usize];
    ["Alignment of cf_result"][::std::mem::align_of::<cf_result>() - 8usize];
    ["Offset of field: cf_result::struct_size"][::std::mem::offset_of!(cf_result, struct_size) - 0usize];
    ["Offset of field: cf_result::status"][::std::mem::offset_of!(cf_result, status) - 4usize];
    ["Offset of field: cf_result::position"][::std::mem::offset_of!(cf_result, position) - 8usize];
    ["Offset of field: cf_result::n_steps"][::std::mem::offset_of!(cf_result, n_steps) - 16usize];
    ["Offset of field: cf_result::token"][::std::mem::offset_of!(cf_result, token) - 24usize];
    ["Offset of field: cf_result::stopped"][::std::mem::offset_of!(cf_result, stopped) - 28usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_graph {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_graph_options {
    pub struct_size: u32,
    #[doc = " steps per replay; default 1"]
    pub n_steps: i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_graph_options"][::std::mem::size_of::<cf_graph_options>() - 8usize];
    ["Alignment of cf_graph_options"][::std::mem::align_of::<cf_graph_options>() - 4usize];
    ["Offset of field: cf_graph_options::struct_size"][::std::mem::offset_of!(cf_graph_options, struct_size) - 0usize];
    ["Offset of field: cf_graph_options::n_steps"][::std::mem::offset_of!(cf_graph_options, n_steps) - 4usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_graph_info {
    pub struct_size: u32,
    #[doc = " kernel nodes"]
    pub n_nodes: i32,
    pub n_steps: i32,
    pub launch_mode: cf_launch_mode,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_graph_info"][::std::mem::size_of::<cf_graph_info>() - 16usize];
    ["Alignment of cf_graph_info"][::std::mem::align_of::<cf_graph_info>() - 4usize];
    ["Offset of field: cf_graph_info::struct_size"][::std::mem::offset_of!(cf_graph_info, struct_size) - 0usize];
    ["Offset of field: cf_graph_info::n_nodes"][::std::mem::offset_of!(cf_graph_info, n_nodes) - 4usize];
    ["Offset of field: cf_graph_info::n_steps"][::std::mem::offset_of!(cf_graph_info, n_steps) - 8usize];
    ["Offset of field: cf_graph_info::launch_mode"][::std::mem::offset_of!(cf_graph_info, launch_mode) - 12usize];
};
#[doc = " One transformer block, or part of one, on a loaded layer with the caller's activations and KV. T rows are T consecutive\n positions of one sequence (1 .. 64). All addresses are device-accessible and must stay valid until the stream has passed\n the call; on CUDA the call only enqueues kernels, one for up to eight rows (fewer where shared memory or workspace is\n short), so it can be captured into a graph by the caller, and \\*position is read when they run, so a replay can go on at the\n next position. The bits of T rows are those of T calls of one, and with F32 activations those of a session's steps (not of its\n prompts) on the same keys and values. Only the layer itself has to be loaded. Before a layer is loaded again, or the model\n reloaded or destroyed, enqueued block calls must have finished, and graphs that hold them must not be replayed any more.\n On CUDA activations and caches are aligned to 16 bytes, strides are multiples of 16 bytes, and a token_stride of head_dim is\n the fastest; a layer with matrices of both F16 and BF16 is CF_ERROR_UNSUPPORTED. Keys and values are attended to as the cache\n holds them, the rows' own included; new_k and new_v are not rounded to kv_dtype."]
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct cf_block_options {
    pub struct_size: u32,
    #[doc = " T"]
    pub n_rows: i32,
    #[doc = " of every activation below: F32 (default), F16 or BF16"]
    pub activation_dtype: cf_dtype,
    #[doc = " F32, F16 or BF16; F32 on the CPU only (CF_ERROR_UNSUPPORTED on CUDA)"]
    pub kv_dtype: cf_dtype,
    #[doc = " \\[T, H\\] input: the residual stream"]
    pub hidden: *const ::std::os::raw::c_void,
    #[doc = " \\[T, H\\] residual stream after the block (cf_block_forward, cf_block_mlp_down); may be `hidden`"]
    pub output: *mut ::std::os::raw::c_void,
    #[doc = " \\[T, H\\] after O and its bias, without the residual: written by cf_block_attention, read\nby cf_block_mlp_down; may be NULL in cf_block_forward"]
    pub attention_output: *mut ::std::os::raw::c_void,
    #[doc = " \\[T, I\\] input of MLP-down: likewise"]
    pub mlp_activation: *mut ::std::os::raw::c_void,
    #[doc = " \\[T, G, D\\] keys of these rows, after RoPE; may be NULL"]
    pub new_k: *mut ::std::os::raw::c_void,
    #[doc = " \\[T, G, D\\]; may be NULL"]
    pub new_v: *mut ::std::os::raw::c_void,
    #[doc = " this layer's keys: element (position p, head g, d) is at\npage(p) \\* page_stride + (p % page_tokens) \\* token_stride + g \\* head_stride + d"]
    pub k_cache: *mut ::std::os::raw::c_void,
    #[doc = " this layer's values, laid out alike; both are appended to at \\*position"]
    pub v_cache: *mut ::std::os::raw::c_void,
    pub token_stride: i64,
    pub head_stride: i64,
    #[doc = " 0 without a page table"]
    pub page_stride: i64,
    #[doc = " \\[ceil(kv_capacity_tokens / page_tokens)\\] page(p) = page_table\\[p / page_tokens\\]; its entries are\ntrusted; NULL: contiguous"]
    pub page_table: *const i32,
    #[doc = " 0 without a page table"]
    pub page_tokens: i32,
    #[doc = " 1: adds T to \\*position after success, when nothing reads it any more: for the last call of a step.\n0 (default): only reads it"]
    pub advance: i32,
    #[doc = " positions that the cache has room for"]
    pub kv_capacity_tokens: i64,
    #[doc = " position of row 0: cached positions before it are attended to"]
    pub position: *mut i32,
    #[doc = " if not CF_OK on entry the call does nothing; receives CF_ERROR_CACHE_FULL or\nCF_ERROR_INVALID_ARGUMENT (negative position), and then nothing else is written; or\nCF_ERROR_DEVICE_LOST (CUDA: a wait took longer than device_wait_limit_ms), and then the outputs and\nthe rows' places in the cache are undefined"]
    pub step_status: *mut cf_status,
    #[doc = " CUDA: cf_block_workspace bytes of device memory, aligned to 128, zeroed before its first use. Calls that\nshare one must not overlap on the device: one per stream or captured graph is enough. Each call\nleaves it ready for the next, except after CF_ERROR_DEVICE_LOST: zero it again. NULL: the model's\nown, and then no two block calls of this model may overlap, and kv_capacity_tokens is at most 32768\n(above 4096 with fewer rows in a launch). CPU: NULL"]
    pub workspace: *mut ::std::os::raw::c_void,
    #[doc = " 0 with NULL"]
    pub workspace_bytes: u64,
    #[doc = " CUDA: cudaStream_t, NULL is the legacy default stream; CPU: NULL"]
    pub stream: *mut ::std::os::raw::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of cf_block_options"][::std::mem::size_of::<cf_block_options>() - 168usize];
    ["Alignment of cf_block_options"][::std::mem::align_of::<cf_block_options>() - 8usize];
    ["Offset of field: cf_block_options::struct_size"][::std::mem::offset_of!(cf_block_options, struct_size) - 0usize];
    ["Offset of field: cf_block_options::n_rows"][::std::mem::offset_of!(cf_block_options, n_rows) - 4usize];
    ["Offset of field: cf_block_options::activation_dtype"][::std::mem::offset_of!(cf_block_options, activation_dtype) - 8usize];
    ["Offset of field: cf_block_options::kv_dtype"][::std::mem::offset_of!(cf_block_options, kv_dtype) - 12usize];
    ["Offset of field: cf_block_options::hidden"][::std::mem::offset_of!(cf_block_options, hidden) - 16usize];
    ["Offset of field: cf_block_options::output"][::std::mem::offset_of!(cf_block_options, output) - 24usize];
    ["Offset of field: cf_block_options::attention_output"][::std::mem::offset_of!(cf_block_options, attention_output) - 32usize];
    ["Offset of field: cf_block_options::mlp_activation"][::std::mem::offset_of!(cf_block_options, mlp_activation) - 40usize];
    ["Offset of field: cf_block_options::new_k"][::std::mem::offset_of!(cf_block_options, new_k) - 48usize];
    ["Offset of field: cf_block_options::new_v"][::std::mem::offset_of!(cf_block_options, new_v) - 56usize];
    ["Offset of field: cf_block_options::k_cache"][::std::mem::offset_of!(cf_block_options, k_cache) - 64usize];
    ["Offset of field: cf_block_options::v_cache"][::std::mem::offset_of!(cf_block_options, v_cache) - 72usize];
    ["Offset of field: cf_block_options::token_stride"][::std::mem::offset_of!(cf_block_options, token_stride) - 80usize];
    ["Offset of field: cf_block_options::head_stride"][::std::mem::offset_of!(cf_block_options, head_stride) - 88usize];
    ["Offset of field: cf_block_options::page_stride"][::std::mem::offset_of!(cf_block_options, page_stride) - 96usize];
    ["Offset of field: cf_block_options::page_table"][::std::mem::offset_of!(cf_block_options, page_table) - 104usize];
    ["Offset of field: cf_block_options::page_tokens"][::std::mem::offset_of!(cf_block_options, page_tokens) - 112usize];
    ["Offset of field: cf_block_options::advance"][::std::mem::offset_of!(cf_block_options, advance) - 116usize];
    ["Offset of field: cf_block_options::kv_capacity_tokens"][::std::mem::offset_of!(cf_block_options, kv_capacity_tokens) - 120usize];
    ["Offset of field: cf_block_options::position"][::std::mem::offset_of!(cf_block_options, position) - 128usize];
    ["Offset of field: cf_block_options::step_status"][::std::mem::offset_of!(cf_block_options, step_status) - 136usize];
    ["Offset of field: cf_block_options::workspace"][::std::mem::offset_of!(cf_block_options, workspace) - 144usize];
    ["Offset of field: cf_block_options::workspace_bytes"][::std::mem::offset_of!(cf_block_options, workspace_bytes) - 152usize];
    ["Offset of field: cf_block_options::stream"][::std::mem::offset_of!(cf_block_options, stream) - 160usize];
};
