"""Times corrected by what a user's own runs say of them (predictor.estimators.own_runs), never below their bounds."""

from __future__ import annotations

import math
from importlib.metadata import version
from typing import Any

from predictor.elementwise import exp, greater, lesser, log
from predictor.estimators.bundle import Bundle
from predictor.estimators.own_runs import CONTINUOUS, STATIC, Correction, Shift, setup_of
from predictor.hardware.gpu import Gpu
from predictor.latency.report import Interval, Serving
from predictor.workloads.workload import Workload

TINY = 1e-12  # seconds
TTFT, TPOT = ("ttft_s", "ttft_p50_s", "ttft_p99_s"), ("tpot_s", "tpot_p50_s", "tpot_p99_s")
RATES = ("tokens_per_s", "requests_per_s")


def correction_of(workload: Workload, gpu: Gpu, bundle: Bundle, *, load: bool) -> Correction:
    """What the runs of a bundle say of a workload under load, or of a batch of it."""
    return bundle.own_runs.correction(setup_of(workload, gpu, CONTINUOUS if load else STATIC))


def shifted(times: Interval, shift: Shift, least: Any) -> Interval:
    """Seconds with their interval, numbers or columns, as a shift changes them; least: their bound."""
    if shift == Shift():
        return times
    value = greater(times.value * math.exp(shift.log), lesser(least, times.value))
    narrowed = narrower(times, shift.width)
    before = greater(times.value, TINY)
    return Interval(value, greater(value * narrowed.low / before, lesser(least, value)), value * narrowed.high / before)


def narrower(figure: Interval, width: float) -> Interval:
    """The interval of a positive figure, its half that many times as wide in nats."""
    value = greater(figure.value, TINY)
    low, high = (figure.value * exp(width * log(greater(end, TINY) / value)) for end in (figure.low, figure.high))
    return Interval(figure.value, lesser(low, figure.value), greater(high, figure.value))


def shifted_load(
    served: Serving, correction: Correction, least: tuple[float, float], clients: bool, per_token: float
) -> Serving:
    """What was simulated with steps that take as long as the pace is corrected to: with the prompt's own shift, with
    the intervals of both, and no shorter than `least`, the bounds of TTFT and TPOT of a mean request that is alone.

    clients: who wait for their answer, so that throughput follows its time. per_token: tokens after the first of the
    mean request.
    """
    if not correction.applies:
        return served
    prompt, pace = correction.prompt, correction.pace
    ttft, tpot, e2e = (max(figure.value, TINY) for figure in (served.ttft_s, served.tpot_s, served.e2e_s))
    uncorrected = math.exp(-pace.log)  # a bound lifts no time above that
    later = max(math.exp(prompt.log), min(least[0] / ttft, uncorrected))
    slower = max(1.0, min(least[1] / tpot, uncorrected))
    whole = (e2e + (later - 1) * ttft + per_token * (slower - 1) * tpot) / e2e
    of_ttft = min(ttft / e2e, 1.0)
    width = of_ttft * prompt.width + (1 - of_ttft) * pace.width
    changes: dict[str, Any] = {name: _times(getattr(served, name), later, prompt.width) for name in TTFT}
    changes |= {name: _times(getattr(served, name), slower, pace.width) for name in TPOT}
    changes["e2e_s"] = _times(served.e2e_s, whole, width)
    changes |= {name: _times(getattr(served, name), 1 / whole if clients else 1.0, width) for name in RATES}
    changes["sustainable_rate"] = _times(served.sustainable_rate, 1.0, pace.width)
    return served._replace(**changes)


def _times(figure: Interval, factor: float, width: float) -> Interval:
    return Interval(*(end * factor for end in narrower(figure, width)))


def correction_note(workload: Workload, gpu: Gpu, bundle: Bundle, *, load: bool) -> str:
    """What to say of a correction, "" where there is none."""
    prompt, pace, runs, alike = correction_of(workload, gpu, bundle, load=load)
    told = []
    if Shift() != prompt or (load and Shift() != pace):
        told.append(f"TTFT {math.expm1(prompt.log + pace.log * load):+.0%}")
    if Shift() != pace:
        told.append(f"TPOT {math.expm1(pace.log):+.0%}")
    if not told:
        return ""
    many = f"{runs} run{'s' * (runs > 1)}"
    whose = f", {alike or 'none'} of {workload.model.name}" if alike < runs else ""
    made_with = bundle.own_runs.made_with
    if made_with and made_with != version("gpu-predictor"):
        many = f"{many} (compared with answers of release {made_with}: calibrate anew)"
    return f"corrected by {many} of yours on {gpu.name} with {workload.engine}{whose}: {', '.join(told)}."
