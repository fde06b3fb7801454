"""Drift: measurements of the same law are quiet, those of another law are called by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import RECIPE, toy_table

from predictor.cli import main
from predictor.errors import InvalidTable
from predictor.estimators.bundle import Bundle
from predictor.learning.monitor import monitor
from predictor.learning.train import train
from predictor.measurements.schema import write_table

pytestmark = pytest.mark.usefixtures("in_threads")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, in_threads: None) -> Bundle:
    folder = tmp_path_factory.mktemp("monitored")
    write_table(toy_table(), folder / "toy.parquet")
    return train([folder / "toy.parquet"], RECIPE, folder / "bundle", lambda text: None)


def recent(folder: Path, slower: float) -> Path:
    frame = toy_table(("A10", "L4"), seed=23)
    frame["engine_version"] = "9.9"
    frame.loc[(frame["gpu"] == "L4") & (frame["family"] == "gemm"), "latency_s"] *= slower
    write_table(frame, folder / "recent.parquet")
    return folder / "recent.parquet"


def test_the_same_law_is_quiet(bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
    assert not monitor(recent(tmp_path, 1.0), bundle)["drifted"].any()
    assert main(["monitor", "--data", str(recent(tmp_path, 1.0)), "--bundle", str(bundle.path)]) == 0
    assert "no drift in 6" in capsys.readouterr().out


def test_another_law_is_called_by_family_gpu_and_version(bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
    found = monitor(recent(tmp_path, 1.8), bundle)
    drifted = found[found["drifted"]]
    assert [tuple(row) for row in drifted[["family", "gpu", "engine_version"]].to_numpy()] == [("gemm", "L4", "9.9")]
    assert drifted["signed_median"].iloc[0] < -0.3
    assert main(["monitor", "--data", str(recent(tmp_path, 1.8)), "--bundle", str(bundle.path)]) == 1
    assert "1 of 6 drifted" in capsys.readouterr().out


def test_a_table_without_usable_rows_is_said(bundle: Bundle, tmp_path: Path) -> None:
    frame = toy_table(("A10",))
    frame["latency_s"] = 1e-12
    write_table(frame, tmp_path / "bad.parquet")
    with pytest.raises(InvalidTable, match="no usable row"):
        monitor(tmp_path / "bad.parquet", bundle)
