"""From measured rows of a few GPUs to the corrections of one estimator there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from predictor.correction import Correction, fit_correction
from predictor.dataset import TrainingSet
from predictor.estimator import Estimator
from predictor.gpu import Gpu
from predictor.ops.dtypes import Array
from predictor.prior import adapted
from predictor.similarity import Prior, Traits, start


def errors_of(rows: TrainingSet, estimator: Estimator) -> Iterator[tuple[Gpu, Traits, Array]]:
    """Of each measured GPU the calls and their log(truth / prediction), (n_calls,)."""
    for own, gpu, op, setting in rows.by_gpu():
        said = estimator.uncorrected(op, gpu, setting)
        yield gpu, estimator.traits(op, gpu, setting, said), np.log(rows.latency_s[own]) - said


def priors_of(rows: TrainingSet, estimator: Estimator, prior: Prior | None) -> Mapping[str, Prior]:
    """GPU → the prior as its measured rows move it. prior: None where nothing was learned about held-out GPUs."""
    return {gpu.name: adapted(prior, traits, error) for gpu, traits, error in errors_of(rows, estimator)}


def corrections_of(
    rows: TrainingSet, estimator: Estimator, priors: Mapping[str, Prior | None], level: float
) -> Mapping[str, Correction]:
    """GPU → correction, from the measured rows of the estimator.

    priors: GPU → prior, None where none is known. level: coverage asked of the intervals.
    """
    return {
        gpu.name: fit_correction(gpu, priors[gpu.name] or start(traits.place), traits, error, level)
        for gpu, traits, error in errors_of(rows, estimator)
    }
