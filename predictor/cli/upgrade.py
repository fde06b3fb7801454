"""predictor upgrade: other GPUs in place of those one has."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.display import digits, say, show, show_json, show_notes
from predictor.cli.common.prices_option import Prices

if TYPE_CHECKING:
    from predictor.latency.report import Interval
    from predictor.planning.upgrade import Upgrade, Work


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(upgrade)


def upgrade(
    have: Annotated[str, Option(help="The GPUs one has: 8xA100.")],
    consider: Annotated[str, Option(help="Those in their place: 4xH200,8xB200.")],
    mix: Annotated[Path, Option(metavar="MIX.toml", help="[[work]] tables: share, model, columns of a request.")],
    prices: Prices = None,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    json: Annotated[bool, Option("--json", help="Print a JSON array, one object per fleet.")] = False,
) -> None:
    """Other GPUs in place of those one has: ratios of speed, room and cost over a mix of work."""
    from predictor.planning.fleet import fleet
    from predictor.planning.upgrade import read_mix, upgrade

    now, others, works = fleet(have), fleet(consider), read_mix(mix)
    load_xgboost()
    found = upgrade(now[0] if len(now) == 1 else have, others, works, prices=prices or "", bundle=bundle)
    if json:
        show_json([one.row() for one in found])
        return
    _show(found, works, now[0].text)
    show_notes(some.note for some in (*now, *others) if some.note)


def _show(found: list[Upgrade], works: list[Work], have: str) -> None:
    several = works if len(works) > 1 else []
    show(
        ["in its place", ">speed", *(f">{work.name}" for work in several), ">memory", ">USD/h", ">USD/token"],
        [
            [
                one.fleet.some.text,
                _times(one.speed),
                *(_times(one.of_each.get(work.name)) for work in several),
                f"{digits(one.room)} ×",
                "–" if one.cost is None else f"{digits(one.cost)} ×",
                _times(one.cost_per_token),
            ]
            for one in found
        ],
        title=f"over {have}, as ratios",
    )
    for one in found:
        if one.why:
            say(f"{one.fleet.some.text}: {one.why}")
    for one in found:
        if one.fleet.offer:
            say(f"Note: {one.fleet.offer.told}.")


def _times(ratio: Interval | None) -> str:
    return "–" if ratio is None else f"{digits(ratio.value)} × ({digits(ratio.low)}–{digits(ratio.high)})"
