"""The least time an op can take on a GPU, and what limits it.

Williams, Waterman & Patterson, Roofline, CACM 52(4), 2009, with two refinements: data that fits the last-level
cache need not come from memory, and the launch floor is kept apart, because it is a habit and no law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from predictor.errors import UnknownLink
from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import link_rate
from predictor.hardware.spec import COMPUTE_DTYPES, VECTOR
from predictor.ops import Op
from predictor.ops.base import column, text_column
from predictor.ops.dtypes import Array, Text, dtype_facts

LIMITERS = ("compute", "memory", "link", "power")  # the last: predictor.hardware.power

# No SM takes more than 64 B per cycle from L2 (CUDA programming guide; CDNA 3 white paper: 64 B per CU).
CACHE_BYTES_PER_SM_CYCLE = 64.0


class Bound(NamedTuple):
    """Seconds per call, each (n_calls,). floor_s is a typical launch floor and not part of the bound."""

    compute_s: Array
    memory_s: Array
    link_s: Array
    floor_s: Array

    @property
    def latency_s(self) -> Array:
        """Least possible latency: the slowest of the three."""
        return np.maximum(np.maximum(self.compute_s, self.memory_s), self.link_s)

    @property
    def limiter(self) -> np.ndarray[Any, Any]:
        """Which of the first three LIMITERS sets the bound, (n_calls,) names."""
        times = np.stack([self.compute_s, self.memory_s, self.link_s])
        named: np.ndarray[Any, Any] = np.asarray(LIMITERS, dtype=object)[np.argmax(times, axis=0)]
        return named


def peak_flop_per_s(op: Op, gpu: Gpu) -> Array:
    """Dense arithmetic peak of the data sheet for each call, (n_calls,) FLOP/s; a dtype the GPU cannot run raises.

    An fp8 cache on a GPU without fp8 arithmetic is widened and runs at the rate of the op's own dtype. What is emulated
    has the share of the fp32 peak that conversion leaves.
    """
    return rate_of_units(op, gpu, lambda unit: unit_rate(gpu, unit))


def unit_rate(gpu: Gpu, unit: str) -> float:
    """FLOP/s of a compute dtype that the GPU has, of its VECTOR units, or what conversion leaves of fp32's."""
    if unit == VECTOR:
        return gpu.peak(VECTOR)
    return gpu.peak_flop_per_s.get(unit) or gpu.peak("fp32") * gpu.emulates[unit]


def most_flop_per_s(op: Op, gpu: Gpu) -> Array:
    """Dense arithmetic rate that bounds each call, at the highest clock, (n_calls,) FLOP/s: cards run above their
    advertised boost."""
    return rate_of_units(op, gpu, gpu.peak_at_max_clock)


def units(op: Op, gpu: Gpu) -> frozenset[str]:
    """The compute dtypes in which the GPU runs the calls."""
    names, own = text_column(_named(op, gpu), len(op)), text_column(getattr(op, "dtype", "fp32"), len(op))
    return frozenset(_unit(gpu, *pair) for pair in set(zip(names.tolist(), own.tolist(), strict=True)))


def is_unstated(op: Op, gpu: Gpu) -> np.ndarray[Any, Any]:
    """Whether nobody states the rate of each call: derived, or of what is converted. (n_calls,) booleans."""
    if not np.any(op.flops()):
        return np.zeros(len(op), dtype=bool)
    stated = gpu.peak_flop_per_s.keys() - gpu.derived_dtypes
    return rate_of_units(op, gpu, lambda unit: float(unit not in stated)) > 0


