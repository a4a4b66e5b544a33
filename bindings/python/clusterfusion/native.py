"""The C interface itself, for calls that the package does not wrap: `lib`, `ffi`, and what makes them handy.

    from clusterfusion import native
    info = native.make("cf_device_info")
    native.check(native.lib.cf_device_query(native.lib.CF_DEVICE_CPU, 0, info))

The library is the one that the environment variable CLUSTERFUSION_LIBRARY names; or else the one that the package brings;
or else libclusterfusion.so of the system. Its ABI version is compared with the header's, from which the declarations were made.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._cffi import ffi  # written by build_cffi.py

__all__ = ["ABI_VERSION", "LIBRARY", "check", "created", "ffi", "lib", "make", "raise_after_call"]

ABI_VERSION: int = ffi.dlopen(None).CF_ABI_VERSION


def _open() -> tuple[Any, str]:
    wanted = os.environ.get("CLUSTERFUSION_LIBRARY")
    bundled = Path(__file__).with_name("libclusterfusion.so")
    candidates = [wanted] if wanted else [str(bundled), f"libclusterfusion.so.{ABI_VERSION}"]
    tried = []
    for candidate in candidates:
        if candidate == str(bundled) and not bundled.is_file():
            tried.append(f"{candidate}: not in this installation")
            continue
        try:
            return ffi.dlopen(candidate), candidate
        except OSError as error:
            tried.append(str(error))
    named = "the library that CLUSTERFUSION_LIBRARY names" if wanted else "libclusterfusion.so"
    raise ImportError(f"cannot load {named}: " + "; ".join(tried))


def _checked() -> tuple[Any, str]:
    library, path = _open()
    try:
        found = library.cf_abi_version()
    except (AttributeError, ffi.error):
        raise ImportError(f"{path} is not libclusterfusion: it has no cf_abi_version") from None
    if found != ABI_VERSION:
        raise ImportError(f"{path} has ABI version {found}, this package needs {ABI_VERSION}")
    return library, path


lib, LIBRARY = _checked()  # LIBRARY: what was opened, a path or a name

_raised: dict[int, BaseException] = {}  # by thread: what a callback raised, to be raised again after the call that it was in


def raise_after_call(error: BaseException) -> None:
    """For callbacks, which must not let an exception pass: it is raised by the check of the call that the thread is in."""
    _raised.setdefault(threading.get_ident(), error)


def check(status: int) -> None:
    """Raises what a callback of the call raised, or the exception of `status`, with the library's sentence, if it is not CF_OK."""
    if status or _raised:
        _raise(status)


def _raise(status: int) -> None:
    raised = _raised.pop(threading.get_ident(), None)
    if raised is not None:
        raise raised
    if status:
        from .errors import error_of

        text = ffi.new("char[]", 1025)
        lib.cf_last_error(text, 1025, ffi.NULL)
        raise error_of(status, ffi.string(text).decode(errors="replace"))


def make(type_name: str, **fields: Any) -> Any:
    """A new struct with the library's defaults, then `fields`. Pointers that it holds are the caller's to keep alive."""
    struct = ffi.new(type_name + "*")
    check(getattr(lib, type_name + "_init")(struct, ffi.sizeof(type_name)))
    for name, value in fields.items():
        setattr(struct, name, value)
    return struct


def created(type_name: str, call: Callable[..., int], *arguments: Any, keep: tuple[Any, ...] = ()) -> Any:
    """The handle that `call` writes to its last argument. It is destroyed with the last reference to it; `keep` lives as long."""
    out = ffi.new(f"{type_name}**")
    destroy = getattr(lib, type_name + "_destroy")
    status = call(*arguments, out)
    handle = None if status else ffi.gc(out[0], lambda handle, _keep=keep: destroy(handle))
    check(status)  # may raise what a callback did, and then the handle goes again
    return handle
