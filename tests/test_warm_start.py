"""A bundle learns on from new rows alone: what it gains, what it keeps, and what is refused.

The measurements obey the toy law of tests/toy.py; the GPU that the first bundle never saw is a B200.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from toy import HEADS, RECIPE as TOY_RECIPE, toy_table

import predictor.learning.continual.warm_start
from predictor.errors import InvalidBundle, InvalidRequest, InvalidTable
from predictor.estimators.bundle import BOOSTERS, LEDGER, MANIFEST, REHEARSAL, Bundle, load_bundle
from predictor.estimators.operators import SEEN, predict_op
from predictor.estimators.samples import TrainingSet, training_sets
from predictor.files import sha256_of
from predictor.hardware.gpu import get_gpu
from predictor.learning.calibrate import calibrate
from predictor.learning.continual.forgetting import LINE, joined_ledger
from predictor.learning.continual.learn_on import learn_on
from predictor.learning.continual.warm_start import FORGOTTEN, WarmStart, kept_calls, warm_start
from predictor.learning.evaluate import predicted_rows, read_ledger
from predictor.learning.rehearsal import drawn
from predictor.learning.train import remember, train
from predictor.measurements.schema import conform, write_table
from predictor.ops import Attention, Gemm, Op, Pointwise

pytestmark = pytest.mark.usefixtures("in_threads")
NEW = "B200-SXM-180GB"
GPUS = ("A100-SXM-80GB", "H100-SXM-80GB", "L4")
RECIPE = replace(TOY_RECIPE, transfer_rounds=24, reference_rounds=24, reference_rate=0.3)
LEARNED, UNTOUCHED = ("attention_decode", "gemm"), "pointwise"


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def few_calls() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictor.learning.continual.warm_start, "FEWEST_CALLS", 2000)
        yield


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return toy_table(GPUS)


@pytest.fixture(scope="module")
def sets(frame: pd.DataFrame) -> Mapping[str, TrainingSet]:
    return training_sets(frame)


@pytest.fixture(scope="module")
def tables(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("tables")
    new = pd.concat([toy_table((NEW,), seed) for seed in (1, 2, 3)], ignore_index=True)
    # Half as fast as anyone would think, so that there is something to learn.
    slow = new.assign(latency_s=2.0 * new["latency_s"])
    write_table(frame, folder / "old.parquet")
    write_table(slow[slow["family"] != "pointwise"], folder / "new.parquet")
    write_table(slow[slow["family"] == "gemm"], folder / "gemm.parquet")
    return {name: folder / f"{name}.parquet" for name in ("old", "new", "gemm")}


@pytest.fixture(scope="module")
def start(tables: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory, in_threads: None) -> Bundle:
    return train([tables["old"]], RECIPE, tmp_path_factory.mktemp("bundles") / "toy", silent)


@pytest.fixture(scope="module")
def made(
    tables: Mapping[str, Path], start: Bundle, tmp_path_factory: pytest.TempPathFactory, in_threads: None
) -> WarmStart:
    return warm_start([tables["new"]], start, RECIPE, tmp_path_factory.mktemp("bundles") / "warm", silent)


@pytest.fixture(scope="module")
def new_sets(tables: Mapping[str, Path]) -> Mapping[str, TrainingSet]:
    frame = pd.read_parquet(tables["new"])
    return training_sets(conform(frame))


def error(rows: TrainingSet, bundle: Bundle) -> float:
    found = predicted_rows(rows, bundle)
    return float((found["predicted_s"] / found["latency_s"] - 1).abs().mean())


# What a bundle keeps of its calls


def test_a_bundle_keeps_no_latency_and_no_row(start: Bundle, frame: pd.DataFrame) -> None:
    text = (start.path / REHEARSAL).read_text(encoding="utf-8")
    assert "latency" not in text
    kept = kept_calls(start)
    assert set(kept) == set(start.manifest["estimators"])
    for (part,) in kept.values():
        for cell in part["cells"]:
            assert set(cell) <= {"who", "rows", "blocks", "ranks"}
            assert all(len(block.get("quantiles", ())) in (0, 11) for block in cell["blocks"].values())


def test_remembering_again_writes_the_same(start: Bundle, tables: Mapping[str, Path], tmp_path: Path) -> None:
    copy = forgetful(start, tmp_path / "copy")
    assert kept_calls(load_bundle(copy)) == {}
    again = remember([tables["old"]], copy, silent)
    assert (again.path / REHEARSAL).read_bytes() == (start.path / REHEARSAL).read_bytes()
    assert again.manifest == start.manifest


def forgetful(bundle: Bundle, folder: Path) -> Path:
    """A copy of a bundle that keeps nothing of its calls."""
    shutil.copytree(bundle.path, folder)
    (folder / REHEARSAL).unlink()
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    del manifest["rehearsal_sha256"]
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return folder


# Learning on


def test_the_new_gpu_is_seen_and_its_error_falls(made: WarmStart, start: Bundle, new_sets: Any) -> None:
    for name, rows in new_sets.items():
        op, setting = rows.calls(np.arange(len(rows.who)))
        assert predict_op(op, get_gpu(NEW), setting, start).basis != SEEN
        assert predict_op(op, get_gpu(NEW), setting, made.bundle).basis == SEEN
        assert error(rows, made.bundle) < 0.5 * error(rows, start), name
    assert (made.learned["after"] < 0.7 * made.learned["before"]).all()
    assert set(made.learned["gpu"]) == {NEW}
    assert NEW in made.bundle.manifest["gpus"]


def test_what_has_no_new_rows_is_taken_over_to_the_byte(made: WarmStart, start: Bundle) -> None:
    assert made.bundle.entry(UNTOUCHED) == start.entry(UNTOUCHED)
    for booster in BOOSTERS:
        file = start.entry(UNTOUCHED)[booster]["file"]
        assert (made.bundle.path / file).read_bytes() == (start.path / file).read_bytes()
    before, after = ((bundle.path / LEDGER).read_text(encoding="utf-8") for bundle in (start, made.bundle))
    assert set(before.splitlines()) <= set(after.splitlines())


def test_known_gpus_move_less_with_rehearsal_than_without(start: Bundle, new_sets: Any, sets: Any) -> None:
    for name, (part,) in kept_calls(start).items():
        if name == UNTOUCHED:
            continue
        known, moved = start.estimator(name), []
        for calls in (drawn([part], 2000, 0), None):
            grown = learn_on(known, new_sets[name], calls, RECIPE)
            per_gpu = [
                np.abs(np.log(grown.latency_s(op, gpu, who) / known.latency_s(op, gpu, who))).mean()
                for _, gpu, op, who in sets[name].by_gpu()
            ]
            moved.append(np.mean(per_gpu))
        assert moved[0] < 0.03
        assert moved[0] < 0.3 * moved[1], name


def test_what_is_told_of_forgetting_is_what_known_rows_show(made: WarmStart, start: Bundle, sets: Any) -> None:
    told = made.forgotten.set_index(["estimator", "gpu"])
    assert set(told.index.get_level_values("estimator")) == set(LEARNED)
    for name in LEARNED:
        for _, gpu, op, who in sets[name].by_gpu():
            before, after = (one.estimator(name).latency_s(op, gpu, who) for one in (start, made.bundle))
            assert told.loc[(name, gpu.name), "mean"] == pytest.approx(np.abs(np.log(after / before)).mean(), abs=0.02)
    assert told["mean"].max() < 0.05
    assert told["error"].between(0.001, 0.5).all()


def test_rows_that_are_no_news_change_little(start: Bundle, tmp_path: Path) -> None:
    again = toy_table(("H100-SXM-80GB", "L4"), seed=11)
    write_table(again[again["family"] == "gemm"], tmp_path / "again.parquet")
    made = warm_start([tmp_path / "again.parquet"], start, RECIPE, tmp_path / "out", silent)
    assert made.forgotten["mean"].mean() < 0.03
    assert (made.learned["after"] < made.learned["before"] + 0.03).all()
    before, after = read_ledger(start), read_ledger(made.bundle)
    assert len(after) == len(before)
    line = ["estimator", "gpu", "protocol", "slice"]
    rows = (ledger.set_index(line)["rows"] for ledger in (before, after))
    more = next(rows).rsub(next(rows), fill_value=0)
    held_out = made.learned.set_index("gpu")["held"]
    for gpu in ("H100-SXM-80GB", "L4"):  # lines that both have count the rows of both
        assert more[("gemm", gpu, "rows-out", "all")] == held_out[gpu]


def test_a_mean_of_ledger_lines_leaves_out_what_one_of_them_lacks(tmp_path: Path) -> None:
    names = dict.fromkeys(LINE, "x")
    known = pd.DataFrame([names | {"rows": 10, "mape": 0.1, "share_mape": 0.6}])
    known.to_csv(tmp_path / LEDGER, index=False)
    new = pd.DataFrame([names | {"rows": 30, "mape": 0.3, "share_mape": np.nan}])
    (line,) = pd.read_csv(StringIO(joined_ledger(tmp_path / LEDGER, [new]))).to_dict("records")
    assert (line["rows"], line["mape"], line["share_mape"]) == (40, 0.25, 0.6)


def test_the_ledger_has_the_new_gpu_under_the_protocols_that_it_was_held_out_by(made: WarmStart, start: Bundle) -> None:
    ledger = read_ledger(made.bundle)
    own = ledger[(ledger["gpu"] == NEW) & (ledger["slice"] == "all")]
    assert set(own["protocol"]) == {"generation-out", "gpu-out", "rows-out"}
    assert set(own["estimator"]) == set(LEARNED)
    assert list(ledger) == list(read_ledger(start))
    errors = own.groupby("protocol")["mape"].mean()
    assert errors["rows-out"] < 0.7 * errors["generation-out"]
    assert (own[own["protocol"] == "rows-out"]["coverage"] >= RECIPE.level).all()
    assert made.bundle.entry("gemm")["metrics"]["generation_out"].keys() >= {NEW}


def test_the_manifest_says_where_it_started_and_every_digest(
    made: WarmStart, start: Bundle, tables: Mapping[str, Path]
) -> None:
    manifest = made.bundle.manifest
    assert manifest["start"]["bundle"] == start.id
    assert manifest["start"]["learned"] == sorted(LEARNED)
    assert manifest["id"].startswith("toy+")
    assert [table["name"] for table in manifest["tables"]] == ["old.parquet", "new.parquet"]
    for name in (LEDGER, REHEARSAL, FORGOTTEN):
        assert manifest[f"{Path(name).stem}_sha256"] == sha256_of(made.bundle.path / name)
    entry = made.bundle.entry("gemm")
    assert list(entry["references"]) == [*start.entry("gemm")["references"], NEW]
    assert entry["floors"].items() >= start.entry("gemm")["floors"].items()
    assert {path.suffix for path in made.bundle.path.iterdir()} == {".ubj", ".json", ".csv"}


def test_the_same_seed_makes_the_same_bytes(
    made: WarmStart, start: Bundle, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    again = warm_start([tables["new"]], start, RECIPE, tmp_path / "again", silent).bundle
    for path in made.bundle.path.iterdir():
        assert (again.path / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_warm_start_starts_again_warmly(made: WarmStart, tmp_path: Path) -> None:
    path = tmp_path / "more.parquet"
    more_rows = toy_table(("A100-PCIe-40GB",), seed=5)
    write_table(more_rows[more_rows["family"] == "gemm"], path)
    more = warm_start([path], made.bundle, RECIPE, tmp_path / "out", silent)
    assert len(kept_calls(more.bundle)["gemm"]) == 3
    assert NEW in set(more.forgotten["gpu"])
    assert list(more.bundle.entry("gemm")["references"])[-2:] == [NEW, "A100-PCIe-40GB"]
    assert more.bundle.id.startswith("toy+")
    ledger = read_ledger(more.bundle)
    assert set(ledger.loc[ledger["gpu"] == "A100-PCIe-40GB", "protocol"]) == {"gpu-out", "rows-out"}  # Ampere was known


def test_an_operator_that_the_bundle_lacks_is_trained_as_ever(start: Bundle, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    sizes = np.exp(draw.uniform(10, 20, 100)).round()
    cells = {"family": "collective", "kind": "all_reduce", "engine": "nccl", "n_gpus": 8, "message_bytes": sizes}
    write_table(pd.DataFrame({"gpu": "H100", "latency_s": 1e-5 + sizes / 2e11, **cells}), tmp_path / "all.parquet")
    made = warm_start([tmp_path / "all.parquet"], start, RECIPE, tmp_path / "out", silent)
    assert made.bundle.has("collective")
    assert made.learned["before"].isna().all()
    assert made.learned["after"].notna().all()
    assert len(made.forgotten) == 0
    assert set(pd.read_csv(made.bundle.path / "curves.csv")["estimator"]) == {
        *start.manifest["estimators"],
        "collective",
    }


def test_a_bundle_that_keeps_nothing_of_its_calls_says_so(
    start: Bundle, tables: Mapping[str, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    old = load_bundle(forgetful(start, tmp_path / "old"))
    made = warm_start([tables["gemm"]], old, RECIPE, tmp_path / "out", said.append)
    assert len(made.forgotten) == 0
    assert "bundle toy keeps nothing of its calls: what it forgets is neither held in place nor told" in said


def test_a_calibration_is_not_carried_over(start: Bundle, tables: Mapping[str, Path], tmp_path: Path) -> None:
    write_table(toy_table(("L4",), seed=9), tmp_path / "l4.parquet")
    calibrated, _ = calibrate(tmp_path / "l4.parquet", start, tmp_path / "calibrated")
    said: list[str] = []
    made = warm_start([tables["gemm"]], calibrated, RECIPE, tmp_path / "out", said.append).bundle
    assert made.calibrated == ()
    assert not (made.path / "calibration.parquet").exists()
    file = tmp_path / "calibrated" / "calibration.parquet"
    assert (
        f"the calibration of {calibrated.id} is not carried over; to learn its rows, give {file} as a table too" in said
    )
    again, _ = calibrate(tmp_path / "l4.parquet", made, tmp_path / "again")
    assert again.uncalibrated().id == made.id


# Laws of predictions


@given(
    sizes=st.lists(st.integers(1, 30_000), min_size=2, max_size=8),
    name=st.sampled_from([NEW, "A100", "L4", "RTX 4090", "GB200"]),
)
@settings(max_examples=20, deadline=None)
def test_more_tokens_are_never_faster_and_never_beat_the_bound(made: WarmStart, sizes: list[int], name: str) -> None:
    counts = np.array(sorted(sizes))
    ops: list[Op] = [
        Gemm(m=counts, n=4096, k=4096),
        Attention(phase="decode", batch=8, q_len=1, kv_len=counts, **HEADS),
        Pointwise(kind="rms_norm", rows=counts, cols=4096),
    ]
    for op in ops:
        found = predict_op(op, get_gpu(name), bundle=made.bundle)
        assert (np.diff(found.latency_s) >= -1e-6 * found.latency_s[:-1]).all(), op
        assert (found.bound_s <= found.low_s).all()
        assert (found.low_s <= found.high_s).all()


@given(share=st.floats(0.05, 1.0), size=st.integers(1, 30_000))
@settings(max_examples=15, deadline=None)
def test_a_worse_gpu_is_never_faster(made: WarmStart, share: float, size: int) -> None:
    gpu = get_gpu(NEW)
    worse = replace(gpu, mem_bytes_per_s=gpu.mem_bytes_per_s * share)
    for op in (Gemm(m=size, n=4096, k=4096), Attention(phase="decode", batch=8, q_len=1, kv_len=size, **HEADS)):
        full, less = (predict_op(op, chip, bundle=made.bundle).latency_s for chip in (gpu, worse))
        assert (less >= full * (1 - 1e-6)).all()


# What is refused


def refused(kind: type[Exception], tables: list[Path], start: Bundle, out: Path, recipe: Any = RECIPE) -> str:
    with pytest.raises(kind) as caught:
        warm_start(tables, start, recipe, out, silent)
    return str(caught.value)


def test_what_cannot_be_learned_is_refused(
    start: Bundle, tables: Mapping[str, Path], frame: pd.DataFrame, tmp_path: Path
) -> None:
    out, new, bad = tmp_path / "out", tables["new"], tmp_path / "bad.parquet"
    assert refused(InvalidRequest, [new], start, start.path) == (
        f"{start.path} holds a bundle already; give another folder or remove it."
    )
    assert refused(InvalidRequest, [tables["old"]], start, out) == (
        "bundle toy was made from all of these tables; give one with new rows."
    )
    assert refused(InvalidRequest, [new], start, out, replace(RECIPE, level=0.9)) == (
        "level is 0.9; that of bundle toy is 0.8, and must stay."
    )
    write_table(frame.assign(gpu="Quantum 9000"), bad)
    assert refused(InvalidTable, [bad], start, out) == f"{bad} has no usable row; `predictor check {bad}` says why."
    missing = tmp_path / "none.parquet"
    assert refused(InvalidTable, [missing], start, out).startswith(f"{missing} does not exist")
    assert not out.exists()


def test_a_bundle_of_other_features_is_refused(start: Bundle, tables: Mapping[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(start.path, tmp_path / "copy"))
    manifest = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    manifest["estimators"]["gemm"]["features"] = ["m"]
    (copy / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    told = refused(InvalidBundle, [tables["gemm"]], load_bundle(copy), tmp_path / "out")
    assert told == "the estimator of gemm was made with other features; train from all tables instead."


def test_damaged_statistics_are_refused(start: Bundle, tables: Mapping[str, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(start.path, tmp_path / "copy"))
    (copy / REHEARSAL).write_text("{}", encoding="utf-8")
    told = refused(InvalidBundle, [tables["gemm"]], load_bundle(copy), tmp_path / "out")
    assert told == (
        f"{copy / REHEARSAL} is corrupt (sha256 differs from the manifest); install or copy the bundle again."
    )


def test_a_killed_warm_start_leaves_nothing(
    start: Bundle, tables: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor.learning.continual.warm_start, "write_rehearsal", killed)
    with pytest.raises(KeyboardInterrupt):
        warm_start([tables["gemm"]], start, RECIPE, tmp_path / "out", silent)
    assert list(tmp_path.iterdir()) == []
