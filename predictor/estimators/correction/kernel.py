"""How alike two calls on one GPU are: the covariance of what an estimator gets wrong of them.

A sum of terms, each with an amplitude in nats: the same for all calls, for calls of one engine, number format or group,
linear in how the views of the estimator disagree, by the share of reference trees in which both calls end in one leaf
(so two shapes are alike where the trees cut none between them), and smooth in the features. The amplitudes and
lengths are learned on GPUs that were held out (predictor.estimators.correction.prior).
Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, chapters 2, 4 and 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.errors import InvalidBundle, PredictorError
from predictor.ops.dtypes import Array

LEAF_TREES = 100  # the first trees, which cut most coarsely; all 300 of them serve no better
FLAT = ("all", "engine", "dtype", "group", "views", "leaves", "leaves_group")
SMOOTH = ("smooth", "smooth_group", "smooth_dtype", "smooth_engine")
NOISE = "noise"
AMPLITUDES = (*FLAT, *SMOOTH, NOISE)  # in this order where they are learned


class Traits(NamedTuple):
    """What the kernel sees of calls. place: (n_calls, n_features), logarithms of times over the predicted latency, what
    else the trees see, token counts. views: (n_calls, 4) nats by which each view differs from the prediction.
    leaves: (n_calls, n_trees) leaf of each tree. engine, dtype, group: (n_calls,) names."""

    place: Array
    views: Array
    leaves: NDArray[np.int64]
    engine: NDArray[Any]
    dtype: NDArray[Any]
    group: NDArray[Any]

    def take(self, rows: Any) -> Traits:
        """The calls at `rows`."""
        return Traits(*(part[rows] for part in self))


@dataclass(frozen=True, slots=True)
class Prior:
    """Amplitudes (of AMPLITUDES, nats) and a length per feature of `place`, (n_features,), in its units."""

    amplitudes: Mapping[str, float]
    lengths: Array

    def to_json(self) -> dict[str, Any]:
        """Numbers of a bundle's manifest."""
        rounded = {name: float(f"{value:.4g}") for name, value in self.amplitudes.items()}
        return {"amplitudes": rounded, "lengths": [float(f"{value:.4g}") for value in self.lengths]}

    @classmethod
    def from_json(cls, stored: Any) -> Prior:
        """A prior as to_json wrote it; anything else raises InvalidBundle."""
        amplitudes = stored.get("amplitudes") if isinstance(stored, dict) else None
        lengths = stored.get("lengths") if isinstance(stored, dict) else None
        numbers = [*amplitudes.values(), *lengths] if isinstance(amplitudes, dict) and isinstance(lengths, list) else []
        positive = all(isinstance(x, int | float) and 0 < x < MOST for x in numbers)
        if not numbers or not positive or not isinstance(amplitudes, dict) or set(amplitudes) != set(AMPLITUDES):
            raise InvalidBundle("a prior of the bundle has invalid numbers; install or copy the bundle again.")
        return cls(amplitudes, np.array(lengths, dtype=np.float64))


# Amplitudes before anything is learned, nats. Judged: together 0.3, as the errors on unseen GPUs are 0.2 to 0.4; a
# learned prior is within e^4 of them, and has its own values after a few GPUs.
START: Mapping[str, float] = {
    **dict.fromkeys(FLAT, 0.1),
    "views": 0.15,
    **dict.fromkeys(SMOOTH, 0.1),
    "smooth": 0.15,
    NOISE: 0.06,
}
MOST = 1e9  # of an amplitude or a length; fitted ones lie within e^4 of START
JITTER = 1e-8  # square nats beside the noise, so that equal calls can be told apart
LIFTS = (0.0, 1e-14, 1e-12, 1e-10, 1e-8, 1e-6)  # of the mean variance; the error of rounding is near 1e-16 n


