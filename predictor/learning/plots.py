"""Pictures of a training run: what it predicts of GPUs it never saw, how it learned and what its trees look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.estimators.bundle import CURVES, FEWSHOT
from predictor.files import whole_file
from predictor.learning.diagnostics import importance
from predictor.learning.evaluate import cells
from predictor.learning.train import Run
from predictor.plotting.canvas import mark, needs_matplotlib, plain_numbers

COLUMNS = 3  # of a picture with a panel per operator
PANEL_INCH = (4.6, 3.9)
MOST_POINTS = 3_000  # of a panel
MOST_FEATURES = 12
DPI = 110
OURS, THEIRS, QUIET = "#1f5fa8", "#c9a27a", "#555555"
LINES = {
    ("transfer", "fitted"): (OURS, "-"),
    ("transfer", "held-out rows"): (OURS, "--"),
    ("transfer", "held-out generations"): (OURS, ":"),
    ("reference", "fitted"): ("#b3541e", "-"),
    ("reference", "held-out rows"): ("#b3541e", "--"),
}
Figure = Any  # of Matplotlib, which is an extra


def write_plots(run: Run, folder: Path) -> list[Path]:
    """Write every picture as PNG; each file appears whole. Returns their paths."""
    needs_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures(run):
        with whole_file(folder / f"{name}.png") as draft:
            figure.savefig(draft, format="png", dpi=DPI)
        written.append(folder / f"{name}.png")
    return written


def figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Name and picture, one after the other; those without a generation to hold out lack what needs one."""
    unseen = {name: one.unseen for name, one in sorted(run.held.items()) if len(one.unseen)}
    if unseen:
        yield "predicted_vs_measured", _predicted_vs_measured(unseen)
        yield "error_by_gpu", _error_by_gpu(unseen)
        yield "interval_coverage", _coverage(unseen, run.bundle.level)
    if curves := _by_estimator(run.bundle.path / CURVES):
        yield "learning_curves", _learning_curves(curves)
    if few := _by_estimator(run.bundle.path / FEWSHOT):
        yield "few_shot", _few_shot(few)
    for name, rows in sorted(run.sets.items()):
        yield f"importance_{name}", _importance(importance(run.bundle.estimator(name), rows), name)


def _by_estimator(file: Path) -> dict[str, pd.DataFrame]:
    """A table of the bundle, by estimator; a bundle of one generation has an empty one."""
    try:
        return {str(name): part for name, part in pd.read_csv(file).groupby("estimator")}
    except pd.errors.EmptyDataError:
        return {}


def _predicted_vs_measured(unseen: Mapping[str, pd.DataFrame]) -> Figure:
    gpus = sorted({gpu for rows in unseen.values() for gpu in rows["gpu"]})
    colors = _colors(gpus)

    def draw(axes: Any, rows: pd.DataFrame) -> None:
        some = rows.sample(min(len(rows), MOST_POINTS), random_state=0)
        axes.scatter(
            1e6 * some["latency_s"], 1e6 * some["predicted_s"], s=8, alpha=0.5, c=some["gpu"].map(colors), linewidths=0
        )
        ends = 1e6 * np.array([rows["latency_s"].min(), rows["latency_s"].max()])
        axes.plot(ends, ends, color="black", linewidth=0.8)
        axes.fill_between(ends, ends / 1.25, ends * 1.25, color="black", alpha=0.07, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel="measured, µs", ylabel="predicted, µs")

    figure = _panels(unseen, draw, "Generation held out: predicted against measured latency (grey: ± 25 %)")
    _legend(figure, [mark(gpu, color=colors[gpu], marker="o", linestyle="") for gpu in gpus])
    return figure


def _error_by_gpu(unseen: Mapping[str, pd.DataFrame]) -> Figure:
    def draw(axes: Any, rows: pd.DataFrame) -> None:
        means = _by_gpu(rows, ["mape", "roofline2_mape"])
        place = np.arange(len(means))
        axes.barh(place - 0.2, 100 * means["mape"], 0.38, color=OURS)
        axes.barh(place + 0.2, 100 * means["roofline2_mape"], 0.38, color=THEIRS)
        axes.set_yticks(place, means["gpu"], fontsize=8)
        axes.invert_yaxis()
        axes.set_xlabel("mean absolute error, %")

    figure = _panels(unseen, draw, "Generation held out: error by GPU, mean over engines and dtypes")
    names = {OURS: "this bundle", THEIRS: "2-parameter roofline"}
    _legend(figure, [mark(name, color=color, linewidth=6) for color, name in names.items()])
    return figure


