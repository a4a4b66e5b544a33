"""What all objects that own something of the library have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from typing_extensions import Self


class Handle:
    """Closed by `close`, at the end of a `with` block, or with the last reference to it.

    What was made from it (a model's sessions, say) goes on working when it is closed: the library keeps what they share until the
    last of them is closed.
    """

    _cdata: Any

    def __init__(self, cdata: Any) -> None:
        self._cdata = cdata

    @property
    def handle(self) -> Any:
        """The cffi pointer, for `clusterfusion.native.lib`. InvalidArgumentError once closed."""
        cdata = self._cdata
        if cdata is None:
            raise InvalidArgumentError(f"this {type(self).__name__} is closed")
        return cdata

    @property
    def closed(self) -> bool:
        return self._cdata is None

    def close(self) -> None:
        """Gives back what the object owns, at once or, if another thread is in a call with it, with the end of that call. May be
        called any number of times."""
        self._cdata = None  # the last reference destroys it, native.created sees to that

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
