"""How the views of an estimator are mixed where a call's kernels were measured on no kin of the GPU.

The weights depend on the number format and on the size of a call, and on whether any GPU of the card's class was
measured; not on how fast the GPU is, so that a worse one is never predicted to be faster. Large calls lean on physics:
what trees know of them is what a table happened to hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.ops import Op
from predictor.ops.base import column, text_column
from predictor.ops.dtypes import Array, Text

SIZES = (1e9, 3e10, 1e12)  # FLOP of a call at which weights are picked: of some 10 us, 200 us and 5 ms
LEAST_S = 1e-7  # a bound counts as so long at least: the smallest calls have none to speak of. Judged
FLOP_PER_BYTE = 100.0  # a byte counts as so many FLOP: the ridges of most GPUs lie between 50 and 300


class Weights(NamedTuple):
    """How much each view and the bare bound count; the mean is geometric.

    bound: of cards of a class that nobody measured. What tables of other classes know of floors may be many times too
    slow there; their data sheet is all that is sure.
    """

    transfer: Array | float
    reference: Array | float
    core: Array | float
    line: Array | float
    bound: Array | float = 0.0


class Views(NamedTuple):
    """Log-latency of each call by each view, (n_calls,); the reference is not a number where no GPU knows."""

    transfer: Array
    reference: Array
    core: Array
    line: Array


# memory_kind "|" format_of(dtype), without a dtype or "" for all others → the weights at each of SIZES
Mixture = Mapping[str, Sequence[Weights]]
EQUAL: Mixture = {"": (Weights(0.25, 0.25, 0.25, 0.25),) * len(SIZES)}


def mixture_of(table: Mapping[str, Sequence[Sequence[float]]]) -> Mixture:
    """A mixture from the lists of a manifest."""
    return {dtype: tuple(Weights(*weights) for weights in sizes) for dtype, sizes in table.items()}


def lists_of(mixture: Mixture) -> dict[str, list[list[Any]]]:
    """A mixture as mixture_of reads it."""
    return {dtype: [list(weights) for weights in sizes] for dtype, sizes in mixture.items()}


def call_size(op: Op) -> Array:
    """FLOP of each call, or what its bytes count for, (n_calls,)."""
    calls = len(op)
    return np.maximum(column(op.flops(), calls), FLOP_PER_BYTE * column(op.bytes_moved(), calls))


def weights_of(mixture: Mixture, kind: Text, dtypes: NDArray[Any], size: Array) -> Weights:
    """The weights of each call, each (n_calls,): straight between those of the sizes around it.

    kind: memory_kind of the GPU, or (n_calls,) of them.
    """
    keys = [_key(mixture, *pair) for pair in zip(text_column(kind, len(dtypes)).tolist(), dtypes.tolist(), strict=True)]
    number = {key: at for at, key in enumerate(mixture)}
    table = np.array([list(weights) for weights in mixture.values()], dtype=np.float64)  # (key, size, view)
    which = np.array([number[key] for key in keys], dtype=np.int64)
    place = np.interp(np.log(np.maximum(size, 1.0)), np.log(SIZES), np.arange(len(SIZES)))
    below = np.minimum(place.astype(np.int64), len(SIZES) - 2)
    part = (place - below)[:, None]
    return Weights(*((1 - part) * table[which, below] + part * table[which, below + 1]).T)


def _key(mixture: Mixture, kind: str, dtype: str) -> str:
    return next(key for key in (f"{kind}|{format_of(dtype)}", f"{kind}|", "") if key in mixture)


def format_of(dtype: str) -> str:
    """The name under which weights of a dtype are kept: formats that one unit multiplies alike share theirs."""
    return "16-bit" if dtype in ("fp16", "bf16", "tf32") else dtype


def mix(views: Views, weights: Weights, bound_s: Array | float = LEAST_S) -> Array:
    """Weighted mean of the views and the bound; where no reference knows the call the transfer takes its weight.

    Each weight is one number or (n_calls,). bound_s: of each call, where weights count it.
    """
    reference = np.where(np.isnan(views.reference), views.transfer, views.reference)
    parts = (*views._replace(reference=reference), np.log(np.maximum(bound_s, LEAST_S)))
    return np.asarray(sum(weight * part for weight, part in zip(weights, parts, strict=True)))
