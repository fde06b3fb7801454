"""Tables as training sets: no row counts twice, and too few rows are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from toy import quick_recipe, quick_table

from predictor.errors import InvalidTable
from predictor.learning.tables import read_sets
from predictor.measurements.schema import write_table

VERSIONS = ("1.2.0", "1.3.0rc10", "1.3.0rc20", "1.3.0")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("old") / "old.parquet"
    write_table(quick_table(), path)
    return path


def read(*tables: Path) -> tuple[list[Any], int, list[str]]:
    """What the manifest says of each, the rows of GEMM, and what is printed."""
    said: list[str] = []
    facts, sets = read_sets(tables, quick_recipe(), said.append)
    return facts, len(sets["gemm"].who), said


def test_a_table_given_twice_counts_once(old: Path) -> None:
    rows = len(quick_table())
    facts, count, said = read(old, old)
    assert count == rows
    assert "repeated" not in facts[0] and facts[1]["repeated"] == rows
    assert f"  {rows} of them are in an earlier table too, and count once" in said


def test_rows_of_old_and_new_tables_count_once_whatever_their_source(old: Path, tmp_path: Path) -> None:
    every = quick_table()
    again = every.head(30).assign(source="mine", latency_s=every["latency_s"].head(30))
    measured_anew = every.tail(20).assign(latency_s=1.01 * every["latency_s"].tail(20))
    write_table(pd.concat([again, measured_anew], ignore_index=True), tmp_path / "new.parquet")
    facts, count, _ = read(old, tmp_path / "new.parquet")
    assert (facts[1]["repeated"], count) == (30, len(every) + 20)


def test_one_table_says_nothing_of_repeats(old: Path) -> None:
    facts, _, said = read(old)
    assert set(facts[0]) == {"name", "sha256", "accepted", "flagged", "rejected"} and len(said) == 1


@pytest.mark.parametrize("count", [1, 2, 19])
def test_a_few_rows_are_too_few(count: int, tmp_path: Path) -> None:
    path = tmp_path / "few.parquet"
    write_table(quick_table().head(count), path)
    with pytest.raises(InvalidTable) as caught:
        read(path)
    assert str(caught.value) == f"{path} has too few usable rows ({count} of gemm); training needs 20 of an operator."


def test_an_operator_with_a_few_rows_is_left_out_with_a_word(frame: pd.DataFrame, tmp_path: Path) -> None:
    every = pd.concat([quick_table(), frame[frame["family"] == "pointwise"].head(3)], ignore_index=True)
    write_table(every, tmp_path / "t.parquet")
    said: list[str] = []
    _, sets = read_sets([tmp_path / "t.parquet"], quick_recipe(), said.append)
    assert set(sets) == {"gemm"}
    assert said[-1] == "pointwise: 3 rows, left out; training needs 20 of an operator"


def test_the_newest_version_of_an_engine_counts(tmp_path: Path) -> None:
    every = quick_table()
    versions = [
        every.assign(engine_version=name, latency_s=every["latency_s"] * n) for n, name in enumerate(VERSIONS, 1)
    ]
    trial = versions[-1].head(1).assign(engine_version="1.4.0")
    write_table(pd.concat([*versions, trial], ignore_index=True), tmp_path / "t.parquet")
    facts, count, said = read(tmp_path / "t.parquet")
    assert count == len(every) and facts[0]["superseded"] == (len(VERSIONS) - 1) * len(every) + 1
    assert said[-1].endswith("are of an engine that a newer version was measured of, and do not count")
