"""Static batches of TensorRT-LLM 0.5 to 0.9: output tokens per second on A100, H100, H200 and L40S.

Source: NVIDIA/TensorRT-LLM docs/source/performance.md through its history (Apache-2.0),
`trtllm/peak_throughput_v0.5_to_v0.9.csv` of the truth folder. One batch starts together (gptSessionBenchmark, C++, the
whole prompt at once, fp8 KV cache with fp8). Throughput is per GPU or of all GPUs, as the unit says; the A100 rows of
2023-12-04 say the latter and mean the former (the next revision has the same figures and the other unit). Of
each GPU, model and pair of lengths the newest revision counts: kernels grew faster (grouped-query decoding by more than
2x in 0.8, "XQA"), and estimators know those of today.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.serving.load import static
from predictor.latency.serving.step_times import StepTimes, step_times
from predictor.learning.validation.replay import Figure, Replay, Table, private_setting, records
from predictor.workloads.engines import get_engine
from predictor.workloads.models import get_model
from predictor.workloads.workload import Workload

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
LARGEST_STEP, LARGEST_BATCH = 8192, 2048  # beyond them time goes with the number of tokens
PRIVATE = private_setting("C++ session without host time", "one batch in steps of the scheduler")


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per configuration: tokens_per_s of all GPUs."""
    figures, skipped, tables = [], Counter[str](), dict[tuple[Any, ...], StepTimes]()
    for row in configurations(root):
        try:
            figures.append(_figure(row, bundle, tables))
        except PredictorError as error:
            skipped[str(error)] += 1
    return Replay(figures, skipped)


def configurations(root: Path) -> list[dict[str, Any]]:
    """The rows of the newest revision; measured: tokens per second of all GPUs."""
    table = pd.read_csv(root / FILE)
    mislabelled = (table["gpu"] == "A100") & (table["date"] == "2023-12-04")
    per_gpu = table["unit"].str.contains("/GPU") | mislabelled
    table["measured"] = table["value"] * table["tp"].where(per_gpu, 1.0)
    newest = table.groupby(["gpu", "model", "input_len", "output_len"])["date"].transform("max")
    return records(table[table["date"] == newest].drop_duplicates([*SHAPE, "precision"]).dropna(subset=SHAPE))


def _figure(row: dict[str, Any], bundle: Bundle, tables: dict[tuple[Any, ...], StepTimes]) -> Figure:
    sizes = {name: int(row[name]) for name in SHAPE[2:]}
    dtype = row["precision"].lower()
    model, gpu = get_model(MODELS.get(row["model"], row["model"])), get_gpu(GPUS[row["gpu"]])
    kv_dtype = "fp8" if dtype == "fp8" else ""
    key = (model.name, gpu.name, dtype, sizes["tp"])
    if key not in tables:
        workload = Workload(model=model, dtype=dtype, kv_dtype=kv_dtype, tp=sizes["tp"], engine="trtllm")
        tables[key] = step_times(workload, gpu, bundle, LARGEST_STEP, LARGEST_BATCH)
    # A C++ loop without Python, streaming or front end: the host costs nothing.
    engine = get_engine("trtllm").without_host()
    batch = static(tables[key], sizes["batch"], sizes["input_len"], sizes["output_len"], engine)
    return Figure(
        table=FILE,
        gpu=gpu.name,
        model=row["model"],
        engine="trtllm",
        metric="tokens_per_s",
        measured=row["measured"],
        predicted=batch.tokens_per_s,
        fitted=False,
        private_setting=PRIVATE,
        settings={"dtype": dtype, **sizes, "version": row["trtllm_version"], "date": row["date"]},
    )


TABLE = Table("trtllm", "static batches of TensorRT-LLM, A100 to H200", "truth", replay)
