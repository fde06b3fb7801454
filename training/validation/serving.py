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

    .venv/bin/python training/validation/serving.py [--root ../shared/truth] [--fit]
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle, load_bundle
from predictor.hardware.gpu import get_gpu
from predictor.latency.serving.load import Serving, continuous, kv_capacity
from predictor.latency.serving.scheduler import Load
from predictor.latency.serving.step_times import StepTimes, step_times
from predictor.workloads import Workload, get_model
from predictor.workloads.engines import Engine, get_engine
from predictor.workloads.requested import as_run_on

NAME = "serving under load, H100 and B200"
TABLE = "serving/silicon_sample_visible.csv"
GPUS = {"h100_sxm": "H100-SXM-80GB", "b200_sxm": "B200-SXM-180GB"}
KEY = ["model", "gpu", "engine", "dtype", "tp", "attention_dp", "ep", "input_len", "output_len"]
LARGEST_STEP, LARGEST_BATCH = 20_000, 512
# Values tried by `fit`, one constant after the other.
GRID = {
    "launch_s": (0.0, 3e-5, 4.5e-5, 6e-5, 7.5e-5, 9e-5, 1.2e-4),
    "sequence_s": (0.0, 2e-5, 3.5e-5, 5e-5, 7e-5, 9e-5),
    "step_s": (0.0, 4e-4, 7e-4, 1e-3, 1.5e-3, 2e-3, 3e-3),
}
_tables: dict[tuple[Any, ...], StepTimes] = {}


def half(row: dict[str, Any]) -> bool:
    """Whether constants are fitted on a configuration: half of the dense ones, by hash; concurrency does not count."""
    dense = "Llama" in row["model"] or "32B" in row["model"]
    return dense and hashlib.sha256("|".join(str(row[name]) for name in KEY).encode()).digest()[0] % 2 == 0


def configurations(root: Path) -> list[dict[str, Any]]:
    """One row per configuration: settings, ttft_s, tpot_s, repeats."""
    table = pd.read_csv(root / TABLE)
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
    if (unknown := int((~known).sum())) > 0:
        print(f"{NAME}: {unknown} rows skipped: no concurrency, so the load is unknown")
    tidy = tidy[known].astype({"concurrency": int})
    odd = (tidy["concurrency"] == 512) & (tidy["gpu"] == GPUS["h100_sxm"])
    if odd.any():
        print(f"{NAME}: {odd.sum()} rows skipped: concurrency 512 on H100 contradicts lower concurrencies")
    tidy = tidy[~odd]
    grouped = tidy.groupby([*KEY, "concurrency", "vendor"], as_index=False)
    merged = grouped.agg(ttft_s=("ttft_s", "median"), tpot_s=("tpot_s", "median"), repeats=("tpot_s", "size"))
    return merged.to_dict("records")  # type: ignore[return-value]


def workload(row: dict[str, Any]) -> Workload:
    """What ran: a model whose weights were published in narrow formats keeps them."""
    model = get_model(row["model"])
    published = bool(model.linear_dtype or model.expert_dtype)
    asked = Workload(
        model=model,
        dtype="" if published else row["dtype"],
        kv_dtype="" if row["dtype"] == "bf16" else "fp8",
        tp=row["tp"],
        ep=row["ep"],
        attention_dp=row["attention_dp"],
        engine=row["engine"],
    )
    return as_run_on(asked, get_gpu(row["gpu"]))


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


def load_of(row: dict[str, Any]) -> Load:
    """The requests that the benchmark sent."""
    shortest = 1.0 if row["vendor"] else 0.8
    return Load(
        input_len=row["input_len"],
        output_len=row["output_len"],
        concurrency=row["concurrency"],
        shortest=shortest,
    )


def served(row: dict[str, Any], bundle: Bundle, **constants: float) -> Serving:
    """The prediction for one configuration."""
    job, gpu, load = workload(row), get_gpu(row["gpu"]), load_of(row)
    key = (job.model.name, gpu.name, job.dtype, job.expert_dtype, job.kv_dtype, job.layout, job.engine)
    if key not in _tables:
        _tables[key] = step_times(job, gpu, bundle, LARGEST_STEP, LARGEST_BATCH)
    groups = row["attention_dp"]
    return continuous(_tables[key], load, engine_of(row, **constants), kv_capacity(job, gpu, load), groups)


