"""Activation taps: what they read and what overwriting does, against transformers' hooks; and to the bit among themselves."""

import numpy as np
import pytest

import clusterfusion as cf
import tap_goldens
import weights
from clusterfusion.enums import TapAction
from clusterfusion.native import check, ffi, lib, make
from decoder import Session, decode_batch
from goldens import DEVICE, limit
from reference import relative_error
from tap_goldens import POINTS, read_golden, tap_positions, width, written_golden, written_values
from variants import VARIANTS

WRITE = TapAction.WRITE
NAMES = [variant.name for variant in tap_goldens.VARIANTS]
EVERYWHERE = [(name, layer, point) for name in NAMES for layer in range(tap_goldens.n_layers(VARIANTS[name])) for point in POINTS]


def equal(actual, expected):
    np.testing.assert_array_equal(actual, expected)


def tap(name: str, layer: int, point: str, n_rows: int, values: np.ndarray | None = None) -> cf.Tap:
    """Reads into rows of NaN, or writes `values`."""
    if values is None:
        return cf.Tap.read(point, layer, into=np.full((n_rows, width(VARIANTS[name], point)), np.nan, np.float32))
    return cf.Tap.write(point, layer, np.ascontiguousarray(values, np.float32))


def every_tap(name: str, n_rows: int) -> list[cf.Tap]:
    return [tap(name, layer, point, n_rows) for layer in range(tap_goldens.n_layers(VARIANTS[name])) for point in POINTS]


def prefilled(model, name: str) -> tuple[Session, list[np.ndarray], np.ndarray]:
    """A session with the prompt, what every tap read [n_tokens, width] each, and the logits."""
    session, tokens = Session(model), weights.prompt(VARIANTS[name])
    taps = every_tap(name, len(tokens))
    logits = session.prefill(tokens, taps=taps).logits
    return session, [t.data for t in taps], logits


@pytest.mark.parametrize("name", NAMES)
def test_goldens_are_of_these_variants(name):
    assert tap_goldens.fingerprint(VARIANTS[name]) == weights.fingerprint(VARIANTS[name]), "the variant has changed: run make_goldens.py --taps"


# ---- Reading


@pytest.mark.parametrize("name", NAMES)
def test_reads_are_those_of_transformers(load, name):
    variant = VARIANTS[name]
    session, read, logits = prefilled(load(name), name)
    rows, places = tap_positions(variant), [(layer, point) for layer in range(tap_goldens.n_layers(variant)) for point in POINTS]
    for (layer, point), data in zip(places, read):
        assert np.isfinite(data).all(), (layer, point)
        errors = relative_error(data[rows], read_golden(variant, layer, point))
        assert errors.max() <= limit(variant.dtype), (layer, point, dict(zip(rows, errors)))
    untouched = Session(load(name))
    equal(logits, untouched.prefill(weights.prompt(variant)).logits)
    equal(session.decode_step().logits, untouched.decode_step().logits)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_reads_what_the_one_before_it_wrote(load, name):
    read = prefilled(load(name), name)[1]
    for layer in range(1, tap_goldens.n_layers(VARIANTS[name])):
        equal(read[layer * len(POINTS) + POINTS.index("BLOCK_INPUT")], read[(layer - 1) * len(POINTS) + POINTS.index("BLOCK_OUTPUT")])


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_step_reads_the_same(load, name):
    """Row by row: prompts in pieces as whole ones; several positions, batches and single steps alike, and near the prompt's."""
    tokens = weights.prompt(VARIANTS[name])
    n = len(tokens)
    whole = prefilled(load(name), name)[1]

    pieces, read = Session(load(name)), []
    for start, end in ((0, 7), (7, n - 1), (n - 1, n)):
        taps = every_tap(name, end - start)
        pieces.prefill(tokens[start:end], taps=taps, sample=end == n)
        read.append([t.data for t in taps])
    for expected, parts in zip(whole, zip(*read)):
        equal(np.concatenate(parts), expected)

    one, several, batched = (Session(load(name)) for _ in range(3))
    first, count = n - 9, 8
    for session in (one, several, batched):
        session.prefill(tokens[:first])
    steps = []
    for token in tokens[first : first + count]:
        taps = every_tap(name, 1)
        one.decode_step(token, taps=taps)
        steps.append([t.data for t in taps])
    steps = [np.concatenate(rows) for rows in zip(*steps)]
    for expected, data in zip(whole, steps):
        assert relative_error(data, expected[first : first + count]).max() <= limit(VARIANTS[name].dtype)

    taps = every_tap(name, count)
    several.decode_positions(tokens[first : first + count], taps=taps)
    for expected, t in zip(steps, taps):
        equal(t.data, expected)

    other = Session(load(name))
    other.prefill(tokens[:3])
    for row, token in enumerate(tokens[first : first + count]):
        taps = every_tap(name, 2)
        decode_batch([other, batched], [1, token], taps=taps)
        for expected, t in zip(steps, taps):
            equal(t.data[1], expected[row])
            assert np.isfinite(t.data[0]).all()


