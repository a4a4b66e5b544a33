"""What decoding costs, beside what it could cost at least and what others take for it, in one command, on any GPU:

    python3 tests/bench/bench.py --build build/release --results FILE.jsonl [--shapes pythia-2.8b,...] [--kinds contexts,prompts,...]
    python3 tests/bench/bench.py --build build/release --results FILE.jsonl --checkpoint DIR [--text FILE]     a checkpoint of your own
    python3 tests/bench/bench.py --build build/release --quick --device cpu        the demo checkpoint, in seconds: is all of it alive?

Every number is a JSON line, written as it comes; table and plots are made of the lines of one or more such files (summary.py, plots.py). A kind that fails
leaves a row `error` with its sentence, the others go on, and the exit status is 1. The same command on the same file goes on with what is not done yet.
Checkpoints of published shapes have random weights. tests/bench/README.md says what each number means.

Kinds, of each shape:
"""

import argparse
import datetime
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "gpu"), str(HERE.parent / "golden")]
import bounds  # noqa: E402
import decoding  # noqa: E402
import fused  # noqa: E402
import made_models  # noqa: E402
import peers  # noqa: E402
import phases  # noqa: E402
import quality  # noqa: E402
import summary  # noqa: E402
from header import Library  # noqa: E402
from lines import Lines  # noqa: E402
from quality import DEMO  # noqa: E402
from subject import QUICK, Sizes, Subject, Unavailable  # noqa: E402

KINDS = {  # in this order: those that need transformers' fp16 model are neighbours
    "floor": (bounds.floor, "the least that a step can take: its weights streamed once; what ratios are to"),
    "contexts": (decoding.contexts, "a step at held contexts: 32 in a call, a graph replay each, as seen by a host that takes each token"),
    "rows": (decoding.rows, "up to eight rows at once: positions of a session, sessions"),
    "tokens": (decoding.tokens, "one text from a prompt of five tokens: time per token, set-up, the first token that transformers in fp32 would not choose"),
    "loading": (bounds.loading, "a checkpoint from the page cache onto the device; memory"),
    "samplers": (decoding.samplers, "what sampling costs"),
    "modes": (decoding.modes, "launch modes, direct and in graphs, by size of cluster"),
    "phases": (phases.phases, "where a step's time goes, by launches of one phase each"),
    "quality": (quality.quality, "agreement of the decode path with transformers in fp32, perplexity, repeatability"),
    "prompts": (bounds.prompts, "time to the first token, beside the matrix products alone and transformers"),
    "fused": (fused.fused, "parts of the library inside a transformers model"),
    "eager": (peers.eager, "transformers as it is"),
    "compiled": (peers.compiled, "transformers, compiled, with a static cache: takes minutes to compile"),
    "llama.cpp": (peers.llama_cpp, "llama-bench, where it is installed, on --gguf SHAPE=FILE"),
}
DEFAULT_SHAPES = ["pythia-410m", "llama-3.2-1b", "pythia-2.8b"]


class OutOfTime(Exception):
    pass


class Progress:
    """A bar on stderr: what is being measured, and how much of all is behind."""

    def __init__(self, total):
        self.total, self.at, self.start = total, 0, time.monotonic()

    def __call__(self, what):
        filled = 24 * self.at // max(1, self.total)
        print(f"[{'#' * filled}{'.' * (24 - filled)}] {self.at}/{self.total}  {time.monotonic() - self.start:4.0f} s  {what}", file=sys.stderr, flush=True)
        self.at += 1


def said_by(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=HERE).stdout.strip()
    except OSError:
        return ""


def versions():
    found = {"python": platform.python_version()}
    for package in ("torch", "transformers", "numpy"):
        try:
            from importlib.metadata import version

            found[package] = version(package)
        except Exception:  # not installed
            found[package] = ""
    return found


def about(lines, arguments, library, command):
    gpu = said_by("nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit",
                  "--format=csv,noheader") if arguments.device == "cuda" else ""
    processor = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "") \
        if Path("/proc/cpuinfo").exists() else platform.processor()
    lines.add("about", "", "", date=datetime.date.today().isoformat(), gpu=gpu, cpu=processor, cores=os.cpu_count(),
              commit=arguments.commit or said_by("git", "rev-parse", "--short", "HEAD"), command=command, **versions())


