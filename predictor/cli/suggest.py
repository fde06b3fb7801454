"""predictor suggest: which shapes to measure next on a GPU, for one workload."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.display import (
    duration,
    percent,
    say,
    show,
)
from predictor.cli.common.request_options import add_command
from predictor.files import needs_folder, whole_file
from predictor.workloads.request import Request

UNSHOWN = ("family", "gpu", "engine", "timing", "predicted_s", "cost_s", "spread_left")


def add(app: Typer) -> None:
    """Add the command, with an option for every column of a request."""
    add_command(app, "suggest", _suggest)


def _suggest(
    *,
    model: Annotated[str, Option(help="Model name, hub id, or path of a config.json.")],
    gpu: Annotated[str, Option(help="GPU name, MIG slice (H100:3g.40gb) or a .toml file.")],
    budget: Annotated[int, Option(help="How many shapes to name.")] = 50,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    out: Annotated[Path | None, Option(metavar="SHAPES.csv", help="Write them, in the columns of a table.")] = None,
    **settings: Any,
) -> None:
    """The shapes that, once measured on a GPU, shrink a workload's interval most per second of GPU time."""
    from predictor.estimators.bundle import load_bundle
    from predictor.learning.suggest import suggest

    if out is not None:
        needs_folder(out)
    request, opened = Request(model=model, gpu=gpu, **settings), load_bundle(bundle)
    load_xgboost()
    shapes = suggest(request, opened, budget)
    rows = shapes.to_dict("records")
    show(
        ["family", "shape", "engine", ">expected", ">to measure", ">spread left"],
        [
            [
                str(row["family"]),
                _shape({str(name): cell for name, cell in row.items()}),
                str(row["engine"]),
                duration(row["predicted_s"]),
                duration(row["cost_s"]),
                percent(row["spread_left"]),
            ]
            for row in rows
        ],
        keys=2,
        title=f"to measure on {rows[0]['gpu']} for {model}; all take {duration(float(shapes['cost_s'].sum()))}",
    )
    say("spread left: standard deviation of the workload's error after this and the rows above, over that before.")
    if out is not None:
        with whole_file(out) as draft:
            shapes.to_csv(draft, index=False)
        say(f"{len(shapes)} shapes in {out}; `predictor bench --shapes {out}` measures them")


def _shape(row: dict[str, Any]) -> str:
    parts = {name: cell for name, cell in row.items() if name not in UNSHOWN and cell == cell and cell != ""}
    return " ".join(cell if isinstance(cell, str) else f"{name}={cell:g}" for name, cell in parts.items())
