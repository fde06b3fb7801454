"""The cells of an Arrow table as NumPy columns: texts as places in a list of names, numbers as float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from predictor.errors import PredictorError
from predictor.measurements.schema import EMPTY_NUMBERS
from predictor.ops.dtypes import Array
from predictor.values import show

Rows = NDArray[np.int64]
LARGEST_KEY = 2**62
T = TypeVar("T")


class Words(NamedTuple):
    """A text column: (n_rows,) places in names, of which "" is an empty cell."""

    codes: Rows
    names: list[str]


class Cells:
    """The columns of a table, each converted when first asked for; a column that is not there is empty."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._words: dict[str, Words] = {}
        self._numbers: dict[str, Array] = {}

    def text(self, name: str) -> Words:
        """A text column."""
        if name not in self._words:
            self._words[name] = _words(self._column(name))
        return self._words[name]

    def number(self, name: str) -> Array:
        """A number column, (n_rows,): not a number where a cell is empty, infinite where it holds something else."""
        if name not in self._numbers:
            self._numbers[name] = _numbers(self._column(name))
        return self._numbers[name]

    def cell(self, name: str, row: int) -> Any:
        """What the table itself holds."""
        return next(cells_of(self._column(name).slice(row, 1)))

    def groups(self, names: Sequence[str], rows: Rows) -> Iterator[tuple[tuple[str, ...], Rows]]:
        """Different values of text columns among some rows, and the rows that have them."""
        columns = [self.text(name) for name in names]
        if not rows.size:
            return
        which = unique_rows([column.codes[rows] for column in columns], len(rows))[1]
        order = np.argsort(which, kind="stable")
        for places in np.split(order, np.cumsum(np.bincount(which))[:-1]):
            yield tuple(column.names[column.codes[rows[places[0]]]] for column in columns), rows[places]

    def _column(self, name: str) -> pa.ChunkedArray:
        if name in self.table.column_names:
            return self.table[name]
        return pa.chunked_array([pa.nulls(self.table.num_rows)])


def _words(column: pa.ChunkedArray) -> Words:
    if not pa.types.is_dictionary(column.type):
        column = _texts(column).dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    names = ["" if name is None else str(name).strip() for name in whole.dictionary.to_pylist()]
    codes = whole.indices.cast(pa.int64()).fill_null(len(names))
    return Words(codes.to_numpy(zero_copy_only=False), [*names, ""])


def _texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The cells as texts; of what is no text, such as a list, what an error shows of it."""
    try:
        return column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        shown = [None if cell is None else show(cell) for cell in cells_of(column)]
        return pa.chunked_array([pa.array(shown, pa.string())])


def cells_of(column: pa.ChunkedArray) -> Iterator[Any]:
    """The cells as Python has them; a time that it has none for as Arrow shows it."""
    if not pa.types.is_temporal(column.type):
        yield from column.to_pylist()
        return
    for cell in column:
        try:
            yield cell.as_py()
        except (ValueError, OverflowError):
            yield str(cell)


def _numbers(column: pa.ChunkedArray) -> Array:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _read(pc.utf8_trim_whitespace(column))
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return np.where(column.is_null().to_numpy(), np.nan, np.inf)
    return np.asarray(column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(), dtype=np.float64)


def _read(texts: pa.ChunkedArray) -> Array:
    """Numbers that texts spell."""
    empty = pc.is_in(texts, value_set=pa.array([*EMPTY_NUMBERS, None]))
    given = pc.if_else(empty, None, texts)
    try:
        return np.asarray(given.cast(pa.float64()).fill_null(np.nan).to_numpy(), dtype=np.float64)
    except pa.ArrowInvalid:
        numbers = pd.to_numeric(given.to_pandas(), errors="coerce").to_numpy(dtype=np.float64)
        return np.where(np.isnan(numbers) & ~empty.to_numpy(), np.inf, numbers)


def halves(rows: Rows) -> Sequence[Rows]:
    """Rows in two parts, the first of which is no longer."""
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def sound_parts(
    rows: Rows,
    attempt: Callable[[Rows], T],
    refuse: Callable[[Rows, Any], None],
    errors: type[PredictorError] | tuple[type[PredictorError], ...],
    unparted: tuple[type[PredictorError], ...] = (),
    parted: Callable[[Rows], Sequence[Rows]] = halves,
) -> Iterator[T]:
    """What `attempt` returns of rows, in as few parts as it takes where it raises one of `errors` for some of them.

    refuse: told each row for which it raises, alone or, with an error of `unparted`, with others. parted: cuts rows.
    """
    try:
        result = attempt(rows)
    except errors as error:
        if len(rows) == 1 or isinstance(error, unparted):
            refuse(rows, error)
            return
    else:
        yield result
        return
    for part in parted(rows):
        yield from sound_parts(part, attempt, refuse, errors, unparted, parted)


def unique_rows(columns: Sequence[NDArray[Any]], count: int) -> tuple[Rows, Rows]:
    """Of rows given as columns: where each different one is first, and for each row which of these it equals."""
    key, size = np.zeros(count, dtype=np.int64), 1
    for values in columns:
        codes, kinds = _codes(values)
        if size * kinds > LARGEST_KEY:
            key = pd.factorize(key)[0]
            size = int(key.max()) + 1
        key, size = key * kinds + codes, size * kinds
    which, different = pd.factorize(key)
    first = np.empty(len(different), dtype=np.int64)
    first[which[::-1]] = np.arange(count)[::-1]
    return first, which


def _codes(values: NDArray[Any]) -> tuple[Rows, int]:
    """A number from 0 for each value, equal for equal ones, and one more than the largest."""
    least, most = values.min(), values.max()
    if values.dtype != np.int64:
        if least == most:
            return np.zeros(len(values), dtype=np.int64), 1
        if (values != np.floor(values)).any() or most - least >= 2**40:
            codes, different = pd.factorize(values)
            return codes, len(different)
    return (values - least).astype(np.int64), int(most - least) + 1
