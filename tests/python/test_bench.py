"""The benchmark's own mechanics (tests/bench), on the CPU backend: a run that goes on, a kind that fails or takes too long, tables and plots from lines alone.
What it measures means nothing here."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
sys.path.insert(0, str(BENCH))
import bench  # noqa: E402
import lines  # noqa: E402
import phases  # noqa: E402
import quality  # noqa: E402
import summary  # noqa: E402

LIBRARY = Path(os.environ["CLUSTERFUSION_LIBRARY"]) if "CLUSTERFUSION_LIBRARY" in os.environ else None
needs_library = pytest.mark.skipif(LIBRARY is None, reason="CLUSTERFUSION_LIBRARY is not set")


def command(results, *more):
    quick = [sys.executable, BENCH / "bench.py", "--build", LIBRARY.parent, "--quick", "--device", "cpu", "--results", results]
    return subprocess.run([*quick, *more], capture_output=True, text=True)


def run_in_process(monkeypatch, tmp_path, *more):
    results = tmp_path / "results.jsonl"
    monkeypatch.setattr(sys, "argv", ["bench.py", "--build", str(LIBRARY.parent), "--quick", "--device", "cpu", "--results", str(results), *more])
    with pytest.raises(SystemExit) as end:
        bench.main()
    return end.value.code, lines.read(results)


@needs_library
def test_a_run_is_complete_and_goes_on(tmp_path):
    results = tmp_path / "results.jsonl"
    kinds = ["floor", "contexts", "rows", "loading", "samplers", "modes"]
    first = command(results, "--kinds", "contexts,floor")
    assert first.returncode == 0, first.stderr
    rows = lines.read(results)
    assert [row["of"] for row in rows if row["kind"] == "done"] == ["floor", "contexts"]
    assert {row["context"] for row in rows if row["kind"] == "contexts"} == {32, 96}
    second = command(results, "--kinds", ",".join(kinds))
    assert second.returncode == 0, second.stderr
    rows = lines.read(results)
    assert [row["of"] for row in rows if row["kind"] == "done"] == kinds  # each once
    assert "[####" in second.stderr and "loading" in second.stderr
    for title in ("Floor", "A step at held contexts", "Several rows at once", "Loading", "Samplers", "Launches"):
        assert f"## {title}" in second.stdout


@needs_library
def test_a_kind_that_fails_leaves_its_rows_and_the_others(monkeypatch, tmp_path):
    def broken(subject):
        yield {"who": "x", "context": 1, "what": "a step", "n": 1, "ms": 1.0}
        raise ValueError("a reason\nand more")

    monkeypatch.setitem(bench.KINDS, "rows", (broken, ""))
    status, rows = run_in_process(monkeypatch, tmp_path, "--kinds", "rows,samplers")
    assert status == 1
    assert [row["ms"] for row in rows if row["kind"] == "rows"] == [1.0]
    assert [(row["of"], row["sentence"]) for row in rows if row["kind"] == "error"] == [("rows", "ValueError: a reason")]
    assert [row["of"] for row in rows if row["kind"] == "done"] == ["samplers"]
    monkeypatch.undo()
    status, rows = run_in_process(monkeypatch, tmp_path, "--kinds", "rows,samplers")  # does the one that was not done
    assert status == 0
    assert [row["of"] for row in rows if row["kind"] == "done"] == ["samplers", "rows"]


@needs_library
def test_a_kind_that_measures_nothing_has_failed(monkeypatch, tmp_path):
    monkeypatch.setitem(bench.KINDS, "rows", (lambda subject: iter(()), ""))
    status, rows = run_in_process(monkeypatch, tmp_path, "--kinds", "rows")
    assert status == 1 and [row["sentence"] for row in rows if row["kind"] == "error"] == ["RuntimeError: nothing was measured"]


@needs_library
def test_a_kind_that_takes_too_long_is_stopped(monkeypatch, tmp_path):
    def slow(subject):
        yield {"who": "x", "context": 1, "what": "a step", "n": 1, "ms": 1.0}
        time.sleep(20)

    monkeypatch.setitem(bench.KINDS, "rows", (slow, ""))
    start = time.monotonic()
    status, rows = run_in_process(monkeypatch, tmp_path, "--kinds", "rows,samplers", "--limit", "0.5")
    assert status == 1 and time.monotonic() - start < 10
    assert [row["kind"] for row in rows if row["kind"] != "samplers"] == ["about", "rows", "error", "done"]


def test_no_row_is_cut_when_time_is_over():
    kept = []

    def rows():
        yield 1
        yield 2

    with pytest.raises(bench.OutOfTime):
        for row in bench.limited(0.1, rows):
            time.sleep(0.3)  # the caller keeps the row meanwhile
            kept.append(row)
    assert kept == [1]


def test_a_line_that_was_cut_off(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps({"run": "a", "kind": "done", "of": "rows", "shape": "demo"}) + '\n{"run": "a", "ki')
    again = lines.Lines("b", file)
    assert again.done("rows", "demo") and not again.done("rows", "other")
    again.add("x", "demo", "who", n=1)
    assert [row["kind"] for row in lines.read(file)] == ["done", "x"]


def test_phases_by_the_order_of_launches():
    class Config:
        n_layers, parallel_residual = 3, 1

    names = phases.names_of(Config)
    assert len(names) == 4 * 3 + 3
    Config.parallel_residual = 0
    assert len(phases.names_of(Config)) == 6 * 3 + 3
    first, second = phases.split(names, list(range(15)) + [1000] * 15)
    assert first["embedding"] == 0 and first["draw"] == pytest.approx(0.014) and first["O, residuals"] == pytest.approx((4 + 8 + 12) / 1e3)
    assert second["Q K V, MLP-up"] == pytest.approx(3)
    for wrong in (14, 0):
        with pytest.raises(RuntimeError, match=f"{wrong} launches"):
            phases.split(names, [1] * wrong)


def about(run, gpu):
    return {"run": run, "kind": "about", "shape": "", "who": "", "date": "d", "gpu": gpu, "cpu": "c", "commit": "", "torch": "", "transformers": "",
            "command": "bench.py"}


def test_ratios_are_to_the_floor_of_the_same_run_or_card():
    step = {"kind": "contexts", "shape": "s", "who": "clusterfusion", "context": 128, "way": "32 in a call", "bytes_ratio": 1.5}
    floor = {"kind": "floor", "shape": "s", "who": "bench_floor", "weight_bytes": 1, "floor_tb_per_s": 1.0}
    rows = [about("a", "H100"), {"run": "a", **floor, "floor_ms": 2.0}, {"run": "a", **step, "ms": 6.0},
            about("b", "H200"), {"run": "b", **floor, "floor_ms": 1.0}, {"run": "b", **step, "ms": 6.0},
            about("e", "H100"), {"run": "e", **floor, "floor_ms": 4.0}, about("c", "H100"), {"run": "c", **step, "ms": 7.5}, about("d", "B200"),
            {"run": "d", **step, "ms": 1.0}]
    results = summary.Results(rows)
    assert [results.over_floor(row) for row in rows if row["kind"] == "contexts"] == ["2.000", "4.000", "1.250", ""]
    assert [row["ms"] for row in results.of("contexts", "context", "way")] == [7.5, 6.0, 1.0]  # the last of each card
    assert "| s | 128 | clusterfusion, 32 in a call | 7.5000 | 1.250 |" in summary.table(rows)


def test_quality_sees_what_differs():
    import numpy as np

    reference = np.random.Generator(np.random.Philox(1)).standard_normal((4, 50)).astype(np.float32)
    other = reference.copy()
    other[2] = -other[2]
    tokens = [1, 2, 3, 4]
    same, differs = quality.Judge(tokens, reference), quality.Judge(tokens, reference)
    for i in range(4):
        same.add(reference[i])
        differs.add(other[i])
    assert same.numbers() | {"perplexity": 0} == {"tokens": 4, "perplexity": 0, "same_likeliest": 1, "overlap_5": 1, "overlap_10": 1, "logits_mae": 0, "kl": 0}
    numbers = differs.numbers()
    assert numbers["same_likeliest"] == 0.75 and numbers["overlap_10"] < 1 and numbers["kl"] > 0.1 and numbers["logits_mae"] > 0.1
    expected = np.exp(-np.mean([reference[i, tokens[i + 1]] - np.log(np.exp(reference[i].astype(np.float64)).sum()) for i in range(3)]))
    assert same.numbers()["perplexity"] == pytest.approx(expected)
    with pytest.raises(RuntimeError, match="not finite"):
        same.n = 0
        same.add(np.full(50, np.nan, np.float32))


@needs_library
def test_a_text_of_token_ids(monkeypatch, tmp_path):
    (tmp_path / "text.ids").write_text("[72, 101, 108, 108, 111]")
    results = tmp_path / "own.jsonl"
    run = subprocess.run([sys.executable, BENCH / "bench.py", "--build", LIBRARY.parent, "--device", "cpu", "--checkpoint", quality.DEMO, "--text",
                          tmp_path / "text.ids",
                          "--kinds", "quality", "--results", results], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    row = next(row for row in lines.read(results) if row["kind"] == "quality" and "perplexity" in row)
    assert (row["shape"], row["text"], row["tokens"], row["repeated"]) == ("demo_model", "own", 5, 10)


@needs_library
@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_plots_of_lines(tmp_path):
    results = tmp_path / "results.jsonl"
    assert command(results, "--kinds", "contexts,floor,modes").returncode == 0
    with open(results, "a") as file:
        for phase in phases.PARALLEL:
            print(json.dumps({"run": lines.read(results)[0]["run"], "kind": "phases", "shape": "demo", "who": "clusterfusion", "context": 32,
                              "phase": phase, "ms": 0.1}), file=file)
    run = subprocess.run([sys.executable, BENCH / "plots.py", results, "--folder", tmp_path / "plots"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert {file.name for file in (tmp_path / "plots").iterdir()} == {"demo-context.svg", "share.svg", "demo-ablation.svg", "demo-phases.svg"}
