"""predictor compare: one question put to many GPUs, ranked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from typer import Argument, Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.display import (
    BASES,
    LIMITERS,
    digits,
    duration_interval,
    percent,
    risk_of,
    say,
    show,
    show_json,
    show_notes,
)
from predictor.cli.common.plot_option import Plot, say_plotted
from predictor.cli.common.prices_option import Prices
from predictor.cli.common.request_options import add_command, stated
from predictor.errors import InvalidRequest
from predictor.workloads.architectures.single_pass import IMAGES

if TYPE_CHECKING:
    from predictor.latency.report import Interval
    from predictor.planning.ranking import Compared

REFUSED_SHOWN = 8
TIMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "step_s": "step"}
WHOLE = {"train_hours": "hours", "train_usd": "USD in all"}  # of a training with a length


def add(app: Typer) -> None:
    """Add the command, with an option for every column of a request."""
    add_command(app, "compare", _compare, without=("n_gpus",))


def _compare(
    model: Annotated[str, Argument(help="Model name, hub id, or path of a config.json.")],
    *,
    gpus: Annotated[str, Option(help="all, a segment (data-centre …), or names, some counted: A100,8xH100.")] = "all",
    sort: Annotated[str, Option(help="usd_per_mtok, tokens_per_s, ttft_s, tpot_s, tokens_per_s_per_w …")] = "",
    fit_only: Annotated[bool, Option("--fit-only", help="Only GPUs with room in memory.")] = False,
    top: Annotated[int, Option(help="GPUs that are shown; 0: all of them.")] = 30,
    prices: Prices = None,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    json: Annotated[bool, Option("--json", help="Print a JSON array, one object per GPU, best first.")] = False,
    plot: Plot = None,
    **columns: Any,
) -> None:
    """One question put to many GPUs: ranked, with the probability that one beats the next."""
    from predictor.planning.ranking import compare

    if top < 0:
        raise InvalidRequest(f"top is {top}; it must be at least 1, or 0 for all.")
    load_xgboost()
    ranked = compare(model, gpus, sort=sort, fit_only=fit_only, prices=prices or "", bundle=bundle, **stated(columns))
    answered = [one for one in ranked if not one.row["error"]]
    if json:
        show_json([one.to_dict() for one in ranked])
    else:
        _show_all(model, ranked, answered, top)
    if plot:
        from predictor.estimators.bundle import load_bundle
        from predictor.planning.ranking import usual_order
        from predictor.plotting import ranking_picture

        opened = load_bundle(bundle)
        ranking_picture(model, answered[: top or None], sort or usual_order(ranked), opened.id, opened.level, plot)
        say_plotted(plot, json)


def _show_all(model: str, ranked: Sequence[Compared], answered: Sequence[Compared], top: int) -> None:
    """The table of the first, and how many more there are, with an answer and without."""
    if answered:
        _show(model, answered[: top or None])
    else:
        say("No GPU has room; without --fit-only they are ranked all the same.")
    if len(answered) > top > 0:
        say(f"{len(answered) - top} more GPUs have an answer; --top 0 shows all.")
    refused = [one for one in ranked if one.row["error"]]
    for one in refused[:REFUSED_SHOWN]:
        say(f"{one.gpu.name}: {one.row['error']}")
    if (more := len(refused) - REFUSED_SHOWN) > 0:
        say(f"{more} more GPUs have no answer; --json says why of each.")


class _Unit(NamedTuple):
    """What is counted. price, rate, per_w: names of figures. name: of the rate; of: of what a price is."""

    price: str
    rate: str
    per_w: str
    name: str
    of: str


TOKENS = _Unit("usd_per_mtok", "tokens_per_s", "tokens_per_s_per_w", "tokens", "$/Mtok")
INPUTS = _Unit("usd_per_million_inputs", "inputs_per_s", "inputs_per_s_per_w", "images", "$/M images")


def _show(model: str, ranked: Sequence[Compared]) -> None:
    inputs = next((name for one in ranked if (name := one.row.get("inputs"))), "")
    unit, latencies = INPUTS if inputs == IMAGES else TOKENS, {"e2e_s": "latency"} if inputs else TIMES
    shown, whole = ([name for name in of if any(one.interval(name) for one in ranked)] for of in (latencies, WHOLE))
    beside = {INPUTS.rate: f"{inputs}/s"} if inputs and unit is TOKENS else {}
    show(
        [
            *("GPU", f">{unit.of}", ">beats next", f">{unit.name}/s"),
            *(f">{name}" for name in beside.values()),
            *(f">{latencies[name]}" for name in shown),
            *(f">{WHOLE[name]}" for name in whole),
            *("P(OOM)", "limited by", f">{unit.name}/s/W", ">$/h", ">even at $/h each", "basis"),
        ],
        [
            [
                one.gpu.name if one.row["n_gpus"] == 1 else f"{one.row['n_gpus']} × {one.gpu.name}",
                _number(one.interval(unit.price)),
                "–" if one.p_beats_next is None else percent(one.p_beats_next),
                _number(one.interval(unit.rate)),
                *(_number(one.interval(name)) for name in beside),
                *(duration_interval(*times) if (times := one.interval(name)) else "–" for name in shown),
                *(_number(one.interval(name)) for name in whole),
                risk_of(one.row["p_oom"], one.row["fits"], one.row.get("max_concurrent_requests")),
                LIMITERS.get(one.row["limiter"], one.row["limiter"]),
                _number(one.interval(unit.per_w), ends=False),
                "–" if one.row["usd_per_hour"] is None else digits(one.row["usd_per_hour"]),
                "–" if one.break_even_usd_per_hour is None else digits(one.break_even_usd_per_hour),
                BASES.get(one.row["basis"], one.row["basis"]),
            ]
            for one in ranked
        ],
        title=model,
    )
    does = (
        "go in"
        if inputs
        else "are trained on"
        if any(one.row.get("phase") == "train" for one in ranked)
        else "come out"
    )
    what = unit.name if inputs == IMAGES else f"tokens that {does}"
    say(f"{unit.of}: of a million {what}, GPUs in whole instances. beats next: probability.")
    show_notes(f"{one.gpu.name}: {one.offer.told}." for one in ranked[:3] if one.offer and one.offer.price.source)
    for said in dict.fromkeys(said for one in ranked for said in one.published):
        say(f"Published: {said}.")


def _number(figure: Interval | None, ends: bool = True) -> str:
    if figure is None:
        return "–"
    return digits(figure.value) + (f" ({digits(figure.low)}–{digits(figure.high)})" if ends else "")
