"""predictor ingest: files of benchmarks and profilers as one checked table."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option, Typer

from predictor.cli.check import Page, need_folders, show_verdicts, write_verdicts
from predictor.cli.common.display import digits, duration, duration_interval, percent, say, show, show_notes
from predictor.cli.common.spec import Spec
from predictor.cli.evaluate import FIGURES
from predictor.errors import InvalidTable

if TYPE_CHECKING:
    import pandas as pd

    from predictor.planning.launch.verify import Line

MOST_LINES = 25  # of what was not read, on a terminal


def add(app: Typer) -> None:
    """Add the command."""
    app.command()(ingest)


def ingest(
    files: Annotated[list[Path], Argument(metavar="FILE", help="What tools wrote; .gz too.")],
    out: Annotated[
        Path,
        Option(metavar="TABLE.parquet", help="All rows that could be read, with status and reason (.parquet, .csv)."),
    ],
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
    plan: Annotated[
        Path | None,
        Option(metavar="PLAN.json", help="A plan that was run: fills columns in, and is compared with what it said."),
    ] = None,
    report: Page = None,
    spec: Spec = None,
) -> None:
    """Read measurements of operator calls, or of whole runs, into one table, and say which obey physics."""
    from predictor.measurements.ingest import Unread, column_map, ingest as read_files, pairs
    from predictor.planning.launch.verify import columns_of, read_plan

    need_folders(out, report)
    planned = read_plan(plan) if plan else {}
    said = columns_of(planned) if planned else {}
    columns = said | pairs(set_ or (), "--set") | ({"gpu": gpu} if gpu else {})
    unread = Unread()
    title = ", ".join(map(str, files))
    checked = read_files(
        files, format=format, columns=columns, mapping=column_map(mapping, column or ()), unread=unread
    )
    lines = unread.lines()
    most = len(lines) if checked.empty else MOST_LINES
    for line in lines[:most]:
        print(line, file=sys.stderr)
    if len(lines) > most:
        print(f"and {len(lines) - most} reasons more, which --report lists", file=sys.stderr)
    if checked.empty:
        raise InvalidTable(f"no measurement could be read from {title}; the reasons are above.")
    show_verdicts(checked, title)
    write_verdicts(checked, title, out, report, lines)
    if planned:
        _show_plan(checked, planned, out)


def _show_plan(runs: pd.DataFrame, plan: Mapping[str, Any], out: Path) -> None:
    """What a plan said beside what was measured, and what to do where that is elsewhere."""
    from predictor.planning.launch.verify import verified

    lines, notes = verified(runs, plan)
    if lines:
        several = len({line.run for line in lines}) > 1
        replicas = f"{plan['replicas']} replica{'s' * (plan['replicas'] > 1)}"
        show(
            [*(["run"] if several else []), "figure", ">predicted", ">measured", ">off", "in the interval", "promised"],
            [
                [
                    *([str(line.run)] if several else []),
                    FIGURES[line.figure],
                    *_figures(line),
                    percent(line.measured / line.predicted - 1) if line.predicted else "–",
                    "inside" if line.inside else "OUTSIDE",
                    "" if isnan(line.promised) else "kept" if line.kept else "BROKEN",
                ]
                for line in lines
            ],
            title=f"{replicas} on {plan['n_gpus']} × {plan['gpu']} against bundle {plan['bundle']}",
        )
        inside = sum(line.inside for line in lines)
        say(f"{inside} of {len(lines)} figures lie in their intervals.")
        say("Let a bundle learn from these runs, and plan with it:")
        say(f"  predictor calibrate --data {out} --out my-bundle", "    ")
        if inside < len(lines):
            say("A run does not say which operator is off. To learn that, time some first, then add the runs:")
            about = f"--gpu {plan['gpu']} --model {plan['request']['model']}"
            say(f"  predictor suggest {about} --out shapes.csv", "    ")
            say("  predictor bench --shapes shapes.csv --out mine.parquet", "    ")
            say("  predictor calibrate --data mine.parquet --out my-operators", "    ")
            say(f"  predictor calibrate --data {out} --bundle my-operators --out my-bundle", "    ")
    show_notes(notes)


def _figures(line: Line) -> tuple[str, str]:
    """Predicted with its interval, and measured."""
    if line.figure.endswith("_s") and not line.figure.endswith("per_s"):
        return duration_interval(line.predicted, line.low, line.high), duration(line.measured)
    return f"{digits(line.predicted)} ({digits(line.low)}–{digits(line.high)})", digits(line.measured)
