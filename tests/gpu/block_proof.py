"""One fused block through the ABI, against transformers: errors, bitwise repeatability, every way of calling it, and its speed.

    python3 tests/gpu/block_proof.py --library build/release/libclusterfusion.so [--device cpu] [--small] [--output FILE]

Weights go in by cf_load_layer, from host and from device memory; calls go onto the caller's stream; keys and values are the caller's.
Ends with a table; exits non-zero if anything failed. --device cpu runs what applies on the CPU backend.
"""

import argparse
import ctypes
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from header import Failure, Library  # noqa: E402
from reference_block import SHAPES, SMALL, Block  # noqa: E402

POSITIONS = (0, 1, 63, 64, 65, 511, 1024, 2047)
CAPACITY = 2048
PAGE_TOKENS = 64
REPEATS = 200
TIMED_LAYERS = 4  # more bytes than any L2 holds
FLOOR_BYTES_PER_S = 4.6e12
DTYPES = {torch.float32: "CF_DTYPE_F32", torch.float16: "CF_DTYPE_F16", torch.bfloat16: "CF_DTYPE_BF16"}
OUTPUTS = ("output", "attention_output", "mlp_activation", "new_k", "new_v")

failures = []


def check(condition, what):
    if not condition:
        failures.append(what)
        print("FAILED:", what, flush=True)


def bits(tensor):
    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


def same(a, b):
    return bool(torch.equal(bits(a), bits(b)))


def relative_rms(value, reference):
    return float((value.double() - reference.double()).norm() / reference.double().norm())


def fresh(shape, dtype, device):
    return torch.full(shape, float("nan"), dtype=dtype, device=device)


