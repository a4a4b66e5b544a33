"""Every golden checkpoint of tests/golden on the CUDA backend, against transformers' fp32 logits.

    python3 tests/gpu/golden_proof.py --library build/release/libclusterfusion.so [--device cpu] [--only llama_mqa,neox_eps]

A checkpoint runs in the dtype it is stored in, an F32 one rounded to F16 and to BF16, as asked: once as a prefill of its prompt, once
token by token. Bounds, on the relative RMS error of every row's logits: 3e-3 with F16 weights, 2e-2 with BF16. Rounding weights is no
error of the backend: a checkpoint that was rounded is held to transformers' logits as well as to those of the CPU backend, which is given the same
rounded weights and is exact to 1e-4. Shapes that the backend does not have are refused with CF_ERROR_UNSUPPORTED. The demo checkpoint's greedy
tokens are transformers' own, in every launch mode.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "golden")]
import demo_prompts  # noqa: E402
import weights  # noqa: E402
from checkpoint_files import write_checkpoint  # noqa: E402
from goldens import golden  # noqa: E402
from reference import relative_error  # noqa: E402
from report import Report, arguments_of, limits_of  # noqa: E402
from sessions import UNSUPPORTED, Context, Failure, Library  # noqa: E402
from variants import VARIANTS  # noqa: E402

DEMO = HERE.parents[1] / "examples" / "demo_model"
MODES = {"AUTO": 0, "STEP": 1, "BLOCK": 2, "PHASE": 3}
BOUNDS = {"F16": 3e-3, "BF16": 2e-2}
# Sizes of no published model, and the word of the sentence that refuses them.
REFUSED = {"hidden_size 120": ({"hidden_size": 120}, "hidden_size"), "intermediate_size 200": ({"intermediate_size": 200}, "intermediate_size"),
           "hidden_size 100, intermediate_size 72": ({"hidden_size": 100, "intermediate_size": 72}, "hidden_size")}


def logits_by(way, model, tokens):
    with model.session(len(tokens)) as session:
        if way == "prefill":
            return session.prefill(tokens)
        return np.stack([session.step(token) for token in tokens])


def prove(report, row, context, cpu, variant, weight_dtype, errors):
    stored, bound = golden(variant), BOUNDS[weight_dtype]
    assert stored.fingerprint == weights.fingerprint(variant), "the golden is not of this variant"
    tokens = weights.prompt(variant)
    with tempfile.TemporaryDirectory() as folder:
        directory = write_checkpoint(variant, Path(folder))
        try:
            model = context.load(directory, weight_dtype)
        except Failure as failure:
            raise AssertionError(f"refused: {failure}") if failure.status == UNSUPPORTED else failure
        reference = cpu.load(directory, weight_dtype)
    exact = logits_by("prefill", reference, tokens)
    reference.close()
    with model:
        for way in ("prefill", "steps"):
            made = logits_by(way, model, tokens)
            to_golden = relative_error(made[stored.positions], stored.logits)
            to_cpu = relative_error(made, exact)
            report.check((to_golden <= bound).all(), f"{way}: {to_golden.max():.2e} from transformers, at most {bound:.0e} asked")
            report.check((to_cpu <= bound).all(), f"{way}: {to_cpu.max():.2e} from the CPU backend with the same weights, at most {bound:.0e} asked")
            row[way], row[f"{way}_cpu"] = float(to_golden.max()), float(to_cpu.max())
            family = f"{'neox' if weights.is_neox(variant) else 'llama'} {weight_dtype}{' (rounded)' if variant.dtype == 'F32' else ''} {way}"
            errors.setdefault(family, []).append((float(to_golden.max()), float(to_cpu.max()), variant.name))


def refuse(report, row, context, device, change, word):
    variant = VARIANTS["llama_wide_heads"]
    variant = dataclasses.replace(variant, name="refused", config={**variant.config, **change})
    with tempfile.TemporaryDirectory() as folder:
        directory = write_checkpoint(variant, Path(folder))
        try:
            model = context.load(directory)
        except Failure as failure:
            report.check(failure.status == UNSUPPORTED and word in str(failure), f"{failure}, not CF_ERROR_UNSUPPORTED with {word!r}")
            row["sentence"] = str(failure)
            if device == "cpu":
                report.check(False, "the CPU backend has every shape")
            return
    with model:
        if device == "cuda":
            report.check(False, "the model was loaded, and its shape is none that CUDA has")
        logits = logits_by("prefill", model, weights.prompt(variant, "prompt", 5))
        report.check(np.isfinite(logits).all(), "logits are not finite")


def demo(report, row, context, mode):
    record = json.loads((HERE.parent / "golden" / "demo_tokens.json").read_text())
    report.check(record["fingerprint"] == demo_prompts.fingerprint(DEMO), "the tokens are of another demo checkpoint")
    row["tokens"] = 0
    with context.load(DEMO) as model:
        for case in record["cases"]:
            prompt = list(case["prompt"].encode())
            for way in ("in one call", "call by call"):
                with model.session(len(prompt) + len(case["tokens"]), launch_mode=MODES[mode]) as session:
                    session.prefill(prompt, all_rows=False)
                    if way == "in one call":
                        session.steps(len(case["tokens"]) - 1)  # the first is already pending
                    else:
                        for _ in case["tokens"][1:]:
                            session.steps(1)
                    report.check(session.tokens()[len(prompt) :] == case["tokens"], f"{case['prompt'][:30]!r}, {way}: other tokens than transformers'")
            row["tokens"] += len(case["tokens"])


def summary(errors):
    print(f"\n{'family, weights, way':34} {'cases':>5} {'worst':>9} {'median':>9} {'worst, to CPU':>13} {'median':>9}  worst case")
    for family, found in sorted(errors.items()):
        golden_errors, cpu_errors, names = zip(*found)
        worst = names[int(np.argmax(golden_errors))]
        print(f"{family:34} {len(found):5} {max(golden_errors):9.2e} {np.median(golden_errors):9.2e} {max(cpu_errors):13.2e} {np.median(cpu_errors):9.2e}  {worst}")


def main():
    arguments = arguments_of(__doc__).parse_args()
    report, library, errors = Report("golden_proof", arguments), Library(arguments.library), {}
    context, cpu = Context(library, arguments.device, **limits_of(arguments)), Context(library, "cpu")
    for variant in VARIANTS.values():
        for weight_dtype in (variant.dtype,) if variant.dtype != "F32" else BOUNDS:
            report.run(f"{variant.name} {weight_dtype}", prove, context, cpu, variant, weight_dtype, errors)
    for name, (change, word) in REFUSED.items():
        report.run(f"refused: {name}", refuse, context, arguments.device, change, word)
    for mode in MODES if arguments.device == "cuda" else ("AUTO",):
        report.run(f"demo checkpoint, launch mode {mode}", demo, context, mode)
    summary(errors)
    report.finish()


if __name__ == "__main__":
    main()
