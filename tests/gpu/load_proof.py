"""Loading with all readers at work: what arrives, what it takes, and what is left when a file fails under it.

    python3 tests/gpu/load_proof.py --library build/release/libclusterfusion.so [--device cpu] [--small] [--only F16]

The layers of its model have more bytes than the lanes of src/cuda/weight_loader.h take at once; --small: than those of two readers. Logits are held to those of the CPU
backend, which reads with one thread and has the same rounded weights.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "golden")]
import made_models  # noqa: E402
from reference import relative_error  # noqa: E402
from report import Report, arguments_of, limits_of  # noqa: E402
from sessions import DTYPES, Context, Failure, Library  # noqa: E402

SHAPES = {"large-layers": made_models.neox(2048, 2, 32, 8192, 61), "large-layers-small": made_models.neox(512, 2, 8, 7424, 61)}
made_models.SHAPES |= SHAPES
BOUND = 3e-3  # of tests/gpu/golden_proof.py
IO, CANCELLED = 4, 13


class World:
    def __init__(self, arguments, folder, limits):
        self.arguments, self.folder, self.limits = arguments, folder, limits
        self.shape = list(SHAPES)[arguments.small]
        self.library = Library(arguments.library)

    def context(self):
        return Context(self.library, self.arguments.device, **self.limits)


def logits_of(model, n):
    with model.session(n) as session:
        return session.prefill(made_models.random_tokens(n, model.vocab, 3))


def estimate_of(context, model, dtype):
    """Of a load from `dtype` to F16."""
    library = context.library
    estimate = library.struct("cf_memory_estimate")
    loading, session = library.struct("cf_model_options", weight_dtype=DTYPES["F16"]), library.struct("cf_session_options", capacity_tokens=16)
    library.call("cf_model_estimate", context.handle, ctypes.byref(model.config), DTYPES[dtype], ctypes.byref(loading), ctypes.byref(session),
                 ctypes.byref(estimate))
    return estimate


def arrives(report, row, world, dtype):
    directory = made_models.write(world.shape, Path(world.folder) / dtype, dtype=dtype)
    with Context(world.library, "cpu") as cpu, cpu.load(directory, "F16") as model:
        expected = logits_of(model, 5)
    with world.context() as context:
        with context.load(directory, "F16") as model:
            estimate, peak, weights = estimate_of(context, model, dtype), context.info().peak_bytes, model.info().weights_bytes
            report.check(peak == weights + estimate.load_staging_bytes, f"{peak} bytes at most, {weights} + {estimate.load_staging_bytes} were foreseen")
            report.check(weights == estimate.weights_bytes, f"{weights} bytes of weights, {estimate.weights_bytes} were foreseen")
            error = relative_error(logits_of(model, 5), expected).max()
        report.check(context.info().allocated_bytes == 0, f"{context.info().allocated_bytes} bytes are left")
    report.check(error <= BOUND, f"{error:.2e} from the CPU backend, at most {BOUND:.0e} asked")
    row.update(error=float(error), staging_mb=estimate.load_staging_bytes / 2**20)


def fails(report, row, world, what):
    """In the second layer: `what` happens between it and the first."""
    directory = made_models.write(world.shape, Path(world.folder) / what, dtype="F16")
    file = next(directory.glob("*.safetensors"))
    content = file.read_bytes()
    calls = []

    def progress(_, done, total):
        calls.append(done)
        if len(calls) < 3:  # nothing, and the globals
            return 0
        os.truncate(file, len(content) // 16)
        return what == "cancelled"

    callback = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)(progress)
    status, sentence = (IO, file.name) if what == "shorter" else (CANCELLED, "cancelled after")
    with world.context() as context:
        try:
            context.load(directory, progress=ctypes.cast(callback, ctypes.c_void_p).value).close()
            report.check(False, "it was loaded")
        except Failure as failure:
            report.check(failure.status == status and sentence in str(failure), f"{failure}, not status {status} with {sentence!r}")
            row["sentence"] = str(failure).replace(str(directory), "DIR")
        report.check(len(calls) == 3, f"progress was told {len(calls)} times")
        report.check(context.info().allocated_bytes == 0, f"{context.info().allocated_bytes} bytes are left")
        file.write_bytes(content)
        with context.load(directory) as model:
            report.check(np.isfinite(logits_of(model, 3)).all(), "logits are not finite")


def main():
    arguments = arguments_of(__doc__).parse_args()
    report = Report("load_proof", arguments)
    with tempfile.TemporaryDirectory() as folder:
        world = World(arguments, folder, limits_of(arguments))
        for dtype in ("F16", "BF16", "F32"):
            report.run(f"arrives: {dtype}", arrives, world, dtype)
        for what in ("shorter", "cancelled"):
            report.run(f"fails: {what}", fails, world, what)
    report.finish()


if __name__ == "__main__":
    main()