class Model:
    """The library's model with the block's weights in every layer; they and the globals come from host or device memory. split_qkv:
    GPT-NeoX's fused Q, K and V are handed over as three tensors."""

    def __init__(self, library, context, block, memory, n_layers=1, split_qkv=False):
        self.library, self.block = library, block
        s = block.shape
        activations = {"gelu": "CF_ACTIVATION_GELU", "gelu_new": "CF_ACTIVATION_GELU_TANH", "silu": "CF_ACTIVATION_SWIGLU"}
        is_neox = s.family == "gpt_neox"
        self.config = library.struct(
            "cf_model_config", family=library.CF_FAMILY_GPT_NEOX if is_neox else library.CF_FAMILY_LLAMA,
            norm=library.CF_NORM_LAYER if is_neox else library.CF_NORM_RMS,
            activation=getattr(library, activations[s.activation]), parallel_residual=s.parallel,
            attention_bias=s.attention_bias, mlp_bias=s.mlp_bias, n_layers=n_layers, hidden_size=s.hidden_size, n_heads=s.n_heads,
            n_kv_heads=s.n_kv_heads, head_dim=s.head_dim, rotary_dim=s.rotary_dim,
            intermediate_size=s.intermediate_size, vocab_size=64, max_position_embeddings=CAPACITY, norm_eps=s.eps, rope_theta=s.theta)
        if s.rope:
            self.config.rope_scaling = library.CF_ROPE_SCALING_LLAMA3
            for field, key in (("factor", "factor"), ("low_freq_factor", "low_freq_factor"), ("high_freq_factor", "high_freq_factor"),
                               ("original_max_position", "original_max_position_embeddings")):
                setattr(self.config, f"rope_{field}", s.rope[key])
        self.handle = library.create("cf_model_create", context, ctypes.byref(self.config), None)
        generator = torch.Generator().manual_seed(7)
        numbers = {"EMBEDDING": torch.randn(64, s.hidden_size, generator=generator), "FINAL_NORM_WEIGHT": torch.ones(s.hidden_size),
                   "HEAD": torch.randn(64, s.hidden_size, generator=generator)}
        if is_neox:
            numbers["FINAL_NORM_BIAS"] = torch.zeros(s.hidden_size)
        self._load("cf_load_globals", (), {role: t.to(block.device, block.dtype) for role, t in numbers.items()}, memory)
        for layer in range(n_layers):
            self._load("cf_load_layer", (layer,), self._roles(block, split_qkv), memory)

    @staticmethod
    def _roles(block, split_qkv):
        """Tensors by role: GPT-NeoX's fused Q, K and V as stored, or taken apart."""
        s, w, dtype = block.shape, block.weights, block.dtype
        if s.family == "llama":
            names = {"self_attn.q_proj": "Q", "self_attn.k_proj": "K", "self_attn.v_proj": "V", "self_attn.o_proj": "O",
                     "mlp.gate_proj": "GATE", "mlp.up_proj": "UP", "mlp.down_proj": "DOWN",
                     "input_layernorm": "ATTENTION_NORM", "post_attention_layernorm": "MLP_NORM"}
        else:
            names = {"attention.query_key_value": "QKV", "attention.dense": "O", "mlp.dense_h_to_4h": "UP", "mlp.dense_4h_to_h": "DOWN",
                     "input_layernorm": "ATTENTION_NORM", "post_attention_layernorm": "MLP_NORM"}
        roles = {}
        for name, tensor in w.items():
            owner, kind = name.rsplit(".", 1)
            roles[f"{names[owner]}_{kind.upper()}"] = tensor.to(dtype)
        if split_qkv:
            for kind in ("WEIGHT", "BIAS"):
                fused = roles.pop(f"QKV_{kind}", None)
                if fused is not None:
                    parts = fused.view(s.n_heads, 3, s.head_dim, -1).unbind(1)
                    roles.update({f"{letter}_{kind}": part.reshape(-1, *fused.shape[1:]) for letter, part in zip("QKV", parts)})
        return roles

    def _load(self, call, arguments, tensors, memory):
        """On a GPU, device tensors are made on a stream of their own behind a delay, so that reading them too early is seen. O and DOWN
        are slices of wider matrices at odd addresses. All are overwritten at once when the call returns."""
        library, device, held = self.library, self.block.device, []
        stream = torch.cuda.Stream() if device == "cuda" and memory == "device" else None
        if stream:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            if stream:
                torch.cuda._sleep(20_000_000)
            for role, tensor in tensors.items():
                tensor = tensor.cpu().clone() if memory == "host" else tensor.clone()
                if memory == "device" and role in ("O_WEIGHT", "DOWN_WEIGHT"):
                    tensor = torch.cat([torch.zeros(tensor.shape[0], 3, dtype=tensor.dtype, device=device), tensor], dim=1)[:, 3:]
                held.append((role, tensor))
            array = (library.header.structs["cf_tensor"] * len(held))()
            for i, (role, tensor) in enumerate(held):
                where = library.CF_MEMORY_DEVICE if memory == "device" else library.CF_MEMORY_HOST
                array[i] = library.struct("cf_tensor", role=getattr(library, f"CF_ROLE_{role}"), dtype=getattr(library, DTYPES[tensor.dtype]),
                                          memory=where, rank=tensor.dim(), data=tensor.data_ptr())
                array[i].shape[: tensor.dim()] = tensor.shape
                if not tensor.is_contiguous():
                    array[i].strides[: tensor.dim()] = tensor.stride()
            library.call(call, self.handle, *arguments, array, ctypes.c_size_t(len(held)), ctypes.c_void_p(stream.cuda_stream) if stream else None)
            for _, tensor in held:
                tensor.fill_(float("nan"))

    def info(self):
        info = self.library.struct("cf_model_info")
        self.library.call("cf_model_query", self.handle, ctypes.byref(info))
        return info

    def destroy(self):
        self.library.call("cf_model_destroy", self.handle)


