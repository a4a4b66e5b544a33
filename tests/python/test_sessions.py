"""Sessions, models and contexts of the package as objects: lifetimes, errors, Ctrl-C, threads, and what steps can be asked for."""

import gc
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import clusterfusion as cf
import weights
from checkpoint_files import write_checkpoint
from goldens import DEVICE
from variants import VARIANTS

DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo_model"
PROMPT = list(b"tom has 3 red balls. anna has 5 blue cups. who has cups?")
ANSWER = b" anna.\n"


@pytest.fixture(scope="module")
def context():
    return cf.Context(DEVICE)


@pytest.fixture(scope="module")
def model(context):
    return cf.Model.from_pretrained(DEMO, context)


@pytest.fixture
def session(model):
    return model.session(capacity_tokens=1000)


# ---- Steps


def test_steps_and_tokens(session):
    step = session.prefill(PROMPT)
    assert (step.position, step.n_steps, step.token, step.logits) == (len(PROMPT), len(PROMPT), ANSWER[0], None)
    assert session.decode_step().token == ANSWER[1]
    step = session.decode_steps(4)
    assert (step.token, step.n_steps, step.position) == (ANSWER[5], 4, len(PROMPT) + 5)
    assert session.tokens() == [*PROMPT, *ANSWER[:6]] and session.tokens(len(PROMPT)) == list(ANSWER[:6]) and session.tokens(10**6) == []
    step = session.truncate(len(PROMPT) + 1)
    assert step.token == ANSWER[1] and session.position == len(PROMPT) + 1
    step = session.decode_positions([cf.PENDING, *ANSWER[2:6]])
    assert bytes(step.row_tokens.astype(np.uint8)) == ANSWER[2:7] and (step.row_status == 0).all()


def test_tokens_of_every_kind(session):
    for tokens in (PROMPT, tuple(PROMPT), np.array(PROMPT), np.array(PROMPT, np.uint8), np.array(PROMPT, np.int64)[::1], range(5)):
        assert session.prefill(tokens).n_steps == len(tokens)
        session.truncate(0)
    assert session.prefill(np.array([PROMPT, PROMPT]).T[:, 0]).token == ANSWER[0]
    assert session.decode_step(np.int64(7)).position == len(PROMPT) + 1


@pytest.mark.parametrize(
    "tokens, words",
    [
        ("text", "tokens is str, expected token ids"), ([1.5], "tokens holds float64"), ([[1]], "2 dimensions"), ([256], "256 is outside the vocabulary"), ([-2], "-2"),
        ([2**40], r"tokens\[0\] is 1099511627776"), ([1, 2**70], "tokens"), ([], "n_tokens is 0"), ([True], "bool"), (None, "tokens"), ([None], "tokens"),
        ([1] * 1001, "1001"),
    ],
)  # fmt: skip
def test_tokens_that_are_none(session, tokens, words):
    with pytest.raises(cf.InvalidArgumentError, match=words):
        session.prefill(tokens)
    for token in (1.5, "a", None, True, 2**31):
        with pytest.raises(cf.InvalidArgumentError, match="token is .*(expected a whole number|32 bits)"):
            session.decode_step(token)
    assert session.position == 0 and session.prefill(PROMPT).token == ANSWER[0]


def test_outputs(session):
    step = session.prefill(PROMPT, rows="all", logits=True, top_n=3, targets=[*PROMPT[1:], -1])
    logits = step.logits.astype(np.float64)
    assert logits.shape == (len(PROMPT), 256)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(step.target_logprobs[:-1], logprobs[np.arange(len(PROMPT) - 1), PROMPT[1:]], atol=1e-4)
    np.testing.assert_array_equal(step.top_tokens[:, 0], logits.argmax(-1))
    assert step.top_logprobs.shape == (len(PROMPT), 3) and step.row_tokens[-1] == step.token
    session.truncate(0)
    last = session.prefill(PROMPT, logits=True)
    np.testing.assert_array_equal(last.logits[0], step.logits[-1])
    mine = np.full((1, 256), np.nan, np.float32)
    assert session.decode_step(logits=mine).logits is mine and np.isfinite(mine).all()
    session.truncate(len(PROMPT))
    device = session.decode_step(logits="device").logits
    assert device.device == session.model.context.device
    np.testing.assert_array_equal(device.numpy(), mine)
    assert session.prefill([1], sample=False).token == -1


