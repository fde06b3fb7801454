"""The 2-parameter roofline, latency = c0 + c1 * bound: the baseline to beat, and one view of an estimator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from predictor.ops.dtypes import Array

Line = Mapping[str, tuple[float, float]]  # dtype → c0 seconds, c1; "" is for dtypes not seen


def fit_line(dtypes: NDArray[np.object_], bound_s: Array, latency_s: Array) -> Line:
    """Both parameters at least 0, least relative squares, per dtype. dtypes, bound_s, latency_s: (n_calls,)."""
    from sklearn.linear_model import LinearRegression

    def coefficients(keep: NDArray[np.bool_]) -> tuple[float, float]:
        terms = np.stack([np.ones(keep.sum()), bound_s[keep]], axis=1) / latency_s[keep, None]
        scale = terms.mean(axis=0)
        line = LinearRegression(fit_intercept=False, positive=True).fit(terms / scale, np.ones(len(terms)))
        return float(line.coef_[0] / scale[0]), float(line.coef_[1] / scale[1])

    every = {str(dtype): coefficients(dtypes == dtype) for dtype in np.unique(dtypes.astype(str))}
    return {"": coefficients(np.ones(len(dtypes), dtype=bool)), **every}


def line_s(line: Line, dtypes: NDArray[np.object_], bound_s: Array) -> Array:
    """Seconds per call, (n_calls,)."""
    c0, c1 = np.array([line.get(str(dtype), line[""]) for dtype in dtypes]).reshape(-1, 2).T
    return np.asarray(c0 + c1 * bound_s)
