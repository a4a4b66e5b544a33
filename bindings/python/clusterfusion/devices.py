"""The devices that there are, and their names: "cpu", "cuda:0"."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .enums import DeviceKind
from .errors import InvalidArgumentError
from .native import check, ffi, lib, make
from .records import DeviceInfo, record


def devices() -> list[DeviceInfo]:
    """The CPU, then every CUDA device, usable or not. Without a driver, or in a build without CUDA, there is the CPU alone."""
    found = []
    for kind in DeviceKind:
        count = ffi.new("int32_t*")
        check(lib.cf_device_count(kind, count))
        for ordinal in range(count[0]):
            info = make("cf_device_info")
            check(lib.cf_device_query(kind, ordinal, info))
            found.append(record(DeviceInfo, info))
    return found


def parse_device(device: str | Sequence[str]) -> tuple[DeviceKind, list[int]]:
    """Kind and ordinals of "cpu", "cuda" (the first), "cuda:1", a list of those, or "auto": the first usable CUDA device, else the CPU."""
    if device == "auto":
        usable = [info for info in devices() if info.usable]
        best = next((info for info in usable if info.kind == DeviceKind.CUDA), usable[0])
        return best.kind, [best.ordinal]
    if not isinstance(device, (str, list, tuple)):
        raise InvalidArgumentError(f"device is {device!r}, expected 'auto', 'cpu', 'cuda', 'cuda:N' or a list of those")
    names = [device] if isinstance(device, str) else list(device)
    if not names:
        raise InvalidArgumentError("device is an empty list")
    parsed = []
    for name in names:
        match = re.fullmatch(r"(cpu)|cuda(?::(\d{1,4}))?", name) if isinstance(name, str) else None
        if not match:
            raise InvalidArgumentError(f"device is {name!r}, expected 'auto', 'cpu', 'cuda', 'cuda:N' or a list of those")
        parsed.append((DeviceKind.CPU, 0) if match[1] else (DeviceKind.CUDA, int(match[2] or 0)))
    if len({kind for kind, _ in parsed}) > 1:
        raise InvalidArgumentError(f"device is {names!r}: devices of one context are of one kind")
    return parsed[0][0], [ordinal for _, ordinal in parsed]
