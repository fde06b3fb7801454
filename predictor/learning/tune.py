"""Search for settings of a recipe: least error on whole generations held out, by Optuna's seeded TPE.

Trials are quick: they draw few rows. The best one and the given recipe then meet on as many rows as the recipe draws,
with another seed, and the best is kept only where it is better by more than chance.
Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011; Akiba et al., Optuna, 2019.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from predictor.errors import InvalidRequest, InvalidTable
from predictor.estimators.mixture import Views, mix, weights_of
from predictor.estimators.samples import TrainingSet
from predictor.files import sha256_of
from predictor.learning.holdout import Fold, generation_folds
from predictor.learning.recipe import Recipe, recipe_text
from predictor.learning.sampling import balanced_rows

QUICK_ROWS, QUICK_SCORED = 10_000, 60  # rows of an estimator in a trial, and of a GPU, engine and dtype that score it
SEED_SHIFT = 1000  # between the seed of trials and that of the last comparison
DIGITS = 3  # of a setting
# Setting → least, most, whether on a logarithmic scale; widened to hold the given recipe.
SPACE: Mapping[str, tuple[float, float, bool]] = {
    "transfer_rounds": (50, 600, True),
    "transfer_depth": (3, 8, False),
    "transfer_rate": (0.02, 0.3, True),
    "reference_rounds": (50, 600, True),
    "reference_depth": (4, 12, False),
    "reference_rate": (0.02, 0.3, True),
    "subsample": (0.4, 1.0, False),
    "colsample": (0.3, 1.0, False),
    "min_child_weight": (1.0, 50.0, True),
}
TRIALS, RECIPE = "trials.csv", "recipe.toml"  # files of a bundle
DISCLOSURE = "the generations that chose these settings are those of the ledger, which flatters it a little"


@dataclass(frozen=True, slots=True)
class Tuned:
    """recipe: the one to train with. trials: a line each. found: what the manifest says of the search."""

    recipe: Recipe
    trials: pd.DataFrame
    found: Mapping[str, Any]


class Comparison(NamedTuple):
    """Errors of two recipes on the same held-out rows, and the standard error of their difference."""

    given: float
    best: float
    chance: float

    @property
    def better(self) -> bool:
        """Whether the best is better by more than chance."""
        return self.given - self.best > self.chance


def needs_trials(count: int) -> None:
    """Raise where so many recipes cannot be tried."""
    if count < 2:
        raise InvalidRequest(f"tune is {count}; it must be at least 2: the given recipe is the first trial.")
    if find_spec("optuna") is None:
        raise InvalidRequest("tune needs optuna; pip install 'gpu-predictor[train]'.")


def tune(sets: Mapping[str, TrainingSet], given: Recipe, count: int, progress: Callable[[str], None]) -> Tuned:
    """Try `count` recipes, the given one first; Ctrl-C ends the search and keeps what it found.

    The error is the mean over estimators of the mean over GPUs of the mean over engines and dtypes.
    """
    needs_trials(count)
    several = {name: rows for name, rows in sorted(sets.items()) if rows.who["generation"].nunique() > 1}
    if not several:
        raise InvalidTable("every operator was measured on one generation of GPUs; tune needs two to hold one out.")
    trials = _search({name: _some(rows, given) for name, rows in several.items()}, given, count, progress)
    done = trials[trials["error"].notna()]
    best = given if done.empty else replace(given, **_settings_of(done.sort_values("error", kind="stable").iloc[0]))
    if best == given:
        progress("tune: no trial is better than the given recipe, which is kept")
        return Tuned(given, trials, {"trials": len(trials), "kept": "given"})
    progress("tune: the best trial and the given recipe, on all the rows that the recipe draws")
    compared = _compare(several, given, best)
    verdict, kept = ("more", "best") if compared.better else ("no more", "given")
    progress(
        f"tune: {100 * compared.given:.2f} % as given, {100 * compared.best:.2f} % at best; chance makes "
        f"{100 * compared.chance:.2f} points, so this is {verdict} than chance: the {kept} is kept"
    )
    if compared.better:
        progress(f"tune: {DISCLOSURE}")
    return Tuned(
        best if compared.better else given,
        trials,
        {
            "trials": len(trials),
            "kept": kept,
            "given_error": round(compared.given, 5),
            "best_error": round(compared.best, 5),
            "chance": round(compared.chance, 5),
            "given": {name: getattr(given, name) for name in SPACE},
            **({"note": DISCLOSURE} if compared.better else {}),
        },
    )


def write_tuned(tuned: Tuned, folder: Path) -> dict[str, Any]:
    """Write the trials and the recipe that was trained into the folder of a bundle; returns the manifest's part."""
    tuned.trials.round(5).to_csv(folder / TRIALS, index=False)
    (folder / RECIPE).write_text(recipe_text(tuned.recipe), encoding="utf-8")
    return {"tuning": dict(tuned.found), "trials_sha256": sha256_of(folder / TRIALS)}


