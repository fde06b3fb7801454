"""The whole loop on this machine's CPU: describe it, measure it, calibrate or train, predict, compare."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from predictor import bench as benching
from predictor.bench import bench, seconds_of
from predictor.bench_ops import FAMILIES, shapes
from predictor.bundle import load_bundle
from predictor.calibrate import calibrate
from predictor.cli import main
from predictor.errors import InvalidRequest, InvalidSpec, UnknownGpu
from predictor.evaluate import evaluate
from predictor.gpu import OWN_GPUS, add_gpus, get_gpu
from predictor.ops import FAMILIES as OPS
from predictor.schema import conform, op_of, read_table, write_table

CPU = """
name = "this-cpu"
vendor = "any"
generation = "CPU"
release_year = 2023
sms = 2
boost_clock_mhz = 3000
mem_gib = 8
mem_bandwidth_gb_per_s = 60
l2_mib = 4
smem_kib_per_sm = 0
pcie_gb_per_s = 0
tdp_w = 0
source = "a guess for tests"
peak_tflops = { fp32 = 2.0 }
"""


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(OWN_GPUS, "")
    file = tmp_path / "cpu.toml"
    file.write_text(CPU)
    return file


def test_measure_calibrate_predict_compare(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="pip install 'gpu-predictor[torch]'")
    monkeypatch.setattr(benching, "SLOWEST_SHARE", 0.001)
    mine, out = tmp_path / "mine.parquet", tmp_path / "bundle"
    assert main(["bench", "--out", str(mine), "--gpu", str(spec), "--families", "gemm", "--budget", "8s"]) == 0
    rows = read_table(mine)
    assert (rows["gpu"] == "this-cpu").all() and (rows["latency_s"] > 0).all() and (rows["engine"] == "torch").all()
    found = pq.read_table(mine)
    assert {"spread", "calls"} <= set(found.column_names)
    assert json.loads(found.schema.metadata[b"environment"])["gpu"] == "this-cpu"
    assert main(["check", str(mine), "--spec", str(spec)]) == 0
    before = evaluate(mine, load_bundle())
    made, lines = calibrate(mine, load_bundle(), out)
    assert evaluate(mine, made)["mape"].mean() < before["mape"].mean() or lines["rows"].sum() < 40
    assert (out / "gpus" / "this-cpu.toml").exists()
    monkeypatch.setenv(OWN_GPUS, "")  # another process, which has the bundle alone
    load_bundle.__globals__["_open"].cache_clear()
    assert get_gpu_of(out) == "this-cpu"


def get_gpu_of(bundle: Path) -> str:
    load_bundle(bundle)
    return get_gpu("this-cpu").name


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_ops_of_the_schema(family: str) -> None:
    assert family in {kind.family for kind in OPS}
    endless = shapes(family, 0)
    for _ in range(30):
        shape = next(endless)
        frame = conform(pd.DataFrame([{**shape, "gpu": "L4", "latency_s": 1.0}]))
        assert float(np.ravel(op_of(frame, family, shape.get("phase", "")).flops())[0]) > 0
    assert next(shapes(family, 1)) == next(shapes(family, 1)) != next(shapes(family, 2))


def test_own_gpus_are_in_the_catalogue_once_added(spec: Path) -> None:
    with pytest.raises(UnknownGpu):
        get_gpu("this-cpu")
    add_gpus(spec)
    assert get_gpu("This CPU").peak("fp32") == 2e12
    other = spec.with_name("other.toml")
    other.write_text(CPU.replace("this-cpu", "H100-SXM-80GB"))
    with pytest.raises(InvalidSpec, match="describes another H100-SXM-80GB than the catalogue"):
        add_gpus(other)
    assert get_gpu("this-cpu").sms == 2


def test_what_is_wrong_is_said_before_anything_is_measured(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.parquet"
    with pytest.raises(InvalidRequest, match="is not a folder"):
        bench(tmp_path / "no" / "mine.parquet")
    pytest.importorskip("torch", reason="pip install 'gpu-predictor[torch]'")
    for settings, said in (
        ({"gpu": str(spec), "families": ["gem"]}, "families has gem; it must be one of gemm, attention"),
        ({"gpu": str(spec), "dtypes": ["bf16"]}, "dtypes has bf16; this-cpu has no such peak"),
        ({"gpu": ""}, "there is no GPU here|torch calls the device"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            bench(out, **settings)  # type: ignore[arg-type]
    assert not out.exists()


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benching, "find_spec", lambda name: None)
    with pytest.raises(InvalidRequest, match=r"pip install 'gpu-predictor\[torch\]'"):
        bench(tmp_path / "mine.parquet")


def test_budgets_are_times() -> None:
    assert [seconds_of(text) for text in ("5min", "90s", "1h", "300", "0.5 m")] == [300, 90, 3600, 300, 30]
    for text in ("", "-1s", "soon", "0s"):
        with pytest.raises(InvalidRequest, match="give a time above 0"):
            seconds_of(text)


def test_extra_columns_and_texts_do_not_change_the_table(tmp_path: Path) -> None:
    frame = conform(pd.DataFrame([{"family": "gemm", "m": 1, "n": 2, "k": 3, "gpu": "L4", "latency_s": 1.0}]))
    write_table(frame, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["m"].tolist() == [1.0]
