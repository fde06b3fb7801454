"""What is promised to the users of a service, and how surely a deployment keeps it.

An interval is read as a log-normal whose sides may differ. Measured times lie a quarter of a standard deviation above
the predicted ones in the mean (versions, flags and neighbours cost time, and never save any), and surer than SUREST no
figure is: both by half of the served configurations of predictor/learning/validation/serving.py, which
`predictor validate` tells of the other half under "promises". Errors of TTFT and of TPOT are independent there (their
correlation is 0.05), so that the probability of several promises is the product.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from predictor.errors import InvalidRequest

if TYPE_CHECKING:
    from predictor.latency.report import Interval
    from predictor.latency.serving.load import Serving

NORMAL = NormalDist()
BIAS, SUREST = 0.25, 0.97
LABELS = {"ttft_p99_s": "TTFT p99", "tpot_s": "TPOT", "e2e_s": "E2E"}
STEP = 1e-9  # log error below which a figure is taken as exact


class ServiceLevel(NamedTuple):
    """Seconds that are promised at most; math.inf: nothing is.

    ttft_p99_s: to the first token, of 99 in 100 requests. tpot_s: between tokens, in the mean. e2e_s: to the last
    token, in the mean.
    """

    ttft_p99_s: float = math.inf
    tpot_s: float = math.inf
    e2e_s: float = math.inf

    def checked(self) -> ServiceLevel:
        """Itself; raises InvalidRequest for what nothing can keep."""
        for name, seconds in self._asdict().items():
            if not seconds > 0:
                raise InvalidRequest(f"{name} is {seconds:g}; it must be above 0 seconds. Leave it out for no limit.")
        return self

    @property
    def promised(self) -> dict[str, float]:
        """What is promised, by name."""
        return {name: seconds for name, seconds in self._asdict().items() if seconds < math.inf}

    def kept(self, served: Serving, level: float) -> float:
        """Probability that all of it is kept. level: of the intervals, such as 0.8."""
        return math.prod(p_below(getattr(served, name), seconds, level) for name, seconds in self.promised.items())

    def surest(self, arrivals: bool) -> float:
        """Probability above which nothing is said to keep it. arrivals: that no queue grows is promised, too."""
        return SUREST ** (len(self.promised) + arrivals)


def p_below(figure: Interval, limit: float, level: float) -> float:
    """Probability that a figure is at most `limit`, given its interval at `level`.

    >>> from predictor.latency.report import Interval
    >>> [round(p_below(Interval(1.0, 0.8, 1.25), limit, 0.8), 3) for limit in (1.25, 1.0)]
    [0.849, 0.401]
    """
    if limit == math.inf:
        return 1.0
    if figure.value <= 0.0:
        return SUREST
    distance, error = math.log(limit / figure.value), log_error(figure, limit >= figure.value, level)
    share = NORMAL.cdf(distance / error - BIAS) if error >= STEP else float(distance >= 0)
    return min(max(share, 1 - SUREST), SUREST)


def p_above(figure: Interval, limit: float, level: float) -> float:
    """Probability that a rate, which falls as times rise, is at least `limit`."""
    if limit <= 0.0 or figure.value <= 0.0:
        return 1.0 if limit <= 0.0 else 1 - SUREST
    seconds = type(figure)(1 / figure.value, 1 / figure.high, 1 / max(figure.low, 1e-300))
    return p_below(seconds, 1 / limit, level)


def p_less(one: Interval, two: Interval, level: float) -> float:
    """Probability that the first figure is less than the second, their errors independent.

    Two deployments of one engine are off together more than that, so the truth is, if anything, surer.

    >>> from predictor.latency.report import Interval
    >>> p_less(Interval(1.0, 0.8, 1.25), Interval(1.0, 0.8, 1.25), 0.8)
    0.5
    """
    if one.value <= 0.0 or two.value <= 0.0:
        return 0.5 if one.value == two.value else float(one.value < two.value)
    distance = math.log(two.value / one.value)
    error = math.hypot(log_error(one, distance >= 0, level), log_error(two, distance < 0, level))
    share = NORMAL.cdf(distance / error) if error >= STEP else (0.5 if abs(distance) < STEP else float(distance > 0))
    return min(max(share, 1 - SUREST), SUREST)


def log_error(figure: Interval, above: bool, level: float) -> float:
    """One standard deviation of the logarithm of a figure on one side of its value."""
    ratio = figure.high / figure.value if above else figure.value / max(figure.low, 1e-300)
    return math.log(max(ratio, 1.0)) / NORMAL.inv_cdf((1 + level) / 2)


def within(figure: Interval, level: float, share: float) -> float:
    """The value at which p_below is `share`, which is above one half."""
    return float(figure.value * math.exp(log_error(figure, True, level) * (NORMAL.inv_cdf(share) + BIAS)))
