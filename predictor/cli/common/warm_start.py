"""What `predictor train --start` prints: what was learned, and what would be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from predictor.cli.common.display import percent, show

if TYPE_CHECKING:
    import pandas as pd

    from predictor.learning.recipe import Recipe
    from predictor.learning.train import Run

MOST = 10  # cells that are listed
ERRORS = ("before", "after")


def train_from(start: str, tables: Sequence[Path], recipe: Recipe, out: Path) -> Run:
    """Make a bundle from another one and new tables, and say what became of both."""
    from predictor.estimators.bundle import load_bundle
    from predictor.learning.continual.warm_start import warm_start

    opened = load_bundle("" if start == "default" else start)
    made = warm_start(tables, opened, recipe, out)
    _show_learned(made.learned, opened.id)
    if len(made.forgotten):
        _show_forgotten(made.forgotten)
    print(_verdict(made.learned, made.forgotten))
    return made.run


def _show_learned(learned: pd.DataFrame, known: str) -> None:
    show(
        ["op", "GPU", "engine", "dtype", ">rows", ">held out", ">before", ">after"],
        [
            [
                str(row["estimator"]),
                str(row["gpu"]),
                str(row["engine"]),
                str(row["dtype"]),
                f"{row['rows']:,}",
                f"{row['held']:,}",
                *(percent(row[name]) if row[name] == row[name] else "–" for name in ERRORS),
            ]
            for row in learned.to_dict("records")
        ],
        keys=4,
        title=f"learned: mean error on new rows that were held out; before: bundle {known}",
    )


def _show_forgotten(forgotten: pd.DataFrame) -> None:
    most = forgotten.assign(share=forgotten["mean"] / forgotten["error"]).nlargest(MOST, "share")
    show(
        ["op", "GPU", "engine", "dtype", ">moved by", ">1 in 10 by", ">error before"],
        [
            [
                str(row["estimator"]),
                str(row["gpu"]),
                str(row["engine"]),
                str(row["dtype"]),
                *(percent(row[name]) for name in ("mean", "p90", "error")),
            ]
            for row in most.to_dict("records")
        ],
        keys=4,
        title="forgotten: how far known predictions moved, most for their error first",
    )


def _verdict(learned: pd.DataFrame, forgotten: pd.DataFrame) -> str:
    known = learned.dropna(subset=["before", "after"])
    before, after = (percent(float((known[name] * known["held"]).sum() / known["held"].sum())) for name in ERRORS)
    gained = f"Error of new rows {before}, now {after}. " if len(known) else ""
    if not len(forgotten):
        return f"{gained}What was forgotten cannot be told."
    beyond = int((forgotten["mean"] > forgotten["error"]).sum())
    moved = f"What was known moved by {percent(float(forgotten['mean'].mean()))} on average"
    cells = f"{len(forgotten)} cells of GPU, engine and dtype"
    if beyond:
        return f"{gained}{moved}, and {beyond} of {cells} by more than their error: train from all tables for those."
    return f"{gained}{moved}, and none of {cells} by more than its error."
