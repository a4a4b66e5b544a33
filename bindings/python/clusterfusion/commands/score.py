"""How likely a model finds a text: log-probabilities and perplexity, in overlapping windows."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import InvalidArgumentError
from .common import add_model_arguments, load, number, print_json, token_ids


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument("file", help="text; - reads standard input")
    parser.add_argument("--ids", action="store_true", help="the file holds token ids with spaces, commas or newlines between them")
    parser.add_argument("--window", type=number(int, 2), help="tokens read at once (default: the model's context)")
    parser.add_argument("--stride", type=number(int, 1), help="tokens from one window to the next (default: half of it)")
    parser.add_argument("--each", action="store_true", help="a line for every token: its place, its id, its log-probability")


def run(arguments: argparse.Namespace) -> None:
    text = sys.stdin.read() if arguments.file == "-" else Path(arguments.file).read_text(encoding="utf-8")
    if arguments.ids:
        try:
            tokens = token_ids(text)
        except argparse.ArgumentTypeError as error:
            raise InvalidArgumentError(f"{arguments.file}: {error}") from None
    model = load(arguments)
    score = model.score(tokens if arguments.ids else text, window=arguments.window, stride=arguments.stride, progress=not arguments.no_progress)
    if arguments.json:
        summary = {"n_scored": score.n_scored, "log_likelihood": score.log_likelihood, "bits_per_token": score.bits_per_token, "perplexity": score.perplexity}
        each = {"tokens": score.tokens.tolist(), "logprobs": score.logprobs.tolist()} if arguments.each else {}
        print_json(summary | each)
        return
    if arguments.each:
        for place, (token, logprob) in enumerate(zip(score.tokens[1:], score.logprobs), 1):
            print(f"{place} {token} {logprob:.6f}")
    told = f"{score.n_scored} tokens, log-likelihood {score.log_likelihood:.4f}, {score.bits_per_token:.4f} bits a token"
    print(f"{told}, perplexity {score.perplexity:.4f}")
