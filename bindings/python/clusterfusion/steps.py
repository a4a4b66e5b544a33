"""What a step is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt

from .arrays import TokenArray, check_place, check_view, tokens_array, view
from .callbacks import ProgressFunction, progress_callback
from .checks import instance
from .context import Cancellation
from .device_array import DeviceArray
from .enums import DeviceKind, Memory, OutputRows
from .errors import InvalidArgumentError
from .native import ffi, make
from .records import set_field
from .taps import Tap, tap_descriptors

if TYPE_CHECKING:
    from .model import Model

PENDING = -1  # as a token: the one that the last step sampled


class Wanted(TypedDict, total=False):
    """What every kind of step can be asked for besides the token that it samples. Rows are those of the step: of a prefill the last
    position, or all with rows="all"; of decode_positions each position; of decode_batch each session; else one. V is vocab_size.
    """

    logits: bool | Literal["device"] | Any
    """True: as a new NumPy array [rows, V] of F32. "device": as a DeviceArray in the device's memory, for torch.from_dlpack. An array of
    [rows, V] of F32, in host memory or the device's: they are written there, and nothing is allocated. The device's memory must not
    be in use on another stream than the session's when the step begins."""
    top_n: int
    """How many of the likeliest tokens to give at each row, with their natural log-probabilities of the raw logits: 0 .. 1024, at
    most V. Not together with logits in device memory."""
    targets: TokenArray
    """[rows] token to score at each row, -1: none. Not together with logits in device memory."""
    taps: Sequence[Tap]
    """Looks into blocks, and hands in them."""
    sample: bool
    """False: no token is sampled, and none is pending afterwards: for the first calls of a prompt given in pieces."""
    cancellation: Cancellation | None
    """Ends the step with CancelledError when it is raised."""


@dataclass
class Step:
    """What a step gave. Arrays that were not asked for are None, which their types leave out: whoever reads one has asked for it."""

    token: int = -1  # the pending token: the one sampled after the last position; -1: none
    stopped: bool = False  # it is a stop token
    position: int = 0  # positions cached now
    n_steps: int = 0  # steps, or positions of a prompt, that were finished
    logits: Any = None  # [rows, V], float32
    top_tokens: npt.NDArray[np.int32] = None  # type: ignore[assignment]  # [rows, top_n], most likely first
    top_logprobs: npt.NDArray[np.float32] = None  # type: ignore[assignment]  # [rows, top_n]
    target_logprobs: npt.NDArray[np.float32] = None  # type: ignore[assignment]  # [rows]; 0 where the target is -1
    row_tokens: npt.NDArray[np.int32] = None  # type: ignore[assignment]  # [rows] sampled after each; -1 in a prefill except after the last
    row_status: npt.NDArray[np.int32] = None  # type: ignore[assignment]  # [rows] of Status: why a row failed


class Request:
    """A step's options, the arrays it writes, and all that must live until its status has been fetched."""

    def __init__(
        self,
        model: Model,
        n_rows: int,
        n_outputs: int,
        *,
        rows: OutputRows = OutputRows.LAST,
        logits: Any = False,
        top_n: int = 0,
        targets: TokenArray | None = None,
        taps: Sequence[Tap] = (),
        sample: bool = True,
        cancellation: Cancellation | None = None,
        progress: ProgressFunction | None = None,
        interruptible: bool = False,
        row_results: bool = False,
    ) -> None:
        """n_rows: of the step, for taps; n_outputs: of them, those that are written. interruptible: Ctrl-C may cancel the call, which
        then returns when it is done. row_results: row_tokens and row_status are wanted even if nothing else is."""
        self.step = Step()
        self._keep: list[Any] = []
        cuda_ordinal = model._cuda_ordinal
        outputs: Any = ffi.NULL
        if logits is not False or top_n or targets is not None or row_results:
            outputs = self._outputs(model, n_outputs, rows, logits, top_n, targets, sample)
        tap_array, n_taps = ffi.NULL, len(taps)
        if taps:
            tap_array, keep = tap_descriptors(taps, n_rows, model.config, cuda_ordinal)
            self._keep.append(keep)
        callback = progress_callback(progress) if interruptible or progress else ffi.NULL
        flag = instance(cancellation, Cancellation, "cancellation").handle if cancellation is not None else ffi.NULL
        if sample and not (outputs or taps or callback or flag):
            self.options = ffi.NULL
            return
        self._keep += [outputs, callback, flag]
        fields = {"outputs": outputs, "taps": tap_array, "n_taps": n_taps, "progress": callback, "cancellation": flag}
        self.options = make("cf_step_options", sample=bool(sample), **fields)

    def _outputs(self, model: Model, n: int, rows: OutputRows, logits: Any, top_n: int, targets: TokenArray | None, sample: bool) -> Any:
        step, struct = self.step, make("cf_outputs", rows=rows)
        shape = (n, model.vocab_size)
        if logits is not False and logits is not None:
            if logits is True:
                logits = np.empty(shape, np.float32)
            elif isinstance(logits, str):
                if logits != "device":
                    raise InvalidArgumentError(f"logits is {logits!r}, expected True, False, 'device' or an array")
                logits = DeviceArray(shape, model._cuda_ordinal)
            seen = check_view(view(logits, "logits"), "logits", dtypes=("F32",), shape=shape, writable=True)
            if seen.cuda_ordinal is not None:
                check_place(seen, "logits", model._cuda_ordinal)
                struct.memory = Memory.DEVICE
            step.logits, struct.logits = logits, ffi.cast("float*", seen.address)
            self._keep.append(seen)
        if struct.memory == Memory.DEVICE and model.context.device_kind != DeviceKind.CPU:
            if top_n or targets is not None:
                raise InvalidArgumentError("top_n and targets go to host memory, logits in this step to the device's: ask for them in host memory")
            return struct
        set_field(struct, "top_n", top_n)
        if top_n > 0:
            step.top_tokens = np.empty((n, top_n), np.int32)
            step.top_logprobs = np.empty((n, top_n), np.float32)
            struct.top_tokens, struct.top_logprobs = self._pointer(step.top_tokens), self._pointer(step.top_logprobs)
        if targets is not None:
            wanted = tokens_array(targets, "targets")
            if len(wanted) != n:
                raise InvalidArgumentError(f"targets has {len(wanted)} tokens, expected one for each of {n} rows")
            step.target_logprobs = np.empty(n, np.float32)
            struct.targets, struct.target_logprobs = self._pointer(wanted), self._pointer(step.target_logprobs)
        if sample:
            step.row_tokens = np.empty(n, np.int32)
            struct.row_tokens = self._pointer(step.row_tokens)
        step.row_status = np.empty(n, np.int32)
        struct.row_status = self._pointer(step.row_status)
        return struct

    def _pointer(self, array: npt.NDArray[Any]) -> Any:
        pointer = ffi.from_buffer("float[]" if array.dtype == np.float32 else "int32_t[]", array)
        self._keep.append(pointer)
        return pointer
