"""The clock that a GPU holds under arithmetic: no higher than it boosts, and no more power than its board has.

Energy per FLOP rises with the square of the voltage and the voltage with the clock, so that a card at its power limit
slows down by less than it lacks: an L40S (350 W) holds 0.6 of the rate of its data sheet, an RTX 4090 (450 W, the same
silicon at half the tensor rate) all of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from predictor.hardware.architectures import Capability, capability
from predictor.hardware.gpu import Gpu
from predictor.hardware.roofline import Bound, rate_of_units, unit_rate
from predictor.ops import Op
from predictor.ops.dtypes import Array

# Of the board power, for memory, leakage, fans and losses: 17 W of a 70 W card, 80 W of a 700 W module; judged.
IDLE_SHARE, IDLE_W, MOST_IDLE = 0.1, 10.0, 0.4
LOWEST_VOLTAGE = 0.6  # of that at the highest clock, where the clock goes towards zero; judged
FREE_BOOST = 0.4  # of the way from the advertised boost to the highest clock, where power is no limit; judged
PLATEAU = 0.93  # of the cycles a large product multiplies in, on the best of A100 to B200
# What the best kernels of other vendors reach of that: 0.85 on MI25, MI60 and RX 6900 XT, 0.77 to 0.88 on M1 to M4.
OTHERS_ISSUE = 0.85
# Energy of a FLOP rises with bits^0.57 below 16 bits: large fp8 products run at 1.5 to 1.8 times the rate of bf16 on
# L40S, H100, H200, B200, GB200 and RTX PRO 6000 (median 1.7), nvfp4 at 2.8 to 3.2 times. tf32 takes what 32 bits do.
BITS = {"fp4": 4, "fp8": 8, "int8": 8, "fp16": 16, "bf16": 16, "tf32": 32}
NARROW_EXPONENT = 0.57
PICO = 1e-12
# Energy of a 16-bit FLOP of products that run for seconds over that of products timed alone, which are over before the
# board's control of its power acts, on operands that toggle fewer bits, with memory and links at rest; that of others
# rises with their bits. Chosen, with AMONG_OTHERS and STRAGGLING of predictor/latency/training.py, as what suits the
# replayed training steps of all tables best (MPT on A100, where 1.0 to 1.8 agree equally well, torchtitan, Megatron).
STEADY_ENERGY = 1.6
STREAMING_POWER = 0.5  # of what arithmetic may draw, where memory streams at its bandwidth; judged
UNLIMITED = 1.2  # times the free rate, beyond which no one asks how much power would be left


class Rates(NamedTuple):
    """FLOP/s of a unit of a GPU: at the clock it boosts to, and what its board power would allow at any clock."""

    free: float
    powered: float

    @property
    def limited(self) -> bool:
        """Whether board power holds large products below the clock that the GPU boosts to."""
        return self.powered < PLATEAU * self.free

    @property
    def sustained(self) -> float:
        """What large products run at."""
        return min(PLATEAU * self.free, self.powered)


def free_flop_per_s(op: Op, gpu: Gpu) -> Array:
    """FLOP/s of the units of each call at the clock they boost to, (n_calls,); a dtype the GPU lacks raises."""
    return rate_of_units(op, gpu, lambda unit: rates(gpu, unit).free)


def powered_flop_per_s(op: Op, gpu: Gpu) -> Array:
    """FLOP/s of each call that takes the whole board power, (n_calls,); a dtype the GPU lacks raises."""
    return rate_of_units(op, gpu, lambda unit: rates(gpu, unit).powered)


def steady_flop_per_s(op: Op, gpu: Gpu) -> Array:
    """FLOP/s that the board's power leaves products which run for seconds, as in training, (n_calls,).

    Infinite for vector units, whose rates were measured so, and where the power of the board is not known.
    """
    return rate_of_units(op, gpu, lambda unit: _steady(gpu, unit))


def drawn_w(op: Op | None, gpu: Gpu, seconds: float) -> float:
    """Watts that a GPU with a known limit draws while a call takes so many seconds; None: while it waits.

    Idle, arithmetic by its energy and memory by its share of the bandwidth, up to the board's limit.
    """
    if op is None:
        return gpu.tdp_w - _arithmetic_w(gpu)
    if op.family == "collective":
        return gpu.tdp_w - _arithmetic_w(gpu) * (1 - STREAMING_POWER)
    moved = min(float(op.bytes_moved()) / (seconds * gpu.mem_bytes_per_s), 1.0) * STREAMING_POWER
    flops = float(op.flops())
    most = min(float(rate(op, gpu)[0]) for rate in (steady_flop_per_s, powered_flop_per_s)) if flops else np.inf
    multiplied = flops / seconds / most
    return min(gpu.tdp_w - _arithmetic_w(gpu) * (1 - moved - multiplied), gpu.tdp_w)


def limiter(op: Op, gpu: Gpu, bound: Bound) -> np.ndarray[Any, Any]:
    """What limits each call, (n_calls,) of LIMITERS: "power" where arithmetic does and the board lacks power for it."""
    of_bound = bound.limiter
    if not (of_bound == "compute").any():
        return of_bound
    held = rate_of_units(op, gpu, lambda unit: float(rates(gpu, unit).limited)) > 0
    return np.where((of_bound == "compute") & held, "power", of_bound)


@lru_cache(maxsize=4096)
def rates(gpu: Gpu, unit: str) -> Rates:
    """Rates of `unit`, a compute dtype that the GPU has or converts (predictor.hardware.roofline)."""
    own = unit_rate(gpu, unit)
    vector = unit == "fp32" or unit not in gpu.peak_flop_per_s
    facts = _energies(gpu)
    issued = (1.0 if gpu.vendor == "NVIDIA" else OTHERS_ISSUE) * (facts.fp32_issue if vector else 1.0)
    peak, highest = issued * own, issued * own * gpu.max_clock_hz / gpu.clock_hz
    free = peak + FREE_BOOST * max(highest - peak, 0.0)
    joule = energy_j(facts, "fp32" if vector else unit)
    if not gpu.tdp_w or not joule:
        return Rates(free, UNLIMITED * free)
    return Rates(free, min(_within_power(gpu, joule, highest), UNLIMITED * free))


@lru_cache(maxsize=4096)
def _steady(gpu: Gpu, unit: str) -> float:
    """steady_flop_per_s of a unit."""
    facts = _energies(gpu)
    if unit == "fp32" or unit not in gpu.peak_flop_per_s or not gpu.tdp_w or not facts.picojoule_16_bit:
        return np.inf
    issued = 1.0 if gpu.vendor == "NVIDIA" else OTHERS_ISSUE
    joule = STEADY_ENERGY * facts.picojoule_16_bit * PICO * BITS[unit] / 16
    return _within_power(gpu, joule, issued * gpu.peak_at_max_clock(unit))


def _within_power(gpu: Gpu, joule: float, highest: float) -> float:
    """FLOP/s of so many joule each at the highest clock, where `highest` is their rate, within the board's power."""
    return PLATEAU * highest * _clock_within(_arithmetic_w(gpu) / (PLATEAU * joule * highest))


