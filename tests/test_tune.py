"""The search for a recipe: the given one is its first trial, and stays unless another is surely better."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from toy import quick_recipe, quick_table

from predictor.cli import main
from predictor.errors import InvalidRequest, InvalidTable
from predictor.estimators.samples import TrainingSet, training_sets
from predictor.learning import tune as module
from predictor.learning.recipe import Recipe, read_recipe, recipe_text
from predictor.learning.train import train_run
from predictor.learning.tune import DISCLOSURE, RECIPE, SPACE, TRIALS, Comparison, tune
from predictor.measurements.schema import write_table

pytest.importorskip("optuna", reason="pip install 'gpu-predictor[train]'")
pytestmark = pytest.mark.usefixtures("in_threads")


@pytest.fixture(scope="module")
def quick_sets() -> Any:
    return training_sets(quick_table())


Error = Callable[[TrainingSet, Recipe], "pd.Series[float]"]


def errors(of: Callable[[Recipe], float]) -> Error:
    """Errors of held-out GPUs that depend on the recipe alone."""
    index = pd.MultiIndex.from_tuples([("Ada", "L4"), ("Hopper", "H100")], names=["generation", "gpu"])
    return lambda rows, recipe: pd.Series([of(recipe), of(recipe) * 1.1], index=index)


def test_trials_hold_generations_out_and_begin_with_the_given_recipe(quick_sets: Any) -> None:
    said: list[str] = []
    tuned = tune(quick_sets, quick_recipe(), 2, said.append)
    assert tuned.trials["error"].between(0, 1).all()
    first = tuned.trials.iloc[0]
    assert all(first[name] == getattr(quick_recipe(), name) for name in SPACE)
    assert any("(the given recipe)" in line for line in said)
    assert tuned.found["trials"] == 2


def test_the_same_seed_tries_the_same_recipes(quick_sets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_errors", errors(lambda recipe: recipe.transfer_rate))
    first, second = (tune(quick_sets, quick_recipe(), 8, lambda text: None).trials for _ in range(2))
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))


def test_a_recipe_that_is_surely_better_is_kept_and_its_flattery_told(
    quick_sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_errors", errors(lambda recipe: recipe.transfer_rate))
    given, said = quick_recipe(transfer_rate=0.3), []
    tuned = tune(quick_sets, given, 8, said.append)
    assert tuned.recipe.transfer_rate == tuned.trials["transfer_rate"].min() < given.transfer_rate
    assert tuned.found["kept"] == "best" and tuned.found["note"] == DISCLOSURE
    assert said[-1] == f"tune: {DISCLOSURE}"
    # What makes trials quick is not part of the recipe.
    assert tuned.recipe.rows_per_estimator == given.rows_per_estimator


def test_what_is_no_better_than_chance_is_not_kept(quick_sets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_errors", errors(lambda recipe: recipe.transfer_rate))
    monkeypatch.setattr(module, "_compare", lambda *given: Comparison(0.20, 0.19, chance=0.02))
    said: list[str] = []
    tuned = tune(quick_sets, quick_recipe(), 8, said.append)
    assert tuned.recipe == quick_recipe() and tuned.found["kept"] == "given" and "note" not in tuned.found
    assert said[-1] == (
        "tune: 20.00 % as given, 19.00 % at best; chance makes 2.00 points, so this is no more than chance: "
        "the given is kept"
    )


def test_ctrl_c_keeps_the_best_so_far(quick_sets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def interrupted(recipe: Recipe) -> float:
        asked.append(recipe.transfer_rate)
        if len(asked) == 9:  # each trial asks twice
            raise KeyboardInterrupt
        return recipe.transfer_rate

    monkeypatch.setattr(module, "_errors", errors(interrupted))
    monkeypatch.setattr(module, "_compare", lambda sets, given, best: Comparison(0.3, 0.1, 0.01))
    tuned = tune(quick_sets, quick_recipe(transfer_rate=0.3), 50, lambda text: None)
    assert len(tuned.trials) == 5 and tuned.trials["error"].notna().sum() == 4
    assert tuned.recipe.transfer_rate == min(asked[:8])


def test_a_tuned_bundle_holds_trials_and_a_recipe_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_errors", errors(lambda recipe: float(recipe.transfer_rounds)))
    write_table(quick_table(), tmp_path / "t.parquet")
    given = quick_recipe(transfer_rounds=60)
    bundle = train_run([tmp_path / "t.parquet"], given, tmp_path / "b", lambda text: None, trials=3).bundle
    assert read_recipe(bundle.path / RECIPE) == Recipe(**bundle.manifest["recipe"])
    assert bundle.manifest["recipe"]["transfer_rounds"] <= 60
    assert len(pd.read_csv(bundle.path / TRIALS)) == 3 == bundle.manifest["tuning"]["trials"]


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(recipe_text(Recipe(id='a "b"')), encoding="utf-8")
    assert read_recipe(tmp_path / "r.toml") == Recipe(id='a "b"')


def test_what_cannot_be_tuned_is_said(quick_sets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match=r"^tune is 1; it must be at least 2: the given recipe is the first trial"):
        tune(quick_sets, quick_recipe(), 1, print)
    one = {name: rows.take(rows.gpus == "L4") for name, rows in quick_sets.items()}
    with pytest.raises(InvalidTable, match=r"^every operator was measured on one generation of GPUs; tune needs two"):
        tune(one, quick_recipe(), 2, print)


def test_without_optuna_the_extra_is_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    (tmp_path / "r.toml").write_text("", encoding="utf-8")
    arguments = ["--recipe", str(tmp_path / "r.toml"), "--out", str(tmp_path / "b"), "--tune", "5", "--no-track"]
    assert main(["train", "no.parquet", *arguments]) == 2
    assert capsys.readouterr().err == "error: tune needs optuna; pip install 'gpu-predictor[train]'.\n"
