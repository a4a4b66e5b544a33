"""Runs the suites on a GPU, in parts of at most a few minutes, keeps their rows, and merges them into one Markdown table.

    python3 tests/gpu/prove.py --build build/release --results DIR [--part golden --part bits ...]   all parts without --part
    python3 tests/gpu/prove.py --results DIR --merge tests/bench/results/DATE-proofs.md

Parts that force a configuration which only a build of its own has need that build beside BUILD, under the name of its preset: build/cuda-as-80.
Each part leaves DIR/PART.jsonl (what ran it, then its rows) and DIR/PART.txt (all it said). Exits non-zero if a part failed; the merged table has
whatever DIR holds. A skipped or unjudged case is counted apart from those that are ok.
"""

import argparse
import ast
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = ("memcheck", "initcheck", "racecheck", "synccheck")
SM_120 = ["--multiprocessors", "170", "--shared-memory-bytes", "101376"]  # what a CTA has there
PARTS = {  # arguments; a script in Python gets --library, a name alone is a program in tests/
    "golden": ["golden_proof.py"],
    "bits": ["bits_proof.py"],
    **{f"bits-{shape}": ["bits_proof.py", "--shapes", shape, "--repeats", "200"] for shape in ("pythia-410m", "llama-3.2-1b")},
    "golden-99k": ["golden_proof.py", *SM_120[2:]],
    "bits-99k": ["bits_proof.py", *SM_120[2:], "--shapes", "small,wide", "--same-as", "BUILD"],
    "golden-as-80": ["golden_proof.py"],
    "bits-as-80": ["bits_proof.py", "--code", "8.0", "--shapes", "small,wide", "--same-as", "BUILD"],
    "golden-170-sms": ["golden_proof.py", *SM_120],
    "bits-170-sms": ["bits_proof.py", *SM_120, "--shapes", "small,wide", "--same-as", "BUILD"],
    "bits-delays": ["bits_proof.py", "--delays", "--shapes", "small,wide", "--repeats", "200", "--same-as", "BUILD"],
    "bits-as-80-delays": ["bits_proof.py", "--delays", "--code", "8.0", "--repeats", "200", "--same-as", "BUILD"],
    "load": ["load_proof.py"],
    "faults": ["fault_proof.py"],
    "streams": ["stream_proof.py"],
    "decode": ["decode_proof.py"],
    "decode-published": ["decode_proof.py", "--shapes", "published", "--time"],
    "blocks": ["block_proof.py", "--small"],
    "block-rows": ["block_rows"],
    "python": ["pytest"],  # the suites of tests/python, with CUDA in place of the CPU
    **{tool: ["sanitize.sh", tool] for tool in TOOLS},
}
PRESETS = {"as-80": "cuda-as-80", "170-sms": "cuda-two-ctas", "delays": "cuda-delays", "as-80-delays": "cuda-as-80-delays"}  # of the build of parts so called
WITH_ROWS = ("golden_proof.py", "bits_proof.py", "fault_proof.py", "stream_proof.py", "decode_proof.py", "load_proof.py")
NO_NUMBERS = ("suite", "case", "result", "failures", "checks", "s")


def said_by(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE).stdout.strip()
    except OSError:
        return ""


