"""Drift: do recent measurements still lie in the intervals of a bundle, by family, GPU, engine and its version?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from predictor.errors import InvalidTable
from predictor.estimators.bundle import Bundle
from predictor.estimators.samples import training_sets
from predictor.learning.evaluate import cells, predicted_rows, read_ledger
from predictor.measurements.checks import check, usable
from predictor.measurements.schema import read_table
from predictor.ops.dtypes import Array

GROUP = ["family", "phase", "gpu", "engine", "engine_version"]
DRIFT_CELL = ["family", "phase", "gpu", "engine"]
MARGIN = 0.1  # coverage so far below what was measured before is not yet drift
CHANCE = 0.01  # that a group without drift is called one
MANY = 1000  # rows that stand for the level where the ledger has none of a GPU


def monitor(data: Path | str, bundle: Bundle) -> pd.DataFrame:
    """A line per family, phase, gpu, engine and engine_version of the accepted rows of a measurement table.

    rows, mape, signed_median (predicted over measured, less 1), coverage of the interval, and drifted: whether coverage
    is MARGIN below what the bundle's ledger has for rows of this GPU and engine that training did not see (below the
    level where it has none), and the chance of that without drift is below CHANCE (Fisher's exact test).
    """
    kept = usable(check(read_table(data)))
    scored = [predicted_rows(rows, bundle) for rows in training_sets(kept).values() if bundle.has(rows.estimator)]
    if not scored:
        raise InvalidTable(f"{data} has no usable row that bundle {bundle.id} predicts; `predictor check` says why.")
    rows = pd.concat(scored, ignore_index=True)
    lines = cells(rows, GROUP)[[*GROUP, "rows", "mape", "signed_median", "coverage"]]
    ledger = read_ledger(bundle)
    ledger = ledger[(ledger["protocol"] == "rows-out") & (ledger["slice"] == "all")]
    known = ledger.assign(covered=ledger["coverage"] * ledger["rows"]).groupby(DRIFT_CELL)[["rows", "covered"]].sum()
    before = known.reindex(pd.MultiIndex.from_frame(lines[DRIFT_CELL].astype(object))).reset_index(drop=True)
    drifted = [
        _drifted(round(coverage * count), count, then, bundle.level)
        for coverage, count, then in zip(lines["coverage"], lines["rows"].tolist(), before.to_numpy(), strict=True)
    ]
    return lines.assign(drifted=drifted)


def _drifted(hits: int, rows: int, before: Array, level: float) -> bool:
    """before: rows and how many of them were covered, not a number where none are known."""
    from scipy.stats import fisher_exact

    seen, covered = (MANY, level * MANY) if np.isnan(before).any() else before
    covered = min(round(float(covered)), round(level * float(seen)))
    if hits / rows > covered / seen - MARGIN:
        return False
    table = [[hits, rows - hits], [covered, int(seen) - covered]]
    return bool(fisher_exact(table, alternative="less").pvalue < CHANCE)
