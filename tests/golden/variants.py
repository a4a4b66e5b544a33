"""The tiny checkpoints that the golden logits are made of: one for every structural variant that the library reads.

A variant is a config.json as its author would have published it, plus how the tensors are stored. Weights come from
weights.py, files from checkpoint_files.py, logits from make_goldens.py.
"""

from __future__ import annotations

from dataclasses import dataclass

LONG = 170  # tokens: crosses pages of 64 twice


@dataclass(frozen=True)
class Variant:
    name: str
    config: dict                     # config.json
    dtype: str = "F16"               # of the stored matrices: F16, BF16, F32
    vector_dtype: str | None = None  # of norm weights and biases, if another
    n_tokens: int = 40
    head: str = "lm_head"            # or embed_out: the name of a gpt_neox head
    stored_tied_head: bool = False   # a copy of the embedding is stored as head although the model ties them
    n_shards: int = 1
    mask_dtype: str | None = None    # stores attention.bias masks of this dtype, masked_bias and inv_freq, which nobody uses
    inv_freq: bool = False           # stores rotary_emb.inv_freq, which nobody uses
    outliers: bool = False           # embedding channels of 1e3 to 1e4
    gelu_tail: bool = False          # MLP inputs around -2.5, where gelu and its tanh form differ most
    reference_config: dict | None = None  # what transformers is given where it does not read the published spelling


