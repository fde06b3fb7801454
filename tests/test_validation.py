"""Replays of published tables: what a request says is answered as any user's row, all else is named as private.

The tables here are invented, in the layout of the published ones; targets of docs/accuracy.md need those themselves.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from predictor.cli import main
from predictor.cli.validate import _write_asked
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import load_bundle
from predictor.learning.validation import TABLES, ratio_errors
from predictor.learning.validation.back_of_envelope import reckoned
from predictor.learning.validation.replay import answers
from predictor.learning.validation.tables import chosen
from predictor.learning.validation.training_rows import litgpt
from predictor.prediction.rows import answer_row

REPO = Path(__file__).resolve().parents[1]
TRUTH = Path(os.environ.get("PREDICTOR_TRUTH", REPO.parent / "shared" / "truth"))
SPEEDS = """family,model,quant,engine,gpu,n_gpus,input_len,output_len,speed_tokens_per_s,gpu_mem_gb
Qwen2.5,Qwen2.5-7B-Instruct,BF16,Transformers,A100-80GB,1,1,2048,40.0,14.9
Qwen2.5,Qwen2.5-7B-Instruct,BF16,vLLM,A100-80GB,1,6144,2048,80.0,
Qwen2.5,Qwen2.5-7B-Instruct,BF16,vLLM,A100-80GB,1,14336,2048,70.0,
Qwen2.5,Qwen2.5-7B-Instruct,GPTQ-Int4,vLLM,A100-80GB,1,1,2048,150.0,
Qwen3,Qwen3-8B,BF16,SGLang,H20-96GB,1,6144,2048,300.0,
Qwen3,Qwen3-8B,BF16,SGLang,H20-96GB,1,63488,2048,900.0,
Qwen3,Qwen3-30B-A3B,BF16,Transformers,H20-96GB,1,1,2048,3.0,
"""
TUNE_HEAD = (
    "Model,Finetuning Method,Runnable On,Peak Memory per GPU,Tokens/sec,"
    "Technique,Peak Memory Active (GiB),Tokens Per Second\n"
)
TUNED = """Llama 3.1 8B,LoRA,1x A6000,30.0 GiB,2500,,,
Llama 3.1 8B,Full finetune,1x 4090,19.0 GiB,1600,,,
Llama 3.1 70B,QLoRA,8x A100,40.0 GiB,1700,,,
,,,,,+ Compile,40.0 GiB,9000
,,,,,+ [LoRA](page),20.0 GiB,15000
"""
FINE_TUNED = """model,method,seq_len,s_per_iter,peak_mem_gb,row
Qwen-7B,LoRA,512,1.5,20.0,x|1
Qwen-7B,Q-LoRA,512,2.5,12.0,x|1
Qwen-7B,LoRA (multinode),512,3.0,20.0,x|2
"""


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    """A folder of invented tables."""
    files = {
        "qwen/speed_memory.csv": SPEEDS,
        "torchtune/readme_memory_speed.csv": TUNE_HEAD + TUNED,
        "qwen/qwen1_finetune_memory_speed.csv": FINE_TUNED,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def rows_of(table: str, truth: Path) -> pd.DataFrame:
    (only,) = chosen(table)
    return only.replay(truth, load_bundle()).frame()


def test_every_table_has_a_name_of_its_own() -> None:
    names = [table.name for table in TABLES]
    folder = REPO / "predictor" / "learning" / "validation"
    files = {path.stem for path in folder.glob("*.py")} - {
        "__init__",
        "back_of_envelope",
        "claims",
        "pool_recipes",
        "promises",
        "replay",
        "tables",
        "training_rows",
    }
    assert sorted(names) == sorted(files) and len({table.title for table in TABLES}) == len(names)


def test_a_figure_has_a_request_or_a_private_setting(truth: Path) -> None:
    rows = rows_of("finetune", truth)
    assert ((rows["request"] != "") ^ (rows["private_setting"] != "")).all()
    assert (rows["request"] != "").any() and (rows["private_setting"] != "").any()
    speeds = rows_of("qwen", truth)
    assert (speeds["request"] != "").all() and (speeds["private_setting"] == "").all()


def test_what_a_request_says_is_what_any_user_gets(truth: Path) -> None:
    """To the bit: the row of the request, answered alone, gives the prediction and its interval."""
    public = rows_of("qwen", truth).query("request != ''")
    for row in public.to_dict("records"):
        answer = answer_row(json.loads(row["request"]), load_bundle())
        counted = 2048.0 + (row["input_len"] if row["family"] == "Qwen3" else 0.0)
        told = [counted / answer[name] for name in ("e2e_s", "e2e_s_high", "e2e_s_low")]
        assert told == [row["predicted"], row["low"], row["high"]]


def test_training_steps_are_requests_too(truth: Path) -> None:
    rows = rows_of("finetune", truth).set_index(["model", "method"])
    row = rows.loc[("Llama-3.1-8B", "LoRA")]
    answer = answer_row(json.loads(row["request"]), load_bundle())
    assert row["predicted"] == answer["tokens_per_s"] and row["low"] == answer["tokens_per_s_low"]
    assert "GPTQ weights" in rows.loc[("Qwen-7B", "Q-LoRA"), "private_setting"]


def test_longer_contexts_and_graphs_are_asked_for(truth: Path) -> None:
    rows = rows_of("qwen", truth)
    asked = {key: json.loads(text) for key, text in rows.set_index(["engine", "input_len"])["request"].items()}
    assert asked["sglang", 6144]["max_model_len"] == asked["sglang", 6144]["max_seq_len_to_capture"] == 0
    assert asked["vllm-v0", 14336]["max_seq_len_to_capture"] == 14336 + 2048
    assert asked["sglang", 63488]["max_model_len"] == 63488 + 2048


def test_what_was_asked_is_a_table_that_anybody_can_ask(truth: Path, tmp_path: Path) -> None:
    asked, answered = tmp_path / "asked.csv", tmp_path / "answered.csv"
    command = ["validate", "--only", "qwen", "--truth", str(truth), "--sources", str(truth)]
    assert main([*command, "--out", str(tmp_path / "rows.csv"), "--requests", str(asked)]) == 0
    assert main(["batch", str(asked), "--out", str(answered), "--quiet"]) == 0
    rows, told = pd.read_csv(tmp_path / "rows.csv"), pd.read_csv(answered)
    counted = 2048.0 + np.where(rows["family"] == "Qwen3", rows["input_len"], 0.0)
    np.testing.assert_allclose(counted / told["e2e_s"], rows["predicted"], rtol=1e-9)
    assert (told["measured_tokens_per_s"] == rows["measured"]).all()
    assert main([*command, "--requests", str(tmp_path / "asked.xlsx")]) == 2


def test_what_was_asked_of_pools_is_a_table_of_pools(tmp_path: Path) -> None:
    class Asks(NamedTuple):
        table: str
        request: dict[str, object]
        metric: str = "TTFT"
        measured: float = 1.0
        fitted: bool = False

    class Told(NamedTuple):
        figures: list[Asks]

    row = {"model": "Llama-3.1-8B", "gpu": "H100", "concurrency": 8}
    pools = Asks("pools", row | {"prefill_workers": 1, "decode_workers": 1})
    _write_asked([Told([pools, Asks("loads", row)])], tmp_path / "asked.csv")  # type: ignore[list-item]
    beside = pd.read_csv(tmp_path / "asked-pools.csv")
    assert len(beside) == len(pd.read_csv(tmp_path / "asked.csv")) == 1 and beside["decode_workers"][0] == 1
    _write_asked([Told([pools])], tmp_path / "other.csv")  # type: ignore[list-item]
    assert not (tmp_path / "other.csv").exists()


def test_errors_by_group() -> None:
    frame = pd.DataFrame(
        {
            "gpu": ["A", "A", "B"],
            "measured": [1.0, 1.0, 2.0],
            "predicted": [1.1, 0.7, 2.0],
            "low": [0.9, 0.6, np.nan],
            "high": [1.2, 0.8, np.nan],
        }
    )
    cells = ratio_errors(frame, ["gpu"])
    assert cells.loc["A"].round(3).to_dict() == {
        **{"rows": 2, "median": 0.2, "mean": 0.2, "p90": 0.28, "signed": -0.1, "coverage": 0.5, "under": 0.5}
    }
    assert cells.loc["B", "mean"] == 0.0 and pd.isna(cells.loc["B", "coverage"])


def test_the_command_names_private_settings_in_80_columns(
    truth: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREDICTOR_TRUTH", str(truth))
    assert main(["validate", "--only", "finetune", "--out", str(truth / "rows.csv")]) == 0
    shown = capsys.readouterr().out
    assert "a  private setting: reentrant checkpointing" in shown
    assert "rows of a request table alone, as any user gets them" in shown
    assert "1 rows skipped: the network between the servers is not stated" in " ".join(shown.split())
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert len(pd.read_csv(truth / "rows.csv")) == 6


def test_absent_tables_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--only", "trtllm", "--truth", str(tmp_path), "--sources", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "skipped," in error and f"no table found in {tmp_path} and {tmp_path}; give --truth and --sources." in error


def test_an_unknown_table_is_an_error_that_names_those_known() -> None:
    with pytest.raises(InvalidRequest) as error:
        chosen("nothing")
    names = ", ".join(table.name for table in TABLES)
    assert str(error.value) == f'only is "nothing"; it must be one of {names}.'


@pytest.fixture(scope="module")
def peaks() -> Any:
    if not (TRUTH / "qwen").is_dir():
        pytest.skip(f"the measured peaks are not at {TRUTH}; set PREDICTOR_TRUTH")
    return rows_of("memory", TRUTH)


def test_inference_is_within_four_per_cent(peaks: Any) -> None:
    assert (peaks["predicted"] / peaks["measured"] - 1).abs().mean() < 0.04


def test_hardly_a_run_needs_far_more_than_predicted(peaks: Any) -> None:
    """Those known: AWQ files that hold a shared head twice in one of two runs."""
    assert (peaks["predicted"] < 0.85 * peaks["measured"]).sum() <= 3


@pytest.fixture(scope="module")
def trained() -> Any:
    if not (TRUTH / "litgpt").is_dir():
        pytest.skip(f"the measured peaks are not at {TRUTH}; set PREDICTOR_TRUTH")
    return rows_of("training_peaks", TRUTH)


def test_training_as_programs_run_it_is_within_eight_per_cent(trained: Any) -> None:
    ran = trained[trained["metric"] == "memory_bytes"]
    ratio = ran["predicted"] / ran["measured"]
    inside = (ran["low"] <= ran["measured"]) & (ran["measured"] <= ran["high"])
    assert (ratio - 1).abs().mean() < 0.08 and (ratio < 1 / 1.15).mean() < 0.05
    assert 0.75 <= inside.mean() <= 0.88


def test_runs_out_of_memory_are_told_from_those_that_ran(trained: Any) -> None:
    failed = trained[trained["metric"] == "p_oom"]
    ran = trained[trained["metric"] == "memory_bytes"]
    assert (failed["p_oom"] > 0.5).mean() >= 0.9 and (ran["p_oom"] < 0.5).mean() >= 0.9


def test_every_peak_of_training_is_a_row_of_requests(trained: Any) -> None:
    assert (trained["request"] != "").all() and (trained["private_setting"] == "").all()


def test_steps_that_wait_for_their_host_are_in_their_interval() -> None:
    if not (TRUTH / "litgpt").is_dir():
        pytest.skip(f"the measured steps are not at {TRUTH}; set PREDICTOR_TRUTH")
    timed = [training for training in litgpt(TRUTH) if training.speed and not training.fitted]
    told = pd.DataFrame(answers([training.request for training in timed], load_bundle())).assign(
        measured=[training.speed[1] for training in timed if training.speed]
    )
    told = told[told["error"].isna()]
    inside = (told["step_s_low"] <= told["measured"]) & (told["measured"] <= told["step_s_high"])
    assert len(told) == 19 and inside.mean() >= 0.72


def test_chances_are_no_smaller_than_what_happens(peaks: Any) -> None:
    above = (peaks["measured"] > peaks["high"]).groupby(peaks["kind"]).mean()
    assert (above < 0.12).all()  # of the upper tenth


def test_the_back_of_an_envelope_reckons_what_it_can() -> None:
    """Llama-3.1-8B on an H100: 16 GB over 3.35 TB/s, half of 989 TFLOP/s, 0.9 of 85.5 GB less 16 GB of 131 kB each."""
    serve = {"model": "Llama-3.1-8B", "gpu": "H100", "input_len": 1000, "output_len": 101}
    train = {"model": "Llama-3.1-8B", "gpu": "H100", "phase": "train", "dp": 8, "zero_stage": 3}
    asked = [(serve, "tpot_s"), (serve, "ttft_s"), (serve, "max_kv_tokens"), (train, "memory_bytes"), (serve, "p_oom")]
    rows = pd.DataFrame([{"request": json.dumps(request), "metric": metric} for request, metric in asked])
    told = reckoned(rows)
    assert told[:4] == pytest.approx([16.06e9 / 3.35e12, 16.0e12 / 495e12, 464e3, 1.2 * 16 * 8.03e9 / 8], rel=0.05)
    assert math.isnan(told[4])
