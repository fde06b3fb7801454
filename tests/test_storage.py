"""Outputs of jobs: URLs, full and read-only disks, damaged parts; nothing is lost, and it is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from predictor.cli import main
from predictor.errors import InvalidRequest, InvalidTable
from predictor.prediction.jobs.batch import Summary, run

ROWS = 30


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "in.parquet"
    frame = pd.DataFrame({"id": range(ROWS), "model": "Llama-3.1-8B", "gpu": "H100", "note": "n" * 50_000})
    frame.assign(note=[f"{i} {note}" for i, note in enumerate(frame["note"])]).to_parquet(file)
    return file


@pytest.fixture
def memory() -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec")
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


def job(table: Path | str, out: Path | str) -> Summary:
    return run(str(table), out, n_jobs=1, rows_per_part=10)


def test_a_url_gets_the_finished_file_and_nothing_is_left_here(table: Path, memory: Any) -> None:
    job(table, "memory://bucket/out.parquet")
    with memory.open("/bucket/out.parquet") as file:
        assert list(pd.read_parquet(file)["id"]) == list(range(ROWS))
    assert list(memory.find("/bucket")) == ["/bucket/out.parquet"]
    assert list(table.parent.iterdir()) == [table]


def test_a_url_without_an_ending_gets_the_parts(table: Path, memory: Any) -> None:
    job(table, "memory://bucket/out")
    assert [Path(file).name for file in memory.find("/bucket/out")] == [f"part-00000{i}.parquet" for i in range(3)]
    with pytest.raises(InvalidRequest, match=r"holds part-000000\.parquet; give an empty folder"):
        job(table, "memory://bucket/out")


def test_a_url_in_is_read(table: Path, memory: Any) -> None:
    memory.put_file(str(table), "/bucket/in.parquet")
    assert job("memory://bucket/in.parquet", "out.parquet").rows == ROWS
    with pytest.raises(InvalidTable, match=r"memory://bucket/no.parquet cannot be read \(FileNotFoundError"):
        job("memory://bucket/no.parquet", "b.parquet")


def test_a_file_url_is_a_path(table: Path, memory: Any) -> None:
    job(table, f"file://{table.parent}/out.csv")
    assert len(pd.read_csv(table.parent / "out.csv")) == ROWS


def test_a_url_that_cannot_be_written_is_said_before_any_work(
    table: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("forbidden")

    monkeypatch.setattr(type(memory), "pipe_file", refuse)
    with pytest.raises(InvalidRequest, match=r"memory://bucket/out\.parquet cannot be written \(PermissionError: forb"):
        job(table, "memory://bucket/out.parquet")
    assert list(table.parent.iterdir()) == [table]
    with pytest.raises(InvalidTable, match="nowhere://x cannot be opened"):
        job(table, "nowhere://x")


def test_a_copy_that_fails_keeps_the_parts_and_is_made_again(
    table: Path, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise TimeoutError("the network is down")

    with monkeypatch.context() as broken:
        broken.setattr(type(memory), "put_file", fail)
        with pytest.raises(InvalidRequest, match=r"the network is down\); the parts are kept in .*\.parts: mend that"):
            job(table, "memory://bucket/out.parquet")
    assert not memory.exists("/bucket/out.parquet")
    assert job(table, "memory://bucket/out.parquet").kept == 3 and memory.exists("/bucket/out.parquet")


def test_a_damaged_part_is_said_and_made_anew(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["batch", str(table), "--out", "out", "--jobs", "1", "--rows-per-part", "10"]
    main(arguments)
    Path("out/part-000001.parquet").write_bytes(b"PAR1")
    capsys.readouterr()
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "1 part was damaged since and made anew." in said.out and "1 part was damaged" in said.err
    assert len(pd.read_parquet("out/part-000001.parquet")) == 10
    assert job(table, "out").damaged == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are no bytes here")
@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_name_that_no_encoding_knows_is_taken(n_jobs: int, name: str, table: Path, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"ordner \xfc")
    folder.mkdir()
    table.rename(folder / table.name)
    assert run(str(folder / table.name), folder / name, n_jobs=n_jobs, rows_per_part=10).failed == 0
    assert {path.name for path in folder.iterdir()} == {table.name, name}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1.6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1600k", "tmpfs", folder], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # workers may end after it


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_disk_that_is_full_loses_nothing(n_jobs: int, table: Path, disk: Path) -> None:
    filler = disk / "filler"
    filler.write_bytes(b"x" * 1_540_000)
    settings: dict[str, Any] = {"n_jobs": n_jobs, "rows_per_part": 2}
    with pytest.raises(InvalidRequest, match=r"No space left on device.*; finished parts are kept: mend that"):
        run(str(table), disk / "out", **settings)
    finished = len(list((disk / "out").glob("part-*.json")))
    assert not list((disk / "out").glob(".part-*"))
    filler.unlink()
    summary = run(str(table), disk / "out", **settings)
    assert summary.kept == finished and summary.rows == ROWS and not summary.damaged
    parts = sorted((disk / "out").glob("part-*.parquet"))
    assert list(pd.concat(map(pd.read_parquet, parts))["id"]) == list(range(ROWS))


def test_a_folder_that_is_read_only_is_said(table: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(InvalidRequest, match=r"out\.parquet\.parts cannot be used \(Read-only file system\)"):
        job(table, disk / "out.parquet")


def test_progress_is_told_from_the_first(table: Path) -> None:
    told: list[tuple[int, int | None]] = []
    run(str(table), "out.csv", n_jobs=1, rows_per_part=10, seen=lambda so_far: told.append((so_far.rows, so_far.total)))
    assert told == [(0, ROWS), (10, ROWS), (20, ROWS), (30, ROWS)]


def test_lines_say_how_far_a_job_is(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("predictor.cli.batch.SECONDS_BETWEEN_LINES", -1.0)
    main(["batch", str(table), "--out", "out.csv", "--jobs", "1", "--rows-per-part", "10"])
    assert "20 of 30 rows, " in (said := capsys.readouterr().err) and " s left, 0 errors" in said
    pd.read_parquet(table).drop(columns="note").to_csv("in.csv", index=False)
    main(["batch", "in.csv", "--out", "b.csv", "--jobs", "1", "--rows-per-part", "10"])
    assert "20 rows, " in (said := capsys.readouterr().err) and "left" not in said
    main(["batch", "in.csv", "--out", "c.csv", "--jobs", "1", "--quiet"])
    assert capsys.readouterr() == ("", "")
