"""Serving benchmarks and llama-bench become runs: all tools tell one load alike, and what is no run is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tool_files import AIPERF, LLAMA, ONE_BATCH, SERVE, SGLANG, read_one, write

from predictor.errors import InvalidTable
from predictor.measurements.ingest import ingest
from predictor.measurements.ingest.llama_bench import dtype_name, model_name


def test_llama_bench_is_ttft_tpot_and_e2e(tmp_path: Path):
    tests = [
        LLAMA,
        LLAMA | {"n_prompt": 0, "n_gen": 128, "n_depth": 4096, "avg_ns": 1_000_000_000},
        LLAMA | {"n_gen": 128, "avg_ns": 1_060_000_000},
        LLAMA | {"n_depth": 4096},
        LLAMA | {"n_gpu_layers": 20},
    ]
    runs, unread = read_one(write(tmp_path, "any.txt", tests))
    assert runs[["input_len", "output_len"]].to_numpy().tolist() == [[512, 1], [4096, 129], [512, 129]]
    assert runs["measured_ttft_s"][0] == pytest.approx(0.06)
    assert runs["measured_tpot_s"][1] == pytest.approx(1 / 128)
    assert runs["measured_e2e_s"][2] == pytest.approx(1.06)
    assert (
        set(runs["engine"]) == {"llama.cpp"}
        and set(runs["dtype"]) == {"q4_k_m"}
        and set(runs["status"]) == {"accepted"}
    )
    assert len(runs) + sum(unread.rows.values()) == len(tests)


@pytest.mark.parametrize("form", ["json", "lines", "csv", "utf-16"])
def test_llama_bench_of_any_output_is_one(form: str, tmp_path: Path):
    path = tmp_path / "out"
    if form == "csv":
        pd.DataFrame([LLAMA]).to_csv(path, index=False, quoting=1)
    else:
        text = json.dumps([LLAMA], indent=2) if form == "json" else json.dumps(LLAMA) + "\n"
        path.write_bytes(text.encode("utf-16" if form == "utf-16" else "utf-8"))
    assert read_one(path)[0]["measured_ttft_s"].tolist() == [pytest.approx(0.06)]


def test_gguf_names_are_models_and_dtypes():
    assert model_name(r"C:\m\Qwen2.5-7B-Instruct-Q4_K_M-00001-of-00002.gguf") == "Qwen2.5-7B"
    assert model_name("mine-f16.gguf") == "mine"
    names = (
        "llama 7B mostly Q4_0",
        "qwen2 7B Q2_K - Medium",
        "llama 8B all F32",
        "llama 8B BF16",
        "llama 8B IQ2_XXS - 2.0625 bpw",
    )
    assert [dtype_name(name) for name in names] == ["q4_0", "q2_k", "fp32", "bf16", "iq2_xxs"]


def test_serving_benchmarks_of_all_tools_state_one_run(tmp_path: Path):
    more = {"gpu": "H100", "engine": "vllm", "model": "Qwen3-8B", "tp": 1, "engine_version": "", "source": ""}
    vllm, sglang, aiperf = (
        read_one(write(tmp_path, f"{n}.json", result), columns=more)[0].drop(columns=["measured_e2e_s", "attention_dp"])
        for n, result in enumerate([SERVE, SGLANG, AIPERF])
    )
    told = [
        "concurrency",
        "input_len",
        "output_len",
        "scheduling",
        "measured_ttft_s",
        "measured_tpot_s",
        "measured_tokens_per_s",
    ]
    assert vllm[told].iloc[0].tolist() == [16, 1024, 256, "continuous", 0.09, 0.0092, 1690.0]
    for other in (sglang, aiperf):
        pd.testing.assert_frame_equal(vllm[told], other[told])


def test_what_files_tell_of_server_and_gpu_is_taken(tmp_path: Path):
    sglang = read_one(write(tmp_path, "s.jsonl", json.dumps(SGLANG) + "\n"), columns={"gpu": "H100"})[0]
    assert sglang[["model", "tp", "engine", "engine_version"]].iloc[0].tolist() == [
        "Qwen/Qwen3-8B",
        2,
        "sglang",
        "0.5.3",
    ]
    aiperf = read_one(write(tmp_path, "a.json", AIPERF), columns={"engine": "sglang"})[0]
    assert aiperf[["model", "gpu"]].iloc[0].tolist() == ["Qwen/Qwen3-8B", "NVIDIA H100 80GB HBM3"]
    batch = read_one(write(tmp_path, "b.jsonl", ONE_BATCH), columns={"gpu": "H100", "model": "Qwen3-8B"})[0]
    assert batch[["scheduling", "batch", "measured_tpot_s"]].iloc[0].tolist() == ["static", 8, 0.0068]


def test_a_rate_that_is_held_is_the_load_and_else_the_limit(tmp_path: Path):
    for served, expected in ((7.9, [8.0, False]), (4.0, [float("nan"), True])):
        result = SERVE | {"request_rate": 8.0, "request_throughput": served}
        run = read_one(write(tmp_path, "v.json", result), columns={"gpu": "H100"})[0].iloc[0]
        assert [run["request_rate"], run["concurrency"] == 16] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"max_concurrency": None},
            "all requests at once: neither a rate nor a limit on concurrency; add --set concurrency=N if N ran "
            "together",
        ),
        ({"completed": 0}, "no request was answered with tokens"),
        (
            {"spec_decode_acceptance_length": 2.4},
            "speculative decoding; add --set draft_tokens=N --set acceptance=SHARE",
        ),
    ],
)
def test_a_run_that_no_request_states_is_counted(change: dict[str, Any], reason: str, tmp_path: Path):
    table, unread = read_one(write(tmp_path, "v.json", SERVE | change), columns={"gpu": "H100"})
    assert table.empty and unread.rows == {reason: 1}


def test_latency_of_vllm_needs_what_it_does_not_tell(tmp_path: Path):
    path = write(tmp_path, "latency.json", {"avg_latency": 1.4, "latencies": [1.4], "percentiles": {"50": 1.4}})
    with pytest.raises(InvalidTable) as error:
        ingest([path], columns={"gpu": "H100", "model": "Qwen3-8B"})
    assert str(error.value) == f"{path} tells the latency only; add --set batch=… --set input_len=… --set output_len=…."
    told = {"gpu": "H100", "model": "Qwen3-8B", "batch": 8, "input_len": 32, "output_len": 128}
    assert ingest([path], columns=told)["measured_e2e_s"].tolist() == [1.4]


def test_lengths_that_were_asked_for_are_taken_where_the_tokens_agree(tmp_path: Path):
    """SGLang's random lengths lie evenly between a share of the longest and it; a mean alone is that of all."""
    asked = {"random_input_len": 1138, "random_output_len": 284, "random_range_ratio": 0.8}
    for dataset, expected in (("random", [1138, 284, 0.2]), ("sharegpt", [1024, 256, 0.0])):
        path = write(tmp_path, "s.jsonl", json.dumps(SGLANG | asked | {"dataset_name": dataset}) + "\n")
        run = read_one(path, columns={"gpu": "H100"})[0].iloc[0]
        assert run[["input_len", "output_len", "length_spread"]].tolist() == pytest.approx(expected)


def test_percentiles_are_read(tmp_path: Path):
    path = write(tmp_path, "v.json", SERVE | {"p99_ttft_ms": 400.0, "p99_tpot_ms": 12.0})
    run = read_one(path, columns={"gpu": "H100"})[0].iloc[0]
    assert run[["measured_ttft_p99_s", "measured_tpot_p99_s"]].tolist() == [0.4, 0.012]
