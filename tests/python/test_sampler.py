"""cf_sample_logits against a model of the documented rule in NumPy, token by token; the kept sets against transformers'
own processors where it is installed."""

import numpy as np
import pytest

import sampler_model
import clusterfusion as cf
from clusterfusion import Sampler, sample_logits
from clusterfusion.native import check, ffi, lib, make

N_TOKENS = 203
SETTINGS = [
    dict(temperature=1.0),
    dict(temperature=0.3),
    dict(temperature=100.0),
    dict(temperature=1.0, top_k=1),
    dict(temperature=1.5, top_k=13),
    dict(temperature=1.0, top_k=N_TOKENS + 5),
    dict(temperature=1.0, top_p=0.9),
    dict(temperature=2.0, top_p=0.1),
    dict(temperature=3.0, top_p=0.999),
    dict(temperature=1.0, min_p=0.05),
    dict(temperature=4.0, min_p=1.0),
    dict(temperature=0.8, top_k=50, top_p=0.9, min_p=0.02),
    dict(temperature=1.0, repetition_penalty=1.3),
    dict(temperature=1.0, repetition_penalty=0.7, top_p=0.8),
    dict(repetition_penalty=1.5),
    dict(),
]


def _logits(rng, n_tokens=N_TOKENS) -> np.ndarray:
    return rng.normal(0, 3, n_tokens).astype(np.float32)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_same_tokens_as_the_model(settings):
    rng = np.random.default_rng(1)
    for case in range(150):
        logits, position = _logits(rng), int(rng.integers(0, 2**40)) if case % 2 else case
        seed = int(rng.integers(0, 2**64, dtype=np.uint64))
        history = rng.integers(0, N_TOKENS, case).tolist()
        biases = {int(t): float(v) for t, v in zip(rng.permutation(N_TOKENS)[: case % 7], rng.normal(0, 4, 7).astype(np.float32))}
        if case % 7 == 3:
            biases[next(iter(biases))] = -np.inf
        allowed = rng.random(N_TOKENS) < 0.5 if case % 3 == 0 else None
        token = sample_logits(logits, position, Sampler(logit_biases=biases, seed=seed, **settings), history=history, allowed=allowed)
        expected = sampler_model.sample(logits, position, seed=seed, history=history, biases=biases, allowed=allowed, **settings)
        assert token == expected, (case, position, seed)


def test_philox_model_gives_the_published_vectors():
    """kat_vectors of Random123, philox4x32 with 10 rounds."""
    vectors = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]
    for counter, key, expected in vectors:
        assert tuple(sampler_model.philox4x32_10(np.array([counter], np.uint32), key)[0]) == expected


def test_noise_is_of_the_published_vector():
    """Seed 0 and position 0 count the all-zero block: the lead at which token t + 1 overtakes token t is the difference of
    their noise."""
    words = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8])
    noise = -np.log(-np.log((words + 0.5) * 2.0**-32))
    options = Sampler(temperature=1.0, seed=0)
    for token in range(3):
        low, high = -50.0, 50.0  # leads of token + 1 that lose and win
        while high - low > 1e-5:
            lead = (low + high) / 2
            logits = np.full(4, -1000.0, np.float32)
            logits[token], logits[token + 1] = 0, lead
            low, high = (low, lead) if sample_logits(logits, 0, options) == token + 1 else (lead, high)
        assert abs(high - (noise[token] - noise[token + 1])) < 1e-4


@pytest.mark.parametrize("settings", [dict(temperature=1.0), dict(temperature=0.7, top_k=8), dict(temperature=1.4, top_p=0.85), dict(temperature=2.0, min_p=0.2)], ids=str)
def test_distribution(settings):
    """Chi-square over positions, against the probabilities of the tokens that are kept."""
    n_draws, n_tokens = 20000, 21
    logits = _logits(np.random.default_rng(5), n_tokens) / 2
    options = Sampler(seed=99, **settings)
    counts = np.bincount([sample_logits(logits, position, options) for position in range(n_draws)], minlength=n_tokens)
    scaled = logits.astype(np.float64) / settings["temperature"]
    keep = sampler_model.kept(scaled, **{k: v for k, v in settings.items() if k != "temperature"})
    expected = n_draws * np.where(keep, np.exp(scaled), 0) / np.exp(scaled)[keep].sum()
    assert counts[~keep].sum() == 0
    assert expected[keep].min() > 5
    degrees = keep.sum() - 1
    chi_square = ((counts - expected)[keep] ** 2 / expected[keep]).sum()
    assert degrees - 5 * np.sqrt(2 * degrees) < chi_square < degrees + 5 * np.sqrt(2 * degrees)


