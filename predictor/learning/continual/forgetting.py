"""What a bundle that learned on no longer says as before, and how its held-out errors join those of its parent."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.estimators.estimator import Estimator
from predictor.estimators.intervals import Offsets
from predictor.estimators.samples import TrainingSet
from predictor.learning.conformal import FEWEST_INTERVAL_ROWS, STRETCHES, with_ends
from predictor.learning.evaluate import read_ledger
from predictor.learning.ledger import ledger_lines
from predictor.learning.sampling import balanced_weights
from predictor.ops.dtypes import Array

FORGETTING_CELL = ["gpu", "engine", "dtype"]
NONE = 0.99  # a stretch above draws nothing in
COLUMNS = ["estimator", *FORGETTING_CELL, "calls", "mean", "p90", "error"]
LINE = ["family", "phase", "gpu", "dtype", "engine", "protocol", "slice", "estimator"]  # what names a ledger line


def changes(before: Estimator, after: Estimator, calls: TrainingSet, known: Bundle) -> pd.DataFrame:
    """How far predictions of calls moved: estimator, gpu, engine, dtype, calls, mean and p90 of |log(after / before)|,
    and error: the mean error of the cell on rows that were held out of `known`, not a number where none were.
    """
    moved = np.abs(_log_latency(after, calls) - _log_latency(before, calls))
    cells = pd.DataFrame({**calls.who[FORGETTING_CELL], "moved": moved}).groupby(FORGETTING_CELL)["moved"]
    table = pd.DataFrame({"calls": cells.size(), "mean": cells.mean(), "p90": cells.quantile(0.9)}).reset_index()
    ledger = read_ledger(known)
    own = (ledger["estimator"] == before.name) & (ledger["protocol"] == "rows-out") & (ledger["slice"] == "all")
    errors = ledger[own].groupby(FORGETTING_CELL)["mape"].mean().rename("error").reset_index()
    return table.merge(errors, on=FORGETTING_CELL, how="left").assign(estimator=before.name)[COLUMNS]


def unseen_lines(scored: pd.DataFrame, estimator: str, known: Bundle) -> list[pd.DataFrame]:
    """Ledger lines of rows, as `known` predicts them, of GPUs that it never saw."""
    entry = known.entry(estimator)
    out = scored[~scored["gpu"].isin(list(entry["references"]))].drop(columns="seen")
    alone = out[~out["generation"].isin(entry["generations"])]
    return [*ledger_lines(alone, "generation-out", estimator), *ledger_lines(out, "gpu-out", estimator)]


def joined_ledger(path: Path, lines: Sequence[pd.DataFrame]) -> str:
    """The text of a ledger with new lines; a line that it has already becomes the mean of both by rows.

    All other lines stay to the byte.
    """
    text = path.read_text(encoding="utf-8")
    known = pd.read_csv(StringIO(text), keep_default_na=False, na_values=[""]).fillna({"phase": "", "dtype": ""})
    new = pd.concat(lines, ignore_index=True)[list(known)]
    again = pd.MultiIndex.from_frame(known[LINE]).isin(pd.MultiIndex.from_frame(new[LINE]))
    both = pd.concat([known[again], new], ignore_index=True)
    numbers = [name for name in known if name not in (*LINE, "rows")]
    names = [both[name] for name in LINE]
    sums = both[numbers].mul(both["rows"], axis=0).groupby(names, sort=False).sum(min_count=1)
    counted = both[numbers].notna().mul(both["rows"], axis=0).groupby(names, sort=False).sum()
    means = sums.div(counted.where(counted > 0)).assign(rows=both["rows"].groupby(names).sum()).reset_index()
    header, *kept = text.splitlines(keepends=True)
    stay = [line for line, gone in zip(kept, again.tolist(), strict=True) if not gone]
    return header + "".join(stay) + means[list(known)].round(4).to_csv(index=False, header=False)


def stretched(offsets: Offsets, held: pd.DataFrame, level: float) -> Offsets:
    """Interval ends of measured GPUs, drawn out for each dtype until they cover `level` of rows held out of it."""
    widened = dict(offsets)
    for dtype, rows in held.groupby("dtype"):
        if len(rows) >= FEWEST_INTERVAL_ROWS:
            ends = np.array(offsets.get(str(dtype), offsets[""]))
            tries = [np.round(ends * stretch, 4).tolist() for stretch in STRETCHES[STRETCHES > NONE]]
            widened[str(dtype)] = next((drawn for drawn in tries if _coverage(rows, {"": drawn}) >= level), tries[-1])
    return widened


def _coverage(rows: pd.DataFrame, offsets: Offsets) -> float:
    ended = with_ends(rows, offsets)
    inside = (ended["low_s"] <= ended["latency_s"]) & (ended["latency_s"] <= ended["high_s"])
    return float(np.average(inside, weights=balanced_weights(rows)))


def _log_latency(estimator: Estimator, calls: TrainingSet) -> Array:
    logs = np.empty(len(calls.who))
    for own, gpu, op, setting in calls.by_gpu():
        logs[own] = np.maximum(estimator.uncorrected(op, gpu, setting), np.log(calls.bound_s[own]))
    return logs
