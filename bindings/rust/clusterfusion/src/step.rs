//! What a step gives, and what it can be asked for.

use std::fmt;
use std::ops::ControlFlow;

use crate::callbacks::Progress;
use crate::{sys, Cancellation, Tap, Token};

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Step {
    /// The pending token: the one sampled after the last position.
    pub token: Option<Token>,
    /// Whether it is a stop token.
    pub stopped: bool,
    /// Positions cached now.
    pub position: usize,
    /// Steps, or positions of a prompt, that were finished.
    pub n_steps: usize,
}

impl Step {
    pub(crate) fn of(result: &sys::cf_result) -> Self {
        Self {
            token: (result.token >= 0).then_some(result.token),
            stopped: result.stopped != 0,
            position: usize::try_from(result.position).unwrap_or(0),
            n_steps: usize::try_from(result.n_steps).unwrap_or(0),
        }
    }
}

/// What a step can be asked for besides the token that it samples. Rows are those of the step: of a prefill the last position, or all
/// with [`all_rows`](Self::all_rows); of [`Session::decode_positions`](crate::Session::decode_positions) each position; of
/// [`decode_batch_with`](crate::decode_batch_with) each session; else one.
#[derive(Default)]
pub struct StepOptions<'a> {
    pub(crate) no_sample: bool,
    pub(crate) all_rows: bool,
    pub(crate) logits: Logits<'a>,
    pub(crate) top_n: usize,
    pub(crate) targets: Option<Vec<Token>>,
    pub(crate) taps: Vec<Tap<'a>>,
    pub(crate) progress: Option<Progress<'a>>,
    pub(crate) cancellation: Option<Cancellation>,
}

/// Where logits go.
#[derive(Default)]
pub(crate) enum Logits<'a> {
    #[default]
    Nowhere,
    New,
    Into(&'a mut [f32]),
    Device(*mut f32),
}

impl<'a> StepOptions<'a> {
    /// Nothing more.
    pub fn new() -> Self {
        Self::default()
    }

    /// No token is sampled, and none is pending afterwards: for the first calls of a prompt given in pieces.
    pub fn without_sampling(mut self) -> Self {
        self.no_sample = true;
        self
    }

    /// Prefill: outputs for all positions, not the last alone.
    pub fn all_rows(mut self) -> Self {
        self.all_rows = true;
        self
    }

    /// Logits of every row, in [`Output::logits`].
    pub fn logits(mut self) -> Self {
        self.logits = Logits::New;
        self
    }

    /// Logits of every row, `[rows, vocab_size]`, into memory that is there already.
    pub fn logits_into(mut self, logits: &'a mut [f32]) -> Self {
        self.logits = Logits::Into(logits);
        self
    }

    /// Logits of every row into memory of the context's device. Not together with `top` and `targets`.
    ///
    /// # Safety
    ///
    /// Until the call has returned, `logits` is memory of the context's device for `[rows, vocab_size]` numbers that nothing else uses.
    pub unsafe fn logits_on_device(mut self, logits: *mut f32) -> Self {
        self.logits = Logits::Device(logits);
        self
    }

    /// The n likeliest tokens of every row with their natural log-probabilities, of the raw logits: at most 1024.
    pub fn top(mut self, n: usize) -> Self {
        self.top_n = n;
        self
    }

    /// A token to score for each row; -1: none.
    pub fn targets(mut self, targets: impl Into<Vec<Token>>) -> Self {
        self.targets = Some(targets.into());
        self
    }

    /// A look into a block, or a hand in it. Taps at one place act in the order given.
    pub fn tap(mut self, tap: Tap<'a>) -> Self {
        self.taps.push(tap);
        self
    }

    /// Prefill and several steps: is told how many positions or steps of how many are done; `Break` ends the call with
    /// [`Error::Cancelled`](crate::Error::Cancelled). It runs on the calling thread and must not call this crate, except
    /// [`Cancellation::request`]. A panic in it goes on after the call.
    pub fn progress(mut self, progress: impl FnMut(u64, u64) -> ControlFlow<()> + 'a) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Ends the call with [`Error::Cancelled`](crate::Error::Cancelled) when it is raised.
    pub fn cancellation(mut self, cancellation: &Cancellation) -> Self {
        self.cancellation = Some(cancellation.clone());
        self
    }
}

impl fmt::Debug for StepOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepOptions").field("top_n", &self.top_n).field("targets", &self.targets).field("taps", &self.taps).finish_non_exhaustive()
    }
}

/// A step, and what it was asked for. Log-probabilities are natural, of the raw logits.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// What the step came to.
    pub step: Step,
    /// `[rows, vocab_size]`; empty if not asked for, or if they were written elsewhere.
    pub all_logits: Vec<f32>,
    /// `[rows]`, 0 where the target is -1; empty if not asked for.
    pub target_logprobs: Vec<f32>,
    pub(crate) top_n: usize,
    pub(crate) vocab_size: usize,
    pub(crate) top_tokens: Vec<Token>,
    pub(crate) top_logprobs: Vec<f32>,
    pub(crate) row_tokens: Vec<Token>,
}

impl Output {
    /// Logits `[vocab_size]` of a row; empty if not asked for.
    pub fn logits(&self, row: usize) -> &[f32] {
        if self.all_logits.is_empty() {
            return &[];
        }
        &self.all_logits[row * self.vocab_size..(row + 1) * self.vocab_size]
    }

    /// The likeliest tokens of a row with their log-probabilities, the likeliest first; none if not asked for.
    pub fn top(&self, row: usize) -> impl Iterator<Item = (Token, f32)> + '_ {
        let range = row * self.top_n..(row + 1) * self.top_n;
        self.top_tokens[range.clone()].iter().copied().zip(self.top_logprobs[range].iter().copied())
    }

    /// The token sampled after a row of several positions or sessions.
    pub fn row_token(&self, row: usize) -> Option<Token> {
        self.row_tokens.get(row).copied().filter(|token| *token >= 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found() {
        let output = Output {
            step: Step { token: None, stopped: false, position: 0, n_steps: 0 },
            all_logits: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            target_logprobs: Vec::new(),
            top_n: 1,
            vocab_size: 3,
            top_tokens: vec![2, 1],
            top_logprobs: vec![-0.5, -0.25],
            row_tokens: vec![2, -1],
        };
        assert_eq!(output.logits(1), [3.0, 4.0, 5.0]);
        assert_eq!(output.top(1).collect::<Vec<_>>(), [(1, -0.25)]);
        assert_eq!((output.row_token(0), output.row_token(1), output.row_token(2)), (Some(2), None, None));
    }
}
