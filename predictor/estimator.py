"""One estimator: gradient-boosted trees that correct a physical estimate, monotone where physics is.

The target is log(latency / base). Features that can only rise with more tokens or a worse GPU get monotone
constraints and the base rises with them, so that a prediction never falls when tokens are added or the GPU gets
worse. Squared error keeps the constraints; absolute error does not (XGBoost re-fits its leaves).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.errors import InvalidRequest
from predictor.features import Features
from predictor.floors import Floors, core_s, fit_floors, inputs
from predictor.ops.dtypes import Array

if TYPE_CHECKING:
    import xgboost


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a training run makes, apart from the data.

    rows_per_cell: rows kept per family x GPU x engine x dtype. rows_per_estimator: rows drawn for one fit, with
    equal weight per generation, then GPU, then engine and dtype. level: coverage asked of the intervals.
    """

    id: str = "base-1"
    seed: int = 0
    rows_per_cell: int = 12_000
    rows_per_estimator: int = 150_000
    rounds: int = 400
    max_depth: int = 6
    learning_rate: float = 0.06
    subsample: float = 0.7
    colsample_bytree: float = 0.6
    min_child_weight: float = 10.0
    max_bin: int = 256
    level: float = 0.8


def read_recipe(path: Path | str) -> Recipe:
    """A recipe from a TOML file; unknown keys and wrong types raise."""
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"recipe {path} cannot be read ({error}); give a TOML file of recipe keys.") from None
    known = {f.name: f.default for f in fields(Recipe)}
    for key, value in values.items():
        if key not in known:
            raise InvalidRequest(f"recipe {path} has unknown key {key}; known ones: {', '.join(known)}.")
        if isinstance(known[key], float) and type(value) is int:
            values[key] = float(value)
        elif type(value) is not type(known[key]):
            wanted = type(known[key]).__name__
            raise InvalidRequest(f"recipe {path}: {key} is {value!r}; it must be of type {wanted}.")
    return Recipe(**values)


@dataclass(frozen=True, slots=True)
class Estimator:
    """A fitted booster and the launch floors its inputs are measured in."""

    booster: xgboost.Booster
    floors: Floors

    def latency_s(self, table: Features, trust: Array | float) -> Array:
        """Predicted seconds per call, (n_calls,); the caller holds it above the bound.

        trust: 1 takes the trees' word, 0 that of the core; between them, the geometric mean with that weight.
        """
        values, base = inputs(table, self.floors)
        margin = self.booster.inplace_predict(values, validate_features=False)
        trees = np.log(base) + np.asarray(margin, dtype=np.float64)
        return np.asarray(np.exp(trust * trees + (1 - trust) * np.log(core_s(table, self.floors))))


def fit(table: Features, latency_s: Array, recipe: Recipe) -> Estimator:
    """Learn floors, then boost trees on log(latency / base). latency_s: (n_calls,)."""
    import xgboost

    floors = fit_floors(table, latency_s)
    values, base = inputs(table, floors)
    target = np.log(latency_s / base)
    constraints = (1,) * table.times + (0,) * (len(table.names) - table.times)
    data = xgboost.QuantileDMatrix(values, label=target, max_bin=recipe.max_bin)
    parameters: dict[str, Any] = {
        "objective": "reg:squarederror",
        "tree_method": "hist",
        "max_bin": recipe.max_bin,
        "max_depth": recipe.max_depth,
        "learning_rate": recipe.learning_rate,
        "subsample": recipe.subsample,
        "colsample_bytree": recipe.colsample_bytree,
        "min_child_weight": recipe.min_child_weight,
        "monotone_constraints": "(" + ",".join(map(str, constraints)) + ")",
        "seed": recipe.seed,
        "nthread": 1,
        "base_score": float(np.median(target)),
    }
    return Estimator(xgboost.train(parameters, data, num_boost_round=recipe.rounds), floors)