def board_w(gpu: Gpu) -> float:
    """Power of the board. Makers of laptops choose from a range, of which the middle is taken; 0 where unknown."""
    laptop = gpu.segment == "laptop" and gpu.power_range_w
    return min(gpu.tdp_w, sum(gpu.power_range_w) / 2) if laptop else gpu.tdp_w


def _arithmetic_w(gpu: Gpu) -> float:
    """Board power that is left for arithmetic."""
    board = board_w(gpu)
    return board - min(IDLE_W + IDLE_SHARE * board, MOST_IDLE * board)


def _energies(gpu: Gpu) -> Capability:
    """The facts of the capability of a GPU, or of the one whose kernels it runs where nobody knows its energies."""
    own = capability(gpu.compute_capability)
    return own if own.picojoule_fp32 or not own.same_kernels_as else capability(own.same_kernels_as)


def _clock_within(budget: float) -> float:
    """Share of the highest clock, at most 2, at which power is `budget` times that at the highest clock."""
    low, high = 0.0, 2.0
    for _ in range(60):
        middle = (low + high) / 2
        if middle * (LOWEST_VOLTAGE + (1 - LOWEST_VOLTAGE) * middle) ** 2 < budget:
            low = middle
        else:
            high = middle
    return high


def energy_j(facts: Capability, unit: str) -> float:
    """Joule of a FLOP at the highest clock, its share of moving operands included; 0.0 where unknown."""
    if unit == "fp32":
        return facts.picojoule_fp32 * PICO
    bits = BITS[unit] / 16
    return facts.picojoule_16_bit * PICO * (bits if bits > 1 else bits**NARROW_EXPONENT)
