"""Serving benchmarks of vLLM, SGLang and TensorRT-LLM on H100 and B200, replayed request by request.

Source: aiconfigurator's silicon_sample (Apache-2.0), `serving/silicon_sample_visible.csv` of the truth folder: mean
TTFT and TPOT at a concurrency. Repeats of a configuration count once, with their median. How the runs were set up:

InferenceX dumps (2026-*.csv). Its scripts (benchmarks/70b_*.sh, gptoss_*.sh) say: lengths uniform from 80 % to 100 % of
    the stated ones, 10 requests per client, no warm-up, fp8 KV cache, vLLM with asynchronous scheduling; TensorRT-LLM
    with max_num_tokens 16,384 (20,000 for gpt-oss), and for Llama at 1,024/1,024 on fewer than 8 GPUs
    batch_wait_timeout_iters 20, which delays first tokens by 20 decode steps.
NVIDIA's own rows (vendor-internal). aiconfigurator's generator (rule_plugin/benchmark) says: max_num_tokens is
    concurrency + input length + 1,500 for vLLM and TensorRT-LLM, CUDA graphs for every batch size. TTFT grows by 1/20
    of concurrency × prefill time, as with 10 requests per client. vLLM 0.12 schedules synchronously.
    TTFT of Llama-3.1-8B grows with output length by (time of an answer) / (concurrency - 1), as if one slot fewer than
    clients were to be had; inferred from the data, so those rows are replayed with one slot less.

Left out, with a count: rows without a concurrency, whose load is unknown (their TTFT is below one prefill), and the
nine of gpt-oss at concurrency 512 on H100, whose TPOT is that of 4 to 64 sequences while first tokens wait 20 to 460 s.
`fitted` rows chose the host constants of predictor/catalog/engines.toml: half of the dense models; of MoE models none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import Bundle
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.latency.report import Interval
from predictor.latency.serving.load import Serving, continuous, kv_capacity
from predictor.latency.serving.scheduler import Load
from predictor.latency.serving.step_times import StepTimes, step_times
from predictor.learning.validation.replay import (
    Figure,
    Replay,
    Table,
    answers,
    half,
    interval,
    private_setting,
    records,
)
from predictor.workloads.engines import Engine, get_engine
from predictor.workloads.models import get_model
from predictor.workloads.request import Request
from predictor.workloads.requested import served_workload
from predictor.workloads.workload import Workload

FILE = "serving/silicon_sample_visible.csv"
GPUS = {"h100_sxm": "H100-SXM-80GB", "b200_sxm": "B200-SXM-180GB"}
KEY = ["model", "gpu", "engine", "dtype", "tp", "attention_dp", "ep", "input_len", "output_len"]
METRICS = ("ttft_s", "tpot_s")
LARGEST_STEP, LARGEST_BATCH = 20_000, 512


def replay(root: Path, bundle: Bundle) -> Replay:
    """Two figures per configuration, ttft_s and tpot_s."""
    rows, skipped = configurations(root)
    settings = [private_settings(row) for row in rows]
    public = [request_of(row) for row, private in zip(rows, settings, strict=True) if not private]
    answered, simulator, figures = iter(answers(public, bundle)), Simulator(bundle), list[Figure]()
    for row, private in zip(rows, settings, strict=True):
        try:
            times, batch = _simulated(row, simulator) if private else _answered(next(answered))
        except PredictorError as error:
            skipped[str(error)] += 1
            continue
        figures += [_figure(row, metric, predicted, private, batch) for metric, predicted in times.items()]
    return Replay(figures, skipped)


def configurations(root: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """One row per configuration: settings, ttft_s, tpot_s, repeats; and how many rows were left out why."""
    table = pd.read_csv(root / FILE)
    vendor = table["silicon_data_source"].str.contains("vendor-internal")
    named = np.where(table["model_path"].str.contains("FP8", case=False), "fp8_block", "bf16")
    tidy = pd.DataFrame(
        {
            "model": table["model_path"],
            "gpu": table["system"].map(GPUS),
            "engine": table["backend"],
            "dtype": table["gemm_quant_mode"].where(table["gemm_quant_mode"].notna(), named),
            "tp": table["tp_size"].astype(int),
            "attention_dp": table["attention_dp_size"].fillna(1).astype(int),
            "ep": table["moe_ep_size"].fillna(1).astype(int),
            "input_len": table["isl"].astype(int),
            "output_len": table["osl"].astype(int),
            "concurrency": table["concurrency"],
            "vendor": vendor,
            "ttft_s": table["silicon_ttft_ms"] / 1e3,
            "tpot_s": table["silicon_tpot_ms"] / 1e3,
        }
    )
    known = tidy["concurrency"].notna()
    odd = (tidy["concurrency"] == 512) & (tidy["gpu"] == GPUS["h100_sxm"])
    skipped = Counter[str]()
    skipped["no concurrency, so the load is unknown"] += int((~known).sum())
    skipped["concurrency 512 on H100 contradicts lower concurrencies"] += int(odd.sum())
    taken = tidy[known & ~odd].astype({"concurrency": int})
    grouped = taken.groupby([*KEY, "concurrency", "vendor"], as_index=False)
    merged = grouped.agg(ttft_s=("ttft_s", "median"), tpot_s=("tpot_s", "median"), repeats=("tpot_s", "size"))
    return records(merged), +skipped


def fitted(row: dict[str, Any]) -> bool:
    """Whether constants are fitted on a configuration: half of the dense ones, by hash; concurrency does not count."""
    dense = "Llama" in row["model"] or "32B" in row["model"]
    return dense and half("|".join(str(row[name]) for name in KEY))


def request_of(row: dict[str, Any]) -> dict[str, Any]:
    """The row of a request table; a model whose weights were published in narrow formats keeps them."""
    model = get_model(row["model"])
    published = bool(model.linear_dtype or model.expert_dtype)
    names = ("model", "gpu", "engine", "tp", "ep", "attention_dp", "input_len", "output_len")
    return {name: row[name] for name in names} | {
        "dtype": "" if published else row["dtype"],
        "kv_dtype": "" if row["dtype"] == "bf16" else "fp8",
        "scheduling": "continuous",
        "batch": row["concurrency"],
    }


def engine_of(row: dict[str, Any], **constants: float) -> Engine:
    """The engine as the benchmark set it up."""
    changes: dict[str, Any] = dict(constants)
    clients, fewer_gpus = row["concurrency"], row["tp"] * row["attention_dp"] < 8
    llama = "Llama-3.1-70B" in row["model"]
    if row["vendor"] and row["engine"] != "sglang":
        changes["max_batched_tokens"] = clients + row["input_len"] + 1500
        changes["overlapped"] = row["engine"] == "trtllm"
    elif row["engine"] == "trtllm":
        changes["max_batched_tokens"] = 16_384 if llama else LARGEST_STEP
        if llama and fewer_gpus and row["input_len"] == row["output_len"] == 1024:
            changes["batch_wait_steps"] = 20
    if row["vendor"] and "Llama-3.1-8B" in row["model"]:
        changes["max_sequences"] = clients - 1
    return replace(get_engine(row["engine"]), **changes)


def private_settings(row: dict[str, Any]) -> str:
    """What of the benchmark's set-up no request says."""
    engine, usual = engine_of(row), get_engine(row["engine"])
    return private_setting(
        "" if row["vendor"] else "lengths from 80 % to 100 %",
        "" if engine.max_batched_tokens == usual.max_batched_tokens else "the benchmark's max_num_tokens",
        "batch_wait_timeout_iters 20" if engine.batch_wait_steps else "",
        "" if engine.overlapped == usual.overlapped else "synchronous scheduling",
        "" if engine.max_sequences == usual.max_sequences else "one sequence less than clients",
    )


