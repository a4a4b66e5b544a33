"""Weight tensors as the library takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .arrays import check_place, current_stream, stream_pointer, view
from .enums import Dtype, Memory, Role, member
from .errors import InvalidArgumentError
from .native import check, ffi, lib

_DTYPES = {"F32": Dtype.F32, "F16": Dtype.F16, "BF16": Dtype.BF16}


def descriptors(tensors: Mapping[Role | str, Any], cuda_ordinal: int | None, stream: Any) -> tuple[Any, int, list[Any]]:
    """An array of cf_tensor, the stream in whose order the tensors are ready, and what has to live as long."""
    array = ffi.new("cf_tensor[]", len(tensors))
    on_device = next((tensor for tensor in tensors.values() if getattr(tensor, "is_cuda", False)), None)
    pointer = stream_pointer(stream) if stream is not None or on_device is None else current_stream(on_device)
    keep: list[Any] = [array]
    for index, (role, tensor) in enumerate(tensors.items()):
        role = member(Role, role, "a tensor's role")
        seen = view(tensor, role.name, stream=pointer)
        if seen.cuda_ordinal is not None:
            check_place(seen, role.name, cuda_ordinal)
        if seen.dtype not in _DTYPES:
            raise InvalidArgumentError(f"{role.name} is of {seen.dtype}, expected F32, F16 or BF16")
        if len(seen.shape) not in (1, 2):
            raise InvalidArgumentError(f"{role.name} has {len(seen.shape)} dimensions, expected 1 or 2")
        descriptor = array[index]
        check(lib.cf_tensor_init(ffi.addressof(descriptor), ffi.sizeof("cf_tensor")))
        descriptor.role, descriptor.dtype, descriptor.rank = role, _DTYPES[seen.dtype], len(seen.shape)
        descriptor.memory = Memory.HOST if seen.cuda_ordinal is None else Memory.DEVICE
        for axis, (size, stride) in enumerate(zip(seen.shape, seen.strides)):
            descriptor.shape[axis], descriptor.strides[axis] = size, stride
        descriptor.data = seen.pointer
        keep.append(seen)
    return array, pointer, keep
