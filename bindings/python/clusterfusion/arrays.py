"""Whose memory an array is: addresses, shapes and strides of arrays of NumPy, PyTorch, CuPy and whoever else speaks the array
interface, DLPack or the CUDA array interface. Nothing is copied."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from . import dlpack
from .errors import InvalidArgumentError
from .native import ffi

TokenArray = Sequence[int] | npt.NDArray[np.integer[Any]]

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I32": 4, "I64": 8, "U8": 1, "U32": 4, "BOOL": 1}
_TYPESTRS = {"f4": "F32", "f2": "F16", "f8": "F64", "i4": "I32", "i8": "I64", "u1": "U8", "u4": "U32", "b1": "BOOL"}
_LEGACY_STREAM = 1  # what DLPack calls CUDA's default stream


@dataclass(frozen=True)
class View:
    """Memory of an array that `owner` keeps alive."""

    address: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    cuda_ordinal: int | None  # None: host memory
    writable: bool
    owner: Any

    @property
    def is_dense(self) -> bool:
        """Row-major without gaps. The stride of a dimension of 1 does not matter."""
        return all(size == 1 or stride == dense for size, stride, dense in zip(self.shape, self.strides, dlpack.dense_strides(self.shape)))

    @property
    def pointer(self) -> Any:
        return ffi.cast("void*", self.address)


class BFloat16:
    """Numbers that NumPy has no type for: the upper halves of F32, in an array of uint16."""

    def __init__(self, bits: npt.NDArray[np.uint16]) -> None:
        if not isinstance(bits, np.ndarray) or bits.dtype != np.uint16:
            raise InvalidArgumentError(f"BFloat16 takes a NumPy array of uint16, not {_describe(bits)}")
        self.bits = bits


def _describe(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ + (f" of {dtype}" if dtype is not None else "")


def view(array: Any, name: str, *, stream: int = 0) -> View:
    """What memory `array` is. `stream`: the CUDA stream that will use it, in whose order a library that speaks DLPack hands it over.
    `name`: of the argument, for errors."""
    if isinstance(array, BFloat16):
        return _numpy_view(array.bits, name, "BF16")
    if isinstance(array, np.ndarray):
        return _numpy_view(array, name)
    if hasattr(array, "__dlpack__") and hasattr(array, "__dlpack_device__"):
        return _dlpack_view(array, name, stream)
    if hasattr(array, "__cuda_array_interface__"):
        return _interface_view(array.__cuda_array_interface__, array, name, _cuda_ordinal(array))
    if hasattr(array, "__array_interface__"):
        return _interface_view(array.__array_interface__, array, name, None)
    raise InvalidArgumentError(f"{name} is {_describe(array)}, expected an array of NumPy, PyTorch, CuPy or another library that speaks DLPack")


def _numpy_view(array: npt.NDArray[Any], name: str, dtype: str | None = None) -> View:
    if dtype is None and array.dtype.name == "bfloat16":  # the type of ml_dtypes
        dtype = "BF16"
    return _interface_view(array.__array_interface__, array, name, None, dtype)


def _interface_view(interface: Any, owner: Any, name: str, cuda_ordinal: int | None, dtype: str | None = None) -> View:
    """Of the array interface and the CUDA array interface, which are alike."""
    typestr: str = interface["typestr"]
    if typestr[0] == (">" if sys.byteorder == "little" else "<"):
        raise InvalidArgumentError(f"{name} has its bytes in the other order ({typestr})")
    known = dtype or _TYPESTRS.get(typestr[1:], typestr)
    shape = tuple(interface["shape"])
    item_bytes = ITEM_BYTES.get(known, 1)
    strides = interface.get("strides")
    if strides is None:
        elements = dlpack.dense_strides(shape)
    elif any(stride % item_bytes for stride in strides):
        raise InvalidArgumentError(f"{name} has strides of {strides} bytes, which are not whole elements of {item_bytes}")
    else:
        elements = tuple(stride // item_bytes for stride in strides)
    address, read_only = interface["data"]
    return View(address or 0, known, shape, elements, cuda_ordinal, not read_only, owner)


def _cuda_ordinal(array: Any) -> int:
    device = getattr(array, "device", None)
    return int(getattr(device, "index", None) or getattr(device, "id", None) or 0)


def _dlpack_view(array: Any, name: str, stream: int) -> View:
    if getattr(array, "requires_grad", False):
        array = array.detach()  # a parameter of a torch module
    device_type, ordinal = array.__dlpack_device__()
    on_cuda = device_type in (dlpack.CUDA, dlpack.CUDA_MANAGED)
    if not on_cuda and device_type not in (dlpack.CPU, dlpack.CUDA_HOST):
        raise InvalidArgumentError(f"{name} lies on a device of DLPack's type {device_type}, expected the CPU or CUDA")
    try:
        capsule = array.__dlpack__(stream=stream or _LEGACY_STREAM) if on_cuda else array.__dlpack__()
        tensor = dlpack.read(capsule)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name} is {_describe(array)}, which does not give its memory: {error}") from error
    return View(tensor.address, tensor.dtype, tensor.shape, tensor.strides, int(ordinal) if on_cuda else None, True, (array, capsule))


def stream_pointer(stream: Any) -> int:
    """A cudaStream_t as a number: of a torch.cuda.Stream, a cupy.cuda.Stream, an object with __cuda_stream__, or a number. None: 0, the
    legacy default stream."""
    if stream is None:
        return 0
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for attribute in ("cuda_stream", "ptr"):  # PyTorch's, CuPy's
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    raise InvalidArgumentError(f"stream is {type(stream).__name__}, expected a stream of PyTorch or CuPy, or the address of a cudaStream_t")


def current_stream(array: Any) -> int:
    """The stream that the library which made a CUDA array works on now, as a number: torch.cuda.current_stream(), cupy's alike; else 0, also for
    tensors in host memory."""
    library = type(array).__module__.partition(".")[0]
    module = sys.modules.get(library)
    if module is not None and library == "torch" and array.is_cuda:
        return stream_pointer(module.cuda.current_stream(array.device))
    if module is not None and library == "cupy":
        return stream_pointer(module.cuda.get_current_stream())
    return 0


def check_view(array: View, name: str, *, dtypes: Sequence[str], shape: tuple[int, ...] | None = None, writable: bool = False, dense: bool = True) -> View:
    """`array`, after a look at what is asked of it."""
    if array.dtype not in dtypes:
        raise InvalidArgumentError(f"{name} is of {array.dtype}, expected {' or '.join(dtypes)}")
    if shape is not None and array.shape != shape:
        raise InvalidArgumentError(f"{name} has shape {list(array.shape)}, expected {list(shape)}")
    if dense and not array.is_dense:
        raise InvalidArgumentError(f"{name} has strides {list(array.strides)}, expected a dense row-major array")
    if writable and not array.writable:
        raise InvalidArgumentError(f"{name} is read-only")
    return array


def check_place(array: View, name: str, cuda_ordinal: int | None) -> View:
    """`array`, if its memory can be used on a context's device: any host memory by the CPU, the device's own by CUDA."""
    if array.cuda_ordinal != cuda_ordinal:
        places = ["host memory" if ordinal is None else f"memory of cuda:{ordinal}" for ordinal in (array.cuda_ordinal, cuda_ordinal)]
        raise InvalidArgumentError(f"{name} is {places[0]}, expected {places[1]}")
    return array


def like(array: Any, shape: tuple[int, ...]) -> Any:
    """A new array of the same library, type and device."""
    if isinstance(array, BFloat16):
        return BFloat16(np.empty(shape, np.uint16))
    if isinstance(array, np.ndarray):
        return np.empty(shape, array.dtype)
    if hasattr(array, "new_empty"):
        return array.new_empty(shape)
    module = sys.modules.get(type(array).__module__.partition(".")[0])
    if module is not None and hasattr(module, "empty"):
        return module.empty(shape, dtype=array.dtype)
    raise InvalidArgumentError(f"{type(array).__name__} says nothing of how to make another one: pass the output array")


def tokens_array(tokens: Any, name: str) -> npt.NDArray[np.int32]:
    """Token ids as the library takes them."""
    if isinstance(tokens, (str, bytes)):
        raise InvalidArgumentError(f"{name} is {type(tokens).__name__}, expected token ids: encode it with the model's tokenizer")
    try:
        array = np.asarray(tokens)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgumentError(f"{name} is no array of token ids: {error}") from None
    if array.ndim != 1:
        raise InvalidArgumentError(f"{name} has {array.ndim} dimensions, expected 1")
    if array.size == 0:
        return np.empty(0, np.int32)
    if array.dtype.kind not in "iu":
        raise InvalidArgumentError(f"{name} holds {array.dtype}, expected integers")
    if array.dtype != np.int32:
        outside = np.flatnonzero((array > np.iinfo(np.int32).max) | (array < np.iinfo(np.int32).min))
        if outside.size:
            raise InvalidArgumentError(f"{name}[{outside[0]}] is {array[outside[0]]}, which is no token id")
    return np.ascontiguousarray(array, np.int32)


