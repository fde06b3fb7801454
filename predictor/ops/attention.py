"""Scaled dot-product attention, fused (no score matrix in memory), prefill or decode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np

from predictor.errors import InvalidOp
from predictor.ops.base import Op, meaning
from predictor.ops.dtypes import Array, Number, Text, act_bytes, out_bytes, per_dtype, weight_bytes

PHASES = ("prefill", "decode")


def causal_pairs(q_len: Number, kv_len: Number, window: Number) -> Number:
    """Query-key pairs that a causal mask leaves, the last q_len of kv_len positions asking.

    window: keys each query may see, itself included; 0 means all.
    Position i (from 1) sees min(i, window) keys, summed over the last q_len positions.

    >>> causal_pairs(4, 4, 0), causal_pairs(1, 4, 0), causal_pairs(4, 4, 2)
    (10.0, 4.0, 7.0)
    """
    seen = np.where(np.asarray(window) > 0, np.minimum(window, kv_len), kv_len)
    past = np.asarray(kv_len - q_len, dtype=np.float64)
    full = np.maximum(kv_len - np.maximum(seen, past), 0.0)  # queries that see `seen` keys each
    first = np.maximum(np.minimum(seen, kv_len) - past, 0.0)  # queries still filling the window
    ramp = first * past + first * (first + 1) / 2
    pairs = ramp + full * seen
    return pairs if np.ndim(pairs) else float(pairs)


def sequence_counts(op: Any) -> dict[str, Number]:
    """Token counts of an attention op: sequences and new tokens on past ones in prefill, the cache in decode."""
    if op.phase == "decode":
        return {"batch": op.batch, "kv_len": op.kv_len}
    return {"batch": op.batch, "q_len": op.q_len, "past": op.kv_len - op.q_len}


def sequence_fields(op: Any, counts: Mapping[str, Array]) -> dict[str, Any]:
    """Fields of an attention op with other token counts; a decode cache holds at least the queries."""
    if op.phase == "decode":
        return {"batch": counts["batch"], "kv_len": np.maximum(counts["kv_len"], op.q_len)}
    return {"batch": counts["batch"], "q_len": counts["q_len"], "kv_len": counts["q_len"] + counts["past"]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(Op):
    """softmax(Q·Kᵀ)·V for `batch` sequences of q_len new tokens over kv_len cached ones (new included).

    heads ≥ kv_heads: MHA (equal), GQA, MQA (1). window: sliding window in keys, 0 = none. causal: 1 or 0.
    dtype: of the query and the arithmetic; kv_dtype: of the cache.
    FLOPs 4·head_dim per query-key pair and head (Dao et al., FlashAttention-2, arXiv:2307.08691, 4.1).

    >>> Attention(phase="prefill", batch=1, q_len=2, kv_len=2, heads=1, kv_heads=1, head_dim=8).flops()
    96.0
    """

    family: ClassVar[str] = "attention"
    floor_cycles: ClassVar[float] = 12_000
    floor_exponent: ClassVar[float] = 0.8  # several kernels
    growing: ClassVar[str] = "kv_len"
    at_least_zero: ClassVar[frozenset[str]] = frozenset({"window", "causal"})
    phase: str
    batch: Number = field(metadata=meaning("calls", "sequences"))
    q_len: Number = field(metadata=meaning("tokens", "new tokens per sequence"))
    kv_len: Number = field(metadata=meaning("tokens", "cached tokens per sequence, the new ones included"))
    heads: Number = field(metadata=meaning("count", "query heads on this GPU"))
    kv_heads: Number = field(metadata=meaning("count", "key/value heads on this GPU"))
    head_dim: Number = field(metadata=meaning("count", "width of one head"))
    window: Number = field(default=0.0, metadata=meaning("tokens", "sliding window, 0 = none"))
    causal: Number = field(default=1.0, metadata=meaning("0/1", "causal mask"))
    dtype: Text = "bf16"
    kv_dtype: Text = "bf16"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        if self.phase not in PHASES:
            raise InvalidOp(f'phase is "{self.phase}"; it must be "prefill" or "decode".')
        if np.any(np.asarray(self.q_len) > self.kv_len):
            raise InvalidOp("q_len is above kv_len; kv_len counts the new tokens too, so give past + new.")
        if np.any(np.asarray(self.kv_heads) > self.heads):
            raise InvalidOp("kv_heads is above heads; it must be at most heads (equal for MHA, 1 for MQA).")

    @property
    def estimator(self) -> str:
        return f"attention_{self.phase}"

    def token_counts(self) -> dict[str, Number]:
        return sequence_counts(self)

    def with_token_counts(self, counts: Mapping[str, Array]) -> Self:
        return replace(self, **sequence_fields(self, counts))

    @property
    def compute_dtype(self) -> Text:
        """fp8 arithmetic when either side is fp8: native kernels quantise the query to match an fp8 cache."""
        return narrower(self.dtype, self.kv_dtype)

    def pairs(self) -> Number:
        """Query-key pairs per sequence and head."""
        every = np.asarray(self.q_len) * self.kv_len
        pairs = np.where(np.asarray(self.causal) > 0, causal_pairs(self.q_len, self.kv_len, self.window), every)
        return pairs if pairs.ndim else float(pairs)

    def keys_read(self) -> Number:
        """Distinct cached positions that the queries of one sequence see."""
        reach = np.where(np.asarray(self.window) > 0, self.window + self.q_len - 1, self.kv_len)
        keys = np.minimum(reach, self.kv_len)
        return keys if np.ndim(keys) else float(keys)

    def flops(self) -> Number:
        return 4.0 * self.batch * self.heads * self.head_dim * self.pairs()

    def bytes_moved(self) -> Number:
        query = self.q_len * self.heads * self.head_dim * act_bytes(self.dtype)
        output = self.q_len * self.heads * self.head_dim * out_bytes(self.dtype)
        cache = 2.0 * self.keys_read() * self.kv_heads * self.head_dim * weight_bytes(self.kv_dtype)
        return self.batch * (query + output + cache)

    def stored_bytes(self) -> Number:
        return self.bytes_moved() if self.phase == "decode" else 0.0


def narrower(dtype: Text, kv_dtype: Text) -> Text:
    """The dtype of fewer bits of two, element by element; the first where they tie."""
    if isinstance(dtype, str) and isinstance(kv_dtype, str):
        bits = [float(per_dtype(name, lambda facts: facts.act_bits)) for name in (dtype, kv_dtype)]
        return dtype if bits[0] <= bits[1] else kv_dtype
    length = max(np.size(dtype), np.size(kv_dtype))
    one, two = (np.broadcast_to(np.asarray(name, dtype=object), (length,)) for name in (dtype, kv_dtype))
    wide = np.asarray(per_dtype(one, lambda f: f.act_bits)) > np.asarray(per_dtype(two, lambda f: f.act_bits))
    return np.where(wide, two, one)
