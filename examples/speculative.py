"""Speculative decoding: a small model drafts a few tokens, the large one verifies them in one step, and the text is to the bit what the
large one alone would write.

    python examples/speculative.py [DIR] [--draft DIR] [--prompt TEXT] [--tokens N] [--drafted K] [--device cpu]

Without --draft the draft is the model's own first layers, straight into its final norm and head: a configuration with fewer layers,
whose other tensors the library skips.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

import clusterfusion as cf

DEMO = Path(__file__).resolve().parent / "demo_model"


def first_layers(directory: Path, folder: Path) -> Path:
    """A checkpoint of the first half of a model's layers, and one more."""
    config = json.loads((directory / "config.json").read_text())
    config["num_hidden_layers"] = config["num_hidden_layers"] // 2 + 1
    (folder / "config.json").write_text(json.dumps(config))
    for file in directory.glob("model*.safetensors*"):
        (folder / file.name).symlink_to(file.resolve())
    return folder


def speculate(model: cf.Model, draft: cf.Model, prompt: list[int], n_tokens: int, n_drafted: int) -> tuple[list[int], int]:
    """n_tokens greedy tokens of `model`, and the steps of it that they took after the prompt."""
    room = len(prompt) + n_tokens + n_drafted
    with model.session(capacity_tokens=room) as verifier, draft.session(capacity_tokens=room) as drafter:
        made = [verifier.prefill(prompt).token]
        drafter.prefill(prompt)
        n_steps = 0
        while len(made) < n_tokens:
            position = len(prompt) + len(made) - 1  # of the last token, which nobody has read yet
            drafter.decode_step(made[-1])
            if n_drafted > 1:
                drafter.decode_steps(n_drafted - 1)
            drafted = drafter.tokens(position + 1)
            right = verifier.decode_positions([made[-1], *drafted]).row_tokens.tolist()  # what should stand after each
            n_steps += 1
            n_right = next((i for i, token in enumerate(drafted) if token != right[i]), len(drafted))
            made += right[: n_right + 1]
            verifier.truncate(position + 1 + n_right)
            if n_right < len(drafted):
                drafter.truncate(position + 1 + n_right)
            else:
                drafter.decode_step(drafted[-1])  # all were right: it has not read its own last one yet
    return made[:n_tokens], n_steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=DEMO, metavar="DIR")
    parser.add_argument("--draft", type=Path, metavar="DIR", help="a smaller model with the same tokens")
    parser.add_argument("--prompt", default="count 97 to 103:")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--drafted", type=int, default=4, help="tokens drafted for a step, 1 to 63")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()

    model = cf.Model.from_pretrained(arguments.model, arguments.device)
    with contextlib.ExitStack() as stack:
        directory = arguments.draft or first_layers(arguments.model, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        draft = cf.Model.from_pretrained(directory, model.context)
    if draft.vocab_size != model.vocab_size:
        sys.exit(f"the draft has {draft.vocab_size} tokens, the model {model.vocab_size}: they cannot work together")
    prompt = model.tokenizer.encode(arguments.prompt)
    plain = list(model.generate(prompt, arguments.tokens, stop=()))
    made, n_steps = speculate(model, draft, prompt, arguments.tokens, arguments.drafted)
    print(arguments.prompt + model.tokenizer.decode(made))
    print(f"{len(made)} tokens in {n_steps} steps of the model: {(len(made) - 1) / max(n_steps, 1):.2f} tokens a step", file=sys.stderr)
    if made != plain:
        sys.exit("they are not the tokens of plain greedy decoding")
    print("the same tokens as of plain greedy decoding", file=sys.stderr)


if __name__ == "__main__":
    main()
