//! Weights, read-only once loaded, shared by any number of sessions.

use std::ffi::c_void;
use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::callbacks::{progress_fields, Progress};
use crate::error::Result;
use crate::native::{self, make, queried, Handle};
use crate::{
    sys, Cancellation, Context, DType, Device, GenerateOptions, KvPool, KvPoolOptions, ModelConfig, Session, SessionOptions, Tensor, Token, Tokens,
};

/// Weights of a checkpoint. Clones are the same model, which threads may share.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    handle: Handle<sys::cf_model>, // first: see `Context`, which outlives it
    context: Context,
    config: ModelConfig,
    directory: Mutex<Option<PathBuf>>,
}

impl Model {
    /// Loads a Hugging Face checkpoint directory on the best device: config.json and model.safetensors, or its shards with their index.
    pub fn load(directory: impl AsRef<Path>) -> Result<Self> {
        Self::load_in(&Context::new(Device::best()?)?, directory, LoadOptions::new())
    }

    /// Loads a checkpoint directory in a context. Everything is checked before any weight is read. [`Error::Io`](crate::Error::Io),
    /// [`Error::InvalidFile`](crate::Error::InvalidFile) (names file and tensor), [`Error::Unsupported`](crate::Error::Unsupported),
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn load_in(context: &Context, directory: impl AsRef<Path>, mut options: LoadOptions<'_>) -> Result<Self> {
        let directory = directory.as_ref();
        let path = native::path("directory", directory)?;
        let raw = options.as_struct()?;
        // SAFETY: the context lives, the path ends with NUL, the options are initialised and outlive the call.
        let handle = Handle::new(|out| unsafe { sys::cf_model_load(context.raw(), path.as_ptr(), &raw, out) })?;
        Self::new(context, handle, Some(directory.to_path_buf()))
    }

    /// An empty model, to be filled by [`load_layer`](Self::load_layer) and [`load_globals`](Self::load_globals).
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a shape that the device cannot run.
    pub fn create(context: &Context, config: &ModelConfig, weight_dtype: DType) -> Result<Self> {
        let config = config.to_struct()?;
        let mut options = LoadOptions::new().weight_dtype(weight_dtype);
        let raw = options.as_struct()?;
        // SAFETY: the context lives, the structs are initialised, and the handle can be written to.
        let handle = Handle::new(|out| unsafe { sys::cf_model_create(context.raw(), &config, &raw, out) })?;
        Self::new(context, handle, None)
    }

    fn new(context: &Context, handle: Handle<sys::cf_model>, directory: Option<PathBuf>) -> Result<Self> {
        // SAFETY: the handle lives, and the struct can be written to.
        let config = queried(|out| unsafe { sys::cf_model_get_config(handle.get(), out) })?;
        let config = ModelConfig::of(&config)?;
        Ok(Self(Arc::new(Inner { handle, context: context.clone(), config, directory: Mutex::new(directory) })))
    }

    /// Replaces every weight by those of another directory with the same configuration, all or nothing: both copies exist during the
    /// call. Sessions keep their keys and values, which belong to the old weights: truncate them to 0.
    /// [`Error::Mismatch`](crate::Error::Mismatch) if the configuration or the weight type differs, [`Error::Busy`](crate::Error::Busy) while another call
    /// uses this model.
    pub fn reload(&self, directory: impl AsRef<Path>, mut options: LoadOptions<'_>) -> Result<()> {
        let directory = directory.as_ref();
        let path = native::path("directory", directory)?;
        let raw = options.as_struct()?;
        // SAFETY: the model lives, the path ends with NUL, the options are initialised and outlive the call.
        native::call(|| unsafe { sys::cf_model_reload(self.raw(), path.as_ptr(), &raw) })?;
        *self.0.directory.lock().unwrap_or_else(PoisonError::into_inner) = Some(directory.to_path_buf());
        Ok(())
    }

