"""Where jobs write: never over what they read, one job at a time, in parts that every core has some of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from predictor import predict_frame
from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.prediction.jobs.batch import run
from predictor.prediction.jobs.lock import held
from predictor.prediction.jobs.parts import PART_MS, ROW_MS, cut, row_ms
from predictor.prediction.jobs.storage import output_of

ASKED = pd.DataFrame({"model": "Qwen2.5-0.5B", "gpu": ["H100", "L4"]})


@pytest.fixture(params=["parquet", "csv"])
def table(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    file = tmp_path / f"in.{request.param}"
    (ASKED.to_csv if request.param == "csv" else ASKED.to_parquet)(file, index=False)
    return file


@pytest.mark.parametrize("way", ["same", "spelling", "symlink", "hardlink", "input is a link", "folder"])
def test_an_output_never_takes_the_place_of_its_input(
    way: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = table.name, table.name
    link = Path(f"link{table.suffix}")
    if way == "spelling":
        out = f"sub/../{table.name}"
    elif way == "hardlink":
        os.link(table, link)
        out = str(link)
    elif way != "same":
        link.symlink_to(table)
        source, out = (str(link), out) if way == "input is a link" else (source, str(link))
    if way == "folder":
        link.unlink()
        source, out = ".", f"./other{table.suffix}"
    before = table.read_bytes()
    assert main(["batch", source, "--out", out, "--jobs", "1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"out is {Path(out)}, w" in said and "give another --out" in said
    assert table.read_bytes() == before and not list(table.parent.glob("*.parts"))


def test_parts_never_lie_among_what_is_read(tmp_path: Path) -> None:
    """The folder of parts that a killed job left, as the input of the job that is to finish it."""
    folder = tmp_path / "out.parquet.parts"
    folder.mkdir()
    ASKED.to_parquet(folder / "part-000000.parquet")
    with pytest.raises(InvalidRequest, match="whose parts would lie among what is read"):
        run(str(folder), tmp_path / "out.parquet", n_jobs=1)
    with pytest.raises(InvalidRequest, match="whose parts would lie among what is read"):
        run(str(folder / "part-000000.parquet"), folder, n_jobs=1)


def test_a_url_that_is_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    monkeypatch.chdir(tmp_path)
    ASKED.to_parquet("in.parquet")
    try:
        for key in ("in.parquet", "folder/0.parquet"):
            memory.put_file("in.parquet", f"/bucket/{key}")
        for source, out in (
            ("in.parquet", "in.parquet"),
            ("in.parquet", "sub/../in.parquet"),
            ("folder", "folder"),
            ("folder", "folder/out.parquet"),
            ("folder/0.parquet", "folder"),
        ):
            with pytest.raises(InvalidRequest, match=r"where what is read lies|holds 0\.parquet; give an empty folder"):
                run(f"memory://bucket/{source}", f"memory://bucket/{out}", n_jobs=1)
        with pytest.raises(InvalidRequest, match="which is what is read"):
            run(f"file://{tmp_path}/in.parquet", "in.parquet", n_jobs=1)
        assert run("memory://bucket/in.parquet", "memory://bucket/in2.parquet", n_jobs=1).rows == len(ASKED)
    finally:
        memory.store.clear()


def test_a_sweep_does_not_write_over_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = '[request]\nmodel = "Qwen2.5-0.5B"\ngpu = "H100"\n'
    for name in ("sweep.csv", "sweep"):
        Path(name).write_text(spec)
        assert main(["sweep", name, "--out", f"./{name}", "--quiet"]) == 2
        assert "which is what is read" in capsys.readouterr().err and Path(name).read_text() == spec


@pytest.mark.parametrize("name", ["o.xlsx", "o.parquet.gz", "o.CSV", "o.json", "v1.2", "memory://bucket/o.xlsx"])
def test_an_ending_that_nothing_writes_is_refused_with_those_that_work(name: str) -> None:
    with pytest.raises(
        InvalidRequest, match=r"written as \.parquet or \.csv, or as a folder of parts, which has no end"
    ):
        output_of(name)


def test_a_folder_may_have_a_dot_where_it_is_said_to_be_one(tmp_path: Path) -> None:
    assert output_of(f"{tmp_path}/v1.2/").file is None
    (tmp_path / "v1.3").mkdir()
    assert output_of(tmp_path / "v1.3").file is None


def test_a_column_that_csv_cannot_hold_is_said_before_any_work(tmp_path: Path) -> None:
    ASKED.assign(tags=[[1], [2]]).to_parquet(tmp_path / "in.parquet")
    with pytest.raises(InvalidRequest, match=r"column tags is list<.*>, which CSV cannot hold; write \.parquet"):
        run(str(tmp_path / "in.parquet"), tmp_path / "out.csv", n_jobs=1)
    assert run(str(tmp_path / "in.parquet"), tmp_path / "out.parquet", n_jobs=1).failed == 0


def test_a_misspelt_column_is_said_once_and_refused_where_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"id": 1, "notes_of_mine": "", "mode": "x", "gpus": 4, "latency": 1.0}
    ASKED.assign(btach=4, Input_Len=8, **own).to_csv(tmp_path / "in.csv", index=False)
    arguments = ["batch", str(tmp_path / "in.csv"), "--jobs", "1", "--rows-per-part", "1", "--quiet", "--out"]
    assert main([*arguments, str(tmp_path / "out.csv")]) == 0
    said = capsys.readouterr().err
    listed = '"btach" (did you mean batch?), "Input_Len" (did you mean input_len?), "gpus" (did you mean n_gpus?)'
    assert said == f"Note: nothing reads the columns {listed}.\n"
    assert main([*arguments, str(tmp_path / "b.csv"), "--strict"]) == 2
    assert '"btach" (did you mean batch?)' in capsys.readouterr().err and not (tmp_path / "b.csv").exists()
    with pytest.warns(UserWarning, match='nothing reads the column "btach"'):
        predict_frame(ASKED.assign(btach=4))


def test_a_misspelt_column_of_operators_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"family": ["gemm"], "gpu": "H100", "m": 1, "n": 64, "k": 64, "dtpye": "bf16"})
    table.to_csv(tmp_path / "in.csv", index=False)
    main(["batch", str(tmp_path / "in.csv"), "--ops", "--out", str(tmp_path / "out.csv"), "--jobs", "1", "--quiet"])
    assert '"dtpye" (did you mean dtype?)' in capsys.readouterr().err


def test_a_result_in_the_table_is_refused_before_any_work(tmp_path: Path) -> None:
    ASKED.assign(notes="mine").to_parquet(tmp_path / "in.parquet")
    with pytest.raises(InvalidRequest, match="already has a column notes, which is a result; rename it"):
        run(str(tmp_path / "in.parquet"), tmp_path / "out", n_jobs=1)
    assert not (tmp_path / "out").exists()


def test_a_second_job_on_one_output_is_told_who_holds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ASKED.to_parquet(tmp_path / "in.parquet")
    for name in ("out", "out.parquet"):
        out = tmp_path / name
        folder = output_of(out).folder
        folder.mkdir()
        arguments = ["batch", str(tmp_path / "in.parquet"), "--out", str(out), "--jobs", "1", "--quiet"]
        with held(folder):
            assert main(arguments) == 2
            said = capsys.readouterr().err
            assert f"error: {folder} is written by process {os.getpid()} on " in said and "give another --out" in said
        assert main(arguments) == 0
        assert not list(out.glob(".*")) if out.is_dir() else not folder.exists()


def test_a_job_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    table = pd.DataFrame({"model": "Qwen2.5-0.5B", "gpu": "H100", "input_len": range(100, 700)})
    table.to_parquet(tmp_path / "in.parquet")
    out = tmp_path / "out"
    arguments = ["batch", str(tmp_path / "in.parquet"), "--out", str(out), "--rows-per-part", "20", "--quiet"]
    code = f"from predictor.cli import main; main({[*arguments, '--jobs', '2']!r})"
    killed = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    until = time.monotonic() + 120
    while not list(out.glob("part-*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    with pytest.raises(InvalidRequest, match=f"is written by process {killed.pid} on"):
        run(str(tmp_path / "in.parquet"), out, n_jobs=1, rows_per_part=20)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert run(str(tmp_path / "in.parquet"), out, n_jobs=1, rows_per_part=20).rows == len(table)


def slow(**columns: Any) -> pa.Table:
    return pa.table({"model": ["Qwen2.5-0.5B"] * 100, "gpu": ["H100"] * 100, "batch": [*range(1, 101)], **columns})


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"scheduling": ["continuous"] * 100}, "continuous"),
        ({"scheduling": ["continuous"] * 100, "engine": ["torch"] * 100}, "continuous"),
        ({"request_rate": [2.0] * 100}, "continuous"),
        ({"request_rate": ["2"] * 100}, "continuous"),
        ({"phase": [" train "] * 100, "request_rate": [[1]] * 100}, "train"),
        ({"engine": ["torch"] * 100}, "torch"),
        ({"request_rate": [0.0] * 100, "scheduling": [""] * 100}, ""),
        ({"phase": ["serve"] * 100, "engine": [None] * 100}, ""),
        ({"phase": [1] * 100, "scheduling": [True] * 100, "request_rate": [b"x"] * 100}, ""),
    ],
)
def test_slow_rows_are_known_by_their_cells(columns: dict[str, Any], kind: str) -> None:
    table = slow(**columns)
    assert row_ms(table).tolist() == [ROW_MS.get(kind, 0)] * 100
    assert [row for piece in cut(table) for row in piece["batch"].to_pylist()] == [*range(1, 101)]
    sizes = [piece.num_rows for piece in cut(table)]
    assert sizes == [100] if not kind else max(sizes) * ROW_MS[kind] <= PART_MS + ROW_MS[kind]


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Any]:
    """The sizes of the parts of a job."""

    def of(table: pd.DataFrame, name: str, **settings: Any) -> list[int]:
        table.to_parquet(tmp_path / f"{name}.parquet")
        run(str(tmp_path / f"{name}.parquet"), tmp_path / name, **settings)
        return [len(pd.read_parquet(part)) for part in sorted((tmp_path / name).glob("*.parquet"))]

    yield of


def test_slow_rows_become_several_parts_however_many_work(parts: Any, tmp_path: Path) -> None:
    """Of any number of processes, so that a job may go on elsewhere; with rows per part they are as asked."""
    table = pd.DataFrame({"model": "Qwen2.5-0.5B", "gpu": "H100", "scheduling": "continuous", "batch": range(1, 51)})
    assert parts(table, "one", n_jobs=1) == parts(table, "two", n_jobs=2) == [42, 8]
    assert parts(table, "asked", n_jobs=1, rows_per_part=50) == [50]
    two, asked = (list(map(pd.read_parquet, sorted((tmp_path / name).glob("*.parquet")))) for name in ("two", "asked"))
    pd.testing.assert_frame_equal(pd.concat(two, ignore_index=True), asked[0])
    assert run(str(tmp_path / "one.parquet"), tmp_path / "one", n_jobs=1).kept == 2
    assert parts(table.assign(scheduling="static"), "fast", n_jobs=1) == [50]


def test_a_part_ends_where_another_gpu_begins_if_that_is_near() -> None:
    table = slow(scheduling=["continuous"] * 100)
    gpus = [*["H100"] * 45, *["A100"] * 10, *["L4"] * 45]
    sizes = [piece.num_rows for piece in cut(table.set_column(1, "gpu", pa.array(gpus)))]
    assert sizes == [45, 42, 13] and [piece.num_rows for piece in cut(table)] == [42, 42, 16]
