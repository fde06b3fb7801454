"""What a GPU costs: list prices from the catalogue."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources

from predictor.hardware.gpu import Gpu


def usd_per_hour(gpu: Gpu) -> float | None:
    """List price of one GPU for an hour; None where none is known.

    >>> from predictor.hardware.gpu import get_gpu
    >>> usd_per_hour(get_gpu("A100-SXM-80GB"))
    1.79
    """
    return _prices().get(gpu.name)


@lru_cache(maxsize=1)
def _prices() -> Mapping[str, float]:
    text = resources.files("predictor").joinpath("catalog", "prices.toml").read_text(encoding="utf-8")
    return {name: float(entry["usd_per_hour"]) for name, entry in tomllib.loads(text).items()}
