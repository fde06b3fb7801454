"""(op, GPU, setting) → feature table. The only definition of a feature; training and prediction both call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.estimators.features.attention import attention_terms
from predictor.estimators.features.collective import collective_terms
from predictor.estimators.features.conv import conv_terms
from predictor.estimators.features.gemm import gemm_terms
from predictor.estimators.features.mla import mla_terms
from predictor.estimators.features.moe import moe_terms
from predictor.estimators.features.pointwise import pointwise_terms
from predictor.estimators.features.terms import Setting, Terms
from predictor.hardware.gpu import Gpu
from predictor.ops import Op
from predictor.ops.base import column
from predictor.ops.dtypes import Array

TERMS: Mapping[str, Callable[[Any, Gpu, Setting], Terms]] = {
    "gemm": gemm_terms,
    "attention": attention_terms,
    "moe": moe_terms,
    "mla": mla_terms,
    "pointwise": pointwise_terms,
    "conv": conv_terms,
    "collective": collective_terms,
}


REFERENCE_CLOCK_HZ = 1.9e9
PER_CALL = ("values", "tokens", "work_s", "tick_s", "group")


class Features(NamedTuple):
    """What the estimator of an op sees of a column of calls.

    names: columns, the first `times` of them seconds that never fall with more tokens or a worse GPU.
    values: (n_calls, n_features) float32, times as logarithms. tokens: (n_calls, n_tokens) log(1 + token count).
    work_s: (n_calls,) nominal seconds.
    tick_s: (n_calls,) seconds of one cycle as launch floors count them. group: (n_calls,) names.
    """

    names: tuple[str, ...]
    times: int
    values: NDArray[np.float32]
    tokens: NDArray[np.float32]
    work_s: Array
    tick_s: Array
    group: NDArray[Any]

    def take(self, rows: Any) -> Features:
        """The calls at `rows`."""
        return self._replace(**{name: getattr(self, name)[rows] for name in PER_CALL})


def features(op: Op, gpu: Gpu, setting: Setting) -> Features:
    """What the estimator of `op` sees of each call on `gpu`."""
    terms = TERMS[op.family](op, gpu, setting)
    logs = [np.log(np.maximum(seconds, 1e-12)) for seconds in terms.times.values()]
    names = (*terms.times, *terms.fixed)
    values = np.stack([*logs, *terms.fixed.values()], axis=1).astype(np.float32)
    device = (REFERENCE_CLOCK_HZ / gpu.boost_clock_hz) ** op.floor_exponent / REFERENCE_CLOCK_HZ
    host = np.char.startswith(terms.group.astype(str), "host")
    tick = np.where(host, 1.0 / REFERENCE_CLOCK_HZ, device)
    counts = {**op.token_counts(), "kv_len": getattr(op, "kv_len", 1.0)}
    tokens = np.stack([np.log1p(column(count, len(op))) for count in counts.values()], axis=1).astype(np.float32)
    return Features(names, len(terms.times), values, tokens, terms.work_s, tick, terms.group)


__all__ = ["PER_CALL", "Features", "Setting", "features"]
