"""The page of verdicts: all counts, and nothing of a file becomes markup."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from predictor.cli import main
from predictor.measurements.checks import check
from predictor.measurements.schema import conform, write_table
from predictor.measurements.verdicts import MOST_ROWS, by_group, page, reasons


def test_every_row_is_counted_once(frame: pd.DataFrame):
    checked = check(pd.concat([frame, frame.head(7)], ignore_index=True))
    assert sum(each["rows"] for each in reasons(checked)) == len(checked)
    assert by_group(checked)[["accepted", "flagged", "rejected"]].to_numpy().sum() == len(checked)


def test_no_text_of_a_file_becomes_markup(frame: pd.DataFrame):
    hostile = '<script>alert("x")</script>'
    rows = conform(frame.head(3).assign(gpu=hostile, kernel_name=hostile))
    found = page(check(rows), f"{hostile}.csv", [f"not read, 1 row: {hostile}"])
    assert "<script" not in found and found.count("&lt;script&gt;") >= 6


def test_a_page_is_whole_and_loads_nothing(frame: pd.DataFrame):
    found = page(check(frame.head(5)), "a.csv")
    assert "Everything was read." in found and "There is none." in found
    assert not [word for word in ("http", "src=", "@import", "url(") if word in found]


def test_a_long_table_is_cut_and_says_so(frame: pd.DataFrame):
    many = pd.concat([frame] * (2 * MOST_ROWS // len(frame) + 2), ignore_index=True)
    found = page(check(many.assign(latency_s=1e-12)), "a.csv")
    assert f"The first {MOST_ROWS:,} of {len(many):,}." in found


def test_check_writes_the_page(frame: pd.DataFrame, tmp_path: Path):
    write_table(frame.head(5), tmp_path / "a.parquet")
    assert main(["check", str(tmp_path / "a.parquet"), "--report", str(tmp_path / "a.html")]) == 0
    assert "5 operator calls" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert main(["check", str(tmp_path / "a.parquet"), "--report", str(tmp_path / "no" / "a.html")]) == 2
