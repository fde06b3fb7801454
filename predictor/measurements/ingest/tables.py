"""Tables that have our columns already, those of schema.py (operator calls) or of runs.py (whole runs)."""

from __future__ import annotations

import pandas as pd

from predictor.measurements import runs, schema
from predictor.measurements.ingest.content import Content
from predictor.measurements.ingest.given import Given
from predictor.measurements.readers import Unread

NAME = "table"


def claims(content: Content) -> bool:
    """Whether a file is Parquet, or a CSV whose first line has names of ours that no other table has."""
    if content.kind == "csv":
        names = {name.strip().strip('"') for name in content.text.splitlines()[0].split(",")}
        return {"family", "latency_s"} <= names or runs.is_runs(names)
    return content.kind == "parquet"


def read(content: Content, given: Given, unread: Unread) -> pd.DataFrame:
    """The table as it is."""
    if content.kind == "csv":
        frame = content.table()
        if runs.is_runs(frame.columns):
            return frame
        numbers = [name for name in schema.NUMBER_COLUMNS if name in frame]
        return frame.assign(**{name: frame[name].where(~frame[name].isin(schema.EMPTY_NUMBERS)) for name in numbers})
    if runs.holds_runs(content.path):
        return runs.read_runs(content.path)
    return schema.read_shapes(content.path)
