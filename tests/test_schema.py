"""The measurement table: one set of columns, written whole, read back the same, refused with a clear reason."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st

from predictor.errors import InvalidOp, InvalidTable
from predictor.measurements.schema import (
    COLUMNS,
    NUMBER_COLUMNS,
    REQUIRED,
    TEXT,
    TEXT_COLUMNS,
    conform,
    groups,
    op_of,
    op_type,
    read_table,
    write_table,
)
from predictor.ops import FAMILIES, Attention, Collective, Conv, Gemm, Mla, Moe, Pointwise

HEADS: dict[str, Any] = {"batch": 2, "q_len": 1, "kv_len": 64, "heads": 8}
ROWS: tuple[dict[str, Any], ...] = (
    {"family": "gemm", "m": 16, "n": 4096, "k": 1024, "dtype": "fp8"},
    {"family": "attention", "phase": "decode", **HEADS, "kv_heads": 2, "head_dim": 128},
    {"family": "mla", "phase": "decode", **HEADS},
    {"family": "moe", "tokens": 5, "hidden": 64, "inter": 32, "experts": 8, "topk": 2},
    {"family": "pointwise", "kind": "add", "rows": 3, "cols": 4},
    {"family": "conv", "batch": 1, "in_channels": 3, "out_channels": 8, "size": 14, "kernel": 3},
    {"family": "collective", "kind": "all_reduce", "message_bytes": 1024, "n_gpus": 8},
)
EXPECTED = (
    Gemm(m=16, n=4096, k=1024, dtype="fp8"),
    Attention(phase="decode", **HEADS, kv_heads=2, head_dim=128),
    Mla(phase="decode", **HEADS),
    Moe(tokens=5, hidden=64, inter=32, experts=8, topk=2),
    Pointwise(kind="add", rows=3, cols=4),
    Conv(batch=1, in_channels=3, out_channels=8, size=14, kernel=3),
    Collective(kind="all_reduce", message_bytes=1024, n_gpus=8),
)


def table(*rows: dict[str, Any], **every: Any) -> pd.DataFrame:
    return pd.DataFrame([{"gpu": "H100", "latency_s": 1e-3, **every, **row} for row in rows])


@pytest.fixture
def mixed() -> pd.DataFrame:
    return table(*ROWS, engine="vllm", engine_version="v0.10.1", kernel_name="a, b", timing="device")


# Columns


def test_conform_fills_every_column_in_the_order_of_the_schema(mixed: pd.DataFrame) -> None:
    found = conform(mixed)
    assert list(found) == list(COLUMNS)
    assert len(found) == len(mixed)
    assert all(found[name].dtype == np.float64 for name in NUMBER_COLUMNS)
    assert all(isinstance(found[name].dtype, pd.CategoricalDtype) for name in TEXT_COLUMNS)
    assert not found[list(TEXT_COLUMNS)].isna().any(axis=None)


def test_empty_texts_take_their_defaults() -> None:
    found = conform(table({"family": "gemm", "engine": None, "dtype": None}, {"family": "gemm", "engine": "torch"}))
    assert found["engine"].tolist() == ["unknown", "torch"]
    assert found["dtype"].tolist() == ["", ""]


def test_an_absent_column_equals_an_empty_one() -> None:
    absent = conform(table({"family": "gemm"}))
    empty = conform(table({"family": "gemm"}, engine=None, timing=None))
    assert absent["engine"].tolist() == empty["engine"].tolist() == ["unknown"]
    assert absent["timing"].tolist() == empty["timing"].tolist() == ["device"]


def test_conform_drops_foreign_columns_and_keeps_the_index(mixed: pd.DataFrame) -> None:
    odd = mixed.assign(weather="fine").set_index(pd.Index(range(70, 77)))
    found = conform(odd)
    assert "weather" not in found
    assert found.index.tolist() == list(range(70, 77))


def test_conforming_twice_changes_nothing(mixed: pd.DataFrame) -> None:
    once = conform(mixed)
    pd.testing.assert_frame_equal(conform(once), once)


def test_numbers_given_as_text_are_numbers() -> None:
    assert conform(table({"family": "gemm", "m": "16"}))["m"].tolist() == [16.0]


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_column_is_named_with_what_a_table_needs(name: str, mixed: pd.DataFrame) -> None:
    with pytest.raises(InvalidTable) as caught:
        conform(mixed.drop(columns=name))
    assert str(caught.value) == (
        f"the table has no column {name}; a measurement table needs family, gpu, latency_s "
        "and the shape columns of its families (see predictor.measurements.schema)."
    )


def test_a_cell_that_is_no_number_is_named_by_row_and_column(mixed: pd.DataFrame) -> None:
    wrong = mixed.astype({"n": object})
    wrong.loc[3, "n"] = "4k"
    with pytest.raises(InvalidTable) as caught:
        conform(wrong)
    assert str(caught.value) == 'row 3, column n is "4k"; it must be a number (calls).'


# Files


def test_csv_and_parquet_read_back_the_same(mixed: pd.DataFrame, tmp_path: Path) -> None:
    write_table(mixed, tmp_path / "t.parquet")
    conform(mixed).to_csv(tmp_path / "t.csv", index=False)
    binary, text = read_table(tmp_path / "t.parquet"), read_table(tmp_path / "t.csv")
    for found in (binary, text):
        pd.testing.assert_frame_equal(found, conform(mixed), check_categorical=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("engine_version", "0.10"),
        ("engine_version", "2411"),
        ("kernel_name", "None"),
    ],
)
def test_texts_that_look_like_something_else_survive_a_csv(name: str, value: str, tmp_path: Path) -> None:
    frame = conform(table({"family": "gemm", name: value}, {"family": "gemm", name: ""}))
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert read_table(tmp_path / "t.csv")[name].tolist() == [value, ""]


@given(latency=st.lists(st.floats(1e-9, 10), min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_parquet_keeps_every_bit_of_a_latency(latency: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("bits") / "t.parquet"
    write_table(table(*({"family": "gemm", "latency_s": seconds} for seconds in latency)), path)
    assert read_table(path)["latency_s"].tolist() == latency


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_one_family_can_be_read_alone(suffix: str, mixed: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / f"t.{suffix}"
    if suffix == "csv":
        mixed.to_csv(path, index=False)
    else:
        write_table(mixed, path)
    found = read_table(path, "moe")
    assert found["family"].tolist() == ["moe"]
    assert found.index.tolist() == [0]
    assert read_table(path, "nothing").empty


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidTable) as caught:
        read_table(tmp_path / "none.parquet")
    assert str(caught.value) == f"{tmp_path}/none.parquet does not exist; give a Parquet or CSV file of measurements."


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe garbage \x80" * 50], ids=["empty", "garbage"])
def test_a_file_of_garbage_raises_one_line(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"t.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidTable) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path} cannot be read (")
    assert str(caught.value).endswith("); write it again.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_parquet_raises(share: float, mixed: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_table(mixed, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InvalidTable, match=r"cannot be read \(.+\); write it again\.$"):
        read_table(path)


def test_a_table_appears_whole_and_replaces_an_older_one(mixed: pd.DataFrame, tmp_path: Path) -> None:
    write_table(mixed, tmp_path / "t.parquet")
    write_table(mixed.head(2), tmp_path / "t.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]
    assert len(read_table(tmp_path / "t.parquet")) == 2


def test_a_failing_write_leaves_the_older_table(
    mixed: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    write_table(mixed, path)
    before = path.read_bytes()
    with pytest.raises(InvalidTable):
        write_table(mixed.assign(latency_s="fast"), path)

    def full(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="no space left"):
        write_table(mixed.head(1), path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["t.parquet"]


# Rows as ops


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda op: op.estimator)
def test_a_row_of_each_family_is_its_op_with_defaults(expected: Any, mixed: pd.DataFrame) -> None:
    frame = conform(mixed)
    part = frame[frame["family"] == expected.family]
    found = op_of(part, expected.family, getattr(expected, "phase", ""))
    assert type(found) is type(expected)
    assert found.estimator == expected.estimator
    for count in ("flops", "bytes_moved", "link_bytes"):
        whole = np.broadcast_to(getattr(expected, count)(), 1)
        np.testing.assert_array_equal(np.broadcast_to(getattr(found, count)(), 1), whole)


def test_every_family_has_a_row_here() -> None:
    assert tuple(type(op) for op in sorted(EXPECTED, key=lambda op: op.family)) == tuple(
        sorted(FAMILIES, key=lambda kind: kind.family)
    )


def test_every_field_of_every_family_is_a_column() -> None:
    assert {field.name for kind in FAMILIES for field in fields(kind)} <= set(COLUMNS)


def test_families_measure_a_field_in_one_unit() -> None:
    units = {(field.name, field.metadata.get("unit", TEXT)) for kind in FAMILIES for field in fields(kind)}
    assert len(dict(units)) == len(units) and units <= {(name, unit) for name, (unit, _) in COLUMNS.items()}


def test_given_cells_replace_defaults_row_by_row() -> None:
    frame = conform(table(ROWS[0], {**ROWS[0], "batch": 4, "dtype": "bf16"}))
    op = op_of(frame, "gemm")
    assert np.asarray(op.flops()).tolist() == [2 * 16 * 4096 * 1024, 2 * 4 * 16 * 4096 * 1024]
    assert isinstance(op, Gemm)
    assert np.asarray(op.dtype).tolist() == ["fp8", "bf16"]


@pytest.mark.parametrize(
    ("row", "column"), [(ROWS[0], "k"), (ROWS[1], "kv_len"), (ROWS[3], "topk"), (ROWS[6], "n_gpus")]
)
def test_an_empty_shape_cell_is_named_by_row_and_column(row: dict[str, Any], column: str) -> None:
    frame = conform(table(row, {**row, column: None}))
    with pytest.raises(InvalidTable) as caught:
        op_of(frame, row["family"], row.get("phase", ""))
    assert str(caught.value) == f"row 1, column {column} is empty; a {row['family']} row needs it."


def test_texts_without_a_default_must_be_given() -> None:
    with pytest.raises(InvalidOp, match=r'^kind is ""; a pointwise op is one of '):
        op_of(conform(table({"family": "pointwise", "rows": 1, "cols": 1})), "pointwise")
    with pytest.raises(InvalidOp, match=r'^phase is ""; it must be "prefill" or "decode"\.$'):
        op_of(conform(table(ROWS[2])), "mla")


def test_an_unknown_family_lists_the_known_ones() -> None:
    assert [op_type(kind.family) for kind in FAMILIES] == list(FAMILIES)
    with pytest.raises(InvalidTable) as caught:
        op_type("lstm")
    assert str(caught.value) == (
        'family is "lstm"; it must be one of gemm, attention, moe, mla, pointwise, conv, collective.'
    )


@given(order=st.permutations(range(14)))
@settings(max_examples=25, deadline=None)
def test_groups_part_the_table_without_loss(order: list[int]) -> None:
    frame = conform(pd.concat([table(*ROWS), table(*ROWS, gpu="A100")], ignore_index=True)).iloc[order]
    found = dict(groups(frame))
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(14))
    for (family, phase, gpu), rows in found.items():
        part = frame.iloc[rows]
        assert set(zip(part["family"], part["phase"], part["gpu"], strict=True)) == {(family, phase, gpu)}
