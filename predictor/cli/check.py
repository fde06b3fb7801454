"""predictor check: which rows of a table obey physics, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option, Typer

from predictor.cli.common.display import (
    percent,
    row_count,
    say,
    show,
)
from predictor.cli.common.spec import Spec
from predictor.errors import InvalidRequest
from predictor.files import needs_folder, whole_file

if TYPE_CHECKING:
    import pandas as pd

WRITTEN = (".parquet", ".csv")
Page = Annotated[Path | None, Option("--report", metavar="DOCTOR.html", help="Write the verdicts as an HTML page.")]


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(check)


def check(
    table: Annotated[
        Path,
        Argument(help="Parquet or CSV of measured operator calls, or of whole runs."),
    ],
    out: Annotated[
        Path | None, Option(metavar="CHECKED.parquet", help="Write all rows with status and reason (.parquet, .csv).")
    ] = None,
    report: Page = None,
    spec: Spec = None,
) -> None:
    """Which rows of a table obey physics, and why not."""
    from predictor.measurements.verdicts import checked_table

    need_folders(out, report)
    checked = checked_table(table)
    show_verdicts(checked, str(table))
    write_verdicts(checked, str(table), out, report)


def need_folders(out: Path | None, report: Path | None) -> None:
    """Raise where a file that is to be written has no folder."""
    for file, option in ((out, "--out"), (report, "--report")):
        if file is not None:
            needs_folder(file, option)
    if out is not None and out.suffix.casefold() not in WRITTEN:
        raise InvalidRequest(f"--out is {out}; its name must end in {' or '.join(WRITTEN)}.")


def show_verdicts(checked: pd.DataFrame, title: str) -> None:
    """Print how many rows are accepted, flagged or rejected, and why."""
    from predictor.measurements.verdicts import reasons

    show(
        [">rows", ">share", "status", "reason"],
        [
            [f"{line['rows']:,}", percent(line["share"]), str(line["status"]), str(line["reason"])]
            for line in reasons(checked)
        ],
        title=f"{title}: {row_count(len(checked))}",
    )


def write_verdicts(
    checked: pd.DataFrame, title: str, out: Path | None, report: Path | None, unread: Sequence[str] = ()
) -> None:
    """Write the checked rows and the page, where they are asked for."""
    if out is not None:
        with whole_file(out) as draft:
            if out.suffix.casefold() == ".csv":
                checked.to_csv(draft, index=False)
            else:
                checked.to_parquet(draft, index=False)
        say(f"{row_count(len(checked))} in {out}")
    if report is not None:
        from predictor.measurements.verdicts import page

        with whole_file(report) as draft:
            draft.write_text(page(checked, title, unread), encoding="utf-8")
        say(f"the page is {report}")
