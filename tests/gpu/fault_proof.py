"""What goes wrong around the library, and what a caller gets: no device, no memory, waits that are too long, cancelled calls, crowded devices,
a device that is lost.

    python3 tests/gpu/fault_proof.py --library build/release/libclusterfusion.so [--foreign libforeign_kernels.so] [--device cpu]

Cases that lose a device run in processes of their own. --foreign: helpers/foreign_kernels.cu as built, the neighbour on the GPU; by default
the one beside the library's own tests.
"""

import ctypes
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "golden")]
import made_models  # noqa: E402
from report import Report, Skip, arguments_of  # noqa: E402
from sessions import Context, Failure, Library, decode_batch, same  # noqa: E402

NO_MEMORY, NO_DEVICE, LOST, CANCELLED, UNSUPPORTED, CACHE_FULL = 3, 7, 8, 13, 6, 10
AT_ONCE_S = 0.5  # for a call on a lost context
PROMPT, GREEDY, CAPACITY = 80, 60, 512
SHARED_BYTES = 200 * 1024  # more than what a decode CTA leaves of an SM


class Foreign:
    """helpers/foreign_kernels.cu"""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))

    def __call__(self, name, *arguments):
        error = getattr(self._library, f"foreign_{name}")(*arguments)
        if error:
            raise RuntimeError(f"foreign_{name}: CUDA error {error}")

    def status(self, name, *arguments):
        return getattr(self._library, f"foreign_{name}")(*arguments)

    def stream(self):
        stream = ctypes.c_void_p()
        self("stream", ctypes.byref(stream))
        return stream

    def multiprocessors(self):
        count = ctypes.c_int()
        self("multiprocessors", ctypes.byref(count))
        return count.value

    def hold(self, stream, n_ctas, ms, shared_bytes=SHARED_BYTES):
        self("hold", stream, n_ctas, shared_bytes, ms)


class World:
    def __init__(self, arguments, folder):
        self.arguments, self.cuda = arguments, arguments.device == "cuda"
        self.library, self.folder = Library(arguments.library), folder
        self.foreign = Foreign(arguments.foreign) if self.cuda else None
        self.tiny = made_models.write("tiny", folder)

    def need_cuda(self):
        if not self.cuda:
            raise Skip("this is about a GPU")

    def context(self, **options):
        return Context(self.library, self.arguments.device, **options)

    def child(self, name, timeout=60, **environment):
        """What a process of its own printed last, as JSON; it must end by itself, in order and in silence."""
        a = self.arguments
        command = [sys.executable, __file__, "--library", a.library, "--foreign", a.foreign, "--device", a.device, "--child", name]
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **environment})
        if done.returncode or done.stderr:
            raise AssertionError(f"the process ended with {done.returncode}: {done.stderr[-600:]}")
        return {**json.loads(done.stdout.splitlines()[-1]), "process_s": time.monotonic() - start}


def text_of(model, **options):
    """Greedy text and last logits of a session of its own."""
    with model.session(CAPACITY, **options) as session:
        session.prefill(made_models.random_tokens(PROMPT, model.vocab, 1), all_rows=False)
        session.steps(GREEDY)
        return session.tokens(), session.step()


def same_text(a, b):
    return a[0] == b[0] and same(a[1], b[1])


def status_of(function, *arguments):
    try:
        function(*arguments)
        return 0
    except Failure as failure:
        return failure.status


# ---- No device


def child_no_device(world):
    library = world.library
    count = ctypes.c_int32(-1)
    library.call("cf_device_count", library.CF_DEVICE_CUDA, ctypes.byref(count))
    info = library.struct("cf_device_info")
    query = library.status("cf_device_query", library.CF_DEVICE_CUDA, 0, ctypes.byref(info))
    try:
        Context(library, "cuda")
        create, sentence = 0, ""
    except Failure as failure:
        create, sentence = failure.status, str(failure)
    import weights
    from checkpoint_files import write_checkpoint
    from goldens import golden
    from reference import relative_error
    from variants import VARIANTS

    variant = VARIANTS["llama_mqa"]
    with Context(library, "cpu") as context, context.load(write_checkpoint(variant, Path(world.folder) / "golden")) as model:
        with model.session(variant.n_tokens) as session:
            logits = session.prefill(weights.prompt(variant))
    error = relative_error(logits[golden(variant).positions], golden(variant).logits).max()
    return {"count": count.value, "query": query, "create": create, "sentence": sentence, "cpu_error": float(error)}


