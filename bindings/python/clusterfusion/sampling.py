"""How a token is chosen from logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .arrays import TokenArray, tokens_array
from .checks import integer
from .errors import InvalidArgumentError
from .native import check, ffi, lib, make
from .records import set_field


@dataclass(frozen=True)
class Sampler:
    """Applied in this order, with the meaning that transformers gives them: repetition penalty over all tokens of the session, logit
    biases, the session's allowed tokens, temperature, top-k, top-p, min-p. The same logits and seed give the same token on any device
    and in any grouping of steps; ties go to the lowest token. What is impossible is refused when the sampler is used."""

    temperature: float = 0.0  # 0: greedy, top-k, top-p and min-p have no effect; else up to 100
    top_k: int = 0  # 0: off; else keep the k most likely
    top_p: float = 1.0  # 1: off; else in (0, 1): keep the fewest tokens whose probability reaches it
    min_p: float = 0.0  # 0: off; else in (0, 1]: keep tokens at least this fraction of the likeliest
    repetition_penalty: float = 1.0  # 1: off; else above 0: divides positive and multiplies negative logits of tokens seen
    seed: int = 0  # 0 .. 2^64 - 1; noise is keyed by it and by position and token
    logit_biases: Mapping[int, float] = field(default_factory=dict)  # token: added to its logit; -infinity bans it
    stop_tokens: tuple[int, ...] = ()  # sampling one of them ends `Session.decode_steps`

    def with_stop_tokens(self, tokens: Iterable[int]) -> Sampler:
        return replace(self, stop_tokens=tuple(tokens))

    def _to_struct(self) -> tuple[Any, tuple[Any, ...]]:
        """cf_sampler_options, and what it points to."""
        bias_tokens = tokens_array(list(self.logit_biases), "logit_biases")
        bias_values = np.array(list(self.logit_biases.values()), np.float32)
        stops = tokens_array(self.stop_tokens, "stop_tokens")
        keep = (ffi.from_buffer("int32_t[]", bias_tokens), ffi.from_buffer("float[]", bias_values), ffi.from_buffer("int32_t[]", stops))
        struct = make("cf_sampler_options", n_logit_biases=len(bias_tokens), n_stop_tokens=len(stops))
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"):
            set_field(struct, name, getattr(self, name))
        struct.logit_bias_tokens, struct.logit_bias_values, struct.stop_tokens = keep
        return struct, keep


def mask_words(allowed: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """One truth value for each token as the library's bit mask, 32 tokens to a word."""
    bits = np.asarray(allowed)
    if bits.ndim != 1:
        raise InvalidArgumentError(f"allowed has {bits.ndim} dimensions, expected one truth value for each token")
    packed = np.packbits(bits.astype(bool), bitorder="little")
    return np.frombuffer(packed.tobytes().ljust(-(-len(bits) // 32) * 4, b"\0"), "<u4").astype(np.uint32)


def sample_logits(
    logits: npt.ArrayLike, position: int, sampler: Sampler | None = None, *, history: TokenArray = (), allowed: npt.ArrayLike | None = None
) -> int:
    """The library's sampler on your own logits [vocab_size]: the token for `position` after `history`.

    allowed: one truth value for each token; None: all. NonfiniteLogitsError; NoTokenAllowedError if mask and biases leave none.
    """
    values = np.ascontiguousarray(logits, np.float32)
    if values.ndim != 1:
        raise InvalidArgumentError(f"logits has {values.ndim} dimensions, expected 1")
    struct, keep = (sampler or Sampler())._to_struct()
    seen = tokens_array(history, "history")
    words = None if allowed is None else mask_words(allowed)
    if words is not None and len(np.asarray(allowed)) != len(values):
        raise InvalidArgumentError(f"allowed has {len(np.asarray(allowed))} truth values, expected one for each of {len(values)} logits")
    mask = ffi.NULL if words is None else ffi.from_buffer("uint32_t[]", words)
    token = ffi.new("int32_t*")
    place = integer(position, "position")
    check(lib.cf_sample_logits(struct, mask, ffi.from_buffer("float[]", values), len(values), ffi.from_buffer("int32_t[]", seen), len(seen), place, token))
    return int(token[0])
