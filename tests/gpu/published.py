"""Checkpoints with random weights of the shapes of published models, made and saved by transformers on the GPU; and small ones of every head_dim."""

import torch
import transformers

OUTLIERS, OUTLIER = 4, 8  # channels, and how much larger they are


def neox(hidden, layers, heads, inter, vocab=50304, rotary=0.25, parallel=True, act="gelu"):
    return transformers.GPTNeoXConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inter, vocab_size=vocab,
                                      rotary_pct=rotary, use_parallel_residual=parallel, hidden_act=act, max_position_embeddings=2048)


def llama(hidden, layers, heads, kv_heads, inter, vocab=32000, head_dim=None, tied=False, theta=10000.0):
    return transformers.LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=inter,
                                    vocab_size=vocab, head_dim=head_dim or hidden // heads, tie_word_embeddings=tied, rope_theta=theta, max_position_embeddings=4096,
                                    rms_norm_eps=1e-5)


SMALL = {
    "neox-32": lambda: neox(128, 3, 4, 512, 1000), "neox-64": lambda: neox(512, 3, 8, 2048, 515), "neox-80": lambda: neox(640, 2, 8, 2560, 999),
    "neox-96": lambda: neox(768, 2, 8, 3072, 300, 1.0), "neox-128": lambda: neox(1024, 2, 8, 4096, 2000), "neox-256": lambda: neox(1024, 2, 4, 2048, 700),
    "neox-sequential": lambda: neox(256, 3, 4, 1024, 1000, parallel=False, act="gelu_new"),
    "neox-4096": lambda: neox(4096, 2, 32, 16384, 1000), "neox-5120": lambda: neox(5120, 2, 40, 20480, 1000), "llama-4096": lambda: llama(4096, 2, 32, 32, 11008, 1000),
    "llama-64-gqa": lambda: llama(512, 3, 8, 2, 1376, 1003), "llama-128": lambda: llama(1024, 2, 8, 8, 2752, 600), "llama-mqa": lambda: llama(256, 2, 8, 1, 688, 500, 32, True),
}
PUBLISHED = {  # the shapes in the configurations of the models of these names
    "pythia-14m": lambda: neox(128, 6, 4, 512), "pythia-31m": lambda: neox(256, 6, 8, 1024), "pythia-70m": lambda: neox(512, 6, 8, 2048),
    "pythia-160m": lambda: neox(768, 12, 12, 3072), "pythia-410m": lambda: neox(1024, 24, 16, 4096), "pythia-1b": lambda: neox(2048, 16, 8, 8192),
    "pythia-1.4b": lambda: neox(2048, 24, 16, 8192), "pythia-2.8b": lambda: neox(2560, 32, 32, 10240), "pythia-6.9b": lambda: neox(4096, 32, 32, 16384, 50432),
    "pythia-12b": lambda: neox(5120, 36, 40, 20480, 50688), "llama-2-7b": lambda: llama(4096, 32, 32, 32, 11008),
    "llama-3.2-1b": lambda: llama(2048, 16, 32, 8, 8192, 128256, 64, True, 500000.0),
}
SHAPES = SMALL | PUBLISHED


def make(config, dtype, folder, seed=1):
    """Saves a model with every tensor random, norms around 1."""
    generator = torch.Generator("cuda").manual_seed(seed)
    with torch.device("cuda"):
        kind = transformers.GPTNeoXForCausalLM if config.model_type == "gpt_neox" else transformers.LlamaForCausalLM
        model = kind(config).to(dtype)
    channels = torch.randperm(config.hidden_size, generator=generator, device="cuda")[:OUTLIERS]
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0, 0.02, generator=generator)
            if "norm" in name and name.endswith("weight"):
                p.mul_(5).add_(1)
            if name.endswith(("dense.weight", "dense_4h_to_h.weight", "o_proj.weight", "down_proj.weight")):
                p[channels] *= OUTLIER
            if name.endswith(("embed_in.weight", "embed_tokens.weight")):
                p[:, channels] *= OUTLIER
    model.save_pretrained(folder)
    return kind
