"""Extrapolation: how far a call or a GPU lies outside what was measured, and what that does to an interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import lru_cache

import numpy as np

from predictor.estimators.features import Setting, groups, stand_in
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.hardware.siblings import architecture, has_stacked_memory
from predictor.ops import Op
from predictor.ops.base import TEXT_FIELDS, column, text_column
from predictor.ops.dtypes import DTYPES, Array, kernel_dtype

FAR = np.log(8.0)  # calls this far outside may take all from the bound to the slowest; GPUs, what far cards may
# Classes of cards that were held out lay up to so many nats outside the others: there the ends of far cards cover
# 76 %, as they do near by (ledger, class-out); Apple's prefill, 5.0 and 7.6 nats from all others, was not covered.
SHOWN = 4.3
MARGIN = np.log(1.3)  # the ends of what was measured are not sharp

FULL_S = 1e-4  # a call whose bound is longer fills every measured GPU: launch floors are 2 to 50 us
UNKNOWN_DTYPE = np.log(3.0)  # a format that nobody measured: half-way to the whole range
# A kernel that nobody measured, and one that was measured, but not on an architecture of which others were; judged.
UNKNOWN_KERNEL, KERNEL_ELSEWHERE = np.log(2.0), np.log(1.4)

Ranges = Mapping[str, tuple[float, float]]  # number field of an op → least and most that was measured


def number_fields(op: Op) -> tuple[str, ...]:
    """Names of the fields of an op that are numbers."""
    return tuple(field.name for field in fields(op) if field.name not in TEXT_FIELDS)


def outside(op: Op, ranges: Ranges, bound_s: Array) -> dict[str, Array]:
    """Nats by which each field of each call lies outside what was measured, for fields where some call does.

    More tokens than were measured are no news where a GPU is full with them. bound_s: (n_calls,).
    """
    distances, full = {}, bound_s > FULL_S
    for name, (least, most) in ranges.items():
        value = np.log1p(column(getattr(op, name), len(op)))
        above = value - np.log1p(most)
        if name in op.token_counts():
            above = np.where(full, 0.0, above)
        beyond = np.maximum(np.log1p(least) - value, above) - MARGIN
        if (beyond > 0).any():
            distances[name] = np.maximum(beyond, 0.0)
    return distances


def gpu_outside(gpu: Gpu, measured: Iterable[str]) -> float:
    """Nats by which bandwidth and arithmetic of a GPU lie outside those of the measured ones."""
    known = np.array([_facts(get_gpu(name)) for name in measured])
    own = np.array(_facts(gpu))
    beyond = np.maximum(known.min(axis=0) - own, own - known.max(axis=0)) - MARGIN
    return float(np.maximum(beyond, 0.0).sum())


def of_known_vendor(gpu: Gpu, measured: Iterable[str]) -> bool:
    """Whether any GPU of the vendor was measured: what held-out classes show is not known to hold for other vendors."""
    return gpu.vendor in {get_gpu(name).vendor for name in measured}


def dtype_outside(op: Op, references: Mapping[str, Iterable[str]]) -> Array:
    """Nats for each call whose number format was measured on no GPU, where the estimator tells formats apart.

    references: measured GPU → names of its groups of calls. fp16 and bf16 run alike.
    """
    words = {word for groups in references.values() for group in groups for word in group.split("|")}
    known = words & set(DTYPES)
    alike = known | {"fp16", "bf16"} if known & {"fp16", "bf16"} else known
    dtypes = text_column(kernel_dtype(getattr(op, "dtype", "")), len(op))
    strange = np.array([bool(known) and name not in alike for name in dtypes.tolist()])
    return np.where(strange, UNKNOWN_DTYPE, 0.0)


def kernel_outside(op: Op, gpu: Gpu, setting: Setting, references: Mapping[str, Iterable[str]]) -> Array:
    """Nats for each call whose kernel no measured GPU of this architecture ran, the more where none at all did.

    references: measured GPU → names of its groups of calls. A kernel counts as run under another engine's name, too.
    """
    here = {
        name for other in references if architecture(get_gpu(other)) == architecture(gpu) for name in references[other]
    }
    anywhere = {name for groups_there in references.values() for name in groups_there}
    asked = text_column(groups(op, gpu, setting), len(op)).tolist()

    def nats(name: str) -> float:
        if _ran(op.family, name, here):
            return 0.0
        known = _ran(op.family, name, anywhere)
        return (KERNEL_ELSEWHERE if here else 0.0) if known else UNKNOWN_KERNEL

    table = {name: nats(name) for name in set(asked)}
    return np.array([table[name] for name in asked])


def _ran(family: str, group: str, known: set[str]) -> bool:
    return group in known or stand_in(family, group, known) is not None


def widened(low_s: Array, high_s: Array, bound_s: Array, slowest_s: Array, far: Array) -> tuple[Array, Array]:
    """low and high of calls that lie `far` outside, drawn towards the bound and the slowest that such calls may be."""
    return drawn(low_s, high_s, np.maximum(bound_s, 1e-12), slowest_s, far)


def drawn(low_s: Array, high_s: Array, far_low_s: Array, far_high_s: Array, far: Array | float) -> tuple[Array, Array]:
    """low and high drawn towards the ends of far ones, where those are wider. far: nats, (n_calls,) or one number."""
    weight = np.clip(far / FAR, 0.0, 1.0)
    lowest, highest = np.minimum(low_s, far_low_s), np.maximum(high_s, far_high_s)
    return low_s ** (1 - weight) * lowest**weight, high_s ** (1 - weight) * highest**weight


@lru_cache(maxsize=1024)
def nearest(gpu: Gpu, measured: tuple[str, ...]) -> str:
    """The measured GPU whose bandwidth, arithmetic and size differ least, of its architecture if one was measured,
    else of its memory technology."""
    pool = [get_gpu(name) for name in measured]
    kin = [other for other in pool if architecture(other) and architecture(other) == architecture(gpu)]
    alike = [other for other in pool if has_stacked_memory(other) == has_stacked_memory(gpu)]
    own = np.array(_facts(gpu))
    return min(kin or alike or pool, key=lambda other: float(np.abs(np.array(_facts(other)) - own).sum())).name


def _facts(gpu: Gpu) -> tuple[float, float, float]:
    peaks = gpu.peak_flop_per_s
    fastest = max(peaks.get(name, 0.0) for name in ("bf16", "fp16", "fp32"))
    return (
        float(np.log(gpu.mem_bytes_per_s)),
        float(np.log(fastest or 1e12)),
        float(np.log(gpu.sms * gpu.boost_clock_hz)),
    )
