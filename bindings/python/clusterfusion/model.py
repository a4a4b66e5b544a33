"""Weights, read-only once loaded, shared by any number of sessions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from . import hub
from .arrays import TokenArray, tokens_array
from .callbacks import ProgressFunction, progress_callback
from .checks import instance, integer
from .context import Cancellation, Context
from .enums import DeviceKind, Dtype, Role, member
from .errors import InvalidArgumentError
from .generation import TextGeneration, TokenGeneration
from .handles import Handle
from .native import check, created, ffi, lib, make
from .pool import KvPool
from .progress import reporter
from .records import ModelConfig, ModelInfo, queried
from .sampling import Sampler
from .scoring import Score, score_tokens
from .session import Session, SessionOptions
from .tensors import descriptors
from .text import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from .blocks import Block


class Model(Handle):
    """Made by `from_pretrained`, or by `from_config` and then `load_layer` for every layer and `load_globals`. May be shared by threads."""

    def __init__(self, context: Context, cdata: Any, directory: Path | None) -> None:
        super().__init__(cdata)
        self.context = context
        self.directory = directory  # of the checkpoint, or None
        config = make("cf_model_config")
        check(lib.cf_model_get_config(cdata, config))
        self.config = ModelConfig._from_struct(config)

    # ---- Making and loading

    @classmethod
    def from_pretrained(
        cls,
        directory_or_hub_id: str | os.PathLike[str],
        device: str | Sequence[str] | Context = "auto",
        *,
        revision: str | None = None,
        weight_dtype: Dtype | str = Dtype.AUTO,
        progress: bool | ProgressFunction = True,
        cancellation: Cancellation | None = None,
    ) -> Model:
        """Loads a checkpoint: config.json and model.safetensors, or its shards with their index.

        directory_or_hub_id: a directory, or the name of a repository of the Hugging Face hub, such as "EleutherAI/pythia-70m", which
            is downloaded through the huggingface_hub package.
        device: "cpu", "cuda:0", "auto" (the first usable CUDA device, else the CPU), a list, or a Context made before.
        revision: of the hub's repository, such as "step1000".
        weight_dtype: AUTO: the CPU keeps matrices as stored, CUDA keeps F16 and BF16 and rounds F32 to F16. F16 or BF16: round to
            it. F32: CPU only.
        progress: True: a bar on stderr where that is a terminal and loading takes a while; or a function of (done, total) bytes.
            Ctrl-C, and an exception in the function, end loading.

        ImportError: a hub id without huggingface_hub. IoError: no such directory, or the hub cannot be reached. InvalidFileError: a
        checkpoint that breaks its format, or has no safetensors; UnsupportedError: a model that is not supported; both name what it
        was. NoDeviceError. CancelledError.
        """
        directory = hub.checkpoint_directory(directory_or_hub_id, revision)
        context = device if isinstance(device, Context) else Context(device)
        with reporter(progress, "loading", unit="B") as report:
            options, keep = _model_options(weight_dtype, report, cancellation)
            arguments = (context.handle, os.fsencode(directory), options)
            return cls(context, created("cf_model", lib.cf_model_load, *arguments, keep=context._keep), directory)

    @classmethod
    def from_config(cls, config: ModelConfig, device: str | Sequence[str] | Context = "auto", *, weight_dtype: Dtype | str = Dtype.AUTO) -> Model:
        """An empty model, to be filled by `load_layer` and `load_globals`. UnsupportedError for a shape that the device cannot run."""
        context = device if isinstance(device, Context) else Context(device)
        options, keep = _model_options(weight_dtype, None, None)
        return cls(context, created("cf_model", lib.cf_model_create, context.handle, config._to_struct(), options, keep=context._keep), None)

    def load_revision(
        self,
        directory_or_hub_id: str | os.PathLike[str],
        *,
        revision: str | None = None,
        progress: bool | ProgressFunction = True,
        cancellation: Cancellation | None = None,
    ) -> None:
        """Replaces every weight by those of another checkpoint of the same configuration, all or nothing: both copies exist during the call.

        Sessions keep their keys and values, which belong to the old weights: `truncate(0)` them. MismatchError if the configuration
        differs, BusyError while another call uses this model; else as `from_pretrained`.
        """
        directory = hub.checkpoint_directory(directory_or_hub_id, revision)
        with reporter(progress, "loading", unit="B") as report:
            options, keep = _model_options(Dtype.AUTO, report, cancellation)
            check(lib.cf_model_reload(self.handle, os.fsencode(directory), options))
        self.directory = directory
        self.__dict__.pop("tokenizer", None)

    def load_layer(self, layer: int, tensors: Mapping[Role | str, Any], *, stream: Any = None) -> None:
        """Takes all tensors of one layer; loading it again replaces it, all or nothing.

        tensors: role -> array, each role that the configuration asks for exactly once, with the shapes that `Role` gives; rows are
            outputs, as torch.nn.Linear has them, and may lie further apart than they are long. F32, F16 or BF16, in host memory
            (NumPy, torch) or the device's (torch, CuPy). BF16 of NumPy: BFloat16, or the type of ml_dtypes.
        stream: CUDA: in whose order device tensors are ready; None: the current one of their library. The call waits for it.

        When it returns the arrays are no longer used. InvalidArgumentError names the tensor at fault; UnsupportedError: a value that
        F16 cannot hold; BusyError: another call uses this model.
        """
        array, pointer, keep = descriptors(tensors, self._cuda_ordinal, stream)
        check(lib.cf_load_layer(self.handle, integer(layer, "layer", bits=32), array, len(tensors), ffi.cast("void*", pointer)))

    def load_globals(self, tensors: Mapping[Role | str, Any], *, stream: Any = None) -> None:
        """The same for the tensors that belong to no layer: embedding, final norm, head."""
        array, pointer, keep = descriptors(tensors, self._cuda_ordinal, stream)
        check(lib.cf_load_globals(self.handle, array, len(tensors), ffi.cast("void*", pointer)))

    # ---- What it is

    @property
    def _cuda_ordinal(self) -> int | None:
        return self.context.ordinal if self.context.device_kind == DeviceKind.CUDA else None

    @property
    def vocab_size(self) -> int:
        return self.config.vocab_size

    @property
    def info(self) -> ModelInfo:
        return queried(ModelInfo, lib.cf_model_query, self.handle, "cf_model_info")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's own (tokenizer.json, through the tokenizers package), or bytes for a model of 256 tokens without one."""
        return load_tokenizer(self.directory, self.vocab_size)

    def __repr__(self) -> str:
        c = self.config
        return f"<Model {self.directory or 'from memory'}: {c.family.name}, {c.n_layers} layers, hidden_size {c.hidden_size}, on {self.context.device}>"

    # ---- What is made from it

    def session(self, options: SessionOptions | None = None, /, **fields: Any) -> Session:
        """A sequence of its own: its position, its keys and values, its sampler. Fields of SessionOptions may be given by name.

        NotLoadedError until every layer and the globals are loaded; CacheFullError if the pool cannot give what is to be reserved.
        """
        return Session(self, SessionOptions.of(options, fields))

    def restore(self, saved: bytes | str | os.PathLike[str], options: SessionOptions | None = None, /, **fields: Any) -> Session:
        """A session that goes on where a saved one was. saved: what `Session.save` returned, or the path of `Session.save_file`.

        kv_dtype AUTO is the saved one, in a private pool. InvalidFileError: not a saved session, of another version, or damaged.
        MismatchError: of another model, other weights or another weight_dtype. InvalidArgumentError: more positions than the
        capacity. CacheFullError, NotLoadedError, IoError.
        """
        return Session._restore(self, saved, SessionOptions.of(options, fields))

    def kv_pool(self, capacity_tokens: int, *, kv_dtype: Dtype | str = Dtype.AUTO, page_tokens: int = 64) -> KvPool:
        """Pages that sessions of this model share, given as `pool` when they are made."""
        return KvPool(self, capacity_tokens, kv_dtype, page_tokens)

    def block(self, layer: int) -> Block:
        """One transformer block as a call on your own activations, keys and values. Only this layer has to be loaded."""
        from .blocks import Block

        return Block(self, layer)

    # ---- Three lines

    @overload
    def generate(
        self, prompt: str, max_tokens: int = ..., *, sampler: Sampler | None = ..., stop: Iterable[int] | None = ..., steps_per_call: int = ...,
        progress: bool | ProgressFunction = ...
    ) -> TextGeneration: ...  # fmt: skip
    @overload
    def generate(
        self, prompt: TokenArray, max_tokens: int = ..., *, sampler: Sampler | None = ..., stop: Iterable[int] | None = ..., steps_per_call: int = ...,
        progress: bool | ProgressFunction = ...
    ) -> TokenGeneration: ...  # fmt: skip
    def generate(
        self,
        prompt: str | TokenArray,
        max_tokens: int = 128,
        *,
        sampler: Sampler | None = None,
        stop: Iterable[int] | None = None,
        steps_per_call: int = 1,
        progress: bool | ProgressFunction = False,
    ) -> TextGeneration | TokenGeneration:
        """Continues a prompt in a session of its own: `for piece in model.generate("Once"): ...`, or `async for`.

        prompt: text, and then pieces of text come; or token ids, and then token ids come.
        max_tokens: the most that is made.
        sampler: None: greedy.
        stop: tokens that end it, and are not given; None: those of the sampler, or else the model's eos_tokens.
        steps_per_call: tokens that are made in one call of the library: more is a little faster on CUDA, and they come in bursts.
        progress: of the prompt, as in `from_pretrained`.

        The prompt is read when the first piece is asked for. Close it (or use `with`) to give back the session before it is collected.
        """
        if integer(max_tokens, "max_tokens") < 1:
            raise InvalidArgumentError(f"max_tokens is {max_tokens}, expected at least 1")
        is_text = isinstance(prompt, str)
        tokens = tokens_array(self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt, "prompt")
        if not tokens.size:
            raise InvalidArgumentError("prompt is empty, expected at least one token")
        sampler = Sampler() if sampler is None else instance(sampler, Sampler, "sampler")
        stops = tuple(stop) if stop is not None else sampler.stop_tokens or self.config.eos_tokens
        session = self.session(capacity_tokens=tokens.size + max_tokens - 1)  # the last one is not fed
        session.sampler = sampler.with_stop_tokens(stops)
        made = TokenGeneration(session, max_tokens, prompt=tokens, steps_per_call=steps_per_call, owns_session=True, progress=progress)
        return TextGeneration(made, self.tokenizer.stream()) if is_text else made

    def score(
        self,
        text: str | TokenArray,
        *,
        window: int | None = None,
        stride: int | None = None,
        progress: bool | ProgressFunction = False,
    ) -> Score:
        """How likely the model finds a text: the log-probability of every token but the first, and the perplexity.

        text: or token ids, at least two.
        window: tokens read at once, 2 .. max_position_embeddings (the default). The text is read in overlapping windows.
        stride: tokens from one window to the next, below window; default: half of it. Most tokens are predicted from at least
            window - stride tokens before them.
        progress: of (done, total) tokens.
        """
        tokens = tokens_array(self.tokenizer.encode(text) if isinstance(text, str) else text, "text")
        with reporter(progress, "scoring", unit=" tokens") as report:
            return score_tokens(self, tokens, window, stride, report)


def _model_options(weight_dtype: Dtype | str, report: ProgressFunction | None, cancellation: Cancellation | None) -> tuple[Any, tuple[Any, ...]]:
    """The struct, and what has to live as long."""
    callback = progress_callback(report)
    flag = instance(cancellation, Cancellation, "cancellation").handle if cancellation is not None else ffi.NULL
    options = make("cf_model_options", weight_dtype=member(Dtype, weight_dtype, "weight_dtype"), progress=callback, cancellation=flag)
    return options, (callback, flag)
