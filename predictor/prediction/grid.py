"""The grid: every GPU × model × number format, served and trained in many sizes. An answer is finite and no faster than
its bound, or it is a PredictorError.

A place of the grid is a model in a format on a GPU, served or trained; its sizes are answered together.
"""

from __future__ import annotations

import re
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from math import prod
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.elementwise import added
from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import catalogue
from predictor.latency.report import Report
from predictor.latency.steps import bound_of, op_lines
from predictor.latency.training import TrainingReport
from predictor.ops import Collective
from predictor.ops.dtypes import DTYPES
from predictor.prediction.single import Resolved, resolve, serving_report, serving_task, training_report
from predictor.workloads.models import models
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload
from predictor.workloads.workload import Workload

SIZES: Mapping[str, Sequence[int]] = {
    "batch": (1, 2, 3, 4, 7, 8, 16, 17, 32, 33, 64, 100, 128, 200, 256, 512),
    "input_len": (1, 2, 16, 31, 128, 200, 512, 513, 1000, 2048, 4096, 8000),
    "output_len": (1, 2, 33, 128),
}
# What has no columns is answered one size at a time: fewer of them.
FEW_SIZES: Mapping[str, Sequence[int]] = {"batch": (1, 5, 64), "input_len": (1, 200), "output_len": (1, 33)}
TRAINED: Mapping[str, Sequence[Any]] = {"micro_batch": (1, 4), "seq_len": (128, 2048), "method": ("full", "lora")}
NUMBERS = ("ttft_s", "tpot_s", "e2e_s", "step_s", "tokens_per_s")  # what must be above 0 where there is one
EPSILON = 1e-9


class Place(NamedTuple):
    """A model in a format on a GPU. phase: "serve" or "train"."""

    gpu: str
    model: str
    dtype: str
    phase: str


@dataclass
class Tally:
    """How many were asked and answered, and what came instead. refused: text of an error without its numbers → count.
    broken: what breaks the law → count. examples: of each broken law the first question, and of a bug its traceback."""

    asked: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def refuse(self, error: PredictorError, count: int = 1) -> None:
        """Count a clear error; those of one type that differ in numbers and names alone are one kind."""
        self.refused[f"{type(error).__name__}: {_kind(str(error))}"] += count

    def breaks(self, law: str, question: str, count: int = 1) -> None:
        """Count answers that break a law."""
        self.broken[law] += count
        self.examples.setdefault(law, question)


def places(sample: int = 0, seed: int = 0) -> Iterator[Place]:
    """All places of the grid, or so many of them drawn at random, each once. sample: 0 is all."""
    axes = (list(catalogue()), list(models()), list(DTYPES), ("serve", "train"))
    lengths = [len(axis) for axis in axes]
    count = prod(lengths)
    numbers = Random(seed).sample(range(count), min(sample, count)) if sample else range(count)
    for number in numbers:
        at = np.unravel_index(number, lengths)
        yield Place(*(axis[int(i)] for axis, i in zip(axes, at, strict=True)))


