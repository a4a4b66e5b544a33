"""Tokens, or pieces of text, one after another as they are made."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from .callbacks import ProgressFunction
from .checks import integer
from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self

    from .session import Session
    from .text import TextStream

_Piece = TypeVar("_Piece")
FinishReason = Literal["stop", "length"]


class _Generation(Generic[_Piece]):
    """An iterator, and an asynchronous one, whose steps then run on another thread. At the end of a `with` block, by `close` or when
    it ends it gives back a session of its own."""

    def _next(self) -> _Piece | None:
        """The next piece, or None at the end."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __iter__(self) -> Iterator[_Piece]:
        return self

    def __next__(self) -> _Piece:
        piece = self._next()
        if piece is None:
            raise StopIteration
        return piece

    def __aiter__(self) -> AsyncIterator[_Piece]:
        return self

    async def __anext__(self) -> _Piece:
        work = asyncio.ensure_future(asyncio.to_thread(self._next))
        try:
            piece = await asyncio.shield(work)
        except asyncio.CancelledError:
            await _ended(work)  # the session is in a step until then
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _ended(work: asyncio.Future[_Piece]) -> None:
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            pass
    work.exception()  # seen


class TokenGeneration(_Generation[int]):
    """Token ids. `tokens` has those given so far; `finish_reason` says why it ended: "stop", at a stop token, or "length"."""

    def __init__(
        self,
        session: Session,
        max_tokens: int | None,
        *,
        prompt: npt.NDArray[np.int32] | None = None,
        steps_per_call: int = 1,
        owns_session: bool = False,
        progress: bool | ProgressFunction = False,
    ) -> None:
        if max_tokens is not None and integer(max_tokens, "max_tokens") < 0:
            raise InvalidArgumentError(f"max_tokens is {max_tokens}, expected at least 0")
        if integer(steps_per_call, "steps_per_call") < 1:
            raise InvalidArgumentError(f"steps_per_call is {steps_per_call}, expected at least 1")
        self.session = session
        self.tokens: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._max_tokens = max_tokens
        self._prompt = prompt
        self._progress = progress
        self._steps_per_call = steps_per_call
        self._owns_session = owns_session
        self._made: deque[int] = deque()  # and not given yet
        self._stopped = False
        self._capacity = 0
        self._advance: Callable[[], None] = self._begin

    def _next(self) -> int | None:
        if self.finish_reason is not None:
            return None
        if self._max_tokens is not None and len(self.tokens) == self._max_tokens:
            self._finish("length")
            return None
        if not self._made and not self._stopped:
            self._advance()
        if not self._made:
            self._finish("stop" if self._stopped else "length")
            return None
        token = self._made.popleft()
        self.tokens.append(token)
        return token

    def _begin(self) -> None:
        """The pending token, after the prompt if there is one."""
        session = self.session
        step = session.wait() if self._prompt is None else session.prefill(self._prompt, progress=self._progress)
        if step.token < 0:
            raise InvalidArgumentError("no token is pending: nothing has been sampled yet; prefill a prompt first")
        self._capacity = session.info.capacity_tokens
        self._position = step.position
        self._take([step.token], step.stopped)
        self._advance = self._one if self._steps_per_call == 1 else self._several

    def _one(self) -> None:
        if self._position == self._capacity:
            return
        step = self.session.decode_step()
        self._position = step.position
        self._take([step.token], step.stopped)

    def _several(self) -> None:
        most = self._capacity - self._position
        if self._max_tokens is not None:
            most = min(most, self._max_tokens - len(self.tokens))
        if most == 0:
            return
        step = self.session.decode_steps(min(most, self._steps_per_call))
        made = self.session.tokens(self._position + 1)
        self._position = step.position
        self._take(made, step.stopped)

    def _take(self, tokens: list[int], stopped: bool) -> None:
        self._stopped = stopped
        self._made.extend(tokens[:-1] if stopped else tokens)

    def _finish(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        self.close()

    def close(self) -> None:
        """Ends it: gives back a session of its own, and leaves another as it is."""
        self.finish_reason = self.finish_reason or "length"
        if self._owns_session:
            self.session.close()


class TextGeneration(_Generation[str]):
    """Pieces of text, of whole characters. `text` and `tokens` have what was given so far."""

    def __init__(self, generation: TokenGeneration, stream: TextStream) -> None:
        self._generation = generation
        self._stream = stream
        self.text = ""

    @property
    def session(self) -> Session:
        return self._generation.session

    @property
    def tokens(self) -> list[int]:
        return self._generation.tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._generation.finish_reason

    def _next(self) -> str | None:
        piece = ""
        while not piece:
            token = self._generation._next()
            if token is None:
                piece = self._stream.end()
                if not piece:
                    return None
            else:
                piece = self._stream.push(token)
        self.text += piece
        return piece

    def close(self) -> None:
        self._generation.close()
