"""Options of commands that change or show the champion: where it is kept, and MLflow's registry beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

if TYPE_CHECKING:
    from predictor.estimators.store import Decision
    from predictor.registry.promotion import Registry

StoreFolder = Annotated[
    Path | None,
    Option(
        "--store",
        metavar="DIR",
        help="Folder of promoted bundles and decisions; by default PREDICTOR_STORE, else the user's folder of data.",
    ),
]
TrackingUri = Annotated[
    str,
    Option(
        envvar="MLFLOW_TRACKING_URI", help="MLflow server whose registry has the bundle and the alias champion too."
    ),
]
ModelName = Annotated[str, Option(help="Name of the model in that registry.")]
Note = Annotated[str, Option(help="Text that is recorded with the decision.")]
Json = Annotated[bool, Option("--json", help="Print JSON.")]


def registry_of(tracking_uri: str, name: str) -> Registry | None:
    """The registry that the options name."""
    from predictor.registry.promotion import Registry

    return Registry(tracking_uri, name) if tracking_uri else None


def say_registry(decision: Decision) -> None:
    """Where the alias of the registry is now."""
    if entry := decision.registry:
        print(f"models:/{entry['name']}@champion at {entry['tracking_uri']} is version {entry['version']}.")


def say_left_behind(store: Path) -> None:
    """Note on stderr where the alias of a registry is at another bundle than the champion."""
    from predictor.registry.promotion import left_behind

    if note := left_behind(store):
        print(f"Note: {note}", file=sys.stderr)
