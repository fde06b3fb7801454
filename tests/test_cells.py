"""Any cell in any column: a job answers the row or says in it what is wrong, and never ends for it."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings, strategies as st

from predictor import predict_frame
from predictor.cli import main
from predictor.errors import InvalidRequest, UnknownGpu
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.measurements.schema import COLUMNS
from predictor.prediction.jobs.batch import OPERATORS, run
from predictor.prediction.op_tables import answer_ops
from predictor.prediction.rows import answer_row, answer_table
from predictor.workloads.request import columns
from predictor.workloads.results import RESULTS

ASKED = {"model": "Qwen2.5-0.5B", "gpu": "H100"}
CALLED = {"family": "gemm", "gpu": "H100", "m": 64.0, "n": 1024.0, "k": 1024.0, "dtype": "bf16"}
TIMES = st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.sampled_from(
        ["4090", " H100 ", "H100, mem_gib=nan", "\0.toml", "\0", "H100:3g", "=", "nan", "1e999", "a\nb", "x\r.toml"]
    ),
    st.binary(max_size=4),
    st.decimals(-1000, 1000, places=2),
    TIMES,
    TIMES.map(lambda time: time.replace(tzinfo=UTC)),
    st.dates(),
    st.timedeltas(min_value=timedelta(days=-999), max_value=timedelta(days=999)),
)
CELLS = st.one_of(SCALARS, st.lists(st.integers(-9, 9), max_size=2), st.fixed_dictionaries({"a": st.integers(-9, 9)}))


def of_one(row: dict[str, Any]) -> pa.Table:
    return pa.table({name: [cell] for name, cell in row.items()})


def is_answered(row: dict[str, Any], value: str) -> bool:
    """Whether a row has an answer or else an error of one line; both would be wrong."""
    error = row["error"]
    return (row[value] is not None) == (error is None) and (error is None or (error != "" and "\n" not in error))


@given(name=st.sampled_from([column.name for column in columns()]), cell=CELLS)
@settings(max_examples=300, deadline=None)
def test_any_cell_of_a_request_is_an_answer_or_an_error_of_its_row(name: str, cell: Any) -> None:
    (row,) = answer_table(of_one({**ASKED, name: cell}), load_bundle()).to_pylist()
    assert is_answered(row, "memory_bytes")
    told = predict_frame(pd.DataFrame({**{key: [value] for key, value in ASKED.items()}, name: [cell]}))
    assert pd.isna(told["error"][0]) == (row["error"] is None)


@given(name=st.sampled_from(["model", "gpu", "engine", "dtype", "weights"]), cell=SCALARS)
@settings(max_examples=300, deadline=None)
def test_any_cell_in_place_of_a_name_is_an_answer_or_an_error_of_its_row(name: str, cell: Any) -> None:
    (row,) = answer_table(of_one({**ASKED, name: cell}), load_bundle()).to_pylist()
    assert is_answered(row, "memory_bytes")


@example(name="family", cell="0\n0")  # its error had two lines
@example(name="engine", cell="a|b")  # which joins the parts of a group's name
@example(name="engine", cell="\x00")
@given(name=st.sampled_from([*COLUMNS, "gpu"]), cell=CELLS)
@settings(max_examples=300, deadline=None)
def test_any_cell_of_an_operator_is_an_answer_or_an_error_of_its_row(name: str, cell: Any) -> None:
    (row,) = answer_ops(of_one({**CALLED, name: cell}), load_bundle()).to_pylist()
    assert is_answered(row, "predicted_s")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (4090, "gpu is 4090; it must be a name, written as text. Did you mean RTX-4090 or RTX-4090-D or T400-4GB?"),
        (4090.0, "gpu is 4090.0; it must be a name, written as text. Did you mean RTX-4090 or RTX-4090-D or T400-4GB?"),
        (True, "gpu is True; it must be a name, written as text such as RTX-4090."),
        ([1], "gpu is [1]; it must be a name, written as text such as RTX-4090."),
        (math.nan, "gpu is empty; GPU name, MIG slice (H100:3g.40gb) or a .toml file."),
    ],
)
def test_what_is_no_name_is_named_with_its_cure(cell: Any, said: str) -> None:
    assert answer_row({"model": "Qwen2.5-0.5B", "gpu": cell}, load_bundle())["error"] == said


def test_a_model_that_is_a_number_is_an_error_too() -> None:
    said = answer_row({"model": 8, "gpu": "H100"}, load_bundle())["error"]
    assert said == "model is 8; it must be a name, written as text such as Llama-3.1-8B."
    with pytest.raises(UnknownGpu, match=r"gpu is 4090; it must be a name, written as text such as .RTX-4090"):
        get_gpu(4090)  # type: ignore[arg-type]


@pytest.mark.parametrize("ops", [False, True])
def test_a_column_of_numbers_in_place_of_names_is_a_table_of_errors(ops: bool, tmp_path: Path) -> None:
    frame = pd.DataFrame([CALLED if ops else ASKED] * 2).assign(gpu=[4090, 5])
    frame.to_parquet(tmp_path / "in.parquet")
    arguments = ["batch", str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out.csv"), "--jobs", "1", "--quiet"]
    assert main([*arguments, *["--ops"] * ops]) == 1
    assert len(pd.read_csv(tmp_path / "out.csv")) == 2


@pytest.mark.parametrize("number", [np.float32(8), np.int64(8), Decimal("8"), Decimal("8.0")])
def test_numbers_of_whatever_library_are_numbers(number: Any) -> None:
    bundle = load_bundle()
    assert (
        answer_row({**ASKED, "batch": number}, bundle)["ttft_s"] == answer_row({**ASKED, "batch": 8}, bundle)["ttft_s"]
    )


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA, pd.NaT, Decimal("NaN"), np.float32("nan")])
def test_whatever_stands_for_missing_is_an_empty_cell(missing: Any) -> None:
    assert answer_row({**ASKED, "batch": missing}, load_bundle())["error"] is None


def test_columns_that_are_no_requests_are_not_looked_at() -> None:
    """Nanoseconds and years that Python has no date for, lists, a name twice: they come back as they went in."""
    own = {
        "id": pa.array([[1, 2]]),
        "made": pa.array([2**62], pa.timestamp("s")),
        "tag": pa.array([{"a": date(2024, 1, 1)}]),
    }
    table = pa.table({**{name: [cell] for name, cell in ASKED.items()}, **own}).append_column("id", pa.array(["b"]))
    found = answer_table(table, load_bundle())
    assert found.select(range(table.num_columns)).equals(table) and found["error"].to_pylist() == [None]


def test_a_request_column_that_is_there_twice_is_refused() -> None:
    table = of_one(ASKED).append_column("gpu", pa.array(["L4"]))
    with pytest.raises(InvalidRequest, match="the table has two columns gpu; drop one"):
        answer_table(table, load_bundle())


def test_a_table_without_any_column_of_a_request_says_so_in_each_row() -> None:
    assert predict_frame(pd.DataFrame({"id": [1, 2]}))["error"].str.startswith("model is empty").all()


def test_files_whose_columns_have_types_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for name, cell in (("a", [1]), ("b", "H100")):
        pq.write_table(of_one({**ASKED, "gpu": cell}), tmp_path / f"{name}.parquet")
    assert main(["batch", str(tmp_path), "--out", str(tmp_path / "out"), "--jobs", "1"]) == 2


def test_gpus_are_asked_and_answered_in_one_column() -> None:
    """Of all columns of a request only n_gpus is a result too: empty cells are filled in, all others stay."""
    assert {column.name for column in columns()} & set(RESULTS) == {"n_gpus"}
    cells = {"tp": [2, None, None], "n_gpus": [None, 4, 1]}
    frame = pd.DataFrame({"model": "Qwen2.5-7B", "gpu": ["H100", "H100", "H1000"], **cells})
    for found in (predict_frame(frame), predict_frame(pa.Table.from_pandas(frame)).to_pandas()):
        assert list(found.columns[:4]) == list(frame.columns) and list(found["n_gpus"]) == [2, 4, 1]
    texts = pa.table({"model": ["Qwen2.5-7B"] * 2, "gpu": ["H100"] * 2, "n_gpus": ["", "2"]})
    assert predict_frame(texts)["n_gpus"].to_pylist() == ["1", "2"]
    assert predict_frame(texts.drop_columns("n_gpus"))["n_gpus"].to_pylist() == [1, 1]
    row = answer_row({"n_gpus": "4", "model": "Qwen2.5-7B", "gpu": "H100"}, load_bundle())
    assert row["n_gpus"] == "4" and list(row) == ["n_gpus", "model", "gpu", *(n for n in RESULTS if n != "n_gpus")]


def test_rows_carry_what_json_has() -> None:
    from predictor import answer
    from predictor.workloads.request import Request
    from predictor.workloads.results import BETWEEN_NOTES

    kinds: list[dict[str, Any]] = [{"batch": 2}, {"scheduling": "continuous", "batch": 4}, {"phase": "train"}]
    for kind in kinds:
        row, whole = answer_row(ASKED | kind, load_bundle()), answer(Request.of(ASKED | kind)).to_dict()
        for name in set(RESULTS) - {"notes"}:
            assert row[name] == whole.get(name), name
        assert row["notes"] == (BETWEEN_NOTES.join(whole["notes"]) or None)
    assert row["ttft_p99_s"] is None and answer_row(ASKED | kinds[1], load_bundle())["ttft_p99_s_high"] > 0


def test_a_job_of_operators_bears_any_cell(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({**{name: [cell] * 2 for name, cell in CALLED.items()}, "engine": [[1], None]}),
        tmp_path / "in.parquet",
    )
    assert run(str(tmp_path / "in.parquet"), tmp_path / "out", n_jobs=1, kind=OPERATORS).rows == 2
