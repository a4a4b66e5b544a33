"""Pages of keys and values that sessions of a model share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .enums import Dtype, member
from .handles import Handle
from .native import created, lib, make
from .records import KvPoolInfo, queried, set_field

if TYPE_CHECKING:
    from .model import Model


class KvPool(Handle):
    """capacity_tokens: positions, rounded up to whole pages, all allocated at once. kv_dtype: AUTO is F32 on the CPU and F16 on CUDA;
    or F32 (CPU only), F16, BF16. page_tokens: positions of a page: 16, 32, 64, 128 or 256. A session has a private pool unless it is
    given one."""

    def __init__(self, model: Model, capacity_tokens: int, kv_dtype: Dtype | str = Dtype.AUTO, page_tokens: int = 64) -> None:
        options = make("cf_kv_pool_options", kv_dtype=member(Dtype, kv_dtype, "kv_dtype"))
        set_field(options, "capacity_tokens", capacity_tokens)
        set_field(options, "page_tokens", page_tokens)
        super().__init__(created("cf_kv_pool", lib.cf_kv_pool_create, model.handle, options, keep=model.context._keep))
        self.model = model

    @property
    def info(self) -> KvPoolInfo:
        return queried(KvPoolInfo, lib.cf_kv_pool_query, self.handle, "cf_kv_pool_info")
