"""What a GPU costs: list prices from the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from predictor.hardware.gpu import Gpu
from predictor.shipped import read_catalogue


def usd_per_hour(gpu: Gpu) -> float | None:
    """List price of one GPU for an hour; None where none is known.

    >>> from predictor.hardware.gpu import get_gpu
    >>> usd_per_hour(get_gpu("A100-SXM-80GB"))
    1.79
    """
    return _prices().get(gpu.name)


@lru_cache(maxsize=1)
def _prices() -> Mapping[str, float]:
    return {name: float(entry["usd_per_hour"]) for name, entry in read_catalogue("prices.toml").items()}
