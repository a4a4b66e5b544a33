"""Writes the out-of-line cffi module of the header: one Python file, no compiler needed.

  python bindings/python/build_cffi.py DIRECTORY [--header include/clusterfusion.h]

DIRECTORY is that of the package: the module is clusterfusion._cffi, and clusterfusion.native opens the library with it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path

import cffi

from declarations import declarations

MODULE = "clusterfusion._cffi"
HEADER = Path(__file__).resolve().parents[2] / "include" / "clusterfusion.h"


def build(directory: Path, header: Path = HEADER) -> Path:
    ffi = cffi.FFI()
    ffi.set_source(MODULE, None)  # NULL source: ABI mode
    ffi.cdef(declarations(header))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{MODULE.rpartition('.')[2]}.py"
    with contextlib.redirect_stdout(io.StringIO()):  # cffi says that it generates it
        ffi.emit_python_code(str(path))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--header", type=Path, default=HEADER)
    arguments = parser.parse_args()
    build(arguments.output, arguments.header)
