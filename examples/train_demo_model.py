#!/usr/bin/env python3
"""Trains the demo checkpoint: a GPT-NeoX of 3.3 million parameters whose output can be checked.

    python examples/train_demo_model.py                       # train, save, evaluate
    python examples/train_demo_model.py --eval-only examples/demo_model

Tokens are raw bytes (vocabulary 256); a newline (byte 10) ends every item. The corpus, made here from a seed, is lines of five tasks:

    sum    412+93=505                                                           both operands 0..999
    who    tom has 3 red balls. anna has 5 blue cups. who has cups? anna.       two or three owners
    what   tom has 3 red balls. anna has 5 blue cups. what does tom have? 3 red balls.
    agree  can the dogs near the old cat run? yes, they run.                    the verb agrees with the first noun
    count  count 97 to 103: 97 98 99 100 101 102 103.                           up to 230 numbers, 930 bytes

A tenth of the sums, owner/thing pairs, noun/verb pairs and count ranges never occurs in training; the evaluation asks for just those,
of the saved files read back, and exits with status 1 when fewer than 95 % of any task's answers are right.

The committed checkpoint is the first command's with its defaults: 8,000 steps in 4 minutes on one H200 (bf16 autocast, PyTorch 2.11,
Transformers 5.17). Right of 500 held-out items, as the first line of a text and after other lines:

    sum 100.0 % 99.8 %   who 99.6 % 99.8 %   what 100 % 100 %   agree 100 % 100 %   count 100 % 100 %
"""
import argparse
import json
import math
import random
import sys
import time
import zlib
from pathlib import Path

import torch
from torch.nn import functional
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

CONTEXT = 1024
NEWLINE = 10
CORPUS_BYTES = 64_000_000
BATCH = 128
PEAK_LR = 1e-3
SAVED_ITEMS = 40  # per task, in held_out.jsonl
REQUIRED_SHARE = 0.95
MAX_DIRECTORY_BYTES = 8_000_000

NAMES = "tom anna ben kate leo mia sam zoe max eva jack lily noah ruth paul nina".split()
THINGS = "balls cups books hats pens keys shoes boxes coins cards kites lamps maps rings bells ropes".split()
COLOURS = "red blue green white black pink brown grey".split()
ANIMALS = "dog cat bird horse cow duck frog goat lion bear seal crab tiger rabbit monkey snail".split()
VERBS = "run sing sleep jump walk swim hide wait eat rest play climb".split()
ADJECTIVES = "old young big small tall quick".split()


# Every task returns (prompt, answer, keys). An item trains only if none of its keys is held out;
# it tests only if keys[0], the one its answer depends on, is.

def sum_item(rng):
    # Uniform operands are nearly all three digits long; a quarter of the lines is drawn by length instead.
    limit = (lambda: 10 ** rng.randint(1, 3)) if rng.random() < 0.25 else (lambda: 1000)
    a, b = rng.randrange(limit()), rng.randrange(limit())
    return f"{a}+{b}=", f"{a + b}\n", [f"{a}+{b}"]


def possessions(rng):
    """Two or three owners of different things, as a sentence each, and the one that is asked about first."""
    count = rng.randint(2, 3)
    owners = list(zip(rng.sample(NAMES, count), rng.choices(range(2, 10), k=count), rng.choices(COLOURS, k=count), rng.sample(THINGS, count)))
    text = "".join(f"{name} has {number} {colour} {thing}. " for name, number, colour, thing in owners)
    asked = rng.randrange(count)
    return text, [owners[asked]] + owners[:asked] + owners[asked + 1:]


def pair_keys(owners):
    return [f"{name}/{thing}" for name, _, _, thing in owners]


def who_item(rng):
    text, owners = possessions(rng)
    name, _, _, thing = owners[0]
    return f"{text}who has {thing}?", f" {name}.\n", pair_keys(owners)


def what_item(rng):
    text, owners = possessions(rng)
    name, number, colour, thing = owners[0]
    return f"{text}what does {name} have?", f" {number} {colour} {thing}.\n", pair_keys(owners)


