"""A toy law of latency and measurements that obey it: a launch floor in cycles, the bound over a utilization, noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from predictor.hardware.gpu import get_gpu
from predictor.hardware.roofline import roofline
from predictor.learning.recipe import Recipe
from predictor.measurements.checks import ACCEPTED, check
from predictor.measurements.schema import conform, op_of

GPUS = ("A100-SXM-80GB", "A10", "H100-SXM-80GB", "H200-SXM-141GB", "L4", "L40S")
GENERATIONS = {"Ampere", "Hopper", "Ada"}
SIBLINGS = {"H100-SXM-80GB", "H200-SXM-141GB"}
ROWS = 70  # of each family on each GPU
FLOOR_CYCLES = {"gemm": 6_000.0, "attention": 12_000.0, "pointwise": 4_000.0}
UTILIZATION = {"gemm": 0.7, "attention": 0.6, "pointwise": 0.8}
RECIPE = Recipe(
    id="toy",
    rows_per_estimator=2000,
    transfer_rounds=30,
    transfer_rate=0.2,
    reference_rounds=40,
    reference_depth=6,
    reference_rate=0.2,
    min_child_weight=3.0,
)
HEADS = {"heads": 32, "kv_heads": 8, "head_dim": 128}


def shapes(draw: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Columns of each family with log-uniform sizes."""

    def sizes(largest: int) -> Any:
        return np.floor(np.exp(draw.uniform(0, np.log(largest), ROWS)))

    width = draw.choice([1024, 2048, 4096, 8192, 14336], (2, ROWS))
    yield {"family": "gemm", "m": sizes(8192), "n": width[0], "k": width[1]}
    decode = {"family": "attention", "phase": "decode", "q_len": 1, **HEADS}
    yield decode | {"batch": sizes(128), "kv_len": sizes(16384)}
    yield {"family": "pointwise", "kind": "rms_norm", "rows": sizes(16384), "cols": width[0]}


def toy_table(gpus: tuple[str, ...] = GPUS, seed: int = 7) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    parts = []
    for name in gpus:
        gpu = get_gpu(name)
        for shape in shapes(draw):
            family = shape["family"]
            cells = {"gpu": name, "dtype": "bf16", "engine": "vllm", "timing": "device", "latency_s": 1.0, **shape}
            part = conform(pd.DataFrame(cells))
            bound = roofline(op_of(part, family, shape.get("phase", "")), gpu).latency_s
            floor = FLOOR_CYCLES[family] / gpu.boost_clock_hz
            noise = np.exp(draw.normal(0, 0.02, ROWS))
            parts.append(pd.DataFrame(cells).assign(latency_s=(floor + bound / UTILIZATION[family]) * noise))
    every = check(conform(pd.concat(parts, ignore_index=True)))
    return every[every["status"] == ACCEPTED].drop(columns=["status", "reason"]).reset_index(drop=True)


def quick_table() -> pd.DataFrame:
    """GEMM on one GPU of each of three generations: enough to hold one out."""
    every = toy_table(("A100-SXM-80GB", "H100-SXM-80GB", "L4"))
    return every[every["family"] == "gemm"].reset_index(drop=True)


def quick_recipe(**settings: Any) -> Recipe:
    """Few and small trees."""
    return replace(RECIPE, **{"id": "quick", "transfer_rounds": 10, "reference_rounds": 10, **settings})
