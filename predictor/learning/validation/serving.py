"""Serving benchmarks of vLLM, SGLang and TensorRT-LLM on H100, H200 and B200, as rows of a request table.

Source: aiconfigurator's silicon_sample (Apache-2.0), files of the folder `serving` of the truth: mean TTFT and TPOT at
a concurrency. Repeats of a configuration count once, with their median. How the runs were set up:

InferenceX dumps. Its scripts (benchmarks/70b_*.sh, gptoss_*.sh, dsr1_*.sh) say: lengths uniform from 80 % to 100 % of
    the stated ones, 10 requests per client, no warm-up, fp8 KV cache (16 bits for DeepSeek in SGLang and gpt-oss in
    TensorRT-LLM on H200), vLLM with asynchronous scheduling; NVFP4 of DeepSeek and MiniMax as NVIDIA published it;
    TensorRT-LLM with max_num_tokens 16,384 (20,000 for gpt-oss, and for DeepSeek 8,192 or clients and prompt), and for
    Llama at 1,024/1,024 on fewer than 8 GPUs batch_wait_timeout_iters 20, which delays first tokens by 20 decode steps;
    SGLang with DeepSeek in chunks of 32,768 tokens in fp8 and 16,384 in NVFP4.
NVIDIA's own rows (vendor-internal). aiconfigurator's generator (rule_plugin/benchmark) says: equal lengths,
    max_num_tokens is concurrency + input length + 1,500 for vLLM and TensorRT-LLM, CUDA graphs for every batch size.
    TTFT grows by 1/20 of concurrency × prefill time, as with 10 requests per client. vLLM 0.12 schedules
    synchronously. TTFT of Llama-3.1-8B grows with output length by (time of an answer) / (concurrency - 1), as if one
    slot fewer than clients were to be had; inferred from the data, so max_num_seqs of those rows is one less.

Left out, with a count: rows without a concurrency, whose load is unknown (their TTFT is below one prefill), the nine of
gpt-oss at concurrency 512 on H100, whose TPOT is that of 4 to 64 sequences while first tokens wait 20 to 460 s, layouts
of more GPUs than a node has or whose experts lie on other GPUs than attention does (mislabelled in the source), and
disaggregated ones; and SGLang's NVFP4 on B200, whose first tokens take 2 to 12 s at any load, as of kernels that are
compiled in between.
`fitted` rows chose the host constants of predictor/catalog/engines.toml: half of the configurations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from predictor.estimators.bundle import Bundle
from predictor.learning.validation.replay import Figure, Replay, Table, half, interval, records, replayed
from predictor.workloads.models import get_model

FILES = ("serving/silicon_sample_visible.csv", "serving/silicon_sample_more.csv")
GPUS = {"h100_sxm": "H100-SXM-80GB", "h200_sxm": "H200-SXM-141GB", "b200_sxm": "B200-SXM-180GB"}
KEY = ["model", "gpu", "engine", "dtype", "tp", "attention_dp", "ep", "input_len", "output_len"]
NVFP4 = {
    "deepseek-ai/DeepSeek-V3": "nvidia/DeepSeek-V3.1-NVFP4",
    "MiniMaxAI/MiniMax-M2.5": "nvidia/MiniMax-M2.5-NVFP4",
}
METRICS = ("ttft_s", "tpot_s")
NODE = 8  # GPUs


def replay(root: Path, bundle: Bundle) -> Replay:
    """Two figures per configuration, ttft_s and tpot_s."""
    rows, skipped = configurations(root)
    return replay_of(rows, bundle, skipped)


def replay_of(rows: Sequence[dict[str, Any]], bundle: Bundle, skipped: Mapping[str, int] | None = None) -> Replay:
    """Those of some configurations."""
    return replayed(rows, request_of, _figures, bundle, skipped)


def configurations(root: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """One row per configuration: settings, ttft_s, tpot_s, repeats; and how many rows were left out why."""
    parts = [pd.read_csv(root / file).assign(table=file) for file in FILES if (root / file).exists()]
    if not parts:
        raise FileNotFoundError(root / FILES[0])
    table = pd.concat(parts, ignore_index=True)
    vendor = table["silicon_data_source"].str.contains("vendor-internal")
    named = np.where(table["model_path"].str.contains("FP8", case=False), "fp8_block", "bf16")
    tidy = pd.DataFrame(
        {
            "model": table["model_path"],
            "gpu": table["system"].map(GPUS),
            "engine": table["backend"],
            "version": table["backend_version"].fillna(""),
            "dtype": table["gemm_quant_mode"].where(table["gemm_quant_mode"].notna(), named),
            "tp": table["tp_size"],
            "attention_dp": table["attention_dp_size"].fillna(1),
            "ep": table["moe_ep_size"].fillna(1).clip(lower=1),
            "moe_gpus": table["moe_tp_size"].fillna(1) * table["moe_ep_size"].fillna(1),
            "input_len": table["isl"],
            "output_len": table["osl"],
            "concurrency": table["concurrency"],
            "vendor": vendor,
            "table": table["table"],
            "ttft_s": table["silicon_ttft_ms"] / 1e3,
            "tpot_s": table["silicon_tpot_ms"] / 1e3,
        }
    )
    skipped, taken = Counter[str](), tidy
    for reason, odd in _left_out(table, tidy):
        kept = ~odd.loc[taken.index]
        skipped[reason] += int((~kept).sum())
        taken = taken[kept]
    whole = dict.fromkeys(("tp", "attention_dp", "ep", "input_len", "output_len", "concurrency"), int)
    grouped = taken.astype(whole).groupby([*KEY, "version", "concurrency", "vendor"], as_index=False)
    merged = grouped.agg(
        table=("table", "first"),
        ttft_s=("ttft_s", "median"),
        tpot_s=("tpot_s", "median"),
        repeats=("tpot_s", "size"),
    )
    return records(merged), +skipped


def _left_out(table: pd.DataFrame, tidy: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Why rows are left out, and which."""
    yield "disaggregated", table["mode"] != "agg"
    yield "no concurrency, so the load is unknown", tidy["concurrency"].isna()
    odd = (tidy["concurrency"] == 512) & (tidy["gpu"] == GPUS["h100_sxm"])
    yield "concurrency 512 on H100 contradicts lower concurrencies", odd
    together = tidy["tp"] * tidy["attention_dp"]
    yield "more GPUs than a node has: mislabelled", together > NODE
    experts = pd.Series([bool(get_model(str(name)).experts) for name in tidy["model"]], index=tidy.index)
    compiled = (tidy["engine"] == "sglang") & (tidy["dtype"] == "nvfp4")
    yield "SGLang's first tokens in NVFP4 on B200 take seconds at any load", compiled
    stated = table["moe_tp_size"].notna() & table["moe_ep_size"].notna()
    yield "experts on other GPUs than attention: mislabelled", stated & experts & (tidy["moe_gpus"] != together)


