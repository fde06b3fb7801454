"""predictor validate: replays whole models that others measured."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from string import ascii_lowercase
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option, Typer

from predictor.cli.common.display import digits, show
from predictor.cli.common.measured_option import SOURCES, TRUTH, Sources, Truth
from predictor.errors import InvalidRequest
from predictor.files import needs_folder, whole_file

if TYPE_CHECKING:
    import pandas as pd

    from predictor.estimators.bundle import Bundle
    from predictor.learning.validation.replay import Replay, Table

Cell = dict[str, Any]  # errors of some figures, as shares, and what figures they are
CELL_ERRORS = ("median", "mean", "signed", "coverage")
TABLE_ERRORS = ("median", "mean", "coverage", "under", "reckoned")


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(validate)


def validate(
    *,
    truth: Truth = TRUTH,
    sources: Sources = SOURCES,
    bundle: Annotated[str, Option(help="Released bundle or folder of one; by default the newest.")] = "",
    only: Annotated[str, Option(metavar="TABLE", help="One table, such as memory; by default all.")] = "",
    out: Annotated[Path | None, Option(metavar="FILE", help="Write every replayed row as CSV.")] = None,
    requests: Annotated[
        Path | None,
        Option(metavar="FILE", help="Write what was asked as a CSV for `predictor batch`, pools beside it."),
    ] = None,
) -> None:
    """Replay whole models that others measured, latency and memory, and show the errors.

    Predictions are answers to rows of a request table, which --out shows as JSON. Where a row needed a setting that no
    request has, a letter says so and the setting stands below.
    """
    import pandas as pd

    from predictor.estimators.bundle import load_bundle
    from predictor.learning.validation.back_of_envelope import reckoned
    from predictor.learning.validation.tables import chosen

    for file in (out, requests):
        if file:
            needs_folder(file)
    tables, opened = chosen(only), load_bundle(bundle)
    if requests and requests.suffix.lower() != ".csv":
        raise InvalidRequest(f"requests is {requests}; it must end in .csv.")
    replays = [_replay(table, {"truth": truth, "sources": sources}[table.root], opened) for table in tables]
    frames = [replay.frame() for replay in replays if replay and replay.figures]
    if not frames:
        raise InvalidRequest(f"no table found in {truth} and {sources}; give --truth and --sources.")
    rows = pd.concat(frames, ignore_index=True)
    if out:
        with whole_file(out) as draft:
            rows.to_csv(draft, index=False)
    if requests:
        _write_asked([replay for replay in replays if replay], requests)
    scored = rows[~rows["fitted"].astype(bool)]
    scored = scored.assign(reckoned=reckoned(scored))
    for (name, metric), part in scored.groupby(["table", "metric"], sort=True):
        _show_cells(f"{metric} of {name}", part)
    _show_tables(scored, len(rows))
    _show_kept(scored, opened.level)


def _show_kept(scored: pd.DataFrame, level: float) -> None:
    """How often what was said with a probability came true; nothing where no table has such cases."""
    from predictor.learning.validation.promises import promises, wins

    for title, kept in (
        ("promises of first token and tokens (p_slo of `predictor plan`)", promises(scored, level)),
        ("the faster of two GPUs (beats next of `predictor compare`)", wins(scored, level)),
    ):
        if kept:
            cells = [one._asdict() | {"file": _folded(one.table)} for one in kept]
            lines = _grouped(
                cells,
                "file",
                lambda cell: ["", str(cell["cases"]), *(_percent(cell[name]) for name in ("said", "happened"))],
            )
            show(["", ">n", ">said", ">came true"], lines, title=title)


def _write_asked(replays: Sequence[Replay], out: Path) -> None:
    """Write the rows of a request table that were answered, each with what was measured of it, and rows of pools, which
    have other columns, beside it."""
    import pandas as pd

    from predictor.prediction.pool_tables import POOL_COLUMNS
    from predictor.workloads.request import columns

    beside = out.with_name(f"{out.stem}-pools{out.suffix}")
    takes = {out: ("", {column.name for column in columns()}), beside: (" --pools", set(POOL_COLUMNS))}
    rows: dict[Path, dict[tuple[str, str], dict[str, Any]]] = {path: {} for path in takes}
    for figure in (figure for replay in replays for figure in replay.figures if figure.request):
        path = next((path for path, (_, known) in takes.items() if known.issuperset(figure.request)), None)
        if path is None:
            continue
        own = rows[path].setdefault((figure.table, str(figure.request)), {"table": figure.table, **figure.request})
        own |= {f"measured_{figure.metric}": figure.measured, "fitted": figure.fitted}
    for path, (option, _) in takes.items():
        if rows[path]:
            with whole_file(path) as draft:
                pd.DataFrame(list(rows[path].values())).to_csv(draft, index=False)
            print(f"{len(rows[path])} rows for `predictor batch{option}`: {path}")
    if not any(rows.values()):
        print(f"These tables ask no rows of a request table; {out} is not written.", file=sys.stderr)


def _replay(table: Table, root: Path, bundle: Bundle) -> Replay | None:
    """What a table gives, with a line for what was left out; None where its files are absent, which is said."""
    try:
        replay = table.replay(root, bundle)
    except FileNotFoundError as error:
        print(f"{table.title}: skipped, {error.filename or error} is not there", file=sys.stderr)
        return None
    for reason, count in replay.skipped.items():
        print(fill(f"{table.title}: {count} rows skipped: {reason}", 80, subsequent_indent="  "))
    return replay


def _show_cells(title: str, rows: pd.DataFrame) -> None:
    """The errors by GPU and model, with a letter for each private setting that some row of a cell needed."""
    from predictor.learning.validation.replay import SEPARATOR, ratio_errors, records

    needed = [tuple(filter(None, text.split(SEPARATOR))) for text in rows["private_setting"]]
    counts = Counter(setting for settings in needed for setting in settings)
    marks = dict(zip(counts, ascii_lowercase, strict=False))
    letters: dict[tuple[str, str], set[str]] = {}
    for gpu, model, settings in zip(rows["gpu"], rows["model"], needed, strict=True):
        letters.setdefault((gpu, model), set()).update(marks[setting] for setting in settings)
    cells = records(ratio_errors(rows, ["gpu", "model"]).reset_index())
    for cell in cells:
        cell["name"] = f"{_folded(cell['model'])} {''.join(sorted(letters[cell['gpu'], cell['model']]))}".rstrip()
    closed = [">closed"] if "closed_median" in cells[0] else []
    lines = _grouped(cells, "gpu", lambda cell: [cell["name"], *_errors(cell, CELL_ERRORS), *_closed(cell)])
    show(["", ">n", ">median", ">mean", ">bias", ">in", *closed], lines, title=title)
    for setting, mark in marks.items():
        note = f"{mark}  private setting: {setting} ({counts[setting]} of {len(rows)} rows)"
        print(fill(note, 80, initial_indent="  ", subsequent_indent="     "))


def _show_tables(scored: pd.DataFrame, replayed: int) -> None:
    """The errors by table, beside those of the rows that a request table says."""
    from predictor.learning.validation.replay import ratio_errors, records

    public = scored[scored["private_setting"] == ""]
    shown = [("rows of a request table alone, as any user gets them", public)]
    for title, rows in shown if len(public) == len(scored) else [("all rows", scored), *shown]:
        if rows.empty:
            print(f"{title}: none")
            continue
        cells = records(ratio_errors(rows, ["table", "metric"]).reset_index())
        for cell in cells:
            cell["file"] = _folded(cell["table"])
        lines = _grouped(cells, "file", lambda cell: [cell["metric"], *_errors(cell, TABLE_ERRORS)])
        header = ["", ">n", ">median", ">mean", ">in", ">under", ">rule"]
        show(header, lines, title=title)
    print("n: figures; per cent: median and mean of the absolute error, bias: median of the")
    print("signed one, in: in the interval, closed: median/mean without what was learned,")
    print("under: measured more than 15 % above, rule: median error of the back of an")
    print("envelope (half the peak, weights over bandwidth, parameters x bytes x 1.2).")
    print(f"{replayed - len(scored):,} of {replayed:,} rows chose a constant and are left out.")


def _grouped(cells: Sequence[Cell], group: str, line: Callable[[Cell], list[str]]) -> Iterator[list[str]]:
    """A line for each cell, below a line that names its group."""
    for name, members in groupby(cells, key=lambda cell: str(cell[group])):
        lines = [line(cell) for cell in members]
        yield [name, *[""] * (len(lines[0]) - 1)]
        yield from lines


def _folded(name: str) -> str:
    """A path or hub id in two lines, so that a table stays narrow."""
    return "/\n".join(name.rsplit("/", 1))


def _errors(cell: Cell, names: Sequence[str]) -> list[str]:
    """Rows, then shares in per cent."""
    return [str(cell["rows"]), *(_percent(cell[name]) for name in names)]


def _closed(cell: Cell) -> list[str]:
    """Median / mean error of the closed form alone, where there is one."""
    if "closed_median" not in cell:
        return []
    return [f"{_percent(cell['closed_median'])}/{_percent(cell['closed_mean'])}"]


def _percent(share: float) -> str:
    return ("-" if share < 0 else "") + digits(100 * abs(share)) if share == share else "–"
