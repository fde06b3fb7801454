"""Files become one table: every row is read or counted, units do not matter, and what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from tool_files import SERVE, TRACE, read_one, write
from toy import toy_table

from predictor.cli import main
from predictor.errors import InvalidTable
from predictor.measurements.ingest import FORMATS, NAMES, column_map, ingest
from predictor.measurements.schema import conform, read_table, write_table


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_table_of_ours_comes_back_as_it_was(ending: str, tmp_path: Path, frame: pd.DataFrame):
    part = conform(frame.sample(40, random_state=1).reset_index(drop=True))
    path = tmp_path / f"table.{ending}"
    if ending == "csv":
        part.to_csv(path, index=False)
    else:
        write_table(part, path)
    found = ingest([path]).drop(columns=["status", "reason"])
    pd.testing.assert_frame_equal(found, part, check_categorical=False)


UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}


@settings(max_examples=20, deadline=None)
@given(
    times=st.lists(st.floats(1e-5, 1e-2), min_size=1, max_size=4),
    unit=st.sampled_from(sorted(UNITS)),
    broken=st.lists(st.sampled_from(["OOM", "-", "error: 7"]), max_size=3),
)
def test_units_do_not_matter_and_no_row_is_lost(times, unit, broken, tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    path = folder / "mine.csv"
    cells = [repr(time * UNITS[unit]) for time in times] + broken
    pd.DataFrame({"M": range(1, len(cells) + 1), "time": cells}).to_csv(path, index=False)
    told = {"family": "gemm", "gpu": "H100", "n": 64, "k": 64, "dtype": "bf16"}
    table, unread = read_one(path, columns=told, mapping=column_map(None, ["m=M", f"latency_s=time:{unit}"]))
    assert table["latency_s"].tolist() == pytest.approx(times, rel=1e-12)
    assert len(table) + sum(unread.rows.values()) == len(cells)


MAPPING = """
[columns]
m = "M"
n = "N"
k = "K"
dtype = "type"
latency_s = { column = "time", unit = "us" }
[values.dtype]
"torch.bfloat16" = "bf16"
[set]
family = "gemm"
"""


def test_a_mapping_file_names_columns_and_values(tmp_path: Path):
    path = write(tmp_path, "mine.csv", "M,N,K,type,time\n16,4096,4096,torch.bfloat16,14.1\n")
    table, _ = read_one(path, columns={"gpu": "H100"}, mapping=column_map(write(tmp_path, "map.toml", MAPPING)))
    assert table[["m", "n", "k"]].iloc[0].tolist() == [16, 4096, 4096]
    assert (table["dtype"][0], table["latency_s"][0]) == ("bf16", pytest.approx(14.1e-6))


@pytest.mark.parametrize(
    ("short", "message"),
    [
        (["latency=time"], "there is no column latency; did you mean latency_s?"),
        (["m"], '--column is "m"; write COLUMN=VALUE.'),
        (["m=M:us"], 'unit of m is "us"; it must be left out, as the column is in calls.'),
        (["latency_s=time:KiB"], 'unit of latency_s is "KiB"; it must be one of s, ms, us, µs, ns.'),
    ],
)
def test_a_wrong_mapping_is_told(short: list[str], message: str):
    with pytest.raises(InvalidTable) as error:
        column_map(None, short)
    assert str(error.value) == message


def test_a_column_that_the_csv_lacks_is_told(tmp_path: Path):
    path = write(tmp_path, "mine.csv", "M,N,time_us\n1,2,3\n")
    with pytest.raises(InvalidTable) as error:
        ingest([path], mapping=column_map(None, ["latency_s=time"]))
    assert str(error.value) == f'{path} has no column "time"; did you mean "time_us"?'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "{} is empty; give a file of measurements."),
        (b'{"traceEvents": [', "{} is broken JSON (Expecting value: line 1 column 18 (char 17)); write it again."),
        (
            b"\x1f\x8b\x08\x00cut",
            "{} is broken gzip (Compressed file ended before the end-of-stream marker was reached); write it again.",
        ),
        (b"\xf0\x28\x8c", "{} is no text (byte 0); give JSON, CSV or Parquet."),
        (b'{"a": 1}', "{} is in no known format; it must be one of " + ", ".join(NAMES[1:]) + "."),
        (
            b"a,b\n1,2\n",
            "{} is in no known format; if it is a CSV of measurements, name its columns: "
            "--map MAPPING.toml or --column latency_s=time:us.",
        ),
        (
            b'{"traceEvents": 7}',
            "{} is not what torch-profiler writes (TypeError: 'int' object is not iterable); give another --format.",
        ),
    ],
)
def test_a_file_that_cannot_be_read_says_why(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(InvalidTable) as error:
        ingest([path])
    assert str(error.value) == message.format(path)


def test_a_file_of_another_format_than_asked_for_is_told(tmp_path: Path):
    path = write(tmp_path, "v.json", SERVE)
    with pytest.raises(InvalidTable) as error:
        ingest([path], format="nsight")
    assert str(error.value) == f"{path} is no file of nsight; give another --format, or auto."
    assert len(ingest([path], format="vllm", columns={"gpu": "H100"})) == 1


def test_a_folder_and_an_absent_file_are_told(tmp_path: Path):
    for path, message in (
        (tmp_path, f"{tmp_path} is a folder; give the files in it, such as {tmp_path}/*.json."),
        (tmp_path / "no", f"{tmp_path / 'no'} does not exist; give a file of measurements."),
    ):
        with pytest.raises(InvalidTable) as error:
            ingest([path])
        assert str(error.value) == message


def test_calls_and_runs_do_not_mix(tmp_path: Path):
    runs, calls = write(tmp_path, "v.json", SERVE), write(tmp_path, "t.json", TRACE)
    with pytest.raises(InvalidTable) as error:
        ingest([runs, calls], columns={"gpu": "H100"})
    assert str(error.value) == (
        f"{runs}: whole runs; {calls}: operator calls; ingest them apart, each into a table of its own."
    )


def test_what_is_nowhere_told_is_asked_for(tmp_path: Path):
    path = write(tmp_path, "v.json", SERVE | {"backend": "openai"})
    with pytest.raises(InvalidTable) as error:
        ingest([path])
    assert str(error.value) == f"{path} does not tell gpu, engine; add --set gpu=… --set engine=…."


def test_names_of_formats_are_unique():
    assert len({each.name for each in FORMATS}) == len(FORMATS)


def test_the_command_writes_a_table_that_training_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = tmp_path / "toy.parquet"
    write_table(toy_table(("L4",)), source)
    out, page = tmp_path / "out.parquet", tmp_path / "doctor.html"
    assert main(["ingest", str(source), "--out", str(out), "--report", str(page)]) == 0
    assert len(read_table(out)) == len(read_table(source)) and page.read_text().startswith("<!doctype html>")
    assert "accepted" in capsys.readouterr().out


def test_the_command_ends_with_2_where_nothing_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = write(tmp_path, "v.json", SERVE | {"max_concurrency": None})
    assert main(["ingest", str(path), "--gpu", "H100", "--out", str(tmp_path / "out.parquet")]) == 2
    assert f"error: no measurement could be read from {path}; the reasons are above." in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
