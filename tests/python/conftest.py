"""Puts the parts that these tests are made of on the path."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
for _folder in ("bindings/python", "tests/golden", "tests/python"):
    sys.path.insert(0, str(_ROOT / _folder))

from functools import lru_cache  # noqa: E402

import pytest  # noqa: E402


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
    from decoder import DEVICE, ISAS, Context, Failure, Model, lib

    @lru_cache(maxsize=None)
    def context(threads: int, isa: str | None):
        return Context(threads, ISAS[isa] if isa else lib.CF_CPU_ISA_AUTO)

    @lru_cache(maxsize=None)
    def model(name: str, threads: int = 2, isa: str | None = None) -> Model:
        if DEVICE != "cpu" and isa:
            pytest.skip("instruction sets are the CPU's")
        try:
            return Model.load(context(threads, isa), checkpoint(name))
        except Failure as failure:
            if (isa or DEVICE != "cpu") and failure.status == lib.CF_ERROR_UNSUPPORTED:
                pytest.skip(f"{isa or DEVICE}: {failure.text}")
            raise

    return model