def start(place: Array) -> Prior:
    """The prior before learning: lengths from the spread of `place`, (n_calls, n_features)."""
    spread = place.std(axis=0)
    # sqrt: the smooth terms of two random calls then correlate by exp(-1). 1e-6: a feature that never changes.
    return Prior(START, np.sqrt(place.shape[1]) * np.where(spread > 1e-6, spread, 1.0))


class Pieces(NamedTuple):
    """What the covariance of two columns of calls is made of, before amplitudes and lengths.

    flat: (len(FLAT), n, m). same: (len(SMOOTH), n, m) 0 or 1. squares: (n_features, n, m) squared differences."""

    flat: Array
    same: Array
    squares: Array


def pieces(one: Traits, two: Traits) -> Pieces:
    """The pieces from which priors are learned; needs memory for every feature."""
    flat, same = _alike(one, two)
    return Pieces(flat, same, (one.place.T[:, :, None] - two.place.T[:, None, :]) ** 2)


def covariance(one: Traits, two: Traits, prior: Prior) -> Array:
    """Covariance of the errors of two columns of calls, (n, m) square nats, without noise."""
    flat, same = _alike(one, two)
    a, b = one.place / prior.lengths, two.place / prior.lengths
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    near = np.exp(-0.5 * np.maximum(squares, 0.0))
    return np.asarray(np.tensordot(_power(prior, FLAT), flat, 1) + near * np.tensordot(_power(prior, SMOOTH), same, 1))


def own_variance(calls: Traits, prior: Prior) -> Array:
    """Variance of the error of each call before anything is measured, (n,) square nats, without noise."""
    fixed = sum(prior.amplitudes[name] ** 2 for name in (*FLAT, *SMOOTH) if name != "views")
    return np.asarray(fixed + prior.amplitudes["views"] ** 2 * (calls.views**2).sum(axis=1))


def whitening(covariance: Array) -> Array:
    """W of a covariance C = L L' of (n, n): the inverse of L, lower triangular, so that C^-1 = W' W.

    Where rounding leaves C not positive definite, its diagonal gets as little more as makes it so.
    """
    from scipy.linalg import solve_triangular

    once = np.eye(len(covariance))
    for share in LIFTS:
        with suppress(np.linalg.LinAlgError):
            factor = np.linalg.cholesky(covariance + share * np.mean(np.diag(covariance)) * once)
            if np.isfinite(factor).all():
                return np.tril(solve_triangular(factor, once, lower=True))
    raise PredictorError(
        f"the errors of {len(once)} calls have a covariance that is not positive definite; the amplitudes and lengths "
        "of their prior must be finite: calibrate again."
    )


def _power(prior: Prior, names: tuple[str, ...]) -> Array:
    return np.array([prior.amplitudes[name] for name in names]) ** 2


def _alike(one: Traits, two: Traits) -> tuple[Array, Array]:
    group, dtype, engine = (
        (getattr(one, name)[:, None] == getattr(two, name)[None, :]).astype(np.float64)
        for name in ("group", "dtype", "engine")
    )
    leaves, always = _shared_leaves(one.leaves, two.leaves), np.ones_like(group)
    flat = np.stack([always, engine, dtype, group, one.views @ two.views.T, leaves, leaves * group])
    return flat, np.stack([always, group, dtype, engine])


def _shared_leaves(one: NDArray[np.int64], two: NDArray[np.int64]) -> Array:
    """Share of the trees in which two calls end in one leaf, (n, m)."""
    from scipy.sparse import csr_array

    trees = one.shape[1]
    stride = int(max(one.max(initial=0), two.max(initial=0))) + 1

    def table(leaves: NDArray[np.int64]) -> Any:
        columns = (leaves + stride * np.arange(trees)).ravel()
        starts = np.arange(0, columns.size + 1, trees)
        return csr_array((np.ones(columns.size), columns, starts), shape=(len(leaves), stride * trees))

    return np.asarray((table(one) @ table(two).T).toarray() / trees)