def test_reproducible_and_different_by_seed_and_position():
    logits = np.zeros(1000, np.float32)
    draw = lambda seed, position: sample_logits(logits, position, Sampler(temperature=1.0, seed=seed))  # noqa: E731
    tokens = [draw(seed, position) for seed in (0, 1, 2**32, 2**64 - 1) for position in (0, 1, 2**32, 2**62)]
    assert tokens == [draw(seed, position) for seed in (0, 1, 2**32, 2**64 - 1) for position in (0, 1, 2**32, 2**62)]
    assert len(set(tokens)) > 12


def test_ties_go_to_the_lowest_token():
    logits = np.array([1, 5, 2, 5, 5], np.float32)
    assert sample_logits(logits, 0, Sampler()) == 1
    assert sample_logits(logits, 0, Sampler(), allowed=[1, 0, 1, 1, 1]) == 3
    assert sample_logits(logits, 0, Sampler(logit_biases={1: -1.0})) == 3
    assert sample_logits(np.full(64, -3, np.float32), 7, Sampler()) == 0


def test_ties_with_the_last_of_top_k_stay():
    """As in transformers: with four equals, top_k 2 leaves all four."""
    logits = np.array([5, 5, 1, 5, 5], np.float32)
    options = [Sampler(temperature=1.0, top_k=2, seed=seed) for seed in range(200)]
    assert {sample_logits(logits, 3, option) for option in options} == {0, 1, 3, 4}


def test_of_equals_top_p_keeps_the_lowest():
    options = [Sampler(temperature=1.0, top_p=0.25, seed=seed) for seed in range(200)]
    assert {sample_logits(np.full(10, 2, np.float32), 3, option) for option in options} == {0, 1, 2}


def test_low_temperatures_are_greedy():
    rng = np.random.default_rng(11)
    for case in range(50):
        logits = _logits(rng)
        for temperature in (1e-4, 1e-20, 1e-38):
            assert sample_logits(logits, case, Sampler(temperature=temperature, seed=case)) == logits.argmax(), temperature


def test_repetition_penalty_counts_a_token_once():
    logits = np.array([4.0, 3.0, -1.0], np.float32)
    assert sample_logits(logits, 3, Sampler(repetition_penalty=1.2), history=[0, 0, 0]) == 0  # 3.33 > 3
    assert sample_logits(logits, 3, Sampler(repetition_penalty=1.4), history=[0, 0, 0]) == 1


KEPT = [dict(top_k=5), dict(top_p=0.9), dict(top_p=0.3), dict(top_p=0.01), dict(min_p=0.1), dict(min_p=0.9), dict(top_k=20, top_p=0.8, min_p=0.05)]


@pytest.mark.parametrize("settings", KEPT, ids=str)
def test_kept_sets_are_those_of_transformers(settings):
    """The model's kept sets against transformers' processors, and the library's draws inside them, each token drawn."""
    torch = pytest.importorskip("torch")
    processors = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(3)
    for case in range(20):
        logits, temperature = _logits(rng, 60), 1.7
        history = rng.integers(0, 60, 20).tolist()
        ids, scores = torch.tensor([history]), torch.tensor(logits)[None]
        scores = processors.RepetitionPenaltyLogitsProcessor(1.2)(ids, scores)
        scores = processors.TemperatureLogitsWarper(temperature)(ids, scores)
        for key, warper in (("top_k", processors.TopKLogitsWarper), ("top_p", processors.TopPLogitsWarper), ("min_p", processors.MinPLogitsWarper)):
            if key in settings:
                scores = warper(settings[key])(ids, scores)
        expected = (scores[0] > -np.inf).numpy()
        adjusted = sampler_model.adjusted(logits, history=history, repetition_penalty=1.2) / np.float32(temperature)
        np.testing.assert_array_equal(sampler_model.kept(adjusted, **settings), expected)
        if case == 0:
            options = [Sampler(temperature=temperature, repetition_penalty=1.2, seed=seed, **settings) for seed in range(500)]
            drawn = {sample_logits(logits, 9, option, history=history) for option in options}
            assert drawn <= set(np.flatnonzero(expected)) and len(drawn) > 0.5 * min(expected.sum(), 20)


