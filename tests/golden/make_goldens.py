"""Makes logits.npz (transformers' fp32 logits of every variant); with --taps, taps.npz (what its hooks read inside some of
them, and their logits when hooks overwrite it); with --demo, demo_tokens.json (its greedy tokens and perplexity on the demo
checkpoint). Needs torch and transformers; the tests need neither.

  python tests/golden/make_goldens.py                      all variants
  python tests/golden/make_goldens.py --taps
  python tests/golden/make_goldens.py --demo [DIRECTORY]   the demo checkpoint (examples/demo_model)
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent))
import demo_prompts
import tap_goldens
import weights
from checkpoint_files import write_checkpoint
from reference import Reference, relative_error
from variants import VARIANTS, Variant, golden_positions

GOLDEN = Path(__file__).resolve().parent
OWN_ERROR_LIMIT = 2e-5  # of transformers' fp32 against float64: a fifth of what the library is allowed


def versions() -> dict[str, str]:
    return {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}


def load(directory: Path):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, local_files_only=True
    )
    return model.eval(), info


def check_loaded(model, info: dict, variant: Variant) -> None:
    """Every parameter must be the generated tensor, bit for bit: nothing initialised afresh, nothing left over."""
    unused = set(weights.unused_tensors(variant))
    if info["missing_keys"] or info["mismatched_keys"] or set(info["unexpected_keys"]) - unused:
        raise SystemExit(f"{variant.name}: transformers did not load it whole: {info}")
    made = {name.replace("embed_out.", "lm_head."): tensor for name, tensor in weights.tensors(variant).items()}
    parameters = dict(model.named_parameters())  # tied ones once
    if set(parameters) != set(made):
        raise SystemExit(f"{variant.name}: parameters differ: {sorted(set(parameters) ^ set(made))}")
    for name, parameter in parameters.items():
        if parameter.dtype != torch.float32 or not np.array_equal(parameter.detach().numpy(), made[name].floats()):
            raise SystemExit(f"{variant.name}: {name} is not what was generated")


def variant_model(variant: Variant):
    with tempfile.TemporaryDirectory() as directory:
        model, info = load(write_checkpoint(variant, Path(directory), for_reference=True))
    check_loaded(model, info, variant)
    return model


def logits_of(model, tokens: list[int]) -> np.ndarray:
    with torch.inference_mode():
        logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
    assert logits.dtype == torch.float32
    return logits.numpy()


def make_logits() -> None:
    arrays = {"versions": np.array(json.dumps(versions()))}
    print(f"{'variant':36} {'layers':>6} {'hidden':>6} {'tokens':>6} {'stored':>6} {'rms':>8} {'own error':>10}")
    for variant in VARIANTS.values():
        logits = logits_of(variant_model(variant), weights.prompt(variant))
        floats = {name: tensor.floats() for name, tensor in weights.tensors(variant).items()}
        error = relative_error(logits, Reference(variant.config, floats).logits(weights.prompt(variant))).max()
        rows = golden_positions(variant.n_tokens)
        c = variant.config
        rms = np.sqrt((logits.astype(np.float64) ** 2).mean())
        print(f"{variant.name:36} {c['num_hidden_layers']:6} {c['hidden_size']:6} {variant.n_tokens:6} {len(rows):6} {rms:8.3f} {error:10.1e}")
        if not error <= OWN_ERROR_LIMIT:
            raise SystemExit(f"{variant.name}: transformers is {error:.1e} from the float64 reference")
        arrays[variant.name] = logits[rows]
        arrays[variant.name + "/fingerprint"] = np.array(weights.fingerprint(variant))
    np.savez_compressed(GOLDEN / "logits.npz", **arrays)
    print(f"{GOLDEN / 'logits.npz'}: {(GOLDEN / 'logits.npz').stat().st_size} bytes")


class Hook:
    """At a tap point of transformers' model: keeps what passes, or puts other values in its place."""

    def __init__(self, model, layer: int, point: str, values: np.ndarray | None = None):
        self.seen, self._values = None, None if values is None else torch.from_numpy(values)[None]
        neox = hasattr(model, "gpt_neox")
        block = (model.gpt_neox if neox else model.model).layers[layer]
        attention_out = block.attention.dense if neox else block.self_attn.o_proj
        mlp_out = block.mlp.dense_4h_to_h if neox else block.mlp.down_proj
        module = {"ATTENTION_HEADS": attention_out, "MLP_ACTIVATION": mlp_out}.get(point, block)
        if point == "BLOCK_OUTPUT":
            self._handle = module.register_forward_hook(lambda module, arguments, output: self._pass(output))
        else:
            self._handle = module.register_forward_pre_hook(lambda module, arguments: (self._pass(arguments[0]), *arguments[1:]))

    def _pass(self, hidden):
        assert isinstance(hidden, torch.Tensor) and hidden.dim() == 3
        self.seen = hidden[0].numpy().copy()
        return hidden if self._values is None else self._values

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()


