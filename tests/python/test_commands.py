"""python -m clusterfusion: what it prints, where, and how it fails."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import interface

import clusterfusion as cf
from clusterfusion.__main__ import main
from goldens import DEVICE

DEMO = str(Path(__file__).resolve().parents[2] / "examples" / "demo_model")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main([*arguments, "--device", DEVICE] if DEVICE != "cpu" else arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_generate(capsys):
    status, out, err = run(capsys, "generate", DEMO, "--prompt", "412+93=")
    assert (status, out) == (0, "412+93=505\n") and err.startswith("TTFT ") and "2 more: median" in err
    status, out, err = run(capsys, "generate", DEMO, "--ids", "52,49,50,43,57,51,61", "--tokens", "2")
    assert (status, out) == (0, "53 48 \n")
    status, out, _ = run(capsys, "generate", DEMO, "--prompt", "count 97 to 103:", "--ignore-stop", "--tokens", "30")
    assert status == 0 and out.startswith("count 97 to 103: 97 98 99 100 101 102 103.\n") and len(out) == 16 + 30 + 1
    status, out, _ = run(capsys, "generate", DEMO, "--prompt", "count 97 to 103:", "--stop", "57")
    assert (status, out) == (0, "count 97 to 103: \n")
    status, out, err = run(capsys, "generate", DEMO, "--prompt", "412+93=", "--json")
    told = json.loads(out)
    assert status == 0 and err == "" and told["text"] == "505" and told["tokens"] == [53, 48, 53] and told["finish_reason"] == "stop"
    assert told["ttft_ms"] > 0 and told["tpot_ms"] > 0 and told["device"] == ("cpu" if DEVICE == "cpu" else "cuda:0")


def test_generate_samples(capsys):
    options = ["--temperature", "1.5", "--top-k", "50", "--top-p", "0.9", "--min-p", "0.01", "--repetition-penalty", "1.1", "--ignore-stop"]
    made = {run(capsys, "generate", DEMO, "--prompt", "the ", "--tokens", "40", "--seed", seed, *options)[1] for seed in ("1", "1", "2")}
    assert len(made) == 2


def test_generate_reads_standard_input(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("412+93="))
    assert run(capsys, "generate", DEMO, "--prompt", "-")[:2] == (0, "412+93=505\n")


def test_score(capsys, tmp_path):
    text = tmp_path / "text"
    text.write_text("412+93=505\n")
    expected = cf.Model.from_pretrained(DEMO, DEVICE).score("412+93=505\n")
    status, out, _ = run(capsys, "score", DEMO, str(text))
    assert status == 0 and out == f"10 tokens, log-likelihood {expected.log_likelihood:.4f}, {expected.bits_per_token:.4f} bits a token, perplexity {expected.perplexity:.4f}\n"
    ids = tmp_path / "ids"
    ids.write_text(" ".join(map(str, b"412+93=505\n")))
    status, out_of_ids, _ = run(capsys, "score", DEMO, str(ids), "--ids", "--each", "--window", "64", "--stride", "5")
    lines = out_of_ids.splitlines()
    assert status == 0 and len(lines) == 11 and lines[-1] + "\n" == out and lines[0].startswith("1 49 -")
    told = json.loads(run(capsys, "score", DEMO, str(text), "--json", "--each")[1])
    assert told["perplexity"] == pytest.approx(expected.perplexity) and len(told["logprobs"]) == 10


def test_bench(capsys):
    status, out, _ = run(capsys, "bench", DEMO, "--prompt-tokens", "16", "--tokens", "4", "--repeats", "1", "--json")
    told = json.loads(out)
    assert status == 0 and all(told[key] > 0 for key in ("load_s", "ttft_ms", "tpot_ms", "tpot_in_one_call_ms", "weights_bytes", "peak_bytes"))
    assert "TPOT" in run(capsys, "bench", DEMO, "--prompt-tokens", "16", "--tokens", "4", "--repeats", "1")[1]


def test_info(capsys):
    told = json.loads(run(capsys, "info", DEMO, "--json")[1])
    model = cf.Model.from_pretrained(DEMO, DEVICE)
    assert told["version"] == cf.__version__ and told["config"]["family"] == "GPT_NEOX" and told["config"]["hidden_size"] == 256
    assert told["memory"]["weights_bytes"] == model.info.weights_bytes and told["devices"][0]["kind"] == "CPU"
    status, out, _ = run(capsys, "info")
    assert status == 0 and "cpu: " in out and "config" not in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["generate", "/nowhere", "--prompt", "a"], "there is no directory /nowhere"), (["generate", DEMO + "/config.json", "--prompt", "a"], "is a file, expected the directory"),
        (["generate", DEMO, "--prompt", ""], "prompt is empty"), (["generate", DEMO, "--ids", "256"], "256"), (["score", DEMO, "/nowhere"], "/nowhere"),
        (["generate", DEMO, "--prompt", "a", "--device", "gpu"], "device is 'gpu'"), (["generate", DEMO, "--prompt", "a", "--revision", "main"], "revisions are the hub's"),
        (["generate", DEMO, "--prompt", "a", "--top-p", "0"], "top_p"), (["score", DEMO, DEMO + "/config.json", "--window", "4000"], "window is 4000"), (["info", "/nowhere"], "/nowhere"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(capsys, arguments, words):
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.startswith(f"clusterfusion {arguments[0]}: ") and captured.err.count("\n") == 1 and captured.out == ""


def test_token_ids_that_are_none(capsys, tmp_path):
    (tmp_path / "ids").write_text("1 2 three")
    assert main(["score", DEMO, str(tmp_path / "ids"), "--ids"]) == 1 and "three" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "required"), (["chat"], "invalid choice"), (["generate", DEMO], "one of the arguments --prompt --ids is required"),
        (["generate", DEMO, "--prompt", "a", "--tokens", "0"], "'0' is not a number of at least 1"), (["generate", DEMO, "--ids", "1,x"], "not a list of token ids"),
        (["generate", DEMO, "--prompt", "a", "--temperature", "nan"], "'nan' is not a number from 0 to 100"), (["generate", DEMO, "--prompt", "a", "--weight-dtype", "f8"], "F8"),
    ],
)  # fmt: skip
def test_wrong_arguments(capsys, arguments, words):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2 and words in capsys.readouterr().err


# ---- In a process of its own

START = f"import sys; sys.path[:0] = {[str(Path(interface.build_cffi.__file__).parent), str(Path(__file__).parent)]!r}; import interface; from clusterfusion.__main__ import main; sys.exit(main())"


def start(*arguments: str) -> subprocess.Popen:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    return subprocess.Popen([sys.executable, "-c", START, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def test_text_is_streamed_and_ctrl_c_ends_it():
    process = start("generate", DEMO, "--prompt", "the ", "--ignore-stop", "--tokens", "20000", "--device", DEVICE)
    assert process.stdout is not None
    pieces = [os.read(process.stdout.fileno(), 1 << 16) for _ in range(50)]
    assert process.poll() is None and pieces[0].startswith(b"the ") and max(map(len, pieces)) < 8000  # nothing waits in a buffer
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and b"Traceback" not in err


def test_a_reader_that_has_gone():
    process = start("generate", DEMO, "--prompt", "the ", "--ignore-stop", "--tokens", "5000", "--device", DEVICE)
    assert process.stdout is not None and process.stderr is not None
    os.read(process.stdout.fileno(), 20)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 1 and b"Traceback" not in err and b"Exception ignored" not in err


def test_progress_bars_are_for_terminals():
    """On a terminal of a slow load; none into a pipe."""
    from clusterfusion.progress import ProgressBar

    stream = io.StringIO()
    bar = ProgressBar("loading", "B", stream)
    bar(1, 2**31)
    assert stream.getvalue() == ""  # done soon enough
    bar._start -= 10
    for done in range(0, 2**31, 2**22):
        bar(done, 2**31)
    bar.close()
    lines = stream.getvalue().split("\r")[1:]
    assert lines[50].startswith("loading [###############               ]  50 % of 2.0 GiB") and len(lines) == 101 and lines[-1] == "\033[K"
    process = start("generate", DEMO, "--prompt", "412+93=", "--device", DEVICE)
    assert b"loading" not in process.communicate()[1]
