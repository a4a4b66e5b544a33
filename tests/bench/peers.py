"""What a user would take instead, on the same checkpoint and card: transformers in fp16, eager with its own growing cache, and compiled with a static one
(torch.compile, reduce-overhead: CUDA graphs); and llama.cpp, where llama-bench and a GGUF file are."""

import inspect
import json
import shutil
import subprocess
import time

from decoding import lengths_of, text_rows
from subject import Unavailable, torch_or, transformers_or

EAGER, COMPILED, LLAMA_CPP = "transformers, eager", "transformers, compiled", "llama.cpp"
WARM = 6


def words_of(model):
    """How a version of transformers takes its cache, and whether it wants to be told positions in it."""
    taken = inspect.signature(model.forward).parameters
    inner = inspect.signature(model.base_model.forward).parameters
    return "cache" if "cache" in taken else "past_key_values", "cache_position" in taken or "cache_position" in inner


class Clock:
    """ms a step, with the host's own time in it."""

    def __init__(self, subject):
        self.subject, self.wait = subject, subject.torch.cuda.synchronize if subject.on_gpu else lambda: None

    def __call__(self, step, n):
        self.wait()
        start = time.perf_counter()
        for _ in range(n):
            step()
        self.wait()
        return (time.perf_counter() - start) / n * 1e3


def steps_until(subject, step, n, seconds):
    """Tokens 2, 3, ... n of a text by `step`, as long as `seconds` last; the time since the first at each length."""
    wait, lengths, made, times = Clock(subject).wait, lengths_of(subject), 1, {}
    start = time.perf_counter()
    for length in lengths:
        while made < length:
            step()
            made += 1
            if made % 16 == 0 and time.perf_counter() - start > seconds:
                return times
        wait()
        times[length] = time.perf_counter() - start
    return times


def measured(subject, who, begin, step, sizes):
    """Rows of steps at held contexts, and of one text. begin(n) takes a prompt of n tokens and leaves a pending token; step() makes the next."""
    clock = Clock(subject)
    for context in subject.contexts:
        begin(context)
        for _ in range(WARM if subject.on_gpu else 1):
            step()
        n = sizes.steps if who == COMPILED else min(sizes.steps, 24)
        yield {"kind": "contexts", "who": who, "context": context, "way": "one by one", "bytes_ratio": subject.bytes_ratio(context),
               "ms": clock(step, n), "steps": n}
    clock.wait()
    start = time.perf_counter()
    begin(5)
    clock.wait()
    first = time.perf_counter() - start
    times = steps_until(subject, step, subject.sizes.lengths[-1], sizes.peer_s)
    yield from text_rows(who, {1: first, **{n: first + s for n, s in times.items()}})


def prompt_of(subject, torch, n):
    return torch.tensor([subject.random_tokens(n)], device=subject.device)


def eager(subject):
    torch, transformers, model = torch_or(), transformers_or(), subject.peer()
    word, _ = words_of(model)
    state = {}

    def forward(tokens):
        state["token"] = model(tokens, use_cache=True, logits_to_keep=1, **{word: state["cache"]}).logits[:, -1:].argmax(-1)

    def begin(n):
        state["cache"] = transformers.DynamicCache(config=model.config)
        forward(prompt_of(subject, torch, n))

    with torch.no_grad():
        yield from measured(subject, EAGER, begin, lambda: forward(state["token"]), subject.sizes)


def compiled(subject):
    torch, transformers, model = torch_or(), transformers_or(), subject.peer()
    word, tells = words_of(model)
    capacity = max(subject.contexts[-1] + subject.sizes.steps + WARM + 2, max(lengths_of(subject)) + 8)
    cache = transformers.StaticCache(config=model.config, max_cache_len=(capacity + 63) // 64 * 64)
    start = time.perf_counter()
    once = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    place, state = torch.zeros(1, dtype=torch.int64, device=subject.device), {}

    def call(function, tokens, at):
        more = {"cache_position": at} if tells else {}
        return function(tokens, position_ids=at[None], use_cache=True, logits_to_keep=1, **{word: cache}, **more).logits[:, -1:].argmax(-1)

    def begin(n):
        cache.reset()
        state["token"] = call(model, prompt_of(subject, torch, n), torch.arange(n, device=subject.device))
        place.fill_(n)

    def step():
        torch.compiler.cudagraph_mark_step_begin()
        state["token"] = call(once, state["token"].clone(), place)
        place.add_(1)

    try:
        with torch.no_grad():
            begin(subject.contexts[0])
            for _ in range(3):
                step()
            Clock(subject).wait()
            compile_s = time.perf_counter() - start
            for row in measured(subject, COMPILED, begin, step, subject.sizes):
                yield {**row, "compile_s": compile_s}
    finally:
        del once, cache
        torch._dynamo.reset()
        subject.empty_cache()


def llama_cpp(subject):
    """By llama-bench, from empty and from held contexts, with flash attention."""
    gguf = subject.options and subject.options.gguf.get(subject.name)
    if not gguf or not shutil.which("llama-bench"):
        raise Unavailable("llama-bench is not installed" if gguf else f"there is no GGUF file: --gguf {subject.name}=FILE")
    depths = ",".join(str(n) for n in subject.contexts)
    command = ["llama-bench", "-m", gguf, "-p", "0", "-n", "32", "-d", depths, "-fa", "1", "-ngl", "99", "-o", "json"]
    for run in json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout):
        context = run["n_depth"]
        yield {"kind": "contexts", "who": LLAMA_CPP, "context": context, "way": "one by one", "bytes_ratio": subject.bytes_ratio(context),
               "ms": 1e3 / run["avg_ts"],
               "steps": run["n_gen"], "build": run.get("build_commit", "")}
