"""Which shapes to measure on a GPU, so that the interval of a workload there shrinks most for the time it takes.

The errors of a workload's operators are a Gaussian process (predictor.estimators.correction.kernel). Shapes are picked
one after another: each time the one that takes most variance from the workload's time per second of GPU time.
Candidates are the operators of the workload, and the same with fewer and more tokens, which say as much and are
cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import Bundle
from predictor.estimators.correction.kernel import NOISE, covariance, start
from predictor.estimators.features import Setting
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import Gpu
from predictor.latency.as_run import measured_as
from predictor.latency.report import OpLine, Report
from predictor.measurements.schema import COLUMNS, unmeasured
from predictor.ops import Op
from predictor.ops.base import TEXT_FIELDS, column, stack
from predictor.ops.dtypes import Array
from predictor.prediction.single import answer
from predictor.workloads.request import Request

TOKENS = (1 / 16, 1 / 4, 1.0, 4.0)  # candidates have so many times the tokens of an operator
CALLS = 30  # of one measurement
SETUP_S = 0.05  # tensors, warm-up and compilation of one measurement


@dataclass(slots=True)
class Open:
    """Candidates of one estimator. share: part of the workload's time that each is. left: covariance of their errors,
    (n, n) square nats; noise: variance of a measurement. cost_s: of measuring each. fresh: 1, or 0 once measured."""

    ops: list[Op]
    engine: str
    share: Array
    left: Array
    noise: float
    latency_s: Array
    cost_s: Array
    fresh: Array

    def variance(self) -> float:
        """Of the workload's time, as far as this estimator's errors make it."""
        return float(self.share @ self.left @ self.share)

    def gains(self) -> Array:
        """Variance that each measurement would take away, (n,); a second one of the same call is none."""
        return np.asarray(self.fresh * (self.left @ self.share) ** 2 / (np.diag(self.left) + self.noise))

    def measure(self, chosen: int) -> None:
        """Take in that a candidate was measured."""
        self.fresh[chosen], row = 0.0, self.left[chosen]
        self.left = self.left - np.outer(row, row) / (row[chosen] + self.noise)


def suggest(request: Request, bundle: Bundle, budget: int = 50) -> pd.DataFrame:
    """At most `budget` shapes to measure, best first, for the workload of a request.

    A row has the schema's columns without latency_s; predicted_s, cost_s (of measuring it) and spread_left: the
    standard deviation of the workload's relative error once this and all rows before are measured, over that before.
    """
    if budget < 1:
        raise InvalidRequest(f"budget is {budget}; give the number of shapes to measure, at least 1.")
    report = answer(request, bundle)
    sets = _candidates(
        report.ops,
        _weights(report, request),
        report.gpu,
        report.request.engine if report.request else request.engine,
        bundle,
    )
    whole = sum(candidates.variance() for candidates in sets)
    if not sets or whole <= 0:
        raise InvalidRequest(f"{request.model} has no operator that bundle {bundle.id} learns from measurements.")
    rows = []
    for _ in range(budget):
        worth = [candidates.gains() / candidates.cost_s for candidates in sets]
        best = max(range(len(sets)), key=lambda i: float(worth[i].max()))
        place = int(worth[best].argmax())
        chosen = sets[best]
        if worth[best][place] * chosen.cost_s[place] < 1e-9 * whole:
            break
        chosen.measure(place)
        left = float(np.sqrt(max(sum(candidates.variance() for candidates in sets), 0.0) / whole))
        op = chosen.ops[place]
        rows.append(
            {
                "family": op.family,
                **asdict(op),
                "gpu": report.gpu.name,
                "engine": chosen.engine,
                "predicted_s": chosen.latency_s[place],
                "cost_s": chosen.cost_s[place],
                "spread_left": left,
            }
        )
    frame = pd.DataFrame(rows)
    shapes = unmeasured(frame).drop(columns="latency_s")
    told = [name for name in COLUMNS if name in shapes and (shapes[name].notna() & (shapes[name] != "")).any()]
    return shapes[told].assign(**{name: frame[name] for name in ("predicted_s", "cost_s", "spread_left")})


def _weights(report: object, request: Request) -> dict[str, float]:
    """How often a phase of the report runs; those that are not named run once."""
    steps = float(request.output_len - 1) if isinstance(report, Report) else 1.0
    return {"decode": max(steps, 0.0)}


def _candidates(
    lines: Sequence[OpLine], weights: dict[str, float], gpu: Gpu, engine: str, bundle: Bundle
) -> list[Open]:
    spent = {id(line): line.latency_s.value * weights.get(line.phase, 1.0) for line in lines}
    total = sum(spent.values())
    grouped: dict[tuple[str, str], dict[Op, float]] = {}
    for line in lines:
        if not bundle.has(line.estimator):
            continue
        of_set = grouped.setdefault((line.estimator, measured_as(engine, line.op, gpu)), {})
        for factor in TOKENS:
            op = _scaled(line.op, factor)
            of_set[op] = of_set.get(op, 0.0) + (spent[id(line)] / total if op == line.op else 0.0)
    return [_open(name, whose, list(ops), list(ops.values()), gpu, bundle) for (name, whose), ops in grouped.items()]


def _scaled(op: Op, factor: float) -> Op:
    """The op with `factor` times the tokens, whole and at least one."""
    if factor == 1.0:
        return op
    counts = {name: np.maximum(np.round(column(count, 1) * factor), 1.0) for name, count in op.token_counts().items()}
    made = op.with_token_counts(counts)
    values = {name: value if name in TEXT_FIELDS else float(np.ravel(value)[0]) for name, value in asdict(made).items()}
    return type(op)(**values)


def _open(name: str, engine: str, ops: list[Op], share: list[float], gpu: Gpu, bundle: Bundle) -> Open:
    op, setting, estimator = stack(ops), Setting(engine=engine), bundle.estimator(name)
    traits = estimator.traits(op, gpu, setting, estimator.uncorrected(op, gpu, setting))
    prior = bundle.prior(name, gpu.name) or start(traits.place)
    left = covariance(traits, traits, prior)
    if correction := estimator.corrections.get(gpu.name):
        known = covariance(traits, correction.measured, prior) @ correction.whitener.T
        left = left - known @ known.T
    latency = predict_op(op, gpu, setting, bundle).latency_s
    noise, cost = prior.amplitudes[NOISE] ** 2, SETUP_S + CALLS * latency
    return Open(ops, engine, np.array(share), left, noise, latency, cost, np.ones(len(ops)))
