"""The picture of a sweep: throughput against latency as more is asked, a line for each GPU or setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from predictor.errors import InvalidRequest
from predictor.plotting.canvas import (
    COLORS,
    GREY,
    MARKERS,
    Label,
    basis_text,
    drawn,
    mark,
    place_labels,
    plain_numbers,
    say_below,
)
from predictor.workloads.request import columns

LOADS = ("request_rate", "concurrency", "batch")  # what grows along a line
WORDS = {"request_rate": "requests/s", "concurrency": "clients", "batch": "sequences"}
MOST_LINES = 10
STYLES = ("-", "--", "-.", ":")
MS = 1e3


def loads_picture(rows: Sequence[Mapping[str, Any]], file: Path) -> int:
    """Write the picture of answered requests; returns how many points it has.

    rows: with the columns of a request and of its answer. The load is the first of request_rate, concurrency and batch
    that differs between them; what else differs names the lines. Raises InvalidRequest where nothing grows, where there
    are too many lines, and where no row has an answer.
    """
    answered = [row for row in rows if not row.get("error") and row.get("tokens_per_s")]
    if not answered:
        raise InvalidRequest("no row has an answer; --plot has nothing to draw.")
    load, lines = lines_of(answered)
    x = "tpot_s" if all(row.get("tpot_s") for row in answered) else "ttft_s"
    with drawn(file, 9.5, 5.8) as figure:
        axes = figure.subplots()
        marks, labels = [], []
        for number, (name, line) in enumerate(lines.items()):
            color, marker = COLORS[number % 8], MARKERS[number % 10]
            style = {"color": color, "marker": marker, "linestyle": STYLES[number % 4], "markersize": 5.5}
            for row in line:
                low, high = MS * row[f"{x}_low"], MS * row[f"{x}_high"]
                axes.plot([low, high], [row["tokens_per_s"]] * 2, color=color, linewidth=0.8, alpha=0.6)
                ends = [row["tokens_per_s_low"], row["tokens_per_s_high"]]
                axes.plot([MS * row[x]] * 2, ends, color=color, linewidth=0.8, alpha=0.6)
            axes.plot([MS * row[x] for row in line], [row["tokens_per_s"] for row in line], linewidth=1.5, **style)
            for row in line:
                if row.get("saturated"):
                    axes.plot(
                        MS * row[x],
                        row["tokens_per_s"],
                        marker,
                        color="white",
                        markeredgecolor=color,
                        markersize=5.5,
                        zorder=4,
                    )
            marks.append(mark(name, linewidth=1.5, **style))
            labels += [Label(MS * row[x], row["tokens_per_s"], f"{row[load]:g}") for row in line]
        if any(row.get("saturated") for row in answered):
            marks.append(
                mark(
                    "hollow: more is asked than it holds",
                    marker="o",
                    color="white",
                    markeredgecolor=GREY,
                    linestyle="",
                    markersize=5.5,
                )
            )
        axes.set(xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            plain_numbers(axis)
        axes.grid(alpha=0.25)
        axes.set_xlabel("TPOT, ms" if x == "tpot_s" else "TTFT, ms")
        axes.set_ylabel("tokens per second")
        axes.set_title(
            f"{_shared(answered)}: throughput against latency; numbers are {WORDS[load]}", loc="left", fontsize=11
        )
        figure.legend(handles=marks, loc="outside right upper")
        first = answered[0]
        refused = len(rows) - len(answered)
        say_below(
            figure,
            basis_text(str(first["bundle"]), float(first.get("interval_level") or 0.8)),
            f"Not drawn: {refused} rows without an answer." if refused else "",
        )
        place_labels(axes, labels)
    return len(answered)


def lines_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, list[Mapping[str, Any]]]]:
    """What grows, and the rows of each line by its name, in order."""
    asked = [column.name for column in columns() if column.name in rows[0]]
    differ = [name for name in asked if len({row[name] for row in rows}) > 1]
    load = next((name for name in LOADS if name in differ), "")
    if not load:
        raise InvalidRequest(f"--plot draws lines along {', '.join(LOADS)}, of which none has several values.")
    names = [name for name in differ if name != load]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: float(row[load] or 0)):
        name = " · ".join(str(row[key]) if isinstance(row[key], str) else f"{key} {row[key]}" for key in names)
        lines.setdefault(name or str(row["gpu"]), []).append(row)
    if len(lines) > MOST_LINES:
        raise InvalidRequest(
            f"--plot draws at most {MOST_LINES} lines, and {', '.join(names)} make {len(lines)}; sweep fewer."
        )
    return load, dict(sorted(lines.items()))


def _shared(rows: Sequence[Mapping[str, Any]]) -> str:
    """The model, where there is one."""
    models = {str(row["model"]) for row in rows}
    return models.pop() if len(models) == 1 else f"{len(models)} models"
