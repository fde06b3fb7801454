"""Training whose products run in 8 or 4 bits: what is quantised before them, forward and backward.

Inputs, gradients and weights stay in 16 bits (master weights in 32) and are narrowed before each product, once along
each dimension that is summed over: the input and the weight for the forward product, the gradient and the weight for
that of the input's gradient, the input and the gradient for that of the weight's. Head, attention, norms and adapters
are not narrowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from typing import NamedTuple

from predictor.ops import Gemm, Moe, Pointwise
from predictor.workloads.passes.calls import OpCall

COPY_BYTES = 4.0  # of an element of the copy in 16 bits, by which such passes are counted


class Recipe(NamedTuple):
    """Bytes moved for an element of each operand.

    product: number format of the products. forward_input, forward_weight: before the forward product. input, gradient,
    weight: before the two of the backward pass.
    """

    product: str
    forward_input: float
    forward_weight: float
    input: float
    gradient: float
    weight: float


# The times of products hold one pass that narrows what they read, as engines run them; here is what comes on top. A
# scale for the tensor: a pass finds the largest value (2: nvte_compute_amax, torchao's tensor_to_amax), and the next
# also writes a transposed copy (1) for the next product, as the fp8 units of Hopper take one layout; weights are
# narrowed (2 + 1) beside. Scales for groups: what is summed over along another dimension is narrowed anew (2 + 1);
# weights in square blocks are only transposed. NVFP4 (arXiv:2509.25149): also a scale for the tensor, weights in
# square blocks.
RECIPES: Mapping[str, Recipe] = {
    "fp8": Recipe("fp8", 3.0, 5.0, 0.0, 3.0, 1.0),
    "fp8_block": Recipe("fp8_block", 0.0, 3.0, 0.0, 3.0, 2.0),
    "mxfp8": Recipe("fp8", 0.0, 3.0, 0.0, 3.0, 3.0),
    "nvfp4": Recipe("nvfp4", 2.0, 4.6, 0.0, 4.6, 1.1),
}
BLOCK_SCALED = frozenset({"mxfp8", "nvfp4"})  # which only GPUs with fp4 units multiply


class Operands(NamedTuple):
    """Elements of the input, the output and the weights of a call."""

    input: float
    output: float
    weights: float


def quantised_forward(calls: Iterable[OpCall], recipe: Recipe | None, kept: float) -> list[OpCall]:
    """What narrows the operands of the forward products among `calls`; nothing without a recipe.

    kept: micro-batches that narrowed weights are kept for.
    """
    if recipe is None:
        return []
    each = recipe.forward_input, 0.0, recipe.forward_weight / kept
    return _fed(calls, recipe, each)


def quantised_backward(calls: Iterable[OpCall], recipe: Recipe | None, kept: float) -> list[OpCall]:
    """What narrows the operands of both products of the backward pass of each of the forward products `calls`."""
    if recipe is None:
        return []
    each = recipe.input, recipe.gradient, recipe.weight / kept
    return _fed(calls, recipe, each)


def _fed(calls: Iterable[OpCall], recipe: Recipe, each: tuple[float, float, float]) -> list[OpCall]:
    """What narrows the operands of the products among `calls`, and pads the tokens of experts."""
    fed = list[OpCall]()
    for call in calls:
        if size := _operands(call, recipe):
            fed.append(_narrowed(call, size, each))
            if isinstance(call.op, Moe):
                fed.append(_padded(call, call.op))
    return fed


def _padded(call: OpCall, op: Moe) -> OpCall:
    """Copies of what experts read and write: their rows must fill whole blocks (Megatron-Core, TEGroupedMLP)."""
    copy = Pointwise(kind="copy", rows=float(ceil(float(op.routed_tokens()))), cols=op.hidden, dtype="bf16")
    return OpCall(f"{call.name}_pad", copy, 2.0 * call.count)


def _operands(call: OpCall, recipe: Recipe) -> Operands | None:
    """Operands of a call that is a product in the recipe's format; None of all others."""
    op = call.op
    if isinstance(op, Gemm) and op.dtype == recipe.product:
        return Operands(float(op.m * op.k * op.batch), float(op.m * op.n * op.batch), float(op.n * op.k * op.batch))
    if isinstance(op, Moe) and op.dtype == recipe.product:
        hidden, inter, routed = float(op.hidden), float(op.inter / op.tp), float(op.routed_tokens())
        weights = float(op.matrices) * hidden * inter * float(op.experts / op.ep)
        return Operands(routed * (hidden + inter), routed * (hidden + (float(op.matrices) - 1) * inter), weights)
    return None


def _narrowed(call: OpCall, size: Operands, each: tuple[float, float, float]) -> OpCall:
    """Passes over memory that move so many bytes for each element of the input, the output and the weights.

    Copies as large as the input of the call, or fewer and larger ones where they would be more than a pass for each
    operand: the host issues one.
    """
    op = call.op
    rows, columns = (op.m, op.k) if isinstance(op, Gemm) else (op.tokens, op.hidden)  # type: ignore[attr-defined]
    moved = sum(elements * moved_each for elements, moved_each in zip(size, each, strict=True))
    copied_rows, passes = moved / (COPY_BYTES * float(columns)), sum(moved_each > 0 for moved_each in each)
    rows = max(float(rows), float(ceil(copied_rows / max(passes, 1))))
    copy = Pointwise(kind="copy", rows=rows, cols=columns, dtype="bf16")
    return OpCall(f"{call.name}_quantise", copy, call.count * copied_rows / rows)
