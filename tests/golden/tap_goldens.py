"""Activation taps: which variants have goldens, what is written where, and what taps.npz holds.

taps.npz, for each of VARIANTS, layer and point:
  NAME/LAYER/POINT          [tap_positions, width] what transformers' hooks read there
  NAME/LAYER/POINT/written  [tap_positions, vocab_size] its logits when a hook puts written_values there at every position
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

import variants
import weights
from variants import Variant

# A parallel and a sequential gpt_neox, and a llama with grouped heads and a prompt of three pieces of prefill.
VARIANTS = [variants.VARIANTS[name] for name in ("neox", "neox_d80_sharded", "llama_f32_gqa_group3_long")]
POINTS = ("BLOCK_INPUT", "BLOCK_OUTPUT", "ATTENTION_HEADS", "MLP_ACTIVATION")  # as cf_tap_point names them


def width(variant: Variant, point: str) -> int:
    c = variant.config
    heads = c["num_attention_heads"] * c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
    return {"ATTENTION_HEADS": heads, "MLP_ACTIVATION": c["intermediate_size"]}.get(point, c["hidden_size"])


def n_layers(variant: Variant) -> int:
    return variant.config["num_hidden_layers"]


def tap_positions(variant: Variant) -> list[int]:
    """The first and the last, one in the middle, and the first of each further piece."""
    n = variant.n_tokens
    return sorted({0, n // 2, n - 1} | {p for p in (64, 128) if p < n})


def written_values(variant: Variant, layer: int, point: str) -> np.ndarray:
    """[n_tokens, width] float32"""
    return weights.standard_normal(f"{variant.name}/written/{layer}/{point}", (variant.n_tokens, width(variant, point))).astype(np.float32)


@lru_cache(maxsize=None)
def _file():
    return np.load(Path(__file__).with_name("taps.npz"), allow_pickle=False)


def fingerprint(variant: Variant) -> str:
    """weights.fingerprint of the variant that the goldens were made from."""
    return str(_file()[variant.name + "/fingerprint"])


def read_golden(variant: Variant, layer: int, point: str) -> np.ndarray:
    return _file()[f"{variant.name}/{layer}/{point}"]


def written_golden(variant: Variant, layer: int, point: str) -> np.ndarray:
    return _file()[f"{variant.name}/{layer}/{point}/written"]
