//! A device, its memory and its log.

use std::ffi::{c_char, c_void, CStr};
use std::fmt;
use std::sync::Arc;

use crate::allocator::{self, Allocator};
use crate::callbacks;
use crate::error::Result;
use crate::model::{LoadOptions, MemoryEstimate};
use crate::native::{self, make, queried, Handle};
use crate::{sys, CpuIsa, DType, Device, LogLevel, ModelConfig, SessionOptions};

type Log = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// Where models live. Clones are the same context, which threads may share; it goes with the last of what was made from it.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    handle: Handle<sys::cf_context>, // first, because its destruction still logs and frees
    device: Device,
    _log: Option<Box<Log>>,
    _allocator: Option<Box<allocator::Shared>>,
}

impl Context {
    /// With defaults, on a device.
    pub fn new(device: Device) -> Result<Self> {
        ContextOptions::new().device(device).build()
    }

    /// What can be chosen.
    pub fn options() -> ContextOptions {
        ContextOptions::new()
    }

    /// The device that it is on.
    pub fn device(&self) -> Device {
        self.0.device
    }

    /// Its threads and memory, as they are now.
    pub fn info(&self) -> Result<ContextInfo> {
        // SAFETY: the handle lives, and the struct can be written to.
        let info = queried::<sys::cf_context_info>(|info| unsafe { sys::cf_context_query(self.raw(), info) })?;
        Ok(ContextInfo {
            n_devices: info.n_devices,
            cpu_threads: info.cpu_threads,
            cpu_isa: CpuIsa::of(info.cpu_isa)?,
            allocated_bytes: info.allocated_bytes,
            peak_bytes: info.peak_bytes,
        })
    }

    /// The sentence of the last failing call on this context or anything made from it, by any thread; empty: none failed.
    pub fn last_error(&self) -> Result<String> {
        let mut sentence = String::new();
        native::call(|| {
            let mut status = sys::CF_OK;
            sentence = native::sentence(|buffer, capacity, length| {
                // SAFETY: the handle lives, and the buffer has as many bytes as it is said to have.
                status = unsafe { sys::cf_context_last_error(self.raw(), buffer, capacity, length) };
                status
            });
            status
        })?;
        Ok(sentence)
    }

    /// Exact byte counts before anything is allocated: of a model of `config` whose matrices are stored as `stored`, and of one session.
    pub fn estimate(&self, config: &ModelConfig, stored: DType, weight_dtype: DType, session: &SessionOptions) -> Result<MemoryEstimate> {
        let config = config.to_struct()?;
        let mut model_options = LoadOptions::new().weight_dtype(weight_dtype);
        let model_options = model_options.as_struct()?;
        let session_options = session.to_struct()?;
        let found = queried::<sys::cf_memory_estimate>(|out| {
            // SAFETY: the handle lives, the structs are initialised, and the last can be written to.
            unsafe { sys::cf_model_estimate(self.raw(), &config, stored.raw(), &model_options, &session_options, out) }
        })?;
        Ok(MemoryEstimate {
            weights_bytes: found.weights_bytes,
            load_staging_bytes: found.load_staging_bytes,
            page_bytes: found.page_bytes,
            kv_bytes: found.kv_bytes,
            workspace_bytes: found.workspace_bytes,
        })
    }

    pub(crate) fn raw(&self) -> *mut sys::cf_context {
        self.0.handle.get()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("device", &self.0.device).finish()
    }
}

/// A context's threads and memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextInfo {
    /// Devices that it is on.
    pub n_devices: i32,
    /// CPU: as resolved.
    pub cpu_threads: i32,
    /// CPU: as resolved.
    pub cpu_isa: CpuIsa,
    /// Held now, over all devices.
    pub allocated_bytes: u64,
    /// The most that was ever held.
    pub peak_bytes: u64,
}

/// What can be chosen about a [`Context`]. What is not is the library's default.
#[derive(Default)]
#[must_use = "`build` makes the context"]
pub struct ContextOptions {
    devices: Vec<Device>,
    cpu_threads: usize,
    cpu_isa: Option<CpuIsa>,
    log: Option<(LogLevel, Log)>,
    allocator: Option<Box<dyn Allocator>>,
    device_wait_limit_ms: Option<u32>,
    prefill_workspace_bytes: Option<u64>,
    device_multiprocessors: usize,
    device_shared_memory_bytes: u32,
}

impl ContextOptions {
    /// The defaults: the CPU, with all threads that the process may use, and silent.
    pub fn new() -> Self {
        Self::default()
    }

    /// The device.
    pub fn device(self, device: Device) -> Self {
        self.devices([device])
    }

    /// Several CUDA devices, which is [`Error::Unsupported`](crate::Error::Unsupported) for now.
    pub fn devices(mut self, devices: impl IntoIterator<Item = Device>) -> Self {
        self.devices = devices.into_iter().collect();
        self
    }

