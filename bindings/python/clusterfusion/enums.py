"""The enumerations of the header. Wherever the package takes one it takes its name, too: kv_dtype="F16"."""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar


class Status(IntEnum):
    """What a call came to."""

    OK = 0
    NOT_READY = 1
    ERROR_INVALID_ARGUMENT = 2
    ERROR_OUT_OF_MEMORY = 3
    ERROR_IO = 4
    ERROR_INVALID_FILE = 5
    ERROR_UNSUPPORTED = 6
    ERROR_NO_DEVICE = 7
    ERROR_DEVICE_LOST = 8
    ERROR_NOT_LOADED = 9
    ERROR_CACHE_FULL = 10
    ERROR_NONFINITE_LOGITS = 11
    ERROR_NO_TOKEN_ALLOWED = 12
    ERROR_CANCELLED = 13
    ERROR_BUFFER_TOO_SMALL = 14
    ERROR_MISMATCH = 15
    ERROR_BUSY = 16
    ERROR_INTERNAL = 17


class DeviceKind(IntEnum):
    """What a context runs on."""

    CPU = 0
    CUDA = 1


class CpuIsa(IntEnum):
    """Instruction set of the CPU backend; results are bitwise repeatable within one of them."""

    AUTO = 0
    BASELINE = 1
    AVX2 = 2
    AVX512 = 3


class LogLevel(IntEnum):
    """How much the library says: messages above the level are dropped."""

    NONE = 0
    WARNING = 1
    INFO = 2
    DEBUG = 3


class Dtype(IntEnum):
    """Types of weights, activations, keys and values. AUTO only where an argument says what it means."""

    AUTO = 0
    F32 = 1
    F16 = 2
    BF16 = 3


class Family(IntEnum):
    """Model families, by their model_type in config.json."""

    GPT_NEOX = 1
    LLAMA = 2


class Norm(IntEnum):
    """LAYER: LayerNorm with weight and bias; RMS: RMSNorm with weight."""

    LAYER = 1
    RMS = 2


class Activation(IntEnum):
    """GELU: x/2 (1 + erf(x/sqrt 2)); GELU_TANH: its tanh form (gelu_new, gelu_fast, gelu_pytorch_tanh); SWIGLU: silu(gate) * up."""

    GELU = 1
    GELU_TANH = 2
    SWIGLU = 3


class RopeScaling(IntEnum):
    """NONE, or that of rope_type "llama3"."""

    NONE = 0
    LLAMA3 = 1


class Role(IntEnum):
    """What a weight tensor is. H hidden_size, D head_dim, A n_heads, G n_kv_heads, I intermediate_size, V vocab_size."""

    EMBEDDING = 1  # [V, H]
    FINAL_NORM_WEIGHT = 2  # [H]
    FINAL_NORM_BIAS = 3  # [H], LayerNorm only
    HEAD = 4  # [V, H], unless tied_embeddings
    ATTENTION_NORM_WEIGHT = 16  # [H]
    ATTENTION_NORM_BIAS = 17  # [H], LayerNorm only
    MLP_NORM_WEIGHT = 18  # [H]
    MLP_NORM_BIAS = 19  # [H], LayerNorm only
    QKV_WEIGHT = 20  # [A * 3 * D, H], for each head its Q, K and V rows, as GPT-NeoX stores them; or Q, K and V:
    QKV_BIAS = 21  # [A * 3 * D]
    Q_WEIGHT = 22  # [A * D, H]
    Q_BIAS = 23  # [A * D]
    K_WEIGHT = 24  # [G * D, H]
    K_BIAS = 25  # [G * D]
    V_WEIGHT = 26  # [G * D, H]
    V_BIAS = 27  # [G * D]
    O_WEIGHT = 28  # [H, A * D]
    O_BIAS = 29  # [H]
    GATE_WEIGHT = 30  # [I, H], SwiGLU only
    GATE_BIAS = 31  # [I]
    UP_WEIGHT = 32  # [I, H]
    UP_BIAS = 33  # [I]
    DOWN_WEIGHT = 34  # [H, I]
    DOWN_BIAS = 35  # [H]


class Memory(IntEnum):
    """Where an array lies: DEVICE is the context's; on the CPU the same as HOST."""

    HOST = 0
    DEVICE = 1


class LaunchMode(IntEnum):
    """How a CUDA step is cut into launches; all give the same bits."""

    AUTO = 0
    STEP = 1
    BLOCK = 2
    PHASE = 3


class OutputRows(IntEnum):
    """Which rows of a prompt are written: the last position's, or all."""

    LAST = 0
    ALL = 1


class TapPoint(IntEnum):
    """Where a tap looks into a block. T rows of a step, A heads, D head_dim, H hidden_size, I intermediate_size."""

    BLOCK_INPUT = 1  # [T, H]
    BLOCK_OUTPUT = 2  # [T, H]
    ATTENTION_HEADS = 3  # [T, A, D]
    MLP_ACTIVATION = 4  # [T, I]


class TapAction(IntEnum):
    """READ copies out; WRITE overwrites before the step goes on."""

    READ = 0
    WRITE = 1


_Enum = TypeVar("_Enum", bound=IntEnum)


def member(kind: type[_Enum], value: _Enum | str, name: str) -> _Enum:
    """`value`, or the member that it names in any case. `name`: of the argument, for the error."""
    from .errors import InvalidArgumentError

    if isinstance(value, kind):
        return value
    if isinstance(value, str) and value.upper() in kind.__members__:
        return kind[value.upper()]
    raise InvalidArgumentError(f"{name} is {value!r}, expected one of {', '.join(kind.__members__)}")
