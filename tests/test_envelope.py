"""The rising envelope: whatever the estimate, more tokens are never faster, and knots keep what already rises."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings, strategies as st

from predictor.estimators.envelope import FEW_CELLS, HALVES, Knots, rising
from predictor.estimators.features import Setting
from predictor.ops import Attention, Gemm, Op
from predictor.ops.dtypes import Array

COUNTS = st.lists(st.integers(1, 20_000), min_size=2, max_size=10)


def restless(op: Op, _: Setting) -> Array:
    """An estimate that jumps up and down with every count."""
    counts = np.sum([np.log1p(count) * (7 + i) for i, count in enumerate(op.token_counts().values())], axis=0)
    return np.broadcast_to(np.sin(counts), (len(op),)).astype(np.float64)


def growing(op: Op, _: Setting) -> Array:
    return np.log(np.broadcast_to(op.flops(), (len(op),)))


def prefill(batch: Any, q_len: Any, past: Any) -> Attention:
    kv_len = np.asarray(q_len) + past
    return Attention(phase="prefill", batch=batch, q_len=q_len, kv_len=kv_len, heads=8, kv_heads=8, head_dim=64)


@given(counts=COUNTS)
@settings(max_examples=60, deadline=None)
def test_any_estimate_is_made_to_rise_in_one_count(counts: list[int]) -> None:
    found = rising(Gemm(m=np.sort(counts), n=64, k=64), Setting(), restless)
    assert (np.diff(found) >= -1e-12).all()


@given(counts=COUNTS, moved=st.sampled_from(["batch", "q_len", "past"]), fixed=st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_any_estimate_is_made_to_rise_in_each_of_three_counts(counts: list[int], moved: str, fixed: int) -> None:
    every: dict[str, Any] = dict.fromkeys(("batch", "q_len", "past"), np.full(len(counts), fixed))
    found = rising(prefill(**{**every, moved: np.sort(counts)}), Setting(), restless)
    assert (np.diff(found) >= -1e-12).all()


def test_an_estimate_that_rises_is_kept_at_knots_and_near_between_them() -> None:
    at_knots = Gemm(m=HALVES[:20], n=64, k=64)
    np.testing.assert_allclose(rising(at_knots, Setting(), growing), growing(at_knots, Setting()))
    between = Gemm(m=np.arange(1, 2000), n=64, k=64)
    np.testing.assert_allclose(rising(between, Setting(), growing), growing(between, Setting()), atol=0.1)


def test_calls_of_different_kinds_do_not_raise_each_other() -> None:
    mixed = Gemm(m=np.array([64.0, 64.0, 128.0]), n=np.array([64.0, 4096.0, 64.0]), k=64)
    found = rising(mixed, Setting(engine=np.array(["vllm", "sglang", "vllm"], dtype=object)), growing)
    np.testing.assert_allclose(found, growing(mixed, Setting()))


def test_one_call_of_plain_numbers_works() -> None:
    assert rising(Gemm(m=7, n=64, k=64), Setting(), growing).shape == (1,)


def test_a_call_is_told_the_same_whether_asked_alone_or_with_many_of_other_texts() -> None:
    """Many calls of one engine are asked apart from the few of another, whose texts are columns."""

    def by_engine(op: Op, setting: Setting) -> Array:
        return restless(op, setting) + np.where(np.asarray(setting.engine) == "sglang", 1.0, 0.0) + np.log(op.k)

    few, many = 20, 400
    engines = np.array(["sglang"] * few + ["vllm"] * many, dtype=object)
    widths = np.arange(1.0, few + many + 1)
    together = rising(Gemm(m=5000.0, n=64, k=widths), Setting(engine=engines), by_engine)
    assert many * np.searchsorted(HALVES, 5000) > FEW_CELLS > few * np.searchsorted(HALVES, 5000)
    for at in (0, few - 1, few, few + many - 1):
        alone = rising(Gemm(m=5000.0, n=64, k=widths[at]), Setting(engine=engines[at]), by_engine)
        assert alone[0] == together[at]


def test_only_knots_that_calls_are_read_from_are_asked_and_none_twice() -> None:
    """Of a triangle of sequences and tokens no more than the triangle, and of more calls the knots beyond."""
    asked: list[tuple[float, ...]] = []

    def counted(op: Op, setting: Setting) -> Array:
        asked.extend(
            zip(*(np.broadcast_to(count, len(op)).tolist() for count in op.token_counts().values()), strict=True)
        )
        return restless(op, setting)

    few, many = prefill(np.array([1, 64]), np.array([4096, 64]), 0), prefill(np.array([1, 8]), np.array([8192, 512]), 0)
    knots = Knots()
    for calls in (few, many, few):
        np.testing.assert_array_equal(rising(calls, Setting(), counted, knots), rising(calls, Setting(), restless))
    assert len(asked) == len(set(asked))
    assert all(batch * tokens <= 8192 or tokens <= 64 or (batch <= 8 and tokens <= 512) for batch, tokens, _ in asked)
