"""Operator × GPU → latency with an interval: features, trees, their correction and the bundle that holds them.

predict_op     latency of a column of calls
OpPrediction   what it says
Bundle         a released set of estimators
load_bundle    by id, folder or "champion"
Setting        engine, kernel and timing of a call
Features       what an estimator sees (`features.features`)
TrainingSet    measured rows of one estimator
training_sets  of a checked table
ends           the interval of a prediction
sum_of         how those of a sum add
Decision       one promotion
champions      those so far
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.estimators.bundle import Bundle as Bundle, load_bundle as load_bundle
    from predictor.estimators.features import Features as Features, Setting as Setting
    from predictor.estimators.intervals import ends as ends, sum_of as sum_of
    from predictor.estimators.operators import OpPrediction as OpPrediction, predict_op as predict_op
    from predictor.estimators.samples import TrainingSet as TrainingSet, training_sets as training_sets
    from predictor.estimators.store import Decision as Decision, champions as champions

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "operators": ["predict_op", "OpPrediction"],
        "bundle": ["Bundle", "load_bundle"],
        "features": ["Setting", "Features"],
        "samples": ["TrainingSet", "training_sets"],
        "intervals": ["ends", "sum_of"],
        "store": ["Decision", "champions"],
    },
)
