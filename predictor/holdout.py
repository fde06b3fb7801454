"""What an estimator does on GPUs it never saw: whole generations, or whole GPUs, held out in turn."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from predictor.dataset import TrainingSet, balanced_rows
from predictor.estimator import Recipe, fit
from predictor.ops.dtypes import Array

# How far the trees are trusted against the core on GPUs they have not seen; picked by held-out error.
TRUSTS = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0)

Roofline2 = Mapping[str, tuple[float, float]]  # dtype → c0 seconds, c1; "" is for dtypes not seen


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


def held_out(rows: TrainingSet, recipe: Recipe, by: str = "generation") -> tuple[pd.DataFrame, float]:
    """Every row predicted by estimators that saw no row of its generation (or its GPU, by="gpu").

    Returns rows.who with latency_s, predicted_s, bound_s and roofline2_s, and the trust in the trees that serves
    unseen groups best. The trust of each group is the one that serves the other groups best: its own rows have no
    say. A single group leaves nothing to learn from: no rows, trust 1.
    """
    from joblib import Parallel, delayed

    groups = sorted(rows.who[by].unique())
    if len(groups) < 2:
        return pd.DataFrame(), 1.0
    # Every fit has one thread: fits in parallel fill the cores without waiting for each other.
    found: list[pd.DataFrame] = Parallel(n_jobs=-1)(delayed(_score)(rows, by, group, recipe) for group in groups)
    every = pd.concat(found, ignore_index=True)
    for group in groups:
        own = every[by] == group
        every.loc[own, "predicted_s"] = every.loc[own, _column(best_trust(every[~own]))]
    return every.drop(columns=[_column(trust) for trust in TRUSTS]), best_trust(every)


def best_trust(scored: pd.DataFrame) -> float:
    """The trust with the least mean error over GPU x engine x dtype cells."""

    def error(trust: float) -> float:
        relative = (scored[_column(trust)] / scored["latency_s"] - 1).abs()
        return float(relative.groupby([scored["gpu"], scored["engine"], scored["dtype"]]).mean().mean())

    return min(TRUSTS, key=error)


def _column(trust: float) -> str:
    return f"trust_{trust}"


def _score(rows: TrainingSet, by: str, group: str, recipe: Recipe) -> pd.DataFrame:
    """The rows of one group, predicted from all others at every trust."""
    out = (rows.who[by] == group).to_numpy()
    known, asked = rows.take(~out), rows.take(out)
    drawn = known.take(balanced_rows(known.who, recipe.rows_per_estimator, recipe.seed))
    estimator = fit(drawn.table, drawn.latency_s, recipe)
    predictions = {
        _column(trust): np.maximum(estimator.latency_s(asked.table, trust), asked.bound_s) for trust in TRUSTS
    }
    return asked.who.assign(
        latency_s=asked.latency_s,
        predicted_s=0.0,
        bound_s=asked.bound_s,
        roofline2_s=roofline2_latency(fit_roofline2(known), asked),
        **predictions,
    )
