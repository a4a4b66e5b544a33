"""Generation as an iterator, asynchronous or not, of tokens and of text; tokenizers; scores."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

import clusterfusion as cf
import demo_prompts
from clusterfusion.text import load_tokenizer
from goldens import DEVICE, limit

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo_model"
RECORD = json.loads((ROOT / "tests" / "golden" / "demo_tokens.json").read_text())


@pytest.fixture(scope="module")
def model():
    return cf.Model.from_pretrained(DEMO, DEVICE)


def test_three_lines(model):
    assert "".join(model.generate("412+93=")) == "505"


@pytest.mark.parametrize("steps_per_call", [1, 7, 1000])
def test_greedy_tokens_are_those_of_transformers(model, steps_per_call):
    for case in RECORD["cases"]:
        n = len(case["tokens"])
        made = model.generate(list(case["prompt"].encode()), n, stop=(), steps_per_call=steps_per_call)
        assert list(made) == case["tokens"] == made.tokens and made.finish_reason == "length"
        assert made.session.closed


@pytest.mark.parametrize("steps_per_call", [1, 2, 5, 64])
def test_stop_tokens(model, steps_per_call):
    made = model.generate("count 97 to 103:", 64, steps_per_call=steps_per_call)
    assert "".join(made) == made.text == " 97 98 99 100 101 102 103." and made.finish_reason == "stop"
    made = model.generate("count 97 to 103:", 64, stop=[ord("9")], steps_per_call=steps_per_call)
    assert list(made) == [" "] and made.finish_reason == "stop"
    sampler = cf.Sampler(stop_tokens=(ord("8"),))
    assert "".join(model.generate("count 97 to 103:", 64, sampler=sampler, steps_per_call=steps_per_call)) == " 97 9"
    for n in (1, 2, 3, 10, 11):
        made = model.generate("count 97 to 103:", n, stop=(), steps_per_call=steps_per_call)
        assert "".join(made) == " 97 98 99 100"[:n] and made.finish_reason == "length" and len(made.tokens) == n


def test_of_a_session(model):
    session = model.session(capacity_tokens=20)
    with pytest.raises(cf.InvalidArgumentError, match="no token is pending"):
        next(session.generate(1))
    session.prefill(list(b"count 97 to 103:"))
    assert bytes(session.generate(3)) == b" 97" and session.position == 18
    assert bytes(session.generate()) == b"7 9" and session.position == 20  # the pending one first; then the capacity ends it
    assert bytes(session.generate(0)) == b""
    session.truncate(16)
    assert bytes(session.generate(steps_per_call=3)) == b" 97 9" and not session.closed


def test_sampled_text_is_the_same_in_any_grouping(model):
    sampler = cf.Sampler(temperature=1.2, top_p=0.9, seed=5)
    texts = {"".join(model.generate("the ", 80, sampler=sampler, stop=(), steps_per_call=n)) for n in (1, 3, 100)}
    assert len(texts) == 1 and texts != {"".join(model.generate("the ", 80, stop=()))}


def test_closing_gives_the_session_back(model):
    with model.generate("412+93=") as made:
        assert next(made) == "5"
    assert made.session.closed and list(made) == [] and made.text == "5"


@pytest.mark.parametrize(
    "prompt, arguments, words",
    [
        ("", {}, "prompt is empty"), ([], {}, "prompt is empty"), (b"12", {}, "prompt is bytes"), ([1.0], {}, "float"), ("a", dict(max_tokens=0), "max_tokens is 0"),
        ("a", dict(steps_per_call=0), "steps_per_call is 0"), ("a", dict(stop=[256]), "256"), ("a", dict(sampler=cf.Sampler(top_p=2)), "top_p"),
    ],
)  # fmt: skip
def test_arguments_that_cannot_be(model, prompt, arguments, words):
    with pytest.raises(cf.InvalidArgumentError, match=words):
        model.generate(prompt, **arguments)


# ---- Asynchronous


def test_async_for(model):
    async def text(prompt):
        return "".join([piece async for piece in model.generate(prompt)])

    async def both():
        return await asyncio.gather(text("412+93="), text("count 97 to 103:"))

    assert asyncio.run(both()) == ["505", " 97 98 99 100 101 102 103."]


def test_a_cancelled_task_leaves_the_session_usable(model):
    session = model.session(capacity_tokens=1000)
    session.prefill(list(b"count 97 to 103:"))

    async def run():
        made = session.generate(steps_per_call=900)
        await made.__anext__()
        task = asyncio.ensure_future(made.__anext__())
        await asyncio.sleep(0.001)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return session.decode_step()  # nobody else is in a call with it

    assert asyncio.run(run()).n_steps == 1


# ---- Text


def test_bytes_to_whole_characters():
    stream = cf.ByteTokenizer().stream()
    assert [stream.push(byte) for byte in "é😀a".encode()] == ["", "é", "", "", "", "😀", "a"]
    assert stream.push(0xF0) == "" and stream.end() == "\N{REPLACEMENT CHARACTER}" and stream.end() == ""
    assert cf.ByteTokenizer().decode(cf.ByteTokenizer().encode("é😀")) == "é😀"


@pytest.fixture(scope="module")
def tokenizer_directory(tmp_path_factory):
    """A byte-level BPE, trained on a few words."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the cup and the ball", "the red balls", "who has the cups"], trainer)
    directory = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def test_a_tokenizer_of_the_checkpoint(tokenizer_directory):
    tokenizer = load_tokenizer(tokenizer_directory, 300)
    for text in ("the cups", "the red 😀 balls, é", "  spaces  ", "\n"):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        stream = tokenizer.stream()
        pieces = [stream.push(token) for token in tokens]
        assert "".join(pieces) + stream.end() == text
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    stream = tokenizer.stream()
    assert [stream.push(token) for token in tokenizer.encode("the")] == ["the"]
    half = tokenizer.encode("😀")[:2]
    assert [stream.push(token) for token in half] == ["", ""] and "\N{REPLACEMENT CHARACTER}" in stream.end()


