"""The whole loop on this machine's CPU: describe it, measure it, calibrate or train, predict, compare, watch."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from toy import RECIPE, toy_table

from predictor.cli import main
from predictor.errors import InvalidRequest, InvalidSpec, UnknownGpu
from predictor.estimators.bundle import load_bundle
from predictor.estimators.samples import training_sets
from predictor.hardware.gpu import OWN_GPUS, add_gpus, get_gpu
from predictor.learning.evaluate import evaluate, predicted_rows
from predictor.learning.train import train
from predictor.measurements.bench import device as bench_device, run as benching
from predictor.measurements.bench.operators import FAMILIES, KINDS, shapes
from predictor.measurements.bench.run import Pace, bench, seconds_of
from predictor.measurements.schema import conform, op_of, op_type, read_table, write_table
from predictor.ops import FAMILIES as OPS

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
source = "a guess for tests, ten times what a core can do"
peak_tflops = { fp32 = 2.0 }
"""
ROWS = 60
NO_TORCH = "pip install 'gpu-predictor[torch]'"


class Mine(NamedTuple):
    """A spec file, every second row measured here, and the others."""

    spec: Path
    used: Path
    left_out: Path


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(OWN_GPUS, "")
    file = tmp_path / "cpu.toml"
    file.write_text(CPU)
    return file


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mine]:
    """Measured once for all tests, stopped by Ctrl-C at ROWS rows."""
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    folder, threads = tmp_path_factory.mktemp("mine"), torch.get_num_threads()
    file, out = folder / "cpu.toml", folder / "all.parquet"
    file.write_text(CPU)

    def stop(rows: int, share: float) -> None:
        if rows == ROWS:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(OWN_GPUS, "")
        patch.setattr(bench_device, "AIM_S", 0.005)
        patch.setattr(benching, "SLOWEST_SHARE", 0.0005)
        torch.set_num_threads(1)  # with one thread other programs disturb least
        bench(out, str(file), ["gemm", "pointwise"], budget_s=60, progress=stop)
        torch.set_num_threads(threads)
        rows = read_table(out)
        half = rows.groupby("family", observed=True).cumcount() % 2 == 0
        write_table(rows[half], folder / "used.parquet")
        write_table(rows[~half], folder / "left_out.parquet")
        yield Mine(file, folder / "used.parquet", folder / "left_out.parquet")


