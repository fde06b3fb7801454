"""predictor promote: a candidate becomes the champion, unless a cell of its ledger is worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option, Typer

from predictor.cli.common.display import (
    percent,
    say,
    show,
    show_json,
)
from predictor.cli.common.spec import Spec
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
from predictor.errors import InvalidRequest
from predictor.estimators.store import PROMOTE, Decision, store_folder

if TYPE_CHECKING:
    import pandas as pd

    from predictor.registry.comparison import Comparison

SHOWN = 5  # cells that worsened or improved most, and new ones
MOST_REASONS = 20  # on the screen; the store has all
FIGURES = (">champion", ">candidate", ">change", ">allowed")


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(promote)


def promote(
    candidate: Annotated[str, Argument(metavar="CANDIDATE", help="Folder of a bundle, or a released one.")],
    margin: Annotated[float, Option(help="Points of mean error (%) that a cell may worsen by, besides chance.")] = 2.0,
    coverage: Annotated[
        str,
        Option(metavar="LEAST:MOST", help="Coverage of the intervals; by default 0.1 below the level to 0.15 above."),
    ] = "",
    data: Annotated[
        Path | None, Option(metavar="FILE", help="Measured rows, unknown to both bundles, that both are judged on too.")
    ] = None,
    note: Note = "",
    force: Annotated[str, Option(metavar="WHY", help="Promote what is refused, for this reason; recorded.")] = "",
    dry_run: Annotated[bool, Option("--dry-run", help="Say what would be decided; record nothing.")] = False,
    store: StoreFolder = None,
    tracking_uri: TrackingUri = "",
    name: ModelName = "gpu-predictor",
    as_json: Json = False,
    spec: Spec = None,
) -> None:
    """Make a bundle champion if no cell of its ledger is worse than the champion's; status 1 if not.

    The champion is what `--bundle champion` opens: the bundle promoted last, before any the released default.
    """
    from predictor.estimators.bundle import load_bundle
    from predictor.registry.comparison import rules_for
    from predictor.registry.promotion import champion_bundle, decide, forced, judge

    folder = store_folder(store or "")
    champion, opened = champion_bundle(folder), load_bundle(candidate)
    rules = rules_for(champion, margin / 100, *_range(coverage))
    decision, comparison = judge(opened, champion, rules, data)
    decision = replace(forced(decision, force) if force else decision, path=candidate, note=note)
    if not as_json:
        _show(comparison)
    if not dry_run:
        decision = decide(decision, opened, folder, registry_of(tracking_uri, name))
    if as_json:
        show_json(decision.to_json())
    else:
        _say(decision, comparison, dry_run)
    if not dry_run:
        say_left_behind(folder)
    if decision.action != PROMOTE:
        raise typer.Exit(1)


def _range(given: str) -> tuple[float | None, float | None]:
    try:
        low, high = map(float, given.split(":")) if given else (None, None)
    except ValueError:
        raise InvalidRequest(f'coverage is "{given}"; give the least and the most, such as 0.7:0.95.') from None
    return low, high


def _show(comparison: Comparison) -> None:
    common = comparison.common.sort_values("change")
    _show_cells(common[common["change"] > 0][::-1], "Worsened most")
    _show_cells(common[common["change"] < 0], "Improved most")
    _show_cells(comparison.new, "New")
    show(
        ["held out", "operator", ">cells", *FIGURES, ">coverage", ">candidate's"],
        [
            [line["protocol"], line["estimator"], f"{line['cells_after']:.0f}", *_figures(line), *_coverages(line)]
            for line in comparison.means.to_dict("records")
        ],
        keys=2,
        title="Mean over the cells that both have",
    )


def _show_cells(lines: pd.DataFrame, title: str) -> None:
    keys = ("protocol", "estimator", "gpu", "dtype", "engine")
    if len(lines):
        show(
            ["held out", "operator", "GPU", "dtype", "engine", ">rows", *FIGURES, ">coverage", ">candidate's"],
            [
                [*(line[key] for key in keys), f"{line['rows_after']:,.0f}", *_figures(line), *_coverages(line)]
                for line in lines.head(SHOWN).to_dict("records")
            ],
            keys=5,
            title=f"{title} (the first {SHOWN} of {len(lines)} cells)" if len(lines) > SHOWN else title,
        )


def _figures(line: Any) -> tuple[str, ...]:
    change, allowed = (_points(line[key]) for key in ("change", "allowed"))
    return percent(line["mape_before"]), percent(line["mape_after"]), change, allowed


def _coverages(line: Any) -> tuple[str, str]:
    return percent(line["coverage_before"]), percent(line["coverage_after"])


def _points(share: float) -> str:
    return f"{100 * share:+.1f}" if share == share else "–"


def _say(decision: Decision, comparison: Comparison, dry_run: bool) -> None:
    from predictor.registry.comparison import SURE

    low, high = comparison.rules.low, comparison.rules.high
    say(
        f"allowed: {100 * comparison.rules.margin:g} points and {SURE:g} standard errors of mean error; "
        f"intervals that cover {100 * low:g} to {100 * high:g} %, or no worse than the champion's."
    )
    say(
        f"{len(comparison.common)} cells compared: {(comparison.common['change'] > 0).sum()} worsened, "
        f"{(comparison.common['change'] < 0).sum()} improved; {len(comparison.new)} new; "
        f"{len(comparison.reasons)} reasons to refuse."
    )
    for reason in comparison.reasons[:MOST_REASONS]:
        say(f"  {reason}")
    if len(comparison.reasons) > MOST_REASONS:
        say(f"  and {len(comparison.reasons) - MOST_REASONS} more")
    if decision.candidate == decision.before:
        say(f"{decision.candidate} is the champion already; nothing is recorded.")
    elif decision.action == PROMOTE:
        why = f"forced ({decision.forced})" if decision.forced else "no cell is worse by more than is allowed"
        say(f"{'would be promoted' if dry_run else 'promoted'}: {decision.after} after {decision.before}; {why}.")
        say_registry(decision)
    else:
        verb = "would be refused" if dry_run else "refused"
        say(f"{verb}: {decision.candidate}; the champion stays {decision.before}.")
