// Made from clusterfusion.h by build/bindings.rs; tests/bindings.rs compares, and writes it anew with UPDATE_BINDINGS=1.

functions! {
    #[doc = " Version of the library that was loaded: major \\* 1000000 + minor \\* 1000 + patch."]
    pub fn cf_version() -> u32;
    #[doc = " The same as text, \"0.1.0\"; static storage."]
    pub fn cf_version_string() -> *const ::std::os::raw::c_char;
    #[doc = " CF_ABI_VERSION of the library that was loaded; compare it with the header's before any other call. Within one ABI version\n functions, constants and fields at the end of structs are added, and nothing else changes."]
    pub fn cf_abi_version() -> u32;
    #[doc = " \"CF_ERROR_IO\" for CF_ERROR_IO, \"CF_UNKNOWN_STATUS\" for a number that is none; static storage."]
    pub fn cf_status_name(status: cf_status) -> *const ::std::os::raw::c_char;
    #[doc = " Copies the sentence of the calling thread's last call that failed into buffer, cut to capacity_bytes - 1 bytes and a NUL; it is\n empty before the first one. \\*length_bytes (may be NULL) receives its uncut length without the NUL, which is at most 1024. buffer may\n be NULL if capacity_bytes is 0. Stays until the thread's next failing call. Always CF_OK, unless buffer is NULL and capacity_bytes is\n not 0: CF_ERROR_INVALID_ARGUMENT, which leaves the sentence as it is."]
    pub fn cf_last_error(buffer: *mut ::std::os::raw::c_char, capacity_bytes: usize, length_bytes: *mut usize) -> cf_status;
    pub fn cf_device_info_init(info: *mut cf_device_info, struct_size: usize) -> cf_status;
    #[doc = " Number of devices of a kind; CPU: 1. Without a driver or a CUDA build: CF_OK and 0."]
    pub fn cf_device_count(kind: cf_device_kind, count: *mut i32) -> cf_status;
    #[doc = " Describes device `ordinal`. CF_ERROR_NO_DEVICE if there is none."]
    pub fn cf_device_query(kind: cf_device_kind, ordinal: i32, info: *mut cf_device_info) -> cf_status;
    pub fn cf_cancellation_create(cancellation: *mut *mut cf_cancellation) -> cf_status;
    #[doc = " Raises the flag: calls that hold it stop at the next layer boundary (CPU), launch boundary or piece of a prompt (CUDA)\n or layer (loading) with CF_ERROR_CANCELLED, until cf_cancellation_reset. Safe from any thread and from a signal\n handler; leaves cf_last_error as it is, also where it answers CF_ERROR_INVALID_ARGUMENT to NULL."]
    pub fn cf_cancellation_request(cancellation: *mut cf_cancellation) -> cf_status;
    #[doc = " Lowers the flag. Safe from any thread; a call that runs meanwhile may or may not have seen it raised."]
    pub fn cf_cancellation_reset(cancellation: *mut cf_cancellation) -> cf_status;
    #[doc = " \\*requested: 1 if the flag is raised, 0 if not. Safe from any thread."]
    pub fn cf_cancellation_requested(cancellation: *const cf_cancellation, requested: *mut i32) -> cf_status;
    #[doc = " The calls that were given it must have ended, and the status of steps that were must have been fetched."]
    pub fn cf_cancellation_destroy(cancellation: *mut cf_cancellation) -> cf_status;
    pub fn cf_context_options_init(options: *mut cf_context_options, struct_size: usize) -> cf_status;
    #[doc = " CF_ERROR_NO_DEVICE: no such device, or no driver (CUDA). CF_ERROR_UNSUPPORTED: built without CUDA; a device older than compute\n capability 8.0, or with fewer SMs than asked for; an instruction set this machine lacks; several devices."]
    pub fn cf_context_create(options: *const cf_context_options, context: *mut *mut cf_context) -> cf_status;
    pub fn cf_context_destroy(context: *mut cf_context) -> cf_status;
    pub fn cf_context_info_init(info: *mut cf_context_info, struct_size: usize) -> cf_status;
    pub fn cf_context_query(context: *const cf_context, info: *mut cf_context_info) -> cf_status;
    #[doc = " As cf_last_error, for the last failing call on this context or anything made from it, by any thread: not necessarily the one\n that the caller has in mind, where several threads use it. What fails in this call itself is cf_last_error's."]
    pub fn cf_context_last_error(
        context: *const cf_context,
        buffer: *mut ::std::os::raw::c_char,
        capacity_bytes: usize,
        length_bytes: *mut usize,
    ) -> cf_status;
    #[doc = " Zeroes but for bos_token -1: there are no defaults for a model."]
    pub fn cf_model_config_init(config: *mut cf_model_config, struct_size: usize) -> cf_status;
    #[doc = " Reads and checks DIRECTORY/config.json. No weights are touched. CF_ERROR_IO, CF_ERROR_INVALID_FILE, CF_ERROR_UNSUPPORTED."]
    pub fn cf_model_config_read(directory: *const ::std::os::raw::c_char, config: *mut cf_model_config) -> cf_status;
    pub fn cf_model_options_init(options: *mut cf_model_options, struct_size: usize) -> cf_status;
    #[doc = " Loads a Hugging Face checkpoint directory: config.json and model.safetensors, or model.safetensors.index.json with its\n shards. Everything is checked before any weight is read; F16, BF16 and F32 weights; families gpt_neox and llama. Tensors\n that the model does not use are held to the rules of the format, skipped and named in the log. CUDA: up to 8 threads read, which end with\n the call, as in cf_load_layer.\n CF_ERROR_IO, CF_ERROR_INVALID_FILE (message names file and tensor), CF_ERROR_UNSUPPORTED, CF_ERROR_CANCELLED."]
    pub fn cf_model_load(
        context: *mut cf_context,
        directory: *const ::std::os::raw::c_char,
        options: *const cf_model_options,
        model: *mut *mut cf_model,
    ) -> cf_status;
    #[doc = " Replaces every weight of a loaded model by those of another directory with the same configuration (for instance another\n revision), all or nothing: both copies exist during the call. Sessions keep their KV, which belongs to the old weights:\n truncate them to 0. CF_ERROR_MISMATCH if the configuration differs, or weight_dtype from what the model was made with (AUTO never\n does); CF_ERROR_BUSY while another call uses this model; else as cf_model_load."]
    pub fn cf_model_reload(model: *mut cf_model, directory: *const ::std::os::raw::c_char, options: *const cf_model_options) -> cf_status;
    #[doc = " An empty model, to be filled by cf_load_layer and cf_load_globals. CF_ERROR_UNSUPPORTED for a shape that the\n backend cannot run. On CUDA, for now: head_dim 32, 64, 80, 96, 128 or 256; hidden_size and intermediate_size multiples of 16; hidden_size\n at most 16384, intermediate_size and the rows of Q, K and V together at most 1048560, n_layers at most 128, vocab_size at most 524288; and\n what a step of the model needs has to fit into the device's shared memory."]
    pub fn cf_model_create(
        context: *mut cf_context,
        config: *const cf_model_config,
        options: *const cf_model_options,
        model: *mut *mut cf_model,
    ) -> cf_status;
    pub fn cf_model_destroy(model: *mut cf_model) -> cf_status;
    pub fn cf_tensor_init(tensor: *mut cf_tensor, struct_size: usize) -> cf_status;
    #[doc = " Takes all tensors of one layer, in any order, each role that the configuration asks for exactly once: an array of\n n_tensors descriptors that lie struct_size of the first apart. Everything is checked before anything is copied; on return the caller's memory is no\n longer used. `stream` (CUDA): a cudaStream_t in whose order device tensors are ready,\n NULL being the legacy default stream; the call waits for it, so it must not be being captured. CPU: NULL. CF_ERROR_UNSUPPORTED\n for a value that the wanted F16 cannot hold.\n Loading a layer again replaces it, all or nothing. CF_ERROR_BUSY while another call uses this model."]
    pub fn cf_load_layer(
        model: *mut cf_model,
        layer: i32,
        tensors: *const cf_tensor,
        n_tensors: usize,
        stream: *mut ::std::os::raw::c_void,
    ) -> cf_status;
    #[doc = " The same for the tensors that belong to no layer: embedding, final norm, head."]
    pub fn cf_load_globals(model: *mut cf_model, tensors: *const cf_tensor, n_tensors: usize, stream: *mut ::std::os::raw::c_void) -> cf_status;
    pub fn cf_model_info_init(info: *mut cf_model_info, struct_size: usize) -> cf_status;
    pub fn cf_model_query(model: *const cf_model, info: *mut cf_model_info) -> cf_status;
    pub fn cf_model_get_config(model: *const cf_model, config: *mut cf_model_config) -> cf_status;
    pub fn cf_kv_pool_options_init(options: *mut cf_kv_pool_options, struct_size: usize) -> cf_status;
    #[doc = " Allocates all pages. Sessions of this model may share it, and step on different threads. CF_ERROR_UNSUPPORTED for a kv_dtype that the\n backend lacks."]
    pub fn cf_kv_pool_create(model: *mut cf_model, options: *const cf_kv_pool_options, pool: *mut *mut cf_kv_pool) -> cf_status;
    pub fn cf_kv_pool_destroy(pool: *mut cf_kv_pool) -> cf_status;
    pub fn cf_kv_pool_info_init(info: *mut cf_kv_pool_info, struct_size: usize) -> cf_status;
    pub fn cf_kv_pool_query(pool: *const cf_kv_pool, info: *mut cf_kv_pool_info) -> cf_status;
    pub fn cf_session_options_init(options: *mut cf_session_options, struct_size: usize) -> cf_status;
    #[doc = " All memory that the session needs is allocated here (pages as `reserve` says). CF_ERROR_NOT_LOADED until every layer and\n the globals are loaded; CF_ERROR_CACHE_FULL if the pool cannot give what is to be reserved.\n\n On CUDA cf_decode_step and cf_decode_steps without outputs and taps only enqueue, with any\n sampler, unless they were given a progress function or a cancellation; other calls return when their work is done. Prompts have kernels of\n their own: what they leave in the cache and their logits are those of steps within the error of 16-bit activations, and the same bits however\n a prompt is cut. Rows of cf_decode_positions and cf_decode_batch go through the model up to eight at a time.\n\n While the caller captures a session's stream (options.stream), cf_decode_step and cf_decode_steps add their launches to the capture instead,\n with reserve 1, and without outputs, taps, progress and cancellation. A replay goes on from wherever the session is then, and\n cf_session_wait tells what replays have come to. It must be ordered, by the stream or by the caller, with all other work of the session; the\n session, and weights as they were at the capture, must outlive it."]
    pub fn cf_session_create(model: *mut cf_model, options: *const cf_session_options, session: *mut *mut cf_session) -> cf_status;
    #[doc = " Waits for the session's enqueued work (at most device_wait_limit_ms on a device that no longer answers)."]
    pub fn cf_session_destroy(session: *mut cf_session) -> cf_status;
    pub fn cf_session_info_init(info: *mut cf_session_info, struct_size: usize) -> cf_status;
    pub fn cf_session_query(session: *const cf_session, info: *mut cf_session_info) -> cf_status;
    pub fn cf_memory_estimate_init(estimate: *mut cf_memory_estimate, struct_size: usize) -> cf_status;
    #[doc = " Exact byte counts before anything is allocated: what cf_model_load or a full set of cf_load_layer calls, and one\n cf_session_create with these options will take through the allocator. stored_dtype: of the checkpoint's matrices."]
    pub fn cf_model_estimate(
        context: *const cf_context,
        config: *const cf_model_config,
        stored_dtype: cf_dtype,
        model_options: *const cf_model_options,
        session_options: *const cf_session_options,
        estimate: *mut cf_memory_estimate,
    ) -> cf_status;
    pub fn cf_sampler_options_init(options: *mut cf_sampler_options, struct_size: usize) -> cf_status;
    #[doc = " NULL: greedy. Takes effect with the next step."]
    pub fn cf_session_set_sampler(session: *mut cf_session, options: *const cf_sampler_options) -> cf_status;
    #[doc = " Constrained decoding: bit t % 32 of word t / 32 allows token t. n_words is ceil(vocab_size / 32); at least one token\n must be allowed. mask NULL with n_words 0 allows all again. Takes effect with the next step."]
    pub fn cf_session_set_allowed_tokens(session: *mut cf_session, mask: *const u32, n_words: usize) -> cf_status;
    #[doc = " The same sampler on the caller's own logits, in host memory: the token for `position` after `history` (n_history tokens).\n mask may be NULL; one that allows nothing is invalid. CF_ERROR_NONFINITE_LOGITS; CF_ERROR_NO_TOKEN_ALLOWED if biases ban all that it allows."]
    pub fn cf_sample_logits(
        options: *const cf_sampler_options,
        mask: *const u32,
        logits: *const f32,
        vocab_size: usize,
        history: *const i32,
        n_history: usize,
        position: i64,
        token: *mut i32,
    ) -> cf_status;
    pub fn cf_outputs_init(outputs: *mut cf_outputs, struct_size: usize) -> cf_status;
    pub fn cf_tap_init(tap: *mut cf_tap, struct_size: usize) -> cf_status;
    pub fn cf_step_options_init(options: *mut cf_step_options, struct_size: usize) -> cf_status;
    #[doc = " Appends n_tokens (at least 1) of a prompt at the session's position and samples the token that follows. Works in pieces with fixed\n absolute boundaries: K and V do not depend on how a prompt was cut into calls. CF_ERROR_INVALID_ARGUMENT: a token outside the\n vocabulary, or more than the capacity could ever hold. What does not fit behind the present position fails when it runs, with\n CF_ERROR_CACHE_FULL. All or nothing."]
    pub fn cf_prefill(session: *mut cf_session, tokens: *const i32, n_tokens: usize, options: *const cf_step_options) -> cf_status;
    #[doc = " Feeds one token (or CF_TOKEN_PENDING) and samples the next. CF_ERROR_INVALID_ARGUMENT, here and below: a token outside the vocabulary, or\n CF_TOKEN_PENDING where none is pending."]
    pub fn cf_decode_step(session: *mut cf_session, token: i32, options: *const cf_step_options) -> cf_status;
    #[doc = " n_steps (at least 1) steps, the first of which feeds the pending token and each other one what the one before sampled; several need\n `sample`. Ends early at a stop token. Finished steps are kept when one fails or the call is cancelled; cf_result says how many. Once\n all steps are finished a cancellation comes too late, and only the last progress call can still cancel."]
    pub fn cf_decode_steps(session: *mut cf_session, n_steps: i64, options: *const cf_step_options) -> cf_status;
    #[doc = " One step over n_tokens (1 .. 64) consecutive positions, with the weights read once and the bits that single steps\n would give: verification of drafted tokens. tokens\\[0\\] may be CF_TOKEN_PENDING. The token sampled after each is in\n outputs.row_tokens, the one after the last is pending; truncate to what was right. All or nothing."]
    pub fn cf_decode_positions(session: *mut cf_session, tokens: *const i32, n_tokens: usize, options: *const cf_step_options) -> cf_status;
    #[doc = " One step of each of n_sessions (1 .. 64) different sessions of one model, with the weights read once and the bits that each would give\n alone. tokens: one per session, or NULL for CF_TOKEN_PENDING throughout. The sessions fail or advance each by itself, and each has a\n status to be fetched; a cancellation stops all."]
    pub fn cf_decode_batch(sessions: *const *mut cf_session, n_sessions: usize, tokens: *const i32, options: *const cf_step_options) -> cf_status;
    pub fn cf_result_init(result: *mut cf_result, struct_size: usize) -> cf_status;
    #[doc = " Fetches the session's status and returns it, its sentence to be had from cf_last_error; a failed session works again afterwards.\n result (may be NULL) is written whatever the status, unless the call itself is refused. cf_session_poll answers CF_NOT_READY, and\n fetches nothing, while work is unfinished."]
    pub fn cf_session_poll(session: *mut cf_session, result: *mut cf_result) -> cf_status;
    pub fn cf_session_wait(session: *mut cf_session, result: *mut cf_result) -> cf_status;
    #[doc = " Copies the tokens at positions from, from + 1, ... : those cached, then the pending one. At most capacity_tokens; \\*n_tokens\n receives how many were copied (0 if there are none yet). May be called from any thread while steps run, to show tokens as\n they are made. CF_ERROR_INVALID_ARGUMENT if from is negative."]
    pub fn cf_session_tokens(session: *const cf_session, from: i64, tokens: *mut i32, capacity_tokens: usize, n_tokens: *mut usize) -> cf_status;
    #[doc = " Goes back to `position` cached positions (0 .. the present one), as if nothing after it had happened: the token that stood\n there becomes the pending one. Pages no longer needed return to the pool, unless reserved. CF_ERROR_BUSY while work is\n unfinished."]
    pub fn cf_session_truncate(session: *mut cf_session, position: i64) -> cf_status;
    #[doc = " Waits for the session's enqueued work, and makes a new session with the first `position` positions of this one (0 .. the present one),\n as if it had never gone further: the token that stood there, or this session's pending one, is its pending token; sampler and mask are\n this one's, a failed status is not. The two share pages until one of them writes to a page that both hold, and takes a copy. options:\n as for cf_session_create; the fork always lives in this session's pool, so pool must be NULL or that one, and page_tokens and kv_dtype\n are not used; NULL: this session's capacity, reserve, launch mode and cluster size. With `reserve` the copies are provided for;\n without it a step that needs one may find the pool full. CF_ERROR_CACHE_FULL if the pool cannot give what is to be reserved, or keep\n what is to be shared: a private pool has only room for a fork if its session was created with reserve 0."]
    pub fn cf_session_fork(session: *mut cf_session, position: i64, options: *const cf_session_options, fork: *mut *mut cf_session) -> cf_status;
    #[doc = " Waits for the session's enqueued work, and writes tokens, KV, sampler, mask and position, with a format version, a checksum and the\n model's fingerprint, into buffer. \\*size_bytes receives what is needed, also with CF_ERROR_BUFFER_TOO_SMALL; buffer NULL only asks. A\n saved session moves between CPU and CUDA. The same state in pages of the same size gives the same bytes, however the session came to\n it."]
    pub fn cf_session_save(session: *mut cf_session, buffer: *mut ::std::os::raw::c_void, capacity_bytes: usize, size_bytes: *mut usize)
        -> cf_status;
    #[doc = " The same bytes into a file: all of them, or an older file stays. They are written to PATH.partial first, which must not exist. A file\n that is replaced keeps its mode, a new one is for its owner alone; a symbolic link stays one. CF_ERROR_IO, also if PATH is there and\n is not a regular file. CF_ERROR_MISMATCH (of cf_session_save too): the weights were changed after the session began."]
    pub fn cf_session_save_file(session: *mut cf_session, path: *const ::std::os::raw::c_char) -> cf_status;
    #[doc = " A session that goes on where the saved one was. options: as for cf_session_create, except that kv_dtype AUTO is the saved one in a\n private pool. With the same kv_dtype it gives the same bits, with any page_tokens; keys and values of another dtype are converted.\n CF_ERROR_INVALID_FILE: not a saved session, of another version, or damaged. CF_ERROR_MISMATCH: of another model, other weights or\n another weight_dtype (one damaged bit of the fingerprint looks the same). CF_ERROR_INVALID_ARGUMENT: more positions than the capacity.\n CF_ERROR_CACHE_FULL, CF_ERROR_NOT_LOADED, CF_ERROR_IO."]
    pub fn cf_session_restore(
        model: *mut cf_model,
        options: *const cf_session_options,
        buffer: *const ::std::os::raw::c_void,
        size_bytes: usize,
        session: *mut *mut cf_session,
    ) -> cf_status;
    pub fn cf_session_restore_file(
        model: *mut cf_model,
        options: *const cf_session_options,
        path: *const ::std::os::raw::c_char,
        session: *mut *mut cf_session,
    ) -> cf_status;
    pub fn cf_graph_options_init(options: *mut cf_graph_options, struct_size: usize) -> cf_status;
    #[doc = " CF_ERROR_UNSUPPORTED on the CPU backend; CF_ERROR_INVALID_ARGUMENT if the session has not reserved its capacity. n_steps: 1 .. 1024. The\n graph keeps its session alive."]
    pub fn cf_graph_capture(session: *mut cf_session, options: *const cf_graph_options, graph: *mut *mut cf_graph) -> cf_status;
    #[doc = " Enqueues one replay on the session's stream; its status is fetched like any step's. After cf_model_reload the step is captured anew here."]
    pub fn cf_graph_launch(graph: *mut cf_graph) -> cf_status;
    pub fn cf_graph_info_init(info: *mut cf_graph_info, struct_size: usize) -> cf_status;
    pub fn cf_graph_query(graph: *const cf_graph, info: *mut cf_graph_info) -> cf_status;
    pub fn cf_graph_destroy(graph: *mut cf_graph) -> cf_status;
    pub fn cf_block_options_init(options: *mut cf_block_options, struct_size: usize) -> cf_status;
    #[doc = " Bytes of workspace that block calls of n_rows rows on a cache of kv_capacity_tokens need; 0 on the CPU."]
    pub fn cf_block_workspace(model: *const cf_model, n_rows: i32, kv_capacity_tokens: i64, size_bytes: *mut u64) -> cf_status;
    #[doc = " norm -\\> QKV -\\> RoPE -\\> KV append -\\> attention -\\> O -\\> norm -\\> MLP -\\> residuals. CF_ERROR_NOT_LOADED."]
    pub fn cf_block_forward(model: *mut cf_model, layer: i32, options: *const cf_block_options) -> cf_status;
    #[doc = " norm -\\> QKV -\\> RoPE -\\> KV append -\\> attention -\\> O, and norm -\\> MLP-up -\\> activation: all of the block but MLP-down and\n the residuals. `output` is not used."]
    pub fn cf_block_attention(model: *mut cf_model, layer: i32, options: *const cf_block_options) -> cf_status;
    #[doc = " output = hidden + attention_output + MLP-down(mlp_activation): completes what cf_block_attention began, with F32 activations\n to the bits of cf_block_forward. KV, new_k and new_v are not used; position is used only to advance it."]
    pub fn cf_block_mlp_down(model: *mut cf_model, layer: i32, options: *const cf_block_options) -> cf_status;
}
