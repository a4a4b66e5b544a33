//! One sequence: its position, its keys and values, its sampler, its stream.

use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::native::{self, make, queried, Handle};
use crate::request::Request;
use crate::{sys, Graph, Model, Output, Sampler, SessionInfo, SessionOptions, Step, StepOptions, Token, TokenMask, Tokens};

const TOKENS_AT_ONCE: usize = 4096;

/// One sequence of tokens. Made by [`Model::session`]; may be sent to another thread, but is in one call at a time.
///
/// Every step samples a token, which is then pending: the next step feeds it, or another one. A step that fails advances nothing, and the
/// session goes on working.
///
/// ```
/// # fn main() -> Result<(), clusterfusion::Error> {
/// # let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../examples/demo_model");
/// # if !std::path::Path::new(directory).exists() { return Ok(()); } // outside the repository
/// # let model = clusterfusion::Model::load(directory)?;
/// let mut session = model.session()?;
/// let mut step = session.prefill(&[52, 49, 50, 43, 57, 51, 61])?; // "412+93="
/// let mut answer = String::new();
/// while let Some(token) = step.token.filter(|token| *token != 10) {
///     answer.push(char::from(token as u8));
///     step = session.decode_step(None)?; // feeds the token that the last step sampled
/// }
/// assert_eq!(answer, "505");
/// session.truncate(7)?; // goes back; session.fork(Some(7)) goes on from there beside it
/// # Ok(())
/// # }
/// ```
pub struct Session {
    inner: Arc<Inner>,
    result: sys::cf_result,
    /// Not Sync: also calls that change nothing must be the only one.
    _one_call_at_a_time: PhantomData<Cell<()>>,
}

/// Shared with token readers, which only make the one call that is allowed at any time.
pub(crate) struct Inner {
    handle: Handle<sys::cf_session>, // first: see `Context`, which outlives it
    model: Model,
}

impl Session {
    pub(crate) fn create(model: &Model, options: &SessionOptions) -> Result<Self> {
        // SAFETY: the model lives, the options are initialised, and the handle can be written to.
        Self::made(model, options, |options, out| unsafe { sys::cf_session_create(model.raw(), options, out) })
    }

    pub(crate) fn restore(model: &Model, saved: &[u8], options: &SessionOptions) -> Result<Self> {
        Self::made(model, options, |options, out| {
            // SAFETY: as in `create`; the buffer has as many bytes as are said.
            unsafe { sys::cf_session_restore(model.raw(), options, saved.as_ptr().cast(), saved.len(), out) }
        })
    }

    pub(crate) fn restore_file(model: &Model, path: &Path, options: &SessionOptions) -> Result<Self> {
        let path = native::path("path", path)?;
        // SAFETY: as in `create`; the path ends with NUL.
        Self::made(model, options, |options, out| unsafe { sys::cf_session_restore_file(model.raw(), options, path.as_ptr(), out) })
    }

    fn made(
        model: &Model,
        options: &SessionOptions,
        create: impl FnOnce(*const sys::cf_session_options, *mut *mut sys::cf_session) -> sys::cf_status,
    ) -> Result<Self> {
        let raw = options.to_struct()?;
        let handle = Handle::new(|out| create(&raw, out))?;
        Self::new(handle, model.clone())
    }

    fn new(handle: Handle<sys::cf_session>, model: Model) -> Result<Self> {
        let inner = Arc::new(Inner { handle, model });
        Ok(Self { inner, result: make()?, _one_call_at_a_time: PhantomData })
    }

    // ---- Steps

    /// Appends tokens of a prompt at the session's position and samples the token that follows: all or nothing. Keys and values do not
    /// depend on how a prompt was cut into calls. [`Error::InvalidArgument`](crate::Error::InvalidArgument): a token outside the
    /// vocabulary, none, or more than the capacity could ever hold.
    pub fn prefill(&mut self, tokens: &[Token]) -> Result<Step> {
        // SAFETY: the handle lives, and the tokens are as many as are said.
        self.run(|session| unsafe { sys::cf_prefill(session, native::address(tokens), tokens.len(), std::ptr::null()) })
    }

