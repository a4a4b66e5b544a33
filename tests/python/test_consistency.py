"""What the library promises about itself, to the bit: prompts cut into calls, several positions or sessions in a step,
truncation, repetition, threads."""

import threading

import numpy as np
import pytest

import clusterfusion as cf
import weights
from decoder import PENDING, Session, decode_batch
from variants import VARIANTS

# The ones where something structural differs in how keys, values and rows are handled.
SOME = [
    "neox",
    "neox_bf16_sequential_d32",
    "neox_d128_long",
    "neox_f32_d256_long",
    "neox_outliers_sequential",
    "llama_bf16_gqa",
    "llama_f32_gqa_group3_long",
    "llama_mqa",
    "llama_d80",
    "llama3_new",
    "llama_outliers_long",
]


def equal(actual, expected):
    np.testing.assert_array_equal(actual, expected)


def steps(session, tokens) -> np.ndarray:
    """[len(tokens), vocab_size], a step each"""
    return np.concatenate([session.decode_step(token).logits for token in tokens])


def greedy(session, n_steps: int) -> tuple[np.ndarray, list[int]]:
    made = [session.decode_step() for _ in range(n_steps)]
    return np.concatenate([step.logits for step in made]), [step.token for step in made]


def cuts(n_tokens: int):
    yield [1, n_tokens - 1]
    yield [n_tokens - 1, 1]
    yield [16, 16, n_tokens - 32]
    yield [7, 20, n_tokens - 27]
    yield [1] * n_tokens
    if n_tokens > 130:
        yield [63, 1, 1, n_tokens - 65]
        yield [64, 64, n_tokens - 128]
        yield [100, n_tokens - 100]


@pytest.mark.parametrize("name", VARIANTS)
def test_prompt_cut_into_calls(load, name):
    tokens = weights.prompt(VARIANTS[name])
    whole = Session(load(name))
    expected = whole.prefill(tokens)
    onward, _ = greedy(whole, 3)
    for cut in cuts(len(tokens)):
        session, rows, start = Session(load(name)), [], 0
        for length in cut:
            end = start + length
            step = session.prefill(tokens[start:end], sample=end == len(tokens))
            rows.append(step.logits)
            start = end
        equal(np.concatenate(rows), expected.logits)
        assert step.token == expected.token and step.position == len(tokens)
        equal(greedy(session, 3)[0], onward)


@pytest.mark.parametrize("page_tokens", [16, 32, 128, 256])
@pytest.mark.parametrize("name", SOME)
def test_page_size_does_not_matter(load, name, page_tokens):
    tokens = weights.prompt(VARIANTS[name])
    plain, paged = Session(load(name)), Session(load(name), page_tokens=page_tokens, reserve=0)
    equal(paged.prefill(tokens).logits, plain.prefill(tokens).logits)
    equal(greedy(paged, 40)[0], greedy(plain, 40)[0])


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 8, 17, 64])
@pytest.mark.parametrize("name", SOME)
def test_several_positions(load, name, n_tokens):
    tokens = weights.prompt(VARIANTS[name], "drafted", n_tokens)
    one, several = Session(load(name)), Session(load(name))
    for session in (one, several):
        session.prefill(weights.prompt(VARIANTS[name]))
    expected = steps(one, tokens)
    step = several.decode_positions(tokens)
    equal(step.logits, expected)
    equal(step.row_tokens, expected.argmax(-1))
    assert step.n_steps == n_tokens and step.token == expected[-1].argmax()
    equal(greedy(several, 5)[0], greedy(one, 5)[0])


@pytest.mark.parametrize("name", SOME)
def test_several_positions_from_the_pending_one(load, name):
    one, several = Session(load(name)), Session(load(name))
    for session in (one, several):
        session.prefill(weights.prompt(VARIANTS[name]))
    drafted = weights.prompt(VARIANTS[name], "drafted", 4)
    equal(several.decode_positions([PENDING, *drafted]).logits, steps(one, [PENDING, *drafted]))
    assert several.tokens() == one.tokens()


