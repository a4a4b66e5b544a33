"""The package as the suites use it: contexts of CLUSTERFUSION_DEVICE, cpu or cuda, and sessions whose steps give the logits of every row."""

from __future__ import annotations

import clusterfusion as cf
from goldens import DEVICE

PENDING = cf.PENDING
ISAS = ("baseline", "avx2", "avx512")


def context(threads: int = 0, isa: str = "auto", **options) -> cf.Context:
    return cf.Context(DEVICE, cpu_threads=threads, cpu_isa=isa, **options)


def load_model(directory, in_context: cf.Context | None = None) -> cf.Model:
    return cf.Model.from_pretrained(directory, in_context or context())


class Session(cf.Session):
    def __init__(self, model: cf.Model, **options):
        super().__init__(model, cf.SessionOptions(**options))

    def prefill(self, tokens, *, rows="all", logits=True, **wanted) -> cf.Step:
        return super().prefill(tokens, rows=rows, logits=logits, **wanted)

    def decode_step(self, token=PENDING, *, logits=True, **wanted) -> cf.Step:
        return super().decode_step(token, logits=logits, **wanted)

    def decode_steps(self, n_steps, *, logits=True, **wanted) -> cf.Step:
        return super().decode_steps(n_steps, logits=logits, **wanted)

    def decode_positions(self, tokens, *, logits=True, **wanted) -> cf.Step:
        return super().decode_positions(tokens, logits=logits, **wanted)

    def draw_steps(self, n_steps) -> cf.Step:
        """Without outputs, so that a GPU draws the tokens by itself."""
        return super().decode_steps(n_steps)


def decode_batch(sessions, tokens=None, **wanted) -> cf.BatchStep:
    return cf.decode_batch(sessions, tokens, logits=True, **wanted)
