"""Arguments of a wrong kind, refused with a sentence that names them before they reach cffi."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from .errors import InvalidArgumentError

_Kind = TypeVar("_Kind")


def integer(value: Any, name: str, *, bits: int = 64) -> int:
    """A whole number that a signed integer of so many bits holds; whether it makes sense the library says."""
    if not hasattr(value, "__index__") or isinstance(value, bool):
        raise InvalidArgumentError(f"{name} is {value!r}, expected a whole number")
    number = int(value.__index__())
    if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise InvalidArgumentError(f"{name} is {number}, which {bits} bits do not hold")
    return number


def instance(value: Any, kind: type[_Kind], name: str) -> _Kind:
    """`value`, if it is of this class."""
    if not isinstance(value, kind):
        raise InvalidArgumentError(f"{name} is {type(value).__name__}, expected a {kind.__name__}")
    return value


def path_bytes(path: str | bytes | os.PathLike[Any], name: str) -> bytes:
    """A path as C takes it."""
    try:
        encoded = os.fsencode(path)
    except TypeError:
        raise InvalidArgumentError(f"{name} is {type(path).__name__}, expected a path") from None
    if b"\0" in encoded:
        raise InvalidArgumentError(f"{name} {path!r} has a NUL in it")
    return encoded
