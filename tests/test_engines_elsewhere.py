"""Engines where others run under their name: vLLM on Intel's GPUs and on Gaudi, and GPUs on which one does not run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor.elementwise import power_of_two
from predictor.errors import InvalidRequest
from predictor.estimators.bundle import load_bundle
from predictor.hardware.gpu import catalogue, get_gpu
from predictor.learning.validation import alcf
from predictor.prediction.single import predict
from predictor.workloads.engine_tables import OTHERS
from predictor.workloads.engines import engine_of, engines, get_engine, runs_there
from predictor.workloads.models import get_model
from predictor.workloads.workload import Workload

TRUTH = Path(os.environ.get("PREDICTOR_TRUTH", Path(__file__).resolve().parents[2] / "shared" / "truth"))


def test_what_runs_somewhere_names_gpus_and_engines_that_are_known() -> None:
    known = {OTHERS} | {name for gpu in catalogue().values() for name in (gpu.vendor, gpu.generation)}
    for engine in engines().values():
        assert set(engine.runs_on) <= known and set(engine.runs_on.values()) <= {"", *engines()}
        for gpu in catalogue().values():
            if there := runs_there(engine, gpu):
                assert runs_there(get_engine(there), gpu) == there, (engine.name, gpu.name)


def test_every_gpu_runs_something_and_an_error_names_it() -> None:
    for gpu in catalogue().values():
        assert runs_there(get_engine("torch"), gpu) == "torch"
        for name, engine in engines().items():
            if not runs_there(engine, gpu):
                with pytest.raises(
                    InvalidRequest, match=f'^engine is "{name}"; on {gpu.name} the catalogue has .*torch'
                ):
                    engine_of(name, "", gpu)


@pytest.mark.parametrize(
    ("gpu", "version", "engine"),
    [
        ("Arc-B580", "", "vllm-xpu"),
        ("Arc-A770-16GB", "0.6.3", "vllm-xpu"),
        ("Max-1550-Stack", "", "vllm-xpu"),
        ("Gaudi2", "0.6.3", "vllm-gaudi"),
        ("Gaudi3", "", "vllm-gaudi"),
        ("MI300X", "", "vllm"),
        ("H100-SXM-80GB", "0.6.3", "vllm-v0"),
    ],
)
def test_vllm_is_what_runs_there(gpu: str, version: str, engine: str) -> None:
    report = predict("Llama-3.2-1B", gpu, engine_version=version)
    assert report.workload.engine == engine and report.request and report.request.engine == "vllm"


def test_without_graphs_the_host_issues_every_step() -> None:
    intel = predict("Llama-3.2-1B", "Max-1550-Stack")
    launched = sum(call.count for call in intel.workload.launched())
    assert intel.tpot_s.value >= intel.workload.engine_on(intel.gpu).launch_s * launched
    assert "vllm-xpu was timed on no GPU: intervals are wider." in intel.notes
    assert intel.tpot_s.high / intel.tpot_s.value >= 1.4
    assert intel.memory.cuda_graphs_bytes == 0.0


def test_an_untimed_engine_is_more_doubtful_under_load_too() -> None:
    def spread(**asked: Any) -> float:
        told = predict("Llama-3.2-1B", "Max-1550-Stack", concurrency=4, **asked).tpot_s
        return told.high / told.value

    assert spread() > 1.4


def test_graphs_of_gaudi_are_padded() -> None:
    def ops(**sizes: Any) -> Any:
        workload = Workload(model=get_model("Llama-3.2-1B"), engine="vllm-gaudi", **sizes)
        return workload.prefill_ops(), workload.decode_ops(512)

    assert ops(batch=17, input_len=384) != ops(batch=32, input_len=384)
    assert ops(batch=17)[1] == ops(batch=32)[1] != ops(batch=16)[1]
    short, whole = ops(input_len=300)[0], ops(input_len=384)[0]
    assert [call.op for call in short] == [call.op for call in whole]
    counts = np.arange(1, 70)
    assert power_of_two(counts).tolist() == [power_of_two(count) for count in counts.tolist()]


def test_rates_of_gaudi_are_wider_on_the_one_that_nobody_timed() -> None:
    two, three = (predict("Llama-3.1-8B", gpu) for gpu in ("Gaudi2", "Gaudi3"))
    assert two.ttft_s.high / two.ttft_s.value < three.ttft_s.high / three.ttft_s.value
    assert any("DeepSpeed on Gaudi2" in note for note in two.notes)
    assert predict("Llama-3.1-8B", "Gaudi2", dtype="fp8").ttft_s.value < two.ttft_s.value
    assert get_gpu("Gaudi2").vendor == get_gpu("Arc-B580").vendor  # generations go before vendors


@pytest.mark.skipif(not (TRUTH / alcf.FILE).is_file(), reason=f"no {alcf.FILE} in {TRUTH}")
def test_batches_of_gaudi_are_met_on_the_half_that_no_rate_saw() -> None:
    rows = [row for row in alcf.configurations(TRUTH)[0] if alcf.GPUS[row["gpu_raw"]] == "Gaudi2"]
    told = [answer for answer in alcf.answered(rows, load_bundle()) if not answer[2]["error"]]
    errors = [abs(answer["e2e_s"] / row["e2e_latency_s"] - 1) for row, _, answer in told if not alcf.fitted(row)]
    assert len(errors) > 150 and np.median(errors) < 0.07
