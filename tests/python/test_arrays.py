"""Whose memory arrays are: NumPy's, and those of other libraries, which are played by objects with the same protocols."""

import ctypes
import gc
import sys
import types
import weakref

import numpy as np
import pytest

import clusterfusion as cf
from clusterfusion import device_array, dlpack
from clusterfusion.arrays import check_place, check_view, current_stream, like, stream_pointer, view


class Owner:
    """What a lender keeps until the memory is given back."""


class Lent:
    """An array that speaks DLPack alone. As on a device of `place`, whose memory is not looked at."""

    def __init__(self, array, place=(dlpack.CPU, 0), dtype=None):
        self.array, self.place = array, place
        self.dtype = dtype or {"f4": "F32", "f2": "F16", "u2": "BF16", "i4": "I32"}[array.dtype.str[1:]]
        self.streams, self.given_back = [], 0

    def __dlpack_device__(self):
        return self.place

    def __dlpack__(self, *, stream=None):
        self.streams.append(stream)
        strides = tuple(stride // self.array.itemsize for stride in self.array.strides)
        owner = Owner()
        weakref.finalize(owner, self._back)
        return dlpack.write(dlpack.Tensor(self.array.ctypes.data, self.dtype, self.array.shape, strides, *self.place), owner)

    def _back(self):
        self.given_back += 1


class Parameter(Lent):
    """As of a torch module."""

    requires_grad = True

    def detach(self):
        return Lent(self.array, self.place, self.dtype)

    def __dlpack__(self, **_):
        raise BufferError("Can't export tensors that require gradient")


class CudaInterface:
    """An array that has the CUDA array interface alone, as Numba's."""

    device = types.SimpleNamespace(id=3)

    def __init__(self, array):
        self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3}


