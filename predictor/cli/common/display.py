"""How commands print: tables for people, JSON for programs, and numbers with their units."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predictor.memory.uncertainty import Need
    from predictor.workloads.passes.calls import Layout

WIDTH_OF_A_PIPE = 200  # a table that goes into a file is not squeezed into 80 columns, unless COLUMNS says so
NARROWEST = 40
UNBROKEN: Mapping[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False}
WIDE_GAP, NARROW_GAP = 3, 2  # blanks between columns
LONG = 20  # characters beyond which the words of a cell may come on several lines
DURATIONS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
BASES = {
    "seen-gpu": "seen GPU",
    "calibrated-gpu": "calibrated GPU",
    "unseen-gpu": "unseen GPU",
    "engine-rates": "rates of the engine",
    "bound-only": "bound only",
}
LIMITERS = {"launch": "launch floor"}
DRAWN = "–█░×→µ…"


def show(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", keys: int = 1, instead: str = ""
) -> None:
    """Print a table. A column whose name starts with ">" is aligned to the right.

    What is too wide comes in several tables, one below the other, each with the first columns, as many as name a row
    (`keys`); or, where an option has all columns (`instead`), without the last ones, and says so.
    """
    lines, width = [list(row) for row in rows], _width() or WIDTH_OF_A_PIPE
    if not sys.stdout.isatty() and (text := plain_table(columns, lines, title, width)):
        print(text)
        return
    whole = range(len(columns))
    if _natural(columns, lines, whole, WIDE_GAP) + WIDE_GAP + 1 <= width:
        _print(columns, lines, whole, title, width, pad_edge=True)
        return
    first, *others = _blocks(columns, lines, keys, width)
    for block in [first, *([] if instead else others)]:
        _print(columns, lines, block, title if block is first else "", width, pad_edge=False)
    if instead and others:
        left_out = [columns[at].removeprefix(">") for block in others for at in block[keys:]]
        say(f"Not shown, as they do not fit: {', '.join(left_out)}. {instead} has all.")


def _natural(columns: Sequence[str], rows: list[list[str]], chosen: Iterable[int], gap: int) -> int:
    """Characters of a table of the chosen columns whose cells are not wrapped."""
    widths = [_widest(columns, rows, at) for at in chosen]
    return sum(widths) + gap * (len(widths) - 1)


def _widest(columns: Sequence[str], rows: list[list[str]], at: int) -> int:
    from rich.cells import cell_len

    return max(cell_len(columns[at].removeprefix(">")), *(cell_len(row[at]) for row in rows), 0)


def _least(columns: Sequence[str], rows: list[list[str]], at: int) -> int:
    """Characters that a column needs: of long texts the longest word, and enough for some words a line."""
    natural = _widest(columns, rows, at)
    if columns[at].startswith(">") or natural <= LONG:
        return natural
    longest = max((len(word) for row in rows for word in row[at].split()), default=0)
    return min(natural, max(LONG, longest))


def _blocks(columns: Sequence[str], rows: list[list[str]], keys: int, width: int) -> list[list[int]]:
    """The columns of each table, all with those that name a row, as many as fit."""
    least = [_least(columns, rows, at) for at in range(len(columns))]
    blocks = [list(range(keys))]
    for at in range(keys, len(columns)):
        taken = sum(least[column] + NARROW_GAP for column in blocks[-1])
        if len(blocks[-1]) > keys and taken + least[at] > width:
            blocks.append(list(range(keys)))
        blocks[-1].append(at)
    return blocks


def _print(
    columns: Sequence[str], rows: list[list[str]], chosen: Sequence[int], title: str, width: int, pad_edge: bool
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=width, highlight=False, markup=False, emoji=False)
    if not pad_edge or len(title) > _natural(columns, rows, chosen, WIDE_GAP):
        console.print(Text(title, style="bold"), end="\n" if title else "")  # the table's own is as narrow as the table
        title = ""
    table = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=pad_edge,
        pad_edge=pad_edge,
        collapse_padding=not pad_edge,
    )
    for at in chosen:
        right, long = columns[at].startswith(">"), _widest(columns, rows, at) > LONG
        table.add_column(
            columns[at].removeprefix(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=not pad_edge and (right or not long) and at > 0,
        )
    for row in rows:
        table.add_row(*(row[at] for at in chosen))
    console.print(table)
    if not pad_edge:
        print()


def _width() -> int:
    """Characters of a line: of the terminal, or as COLUMNS says; 0 where nobody says."""
    wanted = os.environ.get("COLUMNS", "")
    if wanted.isdecimal() and int(wanted):
        return max(int(wanted), NARROWEST)
    return max(os.get_terminal_size(sys.stdout.fileno()).columns or 80, NARROWEST) if sys.stdout.isatty() else 0


def say(text: str, indent: str = "") -> None:
    """Print sentences, each line on several where the terminal is narrow; `indent` starts all but the first of them.

    What has no blank, such as a path, stays whole.
    """
    if width := _width():
        from textwrap import TextWrapper

        filler = TextWrapper(width, subsequent_indent=indent, **UNBROKEN)
        text = "\n".join(filler.fill(line) for line in text.split("\n"))
    print(text)


def show_notes(notes: Iterable[str]) -> None:
    """Print notes, each once."""
    for note in dict.fromkeys(notes):
        say(f"Note: {note}")


def plain_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", width: int = WIDTH_OF_A_PIPE
) -> str:
    """A table as rich prints it into a pipe, without its import; "" where a line has to be broken to fit.

    >>> plain_table(["", ">GB"], [["weights", "16.1"]]).splitlines()[-2]
    '  weights   16.1  '
    """
    names = [name.removeprefix(">") for name in columns]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    whole = sum(width + WIDE_GAP for width in widths) + 1
    texts = [title, *names, *(cell for row in rows for cell in row)]
    if whole > width or len(title) > whole or not all(map(_is_plain, texts)):
        return ""

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if name.startswith(">") else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        )
        return "".join(f"  {cell} " for cell in cells) + " "

    blank = " " * whole
    natural = whole - WIDE_GAP - 1  # a title that is wider stands by itself
    head = [title if len(title) > natural else title.ljust(whole)] if title else []
    return "\n".join([*head, blank, line(names), f" {'─' * (whole - 2)} ", *map(line, rows), blank])


def _is_plain(text: str) -> bool:
    """Whether each character takes one column (Latin, and what is drawn here) and no end is blank, which rich cuts."""
    return text == text.strip() and all(
        " " <= letter < "\x7f" or "\xa0" < letter < "\u0300" or letter in DRAWN for letter in text
    )


def show_sheet(facts: Mapping[str, str], title: str) -> None:
    """Print names and values, one a line."""
    widest = max(map(len, facts))
    say(title)
    for name, value in facts.items():
        say(f"  {name:<{widest}}  {value}", " " * (widest + 4))


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
    """Three significant digits, or two below 1, without an exponent.

    >>> digits(1234.5), digits(98.76), digits(1.234), digits(0.0), digits(0.00178)
    ('1,234', '98.8', '1.23', '0', '0.0018')
    """
    if not number:
        return "0"
    size = abs(number)
    if size < 0.1:
        return f"{number:.{1 - math.floor(math.log10(size))}f}"
    return f"{number:,.0f}" if size >= 99.95 else f"{number:.1f}" if size >= 9.995 else f"{number:.2f}"


def percent(share: float) -> str:
    """A share as per cent: 0.123 is "12.3 %"; not a number is "–"."""
    return f"{100 * share:.1f} %" if share == share else "–"


def risk(memory: Need) -> str:
    """The probability that a run needs more memory than there is, with "NO" where it is expected to.

    "waits" instead where an engine starts, but sequences of the batch wait for room in its cache.
    """
    return risk_of(memory.p_oom, memory.fits, getattr(memory, "max_concurrent_requests", None))


def risk_of(p_oom: float, fits: bool = True, max_concurrent_requests: float | None = None) -> str:
    """That of a row, where memory is told as plain numbers. max_concurrent_requests: of a serving engine.

    >>> risk_of(0.0002), risk_of(0.25), risk_of(0.9995, False), risk_of(0.0002, False, 11)
    ('< 0.1 %', '25.0 %', '> 99.9 % (NO)', '< 0.1 % (waits)')
    """
    share = "< 0.1 %" if p_oom < 1e-3 else "> 99.9 %" if p_oom > 0.999 else percent(p_oom)
    waits = p_oom < 0.5 and max_concurrent_requests is not None
    return share if fits else f"{share} (waits)" if waits else f"{share} (NO)"


def row_count(count: int) -> str:
    """How many rows.

    >>> row_count(1), row_count(2000)
    ('1 row', '2,000 rows')
    """
    return f"{count:,} row{'s' * (count != 1)}"


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