def noun_phrase(rng, noun, plural):
    adjective = rng.choice(ADJECTIVES) + " " if rng.random() < 0.5 else ""
    return f"the {adjective}{noun}{'s' if plural else ''}"


def agree_item(rng):
    noun, other = rng.sample(ANIMALS, 2)
    verb, plural = rng.choice(VERBS), rng.random() < 0.5
    subject = noun_phrase(rng, noun, plural)
    if rng.random() < 0.7:
        subject += " near " + noun_phrase(rng, other, rng.random() < 0.5)
    answer = f" yes, they {verb}.\n" if plural else f" yes, it {verb}s.\n"
    return f"can {subject} {verb}?", answer, [f"{noun}/{verb}"]


def count_item(rng):
    span = int(230 ** rng.random())  # log-uniform: short ranges are common, long ones not rare
    first = rng.randrange(1000 - span)
    numbers = range(first, first + span + 1)
    return f"count {first} to {first + span}:", "".join(f" {n}" for n in numbers) + ".\n", [f"{first}-{first + span}"]


TASKS = {"sum": sum_item, "who": who_item, "what": what_item, "agree": agree_item, "count": count_item}
LINE_WEIGHTS = [75, 8, 8, 6, 3]  # share of lines, in the order of TASKS; by bytes about 35, 19, 19, 10 and 17


def held_out(key):
    return zlib.crc32(key.encode()) % 10 == 0


def training_line(rng):
    while True:
        prompt, answer, keys = rng.choices(list(TASKS.values()), LINE_WEIGHTS)[0](rng)
        if not any(map(held_out, keys)):
            return prompt + answer


def make_corpus(rng, size_bytes):
    """Bytes of at least size_bytes, and the offsets of those lines that a whole window can start at."""
    lines, starts, size = [], [], 0
    while size < size_bytes + CONTEXT + 1:
        line = training_line(rng)
        lines.append(line)
        starts.append(size)
        size += len(line)
    data = torch.frombuffer(bytearray("".join(lines).encode()), dtype=torch.uint8)
    return data, torch.tensor([start for start in starts if start + CONTEXT + 1 <= size])


def make_held_out(seed, per_task):
    """{task: [(document, prompt, answer)]}, without repeats; the document is training lines that may precede the prompt."""
    rng = random.Random(f"held out {seed}")
    items = {}
    for task, make in TASKS.items():
        chosen = {}
        while len(chosen) < per_task:
            prompt, answer, keys = make(rng)
            if held_out(keys[0]) and prompt not in chosen:
                chosen[prompt] = answer
        items[task] = [(document_before(rng, prompt + answer), prompt, answer) for prompt, answer in chosen.items()]
    return items


def document_before(rng, item):
    room = rng.randrange(CONTEXT - len(item) + 1)
    document = ""
    while len(document) + len(line := training_line(rng)) <= room:
        document += line
    return document


def build_model():
    return GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=256, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, hidden_act="gelu",
        max_position_embeddings=CONTEXT, rotary_pct=0.25, rotary_emb_base=10000, use_parallel_residual=True,
        tie_word_embeddings=False, bos_token_id=NEWLINE, eos_token_id=NEWLINE))


def make_optimizer(model, device):
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_LR, betas=(0.9, 0.98), fused=device.type == "cuda")


def learning_rate(progress):
    """Linear warm-up over the first 3 %, then a cosine down to a hundredth of the peak; progress is 0..1."""
    return PEAK_LR * min(progress / 0.03, 0.01 + 0.99 * (0.5 + 0.5 * math.cos(math.pi * progress)))


def train(model, corpus, starts, options, device):
    optimizer = make_optimizer(model, device)
    generator = torch.Generator(device).manual_seed(options.seed)
    window = torch.arange(CONTEXT + 1, device=device)
    began, step = time.monotonic(), 0
    # The time limit speeds the schedule up where the device is slow, so that every run ends at the lowest learning rate.
    while (progress := max((step + 1) / options.steps, (time.monotonic() - began) / (60 * options.minutes))) <= 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(progress)
        chosen = starts[torch.randint(len(starts), (options.batch, 1), generator=generator, device=device)]
        batch = corpus[chosen + window].long()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 0:
            print(f"step {step}  loss {loss.item():.4f} nats/byte  {time.monotonic() - began:.0f} s", flush=True)
        step += 1
    print(f"trained {step} steps in {time.monotonic() - began:.0f} s, last loss {loss.item():.4f} nats/byte", flush=True)


