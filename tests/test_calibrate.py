"""Calibration to a GPU by few rows: errors fall, intervals cover, physics holds, and nothing is half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from toy import GPUS, RECIPE, toy_table

from predictor.cli import main
from predictor.errors import InvalidBundle, InvalidRequest, InvalidTable, PredictorError
from predictor.estimators import corrected
from predictor.estimators.bundle import (
    CALIBRATED_FITS,
    CALIBRATION,
    CORRECTIONS,
    FEWSHOT,
    LISTED_SPECS,
    MANIFEST,
    SPECS,
    Bundle,
    load_bundle,
)
from predictor.estimators.correction.kernel import Prior, Traits, start, whitening
from predictor.estimators.correction.prior import FARTHEST, adapted, learn
from predictor.estimators.correction.process import conformal, fit_correction
from predictor.estimators.correction.stored import CURE, read_corrections
from predictor.estimators.operators import predict_op
from predictor.hardware.gpu import OWN_GPUS, get_gpu
from predictor.learning.calibrate import FEWEST_CALIBRATION_ROWS, calibrate
from predictor.learning.evaluate import evaluate
from predictor.learning.train import train
from predictor.measurements.schema import write_table
from predictor.ops import Gemm, Pointwise
from predictor.prediction.single import predict

pytestmark = pytest.mark.usefixtures("in_threads")
OWN, LAW = "L4", 1.6  # a GPU whose kernels take longer than all others would say


def measured(folder: Path, rows: int, seed: int = 3, law: float = LAW) -> Path:
    """So many rows of each family on OWN, under another law than the toy bundle knows."""
    frame = toy_table((OWN,), seed)
    frame["latency_s"] *= law
    parts = [own.head(rows) for _, own in frame.groupby("family", observed=True)]
    path = folder / f"own{seed}.parquet"
    write_table(pd.concat(parts, ignore_index=True), path)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, in_threads: None) -> Bundle:
    folder = tmp_path_factory.mktemp("base")
    write_table(toy_table(tuple(name for name in GPUS if name != OWN)), folder / "toy.parquet")
    return train([folder / "toy.parquet"], RECIPE, folder / "bundle", lambda text: None)


@pytest.fixture(scope="module")
def own(base: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("own")
    return calibrate(measured(folder, 40), base, folder / "bundle")[0]


def test_the_error_on_other_rows_falls_and_intervals_cover(base: Bundle, own: Bundle, tmp_path: Path) -> None:
    others = measured(tmp_path, 70, seed=11)
    before, after = (evaluate(others, bundle) for bundle in (base, own))
    assert (after["mape"] < 0.4 * before["mape"]).all() and (after["mape"] < 0.12).all()
    assert after["coverage"].mean() > 0.6 and (after["width"] < before["width"]).all()


def test_intervals_cover_predictions_that_rise_with_tokens(base: Bundle, tmp_path: Path) -> None:
    """Latency in steps of 128 tokens, which lie between the token counts at which an estimate is asked."""
    frame = toy_table((OWN,), seed=5).query("family == 'gemm'")
    frame = frame.assign(latency_s=frame["latency_s"] * (1 + 0.8 * (np.floor(frame["m"] / 128) % 2)))
    write_table(frame[::2], tmp_path / "told.parquet")
    write_table(frame[1::2], tmp_path / "others.parquet")
    made, _ = calibrate(tmp_path / "told.parquet", base, tmp_path / "bundle")
    correction = made.estimator("gemm").corrections[OWN]
    alone = conformal(correction.left_out / correction.expected, made.level)
    assert correction.ends[0] <= alone[0] + 1e-9 and correction.ends[1] >= alone[1] - 1e-9
    assert evaluate(tmp_path / "others.parquet", made)["coverage"].iloc[0] >= 0.7


def test_training_writes_what_few_rows_are_worth(base: Bundle) -> None:
    curve = pd.read_csv(base.path / FEWSHOT, keep_default_na=False)
    assert {"estimator", "gpu", "engine", "rows", "mape", "coverage"} <= set(curve)
    assert set(curve["rows"]) >= {0, 20} and base.prior("gemm") is not None


def test_other_gpus_are_answered_to_the_bit_as_before(base: Bundle, own: Bundle) -> None:
    op = Gemm(m=np.array([1.0, 300.0]), n=4096.0, k=4096.0)
    for name in ("A10", "L40S"):
        old, new = (predict_op(op, get_gpu(name), None, bundle) for bundle in (base, own))
        assert (old.latency_s == new.latency_s).all() and (old.high_s == new.high_s).all()
    assert predict_op(op, get_gpu(OWN), None, own).basis == "calibrated-gpu"
    same = predict_op(op, get_gpu(OWN), None, own.uncalibrated())
    assert (same.latency_s == predict_op(op, get_gpu(OWN), None, base).latency_s).all()


@settings(max_examples=30, deadline=None)
@given(m=st.integers(1, 8192), n=st.integers(64, 16384), k=st.integers(64, 16384), factor=st.floats(1.01, 4.0))
def test_physics_holds_on_a_calibrated_gpu(own: Bundle, m: int, n: int, k: int, factor: float) -> None:
    gpu = get_gpu(OWN)
    found = predict_op(Gemm(m=np.array([m, 2 * m]), n=float(n), k=float(k)), gpu, None, own)
    assert (found.bound_s <= found.low_s).all() and (found.low_s <= found.latency_s).all()
    assert (found.latency_s <= found.high_s).all() and found.latency_s[0] <= found.latency_s[1]
    from dataclasses import replace

    worse = replace(gpu, mem_bytes_per_s=gpu.mem_bytes_per_s / factor)
    assert predict_op(Gemm(m=float(m), n=float(n), k=float(k)), worse, None, own).latency_s[0] >= (
        predict_op(Gemm(m=float(m), n=float(n), k=float(k)), gpu, None, own).latency_s[0] * (1 - 1e-9)
    )


def test_calibrated_again_it_keeps_its_rows(own: Bundle, tmp_path: Path) -> None:
    again, lines = calibrate(measured(tmp_path, 30, seed=5), own, tmp_path / "again")
    assert again.manifest[CALIBRATION]["gpus"] == {OWN: 3 * 70} and (lines["rows"] == 70).all()
    assert again.id != own.id and again.id.startswith("toy+")


def test_the_command_shows_both_and_predict_too(base: Bundle, tmp_path: Path, capsys: Any) -> None:
    data, out = measured(tmp_path, 40), tmp_path / "mine"
    assert main(["calibrate", "--bundle", str(base.path), "--data", str(data), "--out", str(out)]) == 0
    assert "uncalibrated" in capsys.readouterr().out
    options = ["--m", "512", "--n", "4096", "--k", "4096", "--gpu", OWN, "--bundle", str(out), "--json"]
    assert main(["op", "gemm", *options]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["basis"] == "calibrated-gpu" and row["uncalibrated_s"] < row["latency_s"]
    assert main(["predict", "Llama-3.1-8B", "--gpu", OWN, "--bundle", str(out)]) == 0
    assert "without the calibration:" in capsys.readouterr().out
    assert main(["predict", "Llama-3.1-8B", "--gpu", OWN, "--gpu", "A10", "--bundle", str(out), "--json"]) == 0
    mine, other = json.loads(capsys.readouterr().out)
    assert mine["uncalibrated"]["ttft_s"] < mine["ttft_s"] and "uncalibrated" not in other


def test_what_is_wrong_is_said_and_nothing_is_written(base: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InvalidTable, match=f"fewer than {FEWEST_CALIBRATION_ROWS} usable rows"):
        calibrate(measured(tmp_path, 2), base, tmp_path / "out")
    with pytest.raises(InvalidTable, match=r"no usable row.*faster than"):
        calibrate(measured(tmp_path, 20, seed=4, law=1e-3), base, tmp_path / "out")
    with pytest.raises(InvalidRequest, match="is not a folder"):
        calibrate(measured(tmp_path, 20), base, tmp_path / "no" / "out")
    with pytest.raises(InvalidRequest, match="exists already"):
        calibrate(measured(tmp_path, 20), base, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".parquet"]


def test_a_changed_file_of_rows_is_refused(own: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(own.path, tmp_path / "copy"))
    file = folder / own.manifest[CALIBRATION]["file"]
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InvalidBundle, match="corrupt"):
        calibrate(measured(tmp_path, 30), load_bundle(folder), tmp_path / "again")
    edited(folder, lambda calibration: calibration.pop(CALIBRATED_FITS))
    with pytest.raises(InvalidBundle, match="corrupt"):
        load_bundle(folder).estimator("gemm")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["estimators"]["gemm"]["prior"]["lengths"] = [-1.0]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InvalidBundle, match="prior"):
        load_bundle(folder).prior("gemm")
    manifest[CALIBRATION]["ends"]["gemm"][OWN] = [0.1]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InvalidBundle, match="calibration has invalid ends; install or copy the bundle again"):
        load_bundle(folder)


# What is stored


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A bundle's folder whose manifest's calibration is changed."""
    manifest = json.loads((folder / MANIFEST).read_text())
    change(manifest[CALIBRATION])
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def copied(own: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(own.path, tmp_path / "copy"))


