"""From measurements to bundles: train, hold out, calibrate, evaluate.

The verbs are modules of their own: train.train, evaluate.evaluate, calibrate.calibrate, own_runs.calibrate_by_runs,
tune.tune, monitor.monitor, suggest.suggest.

Recipe             all that decides what training makes, apart from the data
read_recipe        read one
Run                what training made and what it was made of
train_run          tables → bundle
RooflineRegressor  for scikit-learn
samples            X, y, groups of a measurement table
read_ledger        the held-out errors of a bundle
run_errors         a bundle against whole runs
generation_folds   whole generations held out in turn
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lazy_loader import attach

if TYPE_CHECKING:
    from predictor.learning.evaluate import read_ledger as read_ledger
    from predictor.learning.evaluate_runs import run_errors as run_errors
    from predictor.learning.holdout import generation_folds as generation_folds
    from predictor.learning.recipe import Recipe as Recipe, read_recipe as read_recipe
    from predictor.learning.regressor import RooflineRegressor as RooflineRegressor, samples as samples
    from predictor.learning.train import Run as Run, train_run as train_run

__getattr__, __dir__, __all__ = attach(
    __name__,
    submod_attrs={
        "recipe": ["Recipe", "read_recipe"],
        "train": ["Run", "train_run"],
        "regressor": ["RooflineRegressor", "samples"],
        "evaluate": ["read_ledger"],
        "evaluate_runs": ["run_errors"],
        "holdout": ["generation_folds"],
    },
)
