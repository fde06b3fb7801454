"""Any CSV, by a mapping of its columns to ours: --map FILE.toml or --column latency_s=time:us.

[columns]
m = "M"
latency_s = { column = "time", unit = "us" }

[values.dtype]
"torch.bfloat16" = "bf16"

[set]
family = "gemm"
"""

from __future__ import annotations

import pandas as pd

from predictor.errors import InvalidTable
from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.given import COLUMNS, ColumnMap, Given
from predictor.measurements.readers import Unread
from predictor.measurements.schema import EMPTY_NUMBERS, TEXT
from predictor.values import did_you_mean

NAME = "csv"


def claims(content: Content) -> bool:
    """Whether a file is a CSV, which only a mapping makes readable."""
    return content.kind == "csv"


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """Rows of either table, by the columns that the mapping names."""
    if given.mapping is None:
        raise InvalidTable(
            f"{content.path} is in no known format; if it is a CSV of measurements, name its columns: "
            "--map MAPPING.toml or --column latency_s=time:us."
        )
    table = content.table()
    columns = {name: _column(table, source.column, content) for name, source in given.mapping.columns.items()}
    frame = pd.DataFrame(columns, index=table.index)
    for name, constant in given.mapping.constants.items():
        frame[name] = constant
    for name, values in given.mapping.values.items():
        if name in frame:
            frame[name] = frame[name].map(lambda cell, values=values: values.get(str(cell).strip(), cell))
    return _numbers(frame, given.mapping, unread)


def _column(table: pd.DataFrame, name: str, content: Content) -> pd.Series:
    if name in table:
        return table[name].str.strip()
    cure = did_you_mean(name, table.columns, f"it has {', '.join(table.columns)}.", quote='"', cutoff=0.4)
    raise InvalidTable(f'{content.path} has no column "{name}"; {cure}')


def _numbers(frame: pd.DataFrame, mapping: ColumnMap, unread: Unread) -> pd.DataFrame:
    """frame with numbers in our units; rows in which text stands for a number are counted."""
    for name in frame.columns:
        if COLUMNS[name][0] == TEXT:
            continue
        cells = frame[name].astype(str)
        numbers = pd.to_numeric(cells, errors="coerce")
        empty = cells.isin(EMPTY_NUMBERS)
        for text in sorted(set(cells[numbers.isna() & ~empty])):
            frame = unread.keep(frame, frame[name].astype(str) != text, f'{name} is "{text[:40]}", no number')
        factor = mapping.columns[name].factor if name in mapping.columns else 1.0
        frame = frame.assign(**{name: numbers[frame.index] * factor})
    return frame
