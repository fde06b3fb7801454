"""Matrix multiplication, alone or batched: the linear layers of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from predictor.ops.base import Op, meaning
from predictor.ops.dtypes import Number, Text, act_bytes, out_bytes, weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm(Op):
    """(m, k) activations times (k, n) weights, `batch` times with separate weights.

    FLOPs 2·m·n·k (Golub & Van Loan, Matrix Computations, 1.1.11).

    >>> Gemm(m=4096, n=4096, k=4096, dtype="bf16").flops() == 2 * 4096**3
    True
    """

    family: ClassVar[str] = "gemm"
    floor_cycles: ClassVar[float] = 5_000
    growing: ClassVar[str] = "m"
    m: Number = field(metadata=meaning("calls", "rows of the activations (tokens)"))
    n: Number = field(metadata=meaning("calls", "columns of the weights (output width)"))
    k: Number = field(metadata=meaning("calls", "contraction length"))
    batch: Number = field(default=1.0, metadata=meaning("calls", "matrices"))
    dtype: Text = "bf16"

    def flops(self) -> Number:
        return 2.0 * self.batch * self.m * self.n * self.k

    def stored_bytes(self) -> Number:
        return self.batch * self.n * self.k * weight_bytes(self.dtype)

    def bytes_moved(self) -> Number:
        activations = self.m * self.k * act_bytes(self.dtype)
        weights = self.n * self.k * weight_bytes(self.dtype)
        output = self.m * self.n * out_bytes(self.dtype)
        return self.batch * (activations + weights + output)
