"""Choices as points: what GPUs, plans or models cost or give, against their latencies, the front joined."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.latency.report import Interval
from predictor.planning.pareto import pareto_front
from predictor.plotting.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SKY,
    Axes,
    Label,
    basis_text,
    drawn,
    mark,
    place_labels,
    plain_numbers,
    say_below,
)

if TYPE_CHECKING:
    from predictor.planning.answers import Planned
    from predictor.planning.quality import Judged
    from predictor.planning.ranking import Compared

# What is known of a GPU → colour, marker and words.
BASES: Mapping[str, tuple[str, str, str]] = {
    "calibrated-gpu": (GREEN, "^", "GPU calibrated"),
    "seen-gpu": (BLUE, "o", "GPU measured"),
    "unseen-gpu": (ORANGE, "D", "GPU not measured"),
    "engine-rates": (SKY, "s", "rates of the engine"),
    "bound-only": (RED, "v", "bound only"),
}
MS = 1e3
REACH = 2.0  # times beyond the outermost value, where the end of an interval is cut
TIMES = {"tpot_s": "TPOT, ms", "ttft_s": "TTFT, ms", "step_s": "step, ms"}
FIGURES = {
    "usd_per_mtok": "USD per million tokens",
    "usd_per_million_inputs": "USD per million images or sequences",
    "inputs_per_s": "images or sequences per second",
    "usd_per_hour": "USD per hour",
    "e2e_s": "time to the last token, s",
    "tokens_per_s": "tokens per second",
    "tokens_per_s_per_gpu": "tokens per second of a GPU",
    "tokens_per_s_per_w": "tokens per second of a watt",
    "sustainable_rate": "requests per second that are held",
    "max_concurrent_requests": "requests that have room at once",
    **TIMES,
}


class Point(NamedTuple):
    """A choice. text: beside it. basis: a key of BASES. solid: its marker is filled."""

    text: str
    x: Interval
    y: Interval
    basis: str
    solid: bool = True


def ranking_picture(model: str, ranked: Sequence[Compared], sort: str, bundle: str, level: float, file: Path) -> int:
    """Write the figure by which GPUs are ranked against a latency; returns how many points there are.

    A hollow marker: what does not fit in memory. Raises InvalidRequest where no GPU has both.
    """
    from predictor.planning.ranking import ORDERS

    time = next((name for name in TIMES if name != sort and any(one.interval(name) for one in ranked)), "")
    points = []
    for one in ranked:
        x, y = (one.interval(time) if time else None), one.interval(sort)
        if x is None or y is None:
            continue
        scale = MS if sort in TIMES else 1.0
        name = one.gpu.name if one.row["n_gpus"] == 1 else f"{one.row['n_gpus']} × {one.gpu.name}"
        points.append(Point(name, _times(x, MS), _times(y, scale), one.row["basis"], bool(one.row["fits"])))
    if not points:
        raise InvalidRequest(f"no GPU has both {sort} and a latency; --plot has nothing to draw.")
    without = len(ranked) - len(points)
    with drawn(file, 10.5, 6.8) as figure:
        axes = figure.subplots()
        axes.set_title(f"{model}: {FIGURES[sort]} against latency", loc="left", fontsize=11)
        rises = ORDERS[sort].rises
        _draw(axes, points, rises)
        one_pass = any(one.row.get("inputs") for one in ranked)
        axes.set(xlabel="latency, ms" if one_pass else TIMES[time], ylabel=FIGURES[sort])
        figure.legend(handles=_legend(points, "hollow: does not fit in memory"), loc="outside right upper")
        missing = f"Not drawn: {without} GPUs without {FIGURES[sort]}." if without else ""
        say_below(figure, basis_text(bundle, level), missing)
        _name(axes, points, rises)
    return len(points)


def plans_picture(title: str, planned: Planned, level: float, file: Path) -> int:
    """Write what plans cost against TTFT p99 and TPOT, with what is promised; returns how many points a panel has.

    Of plans without a price the number of GPUs stands for it, where none has one.
    """
    priced = [plan for plan in planned.plans if plan.usd_per_hour is not None]
    plans = priced or list(planned.plans)
    if not plans:
        raise InvalidRequest("no plan starts; --plot has nothing to draw.")
    ylabel = "USD per hour, whole instances" if priced else "GPUs (no price is listed)"
    times = {"ttft_p99_s": "TTFT p99, ms", "tpot_s": "TPOT, ms"}
    names = {name: number for number, name in enumerate((plan.text for plan in plans), 1)}
    with drawn(file, 12.5, 5.2) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
        every: list[list[Point]] = []
        for axes, (name, text) in zip(panels, times.items(), strict=True):
            points = []
            for plan in plans:
                cost = plan.usd_per_hour if priced else float(plan.deployment.n_gpus)
                x = _times(getattr(plan.deployment.served, name), MS)
                assert cost is not None
                points.append(
                    Point(str(names[plan.text]), x, Interval(cost, cost, cost), plan.report.basis, plan.holds)
                )
            _draw(axes, points, rises=False)
            if name in planned.level.promised:
                _promise(axes, MS * planned.level.promised[name])
            axes.set_xlabel(text)
            every.append(points)
        panels[0].set_ylabel(ylabel)
        marks = _legend(every[0], f"hollow: holds with less than {planned.sure:.0%}")
        if planned.level.promised:
            marks.append(mark("what is promised", color=RED, linestyle="--", linewidth=1.3))
        marks += [mark(f"{number}: {name}", linestyle="") for name, number in names.items()]
        figure.legend(handles=marks, loc="outside right upper", fontsize=7.5)
        left_out = len(planned.plans) - len(plans)
        missing = f"Not drawn, as no price is listed: {left_out} plans." if left_out else ""
        say_below(figure, basis_text(planned.bundle, level), missing)
        for axes, points in zip(panels, every, strict=True):
            _name(axes, points, rises=False)
    return len(plans)


def quality_picture(judged: Sequence[Judged], axis: str, rises: bool, bundle: str, level: float, file: Path) -> int:
    """Write scores against price and against latency; returns how many points there are.

    Crosses: the standard error of a score, the interval of a price or a latency.
    """
    figures = {"usd_per_mtok": (1.0, "USD per million tokens"), "tpot_s": (MS, "TPOT, ms")}
    panels_of: dict[str, list[Point]] = {}
    for name, (scale, _) in figures.items():
        points = []
        for one in judged:
            x, y = one.interval(name), one.quality
            if x is None or y is None:
                continue
            error = one.quality_stderr or 0.0
            points.append(Point(one.text, _times(x, scale), Interval(y, y - error, y + error), str(one.row["basis"])))
        if points:
            panels_of[name] = points
    if not panels_of:
        raise InvalidRequest("no row has both a score and a price or a latency; --plot has nothing to draw.")
    with drawn(file, 5.0 * len(panels_of) + 1.6, 4.8) as figure:
        panels = figure.subplots(1, len(panels_of), sharey=True, squeeze=False)[0]
        figure.suptitle(f"quality: {axis}", fontsize=11, x=0.01, ha="left")
        for axes, (name, points) in zip(panels, panels_of.items(), strict=True):
            _draw(axes, points, rises, log_y=False)
            axes.set_xlabel(figures[name][1])
        panels[0].set_ylabel("quality")
        some = next(iter(panels_of.values()))
        figure.legend(handles=_legend(some, ""), loc="outside right upper")
        say_below(figure, basis_text(bundle, level), "Upright lines are one standard error of the score.")
        for axes, points in zip(panels, panels_of.values(), strict=True):
            _name(axes, points, rises)
    return max(map(len, panels_of.values()))


def _promise(axes: Axes, most: float) -> None:
    """A line at what is promised; beyond it the picture is tinted."""
    low, high = axes.get_xlim()
    high = max(high, 1.25 * most)
    axes.set_xlim(min(low, most / 1.25), high)
    axes.axvline(most, color=RED, linestyle="--", linewidth=1.3)
    axes.axvspan(most, high, color=RED, alpha=0.07, linewidth=0)
    plain_numbers(axes.xaxis)


def _times(interval: Interval, factor: float) -> Interval:
    return Interval(*(end * factor for end in interval))


def _draw(axes: Axes, points: Sequence[Point], rises: bool, log_y: bool = True) -> None:
    """Points with crosses. rises: more of y is better; less of x always is."""
    for point in points:
        color, marker, _ = BASES.get(point.basis, BASES["bound-only"])
        axes.plot([point.x.low, point.x.high], [point.y.value] * 2, color=color, linewidth=0.9, alpha=0.75)
        axes.plot([point.x.value] * 2, [point.y.low, point.y.high], color=color, linewidth=0.9, alpha=0.75)
        axes.plot(
            point.x.value,
            point.y.value,
            marker,
            color=color,
            markerfacecolor=color if point.solid else "white",
            markeredgecolor="black" if point.solid else color,
            markeredgewidth=0.6 if point.solid else 1.3,
            markersize=6.5,
            zorder=3,
        )
    line = sorted((p.x.value, p.y.value) for p, on in zip(points, _best(points, rises), strict=True) if on)
    if len(line) > 1:
        xs, ys = zip(*line, strict=True)
        axes.step(xs, ys, where="post", color=GREY, linewidth=1.1, zorder=1)
    axes.set_xscale("log")
    axes.set_xlim(_ends([point.x for point in points]))
    plain_numbers(axes.xaxis)
    if log_y and min(end for point in points for end in point.y) > 0:
        axes.set_yscale("log")
        axes.set_ylim(_ends([point.y for point in points]))
        plain_numbers(axes.yaxis)
    axes.grid(alpha=0.25)


def _best(points: Sequence[Point], rises: bool) -> list[bool]:
    """Of each point whether it is on the front of the panel."""
    sign = -1.0 if rises else 1.0
    return pareto_front([(point.x.value, sign * point.y.value) for point in points])


def _name(axes: Axes, points: Sequence[Point], rises: bool) -> None:
    """Write the texts beside their points, those of the front first; in a crowd some find no place."""
    ordered = sorted(zip(_best(points, rises), points, strict=True), key=lambda pair: not pair[0])
    place_labels(axes, [Label(point.x.value, point.y.value, point.text) for _, point in ordered])


def _ends(figures: Sequence[Interval]) -> tuple[float, float]:
    """Ends of a logarithmic axis with room for labels; intervals are cut that go far beyond all values."""
    low = max(min(figure.low for figure in figures), min(figure.value for figure in figures) / REACH)
    high = min(max(figure.high for figure in figures), max(figure.value for figure in figures) * REACH)
    room = max((high / low) ** 0.06, math.sqrt(2.0) if high / low < 2 else 1.0)
    return low / room, high * room


def _legend(points: Sequence[Point], hollow: str) -> list[Any]:
    marks = [
        mark(text, marker=marker, color=color, markeredgecolor="black", linestyle="", markersize=6.5)
        for basis, (color, marker, text) in BASES.items()
        if any(point.basis == basis for point in points)
    ]
    if hollow and not all(point.solid for point in points):
        marks.append(
            mark(
                hollow,
                marker="o",
                color="white",
                markeredgecolor=GREY,
                markeredgewidth=1.3,
                linestyle="",
                markersize=6.5,
            )
        )
    return [*marks, mark("nothing is better in both", color=GREY, linewidth=1.1)]
