"""predictor plan: which GPUs, how many, and how they are set, to serve a load within what is promised."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.display import (
    BASES,
    digits,
    duration,
    duration_interval,
    percent,
    risk_of,
    say,
    show,
    show_json,
)
from predictor.cli.common.plot_option import Plot, say_plotted
from predictor.cli.common.prices_option import Prices
from predictor.cli.common.request_options import add_command, stated
from predictor.errors import InvalidRequest
from predictor.planning.columns import DECIDED, listed, listed_tps
from predictor.planning.service import LABELS
from predictor.values import share_text

if TYPE_CHECKING:
    from predictor.planning.answers import Plan, Planned
    from predictor.planning.pools import Pooled

LOST_SHOWN = 8  # reasons
NAMED = 3  # GPUs of one reason


def add(app: Typer) -> None:
    """Add the command, with an option for every column of a request that a plan does not decide."""
    add_command(app, "plan", _plan, without=DECIDED)


def _plan(
    model: Annotated[str, Argument(help="Model name, hub id, or path of a config.json.")],
    *,
    gpus: Annotated[str, Option(help="all, a segment (data-centre …), or names, some counted: H100,8xH200.")] = "all",
    ttft_p99: Annotated[float, Option(help="Seconds to the first token that 99 in 100 requests keep.")] = math.inf,
    tpot: Annotated[float, Option(help="Seconds between tokens, in the mean.")] = math.inf,
    e2e: Annotated[float, Option(help="Seconds to the last token, in the mean.")] = math.inf,
    p_slo: Annotated[float, Option(help="Probability with which these are kept.")] = 0.8,
    max_gpus: Annotated[int, Option(help="GPUs at most, in all.")] = 0,
    budget: Annotated[float, Option(help="USD per hour at most.")] = math.inf,
    dtype: Annotated[str, Option(help="Number formats to try: bf16,fp8; by default the model's, and fp8.")] = "",
    engine: Annotated[str, Option(help="Engines to try; by default what suits the GPU, and others of the best.")] = "",
    tp: Annotated[str, Option(help="GPUs that share each layer, to try: 1,2,4; by default from the fewest.")] = "",
    prices: Prices = None,
    top: Annotated[int, Option(help="Plans that are shown.")] = 10,
    jobs: Annotated[int, Option(help="Processes; 0: one for each core.")] = 0,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    json: Annotated[bool, Option("--json", help="Print JSON: plans, what lost and why, the nearest target.")] = False,
    plot: Plot = None,
    write: Annotated[
        Path | None,
        Option(metavar="DIR", help="Write each plan: commands, manifests, and the benchmark that checks it."),
    ] = None,
    force: Annotated[bool, Option("--force", help="Write over the plans in DIR.")] = False,
    phase: Annotated[str, Option(hidden=True)] = "",
    train_tokens: Annotated[float, Option(hidden=True)] = 0.0,
    **columns: Any,
) -> None:
    """Which GPUs, how many, and how they are set, to serve a load within what is promised, at the least cost."""
    from joblib import cpu_count

    from predictor.planning.deployment import plan
    from predictor.planning.launch.folder import check_place, written

    if phase or train_tokens:
        raise InvalidRequest(
            "a plan is of a service. For the hours, cost and P(OOM) of a training on each GPU ask "
            f"`predictor compare {model} --phase train --train-tokens {train_tokens or 1e9:g}`."
        )
    if write:
        check_place(write, force)
    if top < 1:
        raise InvalidRequest(f"top is {top}; it must be at least 1.")
    load_xgboost()
    planned = plan(
        model,
        gpus,
        ttft_p99_s=ttft_p99,
        tpot_s=tpot,
        e2e_s=e2e,
        p_slo=p_slo,
        max_gpus=max_gpus,
        usd_per_hour=budget,
        dtypes=listed(dtype),
        engines=listed(engine),
        tps=listed_tps(tp),
        prices=prices or "",
        bundle=bundle,
        shown=top,
        jobs=jobs or cpu_count(),
        **stated(columns),
    )
    names = written(planned, write, force) if write and planned.plans else []
    if json:
        show_json(planned.to_dict())
    else:
        _show(model, planned)
        if names:
            say(f"{len(names)} plans in {write}: start {names[0]}/run.sh there, and check it with benchmark.sh.")
    if plot:
        from predictor.estimators.bundle import load_bundle
        from predictor.plotting import plans_picture

        plans_picture(f"{model} · {planned.load}", planned, load_bundle(bundle).level, plot)
        say_plotted(plot, json)
    if not planned.holds:
        raise Exit(1)


def _show(model: str, planned: Planned) -> None:
    told = [f"{LABELS[name]} ≤ {duration(seconds)}" for name, seconds in planned.level.promised.items()]
    if planned.plans:
        _show_plans(planned, f"{model} · {' · '.join([planned.load, *told, f'with {share_text(planned.sure)}'])}")
        _show_best(planned.plans[0])
    for said in dict.fromkeys(said for one in planned.plans for said in one.row()["published"]):
        say(f"Published: {said}.")
    for pools in planned.pools:
        say(_of_pools(pools))
    if planned.nearest:
        say(f"Nothing holds; {planned.nearest}")
    _show_lost(planned)
    for note in planned.notes:
        say(f"Note: {note}")
    say(f"{planned.screened} replicas screened, {planned.simulated} simulated. Bundle {planned.bundle}.")


def _show_plans(planned: Planned, title: str) -> None:
    show(
        ["plan", ">$/h", ">$/Mtok", ">holds", ">TTFT p99", ">TPOT", ">users each", ">P(OOM)", "front", "basis", "why"],
        [
            [
                plan.text,
                digits(plan.usd_per_hour) if plan.usd_per_hour is not None else "–",
                digits(row["usd_per_mtok"]) if row["usd_per_mtok"] is not None else "–",
                percent(row["p_slo"]) if plan.holds else f"{percent(row['p_slo'])} (NO)",
                duration_interval(*plan.deployment.served.ttft_p99_s),
                duration_interval(*plan.deployment.served.tpot_s),
                digits(plan.users),
                risk_of(row["p_oom"]),
                "yes" if plan.front else "",
                BASES.get(row["basis"], row["basis"]),
                plan.why,
            ]
            for plan in planned.plans
            if (row := plan.row())
        ],
        title=title,
    )
    say(
        "$/Mtok: of a million tokens that come out, GPUs in whole instances. holds: probability that all is kept. "
        "users each: requests under way in a replica."
    )


def _of_pools(pools: Pooled) -> str:
    """What prefill and decode on GPUs of their own would take."""
    row, one = pools.row(), pools.candidate
    price = f", {digits(row['usd_per_hour'])} $/h" if row["usd_per_hour"] is not None else ""
    return (
        f"Disaggregated: {row['prefill_workers']} prefill and {row['decode_workers']} decode workers of {one.text}"
        f"{price}: TTFT p99 {duration_interval(*pools.ttft_p99_s)}, TPOT {duration_interval(*pools.pools.tpot_s)}, "
        f"kept with {percent(row['p_slo'])}."
    )


def _show_best(best: Plan) -> None:
    row = best.row()
    if best.offer:
        say(f"Price: {best.offer.told}.")
    say(f"Start each replica: {row['command']}")
    for note in row["notes"]:
        say(f"Note: {note}")
    say(f"Ask again: {row['predict']}")


def _show_lost(planned: Planned) -> None:
    """GPUs without a plan, each with the reason that comes last, of its narrowest format; first those that start."""
    planned_for = {plan.deployment.candidate.gpu.name for plan in planned.plans}
    told_last = {lost.gpu: lost for lost in planned.lost if lost.gpu not in planned_for}
    why = {gpu: lost.why for gpu, lost in sorted(told_last.items(), key=lambda pair: not pair[1].n_gpus)}
    alike: dict[str, list[str]] = {}
    for gpu, told in why.items():
        alike.setdefault(told, []).append(gpu)
    for told, gpus in list(alike.items())[:LOST_SHOWN]:
        others = len(gpus) - NAMED
        say(f"{', '.join(gpus[:NAMED])}{f' and {others} more' if others > 0 else ''}: {told}")
    if more := sum(len(gpus) for gpus in list(alike.values())[LOST_SHOWN:]):
        say(f"{more} more GPU{'s have' if more > 1 else ' has'} none; --json says why of each.")
