"""Kinds of numbers about steps: tokens, contexts, modes, samplers, rows."""

import ctypes
import time

from header import Failure
from subject import ROWS, torch_or

OURS = "clusterfusion"
MODES = {"step": 1, "block": 2, "phase": 3}
CLUSTERS = (1, 2, 4, 8, 16)
SAMPLERS = {
    "greedy": {},
    "temperature": dict(temperature=1.0, seed=1),
    "min-p": dict(temperature=1.0, min_p=0.05, seed=1),
    "top-k 40": dict(temperature=0.9, top_k=40, seed=1),
    "top-p 0.9": dict(temperature=0.9, top_p=0.9, seed=1),
    "top-k 40, top-p 0.9, min-p 0.02, penalty 1.1": dict(temperature=0.9, top_k=40, top_p=0.9, min_p=0.02, repetition_penalty=1.1, seed=1),
}


def lengths_of(subject):
    return [n for n in subject.sizes.lengths if n + 5 <= subject.limit]


def text_rows(who, times, **numbers):
    """Rows of one text, timed at each length; times[1] is that of the first token."""
    for n, s in times.items():
        if n > 1:
            yield {"kind": "tokens", "who": who, "n": n, "ms": (s - times[1]) / (n - 1) * 1e3, "tokens_per_s": n / s,
                   "first_token_ms": times[1] * 1e3, **numbers}


def tokens(subject):
    """One text from a prompt of five tokens, timed at each length, and where it leaves what transformers would say in fp32."""
    lengths, prompt = lengths_of(subject), subject.random_tokens(5)
    start = time.perf_counter()
    with subject.model.session(lengths[-1] + 5) as session:
        set_up = time.perf_counter() - start
        session.prefill(prompt, all_rows=False)
        session.steps(lengths[0])  # what a process does once
        session.truncate(0)
        start = time.perf_counter()
        session.prefill(prompt, all_rows=False)
        times, made = {1: time.perf_counter() - start}, 1
        for n in lengths:
            session.steps(n - made)
            times[n], made = time.perf_counter() - start, n
        text = session.tokens()
    yield from text_rows(OURS, times, set_up_s=set_up, load_s=subject.load_s)
    yield {"kind": "differs", "who": OURS, "n": lengths[-1], "first_difference": first_difference(subject, text, len(prompt))}


def first_difference(subject, text, n_prompt):
    """Index among the generated tokens of the first that transformers in fp32 would not choose after the same tokens; -1: none."""
    torch = torch_or()
    subject.release()
    reference = subject.transformers_model("float32")
    with torch.no_grad():
        likeliest = reference(torch.tensor([text[:-1]], device=subject.device)).logits[0].argmax(-1).tolist()
    del reference
    subject.empty_cache()
    return next((i - n_prompt + 1 for i in range(n_prompt - 1, len(text) - 1) if likeliest[i] != text[i + 1]), -1)


def contexts(subject):
    """A step at a held context: many in a call; and, at the ends, a graph replay each, and with a host that takes each token."""
    n = subject.sizes.steps
    for context in subject.contexts:
        row = {"who": OURS, "context": context, "bytes_ratio": subject.bytes_ratio(context)}
        with subject.session(context) as session:
            yield {**row, "way": f"{n} in a call", **subject.steps(session, context)}
            if context not in subject.ends:
                continue

            def reset():
                session.truncate(context)

            yield {**row, "way": "the host takes each token", **subject.by_clock(reset, subject.taker(session, "cf_decode_step"), n)}
            if not subject.on_gpu:
                continue
            with session.capture(1) as graph:
                yield {**row, "way": "a graph replay each", **subject.by_device(session, context, lambda: [graph.launch() for _ in range(n)], n)}
                take = subject.taker(session, "cf_graph_launch", graph.handle)
                yield {**row, "way": "the host takes each token, by replays", **subject.by_clock(reset, take, n)}


def modes(subject):
    """Launch modes, each direct and as a graph replay a step, with every cluster size. All give the same bits; this is what they cost."""
    n = subject.sizes.steps
    for context in subject.ends:
        for mode, value in MODES.items():
            for clusters in (0, *CLUSTERS) if subject.on_gpu else (0,):
                row = {"who": OURS, "context": context, "mode": mode, "asked_clusters": clusters, "bytes_ratio": subject.bytes_ratio(context)}
                try:
                    session = subject.session(context, launch_mode=value, cluster_size=clusters)
                except Failure as failure:
                    if failure.status != subject.library.CF_ERROR_UNSUPPORTED:
                        raise
                    yield {**row, "unsupported": str(failure)}
                    continue
                with session:
                    row["clusters"] = session.info().cluster_size
                    repeats = min(7, subject.sizes.repeats)
                    yield {**row, "graph": 0, **subject.steps(session, context, repeats)}
                    if subject.on_gpu and context == subject.ends[0]:
                        with session.capture(1) as graph:
                            numbers = subject.by_device(session, context, lambda: [graph.launch() for _ in range(n)], n, repeats)
                            yield {**row, "graph": 1, "nodes": graph.info().n_nodes, **numbers}


def samplers(subject):
    context = subject.contexts[0]
    with subject.session(context) as session:
        for sampler, options in SAMPLERS.items():
            session.sampler(**options)
            yield {"who": OURS, "context": context, "sampler": sampler, **subject.steps(session, context)}


def rows(subject):
    """Several rows at once, against one: positions of one session, and a token each of several sessions. By the clock of a host that waits for all."""
    library, many = subject.library, 5 * subject.sizes.repeats
    for context in subject.ends:
        with subject.session(context) as session:
            one = subject.by_clock(lambda: session.truncate(context), subject.taker(session, "cf_decode_step"), 1, many)
            yield {"who": OURS, "context": context, "what": "a step", "n": 1, **one}
            drafted = subject.random_tokens(ROWS, seed=2)

            def judged(what, n, ratio, numbers):
                allowed = 1.25 * ratio
                return {"who": OURS, "context": context, "what": what, "n": n, **numbers, "over_one": numbers["ms"] / one["ms"], "allowed": allowed}

            for n in (1, 2, 4, ROWS):
                array = (ctypes.c_int32 * n)(*drafted[:n])
                take = subject.taker(session, "cf_decode_positions", session.handle, array, ctypes.c_size_t(n), None)
                yield judged("positions", n, 1, subject.by_clock(lambda: session.truncate(context), take, 1, many))
        sessions = []
        try:
            for n in (1, 2, 4, ROWS):
                while len(sessions) < n:
                    sessions.append(subject.session(context))
                yield judged("sessions", n, subject.bytes_ratio(context, n) / subject.bytes_ratio(context), batch(subject, library, sessions, context, many))
        finally:
            for session in sessions:
                session.close()


def batch(subject, library, sessions, context, repeats):
    handles = (ctypes.c_void_p * len(sessions))(*(session.handle.value for session in sessions))

    def reset():
        for session in sessions:
            session.truncate(context)

    def one():
        library.call("cf_decode_batch", handles, ctypes.c_size_t(len(sessions)), None, None)
        for session in sessions:
            session.wait()

    return subject.by_clock(reset, one, 1, repeats)
