"""More tokens are never faster: an estimate is asked at knots of the token counts, raised to the highest of all
smaller knots, and interpolated between them.

Trees that may bend freely fit measured GPUs two to three times better than trees held monotone, but now and then they
predict less for more (training/EXPERIMENTS.md). The rising envelope over knots repairs that, whatever the estimate is.
Knots of calls that differ in tokens only are shared, so that a table of many such calls costs less than its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictor.features import Setting
from predictor.ops import Op
from predictor.ops.base import column
from predictor.ops.dtypes import Array

Estimate = Callable[[Op, Setting], Array]

OCTAVES = 54  # token counts stay below 2**53
EVERY = 2.0 ** np.arange(OCTAVES)
HALVES = np.unique([count for count in np.concatenate([EVERY, 1.5 * EVERY]) if count == int(count)])
# Where a grid of several counts is asked, knots are sparse; only past tokens may be none.
KNOTS = {"batch": EVERY, "kv_len": EVERY, "past": np.concatenate([[0.0], EVERY[4:]])}


def rising(op: Op, setting: Setting, log_latency: Estimate) -> Array:
    """log_latency(op, setting), (n_calls,), made to never fall when a token count of a call rises."""
    counts = {name: column(count, len(op)) for name, count in op.token_counts().items()}
    knots = [KNOTS.get(name, HALVES) for name in counts]
    low = np.stack(
        [np.searchsorted(k, c, side="right") - 1 for k, c in zip(knots, counts.values(), strict=True)], axis=1
    )
    shares = [
        np.log((1 + c) / (1 + k[i])) / np.log((1 + k[i + 1]) / (1 + k[i]))
        for k, c, i in zip(knots, counts.values(), low.T, strict=True)
    ]
    share = np.stack(shares, axis=1)
    first, members = np.unique(_kinds(op, setting), return_index=True, return_inverse=True)[1:]
    tops = np.zeros_like(low, shape=(len(first), len(counts)))
    np.maximum.at(tops, members, low + (share > 0))
    shapes = tops + 1
    sizes = shapes.prod(axis=1)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.repeat(np.arange(len(first)), sizes)
    grid = _unravel(np.arange(starts[-1]) - starts[owner], shapes[owner])
    asked = {name: k[grid[:, i]] for i, (name, k) in enumerate(zip(counts, knots, strict=True))}
    found = log_latency(op.take(first[owner]).with_token_counts(asked), setting.take(first[owner]))
    return _interpolate(_accumulate(found, shapes, starts), low, share, shapes[members], starts[members])


def _kinds(op: Op, setting: Setting) -> NDArray[np.int64]:
    """A number per call, equal for calls that differ in token counts only."""
    plain = op.with_token_counts({name: np.ones(len(op)) for name in op.token_counts()})
    columns = [value for value in (*(getattr(plain, f.name) for f in fields(plain)), *setting) if np.ndim(value)]
    kind = np.zeros(len(op), dtype=np.int64)
    for values in columns:
        codes = _codes(values)
        kind = np.unique(kind * (codes.max() + 1) + codes, return_inverse=True)[1]
    return kind


def _codes(values: NDArray[Any]) -> NDArray[np.int64]:
    """A number for each value, equal for equal ones."""
    if values.dtype != object:
        return np.unique(values, return_inverse=True)[1]
    number = {name: i for i, name in enumerate(dict.fromkeys(values.tolist()))}
    return np.array([number[name] for name in values.tolist()], dtype=np.int64)


def _unravel(flat: NDArray[np.int64], shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Grid position of each flat index in a grid of its own shape, last axis fastest, (n, n_axes)."""
    out = np.empty_like(shapes)
    for axis in range(shapes.shape[1] - 1, -1, -1):
        flat, out[:, axis] = np.divmod(flat, shapes[:, axis])
    return out


def _accumulate(found: Array, shapes: NDArray[np.int64], starts: NDArray[np.int64]) -> Array:
    """Each grid value raised to the largest value at smaller or equal positions."""
    found = found.copy()
    for shape in np.unique(shapes, axis=0):
        alike = np.flatnonzero((shapes == shape).all(axis=1))
        cells = starts[alike][:, None] + np.arange(shape.prod())
        block = found[cells].reshape(len(alike), *shape)
        for axis in range(1, block.ndim):
            block = np.maximum.accumulate(block, axis=axis)
        found[cells] = block.reshape(len(alike), -1)
    return found


def _interpolate(
    found: Array, low: NDArray[np.int64], share: Array, shapes: NDArray[np.int64], starts: NDArray[np.int64]
) -> Array:
    """Multilinear between the knots around each call; the weights are those of its token counts alone."""
    axes = low.shape[1]
    total = np.zeros(len(low))
    for corner in np.ndindex(*(2,) * axes):
        weight, flat = np.ones(len(low)), np.zeros(len(low), dtype=np.int64)
        for axis, up in enumerate(corner):
            weight = weight * (share[:, axis] if up else 1 - share[:, axis])
            flat = flat * shapes[:, axis] + np.minimum(low[:, axis] + up, shapes[:, axis] - 1)
        total += weight * found[starts + flat]
    return total
