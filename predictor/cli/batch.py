"""predictor batch: a table of requests into a table of answers."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.display import percent, row_count, say
from predictor.cli.common.prices_option import Prices

if TYPE_CHECKING:
    from predictor.prediction.jobs.batch import Summary
    from predictor.prediction.jobs.sweep import Grid


SECONDS_BETWEEN_LINES = 10.0
MOST_KINDS = 10  # of errors, that are listed
Backend = Annotated[str, Option(help="What the processes are: loky (of this machine), dask or ray.")]
Scheduler = Annotated[str, Option(help="Dask's, such as tcp://host:8786; by default one is started here.")]
Address = Annotated[str, Option(help="Ray's, such as ray://host:10001; by default one is started here.")]
LEFT_OUT = {"unfit": "as they do not fit in memory", "invalid": "as they cannot be answered"}


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(batch)


def batch(
    source: Annotated[str, Argument(metavar="INPUT", help="Parquet or CSV file, a folder of them, or an fsspec URL.")],
    *,
    out: Annotated[str, Option(help="A .parquet or .csv file, a folder of parts, or an fsspec URL of either.")],
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    strict: Annotated[bool, Option("--strict", help="Stop at the first row that cannot be answered.")] = False,
    jobs: Annotated[int, Option(help="Processes; 0: one for each core.")] = 0,
    ops: Annotated[
        bool, Option("--ops", help="Rows are operator calls (predictor.measurements.schema), not requests.")
    ] = False,
    pools: Annotated[
        bool, Option("--pools", help="Rows are disaggregated servers; columns as options of `predictor disaggregated`.")
    ] = False,
    rows_per_part: Annotated[
        int, Option(help="Rows that are predicted and written together; 0: 5,000 requests or 200,000 operators.")
    ] = 0,
    prices: Prices = None,
    backend: Backend = "loky",
    scheduler: Scheduler = "",
    address: Address = "",
    quiet: Annotated[bool, Option("--quiet", help="No progress, no summary.")] = False,
) -> None:
    """Answer every row of a table; the columns are those of `predictor predict`. Started again, it goes on."""
    from predictor.errors import InvalidRequest
    from predictor.prediction.jobs.batch import OPERATORS, POOLS, REQUESTS

    if ops and pools:
        raise InvalidRequest("--ops and --pools are two kinds of rows; give one of them.")

    run_shown(
        source,
        out,
        quiet,
        bundle=bundle,
        strict=strict,
        n_jobs=jobs,
        rows_per_part=rows_per_part,
        kind=OPERATORS if ops else POOLS if pools else REQUESTS,
        prices=prices or "",
        backend=backend,
        scheduler=scheduler,
        address=address,
    )


def run_shown(source: str | Grid, out: str, quiet: bool, **settings: Any) -> None:
    """Run a job, show how far it is and what became of it; ends with status 1 where a row has an error.

    settings: of predictor.prediction.jobs.batch.run.
    """
    from predictor.prediction.jobs.batch import run

    load_xgboost()
    progress = _Progress(quiet)
    try:
        summary = run(source, out, seen=progress, **settings)
    finally:
        progress.close()
    if not quiet:
        _show(summary, out, progress.seconds)
    if summary.failed:
        raise Exit(1)


def _show(summary: Summary, out: str, seconds: float) -> None:
    """Print what became of a job."""
    rate = summary.made / seconds if seconds else 0.0
    kept = f", {summary.kept} of {summary.parts} parts kept from before" if summary.kept else ""
    say(f"{row_count(summary.rows)} in {seconds:.1f} s ({rate:,.0f} a second){kept}: {out}")
    if summary.damaged:
        say(f"{_parts(summary.damaged)} damaged since and made anew.")
    for reason, count in summary.dropped.items():
        say(f"{count:,} rows are left out, {LEFT_OUT[reason]}.")
    if answered := summary.rows - summary.failed - sum(summary.dropped.values()):
        say(f"{percent(summary.unseen / answered)} of the answers are for GPUs that were not measured.")
    if summary.kinds:
        count = sum(summary.kinds.values())
        verb = "had" if not summary.failed else "has" if count == 1 else "have"
        say(f"{row_count(count)} {verb} an error:")
        from predictor.prediction.jobs.batch import KINDS_SHOWN

        shown = summary.kinds.most_common(MOST_KINDS)
        for kind, times in shown:
            say(f"  {times:>8,}  {kind}{'…' if len(kind) >= KINDS_SHOWN else ''}")
        if rest := count - sum(times for _, times in shown):
            say(f"  {rest:>8,}  others; the column error says why, in full")


class _Progress:
    """Shows how far a job is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self.began = self.told = time.monotonic()
        self.damaged = 0
        self.noted = False
        self.quiet = quiet
        self.bar: Any = None
        self.task: Any = None

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.monotonic() - self.began

    def __call__(self, summary: Summary) -> None:
        """Show it; called first and after each part."""
        if summary.note and not self.noted:
            self.noted = True
            print(f"Note: {summary.note}", file=sys.stderr)
        if self.quiet:
            return
        if summary.folder and not summary.parts:
            self._say(f"Parts are made in {summary.folder} and copied to the URL in the end.")
        if summary.damaged > self.damaged:
            self.damaged = summary.damaged
            self._say(f"{_parts(summary.damaged)} damaged since and made anew.")
        if sys.stderr.isatty():
            self._move(summary)
        elif time.monotonic() - self.told > SECONDS_BETWEEN_LINES:
            self.told = time.monotonic()
            self._say(self._line(summary))

    def _line(self, summary: Summary) -> str:
        rate = summary.made / self.seconds
        done, left = f"{summary.rows:,} rows", ""
        if summary.total:
            done = f"{summary.rows:,} of {summary.total:,} rows"
            left = f", {(summary.total - summary.rows) / rate:,.0f} s left" if rate else ""
        return f"{done}, {rate:,.0f} a second{left}, {_errors(summary)}"

    def _say(self, line: str) -> None:
        if self.bar is None:
            print(line, file=sys.stderr)
        else:
            self.bar.console.print(line)

    def _move(self, summary: Summary) -> None:
        from rich import progress
        from rich.console import Console

        done = f"{summary.rows:,}" + (f" of {summary.total:,}" if summary.total else "")
        line = f"{done} rows · {summary.made / self.seconds:,.0f} a second · {_errors(summary)}"
        if self.bar is None:
            columns = (
                progress.SpinnerColumn(),
                progress.BarColumn(),
                progress.TextColumn("{task.description}"),
                progress.TimeRemainingColumn(),
            )
            self.bar = progress.Progress(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
            self.task = self.bar.add_task(line, total=summary.total)
        self.bar.update(self.task, completed=summary.rows, description=line)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()


def _errors(summary: Summary) -> str:
    count = sum(summary.kinds.values())
    return f"{count:,} error{'s' * (count != 1)}"


def _parts(count: int) -> str:
    return "1 part was" if count == 1 else f"{count} parts were"
