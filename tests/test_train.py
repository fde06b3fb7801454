"""From measurements to a bundle: what training may see, what a bundle promises, and what is refused.

The measurements obey the toy law of tests/toy.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from toy import FLOOR_CYCLES, GENERATIONS, GPUS, HEADS, RECIPE, SIBLINGS, quick_recipe, quick_table, toy_table

from predictor.boosters import load_booster
from predictor.errors import InvalidBundle, InvalidRequest, InvalidTable, PredictorError
from predictor.estimators.bundle import BOOSTERS, CURVES, FEWSHOT, LEDGER, MANIFEST, REHEARSAL, Bundle, load_bundle
from predictor.estimators.linear import core_s, fit_floors
from predictor.estimators.operators import predict_op
from predictor.estimators.samples import training_sets
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.learning.evaluate import cells_to_json, evaluate
from predictor.learning.fit import fit
from predictor.learning.recipe import Recipe, read_recipe, recipe_text
from predictor.learning.sampling import CELL, balanced_rows, thin
from predictor.learning.train import reclass, relist, renew, train
from predictor.measurements.schema import conform, write_table
from predictor.ops import Attention, Gemm, Op, Pointwise

pytestmark = pytest.mark.usefixtures("in_threads")


@pytest.fixture(scope="module")
def table(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "toy.parquet"
    write_table(frame, path)
    return path


@pytest.fixture(scope="module")
def bundle(table: Path, tmp_path_factory: pytest.TempPathFactory, in_threads: None) -> Bundle:
    return train([table], RECIPE, tmp_path_factory.mktemp("bundles") / "toy", lambda text: None)


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


# Training sets


def test_one_set_per_estimator_holds_every_row(sets: Any, frame: pd.DataFrame) -> None:
    assert set(sets) == {"gemm", "attention_decode", "pointwise"}
    assert sum(len(rows.who) for rows in sets.values()) == len(frame)
    for rows in sets.values():
        assert set(rows.who["generation"]) == GENERATIONS


def test_a_gpu_measured_under_an_alias_is_that_gpu(frame: pd.DataFrame) -> None:
    named = conform(frame.assign(gpu=frame["gpu"].astype(str).replace("H100-SXM-80GB", "H100")))
    assert set(training_sets(named)["gemm"].who["gpu"]) == set(GPUS)


def test_thinning_keeps_the_asked_rows_of_every_cell(frame: pd.DataFrame) -> None:
    kept = thin(frame, 10, seed=0)
    assert set(kept.groupby(CELL, observed=True).size()) == {10}
    assert kept.index.is_monotonic_increasing
    pd.testing.assert_frame_equal(kept, thin(frame, 10, seed=0))


def test_a_draw_gives_every_generation_the_same_weight() -> None:
    cell = {"engine": "vllm", "dtype": "bf16"}
    who = pd.DataFrame([{"gpu": "A100", "generation": "Ampere", **cell}] * 9000)
    who = pd.concat([who, who.head(1000).assign(gpu="H100", generation="Hopper")], ignore_index=True)
    drawn = who.iloc[balanced_rows(who, 400, seed=0)]
    assert (len(drawn), drawn.index.is_unique) == (400, True)
    assert drawn["gpu"].value_counts()["H100"] == pytest.approx(200, abs=40)


def test_the_core_finds_floor_and_slope_of_the_toy_law(sets: Any) -> None:
    for name, family in (("attention_decode", "attention"), ("pointwise", "pointwise")):
        rows = sets[name]
        assert fit_floors(rows.table, rows.latency_s)[""][0] == pytest.approx(FLOOR_CYCLES[family], rel=0.1)
        lawful = FLOOR_CYCLES[family] * rows.table.tick_s + 1.3 * rows.table.work_s
        floors = fit_floors(rows.table, lawful)
        assert floors[""][1] == pytest.approx(1.3, rel=0.05)
        np.testing.assert_allclose(core_s(rows.table, floors), lawful, rtol=0.2)


def test_a_group_whose_calls_are_all_small_takes_the_slope_of_its_leading_parts(sets: Any) -> None:
    rows = sets["pointwise"]
    lawful = FLOOR_CYCLES["pointwise"] * rows.table.tick_s + 1.3 * rows.table.work_s
    small = rows.table.work_s < 5 * FLOOR_CYCLES["pointwise"] * rows.table.tick_s
    table = rows.table._replace(group=np.where(small, "device|own", "device|other").astype(object))
    slow = np.where(small, 2.0, 1.0) * lawful
    assert fit_floors(table, slow)["device|own"][1] == fit_floors(table, slow)["device"][1]
    assert fit_floors(table, slow, one_plateau=False)["device|own"][1] > 1.5


# Bundles


def test_a_bundle_predicts_what_was_fitted(bundle: Bundle, sets: Any) -> None:
    for name, rows in sets.items():
        fitted = replace(fit(rows, RECIPE), weights=bundle.estimator(name).weights)
        op, setting = rows.calls(rows.gpus == "L4")
        for gpu in map(get_gpu, ("L4", "B200", "H20")):
            expected = fitted.latency_s(op, gpu, setting)
            np.testing.assert_allclose(bundle.estimator(name).latency_s(op, gpu, setting), expected, rtol=1e-4)


def test_a_copied_bundle_predicts_the_same(bundle: Bundle, copied: Path, sets: Any) -> None:
    loaded = load_bundle(copied)
    assert (loaded.id, loaded.level) == ("toy", RECIPE.level)
    for rows in sets.values():
        op, setting = rows.calls(rows.gpus == "L4")
        for gpu in map(get_gpu, ("L4", "B200")):
            again, first = (predict_op(op, gpu, setting, one) for one in (loaded, bundle))
            np.testing.assert_array_equal(again.latency_s, first.latency_s)


def test_gpus_of_one_generation_make_a_bundle_without_errors_on_others(tmp_path: Path) -> None:
    """Two siblings: one can be held out, their generation cannot."""
    rows = toy_table(tuple(sorted(SIBLINGS))).query("family == 'gemm'").reset_index(drop=True)
    write_table(rows, tmp_path / "t.parquet")
    made = train([tmp_path / "t.parquet"], quick_recipe(), tmp_path / "b", lambda text: None)
    assert set(pd.read_csv(made.path / LEDGER)["protocol"]) == {"gpu-out", "rows-out"}


def test_the_manifest_has_the_sha256_of_every_file(bundle: Bundle, table: Path) -> None:
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in bundle.path.iterdir()}
    boosters = [entry[name] for entry in bundle.manifest["estimators"].values() for name in BOOSTERS]
    listed = {booster["file"]: booster["sha256"] for booster in boosters}
    listed |= {name: bundle.manifest[f"{Path(name).stem}_sha256"] for name in (LEDGER, FEWSHOT, CURVES, REHEARSAL)}
    assert listed == {name: digest for name, digest in files.items() if name != MANIFEST}
    assert bundle.manifest["tables"][0]["sha256"] == hashlib.sha256(table.read_bytes()).hexdigest()
    assert bundle.manifest["gpus"] == sorted(GPUS)


def test_an_xgboost_that_reads_intercepts_wrongly_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(iter(bundle.manifest["estimators"].values()))[BOOSTERS[0]]
    monkeypatch.setattr("xgboost.__version__", "3.0.5")
    with pytest.raises(PredictorError, match=r"xgboost is 3\.0\.5; bundles need 3\.1 or newer: run `pip "):
        load_booster(bundle.path, entry)


def test_a_bundle_holds_boosters_text_and_no_pickle(bundle: Bundle) -> None:
    assert {path.suffix for path in bundle.path.iterdir()} == {".ubj", ".json", ".csv"}
    assert all(path.read_bytes().startswith(b"{") for path in bundle.path.glob("*.ubj"))  # a pickle: b"\x80"


def test_the_same_seed_makes_the_same_bytes(bundle: Bundle, table: Path, tmp_path: Path) -> None:
    again = train([table], RECIPE, tmp_path / "again", lambda text: None)
    for name in (*(path.name for path in bundle.path.glob("*.ubj")), LEDGER, MANIFEST):
        assert (again.path / name).read_bytes() == (bundle.path / name).read_bytes(), name


def test_training_refuses_the_folder_of_a_bundle(bundle: Bundle, table: Path) -> None:
    with pytest.raises(InvalidRequest) as caught:
        train([table], RECIPE, bundle.path, lambda text: None)
    assert str(caught.value) == f"{bundle.path} holds a bundle already; give another folder or remove it."


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_training_that_is_killed_leaves_nothing(kill: signal.Signals, tmp_path: Path) -> None:
    write_table(quick_table(), tmp_path / "t.parquet")
    (tmp_path / "r.toml").write_text(recipe_text(quick_recipe(reference_rounds=200_000)), encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    code = "import sys; from predictor.cli import main; sys.exit(main())"
    arguments = ["train", "t.parquet", "--recipe", "r.toml", "--out", "b", "--no-track"]
    training = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *arguments],
        cwd=tmp_path,
        env={**os.environ, "LOKY_MAX_CPU_COUNT": "1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert training.stdout
    for line in training.stdout:
        if line.startswith(b"gemm: "):
            os.killpg(training.pid, kill)
    assert training.wait(60) == (130 if kill == signal.SIGINT else -kill)
    assert sorted(tmp_path.iterdir()) == before


def test_training_refuses_a_table_without_a_usable_row(frame: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    write_table(frame.assign(latency_s=-1.0), path)
    with pytest.raises(InvalidTable) as caught:
        train([path], RECIPE, tmp_path / "out", lambda text: None)
    assert str(caught.value) == f"{path} has no usable row; `predictor check {path}` says why."


def test_the_ledger_has_every_protocol_beside_baselines(bundle: Bundle) -> None:
    ledger = pd.read_csv(bundle.path / LEDGER)
    protocols = {"generation-out", "gpu-out", "rows-out"}
    assert set(ledger["protocol"]) == protocols
    assert set(ledger["slice"]) == {"all", "model-like"}
    for _, part in ledger[ledger["slice"] == "all"].groupby("protocol"):
        assert set(part["estimator"]) == set(bundle.manifest["estimators"])
        assert set(part["gpu"]) == set(GPUS)
        assert not part[["rows", "mape", "median_ape", "p90_ape", "bound_mape", "roofline2_mape"]].isna().any(axis=None)
        assert part["coverage"].between(0, 1).all()


def test_curves_start_at_the_first_round_and_fall_on_fitted_rows(bundle: Bundle) -> None:
    curves = pd.read_csv(bundle.path / CURVES)
    for (_, trees, rows), curve in curves.groupby(["estimator", "trees", "rows"]):
        rounds = RECIPE.transfer_rounds if trees == "transfer" else RECIPE.reference_rounds
        assert (curve["round"].min(), curve["round"].max()) == (1, rounds)
        if rows == "fitted":
            assert (curve["rmse"].diff().dropna() <= 0.01).all()
    assert set(curves["rows"]) == {"fitted", "held-out rows", "held-out generations"}


def test_measuring_the_ledger_again_finds_the_same(bundle: Bundle, table: Path, copied: Path) -> None:
    (copied / LEDGER).write_text("", encoding="utf-8")
    again = relist([table], copied, lambda text: None)
    assert (again.path / LEDGER).read_bytes() == (bundle.path / LEDGER).read_bytes()
    assert again.manifest == bundle.manifest


def test_one_estimator_is_trained_again_and_all_else_stays(bundle: Bundle, table: Path, copied: Path) -> None:
    shorter = replace(RECIPE, transfer_rounds=5)
    again = renew([table], shorter, copied, ["pointwise"], lambda text: None)
    old, new = bundle.manifest["estimators"], again.manifest["estimators"]
    assert new["pointwise"]["transfer"] != old["pointwise"]["transfer"]
    assert {name: new[name] for name in new if name != "pointwise"} == {
        name: old[name] for name in old if name != "pointwise"
    }
    before, after = (pd.read_csv(one.path / LEDGER) for one in (bundle, again))
    cells = ["protocol", "estimator", "gpu", "slice"]
    assert sorted(map(tuple, before[cells].to_numpy())) == sorted(map(tuple, after[cells].to_numpy()))
    with pytest.raises(InvalidRequest, match="has no estimator moe; it has "):
        renew([table], RECIPE, copied, ["moe"], lambda text: None)


def test_classes_held_out_again_change_nothing_where_there_is_one(bundle: Bundle, table: Path, copied: Path) -> None:
    again = reclass([table], copied, lambda text: None)
    assert again.manifest["estimators"] == bundle.manifest["estimators"]


# Broken bundles


def ask(folder: Path) -> Any:
    """Load and predict, as a user would."""
    return predict_op(Gemm(m=1, n=4096, k=4096), get_gpu("H100"), bundle=load_bundle(folder))


def change(folder: Path, **gemm: Any) -> None:
    """Rewrite the manifest entry of gemm."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    manifest["estimators"]["gemm"] |= gemm
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def flip(folder: Path) -> None:
    content = bytearray((folder / "gemm.transfer.ubj").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "gemm.transfer.ubj").write_bytes(content)


