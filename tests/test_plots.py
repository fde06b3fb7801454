"""Pictures of a training run, and the importance of features that they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from predictor.cli import main
from predictor.learning.diagnostics import GPU_NAME, ROWS, importance, seen_by_trees
from predictor.learning.plots import write_plots
from predictor.learning.sampling import balanced_rows
from predictor.learning.train import Run

pytest.importorskip("matplotlib", reason="pip install 'gpu-predictor[train]'")


def test_every_plot_is_a_picture(quick_run: Run, tmp_path: Path) -> None:
    names = {file.stem for file in write_plots(quick_run, tmp_path / "p")}
    assert names == {
        "predicted_vs_measured",
        "error_by_gpu",
        "interval_coverage",
        "learning_curves",
        "few_shot",
        "importance_gemm",
    }
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "p").iterdir())


def test_a_run_without_held_out_rows_is_plotted_by_its_curves(quick_run: Run, tmp_path: Path) -> None:
    bare = Run(quick_run.bundle, {}, {}, quick_run.began_s, quick_run.ended_s)
    assert {file.stem for file in write_plots(bare, tmp_path)} == {"learning_curves", "few_shot"}


def test_plots_without_matplotlib_name_the_extra_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("predictor.plotting.canvas.find_spec", lambda name: None)
    (tmp_path / "r.toml").write_text("", encoding="utf-8")
    arguments = ["no.parquet", "--recipe", str(tmp_path / "r.toml"), "--out", str(tmp_path / "b"), "--plots", "p"]
    assert main(["train", *arguments]) == 2
    assert capsys.readouterr().err == "error: plots need matplotlib; pip install 'gpu-predictor[plot]'.\n"


def test_gains_are_shares_and_a_gpu_is_one_feature_of_the_reference_trees(quick_run: Run) -> None:
    found = importance(quick_run.bundle.estimator("gemm"), quick_run.sets["gemm"])
    assert found.groupby("trees")["gain"].sum().to_numpy() == pytest.approx([1, 1])
    names = {trees: set(part["feature"]) for trees, part in found.groupby("trees")}
    assert names["reference"] - names["transfer"] == {GPU_NAME, "m (count)", "kv_len (count)"}


def test_contributions_add_up_to_what_the_trees_say(quick_run: Run) -> None:
    import xgboost

    estimator, rows = quick_run.bundle.estimator("gemm"), quick_run.sets["gemm"]
    some = rows.take(balanced_rows(rows.who, ROWS, seed=0))
    values = seen_by_trees(estimator, some)[0]["transfer"]
    parts = estimator.transfer.predict(xgboost.DMatrix(values), pred_contribs=True)
    said = estimator.transfer.inplace_predict(values, validate_features=False)
    np.testing.assert_allclose(parts.sum(axis=1), said, rtol=1e-4)
    found = importance(estimator, rows).query("trees == 'transfer'")
    assert found["shap"].sum() == pytest.approx(np.abs(parts[:, :-1]).mean(axis=0).sum(), rel=1e-4)