    /// CPU: threads of a call, the caller's included; 0: all that the process may use.
    pub fn cpu_threads(mut self, threads: usize) -> Self {
        self.cpu_threads = threads;
        self
    }

    /// CPU: forces an instruction set; [`Error::Unsupported`](crate::Error::Unsupported) if this machine lacks it.
    pub fn cpu_isa(mut self, isa: CpuIsa) -> Self {
        self.cpu_isa = Some(isa);
        self
    }

    /// Gets each message up to `level`, on the thread that is in the call; from several threads at once if the context is used from
    /// several. It must not call this crate. A panic in it goes on after the call.
    pub fn log(mut self, level: LogLevel, log: impl Fn(LogLevel, &str) + Send + Sync + 'static) -> Self {
        self.log = Some((level, Box::new(log)));
        self
    }

    /// Whence the memory of weights, KV pages and work buffers comes.
    pub fn allocator(mut self, allocator: impl Allocator + 'static) -> Self {
        self.allocator = Some(Box::new(allocator));
        self
    }

    /// CUDA: bound of every device-side wait, then [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn device_wait_limit_ms(mut self, limit: u32) -> Self {
        self.device_wait_limit_ms = Some(limit);
        self
    }

    /// CUDA: what prompts may take besides weights and sessions, for each model.
    pub fn prefill_workspace_bytes(mut self, bytes: u64) -> Self {
        self.prefill_workspace_bytes = Some(bytes);
        self
    }

    /// CUDA: the launches of a device with fewer SMs, or less shared memory for a CTA, than this one has; the bits are the same. 0: its
    /// own.
    pub fn as_smaller_device(mut self, multiprocessors: usize, shared_memory_bytes: u32) -> Self {
        self.device_multiprocessors = multiprocessors;
        self.device_shared_memory_bytes = shared_memory_bytes;
        self
    }

    /// Makes the context. [`Error::NoDevice`](crate::Error::NoDevice): no such device, or no driver.
    /// [`Error::Unsupported`](crate::Error::Unsupported): a library without CUDA, a device older than compute capability 8.0, or what the
    /// options say.
    pub fn build(self) -> Result<Context> {
        let device = self.devices.first().copied().unwrap_or(Device::Cpu);
        if let Some(other) = self.devices.iter().find(|other| other.kind() != device.kind()) {
            return Err(crate::error::invalid!("the devices are {device} and {other}, expected all of one kind"));
        }
        let ordinals = self.devices.iter().map(|device| device.ordinal()).collect::<Result<Vec<i32>>>()?;
        let mut options = make::<sys::cf_context_options>()?;
        options.device_kind = device.kind();
        options.n_devices = native::number("the number of devices", ordinals.len())?;
        options.devices = native::address(&ordinals);
        options.cpu_threads = native::number("cpu_threads", self.cpu_threads)?;
        options.cpu_isa = self.cpu_isa.map_or(options.cpu_isa, CpuIsa::raw);
        options.device_wait_limit_ms = self.device_wait_limit_ms.unwrap_or(options.device_wait_limit_ms);
        options.prefill_workspace_bytes = self.prefill_workspace_bytes.unwrap_or(options.prefill_workspace_bytes);
        options.device_multiprocessors = native::number("device_multiprocessors", self.device_multiprocessors)?;
        options.device_shared_memory_bytes = self.device_shared_memory_bytes;
        let log = self.log.map(|(level, log)| {
            options.log_level = level.raw();
            Box::new(log)
        });
        if let Some(log) = &log {
            options.log = Some(log_message);
            options.log_user = std::ptr::from_ref::<Log>(log).cast_mut().cast();
        }
        let allocator = self.allocator.map(|own| Box::new(allocator::Shared(own)));
        if let Some(allocator) = &allocator {
            options.allocate = Some(allocator::allocate);
            options.free = Some(allocator::free);
            options.allocator_user = std::ptr::from_ref::<allocator::Shared>(allocator).cast_mut().cast();
        }
        // SAFETY: the options are initialised, and what they point to lives as long as the handle, beside which it is kept.
        let handle = Handle::new(|out| unsafe { sys::cf_context_create(&options, out) })?;
        Ok(Context(Arc::new(Inner { handle, device, _log: log, _allocator: allocator })))
    }
}

impl fmt::Debug for ContextOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextOptions").field("devices", &self.devices).field("cpu_threads", &self.cpu_threads).finish_non_exhaustive()
    }
}

/// The cf_log_fn of a `Log`, whose address is `user`.
unsafe extern "C" fn log_message(user: *mut c_void, level: sys::cf_log_level, message: *const c_char) {
    callbacks::run((), || {
        // SAFETY: given with this function, and kept beside the context.
        let log = unsafe { &*user.cast::<Log>() };
        // SAFETY: ends with NUL, and is valid during the call.
        let message = unsafe { CStr::from_ptr(message) };
        log(LogLevel::of(level).unwrap_or(LogLevel::Debug), &message.to_string_lossy());
    });
}
