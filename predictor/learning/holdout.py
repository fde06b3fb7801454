"""Rows that are predicted by estimators that never saw them: generations, GPUs or single rows are held out in turn.

The trip of one estimator's rows goes one way: here they are predicted, predictor.learning.conformal puts ends around
the predictions, and predictor.learning.ledger lists how far both are from what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.estimators.estimator import Estimator
from predictor.estimators.linear import Line, fit_share, line_s
from predictor.estimators.mixture import EQUAL, SIZES, Mixture, Views, Weights, call_size, format_of, mix
from predictor.estimators.samples import TrainingSet
from predictor.hardware.gpu import get_gpu
from predictor.hardware.siblings import SHARED, card_class, memory_kind, tiers
from predictor.learning.diagnostics import COLUMNS as CURVE, learning_curves
from predictor.learning.fit import fit
from predictor.learning.recipe import Recipe
from predictor.learning.sampling import balanced_rows, balanced_weights, drawn_per_cell
from predictor.ops.dtypes import Array


def _quarters(count: int) -> tuple[Weights, ...]:
    parts = (parts for parts in product(range(5), repeat=count) if sum(parts) == 4)
    return tuple(Weights(*(part / 4 for part in one)) for one in parts)


# Weights that are tried on held-out generations, of the views, and on classes of cards, of the views and the bound.
CANDIDATES, FAR_CANDIDATES = _quarters(len(Views._fields)), _quarters(len(Weights._fields))
SOFTNESS = 0.01  # candidates whose errors differ by this much count e times less (training/EXPERIMENTS.md)
FAR_SOFTNESS = 0.005  # the same of FAR_CANDIDATES, which are more
# What trees must gain over physics, in nats, to speak alone for the largest calls: these approach a plateau that is a
# fact of an architecture and its power, not of the shapes that a table happened to hold. Judged.
LEAN = 0.04
MOST_COUNTED = np.log(2.0)  # of a log error in the choice of weights: a throttled card has no more say than others
FEWEST_WEIGHTED = 200  # rows that make weights of their own; judged
FEWEST_OF_CLASS = 30  # rows with which a class of cards has a say in the weights of others; judged
ENOUGH_CLASSES = 3  # for weights of far cards; what two show does not carry over (training/EXPERIMENTS.md)
WORST_COUNTS = 0.25  # of the error of far cards: that of the worst class, beside the mean of all; judged
ENOUGH, ENOUGH_OF_DTYPE = 2, 3  # generations, for weights of their own and of a dtype; judged
TREES_ALIKE: Mixture = {"": (Weights(0.5, 0.5, 0.0, 0.0),) * len(SIZES)}
SINGLE: Mixture = {
    "": (Weights(1.0, 0.0, 0.0, 0.0),) * len(SIZES)
}  # one generation leaves nothing to learn weights from

# NeuSight (Lee et al., ASPLOS 2025) trains on these and tests on others; of those, only the A100 is at hand.
NEUSIGHT_TRAIN = ("Tesla-P4", "P100-PCIe-16GB", "V100-PCIe-32GB", "Tesla-T4")
NEUSIGHT_TEST = ("A100-PCIe-40GB",)


class Fold(NamedTuple):
    """An estimator, rows of a group of which it saw none, what its views say of them, and the bound over a share of it
    as the rows that it saw have it."""

    estimator: Estimator
    test: TrainingSet
    views: pd.DataFrame
    share: Line


class HeldOut(NamedTuple):
    """Rows of one estimator under every protocol, each row predicted by an estimator that had not seen it.

    Tables: rows.who with latency_s, predicted_s, bound_s, roofline2_s and, of folds, share_s; some of them empty.
    by_generation: of `folds`. by_gpu: those of GPUs with siblings, and which those are. by_row: of GPUs in training.
    neusight: NeuSight's own split of its own measurements. weights: of the views, for unseen generations, far: for
    classes of which no GPU was measured. by_class: a row's class of cards was held out whole. curves: of learning.
    """

    folds: Sequence[Fold]
    weights: Mixture
    far: Mixture
    by_generation: pd.DataFrame
    by_class: pd.DataFrame
    by_gpu: pd.DataFrame
    by_row: pd.DataFrame
    neusight: pd.DataFrame
    curves: pd.DataFrame


def hold_out(rows: TrainingSet, recipe: Recipe) -> HeldOut:
    """Every protocol on one estimator's rows."""
    folds = generation_folds(rows, recipe)
    by_generation, weights = generations_out(folds)
    by_class, far = classes_out(rows, recipe)
    by_gpu = gpus_out(rows, recipe, weights, by_generation)
    by_row, curves = rows_out(rows, recipe)
    curves = pd.concat([curves, curve_of_generations(folds)], ignore_index=True)
    return HeldOut(folds, weights, far, by_generation, by_class, by_gpu, by_row, neusight_out(rows, recipe), curves)


