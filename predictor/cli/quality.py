"""predictor quality: scores that lm-evaluation-harness measured, beside what serving each model costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from predictor.boosters import load_xgboost
from predictor.cli.common.display import digits, duration_interval, gigabytes, risk_of, say, show, show_json, show_notes
from predictor.cli.common.plot_option import Plot, say_plotted
from predictor.cli.common.prices_option import Prices
from predictor.cli.common.request_options import add_command, stated
from predictor.planning.columns import SCORED

if TYPE_CHECKING:
    from predictor.latency.report import Interval
    from predictor.planning.evaluations import Score
    from predictor.planning.quality import Judged, Quality

TASKS_SHOWN = 6


def add(app: Typer) -> None:
    """Add the command, with an option for every column of a request that the files do not say."""
    add_command(app, "quality", _quality, without=SCORED)


def _quality(
    files: Annotated[list[Path], Argument(metavar="RESULT.json…", help="Files that lm-evaluation-harness wrote.")],
    *,
    gpu: Annotated[list[str], Option(help="GPU name, maybe with a count: 2xL4; repeat to compare.")],
    task: Annotated[
        list[str] | None, Option(help="TASK[:METRIC[,FILTER]] that is the quality; repeat for a mean. All in common.")
    ] = None,
    as_: Annotated[
        list[str] | None, Option("--as", metavar="FILE=MODEL:DTYPE", help="What a file is of, where it cannot be told.")
    ] = None,
    prices: Prices = None,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    json: Annotated[bool, Option("--json", help="Print JSON: rows with all scores, and notes.")] = False,
    plot: Plot = None,
    **columns: Any,
) -> None:
    """Scores of models, as lm-evaluation-harness wrote them, beside cost, latency and memory."""
    from predictor.estimators.bundle import load_bundle
    from predictor.planning.quality import quality

    opened = load_bundle(bundle)
    load_xgboost()
    found = quality(
        files,
        ",".join(gpu),
        tasks=task or (),
        stated=as_ or (),
        prices=prices or "",
        bundle=opened,
        **stated(columns),
    )
    if json:
        show_json(found.to_dict())
    else:
        _show(found)
        say(f"Bundle {opened.id}; in brackets the interval at the {opened.level:.0%} level; ±: standard error.")
        show_notes(found.notes)
    if plot:
        from predictor.plotting import quality_picture

        text, rises = (found.axis.text, found.axis.rises) if found.axis else ("quality", True)
        quality_picture(found.rows, text, rises, opened.id, opened.level, plot)
        say_plotted(plot, json)


def _show(found: Quality) -> None:
    tasks, gpus = found.heads[:TASKS_SHOWN], list(dict.fromkeys(row.gpus for row in found.rows))
    heads = ["model", "dtype", *(["GPU"] if len(gpus) > 1 else [])]
    told = [found.axis.text] if found.axis else []
    show(
        [
            *(*heads, ">quality", *(f">{task}" for task in tasks)),
            *(">$/Mtok", ">TTFT", ">TPOT", ">memory", "P(OOM)", "front"),
        ],
        [[*_names(row)[: len(heads)], *_cells(row, found, tasks)] for row in found.rows],
        title=" · ".join([*(f"quality: {text}" for text in told), *(gpus if len(gpus) == 1 else [])]),
        keys=len(heads),
    )
    if left := found.heads[TASKS_SHOWN:]:
        say(f"{len(left)} more tasks have scores, which --json has: {', '.join(left[:8])}{' …' * (len(left) > 8)}.")
    if any(row.front for row in found.rows):
        say("front: nothing is better, cheaper and faster between tokens.")
    for row in found.rows:
        if error := row.row.get("error"):
            say(f"{row.evaluated.name}, {row.evaluated.format}: {error}")
    if found.audits:
        _show_audits(found)


def _names(row: Judged) -> list[str]:
    return [row.evaluated.name, row.evaluated.format, row.gpus]


def _cells(row: Judged, found: Quality, tasks: Sequence[str]) -> list[str]:
    told = [_value(row.quality, row.quality_stderr, found.axis.scale if found.axis else 1.0)]
    told += [_score(row.evaluated.main(task)) for task in tasks]
    if row.row.get("error"):
        return [*told, "–", "–", "–", "–", "–", ""]
    times = [duration_interval(*time) if (time := row.interval(name)) else "–" for name in ("ttft_s", "tpot_s")]
    return [
        *told,
        _figure(row.interval("usd_per_mtok")),
        *times,
        f"{gigabytes(row.row['memory_bytes'])} GB",
        risk_of(row.row["p_oom"], row.row["fits"], row.row.get("max_concurrent_requests")),
        "yes" if row.front else "",
    ]


def _figure(figure: Interval | None) -> str:
    return f"{digits(figure.value)} ({digits(figure.low)}–{digits(figure.high)})" if figure else "–"


def _score(score: Score | None) -> str:
    """A score with its standard error and shots; "–" where there is none."""
    if score is None:
        return "–"
    shots = "" if score.shots is None else f", {score.shots}-shot"
    return f"{_value(score.value, score.stderr, score.scale)}{shots}"


def _value(value: float | None, error: float | None, scale: float) -> str:
    if value is None:
        return "–"
    places = 1 if scale > 1 else 3
    return f"{value:.{places}f}" + (f" ± {error:.{places}f}" if error is not None else "")


def _show_audits(found: Quality) -> None:
    """Every figure of an audit of bias, once for each model and format."""
    rows = []
    for one in {id(row.evaluated): row.evaluated for row in found.rows}.values():
        for score in one.scores:
            if score.task in found.audits:
                better = {True: "more is better", False: "less is better", None: "–"}[score.rises]
                neutral = better if score.neutral is None else f"{score.neutral:g} is neutral"
                rows.append([one.name, one.format, score.name, _score(score), neutral])
    title = "Audits of bias, no part of quality"
    show(["model", "dtype", "audit", ">value", "read as"], rows, title=title, keys=2)
