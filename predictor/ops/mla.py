"""Multi-head latent attention (DeepSeek): per-head keys in prefill, the shared latent in decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np

from predictor.errors import InvalidOp
from predictor.ops.attention import PHASES, causal_pairs, narrower, sequence_counts, sequence_fields
from predictor.ops.base import Op, meaning
from predictor.ops.dtypes import Array, Number, Text, act_bytes, out_bytes, weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Mla(Op):
    """Latent attention of `heads` local heads; projections around it are gemms of their own.

    Prefill multiplies (nope_dim + rope_dim)-wide queries and v_dim-wide values per head; decode absorbs the
    up-projections and works on the cached latent: kv_lora_rank + rope_dim wide keys, kv_lora_rank wide values.
    DeepSeek-V2 (arXiv:2405.04434), 2.1 and appendix C; defaults are those of DeepSeek-V3.

    >>> Mla(phase="decode", batch=1, q_len=1, kv_len=1, heads=1).flops()
    2176.0
    """

    family: ClassVar[str] = "mla"
    floor_cycles: ClassVar[float] = 20_000
    floor_exponent: ClassVar[float] = 0.6  # several kernels
    growing: ClassVar[str] = "kv_len"
    phase: str
    batch: Number = field(metadata=meaning("calls", "sequences"))
    q_len: Number = field(metadata=meaning("tokens", "new tokens per sequence"))
    kv_len: Number = field(metadata=meaning("tokens", "cached tokens per sequence, the new ones included"))
    heads: Number = field(metadata=meaning("count", "query heads on this GPU"))
    kv_lora_rank: Number = field(default=512.0, metadata=meaning("count", "width of the latent"))
    rope_dim: Number = field(default=64.0, metadata=meaning("count", "rotary width of a key"))
    nope_dim: Number = field(default=128.0, metadata=meaning("count", "non-rotary width of a key"))
    v_dim: Number = field(default=128.0, metadata=meaning("count", "width of a value"))
    dtype: Text = "bf16"
    kv_dtype: Text = "bf16"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if self.phase not in PHASES:
            raise InvalidOp(f'phase is "{self.phase}"; it must be "prefill" or "decode".')
        if np.any(np.asarray(self.q_len) > self.kv_len):
            raise InvalidOp("q_len is above kv_len; kv_len counts the new tokens too, so give past + new.")

    @property
    def estimator(self) -> str:
        return f"mla_{self.phase}"

    def token_counts(self) -> dict[str, Number]:
        return sequence_counts(self)

    def with_token_counts(self, counts: Mapping[str, Array]) -> Self:
        return replace(self, **sequence_fields(self, counts))

    @property
    def compute_dtype(self) -> Text:
        return narrower(self.dtype, self.kv_dtype)

    @property
    def key_dim(self) -> Number:
        """Width of a key per head: per-head parts in prefill, the latent in decode."""
        return (self.nope_dim if self.phase == "prefill" else self.kv_lora_rank) + self.rope_dim

    @property
    def value_dim(self) -> Number:
        """Width of a value per head: v_dim in prefill, the latent in decode."""
        return self.v_dim if self.phase == "prefill" else self.kv_lora_rank

    def pairs(self) -> Number:
        """Query-key pairs per sequence and head."""
        return causal_pairs(self.q_len, self.kv_len, 0.0)

    def flops(self) -> Number:
        return 2.0 * self.batch * self.heads * (self.key_dim + self.value_dim) * self.pairs()

    def bytes_moved(self) -> Number:
        query = self.q_len * self.heads * self.key_dim * act_bytes(self.dtype)
        output = self.q_len * self.heads * self.value_dim * out_bytes(self.dtype)
        latent = self.kv_len * (self.kv_lora_rank + self.rope_dim) * weight_bytes(self.kv_dtype)
        if self.phase == "prefill":  # up-projected keys and values of every head pass through memory instead
            latent = self.kv_len * self.heads * (self.nope_dim + self.v_dim) * act_bytes(self.dtype)
        return self.batch * (query + output + latent)

    def stored_bytes(self) -> Number:
        return self.bytes_moved() if self.phase == "decode" else 0.0
