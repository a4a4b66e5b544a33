"""The cffi view of the header against the C compiler's: sizes, offsets, constants, and every function's type."""

import os
import re
import shutil
import subprocess

import pytest

from interface import HEADER, ffi

TYPEDEFS, STRUCTS, UNIONS = ffi.list_types()
CONSTANTS = ffi.dlopen(None)  # constants need no library
TEXT = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
FUNCTIONS = re.findall(r"\bCF_API[^;]*?\b(cf_\w+)\(", TEXT)


def _fields(struct):
    return ffi.typeof(struct).fields


def _is_opaque(struct):  # cffi crashes when asked for the fields of one
    try:
        return not ffi.sizeof(struct)
    except ffi.error:
        return True


LAYOUTS = [struct for struct in STRUCTS if not _is_opaque(struct)]
CONSTANT_NAMES = [name for name in dir(CONSTANTS) if name.startswith("CF_")]


def compile_c(source: str, tmp_path, *flags) -> str:
    compiler = os.environ.get("CC") or shutil.which("cc") or pytest.fail("no C compiler: set CC")
    path, program = tmp_path / "layout.c", tmp_path / "layout"
    path.write_text(source)
    subprocess.run([*compiler.split(), "-std=c11", "-Wall", "-Wextra", "-Werror", f"-I{HEADER.parent}", *flags, str(path), "-o", str(program)], check=True)
    return str(program)


def test_layout_and_constants(tmp_path):
    """A C program prints what the compiler thinks; every line must be what cffi thinks."""
    expected = {}
    lines = []
    for typedef in TYPEDEFS:
        if typedef not in STRUCTS:
            expected[f"sizeof {typedef}"] = ffi.sizeof(typedef)
            lines.append(f'printf("sizeof {typedef} %zu\\n", sizeof({typedef}));')
    for struct in LAYOUTS:
        expected[f"sizeof {struct}"] = ffi.sizeof(struct)
        lines.append(f'printf("sizeof {struct} %zu\\n", sizeof({struct}));')
        for name, field in _fields(struct):
            expected[f"field {struct}.{name}"] = (field.offset, ffi.sizeof(field.type))
            lines.append(f'printf("field {struct}.{name} %zu %zu\\n", offsetof({struct}, {name}), sizeof((({struct}*)0)->{name}));')
    for name in CONSTANT_NAMES:
        expected[f"constant {name}"] = getattr(CONSTANTS, name)
        lines.append(f'printf("constant {name} %lld\\n", (long long){name});')
    body = "\n  ".join(lines)
    program = compile_c(f'#include <stdio.h>\n#include "clusterfusion.h"\nint main(void) {{\n  {body}\n  return 0;\n}}\n', tmp_path)
    printed = {}
    for line in subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines():
        kind, name, *values = line.split()
        printed[f"{kind} {name}"] = int(values[0]) if len(values) == 1 else tuple(map(int, values))
    assert printed == expected


def test_nothing_of_the_header_is_missing():
    """Counted in the header by other means than the ones that made the declarations."""
    assert not UNIONS
    bodies = dict((name, body) for body, name in re.findall(r"typedef struct \w+ \{(.*?)\} (\w+);", TEXT, re.DOTALL))
    assert sorted(bodies) == sorted(LAYOUTS)
    for struct, body in bodies.items():
        assert len(_fields(struct)) == body.count(";"), struct
    enumerators = re.findall(r"\b(CF_[A-Z0-9_]+) =", TEXT)
    defines = re.findall(r"#define (CF_\w+) -?\d+\n", TEXT)
    assert sorted(CONSTANT_NAMES) == sorted(enumerators + defines)
    assert len(FUNCTIONS) == TEXT.count("CF_API ") - TEXT.count("#define CF_API ")
    assert len(set(FUNCTIONS)) == len(FUNCTIONS) > 60


def test_structs_start_with_their_size():
    for struct in LAYOUTS:
        name, field = _fields(struct)[0]
        assert (name, field.offset, field.type.cname) == ("struct_size", 0, "uint32_t"), struct
        assert f"{struct}_init" in FUNCTIONS


def test_no_padding_in_structs():
    """What a caller does not name is zero, so that a later version can give it a meaning."""
    for struct in LAYOUTS:
        end = 0
        for name, field in _fields(struct):
            assert field.offset == end, f"{struct}: hole before {name}"
            end = field.offset + ffi.sizeof(field.type)
        assert end == ffi.sizeof(struct), f"{struct}: padding at the end"


def test_functions(tmp_path):
    """Every function is exported by the library, and has for C the type that it has for cffi."""
    if "CLUSTERFUSION_LIBRARY" not in os.environ:
        pytest.fail("CLUSTERFUSION_LIBRARY must name the libclusterfusion.so to test")
    lib = ffi.dlopen(os.environ["CLUSTERFUSION_LIBRARY"])
    pointers = [f"{ffi.getctype(ffi.typeof(getattr(lib, name)), f'(*p_{name})')} = {name};" for name in FUNCTIONS]
    pointers = [re.sub(r"\(\*\(\*(\w+)\)\)", r"(*\1)", line) for line in pointers]
    uses = "\n  ".join(f"(void)p_{name};" for name in FUNCTIONS)
    header = '#include <stddef.h>\n#include <stdint.h>\n#define const  /* cffi forgets it */\n#include "clusterfusion.h"\n'
    source = header + "\n".join(pointers) + f"\nint main(void) {{\n  {uses}\n  return 0;\n}}\n"
    compile_c(source, tmp_path, "-fsyntax-only")