@pytest.mark.parametrize("make", [lambda a: a, Lent, Parameter], ids=["numpy", "dlpack", "parameter"])
def test_views(make):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    for each in (array, array[1:, ::2], array.T, array[:, 2:3], array[0]):
        seen = view(make(each), "it")
        assert (seen.address, seen.dtype, seen.shape) == (each.ctypes.data, "F32", each.shape)
        assert seen.strides == tuple(stride // 4 for stride in each.strides) and seen.cuda_ordinal is None and seen.writable
        assert seen.is_dense == each.flags.c_contiguous


def test_dtypes():
    for dtype, name in ((np.float16, "F16"), (np.float64, "F64"), (np.int32, "I32"), (np.int64, "I64"), (np.uint8, "U8"), (bool, "BOOL"), (np.uint32, "U32")):
        assert view(np.zeros(2, dtype), "it").dtype == name
    bits = np.zeros((2, 3), np.uint16)
    assert view(cf.BFloat16(bits), "it").dtype == "BF16" and view(Lent(bits), "it").dtype == "BF16"
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    assert view(np.zeros(2, bfloat16), "it").dtype == "BF16"


def test_memory_on_a_device():
    array = np.zeros((2, 3), np.float32)
    lent = Lent(array, (dlpack.CUDA, 2))
    assert view(lent, "it").cuda_ordinal == 2 and view(lent, "it", stream=77).cuda_ordinal == 2
    assert lent.streams == [1, 77]  # 1 is the legacy default stream
    seen = view(CudaInterface(array), "it")
    assert (seen.cuda_ordinal, seen.address, seen.shape) == (3, array.ctypes.data, (2, 3))
    assert check_place(seen, "it", 3) is seen
    for ordinal, words in ((None, "it is memory of cuda:3, expected host memory"), (0, "it is memory of cuda:3, expected memory of cuda:0")):
        with pytest.raises(cf.InvalidArgumentError, match=words):
            check_place(seen, "it", ordinal)
    with pytest.raises(cf.InvalidArgumentError, match="device of DLPack's type 10"):
        view(Lent(array, (10, 0)), "it")


def test_what_is_lent_is_given_back():
    lent = Lent(np.zeros(3, np.float32))
    seen = view(lent, "it")
    gc.collect()
    assert lent.given_back == 0
    del seen
    gc.collect()
    assert lent.given_back == 1 and not dlpack._lent


@pytest.mark.parametrize(
    "array, words",
    [
        ([1.0, 2.0], "it is list, expected an array"), (None, "it is NoneType"), (np.zeros(2, ">f4"), "other order"), (Lent(np.zeros(2, np.float32), dtype="I64"), "is of I64"),
        (np.zeros(2, np.complex64), "is of <c8"), (np.zeros(4, np.float64), "is of F64, expected F32"), (np.zeros((2, 2), np.float32), r"shape \[2, 2\], expected \[4\]"),
        (np.zeros(8, np.float32)[::2], "strides"), (np.frombuffer(bytes(16), np.float32), "read-only"),
        (np.zeros(4, [("a", "f4"), ("b", "u1")])["a"], "not whole elements"),
    ],
)  # fmt: skip
def test_what_is_not_taken(array, words):
    with pytest.raises(cf.InvalidArgumentError, match=words):
        check_view(view(array, "it"), "it", dtypes=("F32",), shape=(4,), writable=True)


def test_arrays_that_do_not_give_their_memory():
    class Broken(Lent):
        def __dlpack__(self, **_):
            raise BufferError("no")

    class Stranger(Lent):
        def __dlpack__(self, **_):
            return object()

    for kind in (Broken, Stranger):
        with pytest.raises(cf.InvalidArgumentError, match="does not give its memory"):
            view(kind(np.zeros(1, np.float32)), "it")
    with pytest.raises(cf.InvalidArgumentError, match="uint16"):
        cf.BFloat16(np.zeros(2, np.float32))


def test_arrays_like_others(monkeypatch):
    assert like(np.zeros(2, np.float16), (3, 4)).dtype == np.float16
    assert isinstance(like(cf.BFloat16(np.zeros(2, np.uint16)), (3,)), cf.BFloat16)
    assert like(types.SimpleNamespace(new_empty=lambda shape: ("torch", shape)), (3,)) == ("torch", (3,))
    made = type("ndarray", (), {"__module__": "cupylike", "dtype": "float32"})
    monkeypatch.setitem(sys.modules, "cupylike", types.SimpleNamespace(empty=lambda shape, dtype: (shape, dtype)))
    assert like(made(), (3,)) == ((3,), "float32")
    with pytest.raises(cf.InvalidArgumentError, match="pass the output"):
        like(object(), (3,))


# ---- Streams


def test_streams(monkeypatch):
    torch_stream, cupy_stream = types.SimpleNamespace(cuda_stream=11), types.SimpleNamespace(ptr=12)
    protocol = type("Stream", (), {"__cuda_stream__": lambda self: (0, 13)})()
    assert [stream_pointer(stream) for stream in (None, 7, torch_stream, cupy_stream, protocol)] == [0, 7, 11, 12, 13]
    for wrong in ("7", 1.5, True):
        with pytest.raises(cf.InvalidArgumentError, match="stream is"):
            stream_pointer(wrong)
    devices = []
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=types.SimpleNamespace(current_stream=lambda device: devices.append(device) or torch_stream)))
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(cuda=types.SimpleNamespace(get_current_stream=lambda: cupy_stream)))
    tensor = type("Tensor", (), {"__module__": "torch", "device": "cuda:1", "is_cuda": True})()
    assert current_stream(tensor) == 11 and devices == ["cuda:1"]
    in_host_memory = type("Tensor", (), {"__module__": "torch", "device": "cpu", "is_cuda": False})()
    assert current_stream(in_host_memory) == 0 and devices == ["cuda:1"]
    assert current_stream(type("ndarray", (), {"__module__": "cupy._core"})()) == 12
    assert current_stream(np.zeros(1)) == 0


# ---- Device arrays