    /// [`prefill`](Self::prefill) with outputs, taps, progress or a cancellation.
    pub fn prefill_with(&mut self, tokens: &[Token], mut options: StepOptions<'_>) -> Result<Output> {
        let n_outputs = if options.all_rows { tokens.len() } else { 1 };
        let request = Request::new(&mut options, self.model(), tokens.len(), n_outputs, false)?;
        // SAFETY: as in `prefill`; what the request points to lives until the step's status has been fetched.
        let step = self.run(|session| unsafe { sys::cf_prefill(session, native::address(tokens), tokens.len(), request.raw()) })?;
        Ok(request.output(step))
    }

    /// Feeds one token, or with `None` the pending one, and samples the next.
    pub fn decode_step(&mut self, token: impl Into<Option<Token>>) -> Result<Step> {
        let token = token.into().unwrap_or(sys::CF_TOKEN_PENDING);
        // SAFETY: the handle lives.
        self.run(|session| unsafe { sys::cf_decode_step(session, token, std::ptr::null()) })
    }

    /// [`decode_step`](Self::decode_step) with outputs, taps or a cancellation.
    pub fn decode_step_with(&mut self, token: impl Into<Option<Token>>, mut options: StepOptions<'_>) -> Result<Output> {
        let token = token.into().unwrap_or(sys::CF_TOKEN_PENDING);
        let request = Request::new(&mut options, self.model(), 1, 1, false)?;
        // SAFETY: as in `prefill_with`.
        let step = self.run(|session| unsafe { sys::cf_decode_step(session, token, request.raw()) })?;
        Ok(request.output(step))
    }

    /// Steps that each feed what the one before sampled; ends early at a stop token. What they made is told by [`tokens`](Self::tokens).
    /// Finished steps are kept when one fails or the call is cancelled.
    pub fn decode_steps(&mut self, n_steps: usize) -> Result<Step> {
        let n_steps = native::number("n_steps", n_steps)?;
        // SAFETY: the handle lives.
        self.run(|session| unsafe { sys::cf_decode_steps(session, n_steps, std::ptr::null()) })
    }

    /// [`decode_steps`](Self::decode_steps) with outputs (of the last step), taps, progress or a cancellation.
    pub fn decode_steps_with(&mut self, n_steps: usize, mut options: StepOptions<'_>) -> Result<Output> {
        let n_steps = native::number("n_steps", n_steps)?;
        let request = Request::new(&mut options, self.model(), 1, 1, false)?;
        // SAFETY: as in `prefill_with`.
        let step = self.run(|session| unsafe { sys::cf_decode_steps(session, n_steps, request.raw()) })?;
        Ok(request.output(step))
    }

    /// One step over 1 ..= 64 consecutive positions, with the weights read once and the bits that single steps would give: verification
    /// of drafted tokens. All or nothing. The token sampled after each is in [`Output::row_token`], the one after the last is pending;
    /// [`truncate`](Self::truncate) to what was right.
    pub fn decode_positions(&mut self, tokens: &[Token], mut options: StepOptions<'_>) -> Result<Output> {
        let request = Request::new(&mut options, self.model(), tokens.len(), tokens.len(), true)?;
        // SAFETY: as in `prefill_with`.
        let step = self.run(|session| unsafe { sys::cf_decode_positions(session, native::address(tokens), tokens.len(), request.raw()) })?;
        Ok(request.output(step))
    }

    /// A step, and the wait for it: what the step points to is borrowed until then, also when a callback panics.
    fn run(&mut self, step: impl FnOnce(*mut sys::cf_session) -> sys::cf_status) -> Result<Step> {
        let (session, result) = (self.raw(), &mut self.result);
        native::call(|| match step(session) {
            // SAFETY: the handle lives, and the result can be written to.
            sys::CF_OK => unsafe { sys::cf_session_wait(session, result) },
            status => status,
        })?;
        Ok(Step::of(&self.result))
    }

    /// [`decode_step`](Self::decode_step) without waiting: on CUDA it only enqueues, or adds to the capture that the session's stream is
    /// in. What it came to is told by [`wait`](Self::wait) or [`poll`](Self::poll); until then a step that failed keeps later ones from
    /// doing anything.
    pub fn enqueue_step(&mut self, token: impl Into<Option<Token>>) -> Result<()> {
        let token = token.into().unwrap_or(sys::CF_TOKEN_PENDING);
        // SAFETY: the handle lives.
        native::call(|| unsafe { sys::cf_decode_step(self.raw(), token, std::ptr::null()) })
    }

