"""Progress bars."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from .callbacks import ProgressFunction

_WIDTH = 30
_PATIENCE_S = 0.5  # what is done sooner has no bar


class ProgressBar:
    """A line of a terminal, written anew with each percent and wiped at the end."""

    def __init__(self, label: str, unit: str, stream: TextIO) -> None:
        self._label, self._unit, self._stream = label, unit, stream
        self._start = time.monotonic()
        self._shown = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        if percent == self._shown or time.monotonic() - self._start < _PATIENCE_S:
            return
        self._shown = percent
        bar = "#" * (percent * _WIDTH // 100)
        self._stream.write(f"\r{self._label} [{bar:<{_WIDTH}}] {percent:3d} % of {_amount(total, self._unit)}")
        self._stream.flush()

    def close(self) -> None:
        if self._shown >= 0:
            self._stream.write("\r\033[K")
            self._stream.flush()


def _amount(total: int, unit: str) -> str:
    if unit != "B":
        return f"{total}{unit}"
    return f"{total / 2**30:.1f} GiB" if total >= 2**30 else f"{total / 2**20:.0f} MiB"


@contextmanager
def reporter(progress: bool | ProgressFunction, label: str, *, unit: str) -> Iterator[ProgressFunction | None]:
    """What a `progress` argument means: a function as it is, True a bar on stderr if that is a terminal, False nothing."""
    if callable(progress):
        yield progress
    elif progress and sys.stderr is not None and sys.stderr.isatty():
        bar = ProgressBar(label, unit, sys.stderr)
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield None
