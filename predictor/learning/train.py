"""Measurement tables → a bundle: one estimator per op family and phase, and what is known of its errors."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import InvalidRequest
from predictor.estimators.bundle import (
    CURVES,
    FEWSHOT,
    FORMAT,
    LEDGER,
    LISTED_SPECS,
    MANIFEST,
    REHEARSAL,
    Bundle,
    keep_specs,
    load_bundle,
    write_manifest,
)
from predictor.estimators.estimator import Estimator
from predictor.estimators.mixture import lists_of
from predictor.estimators.samples import TrainingSet
from predictor.files import needs_place, sha256_of, whole_file, whole_folder
from predictor.learning.conformal import CLASS_OUT, calibrate_far, correlation_across
from predictor.learning.fewshot import FewShot, fewshot
from predictor.learning.fit import fit
from predictor.learning.holdout import classes_out, generation_folds
from predictor.learning.ledger import Held, held, ledger_lines
from predictor.learning.manifest import prior_entry, replace_lines, write_estimator
from predictor.learning.recipe import Recipe
from predictor.learning.rehearsal import part_of, write_rehearsal
from predictor.learning.tables import Facts, read_sets
from predictor.learning.tune import Tuned, needs_trials, tune, write_tuned

LIBRARIES = ("gpu-predictor", "xgboost-cpu", "numpy", "pandas", "scikit-learn")


@dataclass(frozen=True, slots=True)
class Run:
    """A training run: the bundle that it made, and what a bundle does not hold.

    sets, held: rows in training and what was held out, by estimator. began_s, ended_s: Unix time.
    """

    bundle: Bundle
    sets: Mapping[str, TrainingSet]
    held: Mapping[str, Held]
    began_s: float
    ended_s: float


def train(tables: Sequence[Path], recipe: Recipe, out: Path, progress: Callable[[str], None] = print) -> Bundle:
    """Fit every estimator the tables have rows for and write the bundle to the folder `out`.

    Whole generations are held out in turn for the ledger and the intervals; the released estimators see all rows.
    The folder appears whole or not at all.
    """
    return train_run(tables, recipe, out, progress).bundle


def train_run(
    tables: Sequence[Path], recipe: Recipe, out: Path, progress: Callable[[str], None] = print, trials: int = 0
) -> Run:
    """As train, for those who also want to see what was held out. Nothing is written before all is fitted.

    trials: recipes to try first (predictor.learning.tune); 0: none, the given one is trained.
    """
    began_s, out = time.time(), Path(out)
    if (out / MANIFEST).exists():
        raise InvalidRequest(f"{out} holds a bundle already; give another folder or remove it.")
    needs_place(out)
    if trials:
        needs_trials(trials)
    facts, sets = read_sets(tables, recipe, progress)
    tuned = tune(sets, recipe, trials, progress) if trials else None
    recipe = tuned.recipe if tuned else recipe
    held_out = measure(sets, recipe, progress)
    fitted = {name: fit(sets[name], recipe) for name in held_out}
    write_bundle(out, recipe, facts, sets, held_out, fitted, tuned)
    return Run(load_bundle(out), sets, held_out, began_s, time.time())


def write_bundle(
    out: Path,
    recipe: Recipe,
    facts: Sequence[Facts],
    sets: Mapping[str, TrainingSet],
    held_out: Mapping[str, Held],
    fitted: Mapping[str, Estimator],
    tuned: Tuned | None = None,
) -> None:
    """Write a bundle to the folder `out`, which appears whole or not at all.

    facts: of the tables (predictor.learning.tables). sets, held_out, fitted: of each estimator its rows, what was held
    out of them, and the estimator of all.
    """
    with whole_folder(out, last=MANIFEST) as folder:
        entries = {name: write_estimator(fitted[name], sets[name], held_out[name], folder) for name in held_out}
        manifest = {
            "format": FORMAT,
            "id": recipe.id,
            "level": recipe.level,
            **made_with(recipe),
            "gpus": sorted({gpu for entry in entries.values() for gpu in entry["references"]}),
            "tables": facts,
            LISTED_SPECS: keep_specs({gpu for rows in sets.values() for gpu in rows.gpus.tolist()}, folder),
            **_write_ledger(held_out, folder),
            **_write_fewshot({name: one.few for name, one in held_out.items()}, folder),
            **_write_curves(held_out, folder),
            **_write_rehearsal(sets, folder),
            **(write_tuned(tuned, folder) if tuned else {}),
            "correlation_across": correlation_across(
                {name: one.unseen for name, one in held_out.items()},
                {name: one.correlation for name, one in held_out.items()},
            ),
            "estimators": entries,
        }
        write_manifest(manifest, folder)


def relist(tables: Sequence[Path], folder: Path, progress: Callable[[str], None] = print) -> Bundle:
    """Measure the ledger of an existing bundle again, with its own recipe; the estimators stay."""
    opened = load_bundle(folder)
    recipe = Recipe(**opened.manifest["recipe"])
    held_out = measure(read_sets(tables, recipe, progress)[1], recipe, progress)
    manifest = {**opened.manifest, **_write_ledger(held_out, opened.path), **_write_curves(held_out, opened.path)}
    write_manifest(manifest, opened.path)
    return load_bundle(opened.path)


def renew(
    tables: Sequence[Path], recipe: Recipe, folder: Path, names: Sequence[str], progress: Callable[[str], None] = print
) -> Bundle:
    """Train the estimators `names` of an existing bundle again; what is known of all others stays."""
    opened = load_bundle(folder)
    if unknown := [name for name in names if not opened.has(name)]:
        raise InvalidRequest(
            f"{folder} has no estimator {unknown[0]}; it has {', '.join(opened.manifest['estimators'])}."
        )
    sets = {name: rows for name, rows in read_sets(tables, recipe, progress)[1].items() if name in names}
    held_out = measure(sets, recipe, progress)
    entries = dict(opened.manifest["estimators"])
    for name, errors in held_out.items():
        entries[name] = write_estimator(fit(sets[name], recipe), sets[name], errors, opened.path)
    new = {
        LEDGER: {name: one.ledger for name, one in held_out.items()},
        FEWSHOT: {name: one.few.curve for name, one in held_out.items()},
        CURVES: {name: one.curves for name, one in held_out.items()},
    }
    digests = {}
    for file, frames in new.items():
        replace_lines(opened.path / file, frames)
        digests[f"{Path(file).stem}_sha256"] = sha256_of(opened.path / file)
    write_manifest({**opened.manifest, **digests, "estimators": entries}, opened.path)
    return load_bundle(opened.path)


def reclass(tables: Sequence[Path], folder: Path, progress: Callable[[str], None] = print) -> Bundle:
    """Hold classes of cards out of an existing bundle's rows again: its weights and intervals for classes that nobody
    measured, and their lines of the ledger; the estimators stay."""
    opened = load_bundle(folder)
    recipe = Recipe(**opened.manifest["recipe"])
    entries, lines = dict(opened.manifest["estimators"]), []
    for name, rows in sorted(read_sets(tables, recipe, progress)[1].items()):
        scored, far = classes_out(rows, recipe)
        entries[name] = {**entries[name], "far": lists_of(far)}
        if len(scored):
            offsets, ended = calibrate_far(scored, recipe.level)
            entries[name]["log_offsets"] = {**entries[name]["log_offsets"], "far": offsets}
            lines += ledger_lines(ended, CLASS_OUT, name)
        progress(f"{name}: {len(scored)} rows of classes held out")
    old = pd.read_csv(opened.path / LEDGER, keep_default_na=False, low_memory=False)
    ledger = pd.concat([old[old["protocol"] != CLASS_OUT], *lines], ignore_index=True)
    digest = _write_csv(ledger, opened.path / LEDGER)
    write_manifest({**opened.manifest, **digest, "estimators": entries}, opened.path)
    return load_bundle(opened.path)


def relearn(tables: Sequence[Path], folder: Path, progress: Callable[[str], None] = print) -> Bundle:
    """Learn the priors of corrections of an existing bundle again, with their curve; the estimators stay."""
    opened = load_bundle(folder)
    recipe = Recipe(**opened.manifest["recipe"])
    few = {}
    for name, rows in sorted(read_sets(tables, recipe, progress)[1].items()):
        few[name] = fewshot(generation_folds(rows, recipe), recipe)
        progress(f"{name}: errors after few rows of a new GPU measured on {len(few[name].curve)} draws")
    entries = dict(opened.manifest["estimators"])
    entries |= {name: {**entries[name], **prior_entry(one.prior)} for name, one in few.items() if name in entries}
    manifest = {**opened.manifest, "estimators": entries, **_write_fewshot(few, opened.path)}
    write_manifest(manifest, opened.path)
    return load_bundle(opened.path)


def remember(tables: Sequence[Path], folder: Path, progress: Callable[[str], None] = print) -> Bundle:
    """Add to an existing bundle what its calls were like, from the tables that made it; the estimators stay."""
    opened = load_bundle(folder)
    sets = read_sets(tables, Recipe(**opened.manifest["recipe"]), progress)[1]
    write_manifest({**opened.manifest, **_write_rehearsal(sets, opened.path)}, opened.path)
    return load_bundle(opened.path)


def made_with(recipe: Recipe) -> dict[str, Any]:
    """What the manifest says of the run apart from its data."""
    return {
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "recipe": {name: getattr(recipe, name) for name in recipe.__slots__},
    }


def measure(sets: Mapping[str, TrainingSet], recipe: Recipe, progress: Callable[[str], None]) -> Mapping[str, Held]:
    """What rows, GPUs and generations that were held out teach of every estimator."""
    held_out = {}
    for name, rows in sorted(sets.items()):
        progress(f"{name}: {len(rows.who)} rows of {rows.who['gpu'].nunique()} GPUs")
        held_out[name] = held(rows, recipe, progress)
    return held_out


def _write_ledger(held_out: Mapping[str, Held], out: Path) -> dict[str, str]:
    return _write_csv(pd.concat([one.ledger for one in held_out.values()], ignore_index=True), out / LEDGER)


def _write_fewshot(few: Mapping[str, FewShot], out: Path) -> dict[str, str]:
    """What a few rows of an unseen GPU are worth."""
    curves = [one.curve.assign(estimator=name) for name, one in few.items()]
    return _write_csv(pd.concat(curves, ignore_index=True), out / FEWSHOT)


def _write_curves(held_out: Mapping[str, Held], out: Path) -> dict[str, str]:
    """How the trees learned."""
    curves = [one.curves.assign(estimator=name) for name, one in held_out.items()]
    return _write_csv(pd.concat(curves, ignore_index=True), out / CURVES)


def _write_rehearsal(sets: Mapping[str, TrainingSet], out: Path) -> dict[str, str]:
    """What the calls were like, for training that goes on without them."""
    with whole_file(out / REHEARSAL) as draft:
        write_rehearsal({name: [part_of(rows)] for name, rows in sorted(sets.items())}, draft)
    return {f"{Path(REHEARSAL).stem}_sha256": sha256_of(out / REHEARSAL)}


def _write_csv(table: pd.DataFrame, path: Path) -> dict[str, str]:
    """Write a table with few digits; returns what the manifest says of it."""
    with whole_file(path) as draft:
        table.round(4).to_csv(draft, index=False)
    return {f"{path.stem}_sha256": sha256_of(path)}


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:  # macOS has xgboost instead of xgboost-cpu
        return "absent"
