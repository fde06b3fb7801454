"""MLPerf Inference 4.1: tokens per second of queued samples, and first and later tokens of arrivals at a rate.

Source: the logs of the submissions (mlcommons/inference_results_v4.1), `mlperf_inference/mlperf_inference_runs.csv` of
the truth folder: Llama-2-70B on systems of GPUs. Offline: all samples are queued. Server: requests arrive at
random at target_qps, of which each must keep 2 s to the first token and 200 ms per later one. Runs that two rounds of
accuracy share count once. What the logs do not say, and is taken:

Lengths: OpenOrca, 295 prompt tokens on average (the answers' mean is in the logs: 292). They vary from a few to 1,024
    tokens; taken as even from none to twice the mean.
Formats: fp8, on Blackwell NVFP4, with an fp8 cache; NVIDIA's accuracy allows both. Cards of Ada with vLLM also fp8.
Layout: each replica as few GPUs as leave a quarter of their memory to the cache, replicas on all others.
Engine: "TensorRT 10" is TensorRT-LLM 0.11 or 0.12, "TensorRT 9" 0.9.

Engines' settings: AMD ran up to 768 sequences at once instead of vLLM's 256; scripts of submitters leave 0.95 of the
    memory that weights leave to the cache, and 0.9 on H200. Cards in slots reach each other over PCIe.

Server runs at 0.9 to 0.97 of what a system can do, where the time of a later token says little: with 850 sequences at
155 ms a replica of two H100 answers 18.8 requests/s, with 440 at 82 ms 18.4. Two per cent of the rate are half of it.

Left out, with a count: GPT-J, of which each answer is searched with four beams, and Mixtral, whose prompts' means are
not in the logs (with that of OpenOrca Mixtral's rate is 1.6 times too high); the open division; what is no GPU of the
catalogue.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.learning.validation.replay import Figure, Replay, Table, all_at_once, half, interval, records, replayed
from predictor.workloads.models import get_model

FILE = "mlperf_inference/mlperf_inference_runs.csv"


class Data(NamedTuple):
    """A model, and the tokens of its mean prompt and answer."""

    model: str
    input_len: int
    output_len: int


DATA = {"llama2-70b": Data("Llama-2-70b-hf", 295, 292)}
LEFT_OUT = {
    "gptj": "GPT-J: the mean prompt is not told",
    "mixtral-8x7b": "Mixtral: the mean prompt of its three data sets is not told",
}
# What the systems call their GPUs → name of the catalogue.
GPUS = {
    "AMD Instinct MI300X": "MI300X",
    "AMD MI300X": "MI300X",
    "NVIDIA B200-SXM-180GB": "B200-SXM-180GB",
    "NVIDIA GH200 Grace Hopper Superchip 144GB": "GH200-144GB",
    "NVIDIA GH200 Grace Hopper Superchip 96GB": "GH200-96GB",
    "NVIDIA GeForce RTX 4090": "RTX-4090",
    "NVIDIA H100-NVL-94GB": "H100-NVL-94GB",
    "NVIDIA H100-PCIe-80GB": "H100-PCIe-80GB",
    "NVIDIA H100-SXM-80GB": "H100-SXM-80GB",
    "NVIDIA H200-SXM-141GB": "H200-SXM-141GB",
    "NVIDIA L40S": "L40S",
}
IN_SLOTS = ("H100-PCIe-80GB", "L40S", "RTX-4090")
FULL = 0.75  # of the memory at most for weights
QUEUED = 24_576  # samples that a run queues at least: those of OpenOrca, and the rule of the benchmark
SECONDS = 600  # that a Server run takes at least, all of which counts
LONGEST = 100_000  # requests of a run that is answered
METRICS = {"ttft_s": "ttft_mean_ms", "ttft_p99_s": "ttft_p99_ms", "tpot_s": "tpot_mean_ms", "tpot_p99_s": "tpot_p99_ms"}


def replay(root: Path, bundle: Bundle) -> Replay:
    """Offline tokens_per_s of all GPUs; of Server mean and 99th percentile of ttft_s and tpot_s."""
    rows, skipped = configurations(root)
    return replayed(rows, request_of, _figures, bundle, skipped)


def configurations(root: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """One row per run of a large language model, and how many were left out why."""
    table = pd.read_csv(root / FILE)
    table["scenario"] = table["scenario"].str.capitalize()
    table["data"] = table["model"].str.replace(r"-99(\.9)?$", "", regex=True)
    large = table["data"].isin([*DATA, *LEFT_OUT])
    skipped = Counter({"open division: pruned models": int((large & (table["division"] != "closed")).sum())})
    table = table[large & (table["division"] == "closed")]
    for data, reason in LEFT_OUT.items():
        skipped[reason] += int((table["data"] == data).sum())
    table = table[table["data"].isin(list(DATA))].copy()
    table["name"] = table["gpu"].map(_gpu_name)
    skipped["no GPU of the catalogue"] += int(table["name"].isna().sum())
    measured = ["tokens_per_s", "completed_samples_per_s", "tpot_mean_ms"]
    table = table.dropna(subset=["name"]).drop_duplicates(["submitter", "system", "data", "scenario", *measured])
    return records(table), +skipped


def _gpu_name(text: object) -> str | None:
    starts = [name for start, name in GPUS.items() if str(text).startswith(start)]
    return starts[0] if starts else None


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a request table; twice the mean lengths, which lie evenly down to nothing."""
    data, gpu, gpus = DATA[row["data"]], get_gpu(row["name"]), int(row["gpus_per_node"] * row["nodes"])
    dtype = "nvfp4" if "nvfp4" in gpu.peak_flop_per_s else "fp8"
    tp = _fewest(data.model, gpu, int(row["gpus_per_node"]), dtype)
    request = {
        "model": data.model,
        "gpu": gpu.name,
        **_engine(str(row["software"])),
        "dtype": dtype,
        "kv_dtype": "fp8",
        "tp": tp,
        "dp": gpus // tp,
        "input_len": 2 * data.input_len,
        "output_len": 2 * data.output_len,
        "length_spread": 1.0,
    }
    if request["engine"] == "trtllm" and gpu.name != "H200-SXM-141GB":
        request["gpu_memory_utilization"] = 0.95
    if gpu.name == "MI300X":
        request["max_num_seqs"] = 768
    if tp > 1 and gpu.name in IN_SLOTS:
        request["link"] = "pcie"
    if row["scenario"] == "Server":
        rate = float(row["target_qps"])
        return request | {"request_rate": rate, "num_prompts": min(round(SECONDS * rate), LONGEST), "warmup": 0}
    return request | all_at_once(QUEUED)


