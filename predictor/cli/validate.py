"""predictor validate: replays measured end-to-end figures, from a checkout of the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

from typer import Exit, Option, Typer

from predictor.errors import PredictorError

SCRIPT = Path(__file__).resolve().parents[2] / "training" / "validate.py"


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(validate)


def validate(
    *,
    truth: Annotated[str, Option(help="Folder of the measured tables; by default ../shared/truth.")] = "",
    sources: Annotated[str, Option(help="Folder of the operator sources; by default ../shared/sources.")] = "",
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    only: Annotated[str, Option(help="One module of training/validation, such as memory.")] = "",
    out: Annotated[str, Option(help="Write every replayed row as CSV.")] = "",
) -> None:
    """Replay whole models that others measured, latency and memory, and show the errors."""
    if not SCRIPT.is_file():
        raise PredictorError(f"{SCRIPT} is not there; validation needs a clone of the repository (pip install -e).")
    given = {"truth": truth, "sources": sources, "bundle": bundle, "only": only, "out": out}
    options = [word for name, value in given.items() if value for word in (f"--{name}", value)]
    sys.stdout.flush()
    if status := subprocess.run([sys.executable, str(SCRIPT), *options], check=False).returncode:
        raise Exit(status)