def limited(seconds, function):
    """What a function gives, row by row; OutOfTime once seconds are over, never while the caller keeps a row. (Not inside a call of C that does not return.)"""
    late, inside = OutOfTime(f"not finished after {seconds:g} s"), True

    def ring(*_):
        nonlocal seconds
        seconds = 0
        if inside:
            raise late

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        for row in function():
            inside = False
            yield row
            inside = True
            if not seconds:
                raise late
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Run:
    """One command: kinds by shapes, each alone with its failures."""

    def __init__(self, arguments, command):
        self.arguments, self.start = arguments, time.monotonic()
        self.library = Library(arguments.build / "libclusterfusion.so")
        self.lines = Lines(datetime.datetime.now().isoformat(timespec="seconds"), arguments.results)
        self.failed = 0
        about(self.lines, arguments, self.library, command)

    def left(self):
        return self.arguments.minutes * 60 - (time.monotonic() - self.start)

    def error(self, kind, shape, error):
        self.failed += 1
        sentence = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        self.lines.add("error", shape, "", of=kind, sentence=sentence)
        if not isinstance(error, OutOfTime):
            traceback.print_exception(error, file=sys.stderr)

    def kind(self, kind, subject):
        """False if it failed."""
        start = time.monotonic()
        try:
            some = False
            for row in limited(min(self.arguments.limit, self.left()), lambda: KINDS[kind][0](subject)):
                row = dict(row)
                self.lines.add(row.pop("kind", kind), subject.name, row.pop("who", ""), **row)
                some = True
            if not some:
                raise RuntimeError("nothing was measured")
        except Unavailable as reason:
            self.lines.add("unavailable", subject.name, "", of=kind, sentence=str(reason))
        except Exception as error:  # one kind must not hide the others
            self.error(kind, subject.name, error)
        else:
            self.lines.add("done", subject.name, "", of=kind, s=round(time.monotonic() - start, 1))

    def wanted(self, shape):
        kinds = [kind for kind in self.arguments.kinds if self.arguments.again or not self.lines.done(kind, shape)]
        return [] if kinds == ["floor"] and self.lines.done("floor", shape) else kinds

    def shape(self, progress, shape, directory, kinds):
        if "floor" not in kinds and self.arguments.device == "cuda" and self.left() > 60:
            kinds = ["floor", *kinds]  # ratios are to what this card reads in this run
        progress(f"{shape}: loading")
        try:
            with_sizes = QUICK if self.arguments.quick else Sizes()
            subject = Subject(self.library, shape, directory(), self.arguments.device, with_sizes, self.arguments.build, self.arguments)
        except Exception as error:
            self.error("loading of the shape", shape, error)
            return
        try:
            for kind in kinds:
                progress(f"{shape}: {kind}")
                if self.left() < self.arguments.reserve:
                    self.error(kind, shape, OutOfTime(f"not begun: --minutes {self.arguments.minutes:g} are over"))
                    continue
                self.kind(kind, subject)
        finally:
            subject.close()

    def all(self):
        jobs = [(shape, directory, kinds) for shape, directory in self.subjects() if (kinds := self.wanted(shape))]
        progress = Progress(sum(len(kinds) + 1 + ("floor" not in kinds) for _, _, kinds in jobs))
        for shape, directory, kinds in jobs:
            if self.left() < self.arguments.reserve:
                for kind in kinds:
                    self.error(kind, shape, OutOfTime(f"not begun: --minutes {self.arguments.minutes:g} are over"))
                continue
            with tempfile.TemporaryDirectory() as folder:
                self.shape(progress, shape, lambda: directory(self.arguments.folder or folder), kinds)

    def subjects(self):
        """Names, and what gives their directories, given a folder to write to."""
        if self.arguments.checkpoint:
            return [(self.arguments.checkpoint.resolve().name, lambda folder: self.arguments.checkpoint)]
        if self.arguments.quick:
            return [("demo", lambda folder: DEMO)]
        return [(shape, lambda folder, shape=shape: DEMO if shape == "demo" else made(shape, folder)) for shape in self.arguments.shapes]


def made(shape, folder):
    """The checkpoint of a shape below folder; one that is there already is taken."""
    final, partial = Path(folder) / shape, Path(folder) / f"{shape}.partial"
    if not final.exists():
        shutil.rmtree(partial, ignore_errors=True)
        made_models.write(shape, partial).rename(final)
        shutil.rmtree(partial, ignore_errors=True)
    return final


def names(text, known, what):
    chosen = [name for name in text.split(",") if name]
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: no {what}; there are {', '.join(known)}")
    return chosen


def parse():
    known = "\n".join(f"  {name:10} {sentence}" for name, (_, sentence) in KINDS.items())
    parser = argparse.ArgumentParser(description=__doc__ + known, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, required=True, help="where libclusterfusion.so and tests/bench_floor were built")
    parser.add_argument("--shapes", type=lambda text: names(text, ("demo", *made_models.SHAPES), "shape"), default=DEFAULT_SHAPES)
    parser.add_argument("--kinds", type=lambda text: names(text, KINDS, "kind"), help="default: all")
    parser.add_argument("--skip", type=lambda text: names(text, KINDS, "kind"), default=[], help="kinds to leave out")
    parser.add_argument("--results", type=Path, help="the JSON lines; a file that is there is continued")
    parser.add_argument("--again", action="store_true", help="also what the file says is done")
    parser.add_argument("--checkpoint", type=Path, help="a directory of a checkpoint instead of shapes")
    parser.add_argument("--text", type=Path, help="with --checkpoint: what quality scores; text, or token ids in FILE.ids")
    parser.add_argument("--text-tokens", type=int, default=2048, metavar="N", help="of it, at most")
    parser.add_argument("--folder", type=Path, help="where made checkpoints are kept; default: nowhere")
    parser.add_argument("--gguf", type=lambda text: tuple(text.split("=", 1)), action="append", default=[], metavar="SHAPE=FILE")
    parser.add_argument("--limit", type=float, default=240, metavar="S", help="seconds for one kind of one shape")
    parser.add_argument("--minutes", type=float, default=1e6, metavar="M", help="begin nothing after these")
    parser.add_argument("--quick", action="store_true", help="the demo checkpoint, few repeats: not for numbers")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--commit", default="", help="what was built, where this is no checkout")
    arguments = parser.parse_args()
    arguments.gguf = dict(arguments.gguf)
    arguments.reserve = 5 if arguments.minutes < 1e6 else 0  # seconds for what ends a run
    arguments.kinds = [kind for kind in KINDS if kind in (arguments.kinds or KINDS) and kind not in arguments.skip]
    if arguments.text and not arguments.checkpoint:
        parser.error("--text needs --checkpoint")
    if arguments.quick and not arguments.kinds:
        parser.error("no kinds are left")
    return arguments


def main():
    arguments = parse()
    run = Run(arguments, " ".join(["bench.py", *sys.argv[1:]]))
    run.all()
    print()
    print(summary.table(run.lines.earlier + run.lines.rows))
    sys.exit(1 if run.failed else 0)


if __name__ == "__main__":
    main()
