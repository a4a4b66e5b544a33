"""Times a checkpoint: loading, the first token of a prompt (TTFT), and every token after it (TPOT)."""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from .common import add_model_arguments, load, number, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("--prompt-tokens", type=number(int, 1), default=128, help="random ones (default %(default)s)")
    parser.add_argument("--tokens", type=number(int, 2), default=64, help="made after it (default %(default)s)")
    parser.add_argument("--repeats", type=number(int, 1), default=5, help="of which the median counts (default %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    start = time.perf_counter()
    model = load(arguments)
    load_s = time.perf_counter() - start
    prompt = np.random.default_rng(1).integers(0, model.vocab_size, arguments.prompt_tokens)
    n = arguments.tokens
    ttft_s, in_one_call_s, one_by_one_s = [], [], []
    with model.session(capacity_tokens=len(prompt) + n) as session:
        for _ in range(arguments.repeats):
            session.truncate(0)
            start = time.perf_counter()
            session.prefill(prompt)
            ttft_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            session.decode_steps(n)
            in_one_call_s.append((time.perf_counter() - start) / n)
            session.truncate(len(prompt))
            start = time.perf_counter()
            for _ in range(n):
                session.decode_step()
            one_by_one_s.append((time.perf_counter() - start) / n)
    result = {
        "device": model.context.device,
        "load_s": load_s,
        "prompt_tokens": len(prompt),
        "ttft_ms": statistics.median(ttft_s) * 1e3,
        "tokens": n,
        "tpot_ms": statistics.median(one_by_one_s) * 1e3,
        "tpot_in_one_call_ms": statistics.median(in_one_call_s) * 1e3,
        "weights_bytes": model.info.weights_bytes,
        "peak_bytes": model.context.info.peak_bytes,
    }
    if arguments.json:
        print_json(result)
        return
    print(f"{model!r}\nloaded in {load_s:.2f} s; {result['weights_bytes'] / 2**20:.1f} MiB of weights, at most {result['peak_bytes'] / 2**20:.1f} MiB in use")
    print(f"TTFT {result['ttft_ms']:.2f} ms for {len(prompt)} tokens")
    print(f"TPOT {result['tpot_ms']:.3f} ms one by one, {result['tpot_in_one_call_ms']:.3f} ms in one call of {n} ({1e3 / result['tpot_in_one_call_ms']:.1f} tokens/s)")