def ask(place: Place, bundle: Bundle, tally: Tally) -> None:
    """Answer all sizes of a place and count what comes."""
    together = place.phase == "serve" and _has_columns(place)
    axes = TRAINED if place.phase == "train" else SIZES if together else FEW_SIZES
    asked = [place._asdict() | dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    tally.asked += len(asked)
    told = [one for columns in asked if (one := _told(columns, tally)) is not None]
    for some in [told] if together and told else [[one] for one in told]:
        _ask(some, bundle, tally)


class _Told(NamedTuple):
    """A question whose names were looked up. workload, note: None and "" of training."""

    resolved: Resolved
    workload: Workload | None
    note: str

    def __str__(self) -> str:
        """The columns of the request that are not left open."""
        own, plain = self.resolved.request, Request(model="", gpu="")
        said = {name: getattr(own, name) for name in Request.__dataclass_fields__}
        return str({name: value for name, value in said.items() if value != getattr(plain, name)})


def _has_columns(place: Place) -> bool:
    """Whether the sizes of a place can be answered together; not where even the smallest one is refused."""
    told = _told(place._asdict() | {"input_len": 1, "output_len": 1}, Tally())
    return told is not None and told.workload is not None and told.workload.in_columns


def _told(columns: Mapping[str, Any], tally: Tally) -> _Told | None:
    """What the columns of a request ask; None where that is refused, which is counted."""
    with _counted(tally, 1, columns):
        resolved = resolve(Request.of(columns))
        if resolved.request.phase == "train":
            return _Told(resolved, None, "")
        return _Told(resolved, *served_workload(resolved.request, resolved.model, resolved.gpu))
    return None


def _ask(told: Sequence[_Told], bundle: Bundle, tally: Tally) -> None:
    """Answer questions that differ in sizes alone, and count what comes."""
    first, count = told[0], len(told)
    with _counted(tally, count, first):
        report, bounds = _answer(told, bundle)
        tally.answered += count
        for law, where in _broken(report, bounds, count).items():
            if where.any():
                tally.breaks(law, str(told[int(np.argmax(where))]), int(where.sum()))


def _answer(told: Sequence[_Told], bundle: Bundle) -> tuple[Report | TrainingReport, list[Any]]:
    """The answer and its bounds: of the prompt and of decode steps, or of what a training step computes."""
    resolved, workload, note = told[0]
    if workload is None:
        trained = training_report(resolved, bundle)
        computed = [line.bound_s for line in trained.ops if line.estimator != Collective.family]
        return trained, [added(computed)]
    if len(told) > 1:
        workload = Workload.column([one.workload for one in told if one.workload is not None])
    task = serving_task(resolved, workload, note)
    phases, gpu, engine, links = task.steps
    lines = op_lines(phases, gpu, engine, bundle, links)
    return serving_report(task, lines, bundle), [bound_of(part, gpu) for part in lines]


@contextmanager
def _counted(tally: Tally, count: int, question: object) -> Iterator[None]:
    """Counts what is raised within: a PredictorError is a clear error, anything else a bug."""
    try:
        yield
    except PredictorError as error:
        tally.refuse(error, count)
    except Exception as error:  # whatever it is: the grid is here to find it
        law = f"{type(error).__name__}: {_kind(str(error))}"
        tally.breaks(law, f"{question}\n{traceback.format_exc()}", count)


def _broken(report: Report | TrainingReport, bounds: Sequence[Any], count: int) -> dict[str, NDArray[np.bool_]]:
    """Law → which answers break it, (count,). bounds: seconds of the prompt and of decode steps, or of a training
    step."""
    broken: dict[str, NDArray[np.bool_]] = {}

    def judge(law: str, wrong: Any) -> None:
        broken[law] = np.broadcast_to(wrong, (count,))

    for name in NUMBERS:
        interval = getattr(report, name, None)
        if interval is None or not np.any(interval.value):
            continue
        judge(f"{name} is not finite", ~np.isfinite(added(interval)))
        judge(f"{name} is not above 0", np.minimum(interval.value, interval.low) < 0)
        judge(f"{name} lies outside its interval", ~_ordered(interval))
    need = report.memory
    judge("memory is not finite", ~(np.isfinite(need.total_bytes) & (np.asarray(need.total_bytes) > 0)))
    if isinstance(report, TrainingReport):
        judge("step_s is below its bound", report.step_s.value < bounds[0] * (1 - EPSILON))
        judge("mfu is above 1", report.mfu > 1 + EPSILON)
        return broken
    judge("ttft_s is below its bound", report.ttft_s.value < bounds[0] * (1 - EPSILON))
    if report.workload.generates:
        steps = np.min(np.broadcast_arrays(*bounds[1:]), axis=0) if bounds[1:] else 0.0
        fast = np.asarray(report.tpot_s.value) < np.asarray(steps) * (1 - EPSILON)
        judge("tpot_s is below its bound", fast & (np.asarray(report.workload.output_len) > 1))
    judge("e2e_s is below ttft_s", report.e2e_s.value < np.asarray(report.ttft_s.value) * (1 - EPSILON))
    return broken


def _ordered(interval: Any) -> Any:
    value, low, high = interval
    return (low <= np.asarray(value) * (1 + EPSILON)) & (value <= np.asarray(high) * (1 + EPSILON))


def _kind(text: str) -> str:
    """A text with "…" for what differs between errors of a kind: names, which have capitals or digits, and numbers."""
    first = re.split(r"(?<=[.;]) |; ", text)[0]
    return re.sub(r"(?:\S*[\d/]\S*|[A-Z]\w*[-.]\S+)( (?=…)|)", "…", first)[:110]
