//! What runs inside a call of the library: closures, whose panics must not cross it, and who must not call it.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ops::ControlFlow;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use crate::sys;

/// A closure that is told that `done` of `total` units are finished (bytes when loading, positions in a prompt, steps in several steps),
/// and may end the call with [`Error::Cancelled`](crate::Error::Cancelled).
pub(crate) type Progress<'a> = Box<dyn FnMut(u64, u64) -> ControlFlow<()> + 'a>;

type Destroy = fn(*mut c_void) -> sys::cf_status;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Whether callbacks of the present call left something in the two below. Apart, so that a call costs one look.
    static LEFT: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<Option<Box<dyn Any + Send>>> = const { RefCell::new(None) };
    static TO_DESTROY: RefCell<Vec<(*mut c_void, Destroy)>> = const { RefCell::new(Vec::new()) };
}

/// Whether this thread is in a callback.
pub(crate) fn inside() -> bool {
    INSIDE.get()
}

/// Runs a callback's body. If it panics, `otherwise` is returned to the library, and the panic goes on after the call.
pub(crate) fn run<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    let was_inside = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(was_inside);
    result.unwrap_or_else(|panic| {
        LEFT.set(true);
        let later = PANIC.with_borrow_mut(|slot| match slot {
            Some(_) => Some(panic),
            None => slot.replace(panic),
        });
        std::mem::forget(later); // dropping it could panic here
        otherwise
    })
}

/// After each call: destroys what its callbacks could not, and goes on with the first panic of theirs.
pub(crate) fn after_call() {
    if LEFT.get() {
        if let Some(panic) = leftovers() {
            resume_unwind(panic);
        }
    }
}

#[cold]
fn leftovers() -> Option<Box<dyn Any + Send>> {
    while LEFT.replace(false) {
        for (handle, destroy) in TO_DESTROY.take() {
            destroy(handle);
        }
    }
    PANIC.take()
}

/// Destroys a handle: now, or in a callback after the call. A destructor must not panic, so a panic of a log closure ends here.
pub(crate) fn outside(handle: *mut c_void, destroy: Destroy) {
    if inside() {
        TO_DESTROY.with_borrow_mut(|list| list.push((handle, destroy)));
        LEFT.set(true);
        return;
    }
    destroy(handle);
    if LEFT.get() {
        std::mem::forget(leftovers());
    }
}

/// The cf_progress_fn of a `Progress`, whose address is `user`.
pub(crate) unsafe extern "C" fn progress(user: *mut c_void, done: u64, total: u64) -> i32 {
    run(1, || {
        // SAFETY: given with this function, and alive as long as the call, which has it for itself.
        let closure = unsafe { &mut *user.cast::<Progress<'_>>() };
        i32::from(closure(done, total).is_break())
    })
}

/// What a struct's progress and progress_user are to be.
pub(crate) fn progress_fields(closure: &mut Option<Progress<'_>>) -> (sys::cf_progress_fn, *mut c_void) {
    match closure {
        Some(closure) => (Some(progress), std::ptr::from_mut(closure).cast()),
        None => (None, std::ptr::null_mut()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_goes_on_after_the_call_and_only_once() {
        let mut seen = Vec::new();
        let mut closure: Option<Progress<'_>> = Some(Box::new(|done, total| {
            seen.push((done, total));
            assert!(done < 2, "at two");
            ControlFlow::Continue(())
        }));
        let (function, user) = progress_fields(&mut closure);
        // SAFETY: the two belong together.
        let tell = |done| unsafe { function.unwrap()(user, done, 3) };
        assert_eq!(tell(1), 0);
        after_call();
        assert_eq!((tell(2), tell(3)), (1, 1));
        let panic = catch_unwind(after_call).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"at two"));
        after_call();
        drop(closure);
        assert_eq!(seen, [(1, 3), (2, 3), (3, 3)]);
    }

    #[test]
    fn what_a_callback_drops_is_destroyed_after_the_call() {
        thread_local!(static DESTROYED: Cell<u32> = const { Cell::new(0) });
        let destroy: Destroy = |_| {
            assert!(!inside());
            DESTROYED.set(DESTROYED.get() + 1);
            0
        };
        run((), || outside(std::ptr::null_mut(), destroy));
        assert_eq!(DESTROYED.get(), 0);
        after_call();
        assert_eq!(DESTROYED.get(), 1);
        outside(std::ptr::null_mut(), destroy);
        assert_eq!(DESTROYED.get(), 2);
    }

    #[test]
    fn a_destructor_swallows_the_panic_of_a_log_closure() {
        outside(std::ptr::null_mut(), |_| run(0, || panic!("in a log closure")));
        after_call();
    }

    #[test]
    fn breaking_cancels() {
        let mut closure: Option<Progress<'_>> = Some(Box::new(|_, _| ControlFlow::Break(())));
        let (function, user) = progress_fields(&mut closure);
        // SAFETY: the two belong together.
        assert_eq!(unsafe { function.unwrap()(user, 0, 0) }, 1);
        assert_eq!(progress_fields(&mut None), (None, std::ptr::null_mut()));
    }
}
