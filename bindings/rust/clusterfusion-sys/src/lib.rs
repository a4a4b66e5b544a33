//! The C interface of libclusterfusion in Rust, as `include/clusterfusion.h` has it; the crate `clusterfusion` is what to use instead.
//!
//! The header is the manual, and its comments are shown here. How a program comes by the library:
//!
//! | feature | |
//! |---|---|
//! | none | the library that pkg-config finds is linked (`PKG_CONFIG_PATH` says where else to look) |
//! | `bundled` | it is built with CMake from the sources that this crate brings, and linked statically; with CUDA where a toolkit is installed |
//! | `load` | the function `load` or the first call opens it at run time |
//! | `bindgen` | the bindings are made anew from the header, with libclang; for those who change it |
//!
//! `bundled` takes `CF_CUDA`, `CF_CUDA_TARGETS`, `CF_HIGHWAY_INCLUDE_DIR` and `CF_JSON_INCLUDE_DIR` from the environment, as
//! options for CMake.
//!
//! ```
//! // The first call of a program: ABI versions have to agree before anything else is called.
//! let found = unsafe { clusterfusion_sys::cf_abi_version() };
//! assert_eq!(found, clusterfusion_sys::CF_ABI_VERSION);
//! ```
#![allow(non_camel_case_types, clippy::missing_safety_doc, clippy::too_many_arguments)]

#[cfg(all(feature = "load", feature = "bundled"))]
compile_error!("the features `load` and `bundled` of clusterfusion-sys exclude each other: the library is opened at run time, or it is linked");

#[cfg(feature = "load")]
#[macro_use]
mod load;
#[cfg(not(feature = "load"))]
#[macro_use]
mod link;

#[allow(missing_docs)]
mod types {
    #[cfg(feature = "bindgen")]
    include!(concat!(env!("OUT_DIR"), "/types.rs"));
    #[cfg(not(feature = "bindgen"))]
    include!("bindings/types.rs");
}

#[allow(missing_docs)]
mod functions {
    use crate::types::*;

    #[cfg(feature = "bindgen")]
    include!(concat!(env!("OUT_DIR"), "/functions.rs"));
    #[cfg(not(feature = "bindgen"))]
    include!("bindings/functions.rs");
}

pub use functions::*;
#[cfg(feature = "load")]
pub use load::{load, LoadError};
pub use types::*;
