"""How far predictions are from measurements: per family x GPU x dtype x engine, beside two baselines."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.errors import InvalidBundle, InvalidTable
from predictor.estimators.bundle import LEDGER, Bundle
from predictor.estimators.linear import line_s
from predictor.estimators.operators import SEEN, predict_op
from predictor.estimators.samples import TrainingSet, training_sets
from predictor.files import read_content
from predictor.learning.sampling import CELL
from predictor.measurements.checks import ACCEPTED, check, usable
from predictor.measurements.schema import read_table


def evaluate(table: Path | str, bundle: Bundle) -> pd.DataFrame:
    """Cells of a measurement table: predictions of `bundle` against every accepted row.

    One row per cell: family, phase, gpu, dtype, engine, seen (GPU in training), rows, refused (rows that the
    checks flagged or rejected), mape, median_ape, p90_ape, signed_median, latency_weighted, coverage, width, and
    the same mape for the bare bound and the 2-parameter roofline. Errors are fractions.
    """
    checked = check(read_table(table))
    kept = usable(checked)
    if kept.empty:
        raise InvalidTable(f"{table} has no usable row; `predictor check {table}` says why.")
    scored = [predicted_rows(rows, bundle) for rows in training_sets(kept).values() if bundle.has(rows.estimator)]
    if not scored:
        raise InvalidTable(f"{table} has only families that bundle {bundle.id} cannot predict; use another bundle.")
    table_of_cells = cells(pd.concat(scored, ignore_index=True))
    refused = checked[checked["status"] != ACCEPTED].groupby(CELL, observed=True).size().rename("refused").reset_index()
    table_of_cells = table_of_cells.merge(refused.astype(dict.fromkeys(CELL, object)), on=CELL, how="left")
    return table_of_cells.assign(refused=table_of_cells["refused"].fillna(0).astype(int))


def read_ledger(bundle: Bundle) -> pd.DataFrame:
    """The errors on held-out GPUs that were measured when the bundle was made, one row per cell and protocol."""
    path = bundle.path / LEDGER
    content = read_content(path, "install or copy the bundle again", InvalidBundle)
    try:
        texts = dict.fromkeys(("phase", "dtype"), object)  # one operator alone has none at all
        ledger = pd.read_csv(BytesIO(content), keep_default_na=False, na_values=[""], dtype=texts)
        return ledger.fillna({"phase": "", "dtype": ""}).assign(seen=ledger["protocol"] == "rows-out")
    except ValueError as error:
        raise InvalidBundle(f"{path} cannot be read ({error}); install or copy the bundle again.") from None


def predicted_rows(rows: TrainingSet, bundle: Bundle) -> pd.DataFrame:
    """rows.who with latency_s, predicted_s, low_s, high_s, bound_s, roofline2_s and seen."""
    ends = {name: np.empty(len(rows.who)) for name in ("predicted_s", "low_s", "high_s")}
    seen = np.zeros(len(rows.who), dtype=bool)
    for own, gpu, op, setting in rows.by_gpu():
        predicted = predict_op(op, gpu, setting, bundle)
        ends["predicted_s"][own] = predicted.latency_s
        ends["low_s"][own], ends["high_s"][own] = predicted.low_s, predicted.high_s
        seen[own] = predicted.basis == SEEN
    line = bundle.entry(rows.estimator)["line"]
    return rows.who.assign(
        **ends,
        seen=seen,
        latency_s=rows.latency_s,
        bound_s=rows.bound_s,
        roofline2_s=line_s(line, rows.who["dtype"].to_numpy(), rows.bound_s),
    )


def cells(rows: pd.DataFrame, by: list[str] | None = None) -> pd.DataFrame:
    """Error figures of predicted rows, one line per cell of `by` (family, phase, gpu, dtype, engine).

    share_mape: of the bound over a share of it, where rows have that (share_s).
    """
    by = by or CELL
    latency = rows["latency_s"]
    parts: dict[str, Any] = {
        "rows": 1,
        "ape": (rows["predicted_s"] / latency - 1).abs(),
        "signed": rows["predicted_s"] / latency - 1,
        "error_s": (rows["predicted_s"] - latency).abs(),
        "bound_ape": (rows["bound_s"] / latency - 1).abs(),
        "roofline2_ape": (rows["roofline2_s"] / latency - 1).abs(),
    }
    if "share_s" in rows:
        parts["share_ape"] = (rows["share_s"] / latency - 1).abs()
    if "low_s" in rows:
        parts["covered"] = ((rows["low_s"] <= latency) & (latency <= rows["high_s"])).astype(float)
        parts["width"] = (rows["high_s"] - rows["low_s"]) / rows["predicted_s"]
    frame = rows.assign(**parts)
    group = frame.groupby(by, observed=True)
    out = pd.DataFrame(
        {
            "rows": group["rows"].sum(),
            "mape": group["ape"].mean(),
            "median_ape": group["ape"].median(),
            "p90_ape": group["ape"].quantile(0.9),
            "signed_median": group["signed"].median(),
            "latency_weighted": group["error_s"].sum() / group["latency_s"].sum(),
            "bound_mape": group["bound_ape"].mean(),
            "roofline2_mape": group["roofline2_ape"].mean(),
        }
    )
    if "share_s" in rows:
        out["share_mape"] = group["share_ape"].mean()
    if "low_s" in rows:
        out["coverage"], out["width"] = group["covered"].mean(), group["width"].median()
    if "seen" in rows:
        out["seen"] = group["seen"].all()
    return out.reset_index()


def cells_to_json(table: pd.DataFrame, bundle: Bundle) -> dict[str, Any]:
    """The cells as a JSON object; not-a-number becomes null."""
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    for record in records:
        record["basis"] = "seen-gpu" if record.get("seen") else "unseen-gpu"
    return {"bundle": bundle.id, "level": bundle.level, "cells": records}
