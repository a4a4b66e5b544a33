"""The goldens themselves: that they belong to the variants as generated now, that they are right, and that they would show
the mistakes that they are there for. Needs neither the library nor transformers."""

import copy

import numpy as np
import pytest

import weights
from goldens import LIMIT, golden
from reference import Reference, relative_error
from variants import VARIANTS, golden_positions


def _floats(variant):
    return {name: tensor.floats() for name, tensor in weights.tensors(variant).items()}


@pytest.mark.parametrize("name", VARIANTS)
def test_golden_is_of_this_variant_and_right(name):
    variant = VARIANTS[name]
    stored = golden(variant)
    assert stored.fingerprint == weights.fingerprint(variant), "the variant has changed: run make_goldens.py"
    assert stored.logits.dtype == np.float32 and np.isfinite(stored.logits).all()
    expected = Reference(variant.config, _floats(variant)).logits(weights.prompt(variant))[golden_positions(variant.n_tokens)]
    assert relative_error(stored.logits, expected).max() < LIMIT / 4


@pytest.mark.parametrize("name", VARIANTS)
def test_every_tensor_is_random(name):
    for tensor_name, tensor in weights.tensors(VARIANTS[name]).items():
        values = tensor.floats()
        assert np.isfinite(values).all()
        assert len(np.unique(values)) > 20, tensor_name


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.outliers])
def test_outliers_are_large(name):
    embedding = np.abs(weights.tensors(VARIANTS[name])[weights.embedding_name(VARIANTS[name])].floats())
    typical = embedding.mean(axis=0)
    assert (typical > 900).sum() == 4 and typical.max() > 9000 and np.median(typical) < 1


def _without(key):
    return lambda config: config.pop(key)


def _set(key, value):
    return lambda config: config.__setitem__(key, value)


def _rope(**values):
    return lambda config: (config.get("rope_parameters") or config["rope_scaling"]).update(values)


# What a reader that overlooked one thing would do. Where a wrong number still gives the right logits, the golden is no use.
MISTAKES = [
    ("neox", _set("use_parallel_residual", False)),
    ("neox_bf16_sequential_d32", _set("use_parallel_residual", True)),
    ("neox_gelu", _set("hidden_act", "gelu_new")),
    ("neox_gelu_new", _set("hidden_act", "gelu")),
    ("neox_gelu_fast", _set("hidden_act", "gelu")),
    ("neox_gelu_pytorch_tanh", _set("hidden_act", "gelu")),
    ("neox_eps", _without("layer_norm_eps")),
    ("neox_d80_sharded", _without("rotary_pct")),
    ("neox_d96_rotary_pct", _set("rotary_pct", 30 / 96)),
    ("neox_base", _without("rotary_emb_base")),
    ("neox_base_and_theta", lambda config: (config.pop("rotary_emb_base"), config.pop("rope_theta"))),
    ("neox_theta", _without("rope_theta")),
    ("neox_rope_parameters", _rope(rope_theta=10000.0)),
    ("neox_rope_parameters", _rope(partial_rotary_factor=0.25)),
    ("neox_rope_parameters_full_long", _rope(partial_rotary_factor=0.25)),
    ("llama_eps", _without("rms_norm_eps")),
    ("llama_d128_gqa_long", _without("rope_theta")),
    ("llama_rope_parameters", _rope(rope_theta=10000.0)),
    ("llama3_old", _without("rope_scaling")),
    ("llama3_new", _rope(rope_type="default")),
    ("llama3_new", _rope(factor=4.0)),
    ("llama3_new", _rope(low_freq_factor=2.0)),
    ("llama3_new", _rope(high_freq_factor=2.0)),
    ("llama3_new", _rope(original_max_position_embeddings=256)),
]


@pytest.mark.parametrize("name, mistake", MISTAKES)
def test_mistake_would_show(name, mistake):
    variant = VARIANTS[name]
    config = copy.deepcopy(variant.config)
    mistake(config)
    config.setdefault("layer_norm_eps", 1e-5)
    config.setdefault("rms_norm_eps", 1e-6)
    wrong = Reference(config, _floats(variant)).logits(weights.prompt(variant))[golden_positions(variant.n_tokens)]
    assert relative_error(wrong, golden(variant).logits).max() > 50 * LIMIT
