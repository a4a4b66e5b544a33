"""Continues a prompt, piece by piece as it is made."""

from __future__ import annotations

import argparse
import statistics
import sys
import time

from ..generation import TextGeneration, TokenGeneration
from ..sampling import Sampler
from .common import add_model_arguments, load, number, print_json, token_ids


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="text; - reads standard input")
    prompt.add_argument("--ids", type=token_ids, help="token ids with commas between them; then token ids come out")
    parser.add_argument("--tokens", type=number(int, 1), default=128, help="the most that is made (default %(default)s)")
    parser.add_argument("--temperature", type=number(float, 0, 100), default=0.0, help="0: greedy (default)")
    parser.add_argument("--top-k", type=number(int, 0), default=0)
    parser.add_argument("--top-p", type=number(float, 0, 1), default=1.0)
    parser.add_argument("--min-p", type=number(float, 0, 1), default=0.0)
    parser.add_argument("--repetition-penalty", type=number(float, 0), default=1.0)
    parser.add_argument("--seed", type=number(int, 0, 2**64 - 1), default=0)
    parser.add_argument("--stop", type=token_ids, help="token ids that end it (default: the model's)")
    parser.add_argument("--ignore-stop", action="store_true", help="nothing but --tokens ends it")


def run(arguments: argparse.Namespace) -> None:
    sampler = Sampler(
        temperature=arguments.temperature, top_k=arguments.top_k, top_p=arguments.top_p, min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty, seed=arguments.seed,
    )  # fmt: skip
    stop = [] if arguments.ignore_stop else arguments.stop
    prompt = arguments.ids if arguments.ids is not None else sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    model = load(arguments)
    text = prompt if isinstance(prompt, str) else ""
    start = time.perf_counter()
    generation: TextGeneration | TokenGeneration = model.generate(prompt, arguments.tokens, sampler=sampler, stop=stop, progress=not arguments.no_progress)
    if not arguments.json:
        print(text, end="", flush=True)
    times = []
    for piece in generation:
        times.append(time.perf_counter())
        if not arguments.json:
            print(piece, end="" if text else " ", flush=True)
    made = generation.tokens
    ttft_ms = (times[0] - start) * 1e3 if times else None
    tpot_ms = (times[-1] - times[0]) * 1e3 / (len(made) - 1) if len(made) > 1 else None
    if arguments.json:
        print_json({
            "prompt": prompt, "text": generation.text if isinstance(generation, TextGeneration) else None, "tokens": made,
            "finish_reason": generation.finish_reason, "ttft_ms": ttft_ms, "tpot_ms": tpot_ms, "device": model.context.device,
        })  # fmt: skip
        return
    print()
    if ttft_ms is not None:
        told = f"TTFT {ttft_ms:.2f} ms"
        if tpot_ms:
            gaps = [(b - a) * 1e3 for a, b in zip(times, times[1:])]
            told += f"; {len(made) - 1} more: median {statistics.median(gaps):.3f} ms, mean {tpot_ms:.3f} ms a token, {1e3 / tpot_ms:.1f} tokens/s"
        print(told, file=sys.stderr)
