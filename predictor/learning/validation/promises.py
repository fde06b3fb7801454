"""How often promises are kept that are said to be kept, and how often the faster GPU is the one that is said to be.

What `predictor plan` and `predictor compare` say as a probability is put to the rows that others measured: of each
served configuration, promises of its first token and of its tokens are drawn around what is predicted; of each question
that was measured on several GPUs, every pair of them is one that might be asked about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from predictor.latency.report import Interval
from predictor.learning.validation.replay import records
from predictor.planning.service import p_below, p_less

if TYPE_CHECKING:
    import pandas as pd

PROMISED = {"ttft_s": (0.2, 0.6), "tpot_s": (0.1, 0.3)}  # log of a promise over what is predicted: mean and spread
DRAWS, SEED = 10, 0
TIMES = ("tpot_s", "ttft_s", "e2e_s", "step_s")  # by which pairs are put
RATES = ("tokens_per_s", "samples_per_s")
PLACE = frozenset({"gpu", "n_gpus", "link", "node_link", "engine_version"})  # columns of where, not of what
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


class Kept(NamedTuple):
    """Cases of a table that were said to come true with about this probability: what was said, and what share did."""

    table: str
    cases: int
    said: float
    happened: float


def promises(rows: pd.DataFrame, level: float) -> list[Kept]:
    """By table and probability.

    rows: of `predictor validate --out`, those that chose no constant. level: of intervals.
    """
    random = np.random.default_rng(SEED)
    cases: list[tuple[str, float, bool]] = []
    for (table, _), group in rows[rows["metric"].isin(list(PROMISED))].groupby(["table", "request"], sort=True):
        figures = {row["metric"]: row for row in records(group)}
        if not figures.keys() >= PROMISED.keys():
            continue
        for _ in range(DRAWS):
            said, kept = 1.0, True
            for name, (mean, spread) in PROMISED.items():
                row = figures[name]
                limit = row["predicted"] * float(np.exp(random.normal(mean, spread)))
                said *= p_below(_interval(row), limit, level)
                kept &= row["measured"] <= limit
            cases.append((str(table), said, kept))
    return list(_bins(cases))


def wins(rows: pd.DataFrame, level: float) -> list[Kept]:
    """By table and probability: of pairs of GPUs that did the same, whether the one that is said to be faster was."""
    cases: list[tuple[str, float, bool]] = []
    timed = rows[rows["metric"].isin([*TIMES, *RATES]) & rows["request"].astype(bool)]
    asked = [_question(text) for text in timed["request"]]
    for (table, *_), group in timed.assign(asked=asked).groupby(["table", "metric", "asked"], sort=True):
        for one, two in combinations(records(group), 2):
            if one["gpu"] == two["gpu"]:
                continue
            said = p_less(_interval(one), _interval(two), level)
            less = one["measured"] < two["measured"]
            # The order of a pair means nothing, so the surer of both sayings is judged.
            cases.append((str(table), max(said, 1 - said), less == (said >= 0.5)))
    return list(_bins(cases))


def _question(text: Any) -> str:
    """What a request asks, wherever it runs."""
    try:
        columns = json.loads(text)
    except (TypeError, ValueError):
        return str(text)
    return json.dumps({name: value for name, value in columns.items() if name not in PLACE}, sort_keys=True)


def _interval(row: dict[str, Any]) -> Interval:
    return Interval(*(float(row[name]) for name in ("predicted", "low", "high")))


def _bins(cases: list[tuple[str, float, bool]]) -> Iterator[Kept]:
    for table in dict.fromkeys(case[0] for case in cases):
        own = [case[1:] for case in cases if case[0] == table]
        said, happened = (np.array(column, dtype=float) for column in zip(*own, strict=True))
        for low, high in pairwise(BINS):
            within = (said >= low) & ((said < high) | (high == BINS[-1]))
            if within.any():
                yield Kept(table, int(within.sum()), float(said[within].mean()), float(happened[within].mean()))
