# The module itself is generated from the header.
from typing import Any

ffi: Any
