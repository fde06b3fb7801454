"""Steps: sums of operators, never below their bound, with intervals whose errors correlate as on held-out GPUs.

Times are seconds, each a number or a column of (n_requests,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from predictor.bundle import Bundle
from predictor.elementwise import added, chosen, greater
from predictor.gpu import Gpu
from predictor.interval import sum_of
from predictor.prediction import BOUND_ONLY, CALIBRATED, SEEN, UNSEEN
from predictor.report import Interval, OpLine, doubted


def total(lines: Sequence[OpLine], gpu: Gpu, bundle: Bundle) -> Interval:
    """A step is the sum of its ops; their errors correlate as they did on held-out GPUs."""
    bound, names = bound_of(lines, gpu), [line.estimator for line in lines]
    within = {name: bundle.entry(name)["correlation"] if bundle.has(name) else 1.0 for name in set(names)}
    across, said = bundle.manifest["correlation_across"], [line.latency_s for line in lines]
    down = sum_of([each.value - each.low for each in said], names, within, across)
    up = sum_of([each.high - each.value for each in said], names, within, across)
    middle = added(each.value for each in said)
    return Interval(greater(middle, bound), greater(middle - down, bound), greater(middle + up, bound))


def bound_of(lines: Sequence[OpLine], gpu: Gpu) -> Any:
    """Least seconds of a step. The cache holds what one op left for the next, but not the step: all else must come
    from memory."""
    moved = added(line.bytes_moved for line in lines)
    return greater(added(line.bound_s for line in lines), (moved - gpu.llc_bytes) / gpu.mem_bytes_per_s)


def step(lines: Sequence[OpLine], gpu: Gpu, bundle: Bundle) -> Interval:
    """A step of an engine: the sum of its ops, with the doubt that the software around them adds."""
    found = total(lines, gpu, bundle)
    return doubted(found.value, found, bound_of(lines, gpu))


def mean_over(points: Sequence[Any], values: Sequence[Any]) -> Any:
    """Mean of a function known at `points`, trapezoidal between them; of none 0.

    points: rising; where all are equal the first value is the mean.
    """
    if not points:
        return 0.0
    pairs = zip(points[1:], points[:-1], values[1:], values[:-1], strict=True)
    area = added((far - near) * (one + two) / 2 for far, near, one, two in pairs)
    width = points[-1] - points[0]
    return chosen(width > 0, area / greater(width, 1), values[0])


def limiter_of(lines: Sequence[OpLine]) -> Any:
    """What the ops that fill most of the time are limited by; "launch" where they are far above their bounds."""
    shares: dict[str, Any] = {}
    for line in lines:
        value, far = line.latency_s.value, line.latency_s.value >= 4 * line.bound_s
        for name in {line.limiter: 0} if isinstance(line.limiter, str) else dict.fromkeys(line.limiter.tolist()):
            here = chosen(far, 0.0, chosen(line.limiter == name, value, 0.0))
            shares[name] = shares.get(name, 0.0) + here
        shares["launch"] = shares.get("launch", 0.0) + chosen(far, value, 0.0)
    names, sums = list(shares), np.broadcast_arrays(*shares.values())
    most = np.argmax(np.stack(sums), axis=0)
    return names[int(most)] if most.ndim == 0 else np.array(names, dtype=object)[most]


def basis_of(bases: Sequence[str]) -> str:
    """The weakest basis of an op that an estimator answered for; bound-only where none did."""
    return next((basis for basis in (UNSEEN, CALIBRATED, SEEN) if basis in bases), BOUND_ONLY)
