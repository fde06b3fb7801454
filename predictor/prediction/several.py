"""Answers for several GPUs, of which some may not be able to run what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from predictor.boosters import load_xgboost
from predictor.errors import UnknownLink, UnknownRate
from predictor.estimators.bundle import Bundle
from predictor.latency.own_runs import correction_of
from predictor.latency.report import Report
from predictor.latency.training import TrainingReport
from predictor.memory.capacity import has_room
from predictor.prediction.advice import Fix, fixes
from predictor.prediction.footprint import Footprint, footprint
from predictor.prediction.refusals import Refusal, answers_of
from predictor.prediction.single import Resolved, answer, room_of

Pair = tuple[Report | TrainingReport, Report | TrainingReport | None]  # the answer, and without a calibration


class Room(NamedTuple):
    """What memory a GPU needs, what has room there, and what would make it fit."""

    footprint: Footprint
    rooms: dict[str, Any]
    fixes: list[Fix]

    def row(self) -> dict[str, Any]:
        """One flat row."""
        return self.footprint.row() | self.rooms | {"fixes": [fix.row() for fix in self.fixes]}


def reports(requests: Sequence[Resolved], bundle: Bundle) -> list[Pair | Refusal]:
    """The report of each request, and of a calibrated GPU that without the calibration."""
    before = bundle.uncalibrated()

    def ask(place: int) -> Pair:
        report = answer(requests[place], bundle)
        calibrated = requests[place].gpu.name in bundle.calibrated or _is_corrected(report, bundle)
        return report, answer(requests[place], before) if calibrated else None

    return answers_of([request.gpu.name for request in requests], ask)


def _is_corrected(report: Report | TrainingReport, bundle: Bundle) -> bool:
    """Whether runs of the user say something of an answer."""
    if isinstance(report, TrainingReport):
        return False
    return correction_of(report.workload, report.gpu, bundle, load=report.served is not None).applies


def report_row(answered: Pair | Refusal, model: str, bundle: Bundle, explain: bool = False) -> dict[str, Any]:
    """One GPU's answer, with its operators where `explain` is set, and under "uncalibrated" that of the bundle before
    its calibration."""
    if isinstance(answered, Refusal):
        return answered.row(model=model)
    report, uncalibrated = answered
    row = _row(report, bundle, explain)
    return row | ({"uncalibrated": _row(uncalibrated, bundle.uncalibrated(), explain)} if uncalibrated else {})


def _row(report: Report | TrainingReport, bundle: Bundle, explain: bool) -> dict[str, Any]:
    row = report.to_dict()
    if explain:
        from predictor.latency.explain import explained

        row["ops"] = [line.row() for line in explained(report, bundle)]
    return row


def rooms(requests: Sequence[Resolved], bundle: Bundle) -> list[Room | Refusal]:
    """The memory of each request, what has room there, and where it has none what would help."""
    if any(resolved.request.engine == "torch" for resolved in requests):
        load_xgboost()  # what was learned of memory is of PyTorch's allocations

    def ask(place: int) -> Room:
        resolved = requests[place]
        need = footprint(resolved, bundle)
        return Room(need, room_of(resolved)._asdict(), [] if has_room(need.memory) else _fixes(resolved, bundle))

    return answers_of([resolved.gpu.name for resolved in requests], ask)


def _fixes(resolved: Resolved, bundle: Bundle) -> list[Fix]:
    """What would make the run fit, with the speed of each change, for which estimators load; nothing where nobody knows
    that of the run itself, which its notes say."""
    load_xgboost()
    try:
        report = answer(resolved, bundle)
    except (UnknownRate, UnknownLink):
        return []
    return fixes(report, resolved, bundle)
