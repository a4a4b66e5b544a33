//! Tokens one after another, as they are made.

use std::borrow::BorrowMut;
use std::collections::VecDeque;
use std::fmt;
use std::iter::FusedIterator;

use crate::error::{invalid, Result};
use crate::{Cancellation, Model, Sampler, Session, SessionOptions, Step, StepOptions, Token};

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// At a stop token, which is pending and was not given.
    Stop,
    /// As many were given as were asked for, or the session's capacity is used up.
    Length,
    /// A step failed.
    Error,
}

/// What can be chosen about [`Model::generate_with`].
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    max_tokens: usize,
    sampler: Sampler,
    stop: Option<Vec<Token>>,
    steps_per_call: usize,
    cancellation: Option<Cancellation>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: 128, sampler: Sampler::new(), stop: None, steps_per_call: 1, cancellation: None }
    }
}

impl GenerateOptions {
    /// The defaults: at most 128 tokens, greedy, until one of the model's eos_tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// The most that are made.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// How tokens are chosen; its stop tokens, if it has any, are what ends it.
    pub fn sampler(mut self, sampler: Sampler) -> Self {
        self.sampler = sampler;
        self
    }

    /// What ends it, in place of the sampler's stop tokens or the model's eos_tokens.
    pub fn stop_tokens(mut self, tokens: impl IntoIterator<Item = Token>) -> Self {
        self.stop = Some(tokens.into_iter().collect());
        self
    }

    /// Tokens that are made in one call of the library: more is a little faster on CUDA, and they come in bursts.
    pub fn steps_per_call(mut self, steps: usize) -> Self {
        self.steps_per_call = steps.max(1);
        self
    }

    /// Ends reading the prompt, and then generation, with [`Error::Cancelled`](crate::Error::Cancelled) when it is raised.
    pub fn cancellation(mut self, cancellation: &Cancellation) -> Self {
        self.cancellation = Some(cancellation.clone());
        self
    }
}

/// An iterator over tokens: of a session of its own ([`Model::generate`]) or of one that is borrowed ([`Session::generate`]). It ends
/// after an error.
pub struct Tokens<S: BorrowMut<Session>> {
    session: S,
    prompt: Option<Vec<Token>>,
    n_left: usize,
    steps_per_call: usize,
    cancellation: Option<Cancellation>,
    begun: bool,
    made: VecDeque<Token>,
    stopped: bool,
    position: usize,
    capacity: usize,
    finish_reason: Option<FinishReason>,
}

impl<S: BorrowMut<Session>> Tokens<S> {
    pub(crate) fn of_session(session: S, max_tokens: usize) -> Self {
        Self {
            session,
            prompt: None,
            n_left: max_tokens,
            steps_per_call: 1,
            cancellation: None,
            begun: false,
            made: VecDeque::new(),
            stopped: false,
            position: 0,
            capacity: 0,
            finish_reason: None,
        }
    }

