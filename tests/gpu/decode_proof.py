"""Sessions on a GPU against transformers in fp32: logits at many positions, greedy tokens, repeatability, time of a token.

    python3 tests/gpu/decode_proof.py --library build/release/libclusterfusion.so [--shapes small,pythia-2.8b] [--time]

The checkpoints have random weights of the true shape, every tensor, made here by transformers, saved, and loaded by the library. Ends
with a table; exits non-zero if anything failed.
"""

import argparse
import ctypes
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parent))
from header import Library  # noqa: E402

POSITIONS = (1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300)


def neox(hidden, layers, heads, inter, vocab=50304, rotary=0.25, parallel=True, act="gelu"):
    return transformers.GPTNeoXConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=inter, vocab_size=vocab,
                                      rotary_pct=rotary, use_parallel_residual=parallel, hidden_act=act, max_position_embeddings=2048)


def llama(hidden, layers, heads, kv_heads, inter, vocab=32000, head_dim=None, tied=False, theta=10000.0):
    return transformers.LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=inter,
                                    vocab_size=vocab, head_dim=head_dim or hidden // heads, tie_word_embeddings=tied, rope_theta=theta, max_position_embeddings=4096,
                                    rms_norm_eps=1e-5)


SHAPES = {
    "neox-32": lambda: neox(128, 3, 4, 512, 1000), "neox-64": lambda: neox(512, 3, 8, 2048, 515), "neox-80": lambda: neox(640, 2, 8, 2560, 999),
    "neox-96": lambda: neox(768, 2, 8, 3072, 300, 1.0), "neox-128": lambda: neox(1024, 2, 8, 4096, 2000), "neox-256": lambda: neox(1024, 2, 4, 2048, 700),
    "neox-sequential": lambda: neox(256, 3, 4, 1024, 1000, parallel=False, act="gelu_new"),
    "neox-4096": lambda: neox(4096, 2, 32, 16384, 1000), "neox-5120": lambda: neox(5120, 2, 40, 20480, 1000), "llama-4096": lambda: llama(4096, 2, 32, 32, 11008, 1000),
    "llama-64-gqa": lambda: llama(512, 3, 8, 2, 1376, 1003), "llama-128": lambda: llama(1024, 2, 8, 8, 2752, 600), "llama-mqa": lambda: llama(256, 2, 8, 1, 688, 500, 32, True),
    "pythia-410m": lambda: neox(1024, 24, 16, 4096), "pythia-2.8b": lambda: neox(2560, 32, 32, 10240), "pythia-6.9b": lambda: neox(4096, 32, 32, 16384, 50432),
    "llama-2-7b": lambda: llama(4096, 32, 32, 32, 11008), "llama-3.2-1b": lambda: llama(2048, 16, 32, 8, 8192, 128256, 64, True, 500000.0),
}
SMALL = [name for name in SHAPES if name.startswith(("neox", "llama-64", "llama-128", "llama-m", "llama-40"))]
rows = []
failures = []


def check(condition, what):
    if not condition:
        failures.append(what)
        print("FAILED:", what, flush=True)


def make(config, dtype, seed=1):
    """A model with every tensor random, norms around 1, in `dtype`."""
    torch.manual_seed(seed)
    with torch.device("cuda"):
        kind = transformers.GPTNeoXForCausalLM if config.model_type == "gpt_neox" else transformers.LlamaForCausalLM
        model = kind(config).to(dtype)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(0, 0.02)
            if "norm" in name and name.endswith("weight"):
                p.mul_(5).add_(1)
    return model.eval()


class Session:
    def __init__(self, library, model, capacity):
        self.library, self.vocab = library, None
        options = library.struct("cf_session_options", capacity_tokens=capacity)
        self.handle = library.create("cf_session_create", model, ctypes.byref(options))

    def wait(self):
        result = self.library.struct("cf_result")
        self.library.call("cf_session_wait", self.handle, ctypes.byref(result))
        return result

    def prefill(self, tokens, vocab, sample=1):
        """Logits after the last token."""
        logits = torch.full((vocab,), float("nan"))
        outputs = self.library.struct("cf_outputs", logits=logits.data_ptr())
        options = self.library.struct("cf_step_options", outputs=ctypes.addressof(outputs), sample=sample)
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        self.library.call("cf_prefill", self.handle, array, ctypes.c_size_t(len(tokens)), ctypes.byref(options))
        self.wait()
        return logits

    def steps(self, n):
        self.library.call("cf_decode_steps", self.handle, ctypes.c_int64(n), None)
        return self.wait()

    def truncate(self, position):
        self.library.call("cf_session_truncate", self.handle, ctypes.c_int64(position))

    def tokens(self, n):
        out, count = (ctypes.c_int32 * n)(), ctypes.c_size_t()
        self.library.call("cf_session_tokens", self.handle, ctypes.c_int64(0), out, ctypes.c_size_t(n), ctypes.byref(count))
        return list(out[: count.value])

    def close(self):
        self.library.call("cf_session_destroy", self.handle)


