"""Looking into blocks while a step goes through them, and laying a hand on what passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import check_place, check_view, view
from .enums import Memory, TapAction, TapPoint, member
from .errors import InvalidArgumentError
from .native import check, ffi, lib
from .records import ModelConfig


@dataclass
class Tap:
    """One place of a model that a step reads from or writes to. Use `Tap.read` and `Tap.write`.

    T is all rows of the step: of a prefill all its positions; of decode_batch one per session; of several steps in a call one, the
    last's (a write acts on each of them). Taps act as the step comes by their place, those at one place in the order given.
    """

    point: TapPoint | str
    layer: int
    action: TapAction
    data: Any = None  # [T, ...] F32, as TapPoint says: what the last step read, or what steps write
    into: Any = None  # where to read to, if not to a new array for each step

    @classmethod
    def read(cls, point: TapPoint | str, layer: int, into: Any = None) -> Tap:
        """Copies what passes there. After a step it is in `data`: a new NumPy array, or `into`: an array of F32, in host or device
        memory, with at least as many rows as the step, of which the step's are written."""
        return cls(point, layer, TapAction.READ, into, into)

    @classmethod
    def write(cls, point: TapPoint | str, layer: int, values: Any) -> Tap:
        """Overwrites what passes there. values: [T, ...] of F32, in host or device memory."""
        return cls(point, layer, TapAction.WRITE, values)


def shape_at(point: TapPoint, config: ModelConfig) -> tuple[int, ...]:
    """Of one row."""
    if point == TapPoint.ATTENTION_HEADS:
        return (config.n_heads, config.head_dim)
    return (config.intermediate_size if point == TapPoint.MLP_ACTIVATION else config.hidden_size,)


def tap_descriptors(taps: Sequence[Tap], n_rows: int, config: ModelConfig, cuda_ordinal: int | None) -> tuple[Any, list[Any]]:
    """An array of cf_tap for a step of n_rows, and what has to live as long."""
    array = ffi.new("cf_tap[]", len(taps))
    keep: list[Any] = [array]
    for index, tap in enumerate(taps):
        name = f"taps[{index}]"
        if not isinstance(tap, Tap):
            raise InvalidArgumentError(f"{name} is {type(tap).__name__}, expected a Tap")
        point = member(TapPoint, tap.point, f"{name}.point")
        reads = tap.action == TapAction.READ
        row_shape = shape_at(point, config)
        if reads and tap.into is None:
            tap.data = np.empty((n_rows, *row_shape), np.float32)
        elif not reads and isinstance(tap.data, (list, tuple)):
            tap.data = np.asarray(tap.data, np.float32)
        seen = check_view(view(tap.data, f"{name}.data"), f"{name}.data", dtypes=("F32",), writable=reads)
        rows = seen.shape[0] if seen.shape else 0
        if math.prod(seen.shape[1:]) != math.prod(row_shape) or len(seen.shape) < 2 or (rows < n_rows if reads else rows != n_rows):
            raise InvalidArgumentError(f"{name}.data has shape {list(seen.shape)}, expected {[n_rows, *row_shape]} at {point.name}")
        if seen.cuda_ordinal is not None:
            check_place(seen, f"{name}.data", cuda_ordinal)
        descriptor = array[index]
        check(lib.cf_tap_init(ffi.addressof(descriptor), ffi.sizeof("cf_tap")))
        descriptor.point, descriptor.layer, descriptor.action = point, tap.layer, tap.action
        descriptor.memory = Memory.HOST if seen.cuda_ordinal is None else Memory.DEVICE
        descriptor.data = ffi.cast("float*", seen.address)
        keep.append(seen)
    return array, keep
