"""What a time is made of: bars that follow one another from 0 to the time that is predicted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from predictor.plotting.canvas import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SKY,
    YELLOW,
    Axes,
    mark,
    patch,
)

if TYPE_CHECKING:
    from predictor.latency.explain import Other
    from predictor.latency.report import Interval, OpLine

PARTS = 12  # bars at most; the smallest come together in one of them
SMALL = 0.005  # a share of the whole below which a part has no bar of its own
INSIDE = 0.6  # share of the axis that the lower end needs for the text of the whole to stand before it
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
OTHER, SEVERAL = "host, queue, rest", "several"
# What limits a part → colour, hatch and the words of the legend.
LIMITED: Mapping[str, tuple[str, str, str]] = {
    "compute": (ORANGE, "////", "arithmetic"),
    "memory": (SKY, "", "memory bandwidth"),
    "link": (PINK, "xxxx", "links between GPUs"),
    "power": (YELLOW, "++++", "board power"),
    "launch": (GREEN, "....", "launch floor"),
    SEVERAL: ("white", "", "small parts together"),
    OTHER: ("#BBBBBB", "\\\\\\\\", OTHER),
}


class Step(NamedTuple):
    """A part of a time, seconds. limiter: a key of LIMITED. bound_s: the least it can take."""

    name: str
    seconds: float
    bound_s: float
    limiter: str


def steps_of(lines: Sequence[OpLine | Other]) -> list[Step]:
    """The parts of one time by name, operators first, the longest of each first; they add up to what the lines do."""
    parts: dict[str, Step] = {}
    for line in lines:
        row = line.row()
        name, seconds, limiter = line.name, line.latency_s.value, row["limiter"]
        known = parts.get(name)
        if known is None:
            parts[name] = Step(name, seconds, row["bound_s"], limiter if limiter in LIMITED else OTHER)
        else:
            parts[name] = known._replace(seconds=known.seconds + seconds, bound_s=known.bound_s + row["bound_s"])
    whole = sum(step.seconds for step in parts.values())
    ordered = sorted(parts.values(), key=lambda step: (step.limiter == OTHER, -abs(step.seconds)))
    shown = [step for step in ordered if abs(step.seconds) >= SMALL * whole]
    others = [step for step in shown if step.limiter == OTHER]
    ops = [step for step in shown if step.limiter != OTHER][: PARTS - 1 - len(others)]
    small = [step for step in ordered if step not in (*ops, *others)]
    if not small:
        return [*ops, *others]
    together = Step(
        small[0].name if len(small) == 1 else f"{len(small)} small parts",
        sum(step.seconds for step in small),
        max(sum(step.bound_s for step in small), 0.0),
        SEVERAL,
    )
    return [*ops, together, *others]


def draw_waterfall(axes: Axes, steps: Sequence[Step], whole: Interval, title: str) -> None:
    """Bars from the top down, each from where the one above it ends; the last is the whole with its interval."""
    scale, unit = next((pair for pair in UNITS if whole.value >= pair[0]), UNITS[-1])
    reached = 0.0
    most = max(whole.high, whole.value) / scale
    for row, step in enumerate(steps):
        color, hatch, _ = LIMITED[step.limiter]
        start, length = reached / scale, step.seconds / scale
        axes.barh(row, length, 0.7, start, color=color, hatch=hatch, edgecolor="black", linewidth=0.5)
        if step.bound_s > 0:
            axes.plot([start, start + step.bound_s / scale], [row + 0.35] * 2, color=BLACK, linewidth=2.4)
        reached += step.seconds
        end = max(start, reached / scale)
        text = f"{_short(length)} · {100 * step.seconds / whole.value:.1f} %"
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
        axes.plot([reached / scale] * 2, [row - 0.35, row + 1.35], color=GREY, linewidth=0.6)
    last = len(steps)
    axes.barh(last, whole.value / scale, 0.7, color=BLUE, edgecolor="black", linewidth=0.5)
    ends = [[(whole.value - whole.low) / scale], [(whole.high - whole.value) / scale]]
    axes.errorbar([whole.value / scale], [last], xerr=ends, color=BLACK, capsize=3, linewidth=1.2)
    text = f"{_short(whole.value / scale)} ({_short(whole.low / scale)}–{_short(whole.high / scale)})"
    inside = whole.low >= INSIDE * most * scale
    place, color = (0.0, "white") if inside else (whole.high / scale, BLACK)
    axes.annotate(text, (place, last), (4, 0), textcoords="offset points", va="center", color=color, fontsize=7.5)
    axes.set_yticks(range(last + 1), [*(step.name for step in steps), "total"], fontsize=8)
    axes.set_ylim(last + 0.7, -0.6)
    axes.set_xlim(min(0.0, *_starts(steps, scale)), most * (1.3 if inside else 1.6))
    axes.set_xlabel(f"time, {unit}")
    axes.set_title(title, loc="left")
    axes.grid(axis="x", alpha=0.25)


def _starts(steps: Sequence[Step], scale: float) -> list[float]:
    """Where the bars begin and end."""
    ends = [0.0]
    for step in steps:
        ends.append(ends[-1] + step.seconds / scale)
    return ends


def _short(number: float) -> str:
    size = abs(number)
    return f"{number:.0f}" if size >= 100 else f"{number:.1f}" if size >= 10 else f"{number:.2f}"


def legend(steps: Iterable[Step]) -> list[Any]:
    """What colours and hatches mean, of those that occur."""
    used = {step.limiter for step in steps}
    fields = [
        patch(text, facecolor=color, hatch=hatch, edgecolor="black", linewidth=0.5)
        for limiter, (color, hatch, text) in LIMITED.items()
        if limiter in used
    ]
    return [*fields, mark("least time by the roofline", color=BLACK, linewidth=2.4)] if fields else []
