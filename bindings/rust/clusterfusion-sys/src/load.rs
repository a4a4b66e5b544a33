//! Feature `load`: functions of the header as calls through a table of addresses, which is filled when the library is opened.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::OnceLock;

use crate::functions::Functions;

/// Why the library could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError(String);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoadError {}

static LIBRARY: OnceLock<Result<Functions, LoadError>> = OnceLock::new();

/// Opens the library: `path`, or else the one that the environment variable `CLUSTERFUSION_LIBRARY` names, or else
/// `libclusterfusion.so` of the system. It stays open. Only the first call, or the first call of any function, decides which
/// one it is; later ones answer what came of that.
///
/// # Safety
///
/// Opening a library runs its initialisers, and the functions are called as the header declares them: the file has to be
/// libclusterfusion. That it says the same ABI version is for the caller to check, through `cf_abi_version`.
pub unsafe fn load(path: Option<&OsStr>) -> Result<(), LoadError> {
    // SAFETY: the caller's promise.
    LIBRARY.get_or_init(|| unsafe { open(path) }).as_ref().map(|_| ()).map_err(LoadError::clone)
}

unsafe fn open(path: Option<&OsStr>) -> Result<Functions, LoadError> {
    let default = || OsString::from(format!("libclusterfusion.so.{}", crate::CF_ABI_VERSION));
    let name = path.map(OsStr::to_os_string).or_else(|| std::env::var_os("CLUSTERFUSION_LIBRARY")).unwrap_or_else(default);
    // SAFETY: the caller's promise.
    let library = unsafe { libloading::Library::new(&name) }.map_err(|error| LoadError(error.to_string()))?;
    // Never closed: addresses in it are held for the rest of the process.
    let library = Box::leak(Box::new(library));
    // SAFETY: the caller's promise.
    unsafe { Functions::of(library) }.map_err(|error| LoadError(format!("{} is not libclusterfusion: {error}", name.to_string_lossy())))
}

/// The table. Opens the library, if nothing has yet.
pub(crate) fn library() -> &'static Functions {
    // SAFETY: a caller of any function of this crate has promised that the library is the one it was made for.
    match LIBRARY.get_or_init(|| unsafe { open(None) }) {
        Ok(functions) => functions,
        Err(error) => panic!("{error}; clusterfusion_sys::load tells before the first call"),
    }
}

macro_rules! functions {
    ($($(#[$attribute:meta])* pub fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*) => {
        pub(crate) struct Functions {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Functions {
            pub(crate) unsafe fn of(library: &libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the caller's promise that the library is libclusterfusion, whose header declares these.
                unsafe { Ok(Self { $($name: *library.get(concat!(stringify!($name), "\0").as_bytes())?,)* }) }
            }
        }

        $($(#[$attribute])*
        #[inline]
        pub unsafe fn $name($($argument: $type),*) $(-> $result)? {
            // SAFETY: the caller's promise.
            unsafe { (crate::load::library().$name)($($argument),*) }
        })*
    };
}
