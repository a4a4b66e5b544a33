//! Which tokens may be sampled.

use crate::error::{invalid, Result};
use crate::Token;

/// A bit for each token of a vocabulary, for [`Session::set_allowed_tokens`](crate::Session::set_allowed_tokens).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenMask {
    vocab_size: usize,
    /// Bit t % 32 of word t / 32 allows token t; no bit beyond the vocabulary is set.
    words: Vec<u32>,
}

impl TokenMask {
    /// Of no token.
    pub fn none(vocab_size: usize) -> Self {
        Self { vocab_size, words: vec![0; vocab_size.div_ceil(32)] }
    }

    /// Of these tokens.
    pub fn of(vocab_size: usize, tokens: impl IntoIterator<Item = Token>) -> Result<Self> {
        let mut mask = Self::none(vocab_size);
        for token in tokens {
            mask.set(token, true)?;
        }
        Ok(mask)
    }

    /// Of the tokens for which `allowed` is true.
    pub fn from_fn(vocab_size: usize, mut allowed: impl FnMut(usize) -> bool) -> Self {
        let mut mask = Self::none(vocab_size);
        for token in (0..vocab_size).filter(|token| allowed(*token)) {
            mask.words[token / 32] |= 1 << (token % 32);
        }
        mask
    }

    /// Allows a token, or does not. [`Error::InvalidArgument`](crate::Error::InvalidArgument): it is outside the vocabulary.
    pub fn set(&mut self, token: Token, allowed: bool) -> Result<()> {
        let place = usize::try_from(token).ok().filter(|place| *place < self.vocab_size);
        let place = place.ok_or_else(|| invalid!("token {token} is outside the vocabulary of {}", self.vocab_size))?;
        let bit = 1 << (place % 32);
        if allowed {
            self.words[place / 32] |= bit;
        } else {
            self.words[place / 32] &= !bit;
        }
        Ok(())
    }

    /// Whether a token is allowed.
    pub fn allows(&self, token: Token) -> bool {
        usize::try_from(token).is_ok_and(|place| place < self.vocab_size && self.words[place / 32] >> (place % 32) & 1 == 1)
    }

    /// Tokens that it has a bit for.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_the_header_says() {
        let mut mask = TokenMask::of(40, [0, 31, 32, 39]).unwrap();
        assert_eq!(mask.words(), [0x8000_0001, 0x0000_0081]);
        assert_eq!(mask, TokenMask::from_fn(40, |token| [0, 31, 32, 39].contains(&token)));
        mask.set(32, false).unwrap();
        assert!(mask.allows(39) && !mask.allows(32) && !mask.allows(40) && !mask.allows(-1));
        for token in [40, -1, i32::MAX] {
            assert_eq!(mask.set(token, true).unwrap_err().sentence(), format!("token {token} is outside the vocabulary of 40"));
        }
    }
}
