"""Weights of views: between those of the sizes around a call, of its format and of the memory of the card."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from predictor.estimators.features import Setting, stand_in
from predictor.estimators.mixture import (
    EQUAL,
    LEAST_S,
    SIZES,
    Mixture,
    Views,
    Weights,
    call_size,
    lists_of,
    mix,
    mixture_of,
    weights_of,
)
from predictor.ops import Gemm

TREES, PHYSICS = Weights(1.0, 0.0, 0.0, 0.0), Weights(0.0, 0.0, 1.0, 0.0)
MIXTURE: Mixture = {
    "": (PHYSICS,) * len(SIZES),
    "stacked|": (TREES,) * len(SIZES),
    "discrete|16-bit": (TREES, TREES, PHYSICS),
}


def of(kind: str, dtype: str, size: float) -> Weights:
    return weights_of(MIXTURE, kind, np.array([dtype], dtype=object), np.array([size]))


@pytest.mark.parametrize(
    ("kind", "dtype", "size", "transfer"),
    [
        ("discrete", "bf16", SIZES[0] / 100, 1.0),
        ("discrete", "tf32", SIZES[-1] * 100, 0.0),
        ("discrete", "fp16", float(np.sqrt(SIZES[1] * SIZES[2])), 0.5),
        ("discrete", "fp32", SIZES[0], 0.0),  # no weights of its own, nor of its memory
        ("stacked", "fp8", SIZES[2], 1.0),
    ],
)
def test_weights_by_memory_format_and_size(kind: str, dtype: str, size: float, transfer: float) -> None:
    assert of(kind, dtype, size).transfer == pytest.approx(transfer)


@given(st.floats(1.0, 1e18), st.sampled_from(["bf16", "fp32", "int8"]), st.sampled_from(["stacked", "discrete"]))
def test_weights_add_up_to_one(size: float, dtype: str, kind: str) -> None:
    assert sum(float(np.ravel(weight)[0]) for weight in of(kind, dtype, size)) == pytest.approx(1.0)


def test_a_mixture_travels_as_lists() -> None:
    assert mixture_of(lists_of(MIXTURE)) == MIXTURE


def test_where_no_reference_knows_the_transfer_speaks() -> None:
    views = Views(np.array([1.0]), np.array([np.nan]), np.array([3.0]), np.array([4.0]))
    assert mix(views, EQUAL[""][0]).tolist() == [(1.0 + 1.0 + 3.0 + 4.0) / 4]


@given(st.floats(0.0, 1.0), st.floats(1e-9, 1e-3), st.floats(1.0, 3.0))
def test_the_bound_has_its_share_and_a_worse_one_is_no_faster(share: float, bound_s: float, worse: float) -> None:
    views = Views(*(np.array([np.log(1e-3)]),) * 4)
    weights = Weights(1 - share, 0.0, 0.0, 0.0, share)
    near, far = mix(views, weights, np.array([bound_s])), mix(views, weights, np.array([bound_s * worse]))
    assert np.log(max(bound_s, LEAST_S)) - 1e-9 <= near[0] <= np.log(1e-3) + 1e-9
    assert far[0] >= near[0] - 1e-12


def test_weights_of_bundles_that_knew_no_bound_have_none() -> None:
    assert mixture_of({"": [[0.25] * 4] * len(SIZES)}) == EQUAL


def test_a_call_is_as_large_as_what_it_computes_or_moves() -> None:
    assert call_size(Gemm(m=4096, n=4096, k=4096)).tolist() == [2 * 4096**3]
    assert call_size(Gemm(m=1, n=4096, k=4096))[0] == pytest.approx(100 * 2 * 4096**2, rel=1e-3)


def test_other_engines_and_16_bit_formats_stand_in() -> None:
    measured = ["device|bf16|vllm", "host|fp32|torch"]
    assert stand_in("gemm", "device|fp16|torch", measured) == (Setting("vllm", "", "device"), {"dtype": "bf16"})
    assert stand_in("gemm", "device|fp8|torch", measured) is None
    assert stand_in("gemm", "warm|fp32|aiter", measured) == (Setting("torch", "", "host"), {"dtype": "fp32"})


def test_kernels_and_kinds_have_no_stand_in() -> None:
    assert stand_in("pointwise", "device|vllm|softmax", ["device|torch|gelu"]) is None
    assert stand_in("attention", "device|fa2|vllm|bf16", ["device|triton|vllm|bf16"]) is None
    assert stand_in("collective", "device|nccl|graph|all_reduce|gpu", ["device|vllm|graph|all_reduce|gpu"]) is None
