"""What replays share: a published figure beside its prediction, which half constants may be fitted on, errors."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.latency.report import Interval
from predictor.prediction.rows import answer_rows
from predictor.workloads.models import get_model

UNDER = 1.15  # times the prediction: memory that much above it is a failed run
SEPARATOR = "; "  # of private settings
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A published figure beside its prediction.

    table: file that it is from. metric: seconds (`_s`), tokens_per_s of all GPUs, or memory_bytes of one GPU.
    closed: of memory, the closed form alone. fitted: the figure chose a constant. request: the row of a request table
    whose answer is the prediction. private_setting: what was set that no column of a request says; one of the two is
    there. settings: further columns.
    """

    table: str
    gpu: str
    model: str
    engine: str
    metric: str
    measured: float
    predicted: Interval
    fitted: bool
    closed: float | None = None
    request: Mapping[str, Any] = field(default_factory=dict)
    private_setting: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """One flat row; the request is JSON, each setting a column."""
        names = ("table", "gpu", "model", "engine", "metric", "measured")
        own = {name: getattr(self, name) for name in names}
        own |= {"predicted": self.predicted.value, "low": self.predicted.low, "high": self.predicted.high}
        closed = {} if self.closed is None else {"closed": self.closed}
        request_text = json.dumps(self.request) if self.request else ""
        own |= {"fitted": self.fitted, **closed, "request": request_text, "private_setting": self.private_setting}
        return own | dict(self.settings)


class Replay(NamedTuple):
    """Figures that were replayed, and how many were left out for which reason."""

    figures: list[Figure]
    skipped: Mapping[str, int]

    def frame(self) -> pd.DataFrame:
        """The figures as rows."""
        return pd.DataFrame([figure.row() for figure in self.figures])


class Table(NamedTuple):
    """A published table and how it is replayed.

    root: whether its files lie in the folder of the measured tables or of the operator sources. replay(root, bundle)
    raises FileNotFoundError where they do not.
    """

    name: str
    title: str
    root: Literal["truth", "sources"]
    replay: Callable[[Path, Bundle], Replay]


def half(*key: object) -> bool:
    """Whether constants may be fitted on a configuration: one half of them, by hash.

    >>> [half("mpt-7b", gpus) for gpus in (8, 16, 32, 64)]
    [True, True, False, True]
    """
    return hashlib.sha256(" ".join(map(str, key)).encode()).digest()[0] % 2 == 0


def private_setting(*settings: str) -> str:
    """Those that are not empty, as one text.

    >>> private_setting("GPTQ weights", "", "ZeRO 3 without prefetch")
    'GPTQ weights; ZeRO 3 without prefetch'
    """
    return SEPARATOR.join(filter(None, settings))


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a published table."""
    return frame.to_dict("records")  # type: ignore[return-value]  # columns are texts


def answers(requests: Sequence[Mapping[str, Any]], bundle: Bundle) -> list[dict[str, Any]]:
    """What a user who writes these rows into a request table gets: results of each, `error` where there is none."""
    return list(answer_rows(requests, bundle))


def replayed(
    rows: Sequence[Row],
    request_of: Callable[[Row], Mapping[str, Any]],
    figures_of: Callable[[Row, Mapping[str, Any]], Iterable[Figure]],
    bundle: Bundle,
    skipped: Mapping[str, int] | None = None,
) -> Replay:
    """The figures of all rows that are answered, and how many are not, by error; skipped: rows left out before."""
    figures, left_out = list[Figure](), Counter(skipped)
    for row, answer in zip(rows, answers([request_of(row) for row in rows], bundle), strict=True):
        if answer["error"]:
            left_out[answer["error"]] += 1
        else:
            figures += figures_of(row, answer)
    return Replay(figures, left_out)


def all_at_once(prompts: int) -> dict[str, Any]:
    """What a request says of so many prompts that are handed to the engine itself from the start."""
    return {"concurrency": prompts, "num_prompts": prompts, "offline": True}


def interval(answer: Mapping[str, Any], name: str) -> Interval:
    """A number of an answer with the ends of its interval."""
    return Interval(answer[name], answer[f"{name}_low"], answer[f"{name}_high"])


def rate(count: float, seconds: Interval) -> Interval:
    """So many per second."""
    return Interval(count / seconds.value, count / seconds.high, count / seconds.low)


def stated_length(model: str, tokens: int) -> dict[str, int]:
    """max_model_len of a request whose sequences are longer than the model was made for, as engines allow."""
    try:
        most = get_model(model).max_len
    except PredictorError:  # what is wrong with its name, the answer says
        return {}
    return {"max_model_len": tokens} if tokens > most else {}


def scaled(part: Interval, share: float) -> Interval:
    """The interval of so many times a number."""
    return Interval(*(end * share for end in part))


def ratio_errors(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Errors of predictions by group, as shares.

    Columns: rows; median, mean and p90 of the absolute error; signed: median of the error; coverage: share of figures
    in their interval; under: share of figures more than 15 % above the prediction; reckoned: median of the absolute
    error of what the back of an envelope says, where that stands beside; where there is a closed form, closed_median
    and closed_mean of its absolute error.
    """
    error = frame["predicted"] / frame["measured"] - 1
    inside = (frame["low"] <= frame["measured"]) & (frame["measured"] <= frame["high"])
    scored = frame.assign(error=error.abs(), signed=error, inside=inside.where(frame["low"].notna()))
    if "closed" in frame and frame["closed"].notna().any():
        scored["closed_error"] = (frame["closed"] / frame["measured"] - 1).abs()
    scored["under"] = frame["measured"] > UNDER * frame["predicted"]
    if "reckoned" in frame:
        scored["reckoned_error"] = (frame["reckoned"] / frame["measured"] - 1).abs()
    cells = scored.groupby(list(by), observed=True)
    columns: dict[str, Any] = {
        "rows": cells["error"].size(),
        "median": cells["error"].median(),
        "mean": cells["error"].mean(),
        "p90": cells["error"].quantile(0.9),
        "signed": cells["signed"].median(),
        "coverage": cells["inside"].mean(),
        "under": cells["under"].mean(),
    }
    if "reckoned_error" in scored:
        columns["reckoned"] = cells["reckoned_error"].median()
    if "closed_error" in scored:
        columns |= {"closed_median": cells["closed_error"].median(), "closed_mean": cells["closed_error"].mean()}
    return pd.DataFrame(columns)
