"""python -m clusterfusion generate|score|bench|info: see --help of each.

Results go to standard output, progress and timing to standard error. Exits with 1 after an error, 2 after wrong arguments, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .commands import bench, generate, info, score
from .errors import Error

_COMMANDS = {"generate": generate, "score": score, "bench": bench, "info": info}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="clusterfusion", description="Runs GPT-NeoX (Pythia) and Llama checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(_COMMANDS))
    for name, module in _COMMANDS.items():
        description = (module.__doc__ or "").strip()
        command = commands.add_parser(name, help=description.splitlines()[0], description=description)
        module.add_arguments(command)
    arguments = parser.parse_args(argv)
    try:
        _COMMANDS[arguments.command].run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Error, ImportError, OSError, UnicodeError) as error:
        print(f"clusterfusion {arguments.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
