//! Memory that a caller gives the library.

use std::ffi::c_void;

use crate::{callbacks, sys, Device};

/// Memory of weights, KV pages and work buffers, in place of the library's own; small bookkeeping uses the C++ heap. May be called from
/// any thread that uses the context, and must not call this crate. A panic counts as no memory, and goes on after the call.
///
/// # Safety
///
/// `allocate` returns null, or memory of `device` of at least `size_bytes`, aligned to `alignment`, that stays valid and is not used by
/// anyone else until `free` gets it.
pub unsafe trait Allocator: Send + Sync {
    /// Memory aligned to `alignment` (a power of two, at most 4096), or null.
    fn allocate(&self, device: Device, size_bytes: usize, alignment: usize) -> *mut c_void;

    /// Gets each address exactly once.
    ///
    /// # Safety
    ///
    /// `address` came from `allocate` with the same other arguments, and is not used any more.
    unsafe fn free(&self, device: Device, address: *mut c_void, size_bytes: usize, alignment: usize);
}

/// What the two functions below get as `user`.
pub(crate) struct Shared(pub(crate) Box<dyn Allocator>);

pub(crate) unsafe extern "C" fn allocate(user: *mut c_void, kind: sys::cf_device_kind, ordinal: i32, size: usize, alignment: usize) -> *mut c_void {
    callbacks::run(std::ptr::null_mut(), || {
        // SAFETY: given with this function, and kept beside the context.
        let shared = unsafe { &*user.cast::<Shared>() };
        Device::of(kind, ordinal).map_or(std::ptr::null_mut(), |device| shared.0.allocate(device, size, alignment))
    })
}

pub(crate) unsafe extern "C" fn free(
    user: *mut c_void,
    kind: sys::cf_device_kind,
    ordinal: i32,
    address: *mut c_void,
    size: usize,
    alignment: usize,
) {
    callbacks::run((), || {
        // SAFETY: as in `allocate`.
        let shared = unsafe { &*user.cast::<Shared>() };
        if let Ok(device) = Device::of(kind, ordinal) {
            // SAFETY: the library gives back what it got, once, as it got it.
            unsafe { shared.0.free(device, address, size, alignment) };
        }
    });
}
