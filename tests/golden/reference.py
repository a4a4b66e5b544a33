"""The forward pass of both families in NumPy, in float64: what the golden logits would be without any rounding.

Independent of the library and of transformers; it shows how far transformers' fp32 is from the truth, and checks stored
goldens where transformers is not installed.
"""

from __future__ import annotations

import math

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x):
    return x / 2 * (1 + _erf(x / math.sqrt(2)))


def _gelu_tanh(x):
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _silu(x):
    return x / (1 + np.exp(-x))


_ACTIVATIONS = {"gelu": _gelu, "gelu_new": _gelu_tanh, "gelu_fast": _gelu_tanh, "gelu_pytorch_tanh": _gelu_tanh, "silu": _silu}


def _inverse_frequencies(rotary_dim: int, theta: float, scaling: dict | None) -> np.ndarray:
    frequencies = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    if not scaling or scaling["rope_type"] == "default":
        return frequencies
    trained = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = trained * frequencies / (2 * math.pi)  # whole turns within the trained context
    share = np.clip((turns - low) / (high - low), 0, 1)  # of the unscaled frequency
    return frequencies * (share + (1 - share) / scaling["factor"])


class Reference:
    def __init__(self, config: dict, weights: dict[str, np.ndarray]):
        c = config
        self.w = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
        self.neox = c["model_type"] == "gpt_neox"
        self.n_layers, self.n_heads = c["num_hidden_layers"], c["num_attention_heads"]
        self.n_kv_heads = c.get("num_key_value_heads", self.n_heads)
        self.head_dim = c.get("head_dim", c["hidden_size"] // self.n_heads)
        self.eps = c["layer_norm_eps"] if self.neox else c["rms_norm_eps"]
        self.activation = _ACTIVATIONS[c["hidden_act"]]
        self.parallel = c.get("use_parallel_residual", False)
        rope = c.get("rope_parameters") or c.get("rope_scaling") or {}
        theta = rope.get("rope_theta") or c.get("rope_theta") or c.get("rotary_emb_base") or 10000.0
        share = rope.get("partial_rotary_factor") or c.get("rotary_pct", 0.25) if self.neox else 1.0
        self.rotary_dim = int(self.head_dim * share)
        self.frequencies = _inverse_frequencies(self.rotary_dim, theta, rope)

    def logits(self, tokens) -> np.ndarray:
        """[len(tokens), vocab_size]"""
        x = self.w["gpt_neox.embed_in.weight" if self.neox else "model.embed_tokens.weight"][np.asarray(tokens)]
        for layer in range(self.n_layers):
            p = f"{'gpt_neox' if self.neox else 'model'}.layers.{layer}."
            attention = self._attention(p, self._norm(p + "input_layernorm", x))
            y = x + attention
            y = y + self._mlp(p + "mlp.", self._norm(p + "post_attention_layernorm", x if self.parallel else y))
            x = y
        x = self._norm("gpt_neox.final_layer_norm" if self.neox else "model.norm", x)
        heads = ("embed_out.weight", "lm_head.weight", "gpt_neox.embed_in.weight", "model.embed_tokens.weight")
        return x @ next(self.w[name] for name in heads if name in self.w).T

    def _norm(self, name: str, x):
        if not self.neox:
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name + ".weight"]
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.w[name + ".weight"] + self.w[name + ".bias"]

    def _linear(self, name: str, x):
        return x @ self.w[name + ".weight"].T + self.w.get(name + ".bias", 0.0)

    def _attention(self, p: str, x):
        T, A, G, D = len(x), self.n_heads, self.n_kv_heads, self.head_dim
        if self.neox:
            qkv = self._linear(p + "attention.query_key_value", x).reshape(T, A, 3, D)
            q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        else:
            q, k, v = (self._linear(f"{p}self_attn.{n}_proj", x).reshape(T, -1, D) for n in "qkv")
        q, k = self._rotate(q), np.repeat(self._rotate(k), A // G, axis=1)
        v = np.repeat(v, A // G, axis=1)
        scores = np.einsum("tad,sad->ats", q, k) / math.sqrt(D)
        scores += np.triu(np.full((T, T), -np.inf), 1)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        out = np.einsum("ats,sad->tad", scores, v).reshape(T, A * D)
        return self._linear(p + ("attention.dense" if self.neox else "self_attn.o_proj"), out)

    def _rotate(self, x):
        half = self.rotary_dim // 2
        angles = (np.arange(len(x))[:, None] * self.frequencies)[:, None, :]
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles), rest], -1)

    def _mlp(self, p: str, x):
        if self.neox:
            return self._linear(p + "dense_4h_to_h", self.activation(self._linear(p + "dense_h_to_4h", x)))
        return self._linear(p + "down_proj", self.activation(self._linear(p + "gate_proj", x)) * self._linear(p + "up_proj", x))


def relative_error(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """RMS over the logits of the difference, relative to that of the expected ones, for each row."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    return np.sqrt(((actual - expected) ** 2).mean(-1) / (expected**2).mean(-1))
