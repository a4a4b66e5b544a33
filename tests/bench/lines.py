"""The numbers, a JSON line each: written as they come, read by what makes tables and plots.

A row has run (when its command began, which ties it to the row `about` that says what ran where), kind, shape and who, then numbers. Two kinds say how a
run went: done (this kind of numbers of this shape is complete) and error (it is not, and why).
"""

import json
from pathlib import Path


def read(*paths):
    """Rows of files. A last line that was cut off when its run was stopped is left out."""
    rows = []
    for path in paths:
        for line in Path(path).read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


def shown(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Lines:
    """Appends to a file, if there is one, and says each row."""

    def __init__(self, run, path=None):
        self.run, self.path = run, path and Path(path)
        self.earlier = read(path) if path and self.path.exists() else []
        self.rows = []
        if self.path and self.earlier and not self.path.read_bytes().endswith(b"\n"):
            with open(self.path, "a") as file:
                file.write("\n")

    def add(self, kind, shape="", who="", **numbers):
        row = {"run": self.run, "kind": kind, "shape": shape, "who": who, **numbers}
        self.rows.append(row)
        print(f"{kind:9} {shape:14} {who:28} " + ", ".join(f"{key} {shown(value)}" for key, value in numbers.items()), flush=True)
        if self.path:
            with open(self.path, "a") as file:
                print(json.dumps(row), file=file, flush=True)

    def done(self, kind, shape):
        """Whether an earlier run, on the same file, completed it."""
        return any(row["kind"] == "done" and row["of"] == kind and row["shape"] == shape for row in self.earlier)
