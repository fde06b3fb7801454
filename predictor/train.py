"""Measurement tables → a bundle: one estimator per op family and phase, and what is known of its errors."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from predictor.bundle import FEWSHOT, FORMAT, LEDGER, MANIFEST, Bundle, keep_specs, load_bundle
from predictor.checks import ACCEPTED, check, usable
from predictor.dataset import TrainingSet, thin, training_sets
from predictor.errors import InvalidRequest, InvalidTable
from predictor.evaluate import cells
from predictor.fewshot import FewShot, fewshot
from predictor.files import sha256_of
from predictor.fit import fit
from predictor.guard import number_fields
from predictor.holdout import generation_folds
from predictor.ledger import Held, correlation_across, held
from predictor.recipe import Recipe
from predictor.schema import conform, read_table

if TYPE_CHECKING:
    import xgboost

LIBRARIES = ("gpu-predictor", "xgboost-cpu", "numpy", "pandas", "scikit-learn")


def train(tables: Sequence[Path], recipe: Recipe, out: Path, progress: Callable[[str], None] = print) -> Bundle:
    """Fit every estimator the tables have rows for and write the bundle to the folder `out`.

    Whole generations are held out in turn for the ledger and the intervals; the released estimators see all rows.
    The manifest is written last, so that a folder without it is no bundle.
    """
    out = Path(out)
    if (out / MANIFEST).exists():
        raise InvalidRequest(f"{out} holds a bundle already; give another folder or remove it.")
    facts, sets = read_sets(tables, recipe, progress)
    out.mkdir(parents=True, exist_ok=True)
    found = measure(sets, recipe, progress)
    entries = {name: _release(name, sets[name], found[name], recipe, out) for name in found}
    _write_ledger(found, out)
    priors = _write_fewshot({name: one.few for name, one in found.items()}, out)
    entries = {name: {**entry, **priors[name]} for name, entry in entries.items()}
    keep_specs(sorted({gpu for rows in sets.values() for gpu in rows.who["gpu"]}), out)
    manifest = {
        "format": FORMAT,
        "id": recipe.id,
        "level": recipe.level,
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "recipe": {name: getattr(recipe, name) for name in recipe.__slots__},
        "gpus": sorted({gpu for entry in entries.values() for gpu in entry["references"]}),
        "tables": facts,
        "ledger_sha256": sha256_of(out / LEDGER),
        "fewshot_sha256": sha256_of(out / FEWSHOT),
        "correlation_across": correlation_across(
            {name: one.unseen for name, one in found.items()}, {name: one.correlation for name, one in found.items()}
        ),
        "estimators": entries,
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return load_bundle(out)


def relist(tables: Sequence[Path], folder: Path, progress: Callable[[str], None] = print) -> Bundle:
    """Measure the ledger of an existing bundle again, with its own recipe; the estimators stay."""
    opened = load_bundle(folder)
    recipe = Recipe(**opened.manifest["recipe"])
    _write_ledger(measure(read_sets(tables, recipe, progress)[1], recipe, progress), opened.path)
    manifest = {**opened.manifest, "ledger_sha256": sha256_of(opened.path / LEDGER)}
    (opened.path / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return load_bundle(opened.path)


def relearn(tables: Sequence[Path], folder: Path, progress: Callable[[str], None] = print) -> Bundle:
    """Learn the priors of corrections of an existing bundle again, with their curve; the estimators stay."""
    opened = load_bundle(folder)
    recipe = Recipe(**opened.manifest["recipe"])
    few = {}
    for name, rows in sorted(read_sets(tables, recipe, progress)[1].items()):
        few[name] = fewshot(generation_folds(rows, recipe), recipe)
        progress(f"{name}: errors after few rows of a new GPU measured on {len(few[name].curve)} draws")
    priors = _write_fewshot(few, opened.path)
    entries = {name: {**entry, **priors.get(name, {})} for name, entry in opened.manifest["estimators"].items()}
    manifest = {**opened.manifest, "estimators": entries, "fewshot_sha256": sha256_of(opened.path / FEWSHOT)}
    (opened.path / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return load_bundle(opened.path)


def _write_fewshot(few: Mapping[str, FewShot], out: Path) -> Mapping[str, Mapping[str, Any]]:
    """Write what a few rows of an unseen GPU are worth; returns what the manifest says of each estimator."""
    curves = [one.curve.assign(estimator=name) for name, one in few.items()]
    pd.concat(curves, ignore_index=True).round(4).to_csv(out / FEWSHOT, index=False)
    return {name: {"prior": one.prior.to_json()} if one.prior else {} for name, one in few.items()}


def read_sets(
    tables: Sequence[Path], recipe: Recipe, progress: Callable[[str], None]
) -> tuple[list[Mapping[str, Any]], Mapping[str, TrainingSet]]:
    """What the manifest says of each table, and one training set per estimator from the usable rows of all."""
    kept = [read_usable(table, recipe, progress) for table in tables]
    return [facts for _, facts in kept], training_sets(
        conform(pd.concat([rows for rows, _ in kept], ignore_index=True))
    )


def measure(sets: Mapping[str, TrainingSet], recipe: Recipe, progress: Callable[[str], None]) -> Mapping[str, Held]:
    """What rows, GPUs and generations that were held out teach of every estimator."""
    found = {}
    for name, rows in sorted(sets.items()):
        progress(f"{name}: {len(rows.who)} rows of {rows.who['gpu'].nunique()} GPUs")
        found[name] = held(rows, recipe, progress)
    return found


def _write_ledger(found: Mapping[str, Held], out: Path) -> None:
    pd.concat([one.ledger for one in found.values()], ignore_index=True).round(4).to_csv(out / LEDGER, index=False)


def read_usable(path: Path, recipe: Recipe, progress: Callable[[str], None]) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    """The accepted rows of one table, thinned per cell, and what the manifest says of the table."""
    checked = check(read_table(path))
    counts = {str(k): int(v) for k, v in checked["status"].value_counts().items()}
    progress(f"{path}: " + ", ".join(f"{v} {k}" for k, v in counts.items()))
    if not counts.get(ACCEPTED):
        raise InvalidTable(f"{path} has no usable row; `predictor check {path}` says why.")
    kept = thin(usable(checked).reset_index(drop=True), recipe.rows_per_cell, recipe.seed)
    return kept, {"name": Path(path).name, "sha256": sha256_of(Path(path)), **counts}


def _release(name: str, rows: TrainingSet, found: Held, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Fit on all rows, save, and describe one estimator."""
    estimator = fit(rows, recipe)
    large = rows.bound_s > np.median(rows.bound_s)
    return {
        "transfer": _saved(estimator.transfer, out / f"{name}.transfer.ubj"),
        "reference": _saved(estimator.reference, out / f"{name}.reference.ubj"),
        "rows": len(rows.who),
        "features": list(rows.table.names),
        "floors": {key: [round(x, 4) for x in pair] for key, pair in estimator.floors.items()},
        "line": estimator.line,
        "references": {gpu: sorted(groups) for gpu, groups in estimator.references.items()},
        "generations": sorted(rows.who["generation"].unique()),
        "weights": {name: list(weights) for name, weights in found.weights.items()},
        "ranges": _ranges(rows),
        "worst_share": float(np.quantile((rows.bound_s / rows.latency_s)[large], 0.02)),
        "log_offsets": found.log_offsets,
        "correlation": found.correlation,
        "metrics": _metrics(found.unseen),
    }


def _saved(booster: xgboost.Booster, path: Path) -> dict[str, str]:
    booster.save_model(path)
    return {"file": path.name, "sha256": sha256_of(path)}


def _ranges(rows: TrainingSet) -> dict[str, list[float]]:
    """Least and most of every number field of the measured calls."""
    op, _ = rows.calls(np.arange(len(rows.who)))
    return {name: [float(np.min(getattr(op, name))), float(np.max(getattr(op, name)))] for name in number_fields(op)}


def _metrics(unseen: pd.DataFrame) -> dict[str, Any]:
    """Generation-out error per GPU, for the manifest."""
    if unseen.empty:
        return {}
    found = cells(unseen, ["gpu"])[["gpu", "rows", "mape", "roofline2_mape"]].round(4)
    return {"generation_out": found.set_index("gpu").to_dict("index")}


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:  # macOS has xgboost instead of xgboost-cpu
        return "absent"
