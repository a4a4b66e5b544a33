"""Kinds of numbers that the others are held against or that are about bytes: floor, prompts, loading."""

import contextlib
import ctypes
import json
import subprocess
import threading
import time

import numpy as np

from decoding import OURS
from sessions import Context
from subject import Unavailable, torch_or

RATE_BYTES = 1 << 28


def floor(subject):
    """The time to stream a step's weights: bench_floor's, through shared memory, without meetings between CTAs and with them; where that cannot run (no GPU, or
    one from before bulk copies), the rate at which a sum reads memory."""
    c, why = subject.config, {}
    if subject.on_gpu:
        program = subject.build / "tests" / "bench_floor"
        gated = c.activation == subject.library.CF_ACTIVATION_SWIGLU
        shape = (f"{subject.name}={c.hidden_size},{c.intermediate_size},{c.n_layers},{c.vocab_size},{c.n_kv_heads * c.head_dim},{int(gated)},"
                 f"{int(c.parallel_residual)}")
        run = subprocess.run([program, shape], capture_output=True, text=True) if program.exists() else None
        if run and run.returncode == 0:
            if not run.stdout:
                raise RuntimeError(f"{program} printed nothing: build it anew")
            numbers = json.loads(run.stdout.splitlines()[-1])
            numbers.pop("shape")
            yield {"who": "bench_floor", **numbers}
            return
        why = {"why": run.stderr.strip() if run else f"there is no {program}"}
    rate = subject_sum_rate(subject)
    yield {"who": "a sum", **why, "weight_bytes": subject.weight_bytes(), "floor_ms": subject.weight_bytes() / rate * 1e3, "floor_tb_per_s": rate * 1e-12}


