"""What measured GPUs say of calls, remembered: those that nobody measured ask the same few of them the same calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.estimators.features import Setting
from predictor.ops import Op
from predictor.ops.base import names_of
from predictor.ops.dtypes import Array

MOST_CELLS = 2**21  # of all arrays that are kept, 8 bytes each


class Told(NamedTuple):
    """What a measured GPU says of the calls at `rows`, all (n_rows,).

    reference: log-latency by the trees that know it. transfer, core: by the views that know no GPU, as in Views.
    """

    rows: NDArray[np.int64]
    reference: Array
    transfer: Array
    core: Array


class Memory:
    """Answers of measured GPUs by what they were asked; all are forgotten where they would fill too much memory."""

    __slots__ = ("answers", "cells")

    def __init__(self) -> None:
        self.answers: dict[Hashable, list[Told]] = {}
        self.cells = 0

    def ask(self, key: Hashable, answer: Callable[[], list[Told]]) -> list[Told]:
        """What was answered to that key, or is answered now."""
        if (known := self.answers.get(key)) is not None:
            return known
        told = answer()
        self.cells += sum(part.size for one in told for part in one)
        if self.cells > MOST_CELLS:
            self.answers, self.cells = {}, sum(part.size for one in told for part in one)
        self.answers[key] = told
        return told


def fingerprint(op: Op, setting: Setting) -> tuple[Hashable, ...]:
    """Equal for the same calls in the same setting."""
    values = (*(getattr(op, name) for name in names_of(type(op))), *setting)
    return (type(op), *map(_content, values))


def _content(value: Any) -> Hashable:
    if not isinstance(value, np.ndarray):
        return str(value) if isinstance(value, str) else float(value)
    if value.dtype == object:  # whose bytes are places in memory
        return value.shape, str(value[0]) if value.strides == (0,) and value.size else tuple(value.tolist())
    return value.shape, value.tobytes()
