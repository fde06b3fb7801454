"""More tokens are never faster: an estimate is asked at knots of the token counts, raised to the highest of all
smaller knots, and interpolated between them.

Trees that may bend freely fit measured GPUs two to three times better than trees held monotone, but now and then they
predict less for more (training/EXPERIMENTS.md). The rising envelope over knots repairs that, whatever the estimate is.
Knots of calls that differ in tokens only are shared, and remembered: a table of many such calls costs little more than
the interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.estimators.features import Setting
from predictor.ops import Op
from predictor.ops.base import TEXT_FIELDS, column, names_of
from predictor.ops.dtypes import Array

Estimate = Callable[[Op, Setting], Array]

MOST_CELLS = 2**21  # numbers that knots of one estimator may hold: 16 MiB
OCTAVES = 55  # a token count is at most 2**53, and has a knot above it
EVERY = 2.0 ** np.arange(OCTAVES)
HALVES = np.unique([count for count in np.concatenate([EVERY, 1.5 * EVERY]) if count == int(count)])
# Where a grid of several counts is asked, knots are sparse; only past tokens may be none.
KNOTS = {"batch": EVERY, "kv_len": EVERY, "past": np.concatenate([[0.0], EVERY[4:]])}


MOST_ASKED = 2**14  # cells that are asked at once; features and their parts take a KB of each
FEW_CELLS = 2**11  # of the same texts: below, asking for them apart costs more than looking at the texts of each cell


class Knots:
    """What an estimate said at knots, by GPU and kind of call: it is asked again where a call lies beyond them only."""

    __slots__ = ("cells", "tables")

    def __init__(self) -> None:
        self.tables: dict[tuple[Any, ...], Array] = {}
        self.cells = 0

    def keep(self, key: tuple[Any, ...], table: Array) -> None:
        """Remember a table; all are forgotten where they would fill too much memory."""
        self.cells += table.size - self.tables[key].size if key in self.tables else table.size
        if self.cells > MOST_CELLS:
            self.tables, self.cells = {}, table.size
        self.tables[key] = table


def rising(op: Op, setting: Setting, log_latency: Estimate, knots: Knots | None = None, whose: Any = None) -> Array:
    """log_latency(op, setting), (n_calls,), made to never fall when a token count of a call rises.

    knots: what log_latency said before of `whose`, such as a GPU.
    """
    counts = {name: column(count, len(op)) for name, count in op.token_counts().items()}
    axes = [KNOTS.get(name, HALVES) for name in counts]
    low = np.stack(
        [np.searchsorted(k, c, side="right") - 1 for k, c in zip(axes, counts.values(), strict=True)], axis=1
    )
    shares = [
        np.log((1 + c) / (1 + k[i])) / np.log((1 + k[i + 1]) / (1 + k[i]))
        for k, c, i in zip(axes, counts.values(), low.T, strict=True)
    ]
    share = np.stack(shares, axis=1)
    tops = low + (share > 0)  # the last knot that each call is read from
    first, members = np.unique(_kinds(op, setting), return_index=True, return_inverse=True)[1:]
    one_each, whom = op.take(first), setting.take(first)
    knots = knots or Knots()
    keys = _keys(one_each, whom, whose)
    tables = [knots.tables.get(key, np.empty((0,) * len(counts))) for key in keys]
    short = np.zeros(len(first), dtype=np.bool_)
    short[members[~_known(tables, members, tops)]] = True
    if (rows := np.flatnonzero(short)).size:
        shapes = np.array([table.shape for table in tables])
        np.maximum.at(shapes, members, tops + 1)
        knots_of = dict(zip(counts, axes, strict=True))
        for some in _pieces(rows, shapes[rows].prod(axis=1), _texts(one_each, whom)[rows]):
            place = np.full(len(first), -1)
            place[some] = np.arange(len(some))
            calls = np.flatnonzero(place[members] >= 0)
            grids = _Grids(shapes[some], [tables[row] for row in some.tolist()], place[members[calls]], tops[calls])
            made = _tables(one_each.take(some), whom.take(some), grids, knots_of, log_latency)
            for row, table in zip(some.tolist(), made, strict=True):
                tables[row] = table
                knots.keep(keys[row], table)
    return _interpolate(tables, members, low, share)


def _joined(tables: Sequence[Array]) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """The values of all tables one after another, their shapes and where each begins."""
    shapes = np.array([table.shape for table in tables])
    starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])[:-1]
    return np.concatenate([table.ravel() for table in tables]), shapes, starts


def _known(tables: Sequence[Array], members: NDArray[np.int64], tops: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the table of each call has its last knot, and so all smaller ones, (n_calls,)."""
    values, shapes, starts = _joined(tables)
    known = np.asarray((tops < shapes[members]).all(axis=1))
    whose = members[known]
    known[known] = ~np.isnan(values[starts[whose] + _flat(tops[known], shapes[whose])])
    return known


