"""Parts of the library inside a transformers model: embedding, norms, head and whatever is not replaced are transformers' own modules, in one loop; keys and
values lie in one cache, which transformers' attention and block calls read and write alike.

  nothing          every module is transformers' own, attention by sdpa
  attention part   cf_block_attention: norms, Q K V, rotation, cache, attention, O, and MLP-up; transformers' MLP-down and residuals
  MLP part         transformers' norms, attention and MLP-up; cf_block_mlp_down: MLP-down and residuals
  both parts       cf_block_attention, then cf_block_mlp_down
  whole block      cf_block_forward

Each step by step, as PyTorch runs it (on a GPU the host is the limit there), and captured into a CUDA graph.
"""

import ctypes
import inspect
import time

from subject import torch_or

OFF_BY = 0.05  # relative; what is further from transformers' own logits is not worth timing


def cache_word(module):
    """The name by which a module of this version of transformers takes its cache."""
    names = inspect.signature(module.forward).parameters
    return next(name for name in ("layer_past", "cache", "past_key_values", "past_key_value") if name in names)


class Cache:
    """[layers][1, G, capacity, D]; `at`: positions of the rows that come next."""

    def __init__(self, torch, subject, capacity, dtype):
        c, self.at = subject.config, None
        self.k, self.v = ([torch.zeros(1, c.n_kv_heads, capacity, c.head_dim, dtype=dtype, device=subject.device) for _ in range(c.n_layers)] for _ in range(2))

    def update(self, k, v, layer, *_, **__):
        self.k[layer].index_copy_(2, self.at, k)
        self.v[layer].index_copy_(2, self.at, v)
        return self.k[layer], self.v[layer]


class Loop:
    def __init__(self, subject, capacity):
        self.torch, self.subject, self.capacity = torch_or(), subject, (capacity + 63) // 64 * 64
        torch, model, c, library = self.torch, subject.peer(), subject.config, subject.library
        self.base, self.embed, self.head = model.base_model, model.get_input_embeddings(), model.get_output_embeddings()
        self.norm = getattr(self.base, "final_layer_norm", None) or self.base.norm
        dtype = next(model.parameters()).dtype
        new = lambda *shape, of=dtype: torch.zeros(shape, dtype=of, device=subject.device)  # noqa: E731
        self.cache = Cache(torch, subject, self.capacity, dtype)
        self.all_positions = torch.arange(self.capacity, device=subject.device)
        self.token, self.position, self.position32 = new(1, 1, of=torch.int64), new(1, of=torch.int64), new(1, of=torch.int32)
        self.status, self.logits = new(1, of=torch.int32), new(1, c.vocab_size, of=dtype)
        self.attention_output, self.mlp_activation = new(1, 1, c.hidden_size), new(1, 1, c.intermediate_size)
        size = ctypes.c_uint64()
        library.call("cf_block_workspace", subject.model.handle, 1, ctypes.c_int64(self.capacity), ctypes.byref(size))
        self.workspace = new(max(1, size.value), of=torch.uint8)
        kind = {torch.float32: library.CF_DTYPE_F32, torch.float16: library.CF_DTYPE_F16, torch.bfloat16: library.CF_DTYPE_BF16}[dtype]
        self.blocks = [library.struct(
            "cf_block_options", n_rows=1, activation_dtype=kind, kv_dtype=kind, attention_output=self.attention_output.data_ptr(),
            mlp_activation=self.mlp_activation.data_ptr(), k_cache=self.cache.k[layer].data_ptr(), v_cache=self.cache.v[layer].data_ptr(),
            token_stride=c.head_dim, head_stride=self.capacity * c.head_dim, kv_capacity_tokens=self.capacity, position=self.position32.data_ptr(),
            step_status=self.status.data_ptr(), workspace=self.workspace.data_ptr() if size.value else None, workspace_bytes=size.value)
            for layer in range(c.n_layers)]

    # ---- What a layer may be

    def call(self, name, layer, x, out):
        options = self.blocks[layer]
        options.hidden, options.output = x.data_ptr(), out.data_ptr()
        options.stream = self.torch.cuda.current_stream().cuda_stream if x.is_cuda else None
        self.subject.library.call(name, self.subject.model.handle, layer, ctypes.byref(options))
        return out

    def own_attention(self, layer, x, around):
        attention = layer.attention if hasattr(layer, "attention") else layer.self_attn
        return attention(hidden_states=layer.input_layernorm(x), **around, **{cache_word(attention): self.cache})[0]

    @staticmethod
    def mlp_up(mlp, x):
        return mlp.act(mlp.dense_h_to_4h(x)) if hasattr(mlp, "act") else mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)

    @staticmethod
    def mlp_down(mlp, x):
        return mlp.dense_4h_to_h(x) if hasattr(mlp, "dense_4h_to_h") else mlp.down_proj(x)

    def nothing(self, i, layer, x, around):
        return layer(x, **around, **{cache_word(layer): self.cache})

    def attention_part(self, i, layer, x, around):
        self.call("cf_block_attention", i, x, x)
        return x + self.attention_output + self.mlp_down(layer.mlp, self.mlp_activation)

    def mlp_part(self, i, layer, x, around):
        attended = self.own_attention(layer, x, around)
        self.attention_output.copy_(attended)
        parallel = self.subject.config.parallel_residual
        self.mlp_activation.copy_(self.mlp_up(layer.mlp, layer.post_attention_layernorm(x if parallel else x + attended)))
        return self.call("cf_block_mlp_down", i, x, self.torch.empty_like(x))

    def both_parts(self, i, layer, x, around):
        self.call("cf_block_attention", i, x, x)
        return self.call("cf_block_mlp_down", i, x, self.torch.empty_like(x))

    def whole_block(self, i, layer, x, around):
        return self.call("cf_block_forward", i, x, self.torch.empty_like(x))

    # ---- Steps

    def forward(self, tokens, at, run):
        """Logits after the last of some rows."""
        x, self.cache.at = self.embed(tokens), at
        around = {"attention_mask": (self.all_positions[None] <= at[:, None])[None, None], "position_ids": at[None],
                  "position_embeddings": self.base.rotary_emb(x, position_ids=at[None])}
        for i, layer in enumerate(self.base.layers):
            x = run(i, layer, x, around)
        return self.head(self.norm(x[:, -1]))

    def step(self, run):
        self.logits.copy_(self.forward(self.token, self.position, run))
        self.token.copy_(self.logits.argmax(-1, keepdim=True))
        self.position.add_(1)
        self.position32.add_(1)

    def reset(self, context):
        self.position.fill_(context), self.position32.fill_(context), self.token.fill_(1)

    def checked(self):
        status = int(self.status.item())
        if status:
            raise RuntimeError(f"a block call said {status}")