def no_device(report, row, world):
    found = world.child("no_device", CUDA_VISIBLE_DEVICES="-1")
    report.check(found["count"] == 0, f"{found['count']} devices")
    report.check(found["query"] == NO_DEVICE and found["create"] == NO_DEVICE, f"statuses {found['query']} and {found['create']}")
    report.check("CUDA" in found["sentence"] or "device" in found["sentence"], f"the sentence is {found['sentence']!r}")
    report.check(found["cpu_error"] <= 1e-4, f"the CPU backend is {found['cpu_error']:.1e} from transformers")
    row.update(sentence=found["sentence"], s_of_process=found["process_s"])


# ---- No memory


class Allocator:
    """Callbacks that fail at the n-th allocation, once or from then on, and know what was not given back."""

    def __init__(self, world, fail_at=0, onward=False):
        self.world, self.fail_at, self.onward = world, fail_at, onward
        self.n, self.held, self.fired, self.wrong = 0, {}, 0, []
        self.libc = ctypes.CDLL(None)
        self.libc.aligned_alloc.restype = ctypes.c_void_p

    def allocate(self, kind, ordinal, size, alignment):
        self.n += 1
        if self.fail_at and (self.n >= self.fail_at if self.onward else self.n == self.fail_at):
            self.fired += 1
            return None
        if kind == self.world.library.CF_DEVICE_CPU:
            address = self.libc.aligned_alloc(ctypes.c_size_t(alignment), ctypes.c_size_t(-(-size // alignment) * alignment))
        else:
            out = ctypes.c_void_p()
            address = None if self.world.foreign.status("allocate", ctypes.byref(out), ctypes.c_size_t(size)) else out.value
        if address:
            self.held[address] = (kind, ordinal, size, alignment)
        return address

    def free(self, kind, ordinal, address, size, alignment):
        if self.held.pop(address, None) != (kind, ordinal, size, alignment):
            self.wrong.append(f"{size} bytes at {address:#x} freed and not held so")
        elif kind == self.world.library.CF_DEVICE_CPU:
            self.libc.free(ctypes.c_void_p(address))
        else:
            self.world.foreign("free", ctypes.c_void_p(address))

    def memory_comes_back(self):
        self.fail_at = 0


class Abandoned(Exception):
    pass


def story(world, allocator, abandon, parents_first):
    """Everything that allocates, each call made again if it was the one that failed; its last logits, and calls that failed."""
    handles, failed = [], []

    def attempt(what, function, *arguments, keep=False):
        try:
            made = function(*arguments)
        except Failure as failure:
            if failure.status != NO_MEMORY or not allocator.fired or failed:
                raise
            failed.append(f"{what}: {failure}")
            allocator.memory_comes_back()
            if abandon:
                raise Abandoned from None
            made = function(*arguments)
        if keep:
            handles.append(made)
        return made

    logits = None
    try:
        context = attempt("context", lambda: world.context(allocate=allocator.allocate, free=allocator.free, cpu_threads=2), keep=True)
        model = attempt("load", context.load, world.tiny, keep=True)
        pool = attempt("pool", lambda: model.pool(CAPACITY, page_tokens=16), keep=True)
        private = attempt("session", lambda: model.session(64), keep=True)
        pooled = attempt("pooled session", lambda: model.session(64, pool=pool, reserve=0), keep=True)
        prompt = made_models.random_tokens(20, model.vocab, 1)
        for session in (private, pooled):
            attempt("prefill", session.prefill, prompt)
            attempt("step", session.step)
            attempt("steps", session.steps, 5)
        attempt("positions", private.positions, prompt[:3])
        fork = attempt("fork", pooled.fork, 20, keep=True)
        attempt("step of a fork", fork.step)
        saved = attempt("save", private.save)
        restored = attempt("restore", lambda: model.restore(saved, 64), keep=True)
        attempt("batch", decode_batch, [pooled, fork])
        try:
            graph = attempt("graph", restored.capture, keep=True)
            attempt("replay", graph.launch)
            restored.wait()
        except Failure as failure:
            if failure.status != UNSUPPORTED:
                raise
            restored.steps(1)
        logits = np.stack([attempt("last step", session.step) for session in (private, pooled, fork, restored)])
    except Abandoned:
        pass
    for handle in handles if parents_first else reversed(handles):
        handle.close()
    return logits, failed


def out_of_memory(report, row, world):
    counting = Allocator(world)
    expected, _ = story(world, counting, False, False)
    report.check(not counting.held and not counting.wrong, "memory is lost although nothing failed")
    row["allocations"], row["calls that failed"] = counting.n, 0
    for n in range(1, counting.n + 1):
        for onward, abandon in ((False, False), (True, False), (False, True)):
            allocator = Allocator(world, n, onward)
            what = f"allocation {n} {'and all after it' if onward else ''} failing{', given up' if abandon else ''}"
            try:
                logits, failed = story(world, allocator, abandon, n % 2 == 1)
            except Failure as failure:
                report.check(False, f"{what}: {failure}")
                continue
            report.check(allocator.fired, f"{what}: never came to it")
            report.check(failed and "allocate" in failed[0], f"{what}: {failed or 'no call failed'}")
            report.check(abandon or same(logits, expected), f"{what}: other logits after a retry")
            report.check(not allocator.held, f"{what}: {sum(size for _, _, size, _ in allocator.held.values())} bytes are lost")
            report.check(not allocator.wrong, f"{what}: {allocator.wrong[:1]}")
            row["calls that failed"] += len(failed)


def full_device(report, row, world):
    """A device whose memory a neighbour has, and more than it has."""
    world.need_cuda()
    with world.context() as context, context.load(world.tiny) as model:
        expected = text_of(model)
        before = context.info().allocated_bytes
        status = status_of(lambda: model.pool(1 << 30))
        report.check(status == NO_MEMORY, f"a pool of 1 TB: status {status}")
        taken, size = [], 1 << 34
        while size >= 1 << 20:
            address = ctypes.c_void_p()
            if world.foreign.status("allocate", ctypes.byref(address), ctypes.c_size_t(size)):
                size //= 2
            else:
                taken.append(address)
        try:
            for what, function in (("a session", lambda: model.session(1 << 16)), ("a model", lambda: context.load(made_models.write("neox-80", world.folder)))):
                status = status_of(function)
                report.check(status == NO_MEMORY, f"{what} on a full device: status {status}")
        finally:
            for address in taken:
                world.foreign("free", address)
        report.check(context.info().allocated_bytes == before, "a refused call kept memory")
        report.check(same_text(text_of(model), expected), "another text after memory came back")


# ---- Cancelled calls


class Cancellation:
    """A flag that another thread raises after some time."""

    def __init__(self, library):
        self.library, self.handle = library, library.create("cf_cancellation_create")

    def during(self, delay_s, function):
        timer = threading.Timer(delay_s, lambda: self.library.call("cf_cancellation_request", self.handle))
        timer.start()
        try:
            return function()
        finally:
            timer.join()
            self.library.call("cf_cancellation_reset", self.handle)

    def close(self):
        self.library.call("cf_cancellation_destroy", self.handle)


def cancellation(report, row, world):
    rng, flag = random.Random(1), Cancellation(world.library)
    counts = {"steps": [0, 0], "prefill": [0, 0], "load": [0, 0]}  # cancelled, came to its end
    n_steps = 300
    with world.context() as context, context.load(made_models.write("neox-80", world.folder)) as model, model.session(CAPACITY) as session:
        prompt = made_models.random_tokens(100, model.vocab, 2)
        expected = session.prefill(prompt, all_rows=False)
        start = time.monotonic()
        session.steps(n_steps)
        full_s, text = time.monotonic() - start, session.tokens()

        def cancelled(kind, delay_s, function):
            status = status_of(flag.during, delay_s, function)
            report.check(status in (0, CANCELLED), f"{kind}: status {status}")
            counts[kind][status == 0] += 1
            return status == CANCELLED

        for i in range(30):
            session.truncate(100)
            done = 0
            was = cancelled("steps", rng.uniform(0, 1.1) * full_s, lambda: session.steps(n_steps, cancellation=flag.handle))
            result = session.wait()  # the status was fetched: the session works again
            done = result.position - 100
            report.check(done == n_steps if not was else 0 <= done < n_steps, f"{done} of {n_steps} steps, cancelled: {was}")
            report.check(session.tokens() == text[: 101 + done], f"other tokens after {done} steps")
            session.steps(n_steps - done) if done < n_steps else None
            report.check(session.tokens() == text, f"another text after going on from {done} steps")
        start = time.monotonic()
        session.truncate(0)
        session.prefill(prompt, all_rows=False)
        full_s = time.monotonic() - start
        for i in range(20):
            session.truncate(0)
            if cancelled("prefill", rng.uniform(0, 1.1) * full_s, lambda: session.prefill(prompt, all_rows=False, cancellation=flag.handle)):
                report.check(session.wait().position == 0, f"{session.wait().position} positions of a cancelled prefill are left")
                report.check(same(session.prefill(prompt, all_rows=False), expected), "other logits after a cancelled prefill")
        before = context.info().allocated_bytes
        directory = made_models.write("neox-80", world.folder)
        start = time.monotonic()
        context.load(directory).close()
        full_s = time.monotonic() - start
        for i in range(10):
            cancelled("load", rng.uniform(0, 1.0) * full_s, lambda: context.load(directory, cancellation=flag.handle).close())
            report.check(context.info().allocated_bytes == before, "a cancelled load kept memory")
    flag.close()
    row.update({kind: f"{a} of {a + b}" for kind, (a, b) in counts.items()})
    report.check(counts["steps"][0] >= 5, "hardly any call of steps was cancelled: this shows nothing")


# ---- Crowded devices


def threads_of(n, function):
    """function(i) on n threads at once; the first error is raised."""
    errors, start = [], threading.Barrier(n)

    def run(i):
        try:
            start.wait(60)
            function(i)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def several_contexts(report, row, world, n_contexts=3, n_threads=9):
    """Contexts, each with a model, sessions on streams of the caller's and on their own."""
    contexts = [world.context() for _ in range(n_contexts)]
    models = [context.load(world.tiny) for context in contexts]
    expected, made = text_of(models[0]), [[] for _ in range(n_threads)]

    def work(i):
        for round_ in range(10):
            if world.cuda and i % 2:
                stream = world.foreign.stream()
                made[i].append(text_of(models[i % n_contexts], stream=stream))
                world.foreign("drop_stream", stream)
            else:
                made[i].append(text_of(models[i % n_contexts]))

    threads_of(n_threads, work)
    for i, texts in enumerate(made):
        report.check(len(texts) == 10 and all(same_text(text, expected) for text in texts), f"thread {i} has another text")
    for handle in contexts + models:  # parents first
        handle.close()


def beside_a_kernel(report, row, world, share):
    """A foreign kernel in this process has a share of the SMs for a second: steps come later, and are the same."""
    world.need_cuda()
    with world.context() as context, context.load(world.tiny) as model:
        expected = text_of(model)
        stream, n_ctas = world.foreign.stream(), int(world.foreign.multiprocessors() * share)
        for n in (1, 4):
            world.foreign.hold(stream, n_ctas, 1000)
            made, start = [None] * n, time.monotonic()

            def work(i):
                made[i] = text_of(model)

            threads_of(n, work)
            took = time.monotonic() - start
            report.check(all(same_text(text, expected) for text in made), f"{n} sessions: another text")
            report.check(took < 4, f"{n} sessions took {took:.1f} s beside a kernel of 1 s")
            world.foreign("wait", stream)
            row[f"s, {n} sessions"] = took
        world.foreign("drop_stream", stream)


def child_neighbour(world):
    """Keeps all SMs busy for some seconds."""
    stream = world.foreign.stream()
    world.foreign.hold(stream, 16 * world.foreign.multiprocessors(), 100, 0)
    print("ready", flush=True)
    for _ in range(40):
        world.foreign.hold(stream, 16 * world.foreign.multiprocessors(), 100, 0)
    world.foreign("wait", stream)
    return {}


class Neighbour:
    """A process of its own that shares the GPU's time."""

    def __init__(self, world):
        a = world.arguments
        command = [sys.executable, __file__, "--library", a.library, "--foreign", a.foreign, "--child", "neighbour"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def alive(self):
        return self.process.poll() is None

    def close(self):
        self.process.terminate()
        self.process.wait()


def beside_a_process(report, row, world):
    world.need_cuda()
    with world.context() as context, context.load(world.tiny) as model:
        expected = text_of(model)
        neighbour, start, n = Neighbour(world), time.monotonic(), 0
        while n < 10 and neighbour.alive():
            report.check(same_text(text_of(model), expected), "another text beside a busy process")
            n += 1
        row["texts"], row["s each"] = n, (time.monotonic() - start) / max(n, 1)
        neighbour.close()


# ---- Lost devices


def lost_calls(world, context, model, session, pool):
    """Every call that has something to do with the device, and what it answers on a lost one."""
    saved = session.saved_before
    calls = {"cf_prefill": lambda: session.prefill([1], all_rows=False), "cf_decode_step": session.step, "cf_decode_steps": lambda: session.steps(2),
            "cf_decode_positions": lambda: session.positions([1, 2]), "cf_decode_batch": lambda: decode_batch([session]),
            "cf_session_wait": session.wait, "cf_session_poll": lambda: session.query("cf_session_poll", "cf_result"),
            "cf_session_truncate": lambda: session.truncate(1), "cf_session_fork": lambda: session.fork(1), "cf_session_save": session.save,
            "cf_session_set_sampler": session.sampler, "cf_session_create": lambda: model.session(64), "cf_session_restore": lambda: model.restore(saved, 64),
            "cf_kv_pool_create": lambda: model.pool(64), "cf_model_load": lambda: context.load(world.tiny), "cf_graph_capture": session.capture}
    return {name: call for name, call in calls.items() if name not in session.unbuilt}


def lose_and_look(world, lose, **options):
    """lose(session) makes a call fail that finds the device lost; then everything answers so at once, and goes away."""
    found = {"wrong": {}, "slow": {}}
    context = world.context(**options)
    model = context.load(world.tiny)
    pool, session = model.pool(2 * CAPACITY), model.session(CAPACITY)
    session.pool = pool
    session.prefill(made_models.random_tokens(PROMPT, model.vocab, 1), all_rows=False)
    session.saved_before = session.save()
    session.unbuilt = ["cf_graph_capture"] if status_of(lambda: session.capture().close()) == UNSUPPORTED else []
    start = time.monotonic()
    try:
        lose(session)
        found["status"], found["sentence"] = 0, ""
    except Failure as failure:
        found["status"], found["sentence"] = failure.status, str(failure)
    found["found_s"] = time.monotonic() - start
    for name, call in lost_calls(world, context, model, session, pool).items():
        start = time.monotonic()
        status = status_of(call)
        took = time.monotonic() - start
        if status != LOST:
            found["wrong"][name] = status
        if took > AT_ONCE_S:
            found["slow"][name] = took
    start = time.monotonic()
    for handle in (session, pool, model, context):
        handle.close()
    found["destroyed_s"] = time.monotonic() - start
    with Context(world.library, "cpu") as cpu, cpu.load(world.tiny) as cpu_model:
        found["cpu_works"] = len(text_of(cpu_model)[0]) == PROMPT + GREEDY + 1
    return found


def child_trap(world):
    def lose(session):
        world.foreign("trap", world.foreign.stream())
        session.steps(5)

    return lose_and_look(world, lose)


def child_trap_amid_steps(world):
    def lose(session):
        threading.Timer(0.02, lambda: world.foreign.status("trap", None)).start()
        for _ in range(10000):
            session.truncate(PROMPT)
            session.steps(400)

    return lose_and_look(world, lose)


def child_trap_then_destroy(world):
    """Nobody has noticed when everything is destroyed."""
    context = world.context()
    model = context.load(world.tiny)
    session = model.session(CAPACITY)
    session.prefill([1, 2, 3], all_rows=False)
    world.foreign("trap", world.foreign.stream())
    start = time.monotonic()
    for handle in (session, model, context):
        handle.close()
    return {"destroyed_s": time.monotonic() - start}


def child_wait_limit(world):
    """A neighbour wipes out, again and again, what CTAs tell each other: they wait for what nobody will say any more."""
    allocator, stop = Allocator(world), threading.Event()

    def lose(session):
        before = set(allocator.held)
        with session.model.session(CAPACITY, pool=session.pool, reserve=0) as victim:  # of its own it has work memory only
            (address,) = set(allocator.held) - before
            size = allocator.held[address][2]
            victim.prefill(made_models.random_tokens(PROMPT, victim.model.vocab, 1), all_rows=False)

            def wipe():
                stream, half = world.foreign.stream(), size // 2 // 256 * 256  # words lie last; before them is what a launch begins with
                while not stop.is_set():
                    world.foreign("overwrite", stream, ctypes.c_void_p(address + half), ctypes.c_size_t(size - half))
                    world.foreign("wait", stream)

            thread = threading.Thread(target=wipe)
            thread.start()
            try:
                until = time.monotonic() + 5
                while time.monotonic() < until:
                    victim.truncate(PROMPT)
                    victim.steps(400)
            finally:
                stop.set()
                thread.join()

    found = lose_and_look(world, lose, device_wait_limit_ms=50, allocate=allocator.allocate, free=allocator.free)
    found["bytes_lost"] = sum(size for _, _, size, _ in allocator.held.values())
    with world.context() as context, context.load(world.tiny) as model:  # the device itself is well
        found["new_context"] = len(text_of(model)[0]) == PROMPT + GREEDY + 1
    return found


def lost(report, row, world, name, word):
    world.need_cuda()
    found = world.child(name)
    if "status" in found:
        report.check(found["status"] == LOST and word in found["sentence"], f"status {found['status']}: {found['sentence']!r}, without {word!r}")
        report.check(found["found_s"] < 8, f"found after {found['found_s']:.1f} s only")
        report.check(not found["wrong"], f"other statuses than CF_ERROR_DEVICE_LOST afterwards: {found['wrong']}")
        report.check(not found["slow"], f"not at once: {found['slow']}")
        report.check(found["cpu_works"], "the CPU backend does not work beside it")
        row.update(found_s=found["found_s"], sentence=found["sentence"])
    report.check(found["destroyed_s"] < 3, f"destroying took {found['destroyed_s']:.1f} s")
    report.check(found.get("new_context", True), "a new context does not work")
    report.check(not found.get("bytes_lost"), f"{found.get('bytes_lost')} bytes were not given back")
    row.update(destroyed_s=found["destroyed_s"], process_s=found["process_s"])


def main():
    parser = arguments_of(__doc__)
    parser.add_argument("--foreign", help="libforeign_kernels.so")
    parser.add_argument("--child", help="for the suite itself")
    arguments = parser.parse_args()
    arguments.foreign = arguments.foreign or str(Path(arguments.library).resolve().parent / "tests" / "libforeign_kernels.so")
    with tempfile.TemporaryDirectory() as folder:
        world = World(arguments, folder)
        if arguments.child:
            print(json.dumps(globals()[f"child_{arguments.child}"](world)))
            return
        report = Report("fault_proof", arguments)
        for function in (no_device, out_of_memory, full_device, cancellation, several_contexts):
            report.run(function.__name__.replace("_", " "), function, world)
        report.run("beside a kernel on half of the SMs", beside_a_kernel, world, 0.5)
        report.run("beside a kernel on all SMs", beside_a_kernel, world, 1.0)
        report.run("beside another process", beside_a_process, world)
        report.run("a wait beyond device_wait_limit_ms", lost, world, "wait_limit", "device_wait_limit_ms")
        for name in ("trap", "trap_amid_steps", "trap_then_destroy"):
            report.run(f"device lost: {name.replace('_', ' ')}", lost, world, name, "CUDA")
        report.finish()


if __name__ == "__main__":
    main()