class Simulator:
    """Simulates configurations; step times are predicted once for those that share them."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._tables: dict[tuple[Any, ...], StepTimes] = {}

    def serving(self, row: dict[str, Any], **constants: float) -> Serving:
        """The prediction for one configuration; constants: of the engine, replaced."""
        gpu, load = get_gpu(row["gpu"]), load_of(row)
        workload, _ = served_workload(Request.of(request_of(row)), get_model(row["model"]), gpu)
        engine, tables = engine_of(row, **constants), self._step_times(workload, gpu)
        return continuous(tables, load, engine, kv_capacity(workload, gpu, load), row["attention_dp"])

    def _step_times(self, workload: Workload, gpu: Gpu) -> StepTimes:
        names = ("dtype", "expert_dtype", "kv_dtype", "layout", "engine")
        key = (workload.model.name, gpu.name, *(getattr(workload, name) for name in names))
        if key not in self._tables:
            self._tables[key] = step_times(workload, gpu, self.bundle, LARGEST_STEP, LARGEST_BATCH)
        return self._tables[key]


def load_of(row: dict[str, Any]) -> Load:
    """The requests that the benchmark sent."""
    return Load(
        input_len=row["input_len"],
        output_len=row["output_len"],
        concurrency=row["concurrency"],
        shortest=1.0 if row["vendor"] else 0.8,
    )


def _simulated(row: dict[str, Any], simulator: Simulator) -> tuple[dict[str, Interval], dict[str, float]]:
    serving = simulator.serving(row)
    return {metric: getattr(serving, metric) for metric in METRICS}, {"batch": serving.batch}


def _answered(answer: Mapping[str, Any]) -> tuple[dict[str, Interval], dict[str, float]]:
    if answer["error"]:
        raise InvalidRequest(answer["error"])
    return {metric: interval(answer, metric) for metric in METRICS}, {}


def _figure(row: dict[str, Any], metric: str, predicted: Interval, private: str, batch: Mapping[str, float]) -> Figure:
    return Figure(
        table=FILE,
        gpu=row["gpu"],
        model=row["model"],
        engine=row["engine"],
        metric=metric,
        measured=row[metric],
        predicted=predicted,
        fitted=fitted(row),
        request={} if private else request_of(row),
        private_setting=private,
        settings={name: row[name] for name in [*KEY[3:], "concurrency", "vendor", "repeats"]} | dict(batch),
    )


TABLE = Table("serving", "serving under load, H100 and B200", "truth", replay)
