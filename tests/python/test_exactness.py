"""Logits against transformers' fp32 ones, for every structural variant: by prefill, by single steps, on every instruction
set, from files and from memory."""

import numpy as np
import pytest

import clusterfusion as cf
import weights
from checkpoint_files import write_checkpoint, write_model_files
from decoder import ISAS, Session, context, load_model
from goldens import golden, limit
from reference import relative_error
from roles import arrays, by_role, with_fused_qkv, with_separate_qkv
from variants import VARIANTS
from weights import Tensor


def prefilled(model, name) -> np.ndarray:
    return Session(model).prefill(weights.prompt(VARIANTS[name])).logits


def stepped(model, name) -> np.ndarray:
    session = Session(model)
    return np.concatenate([session.decode_step(token).logits for token in weights.prompt(VARIANTS[name])])


def assert_golden(logits: np.ndarray, name: str) -> None:
    expected = golden(VARIANTS[name])
    errors = relative_error(logits[expected.positions], expected.logits)
    assert errors.max() <= limit(VARIANTS[name].dtype), dict(zip(expected.positions, errors))


@pytest.mark.parametrize("name", VARIANTS)
def test_prefill_and_steps(load, name):
    model = load(name)
    by_prefill, by_steps = prefilled(model, name), stepped(model, name)
    assert_golden(by_prefill, name)
    assert_golden(by_steps, name)
    assert relative_error(by_prefill, by_steps).max() <= limit(VARIANTS[name].dtype)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", VARIANTS)
def test_instruction_sets_and_threads(load, name, isa):
    one, two = load(name, 1, isa), load(name, 2, isa)
    assert_golden(prefilled(one, name), name)
    assert_golden(stepped(one, name), name)
    np.testing.assert_array_equal(prefilled(one, name), prefilled(two, name))
    np.testing.assert_array_equal(stepped(one, name), stepped(two, name))


def from_memory(name: str, in_context, tensors=None, change=lambda layer: layer) -> cf.Model:
    """The variant's model, built a layer at a time, last layer first."""
    variant = VARIANTS[name]
    globals_, layers = by_role(variant, tensors or weights.tensors(variant))
    model = cf.Model.from_config(config_of(variant), in_context)
    for index in reversed(range(len(layers))):
        model.load_layer(index, arrays(change(layers[index])))
    model.load_globals(arrays(globals_))
    return model


