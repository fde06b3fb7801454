"""Intervals of a prediction, from offsets that held-out GPUs taught (predictor.learning.conformal), and how they add in
sums.

An interval is latency x exp(low) to latency x exp(high); low and high depend on how well the GPU is known, on the
dtype, and on the regime: how near its bound a call runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.elementwise import added, greater, root
from predictor.ops.dtypes import Array

# Predicted share of the bound at which the next regime starts: launch, mixed, large.
REGIMES = (0.1, 0.35)
KINSHIPS = ("seen", "sibling", "unseen", "far")  # far: no GPU of the class of the card was measured

ALIKE = {"fp16": "bf16", "bf16": "fp16"}  # one speaks for the other where that was not held out

Offsets = Mapping[str, Sequence[Sequence[float]]]  # dtype, "" for all others → low and high of each regime


def regime(latency_s: Array, bound_s: Array) -> NDArray[np.int64]:
    """Number of the regime of each call, (n_calls,)."""
    return np.digitize(bound_s / latency_s, REGIMES)


def ends(latency_s: Array, bound_s: Array, dtypes: NDArray[Any], offsets: Offsets) -> tuple[Array, Array]:
    """low and high of each call, (n_calls,) seconds; low never beats the bound."""
    tables = np.array(list(offsets.values()), dtype=np.float64)
    place = {name: i for i, name in enumerate(offsets)}
    known = {name: place.get(name, place.get(ALIKE.get(name, ""), place[""])) for name in set(dtypes.tolist())}
    which = np.array([known[name] for name in dtypes.tolist()], dtype=np.int64)
    low, high = tables[which, regime(latency_s, bound_s)].T
    return np.maximum(latency_s * np.exp(low), bound_s), latency_s * np.exp(high)


def sum_of(distances: Sequence[Any], names: Sequence[str], within: Mapping[str, float], across: float) -> Any:
    """Distance from a sum to its end, from those of its parts, seconds, each a number or (n_calls,).

    Parts of one estimator, whose names they are, correlate by `within` of that name, parts of two by `across`.
    """
    of_name: dict[str, Any] = {}
    squares: dict[str, Any] = {}
    for distance, name in zip(distances, names, strict=True):
        of_name[name] = of_name.get(name, 0.0) + distance
        squares[name] = squares.get(name, 0.0) + distance * distance
    whole = added(of_name.values())
    variance, apart = 0.0, whole * whole
    for name, whole in of_name.items():
        variance += squares[name] + within[name] * (whole * whole - squares[name])
        apart -= whole * whole
    return root(variance + across * greater(apart, 0.0))
