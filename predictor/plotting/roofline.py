"""The roofline of a GPU with the operators of a workload under it.

Williams, Waterman & Patterson, Roofline, CACM 52(4), 2009. The roofs are what bounds a prediction: the arithmetic peak
at the highest clock, and the bandwidths of memory and of the last-level cache, above memory's roof for what fits there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from predictor.hardware.roofline import CACHE_BYTES_PER_SM_CYCLE, unit_rate, units
from predictor.latency.report import OpLine
from predictor.plotting.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ON_LINES,
    ORANGE,
    PINK,
    RED,
    SKY,
    YELLOW,
    Axes,
    Label,
    mark,
    one_decade_at_least,
    place_labels,
    plain_numbers,
)

if TYPE_CHECKING:
    from predictor.hardware.gpu import Gpu
    from predictor.latency.explain import Other

# Operator family → colour and marker.
FAMILIES: Mapping[str, tuple[str, str]] = {
    "gemm": (BLUE, "o"),
    "attention": (ORANGE, "s"),
    "mla": (SKY, "v"),
    "moe": (GREEN, "^"),
    "conv": (PINK, "P"),
    "pointwise": (RED, "D"),
}
ELSE = (YELLOW, "X")
# Phases of which a marker is filled; others are hollow.
FILLED = ("prefill", "forward")
NAMED = 6  # operators whose name stands beside the point, the longest first
LEAST_AREA, MOST_AREA = 12.0, 320.0
TERA, GIGA = 1e12, 1e9


class Point(NamedTuple):
    """An operator. intensity: FLOPs per byte moved. flop_per_s: achieved. share: of the time of its phase."""

    name: str
    family: str
    phase: str
    intensity: float
    flop_per_s: float
    share: float


def points_of(lines: Iterable[OpLine | Other]) -> tuple[list[Point], float]:
    """The operators that do arithmetic, and the share of all time that the others take."""
    every = [line for line in lines if line.latency_s.value > 0]
    whole: dict[str, float] = {}
    for line in every:
        whole[line.phase] = whole.get(line.phase, 0.0) + line.latency_s.value
    points = []
    drawn_s = 0.0
    for line in every:
        flops = _flops(line) if isinstance(line, OpLine) else 0.0
        if not isinstance(line, OpLine) or not flops or not line.bytes_moved:
            continue
        seconds = line.latency_s.value
        drawn_s += seconds
        points.append(
            Point(
                line.name,
                line.op.family,
                line.phase,
                flops / line.bytes_moved,
                flops / seconds,
                seconds / whole[line.phase],
            )
        )
    total = sum(whole.values())
    return points, 1 - drawn_s / total if total else 0.0


def _flops(line: OpLine) -> float:
    """Of all calls of an operator."""
    return float(np.sum(line.op.flops()) * line.count)


def draw_roofs(axes: Axes, gpu: Gpu, lines: Sequence[OpLine | Other], title: str) -> str:
    """Roofs and operators. Returns what to say below."""
    points, apart = points_of(lines)
    rates = _roofs(gpu, lines)
    cache = CACHE_BYTES_PER_SM_CYCLE * gpu.sms * gpu.max_clock_hz
    peak = max(rates.values(), default=gpu.peak_at_max_clock("bf16") if gpu.runs("bf16") else gpu.peak("fp32"))
    ridge = peak / gpu.mem_bytes_per_s
    xs = [point.intensity for point in points] or [ridge]
    low, high = one_decade_at_least(min([*xs, ridge / 4]), 5 * max([*xs, ridge * 4]))
    x = np.geomspace(low, high, 200)
    for row, (name, rate) in enumerate(sorted(rates.items(), key=lambda pair: -pair[1])):
        axes.plot(x, np.minimum(x * gpu.mem_bytes_per_s, rate) / TERA, color=BLACK, linewidth=1.3, zorder=1)
        text = f"{name}: {rate / TERA:,.0f} TFLOP/s"
        below = 3 - 12 * (row > 0)
        where = {"textcoords": "offset points", "ha": "right", "fontsize": 7.5, "bbox": ON_LINES}
        axes.annotate(text, (high, rate / TERA), (-2, below), **where)
    axes.plot(x, np.minimum(x * cache, peak) / TERA, color=GREY, linewidth=0.9, linestyle=":", zorder=1)
    by_area = sorted(points, key=lambda point: -point.share)
    for point in by_area:
        color, marker = FAMILIES.get(point.family, ELSE)
        area = LEAST_AREA + (MOST_AREA - LEAST_AREA) * point.share
        face = color if point.phase in FILLED else "white"
        axes.scatter(
            point.intensity,
            point.flop_per_s / TERA,
            s=area,
            marker=marker,
            facecolor=face,
            edgecolor="black" if point.phase in FILLED else color,
            linewidth=0.6 if point.phase in FILLED else 1.4,
            zorder=3,
        )
    ys = [point.flop_per_s / TERA for point in points] or [peak / TERA]
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(min(ys) / 2.5, peak / TERA * 4))
    for axis in (axes.xaxis, axes.yaxis):
        plain_numbers(axis)
    axes.set_xlabel("arithmetic intensity, FLOP per byte")
    axes.set_ylabel("achieved, TFLOP/s")
    axes.set_title(title, loc="left")
    axes.grid(alpha=0.25)
    memory = f"slope: memory, {gpu.mem_bytes_per_s / GIGA:,.0f} GB/s; dotted: cache, {cache / GIGA:,.0f} GB/s"
    left_out = f" Not drawn, as without arithmetic: {apart:.0%} of the time." if apart > 5e-3 else ""
    return f"{gpu.name}, {memory}.{left_out}"


def name_points(axes: Axes, lines: Iterable[OpLine | Other]) -> None:
    """Write the names of the operators that take longest, when all else of the picture is drawn."""
    by_area = sorted(points_of(lines)[0], key=lambda point: -point.share)
    at = [Label(point.intensity, point.flop_per_s / TERA, point.name) for point in by_area]
    place_labels(axes, at[:NAMED], at[NAMED:])


def _roofs(gpu: Gpu, lines: Iterable[OpLine | Other]) -> dict[str, float]:
    """FLOP/s at the highest clock of the units that run the operators which do arithmetic."""
    used = {unit for line in lines if isinstance(line, OpLine) and _flops(line) for unit in units(line.op, gpu)}
    return {unit: gpu.peak_at_max_clock(unit) if unit in gpu.peak_flop_per_s else unit_rate(gpu, unit) for unit in used}


def legend(lines: Iterable[OpLine | Other]) -> list[Any]:
    """Markers that occur."""
    points, _ = points_of(lines)
    known = [family for family in FAMILIES if any(point.family == family for point in points)]
    known += sorted({point.family for point in points} - {*known})
    marks = []
    for family in known:
        color, marker = FAMILIES.get(family, ELSE)
        marks.append(mark(family, marker=marker, color=color, markeredgecolor="black", linestyle="", markersize=7))
    phases = list(dict.fromkeys(point.phase for point in points))
    for phase in phases:
        face = "#999999" if phase in FILLED else "white"
        marks.append(
            mark(
                f"{phase} ({'filled' if phase in FILLED else 'hollow'})",
                marker="o",
                color=face,
                markeredgecolor=BLACK,
                linestyle="",
                markersize=7,
            )
        )
    return [*marks, mark("area: share of the phase's time", marker="", linestyle="")] if marks else []
