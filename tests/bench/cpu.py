"""The CPU backend against this machine's ceilings and peers, all measured in one run.

  python tests/bench/cpu.py [--model pythia-410m] [--quick] [--torch PYTHON] [--json FILE]

CLUSTERFUSION_LIBRARY names the library. The checkpoint has random weights of the true shape and is made in a temporary
folder. Ceilings: read bandwidth (read_bandwidth.c, all cores), fp32 GEMM of NumPy's BLAS (all cores), pread of the same
file. Peer: transformers in fp32 on the same CPU, run by the interpreter that --torch names.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for folder in ("bindings/python", "tests/golden", "tests/python"):
    sys.path.insert(0, str(ROOT / folder))

from decoder import Context, Model, Session, check, decode_batch, lib, make  # noqa: E402

# hidden, layers, heads, vocabulary
SHAPES = {"pythia-14m": (128, 6, 4, 50304), "pythia-70m": (512, 6, 8, 50304), "pythia-160m": (768, 12, 12, 50304), "pythia-410m": (1024, 24, 16, 50304)}


def config_of(name: str) -> dict:
    hidden, layers, heads, vocab = SHAPES[name]
    return {
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": 4 * hidden, "vocab_size": vocab, "max_position_embeddings": 2048,
        "rotary_pct": 0.25, "use_parallel_residual": True, "hidden_act": "gelu", "tie_word_embeddings": False, "torch_dtype": "float16",
    }


def tensor_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    h, inter, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {"gpt_neox.embed_in.weight": (vocab, h), "embed_out.weight": (vocab, h)}
    norms = ["gpt_neox.final_layer_norm"]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"gpt_neox.layers.{layer}."
        norms += [prefix + "input_layernorm", prefix + "post_attention_layernorm"]
        for name, rows, columns in (("attention.query_key_value", 3 * h, h), ("attention.dense", h, h), ("mlp.dense_h_to_4h", inter, h), ("mlp.dense_4h_to_h", h, inter)):
            shapes |= {prefix + name + ".weight": (rows, columns), prefix + name + ".bias": (rows,)}
    for norm in norms:
        shapes |= {norm + ".weight": (h,), norm + ".bias": (h,)}
    return shapes


def write_checkpoint(directory: Path, config: dict) -> int:
    """Random F16 weights; returns the bytes of the weights file."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config))
    header, offset = {}, 0
    shapes = tensor_shapes(config)
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    random = np.random.default_rng(1)
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            values = random.standard_normal(shape, dtype=np.float32) * 0.02
            if "norm" in name and name.endswith("weight"):
                values += 1
            file.write(values.astype("<f2").tobytes())
    return 8 + len(text) + offset


