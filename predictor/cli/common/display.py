"""How commands print: tables for people, JSON for programs, and numbers with their units."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predictor.memory.uncertainty import Need
    from predictor.workloads.passes.calls import Layout

WIDTH_OF_A_PIPE = 200  # a table that goes into a file is not squeezed into 80 columns
DURATIONS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
BASES = {
    "seen-gpu": "seen GPU",
    "calibrated-gpu": "calibrated GPU",
    "unseen-gpu": "unseen GPU",
    "bound-only": "bound only",
}
LIMITERS = {"launch": "launch floor"}
DRAWN = "–█░×→µ…"


def show(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table. A column whose name starts with ">" is aligned to the right."""
    cells = [list(row) for row in rows]
    if not sys.stdout.isatty() and (text := plain_table(columns, cells, title)):
        print(text)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left")
    for row in cells:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else WIDTH_OF_A_PIPE
    Console(width=width, highlight=False, markup=False, emoji=False).print(table)


def plain_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> str:
    """A table as rich prints it into a pipe, without its import; "" where a line has to be broken to fit.

    >>> plain_table(["", ">GB"], [["weights", "16.1"]]).splitlines()[-2]
    '  weights   16.1  '
    """
    names = [name.removeprefix(">") for name in columns]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    whole = sum(width + 3 for width in widths) + 1
    texts = [title, *names, *(cell for row in rows for cell in row)]
    if whole > WIDTH_OF_A_PIPE or len(title) > whole or not all(map(_is_narrow, texts)):
        return ""

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if name.startswith(">") else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        )
        return "".join(f"  {cell} " for cell in cells) + " "

    blank = " " * whole
    head = [title.ljust(whole)] if title else []
    return "\n".join([*head, blank, line(names), f" {'─' * (whole - 2)} ", *map(line, rows), blank])


def _is_narrow(text: str) -> bool:
    """Whether each character takes one column: Latin, and what is drawn here."""
    return all(" " <= letter < "\x7f" or "\xa0" < letter < "\u0300" or letter in DRAWN for letter in text)


def show_sheet(facts: Mapping[str, str], title: str) -> None:
    """Print names and values, one a line."""
    widest = max(map(len, facts))
    print(title)
    for name, value in facts.items():
        print(f"  {name:<{widest}}  {value}")


def show_json(value: Any) -> None:
    """Print strict JSON: nothing else may be on stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))


def duration(seconds: float) -> str:
    """Seconds with three digits and a unit that suits them.

    >>> duration(0.0123), duration(4.5e-6), duration(0.0)
    ('12.3 ms', '4.50 µs', '0 s')
    """
    scale, unit = _unit(seconds)
    return f"{digits(seconds / scale)} {unit}"


def duration_interval(value: float, low: float, high: float) -> str:
    """A duration and the ends of its interval in the same unit.

    >>> duration_interval(0.0123, 0.01, 0.02)
    '12.3 ms (10.0–20.0)'
    """
    scale, _ = _unit(value)
    return f"{duration(value)} ({digits(low / scale)}–{digits(high / scale)})"


def digits(number: float) -> str:
    """Three significant digits, without an exponent.

    >>> digits(1234.5), digits(98.76), digits(1.234), digits(0.0)
    ('1,234', '98.8', '1.23', '0')
    """
    if not number:
        return "0"
    size = abs(number)
    return f"{number:,.0f}" if size >= 99.95 else f"{number:.1f}" if size >= 9.995 else f"{number:.2f}"


def percent(share: float) -> str:
    """A share as per cent: 0.123 is "12.3 %"; not a number is "–"."""
    return f"{100 * share:.1f} %" if share == share else "–"


def risk(memory: Need) -> str:
    """The probability that a run needs more memory than there is, with "NO" where it is expected to."""
    share = "< 0.1 %" if memory.p_oom < 1e-3 else "> 99.9 %" if memory.p_oom > 0.999 else percent(memory.p_oom)
    return share if memory.fits else f"{share} (NO)"


def gigabytes(count: float) -> str:
    """Bytes as GB (10**9)."""
    return digits(count / 1e9)


def _unit(seconds: float) -> tuple[float, str]:
    if not seconds:
        return DURATIONS[0]
    return next((pair for pair in DURATIONS if abs(seconds) >= pair[0]), DURATIONS[-1])


def layout_text(layout: Layout) -> str:
    """ "tp 8 · ep 4": the degrees that are not 1, tp in any case."""
    degrees = layout._asdict()
    return " · ".join(f"{name} {value}" for name, value in degrees.items() if value > 1 or name == "tp")