def _engine(software: str) -> dict[str, str]:
    if of_vllm := re.search(r"vLLM (\d+\.\d+)", software):
        return {"engine": "vllm", "engine_version": of_vllm[1]}
    return {"engine": "trtllm", "engine_version": "0.9" if "TensorRT 9" in software else "0.11"}


def _fewest(model: str, gpu: Gpu, gpus: int, dtype: str) -> int:
    """GPUs of a replica."""
    weights = get_model(model).parameters() * (0.5625 if dtype == "nvfp4" else 1.0)
    fitting = [tp for tp in (1, 2, 4, 8) if tp <= gpus and weights <= FULL * tp * gpu.mem_bytes]
    return fitting[0] if fitting else gpus


def _figures(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[Figure]:
    request = request_of(row)
    measured = {metric: row[column] / 1e3 for metric, column in METRICS.items()}
    if row["scenario"] != "Server":
        measured = {"tokens_per_s": row["tokens_per_s"]}
    for metric, value in measured.items():
        yield Figure(
            table=FILE,
            gpu=request["gpu"],
            model=request["model"],
            engine=request["engine"],
            metric=metric,
            measured=value,
            predicted=interval(answer, metric),
            fitted=half(row["submitter"], row["system"], row["data"]),
            request=request,
            settings={name: request[name] for name in ("dtype", "tp", "dp")}
            | {name: row[name] for name in ("scenario", "submitter", "target_qps")},
        )


TABLE = Table("mlperf", "MLPerf Inference 4.1, queued samples and arrivals", "truth", replay)
