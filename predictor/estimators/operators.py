"""Where a bound meets an estimator: the latency of operators on a GPU, with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.estimators.bundle import Bundle, load_bundle
from predictor.estimators.extrapolation import (
    SHOWN,
    drawn,
    dtype_outside,
    gpu_outside,
    kernel_outside,
    of_known_vendor,
    outside,
    widened,
)
from predictor.estimators.features import Setting, groups, stand_in
from predictor.estimators.intervals import KINSHIPS, ends
from predictor.hardware.gpu import Gpu
from predictor.hardware.interconnect import is_open
from predictor.hardware.power import limiter
from predictor.hardware.roofline import is_unstated, roofline
from predictor.ops import Collective, Op
from predictor.ops.base import column, text_column
from predictor.ops.dtypes import Array

SEEN, CALIBRATED, UNSEEN, BOUND_ONLY = "seen-gpu", "calibrated-gpu", "unseen-gpu", "bound-only"
ALONE = Setting(engine="torch", timing="host")
UNSTATED = np.log(1.5)  # nats that a rate which nobody states counts as outside what was measured; judged
# Share of the bandwidth at which weights of more than half of the last-level cache come at most: of calls timed on the
# device 0 to 0.7 % on A100 to B200, H20, A40 and RTX PRO 6000 are faster, 2 % on L40S, 8 % on RTX 4090 (0.95 at most).
STREAMED, HELD_OF_CACHE = 0.9, 0.5
# Upper end of "bound-only", of bound and launch floor: no family's median call is further from its bound. What an
# estimator knows of is not slower, however far outside, but on GPUs of a vendor that it knows nothing of.
SLOWEST_OF_BOUND = 20.0


class OpPrediction(NamedTuple):
    """A column of calls. latency_s, low_s, high_s, bound_s: (n_calls,) seconds; limiter: (n_calls,) names.

    low_s never beats the bound. basis: "seen-gpu", "calibrated-gpu" (a user measured such ops there, see
    predictor.learning.calibrate), "unseen-gpu" or "bound-only" (no estimator for this op).
    beyond: op field → (n_calls,) nats by which it lies outside what was measured; the interval of such a call is wider.
    """

    latency_s: Array
    low_s: Array
    high_s: Array
    bound_s: Array
    limiter: np.ndarray[Any, Any]
    basis: str
    beyond: Mapping[str, Array] = MappingProxyType({})

    @property
    def outside(self) -> tuple[str, ...]:
        """Op fields of some call beyond what was measured."""
        return tuple(self.beyond)


def predict_op(op: Op, gpu: Gpu, setting: Setting | None = None, bundle: Bundle | None = None) -> OpPrediction:
    """Latency of every call of `op` on `gpu`; the only place where a bound meets an estimator.

    setting: engine, kernel and timing, by default vLLM's choice timed on the device. bundle: the default one.
    A message of GPUs that no link of their own joins lies between one from GPU to GPU over PCIe and one through the
    host, with an interval over both.
    """
    bundle = bundle or load_bundle()
    if isinstance(op, Collective) and (either := is_open(op, gpu)).any():
        return _over_either(op, gpu, setting, bundle, either)
    bound = roofline(op, gpu)
    least = bound.latency_s
    if not bundle.has(op.estimator):
        known = least + bound.floor_s
        return OpPrediction(known, least, known * SLOWEST_OF_BOUND, least, limiter(op, gpu, bound), BOUND_ONLY)
    entry, kinship = bundle.entry(op.estimator), bundle.kinship(op.estimator, gpu)
    estimator = bundle.estimator(op.estimator)
    setting = setting or Setting()
    latency = np.maximum(estimator.latency_s(op, gpu, setting), least)
    strange, alike = gpu_outside(gpu, entry["references"]), of_known_vendor(gpu, entry["references"])
    if correction := estimator.corrections.get(gpu.name):  # what a user measured there knows how weights stream
        low, high = np.exp(np.outer(correction.ends, estimator.spread(op, gpu, setting))) * latency
    else:
        latency = np.maximum(latency, _streamed_s(op, gpu, setting))
        kinships = _kinships(op, gpu, setting, entry["references"].get(gpu.name, ()), kinship)
        dtypes = text_column(getattr(op, "dtype", ""), len(op))
        low, high = latency.copy(), latency.copy()
        for name in sorted(set(kinships.tolist())):
            own = kinships == name
            low[own], high[own] = ends(latency[own], least[own], dtypes[own], entry["log_offsets"][name])
        low, high = drawn(low, high, *ends(latency, least, dtypes, entry["log_offsets"]["far"]), strange)
    beyond = _beyond(op, entry, least)
    far = np.sum([*beyond.values(), np.where(is_unstated(op, gpu), UNSTATED, 0.0)], axis=0)
    if not correction:
        far = (
            far + kernel_outside(op, gpu, setting, entry["references"]) + max(strange - (SHOWN if alike else 0.0), 0.0)
        )
    slowest = least / entry["worst_share"]
    if alike:
        slowest = np.minimum(slowest, SLOWEST_OF_BOUND * (least + bound.floor_s))
    low, high = widened(low, high, least, slowest, far)
    basis = CALIBRATED if correction else SEEN if kinship == "seen" else UNSEEN
    return OpPrediction(latency, np.maximum(low, least), high, least, limiter(op, gpu, bound), basis, beyond)


def _streamed_s(op: Op, gpu: Gpu, setting: Setting) -> Array:
    """Seconds in which memory delivers the weights of products and experts that are timed on the device, (n_calls,).

    Kernels that were timed on operands in the cache ("warm") stand in for others, and the largest caches hold a layer;
    in a model the weights of the whole step have passed in between.
    """
    if op.family not in ("gemm", "moe"):
        return np.zeros(len(op))
    stored = column(op.stored_bytes(), len(op))
    streams = (stored > HELD_OF_CACHE * gpu.llc_bytes) & (text_column(setting.timing, len(op)) == "device")
    return np.where(streams, stored / (STREAMED * gpu.mem_bytes_per_s), 0.0)


def _kinships(op: Op, gpu: Gpu, setting: Setting, measured: Iterable[str], kinship: str) -> NDArray[Any]:
    """How well each call is known, (n_calls,) of KINSHIPS: a GPU that was seen may not have run it.

    measured: groups of calls that it ran. One that another engine ran there with the same kernels is as good as a
    sibling's.
    """
    if kinship != "seen":
        return np.full(len(op), kinship, dtype=object)
    ran = frozenset(measured)
    named = not isinstance(setting.kernel, str) or setting.kernel
    own = text_column(groups(op, gpu, setting), len(op)).astype(object)
    picked = text_column(groups(op, gpu, setting._replace(kernel="")), len(op)).astype(object) if named else own
    known = {
        name: "seen" if name in ran else "sibling" if stand_in(op.family, name, ran) else "unseen"
        for name in {*own.tolist(), *picked.tolist()}
    }
    best = [min(known[one], known[two], key=KINSHIPS.index) for one, two in zip(own, picked, strict=True)]
    return np.array(best, dtype=object)


def _over_either(
    op: Collective, gpu: Gpu, setting: Setting | None, bundle: Bundle, either: NDArray[np.bool_]
) -> OpPrediction:
    """Of calls that may go either way, (n_calls,), what lies between both ways."""
    links = text_column(op.link, len(op))
    ways = [replace(op, link=np.where(either, way, links).astype(object)) for way in ("pcie", "host")]
    one, two = (predict_op(way, gpu, setting, bundle) for way in ways)
    slower = np.maximum(one.latency_s, two.latency_s)
    return one._replace(
        latency_s=np.where(either, np.sqrt(one.latency_s * slower), one.latency_s),
        low_s=np.minimum(one.low_s, two.low_s),
        high_s=np.maximum(one.high_s, two.high_s),
    )


def bounds(op: Op, gpu: Gpu, bundle: Bundle) -> OpPrediction:
    """What predict_op says of a column of calls but their latency, for which their bound stands; loads no estimator."""
    bound = roofline(op, gpu)
    least = bound.latency_s
    if not bundle.has(op.estimator):
        return OpPrediction(least, least, least, least, limiter(op, gpu, bound), BOUND_ONLY)
    seen = SEEN if bundle.kinship(op.estimator, gpu) == "seen" else UNSEEN
    basis = CALIBRATED if bundle.corrects(op.estimator, gpu.name) else seen
    beyond = _beyond(op, bundle.entry(op.estimator), least)
    return OpPrediction(least, least, least, least, limiter(op, gpu, bound), basis, beyond)


def _beyond(op: Op, entry: Mapping[str, Any], least: Array) -> dict[str, Array]:
    """Op field → nats by which each call lies outside what was measured, for fields where some call does."""
    beyond = outside(op, entry["ranges"], least)
    if (strange := dtype_outside(op, entry["references"])).any():
        beyond["dtype"] = strange
    return beyond


def predict_streamed(op: Op, gpu: Gpu, bundle: Bundle, alone: Setting = ALONE) -> OpPrediction:
    """Latency of calls within a stream, from that of calls timed alone, less an empty call, in which the host launches.

    No less than the bound.
    """
    timed_alone = predict_op(op, gpu, alone, bundle)
    empty = float(np.ravel(predict_op(op.smallest(), gpu, alone, bundle).latency_s)[0])
    value = np.maximum(timed_alone.latency_s - empty, timed_alone.bound_s)
    low, high = (
        np.maximum(value * end / timed_alone.latency_s, timed_alone.bound_s)
        for end in (timed_alone.low_s, timed_alone.high_s)
    )
    return timed_alone._replace(latency_s=value, low_s=low, high_s=high)
