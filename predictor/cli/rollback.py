"""predictor rollback: back to the champion before."""

from __future__ import annotations

from typer import Typer

from predictor.cli.common.display import show_json
from predictor.cli.common.store import (
    Json,
    ModelName,
    Note,
    StoreFolder,
    TrackingUri,
    registry_of,
    say_left_behind,
    say_registry,
)
from predictor.estimators.store import store_folder


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(rollback)


def rollback(
    note: Note = "",
    store: StoreFolder = None,
    tracking_uri: TrackingUri = "",
    name: ModelName = "gpu-predictor",
    as_json: Json = False,
) -> None:
    """Go back to the champion before the last promotion, and once more to the one before that; recorded."""
    from predictor.registry.promotion import rollback as rolled_back

    folder = store_folder(store or "")
    decision = rolled_back(folder, note, registry_of(tracking_uri, name))
    if as_json:
        show_json(decision.to_json())
    else:
        print(f"rolled back: the champion is {decision.after} again, no longer {decision.before}.")
        say_registry(decision)
    say_left_behind(folder)
