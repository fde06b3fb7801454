"""--plot FILE: a picture beside what a command prints; what cannot be written is said before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from predictor.cli.common.display import say


def _checked(file: Path | None) -> Path | None:
    if file is None:
        return None
    from predictor.plotting.canvas import check_plot

    return check_plot(file)


Plot = Annotated[
    Path | None,
    Option("--plot", metavar="FILE.{png,svg}", callback=_checked, help="Draw it too (extra: plot)."),
]


def say_plotted(file: Path, json: bool = False) -> None:
    """Say where the picture is, but for --json, beside which nothing is printed."""
    if not json:
        say(f"Picture: {file}")
