"""Block calls of the package: the bits of a session's steps, on caches of every layout, in parts; and what is refused."""

import numpy as np
import pytest

import clusterfusion as cf
import weights
from goldens import DEVICE
from variants import VARIANTS

if DEVICE != "cpu":
    pytest.skip("block calls on CUDA arrays: test_torch.py", allow_module_level=True)

NAMES = ["neox", "neox_bf16_sequential_d32", "llama_bf16_gqa", "llama_mqa"]
N_TOKENS, CAPACITY = 7, 32


@pytest.fixture(scope="module", params=NAMES)
def case(request, checkpoint):
    """A model, the residual stream before each block and after the last of N_TOKENS steps, [L + 1, N_TOKENS, H]."""
    model = cf.Model.from_pretrained(checkpoint(request.param), "cpu")
    session = model.session(capacity_tokens=CAPACITY)
    taps = [cf.Tap.read("block_input", layer) for layer in range(model.config.n_layers)] + [cf.Tap.read("block_output", model.config.n_layers - 1)]
    rows = []
    for token in weights.prompt(VARIANTS[request.param], n_tokens=N_TOKENS):
        session.decode_step(token, taps=taps)
        rows.append([tap.data for tap in taps])
    return model, np.concatenate(rows, axis=1)


def caches(model, dtype=np.float32):
    c = model.config
    return [np.full((CAPACITY, c.n_kv_heads, c.head_dim), np.nan, dtype) for _ in "kv"]


def run(model, stream, *, rows=1, make=lambda k, v: (k, v), **sequence):
    """Every layer's output over all tokens, `rows` at a time."""
    kv = [make(*caches(model)) for _ in range(model.config.n_layers)]
    state, made = cf.BlockSequence(**sequence), [[] for _ in kv]
    for first in range(0, N_TOKENS, rows):
        hidden = stream[0, first : first + rows]
        for layer, (k, v) in enumerate(kv):
            hidden = model.block(layer).forward(hidden, k, v, state, advance=layer == len(kv) - 1)
            made[layer].append(hidden)
    assert state.position[0] == N_TOKENS
    return np.array([np.concatenate(each) for each in made]), kv


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_bits_of_steps(case, rows):
    model, stream = case
    np.testing.assert_array_equal(run(model, stream, rows=rows)[0], stream[1:])


def test_caches_of_any_layout(case):
    model, stream = case
    c = model.config

    def heads_first(k, v):
        return tuple(np.full((c.n_kv_heads, CAPACITY, c.head_dim), np.nan, np.float32).transpose(1, 0, 2) for _ in "kv")

    def with_gaps(k, v):
        return tuple(np.full((CAPACITY, c.n_kv_heads + 1, c.head_dim + 8), np.nan, np.float32)[:, 1:, :-8] for _ in "kv")

    def pages(k, v):
        return tuple(np.full((11, 4, c.n_kv_heads, c.head_dim), np.nan, np.float32) for _ in "kv")

    plain = run(model, stream)[1]
    for make in (heads_first, with_gaps):
        made, kv = run(model, stream, make=make)
        np.testing.assert_array_equal(made, stream[1:])
        np.testing.assert_array_equal(kv, plain)  # with NaN where nothing was written
    table = np.array([10, 0, 3, 7], np.int32)
    made, kv = run(model, stream, rows=2, make=pages, page_table=table)
    np.testing.assert_array_equal(made, stream[1:])
    for (k, v), (k_plain, v_plain) in zip(kv, plain):
        np.testing.assert_array_equal(k[table].reshape(16, c.n_kv_heads, c.head_dim)[:N_TOKENS], k_plain[:N_TOKENS])
        np.testing.assert_array_equal(v[table].reshape(16, c.n_kv_heads, c.head_dim)[:N_TOKENS], v_plain[:N_TOKENS])


def test_parts_and_outputs(case):
    model, stream = case
    c, block = model.config, model.block(0)
    hidden, (k, v), state = stream[0], caches(model), cf.BlockSequence()
    heads = (N_TOKENS, c.n_kv_heads, c.head_dim)
    outputs = {name: np.full(shape, np.nan, np.float32) for name, shape in (
        ("attention_output", hidden.shape), ("mlp_activation", (N_TOKENS, c.intermediate_size)), ("new_k", heads), ("new_v", heads))}  # fmt: skip
    whole = block.forward(hidden, k, v, state, **outputs)
    np.testing.assert_array_equal(whole, stream[1])
    np.testing.assert_array_equal(outputs["new_k"], k[:N_TOKENS])
    np.testing.assert_array_equal(outputs["new_v"], v[:N_TOKENS])
    attention, activation = block.attention(hidden, *caches(model), state)
    np.testing.assert_array_equal(attention, outputs["attention_output"])
    np.testing.assert_array_equal(activation, outputs["mlp_activation"])
    np.testing.assert_array_equal(block.mlp_down(hidden, attention, activation, state, advance=True), whole)
    assert state.position[0] == N_TOKENS
    inplace = hidden.copy()
    assert block.forward(inplace, *caches(model), cf.BlockSequence(), output=inplace) is inplace
    np.testing.assert_array_equal(inplace, whole)


