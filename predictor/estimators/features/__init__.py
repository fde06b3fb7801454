"""(op, GPU, setting) → feature table. The only definition of a feature; training and prediction both call it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.estimators.features.attention import attention_group, attention_terms
from predictor.estimators.features.collective import collective_group, collective_terms
from predictor.estimators.features.conv import conv_group, conv_terms
from predictor.estimators.features.gemm import PACKING, gemm_group, gemm_terms
from predictor.estimators.features.mla import mla_group, mla_terms
from predictor.estimators.features.moe import moe_group, moe_terms
from predictor.estimators.features.pointwise import pointwise_group, pointwise_terms
from predictor.estimators.features.terms import REFERENCE_CLOCK_HZ, Setting, Terms
from predictor.hardware.gpu import Gpu
from predictor.ops import Op
from predictor.ops.base import column, one_name, text_column
from predictor.ops.dtypes import Array, Text

TERMS: Mapping[str, Callable[[Any, Gpu, Setting], Terms]] = {
    "gemm": gemm_terms,
    "attention": attention_terms,
    "moe": moe_terms,
    "mla": mla_terms,
    "pointwise": pointwise_terms,
    "conv": conv_terms,
    "collective": collective_terms,
}
GROUPS: Mapping[str, Callable[[Any, Gpu, Setting], Text]] = {
    "gemm": gemm_group,
    "attention": attention_group,
    "moe": moe_group,
    "mla": mla_group,
    "pointwise": pointwise_group,
    "conv": conv_group,
    "collective": collective_group,
}

# What the parts of Features.group are. Calls that differ in `timing` or `engine` alone run like kernels, and fp16 like
# bf16; collectives of two engines are two programs.
PARTS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("timing", "dtype", "engine"),
    "conv": ("timing", "dtype", "engine"),
    "pointwise": ("timing", "engine", "kind"),
    "attention": ("timing", "kernel", "engine", "kv_dtype"),
    "moe": ("timing", "kernel", "engine", "dtype"),
    "mla": ("timing", "kernel", "kv_dtype"),
    "collective": ("timing", "program", "launch", "kind", "link"),
}
DIFFERENCES = {
    "timing": 4,
    "engine": 2,
    "dtype": 1,
    "kv_dtype": 1,
}  # what another one costs in the choice of a stand-in; an order only
ALIKE_DTYPES = frozenset({"fp16", "bf16"})
FORMATS = ("dtype", "kv_dtype")  # parts that are fields of the op


PER_CALL = ("values", "tokens", "work_s", "tick_s", "group", "beside_s")


class Features(NamedTuple):
    """What the estimator of an op sees of a column of calls.

    names: columns, the first `times` of them seconds that never fall with more tokens or a worse GPU.
    values: (n_calls, n_features) float32, times as logarithms. tokens: (n_calls, n_tokens) log(1 + token count).
    work_s: (n_calls,) nominal seconds.
    tick_s: (n_calls,) seconds of one cycle as launch floors count them. group: (n_calls,) names.
    beside_s: (n_calls,) seconds of kernels beside the one that does the work.
    """

    names: tuple[str, ...]
    times: int
    values: NDArray[np.float32]
    tokens: NDArray[np.float32]
    work_s: Array
    tick_s: Array
    group: NDArray[Any]
    beside_s: Array

    def take(self, rows: Any) -> Features:
        """The calls at `rows`."""
        return self._replace(**{name: getattr(self, name)[rows] for name in PER_CALL})


def features(op: Op, gpu: Gpu, setting: Setting) -> Features:
    """What the estimator of `op` sees of each call on `gpu`."""
    terms = TERMS[op.family](op, gpu, setting)
    names = (*terms.times, *terms.fixed)
    values = np.empty((len(op), len(names)), dtype=np.float32)
    for at, seconds in enumerate(terms.times.values()):
        values[:, at] = np.log(np.maximum(seconds, 1e-12))
    for at, value in enumerate(terms.fixed.values(), len(terms.times)):
        values[:, at] = value
    tick = _tick_s(op, gpu, terms.group) if terms.tick_s is None else terms.tick_s
    counts = {**op.token_counts(), "kv_len": getattr(op, "kv_len", 1.0)}
    tokens = np.empty((len(op), len(counts)), dtype=np.float32)
    for at, count in enumerate(counts.values()):
        tokens[:, at] = np.log1p(count)
    beside, group = column(terms.beside_cycles, len(op)) * tick, text_column(terms.group, len(op))
    return Features(names, len(terms.times), values, tokens, terms.work_s, tick, group, beside)


def _tick_s(op: Op, gpu: Gpu, group: Text) -> Array:
    """Features.tick_s of families that do not say it."""
    device = (REFERENCE_CLOCK_HZ / gpu.boost_clock_hz) ** op.floor_exponent / REFERENCE_CLOCK_HZ
    name = one_name(group)
    host = name.startswith("host") if name is not None else np.char.startswith(np.asarray(group, str), "host")
    return column(np.where(host, 1.0 / REFERENCE_CLOCK_HZ, device), len(op))


def groups(op: Op, gpu: Gpu, setting: Setting) -> Text:
    """Features.group of each call, without the rest: one name where that is known of all, else (n_calls,)."""
    return GROUPS[op.family](op, gpu, setting)


def names_kernels(family: str) -> bool:
    """Whether the groups of a family tell kernels."""
    return "kernel" in PARTS[family]


def kernels_of(family: str, groups: Text, calls: int) -> NDArray[Any]:
    """The kernel part of each group, (n_calls,) names, of a family that names kernels."""
    at, names = PARTS[family].index("kernel"), text_column(groups, calls).tolist()
    table = {name: name.split("|")[at] for name in set(names)}
    return np.array([table[name] for name in names], dtype=object)


class StandIn(NamedTuple):
    """A measured group of calls that runs the kernels of another one: who ran it, and its formats by op field."""

    setting: Setting
    formats: Mapping[str, str]


def stand_in(family: str, group: str, measured: Iterable[str]) -> StandIn | None:
    """The group of `measured` whose kernels are those of `group`, the nearest one; None where there is none."""
    parts = PARTS[family]
    asked = dict(zip(parts, group.split("|"), strict=True))
    costs = {}
    for name in sorted(measured):
        other = dict(zip(parts, name.split("|"), strict=True))
        if all(_alike(part, asked[part], other[part]) for part in parts):
            costs[name] = sum(DIFFERENCES.get(part, 0) for part in parts if asked[part] != other[part])
    if not costs:
        return None
    best = dict(zip(parts, min(costs, key=lambda name: costs[name]).split("|"), strict=True))
    engine = best.get("engine", "").removesuffix(PACKING)
    formats = {part: best[part] for part in FORMATS if part in best}
    return StandIn(Setting(engine, best.get("kernel", ""), best["timing"]), formats)


def _alike(part: str, one: str, two: str) -> bool:
    return part in ("timing", "engine") or one == two or (part in FORMATS and {one, two} <= ALIKE_DTYPES)


__all__ = [
    "PER_CALL",
    "Features",
    "Setting",
    "StandIn",
    "features",
    "groups",
    "kernels_of",
    "names_kernels",
    "stand_in",
]
