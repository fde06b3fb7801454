"""What to measure next: shapes of the workload, each once, that shrink what is unknown of its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from predictor.cli import main
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import load_bundle
from predictor.learning.suggest import suggest
from predictor.measurements.bench import run as benching
from predictor.measurements.schema import COLUMNS
from predictor.workloads.request import Request

ASKED = Request(model="Llama-3.1-8B", gpu="L4", batch=8)


def test_each_shape_shrinks_the_spread_and_is_named_once() -> None:
    found = suggest(ASKED, load_bundle(), 25)
    assert 5 < len(found) <= 25 and (np.diff(found["spread_left"]) <= 1e-12).all() and found["spread_left"].iloc[0] < 1
    shapes = found[[name for name in COLUMNS if name in found]]
    assert not shapes.duplicated().any() and found["gpu"].nunique() == 1
    assert (found["cost_s"] > found["predicted_s"]).all() and (found["predicted_s"] > 0).all()


def test_the_first_shapes_are_those_that_take_the_time() -> None:
    long = Request(model="Llama-3.1-8B", gpu="L4", batch=64, input_len=16000, output_len=500)
    assert suggest(ASKED, load_bundle(), 3)["family"].iloc[0] == "gemm"  # decode reads weights
    assert "attention" in set(suggest(long, load_bundle(), 3)["family"])  # a cache of 128 GB


def test_the_command_writes_a_table_that_bench_reads(tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "shapes.csv"
    assert main(["suggest", "--gpu", "L4", "--model", "Llama-3.1-8B", "--budget", "6", "--out", str(out)]) == 0
    assert "spread left" in capsys.readouterr().out and len(pd.read_csv(out)) == 6
    listed = list(benching._listed(out, ("gemm", "attention"), ("bf16",)))
    assert listed and all(isinstance(row.get("n", 1), int) and row["dtype"] == "bf16" for row in listed)
    with pytest.raises(InvalidRequest, match="has no row of conv in bf16"):
        list(benching._listed(out, ("conv",), ("bf16",)))


def test_what_is_wrong_is_said(capsys: Any) -> None:
    with pytest.raises(InvalidRequest, match="budget is 0"):
        suggest(ASKED, load_bundle(), 0)
    assert main(["suggest", "--gpu", "L5", "--model", "Llama-3.1-8B"]) == 2
    assert 'no GPU called "L5"' in capsys.readouterr().err
