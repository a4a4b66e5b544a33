"""What a PyTorch user would take instead, on the same checkpoint, in fp16 on the same GPU: transformers, eager with its own growing cache, and compiled with a
static one (torch.compile, reduce-overhead: CUDA graphs); and how long its prompts take."""

import statistics
import time

import torch
from transformers import DynamicCache, StaticCache

STEPS, WARM = 32, 6


def clock(step, n=STEPS):
    """ms each, with the host's own time in it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / n * 1e3


def random_tokens(model, n):
    return torch.randint(0, model.config.vocab_size, (1, n), device="cuda", generator=torch.Generator("cuda").manual_seed(1))


@torch.inference_mode()
def eager(model, context):
    cache = DynamicCache(config=model.config)
    token = model(random_tokens(model, context - 1), past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(-1)

    def step():
        nonlocal token
        token = model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)

    for _ in range(WARM):
        step()
    return clock(step)


def compiled(model, contexts):
    """ms by context, of one compilation."""
    cache = StaticCache(config=model.config, max_cache_len=max(contexts) + STEPS + WARM + 1)
    forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    times = {}
    for context in contexts:
        with torch.inference_mode():
            cache.reset()
            places = torch.arange(context - 1, device="cuda")
            prompt = random_tokens(model, context - 1)
            token = model(prompt, position_ids=places[None], cache_position=places, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(-1)
            place = torch.tensor([context - 1], device="cuda")

            def step():
                nonlocal token
                torch.compiler.cudagraph_mark_step_begin()
                out = forward(token.clone(), position_ids=place[None], cache_position=place, past_key_values=cache, use_cache=True)
                token = out.logits[:, -1:].argmax(-1)
                place.add_(1)

            for _ in range(WARM):
                step()
            times[context] = clock(step)
    return times


@torch.inference_mode()
def prompt(model, n):
    tokens = random_tokens(model, n)
    return statistics.median(clock(lambda: model(tokens, use_cache=True, logits_to_keep=1).logits.argmax(-1), 1) for _ in range(9))


def measure(rows, name, kind, folder, contexts, prompts, bytes_ratio):
    model = kind.from_pretrained(folder, dtype=torch.float16, device_map="cuda", attn_implementation="sdpa").eval().requires_grad_(False)
    for n in prompts:
        rows.add("prompts", name, "transformers, sdpa", n=n, ms=prompt(model, n))
    for context in contexts:
        rows.add("peers", name, "transformers, eager", context=context, ms=eager(model, context), bytes_ratio=bytes_ratio(context))
    try:
        for context, ms in compiled(model, contexts).items():
            rows.add("peers", name, "transformers, compiled", context=context, ms=ms, bytes_ratio=bytes_ratio(context))
    except Exception as error:  # a compiler that is not there, or gives up, must not hide the other numbers
        rows.add("peers", name, "transformers, compiled", failed=f"{type(error).__name__}: {str(error)[:200]}")
    del model
    torch.cuda.empty_cache()
    torch._dynamo.reset()
