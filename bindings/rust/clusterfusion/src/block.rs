//! Blocks, for engines with their own loop: a transformer block, or part of one, on the caller's activations, keys and values.

use std::ffi::c_void;

use crate::error::Result;
use crate::native::{self, make};
use crate::{sys, DType, Model};

/// Where a block call finds its activations and its cache. T rows are T consecutive positions of one sequence (1 ..= 64); H, I, G and D as
/// in [`Role`](crate::Role). Setters only note addresses: what has to hold of them is said at the calls, such as
/// [`Model::block_forward`]. `cf_block_options` of the header has the details.
#[derive(Clone, Copy, Debug)]
pub struct BlockCall {
    raw: sys::cf_block_options,
}

impl BlockCall {
    /// Of n_rows rows of `hidden`, `[T, H]` of F32 unless [`activation_dtype`](Self::activation_dtype) says otherwise, at `*position`
    /// (positions cached before row 0). A call does nothing unless `*step_status` is `CF_OK`, and writes why it could not be done there.
    pub fn new(n_rows: usize, hidden: *const c_void, position: *mut i32, step_status: *mut i32) -> Result<Self> {
        let mut raw = make::<sys::cf_block_options>()?;
        raw.n_rows = native::number("n_rows", n_rows)?;
        raw.hidden = hidden;
        raw.position = position;
        raw.step_status = step_status;
        Ok(Self { raw })
    }

    /// Of every activation: F32 (default), F16 or BF16.
    pub fn activation_dtype(mut self, dtype: DType) -> Self {
        self.raw.activation_dtype = dtype.raw();
        self
    }

    /// `[T, H]` the residual stream after the block; may be `hidden`.
    pub fn output(mut self, output: *mut c_void) -> Self {
        self.raw.output = output;
        self
    }

    /// `[T, H]` after O and its bias, without the residual: written by attention, read by MLP-down.
    pub fn attention_output(mut self, output: *mut c_void) -> Self {
        self.raw.attention_output = output;
        self
    }

    /// `[T, I]` input of MLP-down: likewise.
    pub fn mlp_activation(mut self, activation: *mut c_void) -> Self {
        self.raw.mlp_activation = activation;
        self
    }

    /// `[T, G, D]` each: keys of these rows, after RoPE, and values; either may be null.
    pub fn new_kv(mut self, k: *mut c_void, v: *mut c_void) -> Self {
        self.raw.new_k = k;
        self.raw.new_v = v;
        self
    }

    /// This layer's keys and values for `capacity_tokens` positions, laid out alike: element (position p, head g, d) is at
    /// page(p) * page_stride + (p % page_tokens) * token_stride + g * head_stride + d; the first without a page table.
    pub fn cache(
        mut self,
        dtype: DType,
        k: *mut c_void,
        v: *mut c_void,
        capacity_tokens: usize,
        token_stride: i64,
        head_stride: i64,
    ) -> Result<Self> {
        self.raw.kv_dtype = dtype.raw();
        self.raw.k_cache = k;
        self.raw.v_cache = v;
        self.raw.kv_capacity_tokens = native::number("capacity_tokens", capacity_tokens)?;
        self.raw.token_stride = token_stride;
        self.raw.head_stride = head_stride;
        Ok(self)
    }

    /// `[ceil(capacity_tokens / page_tokens)]` page(p) = page_table[p / page_tokens]. Its entries are trusted.
    pub fn page_table(mut self, page_table: *const i32, page_tokens: usize, page_stride: i64) -> Result<Self> {
        self.raw.page_table = page_table;
        self.raw.page_tokens = native::number("page_tokens", page_tokens)?;
        self.raw.page_stride = page_stride;
        Ok(self)
    }

    /// Adds T to `*position` after success: for the last call of a step.
    pub fn advance(mut self) -> Self {
        self.raw.advance = 1;
        self
    }

    /// CUDA: [`Model::block_workspace_bytes`] of device memory, aligned to 128, zeroed before its first use, that no calls which overlap on
    /// the device share. Without one: the model's own, and then no two block calls of this model may overlap.
    pub fn workspace(mut self, workspace: *mut c_void, bytes: u64) -> Self {
        self.raw.workspace = workspace;
        self.raw.workspace_bytes = bytes;
        self
    }

    /// CUDA: a cudaStream_t; null is the legacy default stream.
    pub fn stream(mut self, stream: *mut c_void) -> Self {
        self.raw.stream = stream;
        self
    }
}

impl Model {
    /// norm → QKV → RoPE → KV append → attention → O → norm → MLP → residuals. [`Error::NotLoaded`](crate::Error::NotLoaded): only the
    /// layer itself has to be loaded.
    ///
    /// # Safety
    ///
    /// - Every address of `block` is null where the header lets it be, or points to memory that the context's device can use, of the size
    ///   and type that `BlockCall` states; a page table's entries are pages of the cache.
    /// - It stays valid, and is not otherwise used, until the call has returned (CPU) or the stream has passed it (CUDA).
    /// - The stream is one of the context's device. Before this layer is loaded again, or the model is reloaded or dropped, enqueued block
    ///   calls have finished, and graphs that hold them are not replayed any more.
    pub unsafe fn block_forward(&self, layer: usize, block: &BlockCall) -> Result<()> {
        // SAFETY: the model lives, the options are initialised, and the caller answers for what they point to.
        self.block(layer, |model, layer| unsafe { sys::cf_block_forward(model, layer, &block.raw) })
    }

    /// norm → QKV → RoPE → KV append → attention → O, and norm → MLP-up → activation: all of the block but MLP-down and the residuals.
    ///
    /// # Safety
    ///
    /// As for [`block_forward`](Self::block_forward).
    pub unsafe fn block_attention(&self, layer: usize, block: &BlockCall) -> Result<()> {
        // SAFETY: the model lives, the options are initialised, and the caller answers for what they point to.
        self.block(layer, |model, layer| unsafe { sys::cf_block_attention(model, layer, &block.raw) })
    }

    /// output = hidden + attention_output + MLP-down(mlp_activation): completes what [`block_attention`](Self::block_attention) began.
    ///
    /// # Safety
    ///
    /// As for [`block_forward`](Self::block_forward).
    pub unsafe fn block_mlp_down(&self, layer: usize, block: &BlockCall) -> Result<()> {
        // SAFETY: the model lives, the options are initialised, and the caller answers for what they point to.
        self.block(layer, |model, layer| unsafe { sys::cf_block_mlp_down(model, layer, &block.raw) })
    }

    /// Bytes of workspace that calls of n_rows rows on a cache of kv_capacity_tokens need; 0 on the CPU.
    pub fn block_workspace_bytes(&self, n_rows: usize, kv_capacity_tokens: usize) -> Result<u64> {
        let n_rows = native::number("n_rows", n_rows)?;
        let capacity = native::number("kv_capacity_tokens", kv_capacity_tokens)?;
        let mut size = 0;
        // SAFETY: the model lives, and the size can be written to.
        native::call(|| unsafe { sys::cf_block_workspace(self.raw(), n_rows, capacity, &mut size) })?;
        Ok(size)
    }

    fn block(&self, layer: usize, part: impl FnOnce(*mut sys::cf_model, i32) -> sys::cf_status) -> Result<()> {
        let layer = native::number("layer", layer)?;
        native::call(|| part(self.raw(), layer))
    }
}
