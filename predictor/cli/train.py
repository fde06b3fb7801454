"""predictor train: measurement tables in, a bundle of estimators out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from predictor.cli.common.recording import Experiment, NoTrack, Plots, Recording, TrackingUri
from predictor.cli.common.spec import Spec


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    tables: Annotated[list[Path], Argument(metavar="TABLE...", help="Parquet or CSV files of measurements.")],
    out: Annotated[Path, Option(metavar="DIR", help="Folder of the new bundle.")],
    recipe: Annotated[Path, Option(metavar="FILE.toml", help="Settings, such as training/recipe.toml.")],
    start: Annotated[
        str, Option(metavar="BUNDLE", help='Learn on from a bundle, without its tables; "default": the newest.')
    ] = "",
    tune: Annotated[
        int,
        Option(metavar="N", min=0, help="Try N recipes first, on generations held out, and train the best (Optuna)."),
    ] = 0,
    plots: Plots = None,
    tracking_uri: TrackingUri = "",
    experiment: Experiment = "gpu-predictor",
    no_track: NoTrack = False,
    spec: Spec = None,
) -> None:
    """Make a bundle from measurement tables.

    Every GPU generation is held out in turn, which says how accurate the bundle is on GPUs it never saw. With --start
    only new rows are learned, which takes seconds, and what would be forgotten is told.
    """
    from predictor.cli.common.warm_start import train_from
    from predictor.errors import InvalidRequest
    from predictor.learning.recipe import read_recipe
    from predictor.learning.train import train_run

    if start and tune:
        raise InvalidRequest(
            "--tune tries recipes on all rows, of which --start has the new ones; give one of the two."
        )
    settings = read_recipe(recipe)
    recording = Recording(tracking_uri, experiment, not no_track, plots).check()
    run = train_from(start, tables, settings, out) if start else train_run(tables, settings, out, trials=tune)
    print(f'bundle {run.bundle.id} in {out}; use it with --bundle "{out}"')
    recording.record(run)
