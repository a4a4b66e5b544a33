//! Feature `stream`: tokens as a stream, for asynchronous programs.

use std::fmt;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::{Builder, JoinHandle};

use futures_core::Stream;

use crate::channel::{channel, Taker};
use crate::error::{Error, Result};
use crate::{Cancellation, Session, Token, Tokens};

/// Tokens of a generation that runs on a thread of its own, a few tokens ahead. Made by [`Tokens::into_stream`]. Needs no particular
/// runtime. When it is dropped the thread ends after the token that it makes, and its session goes then; a prompt is not read to its end,
/// unless the flag that could end it was given by [`GenerateOptions::cancellation`](crate::GenerateOptions::cancellation) and is others' too.
pub struct TokenStream {
    taker: Taker<Result<Token>>,
    worker: Worker,
    cancellation: Cancellation,
    /// Whether nobody else was given it before.
    is_own: bool,
}

enum Worker {
    Running(JoinHandle<Tokens<Session>>),
    Finished(Box<Tokens<Session>>),
    Gone,
}

impl TokenStream {
    pub(crate) fn new(mut tokens: Tokens<Session>) -> Result<Self> {
        let (cancellation, is_own) = tokens.cancellable()?;
        let (maker, taker) = channel();
        let make = move || {
            let maker = maker; // dropped before the thread ends, also when it panics
            let _ = tokens.by_ref().all(|token| maker.give(token));
            tokens
        };
        let thread = Builder::new().name("clusterfusion".into()).spawn(make);
        let thread = thread.map_err(|error| Error::OutOfMemory(format!("no thread for a stream of tokens: {error}")))?;
        Ok(Self { taker, worker: Worker::Running(thread), cancellation, is_own })
    }

    /// Raised, it ends the stream with [`Error::Cancelled`].
    pub fn cancellation(&self) -> &Cancellation {
        &self.cancellation
    }

    /// Ends it after the token that is being made, for which it waits: gives back the iterator, and with it the session. Up to 16 tokens
    /// that were made and not taken are in the session, but are not given again.
    pub fn into_tokens(mut self) -> Tokens<Session> {
        self.taker.abandon();
        self.join();
        match std::mem::replace(&mut self.worker, Worker::Gone) {
            Worker::Finished(tokens) => *tokens,
            Worker::Running(_) | Worker::Gone => unreachable!("joined"),
        }
    }

    /// Waits for the thread. Its panic, which is that of a log closure, goes on here.
    fn join(&mut self) {
        self.worker = match std::mem::replace(&mut self.worker, Worker::Gone) {
            Worker::Running(thread) => Worker::Finished(Box::new(thread.join().unwrap_or_else(|panic| resume_unwind(panic)))),
            other => other,
        };
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if self.is_own && matches!(self.worker, Worker::Running(_)) {
            self.cancellation.request(); // or a long prompt would be read to its end
        }
    }
}

impl Stream for TokenStream {
    type Item = Result<Token>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.taker.poll(context);
        if matches!(item, Poll::Ready(None)) {
            self.join(); // it is at its end
        }
        item
    }
}

impl fmt::Debug for TokenStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenStream").finish_non_exhaustive()
    }
}
