//! The flag that ends long calls.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::native::{self, Handle};
use crate::sys;

/// A flag that one thread raises and long calls of other threads look at: they end with [`Error::Cancelled`](crate::Error::Cancelled).
/// Clones are the same flag; any number of calls may be given it.
#[derive(Clone)]
pub struct Cancellation(Arc<Handle<sys::cf_cancellation>>);

impl Cancellation {
    /// A new flag, not raised.
    pub fn new() -> Result<Self> {
        native::library()?;
        // SAFETY: the handle can be written to.
        let handle = Handle::new(|out| unsafe { sys::cf_cancellation_create(out) })?;
        Ok(Self(Arc::new(handle)))
    }

    /// Raises the flag: calls that hold it stop at the next layer, launch or piece of a prompt, until [`reset`](Self::reset). From any
    /// thread, callbacks of the library included.
    pub fn request(&self) {
        // SAFETY: the handle lives, and the call may be made from any thread at any time; with a handle it cannot fail.
        unsafe { sys::cf_cancellation_request(self.0.get()) };
    }

    /// Lowers the flag. A call that runs meanwhile may or may not have seen it raised.
    pub fn reset(&self) -> Result<()> {
        // SAFETY: as in `request`.
        native::call(|| unsafe { sys::cf_cancellation_reset(self.0.get()) })
    }

    /// Whether the flag is raised. From any thread, as `request`.
    pub fn is_requested(&self) -> bool {
        let mut requested = 0;
        // SAFETY: as in `request`.
        unsafe { sys::cf_cancellation_requested(self.0.get(), &mut requested) };
        requested != 0
    }

    pub(crate) fn raw(this: Option<&Self>) -> *mut sys::cf_cancellation {
        this.map_or(std::ptr::null_mut(), |this| this.0.get())
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellation").field("is_requested", &self.is_requested()).finish()
    }
}