@pytest.mark.parametrize(
    "wanted, words",
    [
        (dict(logits=np.empty((2, 256), np.float32)), r"logits has shape \[2, 256\], expected \[1, 256\]"), (dict(logits=np.empty((1, 256))), "logits is of F64"),
        (dict(logits=np.empty((1, 512), np.float32)[:, ::2]), "strides"), (dict(logits="host"), "'host'"), (dict(logits=[1]), "logits is list"),
        (dict(logits=np.frombuffer(bytes(1024), np.float32).reshape(1, 256)), "read-only"), (dict(top_n=-1), "top_n is -1"), (dict(top_n=257), "top_n is 257"),
        (dict(top_n="x"), "top_n is 'x'"), (dict(targets=[1, 2]), "targets has 2 tokens, expected one for each of 1 rows"), (dict(targets=[999]), "999"),
    ],
)  # fmt: skip
def test_outputs_that_cannot_be(session, wanted, words):
    with pytest.raises(cf.InvalidArgumentError, match=words):
        session.prefill(PROMPT, **wanted)
    with pytest.raises(TypeError, match="unexpected keyword argument 'logit'"):
        session.prefill(PROMPT, logit=True)
    assert session.position == 0


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda m, s: s.truncate("x"), "position is 'x', expected a whole number"), (lambda m, s: s.truncate(2**63), "64 bits do not hold"), (lambda m, s: s.fork(1.0), "position is 1.0"),
        (lambda m, s: s.decode_steps(None), "n_steps is None"), (lambda m, s: s.enqueue_steps(0), "n_steps is 0"), (lambda m, s: s.tokens(-1), "from is -1"),
        (lambda m, s: m.session(pool="x"), "pool is str, expected a KvPool"), (lambda m, s: m.session(capacity_tokens="x"), "capacity_tokens is 'x'"),
        (lambda m, s: s.prefill([1], cancellation=5), "cancellation is int, expected a Cancellation"), (lambda m, s: setattr(s, "sampler", None), "sampler is NoneType"),
        (lambda m, s: m.load_layer("a", {}), "layer is 'a'"), (lambda m, s: m.block(2**31), "32 bits"), (lambda m, s: m.generate("a", "b"), "max_tokens is 'b'"),
        (lambda m, s: s.save_file("a\0b"), "NUL"), (lambda m, s: m.restore("a\0b"), "NUL"), (lambda m, s: m.restore(5), "saved is int"),
        (lambda m, s: cf.ModelConfig.read(None), "directory is NoneType"), (lambda m, s: cf.Model.from_pretrained(None), "is NoneType, expected a path"), (lambda m, s: cf.Context(5), "device is 5"),
        (lambda m, s: s.capture("x"), "n_steps is 'x'"), (lambda m, s: cf.sample_logits([1.0], "p"), "position is 'p'"), (lambda m, s: m.kv_pool(64, kv_dtype=None), "kv_dtype is None"),
    ],
)  # fmt: skip
def test_arguments_of_a_wrong_kind(model, session, call, words):
    with pytest.raises(cf.InvalidArgumentError, match=words):
        call(model, session)


def test_a_failed_step_advances_nothing(model):
    session = model.session(capacity_tokens=len(PROMPT) + 2)
    session.prefill(PROMPT)
    session.decode_steps(2)
    before = session.tokens()
    with pytest.raises(cf.CacheFullError, match="holds 58 of 58 positions; 1 more do not fit") as failure:
        session.decode_step()
    assert failure.value.status == cf.Status.ERROR_CACHE_FULL and isinstance(failure.value, cf.Error)
    assert session.tokens() == before and session.truncate(len(PROMPT)).token == ANSWER[0]
    assert session.decode_step().token == ANSWER[1]


def test_enqueued_steps(session):
    session.prefill(PROMPT)
    session.enqueue_step()
    session.enqueue_steps(3)
    step = session.wait()
    assert (step.n_steps, step.token) == (4, ANSWER[4])
    assert session.poll().n_steps == 0
    session.enqueue_steps(2000)
    with pytest.raises(cf.CacheFullError):
        session.wait()
    assert session.wait().position == 1000


