"""Scores: log-probabilities of given tokens and of the likeliest ones at every position, and a text's perplexity."""

import json
from pathlib import Path

import numpy as np
import pytest

import clusterfusion as cf
import demo_prompts
import weights
from checkpoint_files import write_checkpoint
from clusterfusion.native import check, ffi, lib, make
from decoder import Session, context, decode_batch, load_model
from goldens import golden, limit
from variants import VARIANTS

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo_model"

SOME = ["neox", "neox_d128_long", "neox_outliers", "llama_bf16_gqa", "llama_f32_gqa_group3_long", "llama_outliers_long"]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    most = logits.max(-1, keepdims=True)
    return logits - most - np.log(np.exp(logits - most).sum(-1, keepdims=True))


def ranked(logits: np.ndarray, n: int) -> np.ndarray:
    """The n likeliest of each row, ties to the lowest."""
    return np.argsort(-logits, axis=-1, kind="stable")[:, :n]


def expect_scores_of_own_logits(step, targets, n: int) -> None:
    """To a rounding of the result: sums are taken in double."""
    expected = log_softmax(step.logits)
    rows = np.arange(len(expected))
    targets = np.asarray(targets)
    wanted = np.where(targets < 0, 0, expected[rows, targets])
    np.testing.assert_allclose(step.target_logprobs, wanted, rtol=2e-7, atol=1e-9)
    assert (step.target_logprobs[targets < 0] == 0).all()
    np.testing.assert_array_equal(step.top_tokens, ranked(step.logits, n))
    np.testing.assert_allclose(step.top_logprobs, np.take_along_axis(expected, step.top_tokens.astype(np.int64), -1), rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("name", VARIANTS)
def test_prefilled_text_against_goldens(load, name):
    """A log-probability is off by at most twice the largest error of a logit; that of the RMS is known."""
    tokens = weights.prompt(VARIANTS[name])
    targets = [*tokens[1:], tokens[0]]
    step = Session(load(name)).prefill(tokens, targets=targets, top_n=10)
    expect_scores_of_own_logits(step, targets, 10)
    stored = golden(VARIANTS[name])
    rows, vocab = stored.positions, stored.logits.shape[1]
    expected = log_softmax(stored.logits)
    bound = 2 * limit(VARIANTS[name].dtype) * np.sqrt((stored.logits.astype(np.float64) ** 2).mean(-1) * vocab)
    assert (np.abs(step.target_logprobs[rows] - expected[np.arange(len(rows)), np.array(targets)[rows]]) <= bound).all()
    # Near ties may change places: what is ranked n-th is as likely as the n-th of transformers.
    wanted = np.take_along_axis(expected, ranked(stored.logits, 10), -1)
    assert (np.abs(step.top_logprobs[rows] - wanted) <= bound[:, None]).all()
    assert (np.abs(np.take_along_axis(expected, step.top_tokens[rows].astype(np.int64), -1) - wanted) <= 2 * bound[:, None]).all()


@pytest.mark.parametrize("name", SOME)
def test_every_kind_of_step_scores(load, name):
    tokens = weights.prompt(VARIANTS[name])
    vocab = VARIANTS[name].config["vocab_size"]
    session, several, batched = (Session(load(name)) for _ in range(3))
    for s in (session, several, batched):
        s.prefill(tokens[:5])
    drafted = tokens[5:13]
    targets = [*tokens[6:9], -1, *tokens[10:14]]
    made = several.decode_positions(drafted, targets=targets, top_n=vocab)
    expect_scores_of_own_logits(made, targets, vocab)
    for i, token in enumerate(drafted):
        step = session.decode_step(token, targets=[targets[i]], top_n=3)
        expect_scores_of_own_logits(step, [targets[i]], 3)
        assert step.target_logprobs[0] == made.target_logprobs[i]
        np.testing.assert_array_equal(step.top_tokens[0], made.top_tokens[i, :3])
        np.testing.assert_array_equal(step.top_logprobs[0], made.top_logprobs[i, :3])
    other = Session(load(name))
    other.prefill(tokens[:2])
    step = decode_batch([batched, other], [drafted[0], 4], targets=[targets[0], 7], top_n=5)
    expect_scores_of_own_logits(step, [targets[0], 7], 5)
    assert step.target_logprobs[0] == made.target_logprobs[0]
    step = other.decode_steps(4, targets=[3], top_n=2)  # of the last of them
    expect_scores_of_own_logits(step, [3], 2)
    step = other.prefill(tokens[:6], rows="last", targets=[2], top_n=1)
    expect_scores_of_own_logits(step, [2], 1)
    assert step.top_tokens[0, 0] == step.token


@pytest.mark.parametrize("name", SOME[:3])
def test_scores_do_not_depend_on_how_a_text_is_cut(load, name):
    tokens = weights.prompt(VARIANTS[name])
    targets = [*tokens[1:], -1]
    whole = Session(load(name)).prefill(tokens, targets=targets).target_logprobs
    session, parts = Session(load(name)), []
    for start in range(0, len(tokens), 13):
        end = min(start + 13, len(tokens))
        parts.append(session.prefill(tokens[start:end], targets=targets[start:end], sample=False).target_logprobs)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_sampling_options_do_not_touch_scores(load):
    """They are of the raw logits."""
    tokens = weights.prompt(VARIANTS["neox"])
    targets = [*tokens[1:], -1]
    plain, session = Session(load("neox")), Session(load("neox"))
    session.sampler = cf.Sampler(temperature=3.0, top_k=2, repetition_penalty=5.0, logit_biases={tokens[1]: -np.inf}, seed=3)
    session.set_allowed_tokens([token % 2 for token in range(101)])
    expected, step = (s.prefill(tokens, targets=targets, top_n=4) for s in (plain, session))
    np.testing.assert_array_equal(step.target_logprobs, expected.target_logprobs)
    np.testing.assert_array_equal(step.top_tokens, expected.top_tokens)
    np.testing.assert_array_equal(step.top_logprobs, expected.top_logprobs)


def test_ties_go_to_the_lowest_token(tmp_path):
    variant = VARIANTS["neox"]
    tensors = weights.tensors(variant)
    head = tensors["embed_out.weight"].data
    head[[70, 9, 33]] = head[20]
    head[5] = head[90]
    session = Session(load_model(write_checkpoint(variant, tmp_path, tensors=tensors), context(1)))
    step = session.prefill(weights.prompt(variant), top_n=101)
    for row in step.top_tokens:
        place = {token: i for i, token in enumerate(row)}
        assert sorted(row) == list(range(101))
        assert [place[t] - place[9] for t in (20, 33, 70)] == [1, 2, 3] and place[90] == place[5] + 1


# ---- Arguments


def refused(session, match: str, tokens=(1, 2), **fields) -> None:
    outputs = make("cf_outputs", rows=lib.CF_ROWS_ALL, **fields)
    options = make("cf_step_options", outputs=outputs)
    with pytest.raises(cf.InvalidArgumentError, match=match):
        check(lib.cf_prefill(session.handle, ffi.new("int32_t[]", list(tokens)), len(tokens), options))
    assert session.wait().position == 0


def test_arguments_that_are_wrong(load):
    session = Session(load("neox"))
    floats, ints = ffi.new("float[]", 300), ffi.new("int32_t[]", 300)
    for target in (101, -2, 2**31 - 1):
        refused(session, f"targets.* {target} is outside", targets=ffi.new("int32_t[]", [0, target]), target_logprobs=floats)
    refused(session, "targets and target_logprobs", targets=ints)
    refused(session, "targets and target_logprobs", target_logprobs=floats)
    for top_n in (-1, 102, 1 << 30):
        refused(session, f"top_n is {top_n}, expected 0 to 101", top_n=top_n, top_tokens=ints, top_logprobs=floats)
    refused(session, "top_n is 0", top_tokens=ints)
    refused(session, "top_n is 0", top_logprobs=floats)
    refused(session, "are NULL", top_n=3)
    session.prefill([1, 2])


@pytest.mark.parametrize("wanted", ["top_tokens", "top_logprobs"])
def test_one_of_tokens_and_logprobs_is_enough(load, wanted):
    tokens = weights.prompt(VARIANTS["neox"])
    expected = Session(load("neox")).prefill(tokens, rows="last", top_n=7)
    session = Session(load("neox"))
    array = ffi.new("int32_t[]" if wanted == "top_tokens" else "float[]", 7)
    options = make("cf_step_options", outputs=make("cf_outputs", top_n=7, **{wanted: array}))
    check(lib.cf_prefill(session.handle, ffi.new("int32_t[]", tokens), len(tokens), options))
    session.wait()
    np.testing.assert_array_equal(list(array), getattr(expected, wanted)[0])


# ---- Perplexity


@pytest.mark.skipif(not DEMO.is_dir(), reason="examples/demo_model is not there")
def test_perplexity_of_a_text():
    """In overlapping windows, as transformers' numbers were made."""
    stored = json.loads((ROOT / "tests" / "golden" / "demo_tokens.json").read_text())["scoring"]
    model, tokens = load_model(DEMO), list(demo_prompts.scored_text(DEMO))
    session, total = Session(model, capacity_tokens=demo_prompts.WINDOW), 0.0
    windows = demo_prompts.windows(len(tokens))
    assert len(windows) == len(stored["windows"]) > 10
    for window, expected in zip(windows, stored["windows"]):
        session.truncate(0)
        read = tokens[window.begin : window.end]
        targets = [token if window.first <= window.begin + i + 1 else -1 for i, token in enumerate(read[1:])] + [-1]
        step = session.prefill(read, targets=targets, sample=False)
        likelihood = step.target_logprobs.astype(np.float64).sum()
        assert abs(-likelihood - expected) <= limit("F16") * max(1.0, expected)
        total -= likelihood
    assert sum(window.end - window.first for window in windows) == stored["n_tokens"] == len(tokens) - 1
    np.testing.assert_allclose(np.exp(total / stored["n_tokens"]), stored["perplexity"], rtol=limit("F16"))
