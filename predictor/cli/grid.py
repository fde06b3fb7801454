"""predictor grid: whether every answer is finite, above its bound, or a clear error."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit, Option, Typer

from predictor.cli.common.display import say, show

if TYPE_CHECKING:
    from predictor.prediction.grid import Tally

PLACES = 100  # half a minute
EVERY_S = 10.0  # how often the terminal is told how far it is
KINDS_SHOWN = 20


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(grid)


def grid(
    *,
    places: Annotated[int, Option(min=1, help="Places drawn at random: a model in a format on a GPU.")] = PLACES,
    every: Annotated[bool, Option("--all", help="All places, of which there are millions.")] = False,
    seed: Annotated[int, Option(help="Of the draw.")] = 0,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
) -> None:
    """Ask every GPU, model and number format in many sizes, served and trained; say which answers are not finite, lie
    below their bound, or are no clear error. Status 1 if any.

    Each place is asked in hundreds of sizes where these are answered together, and in a dozen elsewhere.
    """
    from predictor.estimators.bundle import load_bundle
    from predictor.prediction.grid import Tally, ask, places as of_grid

    opened, tally, asked = load_bundle(bundle), Tally(), 0
    told = time.monotonic()
    for place in of_grid(0 if every else places, seed):
        ask(place, opened, tally)
        asked += 1
        if sys.stderr.isatty() and time.monotonic() - told > EVERY_S:
            told = time.monotonic()
            print(f"{asked:,} places, {tally.answered:,} answers, {tally.broken.total():,} wrong", file=sys.stderr)
    _show(tally, asked)
    if tally.broken:
        raise Exit(1)


def _show(tally: Tally, places: int) -> None:
    refused = tally.refused.total()
    asked = f"{places:,} place{'s' * (places != 1)}, {tally.asked:,} questions"
    say(f"{asked}: {tally.answered:,} answers, {refused:,} clear errors.")
    if refused:
        show([">n", "clear error"], _most(tally.refused), title="what is refused, by kind")
    if not tally.broken:
        say("Every answer is finite and no faster than its bound.")
        return
    show([">n", "wrong"], _most(tally.broken), title="what is wrong")
    for law, example in tally.examples.items():
        say(f"{law}: {example}")


def _most(counts: Mapping[str, int]) -> list[list[Any]]:
    most = sorted(counts.items(), key=lambda pair: -pair[1])
    rest = sum(count for _, count in most[KINDS_SHOWN:])
    others = [[f"{rest:,}", f"others, of {len(most) - KINDS_SHOWN} kinds"]] if rest else []
    return [[f"{count:,}", kind] for kind, count in most[:KINDS_SHOWN]] + others