def _coverage(unseen: Mapping[str, pd.DataFrame], level: float) -> Figure:
    def draw(axes: Any, rows: pd.DataFrame) -> None:
        means = _by_gpu(rows, ["coverage"])
        place = np.arange(len(means))
        axes.barh(place, 100 * means["coverage"], 0.6, color=OURS, alpha=0.8)
        axes.axvline(100 * level, color="black", linestyle="--", linewidth=1)
        axes.set_yticks(place, means["gpu"], fontsize=8)
        axes.set_xlim(0, 100)
        axes.invert_yaxis()
        axes.set_xlabel("measurements in their interval, %")

    figure = _panels(unseen, draw, "Generation held out: coverage of the intervals by GPU")
    _legend(figure, [mark(f"asked: {level:.0%}", color="black", linestyle="--", linewidth=1)])
    return figure


def _learning_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    def draw(axes: Any, curve: pd.DataFrame) -> None:
        for (trees, rows), (color, style) in LINES.items():
            line = curve[(curve["trees"] == trees) & (curve["rows"] == rows)]
            if len(line):
                axes.plot(line["round"], line["rmse"], color=color, linestyle=style, linewidth=1.4)
        axes.set(xscale="log", yscale="log", xlabel="boosting round", ylabel="RMS error of log latency")
        for axis in (axes.xaxis, axes.yaxis):
            plain_numbers(axis)

    figure = _panels(curves, draw, "Learning curves")
    known = {line for curve in curves.values() for line in zip(curve["trees"], curve["rows"], strict=True)}
    styles = {line: style for line, style in LINES.items() if line in known}
    _legend(figure, [mark(f"{line[0]} trees, {line[1]}", color=a, linestyle=b) for line, (a, b) in styles.items()])
    return figure


def _few_shot(curves: Mapping[str, pd.DataFrame]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 5.2), layout="constrained")
    axes, colors = figure.subplots(), _colors(list(curves))
    counts = sorted({int(count) for curve in curves.values() for count in curve["rows"]})
    for name, curve in curves.items():
        mixed = curve[curve["engine"].isna()]
        most = mixed.groupby("gpu")["rows"].transform("max")
        same = mixed[most == mixed["rows"].max()]  # the same GPUs at every count
        line = same.groupby(["rows", "gpu"])["mape"].mean().groupby("rows").mean()
        axes.plot(
            [counts.index(int(count)) for count in line.index], 100 * line, marker="o", color=colors[name], label=name
        )
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="measured rows of a GPU whose generation was held out", ylabel="error on its other rows, %")
    axes.set_title("What a few measured rows are worth", fontsize=11)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    return figure


def _importance(table: pd.DataFrame, name: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    labels = {"shap": "mean |SHAP|, nats of log latency", "gain": "share of the gain of all splits, %"}
    panels = figure.subplots(2, 2)
    for row, (trees, part) in zip(panels, table.groupby("trees", sort=False), strict=True):
        for axes, (by, label) in zip(row, labels.items(), strict=True):
            top = part.nlargest(MOST_FEATURES, by)
            top = top[top[by] > 0]
            axes.barh(top["feature"], (100 if by == "gain" else 1) * top[by], 0.7, color=OURS)
            axes.invert_yaxis()
            axes.tick_params(axis="y", labelsize=8)
            axes.set_xlabel(label, fontsize=9)
            axes.set_title(f"{trees} trees", fontsize=10)
    figure.suptitle(f"{name}: what the trees look at")
    return figure


def _panels(parts: Mapping[str, pd.DataFrame], draw: Callable[[Any, pd.DataFrame], None], title: str) -> Figure:
    """A picture with one panel per operator."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(parts))
    rows = -(-len(parts) // columns)
    width = max(PANEL_INCH[0] * columns, 7.0)
    figure = Figure(figsize=(width + 2.2, PANEL_INCH[1] * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, part) in zip(panels, parts.items(), strict=False):
        draw(axes, part)
        axes.set_title(name, fontsize=10)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    for axes in panels[len(parts) :]:
        axes.remove()
    figure.suptitle(title)
    return figure


def _by_gpu(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Means over the cells of each GPU, the GPUs of a generation together."""
    table = cells(rows, ["generation", "gpu", "engine", "dtype"])
    return table.groupby(["generation", "gpu"])[names].mean().reset_index()


def _legend(figure: Figure, marks: list[Any]) -> None:
    figure.legend(handles=marks, loc="outside right upper", fontsize=9, frameon=False)


def _colors(names: list[str]) -> dict[str, Any]:
    from matplotlib import colormaps

    table = colormaps["tab20"]
    order = [*range(0, 20, 2), *range(1, 20, 2)]  # ten strong colors, then their light ones
    return {name: table(order[i % 20]) for i, name in enumerate(names)}
