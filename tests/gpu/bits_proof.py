"""The same inputs give the same bits: repeated, in every launch mode, as a graph, beside other sessions, in several rows, in other pages,
after going back, saved and restored, in another process, in the launches of smaller devices.

    python3 tests/gpu/bits_proof.py --library build/release/libclusterfusion.so [--shapes small,pythia-2.8b] [--repeats 1000]

For builds that force another configuration: --same-as compares with what another library does on this device by itself; --code and --delays
say what the configuration has to be.

Models have random weights. What one session does alone, on a private pool, with the library's own launch mode, is compared bit by bit with
every other way to the same positions.
"""

import ctypes
import hashlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
import made_models  # noqa: E402
from report import Report, Skip, arguments_of, limits_of  # noqa: E402
from sessions import PENDING, UNSUPPORTED, Context, Failure, Library, decode_batch, same  # noqa: E402

MODES = {"STEP": 1, "BLOCK": 2, "PHASE": 3}
CACHE_FULL, INVALID_ARGUMENT = 10, 2
PROMPT, FORCED, GREEDY, CAPACITY = 150, 12, 40, 256  # tokens of a walk; more than two pages, more than one piece of prefill
SHUFFLED_CONTEXT = 1500
SHUFFLED_COST = 1.02
PAGE_TOKENS = (16, 32, 64, 128, 256)
ERROR_BOUNDS = {"F16": 3e-3, "BF16": 2e-2}  # between backends
# SMs, and shared memory of a CTA; 0: this device's. 108 and 163 KB, 84 and 99 KB: devices of compute capability 8.0 and 8.6; less: rings of
# one to four chunks.
SMALLER = ((1, 0), (2, 0), (7, 0), (84, 101376), (108, 166912), (131, 0), *((0, kilobytes * 1024) for kilobytes in range(72, 136, 9)))


class Lab:
    """A model on the device under test, and what a session of it does alone."""

    def __init__(self, library, context, cpu, name, folder, arguments, said):
        self.library, self.name, self.arguments, self.said = library, name, arguments, said
        self.dtype = made_models.SHAPES[name][1]
        self.directory = made_models.write(name, folder)
        self.model = context.load(self.directory)
        self.cpu = cpu
        self.prompt = self.tokens(PROMPT, 1)
        self.forced = self.tokens(FORCED, 2)
        self.known = {}
        with self.session() as session:
            self.alone = self.walk(session)

    def tokens(self, n, seed):
        return made_models.random_tokens(n, self.model.vocab, seed)

    def session(self, **options):
        return self.model.session(CAPACITY, **options)

    def walk(self, session, prompt=None, forced=None):
        """A prompt, given tokens, steps that the device takes by itself, a last one; everything that can be seen of them."""
        made = {"prefill": session.prefill(prompt or self.prompt)}
        made["given tokens"] = np.stack([session.step(token) for token in forced or self.forced])
        session.steps(GREEDY)
        made["sampled tokens"] = np.array(session.tokens())
        made["last step"] = session.step()
        made["saved"] = np.frombuffer(session.save(), np.uint8)  # keys and values of every position
        return made

    def memo(self, what, make):
        if what not in self.known:
            self.known[what] = make()
        return self.known[what]

    def compare(self, report, made, what, expected=None, but=()):
        for key, value in (expected or self.alone).items():
            if key not in but:
                report.check(same(made[key], value), f"{what}: other bits in {key}")

    def digests(self):
        """Of what a session does alone, and of one that takes its prompt by steps: prefill multiplies otherwise on other GPUs."""
        with self.session() as session:
            by_steps = {"steps": session.positions(self.prompt[:64])}
            session.steps(GREEDY)
            by_steps["sampled tokens"], by_steps["saved"] = np.array(session.tokens()), np.frombuffer(session.save(), np.uint8)
        return [hashlib.sha256(b"".join(made[key].tobytes() for key in sorted(made))).hexdigest() for made in (self.alone, by_steps)]


