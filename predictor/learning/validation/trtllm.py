"""Static batches of TensorRT-LLM 0.5 to 0.9: output tokens per second on A100, H100, H200 and L40S.

Source: NVIDIA/TensorRT-LLM docs/source/performance.md through its history (Apache-2.0),
`trtllm/peak_throughput_v0.5_to_v0.9.csv` of the truth folder. One batch starts together (gptSessionBenchmark, C++, the
whole prompt at once, fp8 KV cache with fp8). Throughput is per GPU or of all GPUs, as the unit says; the A100 rows of
2023-12-04 say the latter and mean the former (the next revision has the same figures and the other unit). Of
each GPU, model and pair of lengths the newest revision counts: kernels grew faster (grouped-query decoding by more than
2x in 0.8, "XQA"), and estimators know those of today.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.learning.validation.replay import Figure, Replay, Table, interval, records, replayed, stated_length

FILE = "trtllm/peak_throughput_v0.5_to_v0.9.csv"
GPUS = {"A100": "A100-SXM-80GB", "H100": "H100-SXM-80GB", "H200": "H200-SXM-141GB", "L40S": "L40S"}
# The documents name families; tests of 4,096 tokens need the context of Llama 2, whose 7B has the shapes of the first.
MODELS = {
    "LLaMA 7B": "Llama-2-7b-hf",
    "LLaMA 70B": "Llama-2-70b-hf",
    "Mistral 7B": "Mistral-7B-v0.1",
    "Mixtral 8x7B": "Mixtral-8x7B-v0.1",
}
SHAPE = ["gpu", "model", "batch", "tp", "input_len", "output_len"]
OLDEST = "0.5"  # of rows that state no version


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per configuration: tokens_per_s of all GPUs."""
    return replayed(configurations(root), request_of, _figures, bundle)


def configurations(root: Path) -> list[dict[str, Any]]:
    """The rows of the newest revision; measured: tokens per second of all GPUs."""
    table = pd.read_csv(root / FILE)
    mislabelled = (table["gpu"] == "A100") & (table["date"] == "2023-12-04")
    per_gpu = table["unit"].str.contains("/GPU") | mislabelled
    table["measured"] = table["value"] * table["tp"].where(per_gpu, 1.0)
    newest = table.groupby(["gpu", "model", "input_len", "output_len"])["date"].transform("max")
    return records(table[table["date"] == newest].drop_duplicates([*SHAPE, "precision"]).dropna(subset=SHAPE))


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a request table."""
    dtype = row["precision"].lower()
    return {
        "model": MODELS.get(row["model"], row["model"]),
        "gpu": GPUS[row["gpu"]],
        "engine": "trtllm",
        "engine_version": row["trtllm_version"] if isinstance(row["trtllm_version"], str) else OLDEST,
        "dtype": dtype,
        "kv_dtype": "fp8" if dtype == "fp8" else "",
        **stated_length(MODELS.get(row["model"], row["model"]), int(row["input_len"] + row["output_len"])),
        "link": "pcie" if row["gpu"] == "L40S" and row["tp"] > 1 else "",
        **{name: int(row[name]) for name in SHAPE[2:]},
    }


def _figures(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[Figure]:
    request = request_of(row)
    yield Figure(
        table=FILE,
        gpu=request["gpu"],
        model=row["model"],
        engine="trtllm",
        metric="tokens_per_s",
        measured=row["measured"],
        predicted=interval(answer, "tokens_per_s"),
        fitted=False,
        request=request,
        settings={name: request[name] for name in ("dtype", *SHAPE[2:])}
        | {"version": row["trtllm_version"], "date": row["date"]},
    )


TABLE = Table("trtllm", "static batches of TensorRT-LLM, A100 to H200", "truth", replay)
