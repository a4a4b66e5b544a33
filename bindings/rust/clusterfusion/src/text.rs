//! Feature `tokenizers`: from text to tokens and back.

use std::path::Path;

use crate::error::{invalid, Error, Result};
use crate::{Model, Token};

const BYTE_VOCABULARY: usize = 256;

/// A checkpoint's tokenizer.json, through the crate `tokenizers`; or bytes, for a model of 256 tokens that has none.
#[derive(Clone, Debug)]
pub struct Tokenizer(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Bytes,
    File(Box<tokenizers::Tokenizer>),
}

impl Tokenizer {
    /// A model's, from the directory that it was loaded from. [`Error::InvalidArgument`]: there is none, and its tokens are not bytes.
    pub fn of(model: &Model) -> Result<Self> {
        let vocab_size = model.config().vocab_size;
        match model.directory().map(|directory| directory.join("tokenizer.json")) {
            Some(path) if path.is_file() => Self::from_file(&path),
            _ if vocab_size == BYTE_VOCABULARY => Ok(Self::bytes()),
            Some(path) => Err(invalid!("{} is not there, and the model's {vocab_size} tokens are not bytes", path.display())),
            None => Err(invalid!("the model was not loaded from a directory, and its {vocab_size} tokens are not bytes")),
        }
    }

    /// A tokenizer.json.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let tokenizer = tokenizers::Tokenizer::from_file(path).map_err(|error| Error::InvalidFile(format!("{}: {error}", path.display())))?;
        Ok(Self(Kind::File(Box::new(tokenizer))))
    }

    /// A token is a byte of UTF-8.
    pub fn bytes() -> Self {
        Self(Kind::Bytes)
    }

    /// Tokens of a text, with the special ones that the model expects at the start.
    pub fn encode(&self, text: &str) -> Result<Vec<Token>> {
        match &self.0 {
            Kind::Bytes => Ok(text.bytes().map(Token::from).collect()),
            Kind::File(tokenizer) => {
                let encoding = tokenizer.encode(text, true).map_err(|error| invalid!("the text cannot be encoded: {error}"))?;
                encoding.get_ids().iter().map(|id| Token::try_from(*id).map_err(|_| invalid!("the tokenizer gave token {id}"))).collect()
            }
        }
    }

    /// Text of tokens, without special ones.
    pub fn decode(&self, tokens: &[Token]) -> Result<String> {
        match &self.0 {
            Kind::Bytes => {
                let bytes: Result<Vec<u8>> =
                    tokens.iter().map(|token| u8::try_from(*token).map_err(|_| invalid!("token {token} is no byte"))).collect();
                Ok(String::from_utf8_lossy(&bytes?).into_owned())
            }
            Kind::File(tokenizer) => {
                let ids: Result<Vec<u32>> =
                    tokens.iter().map(|token| u32::try_from(*token).map_err(|_| invalid!("token {token} is negative"))).collect();
                tokenizer.decode(&ids?, true).map_err(|error| invalid!("tokens {tokens:?} cannot be decoded: {error}"))
            }
        }
    }

    /// For the tokens of one text, one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, tokens: Vec::new(), n_given: 0 }
    }
}

/// Tokens one by one to whole characters: decodes all that is not given yet together with the token before it, because how a token reads
/// depends on its neighbours, and waits where the text ends inside a character.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<Token>,
    /// Of `tokens`, at most one.
    n_given: usize,
}

impl TextStream<'_> {
    /// The text that is complete with this token; often empty.
    pub fn push(&mut self, token: Token) -> Result<String> {
        self.tokens.push(token);
        let text = self.rest()?;
        // A character of UTF-8 has at most four bytes; a longer rest that ends so is no beginning of one.
        if text.ends_with(char::REPLACEMENT_CHARACTER) && self.tokens.len() - self.n_given < 4 {
            return Ok(String::new());
        }
        Ok(self.give(text))
    }

    /// What is left over.
    pub fn end(mut self) -> Result<String> {
        let text = self.rest()?;
        Ok(self.give(text))
    }

    fn rest(&self) -> Result<String> {
        let before = self.tokenizer.decode(&self.tokens[..self.n_given])?;
        let whole = self.tokenizer.decode(&self.tokens)?;
        Ok(whole.get(before.len()..).unwrap_or_default().to_owned())
    }

    fn give(&mut self, text: String) -> String {
        // With bytes the last token may be the end of a character, which alone reads as none.
        let n_kept = usize::from(matches!(self.tokenizer.0, Kind::File(_))).min(self.tokens.len());
        self.tokens.drain(..self.tokens.len() - n_kept);
        self.n_given = n_kept;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_come_whole() {
        let tokenizer = Tokenizer::bytes();
        let mut stream = tokenizer.stream();
        let pieces: Vec<String> = tokenizer.encode("aé€b").unwrap().into_iter().map(|token| stream.push(token).unwrap()).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "€", "b"]);
        stream.push(0xc3).unwrap();
        assert_eq!(stream.end().unwrap(), "\u{fffd}");
        assert_eq!(tokenizer.decode(&[0xc3, 0xa9]).unwrap(), "é");
        assert_eq!(tokenizer.decode(&[256]).unwrap_err().sentence(), "token 256 is no byte");
    }
}
