"""What the reports of sanitize.sh say, by kernel and kind.

    python3 tests/gpu/sanitize_summary.py REPORTS [TOOL...] [--rows FILE]

A tool is believed only if it found every planted fault. Where it also reports sound code of planted.cu, what it says of kernels built in
the same way is no evidence either way: such reports are counted as not judged, never as passed, and the same hazard in any other
construction is a failure. Opcodes of racecheck's accesses come from cuobjdump.
"""

import collections
import json
import re
import subprocess
import sys
from pathlib import Path

# Tool and kind of report: the sound code that is misjudged in the same way, and the kernels that are built like it.
MISJUDGED = {("racecheck", "bulk copy"): ("ring", r"decode<"), ("racecheck", "plain accesses"): ("handshake", r"decode<"),
             ("synccheck", "Barrier error detected. Divergent thread(s) in block."): ("meeting", r"decode<")}
REPORT = r"^========= ((?:Invalid|Uninitialized|Misaligned|Barrier error|Leaked|Program hit).*)\n(?:=========     at (.*?)\+0x)?"
NAMES = re.compile(r"\(int\)|\(bool\)|cf::gpu::|<unnamed>::|\(anonymous namespace\)::|void |\[clone |\]")


def kernel_of(text):
    """decode<32, F16, 8> of a name with its arguments; of a clone the kernel it was made for."""
    clone = re.search(r"\[clone (.*?)\] ", text)
    name = NAMES.sub("", clone[1] if clone else text)
    return re.sub(r"\(.*", "", name).replace("<true>", "<1>").replace("<false>", "<0>").strip()


def sound_code_like(tool, kernel, kind):
    name, kernels = MISJUDGED.get((tool, kind), (None, ""))
    return name if name and re.match(kernels, kernel) else None


class Code:
    """Opcodes of the kernels of a program or library."""

    def __init__(self, path):
        self.kernels, mangled, kernel = {}, {}, None
        try:
            listing = subprocess.run(["cuobjdump", "-sass", path], capture_output=True, text=True, timeout=100).stdout
            for line in listing.splitlines():
                match = re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?([A-Z0-9_.]+)", line)
                if match and kernel is not None:
                    kernel[int(match[1], 16)] = match[2]
                elif "Function : " in line:
                    kernel = mangled.setdefault(line.split("Function : ")[1].strip(), {})
            names = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True).stdout.splitlines()
        except (OSError, subprocess.TimeoutExpired):
            return
        self.kernels = {kernel_of(name): code for name, code in zip(names, mangled.values())}

    def at(self, kernel, offset):
        return self.kernels.get(kernel, {}).get(offset, "?")


def accesses(text):
    """Of a race report: pairs of (kernel, offset, access), first with each other."""
    first = None
    for line in text.splitlines():
        match = re.search(r"(Write|Read) access at (.*)\+0x([0-9a-f]+)", line)
        if match:
            access = kernel_of(match[2]), int(match[3], 16), match[1]
            if "reported between" in line:
                first = access
            elif first:
                yield first, access


def kinds(tool, text, code):
    """Counter of (kernel, kind)."""
    found = collections.Counter()
    if tool == "racecheck":
        for a, b in accesses(text):
            opcodes = [code().at(kernel, offset) for kernel, offset, _ in (a, b)]
            bulk = any(opcode.startswith("UBLKCP") for opcode in opcodes)
            found[a[0], "bulk copy" if bulk else "accesses of unknown opcodes" if "?" in opcodes else "plain accesses"] += 1
        return found
    for match in re.finditer(REPORT, text, re.M):
        found[kernel_of(match[2] or "?"), match[1][:80]] += 1
    return found


def main():
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    rows_file = words.pop() if "--rows" in sys.argv else None
    reports, tools = Path(words[0]), words[1:] or ["memcheck", "initcheck", "racecheck", "synccheck"]
    codes, rows, wrong = {}, [], 0

    def code_of(name):
        program = "planted" if name.startswith(("planted", "sound")) else "library"
        path = (reports / f"{program}.path").read_text().strip()
        return lambda: codes.setdefault(path, Code(path) if path not in codes else None) or codes[path]

    for tool in tools:
        logs = sorted(reports.glob(f"{tool}-*.txt"))
        found = {log.stem[len(tool) + 1 :]: kinds(tool, log.read_text(), code_of(log.stem[len(tool) + 1 :])) for log in logs}
        statuses = {name: (reports / f"{tool}-{name}.status").read_text().strip() for name in found}
        misjudged = {(name[6:], kind) for name, reported in found.items() if name.startswith("sound-") for _, kind in reported}
        for name, reported in found.items():
            summary = "SUMMARY" in (reports / f"{tool}-{name}.txt").read_text()
            if name.startswith("planted-"):
                result = "ok" if reported else "failed: the planted fault was not found"
            elif name.startswith("sound-"):
                result = "ok" if not reported else "misjudged"
            elif any((sound_code_like(tool, *what), what[1]) not in misjudged for what in reported):
                result = "failed"
            elif tool != "synccheck" and statuses[name] != "0":  # synccheck stops a kernel that it reports
                result = f"failed: exit status {statuses[name]}"
            elif reported:
                result = "not judged: " + ", ".join(sorted({sound_code_like(tool, *what) for what in reported}))
            else:
                result = "ok" if summary and statuses[name] == "0" else f"failed: exit status {statuses[name]}, summary: {summary}"
            wrong += result.startswith("failed")
            rows.append({"suite": "sanitize", "case": f"{tool}: {name}", "result": result, "reports": sum(reported.values())})
            print(f"{tool:10} {name:30} {result:34} {sum(reported.values()):6} reports")
            for (kernel, kind), n in sorted(reported.items()):
                print(f"{'':12}{n:6}  {kernel:28} {kind}")
    counts = collections.Counter(row["result"].split(":")[0] for row in rows)
    print(", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))
    if rows_file:
        Path(rows_file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    sys.exit(1 if wrong or not rows else 0)


if __name__ == "__main__":
    main()
