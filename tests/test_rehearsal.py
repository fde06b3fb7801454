"""Calls drawn from what a bundle keeps: ops like the measured ones, of which no latency is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from predictor.estimators.samples import TrainingSet, training_sets
from predictor.learning.rehearsal import drawn, part_of
from predictor.measurements.schema import conform


def test_calls_that_are_drawn_are_ops_like_the_measured_ones_without_a_latency(sets: Mapping[str, TrainingSet]) -> None:
    for name, rows in sets.items():
        calls = drawn([part_of(rows)], 3000, seed=1)
        assert calls is not None
        assert calls.estimator == name
        assert np.isnan(calls.latency_s).all()
        assert set(zip(calls.gpus, calls.table.group, strict=True)) == set(
            zip(rows.gpus, rows.table.group, strict=True)
        )
        assert len(calls.who) == pytest.approx(3000, rel=0.02)
        assert calls.who["gpu"].value_counts()["L4"] == pytest.approx(500, rel=0.02)  # one of two of a generation
        measured, like = np.log(rows.bound_s), np.log(calls.bound_s)
        for share in (0.1, 0.5, 0.9):
            assert np.quantile(like, share) == pytest.approx(np.quantile(measured, share), abs=0.5)


def odd_rows(family: str) -> dict[str, Any]:
    draw = np.random.default_rng(3)
    if family == "attention":
        query = draw.integers(1, 4000, 200)
        heads = draw.choice([8, 32, 40], 200)
        shape = {"q_len": query, "kv_len": query + draw.choice([0, 0, 512], 200), "batch": draw.integers(1, 9, 200)}
        layout = {"heads": heads, "kv_heads": heads // 8, "head_dim": 128, "window": draw.choice([0, 4096], 200)}
        return {"phase": "prefill", **shape, **layout}
    if family == "moe":
        experts = draw.choice([8, 128], 200)
        layout = {"experts": experts, "topk": np.where(experts == 8, 2, 8), "hidden": 4096, "inter": 1536}
        return {**layout, "tokens": draw.integers(1, 9000, 200), "ep": draw.choice([1, 8, 64], 200).clip(max=experts)}
    kernel = draw.choice([1, 3, 7], 200)
    shape = {"batch": draw.integers(1, 65, 200), "size": draw.choice([4, 7, 14, 224], 200)}
    layout = {"kernel": kernel, "padding": kernel // 2, "in_channels": 64 * draw.integers(1, 90, 200)}
    return {**shape, **layout, "out_channels": 64, "groups": draw.choice([1, 64], 200)}


@pytest.mark.parametrize("family", ["attention", "moe", "conv"])
def test_fields_that_go_together_are_drawn_together(family: str) -> None:
    cells = {"family": family, "gpu": "H100-SXM-80GB", "dtype": "bf16", "latency_s": 1.0, **odd_rows(family)}
    (rows,) = training_sets(conform(pd.DataFrame(cells))).values()
    calls = drawn([part_of(rows)], 1000, seed=0)  # an op that is none raises
    assert calls is not None
    assert len(calls.who) > 900
    who = calls.who
    if family == "attention":
        assert (who["heads"] == 8 * who["kv_heads"]).all()
        assert 0.5 < (who["q_len"] == who["kv_len"]).mean() < 0.8
        assert set((who["kv_len"] - who["q_len"]).unique()) == {0, 512}
    if family == "moe":
        assert set(zip(who["experts"], who["topk"], strict=True)) == {(8, 2), (128, 8)}
        assert (who["ep"] <= who["experts"]).all()
    if family == "conv":
        assert (who["in_channels"] % 64 == 0).all()
        assert (who["padding"] == who["kernel"] // 2).all()


def test_sizes_that_rank_together_are_drawn_so() -> None:
    sizes = np.round(np.exp(np.random.default_rng(0).uniform(0, 9, 400)))
    cells = {"family": "gemm", "gpu": "L4", "dtype": "bf16", "latency_s": 1.0, "m": sizes, "n": 64 * sizes, "k": 512}
    (rows,) = training_sets(conform(pd.DataFrame(cells))).values()
    calls = drawn([part_of(rows)], 1000, seed=0)
    assert calls is not None
    assert calls.who[["m", "n"]].corr("spearman").iloc[0, 1] > 0.98
    assert (calls.who["n"] % 64 == 0).all()


def test_the_same_seed_draws_the_same_calls(sets: Mapping[str, TrainingSet]) -> None:
    part = part_of(sets["gemm"])
    one, two, other = (drawn([part], 300, seed) for seed in (4, 4, 5))
    assert one is not None and two is not None and other is not None
    pd.testing.assert_frame_equal(one.who, two.who)
    assert not one.who.equals(other.who)


def test_nothing_is_drawn_where_nothing_was_kept(sets: Mapping[str, TrainingSet]) -> None:
    assert drawn([], 100, seed=0) is None
    assert drawn([part_of(sets["gemm"].take(np.arange(5)))], 100, seed=0) is None  # too few rows for a cell
