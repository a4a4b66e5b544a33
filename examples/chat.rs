//! A conversation: each line of the standard input goes on from what was said before, and the answer is written as it is made.
//!
//!     cargo run --release --example chat --features tokenizers -- [DIR] [--temperature T] [--seed S] [--tokens N] [--device cpu]
//!
//! A line "/reset" begins anew. When the session is full, the oldest is forgotten, and the rest read again.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clusterfusion::{
    Context, Device, Error, LoadOptions, Model, Sampler, Session, Token, Tokenizer,
};

struct Arguments {
    directory: PathBuf,
    temperature: f32,
    seed: u64,
    tokens: usize,
    device: Option<Device>,
}

fn arguments() -> Result<Arguments, Box<dyn std::error::Error>> {
    let mut found = Arguments {
        directory: "examples/demo_model".into(),
        temperature: 0.0,
        seed: 0,
        tokens: 256,
        device: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--temperature" => found.temperature = value()?.parse()?,
            "--seed" => found.seed = value()?.parse()?,
            "--tokens" => found.tokens = value()?.parse()?,
            "--device" => found.device = Some(value()?.parse()?),
            option if option.starts_with('-') => {
                return Err(format!("there is no option {option}").into())
            }
            directory => found.directory = directory.into(),
        }
    }
    Ok(found)
}

/// Feeds what was said to the session, which keeps what came before.
fn listen(session: &mut Session, said: &[Token], room: usize) -> Result<(), Error> {
    let step = session.wait()?;
    let mut prompt: Vec<Token> = step.token.into_iter().collect(); // the end of the last answer was sampled, and not fed
    prompt.extend(said);
    let capacity = session.info()?.capacity_tokens;
    if step.position + prompt.len() + room > capacity {
        let mut all = session.tokens(0)?;
        all.extend(said);
        prompt = all.split_off(
            all.len()
                .saturating_sub(capacity.saturating_sub(room) / 2)
                .min(all.len() - 1),
        );
        session.truncate(0)?;
    }
    session.prefill(&prompt).map(drop)
}

/// Writes the answer, which ends at a stop token.
fn answer(
    session: &mut Session,
    tokenizer: &Tokenizer,
    room: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut text = tokenizer.stream();
    let mut out = std::io::stdout();
    for token in session.generate(room) {
        write!(out, "{}", text.push(token?)?)?;
        out.flush()?;
    }
    writeln!(out, "{}", text.end()?)?;
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let given = arguments()?;
    let context = Context::new(given.device.map_or_else(Device::best, Ok)?)?;
    let model = Model::load_in(&context, &given.directory, LoadOptions::new())?;
    let tokenizer = Tokenizer::of(&model)?;
    let mut session = model.session()?;
    let stops = model.config().eos_tokens.iter().copied();
    session.set_sampler(
        &Sampler::new()
            .temperature(given.temperature)
            .seed(given.seed)
            .stop_tokens(stops),
    )?;
    let room = given.tokens.min(session.info()?.capacity_tokens / 2);

    let input = std::io::stdin();
    let prompt = if input.is_terminal() { "> " } else { "" };
    print!("{prompt}");
    std::io::stdout().flush()?;
    for line in input.lock().lines() {
        let line = line?;
        if line == "/reset" {
            session.truncate(0)?;
        } else if !line.is_empty() {
            listen(&mut session, &tokenizer.encode(&line)?, room)?;
            answer(&mut session, &tokenizer, room)?;
        }
        print!("{prompt}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
