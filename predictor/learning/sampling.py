"""Which measured rows an estimator learns from, and how much each counts."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

CELL = ["family", "phase", "gpu", "dtype", "engine"]


def thin(frame: pd.DataFrame, rows_per_cell: int, seed: int) -> pd.DataFrame:
    """At most rows_per_cell rows of every family x phase x GPU x dtype x engine, drawn with a fixed seed."""
    return frame[drawn_per_cell(frame, rows_per_cell, seed)]


def drawn_per_cell(frame: pd.DataFrame, rows_per_cell: int, seed: int) -> np.ndarray[Any, Any]:
    """Mask of the rows that thin keeps, (n_rows,)."""
    order = np.random.default_rng(seed).permutation(len(frame))
    rank = np.empty(len(frame), dtype=np.int64)
    rank[order] = frame.iloc[order].groupby(CELL, observed=True).cumcount().to_numpy()
    return rank < rows_per_cell


ENOUGH_OF_VERSION = 0.1  # of the rows of the version that has most; of fewer it may have been a trial; judged


def newest_versions(frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Mask of the rows of the newest version of each engine, per family, phase, GPU and number formats, (n_rows,).

    An engine gets faster, and picks other kernels, from version to version: a GPU that was measured with four of them
    would have four times for one call. A version of a few rows replaces none.
    """
    cell = ["source", *CELL, "kv_dtype"]
    number = frame.groupby([*cell, "engine_version"], observed=True, dropna=False, sort=False).ngroup().to_numpy()
    _, first, rows = np.unique(number, return_index=True, return_counts=True)
    table = frame.iloc[first][[*cell, "engine_version"]].astype(str).assign(rows=rows).reset_index(drop=True)
    most = table.groupby(cell)["rows"].transform("max")
    whole = table[table["rows"] >= ENOUGH_OF_VERSION * most]
    order = whole["engine_version"].map(_release)
    newest = whole.assign(order=order).sort_values("order").drop_duplicates(cell, keep="last").index
    return np.isin(number, newest)


def _release(version: str) -> tuple[float, ...]:
    """A version as numbers that sort by time.

    >>> _release("1.3.0rc10") < _release("1.3.0rc20") < _release("1.3.0") < _release("1.10.0")
    True
    """
    number, *build = re.split(r"rc|\.?dev", version.split("+")[0], maxsplit=1)
    parts = [*map(float, re.findall(r"\d+", number)), 0.0, 0.0, 0.0][:3]
    return (*parts, float("".join(re.findall(r"^\d+", build[0]))) if build else np.inf)


def balanced_weights(who: pd.DataFrame, rows: str = "") -> pd.Series:
    """Weight of each row: equal per generation, then GPU, then cell of engine and dtype.

    rows: column that says how many rows a row stands for; by default one.
    """
    cell = ["generation", "gpu", "engine", "dtype"]
    group = who.groupby(cell)
    weight = who[rows] / group[rows].transform("sum") if rows else 1.0 / group["gpu"].transform("size")
    cells = who.drop_duplicates(cell)
    weight /= who["gpu"].map(cells.groupby("gpu").size())
    weight /= who["generation"].map(cells.drop_duplicates("gpu").groupby("generation").size())
    return weight


def balanced_rows(who: pd.DataFrame, count: int, seed: int) -> np.ndarray[Any, Any]:
    """Positions of `count` rows (or fewer), drawn by balanced_weights.

    Cells with few rows are drawn whole and not repeated.
    """
    if len(who) <= count:
        return np.arange(len(who))
    weight = balanced_weights(who)
    chance = (weight / weight.sum()).to_numpy()
    # Efraimidis & Spirakis 2006: weighted sampling without replacement by the largest u^(1/w).
    keys = np.log(np.random.default_rng(seed).random(len(who))) / chance
    return np.sort(np.argpartition(keys, -count)[-count:])
