"""What a few measured rows of an unseen GPU are worth: the prior of corrections, and error against number of rows.

Every generation is held out in turn, with the prior learned on the others. Rows are drawn at random from all cells of a
GPU ("mixed"), or from those of one engine; the error, the mean over cells of engine and dtype, is that of other rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.correction import fit_correction
from predictor.gpu import get_gpu
from predictor.holdout import Fold
from predictor.ops.dtypes import Array
from predictor.prior import MOST_ROWS, adapted, learn
from predictor.recipe import Recipe
from predictor.similarity import Prior, Traits

ROWS = (0, 20, 50, 100, 200)
DRAWS = 2
FEWEST = 60  # rows of a GPU, or of an engine there, for an estimate
ROWS_PER_CELL = 80  # on which errors are measured
MIXED = ""


class Errors(NamedTuple):
    """The rows of one held-out GPU: what tells them apart, log(truth / prediction), and who measured them."""

    gpu: str
    generation: str
    traits: Traits
    error: Array
    floor: Array  # log(bound / prediction): no correction goes below
    who: pd.DataFrame

    def take(self, rows: NDArray[np.int64]) -> Errors:
        """The rows at positions `rows`."""
        return self._replace(
            traits=self.traits.take(rows), error=self.error[rows], floor=self.floor[rows], who=self.who.iloc[rows]
        )


class FewShot(NamedTuple):
    """The prior of one estimator's corrections, and the curve: gpu, engine ("" = all), rows, mape, coverage.

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
        for part in (each for each in held if each.generation == generation):
            lines += list(_curve(part, prior, recipe))
    return FewShot(learn(samples), pd.DataFrame(lines))


def _errors(fold: Fold) -> Iterator[Errors]:
    for own, gpu, op, setting in fold.test.by_gpu():
        said, who = fold.estimator.uncorrected(op, gpu, setting), fold.test.who[own]
        error, floor = np.log(fold.test.latency_s[own]) - said, np.log(fold.test.bound_s[own]) - said
        traits = fold.estimator.traits(op, gpu, setting, said)
        yield Errors(gpu.name, str(who["generation"].iloc[0]), traits, error, floor, who.reset_index(drop=True))


def _sample(part: Errors, draw: np.random.Generator) -> tuple[Traits, Array]:
    rows = draw.permutation(len(part.error))[:MOST_ROWS]
    return part.traits.take(rows), part.error[rows]


def _curve(part: Errors, prior: Prior, recipe: Recipe) -> Iterator[Mapping[str, object]]:
    engines = sorted(part.who["engine"].unique())
    for engine in [MIXED, *(engines if len(engines) > 1 else [])]:
        own = part.take(np.flatnonzero(part.who["engine"].isin([engine] if engine else engines)))
        if len(own.error) < FEWEST:
            continue
        for seed in range(DRAWS):
            order = np.random.default_rng([recipe.seed, seed]).permutation(len(own.error))
            most = min(max(ROWS), len(order) // 2)
            asked = own.take(_per_cell(own.who, order[most:]))
            for count in (number for number in ROWS if number <= most):
                measured = own.take(order[:count])
                found = _scored(measured, asked, prior, recipe.level)
                yield {"gpu": part.gpu, "engine": engine, "rows": count, "draw": seed, **found}


def _per_cell(who: pd.DataFrame, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first rows of each engine and dtype."""
    part = who.iloc[rows]
    return rows[(part.groupby(["engine", "dtype"], observed=True).cumcount() < ROWS_PER_CELL).to_numpy()]


def _scored(measured: Errors, asked: Errors, prior: Prior, level: float) -> Mapping[str, float]:
    """Error and coverage over the cells of asked rows, once some were measured."""
    offset, covered = np.zeros(len(asked.error)), np.full(len(asked.error), np.nan)
    if len(measured.error):
        own = adapted(prior, measured.traits, measured.error)
        found = fit_correction(get_gpu(asked.gpu), own, measured.traits, measured.error, level)
        offset, spread = found.offset(asked.traits), found.spread(asked.traits)
        left = asked.error - np.maximum(offset, asked.floor)
        covered = ((found.ends[0] * spread <= left) & (left <= found.ends[1] * spread)).astype(float)
    said = np.exp(np.maximum(offset, asked.floor) - asked.error)
    scored = pd.DataFrame({"mape": np.abs(said - 1), "coverage": covered})
    cells = scored.groupby([asked.who["engine"].to_numpy(), asked.who["dtype"].to_numpy()]).mean().mean()
    return {"mape": float(cells["mape"]), "coverage": float(cells["coverage"])}