def generation_folds(rows: TrainingSet, recipe: Recipe) -> list[Fold]:
    """A fold for each generation, its weights those that serve the others best; none where there is one generation."""
    return _folds(rows, recipe, "generation", best_weights)


def _folds(rows: TrainingSet, recipe: Recipe, by: str, choose: Callable[[list[pd.DataFrame]], Mixture]) -> list[Fold]:
    """A fold for each group of the column `by`; none where there is one group.

    choose: weights from what the views say of the rows of other groups.
    """
    groups = sorted(rows.who[by].unique())
    if len(groups) < 2:
        return []
    is_scored = scored_rows(rows, recipe)
    masks = [(rows.who[by] == group).to_numpy() for group in groups]
    folds = [Fold(*parts) for parts in _parallel(_fold, [(rows, is_scored & mask, ~mask, recipe) for mask in masks])]
    weights = [choose([other.views for other in folds if other is not fold]) for fold in folds]
    return [
        fold._replace(estimator=replace(fold.estimator, weights=own)) for fold, own in zip(folds, weights, strict=True)
    ]


def generations_out(folds: Sequence[Fold]) -> tuple[pd.DataFrame, Mixture]:
    """Rows of every generation, predicted by an estimator that saw none of it, and the weights of the views.

    folds: of generation_folds. Returns rows.who with latency_s, predicted_s, bound_s, roofline2_s and share_s, and the
    weights that serve unseen generations best. The weights for each generation are those that serve the others best:
    its own rows have no say.
    """
    if not folds:
        return pd.DataFrame(), SINGLE
    return _scored(folds), best_weights([fold.views for fold in folds])


def _scored(folds: Sequence[Fold]) -> pd.DataFrame:
    parts = _parallel(score, [(fold.estimator, fold.test) for fold in folds])
    shares = [line_s(fold.share, fold.test.who["dtype"].to_numpy(), fold.test.bound_s) for fold in folds]
    plain = [part.assign(share_s=share_s) for part, share_s in zip(parts, shares, strict=True)]
    return pd.DataFrame(pd.concat(plain, ignore_index=True))


def classes_out(rows: TrainingSet, recipe: Recipe) -> tuple[pd.DataFrame, Mixture]:
    """As generations_out, but whole classes of cards are held out (predictor.hardware.siblings.card_class), which the
    column card_class names; with the weights of far_weights."""
    classes = {name: card_class(get_gpu(name)) for name in set(rows.gpus.tolist())}
    classed = replace(rows, who=rows.who.assign(card_class=rows.who["gpu"].map(classes)))
    folds = _folds(classed, recipe, "card_class", far_weights)
    return (_scored(folds), far_weights([fold.views for fold in folds])) if folds else (pd.DataFrame(), EQUAL)


def far_weights(views: list[pd.DataFrame]) -> Mixture:
    """Weights for cards of classes that nobody measured, from what the views say of each held-out class.

    The mean of the candidates, those counting more that serve the mean of all classes and the worst of them: a new
    class may be as unlike as that. Calls of all sizes and formats share them, for classes are few; a kind of memory has
    its own where ENOUGH_CLASSES have shown what serves it. Where fewer have shown anything all views count the same.
    """
    chosen = {"": _far_weights(views)}
    for kind in sorted({kind for rows in views for kind in rows["memory"].unique()}):
        chosen[f"{kind}|"] = _far_weights([rows[rows["memory"] == kind] for rows in views])
    return {key: (one,) * len(SIZES) for key, one in chosen.items() if one} if chosen[""] else EQUAL


def _far_weights(views: list[pd.DataFrame]) -> Weights | None:
    """Weights that serve classes of cards; None where too few have enough rows."""
    shown = [rows for rows in views if len(rows) >= FEWEST_OF_CLASS]
    if len(shown) < ENOUGH_CLASSES:
        return None
    errors = np.array([_errors(rows, FAR_CANDIDATES) for rows in shown])
    both = (1 - WORST_COUNTS) * errors.mean(axis=0) + WORST_COUNTS * errors.max(axis=0)
    return _mean_of(FAR_CANDIDATES, both, FAR_SOFTNESS)


