"""Training in 8 and 4 bits: the format of the matrix products, and the passes that narrow what they multiply.

Products run in the format forward and backward; attention, norms, the head, weights and moments keep theirs (NVIDIA
Transformer Engine, user guide: low-precision training).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import NamedTuple

from predictor.ops import Gemm, Moe, Pointwise
from predictor.ops.dtypes import Number
from predictor.workloads.passes.calls import OpCall


class Recipe(NamedTuple):
    """products: format of the matrix products. pass_bytes: that move for each element that is narrowed, in both layouts
    that a product and its gradients read; the 16-bit tensor is read once more where its largest value is sought first.
    """

    products: str
    pass_bytes: float


# fp8: one scale of the tensor as it is (current scaling). fp8_block: of 1 x 128 elements. mxfp8: of 32. nvfp4: of 16, of
# which there is one more for the tensor; gradients are rotated and rounded at random in the same pass (arXiv:2509.25149).
RECIPES: Mapping[str, Recipe] = {
    "fp8": Recipe("fp8", 2.0 + 2.0 + 2 * 1.0),
    "fp8_block": Recipe("fp8_block", 2.0 + 2 * (1.0 + 4 / 128)),
    "mxfp8": Recipe("fp8", 2.0 + 2 * (1.0 + 1 / 32)),
    "nvfp4": Recipe("nvfp4", 2.0 + 2.0 + 2 * (0.5 + 1 / 16)),
}
COPY_BYTES = 4.0  # of an element that is copied in 16 bits


def products_dtype(dtype: str) -> str:
    """The format of the matrix products of training in `dtype`."""
    return RECIPES[dtype].products if dtype in RECIPES else dtype


def narrowed_inputs(call: OpCall, dtype: str) -> list[OpCall]:
    """The pass that narrows what a product reads; none in 16 bits and more."""
    op = call.op
    if isinstance(op, Gemm):
        return _narrowed(call, dtype, "", op.m * op.batch, op.k)
    return _narrowed(call, dtype, "", op.routed_tokens(), op.hidden + op.inter / op.tp) if isinstance(op, Moe) else []


def narrowed_gradients(call: OpCall, dtype: str) -> list[OpCall]:
    """The pass that narrows the gradient of what a product writes."""
    op = call.op
    if isinstance(op, Gemm):
        return _narrowed(call, dtype, "_grad", op.m * op.batch, op.n)
    if not isinstance(op, Moe):
        return []
    return _narrowed(call, dtype, "_grad", op.routed_tokens(), op.hidden + (op.matrices - 1) * op.inter / op.tp)


def _narrowed(call: OpCall, dtype: str, suffix: str, rows: Number, cols: Number) -> list[OpCall]:
    recipe = RECIPES.get(dtype)
    if recipe is None or call.op.dtype != recipe.products:
        return []
    copy = Pointwise(kind="copy", rows=ceil(float(rows)), cols=ceil(float(cols)), dtype="bf16")
    return [OpCall(f"{call.name}_quantise{suffix}", copy, call.count * recipe.pass_bytes / COPY_BYTES)]
