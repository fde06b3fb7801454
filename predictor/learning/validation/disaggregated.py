"""Disaggregated servers of SGLang and TensorRT-LLM on H200 and B200, as `predictor disaggregated` is asked for them.

Source: aiconfigurator's silicon_sample (Apache-2.0), rows of InferenceX whose mode is "disagg" in
`serving/silicon_sample_more.csv` of the truth folder: DeepSeek-R1 and V3, mean TTFT and TPOT at a concurrency. Layouts
of workers are stated, their number in a tenth of the rows, and all others are left out; whether multi-token prediction
ran is not told. Repeats count once, with their median.
Half of the first tokens chose the width of their interval; nothing else is fitted on them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from predictor.errors import PredictorError
from predictor.estimators.bundle import Bundle
from predictor.latency.serving.disaggregated import Plan
from predictor.learning.validation.replay import Figure, Replay, Table, half, records
from predictor.prediction.pool_tables import planned

FILE = "serving/silicon_sample_more.csv"
GPUS = {"h100_sxm": "H100-SXM-80GB", "h200_sxm": "H200-SXM-141GB", "b200_sxm": "B200-SXM-180GB"}
LAYOUT = {"tp": "tp_size", "pp": "pp_size", "ep": "moe_ep_size", "attention_dp": "attention_dp_size"}
POOLS = ("prefill", "decode")
KEY = ("model", "gpu", "engine", "dtype", "input_len", "concurrency")


def replay(root: Path, bundle: Bundle) -> Replay:
    """Two figures per configuration, ttft_s and tpot_s."""
    figures, skipped = list[Figure](), Counter[str]()
    for row in configurations(root):
        if not row["prefill_workers"] or not row["decode_workers"]:
            skipped["the number of workers is not told"] += row["repeats"]
            continue
        try:
            found = planned(asked(row), bundle)
        except PredictorError as error:
            skipped[str(error)] += 1
            continue
        figures += _figures(row, found)
    return Replay(figures, skipped)


def configurations(root: Path) -> list[dict[str, Any]]:
    """One row per configuration: workers, layouts and load, ttft_s, tpot_s and repeats."""
    table = pd.read_csv(root / FILE)
    stated = [f"{pool}_{column}" for pool in POOLS for column in LAYOUT.values()]
    table = table[table["mode"] == "disagg"].dropna(subset=["concurrency", *stated])
    tidy = pd.DataFrame(
        {
            "model": table["model_path"],
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
    key = [name for name in tidy.columns if name not in ("ttft_s", "tpot_s")]
    grouped = tidy.groupby(key, as_index=False)
    return records(grouped.agg(ttft_s=("ttft_s", "median"), tpot_s=("tpot_s", "median"), repeats=("tpot_s", "size")))


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


def _figures(row: Mapping[str, Any], found: Plan) -> Iterator[Figure]:
    for metric in ("ttft_s", "tpot_s"):
        yield Figure(
            table=f"{FILE}, disaggregated",
            gpu=row["gpu"],
            model=row["model"],
            engine=row["engine"],
            metric=metric,
            measured=row[metric],
            predicted=getattr(found, metric),
            fitted=metric == "ttft_s" and half(*(row[name] for name in KEY)),
            request=asked(row),
            settings={name: row[name] for name in ("dtype", "input_len", "output_len", "concurrency", "repeats")},
        )


TABLE = Table("disaggregated", "disaggregated servers, H200 and B200", "truth", replay)
