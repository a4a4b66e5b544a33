"""What a token costs: by launch mode, by how a caller asks for it, by sampler, and for several rows at once.

    python3 tests/bench/steps.py --library build/release/libclusterfusion.so [--shapes pythia-410m] [--contexts 128,1984] [--only modes,samplers]

Random weights of the true shape, at a held context (truncated back). Steps of one call are timed by CUDA events on the session's stream, tokens
that the host takes one by one by its own clock. Every number is a median, beside its ratio to the plain case measured in the same run: greedy,
one launch a step, 32 steps in a call. Needs numpy and torch.
"""

import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu"))
import made_models  # noqa: E402
from sessions import Context, Failure, Library, decode_batch  # noqa: E402

MODES = {"a launch per step": 1, "a launch per block": 2, "a launch per phase": 3}
SAMPLERS = {
    "greedy": {},
    "temperature": dict(temperature=1.0, seed=1),
    "min-p": dict(temperature=1.0, min_p=0.05, seed=1),
    "top-k 40": dict(temperature=0.9, top_k=40, seed=1),
    "top-p 0.9": dict(temperature=0.9, top_p=0.9, seed=1),
    "top-k 40, top-p 0.9, min-p 0.02, penalty 1.1": dict(temperature=0.9, top_k=40, top_p=0.9, min_p=0.02, repetition_penalty=1.1, seed=1),
}
STEPS, REPEATS, ROWS = 32, 15, 8


class Bench:
    def __init__(self, model, context):
        self.model, self.context, self.library = model, context, model.library
        self.stream = torch.cuda.Stream()
        self.tokens = made_models.random_tokens(context, model.vocab, 1)

    def session(self, **options):
        session = self.model.session(self.context + 2 * STEPS, stream=self.stream.cuda_stream, **options)
        session.prefill(self.tokens, all_rows=False)
        return session

    def by_events(self, session, enqueue, n, repeats=REPEATS):
        """Microseconds each of n things that `enqueue` starts on the stream."""
        times = []
        for _ in range(repeats):
            session.truncate(self.context)
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            begin.record(self.stream)
            enqueue()
            end.record(self.stream)
            end.synchronize()
            session.wait()
            times.append(begin.elapsed_time(end) * 1e3 / n)
        return statistics.median(times[2:])

    def by_clock(self, session, one, n, repeats=REPEATS):
        times = []
        for _ in range(repeats):
            session.truncate(self.context)
            start = time.perf_counter()
            for _ in range(n):
                one()
            times.append((time.perf_counter() - start) * 1e6 / n)
        return statistics.median(times[2:])

    def steps(self, session):
        return self.by_events(session, lambda: self.library.call("cf_decode_steps", session.handle, ctypes.c_int64(STEPS), None), STEPS)

    def modes(self):
        for name, mode in MODES.items():
            with self.session(launch_mode=mode) as session:
                yield f"{name}, {STEPS} in a call", self.steps(session)
                token, result = ctypes.c_int32(-1), self.library.struct("cf_result")
                call, step, wait = self.library._library, self.library._library.cf_decode_step, self.library._library.cf_session_wait

                def one_by_one():
                    step(session.handle, token, None)
                    wait(session.handle, ctypes.byref(result))

                yield f"{name}, the host takes each token", self.by_clock(session, one_by_one, STEPS)
                with session.capture(1) as graph:
                    launch = call.cf_graph_launch
                    yield f"{name}, a graph replay each", self.by_events(session, lambda: [launch(graph.handle) for _ in range(STEPS)], STEPS)

                    def replay():
                        launch(graph.handle)
                        wait(session.handle, ctypes.byref(result))

                    yield f"{name}, a graph replay each, the host takes each token", self.by_clock(session, replay, STEPS)

    def samplers(self):
        for name, options in SAMPLERS.items():
            with self.session() as session:
                session.sampler(**options)
                yield name, self.steps(session)

    def rows(self):
        drafted = made_models.random_tokens(ROWS, self.model.vocab, 2)
        array = (ctypes.c_int32 * ROWS)(*drafted)
        with self.session() as session:
            for n in (1, 2, 4, ROWS):
                yield f"{n} positions", self.by_clock(
                    session, lambda: (session.truncate(self.context), self.library.call("cf_decode_positions", session.handle, array, ctypes.c_size_t(n), None), session.wait()), 1)
        sessions = [self.session() for _ in range(ROWS)]

        def batch():
            decode_batch(sessions)
            for session in sessions:
                session.truncate(self.context)

        yield f"{ROWS} sessions", self.by_clock(sessions[0], batch, 1)
        for session in sessions:
            session.close()

    def clusters(self):
        for size in (1, 2, 4, 8, 16):
            try:
                with self.session(cluster_size=size) as session:
                    yield f"clusters of {size}", self.steps(session)
            except Failure as failure:
                print(f"clusters of {size}: {failure}", file=sys.stderr)

    def prompts(self):
        for n in (64, 512, self.context):
            if n > self.context:
                continue
            with self.model.session(self.context + 1, stream=self.stream.cuda_stream) as session:
                prompt = (ctypes.c_int32 * n)(*self.tokens[:n])
                times = []
                for _ in range(REPEATS):
                    session.truncate(0)
                    start = time.perf_counter()
                    self.library.call("cf_prefill", session.handle, prompt, ctypes.c_size_t(n), None)
                    session.wait()
                    times.append((time.perf_counter() - start) * 1e6)
                yield f"a prompt of {n}", statistics.median(times[2:])


KINDS = ("modes", "samplers", "rows", "clusters", "prompts")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--shapes", default="pythia-410m")
    parser.add_argument("--contexts", default="128")
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--rows", type=argparse.FileType("w"), help="the rows as JSON lines, too")
    arguments = parser.parse_args()
    context = Context(Library(arguments.library))
    print(f"{torch.cuda.get_device_name()}\n| shape | context | what | us | ratio | over the plain case, us |\n|---|---|---|---|---|---|")
    for shape in arguments.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            model = context.load(made_models.write(shape, folder))
        for length in (int(n) for n in arguments.contexts.split(",")):
            bench = Bench(model, length)
            with bench.session() as session:
                plain = bench.steps(session)
            for kind in arguments.only.split(","):
                for what, us in getattr(bench, kind)():
                    print(f"| {shape} | {length} | {what} | {us:.1f} | {us / plain:.3f} | {us - plain:+.1f} |", flush=True)
                    if arguments.rows:
                        arguments.rows.write(json.dumps({"shape": shape, "context": length, "kind": kind, "what": what, "us": us, "plain_us": plain}) + "\n")
        model.close()


if __name__ == "__main__":
    main()