    /// Takes all tensors of one layer, in any order, each role that the configuration asks for exactly once. Loading a layer again
    /// replaces it, all or nothing. [`Error::Unsupported`](crate::Error::Unsupported) for a value that F16 cannot hold,
    /// [`Error::Busy`](crate::Error::Busy) while another call uses this model. Tensors in device memory have to be ready in the order of
    /// the legacy default stream.
    pub fn load_layer(&self, layer: usize, tensors: &[Tensor<'_>]) -> Result<()> {
        // SAFETY: there is no stream that would have to be one.
        unsafe { self.load_layer_on(layer, tensors, std::ptr::null_mut()) }
    }

    /// The same for the tensors that belong to no layer: embedding, final norm, head.
    pub fn load_globals(&self, tensors: &[Tensor<'_>]) -> Result<()> {
        // SAFETY: as in `load_layer`.
        unsafe { self.load_globals_on(tensors, std::ptr::null_mut()) }
    }

    /// [`load_layer`](Self::load_layer) of device tensors that are ready in the order of a stream, for which the call waits.
    ///
    /// # Safety
    ///
    /// `stream` is a cudaStream_t of the context's device that lives during the call and is not being captured; or null.
    pub unsafe fn load_layer_on(&self, layer: usize, tensors: &[Tensor<'_>], stream: *mut c_void) -> Result<()> {
        let layer = native::number("layer", layer)?;
        let raw = Tensor::to_structs(tensors)?;
        // SAFETY: the model lives, each tensor has checked that its memory is there, and the caller answers for the stream.
        native::call(|| unsafe { sys::cf_load_layer(self.raw(), layer, native::address(&raw), raw.len(), stream) })
    }

    /// [`load_globals`](Self::load_globals), likewise.
    ///
    /// # Safety
    ///
    /// As for [`load_layer_on`](Self::load_layer_on).
    pub unsafe fn load_globals_on(&self, tensors: &[Tensor<'_>], stream: *mut c_void) -> Result<()> {
        let raw = Tensor::to_structs(tensors)?;
        // SAFETY: as in `load_layer_on`.
        native::call(|| unsafe { sys::cf_load_globals(self.raw(), native::address(&raw), raw.len(), stream) })
    }

    /// What it is.
    pub fn config(&self) -> &ModelConfig {
        &self.0.config
    }

    /// Where it lives.
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// The directory that it was last loaded from.
    pub fn directory(&self) -> Option<PathBuf> {
        self.0.directory.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its weights, as they are now.
    pub fn info(&self) -> Result<ModelInfo> {
        // SAFETY: the handle lives, and the struct can be written to.
        let info = queried::<sys::cf_model_info>(|info| unsafe { sys::cf_model_query(self.raw(), info) })?;
        Ok(ModelInfo {
            n_layers_loaded: info.n_layers_loaded,
            globals_loaded: info.globals_loaded != 0,
            weight_dtype: DType::of(info.weight_dtype)?,
            weights_bytes: info.weights_bytes,
            parameters: info.parameters,
            fingerprint: info.fingerprint,
        })
    }

    /// A session with defaults: a private pool of max_position_embeddings positions. [`Error::NotLoaded`](crate::Error::NotLoaded) until
    /// every layer and the globals are loaded.
    pub fn session(&self) -> Result<Session> {
        self.session_with(&SessionOptions::new())
    }

    /// A session. [`Error::CacheFull`](crate::Error::CacheFull) if the pool cannot give what is to be reserved.
    pub fn session_with(&self, options: &SessionOptions) -> Result<Session> {
        Session::create(self, options)
    }

    /// A session that goes on where a saved one was ([`Session::save`]). With the same type of keys and values it gives the same bits.
    /// [`Error::InvalidFile`](crate::Error::InvalidFile): not a saved session, of another version, or damaged.
    /// [`Error::Mismatch`](crate::Error::Mismatch): of another model, other weights or another weight type.
    pub fn restore(&self, saved: &[u8], options: &SessionOptions) -> Result<Session> {
        Session::restore(self, saved, options)
    }

    /// The same from a file ([`Session::save_file`]).
    pub fn restore_file(&self, path: impl AsRef<Path>, options: &SessionOptions) -> Result<Session> {
        Session::restore_file(self, path.as_ref(), options)
    }

    /// Pages for `capacity_tokens` positions (rounded up to whole pages) that sessions of this model may share.
    pub fn kv_pool(&self, capacity_tokens: usize, options: &KvPoolOptions) -> Result<KvPool> {
        KvPool::new(self, capacity_tokens, options)
    }

    /// Continues a prompt greedily in a session of its own, by at most `max_tokens`, until one of the model's eos_tokens.
    ///
    /// ```
    /// # fn main() -> Result<(), clusterfusion::Error> {
    /// # let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../examples/demo_model");
    /// # if !std::path::Path::new(directory).exists() { return Ok(()); } // outside the repository
    /// let model = clusterfusion::Model::load(directory)?;
    /// let mut answer = String::new();
    /// for token in model.generate("412+93=".bytes(), 64)? {
    ///     answer.push(char::from(token? as u8)); // a token of the demo model is a byte
    /// }
    /// assert_eq!(answer.lines().next(), Some("505"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate<T: Into<Token>>(&self, prompt: impl IntoIterator<Item = T>, max_tokens: usize) -> Result<Tokens<Session>> {
        self.generate_with(prompt, &GenerateOptions::new().max_tokens(max_tokens))
    }

    /// The same with a sampler, stop tokens and so on. The prompt is read when the first token is asked for.
    pub fn generate_with<T: Into<Token>>(&self, prompt: impl IntoIterator<Item = T>, options: &GenerateOptions) -> Result<Tokens<Session>> {
        Tokens::of_prompt(self, prompt.into_iter().map(Into::into).collect(), options)
    }

    pub(crate) fn raw(&self) -> *mut sys::cf_model {
        self.0.handle.get()
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { context, config, .. } = &*self.0;
        f.debug_struct("Model").field("family", &config.family).field("device", &context.device()).field("directory", &self.directory()).finish()
    }
}

/// A model's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInfo {
    /// Layers that are filled.
    pub n_layers_loaded: i32,
    /// Whether embedding, final norm and head are.
    pub globals_loaded: bool,
    /// Of the matrices; Auto if they differ or none is loaded.
    pub weight_dtype: DType,
    /// Allocated for weights now.
    pub weights_bytes: u64,
    /// Of the configuration; tied embeddings count once.
    pub parameters: u64,
    /// Tells models and revisions apart, not single edited weights; 0 until all are loaded.
    pub fingerprint: u64,
}

/// Exact byte counts before anything is allocated ([`Context::estimate`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryEstimate {
    /// What a model of this configuration allocates once loaded.
    pub weights_bytes: u64,
    /// More, while loading.
    pub load_staging_bytes: u64,
    /// One KV page.
    pub page_bytes: u64,
    /// A private pool; 0 if the session options name a pool.
    pub kv_bytes: u64,
    /// A session's other memory; on CUDA with what all sessions of a model share for prompts.
    pub workspace_bytes: u64,
}

/// What can be chosen about loading a model.
#[derive(Default)]
pub struct LoadOptions<'a> {
    weight_dtype: Option<DType>,
    progress: Option<Progress<'a>>,
    cancellation: Option<Cancellation>,
}

impl<'a> LoadOptions<'a> {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Auto: the CPU keeps matrices as stored, CUDA keeps F16 and BF16 and rounds F32 to F16. F16 or BF16: round to it. F32: CPU only.
    pub fn weight_dtype(mut self, dtype: DType) -> Self {
        self.weight_dtype = Some(dtype);
        self
    }

    /// Is told how many bytes of how many are read; `Break` ends the call with [`Error::Cancelled`](crate::Error::Cancelled). It runs on
    /// the calling thread and must not call this crate, except [`Cancellation::request`]. A panic in it goes on after the call.
    pub fn progress(mut self, progress: impl FnMut(u64, u64) -> ControlFlow<()> + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Ends the call with [`Error::Cancelled`](crate::Error::Cancelled) when it is raised.
    pub fn cancellation(mut self, cancellation: &Cancellation) -> Self {
        self.cancellation = Some(cancellation.clone());
        self
    }

    /// Points into `self`.
    pub(crate) fn as_struct(&mut self) -> Result<sys::cf_model_options> {
        let mut raw = make::<sys::cf_model_options>()?;
        raw.weight_dtype = self.weight_dtype.map_or(raw.weight_dtype, DType::raw);
        (raw.progress, raw.progress_user) = progress_fields(&mut self.progress);
        raw.cancellation = Cancellation::raw(self.cancellation.as_ref());
        Ok(raw)
    }
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions").field("weight_dtype", &self.weight_dtype).finish_non_exhaustive()
    }
}
