//! Feature `stream`: tokens for asynchronous programs, here with the smallest executor there is.
#![cfg(feature = "stream")]

mod common;

use std::future::poll_fn;
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use clusterfusion::*;
use common::{model, text, tokens, PROMPT};
use futures_core::Stream;

struct Unparks(std::thread::Thread);

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn run<T>(future: impl std::future::Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unparks(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

async fn next(stream: &mut TokenStream) -> Option<Result<Token>> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

#[test]
fn a_stream_gives_the_tokens_of_the_iterator() {
    let mut stream = model().generate(tokens(PROMPT), 64).unwrap().into_stream().unwrap();
    let made = run(async {
        let mut made = Vec::new();
        while let Some(token) = next(&mut stream).await {
            made.push(token.unwrap());
        }
        made
    });
    assert_eq!(text(&made), "505");
    assert_eq!(run(next(&mut stream)), None);
    let tokens = stream.into_tokens();
    assert_eq!(tokens.finish_reason(), Some(FinishReason::Stop));
    assert_eq!(text(&tokens.into_session().tokens(0).unwrap()), "412+93=505\n");
}

#[test]
fn a_stream_ends_when_it_is_cancelled_dropped_or_taken_back() {
    let options = GenerateOptions::new().max_tokens(1000).stop_tokens([]);
    let endless = || model().generate_with(tokens("A"), &options).unwrap().into_stream().unwrap();
    let mut stream = endless();
    assert!(matches!(run(next(&mut stream)), Some(Ok(_))));
    stream.cancellation().request();
    let error = run(async {
        loop {
            match next(&mut stream).await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    });
    assert!(matches!(error, Some(Err(Error::Cancelled(_)))), "{error:?}");
    assert_eq!(run(next(&mut stream)), None);
    let mut stream = endless();
    assert!(matches!(run(next(&mut stream)), Some(Ok(_))));
    let session = stream.into_tokens().into_session();
    assert!(session.position().unwrap() < 100);
    let stream = endless();
    let own = stream.cancellation().clone();
    drop(stream);
    assert!(own.is_requested());
    let shared = Cancellation::new().unwrap();
    let options = options.clone().cancellation(&shared);
    drop(model().generate_with(tokens("A"), &options).unwrap().into_stream().unwrap());
    assert!(!shared.is_requested());
}
