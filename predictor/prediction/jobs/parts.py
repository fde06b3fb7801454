"""How requests are cut into parts: rows that are answered one by one are few in a part, so that every core has some.

The cuts depend on the rows only, so a job that is started again on another machine has the same parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from predictor.measurements.columns import Cells, Rows

PART_MS = 500  # of rows that are answered one by one: some parts for each core, and starting one costs less by far
# What such a row takes on one core, in the mean over models: a simulation, a training step, a model of Transformers. A
# row that is answered in a column takes 0.2 ms, and ROWS of them are a part.
ROW_MS: Mapping[str, int] = {"continuous": 60, "train": 10, "torch": 6}


def cut(table: pa.Table) -> Iterator[pa.Table]:
    """The table in pieces that take about PART_MS, or whole where no row is slow.

    >>> [piece.num_rows for piece in cut(pa.table({"scheduling": ["continuous"] * 12}))]
    [9, 3]
    """
    cost = row_ms(table)
    part = (np.cumsum(cost) - cost) // PART_MS
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), table.num_rows], strict=True):
        yield table.slice(start, stop - start)


def row_ms(table: pa.Table) -> Rows:
    """(n_rows,) milliseconds that each row takes by itself; 0 where rows are answered together."""
    cells = Cells(table)
    trains, continuous = _is(cells, "phase", "train"), _is(cells, "scheduling", "continuous")
    continuous |= _is(cells, "scheduling", "") & (np.nan_to_num(cells.number("request_rate")) > 0)
    kinds = [trains, continuous, _is(cells, "engine", "torch")]
    return np.select(kinds, [ROW_MS["train"], ROW_MS["continuous"], ROW_MS["torch"]], 0).astype(np.int64)


def _is(cells: Cells, column: str, word: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    codes, names = cells.text(column)
    return np.array([name == word for name in names])[codes]
