"""Replays of published serving tables: invented rows in their layouts, and errors on themselves where at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from predictor.cli import main
from predictor.estimators.bundle import load_bundle
from predictor.learning.evaluate_runs import run_errors
from predictor.learning.validation.tables import chosen
from predictor.prediction.rows import answer_row

REPO = Path(__file__).resolve().parents[1]
TRUTH = Path(os.environ.get("PREDICTOR_TRUTH", REPO.parent / "shared" / "truth"))
BATCHES = """gpu_raw,n_gpus,engine,model,batch,input_len,output_len,e2e_latency_s,dup
Nvidia GH200 GPU,1,vLLM,meta-llama/Llama-2-7b-hf,16,128,128,1.2,False
Nvidia GH200 GPU,1,vLLM,meta-llama/Llama-2-7b-hf,16,128,128,1.2,True
Nvidia A100 GPU,1,TensorRT-LLM,meta-llama/Llama-2-7b-hf,64,2048,2048,180.0,False
AMD MI250 GPU,2,vLLM,meta-llama/Llama-2-7b-hf,16,128,128,2.0,False
Nvidia A100 GPU,1,llama.cpp,meta-llama/Llama-2-7b-hf,1,128,128,2.0,False
"""
LATENCY = """Model,TP Size,Batch Size,Input,Output,date,metric,value
Llama 3.1 70B (a path),8,1,128,2048,2025-01-29,MI300X Latency (ms),19000
Llama 3.1 405B (another),8,1,128,2048,2025-07-16,MI300X Latency (sec),46.0
"""
THROUGHPUT = """Model,TP Size,Input,Output,Num Prompts,Max Num Seqs,date,metric,value
Llama 3.1 70B (a path),8,128,128,400,400,2025-07-16,Throughput (tokens/s),15000
"""
QUEUED = """model,gpu,precision,tp,input_len,output_len,num_requests,total_output_tokens_per_s,trtllm_version
Llama 3.1 8B,H100,FP8,1,128,128,30000,28000,1.0
Qwen3-235B-A22B,B200,FP4,8,1000,1000,300,42000,1.0
"""
IN_FLIGHT = """model,gpu,precision,tp,input_len,output_len,tokens_per_s,trtllm_version,setting
LLaMA v3 8B,L40S,FP8,1,128.0,128.0,8000,0.10.0,"a, infinite rate, kv frac 0.9, rest"
LLaMA v2 70B,L40S,FP8,4,128.0,128.0,1500,0.11.0,"a, infinite rate, kv frac 0.99, rest"
"""
LOGS = """division,submitter,system,model,scenario,gpu,gpus_per_node,nodes,software,tokens_per_s,\
completed_samples_per_s,target_qps,ttft_mean_ms,ttft_p99_ms,tpot_mean_ms,tpot_p99_ms
closed,A,one,llama2-70b-99,Offline,NVIDIA H200-SXM-141GB,1,1,"TensorRT 10.2.0, CUDA 12.4",4000,,13,,,,
closed,A,one,llama2-70b-99.9,Offline,NVIDIA H200-SXM-141GB,1,1,"TensorRT 10.2.0, CUDA 12.4",4000,,13,,,,
closed,A,two,llama2-70b-99,Server,NVIDIA H100-SXM-80GB,8,1,"TensorRT 10.2.0, CUDA 12.4",,40,40,200,400,100,150
closed,A,two,gptj-99,Offline,NVIDIA H100-SXM-80GB,8,1,"TensorRT 10.2.0, CUDA 12.4",9000,,13,,,,
open,A,two,llama2-70b-99,Offline,NVIDIA H100-SXM-80GB,8,1,"TensorRT 10.2.0, CUDA 12.4",9000,,13,,,,
"""
POSITIONS = """model_id,parallel,isl,osl,concurrency,num_prompts,median_ttft,p99_ttft,median_tpot,p99_tpot,median_e2el
zai-org/GLM-5-FP8,tp8,1024,128,4,40,0.26,0.58,0.021,0.026,3.0
MiniMaxAI/MiniMax-M2.5,dep8,1024,128,8,80,0.79,1.5,0.02,0.027,3.3
"""
FILES = {
    "alcf/all_results.csv": BATCHES,
    "rocm_vllm/latency.csv": LATENCY,
    "rocm_vllm/throughput.csv": THROUGHPUT,
    "trtllm/throughput_v1.0.csv": QUEUED,
    "trtllm/ifb_throughput_v0.10_v0.11.csv": IN_FLIGHT,
    "mlperf_inference/mlperf_inference_runs.csv": LOGS,
    "inferencex_token_position/serving.csv": POSITIONS,
}
# Table → figures of the invented rows, and metrics of answers that are the prediction as they stand.
COUNTS = {"alcf": 3, "rocm_vllm": 3, "trtllm_queued": 4, "mlperf": 5, "inferencex": 10}


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def rows_of(table: str, truth: Path) -> pd.DataFrame:
    (only,) = chosen(table)
    return only.replay(truth, load_bundle()).frame()


@pytest.mark.parametrize("table", COUNTS)
def test_every_figure_is_the_answer_to_a_row_that_any_user_may_write(table: str, invented: Path) -> None:
    rows = rows_of(table, invented)
    assert len(rows) == COUNTS[table] and (rows["request"] != "").all() and (rows["private_setting"] == "").all()
    assert (rows["low"] <= rows["predicted"]).all() and (rows["predicted"] <= rows["high"]).all()
    for row in rows.to_dict("records"):
        answer = answer_row(json.loads(row["request"]), load_bundle())
        assert answer["error"] is None
        if "concurrency" not in row["request"] or table == "trtllm_queued":
            assert answer[row["metric"]] == row["predicted"]


@pytest.mark.parametrize("table", ["rocm_vllm", "trtllm_queued"])
def test_evaluate_says_of_the_same_rows_what_validate_says(table: str, invented: Path, tmp_path: Path) -> None:
    asked, rows_file = tmp_path / "asked.csv", tmp_path / "rows.csv"
    options = ["--truth", str(invented), "--requests", str(asked), "--out", str(rows_file)]
    assert main(["validate", "--only", table, *options]) == 0
    errors, unpredicted = run_errors(asked, load_bundle())
    rows = pd.read_csv(rows_file)
    replayed = (rows["predicted"] / rows["measured"] - 1).abs().groupby(rows["metric"]).mean()
    evaluated = (errors["mape"] * errors["rows"]).groupby(errors["figure"]).sum()
    assert not sum(unpredicted.values()) and errors["rows"].sum() == len(rows)
    counts = errors.groupby("figure")["rows"].sum()
    assert (evaluated / counts).to_dict() == pytest.approx(replayed.to_dict())


def test_what_is_left_out_is_counted(invented: Path) -> None:
    skipped = {name: dict(chosen(name)[0].replay(invented, load_bundle()).skipped) for name in ("alcf", "mlperf")}
    assert skipped["alcf"] == {"engine llama.cpp": 1, "repeats": 1}
    assert skipped["mlperf"] == {
        "GPT-J: the mean prompt is not told": 1,
        "open division: pruned models": 1,
    }


def test_batches_without_room_wait_as_clients_do(invented: Path) -> None:
    rows = rows_of("alcf", invented).set_index("gpu")
    queued = json.loads(rows.loc["A100-SXM-40GB", "request"])
    assert queued["concurrency"] == queued["num_prompts"] == 64 and not rows.loc["A100-SXM-40GB", "fits"]
    assert json.loads(rows.loc["MI250-GCD", "request"])["tp"] == 4  # both dies of each of two


def test_old_engines_and_layouts_are_stated(invented: Path) -> None:
    requests = [json.loads(text) for text in rows_of("trtllm_queued", invented)["request"]]
    assert [request["engine_version"] for request in requests] == ["1.0", "1.0", "0.10.0", "0.11.0"]
    assert requests[1]["attention_dp"] == requests[1]["ep"] == 8 and requests[3]["link"] == "pcie"
    assert all(request["offline"] for request in requests)


def measured(table: str, folder: str) -> pd.DataFrame:
    if not (TRUTH / folder).is_dir():
        pytest.skip(f"the measured tables are not at {TRUTH}; set PREDICTOR_TRUTH")
    rows = rows_of(table, TRUTH)
    return rows.assign(error=(rows["predicted"] / rows["measured"] - 1).abs())


def test_static_batches_on_nvidia_are_within_ten_per_cent_in_the_middle() -> None:
    rows = measured("alcf", "alcf").query("gpu != 'MI250-GCD' and not fitted")
    medians: Any = rows.groupby(["gpu", "engine"])["error"].median()
    assert medians["GH200-96GB"].max() < 0.06 and medians["A100-SXM-40GB", "vllm"] < 0.08


def test_eight_mi300x_are_within_a_tenth_in_the_middle() -> None:
    rows = measured("rocm_vllm", "rocm_vllm").query("metric == 'e2e_s'")
    assert rows.groupby("model")["error"].median().max() < 0.08