def test_a_device_array_of_the_cpu_is_shared():
    array = cf.DeviceArray((2, 3), None)
    array.numpy()[...] = np.arange(6).reshape(2, 3)
    shared = np.from_dlpack(array)
    assert shared.ctypes.data == array.address and shared.tolist() == [[0, 1, 2], [3, 4, 5]] and shared.dtype == np.float32
    assert view(array, "it").address == array.address and not hasattr(array, "__cuda_array_interface__")
    memory = array.numpy()
    del array
    gc.collect()
    memory[0, 0] = 9
    assert shared[0, 0] == 9
    del shared
    gc.collect()
    assert not dlpack._lent
    for arguments in (dict(copy=True), dict(dl_device=(2, 0)), dict(stream=3)):
        with pytest.raises((BufferError, cf.InvalidArgumentError)):
            cf.DeviceArray((1,), None).__dlpack__(**arguments)


class FakeDriver:
    """The CUDA driver's calls, on host memory. `failing`: name of the one that fails, and how."""

    def __init__(self, failing=None, result=2):
        self.memory, self.calls, self.current, self.failing, self.result = {}, [], [], failing, result

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append(name)
            if name == self.failing:
                return self.result
            getattr(self, "_" + name, lambda *_: 0)(*arguments)
            return 0

        return call

    def _cuCtxPushCurrent_v2(self, context):
        self.current.append(context)

    def _cuCtxPopCurrent_v2(self, context):
        self.current.pop()

    def _cuMemAlloc_v2(self, address, size):
        assert self.current
        buffer = ctypes.create_string_buffer(b"\x11" * size.value, size.value)
        address._obj.value = ctypes.addressof(buffer)
        self.memory[ctypes.addressof(buffer)] = buffer

    def _cuMemFree_v2(self, address):
        assert self.current
        del self.memory[address.value]

    def _cuMemcpyDtoH_v2(self, to, address, size):
        ctypes.memmove(to.value, address.value, size.value)


@pytest.fixture
def fake(monkeypatch):
    def use(**options):
        library = FakeDriver(**options)
        monkeypatch.setattr(device_array, "driver", lambda: device_array.Driver(library))
        return library

    return use


def test_a_device_array_of_cuda(fake):
    library = fake()
    array = cf.DeviceArray((2, 3), 1)
    assert array.__dlpack_device__() == (dlpack.CUDA, 1) and array.device == "cuda:1" and repr(array).endswith("device='cuda:1')")
    assert array.__cuda_array_interface__ == {"shape": (2, 3), "typestr": "<f4", "data": (array.address, False), "strides": None, "version": 3, "stream": None}
    assert array.numpy().view(np.uint8).tolist() == [[0x11] * 12] * 2
    for stream in (None, 1, 2, 12345, -1):
        tensor = dlpack.read(capsule := array.__dlpack__(stream=stream, max_version=(1, 0)))
        assert tensor == dlpack.Tensor(array.address, "F32", (2, 3), (3, 1), dlpack.CUDA, 1)
    seen = view(array, "it", stream=5)
    assert (seen.cuda_ordinal, seen.address) == (1, array.address)
    del array, seen
    gc.collect()
    assert len(library.memory) == 1  # the last capsule's
    del capsule
    gc.collect()
    assert not library.memory and not library.current and not dlpack._lent
    assert library.calls.count("cuDevicePrimaryCtxRetain") == library.calls.count("cuDevicePrimaryCtxRelease_v2") == 3


@pytest.mark.parametrize("failing, result, kind", [("cuMemAlloc_v2", 2, cf.OutOfMemoryError), ("cuCtxPushCurrent_v2", 700, cf.DeviceLostError), ("cuInit", 100, cf.DeviceLostError)])
def test_a_driver_that_fails(fake, failing, result, kind):
    library = fake(failing=failing, result=result)
    with pytest.raises(kind, match=failing):
        cf.DeviceArray((2, 3), 0)
    assert not library.memory and not library.current
    assert library.calls.count("cuDevicePrimaryCtxRetain") == library.calls.count("cuDevicePrimaryCtxRelease_v2")


def test_without_a_driver(monkeypatch):
    device_array.driver.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(f"{name}: cannot open")))
    with pytest.raises(cf.NoDeviceError, match="libcuda.so.1: cannot open"):
        cf.DeviceArray((1,), 0)
    device_array.driver.cache_clear()
