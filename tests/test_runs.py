"""Whole runs: no figure beats the roofline, figures of one run agree, and predictions are compared with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from predictor.cli import main
from predictor.errors import InvalidTable
from predictor.estimators.bundle import load_bundle
from predictor.learning.evaluate_runs import run_errors
from predictor.measurements.runs import bounds, check, conform, holds_runs, read_runs
from predictor.measurements.schema import write_table
from predictor.workloads.request import Request

ASKED = {"model": "Llama-3.1-8B", "gpu": "H100", "engine": "vllm", "batch": 8, "input_len": 1024, "output_len": 128}
SOUND = ASKED | {
    "measured_ttft_s": 0.19,
    "measured_tpot_s": 0.0068,
    "measured_e2e_s": 1.06,
    "measured_tokens_per_s": 960.0,
}
LOAD = SOUND | {"scheduling": "continuous", "measured_ttft_s": 0.16}


def verdict(**changes: Any) -> tuple[str, str]:
    checked = check(conform(pd.DataFrame([SOUND | changes])))
    return str(checked["status"][0]), str(checked["reason"][0])


def test_a_sound_run_is_accepted():
    assert verdict() == ("accepted", "") and verdict(**LOAD) == ("accepted", "")
    assert verdict(engine="llama.cpp", dtype="fp16")[0] == "accepted"


def test_llama_cpp_may_beat_what_16_bits_allow():
    """llama.cpp multiplies quantised weights in int8, at twice the rate of 16 bits and more."""
    fast = {"engine": "llama.cpp", "dtype": "q4_k_m", "gpu": "RTX-4090", "batch": 1, "input_len": 512, "output_len": 1}
    alone = dict.fromkeys(("measured_tpot_s", "measured_e2e_s", "measured_tokens_per_s"), np.nan)
    assert verdict(**fast, **alone, measured_ttft_s=512 / 18_000)[0] == "accepted"
    assert verdict(**{**fast, "engine": "vllm"}, **alone, measured_ttft_s=512 / 18_000)[0] == "rejected"
    assert verdict(**fast, **alone, measured_ttft_s=512 / 80_000)[0] == "rejected"


@pytest.mark.parametrize("figure", ["measured_ttft_s", "measured_tpot_s", "measured_e2e_s"])
def test_what_beats_the_roofline_is_rejected(figure: str):
    status, reason = verdict(**{figure: SOUND[figure] / 10})
    assert status == "rejected" and reason.startswith(f"{figure} is faster than the roofline bound of the step; ")


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    (
        {"measured_tokens_per_s": 1e5},
        "rejected: measured_tokens_per_s is above what batch and the roofline bound allow; check batch and lengths",
    ),
    (
        {"measured_tokens_per_s": 300.0},
        "flagged: measured_tokens_per_s contradicts batch · output_len / E2E; check batch and lengths",
    ),
    (
        {"measured_e2e_s": 5.0, "measured_tokens_per_s": np.nan},
        "flagged: measured_e2e_s contradicts TTFT + (output_len - 1) · TPOT; check output_len and units",
    ),
    (
        {"measured_tpot_s": 6.8},
        "flagged: measured_tpot_s is 1415 times the bound: it looks like milliseconds; give seconds",
    ),
    ({"measured_ttft_s": -1.0}, "rejected: measured_ttft_s is -1; it must be above 0"),
    (
        {"model": "Llama-3.1-70B"},
        "rejected: the weights take 141 GB a GPU, which has 86 GB; check model, dtype and tp",
    ),
    (
        {"engine": "tgi"},
        'rejected: engine is "tgi"; it must be one of vllm, vllm-v0, ',
    ),
    ({"batch": 0.5}, "rejected: batch is 0.5; it must be a whole number from 1 to 2**31."),
    ({"dtype": "iq2_xs", "engine": "llama.cpp"}, 'rejected: dtype is "iq2_xs"; it must be one of fp32, '),
    ({"gpu": "H1000"}, 'rejected: no GPU called "H1000"; did you mean '),
    ({"model": "Llama-9"}, 'rejected: unknown model "Llama-9"; '),
)


@pytest.mark.parametrize(("changes", "expected"), WRONG)
def test_what_is_wrong_with_a_run_is_said(changes: dict[str, Any], expected: str):
    assert ": ".join(verdict(**changes)).startswith(expected)


def test_a_run_without_a_figure_is_rejected():
    assert check(conform(pd.DataFrame([ASKED])))["reason"][0].startswith(
        "no measured_ttft_s, measured_ttft_p99_s, measured_tpot_s"
    )


def test_repeats_stand_once_and_not_at_all_where_they_differ():
    close = check(conform(pd.DataFrame([SOUND, SOUND | {"measured_e2e_s": 1.1}])))
    assert close["status"].tolist() == ["accepted", "flagged"]
    apart = check(conform(pd.DataFrame([SOUND, SOUND | {"measured_e2e_s": 1.3, "measured_tokens_per_s": 788.0}])))
    assert apart["reason"].tolist() == ["repeats of this run differ by over 1.2x"] * 2


def test_the_bound_of_a_load_is_that_of_weights_read_once_per_step():
    load = bounds(Request(**{**ASKED, "batch": 256, "scheduling": "continuous"}))
    assert load.tpot_s == pytest.approx(16.06e9 / 3.35e12, rel=0.08)  # parameters × 2 bytes over the bandwidth of H100
    assert load.tpot_s <= bounds(Request(**ASKED)).tpot_s


def test_every_prediction_lies_above_the_bound():
    bundle = load_bundle("")
    from predictor.prediction.single import answer

    for changes in (
        {},
        {"batch": 64, "scheduling": "continuous"},
        {"model": "Qwen3-8B", "gpu": "L4", "batch": 1},
        {"tp": 2},
    ):
        request = Request(**{**ASKED, **changes})
        report, least = answer(request, bundle), bounds(request)
        assert report.ttft_s.value >= least.ttft_s and report.tpot_s.value >= least.tpot_s  # type: ignore[union-attr]


def table(folder: Path, *runs: dict[str, Any]) -> Path:
    path = folder / "runs.parquet"
    conform(pd.DataFrame(runs)).to_parquet(path, index=False)
    return path


def test_a_table_of_runs_is_known_by_its_columns(tmp_path: Path, frame: pd.DataFrame):
    path = table(tmp_path, SOUND)
    assert holds_runs(path) and not holds_runs(tmp_path / "absent.parquet")
    write_table(frame.head(3), tmp_path / "calls.parquet")
    assert not holds_runs(tmp_path / "calls.parquet")
    read_runs(path).to_csv(tmp_path / "runs.csv", index=False)
    pd.testing.assert_frame_equal(read_runs(tmp_path / "runs.csv"), read_runs(path))


def test_errors_are_told_by_model_gpu_engine_and_figure(tmp_path: Path):
    path = table(tmp_path, SOUND, LOAD | {"gpu": "H100-SXM-80GB"}, LOAD | {"engine": "torch"})
    found, unpredicted = run_errors(path, load_bundle(""))
    assert found["figure"].tolist() == ["ttft_s", "tpot_s", "e2e_s", "tokens_per_s"] and set(found["rows"]) == {2}
    assert (found["mape"] < 0.6).all() and found["coverage"].between(0, 1).all()
    (why,) = unpredicted
    assert why.startswith('engine is "torch"; continuous scheduling needs ') and unpredicted[why] == 1


def test_runs_that_nothing_predicts_are_an_error(tmp_path: Path):
    bundle = load_bundle("")
    with pytest.raises(InvalidTable) as error:
        run_errors(table(tmp_path, LOAD | {"engine": "torch"}), bundle)
    assert str(error.value).startswith(
        f'{tmp_path}/runs.parquet has no run that bundle {bundle.id} predicts: engine is "'
    )
    with pytest.raises(InvalidTable) as error:
        run_errors(table(tmp_path, ASKED), bundle)
    assert str(error.value).endswith("has no usable run; `predictor check " + f"{tmp_path}/runs.parquet` says why.")


def test_commands_know_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = str(table(tmp_path, SOUND))
    assert main(["check", path]) == 0 and main(["evaluate", path, "--json", str(tmp_path / "cells.json")]) == 0
    assert "TPOT" in capsys.readouterr().out and (tmp_path / "cells.json").exists()
    assert main(["monitor", "--data", path]) == 2
    assert capsys.readouterr().err == f"error: {path} holds whole runs; `predictor evaluate {path}` compares them.\n"
