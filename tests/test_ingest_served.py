"""Results of serving benchmarks: the load that ran, lengths as far as they are told, and the files of more tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tool_files import AIPERF, SERVE, SGLANG, read_one, write

from predictor.cli import main
from predictor.errors import InvalidTable
from predictor.learning.evaluate_runs import FOLLOWS, _figure, _follows

GPU = {"gpu": "H100"}
CSV = """\
Metric,avg,min,max,p99,p95,p90,p75,p50,p25
Time To First Token (ms),90.00,40.00,300.00,250.00,200.00,150.00,100.00,80.00,60.00
Request Latency (ms),"2,436.00","2,000.00","2,900.00","2,800.00",2700,2600,2500,2400,2300
Inter Token Latency (ms),9.20,9.00,9.90,9.80,9.70,9.60,9.50,9.20,9.10
Output Sequence Length (tokens),256.00,256.00,256.00,256.00,256,256,256,256,256
Input Sequence Length (tokens),"1,024.00","1,024.00","1,024.00",1024,1024,1024,1024,1024,1024

Metric,Value
Output Token Throughput (per sec),"1,690.00"
Request Throughput (per sec),6.60
"""
AGG = {
    "hw": "h200-nv",
    "tp": 4,
    "ep": 1,
    "dp_attention": "false",
    "conc": 16,
    "model": "Qwen/Qwen3-32B",
    "framework": "vllm",
    "precision": "fp8",
    "isl": 1024,
    "osl": 1024,
    "tput_per_gpu": 500.0,
    "output_tput_per_gpu": 250.0,
    "mean_ttft": 0.1,
    "mean_tpot": 0.014,
    "p99_ttft": 0.3,
    "p99_tpot": 0.016,
}
MLPERF = """\
================================================
MLPerf Results Summary
================================================
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 10.00
Completed tokens per second: 2560.00
Result is : VALID
  Performance constraints satisfied : Yes