def fake(folder: Path) -> None:
    (folder / "gemm.transfer.ubj").write_bytes(b"no model")
    change(folder, transfer={"file": "gemm.transfer.ubj", "sha256": hashlib.sha256(b"no model").hexdigest()})


def point(folder: Path, file: str) -> None:
    change(folder, transfer={"file": file, "sha256": ""})


def manifest(content: bytes) -> Any:
    return lambda folder: (folder / MANIFEST).write_bytes(content)


TRANSFER = "gemm.transfer.ubj"
DAMAGE: dict[str, tuple[Any, str]] = {
    "flipped byte": (flip, r"gemm\.transfer\.ubj is corrupt \(sha256 differs from the manifest\); install or copy"),
    "no file": (
        lambda f: (f / TRANSFER).unlink(),
        r"gemm\.transfer\.ubj cannot be read \(No such file or directory\); ",
    ),
    "no model": (fake, r"gemm\.transfer\.ubj is no XGBoost model \(.+\); train it again\.$"),
    "no manifest": (lambda f: (f / MANIFEST).unlink(), r'^no bundle ".+"; released ones: .+; or give a folder\.$'),
    "cut manifest": (manifest(b'{"format": 2, "id'), r"is not valid JSON: Unterminated .+; install or copy"),
    "deep manifest": (manifest(b"[" * 100_000), r"is not valid JSON: nested too deeply; install or copy"),
    "format": (manifest(b'{"format": 9}'), r"json has format 9; this version reads format 3: train the bundle again"),
    "no estimators": (manifest(b'{"format": 3, "id": "x", "level": 0.8}'), r"has no valid estimators; install or copy"),
    "traversal": (
        lambda f: point(f, "../gemm.ubj"),
        r"gemm has file '\.\./gemm\.ubj'; it must lie in the ",
    ),
    "parent folder": (
        lambda f: point(f, ".."),
        r"cannot be read \(.+\); install or copy the bundle again\.$",
    ),
    "no offsets": (lambda f: change(f, log_offsets={}), r"estimator gemm has invalid numbers; install or copy"),
    "weights of too few views": (
        lambda f: change(f, far={"": [[0.5, 0.5, 0.0]] * 3}),
        r"estimator gemm has invalid numbers; install or copy",
    ),
    "no floors": (lambda f: change(f, floors={}), r"estimator gemm has invalid numbers; install or copy"),
    "wrong type": (lambda f: change(f, floors=[1, 2]), r"estimator gemm has no valid floors; install or copy"),
    "features": (lambda f: change(f, features=["m"]), r"the estimator of gemm was made with other features; train"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_broken_bundle_raises_one_clear_error(damage: str, copied: Path) -> None:
    breaks, message = DAMAGE[damage]
    breaks(copied)
    with pytest.raises(InvalidBundle, match=message) as caught:
        ask(copied)
    assert "\n" not in str(caught.value)


# Evaluation and recipes


def test_evaluation_has_the_documented_cells(bundle: Bundle, frame: pd.DataFrame, tmp_path: Path) -> None:
    unseen = toy_table(("B200-SXM-180GB",), seed=8)
    broken = frame.query("family == 'gemm' and gpu == 'L4'").head(3).assign(latency_s=-1.0)
    write_table(pd.concat([frame, unseen, broken], ignore_index=True), tmp_path / "asked.parquet")
    found = evaluate(tmp_path / "asked.parquet", bundle)
    errors = {"mape", "median_ape", "p90_ape", "signed_median", "latency_weighted", "bound_mape", "roofline2_mape"}
    assert {*CELL, "seen", "rows", "refused", "coverage", "width"} | errors == set(found)
    assert found["rows"].sum() == len(frame) + len(unseen)
    assert found.set_index(["family", "gpu"])["refused"].loc["gemm", "L4"] == 3
    assert found["refused"].sum() == 3
    assert (found["seen"] == (found["gpu"] != "B200-SXM-180GB")).all()
    assert found[found["seen"]]["median_ape"].between(0, 0.3).all()

    answer = json.loads(json.dumps(cells_to_json(found, bundle), allow_nan=False))
    assert (answer["bundle"], answer["level"], len(answer["cells"])) == ("toy", 0.8, len(found))
    contract = {"family", "gpu", "dtype", "engine", "rows", "mape", "median_ape"}
    assert all(contract <= set(cell) for cell in answer["cells"])
    assert {cell["basis"] for cell in answer["cells"]} == {"seen-gpu", "unseen-gpu"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("depth = 3", f"has unknown key depth; known ones: {', '.join(Recipe.__slots__)}."),
        ("reference_rounds = 1.5", ": reference_rounds is 1.5; it must be of type int."),
        ("reference_rounds = true", ": reference_rounds is True; it must be of type int."),
        ('level = "high"', ": level is 'high'; it must be of type float."),
    ],
)
def test_a_wrong_recipe_names_key_and_rule(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        read_recipe(path)
    assert str(caught.value) == f"recipe {path}{says if says[0] == ':' else ' ' + says}"


# Laws of predictions


def ladder(sizes: Any) -> list[Op]:
    return [
        Gemm(m=sizes, n=4096, k=4096),
        Attention(phase="decode", batch=8, q_len=1, kv_len=sizes, **HEADS),
        Attention(phase="decode", batch=sizes, q_len=1, kv_len=1024, **HEADS),
        Pointwise(kind="rms_norm", rows=sizes, cols=4096),
    ]


SIZES = st.lists(st.integers(1, 30_000), min_size=2, max_size=8)
NAMES = st.sampled_from(["A100", "L4", "B200", "RTX 4090"])


@given(sizes=SIZES, name=NAMES)
@settings(max_examples=25, deadline=None)
def test_more_tokens_are_never_faster_and_never_beat_the_bound(bundle: Bundle, sizes: list[int], name: str) -> None:
    for op in ladder(np.array(sorted(sizes))):
        found = predict_op(op, get_gpu(name), bundle=bundle)
        assert (np.diff(found.latency_s) >= -1e-6 * found.latency_s[:-1]).all(), op
        assert (found.bound_s <= found.low_s).all()
        assert (found.low_s <= found.high_s).all()


def worse(gpu: Gpu, part: str, share: float) -> Gpu:
    """gpu with less bandwidth, less arithmetic, or fewer SMs that are each as fast."""
    if part == "bandwidth":
        return replace(gpu, mem_bytes_per_s=gpu.mem_bytes_per_s * share)
    sms = max(1, int(gpu.sms * share)) if part == "sms" else gpu.sms
    left = sms / gpu.sms if part == "sms" else share
    return replace(gpu, sms=sms, peak_flop_per_s={name: rate * left for name, rate in gpu.peak_flop_per_s.items()})


@given(sizes=SIZES, name=NAMES, part=st.sampled_from(["bandwidth", "peak", "sms"]), share=st.floats(0.05, 1.0))
@settings(max_examples=40, deadline=None)
def test_a_worse_gpu_is_never_faster(bundle: Bundle, sizes: list[int], name: str, part: str, share: float) -> None:
    gpu = get_gpu(name)
    for op in ladder(np.array(sizes)):
        full, less = (predict_op(op, chip, bundle=bundle).latency_s for chip in (gpu, worse(gpu, part, share)))
        assert (less >= full * (1 - 1e-6)).all(), (part, op)
