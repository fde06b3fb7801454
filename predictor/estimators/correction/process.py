"""What measured calls of one GPU teach about the errors of an estimator there: a Gaussian process over its residuals.

log(truth / prediction) is zero before anything is measured; each measured call moves it for calls that are alike
(predictor.estimators.correction.kernel), less for fewer calls. The ends of intervals come from leaving each call out in
turn, in units of the spread that the process itself expects there, so that calls unlike all measured ones keep wide
intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from predictor.estimators.correction.kernel import JITTER, NOISE, Prior, Traits, covariance, own_variance, whitening
from predictor.estimators.correction.prior import tamed
from predictor.hardware.gpu import Gpu
from predictor.ops.dtypes import Array

AT_ONCE = 4096  # calls whose covariance with the measured ones is in memory at once
SURE = 2.0  # standard errors; three are as good (training/EXPERIMENTS.md)
LEAST_END = 0.05  # of an interval in units of the spread, so that it holds the prediction itself


@dataclass(frozen=True, slots=True)
class Correction:
    """A fitted process for one estimator on `gpu`. ends: low and high of a call's interval in units of its spread.

    whitener: (n, n) of the covariance of the measured calls (predictor.estimators.correction.kernel.whitening). pull:
    (n,) nats per square nat, which a call's covariance with them turns into its offset.
    trust: share of the process's offset that is applied. error, left_out: log(truth / prediction) of the measured
    calls, (n,): without the correction, and with one that each call had no say in; expected: the standard deviation
    of the latter as the process has it.
    """

    gpu: Gpu
    prior: Prior
    measured: Traits
    pull: Array
    whitener: Array
    ends: tuple[float, float]
    trust: float
    error: Array
    left_out: Array
    expected: Array

    def offset(self, calls: Traits) -> Array:
        """Expected log(truth / prediction) of each call, (n,) nats; never more than was measured of any call."""
        expected = np.concatenate([covariance(some, self.measured, self.prior) @ self.pull for some in _runs(calls)])
        seen = tamed(self.error)
        return np.asarray(np.clip(expected, min(float(seen.min()), 0.0), max(float(seen.max()), 0.0)))

    def spread(self, calls: Traits) -> Array:
        """Standard deviation of what is left of the error of each call, noise included, (n,) nats."""
        spreads = []
        for some in _runs(calls):
            shared = covariance(some, self.measured, self.prior)
            known = ((shared @ self.whitener.T) ** 2).sum(axis=1)
            noise = self.prior.amplitudes[NOISE] ** 2
            taken = self.trust * (2 - self.trust) * known  # all where the whole offset is applied, none where none is
            spreads.append(np.sqrt(np.maximum(own_variance(some, self.prior) - taken, 0.0) + noise))
        return np.concatenate(spreads)


def fit_correction(gpu: Gpu, prior: Prior, measured: Traits, error: Array, level: float) -> Correction:
    """From measured calls and their log(truth / prediction), (n,). level: coverage asked of the intervals."""
    error = np.asarray(error, dtype=np.float64)
    whole = covariance(measured, measured, prior)
    whole[np.diag_indices(len(error))] += prior.amplitudes[NOISE] ** 2 + JITTER
    whitener, told = whitening(whole), tamed(error)
    pull = whitener.T @ (whitener @ told)
    own = (whitener**2).sum(axis=0)  # the diagonal of the inverse
    # Left out, a call is off by pull / own with the standard deviation own^-1/2 (Rasmussen & Williams, 5.12).
    left_out = pull / own + (error - told)
    trust = _trust(np.abs(error) - np.abs(left_out))
    pull, left_out = trust * pull, error + trust * (left_out - error)
    before = own_variance(measured, prior) + prior.amplitudes[NOISE] ** 2
    expected = np.sqrt(before - trust * (2 - trust) * (before - 1 / own))
    ends = conformal(left_out / expected, level)
    return Correction(gpu, prior, measured, pull, whitener, ends, trust, error, left_out, expected)


def _trust(gain: Array) -> float:
    """Share of a correction that is applied, from what it gains on each call that it was not told of, (n,) nats.

    None where it gains nothing, all where the mean gain is beyond SURE standard errors.
    """
    error = float(gain.std()) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    return float(np.clip(gain.mean() / max(SURE * error, 1e-12), 0.0, 1.0))


def conformal(scores: Array, level: float) -> tuple[float, float]:
    """Low and high end that hold a new score with probability `level`, from as many as there are.

    With few scores the ranks are those of n + 1 (Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World);
    the prediction itself lies inside.
    """
    ordered, n = np.sort(scores), len(scores)
    low = max(int(np.floor((n + 1) * (1 - level) / 2)) - 1, 0)
    high = min(int(np.ceil((n + 1) * (1 + level) / 2)) - 1, n - 1)
    return min(float(ordered[low]), -LEAST_END), max(float(ordered[high]), LEAST_END)


def _runs(calls: Traits) -> list[Traits]:
    return [calls.take(slice(start, start + AT_ONCE)) for start in range(0, max(len(calls.engine), 1), AT_ONCE)]
