//! What one thread makes and a task takes, a few at a time: the middle of [`TokenStream`](crate::TokenStream).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The maker waits when this many have not been taken.
const AHEAD: usize = 16;

struct State<T> {
    made: VecDeque<T>,
    waker: Option<Waker>,
    /// The maker is gone.
    ended: bool,
    /// The taker is gone.
    abandoned: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    room: Condvar,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner) // wakers run outside, so nothing in here panics half-way
    }
}

pub(crate) fn channel<T>() -> (Maker<T>, Taker<T>) {
    let state = State { made: VecDeque::new(), waker: None, ended: false, abandoned: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), room: Condvar::new() });
    (Maker(shared.clone()), Taker(shared))
}

pub(crate) struct Maker<T>(Arc<Shared<T>>);

impl<T> Maker<T> {
    /// Gives one, when there is room. False: nobody will take it.
    pub(crate) fn give(&self, item: T) -> bool {
        let state = self.0.state();
        let mut state = self.0.room.wait_while(state, |state| !state.abandoned && state.made.len() >= AHEAD).unwrap_or_else(PoisonError::into_inner);
        if state.abandoned {
            return false;
        }
        state.made.push_back(item);
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        true
    }
}

impl<T> Drop for Maker<T> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.ended = true;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

pub(crate) struct Taker<T>(Arc<Shared<T>>);

impl<T> Taker<T> {
    /// The next one; `None` when all are taken and the maker is gone.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.0.state();
        if let Some(item) = state.made.pop_front() {
            drop(state);
            self.0.room.notify_one();
            return Poll::Ready(Some(item));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let before = state.waker.replace(context.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }

    /// No more are taken: the maker need not go on.
    pub(crate) fn abandon(&self) {
        self.0.state().abandoned = true;
        self.0.room.notify_one();
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        self.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    struct Unparks(std::thread::Thread);

    impl Wake for Unparks {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    fn next<T>(taker: &Taker<T>) -> Option<T> {
        let waker = Waker::from(Arc::new(Unparks(std::thread::current())));
        loop {
            match taker.poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(item) => return item,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    #[test]
    fn all_arrive_in_order_and_then_the_end() {
        let (maker, taker) = channel();
        let thread = std::thread::spawn(move || (0..100).all(|i| maker.give(i)));
        let taken: Vec<i32> = std::iter::from_fn(|| next(&taker)).collect();
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
        assert!(thread.join().unwrap());
        assert_eq!(next(&taker), None);
    }

    #[test]
    fn the_maker_is_never_far_ahead_and_ends_when_it_is_abandoned() {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let (maker, taker) = channel();
        let thread = std::thread::spawn(move || {
            while maker.give(()) {
                MADE.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(next(&taker), Some(()));
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(taker);
        thread.join().unwrap();
        let made = MADE.load(Ordering::Relaxed);
        assert!((1..=AHEAD + 1).contains(&made), "{made} were made");
    }

    #[test]
    fn a_maker_that_panics_ends_it() {
        let (maker, taker) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let _maker = maker;
            panic!("on purpose");
        });
        assert_eq!(next(&taker), None);
        assert!(thread.join().is_err());
    }
}
