"""Conformal calibration: the ends of intervals, and how errors correlate, from rows that were held out.

The ends are quantiles of log(truth / prediction), each generation counting the same (Dunn, Wasserman & Ramdas,
Distribution-free prediction sets for two-layer hierarchical models, JASA 2023), stretched until they also cover
groups that had no say in them. Rows of one GPU err alike, so what counts is how many GPUs, or classes of cards, are
covered as asked, and not how many rows are. Of cards of a class that nobody measured few classes tell: their ends lie
between the quantiles and a factor that was judged, the same for all calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from predictor.estimators.intervals import REGIMES, Offsets, ends, regime
from predictor.learning.holdout import FEWEST_OF_CLASS, HeldOut
from predictor.learning.sampling import balanced_weights
from predictor.ops.dtypes import Array

# A factor e either way where nothing was held out: judged, wider than what base-4 has for unseen GPUs of every operator
# but collectives.
UNKNOWN: Offsets = {"": [[-1.0, 1.0]] * (len(REGIMES) + 1)}
STRETCHES = np.arange(0.7, 2.55, 0.1)  # that are tried, so that groups without a say are covered
# Of far cards, whose ends are wide already: quantiles of two classes times 2.5 made intervals 800-fold wide.
FAR_STRETCHES = np.arange(0.5, 1.025, 0.05)
UNKNOWN_COUNTS = 2  # classes of cards that UNKNOWN counts like; judged, so that 3 classes have most of the say
# Of coverage, a stretch of 1 of what lies near: groups that are covered whole have nothing to lose by more. Judged.
WIDTH_COSTS = 0.03
MOST_ROWS = 500  # of a group that lend it weight in the choice of a stretch: it grows with their root
# Held-out rows that make an interval of their own; judged, 5 of them lie outside each end of 80 %.
FEWEST_INTERVAL_ROWS = 50
GENERATION_OUT, CLASS_OUT = "generation-out", "class-out"


class Ended(NamedTuple):
    """Held-out rows with the ends of their intervals, low_s and high_s, by protocol as the ledger names it.

    log_offsets: kinship → the ends that all rows teach.
    """

    log_offsets: Mapping[str, Offsets]
    protocols: Mapping[str, pd.DataFrame]


def with_intervals(predicted: HeldOut, level: float) -> Ended:
    """Ends around every prediction, of rows that had no say in them."""
    unseen, generation = calibrate(predicted.by_generation, level, each="gpu")
    by_gpu = predicted.by_gpu
    of_kin = by_gpu[by_gpu["sibling"]] if len(by_gpu) else by_gpu
    sibling, kin = calibrate(of_kin, level, by="gpu") if len(of_kin) else (unseen, of_kin)
    # Of one generation there is none: nothing was predicted without it.
    alone = generation[~generation["gpu"].isin(set(of_kin["gpu"]))] if len(generation) else generation
    seen, by_row = calibrate(predicted.by_row, level)
    far, by_class = calibrate_far(predicted.by_class, level)
    protocols = {
        GENERATION_OUT: generation,
        CLASS_OUT: by_class,
        "gpu-out": pd.concat([alone, kin], ignore_index=True),
        "rows-out": by_row,
        "neusight": with_ends(predicted.neusight, unseen) if len(predicted.neusight) else predicted.neusight,
    }
    return Ended({"seen": seen, "sibling": sibling, "unseen": unseen, "far": far}, protocols)


def calibrate(
    scored: pd.DataFrame, level: float, by: str = "generation", each: str = ""
) -> tuple[Offsets, pd.DataFrame]:
    """Offsets from held-out rows, and the rows with low_s and high_s set by the other groups of `by` alone.

    each: column of the groups that shall each be covered as nearly as can be; "" for all rows as one.
    """
    if scored.empty:
        return UNKNOWN, scored.assign(low_s=[], high_s=[])
    parts = dict(list(scored.groupby(by)))
    pieces = list(parts.values())
    others = [_offsets(scored[scored[by] != name] if len(parts) > 1 else scored, level, by) for name in parts]
    stretch, rows = _best_stretch(pieces, others, level, each, STRETCHES, WIDTH_COSTS if each else 0.0)
    return _stretched(_offsets(scored, level, by), stretch), rows


def calibrate_far(scored: pd.DataFrame, level: float) -> tuple[Offsets, pd.DataFrame]:
    """As calibrate, from rows of which classes of cards were held out (card_class); UNKNOWN where none was."""
    if scored.empty:
        return UNKNOWN, scored.assign(low_s=[], high_s=[])
    classed = scored.assign(generation=scored["card_class"])  # each class counts the same
    parts = dict(list(classed.groupby("card_class")))
    others = [_far_offsets(classed[classed["card_class"] != name], level) for name in parts]
    stretch, rows = _best_stretch(list(parts.values()), others, level, "card_class", FAR_STRETCHES)
    return _stretched(_far_offsets(classed, level), stretch), rows.assign(generation=scored["generation"])


def _best_stretch(
    pieces: list[pd.DataFrame], others: list[Offsets], level: float, each: str, stretches: Array, costs: float = 0.0
) -> tuple[float, pd.DataFrame]:
    """The stretch of the offsets set by `others` that covers the pieces best, and the rows with their ends.

    costs: of coverage that a stretch of 1 must earn.
    """
    tries = []
    for stretch in stretches.tolist():
        rows = pd.concat(
            [with_ends(own, _stretched(pairs, stretch)) for own, pairs in zip(pieces, others, strict=True)]
        )
        tries.append((_missed(rows, level, each) + costs * stretch, stretch, rows))
    return min(tries, key=lambda found: found[0])[1:]


def _missed(rows: pd.DataFrame, level: float, each: str) -> float:
    """How far the coverage is from the level: that of all rows, or the mean over groups of the column `each`."""
    covered = (rows["low_s"] <= rows["latency_s"]) & (rows["latency_s"] <= rows["high_s"])
    weight = balanced_weights(rows)
    if not each:
        return abs(float(np.average(covered, weights=weight)) - level)
    parts = rows[[each]].assign(weight=weight, covered=covered * weight, rows=1)
    sums = parts.groupby(each).sum()
    missed = (sums["covered"] / sums["weight"] - level).abs()
    return float(np.average(missed, weights=np.sqrt(sums["rows"].clip(upper=MOST_ROWS))))


def with_ends(rows: pd.DataFrame, offsets: Offsets) -> pd.DataFrame:
    """rows with low_s and high_s."""
    predicted, bound = rows["predicted_s"].to_numpy(), rows["bound_s"].to_numpy()
    low, high = ends(predicted, bound, rows["dtype"].to_numpy(dtype=object), offsets)
    return rows.assign(low_s=low, high_s=high)


def _stretched(offsets: Offsets, stretch: float) -> Offsets:
    return {name: np.round(np.array(pairs) * stretch, 4).tolist() for name, pairs in offsets.items()}


def _offsets(scored: pd.DataFrame, level: float, by: str) -> Offsets:
    """Ends for all rows, and for each dtype that more than one group of `by` has measured."""
    offsets = {"": _per_regime(scored, level)}
    for dtype, rows in scored.groupby("dtype"):
        if rows[by].nunique() > 1 and len(rows) >= FEWEST_INTERVAL_ROWS:
            offsets[str(dtype)] = _per_regime(rows, level)
    return offsets


def _far_offsets(scored: pd.DataFrame, level: float) -> Offsets:
    """Ends for all calls, between what classes missed by and UNKNOWN, which counts like UNKNOWN_COUNTS of them."""
    if scored.empty:
        return UNKNOWN
    weight = balanced_weights(scored).to_numpy()
    found, judged = _pair(-log_error(scored).to_numpy(), weight, level), UNKNOWN[""][0]
    counts = int((scored["card_class"].value_counts() >= FEWEST_OF_CLASS).sum())
    pair = (counts * np.array(found) + UNKNOWN_COUNTS * np.array(judged)) / (counts + UNKNOWN_COUNTS)
    return {"": [pair.tolist()] * (len(REGIMES) + 1)}


def _per_regime(scored: pd.DataFrame, level: float) -> list[list[float]]:
    """Ends of log(truth / prediction) per regime; a regime with few rows takes those of all."""
    ratio = -log_error(scored).to_numpy()
    which = regime(scored["predicted_s"].to_numpy(), scored["bound_s"].to_numpy())
    weight = balanced_weights(scored).to_numpy()
    every = _pair(ratio, weight, level)
    return [
        _pair(ratio[which == i], weight[which == i], level) if (which == i).sum() >= FEWEST_INTERVAL_ROWS else every
        for i in range(len(REGIMES) + 1)
    ]


def _pair(ratio: Array, weight: Array, level: float) -> list[float]:
    """The interval holds the prediction itself: its ends are at most 0 and at least 0."""
    order = np.argsort(ratio)
    share = np.cumsum(weight[order]) / weight.sum()
    places = np.minimum(np.searchsorted(share, ((1 - level) / 2, (1 + level) / 2)), len(ratio) - 1)
    low, high = ratio[order][places]
    return [min(float(low), -0.01), max(float(high), 0.01)]


def log_error(scored: pd.DataFrame) -> pd.Series:
    """log(prediction / truth) of each row."""
    return (scored["predicted_s"] / scored["latency_s"]).transform(np.log)


def correlation(scored: pd.DataFrame) -> float:
    """Share of the variance of log errors that all calls on one GPU and engine have in common, 0 to 1."""
    if len(scored) < FEWEST_INTERVAL_ROWS:
        return 1.0
    error = log_error(scored)
    cell = [scored["gpu"], scored["engine"]]
    common = error.groupby(cell).mean()
    within = float((error - error.groupby(cell).transform("mean")).var())
    between = float((common**2).mean())
    return round(between / max(between + within, 1e-12), 4)


def correlation_across(unseen: Mapping[str, pd.DataFrame], within: Mapping[str, float]) -> float:
    """Correlation of the log errors of two estimators on one GPU and engine: what is common of the common parts."""
    means = {
        name: log_error(rows).groupby([rows["gpu"], rows["engine"]]).mean()
        for name, rows in unseen.items()
        if len(rows)
    }
    pairs = pd.DataFrame(means).corr(min_periods=4).to_numpy()
    above = pairs[np.triu_indices(len(pairs), 1)] if len(means) > 1 else np.array([])
    common = float(np.nanmean(above)) if np.isfinite(above).any() else 0.0
    return round(max(common, 0.0) * float(np.mean(list(within.values()))), 4)
