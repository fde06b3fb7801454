"""Cells of a bundle's ledger, and of rows that it predicts, as lines that those of another bundle can stand beside.

A line: protocol (what was held out), estimator, gpu, dtype, engine, rows, mape, variance (of mape, by the number of
rows), p90_ape, coverage.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.boosters import verified
from predictor.errors import InvalidRequest, InvalidTable
from predictor.estimators.bundle import CALIBRATION, LEDGER, Bundle
from predictor.estimators.samples import TrainingSet, training_sets
from predictor.files import sha256_of
from predictor.hardware.gpu import get_gpu
from predictor.learning.evaluate import cells, predicted_rows, read_ledger
from predictor.measurements.checks import check, usable
from predictor.measurements.schema import parse_table, read_table

LEDGER_CELL = ["estimator", "gpu", "dtype", "engine"]
KEYS = ["protocol", *LEDGER_CELL]
MEANS = ["protocol", "estimator"]
SEEN = "rows-out"  # the protocol whose GPUs are in training
DATA = "data"
START, FORGOTTEN = "start", "forgotten.csv"  # of a bundle that learned on (predictor.learning.continual.warm_start)
# How far two seeds are from their mean where GPUs are held out, in 99 % of base-4's cells: of the error, of coverage.
SEEDS, SEEDS_OF_SHARE = 0.1, 0.1
FIGURES = ["rows", "mape", "p90_ape", "coverage"]


def lines_of(bundle: Bundle) -> pd.DataFrame:
    """The lines of a bundle's ledger, whose sha256 must be that of the manifest.

    One that learned on from another has that one's errors of the old rows; how far its answers moved since is added to
    those of rows held out, which is the most that they can be.
    """
    verified(bundle.path, {"file": LEDGER, "sha256": bundle.manifest.get("ledger_sha256", "")})
    ledger = read_ledger(bundle)
    whole = ledger[ledger["slice"] == "all"]
    lines = _lines(whole)
    moved = moved_by_learning(bundle)
    if moved.empty:
        return lines
    added = lines.merge(moved.assign(protocol=SEEN), on=KEYS, how="left")["mean"].fillna(0.0).to_numpy()
    return lines.assign(mape=lines["mape"] + added)


def moved_by_learning(bundle: Bundle) -> pd.DataFrame:
    """Cells of a bundle that learned on, with the mean |log(after / before)| of its answers; empty of others."""
    digest = bundle.manifest.get("forgotten_sha256")
    if START not in bundle.manifest or not digest:
        return pd.DataFrame(columns=[*LEDGER_CELL, "mean"])
    content = verified(bundle.path, {"file": FORGOTTEN, "sha256": digest})
    if not content.strip():
        return pd.DataFrame(columns=[*LEDGER_CELL, "mean"])
    texts = dict.fromkeys(LEDGER_CELL, str)
    return pd.read_csv(BytesIO(content), keep_default_na=False, na_values={"error": [""]}, dtype=texts)[
        [*LEDGER_CELL, "mean"]
    ]


def scored(rows: Mapping[str, TrainingSet], bundle: Bundle) -> pd.DataFrame:
    """The lines of measured rows that a bundle predicts."""
    frames = [
        cells(predicted_rows(own, bundle)).assign(estimator=name) for name, own in rows.items() if bundle.has(name)
    ]
    return _lines(pd.concat(frames).assign(protocol=DATA)) if frames else pd.DataFrame(columns=[*KEYS, *FIGURES])


def _lines(means: pd.DataFrame) -> pd.DataFrame:
    # The standard deviation of errors is about their mean: 0.4 to 2.4 times it in cells of base-4.
    spread = np.maximum(means["mape"], means["p90_ape"] / 2)
    texts = means.astype(dict.fromkeys(KEYS, str))
    return texts.assign(variance=spread**2 / means["rows"])[[*KEYS, *FIGURES, "variance"]]


def copies(lines: pd.DataFrame) -> set[tuple[str, ...]]:
    """Cells of gpu-out that are those of generation-out again, since the GPU has no sibling in training."""
    first = lines[lines["protocol"] == "generation-out"]
    both = lines[lines["protocol"] == "gpu-out"].merge(first, on=[*LEDGER_CELL, *FIGURES])
    return set(both[LEDGER_CELL].itertuples(index=False, name=None))


def without(lines: pd.DataFrame, copied: set[tuple[str, ...]]) -> pd.DataFrame:
    """The lines less those of gpu-out of the cells in `copied`."""
    cell = pd.MultiIndex.from_frame(lines[LEDGER_CELL])
    return lines[~((lines["protocol"] == "gpu-out") & cell.isin(copied))]


def folded(lines: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Lines by key, with the gaps that another seed may make where whole GPUs are held out: SEEDS of the error and
    SEEDS_OF_SHARE, less for a mean of many.

    Errors of cells move one by one, coverages together within a generation, whose intervals are calibrated as one:
    their correlation between two seeds of base-4 is 0.03 and 0.31, and between generations 0.02 and -0.05.
    """
    found = lines.set_index(by)
    if "cells" not in found:
        found = found.assign(cells=1, generations=1)
    whole = ~found.index.get_level_values("protocol").isin([SEEN, DATA])
    gap = whole * SEEDS * found["mape"] / np.sqrt(found["cells"])
    gaps = found.assign(gap=gap, coverage_gap=whole * SEEDS_OF_SHARE / np.sqrt(found["generations"]))
    return gaps[["cells", "rows", "mape", "gap", "variance", "coverage", "coverage_gap"]].sort_index()