def _search(
    sets: Mapping[str, TrainingSet], given: Recipe, count: int, progress: Callable[[str], None]
) -> pd.DataFrame:
    """A line per trial: trial, error (nothing where it was given up early), seconds, settings."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    lines: list[dict[str, Any]] = []

    def objective(trial: Any) -> float:
        recipe, began_s = _suggested(trial, given), time.monotonic()
        settings = {name: getattr(recipe, name) for name in SPACE}
        line = {"trial": trial.number, "error": np.nan, "seconds": np.nan, **settings}
        lines.append(line)
        errors = []
        for step, rows in enumerate(sets.values()):
            errors.append(float(_errors(rows, recipe).mean()))
            trial.report(float(np.mean(errors)), step)
            if trial.should_prune():
                line["seconds"] = round(time.monotonic() - began_s, 1)
                progress(f"  trial {trial.number}: given up after {step + 1} of {len(sets)} operators")
                raise optuna.TrialPruned
        line["error"], line["seconds"] = float(np.mean(errors)), round(time.monotonic() - began_s, 1)
        progress(f"  trial {trial.number}: {100 * line['error']:.2f} %{' (the given recipe)' * (trial.number == 0)}")
        return float(np.mean(errors))

    progress(f"tune: {count} trials on up to {QUICK_ROWS} rows an operator, whole generations held out")
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=given.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, len(sets) // 3)),
    )
    study.enqueue_trial({name: getattr(given, name) for name in SPACE})
    try:
        study.optimize(objective, n_trials=count)
    except KeyboardInterrupt:
        progress(f"tune: ended after {len(lines)} trials; training goes on (Ctrl-C again ends it)")
    return pd.DataFrame(lines, columns=["trial", "error", "seconds", *SPACE])


def _suggested(trial: Any, given: Recipe) -> Recipe:
    settings: dict[str, float] = {}
    for name, (least, most, log) in SPACE.items():
        own = getattr(given, name)
        if isinstance(own, int):
            settings[name] = trial.suggest_int(name, int(min(least, own)), int(max(most, own)), log=log)
        else:
            value = trial.suggest_float(name, min(least, own), max(most, own), log=log)
            settings[name] = own if value == own else float(f"{value:.{DIGITS}g}")
    return replace(given, **_quick(given), **settings)  # type: ignore[arg-type]


def _quick(given: Recipe) -> dict[str, int]:
    return {
        "rows_per_estimator": min(QUICK_ROWS, given.rows_per_estimator),
        "rows_scored": min(QUICK_SCORED, given.rows_scored),
    }


def _settings_of(line: pd.Series[Any]) -> dict[str, Any]:
    types = {name: type(value) for name, value in asdict(Recipe()).items()}
    return {name: types[name](line[name]) for name in SPACE}


def _some(rows: TrainingSet, given: Recipe) -> TrainingSet:
    """Enough rows for the draws of a trial."""
    return rows.take(balanced_rows(rows.who, 4 * _quick(given)["rows_per_estimator"], given.seed))


def _compare(sets: Mapping[str, TrainingSet], given: Recipe, best: Recipe) -> Comparison:
    """Both recipes with rows that the search did not draw; chance: over generations, which are what is drawn anew."""
    seed = given.seed + SEED_SHIFT
    both = {
        name: pd.concat(
            {which: _errors(rows, replace(recipe, seed=seed)) for which, recipe in (("given", given), ("best", best))},
            axis=1,
        )
        for name, rows in sets.items()
    }
    every = pd.concat(both, names=["estimator"])
    gain = (every["given"] - every["best"]).groupby("generation").mean()
    means = every.groupby("estimator").mean().mean()
    return Comparison(float(means["given"]), float(means["best"]), float(gain.std(ddof=1) / np.sqrt(len(gain))))


def _errors(rows: TrainingSet, recipe: Recipe) -> pd.Series[float]:
    """Error of each GPU, by generation and gpu, when its generation was held out."""
    return pd.concat([_errors_of(fold) for fold in generation_folds(rows, recipe)])


def _errors_of(fold: Fold) -> pd.Series[float]:
    views = Views(*(fold.views[name].to_numpy() for name in Views._fields))
    mixed = mix(
        views,
        weights_of(
            fold.estimator.weights, fold.test.who["dtype"].to_numpy(dtype=object), fold.views["size"].to_numpy()
        ),
    )
    predicted = np.maximum(np.exp(mixed), fold.test.bound_s)
    wrong = (fold.views.assign(error=np.abs(predicted / fold.test.latency_s - 1))).groupby(
        ["generation", "gpu", "engine", "dtype"]
    )["error"]
    return wrong.mean().groupby(["generation", "gpu"]).mean()
