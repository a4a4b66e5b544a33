//! Calls of the C library: what every one of them goes through, structs with the library's defaults, and handles.

use std::ffi::{c_char, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::callbacks;
use crate::error::{invalid, Error, Result};
use crate::sys;

/// A call's status as a result. A panic of a callback that ran in it goes on from here, so `body` has to hold all that must not be
/// parted: a step and the wait for it. From inside a callback nothing is called, because the header forbids it.
pub(crate) fn call(body: impl FnOnce() -> sys::cf_status) -> Result<()> {
    match status_of(body)? {
        sys::CF_OK => Ok(()),
        status => Err(last_error(status)),
    }
}

/// As [`call`], for who makes something of the status.
pub(crate) fn status_of(body: impl FnOnce() -> sys::cf_status) -> Result<sys::cf_status> {
    if callbacks::inside() {
        return Err(Error::Busy("the library was called from inside a callback, where only a cancellation may be requested".into()));
    }
    let status = body();
    callbacks::after_call();
    Ok(status)
}

/// The sentence of the calling thread's last failing call, as the error of `status`.
pub(crate) fn last_error(status: sys::cf_status) -> Error {
    // SAFETY: the buffer has as many bytes as it is said to have.
    Error::of(status, sentence(|buffer, capacity, length| unsafe { sys::cf_last_error(buffer, capacity, length) }))
}

/// What a call like cf_last_error writes: at most 1024 bytes and a NUL.
pub(crate) fn sentence(read: impl FnOnce(*mut c_char, usize, *mut usize) -> sys::cf_status) -> String {
    let mut bytes = [0u8; 1025];
    let mut length = 0;
    read(bytes.as_mut_ptr().cast(), bytes.len(), &mut length);
    String::from_utf8_lossy(&bytes[..length.min(bytes.len() - 1)]).into_owned()
}

/// A fixed array of the library's with a NUL-terminated text.
pub(crate) fn text(characters: &[c_char]) -> String {
    let bytes: Vec<u8> = characters.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

// ---- The library itself

/// Opens the library, where it is not linked, and sees that it has the ABI that the bindings were made for; once. Every struct is
/// initialised through here, and nothing is called without one.
pub(crate) fn library() -> Result<()> {
    static FOUND: OnceLock<Result<()>> = OnceLock::new();
    FOUND.get_or_init(|| open(None)).clone()
}

fn open(path: Option<&Path>) -> Result<()> {
    #[cfg(feature = "load")]
    // SAFETY: what `load_library` asks its caller to promise, or that the system's libclusterfusion.so is libclusterfusion.
    unsafe { sys::load(path.map(Path::as_os_str)) }.map_err(|error| Error::Library(error.to_string()))?;
    let _ = path;
    // SAFETY: takes nothing, and is there in every version.
    let found = unsafe { sys::cf_abi_version() };
    match found {
        sys::CF_ABI_VERSION => Ok(()),
        _ => Err(Error::Library(format!("libclusterfusion has ABI version {found}, this crate needs {}", sys::CF_ABI_VERSION))),
    }
}

/// Opens the library at `path`, in place of the one that `CLUSTERFUSION_LIBRARY` names or the system has: before anything else of this
/// crate is called, for later only what was opened first counts.
///
/// # Safety
///
/// Opening a library runs its initialisers, and its functions are called as the header declares them: the file has to be
/// libclusterfusion.
#[cfg(feature = "load")]
pub unsafe fn load_library(path: impl AsRef<Path>) -> Result<()> {
    open(Some(path.as_ref()))
}

/// Version of the library that is used, such as "0.1.0".
pub fn library_version() -> Result<String> {
    library()?;
    // SAFETY: a static string that ends with NUL.
    let text = unsafe { std::ffi::CStr::from_ptr(sys::cf_version_string()) };
    Ok(text.to_string_lossy().into_owned())
}

// ---- Structs

/// A struct of the header with an initialiser.
///
/// # Safety
///
/// All-zero bits are a value of it, and `init` writes at most `struct_size` bytes.
pub(crate) unsafe trait Struct: Sized {
    unsafe fn init(value: *mut Self, struct_size: usize) -> sys::cf_status;
}

macro_rules! structs {
    ($($name:ident: $init:ident,)*) => {$(
        // SAFETY: integers, floating-point numbers, pointers and optional functions; the header says what the initialiser does.
        unsafe impl Struct for sys::$name {
            unsafe fn init(value: *mut Self, struct_size: usize) -> sys::cf_status {
                // SAFETY: the caller's promise.
                unsafe { sys::$init(value, struct_size) }
            }
        }
    )*};
}

structs! {
    cf_device_info: cf_device_info_init,
    cf_context_options: cf_context_options_init,
    cf_context_info: cf_context_info_init,
    cf_model_config: cf_model_config_init,
    cf_model_options: cf_model_options_init,
    cf_tensor: cf_tensor_init,
    cf_model_info: cf_model_info_init,
    cf_kv_pool_options: cf_kv_pool_options_init,
    cf_kv_pool_info: cf_kv_pool_info_init,
    cf_session_options: cf_session_options_init,
    cf_session_info: cf_session_info_init,
    cf_memory_estimate: cf_memory_estimate_init,
    cf_sampler_options: cf_sampler_options_init,
    cf_outputs: cf_outputs_init,
    cf_tap: cf_tap_init,
    cf_step_options: cf_step_options_init,
    cf_result: cf_result_init,
    cf_graph_options: cf_graph_options_init,
    cf_graph_info: cf_graph_info_init,
    cf_block_options: cf_block_options_init,
}

/// A new struct with the library's defaults.
pub(crate) fn make<T: Struct>() -> Result<T> {
    library()?;
    // SAFETY: `Struct` promises that zeroes are a value, and that the initialiser writes inside it.
    let mut value: T = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    call(|| unsafe { T::init(&mut value, std::mem::size_of::<T>()) })?;
    Ok(value)
}

/// A struct that `read` fills.
pub(crate) fn queried<T: Struct>(read: impl FnOnce(*mut T) -> sys::cf_status) -> Result<T> {
    let mut value = make::<T>()?;
    call(|| read(&mut value))?;
    Ok(value)
}

// ---- Handles

/// What has a destructor in the header.
///
/// # Safety
///
/// `destroy` takes a handle that its creator wrote, once, on any thread, or NULL.
pub(crate) unsafe trait Object {
    unsafe fn destroy(handle: *mut Self) -> sys::cf_status;
}

macro_rules! objects {
    ($($name:ident: $destroy:ident,)*) => {$(
        // SAFETY: what the header says of each.
        unsafe impl Object for sys::$name {
            unsafe fn destroy(handle: *mut Self) -> sys::cf_status {
                // SAFETY: the caller's promise.
                unsafe { sys::$destroy(handle) }
            }
        }
    )*};
}

objects! {
    cf_cancellation: cf_cancellation_destroy,
    cf_context: cf_context_destroy,
    cf_model: cf_model_destroy,
    cf_kv_pool: cf_kv_pool_destroy,
    cf_session: cf_session_destroy,
    cf_graph: cf_graph_destroy,
}

/// A handle, destroyed when it is dropped. NULL only until its creator has written it.
pub(crate) struct Handle<T: Object>(*mut T);

impl<T: Object> Handle<T> {
    /// What `create` writes to its argument.
    pub(crate) fn new(create: impl FnOnce(*mut *mut T) -> sys::cf_status) -> Result<Self> {
        let mut handle = Self(std::ptr::null_mut()); // dropped, too, when the panic of a callback goes on in `call`
        call(|| create(&mut handle.0))?;
        Ok(handle)
    }

    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

impl<T: Object> Drop for Handle<T> {
    fn drop(&mut self) {
        let handle = self.0;
        // SAFETY: written by its creator, and not used after this.
        callbacks::outside(handle.cast(), |handle| unsafe { T::destroy(handle.cast()) });
    }
}

// SAFETY: the header lets different handles be used from different threads at once, and any thread destroy one. That no handle is in two
// calls at once is for its owner to see to.
unsafe impl<T: Object> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T: Object> Sync for Handle<T> {}

// ---- Arguments

/// A path as the library takes it.
pub(crate) fn path(name: &str, path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| invalid!("{name} is {path:?}, which has a NUL byte in it"))
}

/// A number of Rust's as an integer of the header's.
pub(crate) fn number<T: TryFrom<usize>>(name: &str, value: usize) -> Result<T> {
    T::try_from(value).map_err(|_| invalid!("{name} is {value}, more than the library's type holds"))
}

/// The address of a slice, or NULL of an empty one.
pub(crate) fn address<T>(slice: &[T]) -> *const T {
    if slice.is_empty() {
        std::ptr::null()
    } else {
        slice.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_nul_are_refused_by_name() {
        let error = path("directory", Path::new("a\0b")).unwrap_err();
        assert_eq!(error.sentence(), "directory is \"a\\0b\", which has a NUL byte in it");
        assert_eq!(path("directory", Path::new("ab")).unwrap().as_bytes(), b"ab");
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused_by_name() {
        assert_eq!(number::<i32>("top_k", 7), Ok(7));
        assert!(number::<i32>("top_k", 1 << 31).unwrap_err().sentence().starts_with("top_k is 2147483648"));
        assert!(number::<i64>("position", usize::MAX).is_err());
    }

    #[test]
    fn texts_end_at_their_nul() {
        assert_eq!(text(&[65, 66, 0, 67]), "AB");
        assert_eq!(text(&[65, 66]), "AB");
        let read = sentence(|buffer, capacity, length| {
            // SAFETY: the buffer is larger than this.
            unsafe { std::ptr::copy_nonoverlapping(b"why".as_ptr().cast(), buffer, 3) };
            // SAFETY: an address that `sentence` gave.
            unsafe { *length = 3 + capacity - 1025 };
            sys::CF_OK
        });
        assert_eq!(read, "why");
    }
}
