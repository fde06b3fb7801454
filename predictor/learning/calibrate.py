"""A bundle and a few rows measured on one's own GPU → a bundle that knows them.

The estimators stay as they are. What the rows teach (predictor.estimators.correction.process), under a prior that they
moved themselves (predictor.estimators.correction.prior), travels in the bundle beside the rows: calibrated again, a
bundle keeps its rows and takes the new ones besides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.boosters import verified
from predictor.errors import InvalidRequest, InvalidTable
from predictor.estimators.bundle import (
    CALIBRATED_ENDS,
    CALIBRATED_FITS,
    CALIBRATED_PRIORS,
    CALIBRATION,
    CORRECTIONS,
    LISTED_SPECS,
    MANIFEST,
    Bundle,
    keep_corrections,
    keep_specs,
    load_bundle,
    write_manifest,
)
from predictor.estimators.corrected import ends_of, priors_of
from predictor.estimators.samples import TrainingSet, training_sets
from predictor.files import copy_folder, needs_folder, sha256_of, whole_folder
from predictor.hardware.gpu import get_gpu
from predictor.latency.as_run import asked_engine
from predictor.learning.sampling import drawn_per_cell
from predictor.measurements.checks import ACCEPTED, check, usable
from predictor.measurements.runs import holds_runs
from predictor.measurements.schema import groups, op_of, parse_table, read_table, write_table
from predictor.workloads.engine_tables import measured_engines

ROWS_FILE = "calibration.parquet"
FEWEST_CALIBRATION_ROWS = 8  # rows of an op on a GPU; fewer say little more than that they are few
MOST = 1000  # rows of an op on a GPU: every prediction is compared with each of them


def calibrate(data: Path | str, bundle: Bundle, out: Path | str) -> tuple[Bundle, pd.DataFrame]:
    """Write the bundle to folder `out`, corrected by the accepted rows of a measurement table.

    Rows that state no engine, or one that estimators do not know, count as those of the engine that `predict` asks for.
    Returns the new bundle and a line per estimator and GPU: rows, used (False where they were too few), nameless (new
    rows that state no such engine), and the mean error on the rows before and after, each left out in turn. The folder
    appears whole or not at all.
    """
    out = Path(out)
    if holds_runs(data):
        raise InvalidRequest(
            f"{data} holds whole runs, which do not say which operator is off. Give operator calls, as `predictor "
            "bench` times them, or runs to calibrate_by_runs."
        )
    if bundle.measured_runs:
        raise InvalidRequest(
            f"{bundle.id} holds whole runs, which say how far answers of its operators are off as they are. Calibrate "
            "the bundle it was made of by operators first, then that by the runs."
        )
    if out.exists():
        raise InvalidRequest(f"{out} exists already; give another folder for the bundle or remove it.")
    needs_folder(out)
    accepted = _accepted(data)
    rows = _with_earlier(_as_asked(accepted), bundle)
    lines, kept = _chosen(rows, bundle)
    if not kept:
        raise InvalidTable(
            f"{data} has fewer than {FEWEST_CALIBRATION_ROWS} usable rows of every operator; "
            "measure more, `predictor bench` does."
        )
    with whole_folder(out, last=MANIFEST) as folder:
        copy_folder(bundle.path, folder)
        for old in folder.glob(f"*{CORRECTIONS}"):
            old.unlink()
        write_table(pd.concat(kept, ignore_index=True), folder / ROWS_FILE)
        gpus = {str(name): len(own) for name, own in pd.concat(kept).groupby("gpu", observed=True)}
        digest = sha256_of(folder / ROWS_FILE)
        own_id = f"{bundle.uncalibrated().id}+{digest[:8]}"
        manifest = {**bundle.manifest, "id": own_id, LISTED_SPECS: keep_specs(gpus, folder)}
        sets = training_sets(pd.concat(kept, ignore_index=True))
        told = {"file": ROWS_FILE, "sha256": digest, "gpus": gpus, CALIBRATED_PRIORS: _priors(sets, bundle)}
        write_manifest(manifest | {CALIBRATION: told}, folder)
        made = load_bundle(folder)
        ends = {name: ends_of(rows, made.estimator(name), made.level) for name, rows in sets.items()}
        fits = keep_corrections((made.estimator(name) for name in sets), folder)
        write_manifest(manifest | {CALIBRATION: told | {CALIBRATED_ENDS: ends, CALIBRATED_FITS: fits}}, folder)
        (folder / "README.md").unlink(missing_ok=True)
        nameless = _nameless(accepted)
        comparison = pd.DataFrame(
            [{**line, "nameless": nameless[line["estimator"], line["gpu"]], **_errors(line, made)} for line in lines]
        )
    return load_bundle(out), comparison


def _accepted(data: Path | str) -> pd.DataFrame:
    checked = check(read_table(data))
    kept = usable(checked).reset_index(drop=True)
    if kept.empty:
        reasons = checked.loc[checked["status"] != ACCEPTED, "reason"].value_counts()
        why = f" Most often: {str(reasons.index[0]).rstrip('.')}." if len(reasons) else ""
        raise InvalidTable(f"{data} has no usable row; `predictor check {data}` says why.{why}")
    return kept.assign(gpu=[get_gpu(str(name)).name for name in kept["gpu"]])


def _as_asked(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, those of no engine that estimators know as of the one that `predict` asks for.

    An estimator knows no kernel of an engine without a name: what such a row teaches is then of calls that nobody asks
    for, and reaches the others only as far as errors of engines are alike.
    """
    pairs = zip(rows["family"].astype(str), rows["dtype"].astype(str), strict=True)
    asked = np.array([asked_engine(family, dtype) for family, dtype in pairs], dtype=object)
    return rows.assign(engine=np.where(_is_nameless(rows), asked, rows["engine"].astype(object)))


