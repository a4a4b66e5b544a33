"""The package and PyTorch on one GPU: logits without a copy, streams and captures, weights and blocks in device memory, and
transformers' numbers. Skipped without a GPU, CLUSTERFUSION_DEVICE=cuda, or PyTorch."""

import gc

import numpy as np
import pytest

import clusterfusion as cf
import weights
from goldens import DEVICE, limit
from reference import relative_error
from roles import by_role
from variants import VARIANTS

torch = pytest.importorskip("torch")
if DEVICE != "cuda" or not torch.cuda.is_available():
    pytest.skip("needs a GPU and CLUSTERFUSION_DEVICE=cuda", allow_module_level=True)

NAMES = ["neox", "neox_bf16_sequential_d32", "llama_bf16_gqa"]
CAPACITY = 64
GPU = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def context():
    return cf.Context("cuda:0")


@pytest.fixture(scope="module", params=NAMES)
def model(request, checkpoint, context):
    model = cf.Model.from_pretrained(checkpoint(request.param), context)
    model.variant = VARIANTS[request.param]
    return model


def prompt(model, n_tokens=9):
    return weights.prompt(model.variant, n_tokens=n_tokens)


def bits(tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().view(torch.int16 if tensor.element_size() == 2 else torch.int32).numpy()


def same(a, b) -> None:
    np.testing.assert_array_equal(bits(a), bits(b))


# ---- Logits


def test_logits_without_a_copy(model):
    session = model.session(capacity_tokens=CAPACITY)
    expected = session.prefill(prompt(model), rows="all", logits=True).logits
    session.truncate(0)
    step = session.prefill(prompt(model), rows="all", logits="device")
    tensor = torch.from_dlpack(step.logits)
    assert tensor.device == GPU and tensor.data_ptr() == step.logits.address and tensor.shape == expected.shape
    np.testing.assert_array_equal(step.logits.numpy(), expected)
    del step
    gc.collect()
    np.testing.assert_array_equal(tensor.cpu().numpy(), expected)  # the tensor keeps the memory
    session.truncate(0)
    mine = torch.full(expected.shape, float("nan"), device=GPU)
    torch.cuda.synchronize()
    assert session.prefill(prompt(model), rows="all", logits=mine).logits is mine
    np.testing.assert_array_equal(mine.cpu().numpy(), expected)
    with pytest.raises(cf.InvalidArgumentError, match="top_n and targets go to host memory"):
        session.decode_step(logits="device", top_n=3)


def test_device_memory_is_given_back(model):
    session = model.session(capacity_tokens=CAPACITY)
    session.prefill(prompt(model))

    def free():
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.mem_get_info()[0]

    session.decode_step(logits="device")
    before = free()
    kept = [cf.DeviceArray((1 << 20,), 0) for _ in range(8)]
    assert before - free() >= 32 << 20
    tensors = [torch.from_dlpack(array) for array in kept]
    del kept
    assert before - free() >= 32 << 20
    del tensors
    assert before - free() < 32 << 20


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_memory_of_another_gpu(model):
    with pytest.raises(cf.InvalidArgumentError, match="memory of cuda:1, expected memory of cuda:0"):
        model.session(capacity_tokens=CAPACITY).prefill([1], logits=torch.empty((1, model.vocab_size), device="cuda:1"))


# ---- Streams


def test_the_callers_stream(model):
    plain = model.session(capacity_tokens=CAPACITY)
    plain.prefill(prompt(model))
    expected = [plain.decode_step().token for _ in range(8)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        session = model.session(capacity_tokens=CAPACITY, stream=torch.cuda.current_stream())
    session.prefill(prompt(model))
    assert session.decode_steps(4).token == expected[3]
    assert session.info.stream == stream.cuda_stream and session.fork(0, reserve=False).info.stream not in (None, stream.cuda_stream)
    assert session.options.stream is not None and session.fork(0, reserve=False).options.stream is None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        session.enqueue_step()
    for _ in range(4):
        with torch.cuda.stream(stream):
            graph.replay()
    assert session.wait().token == expected[7] and session.tokens(len(prompt(model)) + 1) == expected
    del graph


def test_graphs_of_the_library(model):
    session, plain = (model.session(capacity_tokens=CAPACITY) for _ in range(2))
    for each in (session, plain):
        each.prefill(prompt(model))
    plain.decode_steps(12)
    with session.capture(3) as graph:
        for _ in range(4):
            graph.launch()
        assert session.wait().n_steps == 12 and session.tokens() == plain.tokens()


# ---- Weights


def tensor_of(tensor, device):
    array = torch.from_numpy(tensor.data.view(np.int16) if tensor.dtype == "BF16" else tensor.data.copy())
    return (array.view(torch.bfloat16) if tensor.dtype == "BF16" else array).to(device)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_layers_from_tensors(model, context, device):
    globals_, layers = by_role(model.variant, weights.tensors(model.variant))
    built = cf.Model.from_config(model.config, context)
    with torch.cuda.stream(torch.cuda.Stream()):  # in whose order the tensors are made
        for index, layer in enumerate(layers):
            built.load_layer(index, {role: torch.nn.Parameter(tensor_of(tensor, device)) for role, tensor in layer.items()})
        built.load_globals({role: tensor_of(tensor, device) for role, tensor in globals_.items()})
    assert built.info.fingerprint == model.info.fingerprint != 0


# ---- Taps and blocks


def steps(model, n: int):
    """A session's residual streams on the device [L + 1, n, H], and its tokens."""
    c, session, rows = model.config, model.session(capacity_tokens=CAPACITY), []
    for token in prompt(model, n):
        streams = torch.full((c.n_layers + 1, 1, c.hidden_size), float("nan"), device=GPU)
        torch.cuda.synchronize()
        taps = [cf.Tap.read("block_input", layer, into=streams[layer]) for layer in range(c.n_layers)]
        session.decode_step(token, taps=[*taps, cf.Tap.read("block_output", c.n_layers - 1, into=streams[-1])])
        rows.append(streams)
    return torch.cat(rows, 1)


@pytest.mark.parametrize("layout", ["tokens first", "heads first", "pages"])
def test_blocks_have_the_bits_of_steps(model, layout):
    c, n = model.config, 7
    streams = steps(model, n)
    table = torch.tensor([3, 0, 5, 1], dtype=torch.int32, device=GPU) if layout == "pages" else None
    shape = {"tokens first": (CAPACITY, c.n_kv_heads, c.head_dim), "heads first": (c.n_kv_heads, CAPACITY, c.head_dim), "pages": (6, 16, c.n_kv_heads, c.head_dim)}[layout]
    kv = torch.zeros((c.n_layers, 2, *shape), dtype=torch.float16, device=GPU)
    if layout == "heads first":
        kv = kv.transpose(2, 3)
    int32 = dict(dtype=torch.int32, device=GPU)
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda.current_stream().wait_stream(torch.cuda.default_stream())
        workspace = torch.zeros(model.block(0).workspace_bytes(4, CAPACITY), dtype=torch.uint8, device=GPU)
        sequence = cf.BlockSequence(torch.zeros(1, **int32), step_status=torch.zeros(1, **int32), page_table=table, workspace=workspace)
        for first, rows in ((0, 1), (1, 4), (5, 2)):
            hidden = streams[0, first : first + rows].contiguous()
            for layer in range(c.n_layers):
                hidden = model.block(layer).forward(hidden, kv[layer, 0], kv[layer, 1], sequence, advance=layer == c.n_layers - 1)
                same(hidden, streams[layer + 1, first : first + rows])
        assert sequence.position.item() == n and sequence.step_status.item() == cf.Status.OK


def test_blocks_in_parts_and_in_a_capture(model):
    c, streams = model.config, steps(model, 4)
    kv = torch.zeros((2, CAPACITY, c.n_kv_heads, c.head_dim), dtype=torch.float16, device=GPU)
    int32, block, hidden = dict(dtype=torch.int32, device=GPU), model.block(0), streams[0].contiguous()
    sequence = cf.BlockSequence(torch.zeros(1, **int32), step_status=torch.zeros(1, **int32))
    attention, activation = block.attention(hidden, kv[0], kv[1], sequence)
    same(block.mlp_down(hidden, attention, activation, sequence, advance=True), streams[1])
    sequence.position.zero_()
    row, output = torch.empty_like(hidden[:1]), torch.empty_like(hidden[:1])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        block.forward(row, kv[0], kv[1], sequence, output=output, advance=True)
    for index in range(4):
        row.copy_(hidden[index : index + 1])
        graph.replay()
        same(output, streams[1, index : index + 1])
    sequence.position.fill_(CAPACITY)
    graph.replay()
    assert sequence.step_status.item() == cf.Status.ERROR_CACHE_FULL
    del graph


def test_blocks_refuse_host_memory(model):
    c = model.config
    kv = torch.zeros((2, CAPACITY, c.n_kv_heads, c.head_dim), dtype=torch.float16, device=GPU)
    int32, hidden = dict(dtype=torch.int32, device=GPU), torch.zeros((1, c.hidden_size), device=GPU)
    sequence = cf.BlockSequence(torch.zeros(1, **int32), step_status=torch.zeros(1, **int32))
    for call, words in (
        (lambda: model.block(0).forward(hidden.cpu(), kv[0], kv[1], sequence), "hidden is host memory, expected memory of cuda:0"),
        (lambda: model.block(0).forward(hidden, kv[0].cpu(), kv[1], sequence), "k_cache is host memory"),
        (lambda: model.block(0).forward(hidden, kv[0], kv[1], cf.BlockSequence()), "position is host memory"),
    ):
        with pytest.raises(cf.InvalidArgumentError, match=words):
            call()
    with pytest.raises(cf.UnsupportedError):
        model.block(0).forward(hidden, kv[0].float(), kv[1].float(), sequence)


# ---- transformers


def test_logits_are_those_of_transformers(model):
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModelForCausalLM.from_pretrained(model.directory, dtype=torch.float32).to(GPU)
    tokens = prompt(model, 40)
    with torch.no_grad():
        expected = reference(torch.tensor([tokens], device=GPU)).logits[0].cpu().numpy()
    session = model.session(capacity_tokens=CAPACITY)
    logits = session.prefill(tokens, rows="all", logits=True).logits
    assert relative_error(logits, expected).max() <= limit(model.variant.dtype)
    session.truncate(0)
    by_steps = np.concatenate([session.decode_step(token, logits=True).logits for token in tokens])
    assert relative_error(by_steps, expected).max() <= limit(model.variant.dtype)
