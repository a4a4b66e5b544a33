"""What decoding costs, beside what it could cost at least and what others take for it, in one command:

    python3 tests/bench/bench.py --build build/release [--shapes pythia-2.8b,...] [--only tokens,contexts,...] [--results FILE.jsonl]
    python3 tests/bench/bench.py --build build/release --quick --device cpu        the demo checkpoint on the CPU, in seconds: is all of it alive?

Every number is a JSON line in FILE; a table of them comes last, and plots.py draws them. Checkpoints of published shapes have random weights, made
here by transformers. Kinds of numbers:

  floor     the time to stream a step's weights, without meetings between CTAs and with them (bench_floor); what ratios are to
  tokens    one text of up to 2043 tokens from a prompt of 5: time per token, set-up, and the first token that transformers in fp32 would not choose
  contexts  time per token at a held context: many steps in a call, and one by one as a host takes them
  prompts   time to the first token
  loading   a checkpoint from the page cache onto the device, beside the rate of a copy from the host; memory
  peers     transformers, eager and compiled with a static cache, and llama.cpp where llama-bench is installed
  quality   of the decode path itself on text held out of the demo checkpoint's training: perplexity and agreement with transformers in fp32

What the steps of a call cost by mode, sampler, cluster size and rows is steps.py's.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "gpu"), str(HERE.parent / "golden")]
from sessions import Context, Library  # noqa: E402

DEMO = HERE.parents[1] / "examples" / "demo_model"
LENGTHS = (16, 32, 64, 128, 256, 512, 1024, 2043)
CONTEXTS = (128, 512, 2047 - 64)
PROMPTS = (512, 1900)
STEPS, REPEATS = 32, 9  # of a call; of a measurement, of which the median counts
KINDS = ("floor", "tokens", "contexts", "prompts", "loading", "peers", "quality")


class Rows:
    """The numbers, one JSON line each."""

    def __init__(self, path):
        self.rows, self.file = [], path and open(path, "w")

    def add(self, kind, shape, who, **numbers):
        row = {"kind": kind, "shape": shape, "who": who, **numbers}
        self.rows.append(row)
        shown = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items())
        print(f"{kind:9} {shape:14} {who:28} {shown}", flush=True)
        if self.file:
            print(json.dumps(row), file=self.file, flush=True)

    def table(self):
        floors = {row["shape"]: row["floor_ms"] for row in self.rows if row["kind"] == "floor"}
        print("\n| shape | context | who | ms a token | x floor |\n|---|---|---|---|---|")
        for row in self.rows:
            if row["kind"] in ("contexts", "peers") and "ms" in row:
                floor = floors.get(row["shape"])
                print(f"| {row['shape']} | {row['context']} | {row['who']} | {row['ms']:.4f} | {row['ms'] / floor / row['bytes_ratio']:.3f} |" if floor
                      else f"| {row['shape']} | {row['context']} | {row['who']} | {row['ms']:.4f} | |")


class Subject:
    """A checkpoint, in the library."""

    def __init__(self, rows, library, context, name, directory):
        self.rows, self.library, self.name, self.directory = rows, library, name, directory
        start = time.perf_counter()
        self.model = context.load(directory)
        self.load_s = time.perf_counter() - start
        self.config = self.model.config
        self.limit = min(self.config.max_position_embeddings, 2048)

    def random_tokens(self, n, seed=1):
        return np.random.Generator(np.random.Philox(seed)).integers(0, self.config.vocab_size, n).tolist()

    def bytes_ratio(self, context):
        """Weights and cached keys and values over weights: what the floor is multiplied by."""
        c = self.config
        qkv = c.hidden_size * c.head_dim * (c.n_heads + 2 * c.n_kv_heads)
        mlp = c.hidden_size * c.intermediate_size * (3 if c.norm == self.library.CF_NORM_RMS else 2)
        weights = 2 * (c.n_layers * (qkv + c.hidden_size * c.n_heads * c.head_dim + mlp) + c.hidden_size * c.vocab_size)
        return 1 + 4 * c.n_layers * c.n_kv_heads * c.head_dim * context / weights

    def tokens(self, reference):
        """One text, timed at each length, from load to token."""
        lengths = [n for n in LENGTHS if n + 5 <= self.limit]
        prompt = self.random_tokens(5)
        start = time.perf_counter()
        with self.model.session(lengths[-1] + 5) as session:
            set_up = time.perf_counter() - start
            start = time.perf_counter()
            session.prefill(prompt, all_rows=False)
            made, times = 1, {}
            for n in lengths:
                session.steps(n - made)
                made = n
                times[n] = time.perf_counter() - start
            text = session.tokens()
        differs = first_difference(reference, text, len(prompt)) if reference else None
        for n in lengths:
            self.rows.add("tokens", self.name, "clusterfusion", n=n, ms=times[n] / n * 1e3, tokens_per_s=n / times[n], set_up_s=set_up, load_s=self.load_s,
                          **({} if differs is None else {"first_difference": differs}))

    def contexts(self):
        for context in (c for c in CONTEXTS if c + 2 * STEPS < self.limit):
            with self.model.session(context + 2 * STEPS) as session:
                session.prefill(self.random_tokens(context), all_rows=False)

                def timed(run):
                    times = []
                    for _ in range(REPEATS):
                        session.truncate(context)
                        start = time.perf_counter()
                        run()
                        times.append((time.perf_counter() - start) / STEPS * 1e3)
                    return statistics.median(times)

                ratio = self.bytes_ratio(context)
                self.rows.add("contexts", self.name, "clusterfusion", context=context, ms=timed(lambda: session.steps(STEPS)), bytes_ratio=ratio)
                one_by_one = timed(lambda: [session.steps(1) for _ in range(STEPS)])
                self.rows.add("contexts", self.name, "clusterfusion, token by token", context=context, ms=one_by_one, bytes_ratio=ratio)

    def prompts(self):
        for n in (n for n in PROMPTS if n < self.limit):
            prompt = self.random_tokens(n)
            with self.model.session(n + 1) as session:
                times = []
                for _ in range(REPEATS):
                    session.truncate(0)
                    start = time.perf_counter()
                    session.prefill(prompt, all_rows=False)
                    times.append((time.perf_counter() - start) * 1e3)
            self.rows.add("prompts", self.name, "clusterfusion", n=n, ms=statistics.median(times))


def first_difference(reference, text, n_prompt):
    """Index among the generated tokens of the first that the reference would not choose after the same tokens; -1: none."""
    import torch

    with torch.no_grad():
        likeliest = reference(torch.tensor([text[:-1]], device=reference.device)).logits[0].argmax(-1).tolist()
    return next((i - n_prompt + 1 for i in range(n_prompt - 1, len(text) - 1) if likeliest[i] != text[i + 1]), -1)


def loading(rows, name, context, directory):
    """Twice: now the files are in the page cache. Beside it the rate of a copy from pinned memory."""
    import torch

    size = sum(file.stat().st_size for file in Path(directory).glob("*.safetensors"))
    before = torch.cuda.mem_get_info()[0]
    start = time.perf_counter()
    with context.load(directory) as again:
        seconds = time.perf_counter() - start
        taken = before - torch.cuda.mem_get_info()[0]
        kept = again.info().weights_bytes
    host, device = torch.empty(1 << 28, dtype=torch.uint8, pin_memory=True), torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    device.copy_(host)
    torch.cuda.synchronize()
    copy = time.perf_counter()
    for _ in range(4):
        device.copy_(host, non_blocking=True)
    torch.cuda.synchronize()
    rate = 4 * (1 << 28) / (time.perf_counter() - copy)
    rows.add("loading", name, "clusterfusion", seconds=seconds, gb_per_s=size / seconds * 1e-9, copy_gb_per_s=rate * 1e-9, of_copy=size / seconds / rate,
             weights_gb=kept * 1e-9, taken_gb=taken * 1e-9)


def floors(rows, build, shapes):
    output = subprocess.run([build / "tests" / "bench_floor", *shapes], capture_output=True, text=True, check=True).stdout
    for line in output.splitlines():
        floor = json.loads(line)
        rows.add("floor", floor.pop("shape"), "bench_floor", **floor)


def llama_cpp(rows, name, gguf):
    """llama-bench on a GGUF file of the same shape, where both are there: --gguf SHAPE=FILE."""
    if not shutil.which("llama-bench"):
        return
    output = subprocess.run(["llama-bench", "-m", gguf, "-p", "0", "-n", "64", "-fa", "1", "-o", "json"], capture_output=True, text=True, check=True).stdout
    for run in json.loads(output):
        rows.add("peers", name, "llama.cpp", context=0, ms=1e3 / run["avg_ts"], bytes_ratio=1.0)


def quick(rows, library, device):
    """The demo checkpoint: every kind of number that needs neither torch nor a GPU."""
    import quality

    subject = Subject(rows, library, Context(library, device), "demo", DEMO)
    subject.tokens(None)
    subject.contexts()
    subject.prompts()
    quality.measure(rows, subject.model, DEMO, None, 256)
    subject.model.close()


def on_gpu(rows, library, arguments):
    import peers
    import quality
    import torch
    from published import SHAPES, make

    context, wanted = Context(library), arguments.only
    if "floor" in wanted:
        floors(rows, arguments.build, arguments.shapes)
    for name in arguments.shapes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            kind = make(SHAPES[name](), torch.float16, folder)
            torch.cuda.empty_cache()
            subject = Subject(rows, library, context, name, folder)
            reference = kind.from_pretrained(folder, dtype=torch.float32, device_map="cuda") if "tokens" in wanted else None
            if "tokens" in wanted:
                subject.tokens(reference)
            reference = None
            torch.cuda.empty_cache()
            for what in ("contexts", "prompts"):
                if what in wanted:
                    getattr(subject, what)()
            subject.model.close()
            if "loading" in wanted:
                loading(rows, name, context, folder)
            if "peers" in wanted:
                peers.measure(rows, name, kind, folder, [c for c in CONTEXTS if c < subject.limit],
                              [n for n in PROMPTS if n < subject.limit], subject.bytes_ratio)
                if name in arguments.gguf:
                    llama_cpp(rows, name, arguments.gguf[name])
    if "quality" in wanted:
        with context.load(DEMO) as model:
            quality.measure(rows, model, DEMO, "cuda", None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, help="where libclusterfusion.so and tests/bench_floor were built")
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=["pythia-410m", "llama-3.2-1b", "pythia-2.8b"])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(KINDS))
    parser.add_argument("--results", help="the JSON lines")
    parser.add_argument("--folder", help="where checkpoints are written for a while")
    parser.add_argument("--gguf", type=lambda text: text.split("=", 1), action="append", default=[], metavar="SHAPE=FILE")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    arguments = parser.parse_args()
    arguments.gguf = dict(arguments.gguf)
    rows, library = Rows(arguments.results), Library(arguments.build / "libclusterfusion.so")
    if arguments.quick:
        quick(rows, library, arguments.device)
    else:
        on_gpu(rows, library, arguments)
    rows.table()


if __name__ == "__main__":
    main()
