"""From measured rows of a few GPUs to the corrections of one estimator there."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from predictor.correction import Correction, fit_correction
from predictor.estimator import Estimator
from predictor.features import Setting
from predictor.gpu import get_gpu
from predictor.schema import op_of
from predictor.similarity import Prior, start


def corrections_of(
    rows: pd.DataFrame, estimator: Estimator, prior: Prior | None, level: float
) -> Mapping[str, Correction]:
    """GPU → correction, from the rows (schema columns) of the estimator's family and phase.

    prior: None where nothing was learned about held-out GPUs. level: coverage asked of the intervals.
    """
    found = {}
    for name, own in rows.groupby("gpu", observed=True):
        gpu, op = get_gpu(str(name)), op_of(own, str(own["family"].iloc[0]), str(own["phase"].iloc[0]))
        setting = Setting(*(own[part].to_numpy(dtype=object) for part in ("engine", "kernel_name", "timing")))
        traits = estimator.traits(op, gpu, setting)
        error = np.log(own["latency_s"].to_numpy()) - estimator.uncorrected(op, gpu, setting)
        found[gpu.name] = fit_correction(gpu, prior or start(traits.place), traits, error, level)
    return found


def rows_of(table: pd.DataFrame, estimator: str) -> pd.DataFrame:
    """The rows of a conformed table that one estimator answers for: a family, or a family and phase."""
    names = table["family"].astype(str).str.cat(table["phase"].astype(str), sep="_").str.rstrip("_")
    return table[(names == estimator) | (table["family"].astype(str) == estimator)]
