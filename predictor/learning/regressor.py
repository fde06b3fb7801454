"""RooflineRegressor: latency above a roofline bound, as scikit-learn knows estimators, and measurements as its input.

>>> from sklearn.utils.validation import check_is_fitted
>>> model = RooflineRegressor(bound=0, n_estimators=20).fit([[1e-6], [2e-6], [4e-6], [8e-6]], [2e-6, 4e-6, 8e-6, 16e-6])
>>> bool((model.predict([[1e-6], [1e-3]]) >= [1e-6, 1e-3]).all())
True
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from predictor.errors import InvalidRequest, InvalidTable
from predictor.estimators.samples import training_sets
from predictor.measurements.checks import check, usable
from predictor.measurements.schema import conform


class RooflineRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Boosted trees that predict how far above its roofline bound a call runs; never less than the bound.

    bound: position of the column of X that holds the bound, in the unit of y, both above 0; None learns y as it is.
    monotone: positions of columns in which the share above the bound never falls. n_estimators, max_depth,
    learning_rate, min_child_weight, random_state, n_jobs: of XGBoost.
    """

    def __init__(
        self,
        bound: int | None = None,
        monotone: tuple[int, ...] = (),
        n_estimators: int = 200,
        max_depth: int = 6,
        learning_rate: float = 0.1,
        min_child_weight: float = 1.0,
        random_state: int = 0,
        n_jobs: int = 1,
    ) -> None:
        self.bound = bound
        self.monotone = monotone
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.min_child_weight = min_child_weight
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from X, (n_samples, n_features), and y, (n_samples,)."""
        import xgboost

        X, y = validate_data(self, X, y, y_numeric=True, dtype=np.float64, ensure_min_samples=2)
        target = np.asarray(y, dtype=np.float64)
        if self.bound is not None:
            if (target <= 0).any():
                raise InvalidRequest(f"y holds {target.min():g}; a latency with a bound is above 0.")
            target = np.maximum(np.log(target / self._bounds(X)), 0.0)
        parameters = {
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "min_child_weight": self.min_child_weight,
            "seed": self.random_state,
            "nthread": self.n_jobs,
            "monotone_constraints": str(tuple(int(i in self.monotone) for i in range(X.shape[1]))),
        }
        data = xgboost.DMatrix(X, label=target, nthread=self.n_jobs)
        self.booster_ = xgboost.train(parameters, data, num_boost_round=self.n_estimators)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """y of each row of X, (n_samples,)."""
        import xgboost

        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        raw = self.booster_.predict(xgboost.DMatrix(X, nthread=self.n_jobs)).astype(np.float64)
        return np.asarray(raw if self.bound is None else self._bounds(X) * np.exp(np.maximum(raw, 0.0)))

    def _bounds(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        bounds = X[:, self.bound]
        if (bounds <= 0).any():
            raise InvalidRequest(f"column {self.bound} of X, the bound, holds {bounds.min():g}; it must be above 0.")
        return bounds


class Samples(NamedTuple):
    """X: features of each call, the bound in seconds first. y: measured seconds. groups: GPU generation of each row, as
    LeaveOneGroupOut wants it. gpus: its GPU."""

    X: pd.DataFrame
    y: NDArray[np.float64]
    groups: NDArray[Any]
    gpus: NDArray[Any]


def samples(table: pd.DataFrame, estimator: str) -> Samples:
    """The accepted rows of a measurement table that one estimator ("gemm", "attention_decode" …) learns from.

    Times among the features are logarithms of seconds; RooflineRegressor(bound=0) fits them.
    """
    sets = training_sets(usable(check(conform(table))).reset_index(drop=True))
    if estimator not in sets:
        raise InvalidTable(f"the table has no usable row of {estimator}; it has {', '.join(sorted(sets)) or 'none'}.")
    rows = sets[estimator]
    names = [*rows.table.names, *(f"tokens_{i}" for i in range(rows.table.tokens.shape[1]))]
    X = pd.DataFrame(np.concatenate([rows.table.values, rows.table.tokens], axis=1), columns=names)
    X.insert(0, "bound_s", rows.bound_s)
    return Samples(X, rows.latency_s, rows.who["generation"].to_numpy(dtype=object), rows.gpus)
