"""No word of an exchange between CTAs (kernels/words.cuh) is read in pieces: the compiler makes narrower loads of one whose numbers are not all
used, and of two loads the first may find the word of before, the second that of now. Looks at the machine code of every architecture in a
library, without a GPU, in the decode kernels of one head_dim, which have all that reads words.

    python3 tests/gpu/whole_words.py build/release/libclusterfusion.so [FOLDER OF cuobjdump]
"""

import os
import re
import subprocess
import sys

KERNELS = ("_ZN2cf3gpu6decodeILi64ELi1EEEvNS0_12DecodeParamsE", "_ZN2cf3gpu6decodeILi64ELi8EEEvNS0_12DecodeParamsE")
WORDS_AT_LEAST = 50  # loads of whole words in a kernel; fewer: this no longer finds them
EPOCH = 12  # bytes into a word


def loads_of(library, folder):
    """(architecture, kernel) -> (bits, offset) of its loads that other CTAs' stores are ordered with."""
    path = os.pathsep.join([folder, os.environ["PATH"]])
    try:
        listing = subprocess.run(["cuobjdump", "-sass", "-fun", ",".join(KERNELS), library], capture_output=True, text=True, env={**os.environ, "PATH": path})
    except FileNotFoundError:
        print("SKIP: no cuobjdump")
        sys.exit(77)
    loads, architecture, kernel = {}, None, None
    for line in listing.stdout.splitlines():
        if found := re.match(r"arch = (\S+)", line):
            architecture = found[1]
        elif found := re.search(r"Function : (\S+)", line):
            kernel = loads.setdefault((architecture, found[1]), [])
        elif found := re.search(r"LDG\.E(?:\.\w+)*?(?:\.(64|128))?\.STRONG\.GPU R\d+, (?:desc\[\w+\])?\[R\d+(?:\.64)?(?:\+(-?0x[0-9a-f]+))?\]", line):
            kernel.append((int(found[1] or 32), int(found[2] or "0", 16)))
        elif ".STRONG.GPU" in line and "LDG" in line:
            sys.exit(f"whole_words: what is this? {line}")
    return loads


def main():
    loads = loads_of(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ".")
    failures = [] if loads else ["no decode kernels found"]
    for (architecture, kernel), all_loads in loads.items():
        whole = sum(bits == 128 for bits, _ in all_loads)
        pieces = [f"{bits} bits at {offset:#x}" for bits, offset in all_loads if bits < 128 and offset % 16 + bits // 8 > EPOCH]
        print(f"{architecture} {kernel}: {whole} whole words, {len(pieces)} in pieces {', '.join(pieces)}")
        if pieces or whole < WORDS_AT_LEAST:
            failures.append(f"{architecture} {kernel}")
    print("whole_words:", f"FAILED: {', '.join(failures)}" if failures else "ok")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