def test_a_broken_tokenizer(tmp_path):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(cf.InvalidFileError, match="tokenizer.json"):
        load_tokenizer(tmp_path, 300)


def test_without_the_tokenizers_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ImportError, match=r"pip install clusterfusion\[text\]"):
        load_tokenizer(tmp_path, 300)
    with pytest.raises(cf.InvalidArgumentError, match="300 tokens are not bytes"):
        load_tokenizer(None, 300)
    assert isinstance(load_tokenizer(None, 256), cf.ByteTokenizer)


# ---- Scores


def test_perplexity_is_that_of_transformers(model):
    text, stored = demo_prompts.scored_text(DEMO), RECORD["scoring"]
    seen = []
    score = model.score(text.decode(), window=demo_prompts.WINDOW, stride=demo_prompts.STRIDE, progress=lambda done, total: seen.append((done, total)))
    assert score.n_scored == stored["n_tokens"] == len(score.logprobs) == len(text) - 1 and seen[-1] == (len(text), len(text))
    np.testing.assert_allclose(score.perplexity, stored["perplexity"], rtol=limit("F16"))
    np.testing.assert_allclose(score.bits_per_token, np.log2(stored["perplexity"]), rtol=limit("F16"))
    assert (score.logprobs < 0).all() and score.log_likelihood == pytest.approx(score.logprobs.sum(dtype=np.float64))
    short = model.score(list(text[:20]))
    np.testing.assert_array_equal(short.logprobs, model.score(list(text[:20]), window=1000, stride=3).logprobs)


@pytest.mark.parametrize("arguments, words", [(dict(window=1), "window is 1"), (dict(window=1025), "1024 positions"), (dict(window=10, stride=10), "stride is 10"), (dict(stride=0), "stride is 0")])
def test_windows_that_cannot_be(model, arguments, words):
    with pytest.raises(cf.InvalidArgumentError, match=words):
        model.score("some text", **arguments)
    with pytest.raises(cf.InvalidArgumentError, match="1 token, expected at least 2"):
        model.score("a")
