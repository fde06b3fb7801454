"""All that is known of a GPU, as one object of JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from predictor.hardware.gpu import Gpu
from predictor.hardware.power import rates
from predictor.hardware.siblings import card_class


def sheet(gpu: Gpu) -> dict[str, Any]:
    """Its fields, in bytes, seconds, hertz and FLOP/s, with its class and what it holds within its power."""
    peaks = {"peak_flop_per_s": dict(gpu.peak_flop_per_s), "emulates": dict(gpu.emulates)}
    lists = {name: sorted(getattr(gpu, name)) for name in ("derived_dtypes", "emulated_dtypes")}
    lists |= {name: list(getattr(gpu, name)) for name in ("aliases", "power_range_w")}
    held = {dtype: rates(gpu, dtype) for dtype in gpu.peak_flop_per_s}
    sustained = {
        "sustained_flop_per_s": {dtype: rate.sustained for dtype, rate in held.items()},
        "limited_by_power": [dtype for dtype, rate in held.items() if rate.limited],
    }
    return asdict(gpu) | peaks | lists | sustained | {"card_class": card_class(gpu)}
