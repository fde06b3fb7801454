"""Disaggregated servers of SGLang and TensorRT-LLM on H200 and B200, as `predictor disaggregated` is asked for them.

Source: aiconfigurator's silicon_sample (Apache-2.0), rows of InferenceX whose mode is "disagg" in
`serving/silicon_sample_more.csv` of the truth folder: DeepSeek-R1, which is the network of V3, mean TTFT and TPOT at a
concurrency. A tenth of the rows tell layout and number of workers. All others were filled in from degrees of tp and ep
alone: 35 of them are runs that the first ones tell, most of them with another layout. They are stated as InferenceX's
recipes ran them (predictor/learning/validation/pool_recipes.py) where its clients name one. Repeats count once, with
their median. Each is asked twice: with its workers, and with the number of its GPUs alone.
Half of the first tokens chose the width of their interval; nothing else is fitted on them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.latency.serving.disaggregated import Plan
from predictor.learning.validation.pool_recipes import recipe
from predictor.learning.validation.replay import Figure, Replay, Table, half, records
from predictor.prediction.pool_tables import planned

FILE = "serving/silicon_sample_more.csv"
GPUS = {"h100_sxm": "H100-SXM-80GB", "h200_sxm": "H200-SXM-141GB", "b200_sxm": "B200-SXM-180GB"}
LAYOUT = {"tp": "tp_size", "pp": "pp_size", "ep": "moe_ep_size", "attention_dp": "attention_dp_size"}
GPUS_OF = ("tp", "pp", "attention_dp")  # degrees whose product are the GPUs of a worker
POOLS = ("prefill", "decode")
AS_RUN, FOUND = f"{FILE}, disaggregated", f"{FILE}, disaggregated, workers found"
SAME = {"deepseek-ai/DeepSeek-R1": "deepseek-ai/DeepSeek-V3"}  # networks
KEY = ("model", "gpu", "engine", "dtype", "input_len", "concurrency")


def replay(root: Path, bundle: Bundle) -> Replay:
    """Figures of each configuration, ttft_s and tpot_s: with the workers that ran, and with those that are found for
    its GPUs and clients."""
    figures, rows, skipped = list[Figure](), *configurations(root)
    for row in rows:
        for table, request in ((AS_RUN, asked(row)), (FOUND, asked_of_gpus(row))):
            try:
                figures += _figures(table, row, request, planned(request, bundle))
            except PredictorError as error:
                skipped[str(error)] += row["repeats"]
    return Replay(figures, skipped)


def configurations(root: Path) -> tuple[list[dict[str, Any]], Counter[str]]:
    """One row per configuration: workers, layouts and load, ttft_s, tpot_s and repeats; and how many rows were left out
    why."""
    table = pd.read_csv(root / FILE)
    stated = [f"{pool}_{column}" for pool in POOLS for column in LAYOUT.values()]
    table = table[table["mode"] == "disagg"].dropna(subset=["concurrency", *stated])
    tidy = pd.DataFrame(
        {
            "model": table["model_path"].replace(SAME),
            "gpu": table["system"].map(GPUS),
            "engine": table["backend"],
            "dtype": table["gemm_quant_mode"],
            "input_len": table["isl"],
            "output_len": table["osl"],
            "concurrency": table["concurrency"].astype(int),
            **{f"{pool}_workers": table[f"{pool}_num_workers"].fillna(0).astype(int) for pool in POOLS},
            **{
                f"{pool}_{name}": table[f"{pool}_{column}"].astype(int)
                for pool in POOLS
                for name, column in LAYOUT.items()
            },
            "ttft_s": table["silicon_ttft_ms"] / 1e3,
            "tpot_s": table["silicon_tpot_ms"] / 1e3,
        }
    )
    run, skipped = list[dict[str, Any]](), Counter[str]()
    for row in records(tidy):
        if row["prefill_workers"]:
            run.append(row)
            continue
        pools = recipe(row["engine"], row["gpu"], row["dtype"], row["input_len"], row["concurrency"])
        if isinstance(pools, str):
            skipped[pools] += 1
        else:
            degrees = {
                f"{pool}_{name}": value
                for pool, of in zip(POOLS, pools, strict=True)
                for name, value in of._asdict().items()
            }
            run.append(row | degrees)
    frame = pd.DataFrame(run, columns=tidy.columns)
    grouped = frame.groupby([name for name in frame.columns if name not in ("ttft_s", "tpot_s")], as_index=False)
    merged = grouped.agg(ttft_s=("ttft_s", "median"), tpot_s=("tpot_s", "median"), repeats=("tpot_s", "size"))
    return records(merged), skipped


def asked(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a table of pools; DeepSeek's weights are published in fp8_block."""
    names = (
        *("model", "gpu", "engine", "input_len", "output_len", "concurrency", "prefill_workers", "decode_workers"),
        *(f"{pool}_{name}" for pool in POOLS for name in LAYOUT),
    )
    return {name: row[name] for name in names} | {
        "dtype": "nvfp4" if row["dtype"] == "nvfp4" else "",
        "kv_dtype": "fp8",
    }


def asked_of_gpus(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same for all its GPUs, whose split is to be found."""
    n_gpus = sum(row[f"{pool}_workers"] * math.prod(row[f"{pool}_{name}"] for name in GPUS_OF) for pool in POOLS)
    counts = {f"{pool}_workers" for pool in POOLS}
    return {name: value for name, value in asked(row).items() if name not in counts} | {"n_gpus": n_gpus}


def _figures(table: str, row: Mapping[str, Any], request: Mapping[str, Any], found: Plan) -> Iterator[Figure]:
    for metric in ("ttft_s", "tpot_s"):
        yield Figure(
            table=table,
            gpu=row["gpu"],
            model=row["model"],
            engine=row["engine"],
            metric=metric,
            measured=row[metric],
            predicted=getattr(found, metric),
            fitted=metric == "ttft_s" and half(*(row[name] for name in KEY)),
            request=request,
            settings={name: row[name] for name in ("dtype", "input_len", "output_len", "concurrency", "repeats")},
        )


TABLE = Table("disaggregated", "disaggregated servers, H200 and B200", "truth", replay)
