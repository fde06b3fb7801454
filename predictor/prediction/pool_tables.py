"""Tables of disaggregated servers: the options of `predictor disaggregated` as columns in, the plan of each row after
them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pyarrow as pa

from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import Bundle
from predictor.latency.serving.disaggregated import ASKED, Plan, plan
from predictor.latency.serving.rate_matching import Goal
from predictor.measurements.columns import cells_of
from predictor.prediction.rows import filled
from predictor.units import GB
from predictor.values import one_line, show
from predictor.workloads.cells import is_empty
from predictor.workloads.passes.calls import Layout
from predictor.workloads.results import BETWEEN_NOTES, ENDS

POOLS = ("prefill", "decode")
DEGREES = tuple(name for name in Layout._fields if name != "dp")
GOALS: Mapping[str, type] = {field.name: type(field.default) for field in fields(Goal)}
WHOLE = frozenset({"input_len", "output_len", *(name for name, kind in GOALS.items() if kind is int)})
POOL_COLUMNS = (
    *("model", "gpu", "decode_gpu"),
    *(f"{pool}_{name}" for pool in POOLS for name in DEGREES),
    *GOALS,
    "link_gb_per_s",
    *ASKED,
)
FOUND = ("prefill_workers", "decode_workers", "n_gpus")  # asked and answered: a column of the table is filled in
TIMES = ("ttft_s", "tpot_s", "e2e_s", "requests_per_s", "tokens_per_s", "tokens_per_s_per_gpu")
NUMBERS = ("transfer_s", "prefill_load", "decode_batch", "prefill_requests_per_s", "decode_requests_per_s")
TEXTS = ("price_source", "limiter", "basis", "bundle", "notes", "error")
POOL_RESULTS = (*(f"{name}{end}" for name in TIMES for end in ENDS), *NUMBERS, "usd_per_mtok", *TEXTS)
POOL_ROWS = 64  # of a part of a job: each takes a second


def answer_pools(table: pa.Table, bundle: Bundle) -> pa.Table:
    """The table with the columns POOL_RESULTS after its own, and FOUND filled in.

    A row that cannot be answered says in `error` what to change. Raises InvalidRequest where a column already has the
    name of a result.
    """
    if clash := [name for name in POOL_RESULTS if name in table.column_names]:
        raise InvalidRequest(f"the table already has a column {clash[0]}, which is a result; rename it.")
    asked = {name: list(cells_of(table[name])) for name in POOL_COLUMNS if name in table.column_names}
    rows = [{name: cells[number] for name, cells in asked.items()} for number in range(table.num_rows)]
    answers = [answer_pool(row, bundle) for row in rows]
    for name in FOUND:
        found = pa.array([answer.get(name) for answer in answers], pa.int64())
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, filled(table[name], found))
        else:
            table = table.append_column(name, found)
    for name in POOL_RESULTS:
        kind = pa.string() if name in TEXTS else pa.float64()
        table = table.append_column(name, pa.array([answer.get(name) for answer in answers], kind))
    return table


def answer_pool(row: Mapping[str, Any], bundle: Bundle) -> dict[str, Any]:
    """The plan of one row as flat cells, or its `error`."""
    try:
        told: dict[str, Any] = planned(row, bundle).to_dict()
    except PredictorError as error:
        return {"error": one_line(error)}
    return told | {"notes": BETWEEN_NOTES.join(told["notes"]) or None}


def planned(row: Mapping[str, Any], bundle: Bundle) -> Plan:
    """The plan that a row asks for; empty cells take the default. Raises PredictorError."""
    given = {name: row[name] for name in POOL_COLUMNS if name in row and not is_empty(row[name])}
    for name in ("model", "gpu"):
        if name not in given:
            raise InvalidRequest(f"{name} is empty; name one.")
    layouts: dict[str, Any] = {
        pool: Layout(**{name: _number(f"{pool}_{name}", given.get(f"{pool}_{name}", 1)) for name in DEGREES})
        for pool in POOLS
    }
    numbers = {name: _number(name, given[name]) for name in (*GOALS, "input_len", "output_len") if name in given}
    named = [name for name in ("decode_gpu", *ASKED) if name in given and name not in WHOLE]
    texts: dict[str, Any] = {name: _text(name, given[name]) for name in named}
    return plan(
        _text("model", given["model"]),
        _text("gpu", given["gpu"]),
        **layouts,
        link_bytes_per_s=_number("link_gb_per_s", given.get("link_gb_per_s", 0.0)) * GB,
        bundle=bundle,
        **numbers,
        **texts,
    )


def _number(name: str, cell: Any) -> Any:
    """A number of a cell; a whole one where the column has such."""
    try:
        number = float(cell)
    except (TypeError, ValueError):
        raise InvalidRequest(f"{name} is {show(cell)}; it must be a number.") from None
    whole = name in WHOLE or name.removeprefix("prefill_").removeprefix("decode_") in DEGREES
    if whole and not (number.is_integer() and number >= 0):
        raise InvalidRequest(f"{name} is {show(cell)}; it must be a whole number of at least 0.")
    return int(number) if whole else number


def _text(name: str, cell: Any) -> str:
    if not isinstance(cell, str):
        raise InvalidRequest(f"{name} is {show(cell)}; it must be written as text.")
    return cell.strip()
