"""How good the decode path itself is on a text: every token is fed by a step of its own, and judged by that step's logits. Beside transformers in
fp32, where torch is: perplexity of both, agreement of the likeliest token, overlap of the ten likeliest, distance of logits and distributions."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
import demo_prompts  # noqa: E402

RUNS, RUN_TOKENS = 10, 32  # of the check that runs repeat


def log_softmax(logits):
    logits = logits.astype(np.float64)
    most = logits.max(-1, keepdims=True)
    return logits - most - np.log(np.exp(logits - most).sum(-1, keepdims=True))


def overlap(a, b, n):
    """Share of the n likeliest of each row that both have."""
    top_a, top_b = np.argpartition(-a, n, axis=-1)[:, :n], np.argpartition(-b, n, axis=-1)[:, :n]
    return float(np.mean([len(set(x) & set(y)) / n for x, y in zip(top_a.tolist(), top_b.tolist())]))


def decoded(model, tokens):
    """Logits [tokens, V], a step each."""
    with model.session(len(tokens)) as session:
        return np.stack([session.step(token) for token in tokens])


def repeats(model, prompt):
    """How many of RUNS greedy runs give the tokens and last logits of the first."""
    runs = set()
    for _ in range(RUNS):
        with model.session(len(prompt) + RUN_TOKENS + 2) as session:
            session.prefill(prompt, all_rows=False)
            session.steps(RUN_TOKENS)
            runs.add((tuple(session.tokens()), session.step().tobytes()))
    return RUNS if len(runs) == 1 else RUNS - len(runs)


def perplexity(log_probabilities, tokens):
    return float(np.exp(-log_probabilities[np.arange(len(tokens) - 1), tokens[1:]].mean()))


def measure_tokens(rows, name, model, tokens, directory, torch_device):
    ours = decoded(model, tokens)
    mine = log_softmax(ours)
    numbers = {"tokens": len(tokens), "perplexity": perplexity(mine, tokens), "repeated": repeats(model, tokens[:16]), "of_runs": RUNS}
    if torch_device:
        import torch
        from transformers import AutoModelForCausalLM

        reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(torch_device)
        with torch.no_grad():
            theirs = reference(torch.tensor([tokens], device=torch_device)).logits[0].float().cpu().numpy()
        expected = log_softmax(theirs)
        numbers |= {
            "perplexity_transformers": perplexity(expected, tokens),
            "same_likeliest": float((ours.argmax(-1) == theirs.argmax(-1)).mean()),
            "overlap_5": overlap(ours, theirs, 5), "overlap_10": overlap(ours, theirs, 10),
            "logits_mae": float(np.abs(ours.astype(np.float64) - theirs).mean()),
            "kl": float((np.exp(expected) * (expected - mine)).sum(-1).mean()),
        }
    rows.add("quality", name, "clusterfusion, by steps", **numbers)


def measure(rows, model, directory, torch_device, limit):
    """On the demo checkpoint's held-out text; its tokens are bytes."""
    tokens = list(demo_prompts.scored_text(directory))[: min(limit or 10**9, model.config.max_position_embeddings)]
    measure_tokens(rows, "demo", model, tokens, directory, torch_device)


def measure_own(rows, model, directory, text, torch_device):
    """On a user's checkpoint and text."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(directory)(Path(text).read_text()).input_ids[: model.config.max_position_embeddings]
    measure_tokens(rows, Path(directory).name, model, tokens, directory, torch_device)
