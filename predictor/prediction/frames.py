"""Answers to a frame of requests: pandas, polars or Arrow in, the same out."""

from __future__ import annotations

import warnings
from typing import Any

from predictor.errors import InvalidRequest, InvalidTable
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.prediction.rows import ROWS, answer_columns, check_columns, requests_from, requests_of, with_results
from predictor.workloads.cells import is_empty
from predictor.workloads.request import columns, misspelt_note
from predictor.workloads.results import BOTH, RESULTS


def predict_frame(frame: Any, bundle: str | Bundle = "") -> Any:
    """The frame with the columns of predictor.workloads.request.RESULTS after its own; its columns are those of a
    request.

    frame: a pandas.DataFrame (its index stays), a polars.DataFrame or a pyarrow.Table. A row that cannot be answered
    says why in `error`; a column whose name is nearly that of a request's column is a warning. Raises InvalidTable for
    anything else.

    >>> import pandas as pd
    >>> predict_frame(pd.DataFrame({"model": ["Llama-3.1-8B"], "gpu": ["H100"]}))["fits"].tolist()
    [True]
    """
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    kind = type(frame).__module__.partition(".")[0]
    if kind not in ("pandas", "polars", "pyarrow"):
        raise InvalidTable(f"frame is {type(frame).__name__}; give a DataFrame of pandas or polars or an Arrow table.")
    table = frame.to_arrow() if kind == "polars" else frame
    names = list(table.columns if kind == "pandas" else table.column_names)
    check_columns(names)
    if note := misspelt_note(names):
        warnings.warn(note, stacklevel=2)
    if kind == "pandas":
        return table.assign(**_filled(table, _results(_rows(table), opened)))
    answers = with_results(table, _results(requests_of(table), opened))
    if kind == "pyarrow":
        return answers
    import polars

    return polars.from_arrow(answers)


def _rows(frame: Any) -> list[dict[str, Any]]:
    """The requests of a frame of pandas, whose other columns are not looked at."""
    names = [column.name for column in columns() if column.name in frame.columns]
    return requests_from({name: _cells(frame, name) for name in names}, len(frame))


def _cells(frame: Any, name: str) -> list[Any]:
    column = frame[name]
    if column.ndim > 1:
        raise InvalidRequest(f"the table has two columns {name}; drop one.")
    return list(column.tolist())


def _filled(frame: Any, results: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The results, less what the frame says itself of the column that is asked and answered."""
    if BOTH not in frame.columns:
        return results
    pairs = zip(_cells(frame, BOTH), results[BOTH], strict=True)
    return {**results, BOTH: [answer if is_empty(own) else own for own, answer in pairs]}


def _results(rows: list[dict[str, Any]], bundle: Bundle) -> dict[str, list[Any]]:
    parts = [answer_columns(rows[start : start + ROWS], bundle) for start in range(0, len(rows), ROWS)]
    return {name: [cell for part in parts for cell in part[name]] for name in RESULTS}