def _is_nameless(rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    return np.asarray(~rows["engine"].isin(measured_engines()))


def _nameless(rows: pd.DataFrame) -> Counter[tuple[str, str]]:
    """(estimator, GPU) → rows of no engine that estimators know."""
    counts = Counter[tuple[str, str]]()
    for (family, phase, gpu), places in groups(rows):
        own = rows.iloc[places]
        counts[op_of(own, family, phase).estimator, gpu] += int(_is_nameless(own).sum())
    return counts


def _with_earlier(rows: pd.DataFrame, bundle: Bundle) -> pd.DataFrame:
    """The rows after those that the bundle has from an earlier calibration."""
    earlier: Mapping[str, Any] | None = bundle.manifest.get(CALIBRATION)
    if not earlier:
        return rows
    known = parse_table(verified(bundle.path, earlier), earlier["file"])
    return pd.concat([known.astype({"gpu": object}), rows], ignore_index=True).drop_duplicates(ignore_index=True)


def _chosen(rows: pd.DataFrame, bundle: Bundle) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    lines, kept = [], []
    for (family, phase, gpu), places in groups(rows):
        own = rows.iloc[places]
        name, enough = op_of(own, family, phase).estimator, len(own) >= FEWEST_CALIBRATION_ROWS
        if not bundle.has(name):
            continue
        lines.append({"estimator": name, "gpu": gpu, "rows": min(len(own), MOST), "used": enough})
        if enough:
            kept.append(own[drawn_per_cell(own.assign(engine="", dtype=""), MOST, seed=0)])
    return lines, kept


def _priors(sets: Mapping[str, TrainingSet], bundle: Bundle) -> dict[str, Any]:
    """Estimator → GPU → how its errors hang together there, as JSON."""
    plain, priors = bundle.uncalibrated(), {}
    for name, rows in sets.items():
        moved = priors_of(rows, plain.estimator(name), plain.prior(name))
        priors[name] = {gpu: prior.to_json() for gpu, prior in moved.items()}
    return priors


def _errors(line: Mapping[str, Any], bundle: Bundle) -> dict[str, float]:
    """Mean error on the rows: as they were predicted before, and each when it alone is left out."""
    if not line["used"]:
        return {"mape_before": np.nan, "mape_after": np.nan}
    correction = bundle.estimator(line["estimator"]).corrections[line["gpu"]]
    before, after = (float(np.mean(np.abs(np.exp(-error) - 1))) for error in (correction.error, correction.left_out))
    return {"mape_before": before, "mape_after": after}
