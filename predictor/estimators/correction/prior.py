"""Learn the prior of corrections: the amplitudes and lengths under which the errors on held-out GPUs are most likely.

Marginal likelihood over the errors of several GPUs at once, each an independent draw; every logarithm is held near its
start by a unit normal, which is all that few GPUs allow. Once calls of the GPU itself are measured, they move it on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from predictor.estimators.correction.kernel import (
    AMPLITUDES,
    FLAT,
    JITTER,
    Pieces,
    Prior,
    Traits,
    pieces,
    start,
    whitening,
)
from predictor.ops.dtypes import Array

MOST_STEPS = 40  # of the search; judged
MOST_OWN_STEPS = 15  # from a learned prior it is not far
MOST_ROWS = 100  # of one GPU; judged, the cost of a step rises with the cube
STIFFNESS = 5.0  # of a learned prior; with 1, twenty rows of several engines mislead it
FARTHEST = 4.0  # nats from the start; a search that strays beyond ends with matrices that rounding spoils
LARGEST_ERROR = 1.0  # nats from the median, judged: what is further off is an outlier, not a law


def learn(
    errors: Sequence[tuple[Traits, Array]], first: Prior | None = None, stiffness: float = 1.0, steps: int = MOST_STEPS
) -> Prior:
    """The prior of (calls, log(truth / prediction)) of several GPUs, each at most MOST_ROWS calls.

    first: where the search starts and what the result is held near, by the inverse variance `stiffness` of each
    logarithm; by default what the spread of the calls suggests. steps: of the search at most.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    first = first or start(np.concatenate([traits.place for traits, _ in errors]))
    origin = np.log([*(first.amplitudes[name] for name in AMPLITUDES), *first.lengths])
    data = [(pieces(traits, traits), tamed(error)) for traits, error in errors]
    with threadpool_limits(1):  # matrices so small that threads wait for each other longer than they compute
        optimum = minimize(
            _loss,
            origin,
            args=(data, origin, stiffness),
            jac=True,
            method="L-BFGS-B",
            bounds=[(value - FARTHEST, value + FARTHEST) for value in origin],
            options={"maxiter": steps},
        )
    values = np.exp(optimum.x)
    split = len(AMPLITUDES)
    return Prior(dict(zip(AMPLITUDES, values[:split].tolist(), strict=True)), values[split:])


def adapted(prior: Prior | None, calls: Traits, error: Array) -> Prior:
    """The prior as the measured calls of one GPU move it; few of them move it little (empirical Bayes).

    How far kernels, engines and formats of a GPU err alike differs from GPU to GPU, and its own calls say so.
    """
    rows = np.random.default_rng(0).permutation(len(error))[:MOST_ROWS]
    return learn([(calls.take(rows), error[rows])], prior, STIFFNESS, MOST_OWN_STEPS)


def tamed(error: Array) -> Array:
    """Errors with outliers pulled in, (n,) nats."""
    middle = np.median(error)
    return np.asarray(np.clip(error, middle - LARGEST_ERROR, middle + LARGEST_ERROR))


def _loss(theta: Array, data: Sequence[tuple[Pieces, Array]], origin: Array, stiffness: float) -> tuple[float, Array]:
    """Negative log of likelihood times prior, and its gradient (Rasmussen & Williams, 5.9)."""
    flats, split = len(FLAT), len(AMPLITUDES)
    powers, rates = np.exp(2 * theta[:split]), np.exp(-2 * theta[split:])
    away = theta - origin
    total, gradient = 0.5 * stiffness * float(away @ away), stiffness * away
    for (flat, same, squares), error in data:
        near = np.exp(-0.5 * np.tensordot(rates, squares, 1))
        weight = np.tensordot(powers[flats:-1], same, 1)
        whole = np.tensordot(powers[:flats], flat, 1) + near * weight
        whole[np.diag_indices(len(error))] += powers[-1] + JITTER
        whitener = whitening(whole)
        inverse = whitener.T @ whitener
        pull = inverse @ error
        total += 0.5 * float(error @ pull) - float(np.log(np.diag(whitener)).sum())  # half of log |whole|
        slope = 0.5 * (inverse - np.outer(pull, pull))
        smooth = slope * near
        gradient[:flats] += 2 * powers[:flats] * (flat * slope).sum(axis=(1, 2))
        gradient[flats : split - 1] += 2 * powers[flats:-1] * (same * smooth).sum(axis=(1, 2))
        gradient[split - 1] += 2 * powers[-1] * np.trace(slope)
        gradient[split:] += rates * (squares * (smooth * weight)).sum(axis=(1, 2))
    return total, gradient
