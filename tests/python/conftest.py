"""Puts the parts that these tests are made of on the path."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
for _folder in ("bindings/python", "tests/golden", "tests/python"):
    sys.path.insert(0, str(_ROOT / _folder))

from functools import lru_cache  # noqa: E402

import pytest  # noqa: E402

import interface  # noqa: E402, F401  clusterfusion's cffi module, before anything imports clusterfusion


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """name of a variant -> directory of its files, written once"""
    from checkpoint_files import write_checkpoint
    from variants import VARIANTS

    @lru_cache(maxsize=None)
    def directory(name: str):
        return write_checkpoint(VARIANTS[name], tmp_path_factory.mktemp("checkpoints") / name)

    return directory


@pytest.fixture(scope="session")
def load(checkpoint):
    """name of a variant, threads, instruction set -> its model, loaded once; skips where the machine lacks the set"""
    import decoder
    from clusterfusion import Model, UnsupportedError
    from goldens import DEVICE

    context = lru_cache(maxsize=None)(decoder.context)

    @lru_cache(maxsize=None)
    def model(name: str, threads: int = 2, isa: str | None = None) -> Model:
        if DEVICE != "cpu" and isa:
            pytest.skip("instruction sets are the CPU's")
        try:
            return decoder.load_model(checkpoint(name), context(threads, isa or "auto"))
        except UnsupportedError as error:
            if isa or DEVICE != "cpu":
                pytest.skip(f"{isa or DEVICE}: {error}")
            raise

    return model
