"""A device, its memory and its log; and the flag that cancels long calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .callbacks import LogFunction, log_callback, log_to_logging, logging_level
from .devices import parse_device
from .enums import CpuIsa, DeviceKind, Dtype, LogLevel, member
from .handles import Handle
from .native import check, created, ffi, lib, make
from .records import ContextInfo, MemoryEstimate, ModelConfig, queried, record, set_field

if TYPE_CHECKING:
    from .session import SessionOptions


class Context(Handle):
    """Where models live. May be shared by threads freely.

    device: "cpu", "cuda:0", a list of those (more than one is an UnsupportedError for now), or "auto": the first usable CUDA
        device, else the CPU.
    cpu_threads: CPU: threads of a call, the caller's included; 0: all that the process may use.
    cpu_isa: CPU: forces an instruction set. UnsupportedError if this machine lacks it.
    log: gets (level, message); None: the logger "clusterfusion" of Python's logging, at the level that it has now.
    log_level: messages above it are dropped; only with `log`.
    device_wait_limit_ms: CUDA: bound of every device-side wait, then DeviceLostError; default 1000.
    prefill_workspace_bytes: CUDA: what prompts may take besides weights and sessions, for each model; default 256 MiB.
    device_multiprocessors, device_shared_memory_bytes: CUDA: the launches of a device with fewer SMs, or less shared memory for a
        CTA, than this one has; the bits are the same.

    NoDeviceError: no such device, or no driver. UnsupportedError: built without CUDA, or a device older than compute capability 8.0.
    """

    def __init__(
        self,
        device: str | Sequence[str] = "auto",
        *,
        cpu_threads: int = 0,
        cpu_isa: CpuIsa | str = CpuIsa.AUTO,
        log: LogFunction | None = None,
        log_level: LogLevel | str = LogLevel.INFO,
        device_wait_limit_ms: int | None = None,
        prefill_workspace_bytes: int | None = None,
        device_multiprocessors: int = 0,
        device_shared_memory_bytes: int = 0,
    ) -> None:
        kind, ordinals = parse_device(device)
        self.device_kind = kind
        self.ordinal = ordinals[0]
        devices = ffi.new("int32_t[]", ordinals)
        log_function = log_callback(log or log_to_logging)
        level = member(LogLevel, log_level, "log_level") if log else logging_level()
        options = make("cf_context_options", device_kind=kind, n_devices=len(ordinals), devices=devices, log=log_function, log_level=level)
        options.cpu_isa = member(CpuIsa, cpu_isa, "cpu_isa")
        numbers = {
            "cpu_threads": cpu_threads,
            "device_wait_limit_ms": device_wait_limit_ms,
            "prefill_workspace_bytes": prefill_workspace_bytes,
            "device_multiprocessors": device_multiprocessors,
            "device_shared_memory_bytes": device_shared_memory_bytes,
        }
        for name, value in numbers.items():
            if value is not None:
                set_field(options, name, value)
        self._keep = (log_function,)  # also for what is made from this context
        super().__init__(created("cf_context", lib.cf_context_create, options, keep=self._keep))

    @property
    def device(self) -> str:
        """Its name, such as "cpu" or "cuda:0"."""
        return "cpu" if self.device_kind == DeviceKind.CPU else f"cuda:{self.ordinal}"

    @property
    def info(self) -> ContextInfo:
        return queried(ContextInfo, lib.cf_context_query, self.handle, "cf_context_info")

    @property
    def last_error(self) -> str:
        """The sentence of the last failing call on this context or anything made from it, by any thread; empty: none."""
        text = ffi.new("char[]", 1025)
        check(lib.cf_context_last_error(self.handle, text, 1025, ffi.NULL))
        sentence: str = ffi.string(text).decode(errors="replace")
        return sentence

    def estimate(
        self,
        config: ModelConfig,
        *,
        stored_dtype: Dtype | str = Dtype.F16,
        weight_dtype: Dtype | str = Dtype.AUTO,
        session: SessionOptions | None = None,
    ) -> MemoryEstimate:
        """Exact bytes that a model of this configuration, whose matrices the checkpoint stores in stored_dtype, and one session with
        these options will take. UnsupportedError for a shape that the device cannot run."""
        from .session import SessionOptions

        model_options = make("cf_model_options", weight_dtype=member(Dtype, weight_dtype, "weight_dtype"))
        session_options: Any = (session or SessionOptions())._to_struct()
        estimate = make("cf_memory_estimate")
        dtype = member(Dtype, stored_dtype, "stored_dtype")
        check(lib.cf_model_estimate(self.handle, config._to_struct(), dtype, model_options, session_options, estimate))
        return record(MemoryEstimate, estimate)


class Cancellation(Handle):
    """A flag that one thread raises and long calls of other threads look at. May be given to any number of calls.

    Calls that were given it stop with CancelledError at the next layer (CPU, loading) or launch (CUDA), until `reset`. In the
    main thread Ctrl-C needs none of this.
    """

    def __init__(self) -> None:
        super().__init__(created("cf_cancellation", lib.cf_cancellation_create))

    def request(self) -> None:
        """From any thread, also while calls run."""
        check(lib.cf_cancellation_request(self.handle))

    def reset(self) -> None:
        """Lowers the flag."""
        check(lib.cf_cancellation_reset(self.handle))

    @property
    def requested(self) -> bool:
        """Whether the flag is raised."""
        value = ffi.new("int32_t*")
        check(lib.cf_cancellation_requested(self.handle, value))
        return bool(value[0])
