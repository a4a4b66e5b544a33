"""The demo checkpoint: greedy tokens identical to transformers', and its held-out questions answered."""

import hashlib
import json
from pathlib import Path

import pytest

import demo_prompts
from decoder import Session, load_model

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "examples" / "demo_model"
RECORD = ROOT / "tests" / "golden" / "demo_tokens.json"

if not DEMO.is_dir():
    pytest.skip("examples/demo_model is not there", allow_module_level=True)
CASES = json.loads(RECORD.read_text())["cases"]


@pytest.fixture(scope="module")
def model():
    return load_model(DEMO)


def test_tokens_are_of_this_checkpoint():
    assert json.loads(RECORD.read_text())["fingerprint"] == demo_prompts.fingerprint(DEMO), "the checkpoint has changed: run make_goldens.py --demo"


@pytest.mark.parametrize("case", CASES, ids=[hashlib.sha256(case["prompt"].encode()).hexdigest()[:8] for case in CASES])
def test_greedy_tokens(model, case):
    assert len(case["tokens"]) >= 256
    prompt = list(case["prompt"].encode())
    session = Session(model)
    session.prefill(prompt)
    session.decode_steps(len(case["tokens"]) - 1)  # the first is already pending
    assert session.tokens()[len(prompt) :] == case["tokens"]


def test_held_out_questions(model):
    cases = demo_prompts.held_out(DEMO)
    right, wrong = 0, []
    for case in cases:
        prompt, answer = list(case["prompt"].encode()), list(case["answer"].encode())
        session = Session(model)
        session.prefill(prompt)
        if len(answer) > 1:
            session.decode_steps(len(answer) - 1)
        if session.tokens()[len(prompt) :] == answer:
            right += 1
        else:
            wrong.append(case["prompt"])
    assert len(cases) >= 100
    assert right >= 0.95 * len(cases), wrong