class Cache:
    """Keys and values of the caller: NaN but for the first `n` positions. Contiguous [position, head, D], or shuffled pages
    [page, head, position, D] of a larger pool."""

    def __init__(self, shape, device, dtype, k, v, n, paged):
        g, d = shape.n_kv_heads, shape.head_dim
        self.table = None
        if paged:
            n_pages = CAPACITY // PAGE_TOKENS
            self.table = torch.randperm(n_pages + 5, generator=torch.Generator().manual_seed(3))[:n_pages].to(device, torch.int32)
            self.k, self.v = (fresh((n_pages + 5, g, PAGE_TOKENS, d), dtype, device) for _ in range(2))
            self.strides = {"token_stride": d, "head_stride": PAGE_TOKENS * d, "page_stride": g * PAGE_TOKENS * d, "page_tokens": PAGE_TOKENS}
        else:
            self.k, self.v = (fresh((CAPACITY, g, d), dtype, device) for _ in range(2))
            self.strides = {"token_stride": g * d, "head_stride": d}
        for to, source in ((self.k, k), (self.v, v)):
            if n:
                at = torch.arange(n, device=device)
                if paged:
                    to[self.table[at // PAGE_TOKENS].long(), :, at % PAGE_TOKENS] = source[:, :n].transpose(0, 1)
                else:
                    to[:n] = source[:, :n].transpose(0, 1)

    def at(self, position):
        """k, v [G, D] at a position"""
        if self.table is None:
            return self.k[position], self.v[position]
        page = int(self.table[position // PAGE_TOKENS])
        return self.k[page, :, position % PAGE_TOKENS], self.v[page, :, position % PAGE_TOKENS]

    def n_written(self):
        """Elements that are not NaN, of k and v."""
        return int((~self.k.isnan()).sum()), int((~self.v.isnan()).sum())


class Call:
    """Arguments of one block call and the memory they point to; run() may be called again and again."""

    def __init__(self, model, hidden, cache, position, dtype, in_place=False, own_workspace=False, advance=0, rows=1):
        s, library, device = model.block.shape, model.library, model.block.device
        self.model, self.cache = model, cache
        sizes = {"output": (s.hidden_size,), "attention_output": (s.hidden_size,), "mlp_activation": (s.intermediate_size,),
                 "new_k": (s.n_kv_heads, s.head_dim), "new_v": (s.n_kv_heads, s.head_dim)}
        self.hidden = hidden.to(dtype).repeat(rows)
        self.out = {name: fresh(size if rows == 1 else (rows, *size), dtype, device) for name, size in sizes.items()}
        if in_place:
            self.out["output"] = self.hidden
        self.position = torch.tensor([position], dtype=torch.int32, device=device)
        self.status = torch.zeros(1, dtype=torch.int32, device=device)
        self.options = library.struct(
            "cf_block_options", n_rows=rows, activation_dtype=getattr(library, DTYPES[dtype]), kv_dtype=getattr(library, DTYPES[cache.k.dtype]),
            hidden=self.hidden.data_ptr(), k_cache=cache.k.data_ptr(), v_cache=cache.v.data_ptr(), kv_capacity_tokens=CAPACITY,
            position=self.position.data_ptr(), advance=advance,
            step_status=self.status.data_ptr(), page_table=cache.table.data_ptr() if cache.table is not None else None, **cache.strides,
            **{name: tensor.data_ptr() for name, tensor in self.out.items()})

        if own_workspace:
            size = ctypes.c_uint64()
            library.call("cf_block_workspace", model.handle, rows, ctypes.c_int64(CAPACITY), ctypes.byref(size))
            self.workspace = torch.zeros(size.value, dtype=torch.uint8, device=device)
            self.options.workspace, self.options.workspace_bytes = self.workspace.data_ptr(), size.value

    def run(self, call="cf_block_forward", layer=0):
        self.options.stream = torch.cuda.current_stream().cuda_stream if self.hidden.is_cuda else None
        self.model.library.call(call, self.model.handle, layer, ctypes.byref(self.options))

    def poison(self):
        for tensor in self.out.values():
            tensor.fill_(float("nan"))

    def untouched(self):
        return all(bool(tensor.isnan().all()) for tensor in self.out.values())


class Runtime:
    """The few calls of the CUDA runtime that PyTorch has no name for."""

    def __init__(self):
        self._runtime = ctypes.CDLL("libcudart.so.13")

    def call(self, name, *arguments):
        status = getattr(self._runtime, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"{name}: {status}")

    def capture(self, stream, work):
        """-> graph, types of its nodes (0: kernel)"""
        graph, count = ctypes.c_void_p(), ctypes.c_size_t()
        self.call("cudaStreamBeginCapture", ctypes.c_void_p(stream.cuda_stream), 0)
        work()
        self.call("cudaStreamEndCapture", ctypes.c_void_p(stream.cuda_stream), ctypes.byref(graph))
        self.call("cudaGraphGetNodes", graph, None, ctypes.byref(count))
        nodes, types = (ctypes.c_void_p * count.value)(), []
        self.call("cudaGraphGetNodes", graph, nodes, ctypes.byref(count))
        for node in nodes:
            kind = ctypes.c_int()
            self.call("cudaGraphNodeGetType", ctypes.c_void_p(node), ctypes.byref(kind))
            types.append(kind.value)
        return graph, types

    def instantiate(self, graph):
        executable = ctypes.c_void_p()
        self.call("cudaGraphInstantiate", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        return executable

    def launch(self, executable, stream):
        self.call("cudaGraphLaunch", executable, ctypes.c_void_p(stream.cuda_stream))


def accuracy(name, model, hidden, k, v, kv_dtype):
    """Every position against transformers. -> per output, the root mean square over positions of its error with fp32 activations, with
    16-bit activations, and of transformers' own 16-bit run"""
    block, device = model.block, model.block.device
    squares = {key: [0.0, 0.0, 0.0] for key in OUTPUTS}
    for position in POSITIONS:
        cached = k[:, :position], v[:, :position]
        reference = block.run(hidden, *cached, position, torch.float32)
        theirs = block.run(hidden, *cached, position, block.dtype)
        errors = {key: [0.0, 0.0, relative_rms(theirs[key], reference[key])] for key in OUTPUTS}
        for i, dtype in enumerate((torch.float32, block.dtype)):
            call = Call(model, hidden, Cache(block.shape, device, kv_dtype, k, v, position, paged=False), position, dtype)
            call.run()
            paged = Call(model, hidden, Cache(block.shape, device, kv_dtype, k, v, position, paged=True), position, dtype)
            paged.run()
            check(int(call.status) == 0 and int(paged.status) == 0, f"{name} at {position}: status")
            for key in OUTPUTS:
                errors[key][i] = relative_rms(call.out[key], reference[key])
                check(same(call.out[key], paged.out[key]), f"{name} at {position}: {key} differs between contiguous and paged")
            for cache in (call.cache, paged.cache):
                n = (position + 1) * block.shape.n_kv_heads * block.shape.head_dim
                check(cache.n_written() == (n, n), f"{name} at {position}: the cache was written elsewhere")
                if dtype == torch.float32:
                    new = [call.out[key].to(kv_dtype) for key in ("new_k", "new_v")]
                    check(all(map(same, cache.at(position), new)), f"{name} at {position}: cached K and V are not the rounded new ones")
        for key in OUTPUTS:
            ours, _, own = errors[key]
            check(ours <= own, f"{name} at {position}: {key} has error {ours:.2e}, transformers' own 16-bit run {own:.2e}")
            squares[key] = [total + error**2 / len(POSITIONS) for total, error in zip(squares[key], errors[key])]
    means = {key: [total**0.5 for total in squares[key]] for key in OUTPUTS}
    for key, (_, ours, own) in means.items():
        check(ours <= own, f"{name}: {key} with 16-bit activations has error {ours:.2e}, transformers' own 16-bit run {own:.2e}")
    return means


def ways_of_calling(name, model, others, hidden, k, v, kv_dtype):
    """Weights that came in otherwise, split and in-place calls, repeats: all the bits of one plain call."""
    block, device, position = model.block, model.block.device, 1024
    cache = Cache(block.shape, device, kv_dtype, k, v, position, paged=False)
    plain = Call(model, hidden, cache, position, torch.float32)
    plain.run()
    for what, other in others.items():
        theirs = Call(other, hidden, cache, position, torch.float32)
        theirs.run()
        check(all(same(plain.out[key], theirs.out[key]) for key in OUTPUTS), f"{name}: {what} give other bits")
    split = Call(model, hidden, cache, position, torch.float32)
    split.run("cf_block_attention")
    check(bool(split.out["output"].isnan().all()), f"{name}: cf_block_attention wrote output")
    split.run("cf_block_mlp_down")
    check(all(same(plain.out[key], split.out[key]) for key in OUTPUTS), f"{name}: attention + mlp_down differ from the whole")
    in_place = Call(model, hidden, cache, position, torch.float32, in_place=True)
    in_place.run()
    check(same(plain.out["output"], in_place.out["output"]), f"{name}: output in the place of hidden gives other bits")
    apart = Call(model, hidden, cache, position, torch.float32, own_workspace=True)
    apart.run()
    check(all(same(plain.out[key], apart.out[key]) for key in OUTPUTS), f"{name}: a workspace of the caller's gives other bits")
    moving = Call(model, hidden, cache, position, torch.float32, advance=1)
    moving.options.advance = 0
    moving.run("cf_block_attention")
    moving.options.advance = 1
    moving.run("cf_block_mlp_down")
    check(int(moving.position) == position + 1 and same(plain.out["output"], moving.out["output"]), f"{name}: cf_block_mlp_down did not advance by one")
    again = Call(model, hidden, cache, position, torch.float32)
    differing = torch.zeros(1, dtype=torch.int64, device=device)
    for _ in range(REPEATS):
        again.poison()
        again.run()
        differing += sum((bits(plain.out[key]) != bits(again.out[key])).any().long() for key in OUTPUTS)
    check(int(differing) == 0, f"{name}: {int(differing)} outputs differ over {REPEATS} repeats")


def statuses(name, model, hidden, k, v, kv_dtype):
    """A full cache and a negative position: nothing is written, the status says why and stays."""
    library, block = model.library, model.block
    for position, expected in ((CAPACITY, library.CF_ERROR_CACHE_FULL), (-1, library.CF_ERROR_INVALID_ARGUMENT)):
        call = Call(model, hidden, Cache(block.shape, block.device, kv_dtype, k, v, 64, paged=True), position, torch.float32, advance=1)
        written = call.cache.n_written()
        call.run()
        check(int(call.status) == expected, f"{name}: position {position} gives status {int(call.status)}, expected {expected}")
        check(int(call.position) == position, f"{name}: a failed call advanced")
        call.position.fill_(64)
        for part in ("cf_block_forward", "cf_block_attention", "cf_block_mlp_down"):
            call.run(part)
        check(int(call.status) == expected, f"{name}: the status of position {position} did not stay")
        check(call.untouched() and call.cache.n_written() == written, f"{name}: position {position} wrote something")
        call.status.zero_()
        call.run()
        check(int(call.status) == 0 and not call.untouched(), f"{name}: cleared status, but the block did not run")


def replay(name, model, runtime, stream, hidden, k, v, kv_dtype):
    """A captured call is one kernel node; replayed at positions that advance on the device it gives the bits of direct calls."""
    block, first, steps = model.block, 60, 12
    def make(advance):
        return Call(model, hidden, Cache(block.shape, block.device, kv_dtype, k, v, first, paged=True), first, torch.float32, own_workspace=True, advance=advance)

    direct, captured = make(0), make(1)
    stream.synchronize()
    graph, types = runtime.capture(stream, captured.run)
    check(types == [0], f"{name}: captured node types {types}, expected one kernel")
    executable = runtime.instantiate(graph)
    for step in range(steps):
        direct.poison()
        direct.run()
        captured.poison()
        runtime.launch(executable, stream)
        check(all(same(direct.out[key], captured.out[key]) for key in OUTPUTS), f"{name}: replay {step} differs from a direct call")
        for call in (direct, captured):
            call.hidden.copy_((call.out["output"] / call.out["output"].std()))
        direct.position += 1
    check(same(direct.cache.k, captured.cache.k) and same(direct.cache.v, captured.cache.v), f"{name}: caches differ after replays")
    check(int(captured.position) == first + steps and int(captured.status) == 0, f"{name}: position or status after replays")
    return len(types)


def microseconds(model, runtime, stream, hidden, k, v, kv_dtype, part, position, rows, paged):
    """-> per call, enqueued one by one; per call, as nodes of a graph"""
    call = Call(model, hidden, Cache(model.block.shape, model.block.device, kv_dtype, k, v, position, paged), position, torch.float16, rows=rows)
    for _ in range(3):
        call.run()  # gives cf_block_mlp_down its input

    def calls():
        for i in range(5 * TIMED_LAYERS):
            call.run(part, i % TIMED_LAYERS)

    stream.synchronize()
    executable = runtime.instantiate(runtime.capture(stream, calls)[0])

    def median(work):
        times = []
        for _ in range(15):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record(stream)
            work()
            end.record(stream)
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1000 / (5 * TIMED_LAYERS))
        return sorted(times)[len(times) // 2]

    return median(calls), median(lambda: runtime.launch(executable, stream))


def session_microseconds(model, position):
    """-> a layer's share of a session's greedy steps, 32 in a call, from about that position on"""
    library, n, steps = model.library, max(position - 32, 1), 32
    options = library.struct("cf_session_options")
    session = library.create("cf_session_create", model.handle, ctypes.byref(options))
    library.call("cf_prefill", session, (ctypes.c_int32 * n)(*(i % 64 for i in range(n))), ctypes.c_size_t(n), None)
    library.call("cf_session_wait", session, None)
    times = []
    for _ in range(15):
        begin = time.perf_counter()
        library.call("cf_decode_steps", session, ctypes.c_int64(steps), None)
        library.call("cf_session_wait", session, None)
        times.append((time.perf_counter() - begin) * 1e6 / steps / TIMED_LAYERS)
        library.call("cf_session_truncate", session, ctypes.c_int64(n))
    library.call("cf_session_destroy", session)
    return sorted(times)[len(times) // 2]


def timings(name, model, runtime, stream, hidden, k, v, kv_dtype):
    s, rows = model.block.shape, []
    matrices = sum(w.numel() * 2 for w in model.block.weights.values() if w.dim() == 2)
    calls = [("cf_block_forward", position, 1, False) for position in (0, 1024, 2047)]
    calls += [("cf_block_forward", 1024, 1, True), ("cf_block_forward", 1024, 8, True), ("cf_block_forward", 1024, 8, False)]
    calls += [("cf_block_attention", 1024, 1, False), ("cf_block_mlp_down", 1024, 1, False)]
    for part, position, n_rows, paged in calls:
        down = s.hidden_size * s.intermediate_size * 2
        cached = position * s.n_kv_heads * s.head_dim * 4
        moved = {"cf_block_forward": matrices + cached, "cf_block_attention": matrices - down + cached, "cf_block_mlp_down": down}[part]
        direct, in_graph = microseconds(model, runtime, stream, hidden, k, v, kv_dtype, part, position, n_rows, paged)
        session = session_microseconds(model, position) if part == "cf_block_forward" and n_rows == 1 else float("nan")
        layout = "[head][token] in pages" if paged else "[token][head]"
        rows.append((name, part, position, n_rows, layout, moved / 1e6, moved / FLOOR_BYTES_PER_S * 1e6, direct, in_graph, session))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--output")
    arguments = parser.parse_args()
    cuda = arguments.device == "cuda"
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    library = Library(arguments.library)
    options = library.struct("cf_context_options", device_kind=library.CF_DEVICE_CUDA if cuda else library.CF_DEVICE_CPU)
    context = library.create("cf_context_create", ctypes.byref(options))
    runtime = Runtime() if cuda else None
    stream = torch.cuda.Stream() if cuda else None
    cases = [(name, shape, torch.float16) for name, shape in (SMALL if arguments.small else SHAPES).items()]
    if arguments.small:
        cases += [(name + "-bf16", shape, torch.bfloat16) for name, shape in SMALL.items()]
    accuracy_rows, timing_rows, nodes = [], [], {}
    for name, shape, dtype in cases:
        print(name, flush=True)
        with torch.cuda.stream(stream):
            block = Block(shape, arguments.device, dtype)
            try:
                host = Model(library, context, block, "host")
                device = Model(library, context, block, "device")
                split = Model(library, context, block, "device", n_layers=TIMED_LAYERS, split_qkv=True)
                check(host.info().fingerprint == device.info().fingerprint != 0, f"{name}: fingerprints of host and device weights differ")
                generator = torch.Generator(arguments.device).manual_seed(1)
                k, v = torch.randn(2, shape.n_kv_heads, CAPACITY, shape.head_dim, generator=generator, device=arguments.device).to(dtype)
                hidden = torch.randn(shape.hidden_size, generator=generator, device=arguments.device)
                hidden[:: shape.hidden_size // 5] *= 8  # a few large values, as residual streams have
                hidden = hidden.to(dtype)
                accuracy_rows.append((name, accuracy(name, host, hidden, k, v, dtype)))
                ways_of_calling(name, host, {"weights from device memory": device, "separate Q, K and V": split}, hidden, k, v, dtype)
                statuses(name, host, hidden, k, v, dtype)
                if cuda:
                    nodes[name] = replay(name, host, runtime, stream, hidden, k, v, dtype)
                    if not arguments.small:
                        timing_rows += timings(name, split, runtime, stream, hidden, k, v, dtype)
                for model in (host, device, split):
                    model.destroy()
            except Failure as failure:
                check(False, f"{name}: {failure}")
    library.call("cf_context_destroy", context)
    lines = ["Relative RMS error against transformers in fp32, root mean square over positions " + ", ".join(map(str, POSITIONS)) + ":",
             "ours with fp32 activations / ours with 16-bit activations / transformers' own 16-bit run.", "",
             "| block | output | attention_output | mlp_activation | new_k | new_v |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | " + " | ".join(" / ".join(f"{e:.1e}" for e in errors[key]) for key in OUTPUTS) + " |" for name, errors in accuracy_rows]
    if timing_rows:
        lines += ["", f"Microseconds a call, {TIMED_LAYERS} layers in turn, F16 activations and KV; floor: weights and cached KV at 4.6 TB/s; session: of its steps, embedding and head of 64 tokens included.", "",
                  "| block | call | cached | rows | KV | MB | floor | one by one | nodes of a graph | a session's layer |", "|---|---|---|---|---|---|---|---|---|---|"]
        for *words, mb, floor, direct, graph, session in timing_rows:
            lines += ["| " + " | ".join(map(str, words)) + f" | {mb:.1f} | {floor:.1f} | {direct:.1f} | {graph:.1f} | {session:.1f} |"]
    if nodes:
        lines += ["", f"Kernel nodes of a captured cf_block_forward: {sorted(set(nodes.values()))}."]
    lines += ["", f"{len(failures)} checks failed." if failures else "All checks passed."]
    print("\n".join(lines))
    if arguments.output:
        Path(arguments.output).write_text("\n".join(lines) + "\n")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
