"""Sessions of a model whose logits are zeros: the biases are its logits, so that limits of top-k and top-p lie where a case wants them. Its tokens
against the model of the rule in NumPy."""

from dataclasses import replace

import numpy as np
import pytest

import clusterfusion as cf
import sampler_model
import weights
from checkpoint_files import write_checkpoint
from decoder import Session, context, load_model
from variants import VARIANTS
from weights import Tensor

VOCAB = 3001
FAR = -60.0  # a mass of nothing


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    variant = VARIANTS["llama"]
    variant = replace(variant, config={**variant.config, "vocab_size": VOCAB, "num_hidden_layers": 1})
    tensors = weights.tensors(variant)
    head = tensors["lm_head.weight"]
    tensors["lm_head.weight"] = Tensor(head.dtype, np.zeros_like(head.data))
    return load_model(write_checkpoint(variant, tmp_path_factory.mktemp("zeros") / "llama", tensors=tensors), context(2))


def spread(count: int, value: float = 0.0) -> np.ndarray:
    """`count` equal tokens all over the vocabulary, the others far below."""
    logits = np.full(VOCAB, FAR)
    logits[np.linspace(0, VOCAB - 1, count).astype(int)] = value
    return logits


def normal(seed: int, step: float | None = None) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, 3, VOCAB)
    return values if step is None else np.round(values / step) * step


def few_then_many() -> np.ndarray:
    """More equal tokens than can be listed, the first ones far apart."""
    logits = np.full(VOCAB, FAR)
    logits[[3, 1000, 1001, 1900]] = 5
    logits[-600:] = 5
    return logits


def two_heights(above: int, count: int) -> np.ndarray:
    """`above` tokens of twice the others' mass, the last ones; `count` of the others."""
    logits = spread(count)
    logits[-above:] = np.log(2)
    return logits


def close() -> np.ndarray:
    """600 tokens that only the last bits tell apart, in no order."""
    logits = np.full(VOCAB, FAR)
    logits[np.random.default_rng(4).permutation(VOCAB)[:600]] = 8 + np.arange(600) * 2.0**-20
    return logits


def around_top_k() -> np.ndarray:
    """More tokens than can be listed, then 200 that top_k of 457 still takes, then 250 so near to these that a search tells them apart late."""
    logits = np.full(VOCAB, FAR)
    logits[np.random.default_rng(6).permutation(VOCAB)[:707]] = [1.13] * 257 + [1.05] * 200 + [1.04] * 250
    return logits


CASES = {
    "half of four": (spread(4), dict(top_p=0.5)),  # mass before the third: just what is enough
    "a quarter of 8": (spread(8), dict(top_p=0.25)),
    "a little more of 8": (spread(8), dict(top_p=0.26)),
    "all but one of 8": (spread(8), dict(top_p=0.8749)),
    "one token": (spread(5), dict(top_p=0.001)),
    "three of 256": (spread(256), dict(top_p=0.01)),
    "three of 257": (spread(257), dict(top_p=0.01)),
    "half of 256": (spread(256), dict(top_p=0.5)),
    "many equals, three": (few_then_many(), dict(top_p=0.004)),
    "many equals, half": (few_then_many(), dict(top_p=0.5)),
    "all equal": (np.zeros(VOCAB), dict(top_p=0.37)),
    "all equal, top-k": (np.zeros(VOCAB), dict(top_k=5, top_p=0.001)),
    "ties below others": (two_heights(3, 12), dict(top_p=0.5)),
    "ties below others, many": (two_heights(3, 400), dict(top_p=0.02)),
    "ties below others, negative": (two_heights(3, 12) - 20, dict(top_p=0.6)),
    "close": (close(), dict(top_p=0.005)),
    "close, half": (close(), dict(top_p=0.5)),
    "close, top-k": (close(), dict(top_k=4)),
    "close, many of top-k": (close(), dict(top_k=400, top_p=0.004)),
    "steps": (normal(1, 0.5), dict(top_p=0.7)),
    "small steps": (normal(2, 0.125), dict(top_p=0.4)),
    "top-k with ties": (normal(3, 0.25), dict(top_k=3)),
    "top-k with ties, top-p": (normal(4, 0.25), dict(top_k=6, top_p=0.8)),
    "top-k of more than are listed": (normal(5, 0.5), dict(top_k=400, top_p=0.5)),
    "top-k inside ties, top-p": (two_heights(2, 300), dict(top_k=3, top_p=0.02)),
    "top-k near the limit of top-p": (around_top_k(), dict(top_k=457, top_p=0.99)),
    "top-k of two heights": (two_heights(5, 40), dict(top_k=3)),
    "more than there are": (spread(9), dict(top_k=5000, top_p=0.002)),
    "cool": (normal(6), dict(top_p=0.9, temperature=0.3)),
    "hot": (normal(7), dict(top_p=0.1, temperature=4.0)),
    "nearly all": (normal(8), dict(top_p=0.9999)),
    "with min-p": (normal(9, 0.25), dict(top_p=0.9, min_p=0.2)),
    "all together": (normal(10, 0.25), dict(top_k=50, top_p=0.9, min_p=0.1)),
}


@pytest.mark.parametrize("name", CASES)
def test_limits(model, name):
    logits, options = CASES[name]
    options = {"temperature": 1.0, "seed": len(name), **options}
    logits = logits.astype(np.float32)
    session, steps = Session(model), 24
    session.sampler = cf.Sampler(logit_biases={token: float(value) for token, value in enumerate(logits)}, **options)
    session.prefill([1, 2])
    session.draw_steps(steps)
    drawn = session.tokens()[2:]
    assert drawn == [sampler_model.sample(logits, 2 + i, **options) for i in range(len(drawn))]
