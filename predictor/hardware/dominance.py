"""Which GPUs are at least as good as another in every spec: what runs the same kernels there is no slower.

The order is partial and holds within an architecture: other architectures run other kernels, and a newer one that is
better on paper was measured slower at small calls.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from predictor.hardware.gpu import Gpu, get_gpu
from predictor.hardware.power import board_w
from predictor.hardware.siblings import architecture, memory_kind
from predictor.hardware.spec import VECTOR


class Comparable(NamedTuple):
    """Measured GPUs at least as good as another in every spec, and those at most as good; equal ones are in both."""

    better: tuple[Gpu, ...]
    worse: tuple[Gpu, ...]


def dominates(one: Gpu, two: Gpu) -> bool:
    """Whether `one` runs the kernels of `two` and is at least as good in every spec that an operator depends on.

    >>> dominates(get_gpu("H200"), get_gpu("H100")), dominates(get_gpu("H100"), get_gpu("H100:7g.80gb"))
    (True, True)
    >>> dominates(get_gpu("H100"), get_gpu("A100"))
    False
    """
    return _kernels(one) == _kernels(two) and bool(np.all(_specs(one) >= _specs(two)))


@lru_cache(maxsize=4096)
def comparable(gpu: Gpu, measured: frozenset[str]) -> Comparable:
    """The GPUs among `measured`, itself left out, that are better or worse than a GPU in every spec."""
    others = [get_gpu(name) for name in sorted(measured) if name != gpu.name] if architecture(gpu) else []
    return Comparable(
        tuple(other for other in others if dominates(other, gpu)),
        tuple(other for other in others if dominates(gpu, other)),
    )


def _kernels(gpu: Gpu) -> tuple[object, ...]:
    """What decides which kernels a GPU runs, and in which number formats."""
    return (
        gpu.vendor,
        architecture(gpu),
        memory_kind(gpu),
        frozenset(gpu.peak_flop_per_s),
        tuple(sorted(gpu.emulates.items())),
    )


@lru_cache(maxsize=4096)
def _specs(gpu: Gpu) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """All of which more is better; power that nobody states limits nothing."""
    peaks = [rate for dtype in sorted(gpu.peak_flop_per_s) for rate in (gpu.peak(dtype), gpu.peak_at_max_clock(dtype))]
    return np.array(
        [
            *(gpu.sms, gpu.boost_clock_hz, gpu.max_clock_hz),
            *(gpu.mem_bytes_per_s, gpu.l2_bytes, gpu.llc_bytes, gpu.smem_bytes_per_sm),
            *(gpu.link_bytes_per_s, gpu.pcie_bytes_per_s, board_w(gpu) or np.inf),
            *(*peaks, gpu.peak(VECTOR) if "fp32" in gpu.peak_flop_per_s else gpu.vector_flop_per_s),
        ]
    )
