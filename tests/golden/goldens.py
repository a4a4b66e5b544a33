"""Reads logits.npz."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from variants import Variant, golden_positions

DEVICE = os.environ.get("CLUSTERFUSION_DEVICE", "cpu")  # that suites run on: cpu or cuda
LIMIT = 1e-4  # of the relative error (RMS over the logits) of any row, on the CPU


def limit(dtype: str) -> float:
    """LIMIT; or, with weights of this dtype, what holds on CUDA, where activations are 16-bit numbers and F32 weights become F16."""
    return LIMIT if DEVICE == "cpu" else {"BF16": 2e-2}.get(dtype, 3e-3)


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