def test_a_stored_correction_answers_to_the_bit_as_one_fitted_to_the_rows(copied: Path, tmp_path: Path) -> None:
    """Both bundles are new: what is remembered at knots was summed in the order of earlier questions."""
    rows_only = Path(shutil.copytree(copied, tmp_path / "rows"))
    edited(rows_only, lambda calibration: calibration.pop(CALIBRATED_FITS))
    bundles = load_bundle(copied), load_bundle(rows_only)
    calls = (
        Gemm(m=np.array([1.0, 300.0, 5000.0]), n=4096.0, k=4096.0),
        Pointwise(kind="rms_norm", rows=700.0, cols=4096.0),
    )
    for op in calls:
        stored, fitted = (predict_op(op, get_gpu(OWN), None, bundle) for bundle in bundles)
        for name in ("latency_s", "low_s", "high_s"):
            assert (getattr(stored, name) == getattr(fitted, name)).all(), name


def test_what_is_corrected_is_known_without_estimators(own: Bundle, copied: Path) -> None:
    rows_only = load_bundle(edited(copied, lambda calibration: calibration.pop(CALIBRATED_FITS)))
    for bundle in (own, rows_only, own.uncalibrated()):
        for name in bundle.manifest["estimators"]:
            corrected = {gpu for gpu in GPUS if bundle.corrects(name, gpu)}
            assert corrected == set(bundle.estimator(name).corrections)


