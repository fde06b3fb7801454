"""How requests are cut into parts: rows that are answered one by one are few in a part, so that every core has some.

The cuts depend on the rows only, so a job that is started again on another machine has the same parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from predictor.measurements.columns import Cells, Rows

PART_MS = 500  # of rows that are answered one by one: some parts for each core, and starting one costs less by far
ALIKE = ("model", "gpu", "tp", "engine")
# What such a row takes on one core, in the mean over models: a simulation, a training step, a model of Transformers. A
# row that is answered in a column takes 0.2 ms, and ROWS of them are a part.
ROW_MS: Mapping[str, int] = {"continuous": 12, "train": 10, "torch": 6}


def cut(table: pa.Table) -> Iterator[pa.Table]:
    """The table in pieces that take about PART_MS, or whole where no row is slow.

    A piece goes on, by half as much at most, to where rows of another model, GPU or degree begin: the step times that
    simulated loads share are predicted once in each.

    >>> [piece.num_rows for piece in cut(pa.table({"scheduling": ["continuous"] * 50}))]
    [42, 8]
    """
    done = np.concatenate([[0], np.cumsum(row_ms(table))])
    changes, start = _changes(table), 0
    while start < table.num_rows:
        stop = _first(done, done[start] + PART_MS)
        most = _first(done, done[start] + PART_MS * 3 // 2)
        after = changes[(changes >= stop) & (changes <= most)]
        stop = min(int(after[0]) if after.size else stop, table.num_rows)
        yield table.slice(start, stop - start)
        start = stop


def _first(done: Rows, ms: int) -> int:
    """The first row before which so many milliseconds of work lie, or as many as there are rows."""
    return min(int(np.searchsorted(done, ms)), len(done) - 1)


def _changes(table: pa.Table) -> Rows:
    """Rows that differ from the one before in what step times depend on most."""
    cells, differs = Cells(table), np.zeros(max(table.num_rows - 1, 0), dtype=bool)
    for name in ALIKE:
        codes, _ = cells.text(name)
        differs |= np.diff(codes) != 0
    return np.flatnonzero(differs) + 1


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
