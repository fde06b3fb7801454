"""Generation speeds that Qwen published: Transformers, vLLM and SGLang at batch 1, on A100 and on the unmeasured H20.

Source: the speed benchmarks of the Qwen 1.5 to Qwen 3 documentation (Apache-2.0), `qwen/speed_memory.csv` of the truth
folder: 2,048 generated tokens after 1 to 129,024 tokens of prompt. Speed is generated tokens over time; Qwen 3 counts
the prompt too. Transformers spreads a model over several GPUs layer by layer (device_map), vLLM and SGLang by tp.

    .venv/bin/python training/validation/qwen.py [--root ../shared/truth] [--fit]
"""

from __future__ import annotations

import argparse
import hashlib
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from llm_foundry import summary

from predictor.errors import InvalidRequest, PredictorError
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import Gpu, get_gpu
from predictor.latency.report import Interval
from predictor.latency.static_batch import report, with_host
from predictor.workloads import Workload, get_model
from predictor.workloads.engines import Engine, get_engine
from predictor.workloads.requested import as_run_on

NAME = "Qwen's published generation speeds"
TABLE = "qwen/speed_memory.csv"
ENGINES = {"Transformers": "torch", "vLLM": "vllm", "SGLang": "sglang"}
GPUS = {"A100-80GB": "A100-SXM-80GB", "H20-96GB": "H20-96GB"}
OLD = ("Qwen1.5", "Qwen2", "Qwen2.5")  # documentation of 2024, before vLLM's V1 engine
DTYPES = {
    "BF16": "bf16",
    "AWQ": "int4_wo",
    "AWQ-INT4": "int4_wo",
    "GPTQ-Int4": "int4_wo",
    "GPTQ-INT4": "int4_wo",
    "GPTQ-Int8": "int8_wo",
    "FP8": "fp8_block",
}


# What `fit` tries, by engine: host seconds as beside Hopper.
GRID: dict[str, dict[str, list[float]]] = {
    "torch": {
        "launch_s": [4.5e-5, 5.0e-5, 5.5e-5, 6.0e-5, 6.5e-5],
        "fp8_block": [1.8e-4, 2.2e-4, 2.6e-4, 3.0e-4, 3.5e-4],
        "int8_wo": [0.0, 2.0e-5, 3.0e-5, 4.5e-5, 7.0e-5],
    },
    "vllm-v0": {
        "step_s": [0.3e-3, 0.5e-3, 0.7e-3, 0.9e-3, 1.2e-3],
        "launch_s": [1.5e-5, 2.0e-5, 2.5e-5, 3.0e-5],
    },
}


def half(row: dict[str, Any]) -> bool:
    """Whether host times may be fitted on a row: one half of the models and formats, by hash."""
    key = f"{row['model']}|{row['quant']}|{row['engine']}"
    return hashlib.sha256(key.encode()).digest()[0] % 2 == 0


def _table(root: Path) -> list[dict[str, Any]]:
    table = pd.read_csv(root / TABLE)
    table = table[table["speed_tokens_per_s"].notna() & table["engine"].isin(ENGINES) & table["gpu"].isin(GPUS)]
    return table.to_dict("records")


def replay(root: Path, bundle: Bundle) -> pd.DataFrame:
    """One row per published speed, tokens_per_s; models unknown are skipped with a count."""
    rows, skipped = [], dict[str, int]()
    for row in _table(root):
        try:
            rows.append(_row(row, bundle))
        except PredictorError as error:
            skipped[str(error)[:90]] = skipped.get(str(error)[:90], 0) + 1
    for reason, count in skipped.items():
        print(f"{NAME}: {count} rows skipped: {reason}")
    return pd.DataFrame(rows)