    /// [`decode_steps`](Self::decode_steps) without waiting, likewise.
    pub fn enqueue_steps(&mut self, n_steps: usize) -> Result<()> {
        let n_steps = native::number("n_steps", n_steps)?;
        // SAFETY: the handle lives.
        native::call(|| unsafe { sys::cf_decode_steps(self.raw(), n_steps, std::ptr::null()) })
    }

    /// What the enqueued steps came to, when they are done, or the error of the first that failed; then the session works again.
    pub fn wait(&mut self) -> Result<Step> {
        self.run(|_| sys::CF_OK)
    }

    /// As [`wait`](Self::wait), without waiting: `None` while steps are running.
    pub fn poll(&mut self) -> Result<Option<Step>> {
        let (session, result) = (self.raw(), &mut self.result);
        // SAFETY: the handle lives, and the result can be written to.
        match native::status_of(|| unsafe { sys::cf_session_poll(session, result) })? {
            sys::CF_OK => Ok(Some(Step::of(&self.result))),
            sys::CF_NOT_READY => Ok(None),
            status => Err(native::last_error(status)),
        }
    }

    /// Yields the pending token, then feeds it and yields the next, and so on, until `max_tokens` were given, the capacity is used up, or
    /// at a stop token of the sampler, which is not given. The last token given is pending, not fed.
    pub fn generate(&mut self, max_tokens: usize) -> Tokens<&mut Self> {
        Tokens::of_session(self, max_tokens)
    }

    /// [`generate`](Self::generate) that takes the session with it, for another thread; [`Tokens::into_session`] gives it back.
    pub fn into_tokens(self, max_tokens: usize) -> Tokens<Self> {
        Tokens::of_session(self, max_tokens)
    }

    // ---- The sequence

    /// Tokens at positions `from`, `from` + 1, ...: those cached, then the pending one.
    pub fn tokens(&self, from: usize) -> Result<Vec<Token>> {
        self.inner.tokens(from)
    }

    /// Reads tokens from any thread while steps run, to show them as they are made.
    pub fn token_reader(&self) -> TokenReader {
        TokenReader(self.inner.clone())
    }

    /// Goes back to `position` cached positions, as if nothing after it had happened: the token that stood there becomes the pending one.
    /// Pages no longer needed return to the pool, unless reserved. [`Error::Busy`](crate::Error::Busy) while enqueued work is unfinished.
    pub fn truncate(&mut self, position: usize) -> Result<()> {
        let position = native::number("position", position)?;
        // SAFETY: the handle lives.
        native::call(|| unsafe { sys::cf_session_truncate(self.raw(), position) })
    }

    /// A new session with the first `position` positions of this one (`None`: all), as if it had never gone further, with this one's
    /// sampler, mask and capacity. The two share pages until one of them writes to a page that both hold, and takes a copy.
    /// [`Error::CacheFull`](crate::Error::CacheFull) if the pool cannot give what is to be reserved, or keep what is shared: a private
    /// pool has only room for a fork if this session was made with `reserve(false)`.
    pub fn fork(&mut self, position: Option<usize>) -> Result<Self> {
        self.forked(position, std::ptr::null())
    }

    /// [`fork`](Self::fork) with options of its own; it lives in this session's pool, whatever they say of one.
    pub fn fork_with(&mut self, position: Option<usize>, options: &SessionOptions) -> Result<Self> {
        let raw = options.to_struct_of_fork()?;
        self.forked(position, &raw)
    }

    fn forked(&mut self, position: Option<usize>, options: *const sys::cf_session_options) -> Result<Self> {
        let position = native::number("position", position.map_or_else(|| self.position(), Ok)?)?;
        // SAFETY: the handle lives, the options are null or initialised, the handle can be written to.
        let handle = Handle::new(|out| unsafe { sys::cf_session_fork(self.raw(), position, options, out) })?;
        Self::new(handle, self.model().clone())
    }

    /// Tokens, keys and values, sampler, mask and position, for [`Model::restore`], also on another device.
    /// [`Error::Mismatch`](crate::Error::Mismatch): the weights were changed after the session began.
    pub fn save(&mut self) -> Result<Vec<u8>> {
        let mut size = 0;
        // SAFETY: the handle lives; without a buffer only the size is asked for.
        native::call(|| unsafe { sys::cf_session_save(self.raw(), std::ptr::null_mut(), 0, &mut size) })?;
        let mut saved = vec![0u8; size];
        // SAFETY: the buffer has as many bytes as are said.
        native::call(|| unsafe { sys::cf_session_save(self.raw(), saved.as_mut_ptr().cast(), saved.len(), &mut size) })?;
        saved.truncate(size);
        Ok(saved)
    }

