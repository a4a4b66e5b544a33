"""Every tensor of a variant, and its prompt, from nothing but names.

Numbers come from Philox, keyed by variant and tensor name, so that a tensor depends on no other. They are sums of four
16-bit integers rather than NumPy's normals: the same bits with every NumPy on every machine.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np

from variants import Variant

OUTLIERS = (1.0e4, -6.2e3, -2.8e3, -1.0e3)  # add up to 0, or LayerNorm would see little else than their mean
_STORAGE = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "BOOL": np.uint8, "U8": np.uint8}


@dataclass(frozen=True)
class Tensor:
    dtype: str        # as safetensors spells it
    data: np.ndarray  # as stored; BF16 is the upper half of an F32, in uint16

    def floats(self) -> np.ndarray:
        if self.dtype == "BF16":
            return (self.data.astype(np.uint32) << 16).view(np.float32)
        return self.data.astype(np.float32)


def stored(values: np.ndarray, dtype: str) -> Tensor:
    """Rounds to the storage type, to nearest even."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
        return Tensor(dtype, ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))
    return Tensor(dtype, values.astype(_STORAGE[dtype]))


def _raw(key: str, count: int) -> np.ndarray:
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)


def standard_normal(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """About normal, mean 0, standard deviation 1."""
    raw = _raw(key, int(np.prod(shape)))
    total = sum(((raw >> shift) & 0xFFFF).astype(np.int64) for shift in (0, 16, 32, 48))
    deviation = np.sqrt(4 * (65536.0**2 - 1) / 12)
    return ((total - 2 * 65535) / deviation).reshape(shape)


def prompt(variant: Variant, name: str = "prompt", n_tokens: int | None = None) -> list[int]:
    raw = _raw(f"{variant.name}/{name}", n_tokens or variant.n_tokens)
    return (raw % np.uint64(variant.config["vocab_size"])).astype(np.int32).tolist()


def _neox_shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    c = variant.config
    H, I, V = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    shapes = {"gpt_neox.embed_in.weight": (V, H)}
    for layer in range(c["num_hidden_layers"]):
        p = f"gpt_neox.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {p + norm + ".weight": (H,), p + norm + ".bias": (H,)}
        shapes |= {p + "attention.query_key_value.weight": (3 * H, H), p + "attention.dense.weight": (H, H)}
        if c.get("attention_bias", True):
            shapes |= {p + "attention.query_key_value.bias": (3 * H,), p + "attention.dense.bias": (H,)}
        shapes |= {p + "mlp.dense_h_to_4h.weight": (I, H), p + "mlp.dense_h_to_4h.bias": (I,)}
        shapes |= {p + "mlp.dense_4h_to_h.weight": (H, I), p + "mlp.dense_4h_to_h.bias": (H,)}
    shapes |= {"gpt_neox.final_layer_norm.weight": (H,), "gpt_neox.final_layer_norm.bias": (H,)}
    if not c["tie_word_embeddings"]:
        shapes[variant.head + ".weight"] = (V, H)
    return shapes


def _llama_shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    c = variant.config
    H, I, V, A = c["hidden_size"], c["intermediate_size"], c["vocab_size"], c["num_attention_heads"]
    D, G = c.get("head_dim", H // A), c.get("num_key_value_heads", A)
    shapes = {"model.embed_tokens.weight": (V, H)}
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        attention = {"q_proj": (A * D, H), "k_proj": (G * D, H), "v_proj": (G * D, H), "o_proj": (H, A * D)}
        mlp = {"gate_proj": (I, H), "up_proj": (I, H), "down_proj": (H, I)}
        for block, matrices, biased in (("self_attn.", attention, "attention_bias"), ("mlp.", mlp, "mlp_bias")):
            for name, shape in matrices.items():
                shapes[p + block + name + ".weight"] = shape
                if c.get(biased, False):
                    shapes[p + block + name + ".bias"] = shape[:1]
        shapes |= {p + "input_layernorm.weight": (H,), p + "post_attention_layernorm.weight": (H,)}
    shapes["model.norm.weight"] = (H,)
    if not c["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (V, H)
    return shapes


def shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the model uses, by its Hugging Face name."""
    return _neox_shapes(variant) if is_neox(variant) else _llama_shapes(variant)


def is_neox(variant: Variant) -> bool:
    return variant.config["model_type"] == "gpt_neox"


def embedding_name(variant: Variant) -> str:
    return "gpt_neox.embed_in.weight" if is_neox(variant) else "model.embed_tokens.weight"


def is_norm_weight(name: str) -> bool:
    return name.endswith("norm.weight")


def _outlier_channels(variant: Variant) -> np.ndarray:
    order = np.argsort(_raw(f"{variant.name}/outliers", variant.config["hidden_size"]), kind="stable")
    return order[: len(OUTLIERS)]


def _values(variant: Variant, name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = standard_normal(f"{variant.name}/{name}", shape)
    if name == embedding_name(variant):
        if variant.outliers:
            channels = _outlier_channels(variant)
            normal[:, channels] = np.array(OUTLIERS) * (1 + 0.02 * normal[:, channels])
        return normal
    if is_norm_weight(name):
        weight = 1 + 0.2 * normal
        if variant.outliers:  # trained models damp such channels here, and the others still count
            weight *= 300
            weight[_outlier_channels(variant)] /= 30000
        return weight
    if name.endswith(".bias"):
        return 0.1 * normal - (2.5 if variant.gelu_tail and "dense_h_to_4h" in name else 0)
    return normal * (_gain(variant, name) / np.sqrt(shape[1]))


def _gain(variant: Variant, name: str) -> float:
    if variant.gelu_tail and "dense_h_to_4h" in name:
        return 0.3
    if variant.gelu_tail and "dense_4h_to_h" in name:
        return 50.0  # the tail of gelu is small
    return 1.5 if any(part in name for part in ("query_key_value", "q_proj", "k_proj", "v_proj")) else 1.0


def tensors(variant: Variant) -> dict[str, Tensor]:
    """Every tensor that the model uses, by its Hugging Face name; none is a constant."""
    result = {}
    for name, shape in shapes(variant).items():
        dtype = variant.dtype if len(shape) == 2 else variant.vector_dtype or variant.dtype
        result[name] = stored(_values(variant, name, shape), dtype)
    return result


def unused_tensors(variant: Variant) -> dict[str, Tensor]:
    """Tensors of the files that the model does not use, as published ones have them."""
    c = variant.config
    result = {}
    for layer in range(c["num_hidden_layers"]):
        attention = f"gpt_neox.layers.{layer}.attention." if is_neox(variant) else f"model.layers.{layer}.self_attn."
        if variant.mask_dtype:
            n = c["max_position_embeddings"]
            result[attention + "bias"] = stored(np.tril(np.ones((1, 1, n, n))), variant.mask_dtype)
            result[attention + "masked_bias"] = stored(np.array(-1e9 if variant.dtype == "F32" else -65504.0), variant.dtype)
        if variant.mask_dtype or variant.inv_freq:
            result[attention + "rotary_emb.inv_freq"] = stored(np.geomspace(1.0, 1e-3, 8), "F32")
    if variant.stored_tied_head:
        result[(variant.head if is_neox(variant) else "lm_head") + ".weight"] = tensors(variant)[embedding_name(variant)]
    return result


def fingerprint(variant: Variant) -> str:
    """Changes with any weight, the prompt or the configuration: says whether stored logits still belong to a variant."""
    digest = hashlib.sha256(json.dumps([variant.config, prompt(variant)], sort_keys=True).encode())
    for name, tensor in sorted(tensors(variant).items()):
        digest.update(name.encode())
        digest.update(tensor.data.astype(tensor.data.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