def _pieces(rows: NDArray[np.int64], sizes: NDArray[np.int64], texts: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """The rows, whose tables have `sizes` cells, in pieces to ask at once: of the same texts where that pays."""
    texts = np.where(np.bincount(texts, weights=sizes)[texts] < FEW_CELLS, -1, texts)
    order = np.argsort(texts, kind="stable")
    full = np.diff(np.cumsum(sizes[order]) // MOST_ASKED) > 0
    return np.split(rows[order], np.flatnonzero(full | (np.diff(texts[order]) > 0)) + 1)


def _texts(op: Op, setting: Setting) -> NDArray[np.int64]:
    """A number per call, equal for calls whose text fields and setting are the same."""
    own = [getattr(op, name) for name in names_of(type(op)) if name in TEXT_FIELDS]
    return _numbered([names for names in (*own, *setting) if not isinstance(names, str)], len(op))


def _plain(names: Any) -> Any:
    """One name in place of names that are all the same."""
    if isinstance(names, str) or len(set(names.tolist())) != 1:
        return names
    return str(names[0])


class _Grids(NamedTuple):
    """Knots of some kinds of calls. shapes: of their tables, (n_kinds, n_axes). had: what is known of each. members,
    tops: the kind of each call and the last knot it is read from, (n_calls,) and (n_calls, n_axes)."""

    shapes: NDArray[np.int64]
    had: Sequence[Array]
    members: NDArray[np.int64]
    tops: NDArray[np.int64]


def _tables(op: Op, setting: Setting, grids: _Grids, axes: dict[str, Array], log_latency: Estimate) -> list[Array]:
    """Rising values of one kind of call each at its first knots. Those from which no call is read, nor is any larger
    knot, are not asked for: not a number."""
    op = replace(op, **{name: _plain(getattr(op, name)) for name in names_of(type(op)) if name in TEXT_FIELDS})
    setting = Setting(*map(_plain, setting))
    shapes = grids.shapes
    tables = [np.full(shape, np.nan) for shape in shapes.tolist()]
    for table, had in zip(tables, grids.had, strict=True):
        table[tuple(map(slice, had.shape))] = had
    logs, _, starts = _joined(tables)
    wanted = np.zeros(len(logs), dtype=np.bool_)
    wanted[starts[grids.members] + _flat(grids.tops, shapes[grids.members])] = True
    alike = _numbered(list(shapes.T), len(shapes))
    of_shape = [
        (rows, starts[rows, None] + np.arange(shapes[rows[0]].prod()))
        for rows in np.split(np.argsort(alike, kind="stable"), np.cumsum(np.bincount(alike))[:-1])
    ]
    for rows, cells in of_shape:
        wanted[cells] = _all_smaller(wanted[cells].reshape(-1, *shapes[rows[0]])).reshape(cells.shape)
    asked = np.flatnonzero(wanted & np.isnan(logs))
    owner = np.searchsorted(starts, asked, side="right") - 1
    grid = _unravel(asked - starts[owner], shapes[owner])
    counts = {name: knots[grid[:, i]] for i, (name, knots) in enumerate(axes.items())}
    logs[asked] = log_latency(op.take(owner).with_token_counts(counts), setting.take(owner))
    for rows, cells in of_shape:
        for row, table in zip(rows.tolist(), _risen(logs[cells].reshape(-1, *shapes[rows[0]])), strict=True):
            tables[row] = table
    return tables


def _all_smaller(marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Each table of marks with those at all positions smaller than or equal to one that is marked."""
    for axis in range(1, marks.ndim):
        marks = np.flip(np.logical_or.accumulate(np.flip(marks, axis), axis=axis), axis)
    return marks


def _risen(tables: Array) -> Array:
    """Each value of each table raised to the largest value of that table at smaller or equal positions."""
    for axis in range(1, tables.ndim):
        tables = np.maximum.accumulate(tables, axis=axis)
    return tables


def _keys(op: Op, setting: Setting, whose: Any) -> list[tuple[Any, ...]]:
    """What tells kinds of calls apart, one key per call."""
    plain = op.with_token_counts({name: np.ones(len(op)) for name in op.token_counts()})
    values = [whose, *(getattr(plain, field.name) for field in fields(plain)), *setting]
    lists = [value.tolist() if np.ndim(value) else [value] * len(op) for value in values]
    return list(zip(*lists, strict=True))


def _kinds(op: Op, setting: Setting) -> NDArray[np.int64]:
    """A number per call, equal for calls that differ in token counts only."""
    plain = op.with_token_counts({name: np.ones(len(op)) for name in op.token_counts()})
    columns = [value for value in (*(getattr(plain, f.name) for f in fields(plain)), *setting) if np.ndim(value)]
    return _numbered(columns, len(op))


def _numbered(columns: Sequence[NDArray[Any]], calls: int) -> NDArray[np.int64]:
    """A number per call, equal for calls that are equal in all columns, each (n_calls,)."""
    kind = np.zeros(calls, dtype=np.int64)
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


def _flat(grid: NDArray[np.int64], shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flat index of each grid position in a grid of its own shape, last axis fastest, (n,)."""
    flat = np.zeros(len(grid), dtype=np.int64)
    for axis in range(grid.shape[1]):
        flat = flat * shapes[:, axis] + grid[:, axis]
    return flat


def _unravel(flat: NDArray[np.int64], shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Grid position of each flat index in a grid of its own shape, last axis fastest, (n, n_axes)."""
    out = np.empty_like(shapes)
    for axis in range(shapes.shape[1] - 1, -1, -1):
        flat, out[:, axis] = np.divmod(flat, shapes[:, axis])
    return out


def _interpolate(tables: Sequence[Array], members: NDArray[np.int64], low: NDArray[np.int64], share: Array) -> Array:
    """Multilinear between the knots around each call; the weights are those of its token counts alone."""
    values, shapes, starts = _joined(tables)
    shapes, starts = shapes[members], starts[members]
    total = np.zeros(len(low))
    for corner in np.ndindex(*(2,) * low.shape[1]):
        weight = np.ones(len(low))
        for axis, up in enumerate(corner):
            weight = weight * (share[:, axis] if up else 1 - share[:, axis])
        total += weight * values[starts + _flat(low + (np.array(corner, dtype=np.bool_) & (share > 0)), shapes)]
    return total
