"""predictor monitor: whether recent measurements still lie in their intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option, Typer

from predictor.cli.common.display import (
    percent,
    say,
    show,
)
from predictor.cli.common.spec import Spec
from predictor.errors import InvalidRequest


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(monitor)


def monitor(
    data: Annotated[Path, Option(metavar="FILE", help="Recent measurements (columns: predictor.measurements.schema).")],
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    spec: Spec = None,
) -> None:
    """Say by family, GPU and engine version whether measurements lie in their intervals; status 1 if not."""
    from predictor.estimators.bundle import load_bundle
    from predictor.learning.monitor import monitor as monitored
    from predictor.measurements.runs import holds_runs

    if holds_runs(data):
        raise InvalidRequest(f"{data} holds whole runs; `predictor evaluate {data}` compares them.")
    opened = load_bundle(bundle)
    groups = monitored(data, opened)
    show(
        ["family", "phase", "GPU", "engine", ">rows", ">error", ">signed", ">in interval", ""],
        [
            [
                str(row["family"]),
                str(row["phase"]),
                str(row["gpu"]),
                f"{row['engine']} {row['engine_version']}".strip(),
                f"{row['rows']:,}",
                percent(row["mape"]),
                percent(row["signed_median"]),
                percent(row["coverage"]),
                "drifted" if row["drifted"] else "",
            ]
            for row in groups.to_dict("records")
        ],
        keys=4,
        title=f"{data} against bundle {opened.id}, whose intervals are at the {opened.level:.0%} level",
    )
    drifted = int(groups["drifted"].sum())
    say(
        f"{drifted} of {len(groups)} drifted: too few rows in their intervals for chance. Calibrate or train with them."
        if drifted
        else f"no drift in {len(groups)} group{'s' * (len(groups) != 1)}."
    )
    if drifted:
        raise typer.Exit(1)