def gpus_out(rows: TrainingSet, recipe: Recipe, weights: Mixture, unseen: pd.DataFrame) -> pd.DataFrame:
    """As generations_out, but only one GPU is held out at a time. A GPU without siblings is the same in both."""
    names = sorted(rows.who["gpu"].unique())
    kin = [name for name in names if tiers(get_gpu(name), set(names) - {name})[1]]
    is_scored = scored_rows(rows, recipe)
    masks = [(rows.who["gpu"] == name).to_numpy() for name in kin]
    alone_parts = _parallel(_fold_and_score, [(rows, is_scored & mask, ~mask, recipe, weights) for mask in masks])
    alone = unseen[~unseen["gpu"].isin(kin)] if len(unseen) else unseen
    parts = [alone.assign(sibling=False), *(part.assign(sibling=True) for part in alone_parts)]
    return pd.DataFrame(pd.concat(parts, ignore_index=True))


def rows_out(rows: TrainingSet, recipe: Recipe) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A fifth of the rows of GPUs in training, predicted from the rest, and the learning curves of that fit."""
    out = np.random.default_rng(recipe.seed).random(len(rows.who)) < 0.2
    known, test = rows.take(~out), rows.take(out & scored_rows(rows, recipe))
    estimator = replace(fit(known, recipe), weights=SINGLE)
    fitted = known.take(balanced_rows(known.who, recipe.rows_per_estimator, recipe.seed))
    return score(estimator, test), learning_curves(estimator, {"fitted": fitted, "held-out rows": test})


def neusight_out(rows: TrainingSet, recipe: Recipe) -> pd.DataFrame:
    """NeuSight's own split of its own measurements, with equal weights of both sets of trees; empty without them."""
    own = (rows.who["source"] == "neusight").to_numpy()
    test, train = (own & rows.who["gpu"].isin(names).to_numpy() for names in (NEUSIGHT_TEST, NEUSIGHT_TRAIN))
    if not test.any() or not train.any():
        return pd.DataFrame()
    return _fold_and_score(rows, test & scored_rows(rows, recipe), train, recipe, TREES_ALIKE)


def curve_of_generations(folds: Sequence[Fold]) -> pd.DataFrame:
    """Learning curve of the transfer trees on generations they never saw, the mean over `folds`."""
    curves = [learning_curves(fold.estimator, {"held-out generations": fold.test}, ("transfer",)) for fold in folds]
    every = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=CURVE)
    return every.groupby(CURVE[:-1], sort=False)["rmse"].mean().reset_index()


def scored_rows(rows: TrainingSet, recipe: Recipe) -> NDArray[np.bool_]:
    """Mask of the rows that held-out errors are measured on: so many of every GPU, engine and dtype."""
    return drawn_per_cell(rows.who, recipe.rows_scored, recipe.seed)


def best_weights(views: list[pd.DataFrame]) -> Mixture:
    """Weights from what the views say of held-out rows: of all, and of each dtype that enough groups measured.

    Generations that share the host's memory have no say in the weights of cards: a handful of their rows would count
    as much as thousands.
    """
    every = pd.concat(views, ignore_index=True)
    cards = every[every["memory"] != SHARED]
    mixture: dict[str, Sequence[Weights]] = {"": _by_size(cards if len(cards) else every)}
    for kind, rows in every.groupby("memory"):
        if not _enough(rows):
            if kind == SHARED:
                mixture[f"{SHARED}|"] = _by_size(every)
            continue
        mixture[f"{kind}|"] = _by_size(rows)
        for dtype, own in rows.groupby(rows["dtype"].map(format_of)):
            if own["generation"].nunique() >= ENOUGH_OF_DTYPE:
                mixture[f"{kind}|{dtype}"] = _by_size(own)
    return mixture


def _by_size(rows: pd.DataFrame) -> tuple[Weights, ...]:
    """Weights at each of SIZES from the calls nearest to it; of few of them from all."""
    distance = np.abs(np.log(rows["size"].to_numpy()[:, None] / np.array(SIZES)))
    near = distance.argmin(axis=1)
    parts = [rows[near == number] for number in range(len(SIZES))]
    leans = LEAN * np.arange(len(SIZES)) / (len(SIZES) - 1)
    return tuple(
        _mean_candidate(part if _enough(part) else rows, float(lean)) for part, lean in zip(parts, leans, strict=True)
    )