def make_taps() -> None:
    arrays = {"versions": np.array(json.dumps(versions()))}
    for variant in tap_goldens.VARIANTS:
        model, tokens, rows = variant_model(variant), weights.prompt(variant), tap_goldens.tap_positions(variant)
        untouched = logits_of(model, tokens)
        for layer in range(tap_goldens.n_layers(variant)):
            for point in tap_goldens.POINTS:
                key = f"{variant.name}/{layer}/{point}"
                with Hook(model, layer, point) as hook:
                    if not np.array_equal(logits_of(model, tokens), untouched):
                        raise SystemExit(f"{key}: reading changes the logits")
                if hook.seen.shape != (variant.n_tokens, tap_goldens.width(variant, point)):
                    raise SystemExit(f"{key}: read {hook.seen.shape}")
                with Hook(model, layer, point, tap_goldens.written_values(variant, layer, point)):
                    written = logits_of(model, tokens)
                arrays[key], arrays[key + "/written"] = hook.seen[rows], written[rows]
                change = relative_error(written, untouched).mean()
                print(f"{key:48} rms {np.sqrt((hook.seen**2).mean()):7.3f}  written: logits change by {change:.2f}")
        arrays[variant.name + "/fingerprint"] = np.array(weights.fingerprint(variant))
    np.savez_compressed(GOLDEN / "taps.npz", **arrays)
    print(f"{GOLDEN / 'taps.npz'}: {(GOLDEN / 'taps.npz').stat().st_size} bytes")


def greedy(model, prompt: list[int], n_tokens: int) -> tuple[list[int], float]:
    """Greedy tokens, and the smallest lead that any of them had over the next logit."""
    tokens, lead, cache, feed = [], float("inf"), None, prompt
    for _ in range(n_tokens):
        with torch.inference_mode():
            out = model(torch.tensor([feed]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        top = out.logits[0, -1].topk(2)
        lead = min(lead, float(top.values[0] - top.values[1]))
        feed = [int(top.indices[0])]
        tokens += feed
    return tokens, lead


def score(model, directory: Path) -> dict:
    """Negative log-likelihood of each window of demo_prompts.scored_text, of the tokens that no window before it had."""
    tokens = list(demo_prompts.scored_text(directory))
    windows, total = [], 0
    for window in demo_prompts.windows(len(tokens)):
        logits = torch.from_numpy(logits_of(model, tokens[window.begin : window.end])).double()
        rows = torch.arange(window.first - 1 - window.begin, window.end - 1 - window.begin)  # each predicts the token after it
        targets = torch.tensor(tokens[window.first : window.end])
        windows.append(-float(torch.log_softmax(logits[rows], -1)[torch.arange(len(rows)), targets].sum()))
        total += len(rows)
    perplexity = float(np.exp(sum(windows) / total))
    print(f"perplexity of {total} tokens in {len(windows)} windows: {perplexity:.6f}")
    return {"n_tokens": total, "windows": windows, "perplexity": perplexity}


def make_demo(directory: Path) -> None:
    model, info = load(directory)
    if info["missing_keys"] or info["mismatched_keys"]:
        raise SystemExit(f"{directory}: transformers did not load it whole: {info}")
    cases = []
    for text in demo_prompts.prompts(directory):
        tokens, lead = greedy(model, list(text.encode()), demo_prompts.N_TOKENS)
        cases.append({"prompt": text, "tokens": tokens})
        print(f"{text!r:40.40} smallest lead {lead:.2e}  {bytes(tokens[:40])!r}")
    record = {"versions": versions(), "fingerprint": demo_prompts.fingerprint(directory), "cases": cases, "scoring": score(model, directory)}
    (GOLDEN / "demo_tokens.json").write_text(json.dumps(record) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", nargs="?", type=Path, const=GOLDEN.parents[1] / "examples" / "demo_model", metavar="DIRECTORY")
    parser.add_argument("--taps", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")  # no TF32, no BF16 inside
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.demo:
        make_demo(arguments.demo)
    elif arguments.taps:
        make_taps()
    else:
        make_logits()


if __name__ == "__main__":
    main()
