"""What all pictures share: where they are written, their colours, marks and texts.

Colours are those of Okabe & Ito (Color Universal Design, 2008), told apart by all eyes; what has a colour has a marker
or a hatch of its own too, so that grey is enough. The same answer gives the same file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from predictor.errors import InvalidRequest
from predictor.files import needs_folder, whole_file

FORMATS = (".png", ".svg")
DPI = 110
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK = COLORS = (
    *("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "++++", "oo")
GREY = "#555555"
STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "predictor",  # names of parts of the file follow from its content
    "font.family": "DejaVu Sans",  # which Matplotlib brings along, so that texts are as wide everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
# Behind a text, so that it is read on lines. A rim of its letters would turn the text of an SVG into drawings.
ON_LINES: Mapping[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
# Where the label of a point may stand: its sides, further and further away, in points.
AROUND = tuple((radius, turn) for radius in (8, 14, 22, 32, 44) for turn in (0, 1, 7, 2, 6, 3, 5, 4))
# Ticks of a tenfold on logarithmic axes of at most so many decades.
TICKS = (
    (0.4, (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)),
    (1.0, (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)),
    (3.0, (1.0, 2.0, 5.0)),
    (math.inf, (1.0,)),
)
Figure = Any  # of Matplotlib, which is an extra
Axes = Any


class Label(NamedTuple):
    """A text for a point, in units of the axes."""

    x: float
    y: float
    text: str


def needs_matplotlib() -> None:
    """Raise where there is no Matplotlib."""
    if find_spec("matplotlib") is None:
        raise InvalidRequest("plots need matplotlib; pip install 'gpu-predictor[plot]'.")


def check_plot(file: Path | None) -> Path | None:
    """The file of a picture; raises for what no picture can be written to, before time is spent on what it shows."""
    if file is None:
        return None
    if file.suffix.lower() not in FORMATS:
        raise InvalidRequest(f'--plot is "{file}"; its name must end in {" or ".join(FORMATS)}.')
    if file.is_dir():
        raise InvalidRequest(f'--plot is "{file}", which is a folder; give a file.')
    needs_folder(file, "--plot")
    needs_matplotlib()
    return file


@contextmanager
def drawn(file: Path, width: float, height: float) -> Iterator[Figure]:
    """An empty picture of that size in inches, which is written to `file` when the block ends."""
    needs_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({**STYLE}):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        yield figure
        kind = file.suffix.lower().removeprefix(".")
        nameless = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        with whole_file(file) as draft:
            figure.savefig(draft, format=kind, dpi=DPI, metadata=nameless)


def say_below(figure: Figure, *texts: str) -> None:
    """Write what a reader has to know below a picture: the bundle, the level of intervals, what is not drawn."""
    from textwrap import fill

    width = int(figure.get_size_inches()[0] * 17)
    told = "\n".join(fill(text, width) for text in texts if text)
    figure.supxlabel(told, x=0.01, ha="left", fontsize=7.5, color=GREY)


def basis_text(bundle: str, level: float) -> str:
    """Whose numbers a picture shows."""
    return f"gpu-predictor, bundle {bundle}; lines through points are intervals at the {100 * level:.0f} % level."


def plain_numbers(axis: Any) -> None:
    """1, 2, 5 and their tenfolds in place of powers, on a logarithmic axis; more or fewer where it is short or long."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    decades = math.log10(high / low) if low > 0 else 2.0
    subs = next(subs for most, subs in TICKS if decades <= most)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def one_decade_at_least(low: float, high: float) -> tuple[float, float]:
    """Ends of a logarithmic axis around what it shows, with some room."""
    middle, half = math.sqrt(low * high), max(math.sqrt(high / low) * 1.15, math.sqrt(10.0))
    return middle / half, middle * half


def place_labels(axes: Axes, labels: Sequence[Label], others: Sequence[Label] = ()) -> list[str]:
    """Write each label beside its point where it hides no text and no point; returns those without a place.

    others: points without a label. To be called last: it settles the layout of the picture.
    """
    from matplotlib.transforms import Bbox

    figure = axes.figure
    figure.draw_without_rendering()
    renderer, scale = figure.canvas.get_renderer(), figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    at = axes.transData.transform
    spots = [at((point.x, point.y)) for point in (*labels, *others)]
    taken = [Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in spots]
    taken += [text.get_window_extent(renderer) for text in axes.texts]
    left = []
    for label in labels:
        own = at((label.x, label.y))
        text = axes.annotate(label.text, (label.x, label.y), fontsize=7.5, annotation_clip=False)
        text.set_in_layout(False)
        size = text.get_window_extent(renderer)
        text.remove()
        for radius, turn in AROUND:
            box, offset = _beside(own, size.width, size.height, radius, turn, scale)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                _write(axes, label, offset, radius > AROUND[0][0])
                taken.append(box)
                break
        else:
            left.append(label.text)
    return left


def _beside(
    own: tuple[float, float], width: float, height: float, radius: float, turn: int, scale: float
) -> tuple[Any, tuple[float, float]]:
    """The box of a text in an eighth of the circle around a point, in pixels, and its lower left corner from the point
    in points."""
    from matplotlib.transforms import Bbox

    angle = math.pi / 4 * turn
    across, up = math.cos(angle), math.sin(angle)
    x = own[0] + radius * scale * across - width * (0.5 - 0.5 * _sign(across))
    y = own[1] + radius * scale * up - height * (0.5 - 0.5 * _sign(up))
    return Bbox.from_bounds(x - 3, y - 1, width + 6, height + 2), ((x - own[0]) / scale, (y - own[1]) / scale)


def _sign(number: float) -> int:
    return 0 if abs(number) < 1e-6 else 1 if number > 0 else -1


def _write(axes: Axes, label: Label, offset: tuple[float, float], far: bool) -> None:
    text = axes.annotate(
        label.text,
        (label.x, label.y),
        offset,
        textcoords="offset points",
        fontsize=7.5,
        bbox=ON_LINES,
        arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4} if far else None,
    )
    text.set_in_layout(False)


def mark(label: str, **style: Any) -> Any:
    """A line of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def patch(label: str, **style: Any) -> Any:
    """A field of a legend."""
    from matplotlib.patches import Patch

    return Patch(label=label, **style)
