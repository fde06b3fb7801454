"""Measurement tables as training sets: checked, of the newest engines, thinned, and no row twice that two hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.errors import InvalidTable
from predictor.estimators.samples import TrainingSet, training_sets
from predictor.files import sha256_of
from predictor.learning.recipe import Recipe
from predictor.learning.sampling import newest_versions, thin
from predictor.measurements.checks import ACCEPTED, check, usable
from predictor.measurements.schema import COLUMNS, conform, read_table

FEWEST_ESTIMATOR_ROWS = 20  # rows of an estimator; of fewer a fifth held out may be none
REPEATED = "repeated"  # of what the manifest says of a table: accepted rows that an earlier table holds
SUPERSEDED = "superseded"  # … and those of an engine that a newer version was measured of
Facts = Mapping[str, Any]


def read_sets(
    tables: Sequence[Path], recipe: Recipe, progress: Callable[[str], None]
) -> tuple[list[Facts], Mapping[str, TrainingSet]]:
    """What the manifest says of each table, and one training set per estimator from the usable rows of all."""
    known: list[NDArray[np.uint64]] = []
    kept = [_read(table, recipe, known if len(tables) > 1 else None, progress) for table in tables]
    sets = training_sets(conform(pd.concat([rows for rows, _ in kept], ignore_index=True)))
    few = {name: len(rows.who) for name, rows in sets.items() if len(rows.who) < FEWEST_ESTIMATOR_ROWS}
    if len(few) == len(sets):
        counts = ", ".join(f"{count} of {name}" for name, count in few.items())
        names = " and ".join(map(str, tables))
        has = "has" if len(tables) == 1 else "have"
        raise InvalidTable(
            f"{names} {has} too few usable rows ({counts}); training needs {FEWEST_ESTIMATOR_ROWS} of an operator."
        )
    for name, count in few.items():
        progress(f"{name}: {count} rows, left out; training needs {FEWEST_ESTIMATOR_ROWS} of an operator")
    return [facts for _, facts in kept], {name: rows for name, rows in sets.items() if name not in few}


def _read(
    path: Path, recipe: Recipe, known: list[NDArray[np.uint64]] | None, progress: Callable[[str], None]
) -> tuple[pd.DataFrame, Facts]:
    """The accepted rows of one table, thinned per cell, and what the manifest says of the table.

    known: digests of the rows of earlier tables, to which those of this one are added; None: there is no other table.
    """
    checked = check(read_table(path))
    counts = {str(k): int(v) for k, v in checked["status"].value_counts().items()}
    progress(f"{path}: " + ", ".join(f"{v} {k}" for k, v in counts.items()))
    if not counts.get(ACCEPTED):
        raise InvalidTable(f"{path} has no usable row; `predictor check {path}` says why.")
    kept = usable(checked).reset_index(drop=True)
    if known is not None:
        again = _known(kept, known)
        if again.any():
            counts[REPEATED] = int(again.sum())
            progress(f"  {counts[REPEATED]} of them are in an earlier table too, and count once")
            kept = kept[~again].reset_index(drop=True)
    newest = newest_versions(kept)
    if not newest.all():
        counts[SUPERSEDED] = int((~newest).sum())
        progress(f"  {counts[SUPERSEDED]} are of an engine that a newer version was measured of, and do not count")
        kept = kept[newest].reset_index(drop=True)
    kept = thin(kept, recipe.rows_per_cell, recipe.seed)
    return kept, {"name": Path(path).name, "sha256": sha256_of(Path(path)), **counts}


def _known(rows: pd.DataFrame, known: list[NDArray[np.uint64]]) -> NDArray[np.bool_]:
    """Mask of the rows of which an earlier table has the same call with the same time, whatever it names as source."""
    columns = [name for name in COLUMNS if name != "source"]
    digests = np.asarray(pd.util.hash_pandas_object(rows[columns], index=False), dtype=np.uint64)
    again = np.isin(digests, np.concatenate(known)) if known else np.zeros(len(digests), dtype=bool)
    known.append(digests)
    return again
