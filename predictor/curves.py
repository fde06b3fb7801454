"""How trees learned: the error of log latency after so many rounds, on rows they were fitted to and on others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.dataset import TrainingSet, balanced_rows
from predictor.estimator import Estimator, reference_values
from predictor.floors import inputs
from predictor.ops.dtypes import Array

TREES = ("transfer", "reference")
POINTS = 30  # of a curve, dense at its start
MOST_ROWS = 5_000
COLUMNS = ["trees", "rows", "round", "rmse"]


def learning_curves(
    estimator: Estimator, rows: Mapping[str, TrainingSet], trees: tuple[str, ...] = TREES
) -> pd.DataFrame:
    """Root mean square error of log latency by round from 1, for sets of rows by name.

    Columns: trees (transfer, reference), rows (the name), round, rmse. Of many rows some are drawn, with equal weight
    per generation, then GPU.
    """
    lines = []
    for name, every in rows.items():
        some = every.take(balanced_rows(every.who, MOST_ROWS, seed=0))
        if not len(some.who):
            continue
        values, target = seen_by_trees(estimator, some)
        for which in trees:
            booster = getattr(estimator, which)
            for rounds in _points(booster.num_boosted_rounds()):
                said = booster.inplace_predict(values[which], iteration_range=(0, rounds), validate_features=False)
                lines.append((which, name, rounds, float(np.sqrt(np.mean((said - target) ** 2)))))
    return pd.DataFrame(lines, columns=COLUMNS)


def seen_by_trees(estimator: Estimator, rows: TrainingSet) -> tuple[Mapping[str, NDArray[np.float32]], Array]:
    """What each set of trees sees of the rows, (n_rows, n_features), and what both were fitted to say, (n_rows,)."""
    values, base = inputs(rows.table, estimator.floors)
    known = reference_values(values, rows.table.tokens, rows.gpus, list(estimator.references))
    return {"transfer": values, "reference": known}, np.log(rows.latency_s / base)


def _points(rounds: int) -> list[int]:
    return sorted(set(np.geomspace(1, rounds, POINTS).round().astype(int).tolist()))
