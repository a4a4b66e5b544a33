//! Decodes GPT-NeoX (Pythia) and Llama checkpoints, one stream of tokens at the lowest latency the hardware allows, inside your program.
//! A thin crate over libclusterfusion's C interface, for Linux.
//!
//! ```no_run
//! let model = clusterfusion::Model::load("examples/demo_model")?;
//! for token in model.generate("412+93=".bytes(), 64)? { // a token of the demo model is a byte
//!     print!("{}", char::from(token? as u8));
//! }
//! # Ok::<(), clusterfusion::Error>(())
//! ```
//!
//! [`Context`] is a device, its memory and its log; [`Model`] has weights, which any number of sessions share; [`Session`] is one
//! sequence, with a loop of your own. What is made from something keeps it: there are no lifetimes to look after. What fails gives an
//! [`Error`] with a sentence that names what was wrong, and what was called is unchanged and usable.
//!
//! | feature | |
//! |---|---|
//! | none | the library that pkg-config finds is linked |
//! | `bundled` | it is built with CMake from sources that come with the crate, and linked statically |
//! | `load` | it is opened at run time: `CLUSTERFUSION_LIBRARY`, or `libclusterfusion.so` of the system |
//! | `stream` | tokens as a `Stream` |
//! | `tokenizers` | text, through the checkpoint's tokenizer.json |
//!
//! Threads: a [`Context`], a [`Model`], a [`KvPool`] and a [`Cancellation`] are `Send` and `Sync`, a [`Session`] is `Send`. Closures that
//! the library calls run on the thread that is in the call. From inside them nothing of this crate may be called, except
//! [`Cancellation::request`] and `is_requested`: it answers [`Error::Busy`]. A panic in one goes on after the call.

mod allocator;
mod batch;
mod block;
mod callbacks;
mod cancellation;
#[cfg(any(feature = "stream", test))]
mod channel;
mod config;
mod context;
mod device;
mod enums;
mod error;
mod graph;
mod mask;
mod model;
mod native;
mod pool;
mod request;
mod sampler;
mod session;
mod session_options;
mod step;
#[cfg(feature = "stream")]
mod stream;
mod tap;
mod tensor;
#[cfg(feature = "tokenizers")]
mod text;
mod tokens;

/// The C interface, for what is not wrapped.
pub use clusterfusion_sys as sys;

pub use allocator::Allocator;
pub use batch::{decode_batch, decode_batch_with};
pub use block::BlockCall;
pub use cancellation::Cancellation;
pub use config::{ModelConfig, RopeScaling};
pub use context::{Context, ContextInfo, ContextOptions};
pub use device::{devices, Device, DeviceInfo};
pub use enums::{Activation, CpuIsa, DType, Family, LaunchMode, LogLevel, Norm, Role, TapPoint};
pub use error::{Error, Result};
pub use graph::{Graph, GraphInfo};
pub use mask::TokenMask;
pub use model::{LoadOptions, MemoryEstimate, Model, ModelInfo};
pub use native::library_version;
#[cfg(feature = "load")]
pub use native::load_library;
pub use pool::{KvPool, KvPoolInfo, KvPoolOptions};
pub use sampler::Sampler;
pub use session::{Session, TokenReader};
pub use session_options::{SessionInfo, SessionOptions};
pub use step::{Output, Step, StepOptions};
#[cfg(feature = "stream")]
pub use stream::TokenStream;
pub use tap::Tap;
pub use tensor::Tensor;
#[cfg(feature = "tokenizers")]
pub use text::{TextStream, Tokenizer};
pub use tokens::{FinishReason, GenerateOptions, Tokens};

/// A token of a model's vocabulary.
pub type Token = i32;
