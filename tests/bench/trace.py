"""Where the time of a step goes, from inside: when each CTA comes to what, as a build with CF_CUDA_TRACE tells (preset cuda-trace).

    cmake --preset cuda-trace && cmake --build --preset cuda-trace
    python3 tests/bench/trace.py --library build/cuda-trace/libclusterfusion.so [--shape pythia-410m] [--context 128] [--results FILE.jsonl]

A row of the table is a job of a layer, its columns are the events of kernels/contract.h (TraceEvent), in us since the layer before ended, which is
when the last CTA's words were on their way: mean, least and most over the CTAs, each a mean over the layers of one step. Events cost a step 1 to 10 %.
With --results the same as JSON lines, kind "trace". Needs numpy.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "gpu"))
import made_models  # noqa: E402
from sessions import Context, Library  # noqa: E402

JOBS = ("Q K V", "MLP-up", "attention", "MLP-down", "O", "head")  # JobKind, and kTraceCtas, kTraceLayers of the same header
EVENTS = ("begin", "asked", "words", "ready", "multiplied", "summed", "end", "stream", "streamed")
CTAS, LAYERS = 256, 128
FIRST_LAYER = 2  # before it a step begins


def traced(path, n_layers):
    """Microseconds [CTAs, layers, jobs, events]; NaN where nothing happened."""
    times = np.fromfile(path, np.uint64).reshape(CTAS, LAYERS, len(JOBS), len(EVENTS))[:, :n_layers].astype(np.float64)
    times[times == 0] = np.nan
    return times / 1e3


def rows_of(times, parallel):
    order = (0, 1, 2, 3, 4) if parallel else (0, 2, 4, 1, 3)
    last, end = order[-1], EVENTS.index("end")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of all NaN: a job has no such event
        ends = np.nanmax(times[:, :, last, end], axis=0)  # of each layer
        since = times[:, FIRST_LAYER:] - ends[FIRST_LAYER - 1:-1, None, None]
        table = np.stack([np.nanmean(of(since, axis=0), axis=0) for of in (np.nanmean, np.nanmin, np.nanmax)], axis=-1)
    for job in order:
        yield JOBS[job], {event: table[job, i].tolist() for i, event in enumerate(EVENTS) if not np.isnan(table[job, i]).any()}
    yield "layer", {"end": [float(np.mean(np.diff(ends[FIRST_LAYER - 1:])))] * 3}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--shape", default="pythia-410m")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--results", help="JSON lines are added to it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        os.environ["CF_TRACE"] = file.name
        context = Context(Library(arguments.library))
        with context.load(made_models.write(arguments.shape, folder)) as model, model.session(arguments.context + 33) as session:
            session.prefill(made_models.random_tokens(arguments.context, model.vocab, 1), all_rows=False)
            session.steps(32)
            config = model.config
        times = traced(file.name, config.n_layers)
    if np.isnan(times).all():
        sys.exit("nothing was traced: is the library built with CF_CUDA_TRACE?")
    print(f"{arguments.shape} at context {arguments.context}\n| job | " + " | ".join(EVENTS) + " |\n|---" + "|---" * len(EVENTS) + "|")
    for job, events in rows_of(times, config.parallel_residual):
        shown = ["{:.1f} ({:.1f} to {:.1f})".format(*events[event]) if event in events else "" for event in EVENTS]
        print(f"| {job} | " + " | ".join(shown) + " |")
        if arguments.results:
            with open(arguments.results, "a") as results:
                print(json.dumps({"kind": "trace", "shape": arguments.shape, "context": arguments.context, "job": job, "us": events}), file=results)


if __name__ == "__main__":
    main()
