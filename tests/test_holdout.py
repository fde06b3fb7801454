"""What held-out GPUs teach: no fit sees them, and intervals cover those that had no say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toy import GENERATIONS, GPUS, RECIPE, SIBLINGS, toy_table

from predictor.estimators.intervals import sum_of
from predictor.estimators.linear import fit_line, line_s
from predictor.estimators.mixture import SIZES
from predictor.estimators.samples import TrainingSet, training_sets
from predictor.learning import holdout
from predictor.learning.conformal import calibrate, correlation
from predictor.learning.fit import fit
from predictor.learning.recipe import Recipe
from predictor.measurements.schema import conform

pytestmark = pytest.mark.usefixtures("in_threads")


# Held-out groups


def test_no_fit_sees_the_group_it_is_asked_for(sets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[str], set[str]]] = []

    def spy(rows: TrainingSet, recipe: Recipe) -> Any:
        seen.append((set(rows.who["generation"]), set(rows.who["gpu"])))
        return fit(rows, recipe)

    monkeypatch.setattr(holdout, "fit", spy)
    quick = replace(RECIPE, transfer_rounds=1, reference_rounds=1)
    unseen, weights = holdout.generations_out(holdout.generation_folds(sets["pointwise"], quick))
    assert {frozenset(GENERATIONS - generations) for generations, _ in seen} == {frozenset({g}) for g in GENERATIONS}
    seen.clear()
    by_gpu = holdout.gpus_out(sets["pointwise"], quick, weights, unseen)
    assert {frozenset(set(GPUS) - gpus) for _, gpus in seen} == {frozenset({gpu}) for gpu in SIBLINGS}
    assert set(by_gpu.loc[by_gpu["sibling"], "gpu"]) == SIBLINGS
    assert set(by_gpu["gpu"]) == set(GPUS)


def test_no_fit_sees_the_class_of_cards_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = training_sets(conform(toy_table(("A100-SXM-80GB", "H100-SXM-80GB", "RTX-3090", "RTX-4090"))))["pointwise"]
    seen: list[set[str]] = []

    def spy(known: TrainingSet, recipe: Recipe) -> Any:
        seen.append(set(known.gpus.tolist()))
        return fit(known, recipe)

    monkeypatch.setattr(holdout, "fit", spy)
    scored, far = holdout.classes_out(rows, replace(RECIPE, transfer_rounds=1, reference_rounds=1))
    assert {frozenset(gpus) for gpus in seen} == {
        frozenset({"A100-SXM-80GB", "H100-SXM-80GB"}),
        frozenset({"RTX-3090", "RTX-4090"}),
    }
    assert set(scored["card_class"]) == {"NVIDIA data-centre", "NVIDIA consumer and workstation"}
    assert set(scored["generation"]) == {"Ampere", "Hopper", "Ada"}
    assert len(far[""]) == len(SIZES)


def test_a_generation_ten_times_slower_is_predicted_by_the_law_of_the_others(sets: Any) -> None:
    rows = sets["gemm"]
    slow = (rows.who["generation"] == "Hopper").to_numpy()
    changed = replace(rows, latency_s=np.where(slow, 10 * rows.latency_s, rows.latency_s))
    scored, weights = holdout.generations_out(holdout.generation_folds(changed, RECIPE))
    assert [sum(of_size) for of_size in weights[""]] == pytest.approx([1] * len(SIZES), abs=1e-3)
    assert len(scored) == len(rows.who)
    asked = scored[scored["generation"] == "Hopper"]
    ratio = asked["predicted_s"] / (asked["latency_s"] / 10)
    assert 0.5 < ratio.median() < 2
    assert (scored["predicted_s"] >= scored["bound_s"]).all()


@pytest.mark.parametrize("name", ["attention_decode", "pointwise"])
def test_held_out_error_of_a_physical_law_is_far_below_that_of_the_bare_bound(sets: Any, name: str) -> None:
    scored, _ = holdout.generations_out(holdout.generation_folds(sets[name], RECIPE))
    error = {column: (scored[column] / scored["latency_s"] - 1).abs().mean() for column in ("predicted_s", "bound_s")}
    assert error["predicted_s"] < error["bound_s"] / 3


def test_a_sibling_is_predicted_from_its_measured_sibling(sets: Any) -> None:
    unseen, weights = holdout.generations_out(holdout.generation_folds(sets["gemm"], RECIPE))
    kin = holdout.gpus_out(sets["gemm"], RECIPE, weights, unseen).query("sibling")
    assert (kin["predicted_s"] / kin["latency_s"] - 1).abs().mean() < 0.15


def test_the_two_parameter_roofline_finds_the_line_it_was_made_of(sets: Any) -> None:
    rows = sets["gemm"]
    dtypes, latency_s = rows.who["dtype"].to_numpy(), 5e-6 + 1.4 * rows.bound_s
    line = fit_line(dtypes, rows.bound_s, latency_s)
    assert line[""] == line["bf16"] == pytest.approx((5e-6, 1.4), rel=1e-4)
    np.testing.assert_allclose(line_s(line, dtypes, rows.bound_s), latency_s, rtol=1e-4)


# Intervals


def test_calibrated_intervals_cover_generations_that_had_no_say(sets: Any) -> None:
    scored, _ = holdout.generations_out(holdout.generation_folds(sets["gemm"], RECIPE))
    offsets, rows = calibrate(scored, 0.8)
    covered = (rows["low_s"] <= rows["latency_s"]) & (rows["latency_s"] <= rows["high_s"])
    assert 0.7 < covered.mean() < 0.95
    assert (rows["low_s"] >= rows["bound_s"]).all()
    assert all(low < 0 < high for low, high in offsets[""])


def test_errors_that_a_gpu_has_in_common_are_told_from_scatter() -> None:
    draw = np.random.default_rng(0)
    who = pd.DataFrame({"gpu": np.repeat(["a", "b", "c", "d"], 500), "engine": "vllm", "latency_s": 1.0})
    scatter = np.exp(draw.normal(0, 0.1, len(who)))
    assert correlation(who.assign(predicted_s=scatter)) < 0.1
    assert correlation(who.assign(predicted_s=scatter * np.repeat([2, 0.5, 2, 0.5], 500))) > 0.9


def test_ends_of_a_sum_lie_between_those_of_independent_and_of_equal_errors() -> None:
    ends = [sum_of([0.3, 0.4], ["gemm", "gemm"], {"gemm": share}, 0.0) for share in (0.0, 0.5, 1.0)]
    assert sum_of([0.3, 0.4], ["gemm", "moe"], {"gemm": 1.0, "moe": 1.0}, 0.5) == pytest.approx(ends[1])
    assert ends == pytest.approx([0.5, np.sqrt(0.25 + 0.12), 0.7])
