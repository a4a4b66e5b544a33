"""Decodes GPT-NeoX (Pythia) and Llama checkpoints at the lowest latency the hardware allows, inside your program.

    import clusterfusion

    model = clusterfusion.Model.from_pretrained("examples/demo_model")
    for piece in model.generate("412+93="):
        print(piece, end="", flush=True)

A `Model` makes `Session`s; a session is one sequence, and its calls are steps: `prefill`, `decode_step`, `decode_steps`,
`decode_positions`, and `decode_batch` over several sessions. What they give is the same, to the bit, across runs, threads and
groupings of steps. Whatever fails raises an `Error`, with a class for each reason and a sentence that names what was wrong.

The C interface below is in `clusterfusion.native`. Its header, clusterfusion.h, is the manual of what each call promises.
"""

from .arrays import BFloat16
from .blocks import Block, BlockSequence
from .context import Cancellation, Context
from .device_array import DeviceArray
from .devices import devices
from .enums import (
    Activation,
    CpuIsa,
    DeviceKind,
    Dtype,
    Family,
    LaunchMode,
    LogLevel,
    Norm,
    OutputRows,
    Role,
    RopeScaling,
    Status,
    TapPoint,
)
from .errors import (
    BufferTooSmallError,
    BusyError,
    CacheFullError,
    CancelledError,
    DeviceLostError,
    Error,
    InternalError,
    InvalidArgumentError,
    InvalidFileError,
    IoError,
    MismatchError,
    NoDeviceError,
    NonfiniteLogitsError,
    NoTokenAllowedError,
    NotLoadedError,
    OutOfMemoryError,
    UnsupportedError,
)
from .generation import TextGeneration, TokenGeneration
from .graph import Graph
from .model import Model
from .native import ffi as _ffi
from .native import lib as _lib
from .pool import KvPool
from .records import ContextInfo, DeviceInfo, GraphInfo, KvPoolInfo, MemoryEstimate, ModelConfig, ModelInfo, SessionInfo
from .sampling import Sampler, sample_logits
from .scoring import Score
from .session import BatchError, BatchStep, Session, SessionOptions, decode_batch
from .steps import PENDING, Step
from .taps import Tap
from .text import ByteTokenizer, Tokenizer

__version__: str = _ffi.string(_lib.cf_version_string()).decode()  # of the library that was loaded

__all__ = [
    "PENDING", "Activation", "BFloat16", "BatchError", "BatchStep", "Block", "BlockSequence", "BufferTooSmallError", "BusyError", "ByteTokenizer",
    "CacheFullError", "Cancellation", "CancelledError", "Context", "ContextInfo", "CpuIsa", "DeviceArray", "DeviceInfo", "DeviceKind",
    "DeviceLostError", "Dtype", "Error", "Family", "Graph", "GraphInfo", "InternalError", "InvalidArgumentError", "InvalidFileError", "IoError",
    "KvPool", "KvPoolInfo", "LaunchMode", "LogLevel", "MemoryEstimate", "MismatchError", "Model", "ModelConfig", "ModelInfo", "NoDeviceError",
    "NoTokenAllowedError", "NonfiniteLogitsError", "Norm", "NotLoadedError", "OutOfMemoryError", "OutputRows", "Role", "RopeScaling", "Sampler",
    "Score", "Session", "SessionInfo", "SessionOptions", "Status", "Step", "Tap", "TapPoint", "TextGeneration", "TokenGeneration", "Tokenizer",
    "UnsupportedError", "decode_batch", "devices", "sample_logits",
]  # fmt: skip
