"""How likely a model finds a text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .callbacks import ProgressFunction
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True)
class Score:
    """What Model.score found."""

    tokens: npt.NDArray[np.int32]  # [n] of the text
    logprobs: npt.NDArray[np.float32]  # [n - 1] natural log-probability of each token but the first

    @property
    def n_scored(self) -> int:
        """Tokens that have a log-probability."""
        return len(self.logprobs)

    @property
    def log_likelihood(self) -> float:
        """Natural logarithm of the probability of the text after its first token."""
        return float(self.logprobs.sum(dtype=np.float64))

    @property
    def bits_per_token(self) -> float:
        """The mean negative log-probability, to base 2."""
        return -self.log_likelihood / self.n_scored / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability."""
        return math.exp(-self.log_likelihood / self.n_scored)


def score_tokens(
    model: Model, tokens: npt.NDArray[np.int32], window: int | None, stride: int | None, report: ProgressFunction | None
) -> Score:
    """See Model.score."""
    most = model.config.max_position_embeddings
    window = most if window is None else window
    if not 2 <= window <= most:
        raise InvalidArgumentError(f"window is {window}, expected 2 to the model's {most} positions")
    stride = window // 2 if stride is None else stride
    if not 1 <= stride < window:
        raise InvalidArgumentError(f"stride is {stride}, expected 1 to {window - 1}: the first token of a window is not predicted in it")
    n = len(tokens)
    if n < 2:
        raise InvalidArgumentError(f"nothing to score: the text has {n} token{'' if n == 1 else 's'}, expected at least 2")
    logprobs = np.empty(n - 1, np.float32)
    with model.session(capacity_tokens=min(window, n)) as session:
        first = 1  # not scored yet; nothing predicts token 0
        for begin in range(0, n, stride):
            end = min(begin + window, n)
            targets = np.append(tokens[begin + 1 : end], np.int32(-1))  # row r has read token begin + r and predicts the next one
            session.truncate(0)
            step = session.prefill(tokens[begin:end], rows="all", targets=targets, sample=False)
            logprobs[first - 1 : end - 1] = step.target_logprobs[first - begin - 1 : end - begin - 1]
            first = end
            if report:
                report(end, n)
            if end == n:
                break
    return Score(tokens, logprobs)
