//! Steps, outputs, taps, forks, saved sessions, pools, and threads.

mod common;

use std::ops::ControlFlow;
use std::panic::{catch_unwind, AssertUnwindSafe};

use clusterfusion::*;
use common::{answer, model, session, text, tokens, PROMPT};

#[test]
fn tokens_come_one_by_one_and_end_at_a_stop_token() {
    let mut session = session();
    assert_eq!(answer(&mut session), "505\n");
    assert_eq!(text(&session.tokens(0).unwrap()), "412+93=505\n");
    let mut generation = model().generate(tokens(PROMPT), 64).unwrap();
    assert_eq!(text(&generation.by_ref().map(Result::unwrap).collect::<Vec<_>>()), "505");
    assert_eq!((generation.next(), generation.finish_reason()), (None, Some(FinishReason::Stop)));
    let mut generation = model().generate(PROMPT.bytes(), 2).unwrap();
    assert_eq!(generation.by_ref().count(), 2);
    assert_eq!(generation.finish_reason(), Some(FinishReason::Length));
    let mut whole = model().session_with(&SessionOptions::new().capacity_tokens(9)).unwrap();
    whole.prefill(&tokens(PROMPT)).unwrap();
    let mut until_full = whole.generate(100);
    assert_eq!(text(&until_full.by_ref().map(Result::unwrap).collect::<Vec<_>>()), "505"); // the last one has no place, but is known
    assert_eq!(until_full.finish_reason(), Some(FinishReason::Length));
    let mut session = generation.into_session();
    assert_eq!((session.position().unwrap(), session.info().unwrap().capacity_tokens), (8, 8));
    assert!(matches!(session.decode_step(None).and_then(|_| session.decode_step(None)), Err(Error::CacheFull(_))));
}

#[test]
fn generation_needs_a_pending_token_and_ends_after_an_error() {
    let mut session = session();
    let mut generation = session.generate(5);
    assert!(matches!(generation.next(), Some(Err(Error::InvalidArgument(sentence))) if sentence.starts_with("no token is pending")));
    assert_eq!((generation.next(), generation.finish_reason()), (None, Some(FinishReason::Error)));
    assert!(matches!(model().generate([] as [Token; 0], 5), Err(Error::InvalidArgument(_))));
    assert!(matches!(model().generate([1], 0), Err(Error::InvalidArgument(_))));
}

#[test]
fn a_refused_step_changes_nothing() {
    let mut session = session();
    session.prefill(&tokens(PROMPT)).unwrap();
    let before = session.tokens(0).unwrap();
    let error = session.decode_step(256).unwrap_err();
    assert!(matches!(&error, Error::InvalidArgument(sentence) if sentence.contains("256")), "{error:?}");
    assert!(matches!(session.prefill(&[]), Err(Error::InvalidArgument(_))));
    assert!(matches!(session.prefill(&[1; 200]), Err(Error::InvalidArgument(_))));
    assert!(matches!(session.truncate(8), Err(Error::InvalidArgument(_))));
    assert!(matches!(session.truncate(usize::MAX), Err(Error::InvalidArgument(_))));
    assert_eq!(session.tokens(0).unwrap(), before);
    assert_eq!(text(&session.generate(4).map(Result::unwrap).collect::<Vec<_>>()), "505\n");
}

#[test]
fn enqueued_steps_are_waited_for() {
    let mut session = session();
    session.prefill(&tokens(PROMPT)).unwrap();
    session.enqueue_step(None).unwrap();
    session.enqueue_steps(2).unwrap();
    let step = loop {
        if let Some(step) = session.poll().unwrap() {
            break step;
        }
    };
    assert_eq!((step.n_steps, step.position, step.token), (3, 10, Some(10)));
    let again = session.wait().unwrap();
    assert_eq!((again.n_steps, again.position, again.token), (0, 10, step.token));
    let step = session.decode_steps(5).unwrap();
    assert_eq!((step.n_steps, step.position), (5, 15));
}