def median_seconds(call, runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def read_bandwidth(threads: int) -> float:
    """bytes per second"""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "read_bandwidth"
        subprocess.run([os.environ.get("CC", "cc"), "-O3", "-march=native", "-pthread", str(HERE / "read_bandwidth.c"), "-o", str(program)], check=True)
        return float(subprocess.run([program, str(threads), "1"], check=True, capture_output=True, text=True).stdout) * 1e9


def gemm_rate(config: dict, rows: int, runs: int) -> float:
    """fp32 operations per second of BLAS on the matrix products of a prefill"""
    h, inter = config["hidden_size"], config["intermediate_size"]
    random = np.random.default_rng(2)
    seconds = operations = 0.0
    for columns, depth in ((3 * h, h), (h, h), (inter, h), (h, inter)):
        x, w = (random.standard_normal(shape, dtype=np.float32) for shape in ((rows, depth), (columns, depth)))
        seconds += median_seconds(lambda: x @ w.T, runs)
        operations += 2.0 * rows * columns * depth
    return operations / seconds


def pread_seconds(path: Path) -> float:
    """The whole file into memory that the process has not touched before, as a load has to."""
    size = path.stat().st_size
    descriptor = os.open(path, os.O_RDONLY)
    try:
        buffer = np.empty(size, np.uint8)
        start = time.perf_counter()
        offset = 0
        while offset < size:
            offset += os.preadv(descriptor, [memoryview(buffer)[offset : offset + (64 << 20)]], offset)
        return time.perf_counter() - start
    finally:
        os.close(descriptor)


class Bench:
    def __init__(self, directory: Path, config: dict, runs: int):
        self.directory, self.config, self.runs = directory, config, runs
        self.weights = directory / "model.safetensors"
        self.rows: list[dict] = []

    def report(self, what: str, value: float, unit: str, against: str = "", ratio: float | None = None, target: str = "") -> None:
        self.rows.append({"what": what, "value": value, "unit": unit, "against": against, "ratio": ratio, "target": target})
        shown = f"{ratio:8.3f} {against}" if ratio is not None else ""
        print(f"{what:46} {value:12.3f} {unit:8} {shown} {target}", flush=True)

    def load(self) -> Model:
        median = statistics.median
        context, preads, loads = Context(), [], []
        for _ in range(max(3, self.runs // 3)):
            preads.append(pread_seconds(self.weights))
            model = None  # freeing the one before is not loading
            start = time.perf_counter()
            model = Model.load(context, self.directory)
            loads.append(time.perf_counter() - start)
        self.report("pread of the weights file", median(preads), "s")
        self.report("load", median(loads), "s", "x pread", median(loads) / median(preads), "<= 1.5")
        return model

    def decode(self, model: Model, context_tokens: int = 128) -> float:
        threads = os.sched_getaffinity(0)
        bandwidth = read_bandwidth(len(threads))
        self.report(f"read bandwidth, {len(threads)} threads", bandwidth * 1e-9, "GB/s")
        h, vocab = self.config["hidden_size"], self.config["vocab_size"]
        step_bytes = self.weights.stat().st_size - 2 * h * vocab  # the input embedding is one row
        kv_bytes = 2 * self.config["num_hidden_layers"] * context_tokens * h * 4  # F32
        session = Session(model, capacity_tokens=1024)
        prompt = list(np.random.default_rng(3).integers(0, vocab, context_tokens))

        def step():
            check(lib.cf_session_truncate(session.handle, context_tokens))
            check(lib.cf_decode_step(session.handle, lib.CF_TOKEN_PENDING, make("cf_step_options")))
            session.wait()

        session.prefill(prompt, rows=lib.CF_ROWS_LAST)
        step()
        seconds = median_seconds(step, self.runs * 4)
        self.report(f"decode step at context {context_tokens}", seconds * 1e3, "ms")
        self.report("decode, weight bytes moved", step_bytes / seconds * 1e-9, "GB/s", "of bandwidth", step_bytes / seconds / bandwidth, ">= 0.8")
        self.report("decode, with KV", (step_bytes + kv_bytes) / seconds * 1e-9, "GB/s", "of bandwidth", (step_bytes + kv_bytes) / seconds / bandwidth)

        sessions = [Session(model, capacity_tokens=256) for _ in range(8)]
        for other in sessions:
            other.prefill(prompt, rows=lib.CF_ROWS_LAST)

        def eight():
            for other in sessions:
                check(lib.cf_session_truncate(other.handle, context_tokens))
            decode_batch(sessions)

        eight()
        eight_seconds = median_seconds(eight, self.runs)
        self.report("eight sessions in one step", eight_seconds * 1e3, "ms", "x one row", eight_seconds / seconds, "<= 2")
        return seconds

    def prefill(self, model: Model, n_tokens: int = 512) -> float:
        session = Session(model, capacity_tokens=1024)
        prompt = list(np.random.default_rng(4).integers(0, self.config["vocab_size"], n_tokens))

        def run():
            check(lib.cf_session_truncate(session.handle, 0))
            session.prefill(prompt, rows=lib.CF_ROWS_LAST)

        run()
        rate = gemm_rate(self.config, n_tokens, max(3, self.runs // 2))
        seconds = median_seconds(run, max(3, self.runs // 2))
        h, inter, layers = self.config["hidden_size"], self.config["intermediate_size"], self.config["num_hidden_layers"]
        operations = 2.0 * n_tokens * layers * (4 * h * h + 2 * h * inter)
        self.report("BLAS, fp32 GEMM of the same shapes", rate * 1e-9, "GFLOP/s")
        self.report(f"prefill of {n_tokens} tokens", seconds * 1e3, "ms")
        self.report("prefill, matrix products over all its time", operations / seconds * 1e-9, "GFLOP/s", "of BLAS", operations / seconds / rate, ">= 0.5")
        return seconds

    def memory(self) -> None:
        """In a process of its own: peak resident memory over what the library said it would allocate."""
        out = subprocess.run([sys.executable, __file__, "--memory-child", str(self.directory)], check=True, capture_output=True, text=True).stdout
        numbers = json.loads(out.splitlines()[-1])  # cffi says what it generates
        estimate = numbers["weights"] + numbers["session"]
        self.report("estimate: weights + session", estimate / 1e6, "MB")
        self.report("allocated through the allocator", numbers["allocated"] / 1e6, "MB", "x estimate", numbers["allocated"] / estimate, "= 1")
        self.report("peak resident, less the interpreter's", numbers["peak"] / 1e6, "MB", "x estimate", numbers["peak"] / estimate, "<= 1.2")

    def torch(self, python: str, decode_seconds: float, prefill_seconds: float) -> None:
        out = subprocess.run([python, str(HERE / "torch_cpu.py"), str(self.directory)], check=True, capture_output=True, text=True).stdout
        peer = json.loads(out.splitlines()[-1])
        self.report("transformers fp32, decode step", peer["decode"] * 1e3, "ms", "x ours", peer["decode"] / decode_seconds, ">= 1")
        self.report("transformers fp32, prefill", peer["prefill"] * 1e3, "ms", "x ours", peer["prefill"] / prefill_seconds)


def memory_child(directory: str) -> None:
    def peak():  # of this program: getrusage would count what the parent held when it forked
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))

    context, before = Context(), peak()
    model = Model.load(context, directory)
    session = Session(model, capacity_tokens=1024)
    session.prefill(list(range(64)), rows=lib.CF_ROWS_LAST)
    session.decode_steps(8)
    after = peak()
    estimate, options = make("cf_memory_estimate"), make("cf_session_options", capacity_tokens=1024)
    check(lib.cf_model_estimate(context.handle, model.config, lib.CF_DTYPE_F16, make("cf_model_options"), options, estimate))
    info = make("cf_context_info")
    check(lib.cf_context_query(context.handle, info))
    session_bytes = estimate.kv_bytes + estimate.workspace_bytes
    print(json.dumps({"weights": estimate.weights_bytes, "session": session_bytes, "allocated": info.allocated_bytes, "peak": after - before}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default=None)
    parser.add_argument("--quick", action="store_true", help="the smallest shape, few runs: shows that the benchmark works")
    parser.add_argument("--torch", metavar="PYTHON", help="an interpreter with torch and transformers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes one line per row")
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_child:
        memory_child(arguments.memory_child)
        return
    name = arguments.model or ("pythia-14m" if arguments.quick else "pythia-410m")
    config = config_of(name)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / name
        size = write_checkpoint(directory, config)
        print(f"{name}: {size / 1e6:.0f} MB of F16 weights")
        bench = Bench(directory, config, runs=3 if arguments.quick else 15)
        model = bench.load()
        decode_seconds = bench.decode(model)
        prefill_seconds = bench.prefill(model)
        bench.memory()
        if arguments.torch:
            bench.torch(arguments.torch, decode_seconds, prefill_seconds)
    if arguments.json:
        arguments.json.write_text("".join(json.dumps({"model": name, **row}) + "\n" for row in bench.rows))


if __name__ == "__main__":
    main()
