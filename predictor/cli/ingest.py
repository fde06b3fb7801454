"""predictor ingest: files of benchmarks and profilers as one checked table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from typer import Argument, Option, Typer

from predictor.cli.check import Page, need_folders, show_verdicts, write_verdicts
from predictor.cli.common.spec import Spec
from predictor.errors import InvalidTable


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(ingest)


def ingest(
    files: Annotated[list[Path], Argument(metavar="FILE", help="What tools wrote; .gz too.")],
    out: Annotated[Path, Option(metavar="TABLE.parquet", help="All rows that could be read, with status and reason.")],
    format: Annotated[
        str,
        Option(
            help="table, csv, llama-bench, vllm, sglang, genai-perf, torch-profiler or nsight; auto goes by content."
        ),
    ] = "auto",
    mapping: Annotated[
        Path | None,
        Option("--map", metavar="MAPPING.toml", help="Names the columns of a CSV: [columns], [values], [set]."),
    ] = None,
    column: Annotated[
        list[str] | None, Option(metavar="COLUMN=NAME[:UNIT]", help="As one line of --map: latency_s=time:us.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="COLUMN=VALUE", help="A column of all rows, over what the files tell: dtype=bf16."),
    ] = None,
    gpu: Annotated[str, Option(help="As --set gpu=NAME.")] = "",
    report: Page = None,
    spec: Spec = None,
) -> None:
    """Read measurements of operator calls, or of whole runs, into one table, and say which obey physics."""
    from predictor.measurements.ingest import Unread, column_map, ingest as read_files, pairs

    need_folders(out, report)
    columns = pairs(set_ or (), "--set") | ({"gpu": gpu} if gpu else {})
    unread = Unread()
    title = ", ".join(map(str, files))
    checked = read_files(
        files, format=format, columns=columns, mapping=column_map(mapping, column or ()), unread=unread
    )
    for line in unread.lines():
        print(line, file=sys.stderr)
    if checked.empty:
        raise InvalidTable(f"no measurement could be read from {title}; the reasons are above.")
    show_verdicts(checked, title)
    write_verdicts(checked, title, out, report, unread.lines())
