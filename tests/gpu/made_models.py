"""Checkpoints with random weights for suites that compare the library with itself: quickly made, the same in every process."""

import sys
import zlib
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "golden")]
import weights  # noqa: E402
from checkpoint_files import write_checkpoint  # noqa: E402
from variants import Variant  # noqa: E402

PERIOD = 1_299_709  # numbers in a table; a prime, so that rows do not repeat


def neox(hidden, layers, heads, inter, vocab, dtype="F16", parallel=True, act="gelu"):
    return dict(model_type="gpt_neox", hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inter, vocab_size=vocab,
                hidden_act=act, rotary_pct=0.25, rotary_emb_base=10000, layer_norm_eps=1e-5, max_position_embeddings=2048, use_parallel_residual=parallel,
                tie_word_embeddings=False), dtype


def llama(hidden, layers, heads, kv_heads, inter, vocab, dtype="F16", head_dim=None, tied=False):
    return dict(model_type="llama", hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
                head_dim=head_dim or hidden // heads, intermediate_size=inter, vocab_size=vocab, hidden_act="silu", rms_norm_eps=1e-5, rope_theta=10000.0,
                max_position_embeddings=4096, tie_word_embeddings=tied), dtype


SMALL = {
    "neox-80": neox(640, 3, 8, 2560, 999),
    "llama-64-gqa": llama(512, 3, 8, 2, 1376, 1003),
    "neox-128-sequential": neox(512, 2, 4, 2720, 515, "BF16", parallel=False, act="gelu_new"),
}
# As quickly made, with work for more CTAs than an H200 has SMs.
WIDE = {
    "neox-64-wide": neox(704, 2, 11, 2816, 999),
    "llama-128-wide": llama(2752, 2, 8, 2, 1376, 1003, "BF16", head_dim=128),
}
SHAPES = SMALL | WIDE | {
    "tiny": neox(128, 2, 4, 272, 97), "tiny-gqa": llama(128, 2, 8, 2, 272, 97, head_dim=32),
    "pythia-410m": neox(1024, 24, 16, 4096, 50304), "pythia-2.8b": neox(2560, 32, 32, 10240, 50304), "pythia-6.9b": neox(4096, 32, 32, 16384, 50432),
    "llama-3.2-1b": llama(2048, 16, 32, 8, 8192, 128256, tied=True), "llama-2-7b": llama(4096, 32, 32, 32, 11008, 32000),
}


def write(name, folder, seed=7, dtype=None):
    """The checkpoint's directory below `folder`. dtype: of the tensors, in place of the shape's own."""
    config, own_dtype = SHAPES[name]
    dtype = dtype or own_dtype
    variant = Variant(name, config, dtype)
    numbers = np.random.Generator(np.random.Philox(seed)).standard_normal(PERIOD, np.float32)
    tables = {kind: weights.stored(values, dtype).data for kind, values in
              (("embedding", numbers), ("norm", 1 + 0.1 * numbers), ("vector", 0.1 * numbers), ("matrix", numbers * config["hidden_size"] ** -0.5))}
    tensors = {}
    for tensor, shape in weights.shapes(variant).items():
        kind = "embedding" if tensor == weights.embedding_name(variant) else "norm" if weights.is_norm_weight(tensor) else "matrix" if len(shape) == 2 else "vector"
        tensors[tensor] = weights.Tensor(dtype, np.resize(np.roll(tables[kind], zlib.crc32(tensor.encode()) % PERIOD), shape))
    return write_checkpoint(variant, Path(folder) / name, tensors=tensors)


def random_tokens(n, vocab, seed):
    return np.random.Generator(np.random.Philox(seed)).integers(0, vocab, n).tolist()
