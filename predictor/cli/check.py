"""predictor check: which rows of a measurement table obey physics, and why the others do not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from predictor.cli.display import percent, show
from predictor.cli.spec import Spec
from predictor.files import needs_folder, whole

NUMBER = r"(?<!\S)\d[\d.,]*(?=\s)"  # reasons that differ in a number only are counted together


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(check)


def check(
    table: Annotated[Path, Argument(help="Parquet or CSV file of measurements (columns: predictor.schema).")],
    out: Annotated[
        Path | None, Option(metavar="CHECKED.parquet", help="Write all rows with status and reason.")
    ] = None,
    spec: Spec = None,
) -> None:
    """Which rows of a table obey physics, and why not."""
    from predictor.checks import check as checked_rows
    from predictor.schema import read_table

    if out is not None:
        needs_folder(out)
    checked = checked_rows(read_table(table))
    kinds = checked.assign(reason=checked["reason"].str.replace(NUMBER, "…", regex=True))
    counts = kinds.groupby(["status", "reason"], observed=True).size().rename("rows").reset_index()
    show(
        [">rows", ">share", "status", "reason"],
        [
            [f"{line['rows']:,}", percent(line["rows"] / len(checked)), str(line["status"]), str(line["reason"])]
            for line in counts.sort_values("rows", ascending=False).to_dict("records")
        ],
        title=f"{table}: {len(checked):,} rows",
    )
    if out is not None:
        with whole(out) as partial:
            checked.to_parquet(partial, index=False)
        print(f"{len(checked):,} rows in {out}")