def test_batches(model):
    sessions = [model.session(capacity_tokens=64) for _ in range(3)]
    for session, length in zip(sessions, (56, 3, 10)):
        session.prefill(PROMPT[:length])
    batch = cf.decode_batch(sessions, logits=True, top_n=2)
    assert batch.positions == [57, 4, 11] and batch.errors == [None] * 3 and batch.logits.shape == (3, 256) and batch.tokens[0] == ANSWER[1]
    np.testing.assert_array_equal(batch.top_tokens[:, 0], batch.logits.argmax(-1))
    sessions[0].decode_steps(7)
    with pytest.raises(cf.BatchError, match=r"sessions\[0\]: .* 64 of 64") as failure:
        cf.decode_batch(sessions, [1, 2, 3])
    step = failure.value.step
    assert failure.value.status == cf.Status.ERROR_CACHE_FULL and isinstance(step.errors[0], cf.CacheFullError)
    assert step.errors[1:] == [None, None] and step.positions == [64, 5, 12]
    for wrong, words in ((([],), "sessions is empty"), ((sessions, [1, 2]), "expected one for each of 3"), (([sessions[1]] * 2,), "same session")):
        with pytest.raises(cf.InvalidArgumentError, match=words):
            cf.decode_batch(*wrong)


def test_forks_and_pools(model):
    pool = model.kv_pool(512, page_tokens=16)
    parent = model.session(pool=pool, capacity_tokens=128, reserve=False)
    parent.prefill(PROMPT)
    fork = parent.fork(capacity_tokens=100)
    assert pool.info.n_pages_shared > 0 and fork.info.capacity_tokens == 100 and fork.info.page_tokens == 16
    assert [fork.decode_step().token for _ in range(3)] == [parent.decode_step().token for _ in range(3)] == list(ANSWER[1:4])
    assert parent.fork(5).tokens() == PROMPT[:6]
    with pytest.raises(cf.InvalidArgumentError, match="position is 1000"):
        parent.fork(1000)
    with pytest.raises(TypeError, match="capacity"):
        parent.fork(capacity=3)
    parent.close(), fork.close()
    assert pool.info.n_pages_free == pool.info.n_pages == 32
    with pytest.raises(cf.CacheFullError):
        model.session(pool=pool, capacity_tokens=513)


