"""A decode loop of one's own: several branches from one prompt, tokens drawn in NumPy, and a draw that was unlikely taken back.

    python examples/decode_loop.py [DIR] [--prompt TEXT] [--branches N] [--temperature T] [--least P] [--seed S] [--device cpu]

Every branch is a fork of the session that read the prompt, so its keys and values are there once. A branch that drew two unlikely
tokens in a row goes back by both and draws again, without the token that led there.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

import clusterfusion as cf

DEMO = Path(__file__).resolve().parent / "demo_model"
MAX_TOKENS = 40


Array = npt.NDArray[np.float64]


def log_softmax(logits: npt.NDArray[np.float32]) -> Array:
    shifted: Array = logits.astype(np.float64) - logits.max()
    return shifted - float(np.log(np.exp(shifted).sum()))


def draw(logprobs: Array, temperature: float, banned: set[int], random: np.random.Generator) -> int:
    """By the Gumbel-max rule."""
    scores = logprobs / temperature + random.gumbel(size=len(logprobs))
    scores[list(banned)] = -np.inf
    return int(scores.argmax())


def branch(session: cf.Session, first: Array, stops: tuple[int, ...], arguments: argparse.Namespace, random: np.random.Generator) -> tuple[list[int], float, int]:
    """Its tokens, their log-likelihood, and how often it went back. first: [V] log-probabilities after the prompt."""
    start = session.position
    logprobs = [first]  # [n + 1] after each token drawn so far
    drawn: list[int] = []
    banned: dict[int, set[int]] = {}  # place -> what was taken back there
    n_back = 0
    while len(drawn) < MAX_TOKENS:
        place = len(drawn)
        token = draw(logprobs[place], arguments.temperature, banned.get(place, set()), random)
        drawn.append(token)
        if token in stops:
            break
        unlikely = [logprobs[i][drawn[i]] < np.log(arguments.least) for i in range(max(place - 1, 0), place + 1)]
        if len(unlikely) == 2 and all(unlikely):
            banned.setdefault(place - 1, set()).add(drawn[place - 1])
            banned.pop(place, None)
            del drawn[place - 1 :], logprobs[place:]
            session.truncate(start + place - 1)
            n_back += 1
            continue
        step = session.decode_step(token, logits=True)
        logprobs.append(log_softmax(step.logits[0]))
    return drawn, float(sum(logprobs[i][token] for i, token in enumerate(drawn))), n_back


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=DEMO, metavar="DIR")
    parser.add_argument("--prompt", default="tom has 3 red balls. anna has 5 blue cups. who has cups?")
    parser.add_argument("--branches", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=2.5)
    parser.add_argument("--least", type=float, default=0.02, help="probability below which a token is unlikely")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    model = cf.Model.from_pretrained(arguments.model, arguments.device)
    prompt = model.tokenizer.encode(arguments.prompt)
    pool = model.kv_pool((len(prompt) + MAX_TOKENS) * (arguments.branches + 1), page_tokens=16)
    root = model.session(pool=pool, capacity_tokens=len(prompt) + MAX_TOKENS, reserve=False)
    first = log_softmax(root.prefill(prompt, logits=True).logits[0])

    made = []
    for number in range(arguments.branches):
        with root.fork() as session:
            made.append(branch(session, first, model.config.eos_tokens, arguments, np.random.default_rng([arguments.seed, number])))
            shared = pool.info.n_pages_shared
    print(arguments.prompt)
    for tokens, likelihood, n_back in made:
        print(f"{likelihood:9.3f}  went back {n_back} times  {model.tokenizer.decode(tokens)!r}")
    best = max(made, key=lambda each: each[1])
    print(f"{shared} pages of the prompt are shared; the likeliest: {model.tokenizer.decode(best[0]).strip()}")


if __name__ == "__main__":
    main()
