"""transformers in fp32 on the CPU: seconds of a decode step at context 128 and of a 512-token prefill, as JSON.

  python tests/bench/torch_cpu.py CHECKPOINT
"""

import json
import statistics
import sys
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache


def median_seconds(call, runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


@torch.inference_mode()
def main(directory: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    torch.manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (1, 512))
    cache = DynamicCache(config=model.config)
    token = model(ids[:, :128], past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(-1)

    def step():
        model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
        cache.crop(128)

    step()
    decode = median_seconds(step, 15)
    prefill = median_seconds(lambda: model(ids, use_cache=True, past_key_values=DynamicCache(config=model.config), logits_to_keep=1), 3)
    print(json.dumps({"decode": decode, "prefill": prefill}))


if __name__ == "__main__":
    main(sys.argv[1])