def test_saved_sessions(model, tmp_path):
    session = model.session(capacity_tokens=128)
    session.sampler = cf.Sampler(temperature=1.5, seed=3)
    session.prefill(PROMPT)
    session.decode_steps(5)
    saved = session.save()
    session.save_file(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == saved
    session.decode_steps(20)
    for again in (model.restore(saved, capacity_tokens=100), model.restore(tmp_path / "saved"), model.restore(str(tmp_path / "saved"), page_tokens=16)):
        again.decode_steps(20)
        assert again.tokens() == session.tokens()
    with pytest.raises(cf.InvalidFileError):
        model.restore(saved[:-1])
    with pytest.raises(cf.IoError, match="nowhere"):
        model.restore(tmp_path / "nowhere")


# ---- Sampling


def test_samplers(session):
    assert session.sampler == cf.Sampler()
    session.sampler = cf.Sampler(temperature=2.0, seed=7, logit_biases={65: 30.0, 66: 30.0}, stop_tokens=(66,))
    session.prefill(PROMPT)
    step = session.decode_steps(200)
    assert step.stopped and step.token == 66 and set(session.tokens(len(PROMPT))) <= {65, 66}
    for wrong, words in ((dict(temperature=-1), "temperature"), (dict(top_k=2**40), "top_k"), (dict(seed=-1), "seed"), (dict(logit_biases={999: 1}), "999")):
        with pytest.raises(cf.InvalidArgumentError, match=words):
            session.sampler = cf.Sampler(**wrong)
    assert session.sampler.seed == 7
    allowed = np.zeros(256, bool)
    allowed[[3, 200]] = True
    session.set_allowed_tokens(allowed)
    assert {session.decode_step().token for _ in range(30)} == {3, 200}
    for wrong in (allowed[:255], [allowed], np.zeros(256)):
        with pytest.raises(cf.InvalidArgumentError):
            session.set_allowed_tokens(wrong)
    session.set_allowed_tokens(None)
    assert session.decode_step().token in (65, 66)


def test_sampling_of_ones_own_logits(session):
    session.sampler = sampler = cf.Sampler(temperature=1.3, top_k=40, seed=11, repetition_penalty=1.2)
    session.prefill(PROMPT)
    for _ in range(10):
        history = session.tokens()
        step = session.decode_step(logits=True)
        assert step.token == cf.sample_logits(step.logits[0], step.position, sampler, history=history)
    assert cf.sample_logits([0, 1, 0.5], 0) == 1 and cf.sample_logits([0, 1, 0.5], 0, allowed=[1, 0, 1]) == 2
    with pytest.raises(cf.InvalidArgumentError, match="2 truth values"):
        cf.sample_logits([0, 1, 0.5], 0, allowed=[1, 0])
    with pytest.raises(cf.NoTokenAllowedError):
        cf.sample_logits([0.0], 0, cf.Sampler(logit_biases={0: -np.inf}))


# ---- Lifetimes


def test_close(context, model):
    with model.session(capacity_tokens=10) as session:
        session.prefill([1])
    assert session.closed
    session.close()
    for call in (session.decode_step, session.wait, session.tokens, session.save, lambda: session.info, lambda: session.fork(0)):
        with pytest.raises(cf.InvalidArgumentError, match="this Session is closed"):
            call()
    with pytest.raises(cf.InvalidArgumentError, match="closed"):
        cf.decode_batch([session])


def test_memory_goes_with_the_last_reference(context, model):
    gc.collect()
    before = context.info.allocated_bytes
    session = model.session(capacity_tokens=100)
    fork = session.fork(0, reserve=False)
    assert context.info.allocated_bytes > before
    session.close()
    del fork
    gc.collect()
    assert context.info.allocated_bytes == before
    for _ in range(3):
        with pytest.raises(cf.InvalidArgumentError):
            model.session(capacity_tokens=-1)
    assert context.info.allocated_bytes == before


def test_children_outlive_their_parents():
    """So does what they call back."""
    messages = []
    context = cf.Context(DEVICE, log=lambda level, message: messages.append(message))
    model = cf.Model.from_pretrained(DEMO, context)
    context.close()
    del context
    gc.collect()
    session = model.session(capacity_tokens=2000)
    assert any("max_position_embeddings" in message for message in messages)
    model.close()
    del model
    gc.collect()
    session.prefill(PROMPT)
    assert session.decode_step().token == ANSWER[1]
    del session
    gc.collect()


def test_contexts():
    context = cf.Context("cpu", cpu_threads=2, cpu_isa="baseline")
    assert (context.info.cpu_threads, context.info.cpu_isa, context.device) == (2, cf.CpuIsa.BASELINE, "cpu")
    for wrong, words in ((dict(cpu_threads=-1), "cpu_threads is -1"), (dict(cpu_threads=2**40), "cpu_threads is 1099"), (dict(cpu_isa="mmx"), "cpu_isa is 'mmx'")):
        with pytest.raises(cf.InvalidArgumentError, match=words):
            cf.Context("cpu", **wrong)
    with pytest.raises(cf.InvalidArgumentError, match="layer is 9"):
        cf.Model.from_config(cf.ModelConfig.read(DEMO), context).load_layer(9, {})
    assert "layer is 9" in context.last_error


def test_log_goes_to_logging(caplog):
    with caplog.at_level("INFO", logger="clusterfusion"):
        model = cf.Model.from_pretrained(DEMO, DEVICE)
        model.session(capacity_tokens=1025)
    assert any(record.levelname == "WARNING" and "1025" in record.message for record in caplog.records)


def test_rows_whose_logits_are_not_finite(context, tmp_path):
    """Whether logits are asked for, or only tokens, of which a device tells nothing else: the same error, and nothing was done."""
    variant = VARIANTS["neox"]
    tensors = weights.tensors(variant)
    tensors[weights.embedding_name(variant)].data[7, 3] = np.inf
    model = cf.Model.from_pretrained(write_checkpoint(variant, tmp_path / "bad", tensors=tensors), context)
    session, other = model.session(capacity_tokens=64), model.session(capacity_tokens=64)
    for each in (session, other):
        each.prefill([1, 2, 3])
    for wanted in ({}, {"logits": True}):
        with pytest.raises(cf.NonfiniteLogitsError, match="the logit of token 0 for position 5 is not finite"):
            session.decode_positions([4, 7, 6], **wanted)
        with pytest.raises(cf.BatchError, match=r"sessions\[1\]: the logit of token 0 for position 4") as caught:
            cf.decode_batch([other, session], [5, 7], **wanted)
        assert [error is None for error in caught.value.step.errors] == [True, False] and session.position == 3
        assert session.decode_positions([4, 5]).position == 5 and session.truncate(3).position == 3


# ---- Cancellation, Ctrl-C, threads


def test_cancellation(session):
    flag = cf.Cancellation()
    session.prefill(PROMPT, cancellation=flag)
    assert not flag.requested
    flag.request()
    assert flag.requested
    with pytest.raises(cf.CancelledError):
        session.decode_steps(5, cancellation=flag)
    with pytest.raises(cf.CancelledError):
        cf.Model.from_pretrained(DEMO, DEVICE, cancellation=flag)
    flag.reset()
    assert session.decode_steps(5, cancellation=flag).n_steps == 5


def ctrl_c(*_):
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_ends_a_prompt(session):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        session.prefill([1] * 900, progress=lambda done, total: (seen.append((done, total)), ctrl_c()))
    assert len(seen) == 1 and 0 < seen[0][0] <= seen[0][1] == 900 and session.position == 0
    assert session.prefill(PROMPT).token == ANSWER[0]


def test_ctrl_c_keeps_finished_steps(session):
    session.prefill(PROMPT)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        session.decode_steps(100, progress=lambda done, total: (seen.append(done), ctrl_c()))
    assert len(seen) == 1 and seen[0] < 100 and session.position == len(PROMPT) + seen[0]
    made = session.tokens(len(PROMPT))
    assert made[:7] == list(ANSWER)[: len(made)]
    session.truncate(len(PROMPT))
    assert session.decode_step().token == ANSWER[1]


@pytest.mark.skipif(DEVICE != "cpu", reason="on CUDA it takes effect when the steps are done")
def test_ctrl_c_without_a_progress_function(model):
    session = model.session(capacity_tokens=100_000, reserve=False, page_tokens=256)
    session.prefill(PROMPT)
    timer = threading.Timer(0.2, ctrl_c_from_outside)
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        session.decode_steps(90_000)
    assert time.monotonic() - start < 5
    position = session.position
    assert len(PROMPT) < position < 90_000 and session.decode_step().position == position + 1


def ctrl_c_from_outside():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_ctrl_c_ends_loading():
    with pytest.raises(KeyboardInterrupt):
        cf.Model.from_pretrained(DEMO, DEVICE, progress=lambda done, total: done > 0 and ctrl_c())


def test_an_exception_of_a_progress_function(session, model):
    def fail(done, total):
        raise LookupError("mine")

    for call in (lambda: session.prefill(PROMPT, progress=fail), lambda: cf.Model.from_pretrained(DEMO, DEVICE, progress=fail), lambda: model.load_revision(DEMO, progress=fail)):
        with pytest.raises(LookupError, match="mine"):
            call()
    assert session.prefill(PROMPT).token == ANSWER[0]


def test_an_exception_of_a_log_function():
    def fail(level, message):
        raise LookupError(message)

    model = cf.Model.from_pretrained(DEMO, cf.Context(DEVICE, log=fail, log_level="warning"))
    before = model.context.info.allocated_bytes
    with pytest.raises(LookupError, match="1025"):
        model.session(capacity_tokens=1025)
    gc.collect()
    assert model.context.info.allocated_bytes == before  # the session was made all the same, and is given back
    model.session(capacity_tokens=1024).prefill(PROMPT)


def test_the_gil_is_released():
    session = cf.Model.from_pretrained(DEMO, cf.Context(DEVICE, cpu_threads=1)).session(capacity_tokens=1000)
    session.prefill(PROMPT)
    thread = threading.Thread(target=session.decode_steps, args=(900,))
    thread.start()
    start, turns = time.monotonic(), 0
    while thread.is_alive():
        time.sleep(0.001)
        turns += 1
    elapsed = time.monotonic() - start
    assert session.position == len(PROMPT) + 900
    assert turns > 5, f"{turns} turns in {elapsed} s"


@pytest.mark.skipif(DEVICE != "cpu", reason="its steps are too quick")
def test_a_session_in_two_threads(model):
    session = model.session(capacity_tokens=1000)
    session.prefill(PROMPT)
    flag, began = cf.Cancellation(), threading.Event()
    result = []

    def run():
        try:
            session.decode_steps(900, progress=lambda *_: began.set(), cancellation=flag)
        except cf.CancelledError:
            result.append("cancelled")

    thread = threading.Thread(target=run)
    thread.start()
    began.wait()
    with pytest.raises(cf.BusyError, match="in another call"):
        session.decode_step()
    assert len(session.tokens()) > len(PROMPT)
    session.close()  # takes effect when the call has ended
    flag.request()
    thread.join()
    assert result == ["cancelled"]


# ---- Taps


def test_tapped_sessions(session):
    tokens = weights.prompt(VARIANTS["neox"], n_tokens=9)
    config = session.model.config
    stream = cf.Tap.read("block_output", 2)
    with session.tapped(stream, cf.Tap.read("attention_heads", 0)) as (_, heads):
        session.prefill(tokens)
        assert stream.data.shape == (9, config.hidden_size) and heads.data.shape == (9, config.n_heads, config.head_dim)
        plain = session.decode_step(5, logits=True).logits
        assert stream.data.shape == (1, config.hidden_size)
        session.truncate(9)
        with session.tapped(cf.Tap.write("block_output", 2, stream.data)):
            np.testing.assert_array_equal(session.decode_step(5, logits=True).logits, plain)
            with pytest.raises(cf.InvalidArgumentError, match="is tapped"):
                cf.decode_batch([session])
        session.truncate(9)
        changed = session.decode_step(5, logits=True, taps=[cf.Tap.write("block_output", 2, stream.data * 0 + 1)]).logits
        assert np.abs(changed - plain).max() > 0.1
    before = stream.data
    session.decode_step()
    assert stream.data is before
    room = np.full((4, config.hidden_size), np.nan, np.float32)
    session.decode_step(taps=[cf.Tap.read("block_input", 0, into=room)])
    assert np.isfinite(room[0]).all() and np.isnan(room[1:]).all()


@pytest.mark.parametrize(
    "tap, words",
    [
        (cf.Tap.read("block", 0), r"taps\[0\].point is 'block'"), (cf.Tap.read("block_input", 4), r"layer is 4"),
        (cf.Tap.write("block_input", 0, np.zeros((2, 256), np.float32)), r"has shape \[2, 256\], expected \[1, 256\] at BLOCK_INPUT"),
        (cf.Tap.write("mlp_activation", 0, np.zeros((1, 256), np.float32)), r"expected \[1, 1024\]"),
        (cf.Tap.write("block_input", 0, np.zeros((1, 256))), "is of F64"), (cf.Tap.write("block_input", 0, None), "is NoneType"),
        (cf.Tap.read("block_input", 0, into=np.zeros((0, 256), np.float32)), "has shape"), ("tap", "is str, expected a Tap"),
    ],
)  # fmt: skip
def test_taps_that_cannot_be(session, tap, words):
    with pytest.raises(cf.InvalidArgumentError, match=words):
        session.decode_step(1, taps=[tap])
    assert session.position == 0


# ---- Graphs


def test_graphs(session):
    session.prefill(PROMPT)
    if DEVICE == "cpu":
        with pytest.raises(cf.UnsupportedError, match="needs a CUDA device"):
            session.capture()
        return
    with session.capture(2) as graph:
        assert graph.info.n_steps == 2 and graph.info.n_nodes > 0
        for _ in range(2):
            graph.launch()
        assert session.wait().n_steps == 4 and session.tokens(len(PROMPT)) == list(ANSWER[:5])
