"""DLPack, the exchange format of array libraries, in both directions: what memory a tensor of another library is, and device memory of
ours for other libraries.

PyCapsules are made and opened through ctypes; the structs are those of DLPack before version 1.0, which everybody understands.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from dataclasses import dataclass
from typing import Any

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13  # DLDeviceType
_SIGNED, _UNSIGNED, _FLOAT, _BFLOAT, _BOOL = 0, 1, 2, 4, 6  # DLDataTypeCode
_DTYPES = {
    "F32": (_FLOAT, 32), "F16": (_FLOAT, 16), "BF16": (_BFLOAT, 16), "F64": (_FLOAT, 64),
    "I32": (_SIGNED, 32), "I64": (_SIGNED, 64), "U8": (_UNSIGNED, 8), "U32": (_UNSIGNED, 32), "BOOL": (_BOOL, 8),
}  # fmt: skip
_NAMES = {code: name for name, code in _DTYPES.items()}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # NULL: dense row-major
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_python = ctypes.pythonapi
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Destructor]
# For the destructor, which gets an object without references: it must not be given any.
_is_named = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))


@dataclass(frozen=True)
class Tensor:
    """What a capsule says. Valid as long as the capsule."""

    address: int
    dtype: str  # "F32", or something like "code 5, 64 bits" that nobody here reads
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    device_type: int
    device_id: int


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a row-major array, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def read(capsule: Any) -> Tensor:
    """The tensor in a capsule, which is not consumed: whoever made it takes it back when the capsule goes."""
    tensor = ctypes.cast(_python.PyCapsule_GetPointer(capsule, b"dltensor"), ctypes.POINTER(_Managed)).contents.tensor
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else dense_strides(shape)
    dtype = _NAMES.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    name = dtype or f"code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes"
    return Tensor((tensor.data or 0) + tensor.byte_offset, name, shape, strides, tensor.device_type, tensor.device_id)


_lent: dict[int, tuple[Any, ...]] = {}  # by number, in the context field: what lives until the deleter is called
_numbers = itertools.count(1)


@_Deleter  # type: ignore[untyped-decorator]
def _give_back(managed: Any) -> None:
    _lent.pop(managed.contents.context, None)


@_Destructor  # type: ignore[untyped-decorator]
def _destroy(capsule: int) -> None:
    if _is_named(capsule, b"dltensor"):  # else it was consumed: whoever did that calls the deleter
        _give_back(ctypes.cast(_pointer_of(capsule, b"dltensor"), ctypes.POINTER(_Managed)))


def write(tensor: Tensor, owner: Any) -> Any:
    """A capsule of dense row-major memory that `owner` keeps; it is kept until the consumer is done."""
    code, bits = _DTYPES[tensor.dtype]
    dims = len(tensor.shape)
    shape, strides = (ctypes.c_int64 * dims)(*tensor.shape), (ctypes.c_int64 * dims)(*tensor.strides)
    number = next(_numbers)
    content = _Tensor(tensor.address, tensor.device_type, tensor.device_id, dims, code, bits, 1, shape, strides, 0)
    managed = _Managed(content, number, _give_back)
    _lent[number] = (managed, shape, strides, owner)
    return _python.PyCapsule_New(ctypes.addressof(managed), b"dltensor", _destroy)
