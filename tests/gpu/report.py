"""What a suite on a GPU says: a line per case as it goes, a table last, an exit status that is 0 only if nothing failed.

A case is skipped where the library answers CF_ERROR_UNSUPPORTED, with its sentence; skipped is counted apart and is never passed
(--no-skips makes it a failure). A case that checked nothing has failed.
"""

import argparse
import contextlib
import json
import sys
import time
import traceback
from pathlib import Path

from header import Failure

UNSUPPORTED = 6


class Skip(Exception):
    """Raised in a case that cannot be run here, with the reason."""


def arguments_of(description, device=True):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    if device:
        parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: what applies there, to try the suite itself")
        parser.add_argument("--multiprocessors", type=int, default=0, metavar="N", help="the launches of a device with so many SMs")
        parser.add_argument("--shared-memory-bytes", type=int, default=0, metavar="N", help="... and with so much shared memory for a CTA")
    parser.add_argument("--small", action="store_true", help="the default shapes; for ctest")
    parser.add_argument("--only", default="", metavar="WORDS", help="cases whose names have one of these words, separated by commas")
    parser.add_argument("--no-skips", action="store_true", help="a skipped case is a failure")
    parser.add_argument("--rows", metavar="FILE", help="the rows as JSON lines, too")
    return parser


def limits_of(arguments):
    """Options of a context for the device that is asked for."""
    return dict(device_multiprocessors=arguments.multiprocessors, device_shared_memory_bytes=arguments.shared_memory_bytes)


class Report:
    def __init__(self, suite, arguments):
        self.suite, self.arguments, self.rows, self._row = suite, arguments, [], None
        self.started = time.monotonic()

    def wanted(self, name):
        return not self.arguments.only or any(word in name for word in self.arguments.only.split(","))

    def check(self, condition, what):
        self._row["checks"] += 1
        if not condition:
            self._row.setdefault("failures", []).append(what)
            print(f"  FAILED: {what}", flush=True)
        return bool(condition)

    @contextlib.contextmanager
    def _case(self, name):
        row = self._row = {"suite": self.suite, "case": name, "result": "ok", "checks": 0}
        start = time.monotonic()
        try:
            yield row
        except Skip as skip:
            row["result"] = f"skipped: {skip}"
        except Failure as failure:
            if failure.status == UNSUPPORTED:
                row["result"] = f"skipped: {failure}"
            else:
                self.check(False, str(failure))
        except Exception as error:  # one case must not hide the others
            traceback.print_exc()
            self.check(False, f"{type(error).__name__}: {error}")
        if row["result"] == "ok" and not row["checks"]:
            self.check(False, "nothing was checked")
        if row.get("failures"):
            row["result"] = "failed"
        row["s"] = round(time.monotonic() - start, 2)
        self.rows.append(row)
        print(self._line(row), flush=True)

    def run(self, name, function, *arguments):
        """function(report, row, *arguments) as a case, if it is wanted; what it puts into row is shown."""
        if self.wanted(name):
            with self._case(name) as row:
                function(self, row, *arguments)

    @staticmethod
    def _line(row):
        numbers = {k: v for k, v in row.items() if k not in ("suite", "case", "result", "failures", "checks")}
        shown = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items())
        return f"{row['case']:44} {row['result']:8} {row['checks']:5} checks  {shown}"

    def finish(self):
        kinds = {kind: [row for row in self.rows if row["result"].startswith(kind)] for kind in ("ok", "failed", "skipped")}
        print(f"\n{self.suite}")
        for row in self.rows:
            print(self._line(row))
            for failure in row.get("failures", [])[:3]:
                print(f"    {failure[:300]}")
        print(f"{len(kinds['ok'])} ok, {len(kinds['failed'])} failed, {len(kinds['skipped'])} skipped, {time.monotonic() - self.started:.0f} s", flush=True)
        if self.arguments.rows:
            Path(self.arguments.rows).write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        wrong = kinds["failed"] or not self.rows or (self.arguments.no_skips and kinds["skipped"])
        sys.exit(1 if wrong else 0)
