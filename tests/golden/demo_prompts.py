"""The prompts of demo_tokens.json, and what ties that file to one demo checkpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

N_TOKENS = 256


def held_out(directory: Path) -> list[dict]:
    """The demo checkpoint's questions that it was not trained on: {"prompt", "answer"} each."""
    lines = (directory / "held_out.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def prompts(directory: Path) -> list[str]:
    """A few of its own questions, and two texts unlike anything it was trained on."""
    own = [case["prompt"] for case in held_out(directory)]
    return own[:: max(1, len(own) // 4)][:4] + ["A", "The quick brown fox jumps over the lazy dog. 0123456789"]


def fingerprint(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in [directory / "config.json", *sorted(directory.glob("*.safetensors"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()