@pytest.mark.parametrize("name", NAMES)
def test_of_several_steps_in_one_call_the_last_is_read(load, name):
    one, several = Session(load(name)), Session(load(name))
    for session in (one, several):
        session.prefill(weights.prompt(VARIANTS[name]))
    last = every_tap(name, 1)
    several.decode_steps(5, taps=last)
    for _ in range(5):
        taps = every_tap(name, 1)
        one.decode_step(taps=taps)
    for expected, t in zip(taps, last):
        equal(t.data, expected.data)


def test_only_the_rows_of_a_step_are_touched(load):
    name = NAMES[0]
    for n_rows in (1, 5, 64, 65):
        taps = every_tap(name, n_rows + 1)
        Session(load(name)).prefill(weights.prompt(VARIANTS[name], n_tokens=n_rows), taps=taps)
        for t in taps:
            assert np.isfinite(t.data[:n_rows]).all() and np.isnan(t.data[n_rows]).all()


# ---- Writing


@pytest.mark.parametrize("name, layer, point", EVERYWHERE)
def test_written_values_act_as_in_transformers(load, name, layer, point):
    variant = VARIANTS[name]
    tokens = weights.prompt(variant)
    untouched = Session(load(name)).prefill(tokens).logits
    write, seen = tap(name, layer, point, 0, written_values(variant, layer, point)), tap(name, layer, point, len(tokens))
    logits = Session(load(name)).prefill(tokens, taps=[write, seen]).logits
    errors = relative_error(logits[tap_positions(variant)], written_golden(variant, layer, point))
    assert errors.max() <= limit(variant.dtype), dict(zip(tap_positions(variant), errors))
    assert relative_error(logits, untouched).mean() > 0.1
    equal(write.data, written_values(variant, layer, point))  # the caller's own is not touched
    # In a prompt CUDA keeps what a product reads as 16-bit numbers.
    rounded = DEVICE == "cuda" and point in ("ATTENTION_HEADS", "MLP_ACTIVATION")
    equal(seen.data, write.data.astype(np.float16) if rounded else write.data)