def means_of(lines: pd.DataFrame, chosen: pd.Index[Any]) -> pd.DataFrame:
    """Mean lines over the chosen cells (by KEYS) of each operator and protocol, with the number of cells and of their
    generations."""
    kept = lines[pd.MultiIndex.from_frame(lines[KEYS]).isin(chosen)]
    generation = kept["gpu"].map(lambda name: get_gpu(name).generation)
    group = kept.assign(generation=generation).groupby(MEANS)
    mean = group[["mape", "coverage"]].mean()
    count, generations = group.size(), group["generation"].nunique()
    sums = group[["rows", "variance"]].sum()
    return mean.assign(
        cells=count, generations=generations, rows=sums["rows"], variance=sums["variance"] / count**2
    ).reset_index()


def read_rows(data: Path | str, *bundles: Bundle) -> Mapping[str, TrainingSet]:
    """The usable rows of a measurement table by estimator; rows that either bundle knows already raise."""
    kept = usable(check(read_table(data)))
    digest = sha256_of(Path(data))
    for bundle in bundles:
        if any(table.get("sha256") == digest for table in bundle.manifest.get("tables", ())):
            raise InvalidRequest(f"{data} trained {bundle.id}; give measurements that neither bundle was made from.")
        if (entry := bundle.manifest.get(CALIBRATION)) and (again := _again(kept, bundle, entry)):
            raise InvalidRequest(
                f"{data} has {again} rows that calibrated {bundle.id}; give rows that neither bundle was made from."
            )
    rows = training_sets(kept)
    measured = {gpu for own in rows.values() for gpu in own.who["gpu"]}
    for bundle in bundles:
        if lacking := sorted(set(bundle.calibrated) - measured):
            raise InvalidRequest(
                f"{data} has no usable row of {', '.join(lacking)}, where {bundle.id} is calibrated; measure some."
            )
    if not any(bundle.has(name) for name in rows for bundle in bundles):
        raise InvalidTable(f"{data} has no usable row that a bundle predicts; `predictor check {data}` says why.")
    return rows


def _again(kept: pd.DataFrame, bundle: Bundle, entry: Mapping[str, str]) -> int:
    """How many rows calibrated the bundle."""
    known = parse_table(verified(bundle.path, entry), entry["file"]).astype(str)
    own = kept.assign(gpu=[get_gpu(str(name)).name for name in kept["gpu"]]).astype(str)[known.columns]
    return len(own.drop_duplicates().merge(known.drop_duplicates()))
