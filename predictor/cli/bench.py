"""predictor bench: times operators on the local device, for `predictor calibrate` and `predictor train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, Typer

from predictor.cli.common.display import (
    percent,
    row_count,
    say,
    show,
)
from predictor.cli.common.spec import Spec


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(bench)


def bench(
    out: Annotated[Path, Option(metavar="MINE.parquet", help="Where the measured rows go.")],
    gpu: Annotated[str, Option(help="What the device is: a GPU name or spec file; by default what torch says.")] = "",
    families: Annotated[str, Option(help="Of gemm,attention,pointwise,conv,mla; by default all that run here.")] = "",
    dtypes: Annotated[str, Option(help="Of fp32,fp16,bf16,fp8; by default all that the device has.")] = "",
    budget: Annotated[str, Option(help="Time to spend, such as 5min, 90s or 1h.")] = "5min",
    seed: Annotated[int, Option(help="Of the random shapes.")] = 0,
    shapes: Annotated[
        Path | None, Option(metavar="SHAPES.csv", help="Instead of random ones, such as `predictor suggest` writes.")
    ] = None,
    spec: Spec = None,
) -> None:
    """Time real operators on this machine's device (extra: torch)."""
    from rich.progress import Progress

    from predictor.measurements.bench.run import bench as measured, seconds_of

    seconds = seconds_of(budget)
    with Progress(transient=True) as bar:
        task = bar.add_task("measuring", total=1.0)
        rows = measured(
            out,
            gpu,
            _listed(families),
            _listed(dtypes),
            seconds,
            seed,
            shapes,
            lambda count, share: bar.update(task, completed=share, description=f"{count:,} rows"),
        )
    groups = rows.groupby(["family", "dtype"])["spread"].agg(["size", "median"])
    show(
        ["family", "dtype", ">rows", ">spread"],
        [
            [str(row["family"]), str(row["dtype"]), f"{int(row['size']):,}", percent(row["median"])]
            for row in groups.reset_index().to_dict("records")
        ],
        keys=2,
        title=f"{rows['gpu'].iloc[0]} · torch {rows['engine_version'].iloc[0]}; spread: middle half of the calls",
    )
    say(f"{row_count(len(rows))} in {out}; `predictor check {out}` says which obey physics.")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