def config_of(variant):
    """The variant's configuration, from the same facts that config.json has."""
    c = variant.config
    neox = weights.is_neox(variant)
    rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
    heads = c["num_attention_heads"]
    head_dim = c.get("head_dim", c["hidden_size"] // heads)
    share = rope.get("partial_rotary_factor", c.get("rotary_pct", 0.25)) if neox else 1
    activation = cf.Activation.SWIGLU if not neox else cf.Activation.GELU if c["hidden_act"] == "gelu" else cf.Activation.GELU_TANH
    config = cf.ModelConfig(
        family=cf.Family.GPT_NEOX if neox else cf.Family.LLAMA,
        norm=cf.Norm.LAYER if neox else cf.Norm.RMS,
        activation=activation,
        parallel_residual=int(c.get("use_parallel_residual", False)),
        attention_bias=int(c.get("attention_bias", neox)),
        mlp_bias=int(c.get("mlp_bias", neox)),
        tied_embeddings=int(c["tie_word_embeddings"]),
        n_layers=c["num_hidden_layers"],
        hidden_size=c["hidden_size"],
        n_heads=heads,
        n_kv_heads=c.get("num_key_value_heads", heads),
        head_dim=head_dim,
        rotary_dim=int(head_dim * share),
        intermediate_size=c["intermediate_size"],
        vocab_size=c["vocab_size"],
        max_position_embeddings=c["max_position_embeddings"],
        norm_eps=c["layer_norm_eps"] if neox else c["rms_norm_eps"],
        rope_theta=rope.get("rope_theta", c.get("rotary_emb_base", c.get("rope_theta", 10000.0))),
        bos_token=c["bos_token_id"],
        eos_tokens=(c["eos_token_id"],),
    )
    if rope.get("rope_type") == "llama3":
        config.rope_scaling = cf.RopeScaling.LLAMA3
        config.rope_factor, config.rope_original_max_position = rope["factor"], rope["original_max_position_embeddings"]
        config.rope_low_freq_factor, config.rope_high_freq_factor = rope["low_freq_factor"], rope["high_freq_factor"]
    return config


@pytest.mark.parametrize("name", VARIANTS)
def test_from_memory(load, name):
    """cf_model_create, cf_load_layer and cf_load_globals give what the directory gives; so do the facts of config.json."""
    built = from_memory(name, load(name).context)
    np.testing.assert_array_equal(prefilled(built, name), prefilled(load(name), name))
    assert built.info.fingerprint == load(name).info.fingerprint != 0


def _fused_or_separate():
    for name, variant in VARIANTS.items():
        heads = variant.config["num_attention_heads"]
        if weights.is_neox(variant):
            yield pytest.param(name, lambda layer, heads=heads: with_separate_qkv(layer, heads), id=name + "-separate")
        elif variant.config.get("num_key_value_heads", heads) == heads:
            yield pytest.param(name, lambda layer, heads=heads: with_fused_qkv(layer, heads), id=name + "-fused")


@pytest.mark.parametrize("name, change", list(_fused_or_separate()))
def test_fused_and_separate_qkv(load, name, change):
    built = from_memory(name, load(name).context, change=change)
    np.testing.assert_array_equal(prefilled(built, name), prefilled(load(name), name))


@pytest.mark.parametrize("name", ["neox", "llama_bf16_gqa", "llama_f32_gqa_group3_long"])
def test_strided_and_misaligned_tensors(load, name):
    """Rows further apart than they are long, at odd addresses."""

    def spread(tensor: Tensor) -> Tensor:
        data = tensor.data
        if data.ndim == 1:
            return tensor
        wide = np.zeros((data.shape[0], data.shape[1] + 3), data.dtype)
        wide[:, 2:-1] = data
        return Tensor(tensor.dtype, wide[:, 2:-1])

    def displaced(tensor: Tensor) -> Tensor:
        room = np.zeros(tensor.data.nbytes + 1, np.uint8)
        moved = room[1:].view(tensor.data.dtype).reshape(tensor.data.shape)
        moved[...] = tensor.data
        return Tensor(tensor.dtype, moved)

    for change in (spread, displaced):
        tensors = {key: change(tensor) for key, tensor in weights.tensors(VARIANTS[name]).items()}
        built = from_memory(name, load(name).context, tensors)
        np.testing.assert_array_equal(prefilled(built, name), prefilled(load(name), name))


@pytest.mark.parametrize("n_shards, header_padding", [(1, 1), (1, 7), (2, 0), (5, 3)])
@pytest.mark.parametrize("name", ["neox", "llama_bf16_gqa"])
def test_file_layout_does_not_matter(load, tmp_path, name, n_shards, header_padding):
    """Tensors in another order, at odd offsets, in other shards."""
    variant = VARIANTS[name]
    directory = write_checkpoint(variant, tmp_path)
    for old in [*directory.glob("*.safetensors"), *directory.glob("*.index.json")]:
        old.unlink()
    tensors = {**weights.unused_tensors(variant), **weights.tensors(variant)}
    write_model_files(directory, dict(reversed(tensors.items())), n_shards, header_padding)
    model = load_model(directory, load(name).context)
    np.testing.assert_array_equal(prefilled(model, name), prefilled(load(name), name))


def test_unused_tensors_are_named_in_the_log(checkpoint):
    messages = []
    load_model(checkpoint("neox"), context(1, log=lambda level, message: messages.append(message)))
    for name in weights.unused_tensors(VARIANTS["neox"]):
        assert any(name in message for message in messages), (name, messages)


@pytest.mark.parametrize("name", ["neox", "llama_bf16_gqa"])
def test_outputs_follow_from_the_logits(load, name):
    """Top tokens, log-probabilities, the sampled token and the session's own tokens, all checked against the logits."""
    tokens = weights.prompt(VARIANTS[name])
    targets = [*tokens[1:], -1]
    session = Session(load(name))
    step = session.prefill(tokens, top_n=7, targets=targets)
    logits = step.logits.astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-step.logits, axis=-1, kind="stable")[:, :7]
    np.testing.assert_array_equal(step.top_tokens, order)
    np.testing.assert_allclose(step.top_logprobs, np.take_along_axis(logprobs, order, -1), atol=1e-5)
    np.testing.assert_allclose(step.target_logprobs[:-1], logprobs[np.arange(len(tokens) - 1), targets[:-1]], atol=1e-5)
    assert step.target_logprobs[-1] == 0
    assert (step.row_status == cf.Status.OK).all()
    assert step.token == step.row_tokens[-1] == step.logits[-1].argmax() and step.position == step.n_steps == len(tokens)
    assert session.tokens() == [*tokens, step.token]
    last = Session(load(name)).prefill(tokens, rows="last")
    np.testing.assert_array_equal(last.logits[0], step.logits[-1])


def test_equal_logits_are_in_the_order_of_their_tokens(load):
    """A head with the same row three times over."""
    name = "neox"
    tensors = weights.tensors(VARIANTS[name])
    head = tensors["embed_out.weight"].data
    head[:99] = np.tile(head[:33], (3, 1))[::-1]
    step = Session(from_memory(name, load(name).context, tensors)).prefill(weights.prompt(VARIANTS[name]), top_n=101)
    np.testing.assert_array_equal(step.top_tokens, np.argsort(-step.logits, axis=-1, kind="stable"))
    assert len(np.unique(step.logits[0])) == 35 and step.token == step.logits[-1].argmax()
