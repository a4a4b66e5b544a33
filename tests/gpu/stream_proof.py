"""Sessions beside the caller's own CUDA work: steps in the caller's stream capture, calls that wait, outputs and taps in device memory.

    python3 tests/gpu/stream_proof.py --library build/release/libclusterfusion.so [--shapes tiny]

Needs torch, for streams, captures, device arrays and for counting what the library calls of the CUDA runtime (its profiler sees the calls of
every library in the process).
"""

import ctypes
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import made_models  # noqa: E402
from report import Report, arguments_of  # noqa: E402
from sessions import PENDING, Context, Failure, Library, same  # noqa: E402

MODES = {"STEP": 1, "BLOCK": 2, "PHASE": 3}
INVALID_ARGUMENT, CACHE_FULL = 2, 10
PROMPT, CAPACITY = 70, 128
POINTS = ("BLOCK_INPUT", "BLOCK_OUTPUT", "ATTENTION_HEADS", "MLP_ACTIVATION")


class Lab:
    def __init__(self, library, context, name, folder):
        self.library = library
        self.model = context.load(made_models.write(name, folder))
        self.prompt = made_models.random_tokens(PROMPT, self.model.vocab, 1)

    def session(self, **options):
        return self.model.session(CAPACITY, **options)

    def text(self, position, n):
        """Tokens of a session that took `position` tokens of the prompt and n steps."""
        with self.session() as session:
            session.prefill(self.prompt[:position], all_rows=False)
            session.steps(n)
            return session.tokens()


def enqueue_steps(session, n):
    session.library.call("cf_decode_steps", session.handle, ctypes.c_int64(n), None)


class Captured:
    """Steps of a session on a stream of its own, captured by torch; call it to replay them."""

    def __init__(self, session, stream, n_steps, more=lambda: None):
        self.graph, self.stream = torch.cuda.CUDAGraph(), stream
        with torch.cuda.graph(self.graph, stream=stream):
            enqueue_steps(session, n_steps)
            more()

    def __call__(self, times):
        with torch.cuda.stream(self.stream):
            for _ in range(times):
                self.graph.replay()


