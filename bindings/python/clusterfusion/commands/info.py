"""What there is: the library, the devices, and with a checkpoint its configuration and the memory that it takes.

No weights are read."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from enum import IntEnum
from typing import Any

from .. import __version__, hub
from ..context import Context
from ..devices import devices
from ..errors import UnsupportedError
from ..native import ABI_VERSION, LIBRARY
from ..records import ModelConfig
from .common import add_device_arguments, print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", nargs="?", help="checkpoint directory, or a name on the Hugging Face hub")
    parser.add_argument("--revision", help="of the name on the hub")
    add_device_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    told: dict[str, Any] = {"version": __version__, "abi_version": ABI_VERSION, "library": LIBRARY, "devices": [_plain(asdict(info)) for info in devices()]}
    if arguments.model:
        config = ModelConfig.read(hub.checkpoint_directory(arguments.model, arguments.revision))
        told["config"] = _plain(asdict(config))
        context = Context(arguments.device, cpu_threads=arguments.threads)
        try:
            told["memory"] = {"device": context.device, **asdict(context.estimate(config))}
        except UnsupportedError as error:
            told["memory"] = {"device": context.device, "unsupported": str(error)}
    if arguments.json:
        print_json(told)
        return
    print(f"clusterfusion {__version__}, ABI {ABI_VERSION}, {LIBRARY}")
    for device in told["devices"]:
        name = "cpu" if device["kind"] == "CPU" else f"cuda:{device['ordinal']}"
        print(f"{name}: {device['name']}, {device['memory_bytes'] / 2**30:.1f} GiB" + (f"; not usable: {device['reason']}" if not device["usable"] else ""))
    for title in ("config", "memory"):
        if title in told:
            print(f"\n{title}" + (", of matrices in F16" if title == "memory" else ""))
            for name, value in told[title].items():
                print(f"  {name:26} {value}")


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    """Members of enumerations by their names."""
    return {name: value.name if isinstance(value, IntEnum) else value for name, value in record.items()}