def save(model, directory, items):
    model.to("cpu", torch.float16).save_pretrained(directory)
    # Published Pythia configurations spell the rotary settings this way; readers of either spelling find theirs.
    config = json.loads((directory / "config.json").read_text())
    config.update(rotary_pct=0.25, rotary_emb_base=10000)
    (directory / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    with open(directory / "held_out.jsonl", "w") as file:
        for _, prompt, answer in (item for task in TASKS for item in items[task][:SAVED_ITEMS]):
            file.write(json.dumps({"prompt": prompt, "answer": answer}) + "\n")


@torch.no_grad()
def share_right(model, pairs, device):
    """Share of (text, answer) pairs whose whole answer, newline included, greedy decoding writes after the text.

    It does exactly when each answer byte has the highest logit given the right bytes before it, so one forward pass decides."""
    right = 0
    pairs = sorted(pairs, key=lambda pair: len(pair[0] + pair[1]))  # rows of like length waste little padding
    for first in range(0, len(pairs), 50):
        rows = pairs[first:first + 50]
        width = max(len(text + answer) for text, answer in rows)
        padded = [list((text + answer).encode().ljust(width, b"\n")) for text, answer in rows]
        tokens = torch.tensor(padded, device=device)
        best = model(input_ids=tokens[:, :-1], use_cache=False).logits.argmax(-1)
        for row, (text, answer) in enumerate(rows):
            answer_at = slice(len(text) - 1, len(text + answer) - 1)
            right += torch.equal(best[row, answer_at], tokens[row, 1:][answer_at])
    return right / len(pairs)


def evaluate(directory, items, device):
    """Prints the table for the saved checkpoint; true if every share is high enough."""
    model = GPTNeoXForCausalLM.from_pretrained(directory, dtype=torch.float32).to(device).eval()
    worst = 1.0
    print(f"\n{'task':6} {'items':>6} {'alone':>8} {'in a document':>14}")
    for task, rows in items.items():
        alone = share_right(model, [(prompt, answer) for _, prompt, answer in rows], device)
        inside = share_right(model, [(document + prompt, answer) for document, prompt, answer in rows], device)
        worst = min(worst, alone, inside)
        print(f"{task:6} {len(rows):6} {alone:8.1%} {inside:14.1%}")
    size = sum(path.stat().st_size for path in Path(directory).iterdir())
    print(f"\n{size} bytes in {len(list(Path(directory).iterdir()))} files; {sum(p.numel() for p in model.parameters())} parameters")
    return worst >= REQUIRED_SHARE and size < MAX_DIRECTORY_BYTES


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo_model", help="directory to write")
    parser.add_argument("--eval-only", type=Path, metavar="DIR", help="train nothing; evaluate this checkpoint")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=30, help="training ends after this long, with fewer steps if need be")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"windows of {CONTEXT} bytes a step")
    parser.add_argument("--items", type=int, default=500, help=f"held-out items per task, at least {SAVED_ITEMS}; minutes' work on a CPU")
    parser.add_argument("--corpus-bytes", type=int, default=CORPUS_BYTES)
    return parser.parse_args()


def main():
    options = parse_options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    items = make_held_out(options.seed, max(options.items, SAVED_ITEMS))
    if not options.eval_only:
        began = time.monotonic()
        corpus, starts = make_corpus(random.Random(f"train {options.seed}"), options.corpus_bytes)
        print(f"corpus: {len(corpus)} bytes, {len(starts)} lines, {time.monotonic() - began:.0f} s", flush=True)
        torch.manual_seed(options.seed)
        model = build_model().to(device).train()
        train(model, corpus.to(device), starts.to(device), options, device)
        save(model, options.out, items)
    return 0 if evaluate(options.eval_only or options.out, items, device) else 1


if __name__ == "__main__":
    sys.exit(main())
