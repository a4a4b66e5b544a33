"""Turns include/clusterfusion.h into the text that cffi's cdef takes.

The header is kept plain enough for that: no macros besides integer constants, CF_API and the C++ guards. Whatever else
turns up is an error here rather than a declaration that goes missing.
"""

from __future__ import annotations

import re
from pathlib import Path

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_INTEGER_CONSTANT = re.compile(r"#define (CF_\w+) (-?\d+)")
_IGNORED = re.compile(r"#(include <std(int|def)\.h>|(ifndef|define) CLUSTERFUSION_H|define CF_API\b.*|if defined\(__GNUC__\)|else|endif)")


def declarations(header: Path) -> str:
    text = _COMMENT.sub("", header.read_text(encoding="utf-8"))
    lines = []
    in_cplusplus = False
    for line in (line.strip() for line in text.splitlines()):
        if in_cplusplus:
            in_cplusplus = line != "#endif"
        elif line == "#ifdef __cplusplus":
            in_cplusplus = True
        elif line.startswith("#") and not _INTEGER_CONSTANT.fullmatch(line):
            if not _IGNORED.fullmatch(line):
                raise ValueError(f"{header}: cannot be turned into a cffi declaration: {line}")
        elif line:
            lines.append(re.sub(r"\bCF_API ", "", line))
    return "\n".join(lines) + "\n"
