"""Arithmetic that means the same for one number and for a column of them, element by element to the bit.

Numbers stay plain Python numbers: one request is answered faster so, and its answer holds nothing of numpy.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


def lesser(one: Any, two: Any) -> Any:
    """The smaller of two."""
    return np.minimum(one, two) if _column(one, two) else min(one, two)


def greater(one: Any, two: Any) -> Any:
    """The larger of two."""
    return np.maximum(one, two) if _column(one, two) else max(one, two)


def chosen(where: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition holds, else `no`."""
    return np.where(where, yes, no) if _column(where) else yes if where else no


def power_of_two(count: Any) -> Any:
    """The next power of two from a whole number on.

    >>> [power_of_two(count) for count in (1, 2, 3, 16, 17)]
    [1, 2, 4, 16, 32]
    """
    if _column(count):
        return (2 ** np.ceil(np.log2(count))).astype(int)
    return 1 << (int(count) - 1).bit_length()


def added(values: Iterable[Any]) -> Any:
    """The sum, in order; `sum` of Python 3.12 adds plain numbers in another way than columns."""
    total: Any = 0.0
    for value in values:
        total = total + value
    return total


def whole(value: Any) -> Any:
    """The whole part of what is not below 0; a plain number becomes an int."""
    return np.floor(value).astype(np.int64) if _column(value) else int(value)


def hypot(one: Any, two: Any) -> Any:
    """Root of the sum of two squares."""
    return _plain(np.hypot(one, two))


def root(value: Any) -> Any:
    """Square root."""
    return _plain(np.sqrt(value))


def log(value: Any) -> Any:
    """Natural logarithm."""
    return _plain(np.log(value))


def exp(value: Any) -> Any:
    """e to the power of the value."""
    return _plain(np.exp(value))


def interpolated(value: Any, points: Any, values: Any) -> Any:
    """Linear between the points, constant outside."""
    return _plain(np.interp(value, points, values))


def _column(*values: Any) -> bool:
    return any(isinstance(value, np.ndarray) for value in values)


def _plain(value: Any) -> Any:
    return value if isinstance(value, np.ndarray) else float(value)
