//! How a token is chosen from logits.

use crate::error::{invalid, Result};
use crate::native::{self, make};
use crate::{sys, Token, TokenMask};

/// Applied in this order, with the meaning that transformers gives them: repetition penalty over all tokens of the session, logit
/// biases, the session's allowed tokens, temperature, top-k, top-p, min-p. The same logits and seed give the same token on any device
/// and in any grouping of steps; ties go to the lowest token. What is impossible is refused when the sampler is used.
///
/// ```
/// let sampler = clusterfusion::Sampler::new().temperature(0.8).top_p(0.95).seed(7).stop_tokens([0]);
/// let token = sampler.sample(&[0.0, 9.0, 1.0], &[], 0, None)?;
/// assert_eq!(token, 1);
/// # Ok::<(), clusterfusion::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampler {
    temperature: Option<f32>,
    top_k: usize,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: u64,
    bias_tokens: Vec<Token>,
    bias_values: Vec<f32>,
    stop_tokens: Vec<Token>,
}

impl Sampler {
    /// Greedy.
    pub fn new() -> Self {
        Self::default()
    }

    /// 0 (default): greedy, top-k, top-p and min-p have no effect; else up to 100.
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.temperature = Some(temperature);
        self
    }

    /// Keeps the k most likely; 0: off.
    pub fn top_k(mut self, k: usize) -> Self {
        self.top_k = k;
        self
    }

    /// In (0, 1): keeps the fewest tokens whose probability reaches it; 1: off.
    pub fn top_p(mut self, p: f32) -> Self {
        self.top_p = Some(p);
        self
    }

    /// In (0, 1]: keeps tokens at least this fraction of the likeliest; 0: off.
    pub fn min_p(mut self, p: f32) -> Self {
        self.min_p = Some(p);
        self
    }

    /// Above 0: divides positive and multiplies negative logits of tokens seen; 1: off.
    pub fn repetition_penalty(mut self, penalty: f32) -> Self {
        self.repetition_penalty = Some(penalty);
        self
    }

    /// Noise is keyed by it and by position and token.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adds to a token's logit; negative infinity bans it.
    pub fn logit_bias(mut self, token: Token, bias: f32) -> Self {
        self.bias_tokens.push(token);
        self.bias_values.push(bias);
        self
    }

    /// Sampling one of them ends several steps, and generation. Replaces those given before.
    pub fn stop_tokens(mut self, tokens: impl IntoIterator<Item = Token>) -> Self {
        self.stop_tokens = tokens.into_iter().collect();
        self
    }

    /// Those that were given.
    pub fn get_stop_tokens(&self) -> &[Token] {
        &self.stop_tokens
    }

    /// The token for `position` after `history`, from logits of your own. allowed: `None`: all.
    /// [`Error::NonfiniteLogits`](crate::Error::NonfiniteLogits); [`Error::NoTokenAllowed`](crate::Error::NoTokenAllowed) if biases ban
    /// all that are allowed.
    pub fn sample(&self, logits: &[f32], history: &[Token], position: usize, allowed: Option<&TokenMask>) -> Result<Token> {
        if let Some(mask) = allowed.filter(|mask| mask.vocab_size() != logits.len()) {
            return Err(invalid!("allowed is for {} tokens, expected one for each of {} logits", mask.vocab_size(), logits.len()));
        }
        let raw = self.to_struct()?;
        let words = allowed.map_or(std::ptr::null(), |mask| mask.words().as_ptr());
        let position = native::number("position", position)?;
        let mut token = 0;
        // SAFETY: every array has as many elements as are said, a mask ceil(logits / 32); the token can be written to.
        native::call(|| unsafe {
            sys::cf_sample_logits(&raw, words, logits.as_ptr(), logits.len(), native::address(history), history.len(), position, &mut token)
        })?;
        Ok(token)
    }

    /// Points into `self`.
    pub(crate) fn to_struct(&self) -> Result<sys::cf_sampler_options> {
        let mut raw = make::<sys::cf_sampler_options>()?;
        raw.temperature = self.temperature.unwrap_or(raw.temperature);
        raw.top_k = native::number("top_k", self.top_k)?;
        raw.top_p = self.top_p.unwrap_or(raw.top_p);
        raw.min_p = self.min_p.unwrap_or(raw.min_p);
        raw.repetition_penalty = self.repetition_penalty.unwrap_or(raw.repetition_penalty);
        raw.seed = self.seed;
        raw.n_logit_biases = self.bias_tokens.len();
        raw.logit_bias_tokens = native::address(&self.bias_tokens);
        raw.logit_bias_values = native::address(&self.bias_values);
        raw.n_stop_tokens = self.stop_tokens.len();
        raw.stop_tokens = native::address(&self.stop_tokens);
        Ok(raw)
    }
}
