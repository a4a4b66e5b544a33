"""The sampler as the header describes it, in NumPy: the rule that tokens are checked against."""

from __future__ import annotations

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))


def philox4x32_10(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """counter: [n, 4] uint32, key: two 32-bit words. Returns [n, 4] uint32 (Salmon et al., SC 2011)."""
    c0, c1, c2, c3 = (np.asarray(counter, np.uint32)[:, i] for i in range(4))
    k0, k1 = np.uint32(key[0]), np.uint32(key[1])
    with np.errstate(over="ignore"):
        for _ in range(10):
            product0, product1 = c0.astype(np.uint64) * _MULTIPLIERS[0], c2.astype(np.uint64) * _MULTIPLIERS[1]
            high0, high1 = (product0 >> np.uint64(32)).astype(np.uint32), (product1 >> np.uint64(32)).astype(np.uint32)
            c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1.astype(np.uint32), high0 ^ c3 ^ k1, product0.astype(np.uint32)
            k0, k1 = k0 + _WEYL[0], k1 + _WEYL[1]
    return np.stack([c0, c1, c2, c3], axis=1)


def gumbel_noise(seed: int, position: int, vocab_size: int) -> np.ndarray:
    """[vocab_size] float64. Token t takes word t % 4 of the block that t / 4 and the position count."""
    counter = np.zeros(((vocab_size + 3) // 4, 4), np.uint32)
    counter[:, 0] = np.arange(len(counter))
    counter[:, 1], counter[:, 2] = position & 0xFFFFFFFF, position >> 32
    words = philox4x32_10(counter, (seed & 0xFFFFFFFF, seed >> 32)).reshape(-1)[:vocab_size]
    return -np.log(-np.log((words + 0.5) * 2.0**-32))


def adjusted(logits, *, history=(), repetition_penalty=1.0, biases=None, allowed=None) -> np.ndarray:
    """Repetition penalty, biases and mask; a token that is not allowed becomes -infinity."""
    scores = np.array(logits, np.float32)
    seen = np.unique(np.array(history, np.int64)) if repetition_penalty != 1 else np.array([], np.int64)
    penalty = np.float32(repetition_penalty)
    scores[seen] = np.where(scores[seen] < 0, scores[seen] * penalty, scores[seen] / penalty)
    for token, value in (biases or {}).items():
        scores[token] += np.float32(value)
    if allowed is not None:
        scores[~np.asarray(allowed, bool)] = -np.inf
    return scores


def kept(scores: np.ndarray, *, top_k=0, top_p=1.0, min_p=0.0) -> np.ndarray:
    """Which tokens top-k, top-p and min-p leave, of scores already divided by the temperature."""
    keep = scores > -np.inf
    if 0 < top_k < keep.sum():
        keep &= scores >= np.sort(scores)[-top_k]  # ties with the last one stay
    if top_p < 1:
        tokens = np.flatnonzero(keep)
        order = tokens[np.argsort(-scores[tokens], kind="stable")]  # of equals the lowest token first
        mass = np.exp(scores[order].astype(np.float64) - scores[order[0]])
        before = np.cumsum(mass) - mass
        keep[:] = False
        keep[order[before < np.float64(np.float32(top_p)) * mass.sum()]] = True
    if min_p > 0:
        keep &= np.exp(scores.astype(np.float64) - scores.max()) >= np.float64(np.float32(min_p))
    return keep


def sample(logits, position, *, temperature=0.0, seed=0, top_k=0, top_p=1.0, min_p=0.0, **adjustments) -> int:
    scores = adjusted(logits, **adjustments)
    if temperature == 0:
        return int(scores.argmax())  # the first of equals
    scores = scores / np.float32(temperature)
    keep = kept(scores, top_k=top_k, top_p=top_p, min_p=min_p)
    noisy = scores.astype(np.float64) + gumbel_noise(seed, position, len(scores))
    return int(np.where(keep, noisy, -np.inf).argmax())