def fitted(row: Mapping[str, Any]) -> bool:
    """Whether constants are fitted on a configuration: half of them, by hash; version and concurrency do not count."""
    return half("|".join(str(row[name]) for name in KEY))


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a request table; a model whose weights were published in narrow formats keeps them."""
    name = NVFP4.get(row["model"], row["model"]) if row["dtype"] == "nvfp4" else row["model"]
    model = get_model(name)
    names = ("gpu", "engine", "tp", "ep", "attention_dp", "input_len", "output_len", "concurrency")
    return (
        {"model": name}
        | {name: row[name] for name in names}
        | {
            "dtype": "" if model.expert_dtype or model.linear_dtype else row["dtype"],
            "kv_dtype": "" if row["dtype"] == "bf16" or _wide_cache(row) else "fp8",
            "engine_version": row["version"] if row["version"][:1].isdigit() else "",
            "length_spread": 0.0 if row["vendor"] else 0.2,
            **_set_up(row),
        }
    )


def _wide_cache(row: Mapping[str, Any]) -> bool:
    """Whether the KV cache is in 16 bits although weights are narrow."""
    engine, model = row["engine"], row["model"]
    wide = (engine == "sglang" and "DeepSeek" in model) or (engine == "trtllm" and "gpt-oss" in model)
    return wide and row["gpu"] == GPUS["h200_sxm"]


def _set_up(row: Mapping[str, Any]) -> dict[str, Any]:
    """The engine's settings in the benchmark."""
    clients, fewer_gpus = row["concurrency"], row["tp"] * row["attention_dp"] < NODE
    llama, settings = "Llama-3.1-70B" in row["model"], dict[str, Any]()
    if row["vendor"]:
        if row["engine"] != "sglang":
            settings["max_num_batched_tokens"] = clients + row["input_len"] + 1500
        if "Llama-3.1-8B" in row["model"]:
            settings["max_num_seqs"] = clients - 1
    elif "DeepSeek" in row["model"]:
        needed = (clients + row["input_len"] + 127) // 64 * 64
        chunk = 16_384 if row["dtype"] == "nvfp4" else 32_768 if row["tp"] == NODE else 8192
        settings["max_num_batched_tokens"] = max(8192, needed) if row["engine"] == "trtllm" else chunk
        if row["engine"] == "sglang":
            settings["gpu_memory_utilization"] = 0.82  # mem-fraction-static of InferenceX's scripts
    elif row["engine"] == "trtllm":
        settings["max_num_batched_tokens"] = 16_384 if llama else 20_000
        if llama and fewer_gpus and row["input_len"] == row["output_len"] == 1024:
            settings["batch_wait_timeout_iters"] = 20
    else:
        settings["async_scheduling"] = True
    return settings


def _figures(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Iterator[Figure]:
    for metric in METRICS:
        yield Figure(
            table=row["table"],
            gpu=row["gpu"],
            model=row["model"],
            engine=row["engine"],
            metric=metric,
            measured=row[metric],
            predicted=interval(answer, metric),
            fitted=fitted(row),
            request=request_of(row),
            settings={name: row[name] for name in [*KEY[3:], "version", "concurrency", "vendor", "repeats"]},
        )


TABLE = Table("serving", "serving under load, H100, H200 and B200", "truth", replay)
