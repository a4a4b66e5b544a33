"""The package against the header: its enumerations, records and exceptions have what the header has; and which library it opens."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from interface import HEADER, ffi

import clusterfusion as cf
from clusterfusion import enums, native, records

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "bindings" / "python"

PREFIXES = {
    enums.DeviceKind: "CF_DEVICE_", enums.CpuIsa: "CF_CPU_ISA_", enums.LogLevel: "CF_LOG_", enums.Dtype: "CF_DTYPE_", enums.Family: "CF_FAMILY_",
    enums.Norm: "CF_NORM_", enums.Activation: "CF_ACTIVATION_", enums.RopeScaling: "CF_ROPE_SCALING_", enums.Role: "CF_ROLE_", enums.Memory: "CF_MEMORY_",
    enums.LaunchMode: "CF_LAUNCH_", enums.OutputRows: "CF_ROWS_",
}  # fmt: skip
RECORDS = {
    records.DeviceInfo: "cf_device_info", records.ContextInfo: "cf_context_info", records.ModelConfig: "cf_model_config", records.ModelInfo: "cf_model_info",
    records.KvPoolInfo: "cf_kv_pool_info", records.SessionInfo: "cf_session_info", records.MemoryEstimate: "cf_memory_estimate", records.GraphInfo: "cf_graph_info",
}  # fmt: skip
CONSTANTS = {name: getattr(native.lib, name) for name in dir(native.lib) if name.startswith("CF_")}


def test_every_constant_is_a_member():
    members = {"CF_" + member.name: int(member) for member in enums.Status}
    for kind, prefix in PREFIXES.items():
        members |= {prefix + member.name: int(member) for member in kind}
    for kind in (enums.TapPoint, enums.TapAction):
        members |= {"CF_TAP_" + member.name: int(member) for member in kind}
    members["CF_TOKEN_PENDING"] = cf.PENDING
    header = {name: value for name, value in CONSTANTS.items() if not re.fullmatch(r"CF_(ABI_)?VERSION\w*", name)}
    assert members == header


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_records_have_the_fields_of_their_structs(record):
    fields = [name for name, _ in ffi.typeof(RECORDS[record]).fields if name not in ("struct_size", "reserved", "n_eos_tokens")]
    assert sorted(field.name for field in dataclasses.fields(record)) == sorted(fields)


def test_one_exception_for_each_status():
    failures = [status for status in enums.Status if status.name.startswith("ERROR_")]
    for status in failures:
        name = "".join(word.capitalize() for word in status.name.removeprefix("ERROR_").split("_")) + "Error"
        assert getattr(cf, name).status == status and name in cf.__all__
    from clusterfusion.errors import error_of

    assert [type(error_of(status, "").status) for status in failures] == [enums.Status] * len(failures)
    assert {error_of(status, "").status for status in failures} == set(failures)
    assert "status 99" in str(error_of(99, ""))


def test_everything_public_has_a_docstring():
    without = [name for name in cf.__all__ if not (getattr(cf, name).__doc__ or "").strip() and name != "PENDING"]
    for name in ("Context", "Model", "Session", "KvPool", "Graph", "Block", "Cancellation", "Handle"):
        kind = getattr(cf, name, None) or __import__("clusterfusion.handles").handles.Handle
        for attribute, value in vars(kind).items():
            if not attribute.startswith("_") and (callable(value) or isinstance(value, classmethod)) and not value.__doc__:
                without.append(f"{name}.{attribute}")
    assert not without


def test_device_names():
    from clusterfusion.devices import parse_device

    assert parse_device("cpu") == (cf.DeviceKind.CPU, [0])
    assert parse_device("cuda") == (cf.DeviceKind.CUDA, [0])
    assert parse_device(["cuda:0", "cuda:3"]) == (cf.DeviceKind.CUDA, [0, 3])
    for wrong in ("gpu", "cuda:", "cuda:-1", "CPU", "cuda:0 ", ["cpu", "cuda:0"], [], [0], None):
        with pytest.raises(cf.InvalidArgumentError, match="device"):
            parse_device(wrong)
    assert cf.devices()[0].kind == cf.DeviceKind.CPU and cf.devices()[0].usable


def test_names_of_members():
    from clusterfusion.enums import member

    assert member(enums.Dtype, "f16", "kv_dtype") is enums.Dtype.F16
    with pytest.raises(cf.InvalidArgumentError, match="kv_dtype is 'F8', expected one of AUTO, F32, F16, BF16"):
        member(enums.Dtype, "F8", "kv_dtype")
    with pytest.raises(cf.InvalidArgumentError, match="kv_dtype is 2"):
        member(enums.Dtype, 2, "kv_dtype")


# ---- Which library


def imported(program: str, **environment) -> subprocess.CompletedProcess:
    """Runs a program that imports the package from the source tree, in a process of its own."""
    start = f"import sys; sys.path[:0] = [{str(PACKAGE)!r}, {str(Path(__file__).parent)!r}]; import interface; "
    clean = {key: value for key, value in os.environ.items() if key not in ("CLUSTERFUSION_LIBRARY", "LD_LIBRARY_PATH")}
    return subprocess.run([sys.executable, "-c", start + program], env={**clean, **environment}, capture_output=True, text=True)


def test_a_library_that_is_not_there():
    done = imported("import clusterfusion", CLUSTERFUSION_LIBRARY="/nowhere/libclusterfusion.so")
    assert done.returncode and "ImportError: cannot load the library that CLUSTERFUSION_LIBRARY names" in done.stderr and "/nowhere" in done.stderr


def test_none_at_all():
    done = imported("import clusterfusion")
    assert done.returncode and "ImportError: cannot load libclusterfusion.so" in done.stderr


def test_a_system_library_is_found(tmp_path):
    soname = f"libclusterfusion.so.{native.ABI_VERSION}"
    (tmp_path / soname).symlink_to(Path(os.environ["CLUSTERFUSION_LIBRARY"]).resolve())
    done = imported("import clusterfusion.native as n; print(n.LIBRARY)", LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == soname, done.stderr


@pytest.mark.parametrize("body, words", [("unsigned cf_abi_version(void) { return 99; }", "has ABI version 99, this package needs"), ("int x;", "is not libclusterfusion")])
def test_another_abi_is_refused(tmp_path, body, words):
    compiler = os.environ.get("CC") or shutil.which("cc") or pytest.fail("no C compiler: set CC")
    source, library = tmp_path / "other.c", tmp_path / "libother.so"
    source.write_text(body + "\n")
    subprocess.run([*compiler.split(), "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    done = imported("import clusterfusion", CLUSTERFUSION_LIBRARY=str(library))
    assert done.returncode and f"ImportError: {library} {words}" in done.stderr


# ---- Types


def test_types_are_strict():
    """Of the package, and of the examples as its users' programs."""
    pytest.importorskip("mypy")
    files = ["clusterfusion", *map(str, sorted((ROOT / "examples").glob("*.py")))]
    files.remove(str(ROOT / "examples" / "train_demo_model.py"))  # needs torch
    done = subprocess.run([sys.executable, "-m", "mypy", "--no-incremental", "--cache-dir", os.devnull, *files], cwd=PACKAGE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_header_is_the_one_of_the_tree():
    assert HEADER == ROOT / "include" / "clusterfusion.h"
    assert cf.__version__ == ".".join(re.search(rf"CF_VERSION_{part} (\d+)", HEADER.read_text())[1] for part in ("MAJOR", "MINOR", "PATCH"))
