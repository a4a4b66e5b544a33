"""Sessions on a GPU against transformers in fp32, on checkpoints of the true shapes: logits and the residual stream before every layer, by
prefill and by steps, at contexts up to 2047; greedy tokens; the same bits for every cut; the time of a token.

    python3 tests/gpu/decode_proof.py --library build/release/libclusterfusion.so [--shapes small,pythia-2.8b] [--time]

The checkpoints have random weights, every tensor, with a few channels of the residual stream larger than the others; transformers makes and
saves them, the library loads them. The bound of every error is that of transformers' own run in the checkpoint's dtype.
"""

import ctypes
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from published import PUBLISHED, SHAPES, SMALL, make  # noqa: E402
from report import Report, arguments_of  # noqa: E402
from sessions import Context, Library, same  # noqa: E402

CONTEXTS = (1, 2, 63, 64, 65, 127, 511, 1024, 2047)
TIMED = (128, 1984)
GREEDY = 100


@torch.no_grad()
def transformers_run(kind, folder, dtype, tokens, contexts):
    """Logits and hidden states [contexts, layers, H] after each context, and the model."""
    model = kind.from_pretrained(folder, dtype=dtype, device_map="cuda")
    out = model(torch.tensor([tokens], device="cuda"), output_hidden_states=True)
    rows = torch.tensor(contexts, device="cuda") - 1
    logits = out.logits[0][rows].float().cpu().numpy()
    hidden = torch.stack([h[0][rows].float().cpu() for h in out.hidden_states[:-1]], 1).numpy()  # the last is behind the final norm
    return logits, hidden, model


class OurRun:
    """What the library makes of the same, by prefill and by steps; and a greedy text."""

    def __init__(self, report, library, model, tokens, contexts):
        self.layers, self.hidden_size = model.config.n_layers, model.config.hidden_size
        self.library, self.logits, self.hidden = library, {}, {}
        with model.session(max(contexts) + 1) as session:
            for way in ("prefill", "steps"):
                self.logits[way], self.hidden[way] = [], []
                at = 0
                session.truncate(0)
                for context in contexts:
                    if way == "prefill":
                        logits, hidden = self.tapped(session, "cf_prefill", tokens[at:context])
                        at = context
                    else:
                        if context - 1 > at:
                            session.prefill(tokens[at : context - 1], all_rows=False)
                        at = context - 1
                        logits, hidden = self.tapped(session, "cf_decode_step", tokens[at])
                        session.truncate(at)
                    self.logits[way].append(logits), self.hidden[way].append(hidden)
            session.truncate(0)
            whole = session.prefill(tokens, all_rows=False)[0]
            report.check(same(whole, self.logits["prefill"][-1]), "other bits when the prompt is one piece")
            session.truncate(0)
            session.prefill(tokens[:5], all_rows=False)
            session.steps(GREEDY)
            self.text = session.tokens()
        with model.session(128) as other:  # whose memory holds nothing of the first
            other.prefill(tokens[:5], all_rows=False)
            for n in (1, 2, 3, 30, 64):
                other.steps(n)
            report.check(other.tokens() == self.text, "other tokens when steps are called otherwise")

    def tapped(self, session, call, what):
        """Logits after the last position, and its residual stream before every layer."""
        n_rows = len(what) if call == "cf_prefill" else 1
        hidden = np.full((self.layers, n_rows, self.hidden_size), np.nan, np.float32)
        taps = (self.library.header.structs["cf_tap"] * self.layers)()
        for layer in range(self.layers):
            taps[layer] = self.library.struct("cf_tap", point=self.library.CF_TAP_BLOCK_INPUT, layer=layer, data=hidden[layer].ctypes.data)
        logits, _ = session.enqueue(call, what, taps=ctypes.addressof(taps), n_taps=self.layers)
        session.wait()
        return logits[0], hidden[:, -1]


def rms_error(value, reference):
    """Root of the mean square, over contexts (and layers), of the relative error of a row."""
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    return float(np.sqrt((((value - reference) ** 2).sum(-1) / (reference**2).sum(-1)).mean()))


def time_tokens(row, model, tokens):
    with model.session(TIMED[-1] + 64) as session:
        for context in TIMED:
            session.truncate(0)
            start = time.perf_counter()
            session.prefill((tokens * 2)[:context], all_rows=False)
            row[f"prefill_ms@{context}"] = (time.perf_counter() - start) * 1e3
            times = []
            for _ in range(8):
                session.truncate(context)
                start = time.perf_counter()
                session.steps(32)
                times.append((time.perf_counter() - start) / 32 * 1e3)
            row[f"ms@{context}"] = sorted(times)[4]


def prove(report, row, library, context, name, arguments):
    dtype, config = getattr(torch, arguments.dtype), SHAPES[name]()
    contexts = [c for c in CONTEXTS if c < config.max_position_embeddings]
    tokens = torch.randint(0, config.vocab_size, (max(contexts),), generator=torch.Generator().manual_seed(3)).tolist()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        kind = make(config, dtype, folder)
        torch.cuda.empty_cache()
        start = time.perf_counter()
        with context.load(folder) as model:
            row["load_s"] = time.perf_counter() - start
            ours = OurRun(report, library, model, tokens, contexts)
            if arguments.time:
                time_tokens(row, model, tokens)
        own_logits, own_hidden, own = transformers_run(kind, folder, dtype, tokens, contexts)
        del own
        torch.cuda.empty_cache()
        logits, hidden, reference = transformers_run(kind, folder, torch.float32, tokens, contexts)
    report.check(np.isfinite(own_logits).all(), "transformers' own run did not survive the outliers")
    for what, expected, owns, made in (("logits", logits, own_logits, ours.logits), ("hidden", hidden, own_hidden, ours.hidden)):
        bound = rms_error(owns, expected)
        row[f"{what}_own"] = bound
        for way, value in made.items():
            row[f"{what}_{way}"] = error = rms_error(value, expected)
            report.check(error <= bound, f"{what} by {way}: error {error:.2e} beyond transformers' own {bound:.2e}")
    with torch.no_grad():  # each greedy token judged by the reference after the same tokens
        likeliest = reference(torch.tensor([ours.text[:-1]], device="cuda")).logits[0].argmax(-1).tolist()
    report.check(len(ours.text) == GREEDY + 6, f"{len(ours.text)} tokens instead of {GREEDY + 6}")
    row["differ"] = f"{sum(likeliest[i] != ours.text[i + 1] for i in range(4, GREEDY + 5))}/{GREEDY + 1}"
    del reference
    torch.cuda.empty_cache()


def main():
    parser = arguments_of(__doc__, device=False)
    parser.add_argument("--shapes", default="small", help="names, small or published")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--folder", help="where checkpoints are written for a while")
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    library, report = Library(arguments.library), Report("decode_proof", arguments)
    context = Context(library)
    groups = {"small": SMALL, "published": PUBLISHED}
    for name in [n for part in arguments.shapes.split(",") for n in groups.get(part, [part])]:
        report.run(name, prove, library, context, name, arguments)
    report.finish()


if __name__ == "__main__":
    main()
