"""Quality beside cost: scores of models in their number formats, with what serving each costs and how fast it is.

A score is taken as a user's file has it, or it is absent. Scores are put together only where shots and task version are
alike; what audits bias is shown beside and is no part of a quality.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.prices import PriceList, price_list
from predictor.latency.report import Interval
from predictor.planning.evaluations import Evaluated, Score, read_evaluations
from predictor.planning.fleet import fleet
from predictor.planning.pareto import pareto_front
from predictor.planning.ranking import compare
from predictor.workloads.results import ENDS


class Axis(NamedTuple):
    """What is called quality: one score, or the mean of several. parts: (task, metric, filter) of each."""

    parts: tuple[tuple[str, str, str], ...]
    text: str
    rises: bool
    scale: float


@dataclass(frozen=True, slots=True)
class Judged:
    """A model in a number format on GPUs. row: what `predictor compare` says of it, or its `error`. quality: along the
    axis, None where a score is absent. front: nothing is better, cheaper and faster between tokens."""

    evaluated: Evaluated
    gpus: str
    row: Mapping[str, Any]
    quality: float | None = None
    quality_stderr: float | None = None
    front: bool = False

    @property
    def text(self) -> str:
        """ "Llama-3.1-8B, fp8, 2xL4"."""
        return f"{self.evaluated.name}, {self.evaluated.format}, {self.gpus}"

    def interval(self, name: str) -> Interval | None:
        """A figure of the row; None where there is none."""
        ends = [self.row.get(f"{name}{end}") for end in ENDS]
        return None if ends[0] is None else Interval(*(ends[0] if end is None else end for end in ends))

    def to_dict(self) -> dict[str, Any]:
        """One object: what was predicted, and every score by task."""
        return {
            **self.row,
            "evaluated": self.evaluated.name,
            "model": self.evaluated.model.name,
            "dtype": self.evaluated.format,
            "gpus": self.gpus,
            "files": list(self.evaluated.files),
            "quality": self.quality,
            "quality_stderr": self.quality_stderr,
            "front": self.front,
            "scores": [score.row() for score in self.evaluated.scores],
        }


class Quality(NamedTuple):
    """The answer. rows: the best first. axis: None where the models have no score in common. heads: tasks of any file
    that are no part of a group, audits not among them; audits: those."""

    rows: tuple[Judged, ...]
    axis: Axis | None
    heads: tuple[str, ...]
    audits: tuple[str, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `predictor quality --json` prints."""
        return {
            "quality": self.axis.text if self.axis else None,
            "higher_is_better": self.axis.rises if self.axis else None,
            "rows": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
        }


def quality(
    files: Sequence[Path | str],
    gpus: str,
    *,
    tasks: Sequence[str] = (),
    stated: Sequence[str] = (),
    elsewhere: bool = False,
    prices: str | Path | PriceList = "",
    bundle: str | Path | Bundle = "",
    **columns: Any,
) -> Quality:
    """Scores of result files beside price, latency and memory on each of `gpus` (as in predictor.planning.fleet).

    tasks: TASK, TASK:METRIC or TASK:METRIC,FILTER of which quality is the mean; by default all that every file has.
    stated, elsewhere: as in read_evaluations. columns: others of a Request. Raises PredictorError for files, tasks
    and requests that cannot be answered; a model that cannot run has its reason in `error`.
    """
    evaluated = read_evaluations(files, stated, elsewhere)
    asked = [some.text for some in fleet(gpus)]
    axis, notes = _axis_of(tasks, evaluated) if tasks else _axis_in_common(evaluated)
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    listed = prices if isinstance(prices, PriceList) else price_list(prices)
    rows = []
    for one in evaluated:
        value, error = _mean([one.score(*part) for part in axis.parts]) if axis else (None, None)
        for name in asked:
            row = _predicted(one, name, listed, opened, columns)
            rows.append(Judged(one, name, row, value, error))
    sign = -1.0 if axis and axis.rises else 1.0
    best = pareto_front([_place(row, sign) for row in rows])
    marked = [replace(row, front=on) for row, on in zip(rows, best, strict=True)]
    marked.sort(
        key=lambda row: (row.quality is None, sign * (row.quality or 0.0), row.row.get("usd_per_mtok") or math.inf)
    )
    heads = list(dict.fromkeys(task for one in evaluated for task in one.heads))
    audits = {score.task for one in evaluated for score in one.scores if score.audit}
    said = (*notes, *(note for one in evaluated for note in one.notes))
    return Quality(
        tuple(marked),
        axis,
        tuple(task for task in heads if task not in audits),
        tuple(task for task in heads if task in audits),
        tuple(dict.fromkeys(said)),
    )