@pytest.mark.parametrize("name", NAMES)
def test_writing_back_what_was_read_changes_nothing(load, name):
    tokens = weights.prompt(VARIANTS[name])
    session, read, logits = prefilled(load(name), name)
    taps = every_tap(name, len(tokens))
    for t, data in zip(taps, read):
        t.data, t.action = data, WRITE
    again = Session(load(name))
    equal(again.prefill(tokens, taps=taps).logits, logits)
    plain = Session(load(name))
    plain.prefill(tokens)
    for step in range(3):
        taps = every_tap(name, 1)
        expected = plain.decode_step(taps=taps).logits
        for t in taps:
            t.action = WRITE
        equal(again.decode_step(taps=taps).logits, expected)
        equal(session.decode_step().logits, expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_patched_residual_stream_is_the_other_prompts(load, name):
    """The last block's output decides the logits; the first block's input decides everything."""
    tokens, others = weights.prompt(VARIANTS[name]), weights.prompt(VARIANTS[name], "others")
    last = tap_goldens.n_layers(VARIANTS[name]) - 1
    stream, start = tap(name, last, "BLOCK_OUTPUT", len(tokens)), tap(name, 0, "BLOCK_INPUT", len(tokens))
    other = Session(load(name))
    expected = other.prefill(others, taps=[stream, start]).logits
    stream.action = start.action = WRITE

    session = Session(load(name))
    equal(session.prefill(tokens, taps=[stream]).logits, expected)
    plain = Session(load(name))
    plain.prefill(tokens)
    equal(session.decode_step(7).logits, plain.decode_step(7).logits)  # K and V were made before

    patched = Session(load(name))
    equal(patched.prefill(tokens, taps=[start]).logits, expected)
    equal(patched.decode_step(7).logits, other.decode_step(7).logits)  # K and V are the others', too

    patched.truncate(0)
    rows = [patched.decode_step(token, taps=[tap(name, 0, "BLOCK_INPUT", 1, start.data[i : i + 1])]).logits for i, token in enumerate(tokens[:5])]
    other.truncate(0)
    equal(np.concatenate(rows), np.concatenate([other.decode_step(token).logits for token in others[:5]]))


@pytest.mark.parametrize("name", NAMES)
def test_a_write_acts_on_every_step_of_a_call(load, name):
    write = [tap(name, 0, "BLOCK_OUTPUT", 0, written_values(VARIANTS[name], 0, "BLOCK_OUTPUT")[:1])]
    one, several = Session(load(name)), Session(load(name))
    for session in (one, several):
        session.prefill(weights.prompt(VARIANTS[name]))
    several.decode_steps(4, taps=write)
    for _ in range(4):
        one.decode_step(taps=write)
    assert several.tokens() == one.tokens()
    equal(several.decode_step().logits, one.decode_step().logits)


def test_one_session_of_a_batch(load):
    """Writing back what the others have, and something else for one."""
    name = NAMES[0]
    tokens = weights.prompt(VARIANTS[name])
    alone, batched = [Session(load(name)) for _ in range(3)], [Session(load(name)) for _ in range(3)]
    for i in range(3):
        for session in (alone[i], batched[i]):
            session.prefill(tokens[: 5 + i])
    values, expected = [], []
    for i, session in enumerate(alone):
        write = [tap(name, 0, "BLOCK_OUTPUT", 0, written_values(VARIANTS[name], 0, "BLOCK_OUTPUT")[:1])] if i == 1 else []
        read = tap(name, 0, "BLOCK_OUTPUT", 1)
        expected.append(session.decode_step(3, taps=[*write, read]).logits)
        values.append(read.data)
    equal(decode_batch(batched, [3] * 3, taps=[tap(name, 0, "BLOCK_OUTPUT", 0, np.concatenate(values))]).logits, np.concatenate(expected))


def test_taps_are_applied_in_the_order_given(load):
    name = NAMES[0]
    tokens = weights.prompt(VARIANTS[name])
    first, second = (written_values(VARIANTS[name], layer, "BLOCK_INPUT") for layer in (0, 1))
    before, between, after = (tap(name, 1, "BLOCK_INPUT", len(tokens)) for _ in range(3))
    unrelated = tap(name, 0, "MLP_ACTIVATION", len(tokens))
    writes = [tap(name, 1, "BLOCK_INPUT", 0, values) for values in (first, second)]
    logits = Session(load(name)).prefill(tokens, taps=[before, writes[0], unrelated, between, writes[1], after]).logits
    equal(before.data, prefilled(load(name), name)[1][len(POINTS)])
    equal(between.data, first)
    equal(after.data, second)
    equal(logits, Session(load(name)).prefill(tokens, taps=[writes[1]]).logits)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("point", POINTS)
def test_values_that_are_not_finite(load, point, value):
    name = NAMES[0]
    tokens = weights.prompt(VARIANTS[name])
    session, plain = Session(load(name)), Session(load(name))
    for s in (session, plain):
        s.prefill(tokens[:20])
    bad = np.full((1, width(VARIANTS[name], point)), value, np.float32)
    with pytest.raises(cf.NonfiniteLogitsError):
        session.decode_step(5, taps=[tap(name, 1, point, 0, bad)])
    assert session.tokens() == plain.tokens() and session.wait().position == 20
    equal(session.decode_step(5).logits, plain.decode_step(5).logits)


def test_sessions_that_failed_have_no_rows(load):
    name = NAMES[0]
    tokens = weights.prompt(VARIANTS[name])
    full, good = Session(load(name), capacity_tokens=10), Session(load(name))
    for session in (full, good):
        session.prefill(tokens[:10])
    taps = every_tap(name, 2)
    with pytest.raises(cf.BatchError, match="hold|fit"):
        decode_batch([full, good], [1, 2], taps=taps)
    for t in taps:
        assert np.isnan(t.data[0]).all() and np.isfinite(t.data[1]).all()


# ---- Arguments


def descriptors(n: int = 1):
    data = np.zeros((1, 272), np.float32)
    taps = ffi.new("cf_tap[]", n)
    for t in taps:
        check(lib.cf_tap_init(ffi.addressof(t), ffi.sizeof("cf_tap")))
        t.point, t.data = lib.CF_TAP_BLOCK_INPUT, ffi.cast("float*", data.ctypes.data)
    return taps, data


def refused(session, match: str, **options) -> None:
    step = make("cf_step_options", **options)
    tokens = ffi.new("int32_t[]", [1])
    for call in (
        lambda: lib.cf_prefill(session.handle, tokens, 1, step),
        lambda: lib.cf_decode_step(session.handle, 1, step),
        lambda: lib.cf_decode_positions(session.handle, tokens, 1, step),
        lambda: lib.cf_decode_batch(ffi.new("cf_session*[]", [session.handle]), 1, tokens, step),
    ):
        with pytest.raises(cf.InvalidArgumentError, match=match):
            check(call())
    assert session.wait().position == 0


WRONG = [
    *[("point", 0), ("point", 5), ("action", 2), ("action", -1), ("layer", -1), ("layer", 2), ("memory", 2)],
    *[("data", ffi.NULL), ("struct_size", 4), ("struct_size", 1 << 20)],
]


@pytest.mark.parametrize("field, value", WRONG)
@pytest.mark.parametrize("index", [0, 1])
def test_descriptors_that_are_wrong(load, field, value, index):
    session = Session(load(NAMES[0]))
    taps, data = descriptors(2)
    setattr(taps[index], field, value)
    refused(session, rf"taps(\[{index}\])?\.{field}|struct_size" if field == "struct_size" else rf"taps\[{index}\]\.{field}", taps=taps, n_taps=2)


def test_arrays_that_are_wrong(load):
    session = Session(load(NAMES[0]))
    taps, data = descriptors()
    refused(session, "taps is NULL but n_taps is 1", taps=ffi.NULL, n_taps=1)
    refused(session, "n_taps is", taps=taps, n_taps=1 << 40)


def test_descriptors_of_a_newer_header(load):
    """They lie their own struct_size apart; what this library does not know must be zero."""
    session, plain = Session(load(NAMES[0])), Session(load(NAMES[0]))
    small, size, data = ffi.sizeof("cf_tap"), ffi.sizeof("cf_tap") + 16, np.full((2, 1, 128), np.nan, np.float32)
    memory = ffi.new("char[]", 2 * size)
    for i in range(2):
        t = ffi.cast("cf_tap*", memory + i * size)
        check(lib.cf_tap_init(t, size))
        t.point, t.layer, t.data = lib.CF_TAP_BLOCK_OUTPUT, i, ffi.cast("float*", data[i].ctypes.data)
    options = dict(taps=ffi.cast("cf_tap*", memory), n_taps=2)
    memory[size + small] = b"\x01"
    refused(session, "newer header", **options)
    memory[size + small] = b"\x00"
    check(lib.cf_decode_step(session.handle, 9, make("cf_step_options", **options)))
    session.wait()
    expected = [tap(NAMES[0], layer, "BLOCK_OUTPUT", 1) for layer in range(2)]
    plain.decode_step(9, taps=expected)
    for i in range(2):
        equal(data[i], expected[i].data)


@pytest.mark.skipif(DEVICE != "cpu", reason="of the CPU")
def test_device_memory_is_host_memory_on_the_cpu(load):
    session = Session(load(NAMES[0]))
    taps, data = descriptors()
    taps[0].memory = lib.CF_MEMORY_DEVICE
    check(lib.cf_decode_step(session.handle, 1, make("cf_step_options", taps=taps, n_taps=1)))
    session.wait()
    assert np.abs(data[0, :128]).min() > 0 and not data[0, 128:].any()
