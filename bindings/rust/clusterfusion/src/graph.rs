//! A captured decode step (CUDA only).

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::error::{invalid, Result};
use crate::native::{self, make, queried, Handle};
use crate::{session, sys, LaunchMode, Session};

/// A captured decode step, whose replay needs nothing of the host: position, token and sampler are on the device. Valid for any position
/// up to the session's capacity, across truncation. Made by [`Session::capture`]; keeps the session's memory.
pub struct Graph {
    handle: Handle<sys::cf_graph>, // first, before the session that it replays
    session: Arc<session::Inner>,
    _one_call_at_a_time: PhantomData<Cell<()>>,
}

impl Graph {
    pub(crate) fn capture(session: &mut Session, n_steps: usize) -> Result<Self> {
        let mut options = make::<sys::cf_graph_options>()?;
        options.n_steps = native::number("n_steps", n_steps)?;
        // SAFETY: the session lives, the options are initialised, and the handle can be written to.
        let handle = Handle::new(|out| unsafe { sys::cf_graph_capture(session.raw(), &options, out) })?;
        Ok(Self { handle, session: session.inner().clone(), _one_call_at_a_time: PhantomData })
    }

    /// Enqueues one replay on the session's stream; what it came to is told by [`Session::wait`]. The session is the one that was
    /// captured, because a replay is a call on it.
    pub fn launch(&mut self, session: &mut Session) -> Result<()> {
        if !Arc::ptr_eq(&self.session, session.inner()) {
            return Err(invalid!("the graph was captured from another session"));
        }
        // SAFETY: graph and session live, and are in no other call.
        native::call(|| unsafe { sys::cf_graph_launch(self.handle.get()) })
    }

    /// What it is.
    pub fn info(&self) -> Result<GraphInfo> {
        // SAFETY: the handle lives, and the struct can be written to.
        let info = queried::<sys::cf_graph_info>(|info| unsafe { sys::cf_graph_query(self.handle.get(), info) })?;
        Ok(GraphInfo { n_nodes: info.n_nodes, n_steps: info.n_steps, launch_mode: LaunchMode::of(info.launch_mode)? })
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

/// A captured graph.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GraphInfo {
    /// Kernel nodes.
    pub n_nodes: i32,
    /// Steps of a replay.
    pub n_steps: i32,
    /// As resolved.
    pub launch_mode: LaunchMode,
}
