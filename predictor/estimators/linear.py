"""The 2-parameter roofline, latency = c0 + c1 * bound: the baseline to beat, and one view of an estimator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from predictor.estimators.features import Features
from predictor.ops.base import one_name
from predictor.ops.dtypes import Array

if TYPE_CHECKING:
    import pandas as pd

Line = Mapping[str, tuple[float, float]]  # dtype → c0 seconds, c1; "" is for dtypes not seen


def fit_line(dtypes: NDArray[np.object_], bound_s: Array, latency_s: Array) -> Line:
    """Both parameters at least 0, least relative squares, per dtype. dtypes, bound_s, latency_s: (n_calls,)."""
    from sklearn.linear_model import LinearRegression

    def coefficients(keep: NDArray[np.bool_]) -> tuple[float, float]:
        terms = np.stack([np.ones(keep.sum()), bound_s[keep]], axis=1) / latency_s[keep, None]
        scale = terms.mean(axis=0)
        line = LinearRegression(fit_intercept=False, positive=True).fit(terms / scale, np.ones(len(terms)))
        return float(line.coef_[0] / scale[0]), float(line.coef_[1] / scale[1])

    return _by_dtype(dtypes, coefficients)


def fit_share(dtypes: NDArray[np.object_], bound_s: Array, latency_s: Array) -> Line:
    """The plainest model, latency = bound / share: as fit_line, without c0."""

    def slope(keep: NDArray[np.bool_]) -> tuple[float, float]:
        share = bound_s[keep] / latency_s[keep]
        return 0.0, float(share.sum() / (share**2).sum())

    return _by_dtype(dtypes, slope)


def _by_dtype(dtypes: NDArray[np.object_], fitted: Callable[[NDArray[np.bool_]], tuple[float, float]]) -> Line:
    """What is fitted on the rows of all dtypes, and of each. fitted: mask of rows → c0, c1."""
    every = {str(dtype): fitted(dtypes == dtype) for dtype in np.unique(dtypes.astype(str))}
    return {"": fitted(np.ones(len(dtypes), dtype=bool)), **every}


def line_s(line: Line, dtypes: NDArray[np.object_], bound_s: Array) -> Array:
    """Seconds per call, (n_calls,)."""
    if (name := one_name(dtypes)) is not None:
        floor_s, slope = line.get(name, line[""])
        return np.asarray(floor_s + slope * bound_s)
    c0, c1 = np.array([line.get(str(dtype), line[""]) for dtype in dtypes]).reshape(-1, 2).T
    return np.asarray(c0 + c1 * bound_s)


# group or its leading parts → [cycles of the floor, slope]; "" for all
Floors = Mapping[str, list[float]]

SMALL_CYCLES = 3_000.0  # nominal work below which a call is nearly all floor, which is 13,000 and more; judged
LEAST_SLOPE = 0.2  # judged
LEAST_OF_FLOOR = 0.2  # of a call, where launches beside are counted as more than it took; judged
INFLATION = 2.0  # the base takes twice the floor, so that the correction to it rises with work
FEWEST_MEDIAN_ROWS = 20  # rows that make a median; judged
LARGE = 10.0  # floors of work beyond which the slope is learned: a plateau is what the largest calls reach
UNKNOWN_SLOPE = 1.5  # where no call is large; judged
UNLIKE_GROWTH = 1.5  # times the floor of its leading parts that a group may have where groups are unlike


def fit_floors(table: Features, latency_s: Array, one_plateau: bool = True) -> Floors:
    """Floor and slope of each group, of each leading part of group names and of all calls.

    Floor: the median of small calls; where there are none the fastest tenth, but at most the floor of the leading parts
    of the name. Slope: the median of what the larger half of the large calls take beyond the floor, per nominal work;
    that of the leading parts of the name where fewer than FEWEST_MEDIAN_ROWS calls are large; of all calls, where few
    are, of those whose work exceeds the floor.

    one_plateau: whether large calls of all groups approach one rate (predictor.ops.base.Op); if not, each group has the
    slope of its own calls whose work exceeds the floor, and may have a floor of its own.
    """
    import pandas as pd

    cycles, work = (latency_s - table.beside_s) / table.tick_s, table.work_s / table.tick_s
    cycles = np.maximum(cycles, LEAST_OF_FLOOR * latency_s / table.tick_s)
    frame = pd.DataFrame({"group": table.group, "cycles": cycles, "work": work})
    names = frame["group"].unique()
    floors: dict[str, list[float]] = {}
    for depth in range(max(name.count("|") for name in names) + 2):
        frame["key"] = frame["group"].map({name: "|".join(name.split("|")[:depth]) for name in names})
        for key, rows in frame.groupby("key"):
            small = rows.loc[rows["work"] < SMALL_CYCLES, "cycles"]
            parent = floors["|".join(str(key).split("|")[: depth - 1])] if depth else [np.inf, UNKNOWN_SLOPE]
            most = parent[0] * (1.0 if one_plateau else UNLIKE_GROWTH)
            fastest = min(most, float(rows["cycles"].quantile(0.1)))
            floor = float(small.median()) if len(small) >= FEWEST_MEDIAN_ROWS else fastest
            slope = _slope(rows, floor, one_plateau, bool(depth))
            floors[str(key)] = [floor, parent[1] if slope is None else slope]
    return floors


def _slope(rows: pd.DataFrame, floor: float, one_plateau: bool, has_parent: bool) -> float | None:
    """What large calls take beyond the floor, per nominal work; None where few are large."""
    large = rows[rows["work"] > LARGE * floor]
    if one_plateau and len(large) >= FEWEST_MEDIAN_ROWS:
        large = large[large["work"] >= large["work"].median()]
    elif not (one_plateau and has_parent):
        large = rows[rows["work"] > floor]
    if len(large) < FEWEST_MEDIAN_ROWS:
        return None
    return float(((large["cycles"] - floor) / large["work"]).clip(lower=LEAST_SLOPE).median())


def core_s(table: Features, floors: Floors) -> Array:
    """Seconds of floor plus slope times work, (n_calls,)."""
    floor, slope = _found(table, floors)
    return np.asarray(floor * table.tick_s + table.beside_s + slope * table.work_s)


def inputs(table: Features, floors: Floors) -> tuple[NDArray[np.float32], Array]:
    """What the trees see and what they correct: values with times in units of the floor, and the base in seconds."""
    floor = _found(table, floors)[0] * table.tick_s + table.beside_s
    values = table.values.copy()
    values[:, : table.times] -= np.log(floor)[:, None].astype(np.float32)
    return values, INFLATION * floor + table.work_s


def _found(table: Features, floors: Floors) -> Array:
    """Floor cycles and slope of each call, (2, n_calls); a group never seen takes those of its leading parts."""
    if (name := one_name(table.group)) is not None:
        return np.broadcast_to(np.array(_lookup(name, floors), dtype=np.float64)[:, None], (2, len(table.group)))
    groups = table.group.tolist()
    known = {name: _lookup(name, floors) for name in set(groups)}
    return np.array([known[name] for name in groups], dtype=np.float64).T


def _lookup(name: str, floors: Floors) -> list[float]:
    parts = name.split("|")
    for depth in range(len(parts), 0, -1):
        key = "|".join(parts[:depth])
        if key in floors:
            return floors[key]
    return floors[""]