def test_types(case):
    model, stream = case
    c = model.config
    exact = stream[1]
    hidden = stream[0].astype(np.float16)
    made = model.block(0).forward(hidden, *caches(model, np.float16), cf.BlockSequence())
    assert made.dtype == np.float16 and np.abs(made - exact).max() < 0.05 * np.abs(exact).max()
    bits = cf.BFloat16((stream[0].view(np.uint32) >> 16).astype(np.uint16))
    kv = [cf.BFloat16(np.zeros((CAPACITY, c.n_kv_heads, c.head_dim), np.uint16)) for _ in "kv"]
    made = model.block(0).forward(bits, *kv, cf.BlockSequence())
    values = (made.bits.astype(np.uint32) << 16).view(np.float32)
    assert np.abs(values - exact).max() < 0.1 * np.abs(exact).max()


def test_a_full_cache(case):
    model, stream = case
    kv = caches(model)
    state = cf.BlockSequence(np.array([CAPACITY - 2], np.int32))
    before = [each.copy() for each in kv]
    with pytest.raises(cf.CacheFullError, match=f"layer 0: 7 rows at position 30 in a cache for {CAPACITY} positions"):
        model.block(0).forward(stream[0], *kv, state, advance=True)
    np.testing.assert_array_equal(kv, before)
    assert state.position[0] == CAPACITY - 2
    model.block(0).forward(stream[0, :2], *kv, state)  # works again
    status = np.zeros(1, np.int32)
    mine = cf.BlockSequence(np.array([-1], np.int32), step_status=status)
    model.block(0).forward(stream[0], *kv, mine)
    assert status[0] == cf.Status.ERROR_INVALID_ARGUMENT  # the caller looks


def test_what_is_refused(case):
    model, stream = case
    c, block, (k, v) = model.config, model.block(0), caches(model)
    hidden, state = stream[0], cf.BlockSequence()
    with_table = cf.BlockSequence(page_table=np.array([0, 4], np.int32))
    paged = [np.zeros((4, 8, c.n_kv_heads, c.head_dim), np.float32) for _ in "kv"]
    for call, words in (
        (lambda: block.forward(hidden[0], k, v, state), r"hidden has shape \[\d+\], expected \[T, "),
        (lambda: block.forward(hidden.astype(np.float64), k, v, state), "hidden is of F64"),
        (lambda: block.forward(hidden.T, k, v, state), "hidden has shape"),
        (lambda: block.forward(hidden, k[:, :, 1:], v, state), "k_cache has shape"),
        (lambda: block.forward(hidden, k, v.astype(np.float16), state), "differ"),
        (lambda: block.forward(hidden, k[..., ::-1], v[..., ::-1], state), "stride of -1 within a head"),
        (lambda: block.forward(hidden, k[:1].repeat(4, 0)[:0], v[:0], state), "kv_capacity_tokens is 0"),
        (lambda: block.forward(hidden, k, v, state, output=np.zeros((N_TOKENS, c.hidden_size + 1), np.float32)), "output has shape"),
        (lambda: block.forward(hidden, k, v, state, new_k=np.zeros((1, 1, 1), np.float32)), "new_k has shape"),
        (lambda: block.forward(hidden, k, v, cf.BlockSequence(np.zeros(1, np.int64))), "position is of I64"),
        (lambda: block.forward(hidden, k, v, cf.BlockSequence(stream=5)), "stream must be NULL on the CPU"),
        (lambda: block.forward(hidden, k, v, cf.BlockSequence(workspace=np.zeros(256, np.uint8))), "workspace must be NULL on the CPU"),
        (lambda: block.forward(hidden, *paged, with_table), r"page_table\[1\] is 4, expected 0 to 3"),
        (lambda: block.forward(hidden, k, v, with_table), "k_cache has shape"),
        (lambda: block.forward(np.zeros((65, c.hidden_size), np.float32), k, v, state), "n_rows is 65"),
        (lambda: model.block(c.n_layers).forward(hidden, k, v, state), "layer is"),
        (lambda: block.mlp_down(hidden, hidden, hidden[:, :1], state), "mlp_activation has"),
    ):
        with pytest.raises(cf.InvalidArgumentError, match=words):
            call()
    assert block.workspace_bytes(8, 4096) == 0
    empty = cf.Model.from_config(c, model.context)
    with pytest.raises(cf.NotLoadedError, match="layer 0"):
        empty.block(0).forward(hidden, k, v, state)
