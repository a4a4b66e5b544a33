#!/usr/bin/env python3
"""Decodes a million tokens in every roundabout way, and finds the same bits and no more memory at the end than after warming up.

An episode is a prompt and what follows it. It is decoded in calls of any size, goes back, is forked, saved and restored, shares steps with a
neighbour, has drafts verified and, on a GPU, is replayed from a graph. Then its twin does it straight: one prefill, one call for all steps. Both must
have the same tokens and the same saved bytes, which hold all keys and values. After every episode the library must hold exactly the memory it held
before; the process's heap, resident memory, threads and files, and the GPU's memory, must not grow once it is warm.

    soak.py --library build/release/libclusterfusion.so [--device cuda:0] [--tokens 1000000]

Needs numpy alone. Exits with 1 if anything differs or grows; the table is the last thing printed.
"""

import argparse
import ctypes
import gc
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "gpu")]
import made_models  # noqa: E402
from sessions import UNSUPPORTED, Context, Failure, Library, decode_batch  # noqa: E402

NO_DEVICE = 7
CAPACITY, PROMPT = 384, 96  # positions of a session, and of the longest prompt
WARM = 100_000  # tokens before memory is looked at; in shorter runs half of them
# Bytes that may come and go: Python's own lists, malloc's fragments, what the driver sets aside. A million tokens are 1,900 episodes: 50 lost bytes in each are seen.
HEAP_SLACK, RESIDENT_SLACK, DEVICE_SLACK = 96 << 10, 4 << 20, 2 << 20


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]


