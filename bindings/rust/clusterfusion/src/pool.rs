//! Pages of keys and values that the sessions of a model share.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::native::{self, make, queried, Handle};
use crate::{sys, DType, Model};

/// Pages of keys and values, given to sessions by [`SessionOptions::pool`](crate::SessionOptions::pool). Clones are the same pool.
/// Made by [`Model::kv_pool`].
#[derive(Clone)]
pub struct KvPool(Arc<Inner>);

struct Inner {
    handle: Handle<sys::cf_kv_pool>,
    _model: Model,
}

/// What can be chosen about a [`KvPool`].
#[derive(Clone, Debug, Default)]
pub struct KvPoolOptions {
    kv_dtype: Option<DType>,
    page_tokens: Option<usize>,
}

impl KvPoolOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Auto: F32 on the CPU, F16 on CUDA. Or F32 (CPU only), F16, BF16.
    pub fn kv_dtype(mut self, dtype: DType) -> Self {
        self.kv_dtype = Some(dtype);
        self
    }

    /// Positions of a page: 16, 32, 64 (default), 128 or 256.
    pub fn page_tokens(mut self, tokens: usize) -> Self {
        self.page_tokens = Some(tokens);
        self
    }
}

/// A pool's pages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvPoolInfo {
    /// Type of keys and values.
    pub kv_dtype: DType,
    /// Positions of a page.
    pub page_tokens: i32,
    /// Pages in all.
    pub n_pages: i64,
    /// Neither held nor reserved; a page that is shared with a session that reserved it counts as both.
    pub n_pages_free: i64,
    /// Held by more than one session.
    pub n_pages_shared: i64,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Bytes of all.
    pub allocated_bytes: u64,
}

impl KvPool {
    pub(crate) fn new(model: &Model, capacity_tokens: usize, options: &KvPoolOptions) -> Result<Self> {
        let mut raw = make::<sys::cf_kv_pool_options>()?;
        raw.capacity_tokens = native::number("capacity_tokens", capacity_tokens)?;
        raw.kv_dtype = options.kv_dtype.map_or(raw.kv_dtype, DType::raw);
        if let Some(tokens) = options.page_tokens {
            raw.page_tokens = native::number("page_tokens", tokens)?;
        }
        // SAFETY: the model lives, the options are initialised, and the handle can be written to.
        let handle = Handle::new(|out| unsafe { sys::cf_kv_pool_create(model.raw(), &raw, out) })?;
        Ok(Self(Arc::new(Inner { handle, _model: model.clone() })))
    }

    /// Its pages, as they are now.
    pub fn info(&self) -> Result<KvPoolInfo> {
        // SAFETY: the pool lives, and the struct can be written to.
        let info = queried::<sys::cf_kv_pool_info>(|info| unsafe { sys::cf_kv_pool_query(self.raw(), info) })?;
        Ok(KvPoolInfo {
            kv_dtype: DType::of(info.kv_dtype)?,
            page_tokens: info.page_tokens,
            n_pages: info.n_pages,
            n_pages_free: info.n_pages_free,
            n_pages_shared: info.n_pages_shared,
            page_bytes: info.page_bytes,
            allocated_bytes: info.allocated_bytes,
        })
    }

    pub(crate) fn raw(&self) -> *mut sys::cf_kv_pool {
        self.0.handle.get()
    }
}

impl fmt::Debug for KvPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvPool").finish_non_exhaustive()
    }
}
