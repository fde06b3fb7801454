"""Answers to a frame of requests: pandas, polars or Arrow in, the same out."""

from __future__ import annotations

from typing import Any

from predictor.errors import InvalidTable
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.prediction.rows import ROWS, answer_columns
from predictor.workloads.request import RESULTS


def predict_frame(frame: Any, bundle: str | Bundle = "") -> Any:
    """The frame with the columns of predictor.workloads.request.RESULTS after its own; its columns are those of a
    request.

    frame: a pandas.DataFrame (its index stays), a polars.DataFrame or a pyarrow.Table. A row that cannot be answered
    says why in `error`. Raises InvalidTable for anything else.

    >>> import pandas as pd
    >>> predict_frame(pd.DataFrame({"model": ["Llama-3.1-8B"], "gpu": ["H100"]}))["fits"].tolist()
    [True]
    """
    opened = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    kind = type(frame).__module__.partition(".")[0]
    if kind == "pandas":
        return frame.assign(**_columns(frame.to_dict("records"), opened))
    if kind not in ("polars", "pyarrow"):
        raise InvalidTable(f"frame is {type(frame).__name__}; give a DataFrame of pandas or polars or an Arrow table.")
    from predictor.prediction.rows import answered

    table = frame.to_arrow() if kind == "polars" else frame
    found = answered(table, _columns(table.to_pylist(), opened))
    if kind == "pyarrow":
        return found
    import polars

    return polars.from_arrow(found)


def _columns(rows: list[dict[str, Any]], bundle: Bundle) -> dict[str, list[Any]]:
    parts = [answer_columns(rows[start : start + ROWS], bundle) for start in range(0, len(rows), ROWS)]
    return {name: [cell for part in parts for cell in part[name]] for name in RESULTS}
