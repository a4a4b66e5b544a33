"""Contexts, models and sessions of the library with numpy arrays around them, for the suites on a GPU. Needs numpy alone.

A call that fails raises header.Failure. Steps are waited for, and every array that a step writes starts as NaN or as no token.
"""

import ctypes

import numpy as np

from header import Failure, Library

PENDING = -1
DTYPES = {"F32": 1, "F16": 2, "BF16": 3}
UNSUPPORTED = 6
CALLBACKS = {"allocate": ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_size_t, ctypes.c_size_t),
             "free": ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t),
             "log": ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p)}


def _ints(values):
    return (ctypes.c_int32 * len(values))(*(int(value) for value in values))


class Handle:
    """Something of the library's that is destroyed once, by close or at the end of a with block."""

    kind = None

    def __init__(self, library, handle):
        self.library, self.handle = library, handle

    def close(self):
        handle, self.handle = self.handle, None
        if handle:
            self.library.call(f"{self.kind}_destroy", handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def query(self, call, struct):
        info = self.library.struct(struct)
        self.library.call(call, self.handle, ctypes.byref(info))
        return info


class Context(Handle):
    """device: cuda or cpu. allocate, free and log are functions without the user pointer."""

    kind = "cf_context"

    def __init__(self, library, device="cuda", allocate=None, free=None, log=None, **options):
        self._callbacks = []
        for name, function in (("allocate", allocate), ("free", free), ("log", log)):
            if function:
                self._callbacks.append(CALLBACKS[name](lambda _, *arguments, function=function: function(*arguments)))
                options[name] = ctypes.cast(self._callbacks[-1], ctypes.c_void_p).value
        kind = library.CF_DEVICE_CUDA if device == "cuda" else library.CF_DEVICE_CPU
        options = library.struct("cf_context_options", device_kind=kind, **options)
        super().__init__(library, library.create("cf_context_create", ctypes.byref(options)))

    def load(self, directory, weight_dtype="", **options):
        options = self.library.struct("cf_model_options", weight_dtype=DTYPES.get(weight_dtype, 0), **options)
        return Model(self.library, self.library.create("cf_model_load", self.handle, str(directory).encode(), ctypes.byref(options)))

    def info(self):
        return self.query("cf_context_query", "cf_context_info")


class Model(Handle):
    kind = "cf_model"

    def __init__(self, library, handle):
        super().__init__(library, handle)
        self.config = self.query("cf_model_get_config", "cf_model_config")
        self.vocab = self.config.vocab_size

    def info(self):
        return self.query("cf_model_query", "cf_model_info")

    def session(self, capacity=256, **options):
        options = self.library.struct("cf_session_options", **_named(capacity_tokens=capacity, **options))
        return Session(self, self.library.create("cf_session_create", self.handle, ctypes.byref(options)))

    def restore(self, saved, capacity=256, **options):
        options = self.library.struct("cf_session_options", **_named(capacity_tokens=capacity, **options))
        return Session(self, self.library.create("cf_session_restore", self.handle, ctypes.byref(options), saved, ctypes.c_size_t(len(saved))))

    def pool(self, capacity, **options):
        options = self.library.struct("cf_kv_pool_options", **_named(capacity_tokens=capacity, **options))
        return Pool(self.library, self.library.create("cf_kv_pool_create", self.handle, ctypes.byref(options)))


def _named(kv_dtype=None, pool=None, **options):
    """Fields of options structs: a dtype by its name, a pool by its object."""
    if kv_dtype:
        options["kv_dtype"] = DTYPES[kv_dtype]
    if pool:
        options["pool"] = pool.handle
    return options


class Pool(Handle):
    kind = "cf_kv_pool"

    def info(self):
        return self.query("cf_kv_pool_query", "cf_kv_pool_info")


class Graph(Handle):
    kind = "cf_graph"

    def launch(self):
        self.library.call("cf_graph_launch", self.handle)

    def info(self):
        return self.query("cf_graph_query", "cf_graph_info")


class Session(Handle):
    kind = "cf_session"

    def __init__(self, model, handle):
        super().__init__(model.library, handle)
        self.model = model

    def wait(self):
        return self.query("cf_session_wait", "cf_result")

    def _step(self, n_rows, call, *arguments, all_rows=True, sample=1, cancellation=None):
        """Logits [n_rows, V] of a step."""
        logits = np.full((n_rows, self.model.vocab), np.nan, np.float32)
        status = np.full(n_rows, -1, np.int32)
        outputs = self.library.struct("cf_outputs", logits=logits.ctypes.data, row_status=status.ctypes.data, rows=int(all_rows))
        options = self.library.struct("cf_step_options", outputs=ctypes.addressof(outputs), sample=sample, cancellation=cancellation)
        self.library.call(call, self.handle, *arguments, ctypes.byref(options))
        self.result = self.wait()
        if status.any():
            raise Failure(call, int(status[status != 0][0]), "the status is CF_OK, but a row's is not")
        return logits

    def prefill(self, tokens, all_rows=True, **options):
        return self._step(len(tokens) if all_rows else 1, "cf_prefill", _ints(tokens), ctypes.c_size_t(len(tokens)), all_rows=all_rows, **options)

    def step(self, token=PENDING, **options):
        return self._step(1, "cf_decode_step", ctypes.c_int32(int(token)), **options)[0]

    def positions(self, tokens):
        return self._step(len(tokens), "cf_decode_positions", _ints(tokens), ctypes.c_size_t(len(tokens)))

    def steps(self, n, cancellation=None):
        """Without outputs, as the device runs them by itself; gives cf_result."""
        options = self.library.struct("cf_step_options", cancellation=cancellation)
        self.library.call("cf_decode_steps", self.handle, ctypes.c_int64(n), ctypes.byref(options))
        return self.wait()

    def enqueue(self, call, what=PENDING, **options):
        """One row's logits of a call that is not waited for, and what has to live until it was. what: tokens, a token, or a number of steps."""
        logits = np.full((1, self.model.vocab), np.nan, np.float32)
        outputs = self.library.struct("cf_outputs", logits=logits.ctypes.data)
        options = self.library.struct("cf_step_options", outputs=ctypes.addressof(outputs), **options)
        arguments = {"cf_prefill": lambda: (_ints(what), ctypes.c_size_t(len(what))), "cf_decode_step": lambda: (ctypes.c_int32(what),),
                     "cf_decode_steps": lambda: (ctypes.c_int64(what),)}[call]()
        self.library.call(call, self.handle, *arguments, ctypes.byref(options))
        return logits, (outputs, options)

    def truncate(self, position):
        self.library.call("cf_session_truncate", self.handle, ctypes.c_int64(position))

    def fork(self, position):
        return Session(self.model, self.library.create("cf_session_fork", self.handle, ctypes.c_int64(position), None))

    def save(self):
        size = ctypes.c_size_t()
        self.library.call("cf_session_save", self.handle, None, ctypes.c_size_t(0), ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.library.call("cf_session_save", self.handle, buffer, size, ctypes.byref(size))
        return buffer.raw

    def tokens(self, n=1 << 16):
        out, count = (ctypes.c_int32 * n)(), ctypes.c_size_t()
        self.library.call("cf_session_tokens", self.handle, ctypes.c_int64(0), out, ctypes.c_size_t(n), ctypes.byref(count))
        return list(out[: count.value])

    def sampler(self, **options):
        options = self.library.struct("cf_sampler_options", **options)
        self.library.call("cf_session_set_sampler", self.handle, ctypes.byref(options))

    def capture(self, n_steps=1):
        options = self.library.struct("cf_graph_options", n_steps=n_steps)
        return Graph(self.library, self.library.create("cf_graph_capture", self.handle, ctypes.byref(options)))

    def info(self):
        return self.query("cf_session_query", "cf_session_info")


def decode_batch(sessions, tokens=None):
    """Logits [sessions, V] of one step of each."""
    library, vocab = sessions[0].library, sessions[0].model.vocab
    logits = np.full((len(sessions), vocab), np.nan, np.float32)
    outputs = library.struct("cf_outputs", logits=logits.ctypes.data)
    options = library.struct("cf_step_options", outputs=ctypes.addressof(outputs))
    handles = (ctypes.c_void_p * len(sessions))(*(session.handle.value for session in sessions))
    library.call("cf_decode_batch", handles, ctypes.c_size_t(len(sessions)), tokens and _ints(tokens), ctypes.byref(options))
    for session in sessions:
        session.wait()
    return logits


def same(a, b):
    """The same bits; NaN is never the same, so an output that nobody wrote is seen."""
    return a.shape == b.shape and not np.isnan(a).any() and a.tobytes() == b.tobytes()


__all__ = ["PENDING", "DTYPES", "UNSUPPORTED", "Context", "Failure", "Graph", "Handle", "Library", "Model", "Pool", "Session", "decode_batch", "same"]
