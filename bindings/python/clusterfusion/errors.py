"""An exception class for each status of the library. Its text is the library's sentence, which names the argument, file, tensor or
size at fault. After an exception the object that was called is unchanged and usable."""

from __future__ import annotations

from .enums import Status


class Error(Exception):
    """Any failure that the library reports, and bad arguments that the package finds by itself. `status` says which."""

    status: Status = Status.ERROR_INTERNAL


class InvalidArgumentError(Error, ValueError):
    """An argument is impossible, out of range or inconsistent with others."""

    status = Status.ERROR_INVALID_ARGUMENT


class OutOfMemoryError(Error, MemoryError):
    """Host or device memory could not be allocated."""

    status = Status.ERROR_OUT_OF_MEMORY


class IoError(Error, OSError):
    """A file could not be opened, read or written."""

    status = Status.ERROR_IO


class InvalidFileError(Error):
    """A file breaks its format, or lacks something that the model needs."""

    status = Status.ERROR_INVALID_FILE


class UnsupportedError(Error):
    """Well-formed, but not built yet, not for this device, or not this model family."""

    status = Status.ERROR_UNSUPPORTED


class NoDeviceError(Error):
    """There is no such device, or no driver for it."""

    status = Status.ERROR_NO_DEVICE


class DeviceLostError(Error):
    """The device failed. Everything made on its context answers so from now on."""

    status = Status.ERROR_DEVICE_LOST


class NotLoadedError(Error):
    """A layer or tensor that the call needs has not been loaded."""

    status = Status.ERROR_NOT_LOADED


class CacheFullError(Error):
    """The session's capacity or its pool has no room for the step."""

    status = Status.ERROR_CACHE_FULL


class NonfiniteLogitsError(Error):
    """The model computed NaN or infinity; no token was sampled."""

    status = Status.ERROR_NONFINITE_LOGITS


class NoTokenAllowedError(Error):
    """Mask and biases leave no token to sample."""

    status = Status.ERROR_NO_TOKEN_ALLOWED


class CancelledError(Error):
    """Stopped by a Cancellation."""

    status = Status.ERROR_CANCELLED


class BufferTooSmallError(Error):
    """A caller's buffer is too small."""

    status = Status.ERROR_BUFFER_TOO_SMALL


class MismatchError(Error):
    """A saved session or new weights belong to another model."""

    status = Status.ERROR_MISMATCH


class BusyError(Error):
    """The object is in use by a call on another thread, or has unfinished work."""

    status = Status.ERROR_BUSY


class InternalError(Error):
    """A defect of the library; please report it."""

    status = Status.ERROR_INTERNAL


_CLASSES = {cls.status: cls for cls in Error.__subclasses__()}


def error_of(status: int, sentence: str) -> Error:
    """The exception for a status, to be raised."""
    known = {int(key): cls for key, cls in _CLASSES.items()}
    if status not in known:
        return InternalError(f"status {status} is none that this package knows: {sentence}")
    return known[status](sentence)
