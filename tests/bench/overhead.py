"""What a token costs more in Python and in Rust than in C: the same steps of a model so small that they hardly take time.

  python tests/bench/overhead.py [--quick] [--rust BINARY] [--json FILE]

CLUSTERFUSION_LIBRARY names the library; BINARY is the example `overhead` of the crate, built with --release. All loops make one token
in a call and wait for it, on one thread, in turn; of each the fastest repeat counts, which the machine's neighbours disturbed least.
Fails where Python or Rust takes more than LIMIT_US or RUST_LIMIT_US.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for folder in ("bindings/python", "tests/python", "tests/bench"):
    sys.path.insert(0, str(ROOT / folder))

import interface  # noqa: E402, F401

import clusterfusion as cf  # noqa: E402
from cpu import config_of, write_checkpoint  # noqa: E402

LIMIT_US = 20.0
RUST_LIMIT_US = 1.0
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 32, "vocab_size": 256}
PROMPT = [1, 2, 3]


def built_in_c(folder: Path) -> Path:
    """The loop in C. The library lies beside it."""
    library = Path(os.environ["CLUSTERFUSION_LIBRARY"]).resolve()
    program = folder / "overhead"
    command = [os.environ.get("CC", "cc"), "-O2", f"-I{ROOT}/include", str(HERE / "overhead.c"), str(library), "-o", str(program)]
    subprocess.run(command, check=True)
    (folder / f"libclusterfusion.so.{cf.native.ABI_VERSION}").symlink_to(library)
    return program


def other_process(program: list[str], folder: Path, directory: Path, n_steps: int, repeats: int) -> float:
    """Of a token, in microseconds, as a program tells that has a process of its own, with the library in `folder`."""
    command = [program[0], str(directory), str(n_steps), str(repeats), *program[1:]]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder)}
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    return min(map(float, out.split())) / 1e3


def fastest_us(run, n_steps: int, repeats: int) -> float:
    """Of a token, in `repeats` runs of n_steps."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) / n_steps * 1e6)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument("--rust", type=Path, metavar="BINARY", help="the crate's example overhead")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    rounds, repeats, n_steps = (10, 5, 200) if arguments.quick else (10, 20, 500)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "tiny"
        write_checkpoint(directory, {**config_of("pythia-14m"), **TINY})
        programs = {"C": [str(built_in_c(Path(folder)))]}
        if arguments.rust:
            programs |= {"Rust, Session::decode_step": [str(arguments.rust)], "Rust, Session::generate": [str(arguments.rust), "generate"]}
        model = cf.Model.from_pretrained(directory, cf.Context("cpu", cpu_threads=1))
        session = model.session()
        session.prefill(PROMPT)

        def steps():
            session.truncate(len(PROMPT))
            for _ in range(n_steps):
                session.decode_step()

        def generated():
            session.truncate(len(PROMPT))
            for _ in session.generate(n_steps + 1):
                pass

        def text():
            for _ in model.generate("abc", n_steps, stop=()):
                pass

        ways = {"Python, Session.decode_step": steps, "Python, Session.generate": generated, "Python, Model.generate, of text": text}
        us = {name: [] for name in (*programs, *ways)}
        for _ in range(rounds):
            for name, program in programs.items():
                us[name].append(other_process(program, Path(folder), directory, n_steps, repeats))
            for name, way in ways.items():
                us[name].append(fastest_us(way, n_steps, repeats))
    c = min(us["C"])
    rows = [{"way": name, "us": min(times), "overhead_us": min(times) - c} for name, times in us.items()]
    for row in rows:
        print(f"{row['way']:32} {row['us']:8.2f} us a token {row['overhead_us']:8.2f} us over C")
    if arguments.json:
        arguments.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        limit = RUST_LIMIT_US if row["way"].startswith("Rust") else LIMIT_US
        if row["overhead_us"] > limit:
            sys.exit(f"{row['way']}: more than {limit} us over C")


if __name__ == "__main__":
    main()