def gpu_only(lab, why):
    if lab.arguments.device != "cuda":
        raise Skip(why)


def configuration(report, row, lab):
    """What sessions run as, as the log has it, is what was asked for."""
    gpu_only(lab, "configurations are a GPU's")
    asked = lab.arguments
    lab.session().close()
    words = re.search(r"steps run in (\d+) CTAs of at most (\d+) bytes of shared memory, by code for compute capability ([\d.]+)(, with delays)?", lab.said[-1])
    row["ctas"], row["bytes"], row["code"], row["delays"] = int(words[1]), int(words[2]), words[3], int(bool(words[4]))
    report.check(row["ctas"] <= (asked.multiprocessors or row["ctas"]), f"{row['ctas']} CTAs for {asked.multiprocessors} SMs")
    report.check(row["ctas"] == asked.multiprocessors or not asked.multiprocessors or lab.name not in made_models.WIDE, f"only {row['ctas']} CTAs")
    report.check(row["bytes"] <= (asked.shared_memory_bytes or row["bytes"]), f"{row['bytes']} bytes of shared memory")
    report.check(row["code"] == (asked.code or row["code"]), f"code for {row['code']}, not {asked.code}")
    report.check(row["delays"] == asked.delays, "a build with delays" if row["delays"] else "a build without delays")


def smaller_devices(report, row, lab):
    gpu_only(lab, "the CPU backend divides no work by SMs")
    for sms, shared_bytes in SMALLER:
        with Context(lab.library, device_multiprocessors=sms, device_shared_memory_bytes=shared_bytes) as context, context.load(lab.directory) as model:
            try:
                session = model.session(CAPACITY)
            except Failure as failure:
                report.check(failure.status == UNSUPPORTED and 0 < shared_bytes < 101376, f"with {shared_bytes} bytes of shared memory: {failure}")
                row["too_small"] = max(row.get("too_small", 0), shared_bytes)
                continue
            with session:
                lab.compare(report, lab.walk(session), f"{sms or 'all'} SMs, {shared_bytes or 'all'} bytes of shared memory")


def another_library(report, row, lab):
    """Another library's bits, in its own configuration."""
    if not lab.arguments.same_as:
        raise Skip("no --same-as")
    command = [sys.executable, __file__, "--library", lab.arguments.same_as, "--device", lab.arguments.device, "--digest", lab.name]
    output, mine = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120).stdout.split(), lab.digests()
    report.check(output[1:] == mine[1:], f"{lab.arguments.same_as} made {output}, this one {mine}, by steps")
    if not lab.arguments.code:
        report.check(output == mine, f"{lab.arguments.same_as} made {output}, this one {mine}, by prefill")