def captured(report, row, lab, mode, n_steps):
    stream = torch.cuda.Stream()
    with lab.session(stream=stream.cuda_stream, launch_mode=MODES[mode]) as session:
        session.prefill(lab.prompt, all_rows=False)
        replay = Captured(session, stream, n_steps)
        report.check(session.wait().n_steps == 0, "capturing took steps")
        replay(12 // n_steps)
        result = session.wait()
        report.check(result.n_steps == 12 and result.position == PROMPT + 12, f"{result.n_steps} steps, position {result.position} after replays")
        report.check(session.tokens() == lab.text(PROMPT, 12), "replays gave another text")
        session.steps(3)  # direct ones in between
        replay(4 // n_steps)
        report.check(session.wait().n_steps == 4, "another number of steps after direct ones")
        report.check(session.tokens() == lab.text(PROMPT, 19), "another text after direct steps")
        for position in (5, 63, 64):
            session.truncate(0)
            session.prefill(lab.prompt[:position], all_rows=False)
            replay(8 // n_steps)
            session.wait()
            report.check(session.tokens() == lab.text(position, 8), f"another text from {position} on")
        # The parent writes to what was shared before the fork has run.
        pool = lab.model.pool(4 * CAPACITY, page_tokens=32)
        with lab.session(stream=stream.cuda_stream, launch_mode=MODES[mode], pool=pool) as parent:
            parent.prefill(lab.prompt[:40], all_rows=False)
            replay_parent = Captured(parent, stream, n_steps)
            with parent.fork(40) as fork:
                parent.truncate(35)
                replay_parent(8 // n_steps)
                parent.wait()
                fork.steps(8)
                report.check(fork.tokens() == lab.text(40, 8), "replays of the parent wrote to a fork's pages")
                report.check(parent.tokens()[:36] == lab.prompt[:36], "the parent's own tokens")
        pool.close()
        status = 0
        try:
            replay(CAPACITY)
            session.wait()
        except Failure as failure:
            status = failure.status
        report.check(status == CACHE_FULL, f"status {status} when replays come to the end of the cache")
        session.truncate(PROMPT // 2)
        replay(1)
        report.check(session.wait().position == PROMPT // 2 + n_steps, "no replay after the cache was full")


def refused(report, row, lab):
    """What cannot be captured is refused, and the capture goes on."""
    stream = torch.cuda.Stream()
    with lab.session(stream=stream.cuda_stream) as session, lab.session(stream=stream.cuda_stream, reserve=0) as growing:
        session.prefill(lab.prompt, all_rows=False)
        growing.prefill(lab.prompt, all_rows=False)
        found = {}

        def attempt(what, function):
            try:
                function()
                found[what] = "nothing"
            except Failure as failure:
                found[what] = str(failure)

        def attempts():
            attempt("prompt", lambda: session.library.call("cf_prefill", session.handle, (ctypes.c_int32 * 1)(1), ctypes.c_size_t(1), None))
            attempt("outputs", lambda: session.enqueue("cf_decode_step"))
            attempt("wait", session.wait)
            attempt("reserve", lambda: enqueue_steps(growing, 1))
            attempt("truncate", lambda: session.truncate(0))
            attempt("sampler", lambda: session.sampler(temperature=1.0, seed=5))
            attempt("create", lambda: lab.session(stream=stream.cuda_stream))

        replay = Captured(session, stream, 1, attempts)
        for what, word in (("prompt", "captur"), ("outputs", "captured"), ("wait", "captur"), ("reserve", "reserve"), ("truncate", "captured"),
                           ("sampler", "captured"), ("create", "options.stream")):
            report.check(word in found[what], f"{what}: {found[what]}")
            row[what] = found[what]
        replay(5)
        session.wait()
        report.check(session.tokens() == lab.text(PROMPT, 5), "another text after refusals")


def waiting_calls(report, row, lab, n_steps=40):
    """Calls of the CUDA runtime, by steps and by replays of a graph. The count that is right for both: a launch each, and nothing else that is not a question."""
    with lab.session() as session:
        session.prefill(lab.prompt[:5], all_rows=False)
        session.steps(2)
        with session.capture(1) as graph:
            for what, step in (("steps", lambda: session.library.call("cf_decode_step", session.handle, ctypes.c_int32(PENDING), None)), ("replays", graph.launch)):
                torch.cuda.synchronize()
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]) as profile:
                    for _ in range(n_steps):
                        step()
                session.wait()
                calls = Counter(event.name for event in profile.events() if event.name.startswith("cuda") or event.name.startswith("cu"))
                launches = sum(count for name, count in calls.items() if "Launch" in name)
                waits = {name: count for name, count in calls.items() if "Synchronize" in name or "Memcpy" in name or "Memset" in name or "Malloc" in name}
                row[what] = dict(calls)
                report.check(launches == n_steps, f"{launches} launches in {n_steps} {what}: {dict(calls)}")
                # The profiler's own end is one cudaDeviceSynchronize.
                waits["cudaDeviceSynchronize"] = max(0, waits.get("cudaDeviceSynchronize", 0) - 1)
                report.check(not any(waits.values()), f"{what} waited or copied: {waits}")


def outputs(report, row, lab):
    """Every array of cf_outputs, and taps, in device memory against the same in host memory."""
    n, top_n, vocab = 9, 5, lab.model.vocab
    targets = (ctypes.c_int32 * n)(*lab.prompt[1:n], -1)
    shapes = {"logits": ((n, vocab), torch.float32), "top_tokens": ((n, top_n), torch.int32), "top_logprobs": ((n, top_n), torch.float32),
              "target_logprobs": ((n,), torch.float32), "row_tokens": ((n,), torch.int32), "row_status": ((n,), torch.int32)}
    widths = dict(zip(POINTS, (lab.model.config.hidden_size,) * 2 + (lab.model.config.n_heads * lab.model.config.head_dim, lab.model.config.intermediate_size)))

    def run(device, call):
        arrays = {name: torch.full(shape, -7, dtype=dtype, device=device) for name, (shape, dtype) in shapes.items()}
        read = [torch.full((n, widths[point]), float("nan"), device=device) for point in POINTS]
        torch.cuda.synchronize()
        memory = lab.library.CF_MEMORY_DEVICE if device == "cuda" else lab.library.CF_MEMORY_HOST
        struct = lab.library.struct("cf_outputs", memory=memory, rows=1, top_n=top_n, targets=ctypes.addressof(targets),
                                    **{name: array.data_ptr() for name, array in arrays.items()})
        taps = (lab.library.header.structs["cf_tap"] * len(POINTS))()
        for i, point in enumerate(POINTS):
            taps[i] = lab.library.struct("cf_tap", point=getattr(lab.library, f"CF_TAP_{point}"), layer=1, memory=memory, data=read[i].data_ptr())
        options = lab.library.struct("cf_step_options", outputs=ctypes.addressof(struct), taps=ctypes.addressof(taps), n_taps=len(POINTS))
        with lab.session() as session:
            session.prefill(lab.prompt[:3], all_rows=False)
            lab.library.call(call, session.handle, (ctypes.c_int32 * n)(*lab.prompt[:n]), ctypes.c_size_t(n), ctypes.byref(options))
            session.wait()
        torch.cuda.synchronize()
        return [array.cpu().numpy() for array in (*arrays.values(), *read)]

    for call in ("cf_prefill", "cf_decode_positions"):
        for name, a, b in zip([*shapes, *POINTS], run("cpu", call), run("cuda", call)):
            report.check(same(a, b), f"{call}: {name} in device memory differs")
            report.check(np.isfinite(a).all() and (a != -7).any(), f"{call}: nobody wrote {name}")
    with lab.session() as session:
        host = np.zeros(vocab, np.float32)
        struct = lab.library.struct("cf_outputs", memory=lab.library.CF_MEMORY_DEVICE, logits=host.ctypes.data)
        options = lab.library.struct("cf_step_options", outputs=ctypes.addressof(struct))
        status = lab.library.status("cf_prefill", session.handle, (ctypes.c_int32 * 1)(1), ctypes.c_size_t(1), ctypes.byref(options))
        report.check(status == INVALID_ARGUMENT, f"host memory that is said to be the device's: status {status}")
        session.prefill(lab.prompt, all_rows=False)


def main():
    parser = arguments_of(__doc__, device=False)
    parser.add_argument("--shapes", default="neox-80,llama-64-gqa")
    arguments = parser.parse_args()
    library = Library(arguments.library)
    report, context = Report("stream_proof", arguments), Context(library)
    for name in arguments.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            lab = Lab(library, context, name, folder)
            for mode in MODES:
                for n_steps in (1, 4):
                    report.run(f"{name}: captured by the caller, {mode}, {n_steps}", captured, lab, mode, n_steps)
            for function in (refused, waiting_calls, outputs):
                report.run(f"{name}: {function.__name__.replace('_', ' ')}", function, lab)
            lab.model.close()
    report.finish()


if __name__ == "__main__":
    main()