def replay(root: Path, bundle: Bundle) -> pd.DataFrame:
    """Two rows per configuration, ttft_s and tpot_s; those that cannot run are skipped with a count."""
    return pd.DataFrame(list(_rows(configurations(root), bundle)))


def _rows(rows: list[dict[str, Any]], bundle: Bundle) -> Iterator[dict[str, Any]]:
    skipped: dict[str, int] = {}
    for row in rows:
        try:
            found = served(row, bundle)
        except PredictorError as error:
            skipped[str(error)] = skipped.get(str(error), 0) + 1
            continue
        for metric in ("ttft_s", "tpot_s"):
            settings = {name: row[name] for name in [*KEY[3:], "concurrency", "vendor", "repeats"]}
            spread = dict(zip(("predicted", "low", "high"), getattr(found, metric), strict=True))
            common = {name: row[name] for name in ("gpu", "model", "engine")}
            yield {
                "table": TABLE,
                **common,
                "metric": metric,
                "measured": row[metric],
                **spread,
                "fitted": half(row),
                **settings,
                "batch": found.batch,
            }
    for reason, count in skipped.items():
        print(f"{NAME}: {count} rows skipped: {reason}")


def fit(root: Path, bundle: Bundle) -> dict[str, dict[str, float]]:
    """Host constants of every engine: two rounds over GRID, on the fitted half."""
    rows = [row for row in configurations(root) if half(row)]
    best: dict[str, dict[str, float]] = {}
    for name in sorted({row["engine"] for row in rows}):
        part = [row for row in rows if row["engine"] == name]
        best[name] = {"launch_s": 6e-5, "sequence_s": 5e-5, "step_s": 7e-4}
        for constant in [*GRID, *GRID]:
            losses = {value: float(_loss(part, bundle, best[name] | {constant: value})) for value in GRID[constant]}
            best[name][constant] = min(losses, key=lambda value: losses[value])
            print(name, constant, {value: round(loss, 4) for value, loss in losses.items()}, flush=True)
    return best


def _loss(rows: list[dict[str, Any]], bundle: Bundle, constants: dict[str, float]) -> float:
    """Mean absolute log error of TPOT, and 0.4 of TTFT's, each bounded so that no outlier decides."""
    total = 0.0
    for row in rows:
        found = served(row, bundle, **constants)
        total += min(abs(np.log(found.tpot_s.value / row["tpot_s"])), 0.7)
        total += 0.4 * min(abs(np.log(found.ttft_s.value / row["ttft_s"])), 1.0)
    return total / len(rows)


def error(frame: pd.DataFrame) -> dict[str, float]:
    """Percent: median and mean absolute error, signed median, coverage of the interval; and rows."""
    off = (frame["predicted"] / frame["measured"] - 1) * 100
    covered = (frame["low"] <= frame["measured"]) & (frame["measured"] <= frame["high"])
    found = {"median": off.abs().median(), "mean": off.abs().mean(), "signed": off.median()}
    return {
        **{name: round(float(value), 1) for name, value in found.items()},
        "coverage": round(100 * covered.mean()),
    } | {"rows": len(frame)}


def summary(frame: pd.DataFrame, by: list[str]) -> str:
    """Errors of all rows, of those no constant was fitted on, and by group."""
    parts = {
        f"{metric}, {name}": chosen[chosen["metric"] == metric]
        for metric in frame["metric"].unique()
        for name, chosen in (
            ("all", frame),
            ("fitted", frame[frame["fitted"]]),
            ("not fitted", frame[~frame["fitted"]]),
        )
    }
    whole = pd.DataFrame({name: error(part) for name, part in parts.items() if len(part)}).T
    grouped = pd.DataFrame({key: error(part) for key, part in frame.groupby(by)}).T
    return f"{whole.to_string()}\n\n{grouped.to_string()}"


def main() -> None:
    """Prints the errors of the default bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("../shared/truth"))
    parser.add_argument("--fit", action="store_true", help="fit the host constants again and print them")
    chosen = parser.parse_args()
    if chosen.fit:
        print(fit(chosen.root, load_bundle()))
        return
    print(summary(replay(chosen.root, load_bundle()), ["gpu", "engine", "model", "metric"]))


if __name__ == "__main__":
    main()