def relative_rms(value, reference):
    return float((value.double() - reference.double()).norm() / reference.double().norm())


@torch.no_grad()
def prove(library, context, name, dtype, timed):
    started = time.time()
    hf = make(SHAPES[name](), dtype)
    vocab, limit = hf.config.vocab_size, hf.config.max_position_embeddings
    with tempfile.TemporaryDirectory() as folder:
        hf.save_pretrained(folder)
        saved = time.time()
        model = library.create("cf_model_load", context, folder.encode(), None)
        loaded = time.time()
        kind = type(hf)
        del hf  # converting a model rounds its tables of frequencies, too: each precision is loaded anew
        hf = kind.from_pretrained(folder, dtype=dtype, device_map="cuda")
        reference_model = kind.from_pretrained(folder, dtype=torch.float32, device_map="cuda")
    tokens = torch.randint(0, vocab, (max(POSITIONS),), generator=torch.Generator().manual_seed(3)).tolist()
    own16 = hf(torch.tensor([tokens], device="cuda")).logits[0].float().cpu()
    hf = reference_model
    reference = hf(torch.tensor([tokens], device="cuda")).logits[0].cpu()
    session = Session(library, model, min(limit, 2048))
    errors, errors16, at = [], [], 0
    first_rows = {}
    for position in POSITIONS:
        logits = session.prefill(tokens[at:position], vocab)
        at = position
        first_rows[position] = logits
        errors.append(relative_rms(logits, reference[position - 1]))
        errors16.append(relative_rms(own16[position - 1], reference[position - 1]))
    rms = lambda values: (sum(v * v for v in values) / len(values)) ** 0.5  # noqa: E731
    check(rms(errors) <= rms(errors16), f"{name}: error {rms(errors):.2e} beyond transformers' own {rms(errors16):.2e}: {['%.1e' % e for e in errors]}")
    session.truncate(0)
    again = session.prefill(tokens, vocab)
    check(torch.equal(again, first_rows[max(POSITIONS)]), f"{name}: other bits when the prompt is one piece")
    # Greedy tokens, each judged by the reference after the same tokens.
    session.truncate(0)
    session.prefill(tokens[:5], vocab)
    session.steps(100)
    text = session.tokens(106)
    check(len(text) == 106, f"{name}: {len(text)} tokens instead of 106")
    expected = hf(torch.tensor([text[:-1]], device="cuda")).logits[0].argmax(-1).cpu().tolist()
    differ = [i for i in range(4, 105) if expected[i] != text[i + 1]]
    other = Session(library, model, min(limit, 2048))  # whose memory holds nothing of the first
    other.prefill(tokens[:5], vocab)
    for n in (1, 2, 3, 30, 64):
        other.steps(n)
    check(other.tokens(106) == text, f"{name}: other tokens when steps are called otherwise")
    other.close()
    row = {"shape": name, "error": rms(errors), "fp16": rms(errors16), "differ": f"{len(differ)}/101", "load_s": loaded - saved}
    if timed:
        for context_tokens in (128, 1984 if limit >= 2048 else 0):
            session.truncate(0)
            session.prefill((tokens * 8)[:context_tokens], vocab)
            times = []
            for _ in range(8):
                session.truncate(context_tokens)
                start = time.perf_counter()
                session.steps(32)
                times.append((time.perf_counter() - start) / 32 * 1e3)
            row[f"ms@{context_tokens}"] = sorted(times)[4]
    session.close()
    library.call("cf_model_destroy", model)
    del hf, reference_model
    torch.cuda.empty_cache()
    rows.append(row)
    print({k: (f"{v:.3e}" if isinstance(v, float) and v < 0.1 else f"{v:.3f}" if isinstance(v, float) else v) for k, v in row.items()}, f"{time.time() - started:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--shapes", default="small")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--small", action="store_const", dest="shapes", const="small", help="--shapes small, the default")
    parser.add_argument("--time", action="store_true")
    arguments = parser.parse_args()
    library = Library(arguments.library)
    options = library.struct("cf_context_options", device_kind=library.CF_DEVICE_CUDA)
    context = library.create("cf_context_create", ctypes.byref(options))
    for name in [n for part in arguments.shapes.split(",") for n in (SMALL if part == "small" else [part])]:
        try:
            prove(library, context, name, getattr(torch, arguments.dtype), arguments.time)
        except Exception as error:  # one shape that fails must not hide the others
            check(False, f"{name}: {type(error).__name__}: {error}")
            if "LOST" in str(error) or "CUDA" in str(error):
                break
    print(f"{len(failures)} failures")
    for failure in failures:
        print("  ", failure)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
