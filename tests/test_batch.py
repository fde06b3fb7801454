"""Batch jobs: equal to single predictions, whole after any end, and clear about what is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pytest

from predictor.cli import main
from predictor.errors import InvalidRequest, InvalidTable
from predictor.estimators.bundle import load_bundle
from predictor.prediction.frames import predict_frame
from predictor.prediction.jobs.batch import MANIFEST, run
from predictor.prediction.jobs.storage import source_of
from predictor.prediction.rows import answer_row
from predictor.workloads.results import RESULTS

GPUS = ("H100-SXM-80GB", "L4", "MI300X", "RTX-4090")


def rows(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": range(count),
            "model": "Llama-3.1-8B",
            "gpu": [GPUS[i % 4] for i in range(count)],
            "batch": [1 + i % 9 for i in range(count)],
            "input_len": [100 + 31 * i for i in range(count)],
            "note": [f"kept {i}" for i in range(count)],
        }
    )


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "in.parquet"
    rows(30).to_parquet(file)
    return file


def job(table: Path, out: Path, **settings: Any) -> Any:
    return run(str(table), out, n_jobs=1, rows_per_part=10, **settings)


def test_every_row_is_the_single_prediction_to_the_bit(table: Path, tmp_path: Path) -> None:
    summary = job(table, tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert (summary.rows, summary.failed, summary.parts) == (30, 0, 3) and list(found["id"]) == list(range(30))
    for at in (0, 7, 19, 29):
        asked = {name: value for name, value in rows(30).iloc[at].to_dict().items() if name != "id"}
        alone = answer_row(asked, load_bundle())
        for name in RESULTS:
            cell = found[name][at]
            assert (pd.isna(cell) and alone[name] is None) or cell == alone[name], name


def test_columns_come_back_and_nothing_else_is_left(table: Path, tmp_path: Path) -> None:
    job(table, tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")
    pd.testing.assert_frame_equal(found[list(rows(1).columns)], rows(30), check_dtype=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


def test_csv_in_and_out(tmp_path: Path) -> None:
    rows(12).to_csv(tmp_path / "in.csv", index=False)
    job(tmp_path / "in.csv", tmp_path / "out.csv")
    rows(12).to_parquet(tmp_path / "in.parquet")
    job(tmp_path / "in.parquet", tmp_path / "out.parquet")
    text = pd.read_csv(tmp_path / "out.csv", float_precision="round_trip")  # pandas 2 reads 14 digits otherwise
    binary = pd.read_parquet(tmp_path / "out.parquet")
    assert list(text["tpot_s"]) == list(binary["tpot_s"]) and list(text["note"]) == list(binary["note"])


def test_a_folder_in_and_a_folder_out(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        rows(30)[number * 10 : number * 10 + 10].to_parquet(tmp_path / "in" / f"{number}.parquet")
    job(tmp_path / "in", tmp_path / "out")
    parts = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(parts) == 3 and list(pd.concat(map(pd.read_parquet, parts))["id"]) == list(range(30))


@pytest.mark.parametrize("size", [1, 7, 10, 30, 31])
def test_chunks_hold_every_row_once(size: int, table: Path) -> None:
    found = list(source_of(str(table)).chunks(size))
    assert [row for piece in found for row in piece["id"].to_pylist()] == list(range(30))
    assert all(piece.num_rows == size for piece in found[:-1])


def test_bad_rows_say_why_and_the_rest_is_answered(tmp_path: Path) -> None:
    frame = rows(8)
    frame.loc[2, "gpu"], frame.loc[5, "batch"], frame.loc[6, "input_len"] = "H1000", 0, 10**7
    frame.to_csv(tmp_path / "in.csv", index=False)
    summary = job(tmp_path / "in.csv", tmp_path / "out.parquet")
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert summary.failed == 3 and list(found.index[found["error"].notna()]) == [2, 5, 6]
    assert 'no GPU called "H1000"' in found["error"][2] and "batch is" in found["error"][5]
    assert found["tpot_s"][[2, 5, 6]].isna().all() and found["tpot_s"].notna().sum() == 5


def test_the_status_says_whether_a_row_failed(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["batch", str(table), "--out", str(tmp_path / "a.parquet"), "--jobs", "1"]) == 0
    frame = rows(3)
    frame.loc[1, "gpu"] = "H1000"
    frame.to_parquet(tmp_path / "bad.parquet")
    assert main(["batch", str(tmp_path / "bad.parquet"), "--out", str(tmp_path / "b.parquet"), "--jobs", "1"]) == 1
    assert "1 row has an error" in capsys.readouterr().out
    strict = ["batch", str(tmp_path / "bad.parquet"), "--out", str(tmp_path / "c.parquet"), "--jobs", "1", "--strict"]
    assert main(strict) == 2
    assert 'row 2 of part 0: no GPU called "H1000"' in capsys.readouterr().err
    assert not (tmp_path / "c.parquet").exists()


def test_a_finished_part_is_kept_and_a_spoilt_one_made_anew(table: Path, tmp_path: Path) -> None:
    job(table, tmp_path / "out")
    times = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    spoilt = tmp_path / "out" / "part-000001.parquet"
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt.write_bytes(bytes(content))
    summary = job(table, tmp_path / "out")
    assert summary.kept == 2 and summary.rows == 30
    assert pd.read_parquet(spoilt)["tpot_s"].notna().all()
    assert (tmp_path / "out" / "part-000000.parquet").stat().st_mtime_ns == times["part-000000.parquet"]


def test_killed_at_any_moment_and_started_again_nothing_is_missing_or_doubled(tmp_path: Path) -> None:
    rows(400).to_parquet(tmp_path / "in.parquet")
    arguments = ["batch", str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out"), "--rows-per-part", "20"]
    code = f"from predictor.cli import main; main({[*arguments, '--jobs', '1', '--quiet']!r})"
    worker = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    until = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("part-*.json"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    before = len(list((tmp_path / "out").glob("part-*.json")))
    assert 2 <= before < 20
    summary = run(str(tmp_path / "in.parquet"), tmp_path / "out", n_jobs=1, rows_per_part=20)
    parts = sorted((tmp_path / "out").glob("part-*.parquet"))
    assert not [file for file in (tmp_path / "out").iterdir() if file.name.startswith(".")]
    assert summary.kept >= before and list(pd.concat(map(pd.read_parquet, parts))["id"]) == list(range(400))


@pytest.mark.parametrize("gone", range(8))
def test_killed_while_the_parts_are_removed_it_goes_on(
    gone: int, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[Path] = []
    unlink = Path.unlink

    def dies(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith(("part-", "manifest")):
            if len(removed) == gone:
                raise KeyboardInterrupt
            removed.append(path)
        unlink(path, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", dies)
        job(table, tmp_path / "out.csv")
        raise KeyboardInterrupt  # all was removed
    job(table, tmp_path / "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.csv"]
    assert list(pd.read_csv(tmp_path / "out.csv")["id"]) == list(range(30))


@pytest.mark.parametrize("change", ["input", "rows_per_part", "bundle_sha256", "version"])
def test_going_on_with_something_else_is_refused(change: str, table: Path, tmp_path: Path) -> None:
    job(table, tmp_path / "out")
    if change == "input":
        rows(31).to_parquet(table)
    else:
        manifest = tmp_path / "out" / MANIFEST
        content = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(content | {change: "other"}))
    with pytest.raises(InvalidRequest, match=f"was begun with another {change}"):
        job(table, tmp_path / "out")


def test_a_disk_that_is_full_is_said_and_nothing_is_lost(table: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: parts are larger, receipts are not."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)"
    arguments = ["batch", str(table), "--out", str(tmp_path / "out"), "--jobs", "1", "--rows-per-part", "10"]
    code = f"{limit}; {ignore}; from predictor.cli import main; raise SystemExit(main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "cannot be used" in done.stderr and "start again" in done.stderr
    assert not [file for file in (tmp_path / "out").iterdir() if file.name.startswith(".part")]
    assert job(table, tmp_path / "out").rows == 30


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere.parquet", "is not there"), ("a.txt", "must end in .parquet or .csv"), ("empty", "has no .parquet")],
)
def test_an_input_that_is_none_is_said(name: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidTable, match=said):
        job(tmp_path / name, tmp_path / "out")


def test_a_broken_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(InvalidTable, match="cannot be read"):
        job(tmp_path / "in.parquet", tmp_path / "out")


def test_a_folder_with_other_things_is_left_alone(table: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(InvalidRequest, match=r"holds mine\.txt and no manifest\.json"):
        job(table, tmp_path / "out")


def test_two_processes_make_the_same_table(table: Path, tmp_path: Path) -> None:
    job(table, tmp_path / "one.parquet")
    run(str(table), tmp_path / "two.parquet", n_jobs=2, rows_per_part=10)
    one, two = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)


def test_a_frame_of_requests_is_answered_like_a_table(table: Path, tmp_path: Path) -> None:
    frame = rows(30).set_index("id")
    found = predict_frame(frame)
    assert list(found.index) == list(range(30)) and list(found.columns) == [*frame.columns, *RESULTS]
    job(table, tmp_path / "out.parquet")
    assert list(found["tpot_s"]) == list(pd.read_parquet(tmp_path / "out.parquet")["tpot_s"])
    arrow = predict_frame(pyarrow.Table.from_pandas(rows(30)))
    assert arrow["tpot_s"].to_pylist() == list(found["tpot_s"])
    with pytest.raises(InvalidTable, match="frame is list"):
        predict_frame([])


def test_a_polars_frame_stays_one() -> None:
    polars = pytest.importorskip("polars")
    found = predict_frame(polars.from_pandas(rows(3)))
    assert isinstance(found, polars.DataFrame) and found["fits"].to_list() == [True] * 3
