"""Reads logits.npz."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from variants import Variant, golden_positions

LIMIT = 1e-4  # of the relative error (RMS over the logits) of any row


@dataclass(frozen=True)
class Golden:
    positions: list[int]
    logits: np.ndarray  # [positions, vocab_size] float32
    fingerprint: str    # weights.fingerprint of the variant that it was made from


@lru_cache(maxsize=None)
def _file():
    return np.load(Path(__file__).with_name("logits.npz"), allow_pickle=False)


def golden(variant: Variant) -> Golden:
    logits, positions = _file()[variant.name], golden_positions(variant.n_tokens)
    assert logits.shape == (len(positions), variant.config["vocab_size"])
    return Golden(positions, logits, str(_file()[variant.name + "/fingerprint"]))
