"""Offline batches of 2024 at Argonne's leadership computing facility: seconds from the first prompt to the last token.

Source: argonne-lcf/LLM-Inference-Bench (Chitty-Venkata et al., arXiv:2411.00136), `alcf/all_results.csv` of the truth
folder: A100 of Polaris (SXM, 40 GB), GH200 with 96 GB, MI250 and Gaudi2 in 16 bits; all prompts of a batch at once, as
long as the answers. What the table does not say, and what is taken:

Versions: vLLM 0.6 (autumn of 2024) and TensorRT-LLM 0.12, both the engines before their rewriting.
DeepSpeed: vLLM for Gaudi stands in for DeepSpeed on Gaudi2, both of which replay HPU graphs; its rows and those of
    DeepSpeed-MII keep their own name.
MI250: two GPUs in the sense of the catalogue, dies that programs see apart. Llama-2-70B ran on "2", whose weights need
    more than two dies have, so tensor parallelism was over all dies.
Batches whose KV cache finds no room wait in part: those are asked for as clients that all send one request at once.

Known: MI250 with 64 sequences of 14 query heads and more a die, several to a KV head, takes 1.3 elements of the cache
per cycle and SM (vLLM's first paged attention, before 0.6.3 that of more than 512 sequences × heads): up to four times
as long as predicted. Mixtral there, whose experts nobody tuned, 1.5 times. TensorRT-LLM on A100 reads the cache of
grouped queries as 0.10 does.

Left out, with a count: llama.cpp, which runs one sequence at a time here; repeats; what is longer than a model takes,
which ended at once (0.04 s at batch 1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.learning.validation.replay import (
    Figure,
    Replay,
    Table,
    all_at_once,
    answers,
    half,
    interval,
    rate,
    records,
)

FILE = "alcf/all_results.csv"
GPUS = {
    "Nvidia A100 GPU": "A100-SXM-40GB",
    "Nvidia GH200 GPU": "GH200-96GB",
    "AMD MI250 GPU": "MI250-GCD",
    "Habana Gaudi2": "Gaudi2",
}
DIES = {"MI250-GCD": 2}  # of a GPU as the table counts them
ENGINES = {
    "vLLM": ("vllm", "0.6"),
    "TensorRT-LLM": ("trtllm", "0.12"),
    "Deepspeed": ("vllm", "0.6"),
    "Deepspeed-MII": ("deepspeed", ""),
}
SHAPE = ["gpu_raw", "engine", "model", "n_gpus", "batch", "input_len", "output_len"]


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per configuration: e2e_s of the batch."""
    rows, skipped = configurations(root)
    return replay_of(rows, bundle, skipped)


def replay_of(rows: list[dict[str, Any]], bundle: Bundle, left_out: Mapping[str, int] | None = None) -> Replay:
    """Those of some configurations."""
    figures, skipped = list[Figure](), Counter(left_out)
    for row, request, answer in answered(rows, bundle):
        if answer["error"]:
            skipped[answer["error"]] += 1
        else:
            figures.append(_figure(row, request, answer))
    return Replay(figures, skipped)


def configurations(root: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The rows that are replayed, and how many were left out why."""
    table = pd.read_csv(root / FILE)
    skipped = Counter[str]()
    for engine in sorted(set(table["engine"]) - set(ENGINES)):
        skipped[f"engine {engine}"] += int((table["engine"] == engine).sum())
    kept = table[table["engine"].isin(list(ENGINES))]
    skipped["repeats"] += int(kept["dup"].sum())
    return records(kept[~kept["dup"]].drop_duplicates(SHAPE)), +skipped


def answered(rows: list[dict[str, Any]], bundle: Bundle) -> list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each row, its request and the answer; batches that do not fit are asked for once more, as clients."""
    requests = [request_of(row) for row in rows]
    told = answers(requests, bundle)
    full = [number for number, answer in enumerate(told) if not answer["error"] and not answer["fits"]]
    for number in full:
        requests[number] = queued(requests[number])
    for number, answer in zip(full, answers([requests[number] for number in full], bundle), strict=True):
        told[number] = answer
    return list(zip(rows, requests, told, strict=True))


def request_of(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a request table: a static batch."""
    gpu, (engine, version) = GPUS[row["gpu_raw"]], ENGINES[row["engine"]]
    return {
        "model": row["model"],
        "gpu": gpu,
        "engine": engine,
        "engine_version": version,
        "tp": int(row["n_gpus"]) * DIES.get(gpu, 1),
        **{name: int(row[name]) for name in ("batch", "input_len", "output_len")},
    }


def fitted(row: dict[str, Any]) -> bool:
    """Whether it chose constants of engines: one half of the configurations."""
    return half(*(row[name] for name in SHAPE))


def queued(request: dict[str, Any]) -> dict[str, Any]:
    """The same prompts as clients that each send one, all at once."""
    static = {name: value for name, value in request.items() if name != "batch"}
    return static | all_at_once(request["batch"]) | {"length_spread": 0.0}


def _figure(row: dict[str, Any], request: dict[str, Any], answer: dict[str, Any]) -> Figure:
    """Of clients the time until all have their answer: their tokens over the rate of the run."""
    predicted = interval(answer, "e2e_s")
    if "batch" not in request:
        predicted = rate(row["batch"] * row["output_len"], interval(answer, "tokens_per_s"))
    return Figure(
        table=FILE,
        gpu=request["gpu"],
        model=row["model"],
        engine=request["engine"] if "Deepspeed" not in row["engine"] else row["engine"].lower(),
        metric="e2e_s",
        measured=row["e2e_latency_s"],
        predicted=predicted,
        fitted=fitted(row),
        request=request,
        settings={name: row[name] for name in SHAPE[3:]} | {"fits": "batch" in request},
    )


TABLE = Table("alcf", "offline batches of 2024, A100, GH200, MI250 and Gaudi2", "truth", replay)
