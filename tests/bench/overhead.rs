//! overhead DIR N_STEPS REPEATS - nanoseconds of a token in the plainest loop in Rust, one line for each repeat: as overhead.c, in the crate
//! `clusterfusion`. With a fourth argument, "generate", through its iterator. See overhead.py.

use std::time::Instant;

use clusterfusion::{Context, Device, Error, LoadOptions, Model};

fn main() -> Result<(), Error> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize| given.get(place).and_then(|text| text.parse::<usize>().ok());
    let (Some(directory), Some(n_steps), Some(repeats)) = (given.first(), number(1), number(2))
    else {
        eprintln!("overhead DIR N_STEPS REPEATS [generate]");
        std::process::exit(2);
    };
    let iterate = given.get(3).is_some_and(|way| way == "generate");
    let context = Context::options()
        .device(Device::Cpu)
        .cpu_threads(1)
        .build()?;
    let mut session = Model::load_in(&context, directory, LoadOptions::new())?.session()?;
    session.prefill(&[1, 2, 3])?;
    for _ in 0..repeats {
        session.truncate(3)?;
        let start = Instant::now();
        if iterate {
            session
                .generate(n_steps + 1)
                .try_for_each(|token| token.map(drop))?; // the first is pending already
        } else {
            for _ in 0..n_steps {
                session.decode_step(None)?;
            }
        }
        println!("{:.1}", start.elapsed().as_nanos() as f64 / n_steps as f64);
    }
    Ok(())
}
