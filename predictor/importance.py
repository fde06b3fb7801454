"""What the trees of an estimator look at: share of the gain of their splits, and SHAP values by XGBoost itself.

Lundberg et al., From local explanations to global understanding with explainable AI for trees, 2020.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from predictor.curves import TREES, seen_by_trees
from predictor.dataset import TrainingSet, balanced_rows
from predictor.estimator import Estimator

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
        found = booster.predict(xgboost.DMatrix(values[which]), pred_contribs=True)[:, :-1]  # the last is the base
        gains = booster.get_score(importance_type="total_gain")
        gain = pd.Series([gains.get(f"f{i}", 0.0) for i in range(len(names))]).groupby(names).sum()
        shap = pd.DataFrame(found.T).groupby(names).sum().abs().mean(axis=1)
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