def rate_notes(ops: Iterable[Op], gpu: Gpu) -> list[str]:
    """What to say of rates that the calls run at: those that nobody publishes, and those of dtypes without units."""
    if not gpu.derived_dtypes and not gpu.emulates:
        return []
    used = {unit for op in ops if np.any(op.flops()) for unit in units(op, gpu)}
    derived = [dtype for dtype in COMPUTE_DTYPES if dtype in used & gpu.derived_dtypes]
    emulated = [dtype for dtype in COMPUTE_DTYPES if dtype in used & gpu.emulated_dtypes]
    notes = []
    if derived:
        notes.append(f"no {' or '.join(derived)} rate of {gpu.name} is published; it follows from its others.")
    if emulated:
        notes.append(f"{gpu.name} has no units for {' and '.join(emulated)}: converted and run in fp32.")
    return notes


def rate_of_units(op: Op, gpu: Gpu, rate: Callable[[str], float]) -> Array:
    """rate(unit) of the units that run each call, named by compute dtype, (n_calls,) FLOP/s; see peak_flop_per_s."""
    names, own = _named(op, gpu), getattr(op, "dtype", "fp32")
    if isinstance(names, str) and isinstance(own, str):
        return column(rate(_unit(gpu, names, own)), len(op))
    names, own = text_column(names, len(op)), text_column(own, len(op))
    table = {pair: rate(_unit(gpu, *pair)) for pair in set(zip(names.tolist(), own.tolist(), strict=True))}
    if len(table) == 1:
        return column(next(iter(table.values())), len(op))
    return np.array([table[pair] for pair in zip(names.tolist(), own.tolist(), strict=True)])


def _named(op: Op, gpu: Gpu) -> Text:
    """The compute dtypes of the calls, VECTOR of element-wise ones where the GPU has a rate of its own for them."""
    return VECTOR if gpu.vector_flop_per_s and op.family == "pointwise" else op.compute_dtype


def _unit(gpu: Gpu, name: str, own: str) -> str:
    """The compute dtype in which a GPU runs `name`, an op's own dtype being `own`; units of its own come first."""
    if name == VECTOR:
        return VECTOR
    able = (*dtype_facts(name).compute, *(dtype_facts(own).compute if name != own else ()))
    for unit in able:
        if unit in gpu.peak_flop_per_s:
            return unit
    if converted := [unit for unit in able if unit in gpu.emulates]:
        return max(converted, key=lambda unit: gpu.emulates[unit])
    gpu.peak(able[0])  # raises, naming the dtypes the GPU has
    raise AssertionError(f"{gpu.name} has {able[0]} and was not asked for it")


def link_bytes_per_s(op: Op, gpu: Gpu) -> Array:
    """Bytes per second and direction of the link each call uses, (n_calls,)."""
    rate = link_rate(getattr(op, "link", "gpu"), getattr(op, "n_gpus", 2.0), gpu)
    return np.broadcast_to(rate, (len(op),))


def roofline(op: Op, gpu: Gpu) -> Bound:
    """Least seconds for each call of `op` on `gpu`.

    compute: FLOPs over the dense peak of the dtype at the highest clock. memory: bytes beyond the last-level cache over
    memory bandwidth, and all bytes over cache bandwidth. link: bytes over the link, per direction.
    """
    calls = len(op)
    flops = op.least_flops()
    moved = column(op.bytes_moved(), calls)
    beyond_cache = np.maximum(moved - gpu.llc_bytes, 0.0) / gpu.mem_bytes_per_s
    through_cache = moved / (CACHE_BYTES_PER_SM_CYCLE * gpu.sms * gpu.max_clock_hz)
    linked = column(op.link_bytes(), calls)
    if linked.any() and (link_bytes_per_s(op, gpu) <= 0).any():
        raise UnknownLink(f"{gpu.name} has no known link; give link_gb_per_s and pcie_gb_per_s in its spec.")
    return Bound(
        compute_s=column(flops, calls) / most_flop_per_s(op, gpu) if np.any(flops) else np.zeros(calls),
        memory_s=np.maximum(beyond_cache, through_cache),
        link_s=linked / link_bytes_per_s(op, gpu) if linked.any() else np.zeros(calls),
        floor_s=column(op.floor_cycles / gpu.boost_clock_hz, calls),
    )
