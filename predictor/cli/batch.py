"""predictor batch: a table of requests into a table of answers."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from predictor.cli.boosters import load_xgboost
from predictor.cli.display import percent

if TYPE_CHECKING:
    from predictor.batch import Summary


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(batch)


def batch(
    source: Annotated[str, Argument(metavar="INPUT", help="Parquet or CSV file, a folder of them, or an fsspec URL.")],
    *,
    out: Annotated[str, Option(help="A .parquet or .csv file, or a folder of parts.")],
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    strict: Annotated[bool, Option("--strict", help="Stop at the first row that cannot be answered.")] = False,
    jobs: Annotated[int, Option(help="Processes; 0: one for each core.")] = 0,
    rows_per_part: Annotated[int, Option(help="Rows that are predicted and written together.")] = 5000,
    backend: Annotated[str, Option(help="What the processes are: loky (of this machine), dask or ray.")] = "loky",
    scheduler: Annotated[str, Option(help="Dask's, such as tcp://host:8786; by default one is started here.")] = "",
    address: Annotated[str, Option(help="Ray's, such as ray://host:10001; by default one is started here.")] = "",
    quiet: Annotated[bool, Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Answer every row of a table; the columns are those of `predictor predict`. Started again, it goes on."""
    from predictor.batch import run

    load_xgboost()
    progress = _Progress(quiet)
    try:
        summary = run(
            source,
            out,
            bundle=bundle,
            strict=strict,
            n_jobs=jobs,
            rows_per_part=rows_per_part,
            backend=backend,
            scheduler=scheduler,
            address=address,
            seen=progress,
        )
    finally:
        progress.close()
    if not quiet:
        _show(summary, out, progress.seconds)
    if summary.failed:
        raise Exit(1)


def _show(summary: Summary, out: str, seconds: float) -> None:
    rate = summary.rows / seconds if seconds else 0.0
    kept = f", {summary.kept} of {summary.parts} parts kept from before" if summary.kept else ""
    print(f"{summary.rows:,} rows in {seconds:.1f} s ({rate:,.0f} a second){kept}: {out}")
    if answered := summary.rows - summary.failed:
        print(f"{percent(summary.unseen / answered)} of the answers are for GPUs that were not measured.")
    if summary.failed:
        print(f"{summary.failed:,} rows have an error:")
        from predictor.batch import KINDS_SHOWN

        for kind, count in summary.kinds.most_common(10):
            print(f"  {count:>8,}  {kind}{'…' if len(kind) >= KINDS_SHOWN else ''}")


class _Progress:
    """Shows how far a job is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self.began = self.told = time.monotonic()
        self.quiet = quiet
        self.bar: Any = None
        self.task: Any = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def __call__(self, summary: Summary) -> None:
        if self.quiet:
            return
        said = f"{summary.rows:,} rows, {summary.rows / self.seconds:,.0f} a second, {summary.failed:,} errors"
        if sys.stderr.isatty():
            self._bar(said)
        elif time.monotonic() - self.told > 10:
            self.told = time.monotonic()
            print(said, file=sys.stderr)

    def _bar(self, said: str) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        if self.bar is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
            self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(said, total=None)
        self.bar.update(self.task, description=said)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
