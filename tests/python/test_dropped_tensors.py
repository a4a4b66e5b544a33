"""That the exactness tests would notice: each tensor in turn is made neutral, and the error must show it; each in turn is
left out of the file, and loading must fail naming it."""

import numpy as np
import pytest

import clusterfusion as cf
import weights
from checkpoint_files import write_checkpoint
from decoder import Session, context, load_model
from goldens import LIMIT, golden
from reference import relative_error
from variants import VARIANTS
from weights import Tensor

# One of each family with every tensor that the family can have.
CASES = [(name, tensor) for name in ("neox_bf16_sequential_d32", "neox", "llama_biases") for tensor in weights.shapes(VARIANTS[name])]


def changed(name: str, tensor_name: str) -> dict[str, Tensor]:
    """The variant's tensors with one that does nothing: norm weights of 1, all else 0."""
    tensors = weights.tensors(VARIANTS[name])
    values = np.full(tensors[tensor_name].data.shape, 1.0 if weights.is_norm_weight(tensor_name) else 0.0)
    return {**tensors, tensor_name: weights.stored(values, tensors[tensor_name].dtype)}


@pytest.fixture(scope="module", name="context")
def one_context():
    return context()


@pytest.mark.parametrize("name, tensor_name", CASES)
def test_neutral_tensor_shows(context, tmp_path, name, tensor_name):
    variant, expected = VARIANTS[name], golden(VARIANTS[name])
    model = load_model(write_checkpoint(variant, tmp_path, tensors=changed(name, tensor_name)), context)
    logits = Session(model).prefill(weights.prompt(variant)).logits[expected.positions]
    assert np.isfinite(logits).all()
    # All logits are 0 without an embedding or a head: an error of 1.
    assert relative_error(logits, expected.logits).max() > 10 * LIMIT


@pytest.mark.parametrize("name, tensor_name", CASES)
def test_missing_tensor_is_named(context, tmp_path, name, tensor_name):
    tensors = weights.tensors(VARIANTS[name])
    del tensors[tensor_name]
    with pytest.raises(cf.InvalidFileError) as failure:
        load_model(write_checkpoint(VARIANTS[name], tmp_path, tensors=tensors), context)
    assert tensor_name in str(failure.value)
