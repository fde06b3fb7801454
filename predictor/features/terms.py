"""What a family's feature file returns, and the physics that several families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from predictor.gpu import Gpu
from predictor.ops.base import text_column
from predictor.ops.dtypes import Array, Text

# Bytes one SM takes from L2 per cycle in practice; 24 on A100 to B200, half of what the port could do.
CACHE_RATE = 24.0


class Setting(NamedTuple):
    """Who runs an op: engine (vllm, sglang, trtllm, torch …), kernel name ("" = the engine's choice) and
    timing (device or host), each one name or (n_calls,) names."""

    engine: Text = "vllm"
    kernel: Text = ""
    timing: Text = "device"


class Terms(NamedTuple):
    """What an estimator sees of a column of calls.

    rising: seconds or sizes that never fall when the call grows or the GPU gets worse, each (n_calls,) > 0.
    fixed: what kind of call it is; more tokens or a slower GPU do not change it.
    base_s: the physical estimate the estimator corrects, seconds; rising too.
    """

    rising: Mapping[str, Array]
    fixed: Mapping[str, Array]
    base_s: Array


def one_hot(prefix: str, values: Text, names: tuple[str, ...], calls: int) -> dict[str, Array]:
    """A 0/1 column per name; a value outside names is all zeros."""
    column = text_column(values, calls)
    return {f"{prefix}_{name}": (column == name).astype(np.float64) for name in names}


def memory_time(moved: Array, gpu: Gpu, cache_share: float) -> Array:
    """Seconds to move bytes of which up to cache_share of the last-level cache are already on chip."""
    cached = np.minimum(moved, cache_share * gpu.llc_bytes)
    return cached / (CACHE_RATE * gpu.sms * gpu.boost_clock_hz) + (moved - cached) / gpu.mem_bytes_per_s


def cycles(count: Array | float, gpu: Gpu) -> Array:
    """Seconds of `count` SM cycles at boost clock."""
    return np.asarray(count, dtype=np.float64) / gpu.boost_clock_hz


def soft_max(times: list[Array], power: float = 3.0) -> Array:
    """Time of resources that mostly overlap: the power mean, between the largest and the sum."""
    total = sum(np.asarray(time, dtype=np.float64) ** power for time in times)
    return np.asarray(total ** (1 / power), dtype=np.float64)


def tiled_time(rows: Array, cols: Array, depth: Array, groups: Array, rate: Array, gpu: Gpu, tile: tuple[int, int]) -> Array:
    """Seconds of `groups` matrix products cut into tiles that fill the SMs in whole waves.

    rows, cols, depth, groups: (n_calls,). rate: FLOP/s of the whole GPU. A wave takes as long as one tile.
    Lee et al., NeuSight, ASPLOS 2025, 4.2; small tiles pay for feeding operands through shared memory.
    """
    high, wide = tile
    tiles = groups * np.ceil(rows / high) * np.ceil(cols / wide)
    per_sm = rate / gpu.sms
    feed = 1 + per_sm / gpu.clock_hz * 3e-3 * (1 / high + 1 / wide)
    return np.ceil(tiles / gpu.sms) * 2.0 * high * wide * depth / per_sm * feed