def _row(row: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    job = _job(row)
    found = report(job.workload, job.gpu, bundle, engine=job.engine)
    counted = _counted(row)
    return {
        "table": TABLE,
        "gpu": job.gpu.name,
        "model": row["model"],
        "engine": job.engine.name,
        "family": row["family"],
        "dtype": job.workload.dtype,
        "input_len": job.workload.input_len,
        "metric": "tokens_per_s",
        "measured": row["speed_tokens_per_s"],
        "predicted": counted / found.e2e_s.value,
        "low": counted / found.e2e_s.high,
        "high": counted / found.e2e_s.low,
        "fitted": job.engine.name in GRID and half(row),
    }


class Job(NamedTuple):
    """What a row ran. engine: as its time had it."""

    workload: Workload
    gpu: Gpu
    engine: Engine


def _job(row: dict[str, Any]) -> Job:
    """Qwen 2.5's speeds show no end of vLLM's CUDA graphs at 8,192 tokens; contexts beyond the model's are YaRN's."""
    name, gpus, gpu = ENGINES[row["engine"]], int(row["n_gpus"]), get_gpu(GPUS[row["gpu"]])
    model = get_model(f"Qwen/{row['model'].removesuffix('-Instruct').removesuffix('-Chat')}")
    if name == "torch" and model.experts:
        raise InvalidRequest("Transformers runs experts one after the other, which is not modelled.")
    if name == "vllm" and row["family"] in OLD:
        name = "vllm-v0"
    workload = Workload(
        model=replace(model, max_len=max(model.max_len, int(row["input_len"] + row["output_len"]))),
        engine=name,
        input_len=int(row["input_len"]),
        output_len=int(row["output_len"]),
        dtype=DTYPES[row["quant"]],
        tp=1 if name == "torch" else gpus,
        pp=gpus if name == "torch" else 1,
    )
    engine = get_engine(name).beside(gpu.generation)
    return Job(as_run_on(workload, gpu), gpu, replace(engine, graph_len=0) if row["family"] == "Qwen2.5" else engine)


def _counted(row: dict[str, Any]) -> float:
    """Tokens that a published speed counts."""
    return float(row["output_len"] + (row["input_len"] if row["family"] == "Qwen3" else 0))


def fit(root: Path, bundle: Bundle) -> None:
    """Prints the host constants of GRID of least error on the fitted half, one after the other.

    What a format adds goes by the rows of that format, all else by those of 16 bits.
    """
    for name, grid in GRID.items():
        jobs = []
        for row in _table(root):
            with suppress(PredictorError):
                job = _job(row)
                if job.engine.name == name and half(row):
                    bare = report(job.workload, job.gpu, bundle, engine=job.engine.without_host())
                    jobs.append((job, bare.ttft_s, bare.tpot_s, _counted(row) / row["speed_tokens_per_s"]))
        best: dict[str, Any] = {}
        for constant in [*grid, *grid]:
            dtype = constant if constant in get_engine(name).linear_s else "bf16"
            part = [each for each in jobs if each[0].workload.dtype == dtype]
            losses = {value: _loss(part, best | {constant: value}) for value in grid[constant]}
            best[constant] = min(losses, key=lambda value: losses[value])
            print(name, constant, {value: round(loss, 4) for value, loss in losses.items()}, flush=True)


def _loss(jobs: list[tuple[Job, Interval, Interval, float]], constants: dict[str, Any]) -> float:
    """Mean absolute log error of the whole time, bounded so that no outlier decides."""
    found = []
    for job, ttft, tpot, seconds in jobs:
        linear_s = {key: value for key, value in constants.items() if key in job.engine.linear_s}
        plain = {key: value for key, value in constants.items() if key not in job.engine.linear_s}
        engine = replace(get_engine(job.engine.name), **plain, graph_len=job.engine.graph_len)
        engine = replace(engine, linear_s={**engine.linear_s, **linear_s}).beside(job.gpu.generation)
        first, each = with_host(job.workload, engine, ttft, tpot)
        told = first.value + (job.workload.output_len - 1) * each.value
        found.append(min(abs(math.log(told / seconds)), 0.7))
    return sum(found) / len(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "truth")
    parser.add_argument("--fit", action="store_true", help="fit the host constants of Transformers and vLLM V0")
    options = parser.parse_args()
    if options.fit:
        fit(options.root, load_bundle())
    else:
        print(summary(replay(options.root, load_bundle()), ["gpu", "engine", "family", "dtype"]))
