"""What the library calls back: progress and log. An exception in one of them, also Ctrl-C's KeyboardInterrupt, which Python raises
while a callback runs, is raised by the call that the callback was in; a progress callback cancels that call first."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from .enums import LogLevel
from .native import ffi, raise_after_call

ProgressFunction = Callable[[int, int], object]  # (done, total): bytes when loading, positions of a prompt, steps
LogFunction = Callable[[LogLevel, str], object]  # (level, message)

logger = logging.getLogger("clusterfusion")
_LOGGING = {LogLevel.WARNING: logging.WARNING, LogLevel.INFO: logging.INFO, LogLevel.DEBUG: logging.DEBUG}


def _remember(kind: Any, error: BaseException, traceback: Any) -> None:
    raise_after_call(error)


def progress_callback(report: ProgressFunction | None) -> Any:
    """A cf_progress_fn that calls `report`. Without one it is what lets Ctrl-C in, on the main thread; NULL on others."""
    if report is None:
        return _interrupts if threading.current_thread() is threading.main_thread() else ffi.NULL

    def call(user: Any, done: int, total: int) -> int:
        report(done, total)
        return 0

    return ffi.callback("cf_progress_fn", call, error=1, onerror=_remember)


@ffi.callback("cf_progress_fn", error=1, onerror=_remember)  # type: ignore[untyped-decorator]
def _interrupts(user: Any, done: int, total: int) -> int:
    return 0


def log_callback(log: LogFunction) -> Any:
    """A cf_log_fn that calls `log`."""

    def call(user: Any, level: int, message: Any) -> None:
        log(LogLevel(level), ffi.string(message).decode(errors="replace"))

    return ffi.callback("cf_log_fn", call, onerror=_remember)


def log_to_logging(level: LogLevel, message: str) -> None:
    """The default: the logger "clusterfusion" of Python's logging."""
    logger.log(_LOGGING[level], "%s", message)


def logging_level() -> LogLevel:
    """The most talkative level that the logger lets through now."""
    return max((level for level, theirs in _LOGGING.items() if logger.isEnabledFor(theirs)), default=LogLevel.NONE)
