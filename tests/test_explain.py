"""What --explain lists adds up to what the answer says."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from predictor.cli import main
from predictor.estimators.bundle import load_bundle
from predictor.latency.explain import OTHERS, Other, explained
from predictor.latency.report import Report
from predictor.latency.training import TrainingReport
from predictor.prediction.single import answer
from predictor.workloads.request import Request

SERVED: list[dict[str, Any]] = [
    {},
    {"batch": 64, "input_len": 200, "output_len": 900},
    {"output_len": 1},
    {"output_len": 2},
    {"engine": "torch"},
    {"engine": "torch", "tp": 2, "pp": 2, "batch": 4},
    {"engine": "sglang", "pp": 4, "batch": 8},
    {"engine": "trtllm", "dtype": "fp8"},
    {"gpu": "Tesla-T4", "dtype": "fp16", "batch": 2},
    {"model": "Qwen3-30B-A3B", "ep": 2, "tp": 2},
    {"model": "gpt2", "engine": "torch", "input_len": 64},
    {"model": "bert-base-uncased", "input_len": 128},
    {"model": "t5-base", "input_len": 64},
    {"model": "resnet50", "batch": 32},
    {"scheduling": "continuous", "batch": 8},
    {"request_rate": 2, "pp": 2, "output_len": 40},
    {"concurrency": 64, "dp": 2, "output_len": 1},
    {"concurrency": 16, "turns": 4, "shared_prefix_len": 500, "engine": "sglang"},
    {"concurrency": 4, "draft_tokens": 3, "acceptance": 0.7, "draft_model": "mtp"},
]
TRAINED: list[dict[str, Any]] = [
    {},
    {"dp": 8, "zero_stage": 3, "micro_batch": 2},
    {"pp": 4, "grad_accum": 8, "tp": 2},
    {"offload": "optimizer", "zero_stage": 2, "dp": 2},
    {"offload": "parameters", "zero_stage": 3, "dp": 2},
    {"method": "lora", "gpu": "L4", "seq_len": 64},
]
CLOSE = pytest.approx


def report_of(**settings: Any) -> Report | TrainingReport:
    return answer(Request(**{"model": "Qwen2.5-0.5B", "gpu": "H100", **settings}))


def total(report: Report | TrainingReport, phase: str = "") -> float:
    parts = explained(report, load_bundle())
    return sum(part.latency_s.value for part in parts if phase in ("", part.phase))


@pytest.mark.parametrize("settings", SERVED, ids=str)
def test_the_parts_of_an_answer_add_up(settings: dict[str, Any]) -> None:
    report = report_of(**settings)
    assert isinstance(report, Report)
    assert total(report, "prefill") == CLOSE(report.ttft_s.value, rel=1e-6)
    if any(line.phase == "decode" for line in report.ops):
        assert total(report, "decode") == CLOSE(report.tpot_s.value, rel=1e-6)
    for part in explained(report, load_bundle()):
        assert isinstance(part, Other) or part in report.ops or report.served
        assert part.latency_s.low <= part.latency_s.value <= part.latency_s.high
        if isinstance(part, Other) and part.name not in ("length", "load"):
            assert part.latency_s.value > 0


@pytest.mark.parametrize("settings", TRAINED, ids=str)
def test_the_parts_of_a_training_step_add_up(settings: dict[str, Any]) -> None:
    report = report_of(phase="train", **settings)
    assert isinstance(report, TrainingReport)
    assert total(report) == CLOSE(report.step_s.value, rel=1e-6)
    for phase in ("forward", "backward", "optimizer", "communication", "bubble"):
        assert total(report, phase) == CLOSE(getattr(report.step, f"{phase}_s"), rel=1e-6, abs=1e-12)


def test_a_host_that_the_gpu_waits_for_is_a_part() -> None:
    names = {part.name for part in explained(report_of(engine="torch"), load_bundle())}
    assert "host" in names
    assert "request" in {part.name for part in explained(report_of(), load_bundle())}
    assert "pipeline fill" in {part.name for part in explained(report_of(pp=2, batch=4), load_bundle())}
    assert "pipeline fill" not in {part.name for part in explained(report_of(pp=2), load_bundle())}


def test_under_load_the_parts_are_those_of_the_mean_step() -> None:
    """Not of all clients at once, whose prompts would run together: what is left over is queues and other prompts."""
    report = report_of(model="Llama-3.1-8B", request_rate=4.0, output_len=256)
    assert isinstance(report, Report) and report.served
    parts = explained(report, load_bundle())
    gemms = [part for part in parts if not isinstance(part, Other) and part.op.family == "gemm"]
    sequences = round(report.served.batch)
    assert {float(part.op.m) for part in gemms if part.phase == "decode"} == {sequences}  # type: ignore[union-attr]
    assert max(float(part.op.m) for part in gemms if part.phase == "prefill") == round(1024 * 0.9)  # type: ignore[union-attr]
    left = {part.phase: part.latency_s.value for part in parts if part.name == "load"}
    assert 0 < left["decode"] < 0.3 * report.tpot_s.value and 0 < left["prefill"] < 0.5 * report.ttft_s.value
    cached = explained(report_of(concurrency=4, prefix_cache_hit_rate=0.5), load_bundle())
    assert max(float(getattr(part.op, "m", 0)) for part in cached if not isinstance(part, Other)) == round(1024 * 0.45)


def test_tables_and_json_add_up_to_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", "Qwen2.5-0.5B", "--gpu", "H100", "--engine", "torch", "--explain"]
    main([*arguments, "--json"])
    (row,) = json.loads(capsys.readouterr().out)
    for phase, name in (("prefill", "ttft_s"), ("decode", "tpot_s")):
        of_phase = [op["latency_s"] for op in row["ops"] if op["phase"] == phase]
        assert sum(of_phase) == CLOSE(row[name], rel=1e-6)
    host = [op for op in row["ops"] if op["name"] == "host"]
    assert host and set(host[0]) == set(row["ops"][0]) and host[0]["estimator"] == "host"
    main(arguments)
    said = capsys.readouterr().out
    answer_line = next(line for line in said.splitlines() if line.strip().startswith(row["gpu"]))
    ttft, tpot = re.findall(r"([\d.]+ \wm?s) \(", answer_line)
    assert f"prefill (TTFT) · {ttft}" in said and f"one decode step (TPOT), operators half-way · {tpot}" in said
    assert f"host: {OTHERS['host']}." in said


def test_every_part_that_is_no_operator_is_explained() -> None:
    names = {
        part.name
        for settings in (*SERVED, *({"phase": "train", **each} for each in TRAINED))
        for part in explained(report_of(**settings), load_bundle())
        if isinstance(part, Other)
    }
    assert names <= set(OTHERS)
