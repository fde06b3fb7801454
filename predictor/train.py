"""Measurement tables → a bundle: one estimator per op family and phase, and what is known of its errors."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.bundle import FORMAT, MANIFEST, Bundle, load_bundle
from predictor.checks import ACCEPTED, check, usable
from predictor.dataset import TrainingSet, balanced_rows, thin, training_sets
from predictor.errors import InvalidRequest, InvalidTable
from predictor.estimator import Recipe, fit
from predictor.evaluate import cells
from predictor.holdout import fit_roofline2, held_out
from predictor.schema import conform, read_table

LEDGER = "ledger.csv"
LIBRARIES = ("gpu-predictor", "xgboost-cpu", "numpy", "pandas", "scikit-learn")


def train(tables: Sequence[Path], recipe: Recipe, out: Path, progress: Callable[[str], None] = print) -> Bundle:
    """Fit every estimator the tables have rows for and write the bundle to the folder `out`.

    Whole generations are held out in turn for the ledger and the intervals; the released estimators see all rows.
    The manifest is written last, so that a folder without it is no bundle.
    """
    out = Path(out)
    if (out / MANIFEST).exists():
        raise InvalidRequest(f"{out} holds a bundle already; give another folder or remove it.")
    kept = [read_usable(table, recipe, progress) for table in tables]
    sets = training_sets(conform(pd.concat([frame for frame, _ in kept], ignore_index=True)))
    out.mkdir(parents=True, exist_ok=True)
    ledger, entries = [], {}
    for name, rows in sorted(sets.items()):
        progress(f"{name}: {len(rows.who)} rows of {rows.who['gpu'].nunique()} GPUs")
        unseen, trust = held_out(rows, recipe)
        siblings, _ = held_out(rows, recipe, by="gpu")
        entries[name] = _release(name, rows, unseen, siblings, recipe, out) | {"trust_unseen": trust}
        offsets = entries[name]["log_offsets"]
        ledger += [
            cells(_with_interval(scored, ends)).assign(protocol=protocol, estimator=name)
            for protocol, scored, ends in (
                ("generation-out", unseen, offsets["unseen"]),
                ("gpu-out", siblings, offsets["seen"]),
            )
            if len(scored)
        ]
    pd.concat(ledger, ignore_index=True).round(4).to_csv(out / LEDGER, index=False)
    manifest = {
        "format": FORMAT,
        "id": recipe.id,
        "level": recipe.level,
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "recipe": {name: getattr(recipe, name) for name in recipe.__slots__},
        "gpus": sorted({gpu for entry in entries.values() for gpu in entry["gpus"]}),
        "tables": [facts for _, facts in kept],
        "ledger_sha256": _sha256(out / LEDGER),
        "estimators": entries,
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return load_bundle(out)


def _with_interval(scored: pd.DataFrame, offsets: list[float]) -> pd.DataFrame:
    low, high = np.exp(offsets)
    return scored.assign(
        low_s=np.maximum(scored["predicted_s"] * low, scored["bound_s"]), high_s=scored["predicted_s"] * high
    )


def read_usable(path: Path, recipe: Recipe, progress: Callable[[str], None]) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    """The accepted rows of one table, thinned per cell, and what the manifest says of the table."""
    checked = check(read_table(path))
    counts = {str(k): int(v) for k, v in checked["status"].value_counts().items()}
    progress(f"{path}: " + ", ".join(f"{v} {k}" for k, v in counts.items()))
    if not counts.get(ACCEPTED):
        raise InvalidTable(f"{path} has no usable row; `predictor check {path}` says why.")
    kept = thin(usable(checked).reset_index(drop=True), recipe.rows_per_cell, recipe.seed)
    return kept, {"name": Path(path).name, "sha256": _sha256(Path(path)), **counts}


def _release(
    name: str, rows: TrainingSet, unseen: pd.DataFrame, siblings: pd.DataFrame, recipe: Recipe, out: Path
) -> dict[str, Any]:
    """Fit on all rows, save, and describe one estimator."""
    drawn = rows.take(balanced_rows(rows.who, recipe.rows_per_estimator, recipe.seed))
    estimator = fit(drawn.table, drawn.latency_s, recipe)
    file = out / f"{name}.ubj"
    estimator.booster.save_model(file)
    values = rows.table.values
    return {
        "file": file.name,
        "sha256": _sha256(file),
        "rows": len(rows.who),
        "features": list(rows.table.names),
        "floors": {key: [round(x, 4) for x in pair] for key, pair in estimator.floors.items()},
        "ranges": {
            column: [float(values[:, i].min()), float(values[:, i].max())] for i, column in enumerate(rows.table.names)
        },
        "gpus": sorted(rows.who["gpu"].unique()),
        "generations": sorted(rows.who["generation"].unique()),
        "roofline2": fit_roofline2(rows),
        "log_offsets": {
            "unseen": _offsets(unseen, recipe.level),
            "seen": _offsets(siblings if len(siblings) else unseen, recipe.level),
        },
        "metrics": _metrics(unseen),
    }


def _offsets(scored: pd.DataFrame, level: float) -> list[float]:
    """Quantiles of log(truth / prediction) on held-out rows, each GPU counting the same; the ends of the interval."""
    if scored.empty:
        return [-1.0, 1.0]
    ratio = np.log(scored["latency_s"].to_numpy() / scored["predicted_s"].to_numpy())
    cell = ["gpu", "engine", "dtype"]
    per_gpu = scored.drop_duplicates(cell).groupby("gpu").size()
    weight = 1.0 / (scored.groupby(cell)["gpu"].transform("size") * scored["gpu"].map(per_gpu)).to_numpy()
    order = np.argsort(ratio)
    share = np.cumsum(weight[order]) / weight.sum()
    ends = [(1 - level) / 2, (1 + level) / 2]
    return [round(float(ratio[order][np.searchsorted(share, end)]), 4) for end in ends]


def _metrics(unseen: pd.DataFrame) -> dict[str, Any]:
    """Generation-out error per GPU, for the manifest."""
    if unseen.empty:
        return {}
    found = cells(unseen, ["gpu"])[["gpu", "rows", "mape", "roofline2_mape"]].round(4)
    return {"generation_out": found.set_index("gpu").to_dict("index")}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:  # macOS has xgboost instead of xgboost-cpu
        return "absent"
