"""--truth and --sources: where what others measured lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

Truth = Annotated[Path, Option(metavar="FOLDER", envvar="PREDICTOR_TRUTH", help="Folder of the published tables.")]
Sources = Annotated[Path, Option(metavar="FOLDER", envvar="PREDICTOR_DATA", help="Folder of the operator sources.")]
TRUTH, SOURCES = Path("../shared/truth"), Path("../shared/sources")  # by default
