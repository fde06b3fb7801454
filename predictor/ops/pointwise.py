"""Ops that touch every element once: norms, activations, softmax, element-wise, embedding, quantise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from predictor.errors import InvalidOp
from predictor.ops.base import Op, meaning
from predictor.ops.dtypes import Number, Text, act_bytes


class Kind(NamedTuple):
    """group: estimator sub-family. flops per output element. reads, writes: tensors of rows x cols, at the
    op's dtype; out_bits replaces the dtype of the written tensor where it differs."""

    group: str
    flops: float
    reads: float
    writes: float
    out_bits: float = 0.0


# FLOPs: one per arithmetic instruction of the textbook formula (exp, tanh, sqrt counted as one).
KINDS: Mapping[str, Kind] = {
    "layer_norm": Kind("norm", 8, 1, 1),
    "rms_norm": Kind("norm", 4, 1, 1),
    "add_rms_norm": Kind("norm", 5, 2, 2),
    "softmax": Kind("softmax", 5, 1, 1),
    "relu": Kind("activation", 1, 1, 1),
    "gelu": Kind("activation", 8, 1, 1),
    "tanh": Kind("activation", 1, 1, 1),
    "silu": Kind("activation", 4, 1, 1),
    "silu_mul": Kind("activation", 5, 2, 1),
    "add": Kind("elementwise", 1, 2, 1),
    "mul": Kind("elementwise", 1, 2, 1),
    "pow": Kind("elementwise", 1, 2, 1),
    "rope": Kind("elementwise", 3, 1, 1),
    "copy": Kind("elementwise", 0, 1, 1),
    "embedding": Kind("embedding", 0, 1, 1),
    "compute_scale": Kind("quantise", 2, 1, 0),
    "quantise_fp8": Kind("quantise", 2, 1, 1, out_bits=8),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointwise(Op):
    """`kind` over a (rows, cols) tensor; cols is the normalised or reduced axis.

    Arithmetic runs on the vector units at the fp32 rate.

    >>> Pointwise(kind="add", rows=2, cols=3, dtype="bf16").bytes_moved()
    36.0
    """

    family: ClassVar[str] = "pointwise"
    floor_cycles: ClassVar[float] = 3_000
    growing: ClassVar[str] = "rows"
    kind: Text
    rows: Number = field(metadata=meaning("count", "rows (tokens)"))
    cols: Number = field(metadata=meaning("count", "elements per row"))
    dtype: Text = "bf16"

    def __post_init__(self) -> None:
        Op.__post_init__(self)
        for kind in {self.kind} if isinstance(self.kind, str) else set(np.asarray(self.kind).tolist()):
            if kind not in KINDS:
                raise InvalidOp(f'kind is "{kind}"; a pointwise op is one of {", ".join(KINDS)}.')

    @property
    def compute_dtype(self) -> Text:
        return "fp32"

    def flops(self) -> Number:
        return per_kind(self.kind, lambda kind: kind.flops) * self.rows * self.cols

    def bytes_moved(self) -> Number:
        element = act_bytes(self.dtype)
        read = per_kind(self.kind, lambda kind: kind.reads) * element
        narrow = per_kind(self.kind, lambda kind: kind.writes * kind.out_bits / 8)
        plain = per_kind(self.kind, lambda kind: kind.writes if not kind.out_bits else 0.0) * element
        return self.rows * self.cols * (read + plain + narrow)


def per_kind(kind: Text, value: Any) -> Number:
    """value(facts) for one kind or for a column of kinds."""
    if isinstance(kind, str):
        return float(value(KINDS[kind]))
    table = {name: float(value(facts)) for name, facts in KINDS.items()}
    return np.array([table[name] for name in np.asarray(kind).tolist()])
