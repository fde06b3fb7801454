"""Files that people have from benchmarks and profilers → one checked table, of operator calls or of whole runs.

A format is one module: NAME, claims(content) → whether a file is its own, read(content, given, unread) → rows in
columns of predictor.measurements.schema or predictor.measurements.runs. What it cannot read it counts in `unread`.
FORMATS lists the modules; the first that claims a file reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.errors import InvalidTable
from predictor.measurements import checks, runs, schema
from predictor.measurements.ingest import (
    genai_perf,
    guidellm,
    inferencex,
    llama_bench,
    mapped_csv,
    mlperf,
    nsight,
    sglang,
    tables,
    torch_profiler,
    vllm,
)
from predictor.measurements.ingest.content import Content, open_content
from predictor.measurements.ingest.given import NOTHING, ColumnMap, Given, column_map, known_column, pairs
from predictor.measurements.readers import Unread, stack

__all__ = ["FORMATS", "NAMES", "ColumnMap", "Unread", "column_map", "ingest", "pairs"]

AUTO = "auto"


class Format(NamedTuple):
    """How the files of one kind of tool are told apart and read."""

    name: str
    claims: Callable[[Content], bool]
    read: Callable[[Content, Given, Unread], pd.DataFrame]


FORMAT_MODULES = (
    *(torch_profiler, llama_bench, sglang, vllm, genai_perf, guidellm, inferencex, mlperf),
    *(nsight, tables, mapped_csv),
)
FORMATS: tuple[Format, ...] = tuple(Format(module.NAME, module.claims, module.read) for module in FORMAT_MODULES)
NAMES = (AUTO, *(each.name for each in FORMATS))


def ingest(
    files: Sequence[str | Path],
    *,
    format: str = AUTO,
    columns: Mapping[str, Any] = NOTHING,
    mapping: ColumnMap | None = None,
    unread: Unread | None = None,
) -> pd.DataFrame:
    """The rows of all files, checked: the columns of predictor.measurements.schema, or of predictor.measurements.runs,
    with status and reason.

    format: one of NAMES; "auto" goes by what is in a file. columns: values for all rows, over what the files tell, such
    as {"gpu": "H100"}. mapping: of CSV files. unread: where what could not be read is counted by reason. Operator calls
    and runs do not go into one table: InvalidTable.
    """
    if format not in NAMES:
        raise InvalidTable(f'format is "{format}"; it must be one of {", ".join(NAMES)}.')
    if not files:
        raise InvalidTable("there is no file; give at least one.")
    unread = Unread() if unread is None else unread
    given = Given({known_column(name): str(value) for name, value in columns.items()}, mapping)
    frames_of = {Path(file): _read(Path(file), format, given, unread) for file in files}
    read = {path: frame for path, frame in frames_of.items() if len(frame)}
    of_runs = [path for path, frame in read.items() if runs.is_runs(frame.columns)]
    of_calls = [path for path in read if path not in of_runs]
    if of_runs and of_calls:
        raise InvalidTable(
            f"{', '.join(map(str, of_runs))}: whole runs; {', '.join(map(str, of_calls))}: operator calls; "
            "ingest them apart, each into a table of its own."
        )
    if of_runs:
        frames = [_completed(path, read[path], given, ("model", "gpu", "engine"), runs.COLUMNS) for path in of_runs]
        return runs.check(runs.conform(pd.concat(frames, ignore_index=True)))
    needed = tuple(name for name in schema.REQUIRED if name != "latency_s")
    return checks.check(stack(_completed(path, read[path], given, needed, schema.COLUMNS) for path in of_calls))


def _read(path: Path, format: str, given: Given, unread: Unread) -> pd.DataFrame:
    content = open_content(path)
    chosen = next((known for known in FORMATS if format in (AUTO, known.name) and known.claims(content)), None)
    if chosen is None and format != AUTO:
        raise InvalidTable(f"{path} is no file of {format}; give another --format, or auto.")
    if chosen is None:
        raise InvalidTable(f"{path} is in no known format; it must be one of {', '.join(NAMES[1:])}.")
    if content.missing:
        unread.remarks["a value that is NaN or Infinity, which no JSON has; taken as missing"] += content.missing
    try:
        return chosen.read(content, given, unread)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InvalidTable(f"{path} is not what {chosen.name} writes ({what}); give another --format.") from error


def _completed(
    path: Path, frame: pd.DataFrame, given: Given, needed: Sequence[str], known: Mapping[str, Any]
) -> pd.DataFrame:
    """frame with the columns that the user gave, those of `known`; what is needed and nowhere told raises."""
    frame = frame.assign(**{name: value for name, value in given.columns.items() if name in known})
    absent = [name for name in needed if name not in frame or frame[name].isna().all() or (frame[name] == "").all()]
    if absent:
        raise InvalidTable(f"{path} does not tell {', '.join(absent)}; add {' '.join(f'--set {n}=…' for n in absent)}.")
    return frame