#[test]
fn outputs_are_those_of_the_rows() {
    let prompt = tokens(PROMPT);
    let mut session = session();
    let mut targets = prompt[1..].to_vec();
    targets.push(-1);
    let all = session.prefill_with(&prompt, StepOptions::new().all_rows().logits().top(3).targets(targets)).unwrap();
    assert_eq!(all.all_logits.len(), 7 * 256);
    assert_eq!((all.step.token, all.step.n_steps), (Some(i32::from(b'5')), 7));
    for row in 0..7 {
        let logits = all.logits(row);
        let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        let (token, logprob) = all.top(row).next().unwrap();
        assert!(logits.iter().all(|logit| *logit <= logits[token as usize]));
        assert!((f64::from(logits[token as usize]) - sum.ln() - f64::from(logprob)).abs() < 1e-4);
        let expected = if row < 6 { f64::from(logits[prompt[row + 1] as usize]) - sum.ln() } else { 0.0 };
        assert!((expected - f64::from(all.target_logprobs[row])).abs() < 1e-4);
    }
    session.truncate(6).unwrap();
    let mut logits = [0.0; 256];
    let step = session.prefill_with(&prompt[6..], StepOptions::new().logits_into(&mut logits)).unwrap();
    assert_eq!((step.step.token, step.all_logits.len()), (Some(i32::from(b'5')), 0));
    assert_eq!(logits, all.logits(6)); // the same bits, however a prompt is cut
    session.truncate(0).unwrap();
    assert_eq!(session.prefill_with(&prompt, StepOptions::new().without_sampling()).unwrap().step.token, None);
    for (options, word) in [
        (StepOptions::new().logits_into(&mut [0.0; 255]), "logits has room for 255"),
        (StepOptions::new().targets([1, 2]), "targets has 2 tokens, expected one for each of 1 rows"),
        (StepOptions::new().top(257), "top is 257"),
    ] {
        let error = session.decode_step_with(1, options).unwrap_err();
        assert!(matches!(&error, Error::InvalidArgument(sentence) if sentence.contains(word)), "{error:?}");
    }
}

#[test]
fn positions_and_batches_give_the_bits_of_single_steps() {
    let prompt = tokens(PROMPT);
    let mut single = session();
    single.prefill(&prompt).unwrap();
    let mut several = single.model().session_with(&SessionOptions::new().capacity_tokens(128)).unwrap();
    several.prefill(&prompt).unwrap();
    let drafted = tokens("505");
    let checked = several.decode_positions(&drafted, StepOptions::new().logits()).unwrap();
    for (row, token) in drafted.iter().enumerate() {
        let step = single.decode_step_with(*token, StepOptions::new().logits()).unwrap();
        assert_eq!((step.step.token, step.logits(0)), (checked.row_token(row), checked.logits(row)));
    }
    assert_eq!(checked.step.token, Some(10));

    let mut refused = model().session_with(&SessionOptions::new().capacity_tokens(7)).unwrap();
    refused.prefill(&prompt).unwrap();
    several.truncate(7).unwrap();
    single.truncate(7).unwrap();
    let (steps, output) = decode_batch_with(&mut [&mut several, &mut refused], None, StepOptions::new().logits()).unwrap();
    let alone = single.decode_step_with(None, StepOptions::new().logits()).unwrap();
    assert_eq!((steps[0].clone(), output.logits(0)), (Ok(alone.step), alone.logits(0)));
    assert!(matches!(steps[1], Err(Error::CacheFull(_))), "{steps:?}");
    let steps = decode_batch(&mut [&mut single, &mut several], Some(&[53, 53])).unwrap();
    assert_eq!(steps[0], steps[1]);
    assert!(matches!(decode_batch(&mut [], None), Err(Error::InvalidArgument(_))));
    assert!(matches!(decode_batch(&mut [&mut single], Some(&[1, 2])), Err(Error::InvalidArgument(_))));
}

