"""How trees learned: the error of log latency after so many rounds, on rows they were fitted to and on others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.estimators.estimator import Estimator, reference_values
from predictor.estimators.linear import inputs
from predictor.estimators.samples import TrainingSet
from predictor.learning.sampling import balanced_rows
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
                predicted = booster.inplace_predict(values[which], iteration_range=(0, rounds), validate_features=False)
                lines.append((which, name, rounds, float(np.sqrt(np.mean((predicted - target) ** 2)))))
    return pd.DataFrame(lines, columns=COLUMNS)


def seen_by_trees(estimator: Estimator, rows: TrainingSet) -> tuple[Mapping[str, NDArray[np.float32]], Array]:
    """What each set of trees sees of the rows, (n_rows, n_features), and what both were fitted to say, (n_rows,)."""
    values, base = inputs(rows.table, estimator.floors)
    known = reference_values(values, rows.table.tokens, rows.gpus, list(estimator.references))
    return {"transfer": values, "reference": known}, np.log(rows.latency_s / base)


def _points(rounds: int) -> list[int]:
    return sorted(set(np.geomspace(1, rounds, POINTS).round().astype(int).tolist()))


ROWS = 100  # that are explained: deep trees take a twentieth of a second each
GPU_NAME = "which GPU"


def importance(estimator: Estimator, rows: TrainingSet) -> pd.DataFrame:
    """Columns: trees (transfer, reference), feature, gain, shap; the most important by SHAP first.

    gain: share of the total gain. shap: mean absolute contribution to log latency on rows drawn with equal weight per
    generation, then GPU. The columns that name a GPU count as one feature.
    """
    import xgboost

    some = rows.take(balanced_rows(rows.who, ROWS, seed=0))
    values, _ = seen_by_trees(estimator, some)
    parts = []
    for which in TREES:
        booster, names = getattr(estimator, which), _names(estimator, some, which)
        contributions = booster.predict(xgboost.DMatrix(values[which]), pred_contribs=True)[
            :, :-1
        ]  # the last is the base
        gains = booster.get_score(importance_type="total_gain")
        gain = pd.Series([gains.get(f"f{i}", 0.0) for i in range(len(names))]).groupby(names).sum()
        shap = pd.DataFrame(contributions.T).groupby(names).sum().abs().mean(axis=1)
        part = pd.DataFrame({"trees": which, "gain": gain / max(float(gain.sum()), 1e-12), "shap": shap})
        parts.append(part.rename_axis("feature").reset_index().sort_values("shap", ascending=False, kind="stable"))
    return pd.concat(parts, ignore_index=True)


def _names(estimator: Estimator, rows: TrainingSet, which: str) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """Of the columns that a set of trees sees."""
    names = list(rows.table.names)
    if which == "reference":
        op, _ = rows.calls(np.arange(len(rows.who)))
        counts = dict.fromkeys((*op.token_counts(), "kv_len"))
        names += [*(f"{name} (count)" for name in counts), *(GPU_NAME for _ in estimator.references)]
    return np.array(names, dtype=object)
