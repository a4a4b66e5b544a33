//! Devices, contexts, loading, logs and callbacks.

mod common;

use std::alloc::Layout;
use std::ffi::c_void;
use std::ops::ControlFlow;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use clusterfusion::*;
use common::{cpu, demo};

#[test]
fn the_cpu_is_a_device() {
    let all = devices().unwrap();
    let cpu = &all[0];
    assert_eq!((cpu.device, cpu.usable, cpu.reason.as_str()), (Device::Cpu, true, ""));
    assert!(cpu.memory_bytes > 1 << 20 && cpu.multiprocessors > 0 && !cpu.name.is_empty());
    assert!(all.iter().any(|info| info.device == Device::best().unwrap() && info.usable));
}

#[test]
fn options_reach_the_library() {
    let context = Context::options().cpu_threads(2).cpu_isa(CpuIsa::Baseline).build().unwrap();
    let info = context.info().unwrap();
    assert_eq!((info.n_devices, info.cpu_threads, info.cpu_isa, info.allocated_bytes), (1, 2, CpuIsa::Baseline, 0));
    let error = Context::options().device(Device::Cuda(4000)).build().unwrap_err();
    assert!(matches!(error, Error::NoDevice(_) | Error::Unsupported(_)), "{error:?}");
    let error = Context::options().devices([Device::Cpu, Device::Cuda(0)]).build().unwrap_err();
    assert_eq!(error, Error::InvalidArgument("the devices are cpu and cuda:0, expected all of one kind".into()));
}

#[test]
fn errors_have_the_library_s_sentence() {
    let context = cpu();
    let error = Model::load_in(&context, "/nowhere/at all", LoadOptions::new()).unwrap_err();
    assert!(matches!(&error, Error::Io(sentence) if sentence.contains("/nowhere/at all")), "{error:?}");
    assert_eq!(context.last_error().unwrap(), error.to_string());
    assert!(matches!(ModelConfig::read(demo().join("config.json")), Err(Error::Io(_))));
    let error = Model::load_in(&context, "a\0b", LoadOptions::new()).unwrap_err();
    assert!(matches!(&error, Error::InvalidArgument(sentence) if sentence.starts_with("directory is \"a\\0b\"")), "{error:?}");
}

#[test]
fn a_model_says_what_it_is() {
    let config = ModelConfig::read(demo()).unwrap();
    let context = cpu();
    let estimate = context.estimate(&config, DType::F16, DType::Auto, &SessionOptions::new().capacity_tokens(100)).unwrap();
    let model = Model::load_in(&context, demo(), LoadOptions::new()).unwrap();
    assert_eq!(model.config(), &config);
    assert_eq!((config.family, config.n_layers, config.vocab_size, config.eos_tokens.as_slice()), (Family::GptNeox, 4, 256, &[10][..]));
    let info = model.info().unwrap();
    assert_eq!((info.n_layers_loaded, info.globals_loaded, info.weight_dtype), (4, true, DType::F16));
    assert_eq!(info.weights_bytes, estimate.weights_bytes);
    assert_ne!(info.fingerprint, 0);
    assert_eq!(model.directory(), Some(demo()));
    let before = context.info().unwrap().allocated_bytes;
    let session = model.session_with(&SessionOptions::new().capacity_tokens(100)).unwrap();
    assert_eq!(context.info().unwrap().allocated_bytes - before, estimate.kv_bytes + estimate.workspace_bytes);
    drop((model, session));
    assert_eq!(context.info().unwrap().allocated_bytes, 0);
}

#[test]
fn what_is_made_keeps_what_it_was_made_from() {
    let context = cpu();
    let model = Model::load_in(&context, demo(), LoadOptions::new()).unwrap();
    let mut session = model.session().unwrap();
    drop((context, model));
    assert_eq!(common::answer(&mut session), "505\n");
    session.model().reload(demo(), LoadOptions::new()).unwrap();
    session.truncate(0).unwrap();
    assert_eq!(common::answer(&mut session), "505\n");
}

#[test]
fn a_log_closure_gets_messages_and_its_panic_goes_on_after_the_call() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = seen.clone();
    let context = Context::options()
        .cpu_threads(1)
        .log(LogLevel::Debug, move |level, message| into.lock().unwrap().push((level, message.to_owned())))
        .build()
        .unwrap();
    let _model = Model::load_in(&context, demo(), LoadOptions::new()).unwrap();
    let seen = seen.lock().unwrap();
    assert!(
        !seen.is_empty() && seen.iter().all(|(level, message)| *level > LogLevel::None && !message.is_empty() && !message.contains('\n')),
        "{seen:?}"
    );

    let armed = Arc::new(AtomicUsize::new(0));
    let fires = armed.clone();
    let log = move |_: LogLevel, _: &str| assert_eq!(fires.load(Ordering::Relaxed), 0, "armed");
    let context = Context::options().cpu_threads(1).log(LogLevel::Debug, log).build().unwrap();
    let model = Model::load_in(&context, demo(), LoadOptions::new()).unwrap();
    let before = context.info().unwrap().allocated_bytes;
    // More positions than the model recommends, which the log is told.
    let longer = SessionOptions::new().capacity_tokens(4000);
    armed.store(1, Ordering::Relaxed);
    let panic = catch_unwind(AssertUnwindSafe(|| model.session_with(&longer))).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("armed"));
    armed.store(0, Ordering::Relaxed);
    assert_eq!(context.info().unwrap().allocated_bytes, before); // the session that was made is gone, too
    assert!(model.session_with(&longer).is_ok());
}

