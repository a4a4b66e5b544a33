"""One transformer block of transformers with every tensor random, as the reference for a block of the library."""

from dataclasses import dataclass, field

import torch
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer, GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding


@dataclass
class Shape:
    family: str  # "gpt_neox" or "llama"
    hidden_size: int
    n_heads: int
    intermediate_size: int
    n_kv_heads: int = 0  # 0: n_heads
    head_dim: int = 0  # 0: hidden_size / n_heads
    rotary: float = 1.0  # fraction of head_dim
    activation: str = "gelu"
    parallel: bool = True
    attention_bias: bool = True
    mlp_bias: bool = True
    eps: float = 1e-5
    theta: float = 10000.0
    rope: dict = field(default_factory=dict)  # of rope_type llama3: factor, low_freq_factor, high_freq_factor, original_max_position_embeddings

    def __post_init__(self):
        self.n_kv_heads = self.n_kv_heads or self.n_heads
        self.head_dim = self.head_dim or self.hidden_size // self.n_heads

    @property
    def rotary_dim(self):
        return int(self.head_dim * self.rotary)


def neox(hidden_size, n_heads, intermediate_size, **more):
    return Shape("gpt_neox", hidden_size, n_heads, intermediate_size, **{"rotary": 0.25, **more})


def llama(hidden_size, n_heads, intermediate_size, **more):
    return Shape("llama", hidden_size, n_heads, intermediate_size,
                 **{"activation": "silu", "parallel": False, "attention_bias": False, "mlp_bias": False, **more})


LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SHAPES = {
    "Pythia-2.8B": neox(2560, 32, 10240),
    "Pythia-6.9B": neox(4096, 32, 16384),
    "Llama-2-7B": llama(4096, 32, 11008),
    "Llama-3.2-1B": llama(2048, 32, 8192, n_kv_heads=8, theta=500000.0, rope=LLAMA3),
}
SMALL = {  # between them: every head_dim, residual structure, activation, bias; multiples of 16 that fill no slice
    "neox-d32": neox(96, 3, 208),
    "neox-d64-sequential": neox(256, 4, 528, parallel=False, activation="gelu_new", rotary=1.0),
    "neox-d80": neox(240, 3, 976, attention_bias=False),
    "neox-d256": neox(512, 2, 1008, rotary=0.5),
    "llama-d96": llama(288, 3, 304, n_kv_heads=1),
    "llama-d128-biases": llama(384, 6, 704, n_kv_heads=2, head_dim=128, attention_bias=True, mlp_bias=True, rope=LLAMA3),
    "llama-d64": llama(112, 4, 272, n_kv_heads=2, head_dim=64),
}


class FixedCache:
    """A cache of transformers that starts with given keys and values [G, n, D] and remembers what a step adds."""

    def __init__(self, k, v):
        self.k, self.v = k[None], v[None]

    def update(self, k, v, *_, **__):
        self.new_k, self.new_v = k[0, :, 0], v[0, :, 0]
        return torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)


class Block:
    """The block in fp32, its weights exactly representable in `dtype`; run() with that dtype is transformers' own run in it."""

    def __init__(self, shape, device, dtype, seed=0):
        self.shape, self.device = shape, device
        parameters = {"rope_type": "llama3" if shape.rope else "default", "rope_theta": shape.theta, **shape.rope}
        common = {"hidden_size": shape.hidden_size, "num_attention_heads": shape.n_heads, "intermediate_size": shape.intermediate_size,
                  "vocab_size": 64, "hidden_act": shape.activation, "attention_bias": shape.attention_bias, "num_hidden_layers": 1}
        if shape.family == "gpt_neox":
            self.config = GPTNeoXConfig(**common, layer_norm_eps=shape.eps, use_parallel_residual=shape.parallel,
                                        rope_parameters={**parameters, "partial_rotary_factor": shape.rotary})
            layer, rotary = GPTNeoXLayer, GPTNeoXRotaryEmbedding
        else:
            self.config = LlamaConfig(**common, num_key_value_heads=shape.n_kv_heads, head_dim=shape.head_dim, rms_norm_eps=shape.eps,
                                      mlp_bias=shape.mlp_bias, rope_parameters=parameters, max_position_embeddings=131072)
            layer, rotary = LlamaDecoderLayer, LlamaRotaryEmbedding
        self.config._attn_implementation = "eager"
        self.rotary = rotary(self.config).to(device)
        generator = torch.Generator(device).manual_seed(seed)
        fp32, low = (layer(self.config, 0).to(device).eval().requires_grad_(False) for _ in range(2))
        for name, parameter in fp32.named_parameters():
            values = torch.randn(parameter.shape, generator=generator, device=device)
            if name.endswith("bias"):
                values *= 0.2
            elif "norm" in name:
                values = 1 + 0.3 * values
            else:
                values *= 1.5 / parameter.shape[1] ** 0.5
            parameter.copy_(values.to(dtype).float())
        low.load_state_dict(fp32.state_dict())
        self.layers = {torch.float32: fp32, dtype: low.to(dtype)}
        self.weights = dict(fp32.named_parameters())
        self.dtype = dtype

    def run(self, hidden, k, v, position, dtype):
        """hidden [H], cached k and v [G, position, D] -> output, attention_output, mlp_activation, new_k, new_v"""
        layer = self.layers[dtype]
        attention, down = (layer.attention, layer.mlp.dense_4h_to_h) if self.shape.family == "gpt_neox" else (layer.self_attn, layer.mlp.down_proj)
        seen = {}
        hooks = [attention.register_forward_hook(lambda _, __, out: seen.update(attention_output=out[0].flatten())),
                 down.register_forward_pre_hook(lambda _, inputs: seen.update(mlp_activation=inputs[0].flatten()))]
        x = hidden.to(dtype)[None, None]
        position_ids = torch.tensor([[position]], device=self.device)
        cache = FixedCache(k.to(dtype), v.to(dtype))
        out = layer(x, attention_mask=None, position_ids=position_ids, position_embeddings=self.rotary(x, position_ids),
                    **{"layer_past" if self.shape.family == "gpt_neox" else "past_key_values": cache})
        for hook in hooks:
            hook.remove()
        return {"output": out.flatten(), "new_k": cache.new_k, "new_v": cache.new_v, **seen}
