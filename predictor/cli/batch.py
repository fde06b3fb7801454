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


LEFT_OUT = {"unfit": "as they do not fit in memory", "invalid": "as they cannot be answered"}


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
    ops: Annotated[bool, Option("--ops", help="Rows are operator calls (predictor.schema), not requests.")] = False,
    rows_per_part: Annotated[
        int, Option(help="Rows that are predicted and written together; 0: 5,000 requests or 200,000 operators.")
    ] = 0,
    quiet: Annotated[bool, Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Answer every row of a table; the columns are those of `predictor predict`. Started again, it goes on."""
    from predictor.batch import OPERATORS, REQUESTS, run

    load_xgboost()
    progress = Progress(quiet)
    try:
        summary = run(
            source,
            out,
            bundle=bundle,
            strict=strict,
            n_jobs=jobs,
            rows_per_part=rows_per_part,
            kind=OPERATORS if ops else REQUESTS,
            seen=progress,
        )
    finally:
        progress.close()
    if not quiet:
        show_summary(summary, out, progress.seconds)
    if summary.failed:
        raise Exit(1)


def show_summary(summary: Summary, out: str, seconds: float) -> None:
    """Print what became of a job."""
    rate = summary.rows / seconds if seconds else 0.0
    kept = f", {summary.kept} of {summary.parts} parts kept from before" if summary.kept else ""
    print(f"{summary.rows:,} rows in {seconds:.1f} s ({rate:,.0f} a second){kept}: {out}")
    for reason, count in summary.dropped.items():
        print(f"{count:,} rows are left out, {LEFT_OUT[reason]}.")
    if answered := summary.rows - summary.failed - sum(summary.dropped.values()):
        print(f"{percent(summary.unseen / answered)} of the answers are for GPUs that were not measured.")
    if summary.kinds:
        print(f"{sum(summary.kinds.values()):,} rows {'have' if summary.failed else 'had'} an error:")
        from predictor.batch import KINDS_SHOWN

        for kind, count in summary.kinds.most_common(10):
            print(f"  {count:>8,}  {kind}{'…' if len(kind) >= KINDS_SHOWN else ''}")


class Progress:
    """Shows how far a job is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self.began = self.told = time.monotonic()
        self.quiet = quiet
        self.bar: Any = None
        self.task: Any = None

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.monotonic() - self.began

    def __call__(self, summary: Summary) -> None:
        """Show it; called after each part."""
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
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
