"""--spec GPU.toml: GPUs that the catalogue lacks, for commands that read measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

from predictor.hardware.gpu import add_gpus


def _added(files: list[Path] | None) -> list[Path] | None:
    add_gpus(*(files or ()))
    return files


Spec = Annotated[
    list[Path] | None,
    Option("--spec", metavar="GPU.toml", callback=_added, help="Describes a GPU that the catalogue lacks."),
]
