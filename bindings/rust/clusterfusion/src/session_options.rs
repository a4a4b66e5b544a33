//! How a session is made, and what it is like then.

use std::ffi::c_void;

use crate::error::{Error, Result};
use crate::native::{self, make};
use crate::{sys, DType, KvPool, LaunchMode};

/// What can be chosen about a session. What is not is the library's default.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    capacity_tokens: usize,
    reserve: Option<bool>,
    pool: Option<KvPool>,
    page_tokens: Option<usize>,
    kv_dtype: Option<DType>,
    launch_mode: Option<LaunchMode>,
    cluster_size: usize,
    stream: *mut c_void,
}

// SAFETY: the stream is an address, which the caller has promised to be usable from the thread that makes a session with it.
unsafe impl Send for SessionOptions {}
// SAFETY: as above.
unsafe impl Sync for SessionOptions {}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            capacity_tokens: 0,
            reserve: None,
            pool: None,
            page_tokens: None,
            kv_dtype: None,
            launch_mode: None,
            cluster_size: 0,
            stream: std::ptr::null_mut(),
        }
    }
}

impl SessionOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The most positions that the session may hold; 0: max_position_embeddings.
    pub fn capacity_tokens(mut self, tokens: usize) -> Self {
        self.capacity_tokens = tokens;
        self
    }

    /// Whether to take the whole capacity from the pool now (default), so that no step allocates or finds it full.
    pub fn reserve(mut self, reserve: bool) -> Self {
        self.reserve = Some(reserve);
        self
    }

    /// Shared pages, in place of a private pool of capacity_tokens.
    pub fn pool(mut self, pool: &KvPool) -> Self {
        self.pool = Some(pool.clone());
        self
    }

    /// Private pool: positions of a page: 16, 32, 64 (default), 128 or 256.
    pub fn page_tokens(mut self, tokens: usize) -> Self {
        self.page_tokens = Some(tokens);
        self
    }

    /// Private pool: Auto: F32 on the CPU, F16 on CUDA. Or F32 (CPU only), F16, BF16.
    pub fn kv_dtype(mut self, dtype: DType) -> Self {
        self.kv_dtype = Some(dtype);
        self
    }

    /// CUDA: how steps are launched.
    pub fn launch_mode(mut self, mode: LaunchMode) -> Self {
        self.launch_mode = Some(mode);
        self
    }

    /// CUDA: CTAs of a cluster: 1, 2, 4, 8 or 16; the same bits with each; 0: the library chooses.
    pub fn cluster_size(mut self, ctas: usize) -> Self {
        self.cluster_size = ctas;
        self
    }

    /// CUDA: a stream for all the session's work, in place of one of its own.
    ///
    /// # Safety
    ///
    /// `stream` is null, or a cudaStream_t of the context's device that outlives every session made with these options; and while it is
    /// being captured, what [`Session::enqueue_step`](crate::Session::enqueue_step) adds is replayed only as the header says.
    pub unsafe fn stream(mut self, stream: *mut c_void) -> Self {
        self.stream = stream;
        self
    }

    pub(crate) fn to_struct(&self) -> Result<sys::cf_session_options> {
        let mut raw = self.to_struct_of_fork()?;
        raw.pool = self.pool.as_ref().map_or(std::ptr::null_mut(), KvPool::raw);
        Ok(raw)
    }

    /// Without the pool: a fork lives in its session's.
    pub(crate) fn to_struct_of_fork(&self) -> Result<sys::cf_session_options> {
        let mut raw = make::<sys::cf_session_options>()?;
        raw.capacity_tokens = native::number("capacity_tokens", self.capacity_tokens)?;
        raw.reserve = self.reserve.map_or(raw.reserve, i32::from);
        if let Some(tokens) = self.page_tokens {
            raw.page_tokens = native::number("page_tokens", tokens)?;
        }
        raw.kv_dtype = self.kv_dtype.map_or(raw.kv_dtype, DType::raw);
        raw.launch_mode = self.launch_mode.map_or(raw.launch_mode, LaunchMode::raw);
        raw.cluster_size = native::number("cluster_size", self.cluster_size)?;
        raw.stream = self.stream;
        Ok(raw)
    }
}

/// A session as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionInfo {
    /// CUDA: as resolved; CPU: Auto.
    pub launch_mode: LaunchMode,
    /// CUDA: CTAs of a cluster; CPU: 1.
    pub cluster_size: i32,
    /// Positions of a page.
    pub page_tokens: i32,
    /// Type of keys and values.
    pub kv_dtype: DType,
    /// Positions cached, as far as the host knows: after [`Session::wait`](crate::Session::wait) exact.
    pub position: usize,
    /// The most positions it may hold.
    pub capacity_tokens: usize,
    /// Held in the pool, shared ones included.
    pub n_pages: i64,
    /// Allocated for this session besides its pages.
    pub workspace_bytes: u64,
}

impl SessionInfo {
    pub(crate) fn of(info: &sys::cf_session_info) -> Result<Self> {
        let tokens = |value: i64| usize::try_from(value).map_err(|_| Error::Library(format!("libclusterfusion gave a session {value} positions")));
        Ok(Self {
            launch_mode: LaunchMode::of(info.launch_mode)?,
            cluster_size: info.cluster_size,
            page_tokens: info.page_tokens,
            kv_dtype: DType::of(info.kv_dtype)?,
            position: tokens(info.position)?,
            capacity_tokens: tokens(info.capacity_tokens)?,
            n_pages: info.n_pages,
            workspace_bytes: info.workspace_bytes,
        })
    }
}