def subject_sum_rate(subject):
    if subject.on_gpu:
        values = subject.torch.ones(8 * RATE_BYTES // 4, device="cuda")
        return 8 * RATE_BYTES / min(event_times(subject.torch, values.sum, 5)) * 1e3
    values, best = np.ones(RATE_BYTES // 8), float("inf")
    for _ in range(3):
        start = time.perf_counter()
        values.sum()
        best = min(best, time.perf_counter() - start)
    return RATE_BYTES / best


def event_times(torch, work, repeats):
    """ms of each of some runs on the current stream, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return times[1:]


# ---- Prompts


def prompts(subject):
    """Time to the first token; beside it the matrix products alone, and transformers' own prompt."""
    wanted = [n for n in subject.sizes.prompts if n < subject.limit]
    for n in wanted:
        prompt = (ctypes.c_int32 * n)(*subject.random_tokens(n))
        with subject.model.session(n + 1, stream=subject.stream.cuda_stream if subject.on_gpu else None) as session:
            take = subject.taker(session, "cf_prefill", session.handle, prompt, ctypes.c_size_t(n), None)
            yield {"who": OURS, "n": n, **subject.by_clock(lambda: session.truncate(0), take, 1)}
    torch = torch_or()
    for n in wanted:
        for library in ("cublaslt", "cublas") if subject.on_gpu else ("torch",):
            yield {"who": f"matrix products, {library}", "n": n, **products_alone(subject, torch, n, library)}
    model = subject.peer()
    with torch.no_grad():
        for n in wanted:
            tokens = torch.tensor([subject.random_tokens(n)], device=subject.device)

            def one():
                model(tokens, use_cache=True, logits_to_keep=1).logits[0, -1].argmax().item()

            yield {"who": "transformers, sdpa", "n": n, **subject.by_clock(lambda: None, one, 1)}


@contextlib.contextmanager
def preferred(torch, library):
    before = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(library)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(before)


def products_alone(subject, torch, n, library):
    """torch.matmul of every matrix of a forward pass over n tokens (the head's for the last one), on random numbers, weights of each layer its own: on a GPU in
    fp16, captured into a CUDA graph, timed by events, with `library` preferred."""
    dtype = torch.float16 if subject.on_gpu else torch.float32
    c, layers = subject.config, subject.config.n_layers

    def random(*shape):
        return torch.empty(shape, dtype=dtype, device=subject.device).normal_(0, 0.02)

    weights = [random(rows, columns) for _ in range(layers) for rows, columns in subject.products()] + [random(c.vocab_size, c.hidden_size)]
    inputs = {columns: random(n, columns) for _, columns in subject.products()}
    outputs = {rows: random(n, rows) for rows, _ in subject.products()}
    last, logits = random(1, c.hidden_size), random(1, c.vocab_size)

    def work():
        for weight in weights[:-1]:
            torch.matmul(inputs[weight.shape[1]], weight.t(), out=outputs[weight.shape[0]])
        torch.matmul(last, weights[-1].t(), out=logits)

    with torch.no_grad():
        if not subject.on_gpu:
            return subject.by_clock(lambda: None, work, 1)
        with preferred(torch, library):
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                work()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=stream):
                work()
            times = sorted(event_times(torch, graph.replay, subject.sizes.repeats + 2)[2:])
    del weights, graph
    subject.empty_cache()
    return {"ms": times[len(times) // 2], "ms_least": times[0], "ms_most": times[-1]}


# ---- Loading


class MemoryWatch:
    """The least free memory of the device while it runs."""

    def __init__(self, torch):
        torch.cuda.synchronize()
        self.torch, self.before, self.least, self.over = torch, torch.cuda.mem_get_info()[0], 1 << 62, False
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        self.torch.cuda.set_device(0)
        while not self.over:
            self.look()
            time.sleep(0.002)

    def look(self):
        self.least = min(self.least, self.torch.cuda.mem_get_info()[0])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.look()
        self.over = True
        self.thread.join()

    @property
    def taken(self):
        return self.before - self.least


def loading(subject):
    """A checkpoint from the page cache onto the device, beside the rate of a copy from pinned memory; and the most memory that model, session, prompt and
    steps take, against weights + keys and values + 256 MB."""
    size = sum(file.stat().st_size for file in subject.directory.glob("*.safetensors"))
    capacity, seconds = min(subject.limit, 2048), []
    with Context(subject.library, subject.device) as context, MemoryWatch(subject.torch) if subject.on_gpu else contextlib.nullcontext() as watch:
        with context.load(subject.directory) as model, model.session(capacity) as session:
            weights = model.info().weights_bytes
            session.prefill(subject.random_tokens(capacity - 8), all_rows=False)
            session.steps(4)
            peak = context.info().peak_bytes
    for _ in range(3):  # by now the files are in the page cache; nobody watches memory, which takes the driver's time
        with Context(subject.library, subject.device) as context:
            start = time.perf_counter()
            with context.load(subject.directory):
                seconds.append(time.perf_counter() - start)
    numbers = {"peak_gb": peak * 1e-9, **({"taken_gb": watch.taken * 1e-9} if subject.on_gpu else {})}
    kv = subject.kv_bytes(capacity)
    allowed = weights + kv + (256 << 20)
    rate = copy_rate(subject)
    yield {"who": OURS, "file_gb": size * 1e-9, "seconds": min(seconds), "most_seconds": max(seconds), "gb_per_s": size / min(seconds) * 1e-9,
           "copy_gb_per_s": rate * 1e-9,
           "of_copy": size / min(seconds) / rate, "weights_gb": weights * 1e-9, "kv_gb": kv * 1e-9, **numbers, "peak_of_allowed": peak / allowed,
           **({"taken_of_allowed": watch.taken / allowed} if subject.on_gpu else {})}


def copy_rate(subject):
    """Bytes per second from pinned memory to the device; on the CPU, of a copy."""
    if not subject.on_gpu:
        source, start = np.ones(RATE_BYTES // 8), time.perf_counter()
        source.copy()
        return RATE_BYTES / (time.perf_counter() - start)
    torch = subject.torch
    host, device = torch.empty(4 * RATE_BYTES, dtype=torch.uint8, pin_memory=True), torch.empty(4 * RATE_BYTES, dtype=torch.uint8, device="cuda")
    times = event_times(torch, lambda: device.copy_(host, non_blocking=True), 5)
    del host, device
    subject.empty_cache()
    return 4 * RATE_BYTES / min(times) * 1e3


__all__ = ["Unavailable", "floor", "loading", "prompts"]
