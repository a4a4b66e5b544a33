"""From text to tokens and back."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any, Protocol

from .errors import InvalidArgumentError, InvalidFileError

BYTE_VOCABULARY = 256  # a model with this many tokens and no tokenizer.json reads and writes plain bytes


class TextStream(Protocol):
    """Tokens one by one to whole characters."""

    def push(self, token: int) -> str:
        """The text that is complete with this token; often empty."""

    def end(self) -> str:
        """What was left over, after which the stream is empty."""


class Tokenizer(Protocol):
    """What Model.generate and Model.score need of one; `Model.tokenizer` may be replaced by yours."""

    def encode(self, text: str) -> list[int]:
        """With the special tokens that the model expects at the start."""

    def decode(self, tokens: list[int]) -> str:
        """Without special tokens."""

    def stream(self) -> TextStream:
        """A new one, for one text."""


class ByteTokenizer:
    """A token is a byte of UTF-8."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode(errors="surrogateescape"))  # bytes of the command line that are no UTF-8, too

    def decode(self, tokens: list[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    def stream(self) -> TextStream:
        return _ByteStream()


class _ByteStream:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(bytes([token]))

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)


class FileTokenizer:
    """tokenizer.json, through the tokenizers package."""

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError:
            raise ImportError(f"text for this model needs the package tokenizers, which reads {path}: pip install clusterfusion[text]; or use token ids") from None
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises no narrower one
            raise InvalidFileError(f"{path}: {error}") from error

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens))

    def stream(self) -> TextStream:
        return _FileStream(self._tokenizer)


class _FileStream:
    """Decodes all that is not given yet together with the token before it, because how a token reads depends on its neighbours, and
    waits where the text ends inside a character."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []  # from `_given - 1` on they are not given yet
        self._given = 0

    def push(self, token: int) -> str:
        self._tokens.append(token)
        text = self._rest()
        if not text or text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""
        return self._give(text)

    def end(self) -> str:
        return self._give(self._rest())

    def _rest(self) -> str:
        before = self._tokens[max(self._given - 1, 0) : self._given]
        whole = self._tokenizer.decode(before + self._tokens[self._given :])
        return str(whole[len(self._tokenizer.decode(before)) :])

    def _give(self, text: str) -> str:
        del self._tokens[: max(len(self._tokens) - 1, 0)]
        self._given = len(self._tokens)
        return text


def load_tokenizer(directory: Path | None, vocab_size: int) -> Tokenizer:
    """ImportError: the checkpoint has a tokenizer.json, but the tokenizers package is not installed. InvalidArgumentError: it has none,
    and its tokens are not bytes."""
    if directory is not None and (directory / "tokenizer.json").is_file():
        return FileTokenizer(directory / "tokenizer.json")
    if vocab_size == BYTE_VOCABULARY:
        return ByteTokenizer()
    where = f"{directory} has no tokenizer.json" if directory else "the model was not loaded from a directory"
    raise InvalidArgumentError(f"{where}, and its {vocab_size} tokens are not bytes: use token ids")
