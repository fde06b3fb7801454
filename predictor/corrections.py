"""From measured rows of a few GPUs to the corrections of one estimator there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from predictor.correction import Correction, fit_correction
from predictor.dataset import TrainingSet
from predictor.estimator import Estimator
from predictor.similarity import Prior, start


def corrections_of(
    rows: TrainingSet, estimator: Estimator, prior: Prior | None, level: float
) -> Mapping[str, Correction]:
    """GPU → correction, from the measured rows of the estimator.

    prior: None where nothing was learned about held-out GPUs. level: coverage asked of the intervals.
    """
    found = {}
    for own, gpu, op, setting in rows.by_gpu():
        said = estimator.uncorrected(op, gpu, setting)
        traits, error = estimator.traits(op, gpu, setting, said), np.log(rows.latency_s[own]) - said
        found[gpu.name] = fit_correction(gpu, prior or start(traits.place), traits, error, level)
    return found
