//! A decode loop of one's own: several branches from one prompt, tokens drawn here, and a draw that was unlikely taken back.
//!
//!     cargo run --release --example decode_loop -- [DIR] [PROMPT]
//!
//! Every branch is a fork of the session that read the prompt, so its keys and values are there once. A branch that drew two unlikely
//! tokens in a row goes back by both and draws again, without the token that led there. Tokens are bytes, as in the demo model.

use clusterfusion::{Error, KvPoolOptions, Model, Session, SessionOptions, StepOptions, Token};

const BRANCHES: usize = 4;
const MAX_TOKENS: usize = 40;
const TEMPERATURE: f64 = 2.5;
const UNLIKELY: f64 = 0.02;

/// SplitMix64 (Steele et al., OOPSLA 2014): numbers in (0, 1).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) as f64 + 1.0) / (u64::MAX as f64 + 2.0)
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|logit| f64::from(logit - highest).exp())
        .sum();
    logits
        .iter()
        .map(|logit| f64::from(logit - highest) - sum.ln())
        .collect()
}

/// By the Gumbel-max rule.
fn draw(logprobs: &[f64], banned: &[usize], random: &mut Random) -> usize {
    let mut best = (f64::NEG_INFINITY, 0);
    for (token, logprob) in logprobs
        .iter()
        .enumerate()
        .filter(|(token, _)| !banned.contains(token))
    {
        let score = logprob / TEMPERATURE - (-random.next().ln()).ln();
        if score > best.0 {
            best = (score, token);
        }
    }
    best.1
}

struct Branch {
    tokens: Vec<usize>,
    likelihood: f64,
    n_back: usize,
}

/// first: log-probabilities after the prompt.
fn branch(session: &mut Session, first: &[f64], random: &mut Random) -> Result<Branch, Error> {
    let start = session.position()?;
    let stops = session.model().config().eos_tokens.clone();
    let mut logprobs = vec![first.to_vec()]; // after each token drawn so far
    let mut drawn: Vec<usize> = Vec::new();
    let mut banned: Vec<Vec<usize>> = vec![Vec::new(); MAX_TOKENS]; // by place: what was taken back there
    let mut n_back = 0;
    while drawn.len() < MAX_TOKENS {
        let place = drawn.len();
        let token = draw(&logprobs[place], &banned[place], random);
        drawn.push(token);
        if stops.contains(&(token as Token)) {
            break;
        }
        let unlikely = |place: usize| logprobs[place][drawn[place]] < UNLIKELY.ln();
        if place > 0 && unlikely(place - 1) && unlikely(place) {
            banned[place - 1].push(drawn[place - 1]);
            banned[place].clear();
            drawn.truncate(place - 1);
            logprobs.truncate(place);
            session.truncate(start + place - 1)?;
            n_back += 1;
            continue;
        }
        let step = session.decode_step_with(token as Token, StepOptions::new().logits())?;
        logprobs.push(log_softmax(step.logits(0)));
    }
    let likelihood = drawn
        .iter()
        .zip(&logprobs)
        .map(|(token, logprobs)| logprobs[*token])
        .sum();
    Ok(Branch {
        tokens: drawn,
        likelihood,
        n_back,
    })
}

fn text(tokens: &[usize]) -> String {
    String::from_utf8_lossy(&tokens.iter().map(|token| *token as u8).collect::<Vec<_>>())
        .into_owned()
}

fn main() -> Result<(), Error> {
    let mut given = std::env::args().skip(1);
    let directory = given.next().unwrap_or_else(|| "examples/demo_model".into());
    let question = given
        .next()
        .unwrap_or_else(|| "tom has 3 red balls. anna has 5 blue cups. who has cups?".into());

    let model = Model::load(directory)?;
    let prompt: Vec<Token> = question.bytes().map(Token::from).collect();
    let capacity = prompt.len() + MAX_TOKENS;
    let pool = model.kv_pool(
        capacity * (BRANCHES + 1),
        &KvPoolOptions::new().page_tokens(16),
    )?;
    let mut root = model.session_with(
        &SessionOptions::new()
            .pool(&pool)
            .capacity_tokens(capacity)
            .reserve(false),
    )?;
    let first = log_softmax(
        root.prefill_with(&prompt, StepOptions::new().logits())?
            .logits(0),
    );

    println!("{question}");
    let mut best: Option<Branch> = None;
    let mut n_shared = 0;
    for number in 0..BRANCHES {
        let mut session = root.fork(None)?;
        let made = branch(&mut session, &first, &mut Random(number as u64))?;
        n_shared = pool.info()?.n_pages_shared;
        println!(
            "{:9.3}  went back {} times  {:?}",
            made.likelihood,
            made.n_back,
            text(&made.tokens)
        );
        if best
            .as_ref()
            .is_none_or(|best| made.likelihood > best.likelihood)
        {
            best = Some(made);
        }
    }
    let best = best.map(|best| text(&best.tokens)).unwrap_or_default();
    println!(
        "{n_shared} pages of the prompt are shared; the likeliest: {}",
        best.trim()
    );
    Ok(())
}