#[test]
fn progress_is_told_and_may_cancel() {
    let context = cpu();
    let mut told = Vec::new();
    let options = LoadOptions::new().progress(|done, total| {
        told.push((done, total));
        ControlFlow::Continue(())
    });
    let _model = Model::load_in(&context, demo(), options).unwrap();
    let (last, total) = *told.last().unwrap();
    assert!(told.len() > 1 && last == total && told.windows(2).all(|pair| pair[0].0 <= pair[1].0), "{told:?}");
    let options = LoadOptions::new().progress(|_, _| ControlFlow::Break(()));
    assert!(matches!(Model::load_in(&context, demo(), options), Err(Error::Cancelled(_))));
    let cancellation = Cancellation::new().unwrap();
    assert!(!cancellation.is_requested());
    let options = LoadOptions::new().cancellation(&cancellation).progress(|_, _| {
        cancellation.request(); // the one call that a callback may make
        ControlFlow::Continue(())
    });
    assert!(matches!(Model::load_in(&context, demo(), options), Err(Error::Cancelled(_))));
    assert!(cancellation.is_requested());
    cancellation.reset().unwrap();
    assert!(!cancellation.is_requested());
    assert!(Model::load_in(&context, demo(), LoadOptions::new().cancellation(&cancellation)).is_ok());
}

#[test]
fn a_panic_of_a_progress_closure_goes_on_after_the_call() {
    let context = cpu();
    let options = LoadOptions::new().progress(|_, _| panic!("in progress"));
    let panic = catch_unwind(AssertUnwindSafe(|| Model::load_in(&context, demo(), options))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"in progress"));
    assert!(Model::load_in(&context, demo(), LoadOptions::new()).is_ok());
}

#[test]
fn a_callback_is_refused_the_library_and_may_drop_what_it_holds() {
    let context = cpu();
    let mut held = Some(Model::load_in(&context, demo(), LoadOptions::new()).unwrap());
    let one = context.info().unwrap().allocated_bytes;
    let mut answers = Vec::new();
    let inside = context.clone();
    let options = LoadOptions::new().progress(|_, _| {
        answers.push(inside.info().unwrap_err());
        held = None;
        ControlFlow::Continue(())
    });
    let _model = Model::load_in(&context, demo(), options).unwrap();
    assert!(
        !answers.is_empty() && answers.iter().all(|error| matches!(error, Error::Busy(sentence) if sentence.contains("callback"))),
        "{answers:?}"
    );
    assert_eq!(context.info().unwrap().allocated_bytes, one); // the one that was dropped is destroyed
}

struct Counting {
    held: Arc<AtomicI64>,
    limit: i64,
}

// SAFETY: memory of the global allocator, with the alignment that is asked for.
unsafe impl Allocator for Counting {
    fn allocate(&self, device: Device, size_bytes: usize, alignment: usize) -> *mut c_void {
        assert_eq!(device, Device::Cpu);
        if self.held.load(Ordering::Relaxed) + size_bytes as i64 > self.limit {
            return std::ptr::null_mut();
        }
        self.held.fetch_add(size_bytes as i64, Ordering::Relaxed);
        let layout = Layout::from_size_align(size_bytes.max(1), alignment).unwrap();
        // SAFETY: the size is not 0.
        unsafe { std::alloc::alloc(layout).cast() }
    }

    unsafe fn free(&self, _: Device, address: *mut c_void, size_bytes: usize, alignment: usize) {
        self.held.fetch_sub(size_bytes as i64, Ordering::Relaxed);
        let layout = Layout::from_size_align(size_bytes.max(1), alignment).unwrap();
        // SAFETY: allocated above, with the same layout.
        unsafe { std::alloc::dealloc(address.cast(), layout) };
    }
}

#[test]
fn an_allocator_gives_all_memory_and_gets_it_back() {
    for (limit, fits) in [(i64::MAX / 2, true), (1 << 20, false)] {
        let held = Arc::new(AtomicI64::new(0));
        let context = Context::options().cpu_threads(1).allocator(Counting { held: held.clone(), limit }).build().unwrap();
        let model = Model::load_in(&context, demo(), LoadOptions::new());
        match &model {
            Ok(_) => assert_eq!(held.load(Ordering::Relaxed) as u64, context.info().unwrap().allocated_bytes),
            Err(error) => assert!(matches!(error, Error::OutOfMemory(_)), "{error:?}"),
        }
        assert_eq!(model.is_ok(), fits);
        drop(model);
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }
}
