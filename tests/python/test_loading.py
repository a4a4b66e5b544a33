"""From where models come: directories, a layer at a time from arrays of several libraries, other revisions, the hub."""

import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import clusterfusion as cf
import weights
from checkpoint_files import write_checkpoint
from clusterfusion import hub
from goldens import DEVICE
from roles import by_role
from test_arrays import Lent, Parameter
from variants import VARIANTS

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo_model"
NAMES = ["neox", "neox_bf16_sequential_d32", "llama_bf16_gqa"]


@pytest.fixture(scope="module")
def context():
    return cf.Context(DEVICE)


def numpy_array(tensor):
    return cf.BFloat16(tensor.data) if tensor.dtype == "BF16" else tensor.data


def from_memory(name: str, context, array) -> cf.Model:
    variant = VARIANTS[name]
    globals_, layers = by_role(variant, weights.tensors(variant))
    model = cf.Model.from_config(CONFIGS[name], context)
    for index, layer in enumerate(layers):
        model.load_layer(index, {role.lower(): array(tensor) for role, tensor in layer.items()})
    model.load_globals({cf.Role[role]: array(tensor) for role, tensor in globals_.items()})
    return model


CONFIGS: dict[str, cf.ModelConfig] = {}


@pytest.fixture(scope="module", autouse=True)
def configs(checkpoint):
    CONFIGS.update({name: cf.ModelConfig.read(checkpoint(name)) for name in NAMES})


OF_LIBRARIES = {"numpy": numpy_array, "dlpack": lambda tensor: Lent(tensor.data, dtype=tensor.dtype), "parameter": lambda tensor: Parameter(tensor.data, dtype=tensor.dtype)}


@pytest.mark.parametrize("array", OF_LIBRARIES.values(), ids=OF_LIBRARIES)
@pytest.mark.parametrize("name", NAMES)
def test_layers_from_arrays(context, checkpoint, name, array):
    loaded, built = cf.Model.from_pretrained(checkpoint(name), context), from_memory(name, context, array)
    assert built.info.fingerprint == loaded.info.fingerprint != 0 and built.info.globals_loaded and built.info.n_layers_loaded == loaded.config.n_layers
    assert built.config == loaded.config and built.directory is None and "from memory" in repr(built)
    tokens = weights.prompt(VARIANTS[name])
    first, second = (model.session().prefill(tokens, logits=True).logits for model in (loaded, built))
    np.testing.assert_array_equal(first, second)


def test_layers_of_ml_dtypes(context, checkpoint):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    built = from_memory("llama_bf16_gqa", context, lambda t: t.data.view(bfloat16) if t.dtype == "BF16" else t.data)
    assert built.info.fingerprint == cf.Model.from_pretrained(checkpoint("llama_bf16_gqa"), context).info.fingerprint


def test_layers_that_cannot_be(context):
    globals_, layers = by_role(VARIANTS["neox"], weights.tensors(VARIANTS["neox"]))
    model = cf.Model.from_config(CONFIGS["neox"], context)
    good = {role: numpy_array(tensor) for role, tensor in layers[0].items()}
    wide = good["O_WEIGHT"]
    for change, words in (
        ({"O_WEIGHT": wide[:-1]}, "O_WEIGHT|tensors"), ({"O_WEIGHT": wide.astype(np.float64)}, "O_WEIGHT is of F64, expected F32, F16 or BF16"), ({"O_WEIGHT": wide.T[None]}, "3 dimensions"),
        ({"O_WEIGHT": None}, "O_WEIGHT is NoneType"), ({"O_WEIGHT": wide[:, ::-1]}, "innermost is -1"), ({"NOSE": wide}, "role is 'NOSE', expected one of EMBEDDING"), ({"HEAD": wide}, "CF_ROLE_HEAD. does not belong here"),
    ):  # fmt: skip
        with pytest.raises(cf.InvalidArgumentError, match=words):
            model.load_layer(0, {**good, **change})
    with pytest.raises(cf.InvalidArgumentError):
        model.load_layer(0, {role: tensor for role, tensor in good.items() if role != "O_WEIGHT"})
    with pytest.raises(cf.InvalidArgumentError, match="layer is -1"):
        model.load_layer(-1, good)
    assert model.info.n_layers_loaded == 0
    with pytest.raises(cf.NotLoadedError):
        model.session()
    if DEVICE == "cpu":
        with pytest.raises(cf.InvalidArgumentError, match="O_WEIGHT is memory of cuda:0, expected host memory"):
            model.load_layer(0, {**good, "O_WEIGHT": Lent(wide, (2, 0))})
        with pytest.raises(cf.InvalidArgumentError, match="stream must be NULL on the CPU"):
            model.load_layer(0, good, stream=3)
    for field, value, words in (("n_heads", 0, "heads"), ("eos_tokens", (1,) * 9, "eos_tokens has 9 tokens"), ("hidden_size", 2**40, "hidden_size is 1099"), ("norm_eps", "x", "norm_eps is 'x'")):
        config = cf.ModelConfig(**{**vars(CONFIGS["neox"]), field: value})
        with pytest.raises(cf.InvalidArgumentError, match=words):
            cf.Model.from_config(config, context)