@pytest.fixture
def known(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> Mine:
    monkeypatch.setenv(OWN_GPUS, str(mine.spec))
    return mine


@pytest.fixture(scope="module")
def calibrated(mine: Mine) -> Path:
    out = mine.spec.with_name("bundle")
    assert main(["calibrate", "--data", str(mine.used), "--out", str(out), "--spec", str(mine.spec)]) == 0
    return out


def off(table: Path, bundle: str) -> float:
    """Median size of log(predicted / measured)."""
    opened = load_bundle(bundle)
    found = [predicted_rows(rows, opened) for rows in training_sets(read_table(table)).values()]
    rows = pd.concat(found)
    return float(np.median(np.abs(np.log(rows["predicted_s"] / rows["latency_s"]))))


def test_what_was_measured_before_ctrl_c_is_kept_with_its_environment(known: Mine) -> None:
    rows = read_table(known.used.with_name("all.parquet"))
    assert len(rows) == ROWS and (rows["gpu"] == "this-cpu").all() and (rows["engine"] == "torch").all()
    assert (rows["latency_s"] > 0).all() and set(rows["family"]) == {"gemm", "pointwise"}
    found = pq.read_table(known.used.with_name("all.parquet"))
    assert {"spread", "calls"} <= set(found.column_names)
    told = json.loads(found.schema.metadata[b"environment"])
    assert told["gpu"] == "this-cpu" and told["threads"] == 1
    assert main(["check", str(known.used)]) == 0


def test_calibrated_it_predicts_rows_it_was_not_told_of(
    known: Mine, calibrated: Path, tmp_path: Path, capsys: Any
) -> None:
    assert off(known.left_out, str(calibrated)) < 0.5 * off(known.left_out, "")
    gemm = ["op", "gemm", "--m", "64", "--n", "1024", "--k", "1024", "--dtype", "fp32", "--gpu", "this-cpu", "--json"]
    answers = []
    for bundle in ("", str(calibrated)):
        capsys.readouterr()
        assert main([*gemm, "--bundle", bundle]) == 0
        answers += json.loads(capsys.readouterr().out)
    before, after = answers
    assert (before["basis"], after["basis"]) == ("unseen-gpu", "calibrated-gpu")
    assert after["uncalibrated_s"] == pytest.approx(before["latency_s"])
    assert main(["evaluate", str(known.left_out), "--bundle", str(calibrated)]) == 0
    assert main(["monitor", "--data", str(known.left_out), "--bundle", str(calibrated)]) in (0, 1)
    slow = read_table(known.left_out).assign(latency_s=lambda rows: 200 * rows["latency_s"])
    write_table(slow, tmp_path / "slow.parquet")
    assert main(["monitor", "--data", str(tmp_path / "slow.parquet"), "--bundle", str(calibrated)]) == 1


def test_a_bundle_knows_the_gpu_that_it_was_calibrated_for(calibrated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OWN_GPUS, "")
    load_bundle.__globals__["_open"].cache_clear()
    with pytest.raises(UnknownGpu):
        get_gpu("this-cpu")
    load_bundle(calibrated)
    assert get_gpu("this-cpu").sms == 2


@pytest.mark.usefixtures("in_threads")
def test_trained_on_old_and_new_rows_the_cpu_is_a_seen_gpu(known: Mine, tmp_path: Path) -> None:
    old, new, out = tmp_path / "old.parquet", tmp_path / "new.parquet", tmp_path / "bundle"
    for table, rows in ((old, toy_table(("A10", "H100-SXM-80GB", "L4"))), (new, read_table(known.used))):
        write_table(rows[rows["family"] == "gemm"], table)
    train([old, new], replace(RECIPE, reference_rounds=15), out, lambda text: None)
    assert evaluate(new, load_bundle(out))["seen"].all()
    assert off(new, str(out)) < 0.7 * off(new, "")


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_ops_of_the_schema(family: str) -> None:
    assert family in {kind.family for kind in OPS}
    endless = shapes(family, 0)
    for _ in range(30):
        shape = next(endless)
        frame = conform(pd.DataFrame([{**shape, "gpu": "L4", "latency_s": 1.0}]))
        assert float(np.ravel(op_of(frame, family, shape.get("phase", "")).bytes_moved())[0]) > 0
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


SMALL: tuple[dict[str, Any], ...] = (
    {"family": "gemm", "m": 3, "n": 32, "k": 64},
    {"family": "gemm", "m": 3, "n": 32, "k": 64, "batch": 5},
    {"family": "gemm", "m": 3, "n": 32, "k": 64, "dtype": "fp8"},
    {"family": "attention", "phase": "decode", "batch": 2, "q_len": 1, "kv_len": 9, "heads": 4, "kv_heads": 2}
    | {"head_dim": 8, "kv_dtype": "fp32"},
    {"family": "attention", "phase": "prefill", "batch": 2, "q_len": 9, "kv_len": 9, "heads": 4, "kv_heads": 4}
    | {"head_dim": 8, "kv_dtype": "fp32"},
    {"family": "conv", "batch": 2, "in_channels": 4, "out_channels": 6, "size": 8, "kernel": 3, "stride": 2}
    | {"padding": 1, "groups": 2},
    *({"family": "pointwise", "kind": kind, "rows": 3, "cols": 4096} for kind in KINDS),
)


@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: " ".join(str(cell) for cell in shape.values()))
def test_a_call_reads_and_writes_what_the_op_says(shape: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    shape = {"dtype": "fp32"} | shape
    wide = torch.bfloat16 if shape["dtype"] == "fp8" else torch.float32
    call = FAMILIES[shape["family"]].call(shape, torch, lambda *size: torch.randn(*size, dtype=wide))
    tensors = call.tensors()
    touched = [*tensors, call.run(*tensors)]
    op = op_type(shape["family"])(**{name: value for name, value in shape.items() if name != "family"})
    assert FAMILIES[shape["family"]].able(shape)
    assert sum(each.numel() * each.element_size() for each in touched) == pytest.approx(op.bytes_moved(), rel=1e-3)


def test_latent_attention_has_the_sizes_of_the_op() -> None:
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    shape = {"phase": "prefill", "batch": 2, "q_len": 5, "kv_len": 5, "heads": 3, "dtype": "fp32", "kv_dtype": "fp32"}
    call = FAMILIES["mla"].call(shape, torch, torch.randn)
    assert call.run(*call.tensors()).shape == (2, 3, 5, 128) and FAMILIES["mla"].able(shape)
    assert not FAMILIES["mla"].able({**shape, "phase": "decode", "q_len": 1})


def test_shapes_that_torch_has_no_such_kernel_for_are_left_out() -> None:
    attention = SMALL[3] | {"dtype": "fp32"}
    for change in ({"window": 4}, {"kv_dtype": "fp8"}, {"q_len": 2}, {"kv_heads": 3}):
        assert not FAMILIES["attention"].able(attention | change)
    assert not FAMILIES["attention"].able(SMALL[4] | {"dtype": "fp32", "q_len": 4})
    assert not FAMILIES["pointwise"].able({"kind": "add_rms_norm"})
    assert not FAMILIES["gemm"].able({"dtype": "fp8", "n": 30, "k": 64})


def test_the_queue_of_a_gpu_is_filled_before_the_host_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for torch.cuda notes what is asked of it, in order."""
    asked: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            asked.append("record")

        def elapsed_time(self, after: Any) -> float:
            return 2.0  # milliseconds

    def sleep(cycles: int) -> None:
        asked.append("sleep")

    def state(torch: Any) -> dict[str, float]:
        asked.append("clocks")
        return {"power_w": 70.0}

    monkeypatch.setattr(bench_device, "_clock_and_power", state)
    cuda = SimpleNamespace(Event=Event, _sleep=sleep, synchronize=lambda: asked.append("wait"))
    device = bench_device.Device(SimpleNamespace(cuda=cuda), "cuda", get_gpu("L4"))
    found = bench_device._timed(lambda x: asked.append("run"), [(1,), (2,)], device)
    assert found == ([2e-3] * bench_device.MOST_CALLS, {"power_w": 70.0})
    queued = asked[asked.index("sleep") + 1 :]
    assert queued == ["record", "run", "record"] * bench_device.MOST_CALLS + ["clocks", "wait"]
    assert asked[: asked.index("sleep")].count("run") > bench_device.MOST_CALLS  # the memory is there


def test_on_a_slow_device_smaller_shapes_are_drawn(spec: Path) -> None:
    gpu = get_gpu(str(spec))

    def most(pace: Pace) -> float:
        drawn = benching._plan(gpu, ["gemm"], ["fp32"], 60.0, 0, {"gemm": pace})
        return max(benching._bound_s(next(drawn), gpu) for _ in range(20))

    assert most(Pace(2e3, 1.0)) < most(Pace(2e1, 1.0)) <= most(Pace())
    assert most(Pace(1e9, 1.0)) > 0  # none is quick enough; the quickest is measured


def lines(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_wrong_is_said_before_anything_is_measured(spec: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("torch", reason=NO_TORCH)
    out = tmp_path / "mine.parquet"
    (tmp_path / "shapes.csv").write_text("family,dtype,m,n,k\ngemm,bf16,1,2,3\n")
    known = ", ".join(FAMILIES)
    for options, said in (
        (["--gpu", spec, "--families", "gem"], f"families has gem; it must be one of {known}."),
        (["--gpu", spec, "--families", "mla"], "families has mla; torch has no fused kernel for it on cpu. Leave it."),
        (
            ["--gpu", spec, "--dtypes", "bf16"],
            "dtypes has bf16; this-cpu has no such peak. Add it to the spec or leave it.",
        ),
        (["--gpu", spec, "--dtypes", "fp8"], "dtypes has fp8; bench times it on NVIDIA GPUs only. Leave it."),
        (["--gpu", "L5"], 'no GPU called "L5"; `predictor gpus` lists all; describe your own in a .toml file.'),
        ([], "there is no GPU here; describe this cpu in a spec file and give --gpu FILE.toml."),
        (["--gpu", spec, "--budget", "soon"], 'budget is "soon"; give a time above 0 such as 5min, 90s or 1h.'),
        (
            ["--gpu", spec, "--shapes", tmp_path / "shapes.csv"],
            f"{tmp_path}/shapes.csv has no row of gemm, attention, pointwise, conv in fp32 that torch runs; "
            "bench runs no other.",
        ),
        (["--gpu", spec, "--out", tmp_path], f"{tmp_path} is a folder; give --out a file."),
        (
            ["--gpu", spec, "--out", tmp_path / "no" / "x"],
            f"{tmp_path}/no is not a folder; create it or choose another --out.",
        ),
    ):
        assert main(["bench", "--out", str(out), *map(str, options)]) == 2
        assert capsys.readouterr().err.strip().splitlines()[-1] == f"error: {said}"
    assert lines(tmp_path) == ["cpu.toml", "shapes.csv"]


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(bench_device, "find_spec", lambda name: None)
    assert main(["bench", "--out", str(tmp_path / "mine.parquet")]) == 2
    assert capsys.readouterr().err == "error: bench needs torch; pip install 'gpu-predictor[torch]'.\n"
    assert lines(tmp_path) == []


def test_what_torch_refuses_is_said(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason=NO_TORCH)

    def refuse(*_: Any) -> None:
        raise RuntimeError("out of\nmemory.")

    monkeypatch.setattr(benching, "_measured", refuse)
    with pytest.raises(InvalidRequest) as error:
        bench(tmp_path / "mine.parquet", str(spec), budget_s=0.2)
    said = "nothing could be measured; torch says: out of memory. Give other --families or --dtypes."
    assert str(error.value) == said and lines(tmp_path) == ["cpu.toml"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_killed_it_leaves_nothing_and_interrupted_what_was_measured(spec: Path, end: signal.Signals) -> None:
    pytest.importorskip("torch", reason=NO_TORCH)
    out = spec.with_name("mine.parquet")
    code = (
        "import sys; from predictor.measurements.bench.run import bench\n"
        "bench(*sys.argv[1:], ['pointwise'], progress=lambda rows, share: print(rows, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code, out, spec], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        next(line for line in process.stdout if line == "2\n")
        process.send_signal(end)
    assert process.returncode == (0 if end == signal.SIGINT else -signal.SIGKILL)
    assert lines(spec.parent) == ["cpu.toml", *(["mine.parquet"] if end == signal.SIGINT else [])]
    assert end == signal.SIGKILL or len(read_table(out)) >= 2


def refused(tmp_path: Path, capsys: Any, table: pd.DataFrame) -> str:
    """What calibrate says of a table; it must leave nothing."""
    table.to_csv(tmp_path / "mine.csv", index=False)
    assert main(["calibrate", "--data", str(tmp_path / "mine.csv"), "--out", str(tmp_path / "bundle")]) == 2
    assert "bundle" not in " ".join(lines(tmp_path))
    return str(capsys.readouterr().err).removeprefix("error: ").strip().replace(f"{tmp_path}/", "")


def test_tables_that_calibrate_cannot_use_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv(OWN_GPUS, "")
    row = {"family": "gemm", "m": 64, "n": 1024, "k": 1024, "dtype": "fp16", "gpu": "L4", "latency_s": 1e-4}
    assert refused(tmp_path, capsys, pd.DataFrame([row, {**row, "m": 65}])) == (
        "mine.csv has fewer than 8 usable rows of every operator; measure more, `predictor bench` does."
    )
    assert refused(tmp_path, capsys, pd.DataFrame([row]).rename(columns={"latency_s": "ms", "family": "op"})) == (
        "the table has no column family, latency_s; a measurement table needs family, gpu, latency_s and the shape "
        "columns of its families (see predictor.measurements.schema)."
    )
    assert refused(tmp_path, capsys, pd.DataFrame([{**row, "gpu": "this-cpu"}] * 9)) == (
        "mine.csv has no usable row; `predictor check mine.csv` says why. Most often: "
        'no GPU called "this-cpu"; `predictor gpus` lists all; describe your own in a .toml file.'
    )


def test_budgets_are_times() -> None:
    assert [seconds_of(text) for text in ("5min", "90s", "1h", "300", "0.5 m")] == [300, 90, 3600, 300, 30]
    for text in ("", "-1s", "soon", "0s"):
        with pytest.raises(InvalidRequest, match="give a time above 0"):
            seconds_of(text)


def test_extra_columns_and_texts_do_not_change_the_table(tmp_path: Path) -> None:
    frame = conform(pd.DataFrame([{"family": "gemm", "m": 1, "n": 2, "k": 3, "gpu": "L4", "latency_s": 1.0}]))
    write_table(frame, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet")["m"].tolist() == [1.0]
