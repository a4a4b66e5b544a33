"""One sequence: its position, its keys and values, its sampler, its stream."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .arrays import TokenArray, stream_pointer, tokens_array
from .callbacks import ProgressFunction
from .checks import instance, integer, path_bytes
from .enums import DeviceKind, Dtype, LaunchMode, OutputRows, Status, member
from .errors import Error, InvalidArgumentError
from .generation import TokenGeneration
from .graph import Graph
from .handles import Handle
from .native import check, created, ffi, lib, make
from .pool import KvPool
from .progress import reporter
from .records import SessionInfo, queried, set_field
from .sampling import Sampler, mask_words
from .steps import PENDING, Request, Step, Wanted
from .taps import Tap

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .model import Model

_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class SessionOptions:
    """How a session is made. UnsupportedError, when it is: a cluster size or type that the device has no place for."""

    capacity_tokens: int = 0  # the most positions that the session may hold; 0: max_position_embeddings
    reserve: bool = True  # take the whole capacity from the pool now, so that no step allocates or finds it full
    pool: KvPool | None = None  # shared pages; None: a private pool of capacity_tokens
    page_tokens: int = 64  # private pool: positions of a page: 16, 32, 64, 128 or 256
    kv_dtype: Dtype | str = Dtype.AUTO  # private pool: AUTO: F32 on the CPU, F16 on CUDA; or F32 (CPU only), F16, BF16
    launch_mode: LaunchMode | str = LaunchMode.AUTO  # CUDA
    cluster_size: int = 0  # CUDA: CTAs per cluster: 1, 2, 4, 8 or 16; 0: chosen by the library
    stream: Any = None  # CUDA: a stream of torch or CuPy, or a cudaStream_t, for all its work; None: one of its own

    @classmethod
    def of(cls, options: SessionOptions | None, fields: dict[str, Any]) -> SessionOptions:
        """`options`, or the defaults, with some fields changed."""
        return replace(options or cls(), **fields)

    def _to_struct(self) -> Any:
        struct = make("cf_session_options", launch_mode=member(LaunchMode, self.launch_mode, "launch_mode"))
        struct.kv_dtype = member(Dtype, self.kv_dtype, "kv_dtype")
        struct.reserve = bool(self.reserve)
        for name in ("capacity_tokens", "page_tokens", "cluster_size"):
            set_field(struct, name, getattr(self, name))
        struct.pool = instance(self.pool, KvPool, "pool").handle if self.pool is not None else ffi.NULL
        struct.stream = ffi.cast("void*", stream_pointer(self.stream))
        return struct


class Session(Handle):
    """Made by `Model.session`. Must not be in two calls at once (BusyError), except `tokens`, which any thread may call at any time.

    Every step samples a token, which is then pending: the next step feeds it, or another one. Steps return when they are done; a step
    that fails advances nothing. The GIL is released while they run.
    """

    def __init__(self, model: Model, options: SessionOptions, cdata: Any = None) -> None:
        if cdata is None:
            cdata = created("cf_session", lib.cf_session_create, model.handle, options._to_struct(), keep=(options, *model.context._keep))
        super().__init__(cdata)
        self.model = model
        self.options = options
        self._taps: tuple[Tap, ...] = ()
        self._sampler = Sampler()
        self._result = make("cf_result")

    @classmethod
    def _restore(cls, model: Model, saved: bytes | str | os.PathLike[str], options: SessionOptions) -> Self:
        keep = (options, *model.context._keep)
        if isinstance(saved, (bytes, bytearray, memoryview)):
            buffer = ffi.from_buffer(saved)
            arguments = (model.handle, options._to_struct(), buffer, len(buffer))
            return cls(model, options, created("cf_session", lib.cf_session_restore, *arguments, keep=keep))
        path = path_bytes(saved, "saved")
        return cls(model, options, created("cf_session", lib.cf_session_restore_file, model.handle, options._to_struct(), path, keep=keep))

    # ---- Steps

    def prefill(
        self, tokens: TokenArray, *, rows: OutputRows | str = OutputRows.LAST, progress: bool | ProgressFunction = False, **wanted: Unpack[Wanted]
    ) -> Step:
        """Appends tokens of a prompt at the session's position and samples the token that follows: all or nothing. Keys and values do
        not depend on how a prompt was cut into calls.

        rows: of the outputs that are wanted: "last", the last position's, or "all".
        progress: True: a bar; or a function of (done, total) positions.

        InvalidArgumentError: a token outside the vocabulary, none, or more than the capacity could ever hold. CacheFullError,
        NonfiniteLogitsError, CancelledError.
        """
        ids = tokens_array(tokens, "tokens")
        which = member(OutputRows, rows, "rows")
        n_outputs = len(ids) if which == OutputRows.ALL else 1
        with reporter(progress, "prompt", unit=" tokens") as report:
            request = self._request(len(ids), n_outputs, rows=which, progress=report, interruptible=True, **wanted)
            return self._run(request, lib.cf_prefill, ffi.from_buffer("int32_t[]", ids), len(ids))

    def decode_step(self, token: int = PENDING, **wanted: Unpack[Wanted]) -> Step:
        """Feeds one token (or the pending one) and samples the next. CacheFullError, NonfiniteLogitsError, NoTokenAllowedError."""
        request = self._request(1, 1, **wanted) if wanted or self._taps else None
        return self._run(request, lib.cf_decode_step, integer(token, "token", bits=32))

    def decode_steps(self, n_steps: int, *, progress: bool | ProgressFunction = False, **wanted: Unpack[Wanted]) -> Step:
        """n_steps steps that each feed what the one before sampled; ends early at a stop token. What they made: `tokens`.

        Finished steps are kept when one fails or the call is cancelled. progress: as for `prefill`, of (done, total) steps. On CUDA
        Ctrl-C takes effect when all steps are done, unless a progress function or a cancellation was given.
        """
        with reporter(progress, "decoding", unit=" steps") as report:
            on_cpu = self.model.context.device_kind == DeviceKind.CPU
            request = self._request(1, 1, progress=report, interruptible=on_cpu, **wanted)
            return self._run(request, lib.cf_decode_steps, integer(n_steps, "n_steps"))

    def decode_positions(self, tokens: TokenArray, **wanted: Unpack[Wanted]) -> Step:
        """One step over 1 .. 64 consecutive positions, with the weights read once and the bits that single steps would give:
        verification of drafted tokens. tokens[0] may be PENDING. All or nothing.

        The token sampled after each is in `Step.row_tokens`, the one after the last is pending; `truncate` to what was right.
        """
        ids = tokens_array(tokens, "tokens")
        request = self._request(len(ids), len(ids), row_results=True, **wanted)
        return self._run(request, lib.cf_decode_positions, ffi.from_buffer("int32_t[]", ids), len(ids))

    def enqueue_step(self, token: int = PENDING) -> None:
        """`decode_step` without waiting: on CUDA it only enqueues, or adds to the capture that the session's stream is in. What it came
        to is told by `wait` or `poll`; until then a step that failed keeps later ones from doing anything."""
        check(lib.cf_decode_step(self.handle, integer(token, "token", bits=32), ffi.NULL))

    def enqueue_steps(self, n_steps: int) -> None:
        """`decode_steps` without waiting, as `enqueue_step`."""
        check(lib.cf_decode_steps(self.handle, integer(n_steps, "n_steps"), ffi.NULL))

    def wait(self) -> Step:
        """What the enqueued steps came to, when they are done. Raises the error of the first that failed; then the session works again."""
        check(lib.cf_session_wait(self.handle, self._result))
        return self._fill(Step())

    def poll(self) -> Step | None:
        """As `wait`, without waiting: None while steps are running."""
        status = lib.cf_session_poll(self.handle, self._result)
        if status == Status.NOT_READY:
            return None
        check(status)
        return self._fill(Step())

    def _request(self, n_rows: int, n_outputs: int, *, taps: Sequence[Tap] = (), **wanted: Any) -> Request:
        return Request(self.model, n_rows, n_outputs, taps=(*self._taps, *taps), **wanted)

    def _run(self, request: Request | None, call: Any, *arguments: Any) -> Step:
        handle = self.handle
        status = call(handle, *arguments, request.options if request else ffi.NULL)
        if not status:  # then the truth is on the device
            status = lib.cf_session_wait(handle, self._result)
        check(status)
        return self._fill(request.step if request else Step())

    def _fill(self, step: Step) -> Step:
        result = self._result
        step.token, step.stopped, step.position, step.n_steps = result.token, bool(result.stopped), result.position, result.n_steps
        return step

    def generate(self, max_tokens: int | None = None, *, steps_per_call: int = 1) -> TokenGeneration:
        """Yields the pending token, then feeds it and yields the next, and so on: `for token in session.generate(100)`, or `async for`.

        Ends after max_tokens (None: when the capacity is used up), or at a stop token of the sampler, which is not given. The last
        token given is pending, not fed: a prompt that goes on from it begins with it.
        """
        return TokenGeneration(self, max_tokens, steps_per_call=steps_per_call)

    # ---- Looking in

    @contextmanager
    def tapped(self, *taps: Tap) -> Iterator[tuple[Tap, ...]]:
        """Within the `with` block every step of this session has these taps:

        with session.tapped(Tap.read("block_output", layer=3)) as (stream,):
            session.decode_step()
        print(stream.data)  # [1, hidden_size]
        """
        before = self._taps
        self._taps = (*before, *taps)
        try:
            yield taps
        finally:
            self._taps = before

    # ---- The sequence

    def tokens(self, start: int = 0) -> list[int]:
        """Tokens at positions start, start + 1, ...: those cached, then the pending one. From any thread while steps run."""
        made: list[int] = []
        start = integer(start, "start")
        out, count = ffi.new("int32_t[]", _TOKENS_AT_ONCE), ffi.new("size_t*")
        while True:
            check(lib.cf_session_tokens(self.handle, start + len(made), out, _TOKENS_AT_ONCE, count))
            made += ffi.unpack(out, count[0])
            if count[0] < _TOKENS_AT_ONCE:
                return made

    def truncate(self, position: int) -> Step:
        """Goes back to `position` cached positions, as if nothing after it had happened: the token that stood there becomes the pending
        one. Pages no longer needed return to the pool, unless reserved. BusyError while enqueued work is unfinished."""
        check(lib.cf_session_truncate(self.handle, integer(position, "position")))
        return self.wait()

    def fork(self, position: int | None = None, **fields: Any) -> Session:
        """A new session with the first `position` positions of this one (None: all), as if it had never gone further, and with its
        sampler. The two share pages until one of them writes to a page that both hold, and takes a copy.

        fields: of SessionOptions; what is not given is this session's. The fork lives in this session's pool. CacheFullError if the
        pool cannot give what is to be reserved, or keep what is shared: a private pool has only room for a fork if this session was
        made with reserve=False.
        """
        if position is None:
            position = self.position
        options = replace(self.options, **{"pool": None, "stream": None, **fields})
        arguments = (self.handle, integer(position, "position"), options._to_struct())
        fork = Session(self.model, options, created("cf_session", lib.cf_session_fork, *arguments, keep=(options, *self.model.context._keep)))
        fork._sampler = self._sampler
        return fork

    def save(self) -> bytes:
        """Tokens, keys and values, sampler, mask and position, for `Model.restore`, also on another device. MismatchError: the weights
        were changed after the session began."""
        size = ffi.new("size_t*")
        check(lib.cf_session_save(self.handle, ffi.NULL, 0, size))
        buffer = bytearray(size[0])
        check(lib.cf_session_save(self.handle, ffi.from_buffer(buffer), len(buffer), size))
        return bytes(buffer)

    def save_file(self, path: str | os.PathLike[str]) -> None:
        """The same bytes into a file: all of them, or an older file stays. IoError."""
        check(lib.cf_session_save_file(self.handle, path_bytes(path, "path")))

    @property
    def info(self) -> SessionInfo:
        return queried(SessionInfo, lib.cf_session_query, self.handle, "cf_session_info")

    @property
    def position(self) -> int:
        """Positions cached, as far as the host knows: after a step that was waited for exact."""
        return self.info.position

    # ---- Sampling

    @property
    def sampler(self) -> Sampler:
        """How the next steps choose a token; set it at any time. InvalidArgumentError for what is impossible."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        struct, keep = instance(sampler, Sampler, "sampler")._to_struct()
        check(lib.cf_session_set_sampler(self.handle, struct))
        self._sampler = sampler

    def set_allowed_tokens(self, allowed: npt.ArrayLike | None) -> None:
        """Constrained decoding from the next step on. allowed: one truth value for each token of the vocabulary, at least one of them
        true; None allows all again."""
        if allowed is None:
            check(lib.cf_session_set_allowed_tokens(self.handle, ffi.NULL, 0))
            return
        given = np.asarray(allowed)
        if given.shape != (self.model.vocab_size,):
            raise InvalidArgumentError(f"allowed has shape {list(given.shape)}, expected one truth value for each of {self.model.vocab_size} tokens")
        words = mask_words(given)
        check(lib.cf_session_set_allowed_tokens(self.handle, ffi.from_buffer("uint32_t[]", words), len(words)))

    # ---- Graphs

    def capture(self, n_steps: int = 1) -> Graph:
        """A captured CUDA graph of n_steps (1 .. 1024) steps, whose replay needs nothing of the host. UnsupportedError on the CPU;
        InvalidArgumentError if the session has not reserved its capacity."""
        return Graph(self, n_steps)