    /// Why it ended; `None` until it has.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason
    }

    /// The session that it steps.
    pub fn session(&self) -> &Session {
        self.session.borrow()
    }

    /// Gives the session back.
    pub fn into_session(self) -> S {
        self.session
    }

    /// The next token, or why there is none.
    fn advance(&mut self) -> Result<Token, End> {
        if self.n_left == 0 {
            return Err(End::Because(FinishReason::Length));
        }
        if self.made.is_empty() && !self.stopped {
            self.make()?;
        }
        let reason = if self.stopped { FinishReason::Stop } else { FinishReason::Length };
        let token = self.made.pop_front().ok_or(End::Because(reason))?;
        self.n_left -= 1;
        Ok(token)
    }

    /// Puts at least one token into `made`, unless it stops or the capacity is used up.
    fn make(&mut self) -> Result<()> {
        if !self.begun {
            let step = self.begin()?;
            self.begun = true;
            self.take(&step, step.token);
            return Ok(());
        }
        let n = self.steps_per_call.min(self.n_left).min(self.capacity - self.position);
        if n == 0 {
            return Ok(());
        }
        let options = self.cancellation.as_ref().map(|cancellation| StepOptions::new().cancellation(cancellation));
        let session = self.session.borrow_mut();
        if n == 1 {
            let step = match options {
                Some(options) => session.decode_step_with(None, options)?.step,
                None => session.decode_step(None)?,
            };
            self.take(&step, step.token);
        } else {
            let step = match options {
                Some(options) => session.decode_steps_with(n, options)?.step,
                None => session.decode_steps(n)?,
            };
            let made = session.tokens(self.position + 1)?;
            self.take(&step, made);
        }
        Ok(())
    }

    /// The step whose token is the first.
    fn begin(&mut self) -> Result<Step> {
        let session = self.session.borrow_mut();
        let step = match (&self.prompt, &self.cancellation) {
            (None, _) => session.wait()?,
            (Some(prompt), None) => session.prefill(prompt)?,
            (Some(prompt), Some(cancellation)) => session.prefill_with(prompt, StepOptions::new().cancellation(cancellation))?.step,
        };
        if step.token.is_none() {
            return Err(invalid!("no token is pending: nothing has been sampled yet; prefill a prompt first"));
        }
        self.capacity = session.info()?.capacity_tokens;
        Ok(step)
    }

    fn take(&mut self, step: &Step, tokens: impl IntoIterator<Item = Token>) {
        self.position = step.position;
        self.stopped = step.stopped;
        self.made.extend(tokens); // all before were given
        if self.stopped {
            self.made.pop_back();
        }
    }
}

impl Tokens<Session> {
    pub(crate) fn of_prompt(model: &Model, prompt: Vec<Token>, options: &GenerateOptions) -> Result<Self> {
        if prompt.is_empty() || options.max_tokens == 0 {
            return Err(invalid!("{} tokens of prompt and max_tokens {}, expected at least 1 of each", prompt.len(), options.max_tokens));
        }
        let capacity = prompt.len().checked_add(options.max_tokens - 1).ok_or_else(|| invalid!("max_tokens is {}", options.max_tokens))?;
        let mut session = model.session_with(&SessionOptions::new().capacity_tokens(capacity))?; // the last token is not fed
        let of_sampler = Some(options.sampler.get_stop_tokens()).filter(|tokens| !tokens.is_empty());
        let stop = options.stop.as_deref().or(of_sampler).unwrap_or(&model.config().eos_tokens).to_vec();
        session.set_sampler(&options.sampler.clone().stop_tokens(stop))?;
        let mut tokens = Self::of_session(session, options.max_tokens);
        tokens.prompt = Some(prompt);
        tokens.steps_per_call = options.steps_per_call;
        tokens.cancellation = options.cancellation.clone();
        Ok(tokens)
    }

    /// The same tokens as a [`Stream`](futures_core::Stream), made on a thread of its own.
    #[cfg(feature = "stream")]
    pub fn into_stream(self) -> Result<crate::TokenStream> {
        crate::TokenStream::new(self)
    }

    /// The flag that ends it, and whether it is a new one.
    #[cfg(feature = "stream")]
    pub(crate) fn cancellable(&mut self) -> Result<(Cancellation, bool)> {
        match &self.cancellation {
            Some(cancellation) => Ok((cancellation.clone(), false)),
            None => Ok((self.cancellation.insert(Cancellation::new()?).clone(), true)),
        }
    }
}

enum End {
    Because(FinishReason),
    Failed(crate::Error),
}

impl From<crate::Error> for End {
    fn from(error: crate::Error) -> Self {
        Self::Failed(error)
    }
}

impl<S: BorrowMut<Session>> Iterator for Tokens<S> {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish_reason.is_some() {
            return None;
        }
        match self.advance() {
            Ok(token) => Some(Ok(token)),
            Err(End::Because(reason)) => {
                self.finish_reason = Some(reason);
                None
            }
            Err(End::Failed(error)) => {
                self.finish_reason = Some(FinishReason::Error);
                Some(Err(error))
            }
        }
    }
}

impl<S: BorrowMut<Session>> FusedIterator for Tokens<S> {}

impl<S: BorrowMut<Session>> fmt::Debug for Tokens<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("n_left", &self.n_left).field("finish_reason", &self.finish_reason).finish_non_exhaustive()
    }
}