VARIANTS = {"nothing": Loop.nothing, "attention part": Loop.attention_part, "MLP part": Loop.mlp_part, "both parts": Loop.both_parts,
            "whole block": Loop.whole_block}


def fused(subject):
    torch, n = torch_or(), subject.sizes.steps
    with torch.no_grad():
        for context in subject.ends:
            loop, plain = Loop(subject, context + 2 * n + 8), None
            prompt = torch.tensor([subject.random_tokens(context)], device=subject.device)
            loop.forward(prompt, torch.arange(context, device=subject.device), loop.nothing)
            for variant, function in VARIANTS.items():
                run = function.__get__(loop)
                loop.reset(context)
                loop.step(run)
                loop.checked()
                logits = loop.logits.float().clone()
                plain = logits if plain is None else plain
                row = {"who": "transformers with the library", "fused": variant, "context": context, "bytes_ratio": subject.bytes_ratio(context),
                       "off_by": float((logits - plain).norm() / plain.norm())}
                if not row["off_by"] < OFF_BY:
                    raise RuntimeError(f"{variant}: logits are off by {row['off_by']:.2e}")
                yield {**row, "graph": 0, **direct(subject, loop, run, context)}
                if subject.on_gpu:
                    yield {**row, "graph": 1, **replayed(subject, loop, run, context)}
                loop.checked()
            del loop
            subject.empty_cache()


def direct(subject, loop, run, context, n=8, repeats=5):
    n = min(n, subject.sizes.steps)

    def one():
        for _ in range(n):
            loop.step(run)
        loop.token.item()

    times = []
    for _ in range(min(repeats, subject.sizes.repeats) + 1):
        loop.reset(context)
        loop.token.item()
        start = time.perf_counter()
        one()
        times.append((time.perf_counter() - start) * 1e3 / n)
    times = sorted(times[1:])
    return {"ms": times[len(times) // 2], "ms_least": times[0], "ms_most": times[-1], "steps": n * len(times)}


def replayed(subject, loop, run, context):
    torch, n, times = subject.torch, subject.sizes.steps, []
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    loop.reset(context)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            loop.step(run)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        loop.step(run)
    with torch.cuda.stream(stream):
        for _ in range(subject.sizes.repeats + subject.sizes.warm):
            loop.reset(context)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            for _ in range(n):
                graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / n)
    torch.cuda.synchronize()
    del graph
    times = sorted(times[subject.sizes.warm :])
    return {"ms": times[len(times) // 2], "ms_least": times[0], "ms_most": times[-1], "steps": n * len(times)}
