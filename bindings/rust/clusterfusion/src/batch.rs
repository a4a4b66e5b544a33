//! One step of several sessions.

use crate::error::{invalid, Result};
use crate::native;
use crate::request::Request;
use crate::{sys, Output, Session, Step, StepOptions, Token};

/// One step of each of 1 ..= 64 sessions of one model, with the weights read once and the bits that each would give alone. tokens: one
/// for each session; `None`: the pending ones. The sessions fail or advance each by itself.
pub fn decode_batch(sessions: &mut [&mut Session], tokens: Option<&[Token]>) -> Result<Vec<Result<Step>>> {
    run(sessions, tokens, |_, _| Ok(None)).map(|(steps, _)| steps)
}

/// [`decode_batch`] with outputs, taps or a cancellation; a row for each session, undefined for those that failed. [`Output::step`] is
/// that of the last session.
pub fn decode_batch_with(
    sessions: &mut [&mut Session],
    tokens: Option<&[Token]>,
    mut options: StepOptions<'_>,
) -> Result<(Vec<Result<Step>>, Output)> {
    let asked = &mut options;
    let (steps, request) = run(sessions, tokens, |model, n| Request::new(asked, model, n, n, true).map(Some))?;
    let last = *sessions.last_mut().expect("a batch of none was refused").result_mut();
    Ok((steps, request.expect("made above").output(Step::of(&last))))
}

#[allow(clippy::type_complexity)]
fn run<'o>(
    sessions: &mut [&mut Session],
    tokens: Option<&[Token]>,
    request: impl FnOnce(&crate::Model, usize) -> Result<Option<Request<'o>>>,
) -> Result<(Vec<Result<Step>>, Option<Request<'o>>)> {
    let n = sessions.len();
    let Some(first) = sessions.first() else { return Err(invalid!("sessions is empty, expected 1 to 64")) };
    if let Some(tokens) = tokens.filter(|tokens| tokens.len() != n) {
        return Err(invalid!("tokens has {} tokens, expected one for each of {n} sessions", tokens.len()));
    }
    if let Some(other) = sessions.iter().position(|session| session.model().raw() != first.model().raw()) {
        return Err(invalid!("sessions[{other}] is of another model than sessions[0]"));
    }
    let request = request(first.model(), n)?;
    let options = request.as_ref().map_or(std::ptr::null(), Request::raw);
    let handles: Vec<*mut sys::cf_session> = sessions.iter().map(|session| session.raw()).collect();
    let mut steps = Vec::with_capacity(n);
    native::call(|| {
        // SAFETY: the handles live and, being borrowed mutably, are different and in no other call; tokens are as many; what the request
        // points to lives until every status has been fetched, below.
        let status = unsafe { sys::cf_decode_batch(handles.as_ptr(), n, tokens.map_or(std::ptr::null(), <[Token]>::as_ptr), options) };
        if status != sys::CF_OK {
            return status;
        }
        for session in sessions.iter_mut() {
            let handle = session.raw();
            let result = session.result_mut();
            // SAFETY: the handle lives, and the result can be written to.
            let status = unsafe { sys::cf_session_wait(handle, result) };
            steps.push(if status == sys::CF_OK { Ok(Step::of(result)) } else { Err(native::last_error(status)) });
        }
        status
    })?;
    Ok((steps, request))
}
