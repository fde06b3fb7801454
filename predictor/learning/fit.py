"""Fit one estimator to measured rows.

Both targets are log(latency / base). Transfer trees: features that can only rise with a worse GPU get monotone
constraints and the base rises with them. Squared error keeps the constraints; absolute error does not (XGBoost re-fits
its leaves). Reference trees see token counts and the GPU's name too, without constraints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from predictor.estimators.estimator import Estimator, reference_values
from predictor.estimators.features import Features
from predictor.estimators.linear import fit_floors, fit_line, inputs
from predictor.estimators.mixture import EQUAL
from predictor.estimators.samples import TrainingSet
from predictor.learning.recipe import Recipe
from predictor.learning.sampling import balanced_rows
from predictor.ops.dtypes import Array

if TYPE_CHECKING:
    import xgboost


def fit(rows: TrainingSet, recipe: Recipe) -> Estimator:
    """Learn line and floors, then boost both sets of trees, from as many rows as the recipe draws.

    The views all count the same until weights are chosen on held-out rows.
    """
    rows = rows.take(balanced_rows(rows.who, recipe.rows_per_estimator, recipe.seed))
    table, latency_s, gpus = rows.table, rows.latency_s, rows.gpus
    floors = fit_floors(table, latency_s, rows.one_plateau)
    values, base = inputs(table, floors)
    target = np.log(latency_s / base)
    transfer = boost(values, target, recipe, **transfer_settings(table, recipe))
    names = sorted(set(gpus.tolist()))
    seen = reference_values(values, table.tokens, gpus, names)
    reference = boost(seen, target, recipe, **reference_settings(recipe))
    references = {name: frozenset(np.unique(table.group[gpus == name].astype(str)).tolist()) for name in names}
    line = fit_line(rows.who["dtype"].to_numpy(), rows.bound_s, latency_s)
    return Estimator(transfer, reference, floors, line, references, EQUAL, table.names, rows.estimator)


def transfer_settings(table: Features, recipe: Recipe) -> dict[str, Any]:
    """Rounds and parameters of the transfer trees."""
    constraints = (1,) * table.times + (0,) * (len(table.names) - table.times)
    return {
        "rounds": recipe.transfer_rounds,
        "max_depth": recipe.transfer_depth,
        "learning_rate": recipe.transfer_rate,
        "monotone_constraints": "(" + ",".join(map(str, constraints)) + ")",
    }


def reference_settings(recipe: Recipe) -> dict[str, Any]:
    """Rounds and parameters of the reference trees."""
    return {
        "rounds": recipe.reference_rounds,
        "max_depth": recipe.reference_depth,
        "learning_rate": recipe.reference_rate,
    }


def boost(
    values: NDArray[np.float32],
    target: Array,
    recipe: Recipe,
    rounds: int,
    started: xgboost.Booster | None = None,
    **parameters: Any,
) -> xgboost.Booster:
    """Trees that say `target` of each row of `values`: `rounds` new ones, after those of `started` if it is given.

    What is started from goes through bytes: a booster in memory would be continued without its seed being set anew.
    """
    import xgboost

    bins = 512
    data = xgboost.QuantileDMatrix(values, label=target, max_bin=bins)
    common = {
        "objective": "reg:squarederror",
        "tree_method": "hist",
        "max_bin": bins,
        "subsample": recipe.subsample,
        "colsample_bytree": recipe.colsample,
        "min_child_weight": recipe.min_child_weight,
        "seed": recipe.seed,
        "nthread": 1,
        **({} if started else {"base_score": float(np.median(target))}),
    }
    earlier = started.save_raw("ubj") if started else None
    return xgboost.train({**common, **parameters}, data, num_boost_round=rounds, xgb_model=earlier)
