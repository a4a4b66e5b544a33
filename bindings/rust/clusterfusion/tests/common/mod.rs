//! What the suites share: the demo checkpoint, whose tokens are bytes.
#![allow(dead_code, unreachable_pub)] // no suite uses all of it

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clusterfusion::{Context, Device, LoadOptions, Model, Session, SessionOptions, Token};

pub const PROMPT: &str = "412+93=";

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

pub fn demo() -> PathBuf {
    repository().join("examples/demo_model")
}

pub fn cpu() -> Context {
    Context::options().device(Device::Cpu).cpu_threads(1).build().unwrap()
}

/// One for all tests of a suite, which run on several threads.
pub fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::load_in(&cpu(), demo(), LoadOptions::new()).unwrap())
}

pub fn session() -> Session {
    model().session_with(&SessionOptions::new().capacity_tokens(128)).unwrap()
}

pub fn tokens(text: &str) -> Vec<Token> {
    text.bytes().map(Token::from).collect()
}

pub fn text(tokens: &[Token]) -> String {
    tokens.iter().map(|token| char::from(u8::try_from(*token).unwrap())).collect()
}

/// The answer to the prompt, and a line's end.
pub fn answer(session: &mut Session) -> String {
    session.prefill(&tokens(PROMPT)).unwrap();
    text(&session.generate(4).map(Result::unwrap).collect::<Vec<_>>())
}
