"""How far predictions are from whole runs: TTFT, TPOT, E2E and throughput, by model, GPU and engine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import InvalidTable
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import get_gpu
from predictor.measurements.checks import usable
from predictor.measurements.runs import MEASURED, asked_of, check, read_runs
from predictor.prediction.frames import predict_frame
from predictor.workloads.models import get_model

GROUP = ["model", "gpu", "engine", "figure"]
FOLLOWS = "tokens_per_s of a stated request rate that is kept up with: it follows from the rate, not from the bundle"


def run_errors(table: Path | str, bundle: Bundle) -> tuple[pd.DataFrame, Counter[str]]:
    """A line per model, gpu, engine and figure of the accepted runs, and why others have no prediction.

    Throughput under a request rate that is kept up with is that rate whatever the predictor says; such figures count
    in neither error nor coverage, and are counted under FOLLOWS.

    Columns: rows, mape, signed_median (predicted over measured, less 1), coverage of the interval.
    """
    kept = usable(check(read_runs(table)))
    if kept.empty:
        raise InvalidTable(f"{table} has no usable run; `predictor check {table}` says why.")
    rows: list[dict[str, Any]] = kept.to_dict("records")  # type: ignore[assignment]  # names are texts
    answers = predict_frame(pd.DataFrame([asked_of(row) for row in rows]), bundle)
    unpredicted = Counter(str(error) for error in answers["error"] if pd.notna(error))
    kept = kept.reset_index(drop=True).assign(
        model=[get_model(name).name for name in kept["model"]], gpu=[get_gpu(name).name for name in kept["gpu"]]
    )
    parts = [_figure(kept, answers, name) for name in MEASURED]
    follows = int((_follows(kept, answers) & kept["measured_tokens_per_s"].notna()).sum())
    unpredicted += Counter({FOLLOWS: follows})
    told = pd.concat(parts, ignore_index=True)
    if told.empty:
        why = "; ".join(unpredicted)
        raise InvalidTable(f"{table} has no run that bundle {bundle.id} predicts: {why.rstrip('.')}.")
    group = told.groupby(GROUP, sort=False)
    errors = pd.DataFrame(
        {
            "rows": group.size(),
            "mape": group["ape"].mean(),
            "signed_median": group["signed"].median(),
            "coverage": group["covered"].mean(),
        }
    )
    return errors.reset_index(), unpredicted


def _figure(measured: pd.DataFrame, answers: pd.DataFrame, name: str) -> pd.DataFrame:
    """The runs that have a figure, measured and predicted."""
    figure = name.removeprefix("measured_")
    truth = measured[name]
    predicted, low, high = (pd.to_numeric(answers[f"{figure}{end}"]) for end in ("", "_low", "_high"))
    told = truth.notna() & predicted.notna()
    if figure == "tokens_per_s":
        told &= ~_follows(measured, answers)
    inside: Any = ((low <= truth) & (truth <= high)).astype(float)
    signed = predicted / truth - 1
    frame = measured[["model", "gpu", "engine"]].assign(figure=figure, ape=signed.abs(), signed=signed, covered=inside)
    return frame[told]


def _follows(measured: pd.DataFrame, answers: pd.DataFrame) -> pd.Series:
    """Which runs have a stated request rate that the prediction keeps up with."""
    saturated = answers["saturated"].map(lambda cell: cell is True or cell == 1).astype(bool)
    return measured["request_rate"].fillna(0).gt(0) & ~saturated & answers["tokens_per_s"].notna()
