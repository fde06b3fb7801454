"""What held-out GPUs teach: no fit sees them, and intervals cover those that had no say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from toy import GENERATIONS, GPUS, RECIPE, SIBLINGS, toy_table

from predictor.estimators.intervals import sum_of
from predictor.estimators.linear import fit_line, fit_share, line_s
from predictor.estimators.mixture import EQUAL, SIZES, Views
from predictor.estimators.samples import TrainingSet, training_sets
from predictor.learning import holdout
from predictor.learning.conformal import UNKNOWN, calibrate, calibrate_far, correlation
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
    assert far == EQUAL
    assert (scored["share_s"] >= scored["bound_s"]).all()


def of_class(name: str, rows: int = 60, **views: float) -> pd.DataFrame:
    """Rows of a class of cards whose calls take 1 ms; views: log of what each says of them over that."""
    said = {view: np.log(1e-3) + views.get(view, 0.0) for view in Views._fields}
    who = {"generation": name, "gpu": name, "engine": "vllm", "dtype": "bf16", "memory": "stacked"}
    return pd.DataFrame([who | said | {"latency_s": 1e-3, "bound_s": 2e-4}] * rows)


def test_two_classes_of_cards_are_too_few_for_weights_of_far_ones() -> None:
    shown = [of_class("a", transfer=0.5), of_class("b", transfer=0.4)]
    assert holdout.far_weights(shown) == holdout.far_weights([*shown, of_class("c", rows=20)]) == EQUAL
    assert holdout.far_weights([*shown, of_class("c")]) != EQUAL


def test_far_cards_of_a_kind_of_memory_have_weights_where_three_classes_have_it() -> None:
    slow = [of_class(name, core=0.5).assign(memory="discrete") for name in "ab"]
    shown = [of_class(name, transfer=0.5) for name in "cde"]
    few, more = holdout.far_weights([*shown, *slow]), holdout.far_weights([*shown, *slow, slow[0]])
    assert set(few) == {"", "stacked|"} and set(more) == {"", "stacked|", "discrete|"}
    assert more["discrete|"][0].core < more["stacked|"][0].core


def test_far_cards_are_served_by_what_served_other_classes_and_the_worst_of_them() -> None:
    alike = {"transfer": 0.5, "reference": 0.5, "line": -0.5}
    chosen = holdout.far_weights([of_class(name, **alike) for name in "abc"])[""][0]
    assert sum(chosen) == pytest.approx(1, abs=1e-3)
    assert 0.5 * (chosen.transfer + chosen.reference - chosen.line) + np.log(0.2) * chosen.bound == pytest.approx(
        0, abs=0.05
    )
    slow = of_class("d", **dict.fromkeys(Views._fields, 0.6))  # every view is too slow there, only the bound is not
    assert holdout.far_weights([*(of_class(name, **alike) for name in "abc"), slow])[""][0].bound > chosen.bound


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
    assert error["predicted_s"] < error["bound_s"] / 2.5


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


def test_the_share_of_the_bound_is_the_one_it_was_made_of(sets: Any) -> None:
    rows = sets["gemm"]
    dtypes = rows.who["dtype"].to_numpy()
    share = fit_share(dtypes, rows.bound_s, rows.bound_s / 0.4)
    np.testing.assert_allclose(line_s(share, dtypes, rows.bound_s), rows.bound_s / 0.4, rtol=1e-9)


# Intervals


def of_classes(**factors: float) -> pd.DataFrame:
    """Rows of classes of cards, each slower than predicted by its factor, give or take."""
    draw = np.random.default_rng(0)
    parts = []
    for name, factor in factors.items():
        who = {"card_class": name, "generation": name, "gpu": name, "engine": "vllm", "dtype": "bf16"}
        rows = pd.DataFrame([who] * 300).assign(predicted_s=1e-3, bound_s=1e-4)
        parts.append(rows.assign(latency_s=1e-3 * factor * np.exp(draw.normal(0, 0.2, 300))))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    "factors", [{"a": 1.0, "b": 1.5}, {"a": 1.0, "b": 2.0, "c": 0.6, "d": 1.2}, {"a": 30.0, "b": 1.0}]
)
def test_far_intervals_hold_their_prediction_and_do_not_explode(factors: dict[str, float]) -> None:
    offsets, rows = calibrate_far(of_classes(**factors), 0.8)
    assert offsets[""][0] == offsets[""][1] == offsets[""][2]
    assert (rows["bound_s"] <= rows["low_s"]).all()
    assert (rows["low_s"] < rows["predicted_s"]).all() and (rows["predicted_s"] < rows["high_s"]).all()
    most = max(np.e, *factors.values()) * np.exp(0.8)
    assert (rows["high_s"] < most * rows["predicted_s"]).all()


def test_a_class_of_cards_has_no_say_in_its_own_interval() -> None:
    ends = {
        slow: calibrate_far(of_classes(a=slow, b=1.0, c=1.2), 0.8)[1].query("card_class == 'a'")["high_s"].iloc[0]
        for slow in (1.5, 8.0)
    }
    assert ends[8.0] / ends[1.5] < 2  # the one stretch of all classes, and not eight over one and a half


def test_what_was_held_out_nowhere_has_an_interval_of_a_factor_either_way() -> None:
    offsets, rows = calibrate_far(pd.DataFrame(), 0.8)
    assert offsets == UNKNOWN and rows.empty


def test_each_group_is_covered_as_nearly_as_can_be() -> None:
    rows = of_classes(a=1.0, b=1.0, c=1.0, d=3.0)
    covered = {}
    for each in ("", "gpu"):
        found = calibrate(rows, 0.8, each=each)[1]
        inside = (found["low_s"] <= found["latency_s"]) & (found["latency_s"] <= found["high_s"])
        covered[each] = float((inside.groupby(found["gpu"]).mean() - 0.8).abs().mean())
    assert covered["gpu"] <= covered[""]


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
