"""The residual stream of a model while it reads a prompt, layer by layer: what it would say next, after each token, if it ended there.

    python examples/logit_lens.py [DIR] [--prompt TEXT] [--last N] [--device cpu]

The stream after a layer goes straight to the final norm and the head. A column is a token of the prompt; below it stands what each
layer would put after it, and at the right how sure the layer is of what comes last.
"""

import argparse
from pathlib import Path

import numpy as np

import clusterfusion as cf

DEMO = Path(__file__).resolve().parent / "demo_model"
WIDTH = 6


def cell(text: str) -> str:
    return repr(text)[1:-1][:WIDTH].rjust(WIDTH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=DEMO, metavar="DIR")
    parser.add_argument("--prompt", default="tom has 3 red balls. anna has 5 blue cups. who has cups? anna")
    parser.add_argument("--last", type=int, default=10, help="tokens of the prompt that are shown")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    model = cf.Model.from_pretrained(arguments.model, arguments.device)
    tokens = model.tokenizer.encode(arguments.prompt)
    last_layer = model.config.n_layers - 1
    session = model.session(capacity_tokens=len(tokens))
    with session.tapped(*(cf.Tap.read("block_output", layer) for layer in range(model.config.n_layers))) as streams:
        session.prefill(tokens)

    shown = range(max(len(tokens) - arguments.last, 0), len(tokens))
    print("         after " + "".join(cell(model.tokenizer.decode([tokens[i]])) for i in shown) + "    probability   norm of the stream")
    for layer, stream in enumerate(streams):
        session.truncate(0)
        step = session.prefill(tokens, rows="all", top_n=1, taps=[cf.Tap.write("block_output", last_layer, stream.data)])
        said = [model.tokenizer.decode([int(step.top_tokens[i, 0])]) for i in shown]
        norm = np.linalg.norm(stream.data[-1])
        print(f"layer {layer:2}: says " + "".join(map(cell, said)) + f"    {np.exp(step.top_logprobs[-1, 0]):11.3f}   {norm:18.2f}")


if __name__ == "__main__":
    main()
