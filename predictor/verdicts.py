"""What the checks say of a table, counted: of operator calls or of whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from predictor import checks, runs
from predictor.schema import read_table

NUMBER = r"(?<!\S)\d[\d.,]*(?=\s)"  # reasons that differ in a number only are counted together
CALLS, RUNS = ("family", "gpu", "engine"), ("model", "gpu", "engine")


def checked_table(path: Path) -> pd.DataFrame:
    """A table of either kind with status and reason."""
    return runs.check(runs.read_runs(path)) if runs.holds_runs(path) else checks.check(read_table(path))


def reasons(checked: pd.DataFrame) -> list[dict[str, Any]]:
    """rows, share, status and reason, the most frequent first."""
    kinds = checked.assign(reason=checked["reason"].str.replace(NUMBER, "…", regex=True))
    counts = kinds.groupby(["status", "reason"], observed=True).size().rename("rows").reset_index()
    counts = counts.assign(share=counts["rows"] / max(len(checked), 1))
    return [
        {str(name): value for name, value in row.items()}
        for row in counts.sort_values("rows", ascending=False, kind="stable").to_dict("records")
    ]


def by_group(checked: pd.DataFrame) -> pd.DataFrame:
    """Rows of each status by family (or model), GPU and engine."""
    keys = list(RUNS if runs.is_runs(checked.columns) else CALLS)
    counted = checked.groupby([*keys, "status"], observed=True).size().unstack("status", fill_value=0)
    statuses = [checks.ACCEPTED, checks.FLAGGED, checks.REJECTED]
    found = counted.reindex(columns=statuses, fill_value=0).reset_index().rename_axis(columns=None)
    return found.astype(dict.fromkeys(keys, str)).sort_values(keys, ignore_index=True)
