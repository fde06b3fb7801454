"""predictor calibrate: rows measured on one's own GPU in, a bundle that knows them out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option, Typer

from predictor.cli.common.display import (
    percent,
    say,
    show,
    show_notes,
)
from predictor.cli.common.spec import Spec


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(calibrate)


def calibrate(
    data: Annotated[
        Path, Option(metavar="FILE", help="Measured rows, Parquet or CSV (columns: predictor.measurements.schema).")
    ],
    out: Annotated[Path, Option(metavar="DIR", help="Folder of the new bundle.")],
    bundle: Annotated[str, Option(help='Released bundle or folder of one; "default": the newest.')] = "default",
    spec: Spec = None,
) -> None:
    """Correct a bundle by 20 to 200 measured rows per operator of one GPU or engine.

    The rows are kept in the new bundle; calibrated again, it keeps them and takes the new ones besides.
    """
    from predictor.estimators.bundle import load_bundle
    from predictor.learning.calibrate import FEWEST_CALIBRATION_ROWS, calibrate as calibrated

    opened = load_bundle("" if bundle == "default" else bundle)
    made, lines = calibrated(data, opened, out)
    show(
        ["op", "GPU", ">rows", ">uncalibrated", ">calibrated"],
        [
            [
                line["estimator"],
                line["gpu"],
                f"{line['rows']:,}",
                *(percent(line[name]) if line["used"] else "too few" for name in ("mape_before", "mape_after")),
            ]
            for line in lines.to_dict("records")
        ],
        keys=2,
        title="mean error on the rows; calibrated: each row predicted from the others",
    )
    if not lines["used"].all():
        show_notes([f"an operator needs {FEWEST_CALIBRATION_ROWS} rows of a GPU; those with fewer are left out."])
    if count := int(lines["nameless"].sum()):
        show_notes(
            [f"{count:,} rows state no engine that estimators know; they count as those that `predict` asks for."]
        )
    say(f'bundle {made.id} in {out}; use it with --bundle "{out}"')
