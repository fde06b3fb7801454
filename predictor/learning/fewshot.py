"""What a few measured rows of an unseen GPU are worth: the prior of corrections, and error against number of rows.

Every generation is held out in turn, with the prior learned on the others. Rows are drawn at random from all cells of a
GPU ("mixed"), or from those of one engine; the error, the mean over cells of engine and dtype, is that of other rows.
It is that of the correction itself. What is left once predictions rise with tokens too (predictor.estimators.envelope)
takes a hundred times as long to find, so that it is found for one draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.estimators.corrected import ends_of
from predictor.estimators.correction.kernel import Prior, Traits
from predictor.estimators.correction.prior import MOST_ROWS, adapted, learn
from predictor.estimators.correction.process import Correction, fit_correction
from predictor.estimators.envelope import Knots
from predictor.estimators.estimator import Estimator
from predictor.estimators.samples import TrainingSet
from predictor.hardware.gpu import get_gpu
from predictor.learning.holdout import Fold
from predictor.learning.recipe import Recipe
from predictor.ops.dtypes import Array

ROWS = (0, 20, 50, 100, 200)
DRAWS = 2
FEWEST_SCORED_ROWS = 60  # rows of a GPU, or of an engine there, for an estimate
ROWS_PER_CELL = 80  # on which errors are measured
MIXED = ""
FINAL = 100  # rows after which final predictions are made, of ASKED other rows
ASKED = 150


class Errors(NamedTuple):
    """The rows of one held-out GPU: what tells them apart, log(truth / prediction), and who measured them."""

    gpu: str
    generation: str
    traits: Traits
    error: Array
    floor: Array  # log(bound / prediction): no correction goes below
    who: pd.DataFrame
    calls: TrainingSet
    estimator: Estimator

    def take(self, rows: NDArray[np.int64]) -> Errors:
        """The rows at positions `rows`."""
        return self._replace(
            traits=self.traits.take(rows),
            error=self.error[rows],
            floor=self.floor[rows],
            who=self.who.iloc[rows],
            calls=self.calls.take(rows),
        )


class FewShot(NamedTuple):
    """The prior of one estimator's corrections, and the curve: gpu, engine ("" = all), rows, mape, coverage; and of
    some draws final_mape and final_coverage, of the predictions that a user would see.

    None and an empty curve where fewer than two generations were measured.
    """

    prior: Prior | None
    curve: pd.DataFrame


def fewshot(folds: Sequence[Fold], recipe: Recipe) -> FewShot:
    """What errors on the generations of `folds` have in common, and what rows measured there are worth."""
    held = [part for fold in folds for part in _errors(fold)]
    draw = np.random.default_rng(recipe.seed)
    samples = [_sample(part, draw) for part in held]
    if not held:
        return FewShot(None, pd.DataFrame())
    lines = []
    for generation in sorted({part.generation for part in held}):
        others = [sample for part, sample in zip(held, samples, strict=True) if part.generation != generation]
        prior = learn(others)
        for part in (errors for errors in held if errors.generation == generation):
            lines += list(_curve(part, prior, recipe))
    return FewShot(learn(samples), pd.DataFrame(lines))


def _errors(fold: Fold) -> Iterator[Errors]:
    for own, gpu, op, setting in fold.test.by_gpu():
        predicted, who = fold.estimator.uncorrected(op, gpu, setting), fold.test.who[own]
        error, floor = np.log(fold.test.latency_s[own]) - predicted, np.log(fold.test.bound_s[own]) - predicted
        traits = fold.estimator.traits(op, gpu, setting, predicted)
        calls, generation = fold.test.take(own), str(who["generation"].iloc[0])
        yield Errors(gpu.name, generation, traits, error, floor, calls.who, calls, fold.estimator)


def _sample(part: Errors, draw: np.random.Generator) -> tuple[Traits, Array]:
    rows = draw.permutation(len(part.error))[:MOST_ROWS]
    return part.traits.take(rows), part.error[rows]


def _curve(part: Errors, prior: Prior, recipe: Recipe) -> Iterator[Mapping[str, object]]:
    engines = sorted(part.who["engine"].unique())
    for engine in [MIXED, *(engines if len(engines) > 1 else [])]:
        own = part.take(np.flatnonzero(part.who["engine"].isin([engine] if engine else engines)))
        if len(own.error) < FEWEST_SCORED_ROWS:
            continue
        for seed in range(DRAWS):
            order = np.random.default_rng([recipe.seed, seed]).permutation(len(own.error))
            most = min(max(ROWS), len(order) // 2)
            scored_rows = own.take(_per_cell(own.who, order[most:]))
            for count in (number for number in ROWS if number <= most):
                measured = own.take(order[:count])
                figures = _scored(measured, scored_rows, prior, recipe.level)
                if (engine, count, seed) == (MIXED, FINAL, 0):
                    figures |= _final(measured, own.take(order[most : most + ASKED]), prior, recipe.level)
                yield {"gpu": part.gpu, "engine": engine, "rows": count, "draw": seed, **figures}


def _per_cell(who: pd.DataFrame, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first rows of each engine and dtype."""
    part = who.iloc[rows]
    return rows[(part.groupby(["engine", "dtype"], observed=True).cumcount() < ROWS_PER_CELL).to_numpy()]


def _scored(measured: Errors, rows: Errors, prior: Prior, level: float) -> dict[str, float]:
    """Error and coverage over the cells of asked rows, once some were measured."""
    correction = _correction(measured, prior, level) if len(measured.error) else None
    left = rows.error - np.maximum(correction.offset(rows.traits) if correction else 0.0, rows.floor)
    covered = (
        _covered(left, correction.spread(rows.traits), correction.ends) if correction else np.full(len(left), np.nan)
    )
    return {"mape": _mean(np.abs(np.exp(-left) - 1), rows), "coverage": _mean(covered, rows)}


def _final(measured: Errors, rows: Errors, prior: Prior, level: float) -> dict[str, float]:
    """As _scored, of predictions that rise with tokens and keep to the bound, in intervals that know of it."""
    gpu, correction = get_gpu(rows.gpu), _correction(measured, prior, level)
    estimator = replace(measured.estimator, corrections={gpu.name: correction}, knots=Knots())
    ends = ends_of(measured.calls, estimator, level)[gpu.name]
    op, setting = rows.calls.calls(np.arange(len(rows.error)))
    predicted_s = np.maximum(estimator.latency_s(op, gpu, setting), rows.calls.bound_s)
    left = np.log(rows.calls.latency_s / predicted_s)
    covered = _covered(left, estimator.spread(op, gpu, setting), ends)
    return {"final_mape": _mean(np.abs(np.exp(-left) - 1), rows), "final_coverage": _mean(covered, rows)}


def _correction(measured: Errors, prior: Prior, level: float) -> Correction:
    own = adapted(prior, measured.traits, measured.error)
    return fit_correction(get_gpu(measured.gpu), own, measured.traits, measured.error, level)


def _covered(left: Array, spread: Array, ends: tuple[float, float]) -> Array:
    """1 where log(truth / prediction) lies in the interval, else 0, (n,)."""
    return np.asarray((ends[0] * spread <= left) & (left <= ends[1] * spread), dtype=np.float64)


def _mean(values: Array, rows: Errors) -> float:
    """Over the cells of engine and dtype of the mean over their rows."""
    cells = pd.Series(values).groupby([rows.who["engine"].to_numpy(), rows.who["dtype"].to_numpy()]).mean()
    return float(cells.mean())