def command_of(part, arguments, rows):
    script, *rest = PARTS[part]
    if script == "sanitize.sh":
        return [str(HERE / script), str(arguments.build / "tests"), str(arguments.results / f"{part}-reports"), *rest], {"ROWS": str(rows)}
    if script == "pytest":
        library = str((arguments.build / "libclusterfusion.so").resolve())
        return ([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={rows}", str(HERE.parent / "python")],
                {"CLUSTERFUSION_LIBRARY": library, "CLUSTERFUSION_DEVICE": "cuda"})
    if "." not in script:
        return [str(arguments.build / "tests" / script), *rest], {}
    preset = PRESETS.get(part.partition("-")[2])
    library, own = (str(build / "libclusterfusion.so") for build in (arguments.build, arguments.build.parent / preset if preset else arguments.build))
    command = [sys.executable, str(HERE / script), "--library", own, *(library if word == "BUILD" else word for word in rest)]
    return command + (["--rows", str(rows)] if script in WITH_ROWS else []), {}


def rows_of(part, text, rows_file, result):
    """The rows that a script wrote, or what it printed as dictionaries, with this result; a row for each of pytest's files."""
    if PARTS[part] == ["pytest"] and rows_file.exists():
        return rows_of_pytest(part, rows_file)
    if rows_file.exists():
        return [json.loads(line) for line in rows_file.read_text().splitlines()]
    found = []
    for line in re.findall(r"^(\{.*?\})", text, re.M):
        row = ast.literal_eval(line)
        found.append({"suite": part, "case": row.pop("shape", "?"), "result": result, **row})
    return found


def rows_of_pytest(part, file):
    rows = {}
    for case in xml.etree.ElementTree.parse(file).iter("testcase"):
        row = rows.setdefault(case.get("classname"), {"suite": part, "case": case.get("classname"), "passed": 0, "failed": 0, "skipped": 0, "failures": []})
        kinds = {child.tag for child in case}
        kind = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        row[kind] += 1
        if kind == "failed":
            row["failures"].append(case.get("name"))
    return [{**row, "result": "failed" if row["failed"] else "ok" if row["passed"] else "skipped"} for row in rows.values()]


def run(part, arguments):
    rows_file = arguments.results / f"{part}.rows"
    rows_file.unlink(missing_ok=True)
    command, environment = command_of(part, arguments, rows_file)
    start, lines = time.monotonic(), []
    print(f"== {part}", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                               start_new_session=True)
    limit = threading.Timer(arguments.limit, os.killpg, (process.pid, signal.SIGKILL))
    limit.start()
    with open(arguments.results / f"{part}.txt", "w") as log:
        for line in process.stdout:
            lines.append(line)
            print(line, end="", file=log, flush=True)
            if not arguments.quiet:
                print(line, end="", flush=True)
    status, text = process.wait(), "".join(lines)
    limit.cancel()
    rows = rows_of(part, text, rows_file, "ok" if status == 0 else "see the log")
    rows_file.unlink(missing_ok=True)
    settings = [f"{name}={os.environ[name]!r}" for name in ("HEAD_DIMS", "LIMIT_S") if name in os.environ and part in TOOLS]
    about = {"part": part, "date": datetime.date.today().isoformat(),
             "gpu": said_by(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]),
             "commit": arguments.commit or said_by(["git", "rev-parse", "--short", "HEAD"]),
             "command": " ".join([*settings, *PARTS[part]]), "status": status, "s": round(time.monotonic() - start, 1),
             "last": lines[-1].strip() if lines else ""}
    (arguments.results / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [about, *rows]))
    print(f"== {part}: {'passed' if status == 0 else f'FAILED ({status})'}, {about['s']} s, {about['last']}", flush=True)
    return status == 0


def number(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def merge(arguments):
    parts = []
    for name in PARTS:
        file = arguments.results / f"{name}.jsonl"
        if file.exists():
            about, *rows = [json.loads(line) for line in file.read_text().splitlines()]
            parts.append((about, rows))
    one = lambda key: ", ".join(sorted({about[key] or "?" for about, _ in parts}))  # noqa: E731
    lines = ["# What the suites on a GPU showed", "", f"{one('date')}, {one('gpu')}, `tests/gpu/prove.py`.", "",
             "| part | command | commit | cases | ok | failed | skipped or not judged | s |", "|---|---|---|---|---|---|---|---|"]
    for about, rows in parts:
        ok = sum(row["result"] == "ok" for row in rows)
        failed = sum(row["result"].startswith("failed") for row in rows)
        other = sum(row["result"].startswith(("skipped", "not judged", "misjudged")) for row in rows)
        verdict = "" if about["status"] == 0 else " **failed**"
        lines.append(f"| {about['part']}{verdict} | `{about['command']}` | {about['commit'] or '?'} | {len(rows)} | {ok} | {failed} | {other} | {about['s']} |")
    for about, rows in parts:
        lines += ["", f"## {about['part']}", "", about["last"], "", "| case | result | |", "|---|---|---|"]
        for row in rows:
            numbers = ", ".join(f"{key} {number(value)}" for key, value in row.items() if key not in NO_NUMBERS)
            why = "; ".join(row.get("failures", [])[:2])
            lines.append(f"| {row['case']} | {row['result']}{': ' + why if why else ''} | {numbers} |".replace("\n", " "))
    arguments.merge.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, help="where libclusterfusion.so and tests/ were built")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--merge", type=Path, metavar="FILE", help="write the table; without --build nothing is run")
    parser.add_argument("--commit", default="", help="what was built, where this is no checkout")
    parser.add_argument("--limit", type=float, default=900, metavar="S", help="seconds for a part")
    parser.add_argument("--quiet", action="store_true", help="only a line per part")
    arguments = parser.parse_args()
    arguments.results.mkdir(parents=True, exist_ok=True)
    passed = [run(part, arguments) for part in arguments.part or PARTS] if arguments.build else []
    if arguments.merge:
        merge(arguments)
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
