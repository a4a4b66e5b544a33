"""Device memory that a step writes its logits to, without a copy to the host, for PyTorch, CuPy or whoever speaks DLPack."""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from . import dlpack
from .errors import DeviceLostError, InvalidArgumentError, NoDeviceError, OutOfMemoryError


class Driver:
    """The few calls of the CUDA driver that memory needs, on a device's primary context, which the library uses, too."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._call("cuInit", ctypes.c_uint(0))

    def _call(self, name: str, *arguments: Any) -> None:
        result = getattr(self._library, name)(*arguments)
        if result == 2:  # CUDA_ERROR_OUT_OF_MEMORY
            raise OutOfMemoryError(f"{name}: the device has no memory left")
        if result:
            raise DeviceLostError(f"{name} failed with CUresult {result}")

    def _on_device(self, ordinal: int, name: str, *arguments: Any) -> None:
        """A call with the device's primary context current."""
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(ordinal))
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        try:
            self._call("cuCtxPushCurrent_v2", context)
            try:
                self._call(name, *arguments)
            finally:
                self._library.cuCtxPopCurrent_v2(ctypes.byref(context))
        finally:
            self._library.cuDevicePrimaryCtxRelease_v2(device)

    def allocate(self, ordinal: int, size_bytes: int) -> int:
        address = ctypes.c_uint64()
        self._on_device(ordinal, "cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size_bytes))
        return address.value

    def free(self, ordinal: int, address: int) -> None:
        """Waits for whatever still uses it."""
        self._on_device(ordinal, "cuMemFree_v2", ctypes.c_uint64(address))

    def to_host(self, ordinal: int, address: int, array: npt.NDArray[Any]) -> None:
        self._on_device(ordinal, "cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))


@lru_cache(maxsize=None)
def driver() -> Driver:
    try:
        return Driver(ctypes.CDLL("libcuda.so.1"))
    except OSError as error:
        raise NoDeviceError(f"device memory needs the CUDA driver: {error}") from None


class _Memory:
    """Freed with the last reference: the array's or a borrower's."""

    def __init__(self, ordinal: int, size_bytes: int) -> None:
        self.ordinal, self.driver = ordinal, driver()
        self.address = 0
        self.address = self.driver.allocate(ordinal, size_bytes)

    def __del__(self) -> None:
        if getattr(self, "address", 0):
            try:
                self.driver.free(self.ordinal, self.address)
            except DeviceLostError:
                pass  # the memory went with the device


class DeviceArray:
    """A dense row-major array of F32 in memory of a context's device; on the CPU backend that is host memory.

    `torch.from_dlpack(array)`, `cupy.from_dlpack(array)` and, on the CPU, `numpy.from_dlpack(array)` see the same memory, which lives as
    long as any of them. When a step has returned it is complete, so that it may be read on any stream.
    """

    def __init__(self, shape: tuple[int, ...], cuda_ordinal: int | None) -> None:
        self.shape = shape
        self.cuda_ordinal = cuda_ordinal
        self._host: npt.NDArray[np.float32] | None = None
        if cuda_ordinal is None:
            self._host = np.empty(shape, np.float32)
            self._owner: Any = self._host
            self.address = self._host.ctypes.data
        else:
            self._owner = _Memory(cuda_ordinal, 4 * math.prod(shape))
            self.address = self._owner.address

    @property
    def device(self) -> str:
        return "cpu" if self.cuda_ordinal is None else f"cuda:{self.cuda_ordinal}"

    def numpy(self) -> npt.NDArray[np.float32]:
        """On CUDA a copy, on the CPU the memory itself."""
        if self._host is not None:
            return self._host
        array = np.empty(self.shape, np.float32)
        self._owner.driver.to_host(self._owner.ordinal, self.address, array)
        return array

    def __dlpack_device__(self) -> tuple[int, int]:
        return (dlpack.CPU, 0) if self.cuda_ordinal is None else (dlpack.CUDA, self.cuda_ordinal)

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None) -> Any:
        """stream: the consumer's. There is nothing to wait for on it: the step that wrote the memory has finished."""
        if copy:
            raise BufferError("the array is lent, not copied")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"the array lies on {self.device}")
        if self.cuda_ordinal is None and stream is not None:
            raise InvalidArgumentError("stream must be None for memory of the CPU")
        device_type, device_id = self.__dlpack_device__()
        tensor = dlpack.Tensor(self.address, "F32", self.shape, dlpack.dense_strides(self.shape), device_type, device_id)
        return dlpack.write(tensor, self._owner)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.cuda_ordinal is None:
            raise AttributeError("the memory is the CPU's")
        return {"shape": self.shape, "typestr": "<f4", "data": (self.address, False), "strides": None, "version": 3, "stream": None}

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype=F32, device={self.device!r})"
