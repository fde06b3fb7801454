"""What a family's feature file returns, and the physics that several families share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.hardware.architectures import capability
from predictor.hardware.gpu import Gpu
from predictor.hardware.siblings import architecture, has_stacked_memory
from predictor.ops.base import column, text_column
from predictor.ops.dtypes import Array, Text
from predictor.workloads.engine_tables import SERVES, Operators, operators_of, picked_kernel

# Bytes one SM takes from L2 per cycle in practice: measured, 24 on A100 to B200, less than half of what the port could
# do (predictor.hardware.roofline).
CACHE_RATE = 24.0


class Setting(NamedTuple):
    """Who runs an op: engine (see catalog/engines.toml), kernel name ("" = the engine's choice) and
    timing (device, host or warm), each one name or (n_calls,) names."""

    engine: Text = SERVES
    kernel: Text = ""
    timing: Text = "device"

    def take(self, rows: Any) -> Setting:
        """The calls at `rows`; what is one name for all stays."""
        return Setting(*(part if isinstance(part, str) else np.asarray(part, dtype=object)[rows] for part in self))


REFERENCE_CLOCK_HZ = 1.9e9  # the unit of floors, near the boost clocks of A100 to B200; another one scales all alike


class Terms(NamedTuple):
    """What an estimator sees of a column of calls.

    times: seconds that never fall when the call gets more tokens or the GPU gets worse, each (n_calls,) > 0.
    fixed: what kind of call it is, its model dimensions included; more tokens or a slower GPU do not change it.
    work_s: nominal time of the work without any launch floor, seconds; rising too.
    group: calls of one group share a launch floor; "engine|dtype|…", most telling part first.
    tick_s: seconds of one cycle as launch floors count them, (n_calls,); None: of the GPU's clock, or of a host's.
    beside_cycles: of launches that some groups have beside their floor, which is then like that of other groups.
    """

    times: Mapping[str, Array]
    fixed: Mapping[str, Array]
    work_s: Array
    group: Text
    tick_s: Array | None = None
    beside_cycles: Array | float = 0.0


def group_names(calls: int, *parts: Text) -> Text:
    """Text columns joined by "|", which a part has none of: one name where each part is one, else (n_calls,) names."""
    names = [part for part in parts if isinstance(part, str)]
    if len(names) == len(parts):
        return _joined(names)
    columns = [text_column(part, calls).tolist() for part in parts]
    table = {key: _joined(key) for key in set(zip(*columns, strict=True))}
    return np.array([table[key] for key in zip(*columns, strict=True)], dtype=object)


def _joined(names: Iterable[str]) -> str:
    return "|".join(name.replace("|", "/") for name in names)


def kernel_family(
    setting: Setting,
    gpu: Gpu,
    names: tuple[tuple[str, str], ...],
    estimator: str,
    calls: int,
) -> Text:
    """Canonical kernel of each call: read off its name, else what the engine picks on this GPU.

    One name where kernel and engine are one, else (n_calls,).
    names: (part of a name, family), first match wins. estimator: under which engines.toml has what engines pick.
    """

    def family(kernel: str, engine: str) -> str:
        for part, canonical in names:
            if kernel and part in kernel.lower():
                return canonical
        return picked_kernel(estimator, engine, gpu.generation, architecture(gpu))

    if isinstance(setting.kernel, str) and isinstance(setting.engine, str):
        return family(setting.kernel, setting.engine)
    pairs = list(
        zip(text_column(setting.kernel, calls).tolist(), text_column(setting.engine, calls).tolist(), strict=True)
    )
    table = {pair: family(*pair) for pair in set(pairs)}
    return np.array([table[pair] for pair in pairs], dtype=object)


def of_engines(engine: Text, fact: Callable[[Operators], bool]) -> NDArray[np.bool_] | bool:
    """Whether a fact of its kernels holds of the engine of each call: one truth for one engine, else (n_calls,)."""
    if isinstance(engine, str):
        return fact(operators_of(engine))
    names = engine.tolist()
    table = {name: fact(operators_of(name)) for name in set(names)}
    return np.array([table[name] for name in names], dtype=bool)


def one_hot(prefix: str, values: Text, names: tuple[str, ...], calls: int) -> dict[str, Array]:
    """A 0/1 column per name; a value outside names is all zeros."""
    return {f"{prefix}_{name}": column(np.asarray(values == name, dtype=np.float64), calls) for name in names}


def timing_terms(setting: Setting, calls: int) -> dict[str, Array]:
    """How calls were timed: 0/1 columns `host` and `warm`; neither is `device`."""
    told = one_hot("timing", setting.timing, ("host", "warm"), calls)
    return {name.removeprefix("timing_"): value for name, value in told.items()}


def renamed(names: Text, which: Any, name: Text) -> Text:
    """`name` where `which`, one truth or (n_calls,), holds, else what `names` says."""
    if isinstance(names, str) and np.ndim(which) == 0:
        return name if which else names
    return np.where(which, name, names)


def memory_time(moved: Array, gpu: Gpu, cache_share: float) -> Array:
    """Seconds to move bytes of which up to cache_share of the last-level cache are already on chip."""
    return _two_level_time(moved, np.minimum(moved, cache_share * gpu.llc_bytes), gpu)


# Bytes beyond the last-level cache that evict so many times more: reading in a circle, the oldest line is needed next.
# Judged on L40S, the only one whose cache is much faster than its memory: nothing is left at 1.25 times the size.
THRASH = 4.0


def repeated_memory_time(moved: Array, gpu: Gpu, cache_share: Array | float = 1.0) -> Array:
    """Seconds to move bytes that earlier calls moved too: all on chip while they fit into cache_share of the last-level
    cache, soon none once they do not."""
    kept = cache_share * gpu.llc_bytes
    return _two_level_time(moved, np.clip((1 + THRASH) * kept - THRASH * moved, 0.0, moved), gpu)


def _two_level_time(moved: Array, cached: Array, gpu: Gpu) -> Array:
    cache_rate = max(CACHE_RATE * gpu.sms * gpu.boost_clock_hz, gpu.mem_bytes_per_s)  # a cache never slows memory
    return cached / cache_rate + (moved - cached) / gpu.mem_bytes_per_s


# Share of the bandwidth that check bits leave where they lie among the data: servers' GDDR has no chips for them.
# Streams reach 0.73 to 0.80 of the data sheet on T4, A40, L40S and RTX PRO 6000, 0.84 to 0.92 on RTX 4090 and with HBM.
INLINE_ECC = 0.88


@lru_cache(maxsize=1024)
def corrected(gpu: Gpu) -> Gpu:
    """A GPU with the memory bandwidth that error correction leaves it."""
    inline = gpu.vendor == "NVIDIA" and gpu.segment == "data-centre" and not has_stacked_memory(gpu)
    return replace(gpu, mem_bytes_per_s=INLINE_ECC * gpu.mem_bytes_per_s) if inline else gpu


# Cycles per element of key and value that a thread block alone needs where kernels do not split a sequence: latent
# decode of TensorRT-LLM before Hopper (162 per key of 1,088 on A100, 196 on L40S, at any batch while there are free
# SMs), its decode where more than 32 heads share a KV head (0.16 on every GPU), and FA2 with a window or a head for
# every KV head (0.13 on A100, 0.19 on L40S and RTX PRO 6000).
LEGACY_CYCLES_PER_ELEMENT = 0.156


def cycles(count: Array | float, gpu: Gpu) -> Array:
    """Seconds of `count` SM cycles at boost clock."""
    return np.asarray(count, dtype=np.float64) / gpu.boost_clock_hz


def exp_per_sm_cycle(gpu: Gpu) -> float:
    """Exponentials that an SM does in a cycle."""
    return capability(gpu.compute_capability).exp_per_sm_cycle


def soft_max(times: list[Array], power: float = 3.0) -> Array:
    """Time of resources that mostly overlap: the power mean, between the largest and the sum.

    power: judged; two equal times make 1.26 of one at 3, while 1 would be no overlap at all.
    """
    total = sum(np.asarray(time, dtype=np.float64) ** power for time in times)
    return np.asarray(total ** (1 / power), dtype=np.float64)


# Vector instructions per sum and block of fp8_block: multiply by the two scales, add in fp32 (DeepSeek-V3, 3.3.2).
SCALING_OPS = 2.0
SCALING_BLOCK = 128  # of the format (DeepSeek-V3, 3.3.1)
VECTOR_LANES = 128.0  # fp32 operations of an SM per cycle from Ada on (CUDA programming guide; A100 has 64 and no fp8)


class Product(NamedTuple):
    """`groups` products of (rows, depth) and (depth, cols) matrices of element_bytes, each (n_calls,)."""

    rows: Array
    cols: Array
    depth: Array
    groups: Array
    element_bytes: Array


MOST_FED = 2048.0  # FLOP per SM and cycle; instructions that do more take operands from shared memory by themselves


def tiled_time(product: Product, rate: Array, gpu: Gpu, tile: tuple[int, int]) -> Array:
    """Seconds of matrix products cut into tiles that fill the SMs in whole waves, (n_calls,).

    rate: FLOP/s of the whole GPU. A wave takes as long as one tile.
    Lee et al., NeuSight, ASPLOS 2025, 4.2; small tiles pay for feeding operands through shared memory.
    """
    high, wide = tile
    tiles = product.groups * np.ceil(product.rows / high) * np.ceil(product.cols / wide)
    per_sm = rate / gpu.sms
    fed = np.minimum(per_sm / gpu.clock_hz, MOST_FED)
    # A FLOP needs element_bytes * (1 / high + 1 / wide) / 2 from shared memory. 2.5e-3 is half a cycle over 200 bytes:
    # the 128 per cycle of shared memory (CUDA programming guide), each used 1.6 times from registers. Judged: GeForce
    # parts (512 FLOP per SM and cycle) reach 0.97 of the rate that large products leave, A100 (2,048) 0.88.
    feed = 1 + fed * product.element_bytes * 2.5e-3 * (1 / high + 1 / wide)
    return np.asarray(np.ceil(tiles / gpu.sms) * 2.0 * high * wide * product.depth / per_sm * feed)


def scaling_time(product: Product, dtype: Text, gpu: Gpu) -> Array:
    """Seconds in which the vector units scale and add the sums of each block along the depth, (n_calls,)."""
    per_sum = np.where(dtype == "fp8_block", SCALING_OPS, 0.0)
    sums = product.groups * product.rows * product.cols * np.ceil(product.depth / SCALING_BLOCK)
    return np.asarray(sums * per_sum / (VECTOR_LANES * gpu.sms * gpu.boost_clock_hz))