def _enough(rows: pd.DataFrame) -> bool:
    return len(rows) >= FEWEST_WEIGHTED and rows["generation"].nunique() >= ENOUGH


def _mean_candidate(rows: pd.DataFrame, lean: float) -> Weights:
    """Mean of the candidates, those with less error counting more; of few generations no single one is surely best.

    lean: what trees must gain over physics.
    """
    trees = np.array([one.transfer + one.reference for one in CANDIDATES])
    return _mean_of(CANDIDATES, _errors(rows, CANDIDATES) + lean * trees, SOFTNESS)


def _errors(rows: pd.DataFrame, candidates: Sequence[Weights]) -> Array:
    """Mean log error of each candidate, (n_candidates,), each generation, GPU and cell of engine and dtype counting the
    same."""
    weight = balanced_weights(rows).to_numpy()
    weight = weight / weight.sum()
    views, bound_s = Views(*(rows[name].to_numpy() for name in Views._fields)), rows["bound_s"].to_numpy()
    least, truth = np.log(bound_s), np.log(rows["latency_s"].to_numpy())
    wrong = (np.abs(np.maximum(mix(views, one, bound_s), least) - truth) for one in candidates)
    return np.array([np.minimum(log_error, MOST_COUNTED) @ weight for log_error in wrong])


def _mean_of(candidates: Sequence[Weights], errors: Array, softness: float) -> Weights:
    share = np.exp((errors.min() - errors) / softness)
    return Weights(*np.round(share @ np.array(candidates) / share.sum(), 4).tolist())


def _parallel(task: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Every fit has one thread: fits in parallel fill the cores without waiting for each other."""
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=-1)(delayed(task)(*given) for given in arguments))


def _fold(
    rows: TrainingSet, tested: NDArray[np.bool_], known: NDArray[np.bool_], recipe: Recipe
) -> tuple[Estimator, TrainingSet, pd.DataFrame, Line]:
    """The parts of a Fold: an estimator of the known rows, and of the asked rows what its views say."""
    learned, test, smaller = rows.take(known), rows.take(tested), _of_a_fold(recipe)
    learned = learned.take(balanced_rows(learned.who, smaller.rows_per_estimator, smaller.seed))
    estimator = fit(learned, smaller)
    values, size = np.full((len(test.who), len(Views._fields)), np.nan), np.empty(len(test.who))
    for own, gpu, op, setting in test.by_gpu():
        values[own], size[own] = np.stack(estimator.views(op, gpu, setting), axis=1), call_size(op)
    views = test.who[["generation", "gpu", "engine", "dtype"]].assign(
        latency_s=test.latency_s, bound_s=test.bound_s, size=size
    )
    views[list(Views._fields)] = values
    kinds = {name: memory_kind(get_gpu(name)) for name in set(test.gpus.tolist())}
    views["memory"] = views["gpu"].map(kinds)
    share = fit_share(learned.who["dtype"].to_numpy(), learned.bound_s, learned.latency_s)
    return estimator, test, views, share


def score(estimator: Estimator, test: TrainingSet) -> pd.DataFrame:
    """The asked rows as the estimator predicts them, beside both baselines."""
    predicted = np.empty(len(test.who))
    for own, gpu, op, setting in test.by_gpu():
        predicted[own] = estimator.latency_s(op, gpu, setting)
    return test.who.assign(
        latency_s=test.latency_s,
        predicted_s=np.maximum(predicted, test.bound_s),
        bound_s=test.bound_s,
        roofline2_s=line_s(estimator.line, test.who["dtype"].to_numpy(), test.bound_s),
    )


def _fold_and_score(
    rows: TrainingSet,
    tested: NDArray[np.bool_],
    known: NDArray[np.bool_],
    recipe: Recipe,
    weights: Mixture,
) -> pd.DataFrame:
    return score(replace(fit(rows.take(known), _of_a_fold(recipe)), weights=weights), rows.take(tested))


def _of_a_fold(recipe: Recipe) -> Recipe:
    return replace(recipe, rows_per_estimator=min(recipe.rows_per_fold, recipe.rows_per_estimator))
