"""The prompts and the scored text of demo_tokens.json, and what ties that file to one demo checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

N_TOKENS = 256
WINDOW, STRIDE = 256, 96  # of scoring


def held_out(directory: Path) -> list[dict]:
    """The demo checkpoint's questions that it was not trained on: {"prompt", "answer"} each."""
    lines = (directory / "held_out.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def prompts(directory: Path) -> list[str]:
    """A few of its own questions, and two texts unlike anything it was trained on."""
    own = [case["prompt"] for case in held_out(directory)]
    return own[:: max(1, len(own) // 4)][:4] + ["A", "The quick brown fox jumps over the lazy dog. 0123456789"]


def scored_text(directory: Path) -> bytes:
    """Questions with their answers, then words that the checkpoint knows little of."""
    own = "".join(case["prompt"] + case["answer"] for case in held_out(directory)[::8])
    return (own[:1500] + "It was the best of times, it was the worst of times, it was the age of wisdom.\n").encode()


@dataclass(frozen=True)
class Window:
    begin: int  # tokens begin .. end - 1 are read
    first: int  # first .. end - 1 are scored
    end: int


def windows(n_tokens: int) -> list[Window]:
    """Overlapping windows that score every token but the first once, most of them with WINDOW - STRIDE tokens before them."""
    result, first = [], 1
    for begin in range(0, n_tokens, STRIDE):
        end = min(begin + WINDOW, n_tokens)
        result.append(Window(begin, first, end))
        first = end
        if end == n_tokens:
            break
    return result


def fingerprint(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in [directory / "config.json", *sorted(directory.glob("*.safetensors"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