@pytest.mark.parametrize("n_sessions", [1, 2, 5, 16])
@pytest.mark.parametrize("name", SOME)
def test_several_sessions(load, name, n_sessions):
    """Sessions of different lengths; given tokens first, then each its pending one."""
    prompts = [weights.prompt(VARIANTS[name], f"prompt {i}", 1 + 13 * i % 90) for i in range(n_sessions)]
    given = weights.prompt(VARIANTS[name], "given", n_sessions)
    alone, expected = [Session(load(name)) for _ in prompts], []
    together = [Session(load(name)) for _ in prompts]
    for pair in zip(alone, together, prompts):
        for session in pair[:2]:
            session.prefill(pair[2])
    for tokens in (given, None, None):
        step = decode_batch(together, tokens)
        expected = np.concatenate([s.decode_step(PENDING if tokens is None else tokens[i]).logits for i, s in enumerate(alone)])
        equal(step.logits, expected)
        equal(step.tokens, expected.argmax(-1))
        assert not any(step.errors)
    for a, b in zip(alone, together):
        assert a.tokens() == b.tokens()


@pytest.mark.parametrize("name", SOME)
def test_steps_in_one_call(load, name):
    one, several = Session(load(name)), Session(load(name))
    for session in (one, several):
        session.prefill(weights.prompt(VARIANTS[name]))
    logits, tokens = greedy(one, 20)
    step = several.decode_steps(20)
    equal(step.logits[0], logits[-1])
    assert step.token == tokens[-1] and step.n_steps == 20 and several.tokens() == one.tokens()


@pytest.mark.parametrize("name", VARIANTS)
def test_truncated_is_as_if_never_gone_further(load, name):
    tokens = weights.prompt(VARIANTS[name])
    whole = Session(load(name)).prefill(tokens).logits
    others = weights.prompt(VARIANTS[name], "others", 6)
    for position in sorted({1, 17, len(tokens) // 2, min(64, len(tokens) - 1), len(tokens) - 1}):
        never = Session(load(name))
        never.prefill(tokens[:position])
        expected = steps(never, others)

        after_prefill = Session(load(name))
        after_prefill.prefill(tokens)
        assert after_prefill.truncate(position).token == tokens[position]
        assert after_prefill.tokens() == tokens[: position + 1]
        equal(steps(after_prefill, others), expected)

        after_steps = Session(load(name))
        after_steps.prefill(tokens[:position])
        greedy(after_steps, 9)
        after_steps.truncate(position)
        equal(steps(after_steps, others), expected)

        after_steps.truncate(position)
        equal(after_steps.prefill(tokens[position:]).logits, whole[position:])
        after_steps.truncate(0)
        equal(after_steps.prefill(tokens).logits, whole)


@pytest.mark.parametrize("name", SOME)
def test_pending_token_after_truncation(load, name):
    """It is the one that stood there, so greedy decoding repeats itself."""
    session = Session(load(name))
    session.prefill(weights.prompt(VARIANTS[name]))
    first, _ = greedy(session, 12)
    before = session.tokens()
    session.truncate(VARIANTS[name].n_tokens)
    assert session.tokens() == before[: VARIANTS[name].n_tokens + 1]
    equal(greedy(session, 12)[0], first)
    assert session.tokens() == before


@pytest.mark.parametrize("library_threads", [1, 2])
@pytest.mark.parametrize("name", SOME)
def test_two_sessions_on_two_threads(load, name, library_threads):
    model = load(name, library_threads)
    prompts = [weights.prompt(VARIANTS[name]), weights.prompt(VARIANTS[name], "of the other", 33)]

    def run(prompt):
        session = Session(model)
        return [session.prefill(prompt).logits, greedy(session, 12)[0], session.decode_positions([1, 2, 3]).logits]

    expected = [run(prompt) for prompt in prompts]
    for _ in range(4):
        made, start = [None, None], threading.Barrier(2)

        def work(index):
            start.wait()
            made[index] = run(prompts[index])

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for got, wanted in zip(made, expected):
            assert got is not None
            for a, b in zip(got, wanted):
                equal(a, b)


@pytest.mark.parametrize("name", SOME)
def test_sampling_does_not_depend_on_the_grouping_of_steps(load, name):
    """Seed and position decide: a step each, many in a call, and after going back."""
    sampler = dict(temperature=1.3, top_k=40, top_p=0.95, seed=2**63 + 12345, repetition_penalty=1.1)
    made = []
    for way in range(3):
        session = Session(load(name))
        session.sampler = cf.Sampler(**sampler)
        session.prefill(weights.prompt(VARIANTS[name]))
        if way == 0:
            greedy(session, 30)
        else:
            session.decode_steps(30)
        if way == 2:
            session.truncate(VARIANTS[name].n_tokens + 10)
            session.decode_steps(20)
        made.append(session.tokens())
    assert made[0] == made[1] == made[2]
    assert len(set(made[0][VARIANTS[name].n_tokens :])) > 5