def repeats(report, row, lab):
    n = lab.arguments.repeats
    with lab.session() as session:
        session.prefill(lab.prompt, all_rows=False)
        token, first, wrong = lab.forced[0], None, 0
        for _ in range(n):
            logits = session.step(token)
            first = logits if first is None else first
            wrong += not same(logits, first)
            session.truncate(PROMPT)
        report.check(same(first, lab.alone["given tokens"][0]), "a step differs from that of another session")
        report.check(wrong == 0, f"{wrong} of {n} repeated steps differ")
        texts = set()
        for _ in range(max(2, n // 100)):
            session.steps(GREEDY)
            texts.add(tuple(session.tokens()))
            session.truncate(PROMPT)
        report.check(len(texts) == 1, f"{len(texts)} different texts")
    row["repeats"] = n


def mode(report, row, lab, name):
    gpu_only(lab, "launch modes are for a GPU")
    with lab.session(launch_mode=MODES[name]) as session:
        report.check(session.info().launch_mode == MODES[name], f"runs in launch mode {session.info().launch_mode}")
        lab.compare(report, lab.walk(session), name)


def clusters(report, row, lab, size):
    """Against what the library chooses: every launch mode, a graph, a long context, rows of a sequence, sessions together, a fork."""
    gpu_only(lab, "clusters are for a GPU")
    for name in MODES:
        with lab.session(cluster_size=size, launch_mode=MODES[name]) as session:
            report.check(session.info().cluster_size == size, f"runs with clusters of {session.info().cluster_size}")
            lab.compare(report, lab.walk(session), f"clusters of {size}, {name}")
    with lab.session(cluster_size=size) as session:
        session.prefill(lab.prompt)
        with session.capture(5) as captured:
            for _ in range(FORCED // 5):
                captured.launch()
        session.wait()
        report.check(session.tokens() == one_text(lab, FORCED // 5 * 5), f"clusters of {size}: another text of a graph")
    with lab.session(cluster_size=size, reserve=0) as parent:
        parent.prefill(lab.prompt[:64])
        with parent.fork(64) as fork:
            report.check(fork.info().cluster_size == size, f"a fork runs with clusters of {fork.info().cluster_size}")
    long = lab.memo("long", lambda: long_walk(lab, cluster_size=1))
    lab.compare(report, long_walk(lab, cluster_size=size), f"clusters of {size}, a long context", long)
    together = lab.memo("together", lambda: walk_together(lab, cluster_size=1))
    lab.compare(report, walk_together(lab, cluster_size=size), f"clusters of {size}, sessions together", together)


def long_walk(lab, **options):
    """So many cached positions that some parts come from the cluster and some do not; steps that go on without the host, and one of many rows."""
    made = {}
    for context in (SHUFFLED_CONTEXT, 449):
        with lab.model.session(SHUFFLED_CONTEXT + 64, **options) as session:
            session.prefill(lab.tokens(context, 6), all_rows=False)
            made[f"{context}: given tokens"] = np.stack([session.step(token) for token in lab.forced[:3]])
            session.steps(20)
            made[f"{context}: sampled tokens"] = np.array(session.tokens())
            made[f"{context}: rows of a sequence"] = session.positions(lab.forced[:7])
            made[f"{context}: last step"] = session.step()
    return made


def walk_together(lab, **options):
    made = {}
    for lengths in ((130, 10, 200), (1, 64, 65, 128, 129, 192, 240, 250)):
        sessions = [lab.session(**options) for _ in lengths]
        for i, (session, length) in enumerate(zip(sessions, lengths)):
            session.prefill(lab.tokens(length, 400 + i), all_rows=False)
        made[f"{len(lengths)} sessions"] = np.stack([decode_batch(sessions, tokens) for tokens in (lab.tokens(len(lengths), 7), None, None)])
        for session in sessions:
            session.close()
    return made


def no_clusters(report, row, lab):
    """Sizes that are none: the status and a sentence that names it."""
    gpu_only(lab, "clusters are for a GPU")
    for size, status in ((3, UNSUPPORTED), (12, UNSUPPORTED), (17, INVALID_ARGUMENT), (-1, INVALID_ARGUMENT)):
        try:
            lab.session(cluster_size=size).close()
            report.check(False, f"a session with clusters of {size}")
        except Failure as failure:
            report.check(failure.status == status and f"cluster_size is {size}" in str(failure), f"clusters of {size}: {failure}")


def graph(report, row, lab, name, n_steps):
    """Replays against direct steps: at other positions, after truncation, after another session ran, up to the end of the cache."""
    with lab.session(launch_mode=MODES[name]) as replayed, lab.session() as direct, lab.session() as other:
        for session in (replayed, direct):
            session.prefill(lab.prompt[:20])
        with replayed.capture(n_steps) as captured:
            info, n_layers = captured.info(), lab.model.config.n_layers
            row["nodes"] = info.n_nodes
            report.check(info.n_steps == n_steps and info.launch_mode == MODES[name], "the graph describes another one")
            if n_steps == 1:
                right = {"STEP": info.n_nodes == 1, "BLOCK": 1 < info.n_nodes <= n_layers + 2, "PHASE": info.n_nodes > n_layers + 2}[name]
                report.check(right, f"{info.n_nodes} kernel nodes")
            for launches, position in ((16 // n_steps, None), (8 // n_steps, 12), (64 // n_steps, 70)):
                if position:
                    for session in (replayed, direct):
                        session.truncate(0)
                        session.prefill(lab.prompt[:position])
                    other.truncate(0)
                    other.prefill(lab.prompt[40:90])
                    other.steps(3)
                for _ in range(launches):
                    captured.launch()
                report.check(replayed.wait().n_steps == launches * n_steps, "another number of steps is reported")
                direct.steps(launches * n_steps)
                report.check(replayed.tokens() == direct.tokens(), f"other tokens from {position or 20} on")
                report.check(same(replayed.step(), direct.step()), f"other logits after replays from {position or 20} on")
            status = 0
            try:
                for _ in range(CAPACITY):
                    captured.launch()
                replayed.wait()
            except Failure as failure:
                status = failure.status
            report.check(status == CACHE_FULL, f"status {status} at the end of the cache")
            replayed.truncate(PROMPT // 2)
            captured.launch()
            report.check(replayed.wait().position == PROMPT // 2 + n_steps, "no replay after the cache was full")


def beside(report, row, lab, n=8):
    """n sessions at once, each on its thread and stream, against each alone."""
    prompts = [lab.tokens(PROMPT - 17 * i, 100 + i) for i in range(n)]
    forced = [lab.tokens(FORCED, 200 + i) for i in range(n)]
    alone, made, start = [], [[] for _ in range(n)], threading.Barrier(n)
    for i in range(n):
        with lab.session() as session:
            alone.append(lab.walk(session, prompts[i], forced[i]))

    def work(i):
        for _ in range(3):
            with lab.session() as session:
                start.wait(60)
                made[i].append(lab.walk(session, prompts[i], forced[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(n):
        report.check(len(made[i]) == 3, f"session {i} did not come to its end")
        for result in made[i]:
            lab.compare(report, result, f"session {i} of {n}", alone[i])


def positions(report, row, lab):
    drafted = lab.tokens(64, 3)
    with lab.session() as one:
        one.prefill(lab.prompt)
        expected = np.stack([one.step(token) for token in drafted])
        onward = one.step()
    with lab.session() as one:
        one.prefill(lab.prompt)
        from_pending = np.stack([one.step(token) for token in [PENDING, *drafted[:4]]])
    for n in (1, 2, 3, 7, 8, 9, 17, 64):
        with lab.session() as several:
            several.prefill(lab.prompt)
            report.check(same(several.positions(drafted[:n]), expected[:n]), f"{n} positions in a step")
            for first in range(n, 64, n):
                several.positions(drafted[first : first + n])
            report.check(same(several.step(), onward), f"going on after steps of {n} positions")
    with lab.session() as several:
        several.prefill(lab.prompt)
        report.check(same(several.positions([PENDING, *drafted[:4]]), from_pending), "from the pending token on")


def batch(report, row, lab):
    for n in (2, 7, 8, 9, 20):
        lengths = [1 + 37 * i % PROMPT for i in range(n)]
        given = lab.tokens(n, 4)
        alone, together = [lab.session() for _ in range(n)], [lab.session() for _ in range(n)]
        for i in range(n):
            for session in (alone[i], together[i]):
                session.prefill(lab.prompt[i % 20 :][: lengths[i]], all_rows=False)
        for tokens in (given, None, None):
            expected = np.stack([session.step(PENDING if tokens is None else tokens[i]) for i, session in enumerate(alone)])
            report.check(same(decode_batch(together, tokens), expected), f"a batch of {n} sessions")
        report.check(all(a.tokens() == b.tokens() for a, b in zip(alone, together)), f"tokens of a batch of {n}")
        for session in alone + together:
            session.close()


def enqueued(report, row, lab):
    """Calls whose status is fetched once, after all of them."""
    with lab.session() as one:
        one.prefill(lab.prompt)
        expected = np.stack([one.step() for _ in range(20)])
    with lab.session() as several:
        outputs = [several.enqueue("cf_prefill", lab.prompt)]
        outputs += [several.enqueue("cf_decode_step") for _ in range(20)]
        result = several.wait()
        report.check(result.n_steps == PROMPT + 20 and result.position == PROMPT + 20, f"{result.n_steps} steps, position {result.position}")
        report.check(same(np.concatenate([logits for logits, _ in outputs[1:]]), expected), "other logits of enqueued steps")
        report.check(same(outputs[0][0], lab.alone["prefill"][-1:]), "other logits of an enqueued prompt")
        several.truncate(PROMPT)
        for n in (1, 4, 15):
            several.enqueue("cf_decode_steps", n)
        several.wait()
        report.check(several.tokens() == one_text(lab, 20), "another text of enqueued steps")


def one_text(lab, n):
    with lab.session() as session:
        session.prefill(lab.prompt)
        session.steps(n)
        return session.tokens()


def cuts(report, row, lab):
    """A prompt in pieces; the saved bytes are its keys and values."""
    with lab.session() as session:
        expected = session.prefill(lab.prompt)
        saved, onward = session.save(), session.step(lab.forced[0])
    random = np.random.Generator(np.random.Philox(5))
    ways = [[1] * PROMPT, [1, PROMPT - 1], [PROMPT - 1, 1], [7, 20, PROMPT - 27], [63, 1, 1, PROMPT - 65], [64, 64, PROMPT - 128], [127, PROMPT - 127]]
    for _ in range(6):
        edges = [0, *sorted(random.choice(np.arange(1, PROMPT), 5, replace=False).tolist()), PROMPT]
        ways.append(np.diff(edges).tolist())
    for way in ways:
        with lab.session() as session:
            rows, at = [], 0
            for n in way:
                rows.append(session.prefill(lab.prompt[at : at + n], sample=int(at + n == PROMPT)))
                at += n
            shown = way if len(way) < 9 else f"{len(way)} pieces"
            report.check(same(np.concatenate(rows), expected), f"logits of a prompt cut into {shown}")
            report.check(session.save() == saved, f"keys and values of a prompt cut into {shown}")
            report.check(same(session.step(lab.forced[0]), onward), f"going on after a prompt cut into {shown}")
    row["ways"] = len(ways)


def shuffled_session(lab, page_tokens, capacity, seed):
    """A session whose pages lie in a pool in random order, and what keeps the rest of the pool."""
    n_pages = 2 * (-(-capacity // page_tokens) + 1)
    pool = lab.model.pool(n_pages * page_tokens, page_tokens=page_tokens)
    holders = [lab.model.session(page_tokens, pool=pool, reserve=0) for _ in range(n_pages)]
    for holder in holders:
        holder.prefill([1], all_rows=False)  # takes one page
    order = np.random.Generator(np.random.Philox(seed)).permutation(n_pages)
    for i in order[: n_pages // 2 + 1]:
        holders[i].close()
    session = lab.model.session(capacity, pool=pool, reserve=0)
    return session, [pool, *(holder for holder in holders if holder.handle)]


def pages(report, row, lab):
    for page_tokens in PAGE_TOKENS:
        with lab.session(page_tokens=page_tokens) as plain:
            made = lab.walk(plain)
            lab.compare(report, made, f"pages of {page_tokens}", but=["saved"])
        session, rest = shuffled_session(lab, page_tokens, CAPACITY, page_tokens)
        with session:
            lab.compare(report, lab.walk(session), f"shuffled pages of {page_tokens}", made)
        for handle in rest:
            handle.close()


def shared_pool(report, row, lab):
    """Sessions that grow in turn in one pool and take each other's freed pages."""
    pool = lab.model.pool(6 * CAPACITY, page_tokens=16)
    sessions = [lab.model.session(CAPACITY, pool=pool, reserve=0) for _ in range(4)]
    tokens = [lab.tokens(PROMPT, 300 + i) for i in range(4)]
    for at in range(0, PROMPT, 10):
        for i, session in enumerate(sessions):
            session.prefill(tokens[i][at : at + 10], all_rows=False)
        if at == 50:  # pages in between go back, and come to others
            sessions[1].truncate(0)
            sessions[1].prefill(tokens[1][: at + 10], all_rows=False)
    for i, session in enumerate(sessions):
        with lab.session() as alone:
            alone.prefill(tokens[i], all_rows=False)
            report.check(same(np.stack([session.step(t) for t in lab.forced]), np.stack([alone.step(t) for t in lab.forced])), f"session {i} of a pool")
        session.close()
    info = pool.info()
    report.check(info.n_pages_free == info.n_pages, f"{info.n_pages - info.n_pages_free} pages did not come back")
    pool.close()


def shuffled_cost(report, row, lab):
    gpu_only(lab, "times are for a GPU")
    capacity = SHUFFLED_CONTEXT + 64
    text = lab.tokens(SHUFFLED_CONTEXT, 6)
    for page_tokens in (16, 64, 256):
        shuffled, rest = shuffled_session(lab, page_tokens, capacity, 9)
        plain = lab.model.session(capacity, page_tokens=page_tokens)
        twin = lab.model.session(capacity, page_tokens=page_tokens)  # says what the measurement itself is worth
        ways = {"plain": plain, "shuffled": shuffled, "twin": twin}
        times = {name: [] for name in ways}
        for session in ways.values():
            session.prefill(text, all_rows=False)
        for i in range(42):
            for name in list(ways) if i % 2 else reversed(list(ways)):
                ways[name].truncate(SHUFFLED_CONTEXT)
                start = time.perf_counter()
                ways[name].steps(32)
                if i >= 2:
                    times[name].append(time.perf_counter() - start)
        report.check(shuffled.tokens() == plain.tokens(), f"other tokens in pages of {page_tokens}")
        ratio = float(np.median(np.array(times["shuffled"]) / np.array(times["plain"])))
        row[f"ratio@{page_tokens}"], row[f"noise@{page_tokens}"] = ratio, float(np.median(np.array(times["twin"]) / np.array(times["plain"])))
        row[f"ms@{page_tokens}"] = float(np.median(times["plain"])) / 32 * 1e3
        report.check(ratio <= SHUFFLED_COST, f"shuffled pages of {page_tokens} cost {ratio:.3f}, at most {SHUFFLED_COST} asked")
        for handle in [plain, shuffled, twin, *rest]:
            handle.close()


def going_back(report, row, lab):
    """Truncated and forked sessions, against one that never went further."""
    for position in (1, 63, 64, 65, PROMPT - 1):
        with lab.session() as never, lab.session() as back, lab.session() as parent:
            never.prefill(lab.prompt[:position])
            expected = np.stack([never.step(token) for token in lab.forced])
            back.prefill(lab.prompt)
            back.steps(5)
            back.truncate(position)
            report.check(back.tokens() == lab.prompt[: position + 1], f"another pending token at {position}")
            report.check(same(np.stack([back.step(token) for token in lab.forced]), expected), f"truncated to {position}")
    pool = lab.model.pool(8 * CAPACITY, page_tokens=32)
    with lab.model.session(CAPACITY, pool=pool, reserve=0) as parent:
        parent.prefill(lab.prompt)
        forks = [parent.fork(position) for position in (5, 70, PROMPT)]
        onward = parent.step(lab.forced[0])  # the parent writes to pages that forks hold
        for fork, position in zip(forks, (5, 70, PROMPT)):
            with lab.session() as never, fork:
                never.prefill(lab.prompt[:position])
                expected = np.stack([never.step(token) for token in lab.forced])
                report.check(same(np.stack([fork.step(token) for token in lab.forced]), expected), f"a fork at {position}")
        parent.truncate(PROMPT)
        report.check(same(parent.step(lab.forced[0]), onward), "the parent of forks")
    pool.close()


def restored(report, row, lab):
    """Saved and restored on this backend, and by way of the CPU backend."""
    with lab.session(kv_dtype="F16") as session:
        session.prefill(lab.prompt)
        session.steps(3)
        saved = session.save()
        here_tokens = session.tokens()
        onward = np.stack([session.step(token) for token in lab.forced])
    for page_tokens in (16, 64, 256):
        with lab.model.restore(saved, CAPACITY, page_tokens=page_tokens) as again:
            report.check(same(np.stack([again.step(token) for token in lab.forced]), onward), f"restored into pages of {page_tokens}")
    with lab.model.restore(saved, CAPACITY) as again:
        report.check(again.save() == saved, "saved again: other bytes")
    bound = ERROR_BOUNDS[lab.dtype]

    def near(a, b, what):
        error = float(np.sqrt(((a - b) ** 2).mean() / (b**2).mean()))
        row["cpu_error"] = max(row.get("cpu_error", 0.0), error)
        report.check(error <= bound, f"{what}: {error:.1e}, at most {bound:.0e} asked")

    with lab.cpu.load(lab.directory) as cpu_model:
        with cpu_model.restore(saved, CAPACITY) as on_cpu:
            through = on_cpu.save()
            report.check(through == saved, "other bytes by way of the CPU backend")
            report.check(on_cpu.tokens() == here_tokens, "other tokens on the CPU backend")
            near(on_cpu.step(lab.forced[0]), onward[0], "a step on the CPU backend after a restore")
        with cpu_model.session(CAPACITY, kv_dtype="F16") as on_cpu:
            on_cpu.prefill(lab.prompt)
            from_cpu = on_cpu.save()
            with lab.model.restore(from_cpu, CAPACITY) as here:
                report.check(here.save() == from_cpu, "a session of the CPU backend saves other bytes here")
                near(here.step(lab.forced[0]), on_cpu.step(lab.forced[0]), "a step after a restore from the CPU backend")
    with lab.model.restore(through, CAPACITY) as back:
        report.check(same(np.stack([back.step(token) for token in lab.forced]), onward), "there and back")


def sampling(report, row, lab):
    """Seed and position decide, not the grouping of steps; the host's sampler on the same logits agrees."""
    samplers = {"temperature": dict(temperature=1.3, seed=2**63 + 5), "top-k, top-p": dict(temperature=0.9, top_k=40, top_p=0.95, seed=11),
                "min-p, penalty": dict(temperature=1.1, min_p=0.01, repetition_penalty=1.2, seed=12)}
    for name, options in samplers.items():
        texts = []
        for group in (1, 5, 30):
            with lab.session() as session:
                session.sampler(**options)
                session.prefill(lab.prompt)
                for _ in range(30 // group):
                    session.steps(group)
                texts.append(session.tokens())
        report.check(texts[0] == texts[1] == texts[2], f"{name}: other tokens when steps are grouped otherwise")
        struct = lab.library.struct("cf_sampler_options", **options)
        with lab.session() as session:
            session.sampler(**options)
            logits = session.prefill(lab.prompt)[-1]
            for i in range(30):
                history = session.tokens()[:-1]
                token, array = ctypes.c_int32(), (ctypes.c_int32 * len(history))(*history)
                lab.library.call("cf_sample_logits", ctypes.byref(struct), None, ctypes.c_void_p(logits.ctypes.data), ctypes.c_size_t(len(logits)), array,
                                 ctypes.c_size_t(len(history)), ctypes.c_int64(len(history)), ctypes.byref(token))
                if not report.check(token.value == session.result.token, f"{name}: step {i} sampled {session.result.token}, the host's sampler {token.value}"):
                    break
                logits = session.step()
            report.check(session.tokens() == texts[0], f"{name}: other tokens with the logits looked at")
        report.check(len(set(texts[0][PROMPT:])) > 5, f"{name}: nothing was sampled")


def processes(report, row, lab):
    """Two more processes, at the same time."""
    a = lab.arguments
    command = [sys.executable, __file__, "--library", a.library, "--device", a.device, "--digest", lab.name, "--multiprocessors", str(a.multiprocessors),
               "--shared-memory-bytes", str(a.shared_memory_bytes)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for child in children:
        output, _ = child.communicate(timeout=120)
        report.check(child.returncode == 0 and output.split() == lab.digests(), f"another process made {output.split()}, this one {lab.digests()}")


def reloaded(report, row, lab):
    """A session, and a graph of it, whose model is loaded anew, with other weights and in the other dtype: as a session that never knew others."""
    other = {"F16": "BF16", "BF16": "F16"}[lab.dtype]
    with tempfile.TemporaryDirectory() as folder, Context(lab.library, lab.arguments.device, **limits_of(lab.arguments)) as context:
        directories = {
            "own": lab.directory, **{f"seed {seed}": made_models.write(lab.name, f"{folder}/{seed}", seed) for seed in (8, 9)},
            other: made_models.write(lab.name, f"{folder}/{other}", dtype=other)}

        def text(session, steps):
            session.truncate(0)
            prefilled = session.prefill(lab.prompt[:20])
            steps()
            return prefilled, session.tokens(), session.step()

        expected = {}
        for name, directory in directories.items():
            with context.load(directory) as model, model.session(CAPACITY) as session:
                expected[name] = text(session, lambda: session.steps(8))
        with context.load(lab.directory) as model, model.session(CAPACITY) as session:
            captured = session.capture(1) if lab.arguments.device == "cuda" else None

            def replay():
                for _ in range(8):
                    captured.launch()
                session.wait()

            for name in ("seed 8", "seed 9", "own", other, "seed 9"):
                lab.library.call("cf_model_reload", model.handle, str(directories[name]).encode(), None)
                if name == "seed 8":
                    continue  # what is freed here may be where the next weights are
                for way, steps in (("steps", lambda: session.steps(8)), ("replays", replay)):
                    if captured or way == "steps":
                        prefilled, tokens, last = text(session, steps)
                        report.check(same(prefilled, expected[name][0]), f"{name}: other logits of a prompt")
                        report.check(tokens == expected[name][1] and same(last, expected[name][2]), f"{name}: another text by {way}")
            if captured:
                captured.close()


def cases():
    yield "configuration", configuration, ()
    yield "repeats", repeats, ()
    for name in MODES:
        yield f"launch mode {name}", mode, (name,)
    for name in MODES:
        for n_steps in (1, 8):
            yield f"graph of {n_steps}, {name}", graph, (name, n_steps)
    for size in (1, 2, 4, 8, 16):
        yield f"clusters of {size}", clusters, (size,)
    for function in (no_clusters, beside, positions, batch, enqueued, cuts, pages, shared_pool, shuffled_cost, going_back, restored, sampling, reloaded, processes,
                     smaller_devices, another_library):
        yield function.__name__.replace("_", " "), function, ()


def main():
    parser = arguments_of(__doc__)
    parser.add_argument("--shapes", default="small")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--same-as", metavar="LIBRARY", help="has to make the same bits")
    parser.add_argument("--code", default="", metavar="N.N", help="compute capability that the library has to run code of")
    parser.add_argument("--delays", action="store_true", help="the library has to be a build with delays")
    parser.add_argument("--digest", metavar="SHAPE", help="only print a digest of what a session does")
    arguments = parser.parse_args()
    library = Library(arguments.library)
    report, cpu, said = Report("bits_proof", arguments), Context(library, "cpu"), []
    context = Context(library, arguments.device, log=lambda _, line: said.append(line.decode()), log_level=library.CF_LOG_DEBUG, **limits_of(arguments))
    sets = {"small": made_models.SMALL, "wide": made_models.WIDE}
    for name in [n for part in arguments.shapes.split(",") for n in sets.get(part, [part])]:
        with tempfile.TemporaryDirectory() as folder:
            if arguments.digest:
                print(*Lab(library, context, cpu, arguments.digest, folder, arguments, said).digests())
                return
            lab = Lab(library, context, cpu, name, folder, arguments, said)
            for what, function, extra in cases():
                report.run(f"{name}: {what}", function, lab, *extra)
            lab.model.close()
    report.finish()




if __name__ == "__main__":
    main()