    /// The same bytes into a file: all of them, or an older file stays. [`Error::Io`](crate::Error::Io).
    pub fn save_file(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = native::path("path", path.as_ref())?;
        // SAFETY: the handle lives, and the path ends with NUL.
        native::call(|| unsafe { sys::cf_session_save_file(self.raw(), path.as_ptr()) })
    }

    /// Its model.
    pub fn model(&self) -> &Model {
        &self.inner.model
    }

    /// The session as it is now.
    pub fn info(&self) -> Result<SessionInfo> {
        SessionInfo::of(&self.raw_info()?)
    }

    /// Positions cached, as far as the host knows: after a step that was waited for exact.
    pub fn position(&self) -> Result<usize> {
        Ok(self.info()?.position)
    }

    /// CUDA: the cudaStream_t that its work is enqueued on, valid as long as the session is; CPU: null.
    pub fn stream(&self) -> Result<*mut c_void> {
        Ok(self.raw_info()?.stream)
    }

    fn raw_info(&self) -> Result<sys::cf_session_info> {
        // SAFETY: the handle lives, and the struct can be written to.
        queried(|info| unsafe { sys::cf_session_query(self.raw(), info) })
    }

    // ---- Sampling

    /// How the next steps choose a token. [`Error::InvalidArgument`](crate::Error::InvalidArgument) for what is impossible.
    pub fn set_sampler(&mut self, sampler: &Sampler) -> Result<()> {
        let raw = sampler.to_struct()?;
        // SAFETY: the handle lives, the options are initialised, and what they point to is the sampler's.
        native::call(|| unsafe { sys::cf_session_set_sampler(self.raw(), &raw) })
    }

    /// Constrained decoding from the next step on; `None` allows all again.
    pub fn set_allowed_tokens(&mut self, allowed: Option<&TokenMask>) -> Result<()> {
        let words = allowed.map_or(&[][..], TokenMask::words);
        // SAFETY: the handle lives, and the mask has as many words as are said.
        native::call(|| unsafe { sys::cf_session_set_allowed_tokens(self.raw(), native::address(words), words.len()) })
    }

    // ---- Graphs

    /// A captured CUDA graph of n_steps (1 ..= 1024) steps, whose replay needs nothing of the host.
    /// [`Error::Unsupported`](crate::Error::Unsupported) on the CPU; [`Error::InvalidArgument`](crate::Error::InvalidArgument) if the
    /// session has not reserved its capacity.
    pub fn capture(&mut self, n_steps: usize) -> Result<Graph> {
        Graph::capture(self, n_steps)
    }

    /// The handle, for what this crate does not wrap. It is the session's, and in one call at a time.
    pub fn raw(&self) -> *mut sys::cf_session {
        self.inner.handle.get()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn result_mut(&mut self) -> &mut sys::cf_result {
        &mut self.result
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("model", self.model()).finish_non_exhaustive()
    }
}

impl Inner {
    fn tokens(&self, from: usize) -> Result<Vec<Token>> {
        let mut made = Vec::new();
        loop {
            let mut buffer = [0; TOKENS_AT_ONCE];
            let mut count = 0;
            let position = native::number("from", from + made.len())?;
            // SAFETY: the handle lives, the call may be made at any time, and the buffer has room for as many as are said.
            native::call(|| unsafe { sys::cf_session_tokens(self.handle.get(), position, buffer.as_mut_ptr(), buffer.len(), &mut count) })?;
            made.extend_from_slice(&buffer[..count]);
            if count < buffer.len() {
                return Ok(made);
            }
        }
    }
}

/// Reads a session's tokens from any thread, also while steps run. Made by [`Session::token_reader`]; keeps the session's memory.
#[derive(Clone)]
pub struct TokenReader(Arc<Inner>);

impl TokenReader {
    /// Tokens at positions `from`, `from` + 1, ...: those cached, then the pending one.
    pub fn tokens(&self, from: usize) -> Result<Vec<Token>> {
        self.0.tokens(from)
    }
}

impl fmt::Debug for TokenReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReader").finish_non_exhaustive()
    }
}