================================================
Additional Stats
================================================
Scheduled samples per second : 10.20
Mean latency (ns)               : 4000000000
Mean First Token latency (ns)   : 150000000
99.00 percentile first token latency (ns)   : 500000000
Mean Time to Output Token (ns)  : 15000000
99.00 percentile time to output token (ns)  : 20000000
"""


def summary(mean: float, most: float = 0.0, p99: float = 0.0) -> dict[str, Any]:
    return {"successful": {"mean": mean, "max": most or mean, "percentiles": {"p99": p99 or mean}}, "total": {}}


def guidellm(strategy: dict[str, Any], **metrics: Any) -> dict[str, Any]:
    """A report of one benchmark, as guidellm 0.3 writes it."""
    figures = {
        "requests_per_second": summary(6.6),
        "request_concurrency": summary(15.9),
        "request_latency": summary(2.436),
        "time_to_first_token_ms": summary(90.0, p99=250.0),
        "inter_token_latency_ms": summary(9.2),
        "output_tokens_per_second": summary(1690.0),
        "prompt_token_count": summary(1024.0),
        "output_token_count": summary(256.0),
    }
    worker = {"backend_model": "Qwen/Qwen3-8B"}
    return {"benchmarks": [{"args": {"strategy": strategy}, "worker": worker, "metrics": figures | metrics}]}


@pytest.mark.parametrize(
    ("change", "concurrency", "rate"),
    [
        ({}, 16, None),
        ({"max_concurrency": 256, "num_prompts": 16}, 16, None),  # no more than there are requests
        ({"max_concurrency": 256, "num_prompts": 2000}, 16, None),  # 6.6 a second of 2.4 s each
        ({"max_concurrency": 256, "num_prompts": 2000, "request_rate": 7.0}, None, 7.0),
        ({"max_concurrency": 256, "num_prompts": 40, "request_rate": 9.0}, None, 9.0),  # the limit was far off
        ({"request_rate": 50.0}, 16, None),  # the limit set the load
    ],
)
def test_the_load_is_what_ran_and_not_the_limit(
    change: dict[str, Any], concurrency: int | None, rate: float | None, tmp_path: Path
):
    table, unread = read_one(write(tmp_path, "v.json", SERVE | change), columns=GPU)
    run = table.iloc[0]
    assert [run["concurrency"], run["request_rate"]] == pytest.approx(
        [concurrency or float("nan"), rate or float("nan")], nan_ok=True
    )
    limited = concurrency and change.get("max_concurrency")
    assert bool([line for line in unread.lines() if "max_concurrency" in line]) == bool(limited)


def test_lengths_of_single_requests_tell_their_spread(tmp_path: Path):
    """A mean is the longest less half of the spread; a mean alone is the length of all, and that is said."""
    detailed = SERVE | {"input_lens": [1138, 910, 1024] * 50, "output_lens": [284, 228, 256] * 50}
    run = read_one(write(tmp_path, "d.json", detailed), columns=GPU)[0].iloc[0]
    assert run[["input_len", "output_len"]].tolist() == [1138, 284]
    assert run["length_spread"] == pytest.approx(0.2, abs=0.01)
    assert run["output_len"] * (1 - run["length_spread"] / 2) == pytest.approx(256, abs=1)
    for more in ({}, {"input_lens": [9000, 10], "output_lens": [900, 10]}):
        table, unread = read_one(write(tmp_path, "m.json", SERVE | more), columns=GPU)
        assert table.iloc[0][["input_len", "output_len", "length_spread"]].tolist() == [1024, 256, 0.0]
        assert any("with the mean" in line for line in unread.lines())


def test_the_script_of_2023_is_read(tmp_path: Path):
    renamed = {"total_input_tokens": "total_input", "total_output_tokens": "total_output"}
    old = {renamed.get(name, name): value for name, value in SERVE.items() if name != "request_throughput"}
    run = read_one(write(tmp_path, "o.json", old | {"request_inthroughput": 6.6}), columns=GPU)[0].iloc[0]
    assert run[["input_len", "output_len", "concurrency"]].tolist() == [1024, 256, 16]


def test_a_rate_that_ramps_up_is_counted(tmp_path: Path):
    table, unread = read_one(write(tmp_path, "v.json", SERVE | {"ramp_up_strategy": "linear"}), columns=GPU)
    assert table.empty and unread.rows == {"a request rate that ramps up, which a request cannot say": 1}


def test_offline_throughput_needs_what_it_does_not_tell(tmp_path: Path):
    path = write(tmp_path, "t.json", {"elapsed_time": 20.0, "num_requests": 100, "tokens_per_second": 5000.0})
    table, unread = read_one(path, columns=GPU)
    assert table.empty and list(unread.rows.values()) == [1]
    told = GPU | {"model": "Qwen3-8B", "input_len": 512, "output_len": 128, "concurrency": 100}
    assert read_one(path, columns=told)[0]["measured_tokens_per_s"].tolist() == [640.0]


def test_nan_and_infinity_are_missing_and_said(tmp_path: Path):
    text = json.dumps(SERVE | {"p99_ttft_ms": float("nan"), "std_ttft_ms": float("inf")})
    table, unread = read_one(write(tmp_path, "v.json", text), columns=GPU)
    assert table["measured_ttft_p99_s"].isna().all() and table["measured_ttft_s"].tolist() == [0.09]
    assert "read, 2 rows: a value that is NaN or Infinity, which no JSON has; taken as missing" in unread.lines()
    endless = json.dumps(SGLANG | {"request_rate": float("inf")}) + "\n"
    table, unread = read_one(write(tmp_path, "s.jsonl", endless), columns=GPU)
    assert table["concurrency"].tolist() == [16] and not any("Infinity" in line for line in unread.lines())


def test_a_csv_of_genai_perf_is_its_json(tmp_path: Path):
    more = GPU | {"model": "Qwen3-8B", "engine": "vllm", "concurrency": 16}
    of_csv = read_one(write(tmp_path, "p.csv", CSV), columns=more)[0].iloc[0]
    of_json = read_one(write(tmp_path, "p.json", AIPERF), columns=more)[0].iloc[0]
    for name in ("concurrency", "input_len", "output_len", "measured_ttft_s", "measured_tpot_s", "measured_e2e_s"):
        assert of_csv[name] == pytest.approx(of_json[name])
    assert of_csv["measured_tokens_per_s"] == 1690.0 and of_csv["length_spread"] == 0.0
    table, unread = read_one(write(tmp_path, "q.csv", CSV), columns=GPU)
    assert table.empty and "does not tell the load" in next(iter(unread.rows))


@pytest.mark.parametrize(
    ("strategy", "concurrency", "rate"),
    [
        ({"type_": "synchronous"}, 1, None),
        ({"type_": "concurrent", "streams": 16}, 16, None),
        ({"type_": "throughput", "max_concurrency": 512}, 16, None),
        ({"type_": "poisson", "rate": 7.0}, None, 7.0),
        ({"type_": "constant", "rate": 20.0}, 16, None),
    ],
)
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_guidellm_tells_its_load(
    form: str, strategy: dict[str, Any], concurrency: int | None, rate: float | None, tmp_path: Path
):
    report = guidellm(strategy)
    path = write(tmp_path, f"benchmarks.{form}", yaml.safe_dump(report) if form == "yaml" else json.dumps(report))
    run = read_one(path, columns=GPU | {"engine": "vllm"})[0].iloc[0]
    assert [run["concurrency"], run["request_rate"]] == pytest.approx(
        [concurrency or float("nan"), rate or float("nan")], nan_ok=True
    )
    assert run[["model", "input_len", "measured_ttft_s", "measured_e2e_s"]].tolist() == [
        "Qwen/Qwen3-8B",
        1024,
        0.09,
        2.436,
    ]


def test_guidellm_of_later_releases_keeps_its_arguments_elsewhere(tmp_path: Path):
    one = guidellm({})["benchmarks"][0] | {"config": {"strategy": {"type_": "concurrent", "max_concurrency": 8}}}
    report = {"args": {"model": "Qwen/Qwen3-8B"}, "benchmarks": [{k: one[k] for k in ("config", "metrics")}, {}]}
    table, unread = read_one(write(tmp_path, "b.json", report), columns=GPU | {"engine": "vllm"})
    assert table[["model", "concurrency"]].to_numpy().tolist() == [["Qwen/Qwen3-8B", 8]]
    assert unread.rows == {"a benchmark without tokens of successful requests": 1}


def test_inferencex_is_a_run(tmp_path: Path):
    others = [AGG | {"is_multinode": True}, AGG | {"spec_decoding": "mtp"}, AGG | {"dp_attention": "true"}]
    table, unread = read_one(write(tmp_path, "agg.json", [AGG, *others]))
    told = ["gpu", "engine", "dtype", "concurrency", "tp", "attention_dp", "input_len", "length_spread"]
    assert table[told].to_numpy().tolist() == [
        ["H200-SXM-141GB", "vllm", "fp8", 16, 4, 1, 1024, 0.2],
        ["H200-SXM-141GB", "vllm", "fp8", 16, 1, 4, 1024, 0.2],
    ]
    assert table["measured_tokens_per_s"].tolist() == [1000.0, 1000.0]
    assert sum(unread.rows.values()) == 2


def test_a_summary_of_mlperf_is_a_run(tmp_path: Path):
    told = GPU | {"model": "Llama-3.1-8B", "engine": "trtllm", "input_len": 512}
    path = write(tmp_path, "mlperf_log_summary.txt", MLPERF)
    run = read_one(path, columns=told)[0].iloc[0]
    names = ["request_rate", "output_len", "measured_ttft_s", "measured_tpot_p99_s", "measured_tokens_per_s"]
    assert run[names].tolist() == pytest.approx([10.2, 256, 0.15, 0.02, 2560.0])
    with pytest.raises(InvalidTable, match="add --set input_len=…"):
        read_one(path, columns=GPU)
    offline = write(tmp_path, "offline.txt", MLPERF.replace("Server", "Offline"))
    assert read_one(offline, columns=told)[1].rows == {"Offline: all samples at once; add --set concurrency=N": 1}
    run = read_one(offline, columns=told | {"concurrency": 256})[0].iloc[0]
    assert run["measured_tokens_per_s"] == 2560.0 and pd.isna(run["measured_e2e_s"])


def test_what_is_written_is_what_the_name_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = write(tmp_path, "v.json", SERVE)
    for name in ("a.csv", "a.parquet"):
        assert main(["ingest", str(source), "--gpu", "H100", "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").startswith("model,gpu,")
    assert (tmp_path / "a.parquet").read_bytes().startswith(b"PAR1")
    assert main(["check", str(tmp_path / "a.csv")]) == main(["check", str(tmp_path / "a.parquet")])
    assert main(["ingest", str(source), "--gpu", "H100", "--out", str(tmp_path / "a.xlsx")]) == 2
    assert "its name must end in .parquet or .csv" in capsys.readouterr().err


def test_throughput_that_follows_from_the_rate_is_no_evidence():
    measured = pd.DataFrame(
        {
            "request_rate": [2.0, 2.0, float("nan")],
            "measured_tokens_per_s": [200.0] * 3,
            **dict.fromkeys(("model", "gpu", "engine"), "a"),
        }
    )
    ends = {f"tokens_per_s{end}": [200.0] * 3 for end in ("", "_low", "_high")}
    answers = pd.DataFrame({"saturated": pd.Series([False, True, None], dtype=object), **ends})
    assert _follows(measured, answers).tolist() == [True, False, False]
    assert len(_figure(measured, answers, "measured_tokens_per_s")) == 2
    assert "request rate" in FOLLOWS
