#!/usr/bin/env python3
"""frozen.py BASELINE HEADER LIBRARY C_COMPILER: the header has grown from its frozen version only as programs built with that can bear.

A C program on the frozen header prints sizes, offsets and values as static assertions; a second one on the present header holds them, and
declares every type and function again as it was: what has changed does not compile. The library must export every frozen function.
Allowed: new functions, types and constants; fields at the end of a struct; another name for a field called reserved.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path


def statements(header: Path) -> list[str]:
    """What the header declares, without comments, preprocessor lines and layout."""
    text = re.sub(r"/\*.*?\*/", " ", header.read_text(), flags=re.S)
    text = re.sub(r'^#ifdef __cplusplus\n(extern "C" \{|\})\n#endif$', "", text, flags=re.M)
    text = " ".join(line for line in text.split("\n") if not line.startswith("#"))
    return [" ".join(s.split()) for s in re.findall(r"[^;{}]*(?:\{[^{}]*\}[^;{}]*)?;", text)]


class Header:
    """Structs with their fields as (type, name, array), enumerations' constants, functions' names, and all declarations that may be repeated."""

    def __init__(self, header: Path) -> None:
        self.structs: dict[str, list[tuple[str, str, str]]] = {}
        self.constants: list[str] = []
        self.functions: list[str] = []
        self.typedefs: list[str] = []
        self.repeatable: list[str] = []
        for statement in statements(header):
            if struct := re.fullmatch(r"typedef struct (\w+) \{(.*)\} \1;", statement):
                fields = [(field, re.fullmatch(r"(.*[ *])(\w+)(\[\w+\])?", field.strip())) for field in struct[2].split(";")[:-1]]
                for field, parts in fields:
                    if not parts:
                        sys.exit(f"FAIL: this script cannot read the field '{field}' of {struct[1]}")
                self.structs[struct[1]] = [(f[1].strip(), f[2], f[3] or "") for _, f in fields if f]
            elif enum := re.fullmatch(r"enum \{(.*)\};", statement):
                self.constants += [constant.split("=")[0].strip() for constant in enum[1].split(",") if constant.strip()]
            elif typedef := re.fullmatch(r"typedef [^{}]*?(?:\(\*(\w+)\)\(.*\)|(\w+));", statement):
                self.typedefs.append(typedef[1] or typedef[2])
                self.repeatable.append(statement)
            elif function := re.fullmatch(r"CF_API [\w *]*?(\w+)\(.*\);", statement):
                self.functions.append(function[1])
                self.repeatable.append(statement)
            else:
                sys.exit(f"FAIL: this script cannot read '{statement}' of {header}")
        if len(self.functions) != len(re.findall(r"^CF_API ", header.read_text(), flags=re.M)) or len(self.functions) < 70:
            sys.exit(f"FAIL: this script does not find all functions of {header}")
        if len(self.structs) < 20 or len(self.typedefs) < 20 or len(self.constants) < 80:
            sys.exit(f"FAIL: this script does not find all structs and constants of {header}")


def assertions(frozen: Header, present: Header) -> str:
    """Statements of C that print the second program's assertions."""
    lines = []

    def must(condition: str, *numbers: str) -> None:  # each %lld of the condition is a number of the frozen header
        values = "".join(f", (long long)({n})" for n in 2 * numbers)
        lines.append(f'printf("_Static_assert({condition}, \\"{condition}\\");\\n"{values});')

    must("CF_ABI_VERSION == %lld", "CF_ABI_VERSION")
    for constant in frozen.constants:
        must(f"{constant} == %lld", constant)
    for struct, fields in frozen.structs.items():
        now = {name for _, name, _ in present.structs.get(struct, [])}
        must(f"sizeof({struct}) >= %lld", f"sizeof({struct})")
        renamed = [name for _, name, _ in fields if name == "reserved" and name not in now]
        for type_, name, array in fields:
            if name in renamed:
                continue
            must(f"offsetof({struct}, {name}) == %lld", f"offsetof({struct}, {name})")
            must(f"__builtin_types_compatible_p(__typeof__((({struct}*)0)->{name}), {type_}{array})")
        for name in sorted(now - {name for _, name, _ in fields}):
            allowed, numbers = f"offsetof({struct}, {name}) >= %lld", [f"sizeof({struct})"]
            for old in renamed:
                allowed += f" || (offsetof({struct}, {name}) == %lld && sizeof((({struct}*)0)->{name}) == %lld)"
                numbers += [f"offsetof({struct}, {old})", f"sizeof((({struct}*)0)->{old})"]
            must(allowed, *numbers)
    return "\n".join(lines)


def main() -> None:
    baseline, header, library = map(Path, sys.argv[1:4])
    compiler = sys.argv[4]
    frozen, present = Header(baseline), Header(header)
    common = "#include <stddef.h>\n#include <stdio.h>\n"
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first.c"), Path(folder, "second.c")
        program = Path(folder, "first")
        first.write_text(f'#include "{baseline.resolve()}"\n{common}int main(void) {{\n{assertions(frozen, present)}\nreturn 0;\n}}\n')
        subprocess.run([compiler, "-std=c11", "-w", first, "-o", program], check=True)
        printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
        again = "\n".join(frozen.repeatable)
        second.write_text(f'#include "{header.resolve()}"\n{common}{again}\n{printed}')
        compiled = subprocess.run([compiler, "-std=c11", "-fsyntax-only", second], capture_output=True, text=True)
    errors = [line for line in compiled.stderr.split("\n") if "error:" in line]
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True).stdout
    exported = {line.split()[-1] for line in symbols.splitlines()}
    lost = set(frozen.functions + frozen.typedefs) - set(present.functions + present.typedefs)  # the second program declares them itself
    errors += [f"{name} is no longer declared" for name in sorted(lost)]
    errors += [f"{function} is no longer exported" for function in frozen.functions if function not in exported]
    for error in errors:
        print("FAIL:", error.split("error: ")[-1])
    if errors or compiled.returncode != 0:
        sys.exit("FAIL: programs built with the frozen header would break")
    print(f"OK: {len(frozen.functions)} functions, {len(frozen.structs)} structs, {len(frozen.constants)} constants as they were frozen")



main()
