"""Columns of a request that no plan is asked by: it decides them, or its load has none."""

from __future__ import annotations

from predictor.workloads.request import OF_TRAINING

DECIDED = (
    *("dtype", "engine", "tp", "n_gpus", "dp", "phase", "scheduling", "batch", "image_size", "usd_per_hour"),
    *OF_TRAINING,
)