def heap_bytes():
    """In use, of malloc and mmap; Python's own small objects lie elsewhere. None without glibc 2.33."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = Mallinfo
    info = libc.mallinfo2()
    return info.uordblks + info.hblkhd


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def device_bytes(ordinal):
    """Of the whole GPU, as the driver counts; None where that cannot be asked."""
    if ordinal is None or not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", str(ordinal)]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(asked.stdout) << 20 if asked.returncode == 0 and asked.stdout.strip().isdigit() else None


class Soak:
    def __init__(self, arguments, context, model, ordinal):
        self.arguments, self.context, self.model, self.ordinal = arguments, context, model, ordinal
        self.random = random.Random(arguments.seed)
        self.counts = dict.fromkeys(("tokens", "episodes", "steps calls", "single steps", "truncations", "forks", "saves", "batches", "drafts", "graphs"), 0)
        self.wrong, self.kept = [], []
        self.warm = self.first = None
        self.idle = context.info().allocated_bytes
        self.pool = model.pool(4 * CAPACITY, page_tokens=32)
        self.free_pages = self.pool.info().n_pages_free
        self.idle_with_pool = context.info().allocated_bytes

    def fail(self, what):
        self.wrong.append(what)
        print(f"FAILED: {what}", flush=True)

    def count(self, what, tokens=0):
        self.counts[what] += 1
        self.counts["tokens"] += tokens

    # ---- An episode ----

    def options(self, private):
        return dict(page_tokens=32) if private else dict(pool=self.pool, reserve=0)

    def begin(self, private, sampler, prompt, cuts=()):
        session = self.model.session(CAPACITY, **self.options(private))
        session.sampler(**sampler)
        for begin, end in zip([0, *cuts], [*cuts, len(prompt)]):
            session.prefill(prompt[begin:end], all_rows=False, sample=int(end == len(prompt)))
        return session

    def episode(self):
        choose = self.random
        private = choose.random() < 0.5
        sampler = choose.choice([{}, dict(temperature=0.9, top_k=40, seed=choose.getrandbits(60)),
                                 dict(temperature=1.2, top_p=0.95, repetition_penalty=1.1, seed=choose.getrandbits(60))])
        prompt = [choose.randrange(self.model.vocab) for _ in range(choose.randint(2, PROMPT))]
        end = choose.randint(len(prompt) + 1, CAPACITY - 1)
        cuts = sorted(choose.sample(range(1, len(prompt)), min(len(prompt) - 1, choose.randint(0, 3))))
        session = self.begin(private, sampler, prompt, cuts)
        position, known = len(prompt), []  # known: tokens that the positions from the prompt's end on had before a truncation
        while position < end:
            session, position, known = self.move(session, position, known, len(prompt), end, private)
        twin = self.begin(private, sampler, prompt)
        twin.steps(end - len(prompt))
        self.counts["tokens"] += end
        self.count("episodes", len(prompt))
        tokens, expected = session.tokens(), twin.tokens()
        if self.arguments.plant == "token":
            tokens[-1] ^= 1
        if tokens != expected or len(tokens) != end + 1:
            self.fail(f"episode {self.counts['episodes']}: tokens differ from those of its twin")
        elif session.save() != twin.save():
            self.fail(f"episode {self.counts['episodes']}: saved bytes differ from those of its twin")
        if self.arguments.plant == "leak":
            self.kept.append(self.model.session(16))
        session.close()
        twin.close()
        self.look()

    def move(self, session, position, known, least, end, private):
        """One step of the episode: the session that goes on, its position, and tokens known to come after it."""
        choose, left = self.random, end - position
        what = choose.choices(("steps", "step", "truncate", "fork", "aside", "save", "batch", "draft", "graph"), (6, 3, 2, 1.5, 1, 1, 2, 3, 2))[0]
        if len(known) > 1 and choose.random() < 0.5:
            what = "draft"
        if what == "steps":
            n = min(left, choose.randint(1, 64))
            session.steps(n)
            self.count("steps calls", n)
            position += n
        elif what == "step":
            session.step()
            self.count("single steps", 1)
            position += 1
        elif what == "truncate":
            to = choose.randint(max(least, position - 80), position)
            known = session.tokens()[to:position + 1]
            session.truncate(to)
            self.count("truncations")
            return session, to, known
        elif what == "draft" and len(known) > 1:  # verified: the tokens that were there before
            n = min(left, len(known) - 1, choose.randint(1, 16))
            session.positions(known[:n])
            self.count("drafts", n)
            return session, position + n, known[n:]
        elif what in ("fork", "aside") and not (private and what == "fork"):
            if private:
                return session, position, known  # a private pool that is reserved has no room for a fork
            at = choose.randint(least, position) if what == "aside" else position
            other = session.fork(at)
            self.count("forks")
            if what == "fork":  # the fork goes on, its parent ends
                session.close()
                return other, position, known
            n = min(end - at, choose.randint(1, 40))
            other.steps(n)
            self.counts["tokens"] += n
            other.close()
        elif what == "save":
            saved = session.save()
            restored = self.model.restore(saved, CAPACITY, **self.options(private))
            session.close()
            session = restored
            self.count("saves")
        elif what == "batch":  # with a neighbour that has nothing to do with it
            with self.begin(False, {}, [1, 2, 3]) as neighbour:
                n = min(left, choose.randint(1, 8))
                for _ in range(n):
                    decode_batch([session, neighbour] if choose.random() < 0.5 else [neighbour, session])
                self.count("batches", 2 * n + 3)
                position += n
        elif what == "graph" and private and self.ordinal is not None:
            n, launches = choose.randint(1, 4), choose.randint(1, 8)
            if n * launches <= left:
                with session.capture(n) as graph:
                    for _ in range(launches):
                        graph.launch()
                    session.wait()
                self.count("graphs", n * launches)
                position += n * launches
        if position > end:
            self.fail(f"position {position} is behind {end}")
        return session, position, []

    # ---- Memory ----

    def look(self):
        """After an episode: the library holds what it held before the first; later the process holds what it held when it was warm."""
        held, free = self.context.info().allocated_bytes, self.pool.info().n_pages_free
        if held != self.idle_with_pool and not self.counts.get("allocated grew"):
            self.counts["allocated grew"] = 1
            self.fail(f"episode {self.counts['episodes']}: the library holds {held} bytes, before the first one it was {self.idle_with_pool}")
        if free != self.free_pages and not self.counts.get("pages lost"):
            self.counts["pages lost"] = 1
            self.fail(f"episode {self.counts['episodes']}: {free} pages are free, before the first one it was {self.free_pages}")
        if self.warm is None and self.counts["tokens"] >= min(WARM, self.arguments.tokens // 2):
            self.warm = self.measure()

    def measure(self):
        gc.collect()
        return {"heap": heap_bytes(), "resident": resident_bytes(), "GPU": device_bytes(self.ordinal), "held by the library": self.context.info().allocated_bytes,
                "threads": len(os.listdir("/proc/self/task")), "files": len(os.listdir("/proc/self/fd"))}

    def run(self):
        started = said = time.monotonic()
        while self.counts["tokens"] < self.arguments.tokens and len(self.wrong) < 10:
            self.episode()
            if time.monotonic() - said > 20:
                said = time.monotonic()
                print(f"{self.counts['tokens']} tokens, {self.counts['episodes']} episodes, {said - started:.0f} s", flush=True)
        seconds = time.monotonic() - started
        cold = self.measure()
        warm = self.warm or cold
        if self.warm is None:
            self.fail("it ended before it was warm")
        slack = {"heap": HEAP_SLACK, "resident": RESIDENT_SLACK, "GPU": DEVICE_SLACK}
        for what, now in cold.items():
            if now is not None and now - warm[what] > slack.get(what, 0):
                self.fail(f"{what}: {warm[what]} after warming up, {now} at the end")
        self.pool.close()
        held = self.context.info().allocated_bytes
        if held != self.idle:
            self.fail(f"the library holds {held} bytes without sessions and pools, at first it was {self.idle}")
        self.table(seconds, warm, cold)

    def table(self, seconds, warm, cold):
        print(f"\nsoak on {self.arguments.device}, seed {self.arguments.seed}, {self.arguments.model}: {self.counts['tokens'] / seconds:.0f} tokens a second, {seconds:.0f} s")
        print("  " + ", ".join(f"{n} {what}" for what, n in self.counts.items()))
        print(f"  {'':20} {'warm':>15} {'at the end':>15}")
        for what, before in warm.items():
            if before is not None:
                print(f"  {what:20} {before:15,} {cold[what]:15,}")
        print(f"  {'FAILED, ' + str(len(self.wrong)) + ' faults' if self.wrong else 'replays equal, nothing has grown'}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--cpu-threads", type=int, default=1, help="more are slower where the model is tiny or the machine is busy")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="tiny-gqa", help=f"a checkpoint's directory, or one that is made: {', '.join(made_models.SHAPES)}")
    parser.add_argument("--plant", choices=("token", "leak"), help="a fault that must be found")
    arguments = parser.parse_args()
    kind, _, number = arguments.device.partition(":")
    ordinal = int(number or 0) if kind == "cuda" else None
    library = Library(arguments.library)
    with tempfile.TemporaryDirectory() as folder:
        directory = arguments.model if os.path.isdir(arguments.model) else made_models.write(arguments.model, folder)
        devices = (ctypes.c_int32 * 1)(ordinal or 0)
        try:
            context = Context(library, device=kind, n_devices=1, devices=ctypes.addressof(devices), cpu_threads=arguments.cpu_threads)
        except Failure as failure:
            print(failure)
            sys.exit(77 if failure.status in (UNSUPPORTED, NO_DEVICE) else 1)
        with context, context.load(directory) as model:
            soak = Soak(arguments, context, model, ordinal)
            soak.run()
    sys.exit(1 if soak.wrong else 0)


if __name__ == "__main__":
    main()
