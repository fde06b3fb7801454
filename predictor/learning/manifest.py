"""What the manifest of a bundle says of one estimator, and its boosters as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from predictor.estimators.correction.kernel import Prior
from predictor.estimators.estimator import Estimator
from predictor.estimators.extrapolation import number_fields
from predictor.estimators.mixture import lists_of
from predictor.estimators.samples import TrainingSet
from predictor.files import sha256_of
from predictor.learning.evaluate import cells
from predictor.learning.ledger import Held

if TYPE_CHECKING:
    import xgboost


def write_estimator(estimator: Estimator, rows: TrainingSet, held: Held, out: Path) -> dict[str, Any]:
    """Save the boosters of an estimator of `rows` in a folder, and describe it by that and by what was held out."""
    large = rows.bound_s > np.median(rows.bound_s)
    return {
        "transfer": _saved(estimator.transfer, out / f"{estimator.name}.transfer.ubj"),
        "reference": _saved(estimator.reference, out / f"{estimator.name}.reference.ubj"),
        "rows": len(rows.who),
        "features": list(rows.table.names),
        "floors": {key: [round(x, 4) for x in pair] for key, pair in estimator.floors.items()},
        "line": estimator.line,
        "references": {gpu: sorted(groups) for gpu, groups in estimator.references.items()},
        "generations": sorted(rows.who["generation"].unique()),
        "weights": lists_of(held.weights),
        "far": lists_of(held.far),
        "ranges": _ranges(rows),
        "worst_share": float(np.quantile((rows.bound_s / rows.latency_s)[large], 0.02)),
        "log_offsets": held.log_offsets,
        "correlation": held.correlation,
        "metrics": _metrics(held.unseen),
        **prior_entry(held.few.prior),
    }


def prior_entry(prior: Prior | None) -> dict[str, Any]:
    """What the manifest says of how errors on an unseen GPU hang together."""
    return {"prior": prior.to_json()} if prior else {}


def _saved(booster: xgboost.Booster, path: Path) -> dict[str, str]:
    path.write_bytes(booster.save_raw("ubj"))  # unlike save_model, says what the disk says
    return {"file": path.name, "sha256": sha256_of(path)}


def _ranges(rows: TrainingSet) -> dict[str, list[float]]:
    """Least and most of every number field of the measured calls."""
    op, _ = rows.calls(np.arange(len(rows.who)))
    return {name: [float(np.min(getattr(op, name))), float(np.max(getattr(op, name)))] for name in number_fields(op)}


def _metrics(unseen: pd.DataFrame) -> dict[str, Any]:
    """Generation-out error per GPU."""
    if unseen.empty:
        return {}
    errors = cells(unseen, ["gpu"])[["gpu", "rows", "mape", "roofline2_mape"]].round(4)
    return {"generation_out": errors.set_index("gpu").to_dict("index")}


def replace_lines(path: Path, frames: Mapping[str, pd.DataFrame]) -> None:
    """Lines of estimators, whose name is in the last column, take the place of those that a file has of them."""
    lines = [frame.assign(estimator=name) for name, frame in frames.items() if len(frame)]
    if not lines:
        return
    new = pd.concat(lines, ignore_index=True).round(4)
    kept: list[str] = []
    if path.exists():
        header, *old = path.read_text(encoding="utf-8").splitlines(keepends=True)
        new = new[header.strip().split(",")]
        kept = [line for line in old if line.strip().rsplit(",", 1)[1] not in frames]
    header, *added = new.to_csv(index=False).splitlines(keepends=True)
    path.write_text("".join([header, *kept, *added]), encoding="utf-8")