#[test]
fn taps_read_and_write_between_blocks() {
    let config = model().config();
    let mut session = session();
    let prompt = tokens(PROMPT);
    let (mut out, mut into) = (vec![0.0; 7 * config.hidden_size], vec![0.0; 7 * config.hidden_size]);
    let options = StepOptions::new().logits().tap(Tap::read(TapPoint::BlockOutput, 1, &mut out)).tap(Tap::read(TapPoint::BlockInput, 2, &mut into));
    let plain = session.prefill_with(&prompt, options).unwrap();
    assert!(out == into && out.iter().any(|x| *x != 0.0));
    session.truncate(0).unwrap();
    let zeros = vec![0.0; into.len()];
    let changed = session.prefill_with(&prompt, StepOptions::new().logits().tap(Tap::write(TapPoint::BlockInput, 2, &zeros))).unwrap();
    assert_ne!(changed.all_logits, plain.all_logits);
    session.truncate(0).unwrap();
    let same = session.prefill_with(&prompt, StepOptions::new().logits().tap(Tap::write(TapPoint::BlockInput, 2, &into))).unwrap();
    assert_eq!(same.all_logits, plain.all_logits);
    let (mut heads, mut activation) = (vec![0.0; config.n_heads * config.head_dim], vec![0.0; config.intermediate_size]);
    let options =
        StepOptions::new().tap(Tap::read(TapPoint::AttentionHeads, 0, &mut heads)).tap(Tap::read(TapPoint::MlpActivation, 0, &mut activation));
    session.decode_step_with(None, options).unwrap();
    assert!(heads.iter().any(|x| *x != 0.0) && activation.iter().any(|x| *x != 0.0));
    let error = session.decode_step_with(None, StepOptions::new().tap(Tap::read(TapPoint::BlockInput, 0, &mut [0.0; 3]))).unwrap_err();
    assert_eq!(error.sentence(), "a tap at BlockInput has 3 numbers, expected 256");
    let error = session.decode_step_with(None, StepOptions::new().tap(Tap::read(TapPoint::BlockInput, 4, &mut vec![0.0; 256]))).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
}

#[test]
fn samplers_and_masks_choose() {
    let sampled = |seed| {
        let options = GenerateOptions::new().max_tokens(24).stop_tokens([]).sampler(Sampler::new().temperature(3.0).top_k(50).seed(seed));
        model().generate_with(tokens("A"), &options).unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    assert_eq!(sampled(1), sampled(1));
    assert_ne!(sampled(1), sampled(2));
    let mut session = session();
    session.set_allowed_tokens(Some(&TokenMask::of(256, tokens("xy")).unwrap())).unwrap();
    assert!(answer(&mut session).chars().all(|c| "xy".contains(c)));
    session.set_allowed_tokens(None).unwrap();
    session.truncate(0).unwrap();
    session.set_sampler(&Sampler::new().logit_bias(i32::from(b'5'), f32::NEG_INFINITY)).unwrap();
    assert!(!answer(&mut session).contains('5'));
    let error = session.set_sampler(&Sampler::new().temperature(-1.0)).unwrap_err();
    assert!(matches!(&error, Error::InvalidArgument(sentence) if sentence.contains("temperature")), "{error:?}");
    assert!(matches!(session.set_allowed_tokens(Some(&TokenMask::none(256))), Err(Error::InvalidArgument(_))));
    assert!(matches!(session.set_allowed_tokens(Some(&TokenMask::from_fn(64, |_| true))), Err(Error::InvalidArgument(_))));
    let logits = [0.0, 3.0, 2.0];
    let often = |sampler: Sampler| (0..64).filter(|seed| sampler.clone().seed(*seed).sample(&logits, &[1], 0, None) == Ok(1)).count();
    let hot = Sampler::new().temperature(100.0);
    assert!((1..64).contains(&often(hot.clone())));
    for only_the_likeliest in [hot.clone().top_k(1), hot.clone().top_p(0.1), hot.clone().min_p(1.0), hot.clone().logit_bias(1, 1e9)] {
        assert_eq!(often(only_the_likeliest.clone()), 64, "{only_the_likeliest:?}");
    }
    assert_eq!(Sampler::new().repetition_penalty(2.0).sample(&logits, &[1], 0, None), Ok(2));
    let not_one = TokenMask::from_fn(3, |token| token != 1);
    assert_eq!(Sampler::new().sample(&logits, &[], 0, Some(&not_one)), Ok(2));
    assert!(matches!(Sampler::new().sample(&[f32::NAN], &[], 0, None), Err(Error::NonfiniteLogits(_))));
    assert!(matches!(Sampler::new().sample(&logits, &[], 0, Some(&TokenMask::none(2))), Err(Error::InvalidArgument(_))));
}

#[test]
fn forks_share_pages_and_saved_sessions_go_on() {
    let pool = model().kv_pool(256, &KvPoolOptions::new().page_tokens(16).kv_dtype(DType::F16)).unwrap();
    let options = SessionOptions::new().pool(&pool).capacity_tokens(64).reserve(false);
    let mut session = model().session_with(&options).unwrap();
    assert_eq!(answer(&mut session), "505\n");
    let mut fork = session.fork(Some(7)).unwrap();
    let info = pool.info().unwrap();
    assert_eq!((info.n_pages, info.n_pages_shared, info.page_tokens, info.kv_dtype), (16, 1, 16, DType::F16));
    assert_eq!(text(&fork.generate(3).map(Result::unwrap).collect::<Vec<_>>()), "505");
    assert_eq!(fork.fork_with(None, &SessionOptions::new().capacity_tokens(20).reserve(false)).unwrap().info().unwrap().capacity_tokens, 20);
    assert!(matches!(session.fork(Some(11)), Err(Error::InvalidArgument(_))));

    let saved = session.save().unwrap();
    let path = std::env::temp_dir().join(format!("clusterfusion_rust_{}", std::process::id()));
    session.save_file(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), saved);
    let rest: Vec<Token> = session.generate(9).map(Result::unwrap).collect();
    let mut restored = model().restore(&saved, &SessionOptions::new().capacity_tokens(64)).unwrap();
    assert_eq!(restored.generate(9).map(Result::unwrap).collect::<Vec<_>>(), rest);
    let mut restored = model().restore_file(&path, &options).unwrap();
    assert_eq!(restored.generate(9).map(Result::unwrap).collect::<Vec<_>>(), rest);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(model().restore(&saved[..saved.len() - 1], &options), Err(Error::InvalidFile(_))));
    drop((session, fork, restored));
    assert_eq!(pool.info().unwrap().n_pages_free, 16);
}