def test_opening_a_calibrated_bundle_fits_nothing_and_reads_no_rows(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("fitted")

    monkeypatch.setattr(corrected, "fit_correction", refuse)
    (copied / "calibration.parquet").unlink()
    bundle = load_bundle(copied)
    assert bundle.estimator("gemm").corrections[OWN].error.shape == (40,)
    assert bundle.corrects("gemm", OWN) and not bundle.corrects("gemm", "A10")


def test_where_a_gpu_has_another_spec_since_the_correction_is_fitted_again(
    own: Bundle, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[str] = []

    def spy(*args: Any) -> Any:
        fits.append(args[0].name)
        return fit_correction(*args)

    monkeypatch.setattr(corrected, "fit_correction", spy)
    edited(copied, lambda calibration: calibration[CALIBRATED_FITS]["gemm"].update(specs="of another catalogue"))
    assert load_bundle(copied).estimator("gemm").corrections.keys() == {OWN} and fits == [OWN]


def test_a_manifest_has_the_sha256_of_stored_corrections_and_a_changed_one_is_refused(copied: Path) -> None:
    file = copied / f"gemm{CORRECTIONS}"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(InvalidBundle, match=f"{file.name} is corrupt \\(sha256 differs from the manifest\\)"):
        load_bundle(copied).estimator("gemm")
    file.unlink()
    with pytest.raises(InvalidBundle, match=r"cannot be read \(No such file or directory\); install or copy"):
        load_bundle(copied).estimator("gemm")
    edited(copied, lambda calibration: calibration[CALIBRATED_FITS]["gemm"].pop("specs"))
    with pytest.raises(InvalidBundle, match="calibration: fitted gemm has no valid specs; install or copy the bundle"):
        load_bundle(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0.pull": None}, f"{OWN} has no valid pull, which must be float64 of shape (40,); {CURE}."),
        ({"0.views": np.zeros((40, 3))}, f"{OWN} has no valid views, which must be float64 of shape (40, 4); {CURE}."),
        ({"0.whitener": np.full(820, np.nan)}, "has no valid whitener, which must be float64 of shape (820,)"),
        ({"0.group": np.arange(40)}, "has no valid group, which must be str_ of shape (40,)"),
        ({"0.error": None}, "has no valid place"),
        ({"gpus": np.array(["B200"])}, "has a correction of B200, and the manifest no prior or ends"),
        ({"0.error": np.array([len])}, "is no zip of NumPy arrays (Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_make_no_correction_are_refused(
    own: Bundle, tmp_path: Path, changes: Mapping[str, Any], message: str
) -> None:
    """A file with the right digest but the wrong content, such as another program's."""
    with np.load(own.path / f"gemm{CORRECTIONS}") as file:
        arrays = {**file, **changes}
    np.savez(tmp_path / "x.npz", **{name: array for name, array in arrays.items() if array is not None})
    known = own.estimator("gemm").corrections[OWN]
    content = (tmp_path / "x.npz").read_bytes()
    with pytest.raises(InvalidBundle) as caught:
        read_corrections(content, tmp_path / "x.npz", {OWN: known.prior}, {OWN: known.ends})
    assert message in str(caught.value)


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 cut off", b"\x80\x04."):
        with pytest.raises(InvalidBundle, match="is no zip of NumPy arrays"):
            read_corrections(content, tmp_path / "x.npz", {}, {})


def test_own_specs_are_in_the_manifest_and_only_they_are_read(
    base: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text('name = "Half-L4"\nbase = "L4"\nsms = 29\n', encoding="utf-8")
    monkeypatch.setenv(OWN_GPUS, str(tmp_path / "mine.toml"))
    rows = toy_table(("Half-L4",)).query("family == 'gemm'")
    write_table(rows.reset_index(drop=True), tmp_path / "rows.parquet")
    made, _ = calibrate(tmp_path / "rows.parquet", base, tmp_path / "out")
    assert base.manifest[LISTED_SPECS] == {} and [*made.manifest[LISTED_SPECS]] == ["Half-L4.toml"]
    copy = Path(shutil.copytree(made.path, tmp_path / "copy"))
    (copy / SPECS / "more.toml").write_text("", encoding="utf-8")
    with pytest.raises(
        InvalidBundle, match=r"more.toml is not in the manifest; remove it, or add that GPU with --spec\."
    ):
        load_bundle(copy)
    (copy / SPECS / "more.toml").unlink()
    (copy / SPECS / "Half-L4.toml").write_text("", encoding="utf-8")
    with pytest.raises(InvalidBundle, match=r"Half-L4.toml is corrupt \(sha256 differs from the manifest\)"):
        load_bundle(copy)
    shutil.copy(made.path / SPECS / "Half-L4.toml", copy / SPECS / "Half-L4.toml")
    manifest = {key: value for key, value in made.manifest.items() if key != LISTED_SPECS}
    (copy / MANIFEST).write_text(json.dumps(manifest))  # as it was before manifests had them
    assert load_bundle(copy).calibrated == ("Half-L4",)


def some(n: int) -> Traits:
    """So many calls of one engine, format and group, anywhere."""
    draw = np.random.default_rng(4)
    names = [np.full(n, name, dtype=object) for name in ("vllm", "bf16", "g")]
    return Traits(draw.normal(size=(n, 3)), np.zeros((n, 4)), draw.integers(0, 20, (n, 10)), *names)


def test_where_nothing_is_to_be_corrected_intervals_stay_as_wide_as_the_errors() -> None:
    traits, error = some(120), 0.05 * np.random.default_rng(6).normal(size=120)
    found = fit_correction(get_gpu(OWN), start(traits.place), traits, error, 0.8)
    spread = found.spread(traits)
    assert found.trust < 0.5 and np.abs(found.offset(traits)).max() < 0.1
    inside = (found.ends[0] * spread <= found.left_out) & (found.left_out <= found.ends[1] * spread)
    assert 0.7 < inside.mean() < 0.9


@pytest.mark.parametrize("repeats", [1, 3])
def test_whitened_a_covariance_is_one(repeats: int) -> None:
    """Repeats: a singular matrix, which rounding leaves with eigenvalues below zero."""
    half = np.repeat(np.random.default_rng(2).normal(size=(40, 40)), repeats, axis=0)
    whole = half @ half.T
    found = whitening(whole)
    assert (found == np.tril(found)).all() and (np.diag(found) > 0).all()
    if repeats == 1:
        np.testing.assert_allclose(found @ whole @ found.T, np.eye(40), atol=1e-9)
    else:
        assert np.abs(found @ whole @ found.T).max() < 1.01


def test_a_covariance_that_is_not_finite_is_refused() -> None:
    with pytest.raises(PredictorError, match="errors of 2 calls have a covariance that is not positive definite"):
        whitening(np.full((2, 2), np.nan))


def test_few_scores_make_wide_ends() -> None:
    scores = np.random.default_rng(0).normal(size=2000)
    low, high = conformal(scores, 0.8)
    assert low == pytest.approx(-1.28, abs=0.1) and high == pytest.approx(1.28, abs=0.1)
    few = [conformal(scores[i : i + 9], 0.8) for i in range(0, 1800, 9)]
    assert np.mean([b - a for a, b in few]) > high - low


def test_the_prior_finds_the_law_that_made_the_errors() -> None:
    """Errors of one offset for each engine: the engine's amplitude rises, that of shapes falls."""
    draw, gpus = np.random.default_rng(1), []
    for _ in range(6):
        engine = draw.choice(["a", "b", "c"], 60)
        offsets = dict(zip("abc", draw.normal(0, 0.4, 3), strict=True))
        place = draw.normal(size=(60, 3))
        names = (engine.astype(object), np.full(60, "bf16"), np.full(60, "g"))
        traits = Traits(place, np.zeros((60, 4)), draw.integers(0, 20, (60, 10)), *names)
        gpus.append((traits, np.array([offsets[name] for name in engine]) + draw.normal(0, 0.02, 60)))
    prior = learn(gpus)
    assert prior.amplitudes["engine"] > 0.15 > 0.06 > prior.amplitudes["noise"]
    assert prior.amplitudes["smooth"] < 0.05
    assert Prior.from_json(json.loads(json.dumps(prior.to_json()))).lengths == pytest.approx(prior.lengths, rel=1e-3)


def test_few_own_rows_move_a_learned_prior_little_and_many_more() -> None:
    calls, noise = some(100), 0.3 * np.random.default_rng(5).normal(size=100)
    prior = start(calls.place)
    moves = []
    for count in (5, 20, 100):
        moved = adapted(prior, calls.take(slice(count)), noise[:count])
        moves.append(abs(np.log(moved.amplitudes["noise"] / prior.amplitudes["noise"])))
    assert 0 < moves[0] < moves[1] < moves[2] < np.log(0.3 / 0.06)


@pytest.mark.parametrize("error", [np.zeros(30), np.full(30, 1e6), np.geomspace(1e-9, 1e9, 30)])
def test_a_prior_is_found_whatever_the_errors(error: Any) -> None:
    calls = some(30).take(np.zeros(30, dtype=int))  # one call over and over
    found, first = learn([(calls, error)]), start(calls.place)
    assert (np.abs(np.log(found.lengths / first.lengths)) <= FARTHEST + 1e-9).all()


def nameless(folder: Path, rows: int) -> Path:
    """A table as `ingest --set family=…` leaves it where the files name no engine."""
    table = pd.read_parquet(measured(folder, rows)).drop(columns=["engine"])
    table.to_csv(folder / "nameless.csv", index=False)
    out = folder / "nameless.parquet"
    assert main(["ingest", str(folder / "nameless.csv"), "--format", "table", "--out", str(out)]) == 0
    assert set(pd.read_parquet(out)["engine"]) == {"unknown"}
    return out


def test_rows_without_an_engine_calibrate_what_predict_asks(base: Bundle, tmp_path: Path, capsys: Any) -> None:
    data, out = nameless(tmp_path, 40), tmp_path / "mine"
    assert main(["calibrate", "--bundle", str(base.path), "--data", str(data), "--out", str(out)]) == 0
    assert "120 rows state no engine that estimators know; they count as those" in capsys.readouterr().out
    made, named = load_bundle(out), calibrate(measured(tmp_path, 40), base, tmp_path / "named")[0]
    op = Gemm(m=2048.0, n=4096.0, k=4096.0)
    told, as_named, before = (predict_op(op, get_gpu(OWN), None, bundle) for bundle in (made, named, base))
    assert told.basis == "calibrated-gpu" and told.latency_s == pytest.approx(as_named.latency_s, rel=1e-9)
    assert told.latency_s[0] > 1.3 * before.latency_s[0]
    reports = [predict("Llama-3.1-8B", OWN, bundle=bundle, batch=16) for bundle in (base, made)]
    assert [report.basis for report in reports] == ["unseen-gpu", "calibrated-gpu"]
    # Without a calibration weights come no faster than memory streams them, which the toy law does not know.
    assert reports[1].tpot_s.value > 1.2 * reports[0].tpot_s.value
    assert not any("was not measured" in note for note in reports[1].notes)


def test_a_calibration_of_some_operators_says_which_it_does_not_know(base: Bundle, tmp_path: Path) -> None:
    table = pd.read_parquet(nameless(tmp_path, 40)).query("family == 'gemm'")
    write_table(table.drop(columns=["status", "reason"], errors="ignore"), tmp_path / "gemm.parquet")
    made, lines = calibrate(tmp_path / "gemm.parquet", base, tmp_path / "bundle")
    assert lines["nameless"].tolist() == [40]
    report = predict("Llama-3.1-8B", OWN, bundle=made)
    assert report.basis == "calibrated-gpu"
    (note,) = (note for note in report.notes if "calibration" in note)
    assert note == (
        "the calibration of L4 knows gemm; attention_decode, pointwise are those of a GPU that was not measured. "
        "Measure them too."
    )


def test_siblings_that_nobody_measured_learn_from_it_and_measured_ones_do_not(base: Bundle, tmp_path: Path) -> None:
    told, sibling, seen = "H200-SXM-141GB", "GH200", "H100-SXM-80GB"
    frame = toy_table((told,), seed=4).query("family == 'gemm'")
    write_table(frame.assign(latency_s=frame["latency_s"] * LAW).head(60), tmp_path / "own.parquet")
    made, _ = calibrate(tmp_path / "own.parquet", base, tmp_path / "bundle")
    op = Gemm(m=np.array([1024.0, 2048.0]), n=4096.0, k=4096.0)

    def slower(gpu: str) -> Any:
        answers = [predict_op(op, get_gpu(gpu), None, bundle).latency_s for bundle in (made, base)]
        return answers[0] / answers[1]

    assert (slower(told) > 1.2).all() and (slower(sibling) > 1.05).all() and (slower(sibling) < slower(told)).all()
    assert seen in base.manifest["gpus"] and (slower(seen) == 1.0).all() and (slower("L40S") == 1.0).all()
    report = predict("Llama-3.1-8B", sibling, bundle=made)
    assert any(told in note and "siblings" in note for note in report.notes) and report.basis == "unseen-gpu"
