"""RooflineRegressor is an estimator of scikit-learn: its own checks, cross-validation by generation, pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from toy import GENERATIONS, toy_table

from predictor.errors import InvalidRequest, InvalidTable
from predictor.learning.regressor import RooflineRegressor, Samples, samples

ERROR = "neg_mean_absolute_percentage_error"


@pytest.fixture(scope="module")
def gemms() -> Samples:
    return samples(toy_table(), "gemm")


@parametrize_with_checks([RooflineRegressor(n_estimators=50)])
def test_it_passes_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def test_generations_are_held_out_by_cross_validation(gemms: Samples) -> None:
    assert set(gemms.groups) == GENERATIONS
    model = make_pipeline(FunctionTransformer(), RooflineRegressor(bound=0, n_estimators=60))
    options = {"groups": gemms.groups, "cv": LeaveOneGroupOut(), "scoring": ERROR, "n_jobs": 2}
    scores = cross_val_score(model, gemms.X, gemms.y, **options)
    alone = (gemms.y - gemms.X["bound_s"]).abs() / gemms.y
    assert len(scores) == 3 and -scores.mean() < 0.6 * alone.mean()


def test_no_prediction_beats_its_bound_and_monotone_columns_rise(gemms: Samples) -> None:
    model = RooflineRegressor(bound=0, monotone=(1,), n_estimators=40).fit(gemms.X, gemms.y)
    assert (model.predict(gemms.X) >= gemms.X["bound_s"]).all()
    worse = gemms.X.copy()
    worse.iloc[:, 1] += 0.7
    assert (model.predict(worse) >= model.predict(gemms.X) - 1e-15).all()


def test_it_is_searched_and_cloned(gemms: Samples) -> None:
    search = GridSearchCV(RooflineRegressor(bound=0, n_estimators=20), {"max_depth": [2, 5]}, cv=3, scoring=ERROR)
    assert search.fit(gemms.X, gemms.y).best_params_["max_depth"] in (2, 5)
    assert clone(search.best_estimator_).get_params()["bound"] == 0


def test_what_is_wrong_is_said(gemms: Samples) -> None:
    with pytest.raises(InvalidRequest, match="the bound, holds 0; it must be above 0"):
        RooflineRegressor(bound=0).fit(np.zeros((3, 1)), np.ones(3))
    with pytest.raises(InvalidRequest, match="y holds -1"):
        RooflineRegressor(bound=0).fit(np.ones((3, 1)), -np.ones(3))
    with pytest.raises(InvalidTable, match="no usable row of conv; it has attention_decode, gemm, pointwise"):
        samples(toy_table(), "conv")
