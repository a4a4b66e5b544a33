"""What the library tells about devices, models, sessions and memory: one dataclass for each result struct of the header."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any, TypeVar

from .enums import Activation, CpuIsa, DeviceKind, Dtype, Family, LaunchMode, Norm, RopeScaling
from .native import check, ffi, lib, make

_Record = TypeVar("_Record")


@dataclass(frozen=True)
class DeviceInfo:
    """A device, usable or not."""

    kind: DeviceKind
    ordinal: int  # among the devices of its kind
    usable: bool  # or not, for `reason`
    compute_capability: int  # CUDA: major * 10 + minor; CPU: 0
    multiprocessors: int  # CUDA: SMs; CPU: hardware threads that this process may use
    max_cluster_size: int  # CUDA: CTAs in the largest portable thread-block cluster
    cpu_isa: CpuIsa  # CPU: what AUTO chooses
    memory_bytes: int
    shared_memory_bytes: int  # CUDA: the most a CTA may use
    name: str
    reason: str  # empty if usable


@dataclass(frozen=True)
class ContextInfo:
    """A context's threads and memory."""

    device_kind: DeviceKind
    n_devices: int
    cpu_threads: int  # CPU: as resolved
    cpu_isa: CpuIsa  # CPU: as resolved
    allocated_bytes: int  # held now, over all devices
    peak_bytes: int  # the most that was ever held


@dataclass
class ModelConfig:
    """What a model is: from config.json by `read`, from a model by `Model.config`, or filled in for `Model.from_config`."""

    family: Family
    norm: Norm
    activation: Activation
    n_layers: int
    hidden_size: int
    n_heads: int
    n_kv_heads: int  # divides n_heads: equal for MHA, fewer for GQA, 1 for MQA
    head_dim: int  # 32, 64, 80, 96, 128 or 256
    rotary_dim: int  # leading dimensions of each head that rotate; even, 2 .. head_dim
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int  # a recommendation: sessions may exceed it
    norm_eps: float
    rope_theta: float
    parallel_residual: bool = False  # x + attention(norm1(x)) + mlp(norm2(x)); else the MLP reads norm2(x + attention(norm1(x)))
    attention_bias: bool = False  # biases on Q, K, V and O
    mlp_bias: bool = False  # biases on gate, up and down
    tied_embeddings: bool = False  # the head is the embedding
    rope_scaling: RopeScaling = RopeScaling.NONE
    rope_factor: float = 0.0  # the four fields of rope_type "llama3" as in transformers; 0 otherwise
    rope_low_freq_factor: float = 0.0
    rope_high_freq_factor: float = 0.0
    rope_original_max_position: int = 0
    bos_token: int = -1  # -1: none
    eos_tokens: tuple[int, ...] = field(default=())  # at most 8

    @classmethod
    def read(cls, directory: str | PathLike[str]) -> ModelConfig:
        """Reads and checks DIRECTORY/config.json; no weights are touched. IoError, InvalidFileError, UnsupportedError."""
        from .checks import path_bytes

        struct = make("cf_model_config")
        check(lib.cf_model_config_read(path_bytes(directory, "directory"), struct))
        return cls._from_struct(struct)

    @classmethod
    def _from_struct(cls, struct: Any) -> ModelConfig:
        return record(cls, struct, eos_tokens=tuple(struct.eos_tokens[0 : struct.n_eos_tokens]))

    def _to_struct(self) -> Any:
        from .errors import InvalidArgumentError

        struct = make("cf_model_config")
        if len(self.eos_tokens) > len(struct.eos_tokens):
            raise InvalidArgumentError(f"eos_tokens has {len(self.eos_tokens)} tokens, expected at most {len(struct.eos_tokens)}")
        struct.n_eos_tokens = len(self.eos_tokens)
        for index, token in enumerate(self.eos_tokens):
            struct.eos_tokens[index] = token
        for each in fields(self):
            if each.name != "eos_tokens":
                set_field(struct, each.name, getattr(self, each.name))
        return struct


@dataclass(frozen=True)
class ModelInfo:
    """A model's weights."""

    n_layers_loaded: int
    globals_loaded: bool
    weight_dtype: Dtype  # of the matrices; AUTO if they differ or none is loaded
    weights_bytes: int  # allocated for weights now
    parameters: int  # of the configuration; tied embeddings count once
    fingerprint: int  # tells models and revisions apart, not single edited weights; 0 until all are loaded


@dataclass(frozen=True)
class KvPoolInfo:
    """A pool's pages."""

    kv_dtype: Dtype
    page_tokens: int
    n_pages: int
    n_pages_free: int  # neither held nor reserved; a page that is shared with a session that reserved it counts as both
    n_pages_shared: int  # held by more than one session
    page_bytes: int
    allocated_bytes: int


@dataclass(frozen=True)
class SessionInfo:
    """A session as it is now."""

    launch_mode: LaunchMode  # CUDA: as resolved; CPU: AUTO
    cluster_size: int  # CUDA: CTAs per cluster in use; CPU: 1
    page_tokens: int
    kv_dtype: Dtype
    position: int  # positions cached, as far as the host knows: after `Session.wait` exact
    capacity_tokens: int
    n_pages: int  # held in the pool, shared ones included
    workspace_bytes: int  # allocated for this session besides its pages
    stream: int | None  # CUDA: the cudaStream_t that its work is enqueued on, valid as long as the session; CPU: None


@dataclass(frozen=True)
class MemoryEstimate:
    """Exact byte counts before anything is allocated."""

    weights_bytes: int  # what a model of this configuration allocates once loaded
    load_staging_bytes: int  # more, while loading
    page_bytes: int  # one KV page
    kv_bytes: int  # a private pool for capacity_tokens; 0 with a pool
    workspace_bytes: int  # a session's other memory; on CUDA with what all sessions of a model share for prompts


@dataclass(frozen=True)
class GraphInfo:
    """A captured graph."""

    n_nodes: int  # kernel nodes
    n_steps: int
    launch_mode: LaunchMode


_TYPES = {kind.__name__: kind for kind in (Activation, CpuIsa, DeviceKind, Dtype, Family, LaunchMode, Norm, RopeScaling)}


def record(cls: type[_Record], struct: Any, **given: Any) -> _Record:
    """A dataclass from the fields of a struct that have the names of its own, as the types that it says; `given` are taken as they are."""
    values = dict(given)
    for each in fields(cls):  # type: ignore[arg-type]
        if each.name in values:
            continue
        value = getattr(struct, each.name)
        if each.type == "str":
            value = ffi.string(value).decode(errors="replace")
        elif each.type == "bool":
            value = bool(value)
        elif each.type in _TYPES:
            value = _TYPES[str(each.type)](value)
        elif each.name == "stream":
            value = int(ffi.cast("uintptr_t", value)) or None
        values[each.name] = value
    return cls(**values)


def set_field(struct: Any, name: str, value: Any) -> None:
    """Sets a number, with an error that names the field if it is none or does not fit."""
    from .errors import InvalidArgumentError

    try:
        setattr(struct, name, value)
    except (TypeError, OverflowError) as error:
        raise InvalidArgumentError(f"{name} is {value!r}: {error}") from None


def queried(cls: type[_Record], call: Any, handle: Any, type_name: str) -> _Record:
    """What a query call of the library says about a handle."""
    struct = make(type_name)
    check(call(handle, struct))
    return record(cls, struct)
