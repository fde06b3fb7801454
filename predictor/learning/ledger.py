"""The ledger: errors of one estimator under every protocol that holds rows, GPUs or generations out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from predictor.estimators.intervals import Offsets
from predictor.estimators.mixture import Mixture
from predictor.estimators.samples import TrainingSet
from predictor.learning.conformal import GENERATION_OUT, correlation, with_intervals
from predictor.learning.evaluate import cells
from predictor.learning.fewshot import FewShot, fewshot
from predictor.learning.holdout import hold_out
from predictor.learning.recipe import Recipe

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
    weights: Mixture
    far: Mixture
    log_offsets: Mapping[str, Offsets]
    correlation: float
    few: FewShot
    curves: pd.DataFrame


def held(rows: TrainingSet, recipe: Recipe, progress: Callable[[str], None]) -> Held:
    """Predict one estimator's rows under every protocol, put ends around that, and list the errors."""
    predicted = hold_out(rows, recipe)
    ended = with_intervals(predicted, recipe.level)
    lines = []
    for protocol, scored in ended.protocols.items():
        lines += ledger_lines(scored, protocol, rows.estimator)
        if len(scored):
            progress(f"  {protocol}: {_summary(scored)}")
    return Held(
        ledger=pd.concat(lines, ignore_index=True),
        unseen=ended.protocols[GENERATION_OUT],
        weights=predicted.weights,
        far=predicted.far,
        log_offsets=ended.log_offsets,
        correlation=correlation(predicted.by_generation),
        few=fewshot(predicted.folds, recipe),
        curves=predicted.curves,
    )


def ledger_lines(scored: pd.DataFrame, protocol: str, estimator: str) -> list[pd.DataFrame]:
    """Cells of predicted rows, of all of them and of those like the shapes of models, as the ledger has them.

    scored: with the time that a share of the bound takes (share_s) or without.
    """
    scored = scored if "share_s" in scored else scored.assign(share_s=np.nan)
    slices = {"all": scored, "model-like": _model_like(scored, estimator)}
    return [
        cells(part).assign(protocol=protocol, slice=name, estimator=estimator)
        for name, part in slices.items()
        if len(part)
    ]


def _model_like(scored: pd.DataFrame, estimator: str) -> pd.DataFrame:
    limits = MODEL_LIKE.get(estimator, ())
    if scored.empty or not limits:
        return scored.head(0)
    inside: NDArray[Any] = np.all([scored[field].between(least, most) for field, least, most in limits], axis=0)
    return scored[inside]


def _summary(scored: pd.DataFrame) -> str:
    by_gpu = cells(scored).groupby("gpu")[["mape", "roofline2_mape"]].mean().mean()
    return f"{100 * by_gpu['mape']:.1f} % (2-parameter roofline {100 * by_gpu['roofline2_mape']:.1f} %)"