def _predicted(
    one: Evaluated, gpus: str, listed: PriceList, bundle: Bundle, columns: Mapping[str, Any]
) -> dict[str, Any]:
    """The answer of `predictor compare` for one model on one kind of GPU, or why there is none."""
    own = {"dtype": one.dtype} if one.dtype else {}
    try:
        (answer,) = compare(one.asked, gpus, prices=listed, bundle=bundle, **{**columns, **own})
    except PredictorError as error:
        return {"error": str(error)}
    return answer.to_dict()


def _place(row: Judged, sign: float) -> tuple[float | None, ...]:
    """What a row is judged by, each the better the lower; None where it does not fit or has no answer."""
    runs = not row.row.get("error") and row.row.get("fits")
    figures = [row.row.get("usd_per_mtok"), row.row.get("tpot_s") or row.row.get("ttft_s")]
    own = None if row.quality is None or not runs else sign * row.quality
    return (own, *figures)


def _mean(scores: Sequence[Score | None]) -> tuple[float | None, float | None]:
    """The mean and its standard error, which is absent where that of a score is; None where a score is absent."""
    there = [score for score in scores if score is not None]
    if len(there) < len(scores) or not there:
        return None, None
    errors = [score.stderr for score in there if score.stderr is not None]
    error = math.sqrt(sum(error**2 for error in errors)) / len(there) if len(errors) == len(there) else None
    return sum(score.value for score in there) / len(there), error


def _axis_of(tasks: Sequence[str], evaluated: Sequence[Evaluated]) -> tuple[Axis, list[str]]:
    """The axis that a user chose; raises InvalidRequest where it would compare what is not alike."""
    chosen: list[Score] = []
    for text in tasks:
        task, _, figure = text.partition(":")
        metric, _, name = figure.partition(",")
        scores = [one.score(task, metric, name) if metric else one.main(task) for one in evaluated]
        there = [score for score in scores if score is not None]
        if not there:
            known = ", ".join(dict.fromkeys(task for one in evaluated for task in one.heads))
            raise InvalidRequest(f'no file has a score of "{text}"; at hand are {known}.')
        first = there[0]
        if first.audit:
            raise InvalidRequest(
                f"{first.task} audits bias, which is no quality; it is shown beside. Choose another --task."
            )
        if first.rises is None:
            raise InvalidRequest(f"nobody says whether more of {first.name} is better; choose another --task.")
        if unlike := _unlike(there):
            raise InvalidRequest(f"{unlike}, which cannot be compared; evaluate alike, or choose another --task.")
        chosen.append(first)
    if len(chosen) > 1 and (len({score.scale for score in chosen}) > 1 or not all(score.rises for score in chosen)):
        kinds = ", ".join(f"{s.name} ({'0 to ' if s.rises else 'less is better, '}{s.scale:g})" for s in chosen)
        raise InvalidRequest(f"{kinds} have no common scale and no mean; choose one --task, or such of one scale.")
    return _axis(chosen), []


def _axis_in_common(evaluated: Sequence[Evaluated]) -> tuple[Axis | None, list[str]]:
    """The mean of what every file has, alike; what is left out is said."""
    shared = [task for task in evaluated[0].heads if all(one.main(task) for one in evaluated)]
    chosen: list[Score] = []
    notes = []
    for task in shared:
        scores = [score for one in evaluated if (score := one.main(task))]
        first = scores[0]
        if first.audit:
            continue
        if unlike := _unlike(scores):
            notes.append(f"{unlike}: no part of the mean.")
        elif not first.rises:
            notes.append(f"{first.name} is no part of the mean, as less of it is better, or nobody says.")
        else:
            chosen.append(first)
    scale = min((score.scale for score in chosen), default=1.0)
    notes += [f"{s.name} is of 0 to {s.scale:g} and no part of the mean." for s in chosen if s.scale != scale]
    kept = [score for score in chosen if score.scale == scale]
    if not kept:
        return None, [*notes, "the files have no score in common that makes a quality; choose one with --task."]
    return _axis(kept), notes


def _unlike(scores: Sequence[Score]) -> str:
    """How scores of one task differ in more than their values; "" where they do not."""
    names = list(dict.fromkeys(score.name for score in scores))
    settings = list(dict.fromkeys(score.setting for score in scores))
    if len(names) > 1:
        return f"files have {' and '.join(names)}"
    return f"{names[0]} is {' and '.join(settings)}" if len(settings) > 1 else ""


def _axis(scores: Sequence[Score]) -> Axis:
    names = ", ".join(score.name for score in scores)
    return Axis(
        tuple((score.task, score.metric, score.filter) for score in scores),
        names if len(scores) == 1 else f"mean of {names}" if len(scores) <= 4 else f"mean of {len(scores)} tasks",
        bool(scores[0].rises),
        scores[0].scale,
    )