#[test]
fn threads_share_a_model_and_read_tokens_while_steps_run() {
    let expected = text(&model().generate(tokens("count 97 to 103:"), 40).unwrap().map(Result::unwrap).collect::<Vec<_>>());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut session = session();
                let reader = session.token_reader();
                let ready = std::sync::atomic::AtomicBool::new(false);
                std::thread::scope(|inner| {
                    inner.spawn(|| {
                        let mut last = 0;
                        while !ready.load(std::sync::atomic::Ordering::Acquire) {
                            let seen = reader.tokens(0).unwrap().len();
                            assert!(seen >= last);
                            last = seen;
                        }
                    });
                    session.prefill(&tokens("count 97 to 103:")).unwrap();
                    let made: Vec<Token> = session.generate(40).map(Result::unwrap).take_while(|token| *token != 10).collect();
                    ready.store(true, std::sync::atomic::Ordering::Release);
                    assert_eq!(text(&made), expected);
                });
                drop(session);
                assert!(reader.tokens(16).unwrap().len() > 3); // keeps what it reads
            });
        }
    });
    // Loading needs the model for itself; whoever comes second is told so, or waits.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| match model().reload(common::demo(), LoadOptions::new()) {
                Ok(()) | Err(Error::Busy(_)) => {}
                Err(error) => panic!("{error}"),
            });
        }
    });
}

#[test]
fn steps_can_be_cancelled_and_their_closures_may_panic() {
    let mut session = model().session().unwrap();
    session.prefill(&tokens(PROMPT)).unwrap();
    let mut told = Vec::new();
    let options = StepOptions::new().progress(|done, total| {
        told.push((done, total));
        if done < 3 {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    assert!(matches!(session.decode_steps_with(10, options), Err(Error::Cancelled(_))));
    assert_eq!((told.last(), session.position().unwrap()), (Some(&(3, 10)), 10)); // finished steps are kept
    let panic = catch_unwind(AssertUnwindSafe(|| session.decode_steps_with(10, StepOptions::new().logits().progress(|_, _| panic!("in a step")))));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"in a step"));
    session.truncate(7).unwrap();
    assert_eq!(text(&session.generate(3).map(Result::unwrap).collect::<Vec<_>>()), "505");
    let cancellation = Cancellation::new().unwrap();
    cancellation.request();
    assert!(matches!(session.decode_step_with(None, StepOptions::new().cancellation(&cancellation)), Err(Error::Cancelled(_))));
    let options = GenerateOptions::new().cancellation(&cancellation);
    assert!(matches!(model().generate_with(tokens(PROMPT), &options).unwrap().next(), Some(Err(Error::Cancelled(_)))));
    cancellation.reset().unwrap();
    let options = GenerateOptions::new().cancellation(&cancellation).steps_per_call(8);
    assert_eq!(text(&model().generate_with(tokens(PROMPT), &options).unwrap().map(Result::unwrap).collect::<Vec<_>>()), "505");
}

#[test]
fn graphs_are_for_cuda() {
    assert!(matches!(session().capture(1), Err(Error::Unsupported(_))));
    assert!(session().stream().unwrap().is_null());
}
