"""A heat map of errors: operator families, or figures of whole runs, by GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from predictor.plotting.canvas import drawn, say_below

if TYPE_CHECKING:
    import pandas as pd

# Protocols of a ledger that are drawn, the strictest last.
HELD_OUT = {"gpu-out": "GPU held out", "generation-out": "its whole generation held out"}
WORST = 0.6  # error from which the colour does not change
DARK = 0.55  # share of the scale from which numbers are black on it


def error_table(cells: pd.DataFrame, columns: str) -> pd.DataFrame:
    """Mean of the errors over cells, GPUs × `columns`, generations together; NaN where nothing was measured."""
    table = cells.pivot_table(index="gpu", columns=columns, values="mape", aggfunc="mean")
    return table.loc[sorted(table.index, key=_generation)]


def _generation(name: str) -> tuple[str, str, str]:
    from predictor.errors import UnknownGpu
    from predictor.hardware.gpu import get_gpu

    try:
        gpu = get_gpu(name)
    except UnknownGpu:
        return "", "", name
    return gpu.vendor, gpu.generation, name


def errors_picture(cells: pd.DataFrame, columns: str, title: str, bundle: str, file: Path) -> int:
    """Write the picture; returns how many fields have a number. columns: of the cells, by which errors are put apart.

    Of a ledger, which has protocols, a panel each for GPUs and for generations that were held out.
    """
    parts = (
        {text: cells[cells["protocol"] == name] for name, text in HELD_OUT.items()}
        if "protocol" in cells
        else {"": cells}
    )
    tables = {text: error_table(part, columns) for text, part in parts.items() if len(part)}
    names = list(dict.fromkeys(name for table in tables.values() for name in table.index))
    widest = max(len(table.columns) for table in tables.values())
    with drawn(file, 2.8 + max(0.52 * widest, 2.2) * len(tables), max(2.2 + 0.2 * len(names), 4.2)) as figure:
        panels = figure.subplots(1, len(tables), squeeze=False)[0]
        filled = 0
        for place, (panel, (text, table)) in enumerate(zip(panels, tables.items(), strict=True)):
            whole = table.reindex(names)
            image = _draw(panel, whole, text, place == 0)
            filled += int(whole.notna().to_numpy().sum())
        bar = figure.colorbar(image, ax=list(panels), shrink=0.5, pad=0.01, extend="max")
        bar.set_label("mean |predicted / measured − 1|, %")
        figure.suptitle(title, fontsize=11)
        say_below(figure, f"gpu-predictor, bundle {bundle}; empty fields were not measured.")
    return filled


def _draw(axes: Any, table: pd.DataFrame, title: str, named: bool) -> Any:
    values = 100 * table.to_numpy(dtype=float)
    image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=100 * WORST, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            color = "black" if value > 100 * WORST * DARK else "white"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=7)
    axes.set_xticks(
        range(len(table.columns)),
        [str(name) for name in table.columns],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(table.index)), list(table.index) if named else [], fontsize=7.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    return image
