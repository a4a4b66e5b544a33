"""From what a user calls a checkpoint to its directory."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .checks import path_bytes
from .errors import InvalidArgumentError, InvalidFileError, IoError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_FILES = ["config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "tokenizer.json"]


def checkpoint_directory(name: str | os.PathLike[str], revision: str | None) -> Path:
    """A directory as it is; a repository of the Hugging Face hub after its download, or from its cache."""
    path = Path(os.fsdecode(path_bytes(name, "directory_or_hub_id")))
    if path.is_dir():
        if revision is not None:
            raise InvalidArgumentError(f"revision is {revision!r}, but {path} is a directory: revisions are the hub's")
        return path
    text = os.fspath(name)
    if path.exists():
        raise IoError(f"{text} is a file, expected the directory of a checkpoint")
    if not isinstance(text, str) or not _HUB_ID.fullmatch(text):
        raise IoError(f"there is no directory {os.fsdecode(name)}")
    return _download(text, revision)


def _download(repository: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ImportError(
            f"there is no directory {repository}, and to download it from the Hugging Face hub the package huggingface_hub is needed: "
            "pip install clusterfusion[hub]"
        ) from None
    which = f"{repository}, revision {revision}" if revision else repository
    try:
        directory = Path(snapshot_download(repository, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # of many packages: the hub's, the HTTP client's, the file system's
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise IoError(f"there is no directory {repository}, and {which} could not be had from the Hugging Face hub: {reason}") from error
    if not any((directory / file).exists() for file in ("model.safetensors", "model.safetensors.index.json")):
        raise InvalidFileError(f"{which} has no safetensors on the Hugging Face hub; convert its weights, or choose another revision")
    return directory
