//! What can go wrong: a kind for each status of the library, with the sentence that names what was wrong.

use std::fmt;

use crate::sys;

/// The result of what may fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! errors {
    ($($(#[doc = $doc:literal])* $name:ident = $status:ident,)*) => {
        /// Why a call failed, with a sentence that names what was wrong. What was called is unchanged and usable.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Error {
            $($(#[doc = $doc])* $name(String),)*
            /// The library could not be opened, or is one of another ABI version.
            Library(String),
            /// A status that this crate does not know: the library is newer.
            Unknown {
                /// The status.
                status: i32,
                /// The library's sentence.
                sentence: String,
            },
        }

        impl Error {
            /// The kind of a status that is not `CF_OK`.
            pub(crate) fn of(status: sys::cf_status, sentence: String) -> Self {
                match status {
                    $(sys::$status => Self::$name(sentence),)*
                    _ => Self::Unknown { status, sentence },
                }
            }

            /// The library's status, such as [`sys::CF_ERROR_IO`]; `None` for [`Error::Library`].
            pub fn status(&self) -> Option<i32> {
                match self {
                    $(Self::$name(_) => Some(sys::$status),)*
                    Self::Library(_) => None,
                    Self::Unknown { status, .. } => Some(*status),
                }
            }

            /// What was wrong.
            pub fn sentence(&self) -> &str {
                match self {
                    $(Self::$name(sentence) => sentence,)*
                    Self::Library(sentence) | Self::Unknown { sentence, .. } => sentence,
                }
            }
        }

        /// Every status that an error is of, for tests.
        #[cfg(test)]
        const STATUSES: &[sys::cf_status] = &[$(sys::$status),*];
    };
}

errors! {
    /// An argument is impossible, out of range or inconsistent.
    InvalidArgument = CF_ERROR_INVALID_ARGUMENT,
    /// Memory of the host or the device could not be allocated.
    OutOfMemory = CF_ERROR_OUT_OF_MEMORY,
    /// A file could not be opened or read.
    Io = CF_ERROR_IO,
    /// A file was read and breaks its format, or lacks something that the model needs.
    InvalidFile = CF_ERROR_INVALID_FILE,
    /// Well-formed, but not built yet, not for this backend, or not this model family.
    Unsupported = CF_ERROR_UNSUPPORTED,
    /// No such device, or no driver.
    NoDevice = CF_ERROR_NO_DEVICE,
    /// The device failed; every call on this context answers so from now on.
    DeviceLost = CF_ERROR_DEVICE_LOST,
    /// A layer or tensor that the call needs has not been loaded.
    NotLoaded = CF_ERROR_NOT_LOADED,
    /// The session's capacity or its pool has no room for the step.
    CacheFull = CF_ERROR_CACHE_FULL,
    /// The model computed NaN or infinity; no token was sampled.
    NonfiniteLogits = CF_ERROR_NONFINITE_LOGITS,
    /// Mask and biases leave no token to sample.
    NoTokenAllowed = CF_ERROR_NO_TOKEN_ALLOWED,
    /// Stopped by a [`Cancellation`](crate::Cancellation) or a progress closure.
    Cancelled = CF_ERROR_CANCELLED,
    /// A buffer is too small.
    BufferTooSmall = CF_ERROR_BUFFER_TOO_SMALL,
    /// A saved session or new weights belong to another model.
    Mismatch = CF_ERROR_MISMATCH,
    /// The object is in use by another call or has unfinished work.
    Busy = CF_ERROR_BUSY,
    /// A defect of the library; please report it.
    Internal = CF_ERROR_INTERNAL,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

impl std::error::Error for Error {}

/// An [`Error::InvalidArgument`] with a formatted sentence.
macro_rules! invalid {
    ($($argument:tt)*) => { crate::Error::InvalidArgument(format!($($argument)*)) };
}
pub(crate) use invalid;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_kind_of_its_own() {
        for status in sys::CF_ERROR_INVALID_ARGUMENT..=sys::CF_ERROR_INTERNAL {
            assert!(STATUSES.contains(&status), "status {status} has no kind");
            let error = Error::of(status, "what".into());
            assert_eq!((error.status(), error.sentence(), error.to_string().as_str()), (Some(status), "what", "what"));
        }
        assert_eq!(Error::of(99, "new".into()), Error::Unknown { status: 99, sentence: "new".into() });
    }
}
