"""Generation speeds that Qwen published: Transformers, vLLM and SGLang at batch 1, on A100 and on the unmeasured H20.

Source: the speed benchmarks of the Qwen 1.5 to Qwen 3 documentation (Apache-2.0), `qwen/speed_memory.csv` of the truth
folder: 2,048 generated tokens after 1 to 129,024 tokens of prompt. Speed is generated tokens over time; Qwen 3 counts
the prompt too. Transformers spreads a model over several GPUs layer by layer (device_map), vLLM and SGLang by tp.

Every row is a row of a request table; max_model_len states contexts beyond the model's own (YaRN). Qwen 2.5's speeds
show no end of vLLM's CUDA graphs at 8,192 tokens, so max_seq_len_to_capture holds all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.learning.validation.replay import Figure, Replay, Table, half, interval, rate, records, replayed
from predictor.workloads.engines import Engine
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload
from predictor.workloads.workload import Workload

FILE = "qwen/speed_memory.csv"
ENGINES = {"Transformers": "torch", "vLLM": "vllm", "SGLang": "sglang"}
GPUS = {"A100-80GB": "A100-SXM-80GB", "H20-96GB": "H20-96GB"}
OLD = ("Qwen1.5", "Qwen2", "Qwen2.5")  # documentation of 2024, before vLLM's V1 engine
FITTED = ("torch", "vllm-v0")  # engines whose host times were fitted on one half of the rows
DTYPES = {
    "BF16": "bf16",
    "AWQ": "int4_wo",
    "AWQ-INT4": "int4_wo",
    "GPTQ-Int4": "int4_wo",
    "GPTQ-INT4": "int4_wo",
    "GPTQ-Int8": "int8_wo",
    "FP8": "fp8_block",
}


class Generation(NamedTuple):
    """A published speed and what ran. engine: with its host times. counted: tokens that the speed counts."""

    row: Mapping[str, Any]
    request: dict[str, Any]
    workload: Workload
    gpu: Gpu
    engine: Engine
    counted: float

    @property
    def fitted(self) -> bool:
        """Whether the speed chose a host time: one half of the models and formats."""
        row = self.row
        return self.engine.name in FITTED and half(f"{row['model']}|{row['quant']}|{row['engine']}")


def replay(root: Path, bundle: Bundle) -> Replay:
    """A figure per published speed: tokens_per_s."""
    runs, skipped = generations(root)
    return replay_of(runs, bundle, skipped)


def replay_of(runs: Sequence[Generation], bundle: Bundle, skipped: Mapping[str, int] | None = None) -> Replay:
    """Those of some speeds."""
    return replayed(runs, attrgetter("request"), _figures, bundle, skipped)


def generations(root: Path) -> tuple[list[Generation], Counter[str]]:
    """The published speeds, and how many were left out why."""
    table = pd.read_csv(root / FILE)
    table = table[table["speed_tokens_per_s"].notna() & table["engine"].isin(ENGINES) & table["gpu"].isin(GPUS)]
    runs, skipped = [], Counter[str]()
    for row in records(table):
        try:
            runs.append(_generation(row))
        except PredictorError as error:
            skipped[str(error)[:90]] += 1
    return runs, skipped


def generation_request(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a request table for a row of the published one; Transformers spreads layers over the GPUs."""
    engine, gpus = ENGINES[row["engine"]], int(row["n_gpus"])
    name, tokens = f"Qwen/{row['model'].removesuffix('-Instruct').removesuffix('-Chat')}", int(row["input_len"])
    tokens += int(row["output_len"])
    graphs = row["family"] == "Qwen2.5" and engine == "vllm"
    return {
        "model": name,
        "max_model_len": tokens if tokens > get_model(name).max_len else 0,
        "max_seq_len_to_capture": tokens if graphs else 0,
        "gpu": GPUS[row["gpu"]],
        "engine": "vllm-v0" if engine == "vllm" and row["family"] in OLD else engine,
        "input_len": int(row["input_len"]),
        "output_len": int(row["output_len"]),
        "dtype": DTYPES[row["quant"]],
        "tp": 1 if engine == "torch" else gpus,
        "pp": gpus if engine == "torch" else 1,
    }


def _generation(row: dict[str, Any]) -> Generation:
    request = generation_request(row)
    model, gpu = get_model(request["model"]), get_gpu(request["gpu"])
    if request["engine"] == "torch" and getattr(model, "experts", 0):
        raise InvalidRequest("Transformers runs experts one after the other, which is not modelled.")
    workload = served_workload(Request.of(request), model, gpu)[0]
    return Generation(
        row=row,
        request=request,
        workload=workload,
        gpu=gpu,
        engine=workload.engine_on(gpu),
        counted=float(row["output_len"] + (row["input_len"] if row["family"] == "Qwen3" else 0)),
    )


def _figures(run: Generation, answer: Mapping[str, Any]) -> Iterator[Figure]:
    yield Figure(
        table=FILE,
        gpu=run.gpu.name,
        model=run.row["model"],
        engine=run.engine.name,
        metric="tokens_per_s",
        measured=run.row["speed_tokens_per_s"],
        predicted=rate(run.counted, interval(answer, "e2e_s")),
        fitted=run.fitted,
        request=run.request,
        settings={"family": run.row["family"], "dtype": run.workload.dtype, "input_len": run.workload.input_len},
    )


TABLE = Table("qwen", "Qwen's published generation speeds", "truth", replay)
