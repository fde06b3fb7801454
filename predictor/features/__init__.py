"""(op, GPU, setting) → feature table. The only definition of a feature; training and prediction both call it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.features.attention import attention_terms
from predictor.features.collective import collective_terms
from predictor.features.conv import conv_terms
from predictor.features.gemm import gemm_terms
from predictor.features.mla import mla_terms
from predictor.features.moe import moe_terms
from predictor.features.pointwise import pointwise_terms
from predictor.features.terms import Setting, Terms
from predictor.gpu import Gpu
from predictor.ops import Op
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


class Features(NamedTuple):
    """names: column names; rising: the count of leading columns that never fall with work or a worse GPU.
    values: (n_calls, n_features) float32, logarithms of the rising terms, then the fixed ones.
    base_s: (n_calls,) seconds that the estimator's output multiplies."""

    names: tuple[str, ...]
    rising: int
    values: NDArray[np.float32]
    base_s: Array


def features(op: Op, gpu: Gpu, setting: Setting) -> Features:
    """What the estimator of `op` sees of each call on `gpu`."""
    terms = TERMS[op.family](op, gpu, setting)
    columns = [np.log(np.maximum(value, 1e-12)) for value in terms.rising.values()] + list(terms.fixed.values())
    values = np.stack(columns, axis=1).astype(np.float32)
    return Features((*terms.rising, *terms.fixed), len(terms.rising), values, terms.base_s)


__all__ = ["Features", "Setting", "features"]
