"""predictor champion: which bundle is the champion, and every decision that led there."""

from __future__ import annotations

from typer import Typer

from predictor.cli.common.display import (
    say,
    show,
    show_json,
)
from predictor.cli.common.store import Json, StoreFolder, say_left_behind
from predictor.estimators.store import PROMOTE, REFUSE, Decision, decisions, store_folder


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(champion)


def champion(store: StoreFolder = None, as_json: Json = False) -> None:
    """Show the bundle that --bundle champion opens, and the decisions that led there."""
    from predictor.registry.promotion import champion_bundle, name_of

    folder = store_folder(store or "")
    opened, history = champion_bundle(folder), decisions(folder)
    name = name_of(opened)
    if as_json:
        own = {"id": name.id, "sha256": name.sha256, "folder": str(opened.path)}
        show_json({"champion": own, "decisions": [decision.to_json() for decision in history]})
        return
    if history:
        show(
            ["time (UTC)", "decision", "candidate", ">cells", ">reasons", "champion", "note"],
            [_line(decision) for decision in history],
            title=f"Decisions in {folder}",
        )
    say(f"champion: {name} in {opened.path}" + ("" if history else "; nothing was ever promoted or refused."))
    say_left_behind(folder)


def _line(made: Decision) -> list[str]:
    action = "forced" if made.forced else made.action
    judged = made.action in (PROMOTE, REFUSE)
    counts = [str(made.cells), str(len(made.reasons))] if judged else ["", ""]
    note = "; ".join(filter(None, (made.forced, made.note)))
    return [made.time[:19].replace("T", " "), action, str(made.candidate), *counts, str(made.after), note]