def _neox(hidden: int, heads: int, **other) -> dict:
    config = {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "vocab_size": 101,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "intermediate_size": 272,
        "hidden_act": "gelu",
        "max_position_embeddings": 256,
        "layer_norm_eps": 1e-5,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if "rope_parameters" not in other:
        config.update(rotary_pct=0.25, rotary_emb_base=10000)
    return _merged(config, other)


def _llama(hidden: int, heads: int, **other) -> dict:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 113,
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": 208,
        "hidden_act": "silu",
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if "rope_parameters" not in other:
        config.update(rope_theta=10000.0, rope_scaling=None)
    return _merged(config, other)


def _merged(config: dict, other: dict) -> dict:
    """`other` over `config`; a value of ... removes the key."""
    return {key: value for key, value in {**config, **other}.items() if value is not ...}


# 64 trained positions: of the wavelengths of 32 to 128 dimensions some are below 16, some above 64, some between.
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

_GPT_NEOX = [
    # As Pythia is published: F16, a quarter rotates, embed_out, masks in the file.
    Variant("neox", _neox(128, 2), head="embed_out", mask_dtype="BOOL"),
    Variant("neox_mask_u8", _neox(128, 2), head="embed_out", mask_dtype="U8", n_shards=2),
    Variant("neox_bf16_sequential_d32", _neox(128, 4, use_parallel_residual=False, rotary_pct=1.0, vocab_size=97), dtype="BF16"),
    Variant("neox_f32_d80", _neox(160, 2, num_hidden_layers=3, intermediate_size=336), dtype="F32"),
    Variant("neox_d80_sharded", _neox(160, 2, rotary_pct=0.5, use_parallel_residual=False), n_shards=3),
    # 96 * 0.3 is 28.8: transformers rotates 28.
    Variant("neox_d96_rotary_pct", _neox(192, 2, rotary_pct=0.3, intermediate_size=400), head="embed_out"),
    Variant("neox_d128_long", _neox(256, 2, vocab_size=131), head="embed_out", n_tokens=LONG),
    Variant("neox_bf16_d256", _neox(512, 2, rotary_pct=0.5, intermediate_size=528), dtype="BF16"),
    Variant("neox_f32_d256_long", _neox(256, 1, rotary_pct=1.0), dtype="F32", n_tokens=LONG),
    Variant("neox_gelu", _neox(128, 2, hidden_act="gelu"), gelu_tail=True),
    Variant("neox_gelu_new", _neox(128, 2, hidden_act="gelu_new"), gelu_tail=True),
    Variant("neox_gelu_fast", _neox(128, 4, hidden_act="gelu_fast"), dtype="BF16", gelu_tail=True),
    Variant("neox_gelu_pytorch_tanh", _neox(128, 2, hidden_act="gelu_pytorch_tanh"), dtype="F32", gelu_tail=True),
    Variant("neox_no_attention_bias", _neox(128, 2, attention_bias=False)),
    Variant("neox_no_attention_bias_sequential", _neox(128, 4, attention_bias=False, use_parallel_residual=False), dtype="BF16"),
    Variant("neox_tied", _neox(128, 2, tie_word_embeddings=True)),
    Variant("neox_tied_stored", _neox(128, 2, tie_word_embeddings=True), head="embed_out", stored_tied_head=True),
    Variant("neox_base", _neox(128, 2, rotary_emb_base=1234.5, rotary_pct=0.5), n_tokens=LONG),
    # transformers 4 saves both names of the base.
    Variant("neox_base_and_theta", _neox(128, 2, rotary_emb_base=500, rope_theta=500, rotary_pct=0.5, rope_scaling=None)),
    # transformers 5 does not look at a lone rope_theta of gpt_neox; rope_theta is what transformers 4 called the base.
    Variant(
        "neox_theta",
        _neox(128, 2, rotary_emb_base=..., rope_theta=700.0, rotary_pct=0.5),
        reference_config=_neox(128, 2, rotary_emb_base=700.0, rotary_pct=0.5),
    ),
    # transformers 5 saves everything about RoPE in one place.
    Variant(
        "neox_rope_parameters",
        _neox(128, 2, rope_parameters={"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.75}, attention_bias=True),
    ),
    Variant(
        "neox_rope_parameters_full_long",
        _neox(128, 4, rope_parameters={"rope_type": "default", "rope_theta": 10000, "partial_rotary_factor": 1.0}),
        dtype="BF16",
        n_tokens=LONG,
    ),
    Variant("neox_eps", _neox(128, 2, layer_norm_eps=0.1)),
    Variant("neox_f32_vectors", _neox(128, 2), vector_dtype="F32"),
    Variant("neox_outliers", _neox(256, 4, num_hidden_layers=3), outliers=True),
    Variant("neox_outliers_sequential", _neox(256, 2, use_parallel_residual=False), dtype="BF16", outliers=True, n_tokens=LONG),
]

_LLAMA = [
    Variant("llama", _llama(128, 2), inv_freq=True),
    # Llama 1 and 2 files name neither head_dim nor key-value heads.
    Variant("llama_old_config", _llama(128, 4, num_key_value_heads=..., rope_theta=..., rope_scaling=..., rms_norm_eps=1e-5)),
    Variant("llama_bf16_gqa", _llama(256, 8, num_key_value_heads=2, vocab_size=200), dtype="BF16", n_shards=2),
    Variant("llama_f32_gqa_group3_long", _llama(192, 6, num_key_value_heads=2), dtype="F32", n_tokens=LONG),
    Variant("llama_mqa", _llama(256, 4, num_key_value_heads=1, num_hidden_layers=3), n_tokens=LONG),
    Variant("llama_wide_heads", _llama(128, 4, head_dim=64, num_key_value_heads=2)),
    Variant("llama_narrow_heads", _llama(256, 4, head_dim=32, num_key_value_heads=4), dtype="BF16"),
    Variant("llama_eps", _llama(128, 2, rms_norm_eps=0.1)),
    Variant("llama_d80", _llama(160, 2, head_dim=80)),
    Variant("llama_d96_gqa", _llama(192, 2, head_dim=96, num_key_value_heads=1), dtype="F32"),
    Variant("llama_d128_gqa_long", _llama(256, 4, head_dim=128, num_key_value_heads=2, rope_theta=500000.0), dtype="BF16", n_tokens=LONG),
    Variant("llama_d256", _llama(256, 2, head_dim=256, num_key_value_heads=1)),
    Variant("llama3_old", _llama(256, 4, num_key_value_heads=2, rope_theta=10000.0, rope_scaling=_LLAMA3), dtype="BF16", n_tokens=LONG),
    Variant("llama3_new", _llama(128, 2, rope_parameters={**_LLAMA3, "rope_theta": 500000.0}), n_tokens=LONG),
    Variant("llama_rope_parameters", _llama(128, 2, rope_parameters={"rope_type": "default", "rope_theta": 5000.0}), dtype="F32"),
    Variant("llama_attention_bias", _llama(128, 2, attention_bias=True)),
    Variant("llama_mlp_bias", _llama(128, 2, mlp_bias=True), dtype="BF16"),
    Variant("llama_biases", _llama(192, 6, num_key_value_heads=3, attention_bias=True, mlp_bias=True)),
    Variant("llama_tied", _llama(128, 2, tie_word_embeddings=True), dtype="BF16"),
    Variant("llama_tied_stored", _llama(128, 2, tie_word_embeddings=True), stored_tied_head=True),
    Variant("llama_f32_vectors", _llama(128, 4, num_key_value_heads=2, attention_bias=True), dtype="BF16", vector_dtype="F32"),
    Variant("llama_outliers", _llama(256, 4, num_key_value_heads=2, num_hidden_layers=3), outliers=True),
    Variant("llama_outliers_long", _llama(256, 2), dtype="BF16", outliers=True, n_tokens=LONG),
]

VARIANTS = {variant.name: variant for variant in _GPT_NEOX + _LLAMA}
assert len(VARIANTS) == len(_GPT_NEOX) + len(_LLAMA)


def golden_positions(n_tokens: int) -> list[int]:
    """The positions whose logits are stored: the first, some in the middle, the edges of a page, the last four."""
    chosen = {0, 1, n_tokens // 3, n_tokens // 2, 63, 64, 65, 127, 128} | set(range(n_tokens - 4, n_tokens))
    return sorted(position for position in chosen if position < n_tokens)
