"""vLLM on eight MI300X: seconds of static batches, and tokens per second of many prompts at once.

Source: the README of AMD's vLLM images through its history (ROCm/vllm docs/dev-docker/README.md), files of the folder
`rocm_vllm` of the truth: Llama-3.1-70B and 405B in fp8 with an fp8 KV cache over eight GPUs, nine revisions of
2025. benchmark_latency.py runs a batch from the first prompt to the last token; benchmark_throughput.py hands all
prompts to the engine at once and counts prompts and answers. Taken: the engine before V1 up to June, as images before
0.9.1 ran (VLLM_USE_V1=0), then 0.9. The rows whose name says 405B and whose path says 70B are of the larger one, as
their times are.

Prompts and answers of 2,048 tokens each run at half of what the other three pairs of lengths would make one expect
(8,200 tokens/s of both beside 13,000 at 500 and 2,000); predictions are 1.7 times as high.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.learning.validation.replay import Figure, Replay, Table, all_at_once, interval, records, replayed

LATENCY, THROUGHPUT = "rocm_vllm/latency.csv", "rocm_vllm/throughput.csv"
GPU = "MI300X"
MODELS = {"Llama 3.1 70B": "Llama-3.1-70B", "Llama 3.1 405B": "Llama-3.1-405B"}
V1_SINCE = "2025-07"  # what the commands ask for; before it 0.7 stands for the engine before V1
SECONDS = {"MI300X Latency (ms)": 1e-3, "MI300X Latency (sec)": 1.0}


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per row: e2e_s of static batches, tokens_per_s of many prompts at once."""
    return replayed(configurations(root), request_of, _figures, bundle)


def configurations(root: Path) -> list[dict[str, Any]]:
    """The rows of both files; measured: seconds, or tokens per second."""
    latency, throughput = (pd.read_csv(root / file).assign(table=file) for file in (LATENCY, THROUGHPUT))
    latency["measured"] = latency["value"] * latency["metric"].map(SECONDS)
    throughput["measured"] = throughput["value"]
    return records(latency) + records(throughput)


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a request table."""
    request = {
        "model": MODELS[row["Model"].partition(" (")[0]],
        "gpu": GPU,
        "engine": "vllm",
        "engine_version": "0.9" if row["date"] >= V1_SINCE else "0.7",
        "dtype": "fp8",
        "kv_dtype": "fp8",
        "tp": int(row["TP Size"]),
        "input_len": int(row["Input"]),
        "output_len": int(row["Output"]),
    }
    if row["table"] == LATENCY:
        return request | {"batch": int(row["Batch Size"])}
    prompts = int(row["Num Prompts"])
    return request | all_at_once(prompts) | {"length_spread": 0.0, "max_num_seqs": int(row["Max Num Seqs"])}


def _figures(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[Figure]:
    request, static = request_of(row), row["table"] == LATENCY
    metric = "e2e_s" if static else "tokens_per_s"
    # Tokens of prompts are counted in the rate.
    counted = 1.0 if static else (request["input_len"] + request["output_len"]) / request["output_len"]
    yield Figure(
        table=row["table"],
        gpu=GPU,
        model=request["model"],
        engine="vllm",
        metric=metric,
        measured=row["measured"] / counted,
        predicted=interval(answer, metric),
        fitted=False,
        request=request,
        settings={"date": row["date"]}
        | {name: request.get(name) for name in ("batch", "input_len", "output_len", "num_prompts")},
    )


TABLE = Table("rocm_vllm", "static batches and many prompts at once, eight MI300X", "truth", replay)
