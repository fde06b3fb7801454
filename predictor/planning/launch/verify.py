"""A benchmark's result beside what a plan said: predicted, measured, and whether that lies in the interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.errors import InvalidTable
from predictor.files import read_json
from predictor.measurements.checks import REJECTED
from predictor.measurements.runs import MEASURED
from predictor.workloads.request import Request
from predictor.workloads.results import ENDS

# Columns of a run that a plan knows better than the file of a benchmark.
OF_PLAN = (
    *("model", "gpu", "engine", "dtype", "kv_dtype", "tp", "pp", "dp", "ep", "attention_dp"),
    *("prefix_cache_hit_rate", "draft_tokens", "acceptance"),
)
AGREE = 0.05  # of the load of a run and that of a plan


class Line(NamedTuple):
    """A figure of a run. promised: nan where nothing is. Seconds, or tokens per second."""

    run: int
    figure: str
    predicted: float
    low: float
    high: float
    measured: float
    promised: float = math.nan

    @property
    def inside(self) -> bool:
        """Whether what was measured lies in the interval."""
        return self.low <= self.measured <= self.high

    @property
    def kept(self) -> bool:
        """Whether the run keeps what is promised."""
        return not self.measured > self.promised


def read_plan(path: Path) -> Mapping[str, Any]:
    """A plan.json as `predictor plan --write` makes it; raises InvalidTable."""
    plan: dict[str, Any] = read_json(path, "give a plan.json of `predictor plan --write`", InvalidTable)
    if wrong := _wrong(plan):
        raise InvalidTable(f"{path} is no plan, by its {wrong}; give a plan.json of `predictor plan --write`.")
    Request.of(plan["request"])
    return plan


def _wrong(plan: Any) -> str:
    """What a plan lacks, or has of another kind; "" where it is whole."""
    if not isinstance(plan, dict):
        return "content"
    kinds: dict[str, Any] = {
        "request": dict,
        "promised": dict,
        "gpu": str,
        "bundle": str,
        "n_gpus": int,
        "replicas": int,
    }
    if lacking := [name for name, kind in kinds.items() if not isinstance(plan.get(name), kind)]:
        return lacking[0]
    figures = [name for name in (column.removeprefix("measured_") for column in MEASURED) if name in plan]
    numbers = {f"{name}{end}": plan.get(f"{name}{end}") for name in ("ttft_s", *figures) for end in ENDS}
    numbers |= {f"promised {name}": value for name, value in plan["promised"].items()}
    return next((name for name, value in numbers.items() if not _is_figure(value)), "")


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


def columns_of(plan: Mapping[str, Any]) -> dict[str, str]:
    """What a plan says of how a run was made, as columns of runs."""
    return {name: str(plan["request"][name]) for name in OF_PLAN if name in plan["request"]}


def verified(runs: pd.DataFrame, plan: Mapping[str, Any]) -> tuple[list[Line], list[str]]:
    """Lines of the runs under the load of the plan, and why others are not compared.

    runs: as predictor.measurements.ingest.ingest gives them. plan: as read_plan does.
    """
    request = Request.of(plan["request"])
    arriving = bool(request.request_rate)  # then tokens per second are what comes, no matter how fast
    figures = [name.removeprefix("measured_") for name in MEASURED if not (arriving and "tokens_per_s" in name)]
    promised = plan.get("promised") or {}
    lines: list[Line] = []
    notes: list[str] = []
    rows: list[dict[str, Any]] = runs.to_dict("records")  # type: ignore[assignment]  # names are texts
    for number, row in enumerate(rows, start=1):
        if row["status"] == REJECTED:
            notes.append(f"run {number} is not compared: {row['reason']}.")
        elif other := _other_load(row, request):
            notes.append(f"run {number} is not compared: {other}.")
        else:
            lines += [
                Line(
                    run=number,
                    figure=figure,
                    predicted=plan[figure],
                    low=plan[f"{figure}_low"],
                    high=plan[f"{figure}_high"],
                    measured=row[f"measured_{figure}"],
                    promised=promised.get(figure, math.nan),
                )
                for figure in figures
                if figure in plan and not math.isnan(row[f"measured_{figure}"])
            ]
    return lines, notes


def _other_load(row: Mapping[str, Any], request: Request) -> str:
    """How the load of a run differs from that of a plan; "" where it does not."""
    spread = 0.0 if math.isnan(row["length_spread"]) else row["length_spread"]
    own = 1 - (request.length_spread or 0.0) / 2
    sizes = {
        "requests/s": (row["request_rate"], request.request_rate),
        "clients": (row["concurrency"], float(request.clients)),
    }
    if not request.trace:
        sizes |= {
            "tokens in": (row["input_len"] * (1 - spread / 2), request.input_len * own + request.shared_prefix_len),
            "tokens out": (row["output_len"] * (1 - spread / 2), request.output_len * own),
        }
    for what, (run, planned) in sizes.items():
        run = 0.0 if math.isnan(run) else run
        if abs(run - planned) > AGREE * planned:
            return f"it has {run:.4g} {what}, the plan {planned:.4g}"
    return ""
