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

import interface  # noqa: E402, F401

from clusterfusion import Context, Model, decode_batch  # noqa: E402

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


def interleaved_seconds(calls, rounds: int, runs: int = 1) -> list[float]:
    """Medians of calls made in turn, `runs` of each a round, so that a neighbour's load falls on all of them."""
    times = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, times):
            for _ in range(runs):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def median_seconds(call, runs: int) -> float:
    return interleaved_seconds([call], runs)[0]


class ReadBandwidth:
    """bytes per second that all cores together read"""

    def __init__(self, folder: Path):
        self.program = folder / "read_bandwidth"
        subprocess.run([os.environ.get("CC", "cc"), "-O3", "-march=native", "-pthread", str(HERE / "read_bandwidth.c"), "-o", str(self.program)], check=True)

    def measure(self) -> float:
        threads = len(os.sched_getaffinity(0))
        return float(subprocess.run([self.program, str(threads), "1"], check=True, capture_output=True, text=True).stdout) * 1e9


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
        context, preads, loads = Context("cpu"), [], []
        for _ in range(max(3, self.runs // 3)):
            preads.append(pread_seconds(self.weights))
            model = None  # freeing the one before is not loading
            start = time.perf_counter()
            model = Model.from_pretrained(self.directory, context)
            loads.append(time.perf_counter() - start)
        self.report("pread of the weights file", median(preads), "s")
        self.report("load", median(loads), "s", "x pread", median(loads) / median(preads), "<= 1.5")
        return model

    def prompt(self, n_tokens: int) -> list[int]:
        return np.random.default_rng(3).integers(0, self.config["vocab_size"], n_tokens).tolist()

    def decode(self, model: Model, context_tokens: int = 128) -> float:
        h, vocab = self.config["hidden_size"], self.config["vocab_size"]
        step_bytes = self.weights.stat().st_size - 2 * h * vocab  # the input embedding is one row
        kv_bytes = 2 * self.config["num_hidden_layers"] * context_tokens * h * 4  # F32
        prompt = self.prompt(context_tokens)
        session = model.session(capacity_tokens=1024)
        session.prefill(prompt)
        batch = [model.session(capacity_tokens=256) for _ in range(8)]
        for other in batch:
            other.prefill(prompt)

        def one():
            session.truncate(context_tokens)
            session.decode_step(prompt[0])

        def eight_positions():
            session.truncate(context_tokens)
            session.decode_positions(prompt[:8])

        def eight_sessions():
            for other in batch:
                other.truncate(context_tokens)
            decode_batch(batch)

        one(), eight_positions(), eight_sessions()  # warm
        bandwidth = ReadBandwidth(self.directory.parent)
        rates, seconds = [], []
        for _ in range(3 if self.runs < 15 else 7):  # in turn: the machine's bandwidth moves with its neighbours
            rates.append(bandwidth.measure())
            seconds.append(median_seconds(one, self.runs))
        share = statistics.median(step_bytes / s / rate for s, rate in zip(seconds, rates))
        share_with_kv = statistics.median((step_bytes + kv_bytes) / s / rate for s, rate in zip(seconds, rates))
        step = statistics.median(seconds)
        self.report(f"read bandwidth, {len(os.sched_getaffinity(0))} threads", statistics.median(rates) * 1e-9, "GB/s")
        self.report(f"decode step at context {context_tokens}", step * 1e3, "ms")
        self.report("decode, weight bytes moved", step_bytes / step * 1e-9, "GB/s", "of bandwidth", share, ">= 0.8")
        self.report("decode, with KV", (step_bytes + kv_bytes) / step * 1e-9, "GB/s", "of bandwidth", share_with_kv)
        alone, positions, sessions = interleaved_seconds([one, eight_positions, eight_sessions], 3, self.runs * 2)
        self.report("eight positions in one step", positions * 1e3, "ms", "x one row", positions / alone, "<= 2")
        self.report("eight sessions in one step", sessions * 1e3, "ms", "x one row", sessions / alone)
        more_bytes = (step_bytes + 8 * kv_bytes) / (step_bytes + kv_bytes)
        self.report("eight sessions, over the ratio of bytes", sessions * 1e3, "ms", "x one row", sessions / alone / more_bytes, "<= 2")
        return step

    def page_order(self, model: Model, context_tokens: int = 896, page_tokens: int = 16) -> None:
        """Two sessions of one pool with the same text: the pages of one in order, those of the other shuffled."""
        pages = -(-(context_tokens + 1) // page_tokens)
        pool = model.kv_pool(2 * pages * page_tokens, page_tokens=page_tokens)
        prompt = self.prompt(context_tokens)
        ordered = model.session(pool=pool, capacity_tokens=pages * page_tokens)
        ordered.prefill(prompt)
        holders = [model.session(pool=pool, capacity_tokens=page_tokens) for _ in range(pages)]
        for holder in holders:  # one page each, given back in random order: so the pool hands them out again
            holder.prefill(prompt[:1])
        del holder
        for i in np.random.default_rng(5).permutation(pages):
            holders[i] = None
        shuffled = model.session(pool=pool, capacity_tokens=pages * page_tokens)
        shuffled.prefill(prompt)

        def step(session):
            session.truncate(context_tokens)
            return session.decode_step(prompt[0], logits=True)

        if not np.array_equal(step(ordered).logits, step(shuffled).logits):
            sys.exit("the order of pages shows in the logits")
        in_order, in_random = interleaved_seconds([lambda: step(ordered), lambda: step(shuffled)], self.runs * 4)
        self.report(f"decode step at context {context_tokens}, pages shuffled", in_random * 1e3, "ms", "x in order", in_random / in_order, "<= 1.02")

    def prefill(self, model: Model, n_tokens: int = 512) -> float:
        session = model.session(capacity_tokens=1024)
        prompt = self.prompt(n_tokens)

        def run():
            session.truncate(0)
            session.prefill(prompt)

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
        numbers = json.loads(out)
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

    context, before = Context("cpu"), peak()
    model = Model.from_pretrained(directory, context)
    session = model.session(capacity_tokens=1024)
    session.prefill(list(range(64)))
    session.decode_steps(8)
    after = peak()
    estimate = context.estimate(model.config, session=session.options)
    session_bytes = estimate.kv_bytes + estimate.workspace_bytes
    print(json.dumps({"weights": estimate.weights_bytes, "session": session_bytes, "allocated": context.info.allocated_bytes, "peak": after - before}))


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
        bench.page_order(model)
        prefill_seconds = bench.prefill(model)
        bench.memory()
        if arguments.torch:
            bench.torch(arguments.torch, decode_seconds, prefill_seconds)
    if arguments.json:
        arguments.json.write_text("".join(json.dumps({"model": name, **row}) + "\n" for row in bench.rows))


if __name__ == "__main__":
    main()
