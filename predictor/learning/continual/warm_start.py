"""A bundle and tables of new rows → a bundle that knows them too, without the tables that made the first one.

Estimators of which there are no new rows are taken over as they are. The others learn on
(predictor.learning.continual.learn_on), with calls in place of the old rows that are drawn from what the bundle keeps
of them (predictor.learning.rehearsal). Calls drawn anew tell what was forgotten.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.boosters import verified
from predictor.errors import InvalidBundle, InvalidRequest
from predictor.estimators.bundle import (
    CALIBRATION,
    CORRECTIONS,
    CURVES,
    FEWSHOT,
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
from predictor.estimators.samples import TrainingSet
from predictor.files import copy_folder, needs_place, sha256_of, whole_folder
from predictor.learning.conformal import with_ends
from predictor.learning.continual.forgetting import FORGETTING_CELL, changes, joined_ledger, stretched, unseen_lines
from predictor.learning.continual.learn_on import learn_on
from predictor.learning.diagnostics import learning_curves
from predictor.learning.evaluate import cells, predicted_rows
from predictor.learning.fewshot import FewShot
from predictor.learning.fit import fit
from predictor.learning.holdout import score
from predictor.learning.ledger import Held, held, ledger_lines
from predictor.learning.manifest import replace_lines, write_estimator
from predictor.learning.recipe import Recipe
from predictor.learning.rehearsal import Part, drawn, part_of, write_rehearsal
from predictor.learning.tables import read_sets
from predictor.learning.train import Run, made_with

FORGOTTEN = "forgotten.csv"  # predictor.learning.continual.forgetting.changes
REHEARSED = 2  # calls that are rehearsed for each new row
FEWEST_CALLS = 10_000  # that are rehearsed, and that tell what was forgotten
HELD_OUT = 0.2  # of the new rows, for the error after learning
NOT_TAKEN = ("README.md", "*.parquet", f"*{CORRECTIONS}", ".*")  # of the files of the first bundle


@dataclass(frozen=True, slots=True)
class WarmStart:
    """The run that made the new bundle, and what became of the old one's knowledge.

    learned: a line per estimator, gpu, engine and dtype of the new rows: rows, held (how many of them were held out),
    and the mean error on those before and after. forgotten: see predictor.learning.continual.forgetting.changes; empty
    where the old bundle keeps nothing to tell it by.
    """

    run: Run
    learned: pd.DataFrame
    forgotten: pd.DataFrame

    @property
    def bundle(self) -> Bundle:
        """The new bundle."""
        return self.run.bundle


class Learned(NamedTuple):
    """What one estimator became, what was held out meanwhile, and the lines of WarmStart."""

    estimator: Estimator
    rows: TrainingSet
    held: Held
    learned: pd.DataFrame
    forgotten: pd.DataFrame


def warm_start(
    tables: Sequence[Path], start: Bundle, recipe: Recipe, out: Path, progress: Callable[[str], None] = print
) -> WarmStart:
    """Write to the folder `out` what the bundle `start` becomes with the tables' usable rows.

    Tables that made `start` are left out; a calibration of it is not carried over. A fifth of the new rows is held
    out for the ledger, and learned in the end. The folder appears whole or not at all.
    """
    began_s, out = time.time(), Path(out)
    if (out / MANIFEST).exists():
        raise InvalidRequest(f"{out} holds a bundle already; give another folder or remove it.")
    if recipe.level != start.level:
        raise InvalidRequest(f"level is {recipe.level:g}; that of bundle {start.id} is {start.level:g}, and must stay.")
    needs_place(out)
    if start.calibrated:
        file = start.path / start.manifest[CALIBRATION]["file"]
        progress(f"the calibration of {start.id} is not carried over; to learn its rows, give {file} as a table too")
    if start.measured_runs:
        progress(f"the whole runs of {start.id} are not carried over; calibrate the new bundle by them again")
    start = start.uncalibrated()
    facts, sets = read_sets(_unknown(tables, start, progress), recipe, progress)
    kept = kept_calls(start)
    if not kept:
        progress(f"bundle {start.id} keeps nothing of its calls: what it forgets is neither held in place nor told")
    estimators = {
        name: _learned(rows, start, kept.get(name, ()), recipe, progress) for name, rows in sorted(sets.items())
    }
    forgotten = pd.concat([one.forgotten for one in estimators.values()], ignore_index=True)
    with whole_folder(out, last=MANIFEST) as folder:
        entries = _write_files(estimators, start, folder)
        forgotten.round(4).to_csv(folder / FORGOTTEN, index=False)
        write_rehearsal(
            {**kept, **{name: [*kept.get(name, ()), part_of(one.rows)] for name, one in estimators.items()}},
            folder / REHEARSAL,
        )
        files = [folder / name for name in (LEDGER, FEWSHOT, CURVES, REHEARSAL, FORGOTTEN)]
        manifest = {
            **start.manifest,
            **made_with(recipe),
            "id": _id(start, recipe, facts),
            "gpus": sorted(
                {*start.manifest["gpus"], *(gpu for entry in entries.values() for gpu in entry["references"])}
            ),
            "tables": [*start.manifest["tables"], *facts],
            LISTED_SPECS: keep_specs({gpu for rows in sets.values() for gpu in rows.gpus.tolist()}, folder),
            **{f"{file.stem}_sha256": sha256_of(file) for file in files},
            "estimators": {**start.manifest["estimators"], **entries},
            "start": {"bundle": start.id, "sha256": start.sha256, "learned": sorted(estimators)},
        }
        write_manifest(manifest, folder)
    run = Run(load_bundle(out), sets, {name: one.held for name, one in estimators.items()}, began_s, time.time())
    return WarmStart(run, pd.concat([one.learned for one in estimators.values()], ignore_index=True), forgotten)


def kept_calls(bundle: Bundle) -> Mapping[str, Sequence[Part]]:
    """What a bundle keeps of the calls that trained it, by estimator; nothing in one that was made before it did."""
    digest = bundle.manifest.get(f"{Path(REHEARSAL).stem}_sha256")
    if not digest:
        return {}
    try:
        parts: Mapping[str, Sequence[Part]] = json.loads(verified(bundle.path, {"file": REHEARSAL, "sha256": digest}))
    except ValueError as error:
        raise InvalidBundle(f"{bundle.path / REHEARSAL} is not valid JSON ({error}); copy the bundle again.") from None
    return parts


def _unknown(tables: Iterable[Path], start: Bundle, progress: Callable[[str], None]) -> list[Path]:
    """The tables that did not make the bundle."""
    known = {facts["sha256"] for facts in start.manifest["tables"]}
    new = []
    for table in map(Path, tables):
        if table.is_file() and sha256_of(table) in known:
            progress(f"{table}: left out, bundle {start.id} was made from it")
        else:
            new.append(table)
    if not new:
        raise InvalidRequest(f"bundle {start.id} was made from all of these tables; give one with new rows.")
    return new


def _id(start: Bundle, recipe: Recipe, facts: Sequence[Mapping[str, Any]]) -> str:
    """The recipe's id, or where that is the first bundle's its id with a digest of what was learned."""
    if recipe.id != start.id.split("+")[0]:
        return recipe.id
    digest = hashlib.sha256(json.dumps([start.id, repr(recipe), [table["sha256"] for table in facts]]).encode())
    return f"{start.id}+{digest.hexdigest()[:8]}"


def _learned(
    rows: TrainingSet, start: Bundle, parts: Sequence[Part], recipe: Recipe, progress: Callable[[str], None]
) -> Learned:
    name, count = rows.estimator, len(rows.who)
    names = ", ".join(sorted(set(rows.gpus.tolist())))
    if not start.has(name):
        progress(f"{name}: {count} rows of {names}, the first of this operator, trained from them alone")
        errors = held(rows, recipe, progress)
        ledger = errors.ledger[(errors.ledger["protocol"] == "rows-out") & (errors.ledger["slice"] == "all")]
        return Learned(fit(rows, recipe), rows, errors, _report(rows, ledger, None), pd.DataFrame())
    progress(f"{name}: {count} new rows of {names}")
    known, entry = start.estimator(name), start.entry(name)
    calls = drawn(parts, min(max(REHEARSED * count, FEWEST_CALLS), recipe.rows_per_estimator), recipe.seed)
    out = np.random.default_rng(recipe.seed).permutation(count) < HELD_OUT * count
    trial, grown = learn_on(known, rows.take(~out), calls, recipe), learn_on(known, rows, calls, recipe)
    before, after = predicted_rows(rows, start), score(trial, rows.take(out))
    seen = stretched(entry["log_offsets"]["seen"], after, start.level)
    lines = [*unseen_lines(before, name, start), *ledger_lines(with_ends(after, seen), "rows-out", name)]
    errors = Held(
        ledger=pd.concat(lines, ignore_index=True),
        unseen=before[~before["generation"].isin(entry["generations"])],
        weights=known.weights,
        far=known.far,
        log_offsets={**entry["log_offsets"], "seen": seen},
        correlation=entry["correlation"],
        few=FewShot(start.prior(name), pd.DataFrame()),
        curves=learning_curves(trial, {"fitted": rows.take(~out), "held-out rows": rows.take(out)}),
    )
    fresh = drawn(parts, FEWEST_CALLS, recipe.seed + 1)
    forgotten = pd.DataFrame() if fresh is None else changes(known, grown, fresh, start)
    return Learned(
        grown,
        rows,
        errors,
        _report(rows, cells(after, FORGETTING_CELL), cells(before[out], FORGETTING_CELL)),
        forgotten,
    )


def _report(rows: TrainingSet, after: pd.DataFrame, before: pd.DataFrame | None) -> pd.DataFrame:
    """The lines of WarmStart.learned; before: not a number where the operator is new."""
    count = rows.who.groupby(FORGETTING_CELL).size().rename("rows").reset_index()
    table = count.merge(_errors(after, "after"), on=FORGETTING_CELL, how="left")
    table = table.merge(_errors(after if before is None else before, "before"), on=FORGETTING_CELL, how="left")
    held_out = table["held_after"].fillna(0).astype(int)
    before_s = table["before"] if before is not None else np.nan
    return pd.DataFrame(
        {
            "estimator": rows.estimator,
            **table[[*FORGETTING_CELL, "rows"]],
            "held": held_out,
            "before": before_s,
            "after": table["after"],
        }
    )


def _errors(lines: pd.DataFrame, when: str) -> pd.DataFrame:
    return lines[[*FORGETTING_CELL, "rows", "mape"]].rename(columns={"mape": when, "rows": f"held_{when}"})


def _write_files(learned: Mapping[str, Learned], start: Bundle, folder: Path) -> dict[str, dict[str, Any]]:
    """Write all files but those that only a warm start has; returns the entries of estimators that learned."""
    copy_folder(start.path, folder, MANIFEST, *NOT_TAKEN)
    entries = {name: _entry(one, start, folder) for name, one in learned.items()}
    (folder / LEDGER).write_text(joined_ledger(start.path / LEDGER, [one.held.ledger for one in learned.values()]))
    replace_lines(folder / CURVES, {name: one.held.curves for name, one in learned.items()})
    replace_lines(folder / FEWSHOT, {name: one.held.few.curve for name, one in learned.items() if not start.has(name)})
    return entries


def _entry(one: Learned, start: Bundle, folder: Path) -> dict[str, Any]:
    """What the manifest says of an estimator: of the new rows, and of the old ones what it said before."""
    name = one.estimator.name
    made = write_estimator(one.estimator, one.rows, one.held, folder)
    if not start.has(name):
        return made
    old = start.entry(name)
    ranges = {
        field: [
            min(least, old["ranges"].get(field, (least, most))[0]),
            max(most, old["ranges"].get(field, (least, most))[1]),
        ]
        for field, (least, most) in made["ranges"].items()
    }
    metrics = {**old.get("metrics", {}).get("generation_out", {}), **made["metrics"].get("generation_out", {})}
    return {
        **made,
        "rows": old["rows"] + made["rows"],
        "generations": sorted({*old["generations"], *made["generations"]}),
        "ranges": ranges,
        "worst_share": min(old["worst_share"], made["worst_share"]),
        "metrics": {"generation_out": metrics} if metrics else {},
    }
