"""Which role of the header each tensor of a checkpoint has, for models that are built tensor by tensor."""

from __future__ import annotations

import numpy as np

from clusterfusion import BFloat16
from variants import Variant
from weights import Tensor, is_neox

_NEOX = {
    "input_layernorm": "ATTENTION_NORM",
    "post_attention_layernorm": "MLP_NORM",
    "attention.query_key_value": "QKV",
    "attention.dense": "O",
    "mlp.dense_h_to_4h": "UP",
    "mlp.dense_4h_to_h": "DOWN",
}
_LLAMA = {
    "input_layernorm": "ATTENTION_NORM",
    "post_attention_layernorm": "MLP_NORM",
    "self_attn.q_proj": "Q",
    "self_attn.k_proj": "K",
    "self_attn.v_proj": "V",
    "self_attn.o_proj": "O",
    "mlp.gate_proj": "GATE",
    "mlp.up_proj": "UP",
    "mlp.down_proj": "DOWN",
}
_GLOBALS = {
    "gpt_neox.embed_in.weight": "EMBEDDING",
    "gpt_neox.final_layer_norm.weight": "FINAL_NORM_WEIGHT",
    "gpt_neox.final_layer_norm.bias": "FINAL_NORM_BIAS",
    "embed_out.weight": "HEAD",
    "lm_head.weight": "HEAD",
    "model.embed_tokens.weight": "EMBEDDING",
    "model.norm.weight": "FINAL_NORM_WEIGHT",
}


def by_role(variant: Variant, tensors: dict[str, Tensor]) -> tuple[dict, list[dict]]:
    """(globals, layers), each {role name without CF_ROLE_: tensor}"""
    layers: list[dict] = [{} for _ in range(variant.config["num_hidden_layers"])]
    globals_ = {}
    for name, tensor in tensors.items():
        if name in _GLOBALS:
            globals_[_GLOBALS[name]] = tensor
            continue
        layer, rest = name.split(".layers.")[1].split(".", 1)
        module, kind = rest.rsplit(".", 1)
        role = (_NEOX if is_neox(variant) else _LLAMA)[module]
        layers[int(layer)][f"{role}_{kind.upper()}"] = tensor
    return globals_, layers


def arrays(tensors: dict) -> dict:
    """As Model.load_layer takes them."""
    return {role: BFloat16(tensor.data) if tensor.dtype == "BF16" else tensor.data for role, tensor in tensors.items()}


def with_separate_qkv(layer: dict, n_heads: int) -> dict:
    """The same layer with QKV taken apart into Q, K and V."""
    result = {role: tensor for role, tensor in layer.items() if not role.startswith("QKV")}
    for kind in ("WEIGHT", "BIAS"):
        if f"QKV_{kind}" in layer:
            fused = layer[f"QKV_{kind}"]
            data = fused.data.reshape(n_heads, 3, -1, *fused.data.shape[1:])
            for index, role in enumerate("QKV"):
                result[f"{role}_{kind}"] = Tensor(fused.dtype, data[:, index].reshape(-1, *fused.data.shape[1:]))
    return result


def with_fused_qkv(layer: dict, n_heads: int) -> dict:
    """The same layer with Q, K and V put together head by head."""
    result = {role: tensor for role, tensor in layer.items() if role[:2] not in ("Q_", "K_", "V_")}
    for kind in ("WEIGHT", "BIAS"):
        if f"Q_{kind}" in layer:
            parts = [layer[f"{role}_{kind}"] for role in "QKV"]
            data = np.stack([part.data.reshape(n_heads, -1, *part.data.shape[1:]) for part in parts], axis=1)
            result[f"QKV_{kind}"] = Tensor(parts[0].dtype, data.reshape(-1, *parts[0].data.shape[1:]))
    return result
