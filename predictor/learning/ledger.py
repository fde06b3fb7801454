"""The ledger: errors of one estimator under every protocol that holds rows, GPUs or generations out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.estimators.estimator import Weights
from predictor.estimators.intervals import Offsets
from predictor.estimators.samples import TrainingSet
from predictor.learning.conformal import calibrate, correlation, log_error, with_ends
from predictor.learning.evaluate import cells
from predictor.learning.fewshot import FewShot, fewshot
from predictor.learning.holdout import (
    curve_of_generations,
    generation_folds,
    generations_out,
    gpus_out,
    rows_out,
    split_out,
)
from predictor.learning.recipe import Recipe

# NeuSight (Lee et al., ASPLOS 2025) trains on these and tests on others; of those, only the A100 is at hand.
NEUSIGHT_TRAIN = ("Tesla-P4", "P100-PCIe-16GB", "V100-PCIe-32GB", "Tesla-T4")
NEUSIGHT_TEST = ("A100-PCIe-40GB",)

# Family → field, least, most: the shapes that layers of language models issue (decode at batch 1 to 256, prefill of
# 128 to 16k tokens, tp 1 to 8). Measured grids hold many more small and odd ones.
MODEL_LIKE: Mapping[str, tuple[tuple[str, float, float], ...]] = {
    "gemm": (("m", 1, 16384), ("n", 512, 65536), ("k", 512, 65536)),
    "attention_decode": (("batch", 1, 256), ("kv_len", 128, 131072)),
    "attention_prefill": (("batch", 1, 64), ("q_len", 128, 16384), ("kv_len", 128, 131072)),
    "mla_decode": (("batch", 1, 256), ("kv_len", 128, 131072)),
    "mla_prefill": (("batch", 1, 64), ("q_len", 128, 16384)),
    "moe": (("tokens", 1, 16384), ("hidden", 1024, 16384)),
    "pointwise": (("rows", 1, 16384), ("cols", 512, 65536)),
    "collective": (("message_bytes", 2**13, 2**30),),
}


@dataclass(frozen=True, slots=True)
class Held:
    """What held-out rows of one estimator taught.

    ledger: cells of errors. unseen: rows of generations held out, as predicted, with the ends of their intervals.
    log_offsets: kinship → ends of the interval. few: of corrections. curves: of learning.
    """

    ledger: pd.DataFrame
    unseen: pd.DataFrame
    weights: Mapping[str, Weights]
    log_offsets: Mapping[str, Offsets]
    correlation: float
    few: FewShot
    curves: pd.DataFrame


def held(rows: TrainingSet, recipe: Recipe, progress: Callable[[str], None]) -> Held:
    """Run every protocol on one estimator's rows."""
    folds = generation_folds(rows, recipe)
    found, weights = generations_out(folds)
    unseen, generation = calibrate(found, recipe.level)
    by_gpu = gpus_out(rows, recipe, weights, found)
    of_kin = by_gpu[by_gpu["sibling"]] if len(by_gpu) else by_gpu
    sibling, kin = calibrate(of_kin, recipe.level, by="gpu") if len(of_kin) else (unseen, of_kin)
    alone = generation[generation["gpu"].isin(set(by_gpu["gpu"]) - set(of_kin["gpu"]))] if len(by_gpu) else by_gpu
    of_rows, curves = rows_out(rows, recipe)
    seen, row = calibrate(of_rows, recipe.level)
    again = generations_out(generation_folds(rows, replace(recipe, seed=recipe.seed + 1)))[0]
    protocols = {
        "generation-out": generation,
        "generation-out, second seed": calibrate(again, recipe.level)[1] if len(again) else again,
        "gpu-out": pd.concat([alone, kin], ignore_index=True),
        "rows-out": row,
        "neusight": _neusight(rows, recipe, unseen),
    }
    lines = []
    for protocol, scored in protocols.items():
        lines += ledger_lines(scored, protocol, rows.estimator)
        if len(scored):
            progress(f"  {protocol}: {_summary(scored)}")
    log_offsets = {"seen": seen, "sibling": sibling, "unseen": unseen}
    ledger = pd.concat(lines, ignore_index=True)
    curves = pd.concat([curves, curve_of_generations(folds)], ignore_index=True)
    return Held(ledger, generation, weights, log_offsets, correlation(found), fewshot(folds, recipe), curves)


def ledger_lines(scored: pd.DataFrame, protocol: str, estimator: str) -> list[pd.DataFrame]:
    """Cells of predicted rows, of all of them and of those like the shapes of models, as the ledger has them."""
    slices = {"all": scored, "model-like": _model_like(scored, estimator)}
    return [
        cells(part).assign(protocol=protocol, slice=name, estimator=estimator)
        for name, part in slices.items()
        if len(part)
    ]


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


def _neusight(rows: TrainingSet, recipe: Recipe, offsets: Offsets) -> pd.DataFrame:
    """NeuSight's own split of its own measurements."""
    own = (rows.who["source"] == "neusight").to_numpy()
    test, train = (own & rows.who["gpu"].isin(names).to_numpy() for names in (NEUSIGHT_TEST, NEUSIGHT_TRAIN))
    if not test.any() or not train.any():
        return pd.DataFrame()
    return with_ends(split_out(rows, recipe, test, train), offsets)


def _model_like(scored: pd.DataFrame, estimator: str) -> pd.DataFrame:
    limits = MODEL_LIKE.get(estimator, ())
    if scored.empty or not limits:
        return scored.head(0)
    inside: NDArray[Any] = np.all([scored[field].between(least, most) for field, least, most in limits], axis=0)
    return scored[inside]


def _summary(scored: pd.DataFrame) -> str:
    by_gpu = cells(scored).groupby("gpu")[["mape", "roofline2_mape"]].mean().mean()
    return f"{100 * by_gpu['mape']:.1f} % (2-parameter roofline {100 * by_gpu['roofline2_mape']:.1f} %)"
