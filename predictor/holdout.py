"""What an estimator does on GPUs it never saw: whole generations, or whole GPUs, held out in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from predictor.dataset import TrainingSet, balanced_rows
from predictor.estimator import Recipe, fit
from predictor.ops.dtypes import Array

Roofline2 = Mapping[str, tuple[float, float]]  # dtype → c0 seconds, c1; "" is for dtypes not seen


def fit_balanced(rows: TrainingSet, recipe: Recipe) -> Callable[[TrainingSet], Array]:
    """Fit on a balanced draw of rows; returns latency_s of any set, never below its bound."""
    drawn = rows.take(balanced_rows(rows.who, recipe.rows_per_estimator, recipe.seed))
    estimator = fit(drawn.table, drawn.latency_s, recipe)
    return lambda asked: np.maximum(estimator.latency_s(asked.table, recipe.trust_unseen), asked.bound_s)


def fit_roofline2(rows: TrainingSet) -> Roofline2:
    """The baseline latency = c0 + c1 * bound, both at least 0, least relative squares, per dtype."""
    from sklearn.linear_model import LinearRegression

    drawn = rows.take(balanced_rows(rows.who, 100_000, 0))

    def coefficients(keep: Array) -> tuple[float, float]:
        terms = np.stack([np.ones(keep.sum()), drawn.bound_s[keep]], axis=1) / drawn.latency_s[keep, None]
        scale = terms.mean(axis=0)
        line = LinearRegression(fit_intercept=False, positive=True).fit(terms / scale, np.ones(len(terms)))
        return float(line.coef_[0] / scale[0]), float(line.coef_[1] / scale[1])

    dtypes = drawn.who["dtype"].to_numpy()
    every = {str(dtype): coefficients(dtypes == dtype) for dtype in np.unique(dtypes)}
    return {"": coefficients(np.ones(len(dtypes), dtype=bool)), **every}


def roofline2_latency(line: Roofline2, asked: TrainingSet) -> Array:
    """Latency of the 2-parameter roofline, (n_calls,) seconds."""
    pairs = [line.get(dtype, line[""]) for dtype in asked.who["dtype"]]
    c0, c1 = np.array(pairs).T
    return np.asarray(c0 + c1 * asked.bound_s)


def held_out(rows: TrainingSet, recipe: Recipe, by: str = "generation") -> pd.DataFrame:
    """Every row predicted by estimators that saw no row of its generation (or its GPU, by="gpu").

    Returns rows.who with latency_s, predicted_s, bound_s and roofline2_s; rows whose group is the only one are
    left out, for there is nothing to learn from.
    """
    from joblib import Parallel, delayed

    groups = sorted(rows.who[by].unique())
    if len(groups) < 2:
        return pd.DataFrame()
    # Every fit has one thread: fits in parallel fill the cores without waiting for each other.
    held: list[pd.DataFrame] = Parallel(n_jobs=-1)(delayed(_score)(rows, by, group, recipe) for group in groups)
    return pd.concat(held, ignore_index=True)


def _score(rows: TrainingSet, by: str, group: str, recipe: Recipe) -> pd.DataFrame:
    """The rows of one group, predicted from all others."""
    out = (rows.who[by] == group).to_numpy()
    known, asked = rows.take(~out), rows.take(out)
    return asked.who.assign(
        latency_s=asked.latency_s,
        predicted_s=fit_balanced(known, recipe)(asked),
        bound_s=asked.bound_s,
        roofline2_s=roofline2_latency(fit_roofline2(known), asked),
    )
