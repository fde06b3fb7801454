"""predictor train: measurement tables in, a bundle of estimators out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from predictor.cli.spec import Spec


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(train)


def train(
    tables: Annotated[list[Path], Argument(metavar="TABLE...", help="Parquet or CSV files of measurements.")],
    out: Annotated[Path, Option(metavar="DIR", help="Folder of the new bundle.")],
    recipe: Annotated[Path, Option(metavar="FILE.toml", help="Settings, such as training/recipe.toml.")],
    spec: Spec = None,
) -> None:
    """Make a bundle from measurement tables.

    Every GPU generation is held out in turn, which says how accurate the bundle is on GPUs it never saw.
    """
    from predictor.recipe import read_recipe
    from predictor.train import train as train_bundle

    bundle = train_bundle(tables, read_recipe(recipe), out)
    print(f'bundle {bundle.id} in {out}; use it with --bundle "{out}"')
