"""How good the decode path itself is on a text: every token is fed by a step of its own, and judged by that step's logits. Beside transformers in fp32, where it is
installed: perplexity of both, agreement of the likeliest token, overlap of the five and ten likeliest, distance of logits and distributions; on a GPU also the
same of transformers' own run in fp16. And whether ten greedy runs give the same bits."""

import sys
from pathlib import Path

import numpy as np

from decoding import OURS
from subject import Unavailable, torch_or

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "golden"))
import demo_prompts  # noqa: E402

RUNS, RUN_TOKENS = 10, 32  # of the check that runs repeat
DEMO = Path(__file__).resolve().parents[2] / "examples" / "demo_model"


def log_softmax(logits):
    logits = logits.astype(np.float64)
    most = logits.max(-1, keepdims=True)
    return logits - most - np.log(np.exp(logits - most).sum(-1, keepdims=True))


def overlap(a, b, n):
    """Share of the n likeliest that both have."""
    n = min(n, len(a) - 1)
    return len(set(np.argpartition(-a, n)[:n].tolist()) & set(np.argpartition(-b, n)[:n].tolist())) / n


class Judge:
    """Adds up what rows of logits are worth, row by row: a vocabulary of 128,000 times 2,000 tokens would not be kept twice."""

    def __init__(self, tokens, reference=None):
        self.tokens, self.reference, self.sums, self.n = tokens, reference, {}, 0

    def add(self, logits):
        i, mine, numbers = self.n, log_softmax(logits), {}
        if not np.isfinite(logits).all():
            raise RuntimeError(f"logits of row {i} are not finite")
        if i + 1 < len(self.tokens):
            numbers["nll"] = -mine[self.tokens[i + 1]]
        if self.reference is not None:
            theirs = self.reference[i]
            expected = log_softmax(theirs)
            numbers |= {"same_likeliest": float(logits.argmax() == theirs.argmax()), "overlap_5": overlap(logits, theirs, 5),
                        "overlap_10": overlap(logits, theirs, 10),
                        "logits_mae": np.abs(logits.astype(np.float64) - theirs).mean(), "kl": (np.exp(expected) * (expected - mine)).sum()}
        for name, value in numbers.items():
            self.sums.setdefault(name, []).append(float(value))
        self.n += 1

    def numbers(self):
        means = {name: float(np.mean(values)) for name, values in self.sums.items()}
        nll = means.pop("nll", None)
        return {"tokens": self.n, **({} if nll is None else {"perplexity": float(np.exp(nll))}), **means}


def repeats(model, prompt):
    """How many of RUNS greedy runs give the tokens and last logits of the first."""
    runs = []
    for _ in range(RUNS):
        with model.session(len(prompt) + RUN_TOKENS + 2) as session:
            session.prefill(prompt, all_rows=False)
            session.steps(RUN_TOKENS)
            runs.append((tuple(session.tokens()), session.step().tobytes()))
    return sum(run == runs[0] for run in runs)


def text_of(subject):
    """What is scored: the text that was asked for; the demo checkpoint's own, held out of its training, whose tokens are bytes; otherwise random tokens, for which only
    agreement says anything."""
    options = subject.options
    if options and options.text and subject.directory == options.checkpoint:
        return tokenized(subject.directory, options.text)
    if subject.directory == DEMO:
        return list(demo_prompts.scored_text(DEMO))
    return subject.random_tokens(subject.sizes.scored, seed=3)


def tokenized(directory, text):
    """A file of token ids (JSON or separated by blanks), or text for the checkpoint's tokenizer."""
    content = Path(text).read_text()
    if Path(text).suffix in (".json", ".ids"):
        return [int(word) for word in content.replace("[", " ").replace("]", " ").replace(",", " ").split()]
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise Unavailable("a text needs transformers for its tokenizer; token ids (FILE.ids) do not") from None
    return AutoTokenizer.from_pretrained(directory)(content).input_ids


def windows(tokens, limit):
    """Pieces of as many tokens as the model has positions, each scored from its second token on; a rest of one token is left."""
    return [piece for piece in (tokens[at : at + limit] for at in range(0, len(tokens), limit)) if len(piece) > 1]


def quality(subject):
    model, at_most = subject.model, subject.options.text_tokens if subject.options else 2048
    own_text = subject.options and subject.options.text and subject.directory == subject.options.checkpoint
    tokens = text_of(subject)[:at_most]
    if subject.sizes.scored < 100 and not own_text:  # --quick
        tokens = tokens[: subject.sizes.scored]
    pieces = windows(tokens, subject.limit)
    if not pieces:
        raise Unavailable("the text has no two tokens")
    references = None
    try:
        torch = torch_or()
        references = runs_of(subject, torch, "float32", pieces)
    except Unavailable as reason:
        yield {"who": "transformers, fp32", "unavailable": str(reason)}

    def judged(runs):
        judges = [Judge(piece, references[i] if references else None) for i, piece in enumerate(pieces)]
        for judge, run in zip(judges, runs):
            for logits in run:
                judge.add(logits)
        total = Judge([])
        total.n = sum(judge.n for judge in judges)
        for judge in judges:
            for name, values in judge.sums.items():
                total.sums.setdefault(name, []).extend(values)
        return total.numbers()

    def steps(piece):
        with model.session(len(piece)) as session:
            for token in piece:
                yield session.step(token)

    about = {"text": "own" if own_text else "held out" if subject.directory == DEMO else "random tokens"}
    yield {"who": f"{OURS}, by steps", **about, **judged(map(steps, pieces)), "repeated": repeats(model, pieces[0][:16]), "of_runs": RUNS}
    if references:
        yield {"who": "transformers, fp32", **about, **judged(references)}
        if subject.on_gpu:
            yield {"who": "transformers, fp16", **about, **judged(runs_of(subject, torch, "float16", pieces))}


def runs_of(subject, torch, dtype, pieces):
    """Logits of transformers [tokens, V], of each piece."""
    subject.release()
    model = subject.transformers_model(dtype)
    with torch.no_grad():
        runs = [model(torch.tensor([piece], device=subject.device)).logits[0].float().cpu().numpy() for piece in pieces]
    del model
    subject.empty_cache()
    return runs
