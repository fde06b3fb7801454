"""What engines said that they set aside when they started: weights, the profiled pass, and room for the cache.

Source: start-up logs of vLLM and SGLang, `serving_memory/vllm_sglang_memory.csv` of the truth; its README says where
each is from. Left out: engines whose share of the memory or number formats nobody stated, and parts that a log does not
name. Where no share is stated the logs are of 2026, with the default of their day.

The weights that vLLM logs for gpt-oss-120b (64.38 GiB) and its cache (3.33) are more than the share holds beside its
other parts; the file has 60.8 GiB, so that row's cache counts and its weights do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.latency.report import Interval
from predictor.learning.validation.replay import Figure, Replay, Table, interval, records
from predictor.prediction.single import answer
from predictor.units import GIB
from predictor.workloads.request import Request

FILE = "serving_memory/vllm_sglang_memory.csv"
VERSIONS = {
    "vLLM V1 (0.11.0 for Mistral; others unstated)": "0.11",
    "vLLM ~0.6.4": "0.6.4",
    "vLLM 0.4.1 (main 73c8d677, torch 2.2.1)": "0.4.1",
}
MODELS: Mapping[str, dict[str, Any]] = {
    "openai/gpt-oss-120b": {"model": "gpt-oss-120b"},
    "RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic": {"model": "Llama-3.3-70B-Instruct", "dtype": "fp8"},
    "Qwen/Qwen3-0.6B": {"model": "Qwen3-0.6B"},
    "Qwen/Qwen3-32B": {"model": "Qwen3-32B"},
    "meta-llama/Meta-Llama-3-8B": {"model": "Meta-Llama-3-8B"},
    "teknium/OpenHermes-2.5-Mistral-7B": {"model": "Mistral-7B-v0.1"},
    "TheBloke/zephyr-7B-beta-AWQ": {"model": "Mistral-7B-v0.1", "dtype": "int4_wo"},
    "TheBloke/Llama-2-7B-GPTQ": {"model": "Llama-2-7b-hf", "dtype": "int4_wo"},
    "mgoin/phi-2-super-marlin": {"model": "phi-2", "dtype": "int4_wo"},
    "Qwen3-235B-A22B-FP8": {"model": "Qwen3-235B-A22B-FP8"},
    "openai/Llama-3.1-8B-Instruct (path)": {"model": "Llama-3.1-8B"},
}
GPUS = {"A100": "A100-SXM-40GB", "H100 NVL": "H100-NVL-94GB", "H100": "H100-SXM-80GB", "RTX A6000": "RTX-A6000"}
# What a log names → the key of an answer.
KINDS = {
    "weights_gib": "weights_bytes",
    "activation_peak_gib": "activations_bytes",
    "non_torch_gib": "runtime_bytes",
}


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per part of a start: bytes by kind, and max_kv_tokens."""
    figures, skipped = list[Figure](), Counter[str]()
    for row in records(pd.read_csv(root / FILE)):
        try:
            request = request_of(row)
            told = answer(Request.of(request), bundle).to_dict()
        except PredictorError as error:
            skipped[str(error)] += 1
        except KeyError as error:
            skipped[f"no catalogue entry, format or version for {error}"] += 1
        else:
            figures += _figures(row, request, told)
    return Replay(figures, skipped)


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a request table; raises KeyError for a model or GPU that is not told."""
    gpu = next((name for start, name in GPUS.items() if row["gpu"].startswith(start)), row["gpu"])
    request = {**MODELS[row["model"]], "gpu": gpu, "tp": int(row["tp"]), "input_len": 1024, "output_len": 128}
    request |= {"engine": "sglang" if row["engine"].startswith("SGLang") else "vllm"}
    if version := VERSIONS.get(row["engine"]):
        request["engine_version"] = version
    if row["util"] > 0:
        request["gpu_memory_utilization"] = row["util"]
    return request


def _figures(row: Mapping[str, Any], request: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[Figure]:
    common: dict[str, Any] = {
        "table": FILE,
        "gpu": request["gpu"],
        "model": row["model"],
        "engine": row["engine"],
        "fitted": False,
        "request": request,
        "settings": {"tp": row["tp"], "failed": row["failed"] is True, "p_oom": told["p_oom"]},
    }
    for column, name in KINDS.items():
        if row[column] > 0 and not (name == "weights_bytes" and "gpt-oss" in row["model"]):
            value = Interval(told[name], None, None)  # type: ignore[arg-type]  # parts have no interval of their own
            yield Figure(metric=name, measured=row[column] * GIB, predicted=value, **common)
    tokens = row["kv_tokens"]
    if not tokens > 0 and row["kv_cache_gib"] > 0:
        room = told["capacity_bytes"] - told["memory_bytes"] + told["kv_cache_bytes"]
        tokens = row["kv_cache_gib"] * GIB / room * told["max_kv_tokens"]
    if tokens > 0:
        yield Figure(metric="max_kv_tokens", measured=tokens, predicted=interval(told, "max_kv_tokens"), **common)


TABLE = Table("startup", "what engines set aside when they start", "truth", replay)