def _fails(kind, *arguments, **keywords):
    with pytest.raises(kind) as failure:
        sample_logits(*arguments, **keywords)
    assert type(failure.value) is kind and str(failure.value)
    return str(failure.value)


def _sample_with(struct, logits) -> int:
    """By a cf_sampler_options of one's own."""
    token = ffi.new("int32_t*")
    check(lib.cf_sample_logits(struct, ffi.NULL, ffi.new("float[]", logits), len(logits), ffi.NULL, 0, 0, token))
    return token[0]


@pytest.mark.parametrize(
    "fields",
    [
        dict(temperature=-0.1), dict(temperature=100.5), dict(temperature=np.nan), dict(temperature=np.inf),
        dict(top_k=-1),
        dict(top_p=0.0), dict(top_p=-0.5), dict(top_p=1.01), dict(top_p=np.nan),
        dict(min_p=-0.1), dict(min_p=1.1), dict(min_p=np.nan),
        dict(repetition_penalty=0.0), dict(repetition_penalty=-1.0), dict(repetition_penalty=np.nan), dict(repetition_penalty=np.inf),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_settings(fields):
    text = _fails(cf.InvalidArgumentError, np.zeros(4, np.float32), 0, Sampler(**fields))
    assert next(iter(fields)) in text


@pytest.mark.parametrize(
    "fields",
    [
        dict(logit_biases={4: 1.0}), dict(logit_biases={-1: 1.0}), dict(logit_biases={0: np.nan}), dict(logit_biases={0: np.inf}),
        dict(stop_tokens=(4,)), dict(stop_tokens=(-1,)),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_tokens(fields):
    _fails(cf.InvalidArgumentError, np.zeros(4, np.float32), 0, Sampler(**fields))


def test_bias_given_twice():
    tokens, values = ffi.new("int32_t[]", [0, 0]), ffi.new("float[]", [1.0, 1.0])
    struct = make("cf_sampler_options", n_logit_biases=2, logit_bias_tokens=tokens, logit_bias_values=values)
    with pytest.raises(cf.InvalidArgumentError):
        _sample_with(struct, [0.0] * 4)
    tokens[1] = 1
    assert _sample_with(struct, [0.0] * 4) == 0


def test_impossible_arguments():
    logits = np.zeros(4, np.float32)
    _fails(cf.InvalidArgumentError, logits, -1, Sampler())
    _fails(cf.InvalidArgumentError, np.zeros(0, np.float32), 0, Sampler())
    for history in ([4], [-1]):
        _fails(cf.InvalidArgumentError, logits, 1, Sampler(repetition_penalty=1.1), history=history)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite(value):
    for temperature in (0.0, 1.0):
        _fails(cf.NonfiniteLogitsError, np.array([0, value, 1], np.float32), 0, Sampler(temperature=temperature))


def test_no_token_allowed():
    logits = np.zeros(3, np.float32)
    banned = {0: -np.inf, 1: -np.inf, 2: -np.inf}
    for temperature in (0.0, 1.0):
        _fails(cf.NoTokenAllowedError, logits, 0, Sampler(temperature=temperature, logit_biases=banned))
        _fails(cf.NoTokenAllowedError, logits, 0, Sampler(temperature=temperature, logit_biases={1: -np.inf}), allowed=[0, 1, 0])
        assert sample_logits(logits, 0, Sampler(temperature=temperature, logit_biases={1: -np.inf}), allowed=[0, 1, 1]) == 2


def test_larger_struct_of_a_newer_header():
    """Accepted if what this library does not know is zero."""
    size = ffi.sizeof("cf_sampler_options")
    room = ffi.new("char[]", size + 16)
    ffi.memmove(room, make("cf_sampler_options", temperature=1.0, top_k=1), size)
    struct = ffi.cast("cf_sampler_options*", room)
    struct.struct_size = size + 16
    assert _sample_with(struct, [0, 2, 1]) == 1
    room[size + 3] = b"\x01"
    with pytest.raises(cf.InvalidArgumentError):
        _sample_with(struct, [0, 2, 1])
    assert make("cf_sampler_options").struct_size == size