@dataclass
class BatchStep:
    """What one step of several sessions gave: a row for each, in their order. Arrays are as in Step."""

    tokens: list[int]  # the pending token of each; -1: none
    stopped: list[bool]
    positions: list[int]
    errors: list[Error | None]  # why a session did not advance
    logits: Any = None  # [sessions, V]
    top_tokens: npt.NDArray[np.int32] = None  # type: ignore[assignment]
    top_logprobs: npt.NDArray[np.float32] = None  # type: ignore[assignment]
    target_logprobs: npt.NDArray[np.float32] = None  # type: ignore[assignment]


class BatchError(Error):
    """Some sessions of a batch did not advance; the others did. `step` has both; `status` is that of the first one that did not."""

    def __init__(self, step: BatchStep) -> None:
        failed = [(index, error) for index, error in enumerate(step.errors) if error]
        super().__init__("; ".join(f"sessions[{index}]: {error}" for index, error in failed))
        self.status = failed[0][1].status
        self.step = step


def decode_batch(sessions: Sequence[Session], tokens: TokenArray | None = None, **wanted: Unpack[Wanted]) -> BatchStep:
    """One step of each of 1 .. 64 different sessions of one model, with the weights read once and the bits that each would give alone.

    tokens: one per session; None: the pending ones. The sessions fail or advance each by itself: BatchError, whose `step` has what
    the others gave, if any failed. Taps are given here, not by `Session.tapped`.
    """
    if not sessions:
        raise InvalidArgumentError("sessions is empty, expected 1 to 64")
    tapped = [index for index, session in enumerate(sessions) if session._taps]
    if tapped:
        raise InvalidArgumentError(f"sessions[{tapped[0]}] is tapped: give the batch its taps itself")
    n = len(sessions)
    ids = None if tokens is None else tokens_array(tokens, "tokens")
    if ids is not None and len(ids) != n:
        raise InvalidArgumentError(f"tokens has {len(ids)} tokens, expected one for each of {n} sessions")
    pointers = [session.handle for session in sessions]
    request = Request(sessions[0].model, n, n, row_results=True, **wanted)
    handles = ffi.new("cf_session*[]", pointers)
    check(lib.cf_decode_batch(handles, n, ffi.NULL if ids is None else ffi.from_buffer("int32_t[]", ids), request.options))
    steps, errors = [], []
    for session in sessions:
        error = None
        try:
            step = session.wait()
        except Error as failure:
            error, step = failure, session._fill(Step())
        steps.append(step)
        errors.append(error)
    given = request.step
    batch = BatchStep(
        [step.token for step in steps], [step.stopped for step in steps], [step.position for step in steps], errors,
        given.logits, given.top_tokens, given.top_logprobs, given.target_logprobs,
    )  # fmt: skip
    if any(errors):
        raise BatchError(batch)
    return batch
