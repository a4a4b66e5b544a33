"""Writes a variant as a Hugging Face checkpoint directory: config.json, and safetensors files made by hand (the
safetensors package has no BF16 for NumPy)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import weights
from variants import Variant
from weights import Tensor


def write_safetensors(path: Path, tensors: dict[str, Tensor], header_padding: int = 0) -> None:
    """In the order given, one after another; header_padding spaces end the header and so shift the alignment of all."""
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        shape = list(tensor.data.shape)
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [offset, offset + tensor.data.nbytes]}
        offset += tensor.data.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + header_padding)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.data.astype(tensor.data.dtype.newbyteorder("<")).tobytes())


def write_model_files(directory: Path, tensors: dict[str, Tensor], n_shards: int = 1, header_padding: int = 0) -> None:
    if n_shards == 1:
        write_safetensors(directory / "model.safetensors", tensors, header_padding)
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(n_shards):
        file_name = f"model-{shard + 1:05}-of-{n_shards:05}.safetensors"
        mine = names[shard::n_shards]  # neighbours in different files
        write_safetensors(directory / file_name, {name: tensors[name] for name in mine}, header_padding)
        weight_map |= {name: file_name for name in mine}
    total_size = sum(tensor.data.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_checkpoint(variant: Variant, directory: Path, *, tensors: dict[str, Tensor] | None = None, for_reference: bool = False) -> Path:
    """`tensors` replaces the generated ones; for_reference writes the configuration that transformers is given."""
    directory.mkdir(parents=True, exist_ok=True)
    config = dict(variant.reference_config if for_reference and variant.reference_config else variant.config)
    config["torch_dtype"] = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}[variant.dtype]
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    used = weights.tensors(variant) if tensors is None else tensors
    write_model_files(directory, {**weights.unused_tensors(variant), **used}, variant.n_shards)
    return directory
