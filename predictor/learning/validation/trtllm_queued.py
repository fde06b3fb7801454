"""TensorRT-LLM at saturation: output tokens per second when all requests are queued from the start.

Sources: NVIDIA/TensorRT-LLM docs/source/performance/perf-overview.md (Apache-2.0), files of the folder `trtllm` of the
truth. 1.0: trtllm-bench throughput with the PyTorch engine, B200 in FP4 and H100 in FP8, 1,000 to 30,000 requests.
0.10 and 0.11: gptManagerBenchmark of the C++ engine, 2,000 requests at an infinite rate, A100 to GH200. All requests
queued is as many clients as requests, and no server stands between. Cache in fp8 where the layers are in fp8 or FP4.

Experts of 1.0 ran with shares and attention groups that are not told; taken: each GPU attends to requests of its own
and has an equal share of the experts, which alone agrees with B200 (up to 124,000 tokens/s of eight).
L40S: joined over PCIe from card to card. Through the host, prompts of 70B would take three times as long as they did.
Memory: of what weights leave, 0.9 in 1.0 (0.90 to 0.95 in the text), in 0.10 and 0.11 what the rows say.
Requests: a run of 30,000 is answered at the rate of its middle; of more than five times as many as run at once, five
times as many are asked for.

Known: where 0.10 and 0.11 answer 2,048 tokens with a 70B in 16 bits on A100 and H100, predictions are 1.2 to 2 times
too high; in fp8 they agree better. 0.10 ran Llama-3-8B and Mixtral in fp8 at a third to a half of the rate of 0.11.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.learning.validation.replay import (
    Figure,
    Replay,
    Table,
    all_at_once,
    half,
    interval,
    records,
    replayed,
    stated_length,
)
from predictor.workloads.models import get_model

NEW, OLD = "trtllm/throughput_v1.0.csv", "trtllm/ifb_throughput_v0.10_v0.11.csv"
GPUS = {
    "A100-SXM4-80GB": "A100-SXM-80GB",
    "B200": "B200-SXM-180GB",
    "GH200 120GB": "GH200-96GB",
    "H100": "H100-SXM-80GB",
    "H100 80GB HBM3": "H100-SXM-80GB",
    "H200 141GB HBM3": "H200-SXM-141GB",
    "L40S": "L40S",
}
PEERS = ("L40S",)
MODELS = {
    "Falcon 180B": "falcon-180B",
    "GPTJ 6B": "gpt-j-6b",
    "LLaMA v2 7B": "Llama-2-7b-hf",
    "LLaMA v2 70B": "Llama-2-70b-hf",
    "LLaMA v3 8B": "Meta-Llama-3-8B",
    "LLaMA v3 70B": "Meta-Llama-3-70B",
    "Llama 3.1 8B": "Llama-3.1-8B",
    "Llama 3.1 405B": "Llama-3.1-405B",
    "Llama 3.3 70B": "Llama-3.3-70B-Instruct",
    "Llama 4 Scout": "Llama-4-Scout-17B-16E",
    "Llama 4 Maverick": "Llama-4-Maverick-17B-128E",
    "Mistral 7B": "Mistral-7B-v0.1",
    "Mixtral 8x7B": "Mixtral-8x7B-v0.1",
    "Qwen3-235B-A22B": "Qwen3-235B-A22B",
    "Qwen3-30B-A3B": "Qwen3-30B-A3B",
}
DTYPES = {"FP4": "nvfp4", "FP8": "fp8", "FP16": "fp16"}
SHAPE = ["model", "gpu", "precision", "tp", "input_len", "output_len"]
# What the rows of 0.10 and 0.11 say of the cache → what was set.
OLD_SETTINGS: dict[str, dict[str, Any]] = {
    "kv frac 0.9": {"max_num_batched_tokens": 2048, "max_num_seqs": 2048},
    "kv frac 0.99": {"gpu_memory_utilization": 0.99},
}
QUEUED = 2000  # requests of 0.10 and 0.11
MAX_SEQUENCES = 2048  # the engine's
ENOUGH = 5 * MAX_SEQUENCES  # requests of a run, whose middle sets its rate


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per row: tokens_per_s of all GPUs."""
    return replayed(configurations(root), request_of, _figures, bundle)


def configurations(root: Path) -> list[dict[str, Any]]:
    """The rows of both files; measured: tokens per second of all GPUs."""
    new, old = (pd.read_csv(root / file).assign(table=file) for file in (NEW, OLD))
    new["measured"] = new["total_output_tokens_per_s"]
    old["measured"], old["num_requests"] = old["tokens_per_s"], QUEUED
    return records(new) + records(old)


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a request table."""
    model, dtype, prompts = MODELS[row["model"]], DTYPES[row["precision"]], min(int(row["num_requests"]), ENOUGH)
    request = {
        "model": model,
        "gpu": GPUS[row["gpu"]],
        "engine": "trtllm",
        "engine_version": str(row["trtllm_version"]),
        "dtype": dtype,
        "kv_dtype": "" if dtype == "fp16" else "fp8",
        **_layout(row, model),
        **stated_length(model, int(row["input_len"] + row["output_len"])),
        "input_len": int(row["input_len"]),
        "output_len": int(row["output_len"]),
        "length_spread": 0.0,
        **all_at_once(prompts),
    }
    if row["table"] == OLD:
        request |= OLD_SETTINGS[row["setting"].partition("infinite rate, ")[2].partition(",")[0]]
    return request


def _layout(row: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Which GPU does what; cards without a link of their own reach each other over PCIe."""
    gpus = int(row["tp"])
    if row["table"] == NEW and get_model(model).experts:
        return {"tp": 1, "attention_dp": gpus, "ep": gpus}
    return {"tp": gpus, "link": "pcie" if row["gpu"] in PEERS else ""}


def _figures(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[Figure]:
    request = request_of(row)
    yield Figure(
        table=row["table"],
        gpu=request["gpu"],
        model=request["model"],
        engine="trtllm",
        metric="tokens_per_s",
        measured=row["measured"],
        predicted=interval(answer, "tokens_per_s"),
        fitted=half(*(row[name] for name in SHAPE)),
        request=request,
        settings={name: row[name] for name in SHAPE[2:]} | {"version": str(row["trtllm_version"])},
    )


TABLE = Table("trtllm_queued", "TensorRT-LLM with all requests queued, A100 to B200", "truth", replay)
