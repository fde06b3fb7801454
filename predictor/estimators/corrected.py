"""From measured rows of a few GPUs to the corrections of one estimator there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from predictor.estimators.correction.kernel import Prior, Traits, start
from predictor.estimators.correction.prior import adapted
from predictor.estimators.correction.process import Correction, conformal, fit_correction
from predictor.estimators.estimator import Estimator
from predictor.hardware.gpu import Gpu
from predictor.ops.dtypes import Array

if TYPE_CHECKING:
    from predictor.estimators.samples import TrainingSet

NO_ENDS: Mapping[str, tuple[float, float]] = MappingProxyType({})
MOST_CHECKED = 200  # calls that are predicted as users see it; judged, each is asked at all knots of its tokens


def errors_of(rows: TrainingSet, estimator: Estimator) -> Iterator[tuple[Gpu, Traits, Array]]:
    """Of each measured GPU the calls and their log(truth / prediction), (n_calls,)."""
    for own, gpu, op, setting in rows.by_gpu():
        predicted = estimator.uncorrected(op, gpu, setting)
        yield gpu, estimator.traits(op, gpu, setting, predicted), np.log(rows.latency_s[own]) - predicted


def priors_of(rows: TrainingSet, estimator: Estimator, prior: Prior | None) -> Mapping[str, Prior]:
    """GPU → the prior as its measured rows move it. prior: None where nothing was learned about held-out GPUs."""
    return {gpu.name: adapted(prior, traits, error) for gpu, traits, error in errors_of(rows, estimator)}


def corrections_of(
    rows: TrainingSet,
    estimator: Estimator,
    priors: Mapping[str, Prior | None],
    level: float,
    ends: Mapping[str, tuple[float, float]] = NO_ENDS,
) -> Mapping[str, Correction]:
    """GPU → correction, from the measured rows of the estimator.

    priors: GPU → prior, None where none is known. level: coverage asked of the intervals. ends: see ends_of; by default
    those of the process alone.
    """
    corrections = {}
    for gpu, traits, error in errors_of(rows, estimator):
        made = fit_correction(gpu, priors[gpu.name] or start(traits.place), traits, error, level)
        corrections[gpu.name] = replace(made, ends=ends.get(gpu.name, made.ends))
    return corrections


def ends_of(rows: TrainingSet, estimator: Estimator, level: float) -> Mapping[str, tuple[float, float]]:
    """GPU → the ends of intervals for predictions as users see them, in units of the spread.

    Predictions are made to rise with tokens between a few counts of them (predictor.estimators.envelope) and keep to
    the bound, which adds errors of its own. That of a call is the larger of two: left out of the correction, and as
    predicted in the end. estimator: with the corrections of these rows.
    """
    ends_by_gpu = {}
    for own, gpu, op, setting in rows.by_gpu():
        correction = estimator.corrections[gpu.name]
        some = np.random.default_rng(0).permutation(len(correction.error))[:MOST_CHECKED]
        latency_s = estimator.latency_s(op.take(some), gpu, setting.take(some))
        final = np.log(rows.latency_s[own][some] / np.maximum(latency_s, rows.bound_s[own][some]))
        left_out = correction.left_out[some]
        larger = np.where(np.abs(final) > np.abs(left_out), final, left_out)
        ends_by_gpu[gpu.name] = conformal(larger / correction.expected[some], level)
    return ends_by_gpu
