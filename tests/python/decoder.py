"""The library under test, named by CLUSTERFUSION_LIBRARY, with as much Python around its handles as the tests need. Contexts are of
CLUSTERFUSION_DEVICE, cpu or cuda.

Every call that fails raises Failure. A step is waited for before its call returns, so its outputs are ready.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from goldens import DEVICE
from interface import ffi

if "CLUSTERFUSION_LIBRARY" not in os.environ:
    raise RuntimeError("CLUSTERFUSION_LIBRARY must name the libclusterfusion.so to test")
lib = ffi.dlopen(os.environ["CLUSTERFUSION_LIBRARY"])

DEVICE_KINDS = {"cpu": lib.CF_DEVICE_CPU, "cuda": lib.CF_DEVICE_CUDA}
DTYPES = {"F32": lib.CF_DTYPE_F32, "F16": lib.CF_DTYPE_F16, "BF16": lib.CF_DTYPE_BF16}
ISAS = {"baseline": lib.CF_CPU_ISA_BASELINE, "avx2": lib.CF_CPU_ISA_AVX2, "avx512": lib.CF_CPU_ISA_AVX512}


class Failure(Exception):
    def __init__(self, status: int):
        self.status = status
        self.name = ffi.string(lib.cf_status_name(status)).decode()
        text = ffi.new("char[]", 2048)
        lib.cf_last_error(text, 2048, ffi.NULL)
        self.text = ffi.string(text).decode()
        super().__init__(f"{self.name}: {self.text}")


def check(status: int) -> None:
    if status != lib.CF_OK:
        raise Failure(status)


def make(type_name: str, **fields):
    """A struct with its defaults, then `fields`."""
    struct = ffi.new(type_name + "*")
    check(getattr(lib, type_name + "_init")(struct, ffi.sizeof(type_name)))
    for name, value in fields.items():
        setattr(struct, name, value)
    return struct


def created(type_name: str, call, *arguments):
    """What `call` writes to its last argument, destroyed with the object returned."""
    out = ffi.new(f"{type_name}**")
    check(call(*arguments, out))
    return ffi.gc(out[0], getattr(lib, type_name + "_destroy"))


def _ints(values) -> "ffi.CData":
    return ffi.new("int32_t[]", [int(value) for value in values])


class Context:
    def __init__(self, threads: int = 0, isa: int = lib.CF_CPU_ISA_AUTO, log=None):
        """log(level, message) gets everything the library says."""
        options = make("cf_context_options", device_kind=DEVICE_KINDS[DEVICE], cpu_threads=threads, cpu_isa=isa)
        if log:
            self._log = ffi.callback("cf_log_fn", lambda user, level, message: log(level, ffi.string(message).decode()))
            options.log, options.log_level = self._log, lib.CF_LOG_DEBUG
        self.handle = created("cf_context", lib.cf_context_create, options)


class Model:
    def __init__(self, context: Context, handle):
        self.context, self.handle = context, handle
        self.config = make("cf_model_config")
        check(lib.cf_model_get_config(handle, self.config))
        self.vocab_size = self.config.vocab_size

    @classmethod
    def load(cls, context: Context, directory, **options) -> "Model":
        return cls(context, created("cf_model", lib.cf_model_load, context.handle, str(directory).encode(), make("cf_model_options", **options)))

    @classmethod
    def create(cls, context: Context, config, **options) -> "Model":
        return cls(context, created("cf_model", lib.cf_model_create, context.handle, config, make("cf_model_options", **options)))

    def load_layer(self, layer: int, tensors: dict) -> None:
        """tensors: role -> weights.Tensor, of any row stride."""
        array, keep = self._descriptors(tensors)
        check(lib.cf_load_layer(self.handle, layer, array, len(tensors), ffi.NULL))

    def load_globals(self, tensors: dict) -> None:
        array, keep = self._descriptors(tensors)
        check(lib.cf_load_globals(self.handle, array, len(tensors), ffi.NULL))

    @staticmethod
    def _descriptors(tensors: dict):
        array = ffi.new("cf_tensor[]", len(tensors))
        for descriptor, (role, tensor) in zip(array, tensors.items()):
            check(lib.cf_tensor_init(ffi.addressof(descriptor), ffi.sizeof("cf_tensor")))
            data = tensor.data
            descriptor.role, descriptor.dtype, descriptor.rank = role, DTYPES[tensor.dtype], data.ndim
            for axis in range(data.ndim):
                descriptor.shape[axis] = data.shape[axis]
                descriptor.strides[axis] = data.strides[axis] // data.itemsize
            descriptor.data = ffi.cast("void*", data.ctypes.data)
        return array, tensors

    def info(self):
        info = make("cf_model_info")
        check(lib.cf_model_query(self.handle, info))
        return info


@dataclass
class Step:
    """What a step gave. Arrays that were not asked for are None."""

    token: int = -1
    stopped: bool = False
    position: int = 0
    n_steps: int = 0
    logits: np.ndarray | None = None  # [rows, vocab_size]
    top_tokens: np.ndarray | None = None
    top_logprobs: np.ndarray | None = None
    target_logprobs: np.ndarray | None = None
    row_tokens: np.ndarray | None = None
    row_status: np.ndarray | None = None


@dataclass
class Tap:
    """data: [rows of the step, width] float32, read into or written from."""

    point: int
    layer: int
    data: np.ndarray
    write: bool = False


class _Outputs:
    """Arrays for a step to write, and the options that point to them."""

    def __init__(
        self,
        vocab_size: int,
        n_rows: int,
        *,
        rows: int = lib.CF_ROWS_ALL,
        sample: bool = True,
        top_n: int = 0,
        targets=None,
        taps: Sequence[Tap] = (),
        cancellation=ffi.NULL,
    ):
        self.step = step = Step(
            logits=np.empty((n_rows, vocab_size), np.float32),
            row_tokens=np.empty(n_rows, np.int32) if sample else None,
            row_status=np.empty(n_rows, np.int32),
        )
        if top_n:
            step.top_tokens, step.top_logprobs = np.empty((n_rows, top_n), np.int32), np.empty((n_rows, top_n), np.float32)
        if targets is not None:
            step.target_logprobs = np.empty(n_rows, np.float32)
        self._targets = ffi.NULL if targets is None else _ints(targets)
        self._keep = []
        self.struct = make(
            "cf_outputs",
            rows=rows,
            top_n=top_n,
            logits=self._pointer("float", step.logits),
            top_tokens=self._pointer("int32_t", step.top_tokens),
            top_logprobs=self._pointer("float", step.top_logprobs),
            targets=self._targets,
            target_logprobs=self._pointer("float", step.target_logprobs),
            row_tokens=self._pointer("int32_t", step.row_tokens),
            row_status=self._pointer("int32_t", step.row_status),
        )
        self._taps = ffi.new("cf_tap[]", len(taps))
        for descriptor, tap in zip(self._taps, taps):
            check(lib.cf_tap_init(ffi.addressof(descriptor), ffi.sizeof("cf_tap")))
            descriptor.point, descriptor.layer = tap.point, tap.layer
            descriptor.action = lib.CF_TAP_WRITE if tap.write else lib.CF_TAP_READ
            descriptor.data = self._pointer("float", tap.data)
        self.options = make(
            "cf_step_options", sample=int(sample), outputs=self.struct, taps=self._taps, n_taps=len(taps), cancellation=cancellation
        )

    def _pointer(self, kind: str, array):
        if array is None:
            return ffi.NULL
        self._keep.append(ffi.from_buffer(f"{kind}[]", array, require_writable=True))
        return ffi.cast(f"{kind}*", self._keep[-1])


class Session:
    def __init__(self, model: Model, **options):
        self.model = model
        self.handle = created("cf_session", lib.cf_session_create, model.handle, make("cf_session_options", **options))

    def prefill(self, tokens, *, rows: int = lib.CF_ROWS_ALL, **wanted) -> Step:
        outputs = _Outputs(self.model.vocab_size, len(tokens) if rows == lib.CF_ROWS_ALL else 1, rows=rows, **wanted)
        check(lib.cf_prefill(self.handle, _ints(tokens), len(tokens), outputs.options))
        return self.wait(outputs.step)

    def decode_step(self, token: int = lib.CF_TOKEN_PENDING, **wanted) -> Step:
        outputs = _Outputs(self.model.vocab_size, 1, **wanted)
        check(lib.cf_decode_step(self.handle, int(token), outputs.options))
        return self.wait(outputs.step)

    def decode_steps(self, n_steps: int, **wanted) -> Step:
        outputs = _Outputs(self.model.vocab_size, 1, **wanted)
        check(lib.cf_decode_steps(self.handle, n_steps, outputs.options))
        return self.wait(outputs.step)

    def draw_steps(self, n_steps: int) -> Step:
        """Without outputs, so that a GPU draws the tokens by itself."""
        check(lib.cf_decode_steps(self.handle, n_steps, ffi.NULL))
        return self.wait()

    def decode_positions(self, tokens, **wanted) -> Step:
        outputs = _Outputs(self.model.vocab_size, len(tokens), **wanted)
        check(lib.cf_decode_positions(self.handle, _ints(tokens), len(tokens), outputs.options))
        return self.wait(outputs.step)

    def wait(self, step: Step | None = None) -> Step:
        """Adds what cf_session_wait says to `step`."""
        result = make("cf_result")
        check(lib.cf_session_wait(self.handle, result))
        step = step or Step()
        step.token, step.stopped, step.position, step.n_steps = result.token, bool(result.stopped), result.position, result.n_steps
        return step

    def truncate(self, position: int) -> Step:
        check(lib.cf_session_truncate(self.handle, position))
        return self.wait()

    def tokens(self, start: int = 0, capacity: int = 4096) -> list[int]:
        out, count = ffi.new("int32_t[]", capacity), ffi.new("size_t*")
        check(lib.cf_session_tokens(self.handle, start, out, capacity, count))
        return list(out[0 : count[0]])

    def set_sampler(self, **fields) -> None:
        options = sampler_options(**fields)
        check(lib.cf_session_set_sampler(self.handle, options.struct))

    def set_allowed_tokens(self, allowed) -> None:
        """allowed: one truth value per token, or None."""
        mask = ffi.NULL if allowed is None else mask_of(allowed)
        check(lib.cf_session_set_allowed_tokens(self.handle, mask, 0 if allowed is None else len(mask)))


def decode_batch(sessions: list[Session], tokens=None, **wanted) -> Step:
    """The returned step has a row per session; its token is that of the last."""
    outputs = _Outputs(sessions[0].model.vocab_size, len(sessions), **wanted)
    handles = ffi.new("cf_session*[]", [session.handle for session in sessions])
    check(lib.cf_decode_batch(handles, len(sessions), ffi.NULL if tokens is None else _ints(tokens), outputs.options))
    for session in sessions:
        session.wait(outputs.step)
    return outputs.step


@dataclass
class SamplerOptions:
    struct: object
    keep: tuple  # arrays that the struct points to


def sampler_options(biases: dict | None = None, stops=(), **fields) -> SamplerOptions:
    """biases: token -> value. The other fields are cf_sampler_options's."""
    biases = biases or {}
    keep = (_ints(biases), ffi.new("float[]", list(biases.values())), _ints(stops))
    struct = make("cf_sampler_options", n_logit_biases=len(biases), n_stop_tokens=len(stops), **fields)
    struct.logit_bias_tokens, struct.logit_bias_values, struct.stop_tokens = keep
    return SamplerOptions(struct, keep)


def mask_of(allowed):
    """One bit per token, 32 to a word."""
    words = np.zeros((len(allowed) + 31) // 32, np.uint32)
    for token, bit in enumerate(allowed):
        words[token // 32] |= np.uint32(bool(bit)) << np.uint32(token % 32)
    return ffi.new("uint32_t[]", words.tolist())


def sample_logits(logits: np.ndarray, position: int, options: SamplerOptions, history=(), allowed=None) -> int:
    token = ffi.new("int32_t*")
    logits = np.ascontiguousarray(logits, np.float32)
    mask = ffi.NULL if allowed is None else mask_of(allowed)
    check(lib.cf_sample_logits(options.struct, mask, ffi.from_buffer("float[]", logits), len(logits), _ints(history), len(history), position, token))
    return token[0]
