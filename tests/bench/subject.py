"""A checkpoint under measurement: in the library, and in transformers where torch is; and the two clocks."""

import ctypes
import importlib.util
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "gpu"), str(HERE.parent / "golden")]
from header import Failure  # noqa: E402
from sessions import Context  # noqa: E402

ROWS = 8  # at once, the most


class Unavailable(Exception):
    """These numbers cannot be had here, and why."""


@dataclass
class Sizes:
    """How much is measured. A measurement is `repeats` calls of `steps` steps after `warm` that do not count."""

    steps: int = 32
    repeats: int = 9
    warm: int = 2
    contexts: tuple = (128, 512, 1024, 2048)  # held; one that a model has no room for becomes its last positions
    lengths: tuple = (16, 32, 64, 128, 256, 512, 1024, 2043)
    prompts: tuple = (128, 512, 1900)
    peer_s: float = 30  # of one text by a slow peer
    scored: int = 256  # tokens of a text


QUICK = Sizes(steps=4, repeats=2, warm=1, contexts=(32, 96), lengths=(16, 32, 64), prompts=(64,), peer_s=1, scored=96)


def torch_or(reason="torch is not installed"):
    if importlib.util.find_spec("torch") is None:
        raise Unavailable(reason)
    import torch

    return torch


def transformers_or():
    if importlib.util.find_spec("transformers") is None:
        raise Unavailable("transformers is not installed")
    torch_or()
    import transformers

    transformers.utils.logging.disable_progress_bar()
    return transformers


class Subject:
    def __init__(self, library, name, directory, device="cuda", sizes=None, build=None, options=None):
        self.library, self.name, self.directory, self.device = library, name, Path(directory), device
        self.sizes, self.build, self.options = sizes or Sizes(), build, options
        self._peer = None
        start = time.perf_counter()
        self.context = Context(library, device)
        self.model = self.context.load(directory)
        self.load_s = time.perf_counter() - start
        self.config = self.model.config
        self.limit = self.config.max_position_embeddings
        self.on_gpu = device == "cuda"
        self.torch = torch_or("timing on a GPU needs torch, for its events") if self.on_gpu else None
        self.stream = self.torch.cuda.Stream() if self.on_gpu else None

    def close(self):
        self.release()
        self.model.close()
        self.context.close()

    # ---- What is measured

    @property
    def contexts(self):
        room = self.limit - 2 * self.sizes.steps
        return tuple(dict.fromkeys(min(c, room) for c in self.sizes.contexts))

    @property
    def ends(self):
        """The shortest and the longest of them."""
        return tuple(dict.fromkeys((self.contexts[0], self.contexts[-1])))

    def random_tokens(self, n, seed=1):
        return np.random.Generator(np.random.Philox(seed)).integers(0, self.config.vocab_size, n).tolist()

    def session(self, context, **options):
        """One that holds `context` tokens."""
        session = self.model.session(context + 2 * self.sizes.steps, stream=self.stream.cuda_stream if self.on_gpu else None, **options)
        try:
            session.prefill(self.random_tokens(context), all_rows=False)
        except BaseException:
            session.close()
            raise
        return session

    def products(self):
        """Rows and columns of a layer's matrices."""
        c = self.config
        heads, kv = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        gated = c.activation == self.library.CF_ACTIVATION_SWIGLU
        return [(heads + 2 * kv, c.hidden_size), (c.hidden_size, heads), (c.intermediate_size * (2 if gated else 1), c.hidden_size),
                (c.hidden_size, c.intermediate_size)]

    def weight_bytes(self):
        """That a step reads."""
        return 2 * (self.config.n_layers * sum(rows * columns for rows, columns in self.products()) + self.config.hidden_size * self.config.vocab_size)

    def kv_bytes(self, tokens):
        return (4 if self.on_gpu else 8) * self.config.n_layers * self.config.n_kv_heads * self.config.head_dim * tokens  # F16; the CPU's are F32

    def bytes_ratio(self, context, sessions=1):
        """Weights and cached keys and values over weights: what the floor is multiplied by."""
        return 1 + sessions * self.kv_bytes(context) / self.weight_bytes()

    # ---- Clocks

    def _numbers(self, times, n):
        times = times[self.sizes.warm :]
        return {"ms": statistics.median(times), "ms_least": min(times), "ms_most": max(times), "steps": n * len(times)}

    def by_device(self, session, context, enqueue, n, repeats=None):
        """ms of each of n steps that `enqueue` starts at a held context, by events on the session's stream; on the CPU backend by the clock."""
        times = []
        for _ in range((repeats or self.sizes.repeats) + self.sizes.warm):
            session.truncate(context)
            if self.on_gpu:
                begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
                self.torch.cuda.synchronize()
                begin.record(self.stream)
                enqueue()
                end.record(self.stream)
                end.synchronize()
                session.wait()
                times.append(begin.elapsed_time(end) / n)
            else:
                start = time.perf_counter()
                enqueue()
                session.wait()
                times.append((time.perf_counter() - start) * 1e3 / n)
        return self._numbers(times, n)

    def by_clock(self, reset, one, n, repeats=None):
        """ms of each of n calls of `one`, which returns when its token is known, by the host's clock."""
        times = []
        for _ in range((repeats or self.sizes.repeats) + self.sizes.warm):
            reset()
            start = time.perf_counter()
            for _ in range(n):
                one()
            times.append((time.perf_counter() - start) * 1e3 / n)
        return self._numbers(times, n)

    def steps(self, session, context, repeats=None):
        """ms a step, sizes.steps of them in a call."""
        n = self.sizes.steps
        return self.by_device(session, context, lambda: self.library.call("cf_decode_steps", session.handle, ctypes.c_int64(n), None), n, repeats)

    def taker(self, session, start, *arguments):
        """A host that starts a step and waits for its token, with as little between as ctypes allows."""
        library = self.library
        begin, wait = (getattr(library._library, name) for name in (start, "cf_session_wait"))
        handle, result = session.handle, library.struct("cf_result")
        out, what = ctypes.byref(result), arguments or (session.handle, ctypes.c_int32(-1), None)

        def one():
            status = begin(*what) or wait(handle, out)
            if status:
                raise Failure(start, status, library.last_error())

        return one

    # ---- The same checkpoint in transformers

    def transformers_model(self, dtype):
        torch, transformers = torch_or(), transformers_or()
        where = {"device_map": "cuda"} if self.on_gpu and importlib.util.find_spec("accelerate") else {}
        model = transformers.AutoModelForCausalLM.from_pretrained(self.directory, dtype=getattr(torch, dtype), attn_implementation="sdpa", **where)
        return model.to(self.device).eval().requires_grad_(False)

    def peer(self):
        """In fp16 (fp32 on the CPU), kept until release."""
        if self._peer is None:
            self._peer = self.transformers_model("float16" if self.on_gpu else "float32")
        return self._peer

    def release(self):
        if self._peer is not None:
            self._peer = None
            self.empty_cache()

    def empty_cache(self):
        if self.on_gpu:
            import gc

            gc.collect()
            self.torch.cuda.empty_cache()
