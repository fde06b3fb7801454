"""predictor calibrate: operators or whole runs measured on one's own GPU in, a bundle that knows them out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option, Typer

from predictor.cli.common.display import digits, duration, percent, say, show, show_notes
from predictor.cli.common.spec import Spec
from predictor.cli.evaluate import FIGURES

if TYPE_CHECKING:
    from predictor.estimators.bundle import Bundle


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(calibrate)


def calibrate(
    data: Annotated[
        Path,
        Option(
            metavar="FILE",
            help="Measured rows, Parquet or CSV: operators (columns: predictor.measurements.schema), or whole runs "
            "(predictor.measurements.runs), as `predictor ingest` writes them.",
        ),
    ],
    out: Annotated[Path, Option(metavar="DIR", help="Folder of the new bundle.")],
    bundle: Annotated[str, Option(help='Released bundle or folder of one; "default": the newest.')] = "default",
    spec: Spec = None,
) -> None:
    """Correct a bundle by rows measured on one's own GPU: 20 to 200 per operator, or some whole runs.

    The rows are kept in the new bundle; calibrated again, it keeps them and takes the new ones besides.
    """
    from predictor.estimators.bundle import load_bundle
    from predictor.measurements.runs import holds_runs

    opened = load_bundle("" if bundle == "default" else bundle)
    made = _by_runs(data, opened, out) if holds_runs(data) else _by_operators(data, opened, out)
    say(f'bundle {made.id} in {out}; use it with --bundle "{out}"')


def _by_runs(data: Path, bundle: Bundle, out: Path) -> Bundle:
    """Calibrate by whole runs, and show what was predicted of each before and after."""
    from predictor.learning.own_runs import calibrate_by_runs

    made, lines = calibrate_by_runs(data, bundle, out)
    show(
        ["run", "figure", ">measured", ">uncalibrated", ">calibrated"],
        [
            [
                str(line["run"]),
                FIGURES[line["figure"]],
                _figure(line["figure"], line["measured"]),
                *(f"{_figure(line['figure'], line[name])} ({_off(line, name)})" for name in ("before", "after")),
            ]
            for line in lines.to_dict("records")
        ],
        title="runs as they were predicted; calibrated: with all runs, that one too",
    )
    for held in made.own_runs.told():
        say(held)
    return made


def _figure(name: str, value: float) -> str:
    return digits(value) if name.endswith("per_s") else duration(value)


def _off(line: Mapping[Any, Any], name: str) -> str:
    return f"{line[name] / line['measured'] - 1:+.0%}"


def _by_operators(data: Path, bundle: Bundle, out: Path) -> Bundle:
    """Calibrate by operators, and show the errors on them before and after."""
    from predictor.learning.calibrate import FEWEST_CALIBRATION_ROWS, calibrate as calibrated

    made, lines = calibrated(data, bundle, out)
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
    return made
