"""The package from the source tree, on the cffi view of the header that is built afresh for each run. Import it before clusterfusion."""

import importlib.util
import sys
import tempfile
from pathlib import Path

import build_cffi


def _built_module():
    with tempfile.TemporaryDirectory() as directory:
        spec = importlib.util.spec_from_file_location(build_cffi.MODULE, build_cffi.build(Path(directory)))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


_module = sys.modules[build_cffi.MODULE] = _built_module()  # its ffi points into it
ffi = _module.ffi
HEADER = build_cffi.HEADER
