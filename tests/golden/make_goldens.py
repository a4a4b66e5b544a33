"""Makes logits.npz (transformers' fp32 logits of every variant) and, with --demo, demo_tokens.json (its greedy tokens on
the demo checkpoint). Needs torch and transformers; the tests need neither.

  python tests/golden/make_goldens.py                      all variants
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


def golden_logits(variant: Variant) -> np.ndarray:
    with tempfile.TemporaryDirectory() as directory:
        model, info = load(write_checkpoint(variant, Path(directory), for_reference=True))
    check_loaded(model, info, variant)
    with torch.inference_mode():
        logits = model(torch.tensor([weights.prompt(variant)]), use_cache=False).logits[0]
    assert logits.dtype == torch.float32
    return logits.numpy()


def make_logits() -> None:
    arrays = {"versions": np.array(json.dumps(versions()))}
    print(f"{'variant':36} {'layers':>6} {'hidden':>6} {'tokens':>6} {'stored':>6} {'rms':>8} {'own error':>10}")
    for variant in VARIANTS.values():
        logits = golden_logits(variant)
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


def make_demo(directory: Path) -> None:
    model, info = load(directory)
    if info["missing_keys"] or info["mismatched_keys"]:
        raise SystemExit(f"{directory}: transformers did not load it whole: {info}")
    cases = []
    for text in demo_prompts.prompts(directory):
        tokens, lead = greedy(model, list(text.encode()), demo_prompts.N_TOKENS)
        cases.append({"prompt": text, "tokens": tokens})
        print(f"{text!r:40.40} smallest lead {lead:.2e}  {bytes(tokens[:40])!r}")
    record = {"versions": versions(), "fingerprint": demo_prompts.fingerprint(directory), "cases": cases}
    (GOLDEN / "demo_tokens.json").write_text(json.dumps(record) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", nargs="?", type=Path, const=GOLDEN.parents[1] / "examples" / "demo_model", metavar="DIRECTORY")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")  # no TF32, no BF16 inside
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    make_demo(arguments.demo) if arguments.demo else make_logits()


if __name__ == "__main__":
    main()
