"""Transformer blocks as calls, for engines with their own loop: your activations, your keys and values, your stream.

    sequence = BlockSequence()                                   # on CUDA: with torch tensors, see there
    k, v = (np.zeros((capacity, G, D), np.float32) for _ in "kv")  # of each layer
    for layer in range(n_layers):
        last = layer == n_layers - 1
        hidden = model.block(layer).forward(hidden, k[layer], v[layer], sequence, advance=last)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import View, check_place, check_view, current_stream, like, stream_pointer, view
from .checks import integer
from .enums import Dtype, Status
from .errors import InvalidArgumentError, error_of
from .native import check, ffi, lib, make

if TYPE_CHECKING:
    from .model import Model

_FLOATS = ("F32", "F16", "BF16")


class BlockSequence:
    """Where a sequence stands, for the block calls of all its layers. All arrays are device-accessible: NumPy or torch arrays on the
    CPU, of the context's device on CUDA, where they are read when the kernels run.

    position: int32 [1], positions cached before row 0; None: a new one, 0 (CPU). On CUDA: torch.zeros(1, dtype=torch.int32, device=...).
    step_status: int32 [1], a Status; calls do nothing while it is not OK, and receive CacheFull, InvalidArgument (a negative position)
        or DeviceLost. It is yours to look at. None: a new one, and calls raise what it says (CPU).
    page_table: int32 [n_pages_used]; page_table[p // page_tokens] is the page of position p. None: caches are contiguous.
    workspace: CUDA: at least `Block.workspace_bytes` bytes of uint8, aligned to 128, zeroed before its first use, that no calls which
        overlap on the device share; None: the model's own, and then no two block calls of this model may overlap.
    stream: CUDA: of torch or CuPy, or a cudaStream_t; None: the current one of the library that `hidden` is an array of.
    """

    def __init__(self, position: Any = None, *, step_status: Any = None, page_table: Any = None, workspace: Any = None, stream: Any = None) -> None:
        self.position = np.zeros(1, np.int32) if position is None else position
        self.raises = step_status is None
        self.step_status = np.zeros(1, np.int32) if step_status is None else step_status
        self.page_table = page_table
        self.workspace = workspace
        self.stream = stream


class Block:
    """Made by `Model.block`. T rows (1 .. 64) are T consecutive positions of one sequence; H hidden_size, I intermediate_size,
    G n_kv_heads, D head_dim. Activations are dense, all of one type: F32, F16 or BF16. On CUDA they and caches are aligned to 16 bytes,
    and the calls only enqueue kernels, so that they can be captured by the caller; arrays must live until the stream has passed them.

    Caches: this layer's keys and values, laid out alike: [capacity, G, D], or with a page table [n_pages, page_tokens, G, D], of F32
    (CPU only), F16 or BF16, of any strides with D innermost (a transposed [G, capacity, D], say); the rows' own are written to them.

    InvalidArgumentError, NotLoadedError; UnsupportedError: types that the device has no code for.
    """

    def __init__(self, model: Model, layer: int) -> None:
        self.model = model
        self.layer = integer(layer, "layer", bits=32)

    def forward(
        self, hidden: Any, k_cache: Any, v_cache: Any, sequence: BlockSequence, *, output: Any = None, attention_output: Any = None,
        mlp_activation: Any = None, new_k: Any = None, new_v: Any = None, advance: bool = False
    ) -> Any:  # fmt: skip
        """norm -> QKV -> RoPE -> KV append -> attention -> O -> norm -> MLP -> residuals.

        hidden: [T, H] the residual stream. output: [T, H] after the block, may be `hidden`; None: a new array. Returned.
        attention_output: [T, H] receives what attention gives after O and its bias, without the residual; mlp_activation: [T, I] the
        input of MLP-down; new_k, new_v: [T, G, D] the rows' keys, after RoPE, and values. None: not wanted.
        advance: adds T to the sequence's position after success: for the last call of a step.
        """
        call = _Call(self, hidden, sequence, advance)
        output = call.output if output is None else output
        call.activation("output", output, call.hidden_shape, writable=True)
        for name, array, shape in (("attention_output", attention_output, call.hidden_shape), ("mlp_activation", mlp_activation, call.mlp_shape)):
            if array is not None:
                call.activation(name, array, shape, writable=True)
        call.cache(k_cache, v_cache, new_k, new_v)
        call.run(lib.cf_block_forward)
        return output

    def attention(
        self, hidden: Any, k_cache: Any, v_cache: Any, sequence: BlockSequence, *, attention_output: Any = None, mlp_activation: Any = None,
        new_k: Any = None, new_v: Any = None, advance: bool = False
    ) -> tuple[Any, Any]:  # fmt: skip
        """All of the block but MLP-down and the residuals. Returns (attention_output [T, H], mlp_activation [T, I]), as `forward` explains
        them; None: new arrays."""
        call = _Call(self, hidden, sequence, advance)
        attention_output = like(hidden, call.hidden_shape) if attention_output is None else attention_output
        mlp_activation = like(hidden, call.mlp_shape) if mlp_activation is None else mlp_activation
        call.activation("attention_output", attention_output, call.hidden_shape, writable=True)
        call.activation("mlp_activation", mlp_activation, call.mlp_shape, writable=True)
        call.cache(k_cache, v_cache, new_k, new_v)
        call.run(lib.cf_block_attention)
        return attention_output, mlp_activation

    def mlp_down(
        self, hidden: Any, attention_output: Any, mlp_activation: Any, sequence: BlockSequence, *, output: Any = None, advance: bool = False
    ) -> Any:
        """output = hidden + attention_output + MLP-down(mlp_activation): completes what `attention` began. Returns output [T, H]."""
        call = _Call(self, hidden, sequence, advance)
        output = call.output if output is None else output
        call.activation("output", output, call.hidden_shape, writable=True)
        call.activation("attention_output", attention_output, call.hidden_shape)
        call.activation("mlp_activation", mlp_activation, call.mlp_shape)
        call.run(lib.cf_block_mlp_down)
        return output

    def workspace_bytes(self, n_rows: int, kv_capacity_tokens: int) -> int:
        """That calls of n_rows rows on a cache of kv_capacity_tokens need; 0 on the CPU."""
        size = ffi.new("uint64_t*")
        check(lib.cf_block_workspace(self.model.handle, n_rows, kv_capacity_tokens, size))
        return int(size[0])


class _Call:
    """The options of one call, filled piece by piece, and the arrays that they point to."""

    def __init__(self, block: Block, hidden: Any, sequence: BlockSequence, advance: bool) -> None:
        self._block, self._sequence, self._hidden = block, sequence, hidden
        self._config = block.model.config
        self._ordinal = block.model._cuda_ordinal
        self._stream = stream_pointer(sequence.stream) if sequence.stream is not None or self._ordinal is None else current_stream(hidden)
        self._keep: list[View] = []
        seen = self._view("hidden", hidden)
        if len(seen.shape) != 2 or seen.shape[1] != self._config.hidden_size:
            raise InvalidArgumentError(f"hidden has shape {list(seen.shape)}, expected [T, {self._config.hidden_size}]")
        self._dtype = check_view(seen, "hidden", dtypes=_FLOATS).dtype
        self._n_rows = seen.shape[0]
        self.hidden_shape = seen.shape
        self.mlp_shape = (seen.shape[0], self._config.intermediate_size)
        self.options = make("cf_block_options", n_rows=self._n_rows, activation_dtype=Dtype[self._dtype], hidden=seen.pointer, advance=bool(advance))
        self.options.stream = ffi.cast("void*", self._stream)
        self.options.position = ffi.cast("int32_t*", self._one_int("position", sequence.position))
        self.options.step_status = ffi.cast("int32_t*", self._one_int("step_status", sequence.step_status))
        if sequence.workspace is not None:
            workspace = check_view(self._view("workspace", sequence.workspace), "workspace", dtypes=("U8",), writable=True)
            self.options.workspace, self.options.workspace_bytes = workspace.pointer, workspace.shape[0] if workspace.shape else 1

    @property
    def output(self) -> Any:
        """A new array for the residual stream."""
        return like(self._hidden, self.hidden_shape)

    def _view(self, name: str, array: Any) -> View:
        seen = check_place(view(array, name, stream=self._stream), name, self._ordinal)
        self._keep.append(seen)
        return seen

    def _one_int(self, name: str, array: Any) -> int:
        return check_view(self._view(name, array), name, dtypes=("I32",), shape=(1,), writable=True).address

    def activation(self, name: str, array: Any, shape: tuple[int, ...], *, writable: bool = False) -> None:
        seen = check_view(self._view(name, array), name, dtypes=(self._dtype,), shape=shape, writable=writable)
        setattr(self.options, name, seen.pointer)

    def cache(self, k_cache: Any, v_cache: Any, new_k: Any, new_v: Any) -> None:
        c, options, table = self._config, self.options, self._sequence.page_table
        k, v = self._view("k_cache", k_cache), self._view("v_cache", v_cache)
        heads = (c.n_kv_heads, c.head_dim)
        for name, seen in (("k_cache", k), ("v_cache", v)):
            expected = ["n_pages", "page_tokens", *heads] if table is not None else ["capacity", *heads]
            if len(seen.shape) != len(expected) or seen.shape[-2:] != heads:
                raise InvalidArgumentError(f"{name} has shape {list(seen.shape)}, expected [{', '.join(map(str, expected))}]")
            check_view(seen, name, dtypes=_FLOATS, writable=True, dense=False)
            if seen.strides[-1] != 1:
                raise InvalidArgumentError(f"{name} has a stride of {seen.strides[-1]} within a head, expected 1")
        if (k.dtype, k.shape, k.strides) != (v.dtype, v.shape, v.strides):
            raise InvalidArgumentError("k_cache and v_cache differ in type, shape or strides")
        options.kv_dtype, options.k_cache, options.v_cache = Dtype[k.dtype], k.pointer, v.pointer
        options.token_stride, options.head_stride = k.strides[-3], k.strides[-2]
        options.kv_capacity_tokens = k.shape[0]
        if table is not None:
            pages = check_view(self._view("page_table", table), "page_table", dtypes=("I32",))
            if len(pages.shape) != 1:
                raise InvalidArgumentError(f"page_table has {len(pages.shape)} dimensions, expected 1")
            if pages.cuda_ordinal is None:
                _check_pages(np.asarray(table), k.shape[0])
            options.page_table, options.page_tokens, options.page_stride = ffi.cast("int32_t*", pages.address), k.shape[1], k.strides[0]
            options.kv_capacity_tokens = pages.shape[0] * k.shape[1]
        for name, array in (("new_k", new_k), ("new_v", new_v)):
            if array is not None:
                self.activation(name, array, (self._n_rows, *heads), writable=True)

    def run(self, call: Any) -> None:
        check(call(self._block.model.handle, self._block.layer, self.options))
        if self._sequence.raises and self._sequence.step_status[0]:
            status = Status(int(self._sequence.step_status[0]))
            position = int(self._sequence.position[0])
            self._sequence.step_status[0] = Status.OK
            capacity = self.options.kv_capacity_tokens
            raise error_of(status, f"layer {self._block.layer}: {self._n_rows} rows at position {position} in a cache for {capacity} positions")


def _check_pages(table: Any, n_pages: int) -> None:
    """The library trusts a page table."""
    wrong = np.flatnonzero((table < 0) | (table >= n_pages))
    if wrong.size:
        raise InvalidArgumentError(f"page_table[{wrong[0]}] is {table[wrong[0]]}, expected 0 to {n_pages - 1}")