def test_revisions(context, tmp_path, checkpoint):
    """Weights are swapped under a session."""
    variant = VARIANTS["neox"]
    tensors = weights.tensors(variant)
    other = {name: weights.Tensor(tensor.dtype, tensor.data[::-1].copy()) for name, tensor in tensors.items()}
    directory = write_checkpoint(variant, tmp_path / "other", tensors=other)
    model, expected = (cf.Model.from_pretrained(path, context) for path in (checkpoint("neox"), directory))
    session, tokens = model.session(), weights.prompt(variant)
    before = session.prefill(tokens, logits=True).logits
    seen = []
    model.load_revision(directory, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0 and model.directory == directory and model.info.fingerprint == expected.info.fingerprint
    session.truncate(0)
    after = session.prefill(tokens, logits=True).logits
    np.testing.assert_array_equal(after, expected.session().prefill(tokens, logits=True).logits)
    assert np.abs(after - before).max() > 0.1
    with pytest.raises(cf.MismatchError):
        model.load_revision(checkpoint("llama_bf16_gqa"))
    with pytest.raises(cf.MismatchError):
        cf.Model.from_pretrained(checkpoint("neox"), context).restore(session.save())
    assert model.directory == directory


def test_directories(context, tmp_path):
    assert cf.Model.from_pretrained(str(DEMO), context).directory == DEMO
    (tmp_path / "empty").mkdir()
    with pytest.raises(cf.IoError, match="config.json"):
        cf.Model.from_pretrained(tmp_path / "empty", context)
    shutil.copytree(DEMO, tmp_path / "broken")
    with open(tmp_path / "broken" / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(cf.InvalidFileError, match="model.safetensors"):
        cf.Model.from_pretrained(tmp_path / "broken", context)
    for wrong in ("./nowhere", "/no/such/dir", "a/b/c", tmp_path / "nowhere", ""):
        with pytest.raises((cf.IoError, cf.InvalidArgumentError), match="there is no directory|config.json"):
            cf.Model.from_pretrained(wrong, context)
    with pytest.raises(cf.InvalidArgumentError, match="revision is 'step1'"):
        cf.Model.from_pretrained(DEMO, context, revision="step1")
    with pytest.raises(cf.InvalidArgumentError, match="weight_dtype is 'F8'"):
        cf.Model.from_pretrained(DEMO, context, weight_dtype="F8")


def test_estimates_are_exact(context):
    config = cf.ModelConfig.read(DEMO)
    estimate = context.estimate(config, session=cf.SessionOptions(capacity_tokens=200))
    fresh = cf.Context(DEVICE)
    model = cf.Model.from_pretrained(DEMO, fresh)
    assert model.info.weights_bytes == estimate.weights_bytes
    weights_only = fresh.info.allocated_bytes
    session = model.session(capacity_tokens=200)
    assert fresh.info.allocated_bytes - weights_only == estimate.kv_bytes + estimate.workspace_bytes
    assert session.info.n_pages * estimate.page_bytes == estimate.kv_bytes
    with pytest.raises(cf.InvalidArgumentError, match="stored_dtype"):
        context.estimate(config, stored_dtype="AUTO")


# ---- The hub


def snapshot(monkeypatch, function):
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=function))


def test_a_hub_id(monkeypatch, context):
    asked = []

    def download(repository, *, revision, allow_patterns):
        asked.append((repository, revision))
        assert "config.json" in allow_patterns and not any("bin" in pattern for pattern in allow_patterns)
        return str(DEMO)

    snapshot(monkeypatch, download)
    model = cf.Model.from_pretrained("someone/demo", context, revision="step3")
    assert "".join(model.generate("412+93=")) == "505"
    tokenizer = model.tokenizer
    model.load_revision("someone/demo", revision="step4")
    assert model.tokenizer is not tokenizer  # it may be another
    assert asked == [("someone/demo", "step3"), ("someone/demo", "step4")]


def test_a_revision_without_safetensors(monkeypatch, tmp_path):
    shutil.copy(DEMO / "config.json", tmp_path)
    snapshot(monkeypatch, lambda *_, **__: str(tmp_path))
    with pytest.raises(cf.InvalidFileError, match="EleutherAI/pythia-70m, revision step0 has no safetensors"):
        hub.checkpoint_directory("EleutherAI/pythia-70m", "step0")


def test_a_hub_that_cannot_be_reached(monkeypatch):
    def download(*_, **__):
        raise RuntimeError("no route to host\nand much more")

    snapshot(monkeypatch, download)
    with pytest.raises(cf.IoError, match="there is no directory a/b, and a/b could not be had from the Hugging Face hub: no route to host$"):
        hub.checkpoint_directory("a/b", None)


def test_without_the_hub_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install clusterfusion\[hub\]"):
        hub.checkpoint_directory("EleutherAI/pythia-70m", None)
