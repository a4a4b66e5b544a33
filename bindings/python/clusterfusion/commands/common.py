"""Arguments and output that commands share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

from ..context import Context
from ..enums import Dtype
from ..model import Model


def number(kind: Callable[[str], Any], least: float, most: float = float("inf")) -> Callable[[str], Any]:
    """An argument's type: int or float, between limits."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            limits = f"of at least {least:g}" if most == float("inf") else f"from {least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"'{text}' is not a number {limits}")
        return value

    return parse


def token_ids(text: str) -> list[int]:
    """An argument's type: token ids with commas, spaces or newlines between them."""
    try:
        ids = [int(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not a list of token ids: {error}") from None
    if not ids:
        raise argparse.ArgumentTypeError("no token ids")
    return ids


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help="checkpoint directory, or a name on the Hugging Face hub")
    parser.add_argument("--revision", help="of the name on the hub, such as step1000")
    add_device_arguments(parser)
    parser.add_argument("--weight-dtype", default="AUTO", type=str.upper, choices=list(Dtype.__members__), help="what matrices are rounded to (default: as stored)")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N (default: the first usable CUDA device, else the CPU)")
    parser.add_argument("--threads", type=number(int, 0, 1024), default=0, help="CPU: threads (default: all)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")


def load(arguments: argparse.Namespace) -> Model:
    context = Context(arguments.device, cpu_threads=arguments.threads)
    return Model.from_pretrained(
        arguments.model, context, revision=arguments.revision, weight_dtype=arguments.weight_dtype, progress=not arguments.no_progress
    )


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
